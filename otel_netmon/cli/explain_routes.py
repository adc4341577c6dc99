"""The routes of HTTP requests that a running agent knows: rules of its configuration, and templates that it has learned."""

from __future__ import annotations

import sys

from otel_netmon.cli.output import colour_wanted, paint, print_json, print_table
from otel_netmon.cli.top_view import printable
from otel_netmon.errors import NetmonError
from otel_netmon.selfmon.status import RoutesStatus

OFF = "Paths without a rule have no route. probes.http.learn_routes learns templates from those that were answered."
FULL = (
    "requests had no route, because their template would have been one more than probes.http.learned_routes_max allows"
)


def run(routes: RoutesStatus | None, url: str, *, as_json: bool) -> int:
    """Prints the routes as the agent tells them.

    Raises:
        NetmonError: it tells none.
    """
    if routes is None:
        raise NetmonError(f"the agent at {url} tells nothing of routes", "enable probes.http, or update the agent")
    if as_json:
        print_json(dict(routes))
    else:
        print_page(routes)
    return 0


def print_page(routes: RoutesStatus) -> None:
    """The routes as text for people."""
    colour = colour_wanted(sys.stdout)
    rules, learned = routes["rules"], routes["learned"]
    print(paint(f"{len(rules):,} rules (probes.http.routes), the one that fits best counts", "bold", colour))
    for rule in rules:
        print(f"  {printable(rule)}")
    print()
    if not routes["learning"]:
        print(OFF)
        return
    print(paint(f"{len(learned):,} of {routes['limit']:,} templates learned", "bold", colour))
    rows = [(printable(each["template"]), f"{each['requests']:,}") for each in learned]
    print_table(("template", "requests"), rows, ("requests",))
    if routes["refused"]:
        print(paint(f"{routes['refused']:,} {FULL}", "yellow", colour))

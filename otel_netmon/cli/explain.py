"""Explain what a running agent does.

--series tells who uses the budget of series and which attribute explodes, --routes what groups requests of HTTP. Reads /status of the agent, as top does. An attribute explodes where attribute sets are folded, or half of the budget is in use, and

- it has a value of its own for at least half of the attribute sets, and at least four times as many as any other attribute, or
- its values alone, one series of each metric for each, would take more than half of its family's limit.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any, NamedTuple

from otel_netmon.cli import explain_routes
from otel_netmon.cli.options import add_json_argument
from otel_netmon.cli.output import colour_wanted, paint, print_json, print_table
from otel_netmon.cli.top import DEFAULT_URL, fetch
from otel_netmon.cli.top_view import duration, printable
from otel_netmon.errors import NetmonError, UsageError
from otel_netmon.selfmon.status import SeriesAttributeStatus, SeriesFamilyStatus, SeriesStatus

OWN_SHARE = 0.5
"""From this share of the sets on an attribute can be the one that explodes."""
FAR_LOWER = 4
"""So many times more values than any other attribute it has then."""
LIMIT_SHARE = 0.5
"""More than this share of the family's limit is too much for the values of one attribute."""
BUSY_SHARE = 0.5
"""From this share of the budget on attributes are looked at before anything is folded."""

EXACT = "Sums are exact in any case: what has no series of its own is in the point with otel.metric.overflow."


class Verdict(NamedTuple):
    """What was found about one family.

    Attributes:
        exploding: attribute keys, the one with the most values first; empty where it is no single one.
        reason: one sentence.
        remedies: the keys of the configuration to set, each with what it does.
    """

    family: str
    exploding: tuple[str, ...]
    reason: str
    remedies: tuple[tuple[str, str], ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--series", action="store_true", help="the budget of series and the attributes that use it up")
    parser.add_argument("--routes", action="store_true", help="rules for routes of HTTP requests, and what was learned")
    parser.add_argument("--url", default=DEFAULT_URL, help=f"where the agent serves (default: {DEFAULT_URL})")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print the explanation; a missing agent is a NetmonError."""
    if args.series == args.routes:
        raise UsageError("say what to explain: --series or --routes", "see otel-netmon explain --help")
    document = fetch(args.url)
    if args.routes:
        return explain_routes.run(document.get("routes"), args.url, as_json=args.json)
    if "series" not in document:
        raise NetmonError(f"the agent at {args.url} tells nothing of its series", "it is an older version, update it")
    series = document["series"]
    if args.json:
        print_json(as_document(series))
    else:
        print_page(series)
    return 0


def as_document(series: SeriesStatus) -> dict[str, Any]:
    """The budget as the agent tells it, and the verdicts, ready for JSON."""
    verdicts = [
        {
            "family": verdict.family,
            "exploding": list(verdict.exploding),
            "reason": verdict.reason,
            "remedies": [{"key": key, "effect": effect} for key, effect in verdict.remedies],
        }
        for verdict in verdicts_of(series)
    ]
    return {"series": series, "verdicts": verdicts}


def verdicts_of(series: SeriesStatus) -> list[Verdict]:
    """What is to be said of each family that is short of series; nothing while there is enough room."""
    busy = series["active"] > BUSY_SHARE * series["limit"]
    found = (_verdict(family, series) for family in series["families"] if family["folded"] or busy)
    return [verdict for verdict in found if verdict is not None]


def attribute_sets(family: SeriesFamilyStatus) -> int:
    """About how many distinct attribute sets a family has had lately."""
    told = [round(each["distinct"] / each["share"]) for each in family["attributes"] if each["share"] > 0]
    return max(told, default=family["active"] // max(len(family["metrics"]), 1) + family["folded"])


def exploding(family: SeriesFamilyStatus) -> tuple[str, ...]:
    """The attributes that explode by the rule of this module, the one with the most values first."""
    ranked = _ranked(family)
    if not ranked:
        return ()
    most, others = ranked[0], ranked[1:]
    if most["share"] >= OWN_SHARE and all(each["distinct"] * FAR_LOWER <= most["distinct"] for each in others):
        return (most["key"],)
    room = LIMIT_SHARE * family["limit"] / max(len(family["metrics"]), 1)
    return tuple(each["key"] for each in ranked if each["distinct"] > room)


def print_page(series: SeriesStatus) -> None:
    """The explanation as text for people."""
    colour = colour_wanted(sys.stdout)
    folded = sum(family["folded"] for family in series["families"])
    used = f"{series['active']:,} of {series['limit']:,} series are in use (limits.series)"
    print(paint(used, "bold", colour))
    print(f"{folded:,} attribute sets of the last cycle have no series of their own")
    print(f"a series that has not changed for {duration(series['idle_seconds'])} ends (limits.series_idle_seconds)\n")
    verdicts = {verdict.family: verdict for verdict in verdicts_of(series)}
    rows = [
        (
            f["name"],
            f"{f['active']:,}",
            f"{f['limit']:,}",
            f"{f['folded']:,}",
            f"{f['weight']:g}",
            " ".join(f["metrics"]),
        )
        for f in series["families"]
    ]
    print_table(
        ("family", "active", "limit", "folded", "weight", "metrics"), rows, ("active", "limit", "folded", "weight")
    )
    for family in series["families"]:
        if family["attributes"]:
            _print_attributes(family, verdicts.get(family["name"]))
    print()
    for verdict in verdicts.values():
        print(paint(printable(f"{verdict.family}: {verdict.reason}"), "red" if verdict.exploding else "yellow", colour))
        width = max(len(key) for key, _ in verdict.remedies)
        for key, effect in verdict.remedies:
            print(f"  {paint(key.ljust(width), 'cyan', colour)}  {effect}")
    print(EXACT if verdicts else paint("Every attribute set has its series, and there is room.", "green", colour))


def _print_attributes(family: SeriesFamilyStatus, verdict: Verdict | None) -> None:
    print()
    print(printable(f"{family['name']}: distinct values, of about {attribute_sets(family):,} attribute sets"))
    rows = [
        (
            each["key"],
            f"{each['distinct']:,}",
            f"{each['share'] * 100:.0f} %",
            "exploding" if verdict is not None and each["key"] in verdict.exploding else "",
        )
        for each in _ranked(family)
    ]
    print_table(("attribute", "about", "share", ""), rows, ("about", "share"))


def _ranked(family: SeriesFamilyStatus) -> list[SeriesAttributeStatus]:
    return sorted(family["attributes"], key=lambda each: -each["distinct"])


def _verdict(family: SeriesFamilyStatus, series: SeriesStatus) -> Verdict | None:
    keys = exploding(family)
    ranked = _ranked(family)
    if not keys and not family["folded"]:
        return None
    if len(keys) == 1:
        others = f", the others at most {ranked[1]['distinct']:,}" if len(ranked) > 1 else ""
        reason = (
            f"{keys[0]} explodes: about {ranked[0]['distinct']:,} values in {attribute_sets(family):,} sets{others}"
        )
    elif keys:
        reason = f"{' and '.join(keys)} explode: each has values for more than half of the limit"
    elif len(ranked) > 1:
        reason = f"no attribute alone explodes, it is how they combine, {ranked[0]['key']} with {ranked[1]['key']} most"
    else:
        reason = f"{family['folded']:,} attribute sets have no place in its {family['limit']:,} series"
    return Verdict(family["name"], keys, reason, _remedies(family, keys, full=_is_full(series)))


def _is_full(series: SeriesStatus) -> bool:
    """Whether the budget is used up. A family's last series may be too few for one attribute set more, and stay unused."""
    unused = sum(len(family["metrics"]) for family in series["families"])
    return series["active"] + unused > series["limit"]


def _remedies(family: SeriesFamilyStatus, keys: tuple[str, ...], *, full: bool) -> tuple[tuple[str, str], ...]:
    """The keys to set, the most fitting first."""
    found: list[tuple[str, str]] = []
    flows = any(metric.startswith("netmon.flow.") for metric in family["metrics"])
    if "network.interface.name" in keys:
        found.append(("interfaces.exclude", "leaves interfaces out by name or pattern"))
    if flows and not full:
        found.append(("flows.top_k", "is what bounds this family: a larger one exports more flows one by one"))
        return tuple(found)
    found.append(("limits.series", "a larger one gives every family more, for more memory and larger exports"))
    if flows:
        found.append(("flows.top_k", "a smaller one leaves more series to the other families"))
    found.append(("limits.series_idle_seconds", "a smaller one frees the places of series that rest sooner"))
    return tuple(found)

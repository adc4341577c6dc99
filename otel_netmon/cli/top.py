"""Show live rates, the largest flows and what the agent says of itself.

Reads /status of a running agent once a cycle. Without a terminal, or with --once, it prints one page and ends.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import cast
from urllib.parse import urlsplit

from otel_netmon.cli.options import add_json_argument
from otel_netmon.cli.output import print_json
from otel_netmon.cli.top_view import print_page
from otel_netmon.errors import NetmonError, UsageError
from otel_netmon.selfmon.status import Status, problems

DEFAULT_URL = "http://127.0.0.1:9464"
ANSWER_SECONDS = 3.0
DOCUMENT_BYTES_MAX = 64 << 20  # 100,000 flows are 30 MB
SHORTEST_SECONDS = 0.25
SEARCH_SECONDS = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--url", default=DEFAULT_URL, help=f"where the agent serves (default: {DEFAULT_URL})")
    parser.add_argument("--once", action="store_true", help="print one page and end")
    add_json_argument(parser)
    parser.add_argument(
        "--interval",
        metavar="SECONDS",
        type=float,
        help="read so often, at most 4 times a second (default: once in each cycle of the agent)",
    )


def run(args: argparse.Namespace) -> int:
    """Show until it is enough; a missing agent is a NetmonError."""
    if args.interval is not None and not 0 < args.interval < math.inf:
        raise UsageError("argument --interval: expected a positive number of seconds")
    document = fetch(args.url)
    if args.json:
        print_json(document)
    elif args.once or not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        print_page(document)
    else:
        show(args.url, args.interval, document)
    return 0


def fetch(url: str) -> Status:
    """The document of the agent at this URL.

    Raises:
        UsageError: the URL is none.
        NetmonError: nobody answers, or not as an agent does.
    """
    parts = urlsplit(url if "://" in url else f"http://{url}")
    kind = {"http": HTTPConnection, "https": HTTPSConnection}.get(parts.scheme)
    try:
        port = parts.port
    except ValueError:
        kind = None
    if kind is None or not parts.hostname:
        raise UsageError(f"{url!r} is no http:// or https:// URL", f"write for example {DEFAULT_URL}")
    connection = kind(parts.hostname, port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", f"{parts.path.rstrip('/')}/status", headers={"Accept": "application/json"})
        response = connection.getresponse()
        body = response.read(DOCUMENT_BYTES_MAX + 1)
    except (OSError, HTTPException) as error:
        remedy = "start one with otel-netmon run, or name its address with --url"
        raise NetmonError(f"no agent answers at {url}: {str(error) or type(error).__name__}", remedy) from error
    finally:
        connection.close()
    return parse(url, response.status, body)


def parse(url: str, code: int, body: bytes) -> Status:
    """The document in an answer.

    Raises:
        NetmonError: the answer is not that of an agent, or of one that has not read anything yet.
    """
    if code != 200 or len(body) > DOCUMENT_BYTES_MAX:
        raise NetmonError(f"{url} gave no status of an agent (HTTP {code}, {len(body)} bytes)", "check --url")
    try:
        document = json.loads(body)
    except ValueError as error:
        raise NetmonError(f"{url} gave no status of an agent: {error}", "check --url") from error
    if document == {}:
        raise NetmonError(f"the agent at {url} is starting", "try again in a moment")
    # A newer agent may tell more than this version knows.
    wrong = [problem for problem in problems(document) if not problem.endswith(": unknown")]
    if wrong:
        raise NetmonError(f"{url} gave no status that this version understands: {wrong[0]}", "use the agent's version")
    return cast("Status", document)


def next_wait(interval: float, wanted: float | None, *, changed: bool) -> float:
    """Seconds until the next reading.

    The agent's document changes once a cycle. While the last reading gave the one before again, the moment of the change
    is looked for in short steps; after it one reading a cycle is enough.

    Args:
        interval: of the agent's cycle in seconds.
        wanted: ``--interval``, which is kept to.
        changed: whether the last reading gave another document than the one before.
    """
    if wanted is not None:
        return max(wanted, SHORTEST_SECONDS)
    return max(interval if changed else min(interval / 4, SEARCH_SECONDS), SHORTEST_SECONDS)


def show(url: str, interval: float | None, document: Status) -> None:
    """Draws the screen until a key or a signal ends it; the terminal is left as it was.

    Args:
        url: of the agent. While it does not answer the last document stays, with the reason above it.
        interval: seconds from one reading to the next, None for the agent's cycle.
        document: the first one.
    """
    from rich.console import Console
    from rich.live import Live

    from otel_netmon.cli.terminal import Events
    from otel_netmon.cli.top_screen import screen

    console = Console()
    trouble = ""
    wait = next_wait(document["interval_seconds"], interval, changed=False)
    due = time.monotonic() + wait
    with Events() as events, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(screen(document, *console.size, trouble), refresh=True)
            event = events.wait(due - time.monotonic())
            if event == "stop":
                return
            if event == "suspend":
                live.stop()
                events.suspend()
                live.start()
            if event != "time":
                continue
            changed = False
            try:
                fetched = fetch(url)
            except NetmonError as error:
                trouble = trouble or f"since {time.strftime('%H:%M:%S')}: {error.message}"
            else:
                changed = fetched["uptime_seconds"] != document["uptime_seconds"]
                document, trouble = fetched, ""
            due = time.monotonic() + next_wait(document["interval_seconds"], interval, changed=changed)

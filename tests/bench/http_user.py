"""What a request of HTTP/1 costs in user space, from the octets of the ring to distributions and spans, without a kernel.

    python -m bench.http_user --requests 40000 --batch 2000

The same octets are taken again and again: requests of kept connections as browsers send them, of 7 paths; the same with a
path of its own for each request; and the same with a traceparent each. CPU time of the thread, the least of all rounds; every request is counted.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from typing import Any

import numpy as np

from otel_netmon.abi import layout
from otel_netmon.analysis.sampling import KeepRule
from otel_netmon.config.model import Config
from otel_netmon.otel.points import HistogramSeries
from otel_netmon.readers.messages import parse_messages
from otel_netmon.readers.ring import HEADER_OCTETS, Drained
from otel_netmon.sources.http import HttpSource
from support.http_events import Event, event

PATHS = ("/", "/a", "/b/c?page=2", "/users/7", "/users/9/orders", "/static/site.css", "/missing")
FIELDS = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
    "Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8",
    "Accept-Encoding: gzip, deflate, br",
    "Cookie: session=0123456789abcdef",
)
CONNECTIONS = 61
MILLISECOND = 1_000_000


class _Ring:
    """Nobody drains it."""

    def __init__(self) -> None:
        self.counts: dict[Any, int] = {}


class _Quiet:
    live, capacity = 0, 1

    def run(self, _now_ns: int) -> int:
        """Nothing is quiet."""
        return 0


def octets_of(events: list[Event]) -> Drained:
    """Records as they lie in the ring."""
    data, offsets, lengths = bytearray(), [], []
    for row, http, head in events:
        record = row.tobytes() + http.tobytes() + head
        data += bytes(HEADER_OCTETS)
        offsets.append(len(data))
        lengths.append(len(record))
        data += record + bytes(-len(record) % 8)
    return Drained(bytes(data), np.array(offsets, np.int64), np.array(lengths, np.int64))


def requests(number: int, *, own_paths: bool = False, traced: bool = False) -> list[Event]:
    """Requests of some connections in turn, each of 0.2 to 5 ms."""
    chance = random.Random(7)  # noqa: S311 - no secret
    made = []
    for at in range(number):
        path = f"/items/{at}/x{chance.randrange(1 << 30):x}" if own_paths else PATHS[chance.randrange(len(PATHS))]
        fields = ["Host: shop.example:8080", *FIELDS]
        if traced:
            fields.append(f"traceparent: 00-{chance.getrandbits(128) or 1:032x}-{chance.getrandbits(64) or 1:016x}-01")
        head = "\r\n".join([f"GET {path} HTTP/1.1", *fields, "", ""]).encode()
        made.append(
            event(
                head,
                404 if path == "/missing" else 200,
                begun_ns=MILLISECOND * (at + 1),
                waiting_ns=chance.randrange(200_000, 5 * MILLISECOND),
                response_body=chance.randrange(20, 4000),
                client_port=40000 + at % CONNECTIONS,
            )
        )
    return made


def cost(made: list[Event], batch: int, rounds: int) -> dict[str, float]:
    """CPU time of a request, us."""
    ring: Any = _Ring()
    quiet: Any = _Quiet()
    spans = Config().spans
    rule = KeepRule(spans.share, spans.limit_per_second, round(spans.slow_seconds * 1e9) or None)
    start_ns = time.time_ns()
    source = HttpSource(ring, quiet, Config(), rule, start_ns)
    source.begin_cycle(1000, 100, 100)
    parts = [octets_of(made[at : at + batch]) for at in range(0, len(made), batch)]
    # A clock of its own: each part is a second, as the pipeline drains the ring.
    now_ns, taken, kept, used = time.monotonic_ns(), 0, 0, []
    for _ in range(rounds):
        began = time.thread_time_ns()
        for part in parts:
            now_ns += 1_000_000_000
            source.take(parse_messages(part), (), now_ns)
            kept += sum(len(each.batch.names) for each in source.take_spans())
        used.append((time.thread_time_ns() - began) / len(made) / 1000)
        taken += len(made)
    counted = sum(
        int(each.count.sum())
        for name, each in source.points().items()
        if isinstance(each, HistogramSeries) and name.endswith("request.duration")
    )
    if counted != taken:
        raise AssertionError(f"{counted} of {taken} requests were counted")
    return {"us": round(min(used), 3), "us, first round": round(used[0], 3), "spans": kept}


def main() -> int:
    """Prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=40_000)
    parser.add_argument("--batches", type=int, nargs="+", default=[2000, 20_000])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    kinds: dict[str, dict[str, bool]] = {"7 paths": {}, "own paths": {"own_paths": True}, "traced": {"traced": True}}
    report = {
        f"{name}, {batch} at once": cost(requests(arguments.requests, **options), batch, arguments.rounds)
        for name, options in kinds.items()
        for batch in arguments.batches
    }
    print(json.dumps({"octets of a record's head": layout.MESSAGE.itemsize, **report}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

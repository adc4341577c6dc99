"""What a lookup costs in user space from the octets of the ring on: parsing, analysis, series, spans, names behind addresses.

    python -m bench.dns_user --sockets 4 --at-once 4096

One process, no load but this: CPU time, the best of some rounds. What the live measurement (``bench.dns``) has beside it: taking
the records out of the ring, cycles, exports, and caches that others have emptied.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from types import SimpleNamespace
from typing import Any

import numpy as np

from otel_netmon.analysis.sampling import KeepRule
from otel_netmon.config.model import Config
from otel_netmon.readers.messages import parse_messages
from otel_netmon.readers.ring import Drained
from otel_netmon.sources.dns import DnsSource
from support import dns_messages as d
from support.dns_events import SECOND, answer

NAMES, BATCHES, ROUNDS, SERIES = 200, 10, 7, 1000
START = 1000 * SECOND


def drained(generator: random.Random, many: int, sockets: int, now_ns: int) -> Drained:
    """So many answers as a drain of the ring gives them."""
    octets, offsets, lengths = bytearray(), [], []
    for number in range(many):
        name = f"host{generator.randrange(NAMES)}.shop.test"
        data = d.response(generator.randrange(65536), name, d.address("198.18.0.2"))
        time_ns = now_ns + 1000 * number
        first_ns = time_ns - 200_000 - generator.randrange(100_000)
        record = answer(data, first_ns, time_ns, destination_port=32_768 + generator.randrange(sockets))
        octets += bytes(8)
        offsets.append(len(octets))
        lengths.append(len(record))
        octets += record + bytes(-len(record) % 8)
    return Drained(bytes(octets), np.array(offsets, np.int64), np.array(lengths, np.int64))


def cost(at_once: int, sockets: int) -> float:
    """CPU time of a lookup in microseconds; as many sockets ask as are given."""
    config = Config()
    rule = KeepRule(config.spans.share, config.spans.limit_per_second)
    nobody: Any = SimpleNamespace(counts={})
    source = DnsSource({"dns_cache": (0, 16)}, nobody, config, rule, START)
    source.domains.set_cgroups(lambda ends, _: np.full(len(ends), 7, np.uint64))
    source.begin_cycle(SERIES)
    generator = random.Random(7)  # noqa: S311 - repeatable, no secret
    batches = [drained(generator, at_once, sockets, START + number * SECOND) for number in range(BATCHES)]
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        for batch in batches:
            source.take(parse_messages(batch), at_once=True)
        source.series.end_cycle()
        source.domains.expire(0)  # takes the answers that wait
        best = min(best, (time.process_time() - began) / (at_once * BATCHES))
        source.take_spans()
    return best * 1e6


def main() -> int:
    """Prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at-once", type=int, nargs="+", default=[300, 1000, 4096])
    parser.add_argument("--sockets", type=int, nargs="+", default=[4, 20_000])
    arguments = parser.parse_args()
    report = {
        f"{sockets} sockets": {f"{many} records at once": round(cost(many, sockets), 2) for many in arguments.at_once}
        for sockets in arguments.sockets
    }
    print(json.dumps({"us a lookup": report}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The spool: bytes a second in and out, what a forced write costs, and the memory of a large one that is opened and sent.

    python -m bench.spool --directory /var/tmp

MB are megabytes of request bodies, which are real ones: 8192 points of netmon.flow.io. Figures are medians of the rounds, in brackets
the extremes.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from otel_netmon.export.otlp_metrics import metric_requests
from otel_netmon.export.otlp_wire import Envelope
from otel_netmon.export.requests import Request, Signal
from otel_netmon.export.spool import Spool, Sync
from otel_netmon.otel.attributes import AttributeSet
from otel_netmon.otel.points import NumberSeries, Snapshot

POINTS = 8192
LARGE = 256 << 20

OPENED = """
import pathlib, re, sys
from otel_netmon.export.requests import Signal
from otel_netmon.export.spool import Spool

def pss():
    return int(re.search(r"Pss:\\s+(\\d+)", pathlib.Path("/proc/self/smaps_rollup").read_text())[1]) / 1024

import zlib; zlib.decompress(zlib.compress(bytes(1 << 20)))
before = pss()
spool = Spool(pathlib.Path(sys.argv[1]), 1 << 30)
opened = pss()
count = items = 0
most = opened
while (entry := spool.peek(Signal.METRICS)) is not None:
    spool.acknowledge(entry)
    count += 1
    if count % 50 == 0:
        most = max(most, pss())
spool.close()
print(f"{opened - before:.1f} {most - before:.1f} {count}")
"""


def requests(count: int) -> Iterator[Request]:
    """Snapshots one behind the other: the same flows, further on."""
    chance = np.random.default_rng(3)
    series = [
        AttributeSet.of(
            {
                "client.address": f"10.{number >> 8 & 3}.{number >> 4 & 255}.{number & 255}",
                "server.address": f"192.0.2.{number % 251}",
                "server.port": (443, 53, 80, 5432)[number % 4],
                "network.transport": "tcp",
                "network.io.direction": "receive",
                "host.name": f"{number}",
            }
        )
        for number in range(POINTS)
    ]
    starts = np.full(POINTS, 1_700_000_000_000_000_000, np.uint64)
    values = chance.integers(0, 2**40, POINTS)
    envelope = Envelope({"service.name": "otel-netmon"})
    for cycle in range(count):
        values = values + chance.integers(0, 2**24, POINTS)
        snapshot = Snapshot(
            1_700_000_000_000_000_000 + cycle * 10**10, {"netmon.flow.io": NumberSeries(series, starts, values)}
        )
        yield from metric_requests(
            snapshot, envelope, previous=None, temporality="cumulative", histograms="exponential"
        )


def shown(rates: Sequence[float], unit: str) -> str:
    return f"{statistics.median(rates):8.1f} {unit} ({min(rates):.1f} to {max(rates):.1f})"


def throughput(directory: Path, sync: Sync, some: Sequence[Request], rounds: int) -> None:
    written, read, each = [], [], []
    megabytes = sum(len(request.body) for request in some) / 1e6
    stored = 0.0
    for number in range(rounds):
        spool = Spool(directory / f"{sync}-{number}", 1 << 30, sync)
        gc.collect()
        began = time.perf_counter()
        for request in some:
            spool.append(request)
            spool.maintain(time.monotonic())
        done = time.perf_counter()
        written.append(megabytes / (done - began))
        each.append((done - began) / len(some) * 1e3)
        stored = spool.size / 1e6 / megabytes
        began = time.perf_counter()
        while (entry := spool.peek(Signal.METRICS)) is not None:
            spool.acknowledge(entry)
        read.append(megabytes / (time.perf_counter() - began))
        spool.close()
    print(f"{sync:9} append {shown(written, 'MB/s')}   {statistics.median(each):.2f} ms a request")
    print(f"{'':9} read   {shown(read, 'MB/s')}   on disk {stored:.1%}")


def parts(some: Sequence[Request], rounds: int) -> None:
    """What compression and checksum take of it."""
    body = some[0].body
    stored = zlib.compress(body, 1)
    for name, work in (
        ("gzip level 1", lambda: zlib.compress(body, 1, wbits=31)),
        ("gunzip", lambda: zlib.decompress(stored)),
        ("CRC-32 of what is stored", lambda: zlib.crc32(stored)),
    ):
        times = []
        for _ in range(rounds * 3):
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
        print(f"{name:25} {min(times) * 1e3:6.3f} ms of a request of {len(body) / 1e6:.2f} MB")


def memory(directory: Path, some: Sequence[Request]) -> None:
    spool = Spool(directory / "large", 1 << 30, "never")
    count = 0
    noise = os.urandom(64 << 10)  # so that a request takes on disk what it takes in memory
    while spool.size < LARGE:
        request = some[count % len(some)]
        spool.append(Request(Signal.METRICS, request.body[: len(request.body) // 8] + noise * 8, request.items))
        count += 1
    size = spool.size
    spool.close()
    shown = (
        subprocess.run(
            [sys.executable, "-c", OPENED, str(directory / "large")], check=True, capture_output=True, text=True
        )
        .stdout.splitlines()[-1]
        .split()
    )
    assert int(shown[2]) == count
    print(
        f"{size / 1e6:.0f} MB on disk, {count} requests: PSS +{shown[0]} MB when opened, +{shown[1]} MB at most while sent"
    )


def main() -> int:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", default="/var/tmp", help="on the disk to measure")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=100)
    arguments = parser.parse_args()
    some = list(requests(arguments.requests))
    print(f"{len(some)} requests of {POINTS} points, {sum(len(request.body) for request in some) / 1e6:.0f} MB")
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        for sync in get_args(Sync):
            throughput(Path(directory), sync, some, arguments.rounds)
        parts(some, arguments.rounds)
        memory(Path(directory), some)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

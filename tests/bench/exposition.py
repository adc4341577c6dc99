"""What a scrape costs: time a line against prometheus_client, time of the large page, memory of a scrape over HTTP.

    python -m bench.exposition --series 100000

Flows in two metrics that share their labels. The library formats families that it already holds, so collecting is not counted against
it; both format the same series in turn, pair by pair, and the ratio is taken within each pair. Memory is that of a server in a process
of its own: the highest resident size during a scrape, and what is left after it, both above what it had before.
"""

from __future__ import annotations

import argparse
import functools
import http.client
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry, Metric, exposition, openmetrics
from prometheus_client.registry import Collector

from otel_netmon.export.http_server import Server
from otel_netmon.export.prometheus import HOLD_SECONDS, MetricsPage
from otel_netmon.export.prometheus_collector import NetmonCollector
from otel_netmon.export.prometheus_negotiation import OPENMETRICS, PROTOBUF, TEXT
from otel_netmon.otel.attributes import AttributeSet, Tag, encode
from otel_netmon.otel.points import NumberSeries, Snapshot
from support.distributions import histogram_series

NOW = 1_700_000_000_000_000_000
FORMATS = {"text": TEXT, "OpenMetrics": OPENMETRICS, "protobuf": PROTOBUF}
RESOURCE = {"service.name": "otel-netmon"}
METRICS = ("netmon.flow.io", "netmon.flow.packets")
HISTOGRAM = "netmon.pipeline.cycle.duration"


def flow(number: int) -> AttributeSet:
    """The attributes of a flow, with nothing kept from flows before."""
    return AttributeSet(encode({
        "client.address": f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}",
        "server.address": f"192.0.2.{number % 50}",
        "server.port": (443, 53, 5432)[number % 3],
        "network.transport": "tcp",
        "network.io.direction": ("receive", "transmit")[number % 2],
    }, Tag.NUMBER_DATA_POINT))  # fmt: skip


def flows(series: int) -> Snapshot:
    """So many series, half of them bytes and half of them packets of the same flows, begun in some hundred cycles."""
    count = series // len(METRICS)
    sets = [flow(number) for number in range(count)]
    starts = (NOW + np.arange(count) % 100 * 10_000_000_000).astype(np.uint64)
    values = np.random.default_rng(1).integers(0, 10**10, count)
    return Snapshot(NOW, {name: NumberSeries(sets, starts, values) for name in METRICS})


def durations(series: int) -> Snapshot:
    """So many histograms with 12 bounds and some 40 exponential buckets in use."""
    bounds = [0.001 * 2**power for power in range(12)]
    values = [[2.0**-power for power in range(13)] for _ in range(series)]
    columns = histogram_series([flow(i) for i in range(series)], [NOW] * series, values, [2] * series, bounds)
    return Snapshot(NOW, {HISTOGRAM: columns})


class Held(Collector):
    """Families collected before."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def rendered(snapshot: Snapshot, content_type: str, coding: str = "") -> bytes:
    return MetricsPage(lambda: snapshot, RESOURCE).render(content_type, coding).body


def against_library(rounds: int) -> bool:
    """The same 10,000 series by both; True where a line costs at most an eighth."""
    snapshot = flows(10_000)
    registry = CollectorRegistry()
    registry.register(Held(list(NetmonCollector(lambda: snapshot).collect())))
    generators: dict[str, Callable[[CollectorRegistry], bytes]] = {
        "text": exposition.generate_latest, "OpenMetrics": openmetrics.exposition.generate_latest
    }  # fmt: skip
    good = True
    print("us a line, 10,000 series     ours  prometheus_client  ratio in pairs: median (lowest to highest)")
    for name, generate in generators.items():
        pairs = []
        ours_lines = rendered(snapshot, FORMATS[name]).count(b"\n")  # labels are known from here on, in both
        their_lines = generate(registry).count(b"\n")
        for _ in range(rounds):
            ours = seconds(functools.partial(rendered, snapshot, FORMATS[name])) / ours_lines
            theirs = seconds(functools.partial(generate, registry)) / their_lines
            pairs.append((ours * 1e6, theirs * 1e6))
        ratios = sorted(ours / theirs for ours, theirs in pairs)
        ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(
            f"  {name:22} {ours:9.3f} {theirs:18.2f}  1/{1 / statistics.median(ratios):.0f} "
            f"(1/{1 / ratios[-1]:.0f} to 1/{1 / ratios[0]:.0f})"
        )
        good = good and statistics.median(ratios) <= 1 / 8
    return good


def large_page(series: int, rounds: int) -> bool:
    """The whole page, with labels known and not; True where it takes at most 0.2 s for 100,000 known series."""
    good = True
    print(f"s for the page of {series:,} series   all new   again: best (median)   gzip: best   MB   gzip MB")
    for name, content_type in FORMATS.items():
        snapshot = flows(series)
        render = functools.partial(rendered, snapshot, content_type)
        first = seconds(render)
        again = sorted(seconds(render) for _ in range(rounds))
        packed = min(seconds(functools.partial(render, "gzip")) for _ in range(rounds))
        sizes = [len(rendered(snapshot, content_type, coding)) / 1e6 for coding in ("", "gzip")]
        median = statistics.median(again)
        print(
            f"  {name:30} {first:9.3f} {again[0]:14.3f} ({median:.3f}) {packed:12.3f} {sizes[0]:6.1f} {sizes[1]:8.2f}"
        )
        good = good and again[0] * 100_000 / series <= 0.2
    return good


def histograms(rounds: int) -> None:
    """Thousand distributions."""
    snapshot = durations(1000)
    print("us a histogram of 13 buckets, best of the rounds, 1000 of them")
    for name, content_type in FORMATS.items():
        rendered(snapshot, content_type)
        best = min(seconds(functools.partial(rendered, snapshot, content_type)) for _ in range(rounds))
        print(f"  {name:22} {best * 1e6 / 1000:9.1f}")


def serve(series: int) -> None:
    """A server on a free port, which is printed; until standard input ends."""
    snapshot = flows(series)
    for content_type in FORMATS.values():  # labels belong to the series, not to a scrape
        for _ in MetricsPage(lambda: snapshot, RESOURCE).render(content_type, "gzip").pieces:
            pass
    server = Server("127.0.0.1:0", lambda: snapshot, dict, lambda: True, resource=RESOURCE)
    server.start()
    print(server.address[1], flush=True)
    sys.stdin.read()
    server.stop()


def memory(series: int) -> None:
    """Scrapes a server; tells what they cost it."""
    child = subprocess.Popen(
        [sys.executable, "-m", "bench.exposition", "--serve", str(series)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    port = int(child.stdout.readline())
    status = Path(f"/proc/{child.pid}/status")
    print(f"MB above the server's own, {series:,} series     during   after   s over HTTP")
    for (name, content_type), coding in itertools.product(FORMATS.items(), ("gzip", "identity")):
        before = kilobytes(status, "VmRSS")
        Path(f"/proc/{child.pid}/clear_refs").write_text("5")  # the peak begins anew: proc_pid_clear_refs(5)
        took = seconds(functools.partial(scrape, port, content_type, coding))
        peak = kilobytes(status, "VmHWM")
        time.sleep(HOLD_SECONDS + 0.5)  # the page is let go
        after = kilobytes(status, "VmRSS")
        print(f"  {name:24} {coding:10} {(peak - before) / 1e3:12.1f} {(after - before) / 1e3:7.1f} {took:11.3f}")
    before = kilobytes(status, "VmRSS")
    Path(f"/proc/{child.pid}/clear_refs").write_text("5")
    connections = [asked(port, OPENMETRICS, "identity") for _ in range(12)]
    for connection in connections:
        connection.getresponse().read()
        connection.close()
    print(f"  12 at once, OpenMetrics identity {(kilobytes(status, 'VmHWM') - before) / 1e3:8.1f}")
    child.stdin.close()
    child.wait(10)


def asked(port: int, accept: str, coding: str) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/metrics", headers={"Accept": accept, "Accept-Encoding": coding})
    return connection


def scrape(port: int, accept: str, coding: str) -> int:
    """Bytes received, thrown away as they come."""
    connection = asked(port, accept, coding)
    response = connection.getresponse()
    assert response.status == 200
    received = sum(map(len, chunks(response)))
    connection.close()
    return received


def chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while chunk := response.read(1 << 16):
        yield chunk


def kilobytes(status: Path, key: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(key))


def main() -> int:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--series", type=int, default=100_000, help="of the large page")
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument("--serve", type=int, metavar="SERIES", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.serve:
        serve(options.serve)
        return 0
    good = [against_library(options.rounds), large_page(options.series, options.rounds)]
    histograms(options.rounds)
    memory(options.series)
    print(
        f"a line costs at most an eighth: {'yes' if good[0] else 'NO'}; 100,000 series within 0.2 s: {'yes' if good[1] else 'NO'}"
    )
    return 0 if all(good) else 1


if __name__ == "__main__":
    raise SystemExit(main())

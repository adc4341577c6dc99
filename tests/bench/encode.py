"""Snapshots and spans to OTLP bytes on one core: our encoder against the stock one in turn, new series, and what gzip costs.

    python -m bench.encode

Each round takes both encoders one after the other, so that whatever disturbs the machine disturbs both; figures are medians of the
rounds, in brackets the extremes. The stock encoder is given data that is built already: encode_metrics and encode_spans with
SerializeToString, nothing else.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gzip
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, SpanKind as SdkSpanKind, Status

from otel_netmon.export.otlp_metrics import HistogramForm, metric_requests
from otel_netmon.export.otlp_resources import SeriesOrders
from otel_netmon.export.otlp_spans import span_requests
from otel_netmon.export.otlp_wire import Envelope
from otel_netmon.export.requests import Request
from otel_netmon.otel.attributes import AttributeSet, Tag, Value, encode, encoded_resource
from otel_netmon.otel.catalogue import SCHEMA_URL
from otel_netmon.otel.metrics_data import SCOPE, batches
from otel_netmon.otel.points import HistogramSeries, NumberSeries, Snapshot
from otel_netmon.otel.spans import SpanBatch, SpanKind, StatusCode
from otel_netmon.otel.temporality import Temporality
from support.distributions import histogram_series

RESOURCE = {"service.name": "otel-netmon", "service.version": "0.1.0", "host.name": "node-1", "os.type": "linux"}
ENVELOPE = Envelope(RESOURCE)
SECOND = 1_000_000_000
NOW = 1_700_000_000 * SECOND
STOCK = 1000
"""Items that the stock encoder is given in a round: it takes as long for them as ours for a hundred thousand."""

LEAST_RATIO = 10.0

RESOURCES = 100


def chance(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - no secrets


def conversation(number: int, rng: random.Random) -> dict[str, Value]:
    """Attributes of a flow as a busy host has them: many clients, few servers, a dozen ports."""
    return {
        "client.address": f"10.{rng.randrange(4)}.{number >> 8 & 255}.{number & 255}",
        "server.address": f"192.0.2.{int(rng.paretovariate(1.0)) % 250}",
        "network.transport": rng.choice(["tcp", "tcp", "tcp", "udp"]),
        "network.io.direction": "receive" if number & 1 else "transmit",
        "server.port": rng.choice([443, 443, 443, 53, 80, 5432, 6379, 8080, 9092, 22]),
    }


def flows(sets: Sequence[AttributeSet], seed: int, time_unix_nano: int = NOW) -> Snapshot:
    """netmon.flow.io and netmon.flow.packets of these series, bytes and packets spread over many orders of magnitude."""
    rng = np.random.default_rng(seed)
    packets = rng.lognormal(4, 3, len(sets)).astype(np.int64) + 1
    octets = (packets * rng.uniform(60, 1500, len(sets))).astype(np.int64)
    start = NOW - rng.integers(SECOND, 3600 * SECOND, len(sets)).astype(np.uint64)
    return Snapshot(
        time_unix_nano,
        {
            "netmon.flow.io": NumberSeries(sets, start, octets),
            "netmon.flow.packets": NumberSeries(sets, start, packets),
        },
    )


def distributions(sets: Sequence[AttributeSet], seed: int, weight: int) -> HistogramSeries:
    """Fourteen explicit bounds, and as many exponential buckets as a store of 160 has after a few measurements: 145.

    Each measurement counts ``weight`` times.
    """
    rng = chance(seed)
    values = [[2.0 ** rng.randrange(-10, 0) for _ in range(30)] for _ in sets]
    bounds = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]
    series = histogram_series(sets, [NOW - SECOND] * len(sets), values, [4] * len(sets), bounds)
    many = np.uint64(weight)
    return dataclasses.replace(
        series, count=series.count * many, buckets=series.buckets * many, bucket_counts=series.bucket_counts * many
    )


def spans(count: int) -> tuple[SpanBatch, list[ReadableSpan]]:
    """Spans of HTTP requests, half of them children: as columns, and the first ``STOCK`` as an SDK has them."""
    rng = chance(1)
    ids = np.frombuffer(rng.randbytes(32 * count), np.uint8).reshape(count, 32).copy()
    ids[::2, 24:] = 0
    start = np.array([NOW - rng.randrange(SECOND) for _ in range(count)], np.uint64)
    names = [rng.choice(["GET", "POST", "GET /users/{id}"]) for _ in range(count)]
    attributes: list[dict[str, Value]] = [
        {
            "http.request.method": "GET",
            "http.response.status_code": rng.choice([200, 200, 404, 500]),
            "url.template": "/users/{id}",
            "server.address": f"192.0.2.{number % 250}",
            "server.port": 443,
            "network.protocol.version": "1.1",
            "client.address": f"10.0.{number >> 8 & 255}.{number & 255}",
        }
        for number in range(count)
    ]
    batch = SpanBatch(
        names=names,
        kinds=np.full(count, SpanKind.CLIENT, np.uint8),
        trace_ids=ids[:, :16],
        span_ids=ids[:, 16:24],
        parent_span_ids=ids[:, 24:],
        flags=np.full(count, 0x100, np.uint32),
        start_time_unix_nano=start,
        end_time_unix_nano=start + np.uint64(1_500_000),
        attributes=[encode(each, Tag.SPAN) for each in attributes],
        statuses=np.full(count, StatusCode.UNSET, np.uint8),
        messages=[""] * count,
    )
    resource = Resource(RESOURCE, SCHEMA_URL)
    sdk = []
    for row in range(min(count, STOCK)):
        trace_id, span_id, parent = (int.from_bytes(part.tobytes(), "big") for part in np.split(ids[row], [16, 24]))
        sdk.append(
            ReadableSpan(
                name=names[row],
                context=SpanContext(trace_id, span_id, is_remote=False),
                parent=SpanContext(trace_id, parent, is_remote=False) if parent else None,
                resource=resource,
                attributes=attributes[row],
                kind=SdkSpanKind.CLIENT,
                status=Status(),
                start_time=int(start[row]),
                end_time=int(start[row]) + 1_500_000,
                instrumentation_scope=SCOPE,
            )
        )
    return batch, sdk


def timed(work: Callable[[], object]) -> float:
    """Seconds of CPU time, which other programs on the same core do not take part in."""
    started = time.thread_time()
    work()
    return time.thread_time() - started


def drain(requests: Iterator[Request]) -> int:
    """Items in all requests; each is let go of before the next is made, as a sender does."""
    return sum(request.items for request in requests)


def noted(values: Sequence[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def against(name: str, rounds: int, ours: Callable[[], int], stock: Callable[[], object], stock_items: int) -> float:
    """One line: us an item, ours and stock, items a second, and how many times as fast ours is, which is given back."""
    items = ours()
    mine: list[float] = []
    theirs: list[float] = []
    for number in range(rounds):
        pair = [(mine, ours, items), (theirs, stock, stock_items)]
        for into, work, count in pair if number % 2 else reversed(pair):
            into.append(timed(work) / count * 1e6)
    ratios = [their / my for my, their in zip(mine, theirs, strict=True)]
    rate = 1e6 / statistics.median(mine)
    print(f"{name:48} {noted(mine, 3):24} {rate:>11,.0f} {noted(theirs, 1):22} {noted(ratios, 0)}", flush=True)
    return statistics.median(ratios)


def encoder(
    snapshot: Snapshot,
    previous: Snapshot | None = None,
    temporality: Temporality = "cumulative",
    histograms: HistogramForm = "explicit",
) -> Callable[[], int]:
    """The work of one export, one of many of the same series."""
    orders = SeriesOrders()
    return lambda: drain(
        metric_requests(
            snapshot, ENVELOPE, previous=previous, temporality=temporality, histograms=histograms, orders=orders
        )
    )


def points(rounds: int, count: int) -> float:
    """Numbers as they go out in a steady and in a changing network; gives the smallest ratio."""
    rng = chance(0)
    sets = [AttributeSet(encode(conversation(n, rng), Tag.NUMBER_DATA_POINT)) for n in range(count + count // 10)]
    known = sets[:count]
    before, now = flows(known, 1, NOW - 10 * SECOND), flows(known, 1)
    changed = flows([*sets[count:], *known[: count - count // 10]], 1)
    few = {name: series[:STOCK] for name, series in now.points.items() if isinstance(series, NumberSeries)}
    stock = stock_points(stock_data(Snapshot(NOW, few), "explicit"))
    cases: list[tuple[str, Snapshot, Temporality]] = [
        ("points of known series", now, "cumulative"),
        ("points, a tenth of the series new", changed, "cumulative"),
        ("points, differences", now, "delta"),
        ("points, differences, a tenth of the series new", changed, "delta"),
    ]
    slowest = min(
        against(name, rounds, encoder(snapshot, before, temporality), stock, 2 * STOCK)
        for name, snapshot, temporality in cases
    )
    for name, mixed in ((f"points of {RESOURCES} resources, one behind the other", False), ("the same, mixed", True)):
        processes = of_processes(count, rng, mixed=mixed)
        before, now = flows(processes, 1, NOW - 10 * SECOND), flows(processes, 1)
        against(name, rounds, encoder(now, before), stock, 2 * STOCK)
    return slowest


def of_processes(count: int, rng: random.Random, *, mixed: bool) -> list[AttributeSet]:
    """Series of processes in containers; in memory they lie in their order, as those that have one resource do here."""
    resources = [
        encoded_resource({
            "service.name": f"service-{number}",
            "process.pid": number,
            "process.executable.name": f"program-{number}",
            "container.id": f"{number:064x}",
        })
        for number in range(RESOURCES)
    ]  # fmt: skip
    chosen = rng.choices(resources, k=count)
    return [
        AttributeSet(encode(conversation(number, rng), Tag.NUMBER_DATA_POINT), resource)
        for number, resource in enumerate(chosen if mixed else sorted(chosen))
    ]


def all_distributions(rounds: int, count: int) -> None:
    """Histograms in both forms; large counts take two bytes and more each."""
    rng = chance(0)
    sets = [AttributeSet(encode(conversation(n, rng), Tag.NUMBER_DATA_POINT)) for n in range(count)]
    metric = "netmon.pipeline.cycle.duration"
    forms: list[tuple[str, HistogramForm, int]] = [
        ("distributions, explicit", "explicit", 1),
        ("distributions, exponential", "exponential", 1),
        ("distributions, exponential, large counts", "exponential", 1000),
    ]
    for name, form, weight in forms:
        series = distributions(sets, 1, weight)
        stock = stock_points(stock_data(Snapshot(NOW, {metric: series[:STOCK]}), form))
        against(name, rounds, encoder(Snapshot(NOW, {metric: series}), histograms=form), stock, STOCK)


def stock_data(snapshot: Snapshot, histograms: HistogramForm) -> MetricsData:
    ((_, data),) = batches(snapshot, RESOURCE, 1 << 30, histograms)
    return data


def stock_points(data: MetricsData) -> Callable[[], object]:
    return lambda: encode_metrics(data).SerializeToString()


def new_series(rounds: int, count: int) -> None:
    """What a series costs when it begins."""
    rng = chance(2)
    attributes = [conversation(number, rng) for number in range(count)]

    def build() -> list[AttributeSet]:
        return [AttributeSet(encode(each, Tag.NUMBER_DATA_POINT)) for each in attributes]

    times = [1e6 * timed(build) / count for _ in range(rounds)]
    print(f"a new series, attributes to bytes, once: {noted(times, 2)} us")


def compression(rounds: int, count: int) -> None:
    """Size and time of gzip over flow points, by level."""
    rng = chance(0)
    sets = [AttributeSet(encode(conversation(n, rng), Tag.NUMBER_DATA_POINT)) for n in range(count)]
    bodies = [
        request.body
        for request in metric_requests(
            flows(sets, 1), ENVELOPE, previous=None, temporality="cumulative", histograms="explicit"
        )
    ]
    size = sum(map(len, bodies))
    print(f"gzip of {2 * count} flow points, {size / 2 / count:.0f} bytes each, {len(bodies)} requests")
    print(f"{'level':8} {'bytes a point':>14} {'of the whole':>13}  {'us a point':24} ms for each further MB saved")
    times: dict[int, list[float]] = {level: [] for level in (1, 3, 6, 9)}
    for _ in range(rounds):
        for level, spent in times.items():
            spent.append(timed(functools.partial(pack, bodies, level)))
    before, before_s = size, 0.0
    for level, spent in times.items():
        packed, packed_s = pack(bodies, level), statistics.median(spent)
        price = (packed_s - before_s) * 1e3 / ((before - packed) / 1e6)
        each = noted([1e6 * one / 2 / count for one in spent], 3)
        print(f"{level:<8} {packed / 2 / count:>14.1f} {packed / size:>12.1%}  {each:24} {price:.0f}", flush=True)
        before, before_s = packed, packed_s


def pack(bodies: Sequence[bytes], level: int) -> int:
    """Bytes after compression, request by request."""
    return sum(len(gzip.compress(body, level)) for body in bodies)


def main() -> int:
    """Prints the tables; exit code 1 if points and spans are not encoded at least ten times as fast."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--series", type=int, default=10_000)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(f"{'':48} {'ours, us each':24} {'a second':>11} {'stock, us each':22} times as fast")
    of_points = points(arguments.rounds, arguments.series)
    batch, sdk = spans(arguments.series)
    of_spans = against(
        "spans",
        arguments.rounds,
        lambda: drain(span_requests(batch, ENVELOPE)),
        lambda: encode_spans(sdk).SerializeToString(),
        len(sdk),
    )
    all_distributions(arguments.rounds, arguments.series // 4)
    new_series(arguments.rounds, arguments.series)
    compression(arguments.rounds, arguments.series)
    return 0 if min(of_points, of_spans) >= LEAST_RATIO else 1


if __name__ == "__main__":
    raise SystemExit(main())

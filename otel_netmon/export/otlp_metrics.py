"""Snapshots as ExportMetricsServiceRequest messages.

Source: opentelemetry/proto/metrics/v1/metrics.proto and collector/metrics/v1/metrics_service.proto; OpenTelemetry metrics data model.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from otel_netmon.export.otlp_histograms import CELLS, explicit, exponential
from otel_netmon.export.otlp_requests import RequestBuilder
from otel_netmon.export.otlp_resources import Index, Order, Runs, SeriesOrders, runs, series_order
from otel_netmon.export.otlp_wire import (
    MAX_BYTES,
    MAX_ITEMS,
    POINTS,
    START,
    TIME,
    Envelope,
    Group,
    Records,
    chunks,
    text,
)
from otel_netmon.export.requests import Request, Signal
from otel_netmon.otel import catalogue
from otel_netmon.otel.attributes import AttributeSet, Tag
from otel_netmon.otel.points import HistogramSeries, Point, Points, Snapshot, number_series
from otel_netmon.otel.temporality import (
    Temporality,
    ended,
    histogram_differences,
    is_delta,
    match,
    number_differences,
)

HistogramForm = Literal["exponential", "explicit"]

_NO_RECORDED_VALUE = b"\x01"


def count_points(snapshot: Snapshot) -> int:
    """Points of the snapshot that go out by OTLP, without the marks of series that ended."""
    return sum(len(points) for name, points in snapshot.points.items() if not catalogue.CATALOGUE[name].prometheus_only)


def metric_requests(
    snapshot: Snapshot,
    envelope: Envelope,
    *,
    previous: Snapshot | None,
    temporality: Temporality,
    histograms: HistogramForm,
    max_items: int = MAX_ITEMS,
    max_bytes: int = MAX_BYTES,
    orders: SeriesOrders | None = None,
) -> Iterator[Request]:
    """The snapshot as requests, made one at a time.

    A series of ``previous`` that is no more gets one point with the flag NO_RECORDED_VALUE, its start time and the time of this
    snapshot. One that is there again with a later start needs none: the start says it.

    Args:
        previous: the last snapshot that this receiver was given, None at first. Differences count from it.
        temporality: which metrics go out as differences, see ``temporality.is_delta``.
        histograms: which of both kinds of buckets go out.
        max_items: data points in a request at most.
        max_bytes: bytes of a request at most; a point that is larger goes alone.
        orders: what is known of the order of the series from one snapshot to the next.
    """
    builder = RequestBuilder(Signal.METRICS, envelope, max_items, max_bytes)
    orders = orders or SeriesOrders()
    before = previous or Snapshot(snapshot.time_unix_nano, {})
    for name in dict.fromkeys((*snapshot.points, *before.points)):
        if catalogue.CATALOGUE[name].prometheus_only:
            continue
        points, old = snapshot.points.get(name, ()), before.points.get(name, ())
        times = snapshot.time_unix_nano, before.time_unix_nano
        if isinstance(points, HistogramSeries) or isinstance(old, HistogramSeries):
            delta = is_delta("histogram", temporality)
            group = _group(name, histograms, delta)
            order = orders.of(name, points.attributes) if isinstance(points, HistogramSeries) else None
            parts = _histograms(_distributions(points), _distributions(old), *times, delta, histograms, order)
        else:
            delta = is_delta(catalogue.CATALOGUE[name].kind, temporality)
            group = _group(name, "numbers", delta)
            parts = _numbers(name, points, old, *times, delta, orders)
        for records, resources in parts:
            yield from builder.add(records, group, resources)
    yield from builder.finish()


@functools.lru_cache(512)
def _group(name: str, form: Literal["numbers", "exponential", "explicit"], delta: bool) -> Group:
    """The Metric message around the points of a metric."""
    metric = catalogue.CATALOGUE[name]
    opening = text(0x0A, metric.name) + text(0x12, metric.description) + text(0x1A, metric.unit)
    temporality = b"\x10\x01" if delta else b"\x10\x02"
    if form != "numbers":
        return Group(opening + (b"\x52" if form == "exponential" else b"\x4a"), temporality)
    if metric.kind == "gauge":
        return Group(opening + b"\x2a", b"")
    return Group(opening + b"\x3a", temporality + (b"\x18\x01" if metric.kind == "counter" else b""))


_Part = tuple[Records, Runs]
"""Records and their resources, as ``RequestBuilder.add`` takes them."""


# --------------------------------------------------------------------------------------------------------------- numbers
def _numbers(
    name: str, points: Sequence[Point], old: Sequence[Point], time: int, before: int, delta: bool, orders: SeriesOrders
) -> Iterator[_Part]:
    """NumberDataPoint messages: those of the series, then the marks of those that ended."""
    metric = catalogue.CATALOGUE[name]
    has_start = metric.kind != "gauge"
    series, base = number_series(points, metric.value_type), number_series(old, metric.value_type)
    index = match(series.attributes, base.attributes)
    if delta:
        series = number_differences(series, base, index, time, before)
    start = START if has_start else b""
    value = b"\x21" if metric.value_type is float else b"\x31"
    tail = start + TIME.pack(0x19, time) + value + bytes(8)
    order = orders.of(name, series.attributes)
    in_order = order.rows if order is not None else None
    values = series.values.astype(np.float64 if metric.value_type is float else np.int64, copy=False)
    sets = series.attributes
    for piece in chunks(len(series)):
        if in_order is None:
            rows: slice | Index = piece
            encoded = [each.encoded for each in sets[piece]]
        else:
            rows = in_order[piece]
            encoded = [sets[row].encoded for row in rows.tolist()]
        records = Records(POINTS, [encoded], tail)
        if has_start:
            records.fill(len(tail) - 1, series.start_time_unix_nano[rows])
        records.fill(8, values[rows])
        yield records, order.runs(piece) if order is not None else ()
    gone = ended(index, len(base))
    starts = base.start_time_unix_nano[gone] if not delta else np.full(len(gone), min(before, time), np.uint64)
    yield from _marks([base.attributes[row] for row in gone.tolist()], Tag.NUMBER_DATA_POINT, start, starts, time)


def _marks(
    gone: Sequence[AttributeSet], tag: Tag, start: bytes, starts: npt.NDArray[np.uint64], time: int
) -> Iterator[_Part]:
    """Points without a value, for series that ended."""
    flags = b"\x40" if tag is Tag.NUMBER_DATA_POINT else b"\x50"
    tail = start + TIME.pack(0x19, time) + flags + _NO_RECORDED_VALUE
    order = series_order(gone)
    if order is not None and order.rows is not None:
        gone, starts = [gone[row] for row in order.rows.tolist()], starts[order.rows]
    for rows in chunks(len(gone)):
        records = Records(POINTS, [[each.with_tag(tag) for each in gone[rows]]], tail)
        if start:
            records.fill(len(tail) - 1, starts[rows])
        yield records, order.runs(rows) if order is not None else ()


# ------------------------------------------------------------------------------------------------------------ histograms
def _distributions(points: Points) -> HistogramSeries | None:
    """The columns; None where there are no points, which may come in any form."""
    return points if isinstance(points, HistogramSeries) and len(points) else None


def _histograms(
    series: HistogramSeries | None,
    base: HistogramSeries | None,
    time: int,
    before: int,
    delta: bool,
    form: HistogramForm,
    order: Order | None,
) -> Iterator[_Part]:
    """HistogramDataPoint or ExponentialHistogramDataPoint messages, then the marks of series that ended."""
    tag = Tag.EXPONENTIAL_HISTOGRAM_DATA_POINT if form == "exponential" else Tag.HISTOGRAM_DATA_POINT
    index = match(series.attributes if series else (), base.attributes if base else ())
    if series is not None:
        old = base or series[:0]
        step = max(1, CELLS // (series.buckets.shape[1] + series.bucket_counts.shape[1]))
        in_order = order.rows if order is not None else None
        for begin in range(0, len(series), step):
            piece = slice(begin, begin + step)
            rows = piece if in_order is None else in_order[piece]
            part = series[rows] if isinstance(rows, slice) else series.at(rows)
            if delta:
                part = histogram_differences(part, old, index[rows], time, before)
            if len(part):
                records = exponential(part, time) if form == "exponential" else explicit(part, time)
                yield records, runs([each.resource for each in part.attributes]) if order is not None else ()
    if base is not None:
        gone = ended(index, len(base))
        starts = base.start_time_unix_nano[gone] if not delta else np.full(len(gone), min(before, time), np.uint64)
        yield from _marks([base.attributes[row] for row in gone.tolist()], tag, START, starts, time)

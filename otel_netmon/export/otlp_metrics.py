"""Snapshots as ExportMetricsServiceRequest messages.

Source: opentelemetry/proto/metrics/v1/metrics.proto and collector/metrics/v1/metrics_service.proto; OpenTelemetry metrics data model.
"""

from __future__ import annotations

import functools
import itertools
import struct
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from otel_netmon.export.otlp_wire import (
    MAX_BYTES,
    MAX_ITEMS,
    Envelope,
    Group,
    Records,
    RequestBuilder,
    chunks,
    delimited,
    text,
    varint_sizes,
    varints,
)
from otel_netmon.export.requests import Request, Signal
from otel_netmon.otel import catalogue
from otel_netmon.otel.attributes import Tag
from otel_netmon.otel.points import Exemplar, HistogramSeries, Point, Points, Snapshot, number_series
from otel_netmon.otel.temporality import (
    Temporality,
    ended,
    histogram_differences,
    is_delta,
    match,
    number_differences,
)

HistogramForm = Literal["exponential", "explicit"]

_CELLS = 1 << 16
"""Buckets that are encoded at a time: half a megabyte a table, and a few tables."""

_VARINTS = 12_000
"""Counts that become varints at a time: their arrays stay below 128 KiB, beyond which each is fresh pages."""

# Tags and fields of the data points; start and time are the same in all of them.
_POINTS = 0x0A
_START = b"\x11" + bytes(8)
_TIME = struct.Struct("<BQ")
_COUNT_AND_SUM = b"\x21" + bytes(8) + b"\x29" + bytes(8)
_DISTRIBUTION_BYTES = len(_START) + _TIME.size + len(_COUNT_AND_SUM)
_NO_RECORDED_VALUE = b"\x01"
_EXEMPLAR = struct.Struct("<BBBQBdBB8sBB16s")


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
    """
    builder = RequestBuilder(Signal.METRICS, envelope, max_items, max_bytes)
    before = previous or Snapshot(snapshot.time_unix_nano, {})
    for name in dict.fromkeys((*snapshot.points, *before.points)):
        if catalogue.CATALOGUE[name].prometheus_only:
            continue
        points, old = snapshot.points.get(name, ()), before.points.get(name, ())
        times = snapshot.time_unix_nano, before.time_unix_nano
        if isinstance(points, HistogramSeries) or isinstance(old, HistogramSeries):
            delta = is_delta("histogram", temporality)
            group = _group(name, histograms, delta)
            parts = _histograms(_distributions(points), _distributions(old), *times, delta, histograms)
        else:
            delta = is_delta(catalogue.CATALOGUE[name].kind, temporality)
            group = _group(name, "numbers", delta)
            parts = _numbers(name, points, old, *times, delta)
        for records in parts:
            yield from builder.add(records, group)
    yield from builder.finish()


@functools.lru_cache(512)
def _group(name: str, form: Literal["numbers", "exponential", "explicit"], delta: bool) -> Group:
    """The Metric message around the points of a metric."""
    metric = catalogue.CATALOGUE[name]
    opening = text(0x0A, metric.name) + text(0x12, metric.description) + text(0x1A, metric.unit)
    temporality = b"\x10\x01" if delta else b"\x10\x02"
    if form != "numbers":
        return Group(opening, 0x52 if form == "exponential" else 0x4A, temporality)
    if metric.kind == "gauge":
        return Group(opening, 0x2A, b"")
    return Group(opening, 0x3A, temporality + (b"\x18\x01" if metric.kind == "counter" else b""))


# --------------------------------------------------------------------------------------------------------------- numbers
def _numbers(
    name: str, points: Sequence[Point], old: Sequence[Point], time: int, before: int, delta: bool
) -> Iterator[Records]:
    """NumberDataPoint messages: those of the series, then the marks of those that ended."""
    metric = catalogue.CATALOGUE[name]
    has_start = metric.kind != "gauge"
    series, base = number_series(points, metric.value_type), number_series(old, metric.value_type)
    index = match(series.attributes, base.attributes)
    if delta:
        series = number_differences(series, base, index, time, before)
    start = _START if has_start else b""
    value = b"\x21" if metric.value_type is float else b"\x31"
    tail = start + _TIME.pack(0x19, time) + value + bytes(8)
    values = series.values.astype(np.float64 if metric.value_type is float else np.int64, copy=False)
    for rows in chunks(len(series)):
        records = Records(_POINTS, [[attributes.encoded for attributes in series.attributes[rows]]], tail)
        if has_start:
            records.fill(len(tail) - 1, series.start_time_unix_nano[rows])
        records.fill(8, values[rows])
        yield records
    gone = ended(index, len(base))
    starts = base.start_time_unix_nano[gone] if not delta else np.full(len(gone), min(before, time), np.uint64)
    yield from _marks([base.attributes[row].encoded for row in gone.tolist()], start, starts, time, b"\x40")


def _marks(
    attributes: Sequence[bytes], start: bytes, starts: npt.NDArray[np.uint64], time: int, flags: bytes
) -> Iterator[Records]:
    """Points without a value, for series that ended."""
    tail = start + _TIME.pack(0x19, time) + flags + _NO_RECORDED_VALUE
    for rows in chunks(len(attributes)):
        records = Records(_POINTS, [attributes[rows]], tail)
        if start:
            records.fill(len(tail) - 1, starts[rows])
        yield records


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
) -> Iterator[Records]:
    """HistogramDataPoint or ExponentialHistogramDataPoint messages, then the marks of series that ended."""
    tag = Tag.EXPONENTIAL_HISTOGRAM_DATA_POINT if form == "exponential" else Tag.HISTOGRAM_DATA_POINT
    index = match(series.attributes if series else (), base.attributes if base else ())
    if series is not None:
        old = base or series[:0]
        step = max(1, _CELLS // (series.buckets.shape[1] + series.bucket_counts.shape[1]))
        for begin in range(0, len(series), step):
            rows = slice(begin, begin + step)
            part = histogram_differences(series[rows], old, index[rows], time, before) if delta else series[rows]
            if len(part):
                yield _exponential(part, time) if form == "exponential" else _explicit(part, time)
    if base is not None:
        gone = ended(index, len(base))
        starts = base.start_time_unix_nano[gone] if not delta else np.full(len(gone), min(before, time), np.uint64)
        attributes = [base.attributes[row].with_tag(tag) for row in gone.tolist()]
        yield from _marks(attributes, _START, starts, time, b"\x50")


def _explicit(series: HistogramSeries, time: int) -> Records:
    counts = np.ascontiguousarray(series.bucket_counts, "<u8")
    counts = counts.view(f"V{8 * counts.shape[1]}").ravel()
    packed = delimited(0x32, bytes(counts.itemsize))
    bounds = delimited(0x3A, series.bounds.astype("<f8").tobytes()) if len(series.bounds) else b""
    tag = Tag.HISTOGRAM_DATA_POINT
    columns = [[one.with_tag(tag) for one in series.attributes], *_exemplars(series, 0x42)]
    records = _distribution(series, time, columns, 0x59, packed + bounds)
    records.fill(_DISTRIBUTION_BYTES + len(bounds) + counts.itemsize, counts)
    return records


def _exponential(series: HistogramSeries, time: int) -> Records:
    tag = Tag.EXPONENTIAL_HISTOGRAM_DATA_POINT
    columns = [[one.with_tag(tag) for one in series.attributes], *_buckets(series), *_exemplars(series, 0x5A)]
    records = _distribution(series, time, columns, 0x61, b"\x39" + bytes(8))
    records.fill(_DISTRIBUTION_BYTES + 8, series.zero_count.astype("<u8", copy=False))
    return records


def _distribution(
    series: HistogramSeries, time: int, columns: Sequence[Sequence[bytes]], minimum_tag: int, fixed: bytes
) -> Records:
    """What both forms have in common: start, time, count and sum, and minimum and maximum where they are known."""
    columns = list(columns)
    known = []
    for position, extreme in enumerate((series.minimum, series.maximum)):
        field = bytes((minimum_tag + 8 * position, *bytes(8)))
        known.append((series.count > 0) & ~np.isnan(extreme))
        columns.append([field if is_known else b"" for is_known in known[-1].tolist()])
    tail = fixed + _START + _TIME.pack(0x19, time) + _COUNT_AND_SUM
    records = Records(_POINTS, columns, tail)
    records.fill(_DISTRIBUTION_BYTES - 1, series.start_time_unix_nano)
    records.fill(17, series.count)
    records.fill(8, series.sum)
    has_minimum, has_maximum = known
    records.fill(len(tail) + 8, series.maximum[has_maximum], has_maximum)
    records.fill(len(tail) + 8 + 9 * has_maximum[has_minimum], series.minimum[has_minimum], has_minimum)
    return records


def _buckets(series: HistogramSeries) -> list[list[bytes]]:
    """Scale and positive buckets of each series, from the first to the last in use: what stands before the counts, and the counts."""
    buckets = series.buckets if series.buckets.size else np.zeros((len(series), 1), np.uint64)
    buckets = buckets.astype(np.uint64, copy=False)
    rows, width = buckets.shape
    in_use = buckets > 0
    has_buckets = np.asarray(in_use.any(axis=1))
    first = in_use.argmax(axis=1)
    last = width - 1 - in_use[:, ::-1].argmax(axis=1)
    counts = _packed(buckets, first, np.where(has_buckets, last + 1, first))
    length = np.fromiter(map(len, counts), np.int64, rows)
    offset = _zigzag(series.offset + first)
    positive = 2 + varint_sizes(offset) + varint_sizes(length) + length
    # Tags and lengths are varints as well: one table of them for all series.
    table = np.empty((rows, 8), np.uint64)
    table[:, 0::2] = 0x30, 0x42, 0x08, 0x12
    for column, values in zip((1, 3, 5, 7), (_zigzag(series.scale), positive, offset, length), strict=True):
        table[:, column] = values
    present = np.ones(table.shape, np.bool_)
    present[:, 2:] = has_buckets[:, None]
    return [_varint_rows(table, present), counts]


def _packed(counts: npt.NDArray[np.uint64], begin: npt.NDArray[np.int64], end: npt.NDArray[np.int64]) -> list[bytes]:
    """Counts of each row, from column ``begin`` to ``end``, as varints."""
    rows, width = counts.shape
    narrow = counts.astype(np.uint8).tobytes()  # right for rows whose counts are all below 128
    before = width * np.arange(rows)
    packed = [narrow[one:other] for one, other in zip((before + begin).tolist(), (before + end).tolist(), strict=True)]
    wide = np.flatnonzero(counts.max(axis=1) >= 128)
    columns = np.arange(width)
    step = max(1, _VARINTS // width)
    for at in range(0, len(wide), step):
        some = wide[at : at + step]
        present = (columns >= begin[some, None]) & (columns < end[some, None])
        for row, data in zip(some.tolist(), _varint_rows(counts[some], present), strict=True):
            packed[row] = data
    return packed


def _varint_rows(table: npt.NDArray[np.uint64], present: npt.NDArray[np.bool_]) -> list[bytes]:
    """The numbers of each row that are present, of which there is one at least, as varints."""
    data, ends = varints(table[present])
    bounds = [0, *ends[np.cumsum(present.sum(axis=1)) - 1].tolist()]
    return [data[begin:end] for begin, end in itertools.pairwise(bounds)]


def _zigzag(values: npt.NDArray[np.signedinteger[Any]]) -> npt.NDArray[np.int64]:
    """sint32 as the number whose varint it is."""
    wide = values.astype(np.int64)
    return wide << 1 ^ wide >> 63


def _exemplars(series: HistogramSeries, tag: int) -> list[list[bytes]]:
    """The column of exemplars, none where there are no exemplars at all."""
    if not any(series.exemplars):
        return []
    return [[b"".join([_exemplar(one, tag) for one in exemplars]) for exemplars in series.exemplars]]


def _exemplar(one: Exemplar, tag: int) -> bytes:
    size = _EXEMPLAR.size - 2
    return _EXEMPLAR.pack(
        tag, size, 0x11, one.time_unix_nano, 0x19, one.value, 0x22, 8, one.span_id, 0x2A, 16, one.trace_id
    )

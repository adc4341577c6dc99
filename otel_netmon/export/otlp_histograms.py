"""Distributions as HistogramDataPoint and ExponentialHistogramDataPoint messages.

Source: opentelemetry/proto/metrics/v1/metrics.proto; OpenTelemetry metrics data model.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.export.otlp_wire import POINTS, START, TIME, Records, delimited, varint_sizes, varints
from otel_netmon.otel.attributes import Tag
from otel_netmon.otel.points import Exemplar, HistogramSeries

CELLS = 1 << 16
"""Buckets that are encoded at a time: half a megabyte a table, and a few tables."""

_VARINTS = 12_000
"""Counts that become varints at a time: their arrays stay below 128 KiB, beyond which each is fresh pages."""

_COUNT_AND_SUM = b"\x21" + bytes(8) + b"\x29" + bytes(8)
_DISTRIBUTION_BYTES = len(START) + TIME.size + len(_COUNT_AND_SUM)
_EXEMPLAR = struct.Struct("<BBBQBdBB8sBB16s")


def explicit(series: HistogramSeries, time: int) -> Records:
    """With explicit buckets; ``time`` is that of the reading."""
    counts = np.ascontiguousarray(series.bucket_counts, "<u8")
    counts = counts.view(f"V{8 * counts.shape[1]}").ravel()
    packed = delimited(0x32, bytes(counts.itemsize))
    bounds = delimited(0x3A, series.bounds.astype("<f8").tobytes()) if len(series.bounds) else b""
    tag = Tag.HISTOGRAM_DATA_POINT
    columns = [[one.with_tag(tag) for one in series.attributes], *_exemplars(series, 0x42)]
    records = _distribution(series, time, columns, 0x59, packed + bounds)
    records.fill(_DISTRIBUTION_BYTES + len(bounds) + counts.itemsize, counts)
    return records


def exponential(series: HistogramSeries, time: int) -> Records:
    """With exponential buckets; ``time`` is that of the reading."""
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
    tail = fixed + START + TIME.pack(0x19, time) + _COUNT_AND_SUM
    records = Records(POINTS, columns, tail)
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

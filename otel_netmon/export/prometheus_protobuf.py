"""A snapshot as the Prometheus protobuf format, the only one of the three that carries native histograms.

Format: a ``MetricFamily`` of io/prometheus/client/metrics.proto (prometheus/client_model) for each metric, its length before it. Counters
and gauges are doubles there: beyond 2^53 they are rounded, which the text formats are not.
"""

from __future__ import annotations

import bisect
import functools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.otel import prometheus_names
from otel_netmon.otel.attributes import AttributeSet, encode_label_pairs, label_fields_of, varint
from otel_netmon.otel.catalogue import CATALOGUE, Metric
from otel_netmon.otel.points import Exemplar, HistogramSeries, NumberSeries, Snapshot, number_series

CHUNK = 2048
"""Series that are put together at once, as in ``prometheus_text``."""

ZERO_THRESHOLD = 1e-128
"""Width of the zero bucket: no measurement other than zero is smaller. Above zero, it also tells a native histogram without any
measurement from a classic one. The collector's translation has the same value."""

_COUNTER, _GAUGE, _HISTOGRAM = 0, 1, 4
_SCHEMAS = range(-4, 9)
_double = struct.Struct("<d").pack


def render(snapshot: Snapshot, target: AttributeSet) -> Iterator[bytes]:
    """The page in pieces, in the order of the snapshot.

    Args:
        snapshot: what to show; metrics without points are left out.
        target: the resource, shown as ``target_info``; left out when empty.
    """
    if target.labels:
        one = _message(4, target.label_fields + _message(2, b"\x09" + _double(1.0)))
        yield from _delimited(_head("target_info", "Target metadata", _GAUGE, ""), [one])
    for name, points in snapshot.points.items():
        if len(points):
            family = _family(CATALOGUE[name])
            if isinstance(points, HistogramSeries):
                yield from _delimited(family.head, _histograms(points))
            else:
                yield from _numbers(family, number_series(points, family.value_type))


@dataclass(frozen=True, slots=True)
class _Family:
    """A metric: name, help, type and unit, encoded."""

    head: bytes
    value_type: type[int | float]
    counter: bool


@functools.cache
def _family(metric: Metric) -> _Family:
    kind = {"counter": _COUNTER, "histogram": _HISTOGRAM}.get(metric.kind, _GAUGE)
    unit = prometheus_names.unit_suffix(metric.unit, metric.kind)
    head = _head(metric.prometheus_name, metric.description, kind, unit)
    return _Family(head, metric.value_type, metric.kind == "counter")


def _head(name: str, description: str, kind: int, unit: str) -> bytes:
    head = _message(1, name.encode()) + _message(2, description.encode()) + b"\x18" + varint(kind)
    return head + _message(5, unit.encode()) if unit else head


def _message(field: int, content: bytes) -> bytes:
    """A field of wire type 2."""
    return varint(field << 3 | 2) + varint(len(content)) + content


def _delimited(head: bytes, metrics: list[bytes]) -> Iterator[bytes]:
    yield varint(len(head) + sum(map(len, metrics))) + head
    for begin in range(0, len(metrics), CHUNK):
        yield b"".join(metrics[begin : begin + CHUNK])


def _numbers(family: _Family, series: NumberSeries) -> Iterator[bytes]:
    """A field ``metric`` for each series. Its length stands before the labels, that of all before the first."""
    fields = label_fields_of(series.attributes)
    starts = series.start_time_unix_nano.tolist()
    distinct = set(starts) if family.counter else set()
    # What stands behind the value, and the lengths before it, follow from when counting began.
    tails = {start: _message(3, timestamp(start)) for start in distinct}
    opening = b"\x1a" if family.counter else b"\x12"
    before = {start: opening + varint(9 + len(tail)) + b"\x09" for start, tail in tails.items()}
    if family.counter:
        sizes = {start: len(before[start]) + 8 + len(tails[start]) for start in distinct}
        lengths = list(map(int.__add__, map(len, fields), map(sizes.__getitem__, starts)))
    else:
        gauge = opening + b"\x09\x09"
        lengths = [length + 11 for length in map(len, fields)]
    heads = {length: b"\x22" + varint(length) for length in set(lengths)}
    total = len(family.head) + sum(lengths) + sum(map(len, map(heads.__getitem__, lengths)))
    yield varint(total) + family.head
    values = series.values.astype("<f8", copy=False)
    for begin in range(0, len(fields), CHUNK):
        chunk = slice(begin, begin + CHUNK)
        line = [None, None, None, None, None] if family.counter else [None, None, gauge, None]
        width = len(line)
        parts: list[Any] = line * len(fields[chunk])
        parts[0::width] = map(heads.__getitem__, lengths[chunk])
        parts[1::width] = fields[chunk]
        parts[3::width] = values[chunk].view("V8").tolist()
        if family.counter:
            parts[2::width] = map(before.__getitem__, starts[chunk])
            parts[4::width] = map(tails.__getitem__, starts[chunk])
        yield b"".join(parts)


def timestamp(nanoseconds: int) -> bytes:
    """A google.protobuf.Timestamp."""
    whole, rest = divmod(nanoseconds, 1_000_000_000)
    return b"\x08" + varint(whole) + b"\x10" + varint(rest)


def _histograms(series: HistogramSeries) -> list[bytes]:
    """A field ``metric`` for each series, with classic buckets, and native ones where the format can say them."""
    bounds = series.bounds.tolist()
    limits = [b"\x11" + _double(limit) for limit in (*bounds, float("inf"))]
    columns = (
        label_fields_of(series.attributes),
        series.count.tolist(),
        series.sum.tolist(),
        np.cumsum(series.bucket_counts, axis=1, dtype=np.uint64).tolist(),
        series.exemplars,
        zip(series.buckets, series.scale.tolist(), series.offset.tolist(), series.zero_count.tolist(), strict=True),
        series.start_time_unix_nano.tolist(),
    )
    metrics = []
    for labels, count, total, cumulated, exemplars, exponential, start in zip(*columns, strict=True):
        marks = {bisect.bisect_left(bounds, each.value): _message(3, _exemplar(each)) for each in exemplars}
        histogram = [b"\x08", varint(count), b"\x11", _double(total)]
        for at, (below, limit) in enumerate(zip(cumulated, limits, strict=True)):
            histogram.append(_message(3, b"\x08" + varint(below) + limit + marks.get(at, b"")))
        histogram += [_native(*exponential), _message(15, timestamp(start))]
        metrics.append(_message(4, labels + _message(7, b"".join(histogram))))
    return metrics


def _exemplar(exemplar: Exemplar) -> bytes:
    labels = encode_label_pairs([("trace_id", exemplar.trace_id.hex()), ("span_id", exemplar.span_id.hex())])
    return labels + b"\x11" + _double(exemplar.value) + _message(3, timestamp(exemplar.time_unix_nano))


def _native(counts: npt.NDArray[np.uint64], scale: int, offset: int, zero_count: int) -> bytes:
    """The fields of a native histogram: schema, zero bucket, spans of buckets in use, and differences of their counts.

    A scale beyond the highest schema is lowered to it by adding neighbours up; below the lowest schema there are no fields, and the
    histogram is a classic one. Bucket i of a native histogram ends at base ** i, that of an exponential one begins there, hence the 1.
    """
    if scale < _SCHEMAS[0]:
        return b""
    schema = min(scale, _SCHEMAS[-1])
    used = np.flatnonzero(counts)
    merged: dict[int, int] = {}
    for exponent, count in zip((used + offset).tolist(), counts[used].tolist(), strict=True):
        index = (exponent >> (scale - schema)) + 1
        merged[index] = merged.get(index, 0) + count
    spans: list[list[int]] = []
    end = 0
    for index in merged:
        if spans and index == end:
            spans[-1][1] += 1
        else:
            spans.append([index - end, 1])
        end = index + 1
    deltas = b"".join(map(_zigzag, _differences(list(merged.values()))))
    return b"".join([
        b"\x28" + _zigzag(schema),
        b"\x31" + _double(ZERO_THRESHOLD),
        b"\x38" + varint(zero_count),
        *[_message(12, b"\x08" + _zigzag(gap) + b"\x10" + varint(length)) for gap, length in spans],
        _message(13, deltas) if deltas else b"",
    ])  # fmt: skip


def _differences(counts: Sequence[int]) -> list[int]:
    return [count - before for before, count in zip((0, *counts), counts, strict=False)]


def _zigzag(value: int) -> bytes:
    """sint32 and sint64."""
    return varint(value << 1 if value >= 0 else ~value << 1 | 1)

"""Distributions from plain measurements, counted one by one."""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from otel_netmon.otel.attributes import AttributeSet
from otel_netmon.otel.points import Exemplar, HistogramSeries


def bucket_of(value: float, scale: int) -> int:
    """Index of the exponential bucket of a power of two: (base ** index, base ** (index + 1)] holds it."""
    exponent = math.log2(value)
    assert exponent.is_integer()
    return (int(exponent) << scale) - 1 if scale >= 0 else (int(exponent) - 1) >> -scale


def histogram_series(
    attributes: Sequence[AttributeSet],
    starts: Sequence[int],
    values: Sequence[Sequence[float]],
    scales: Sequence[int],
    bounds: Sequence[float],
    exemplars: Sequence[Sequence[Exemplar]] | None = None,
) -> HistogramSeries:
    """Columns of the measurements: zeros and powers of two, whose buckets are exact at every scale."""
    exponential = [
        Counter(bucket_of(value, scale) for value in row if value) for row, scale in zip(values, scales, strict=True)
    ]
    offsets = [min(counter, default=0) for counter in exponential]
    width = max([max(c) - o + 1 for c, o in zip(exponential, offsets, strict=True) if c], default=1)
    explicit = np.zeros((len(values), len(bounds) + 1), np.uint64)
    for row, measured in enumerate(values):
        for value in measured:
            explicit[row, bisect.bisect_left(bounds, value)] += np.uint64(1)
    return HistogramSeries(
        attributes=attributes,
        start_time_unix_nano=np.array(starts, np.uint64),
        count=np.array([len(row) for row in values], np.uint64),
        sum=np.array([sum(row) for row in values], np.float64),
        minimum=np.array([min(row, default=0) for row in values], np.float64),
        maximum=np.array([max(row, default=0) for row in values], np.float64),
        scale=np.array(scales, np.int32),
        offset=np.array(offsets, np.int32),
        zero_count=np.array([list(row).count(0) for row in values], np.uint64),
        buckets=np.array(
            [[c[o + column] for column in range(width)] for c, o in zip(exponential, offsets, strict=True)], np.uint64
        ).reshape(len(values), width),
        bounds=np.array(bounds, np.float64),
        bucket_counts=explicit,
        exemplars=exemplars or [() for _ in values],
    )

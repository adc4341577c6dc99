"""Cumulative values as differences to the snapshot that a receiver was given before, and the series that ended since then.

Source: OpenTelemetry metrics data model, "Temporality" and "Resets and gaps", and the specification's
OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from otel_netmon.otel.attributes import AttributeSet
from otel_netmon.otel.points import HistogramSeries, NumberSeries

Temporality = Literal["cumulative", "delta", "lowmemory"]

Index = npt.NDArray[np.int64]


_identity = operator.attrgetter("encoded", "resource")  # both keep their hash, what is made of both would not


def is_delta(kind: str, temporality: Temporality) -> bool:
    """Whether metrics of this kind go out as differences.

    Counters are read from the kernel, so they are what the specification calls asynchronous: ``lowmemory`` leaves them cumulative.
    Sums that may fall and gauges are never differences.
    """
    return (kind == "counter" and temporality == "delta") or (kind == "histogram" and temporality != "cumulative")


def same(now: Sequence[AttributeSet], before: Sequence[AttributeSet]) -> bool:
    """Whether they are the same objects in the same order, which says that they are equal, and at once."""
    return len(now) == len(before) and all(map(operator.is_, now, before))


def match(now: Sequence[AttributeSet], before: Sequence[AttributeSet]) -> Index:
    """For each series of ``now`` its place in ``before``, -1 where it is new.

    Series are told by their attributes and their resource alone.
    """
    if same(now, before):
        return np.arange(len(now))
    if not before:
        return np.full(len(now), -1)
    places: dict[Any, int]
    identities: Iterable[Any]
    if any({each.resource for each in now}):  # noqa: C419 - a set is made at a third of the time of a generator
        places = dict(zip(map(_identity, before), itertools.count(), strict=False))
        identities = map(_identity, now)
    else:
        places = {each.encoded: place for place, each in enumerate(before) if not each.resource}
        identities = [each.encoded for each in now]
    return np.fromiter(map(places.get, identities, itertools.repeat(-1)), np.int64, len(now))


def ended(index: Index, before: int) -> Index:
    """Places of the series that are no more, out of ``before`` series of which ``match`` gave ``index``."""
    gone = np.ones(before, np.bool_)
    gone[index[index >= 0]] = False
    return np.flatnonzero(gone)


def number_differences(
    now: NumberSeries, before: NumberSeries, index: Index, time_unix_nano: int, before_unix_nano: int
) -> NumberSeries:
    """Counters as what they gained.

    A series goes on where it was there before with the same start time. Any other one is new or was started again, and all that
    it counted belongs to it since its own start. What a counter holds that fell without a new start time belongs to it too: it
    can only have begun at zero again, at a moment that nobody knows but that lies after ``before``.

    Args:
        now: values at ``time_unix_nano``.
        before: values at ``before_unix_nano``, of the same number type.
        index: as ``match`` gives it.
    """
    rows = _Rows(now, before, index, time_unix_nano, before_unix_nano)
    values, base = _signed(now.values), _signed(rows.base(before.values))
    goes_on = rows.same & (values >= base)
    with np.errstate(invalid="ignore"):
        return NumberSeries(now.attributes, rows.start_time_unix_nano, np.where(goes_on, values - base, values))


def histogram_differences(
    now: HistogramSeries, before: HistogramSeries, index: Index, time_unix_nano: int, before_unix_nano: int
) -> HistogramSeries:
    """Distributions as what they gained; series that gained nothing are left out, as an SDK does.

    What goes on, is new, was started again or fell is told as for ``number_differences``; other explicit bounds are a new
    beginning. Exponential buckets are compared at the coarser of both scales. Minimum and maximum are known where the whole is new
    or where they moved, by a measurement made since then; elsewhere they are NaN. Exemplars from before are left out.
    """
    if not np.array_equal(now.bounds, before.bounds):
        before, index = now[:0], np.full(len(now), -1)
    rows = _Rows(now, before, index, time_unix_nano, before_unix_nano)
    scale, offset, buckets, base_buckets, outside = _aligned(now, before, rows)
    whole = [_signed(now.count), _signed(now.zero_count), _signed(now.bucket_counts), buckets]
    base = [_signed(rows.base(column)) for column in (before.count, before.zero_count, before.bucket_counts)]
    gained = [column - old for column, old in zip(whole, [*base, base_buckets], strict=True)]
    goes_on = rows.same & ~outside
    for column in gained:
        goes_on &= (column >= 0).reshape(len(now), -1).all(axis=1)
    count, zero_count, bucket_counts, buckets = (
        np.where(goes_on if column.ndim == 1 else goes_on[:, None], column, all_of_it)
        for column, all_of_it in zip(gained, whole, strict=True)
    )
    fresh = ~goes_on | (base[0] == 0)
    with np.errstate(invalid="ignore"):
        total = np.where(goes_on, now.sum - rows.base(before.sum), now.sum)
    differences = HistogramSeries(
        attributes=now.attributes,
        start_time_unix_nano=rows.start_time_unix_nano,
        count=count.astype(np.uint64),
        sum=total,
        minimum=np.where(fresh | (now.minimum < rows.base(before.minimum)), now.minimum, np.nan),
        maximum=np.where(fresh | (now.maximum > rows.base(before.maximum)), now.maximum, np.nan),
        scale=scale,
        offset=offset,
        zero_count=zero_count.astype(np.uint64),
        buckets=buckets.astype(np.uint64),
        bounds=now.bounds,
        bucket_counts=bucket_counts.astype(np.uint64),
        exemplars=[
            [exemplar for exemplar in exemplars if not known or exemplar.time_unix_nano > before_unix_nano]
            for exemplars, known in zip(now.exemplars, goes_on.tolist(), strict=True)
        ],
    )
    return differences.at(np.flatnonzero(count))


class _Rows:
    """Which series of ``now`` have a base in ``before``, and since when their difference counts.

    Attributes:
        same: bool, series with the same start time in both.
        start_time_unix_nano: uint64, never after the time itself: a clock may have been set back.
    """

    def __init__(
        self,
        now: NumberSeries | HistogramSeries,
        before: NumberSeries | HistogramSeries,
        index: Index,
        time_unix_nano: int,
        before_unix_nano: int,
    ) -> None:
        self._index = index
        own = now.start_time_unix_nano
        self.same = index >= 0
        self.same &= self.base(before.start_time_unix_nano) == own
        start = np.where(self.same, np.uint64(before_unix_nano), own)
        self.start_time_unix_nano = np.minimum(start, np.uint64(time_unix_nano))

    def base(self, column: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The column of ``before`` by the rows of ``now``; anything where there is no base."""
        if not len(column):
            return np.zeros((len(self._index), *column.shape[1:]), column.dtype)
        return column[self._index]


def _signed(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Integers as int64, so that a difference may be negative."""
    return column if column.dtype.kind == "f" else column.astype(np.int64, copy=False)


def _aligned(
    now: HistogramSeries, before: HistogramSeries, rows: _Rows
) -> tuple[
    npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]
]:
    """Exponential buckets of both at the same scale and offset.

    Returns:
        scale, offset, the buckets now, those before (zeros where there is no base), and where some of those lie outside.
    """
    counts = np.where(rows.same[:, None], rows.base(before.buckets.astype(np.uint64, copy=False)), 0)
    # The scale of a series without buckets means nothing.
    old_scale = np.where(counts.any(axis=1), rows.base(before.scale), now.scale)
    scale = np.minimum(now.scale, old_scale)
    offset = now.offset >> (now.scale - scale)
    width = now.buckets.shape[1]

    def placed(
        counts: npt.NDArray[np.uint64], begin: npt.NDArray[np.int32], finer: npt.NDArray[np.int32]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        row, column = np.nonzero(counts)
        place = ((begin[row] + column) >> finer[row]) - offset[row]
        inside = (place >= 0) & (place < width)
        dense = np.zeros((len(now), width), np.int64)
        np.add.at(dense, (row[inside], place[inside]), counts[row, column][inside].astype(np.int64))
        outside = np.zeros(len(now), np.bool_)
        outside[row[~inside]] = True
        return dense, outside

    whole, _ = placed(now.buckets.astype(np.uint64, copy=False), now.offset, now.scale - scale)
    base, outside = placed(counts, rows.base(before.offset), old_scale - scale)
    return scale, offset, whole, base, outside

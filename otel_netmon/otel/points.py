"""The points of one cycle: an immutable snapshot that every exporter reads and none changes.

A metric's points come in one of three forms: a plain sequence of ``Point`` for the small closed sets, ``NumberSeries`` (columns) for
series that come and go by the thousand, ``HistogramSeries`` (columns) for distributions. ``NumberSeries`` reads like a sequence
of ``Point`` too, so only what must be fast looks at its columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from otel_netmon.otel.attributes import AttributeSet, Value
from otel_netmon.otel.text import portable_text

__all__ = [
    "Exemplar",
    "HistogramSeries",
    "NumberSeries",
    "Point",
    "Points",
    "Snapshot",
    "number_series",
    "portable_text",
]


@dataclass(frozen=True, slots=True)
class Point:
    """One value of one series.

    Attributes:
        attributes: the identity of the series; keys from ``catalogue.ATTRIBUTES``. Never changed after construction, so
            several points may share one mapping.
        value: in the metric's unit; counters are cumulative since ``start_time_unix_nano``.
        start_time_unix_nano: when counting began, nanoseconds since the epoch. A series that left and came back has a later one.
        resource: what it is about, encoded as in ``AttributeSet.resource``; nothing for the agent's own.
    """

    attributes: Mapping[str, Value]
    value: int | float
    start_time_unix_nano: int
    resource: bytes = b""


@dataclass(frozen=True, slots=True, eq=False)
class NumberSeries(Sequence[Point]):
    """Many points of one metric as columns of length n.

    Attributes:
        attributes: the identity of each series; metrics about the same things may share one sequence.
        start_time_unix_nano: uint64, see ``Point``.
        values: int64, uint64 below 2^63, or float64, see ``Point``.
    """

    attributes: Sequence[AttributeSet]
    start_time_unix_nano: npt.NDArray[np.uint64]
    values: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.attributes)

    @overload
    def __getitem__(self, index: int) -> Point: ...
    @overload
    def __getitem__(self, index: slice) -> NumberSeries: ...
    def __getitem__(self, index: int | slice) -> Point | NumberSeries:
        if isinstance(index, slice):
            return NumberSeries(self.attributes[index], self.start_time_unix_nano[index], self.values[index])
        one = self.attributes[index]
        return Point(dict(one.items()), self.values[index].item(), int(self.start_time_unix_nano[index]), one.resource)

    def at(self, rows: npt.NDArray[np.int64]) -> NumberSeries:
        """Some series of many, in the order of ``rows``."""
        return NumberSeries(
            [self.attributes[row] for row in rows.tolist()], self.start_time_unix_nano[rows], self.values[rows]
        )

    def __iter__(self) -> Iterator[Point]:
        for attributes, start, value in zip(
            self.attributes, self.start_time_unix_nano.tolist(), self.values.tolist(), strict=True
        ):
            yield Point(dict(attributes.items()), value, start, attributes.resource)


def number_series(points: Sequence[Point], value_type: type[int | float]) -> NumberSeries:
    """The points as columns; what is columns already is given back as it is. Every value becomes ``value_type``."""
    if isinstance(points, NumberSeries):
        wanted = np.float64 if value_type is float else np.int64
        return (
            points
            if (points.values.dtype.kind == "f") == (value_type is float)
            else NumberSeries(points.attributes, points.start_time_unix_nano, points.values.astype(wanted))
        )
    return NumberSeries(
        [AttributeSet.of(point.attributes, point.resource) for point in points],
        np.array([point.start_time_unix_nano for point in points], np.uint64),
        np.array([value_type(point.value) for point in points], np.float64 if value_type is float else np.int64),
    )


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One measurement of a histogram, with the span in which it was made.

    Attributes:
        value: in the metric's unit.
        time_unix_nano: when it was measured.
        trace_id, span_id: 16 and 8 bytes, of a span that was kept.
    """

    value: float
    time_unix_nano: int
    trace_id: bytes
    span_id: bytes


@dataclass(frozen=True, slots=True, eq=False)
class HistogramSeries:
    """Distributions of one metric as columns of length n: the same measurements in exponential and in explicit buckets.

    Exponential buckets follow the OpenTelemetry data model: with ``base = 2 ** 2 ** -scale``, bucket j of row i counts values in
    (base ** (offset + j), base ** (offset + j + 1)]. Explicit bucket k counts values in (bounds[k - 1], bounds[k]].

    Attributes:
        attributes: the identity of each series.
        start_time_unix_nano: uint64.
        count: uint64; sum, minimum, maximum: float64 in the metric's unit. A series without a measurement has count 0. A minimum
            or maximum that is not known is NaN.
        scale: int32, offset: int32, zero_count: uint64: of the exponential buckets.
        buckets: unsigned, as narrow as the largest count lets it be, shape (n, width): exponential buckets, zeros behind
            the last one in use.
        bounds: float64, shape (b,): upper bounds of the explicit buckets, the last one (infinity) left out.
        bucket_counts: unsigned, narrow as well, shape (n, b + 1): explicit buckets, not cumulative.
        exemplars: for each series a few measurements, at most one for each explicit bucket, ascending by value.
    """

    attributes: Sequence[AttributeSet]
    start_time_unix_nano: npt.NDArray[np.uint64]
    count: npt.NDArray[np.uint64]
    sum: npt.NDArray[np.float64]
    minimum: npt.NDArray[np.float64]
    maximum: npt.NDArray[np.float64]
    scale: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int32]
    zero_count: npt.NDArray[np.uint64]
    buckets: npt.NDArray[np.unsignedinteger[Any]]
    bounds: npt.NDArray[np.float64]
    bucket_counts: npt.NDArray[np.unsignedinteger[Any]]
    exemplars: Sequence[Sequence[Exemplar]]

    def __len__(self) -> int:
        return len(self.attributes)

    def __getitem__(self, rows: slice) -> HistogramSeries:
        return self._those(rows, self.attributes[rows], self.exemplars[rows])

    def at(self, rows: npt.NDArray[np.int64]) -> HistogramSeries:
        """Some series of many, in the order of ``rows``."""
        places = rows.tolist()
        return self._those(
            rows, [self.attributes[place] for place in places], [self.exemplars[place] for place in places]
        )

    def _those(
        self,
        rows: slice | npt.NDArray[np.int64],
        attributes: Sequence[AttributeSet],
        exemplars: Sequence[Sequence[Exemplar]],
    ) -> HistogramSeries:
        return HistogramSeries(
            attributes=attributes,
            start_time_unix_nano=self.start_time_unix_nano[rows],
            count=self.count[rows],
            sum=self.sum[rows],
            minimum=self.minimum[rows],
            maximum=self.maximum[rows],
            scale=self.scale[rows],
            offset=self.offset[rows],
            zero_count=self.zero_count[rows],
            buckets=self.buckets[rows],
            bounds=self.bounds,
            bucket_counts=self.bucket_counts[rows],
            exemplars=exemplars,
        )

    __iter__ = None  # else Python would iterate by __getitem__(0), __getitem__(1), …


Points = Sequence[Point] | HistogramSeries


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything the agent knows at one moment.

    Attributes:
        time_unix_nano: when the values were read, nanoseconds since the epoch.
        points: catalogue metric name to its points. Attribute sets are unique within a metric.
    """

    time_unix_nano: int
    points: Mapping[str, Points]

"""Distributions to points."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from otel_netmon.analysis.histograms import HistogramColumns, HistogramReading
from otel_netmon.otel.attributes import AttributeSet, Value
from otel_netmon.otel.catalogue import CATALOGUE
from otel_netmon.otel.points import Exemplar, HistogramSeries
from otel_netmon.otel.series_sets import OVERFLOW


def histogram_series(
    reading: HistogramReading, attributes: Sequence[AttributeSet], start_ns: np.ndarray[tuple[int], np.dtype[np.uint64]]
) -> HistogramSeries:
    """A reading of the store as the points of a metric.

    Args:
        attributes, start_ns: of each series of the reading, in its order.
    """
    exemplars: list[tuple[Exemplar, ...]] = [()] * len(attributes)  # most have none
    own = reading.exemplars
    for series, value, time_ns, trace_id, span_id in zip(
        own.series.tolist(), own.value.tolist(), own.time_unix_nano.tolist(), own.trace_id, own.span_id, strict=True
    ):
        exemplars[series] += (Exemplar(value, time_ns, trace_id.tobytes(), span_id.tobytes()),)
    return HistogramSeries(
        attributes=attributes,
        start_time_unix_nano=start_ns,
        count=reading.count,
        sum=reading.sum,
        minimum=reading.minimum,
        maximum=reading.maximum,
        scale=reading.scale,
        offset=reading.offset,
        zero_count=reading.zero_count,
        buckets=reading.buckets,
        bounds=reading.bounds,
        bucket_counts=reading.bucket_counts,
        exemplars=exemplars,
    )


def joined_series(parts: Sequence[HistogramSeries]) -> HistogramSeries:
    """The series of several readings as those of one metric; their bounds are the same."""
    if len(parts) == 1:
        return parts[0]
    width = max(part.buckets.shape[1] for part in parts)
    wide = [np.pad(part.buckets, ((0, 0), (0, width - part.buckets.shape[1]))) for part in parts]
    return HistogramSeries(
        attributes=[each for part in parts for each in part.attributes],
        start_time_unix_nano=np.concatenate([part.start_time_unix_nano for part in parts]),
        count=np.concatenate([part.count for part in parts]),
        sum=np.concatenate([part.sum for part in parts]),
        minimum=np.concatenate([part.minimum for part in parts]),
        maximum=np.concatenate([part.maximum for part in parts]),
        scale=np.concatenate([part.scale for part in parts]),
        offset=np.concatenate([part.offset for part in parts]),
        zero_count=np.concatenate([part.zero_count for part in parts]),
        buckets=np.concatenate(wide),
        bounds=parts[0].bounds,
        bucket_counts=np.concatenate([part.bucket_counts for part in parts]),
        exemplars=[each for part in parts for each in part.exemplars],
    )


class Distribution:
    """A histogram of the agent's own over a small closed set of attributes.

    Args:
        metric: its name in the catalogue.
        start_ns: Unix time at which counting begins.
        limit: attribute sets at most; what comes beyond them is counted in a set with ``otel.metric.overflow``.
    """

    def __init__(self, metric: str, start_ns: int, limit: int = 64) -> None:
        self.metric = metric
        self._start_ns = start_ns
        self._limit = limit
        self._sets: dict[AttributeSet, int] = {}
        self._columns = HistogramColumns(0, CATALOGUE[metric].bounds)

    def record(self, measurements: Iterable[tuple[Mapping[str, Value], float]]) -> None:
        """Counts measurements: attributes and value."""
        taken = [(self._slot(attributes), value) for attributes, value in measurements]
        if taken:
            slots, values = zip(*taken, strict=True)
            self._columns.grow(len(self._sets))
            self._columns.add(np.array(slots, np.intp), np.array(values, np.float64))

    def _slot(self, attributes: Mapping[str, Value]) -> int:
        attribute_set = AttributeSet.of(attributes)
        if attribute_set not in self._sets and len(self._sets) >= self._limit - 1:
            attribute_set = AttributeSet.of(OVERFLOW)
        return self._sets.setdefault(attribute_set, len(self._sets))

    def points(self) -> dict[str, HistogramSeries]:
        """The metric's points."""
        slots = np.arange(len(self._sets))
        start = np.full(len(slots), self._start_ns, np.uint64)
        return {self.metric: histogram_series(self._columns.read(slots), list(self._sets), start)}

    def state(self) -> dict[str, Any]:
        """What another process needs to go on; attributes of the agent's own resource alone."""
        return {**self._columns.state(), "sets": json.dumps([each.encoded.hex() for each in self._sets])}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from ``state``, in place of all that is here."""
        self._columns.restore(state)
        encoded = map(bytes.fromhex, json.loads(state["sets"]))
        self._sets = {AttributeSet(each): slot for slot, each in enumerate(encoded)}

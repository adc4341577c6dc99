"""Attribute sets of series, encoded once while a series keeps its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from otel_netmon.analysis.series import SeriesReading
from otel_netmon.otel.attributes import AttributeSet, Tag, Value, encode

OVERFLOW: Mapping[str, Value] = {"otel.metric.overflow": True}
"""What the point of all that has no series of its own has (OpenTelemetry, metrics SDK, cardinality limits)."""


class SeriesSets:
    """The attribute sets of one table of series, from cycle to cycle.

    Args:
        rests: attributes of the overflow points, one for each partition of the table, in their order.
    """

    def __init__(self, *rests: Mapping[str, Value]) -> None:
        self._rests = [AttributeSet.of(rest) for rest in rests]
        self._sets: dict[bytes, AttributeSet] = {}

    def of(
        self, series: SeriesReading, attributes: Callable[[tuple[Any, ...]], Mapping[str, Value]]
    ) -> list[AttributeSet]:
        """Gives the sets of a cycle's points, in the order of ``SeriesReading.starts_ns``.

        Args:
            attributes: gives those of a series that begins, by its identity as Python values.
        """
        known = self._sets
        self._sets = {
            key: known.get(key) or AttributeSet(encode(attributes(row), Tag.NUMBER_DATA_POINT))
            for key, row in zip([key.tobytes() for key in series.keys], series.keys.tolist(), strict=True)
        }
        return [*self._rests, *self._sets.values()]

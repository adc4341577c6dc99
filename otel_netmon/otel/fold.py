"""Keeps families of small sets (interfaces, protocols) within their share of the series: the first stay, the rest is one exact sum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from otel_netmon.otel.attributes import Value
from otel_netmon.otel.catalogue import CATALOGUE
from otel_netmon.otel.points import Point

DIRECTION = "network.io.direction"
OVERFLOW = "otel.metric.overflow"

_Key = tuple[tuple[str, Value], ...]


class Fold:
    """One family: metrics with the same attribute sets.

    A set that was exported first keeps its series while it is there. What has no place is added up, by direction where the
    family has directions, in points with ``otel.metric.overflow``: series + overflow gain exactly what came in. Gauges
    cannot be added up; those of sets without a place are left out.
    """

    def __init__(self) -> None:
        self._kept: dict[_Key, None] = {}
        self._folded: dict[_Key, dict[str, int | float]] = {}  # what of each has been told or added up so far
        self._rest: dict[tuple[str, Value | None], list[int | float]] = {}  # value and start, by metric and direction
        self._previous: Mapping[str, Sequence[Point]] = {}

    @property
    def folded(self) -> int:
        """Attribute sets without a place in the last cycle."""
        return len(self._folded)

    def apply(self, points: Mapping[str, Sequence[Point]], sets: int) -> dict[str, Sequence[Point]]:
        """The family's points with at most ``sets`` attribute sets, those of the overflow among them."""
        if not self._rest and sum(map(len, points.values())) <= sets:  # no family is larger than all its points
            self._previous = points
            return dict(points)
        present = dict.fromkeys(_keys(points))
        if not self._rest and len(present) <= sets:
            self._previous = points
            return dict(points)
        if not self._rest:
            self._kept = dict.fromkeys(_keys(self._previous))  # who was there before places became scarce stays
        self._divide(present, sets)
        result: dict[str, Sequence[Point]] = {}
        for metric, every in points.items():
            own = []
            for point in every:
                key = tuple(point.attributes.items())
                if key in self._kept:
                    own.append(point)
                elif CATALOGUE[metric].kind != "gauge":
                    self._add(metric, key, point)
            result[metric] = own
        for (metric, direction), (value, start) in self._rest.items():
            attributes: dict[str, Value] = {OVERFLOW: True}
            if direction is not None:
                attributes[DIRECTION] = direction
            result[metric] = [*result.get(metric, ()), Point(attributes, value, int(start))]
        self._previous = result
        return result

    def _divide(self, present: Mapping[_Key, None], sets: int) -> None:
        self._kept = {key: None for key in self._kept if key in present}
        self._folded = {key: told for key, told in self._folded.items() if key in present}
        room = max(0, sets - len({_direction(key) for key in present}))
        for key in present:
            if key in self._kept or key in self._folded:
                continue
            if len(self._kept) < room:
                self._kept[key] = None
            else:
                self._folded[key] = {}
        while len(self._kept) > room:
            key, _ = self._kept.popitem()
            self._folded[key] = {
                metric: point.value
                for metric, points in self._previous.items()
                for point in points
                if tuple(point.attributes.items()) == key
            }

    def _add(self, metric: str, key: _Key, point: Point) -> None:
        told = self._folded[key]
        before = told.get(metric, 0)
        rest = self._rest.setdefault((metric, _direction(key)), [0, point.start_time_unix_nano])
        rest[0] += point.value - before if point.value >= before else point.value
        rest[1] = min(rest[1], point.start_time_unix_nano)
        told[metric] = point.value


def _keys(points: Mapping[str, Sequence[Point]]) -> Iterable[_Key]:
    for every in points.values():
        for point in every:
            yield tuple(point.attributes.items())


def _direction(key: _Key) -> Value | None:
    for name, value in key:
        if name == DIRECTION:
            return value
    return None

"""Keeps families of small sets (interfaces, protocols) within their share of the series: the first stay, the rest is one exact sum."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec

from otel_netmon.otel.attributes import Value
from otel_netmon.otel.catalogue import CATALOGUE
from otel_netmon.otel.points import Point
from otel_netmon.otel.series_sets import OVERFLOW

DIRECTION = "network.io.direction"
GONE_KEPT = 1024
"""Sets that are gone of which is known what was told of them."""

_Key = tuple[tuple[str, Value], ...]
_Count = tuple[int | float, int]
"""A value and the start since which it is counted."""


class Fold:
    """One family: metrics with the same attribute sets.

    A set that has a series keeps it while it is there; a place that becomes free is taken by the first that has none. What has
    no place is added up, by direction where the family has directions, in points with ``otel.metric.overflow``. Series and
    overflow gain exactly what came in: a set that gets a series after it was added up counts anew, from the reading before.
    Gauges cannot be added up; those of sets without a place are left out. A start never goes back.

    Counts are cumulative. One that begins anew has a later start or is smaller than before; of a set that is gone and comes
    back with the same start it is known what was told, for the last ``GONE_KEPT`` of them.
    """

    def __init__(self) -> None:
        self._kept: dict[_Key, None] = {}  # who has a series
        self._told: dict[str, dict[_Key, _Count]] = {}  # by metric, what the source had counted when it was told last
        # By metric, what of those who have a series was told elsewhere, and since when the series counts.
        self._elsewhere: dict[str, dict[_Key, _Count]] = {}
        self._rest: dict[tuple[str, Value | None], _Count] = {}  # by metric and direction
        self._read_ns = 0
        self._encoded: tuple[list[_Key], bytes] = ([], b"[]")
        self.folded = 0
        """Attribute sets without a place in the last cycle."""

    def __len__(self) -> int:
        """Overflow points."""
        return len(self._rest)

    def apply(self, points: Mapping[str, Sequence[Point]], sets: int, now_ns: int) -> dict[str, Sequence[Point]]:
        """The family's points with at most ``sets`` attribute sets, those of the overflow among them; ``now_ns``: Unix time."""
        keyed = {
            metric: {tuple(point.attributes.items()): point for point in every} for metric, every in points.items()
        }
        present: dict[_Key, None] = {}
        for own in keyed.values():
            present |= dict.fromkeys(own)
        if not self._rest and len(present) <= sets:
            self._kept, self.folded = present, 0
            result = dict(points)
        else:
            self._divide(present, sets, overflows=any(map(_is_count, keyed)))
            result = self._divided(keyed)
        for metric, every in keyed.items():
            if _is_count(metric):
                told = self._told.get(metric, {})
                gone = [key for key in told if key not in every][-GONE_KEPT:]
                self._told[metric] = {key: told[key] for key in gone}
                self._told[metric] |= {key: (point.value, point.start_time_unix_nano) for key, point in every.items()}
        self._read_ns = now_ns
        return result

    def state(self) -> dict[str, Any]:
        """What another process needs to go on."""
        keys = list(dict.fromkeys(chain(*self._told.values(), self._kept)))
        if keys != self._encoded[0]:
            self._encoded = keys, json.dumps(keys).encode()  # escapes what is not Unicode, as names may be
        number = {key: n for n, key in enumerate(keys)}
        tables = [
            {metric: [(number[key], *count) for key, count in counts.items()] for metric, counts in table.items()}
            for table in (self._told, self._elsewhere)
        ]
        rest = [(metric, direction, *count) for (metric, direction), count in self._rest.items()]
        kept = [number[key] for key in self._kept]
        return {
            "sets": self._encoded[1],
            "counts": msgspec.msgpack.encode((kept, *tables, rest)),
            "read_ns": self._read_ns,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from ``state``, before the first cycle."""
        keys = [tuple((name, value) for name, value in pairs) for pairs in json.loads(state["sets"])]
        kept, *tables, rest = msgspec.msgpack.decode(state["counts"])
        self._kept = {keys[number]: None for number in kept}
        self._told, self._elsewhere = (
            {
                metric: {keys[number]: (value, start) for number, value, start in counts}
                for metric, counts in each.items()
            }
            for each in tables
        )
        self._rest = {(metric, direction): (value, start) for metric, direction, value, start in rest}
        self._read_ns = state["read_ns"]

    def _divide(self, present: Mapping[_Key, None], sets: int, *, overflows: bool) -> None:
        """Gives the places."""
        ways = {direction for _, direction in self._rest}
        if overflows:
            ways.update(map(_direction, present))
        room = max(0, sets - len(ways))
        before = self._kept
        self._kept = dict.fromkeys([key for key in before if key in present][:room])
        for key in before.keys() - self._kept.keys():
            for counts in self._elsewhere.values():
                counts.pop(key, None)
        for key in present:
            if len(self._kept) >= room:
                break
            if key not in self._kept:
                self._kept[key] = None
                for metric, told in self._told.items():
                    if key in told:
                        self._elsewhere.setdefault(metric, {})[key] = told[key][0], self._read_ns
        self.folded = len(present) - len(self._kept)

    def _divided(self, keyed: Mapping[str, Mapping[_Key, Point]]) -> dict[str, Sequence[Point]]:
        result: dict[str, Sequence[Point]] = {}
        for metric, every in keyed.items():
            own = []
            begun = frozenset(self._rest)
            told, elsewhere = self._told.get(metric, {}), self._elsewhere.get(metric, {})
            for key, point in every.items():
                if key in self._kept:
                    own.append(self._series(point, elsewhere, key, told.get(key)) if key in elsewhere else point)
                elif _is_count(metric):
                    name = metric, _direction(key)
                    value, start = self._rest.get(name, (0, point.start_time_unix_nano))
                    if name not in begun:
                        start = min(start, point.start_time_unix_nano)
                    before = told.get(key)
                    gained = point.value - before[0] if before and _goes_on(point, before) else point.value
                    self._rest[name] = value + gained, start
            result[metric] = own
        for (metric, direction), (value, start) in self._rest.items():
            attributes = dict(OVERFLOW)
            if direction is not None:
                attributes[DIRECTION] = direction
            result[metric] = [*result.get(metric, ()), Point(attributes, value, start)]
        return result

    def _series(self, point: Point, elsewhere: dict[_Key, _Count], key: _Key, before: _Count | None) -> Point:
        """The point of a set's own series, without what was told elsewhere."""
        value, start = elsewhere[key]
        if not _goes_on(point, before):
            value, start = elsewhere[key] = 0, max(point.start_time_unix_nano, self._read_ns)
        return Point(point.attributes, point.value - value, start)


def _is_count(metric: str) -> bool:
    return CATALOGUE[metric].kind != "gauge"


def _goes_on(point: Point, before: _Count | None) -> bool:
    return before is not None and point.start_time_unix_nano <= before[1] and point.value >= before[0]


def _direction(key: Iterable[tuple[str, Value]]) -> Value | None:
    for name, value in key:
        if name == DIRECTION:
            return value
    return None

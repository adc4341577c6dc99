"""A family within its share of the series: whatever comes and goes, series and overflow gain what came in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hypothesis import given, settings, strategies as st

from otel_netmon.otel.attributes import Value
from otel_netmon.otel.fold import DIRECTION, Fold
from otel_netmon.otel.points import Point
from otel_netmon.otel.series_sets import OVERFLOW

START = 1_700_000_000_000_000_000
INTERVAL = 10_000_000_000
METRICS = ("netmon.protocol.io", "netmon.protocol.packets")
NAMES = 6

Identity = tuple[tuple[str, Value], ...]


class Change(NamedTuple):
    """What happens to one set between two readings."""

    present: bool
    gain: int
    begins: str  # "", "anew" (with a later start), "reset" (with the same start, from 0)


CHANGES = st.dictionaries(
    st.integers(0, 2 * NAMES - 1),
    st.builds(Change, st.booleans(), st.integers(0, 9), st.sampled_from(["", "", "", "anew", "reset"])),
)


class Source:
    """One set as it is counted somewhere: it may be away for a while, and begin anew."""

    def __init__(self, number: int, *, directions: bool) -> None:
        self.attributes: dict[str, Value] = {"network.interface.name": f"eth{number // 2}\udcff"}
        if directions:
            self.attributes[DIRECTION] = ("receive", "transmit")[number % 2]
        else:
            self.attributes["network.type"] = f"type{number % 2}"
        self.present = False
        self.value, self.start_ns = 0, START
        self._seen = 0

    def change(self, change: Change, read_ns: int) -> None:
        if change.begins == "anew":
            self.value, self.start_ns, self._seen = 0, read_ns, 0
        elif change.begins == "reset" and change.present and change.gain < self._seen:  # else it looks like a gain
            self.value, self._seen = 0, 0
        self.present = change.present
        self.value += change.gain

    def told(self) -> int:
        """What it gained since it was told last."""
        gained, self._seen = self.value - self._seen, self.value
        return gained


class Receiver:
    """Adds up what each series gained, as a backend does: a later start or a smaller value is a new beginning."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, Identity], Point] = {}
        self.total = dict.fromkeys(METRICS, 0.0)

    def take(self, points: Mapping[str, Sequence[Point]], now_ns: int) -> None:
        for metric, every in points.items():
            for point in every:
                name = metric, tuple(sorted(point.attributes.items()))
                last = self._last.get(name)
                same = last is not None and last.start_time_unix_nano == point.start_time_unix_nano
                if last is not None and OVERFLOW.items() <= point.attributes.items():
                    assert same, "the overflow begins once"
                    assert point.value >= last.value
                assert last is None or last.start_time_unix_nano <= point.start_time_unix_nano <= now_ns
                before = last.value if last is not None and same and point.value >= last.value else 0
                self.total[metric] += point.value - before
                self._last[name] = point


def identities(points: Mapping[str, Sequence[Point]]) -> list[Identity]:
    return [tuple(point.attributes.items()) for every in points.values() for point in every]


@settings(max_examples=300, deadline=None)
@given(
    cycles=st.lists(st.tuples(CHANGES, st.integers(0, 2 * NAMES + 2), st.booleans()), max_size=12),
    directions=st.booleans(),
)
def test_series_and_overflow_gain_what_came_in(
    cycles: list[tuple[dict[int, Change], int, bool]], *, directions: bool
) -> None:
    """The budget changes from cycle to cycle, and another process may take over at any time."""
    fold, receiver = Fold(), Receiver()
    sources = [Source(number, directions=directions) for number in range(2 * NAMES)]
    came_in = 0
    ways = 2 if directions else 1
    for number, (changes, sets, hand_over) in enumerate(cycles, start=1):
        now_ns = START + number * INTERVAL
        for which, change in changes.items():
            sources[which].change(change, now_ns - INTERVAL)
        present = [source for source in sources if source.present]
        came_in += sum(source.told() for source in present)
        points = {
            metric: [Point(source.attributes, source.value * factor, source.start_ns) for source in present]
            for factor, metric in enumerate(METRICS, start=1)
        }
        result = fold.apply(points, sets, now_ns)
        receiver.take(result, now_ns)
        assert receiver.total == {metric: came_in * factor for factor, metric in enumerate(METRICS, start=1)}
        told = identities(result)
        assert len(told) == len(METRICS) * len(set(told))
        assert len(set(told)) <= max(sets, len(fold) // len(METRICS)), (
            "the overflow alone may be more than there is room"
        )
        assert len(fold) <= ways * len(METRICS)
        own = [identity for identity in set(told) if identity[0] not in OVERFLOW.items()]
        assert fold.folded == len(present) - len(own)
        if sets >= len(present) + ways:
            assert fold.folded == 0, "a place that is free is taken"
        if hand_over:
            state = fold.state()
            fold = Fold()
            fold.restore(state)


@settings(max_examples=100, deadline=None)
@given(cycles=st.lists(st.tuples(st.permutations(range(8)), st.integers(0, 8), st.integers(0, 9)), max_size=8))
def test_gauges_are_never_added_up(cycles: list[tuple[list[int], int, int]]) -> None:
    fold = Fold()
    before: set[str] = set()
    for names, count, sets in cycles:
        points = {"netmon.coverage": [Point({"network.interface.name": f"{n}"}, n / 7, START) for n in names[:count]]}
        result = fold.apply(points, sets, START)["netmon.coverage"]
        assert len(result) == min(count, sets)
        told = {str(point.attributes["network.interface.name"]): point.value for point in result}
        assert all(value == int(name) / 7 for name, value in told.items())
        there = before & {f"{n}" for n in names[:count]}
        assert len(told.keys() & there) == min(len(there), sets), "who has a series keeps it"
        assert (len(fold), fold.folded) == (0, max(0, count - sets))
        before = set(told)

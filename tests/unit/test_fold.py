"""A family of sets that has outgrown its share of the series: who stays, what is added up, and since when it counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from otel_netmon.otel.attributes import Value
from otel_netmon.otel.fold import GONE_KEPT, Fold
from otel_netmon.otel.points import Point

START = 1_700_000_000_000_000_000
INTERVAL = 10_000_000_000
IO, PACKETS = "netmon.protocol.io", "netmon.protocol.packets"


def at(cycle: int) -> int:
    return START + cycle * INTERVAL


def point(name: str, value: int, start_ns: int = START, way: str = "receive") -> Point:
    return Point({"network.interface.name": name, "network.io.direction": way}, value, start_ns)


def told(points: Mapping[str, Sequence[Point]], metric: str = IO) -> dict[tuple[Value, Value], tuple[float, int]]:
    """Values and starts by name ("" for the overflow) and direction."""
    found = {
        (each.attributes.get("network.interface.name", ""), each.attributes.get("network.io.direction", "")): (
            each.value,
            each.start_time_unix_nano - START,
        )
        for each in points[metric]
    }
    assert len(found) == len(points[metric])
    assert all(
        ("otel.metric.overflow" in each.attributes) == ("network.interface.name" not in each.attributes)
        for each in points[metric]
    )
    return found


def test_while_there_is_room_points_pass_as_they_are() -> None:
    fold = Fold()
    points = {IO: [point("a", 1), point("b", 2)], PACKETS: [point("a", 3), point("b", 4)]}
    result = fold.apply(points, 2, at(1))
    assert {metric: list(each) for metric, each in result.items()} == points
    assert all(result[metric][i] is points[metric][i] for metric in points for i in (0, 1))
    assert (len(fold), fold.folded) == (0, 0)
    assert fold.apply({}, 0, at(2)) == {}


def test_the_first_stay_and_the_rest_is_one_sum_a_direction() -> None:
    fold = Fold()
    fold.apply({IO: [point("a", 1), point("b", 2)]}, 4, at(1))
    every = [point("c", 100, way="transmit"), point("d", 10), point("b", 5), point("a", 7), point("e", 1000)]
    assert told(fold.apply({IO: every}, 4, at(2))) == {
        ("b", "receive"): (5, 0),
        ("a", "receive"): (7, 0),
        ("", "receive"): (1010, 0),
        ("", "transmit"): (100, 0),
    }
    assert (len(fold), fold.folded) == (2, 3)


def test_who_loses_its_place_is_added_up_from_what_was_told() -> None:
    fold = Fold()
    fold.apply({IO: [point("a", 10), point("b", 20)]}, 2, at(1))
    assert told(fold.apply({IO: [point("a", 11), point("b", 23)]}, 1, at(2))) == {("", "receive"): (4, 0)}
    assert told(fold.apply({IO: [point("a", 12), point("b", 24)]}, 1, at(3))) == {("", "receive"): (6, 0)}


def test_a_place_that_is_free_is_taken_by_one_that_counts_anew() -> None:
    fold = Fold()
    fold.apply({IO: [point("a", 10), point("b", 20), point("c", 30)]}, 2, at(1))
    kept = fold.apply({IO: [point("b", 25), point("c", 36)]}, 2, at(2))
    assert told(kept) == {("b", "receive"): (5, INTERVAL), ("", "receive"): (56, 0)}
    both = fold.apply({IO: [point("b", 26), point("c", 37)]}, 3, at(3))
    assert told(both) == {
        ("b", "receive"): (6, INTERVAL),
        ("c", "receive"): (1, 2 * INTERVAL),
        ("", "receive"): (56, 0),
    }
    again = fold.apply({IO: [point("b", 27), point("c", 2)]}, 3, at(4))
    assert told(again)["c", "receive"] == (2, 3 * INTERVAL), "it began anew after the reading before"


def test_one_that_comes_back_is_not_counted_twice() -> None:
    fold = Fold()
    fold.apply({IO: [point("a", 10), point("b", 20)]}, 1, at(1))
    fold.apply({IO: [point("a", 10)]}, 0, at(2))
    fold.apply({IO: []}, 0, at(3))
    assert told(fold.apply({IO: [point("b", 23), point("a", 10)]}, 0, at(4))) == {("", "receive"): (33, 0)}
    anew = fold.apply({IO: [point("b", 23), point("a", 50, at(4))]}, 0, at(5))
    assert told(anew) == {("", "receive"): (83, 0)}, "with a later start it is another one"


def test_of_the_last_ones_that_are_gone_it_is_known_what_was_told() -> None:
    fold = Fold()
    many = [point(f"{n}", 1) for n in range(GONE_KEPT + 2)]
    fold.apply({IO: many[:2]}, 0, at(1))
    fold.apply({IO: many[2:]}, 0, at(2))
    fold.apply({IO: []}, 0, at(3))
    assert told(fold.apply({IO: many[2:]}, 0, at(4)))["", "receive"] == (len(many), 0)
    assert told(fold.apply({IO: many[:2]}, 0, at(5)))["", "receive"] == (len(many) + 2, 0), "these are forgotten"


def test_the_overflow_keeps_its_start() -> None:
    fold = Fold()
    later = fold.apply({IO: [point("a", 1, at(5)), point("b", 2, at(4))]}, 1, at(6))
    assert told(later) == {("", "receive"): (3, 4 * INTERVAL)}
    earlier = fold.apply({IO: [point("c", 5, at(0)), point("d", 5, at(6), "transmit")]}, 1, at(7))
    assert told(earlier) == {("", "receive"): (8, 4 * INTERVAL), ("", "transmit"): (5, 6 * INTERVAL)}


def test_room_is_kept_for_overflow_points_that_nothing_is_added_to_any_more() -> None:
    fold = Fold()
    fold.apply({IO: [point("a", 1), point("b", 1, way="transmit"), point("c", 1, way="transmit")]}, 1, at(1))
    result = fold.apply({IO: [point("x", 1), point("y", 1)]}, 3, at(2))
    assert len(result[IO]) == 3
    assert told(result)["", "transmit"] == (2, 0)


def test_a_family_without_directions_has_one_overflow_point() -> None:
    fold = Fold()
    points = [Point({"network.interface.name": name}, 2, START) for name in "abc"]
    assert told(fold.apply({IO: points}, 2, at(1))) == {("a", ""): (2, 0), ("", ""): (4, 0)}


@pytest.mark.parametrize("sets", [0, 1, 2])
def test_gauges_without_a_place_are_left_out(sets: int) -> None:
    fold = Fold()
    points = {"netmon.coverage": [point(name, 1) for name in "abc"]}
    assert list(told(fold.apply(points, sets, at(1)), "netmon.coverage")) == [(n, "receive") for n in "abc"[:sets]]
    assert (len(fold), fold.folded) == (0, 3 - sets)
    assert len(fold.apply(points, 3, at(2))["netmon.coverage"]) == 3
    assert fold.folded == 0


def test_another_process_goes_on() -> None:
    """Also where not all text is Unicode, and while nothing is folded yet."""
    first, other, third = Fold(), Fold(), Fold()
    first.apply({IO: [point("a\udcff", 1), point("b\n", 2**53 + 1)]}, 2, at(1))
    other.restore(first.state())
    points = {IO: [point("c", 8), point("b\n", 2**53 + 3), point("a\udcff", 7)]}
    wanted = first.apply(points, 2, at(2))
    assert told(wanted) == {("a\udcff", "receive"): (7, 0), ("", "receive"): (10, 0)}
    assert other.apply(points, 2, at(2)) == wanted
    third.restore(other.state())
    assert third.apply(points, 3, at(3)) == first.apply(points, 3, at(3))
    assert third.state() == first.state()

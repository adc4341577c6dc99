"""netmon.coverage: the share of the kernel's own counters that was seen."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from otel_netmon.analysis.coverage import Coverage, Sighting

SIDE = (0, 2, 1)


def test_there_is_no_share_before_there_was_traffic() -> None:
    coverage = Coverage()
    assert coverage.update(SIDE, physical=False, now=Sighting(5, 5, 5)) is None
    assert coverage.update(SIDE, physical=False, now=Sighting(5, 5, 5)) is None
    assert coverage.update(SIDE, physical=False, now=Sighting(6, 6, 6)) == 1.0


def test_the_share_is_that_of_the_last_interval_with_traffic() -> None:
    coverage = Coverage()
    coverage.update(SIDE, physical=False, now=Sighting(0, 0, 1000))
    assert coverage.update(SIDE, physical=False, now=Sighting(50, 50, 1100)) == 0.5
    assert coverage.update(SIDE, physical=False, now=Sighting(50, 50, 1100)) == 0.5
    assert coverage.update(SIDE, physical=False, now=Sighting(150, 150, 1200)) == 1.0


@pytest.mark.parametrize(
    ("physical", "counter", "share"),
    [
        (False, 100, 1.0),  # a virtual interface counts a super-packet once
        (False, 300, 100 / 300),
        (True, 300, 1.0),  # a driver that counts segments
        (True, 100, 1.0),  # one that does not
        (True, 150, 100 / 150),
    ],
)
def test_super_packets_are_compared_as_the_interface_counts(*, physical: bool, counter: int, share: float) -> None:
    coverage = Coverage()
    coverage.update(SIDE, physical=physical, now=Sighting(0, 0, 0))
    assert coverage.update(SIDE, physical=physical, now=Sighting(100, 300, counter)) == pytest.approx(share)


def test_a_counter_that_began_anew_gives_no_share_of_its_own() -> None:
    coverage = Coverage()
    coverage.update(SIDE, physical=False, now=Sighting(0, 0, 100))
    coverage.update(SIDE, physical=False, now=Sighting(40, 40, 180))
    assert coverage.update(SIDE, physical=False, now=Sighting(50, 50, 10)) == 0.5
    assert coverage.update(SIDE, physical=False, now=Sighting(60, 60, 20)) == 1.0


def test_sides_are_told_apart_and_forgotten_by_interface() -> None:
    coverage = Coverage()
    sides = [(0, 2, 0), (0, 2, 1), (0, 3, 0), (1, 2, 0)]
    for number, side in enumerate(sides):
        coverage.update(side, physical=False, now=Sighting(0, 0, 0))
        assert coverage.update(side, physical=False, now=Sighting(number, number, 4)) == number / 4
    coverage.forget(0, 2)
    again = [coverage.update(side, physical=False, now=Sighting(100, 100, 4)) for side in sides]
    assert again == [None, None, 0.5, 0.75]


@given(steps=st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=1, max_size=20))
def test_a_hook_that_sees_all_has_a_share_of_1(steps: list[tuple[int, int]]) -> None:
    coverage = Coverage()
    handed = wire = 0
    coverage.update(SIDE, physical=True, now=Sighting(7, 7, 0))
    for packets, more in steps:
        handed, wire = handed + packets, wire + packets + more
        share = coverage.update(SIDE, physical=True, now=Sighting(7 + handed, 7 + wire, wire))
        assert share == (None if wire == 0 else 1.0)

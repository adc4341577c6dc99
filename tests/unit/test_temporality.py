"""What counts as gained, as begun again and as ended."""

from __future__ import annotations

import numpy as np
import pytest

from otel_netmon.otel.attributes import AttributeSet, Tag, encode
from otel_netmon.otel.points import Exemplar, HistogramSeries, NumberSeries
from otel_netmon.otel.temporality import (
    Temporality,
    ended,
    histogram_differences,
    is_delta,
    match,
    number_differences,
)
from support.distributions import histogram_series

BEFORE, NOW = 2_000, 3_000
BOUNDS = [1.0, 8.0]


def named(*names: str) -> list[AttributeSet]:
    """New objects each time: series are told by their attributes, not by the objects."""
    return [AttributeSet(encode({"name": name}, Tag.NUMBER_DATA_POINT)) for name in names]


def counters(values: dict[str, int | float], starts: dict[str, int], kind: type = np.int64) -> NumberSeries:
    return NumberSeries(
        named(*values), np.array([starts[name] for name in values], np.uint64), np.array(list(values.values()), kind)
    )


def gained(before: NumberSeries, now: NumberSeries, time: int = NOW) -> list[tuple[int, int | float]]:
    found = number_differences(now, before, match(now.attributes, before.attributes), time, BEFORE)
    assert found.values.dtype.kind in "if"
    return list(zip(found.start_time_unix_nano.tolist(), found.values.tolist(), strict=True))


def distribution(
    values: list[float], start: int = 1_000, scale: int = 0, exemplars: tuple[Exemplar, ...] = ()
) -> HistogramSeries:
    return histogram_series(named("a"), [start], [values], [scale], BOUNDS, [exemplars])


def difference(before: HistogramSeries, now: HistogramSeries) -> HistogramSeries:
    return histogram_differences(now, before, match(now.attributes, before.attributes), NOW, BEFORE)


@pytest.mark.parametrize(
    ("temporality", "kinds"),
    [("cumulative", set()), ("lowmemory", {"histogram"}), ("delta", {"counter", "histogram"})],
)
def test_preferences_of_the_specification(temporality: Temporality, kinds: set[str]) -> None:
    every = {"counter", "updowncounter", "gauge", "histogram"}
    assert {kind for kind in every if is_delta(kind, temporality)} == kinds


def test_series_are_found_again_in_any_order() -> None:
    now, before = named("c", "new", "a"), named("a", "b", "c")
    index = match(now, before)
    assert index.tolist() == [2, -1, 0]
    assert ended(index, len(before)).tolist() == [1]
    assert match(before, before).tolist() == [0, 1, 2]
    assert match(now, ()).tolist() == [-1, -1, -1]
    assert ended(match((), before), len(before)).tolist() == [0, 1, 2]


def test_series_of_another_resource_are_others() -> None:
    def of(*resources: str) -> list[AttributeSet]:
        return [AttributeSet(each.encoded, encode({"r": r}, Tag.RESOURCE)) for each in named("a") for r in resources]

    now, before = [*named("a"), *of("x", "y")], [*of("y", "z"), *named("a")]
    assert match(now, before).tolist() == [2, -1, 0]
    assert ended(match(now, before), len(before)).tolist() == [1]


@pytest.mark.parametrize("kind", [np.int64, np.uint64])
def test_a_counter_tells_what_it_gained(kind: type) -> None:
    starts = {"goes on": 1_000, "new": 2_500, "old but new here": 500}
    before = counters({"goes on": 2**62}, starts)
    now = counters({"new": 7, "goes on": 2**62 + 5, "old but new here": 9}, starts, kind)
    assert gained(before, now) == [(2_500, 7), (BEFORE, 5), (500, 9)]


def test_a_counter_that_began_again_is_whole_since_its_start() -> None:
    before = counters({"a": 100, "b": 100}, {"a": 1_000, "b": 1_000})
    now = counters({"a": 3, "b": 300}, {"a": 2_700, "b": 2_800})
    assert gained(before, now) == [(2_700, 3), (2_800, 300)]


def test_a_counter_that_fell_without_a_new_start_is_whole_since_before() -> None:
    before = counters({"a": 100}, {"a": 1_000})
    assert gained(before, counters({"a": 30}, {"a": 1_000})) == [(BEFORE, 30)]


def test_seconds_are_subtracted_as_they_are() -> None:
    before = counters({"a": 0.25, "b": 1.0}, {"a": 1, "b": 1}, np.float64)
    now = counters({"a": 0.75, "b": 0.5}, {"a": 1, "b": 1}, np.float64)
    assert gained(before, now) == [(BEFORE, 0.5), (BEFORE, 0.5)]


def test_no_start_is_after_the_time_of_a_clock_that_was_set_back() -> None:
    before = counters({"a": 1}, {"a": 1_000})
    now = counters({"a": 3, "b": 1}, {"a": 1_000, "b": 1_900})
    assert gained(before, now, time=1_500) == [(1_500, 2), (1_500, 1)]


def test_a_distribution_tells_what_it_gained_at_the_coarser_scale() -> None:
    found = difference(distribution([2.0, 4.0], scale=3), distribution([2.0, 4.0, 4.0, 0.0, 64.0], scale=-1))
    wanted = distribution([4.0, 0.0, 64.0], scale=-1)
    assert (found.count.tolist(), found.sum.tolist(), found.zero_count.tolist()) == ([3], [68.0], [1])
    assert found.bucket_counts.tolist() == wanted.bucket_counts.tolist() == [[1, 1, 1]]
    assert found.scale.tolist() == [-1]
    assert used(found) == used(wanted)
    assert found.start_time_unix_nano.tolist() == [BEFORE]
    assert (found.minimum.tolist(), found.maximum.tolist()) == ([0.0], [64.0])


def used(series: HistogramSeries) -> dict[int, int]:
    return {int(series.offset[0]) + at: int(n) for at, n in enumerate(series.buckets[0]) if n}


def test_the_scale_of_zeros_alone_makes_nothing_coarser() -> None:
    found = difference(distribution([0.0], scale=-4), distribution([0.0, 2.0], scale=3))
    assert found.scale.tolist() == [3]
    assert used(found) == used(distribution([2.0], scale=3))


def test_minimum_and_maximum_that_did_not_move_are_not_known() -> None:
    found = difference(distribution([1.0, 8.0]), distribution([1.0, 8.0, 2.0]))
    assert np.isnan(found.minimum).tolist() == np.isnan(found.maximum).tolist() == [True]
    found = difference(distribution([]), distribution([2.0]))
    assert (found.minimum.tolist(), found.maximum.tolist()) == ([2.0], [2.0])


def test_a_distribution_that_gained_nothing_is_left_out() -> None:
    assert len(difference(distribution([1.0]), distribution([1.0]))) == 0
    assert len(difference(distribution([1.0], start=5), distribution([], start=6))) == 0


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ([1.0, 2.0], [4.0]),  # less of them
        ([1.0, 1.0], [4.0, 4.0, 4.0]),  # more, but the buckets of before are gone
        ([0.0, 0.0], [4.0, 4.0, 4.0]),  # more, but the zeros of before are gone
        ([2.0], [4.0, 4.0]),  # more, and in the same explicit bucket, but below all exponential ones of now
        ([8.0], [4.0, 4.0]),  # above them
    ],
)
def test_a_distribution_that_fell_without_a_new_start_is_whole_since_before(
    before: list[float], now: list[float]
) -> None:
    found, whole = difference(distribution(before), distribution(now)), distribution(now)
    assert found.start_time_unix_nano.tolist() == [BEFORE]
    assert (found.count.tolist(), found.sum.tolist()) == (whole.count.tolist(), whole.sum.tolist())
    assert found.bucket_counts.tolist() == whole.bucket_counts.tolist()
    assert used(found) == used(whole)
    assert (found.minimum.tolist(), found.maximum.tolist()) == ([min(now)], [max(now)])


def test_a_distribution_with_a_new_start_or_other_bounds_is_whole() -> None:
    found = difference(distribution([1.0]), distribution([1.0, 2.0], start=2_500))
    assert (found.start_time_unix_nano.tolist(), found.count.tolist()) == ([2_500], [2])
    other = histogram_series(named("a"), [1_000], [[1.0]], [0], [1.0, 2.0, 3.0])
    found = difference(other, distribution([1.0, 2.0]))
    assert (found.start_time_unix_nano.tolist(), found.count.tolist()) == ([1_000], [2])
    assert found.bucket_counts.tolist() == [[1, 1, 0]]


def test_exemplars_of_before_are_left_out_of_what_was_gained() -> None:
    old, new = (Exemplar(1.0, time, bytes(16), bytes(8)) for time in (BEFORE, BEFORE + 1))
    now = distribution([1.0, 1.0], exemplars=(old, new))
    assert difference(distribution([1.0]), now).exemplars == [[new]]
    assert difference(distribution([1.0], start=1), now).exemplars == [[old, new]]

"""The histogram store: what it costs, what it refuses, where its counters widen, exemplars."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from otel_netmon.analysis.exemplars import ExemplarReading, ExemplarTable
from otel_netmon.analysis.exponential import bucket_index
from otel_netmon.analysis.histograms import HistogramColumns, HistogramReading

BOUNDS = [0.01, 0.1, 1.0]


def slots(*numbers: int) -> npt.NDArray[np.intp]:
    return np.array(numbers, np.intp)


def values(*numbers: float) -> npt.NDArray[np.float64]:
    return np.array(numbers, np.float64)


def spread(store: HistogramColumns, which: npt.NDArray[np.intp], times: int = 1) -> None:
    """Gives each slot, so many times, two values that differ."""
    store.add(np.tile(which, 2 * times), np.repeat(values(0.5, 2.0), len(which) * times))


def state_of(store: HistogramColumns) -> dict[str, Any]:
    return dict(store.state())


def offer(store: HistogramColumns, where: list[int], what: list[float], when: list[int]) -> None:
    """Offers exemplars whose ids are all bytes of their time."""
    times = np.array(when, np.uint64)
    ids = np.repeat(times.astype(np.uint8)[:, None], 16, axis=1)
    store.offer_exemplars(slots(*where), values(*what), times, ids, ids[:, :8])


def kept(found: ExemplarReading) -> list[tuple[int, float, int]]:
    return list(zip(found.series.tolist(), found.value.tolist(), found.time_unix_nano.tolist(), strict=True))


def test_a_series_with_one_value_needs_no_counters() -> None:
    store = HistogramColumns(10_000, BOUNDS)
    store.add(np.arange(10_000), np.full(10_000, 0.25))
    assert store.nbytes == 10_000 * (48 + 1), "a slot, and a mark while adding"
    reading = store.read(slots(7, 3))
    assert reading.count.tolist() == [1, 1]
    assert reading.scale.tolist() == [20, 20]
    assert reading.offset.tolist() == [(-2 << 20) - 1] * 2
    assert reading.buckets.tolist() == [[1], [1]]
    assert reading.bucket_counts.tolist() == [[0, 0, 1, 0]] * 2


@pytest.mark.parametrize(("count", "size"), [(2, 1), (254, 1), (256, 2), (65_534, 2), (65_536, 4)])
def test_counters_are_as_wide_as_the_count_of_a_series(count: int, size: int) -> None:
    store = HistogramColumns(1, BOUNDS)
    base = store.nbytes
    spread(store, slots(0), count // 2)
    store.restore(store.state())  # leaves out rows that are free
    assert store.nbytes - base == size * (160 + 1 + 4)
    reading = store.read(slots(0))
    assert reading.count.tolist() == [count]
    assert reading.bucket_counts.tolist() == [[0, 0, count // 2, count // 2]]
    assert reading.buckets.sum() == count


@pytest.mark.parametrize("limit", [1 << 8, 1 << 16, 1 << 32])
def test_counters_widen_when_their_type_is_full(limit: int) -> None:
    store = HistogramColumns(3, BOUNDS)
    spread(store, slots(0, 1, 2))
    store.add(slots(1), values(0.0))
    state = state_of(store)
    # As if slot 1 had got 0.5 so often that it is one short of the limit; so much cannot be added in a test.
    tier, kind = {1 << 8: (0, np.uint8), 1 << 16: (1, np.uint16), 1 << 32: (2, np.uint32)}[limit]
    table = state["counters_1"]
    full = table[state["row"][1]].astype(kind)
    full[(int(bucket_index(values(0.5))[0]) >> int(state["shift"][1])) % 160] = limit - 1 - 2
    full[160 + 1 + 2] = limit - 1 - 2
    state["count"][1] = limit - 1
    state["counters_1"] = np.stack([table[state["row"][0]], table[state["row"][2]]])
    state[f"counters_{full.itemsize}"] = np.concatenate([state[f"counters_{full.itemsize}"], full[None, :]])
    state["row"] = np.array([0, 2 if tier == 0 else 0, 1], np.int32)
    state["tier"] = np.array([0, tier, 0], np.uint8)
    store = HistogramColumns(0, BOUNDS)
    store.restore(state)
    store.add(slots(1, 0), values(0.5, 0.5))
    store.add(slots(1), values(0.5))
    reading = store.read(slots(0, 1, 2))
    assert reading.count.tolist() == [3, limit + 1, 2]
    assert reading.bucket_counts.tolist() == [[0, 0, 2, 1], [1, 0, limit - 1, 1], [0, 0, 1, 1]]
    assert reading.zero_count.tolist() == [0, 1, 0]
    assert reading.buckets.sum(axis=1).tolist() == [3, limit, 2]
    assert sorted(set(reading.buckets[1].tolist())) == [0, 1, limit - 1]


def test_many_series_in_every_tier_at_once() -> None:
    store = HistogramColumns(900, BOUNDS)
    spread(store, np.arange(900))
    spread(store, np.arange(300, 900), 150)
    spread(store, np.arange(880, 900), 40_000)
    reading = store.read(np.arange(900))
    expected = [2] * 300 + [302] * 580 + [80_302] * 20
    assert reading.count.tolist() == expected
    assert reading.bucket_counts[:, 2].tolist() == [count // 2 for count in expected]
    assert (reading.buckets.sum(axis=1) == reading.count).all()


def test_memory_of_series_that_left_is_given_back() -> None:
    store = HistogramColumns(10_000, BOUNDS)
    empty = store.nbytes
    spread(store, np.arange(10_000))
    assert store.nbytes == empty + 10_000 * 165
    store.reset(np.arange(5, 10_000))
    assert store.nbytes == empty + 5 * 165
    spread(store, slots(6))
    assert store.read(slots(0, 4, 5, 6)).count.tolist() == [2, 2, 0, 2]


def test_a_store_made_smaller_under_way_keeps_the_rest() -> None:
    store = HistogramColumns(1000, BOUNDS)
    spread(store, np.arange(1000))
    store.add(np.arange(0, 1000, 2), np.full(500, 5.0))
    store.reset(np.arange(1, 1000, 2))
    store.reset(slots(0))
    spread(store, slots(1, 3, 5))
    reading = store.read(np.arange(1000))
    assert reading.count.tolist() == [0, 2, 3, 2, 3, 2] + [3, 0] * 497
    assert reading.maximum.tolist() == [0.0, 2.0, 5.0, 2.0, 5.0, 2.0] + [5.0, 0.0] * 497
    assert (reading.bucket_counts.sum(axis=1) == reading.count).all()


def test_a_slot_may_be_named_twice_when_it_is_emptied() -> None:
    store = HistogramColumns(5, BOUNDS)
    spread(store, slots(0, 1, 2))
    store.reset(slots(0, 0, 3, 0))
    spread(store, slots(3, 4))
    assert store.read(np.arange(5)).bucket_counts.sum(axis=1).tolist() == [0, 2, 2, 2, 2]


def test_what_cannot_be_is_refused_and_counted() -> None:
    store = HistogramColumns(1, BOUNDS)
    store.add(slots(0, 0, 0, 0, 0, 0), values(-1.0, np.nan, np.inf, 0.5, -np.inf, -5e-324))
    assert (store.rejected_negative, store.rejected_not_finite) == (2, 3)
    assert store.read(slots(0)).count.tolist() == [1]
    assert store.read(slots(0)).sum.tolist() == [0.5]
    store.add(slots(0), values(np.nan))
    assert (store.rejected_negative, store.rejected_not_finite) == (2, 4)
    store.add(slots(), values())
    assert store.read(slots(0)).count.tolist() == [1]


def test_zeros_alone_and_zeros_with_others() -> None:
    store = HistogramColumns(3, BOUNDS)
    store.add(slots(0, 0, 1, 1, 2), values(0.0, -0.0, 0.0, 4.0, 4.0))
    store.add(slots(2), values(0.0))
    reading = store.read(slots(0, 1, 2))
    assert reading.zero_count.tolist() == [2, 1, 1]
    assert reading.scale.tolist() == [0, 20, 20]
    assert reading.offset.tolist() == [0, (2 << 20) - 1, (2 << 20) - 1]
    assert reading.buckets.tolist() == [[0], [1], [1]]
    assert reading.bucket_counts.tolist() == [[2, 0, 0, 0], [1, 0, 0, 1], [1, 0, 0, 1]]
    assert reading.minimum.tolist() == [0.0, 0.0, 0.0]
    only_zeros = store.read(slots(0))
    assert only_zeros.buckets.tolist() == [[0]]


def test_a_bound_belongs_to_the_bucket_below_it() -> None:
    store = HistogramColumns(1, BOUNDS)
    store.add(np.zeros(7, np.intp), values(0.01, np.nextafter(0.01, 1), 0.1, 1.0, np.nextafter(1.0, 2), 1e300, 5e-324))
    assert store.read(slots(0)).bucket_counts.tolist() == [[2, 2, 1, 2]]


@pytest.mark.parametrize(
    ("value", "index"),
    [
        (1.0, -1),
        (2.0, (1 << 20) - 1),
        (0.5, (-1 << 20) - 1),
        (5e-324, (-1022 << 20) - 1),
        (2.2250738585072014e-308, (-1022 << 20) - 1),
        (1.7976931348623157e308, (1024 << 20) - 1),
    ],
)
def test_index(value: float, index: int) -> None:
    assert bucket_index(values(value)).tolist() == [index]


def test_the_whole_range_of_doubles_in_one_series() -> None:
    store = HistogramColumns(1, BOUNDS)
    everything = np.ldexp(1.0, np.arange(-1074, 1024))
    store.add(np.zeros(len(everything), np.intp), everything)
    reading = store.read(slots(0))
    assert reading.scale.tolist() == [-4], "2^16 a bucket: 129 of them"
    assert reading.offset.tolist() == [-64]
    assert reading.buckets.sum() == len(everything)
    # Bucket -64 ends at 2^-1008 and holds the subnormal ones, then 16 powers each, the last bucket is cut off.
    assert reading.buckets[0].tolist() == [1074 - 1008 + 1] + [16] * 126 + [15]


def test_a_sum_may_be_infinite() -> None:
    store = HistogramColumns(1, BOUNDS)
    store.add(slots(0, 0), values(1.7e308, 1.7e308))
    assert store.read(slots(0)).sum.tolist() == [np.inf]


def test_reading_nothing() -> None:
    reading = HistogramColumns(2, []).read(slots())
    assert reading.buckets.shape == (0, 1)
    assert reading.bucket_counts.shape == (0, 1)
    unused = HistogramColumns(2, []).read(slots(1))
    assert unused.minimum.tolist() == unused.maximum.tolist() == [0.0]
    assert unused.bucket_counts.tolist() == [[0]]


def test_a_reading_does_not_change_with_the_store() -> None:
    store = HistogramColumns(1, BOUNDS)
    spread(store, slots(0))
    reading, again = store.read(slots(0)), store.read(slots(0))
    spread(store, slots(0), 200)
    store.reset(slots(0))
    for name in HistogramReading.__slots__:
        if name != "exemplars":
            assert np.array_equal(getattr(reading, name), getattr(again, name))


@pytest.mark.parametrize("bounds", [[1.0, 1.0], [2.0, 1.0], [1.0, np.inf], [np.nan]])
def test_bounds_ascend(bounds: list[float]) -> None:
    with pytest.raises(ValueError, match="finite and ascending"):
        HistogramColumns(1, bounds)


@pytest.mark.parametrize("width", [1, 16385])
def test_the_number_of_buckets_has_limits(width: int) -> None:
    with pytest.raises(ValueError, match="max_buckets"):
        HistogramColumns(1, BOUNDS, width)


def test_a_slot_out_of_range_changes_nothing() -> None:
    store = HistogramColumns(2, BOUNDS)
    with pytest.raises(IndexError):
        store.add(slots(0, 2), values(1.0, 1.0))
    assert store.read(slots(0)).count.tolist() == [0]


def test_growing_keeps_and_never_shrinks() -> None:
    store = HistogramColumns(1, BOUNDS)
    spread(store, slots(0))
    store.grow(4)
    store.grow(2)
    spread(store, slots(3))
    assert len(store) == 4
    assert store.read(slots(0, 1, 2, 3)).count.tolist() == [2, 0, 0, 2]


def test_a_state_of_another_kind_is_refused() -> None:
    store = HistogramColumns(2, BOUNDS)
    spread(store, slots(0))
    with pytest.raises(ValueError, match="the state is of bounds"):
        HistogramColumns(2, [0.5]).restore(store.state())
    with pytest.raises(ValueError, match="160 buckets, not of"):
        HistogramColumns(2, BOUNDS, 20).restore(store.state())
    for broken in (
        {"row": np.array([7, -1], np.int32)},
        {"row": np.array([0, 0], np.int32)},
        {"tier": np.array([4, 0], np.uint8)},
        {"counters_1": np.zeros((1, 3), np.uint8)},
    ):
        with pytest.raises(ValueError, match="do not fit together"):
            HistogramColumns(2, BOUNDS).restore({**state_of(store), **broken})


def test_a_state_carries_everything() -> None:
    store = HistogramColumns(2, BOUNDS)
    spread(store, slots(1))
    store.add(slots(0, 0), values(-1.0, np.nan))
    offer(store, [1], [0.5], [9])
    other = HistogramColumns(50, BOUNDS)
    spread(other, np.arange(50))
    other.restore(store.state())
    assert len(other) == 2
    assert other.read(slots(0, 1)).count.tolist() == [0, 2]
    assert (other.rejected_negative, other.rejected_not_finite) == (1, 1)
    assert kept(other.read(slots(1)).exemplars) == [(0, 0.5, 9)]


def test_the_newest_exemplar_of_each_bucket() -> None:
    store = HistogramColumns(3, BOUNDS)
    offer(store, [2, 2, 0, 2], [0.5, 0.6, 0.02, 0.005], [10, 9, 8, 7])
    assert kept(store.read(slots(2, 1, 0)).exemplars) == [(0, 0.005, 7), (0, 0.5, 10), (2, 0.02, 8)]
    offer(store, [2, 2, 0], [0.7, 0.8, np.nan], [11, 11, 12])
    found = store.read(slots(2)).exemplars
    assert kept(found) == [(0, 0.005, 7), (0, 0.8, 11)], "among equally old ones the last one"
    assert found.trace_id.tolist() == [[7] * 16, [11] * 16]
    assert found.span_id.tolist() == [[7] * 8, [11] * 8]
    store.reset(slots(2))
    assert kept(store.read(slots(0, 2)).exemplars) == [(0, 0.02, 8)]
    assert kept(store.read(slots()).exemplars) == []


def test_exemplars_have_a_limit() -> None:
    store = HistogramColumns(100, BOUNDS, max_exemplars=10)
    before = store.nbytes
    for start in range(0, 100, 20):
        offer(store, list(range(start, start + 20)), [0.5] * 20, list(range(start, start + 20)))
    assert store.nbytes - before == 10 * 48
    found = store.read(np.arange(100)).exemplars
    assert found.time_unix_nano.tolist() == list(range(90, 100))
    assert found.series.tolist() == list(range(90, 100))


def test_no_exemplars_if_none_are_wanted() -> None:
    table = ExemplarTable(0)
    assert kept(table.read(slots(0))) == []
    store = HistogramColumns(1, BOUNDS, max_exemplars=0)
    offer(store, [0], [0.5], [1])
    assert kept(store.read(slots(0)).exemplars) == []

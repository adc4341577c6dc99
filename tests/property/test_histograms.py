"""The histogram store against the OpenTelemetry SDK, against exact arithmetic, and against itself."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings, strategies as st
from opentelemetry.metrics import Histogram
from opentelemetry.sdk.metrics import Histogram as HistogramKind, MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, ExponentialBucketHistogramAggregation

from otel_netmon.analysis.exponential import bucket_index, coarser, shift_for
from otel_netmon.analysis.histograms import HistogramColumns, HistogramReading

BOUNDS = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0]
SLOTS = 4


def position(value: float) -> Decimal:
    """The place of a value on the scale of bucket indices at scale 20, to 20 decimals."""
    with localcontext() as context:
        context.prec = 60
        return round(Decimal(value).ln() / Decimal(2).ln() * (1 << 20), 20)


def near_a_boundary(value: float) -> bool:
    """Whether the logarithm of the whole value, in float64 as the SDK takes it, cannot tell the bucket; powers of two are exact."""
    if value == 0 or math.frexp(value)[0] == 0.5 or value < 2.0**-1022:
        return False
    place = position(value)
    return abs(place - round(place)) < Decimal(2) ** -20


POSITIVE = st.one_of(
    st.floats(min_value=5e-324, max_value=1.7976931348623157e308),
    st.floats(min_value=1e-6, max_value=100.0),
    st.integers(-1074, 1023).map(lambda exponent: math.ldexp(1.0, exponent)),
    st.integers(1, 10**9).map(lambda ns: ns / 1e9),
    st.sampled_from(BOUNDS),
    st.sampled_from([0.001, 0.0010000000000000002, 0.02, 3.0, 5e-324, 2.2250738585072014e-308]),
)
VALUES = st.one_of(POSITIVE, st.just(0.0))
MEASUREMENTS = st.lists(st.tuples(st.integers(0, SLOTS - 1), VALUES), max_size=120)


def fill(store: HistogramColumns, measurements: list[tuple[int, float]], cuts: int = 1) -> HistogramColumns:
    slots = np.array([slot for slot, _ in measurements], np.intp)
    values = np.array([value for _, value in measurements], np.float64)
    for slots_part, values_part in zip(np.array_split(slots, cuts), np.array_split(values, cuts), strict=True):
        store.add(slots_part, values_part)
    return store


def read(store: HistogramColumns) -> HistogramReading:
    return store.read(np.arange(len(store)))


def row(reading: HistogramReading, number: int) -> dict[str, Any]:
    """One series, comparable whatever the width of the reading."""
    buckets = np.trim_zeros(reading.buckets[number], "b").tolist()
    return {
        "count": int(reading.count[number]),
        "sum": float(reading.sum[number]),
        "minimum": float(reading.minimum[number]),
        "maximum": float(reading.maximum[number]),
        "scale": int(reading.scale[number]),
        "offset": int(reading.offset[number]),
        "zero_count": int(reading.zero_count[number]),
        "buckets": buckets,
        "bucket_counts": reading.bucket_counts[number].tolist(),
    }


def rows(store: HistogramColumns) -> list[dict[str, Any]]:
    reading = read(store)
    return [row(reading, number) for number in range(len(store))]


class Oracle:
    """The SDK's two aggregations of the same measurements."""

    def __init__(self, max_buckets: int) -> None:
        self._exponential = InMemoryMetricReader(
            preferred_aggregation={HistogramKind: ExponentialBucketHistogramAggregation(max_size=max_buckets)}
        )
        self._explicit = InMemoryMetricReader(
            preferred_aggregation={HistogramKind: ExplicitBucketHistogramAggregation(BOUNDS)}
        )
        self._provider = MeterProvider([self._exponential, self._explicit], shutdown_on_exit=False)
        self._histogram: Histogram = self._provider.get_meter("oracle").create_histogram("h")

    def add(self, measurements: list[tuple[int, float]]) -> None:
        for slot, value in measurements:
            self._histogram.record(value, {"slot": slot})

    def points(self) -> dict[int, tuple[Any, Any]]:
        both: list[dict[int, Any]] = []
        for reader in (self._exponential, self._explicit):
            data: Any = reader.get_metrics_data()
            metrics = data.resource_metrics[0].scope_metrics[0].metrics if data else []
            both.append({point.attributes["slot"]: point for metric in metrics for point in metric.data.data_points})
        self._provider.shutdown()
        assert both[0].keys() == both[1].keys()
        return {slot: (both[0][slot], both[1][slot]) for slot in both[0]}


@settings(max_examples=150, deadline=None)
@given(
    measurements=st.lists(
        st.tuples(st.integers(0, SLOTS - 1), VALUES.filter(lambda value: not near_a_boundary(value))), max_size=80
    ),
    max_buckets=st.sampled_from([2, 3, 7, 20, 160, 200]),
    cuts=st.integers(1, 5),
)
def test_as_the_sdk_aggregates(measurements: list[tuple[int, float]], max_buckets: int, cuts: int) -> None:
    oracle = Oracle(max_buckets)
    oracle.add(measurements)
    points = oracle.points()
    found = rows(fill(HistogramColumns(SLOTS, BOUNDS, max_buckets), measurements, cuts))
    for slot in range(SLOTS):
        if slot not in points:
            assert found[slot]["count"] == 0
            continue
        exponential, explicit = points[slot]
        counts = list(exponential.positive.bucket_counts)
        while counts and counts[-1] == 0:
            counts.pop()
        assert found[slot] == {
            "count": exponential.count,
            "sum": exponential.sum,
            "minimum": exponential.min,
            "maximum": exponential.max,
            "scale": exponential.scale,
            "offset": exponential.positive.offset,
            "zero_count": exponential.zero_count,
            "buckets": counts,
            "bucket_counts": list(explicit.bucket_counts),
        }


@settings(max_examples=300, deadline=None)
@given(value=POSITIVE)
def test_the_index_is_exact_but_for_the_double_next_to_a_boundary(value: float) -> None:
    index = int(bucket_index(np.array([value]))[0])
    place = position(max(value, 2.0**-1022))
    exact = math.ceil(place) - 1
    assert index == exact or (abs(place - round(place)) < Decimal(2) ** -31 and abs(index - exact) == 1)
    if math.frexp(value)[0] == 0.5 and value >= 2.0**-1022:
        assert index == (int(math.log2(value)) << 20) - 1


@given(exponent=st.integers(-1021, 1022))
def test_neighbours_of_powers_of_two_are_on_their_sides(exponent: int) -> None:
    power = math.ldexp(1.0, exponent)
    below, at, above = bucket_index(np.array([math.nextafter(power, 0), power, math.nextafter(power, math.inf)]))
    assert (below, at, above) == ((exponent << 20) - 1, (exponent << 20) - 1, exponent << 20)


@settings(max_examples=100, deadline=None)
@given(measurements=MEASUREMENTS, cuts=st.integers(1, 9), order=st.randoms(use_true_random=False))
def test_the_order_and_the_calls_do_not_matter(measurements: list[tuple[int, float]], cuts: int, order: Any) -> None:
    at_once = rows(fill(HistogramColumns(SLOTS, BOUNDS), measurements))
    assert rows(fill(HistogramColumns(SLOTS, BOUNDS), measurements, cuts)) == at_once
    shuffled = list(measurements)
    order.shuffle(shuffled)
    for one, other in zip(rows(fill(HistogramColumns(SLOTS, BOUNDS), shuffled, cuts)), at_once, strict=True):
        assert math.isclose(one.pop("sum"), other.pop("sum"), rel_tol=1e-12)
        assert one == other


@settings(max_examples=100, deadline=None)
@given(measurements=MEASUREMENTS)
def test_a_reading_adds_up(measurements: list[tuple[int, float]]) -> None:
    reading = read(fill(HistogramColumns(SLOTS, BOUNDS, 5), measurements))
    assert (reading.bucket_counts.sum(axis=1) == reading.count).all()
    assert (reading.buckets.sum(axis=1) + reading.zero_count == reading.count).all()
    assert reading.buckets.shape[1] <= 5
    assert int(reading.count.sum()) == len(measurements)


STEPS = st.lists(
    st.one_of(
        st.lists(st.tuples(st.integers(0, 11), VALUES), max_size=40),
        st.sets(st.integers(0, 11), max_size=6),
        st.sampled_from(["grow", "restore"]),
    ),
    max_size=12,
)


@settings(max_examples=100, deadline=None)
@given(steps=STEPS, width=st.sampled_from([2, 160]))
def test_whatever_happened_a_slot_has_what_it_got_since_its_reset(steps: list[Any], width: int) -> None:
    store = HistogramColumns(12, BOUNDS, width)
    expected: dict[int, list[float]] = {}
    for step in steps:
        if isinstance(step, list):
            fill(store, step)
            for slot, value in step:
                expected.setdefault(slot, []).append(value)
        elif isinstance(step, set):
            store.reset(np.array(sorted(step), np.intp))
            for slot in step:
                expected.pop(slot, None)
        elif step == "grow":
            store.grow(len(store) + 3)
        else:
            state = store.state()
            store = HistogramColumns(0, BOUNDS, width)
            store.restore(state)
    fresh = HistogramColumns(len(store), BOUNDS, width)
    fill(fresh, [(slot, value) for slot, values in expected.items() for value in values])
    assert rows(store) == rows(fresh)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), width=st.integers(2, 40), more=st.integers(0, 12))
def test_coarser_counters_count_the_same(data: st.DataObject, width: int, more: int) -> None:
    low = data.draw(st.integers(-1000, 1000))
    counts = data.draw(st.lists(st.integers(0, 9), min_size=width, max_size=width))
    ring = np.zeros((1, width), np.uint8)
    expected: dict[int, int] = {}
    for step, count in enumerate(counts):
        ring[0, (low + step) % width] = count
        expected[(low + step) >> more] = expected.get((low + step) >> more, 0) + count
    found = coarser(ring, np.array([low], np.int32), np.array([more], np.uint8))
    assert found.dtype == ring.dtype
    assert {index: int(found[0, index % width]) for index in expected} == expected
    assert int(found.sum()) == sum(counts)


@given(
    low=st.integers(-(1 << 30), (1 << 30) - 1),
    span=st.integers(0, (1 << 31) - 1),
    width=st.integers(2, 200),
    start=st.integers(0, 5),
)
def test_the_shift_is_the_least_that_fits(low: int, span: int, width: int, start: int) -> None:
    high = min(low + span, (1 << 30) - 1)
    bounds: list[npt.NDArray[np.int32]] = [np.array([low], np.int32), np.array([high], np.int32)]
    shift = int(shift_for(bounds[0], bounds[1], np.array([start], np.uint8), width)[0])
    assert (high >> shift) - (low >> shift) < width
    assert shift == start or (high >> shift - 1) - (low >> shift - 1) >= width

"""One limit for all series: who gets how many, what is folded, and what is told about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from otel_netmon.otel.attributes import AttributeSet
from otel_netmon.otel.drift import problems
from otel_netmon.otel.points import HistogramSeries, NumberSeries, Point, Points, Snapshot
from otel_netmon.otel.series import AGENT, FLOWS, Diversity, SeriesBudget

START = 1_700_000_000_000_000_000
INTERVAL = 10_000_000_000
DIRECTIONS = ("receive", "transmit")


def flows(conversations: int) -> dict[str, Points]:
    """Both flow metrics: conversations and two overflow points."""
    sets = [AttributeSet.of({"server.port": number}) for number in range(conversations)]
    sets += [AttributeSet.of({"otel.metric.overflow": True, "network.io.direction": way}) for way in DIRECTIONS]
    starts, values = np.full(len(sets), START, np.uint64), np.ones(len(sets), np.uint64)
    return {name: NumberSeries(sets, starts, values) for name in ("netmon.flow.io", "netmon.flow.packets")}


def family(metrics: Sequence[str], interfaces: int, value: int = 1) -> dict[str, Points]:
    """Two sets for each interface."""
    points = [
        Point({"network.interface.name": f"eth{number}", "network.io.direction": way}, value, START)
        for number in range(interfaces)
        for way in DIRECTIONS
    ]
    return dict.fromkeys(metrics, points)


PROTOCOLS = ("netmon.protocol.io", "netmon.protocol.packets")
INTERFACES = (
    "system.network.io",
    "system.network.packet.count",
    "system.network.packet.dropped",
    "system.network.errors",
)
WIRE, XDP = ("netmon.wire.io", "netmon.wire.packets"), ("netmon.xdp.io", "netmon.xdp.packets")
FAMILIES = {
    "interfaces": INTERFACES,
    "protocols": PROTOCOLS,
    "wire": WIRE,
    "xdp": XDP,
    "coverage": ("netmon.coverage",),
    "unparsed": ("netmon.protocol.unparsed",),
}


def agent(count: int) -> dict[str, Points]:
    return {"netmon.bpf.map.entries": [Point({"netmon.bpf.map.name": f"{n}"}, n, START) for n in range(count)]}


def size(points: Mapping[str, Points]) -> int:
    return sum(map(len, points.values()))


def active(budget: SeriesBudget) -> dict[str, int]:
    points = budget.points({}, START)["netmon.series.active"]
    return {str(point.attributes["netmon.series.family"]): int(point.value) for point in points}


def places_of(budget: SeriesBudget, top_k: int) -> int:
    return budget.places({FLOWS: top_k})[FLOWS]


def test_where_there_is_room_for_all_nothing_is_changed() -> None:
    budget = SeriesBudget(1000, 300)
    assert places_of(budget, 100) == 100
    points = flows(100) | family(PROTOCOLS, 3) | agent(5)
    result = budget.apply(points, START)
    assert result == points
    assert result is not points
    assert active(budget) == {FLOWS: 204, AGENT: 5, "protocols": 12}


def test_conversations_get_what_is_left() -> None:
    budget = SeriesBudget(1000, 300)
    places_of(budget, 100_000)
    budget.apply(flows(10) | family(PROTOCOLS, 25) | agent(100), START)
    assert places_of(budget, 100_000) == (1000 - 100 - 100) // 2 - 2
    assert places_of(budget, 50) == 50
    assert places_of(budget, 0) == 0


def test_at_the_start_conversations_leave_the_others_their_share() -> None:
    """Nobody knows yet how many series the others want: conversations get 8 of 29 parts."""
    budget = SeriesBudget(10_000, 300)
    first = places_of(budget, 5000)
    assert abs(2 * (first + 2) - (10_000 - 64) * 8 / 29) < 2
    result = budget.apply(flows(first) | family(PROTOCOLS, 300), START)
    assert budget.folded({})["protocols"] == 0
    assert size(result) == size(flows(first)) + 1200


def test_a_family_that_outgrows_its_share_is_folded_and_has_its_places_again() -> None:
    budget = SeriesBudget(200, 300)
    top_k = 1000
    seen = []
    for cycle in range(8):
        conversations = places_of(budget, top_k)
        points = flows(conversations) | family(PROTOCOLS, 30, cycle)
        result = budget.apply(points, START + cycle * INTERVAL)
        assert size(result) <= 200
        seen.append((conversations, budget.folded({})["protocols"], size(result)))
    # 8 and 4 parts of the weight: 134 series of flows, 66 of protocols.
    assert seen[-1] == (134 // 2 - 2, 60 - (66 // 2 - 2), 200)
    assert seen[-1] == seen[-2] == seen[-3], "it comes to rest"
    top_k = 0
    for cycle in range(8, 11):
        places_of(budget, top_k)
        result = budget.apply(flows(0) | family(PROTOCOLS, 30, cycle), START + cycle * INTERVAL)
    assert budget.folded({})["protocols"] == 0
    assert size(result) == 4 + 120 + 4, "the overflow points stay"


def test_a_set_that_gets_its_series_later_counts_from_the_reading_before() -> None:
    budget = SeriesBudget(100, 300)
    every = [Point({"network.interface.name": f"{number}"}, 1, START) for number in range(200)]
    budget.apply({"netmon.coverage": [], "netmon.wire.io": every}, START + 1)
    result = budget.apply({"netmon.wire.io": every[-1:]}, START + 2)["netmon.wire.io"]
    assert not isinstance(result, HistogramSeries)
    assert list(result) == [
        Point(every[-1].attributes, 0, START + 1),
        Point({"otel.metric.overflow": True}, 200 - 99, START),
    ]


SIZES = st.fixed_dictionaries({name: st.integers(0, 60) for name in FAMILIES})


@settings(max_examples=100, deadline=None)
@given(
    limit=st.integers(100, 400),
    cycles=st.lists(st.tuples(SIZES, st.integers(0, 200), st.integers(0, 60)), min_size=1, max_size=6),
    takes_over=st.sets(st.integers(0, 5)),
)
def test_the_limit_holds_and_sums_are_exact(
    limit: int, cycles: list[tuple[dict[str, int], int, int]], takes_over: set[int]
) -> None:
    """All but the overflow points themselves, and the agent's own, which are never folded."""
    budget = SeriesBudget(limit, 300)
    for cycle, (sizes, top_k, own) in enumerate(cycles):
        if cycle in takes_over:
            state = budget.state()
            budget = SeriesBudget(limit, 300)
            budget.restore(state)
        conversations = places_of(budget, top_k)
        assert 0 <= conversations <= top_k
        points = flows(conversations) | agent(own)
        for name, metrics in FAMILIES.items():
            points |= family(metrics, sizes[name], 1 + cycle)
        result = budget.apply(points, START + (cycle + 1) * INTERVAL)
        overflow = 2 * sum(map(len, FAMILIES.values()))
        assert size(result) <= max(limit, 2 * (conversations + 2) + own) + overflow
        assert active(budget) == {
            FLOWS: 2 * (conversations + 2),
            AGENT: own,
            **{name: size({metric: result[metric] for metric in metrics}) for name, metrics in FAMILIES.items()},
        }
        assert sum(active(budget).values()) == size(result)
        if sum(map(size, (points,))) + overflow <= limit:
            assert not any(budget.folded({}).values())
        assert {name: result[name] for name in flows(0)} == {name: points[name] for name in flows(0)}


def histogram(sets: int) -> HistogramSeries:
    zeros, halves = np.zeros(sets, np.uint64), np.zeros(sets)
    return HistogramSeries(
        attributes=[AttributeSet.of({"netmon.stage": f"{n}"}) for n in range(sets)],
        start_time_unix_nano=np.full(sets, START, np.uint64),
        count=zeros,
        sum=halves,
        minimum=halves,
        maximum=halves,
        scale=np.zeros(sets, np.int32),
        offset=np.zeros(sets, np.int32),
        zero_count=zeros,
        buckets=np.zeros((sets, 1), np.uint64),
        bounds=np.zeros(0),
        bucket_counts=np.zeros((sets, 1), np.uint64),
        exemplars=[()] * sets,
    )


def test_distributions_are_counted_and_never_folded() -> None:
    budget = SeriesBudget(100, 300)
    points: dict[str, Points] = {"netmon.pipeline.cycle.duration": histogram(3)}
    assert budget.apply(points, START) == points
    assert active(budget) == {AGENT: 3}


def test_what_is_told_about_the_series() -> None:
    budget = SeriesBudget(100, 300)
    places_of(budget, 10)
    budget.apply(flows(10) | family(PROTOCOLS, 100) | family(("netmon.coverage",), 3) | agent(7), START)
    points = budget.points({FLOWS: Diversity(4, 200.0, {"client.address": 123.4, "server.port": 2.6})}, START)
    assert problems(Snapshot(START + 1, points)) == []
    status = budget.status({FLOWS: Diversity(4, 200.0, {"client.address": 150.0, "server.port": 400.0})})
    told = {
        metric: {str(point.attributes.get("netmon.series.family")): point.value for point in each}
        for metric, each in points.items()
    }
    own = 100 - 24 - 7 - 6
    assert told["netmon.series.active"] == {FLOWS: 24, AGENT: 7, "protocols": own // 2 * 2, "coverage": 6}
    assert told["netmon.series.folded"] == {FLOWS: 4, "protocols": 200 - (own // 2 - 2), "coverage": 0}
    assert told["netmon.series.limit"] == {"None": 100}
    assert {str(p.attributes["netmon.series.attribute"]): p.value for p in points["netmon.series.distinct"]} == {
        "client.address": 123,
        "server.port": 3,
    }
    assert (status["active"], status["limit"], status["idle_seconds"]) == (sum(active(budget).values()), 100, 300)
    families = {each["name"]: each for each in status["families"]}
    assert list(families) == [FLOWS, "protocols", "coverage", AGENT]
    assert {name: (each["active"], each["limit"], each["folded"]) for name, each in families.items()} == {
        FLOWS: (24, 24, 4),
        "protocols": (own // 2 * 2, own, 200 - (own // 2 - 2)),
        "coverage": (6, 6, 0),
        AGENT: (7, 7, 0),
    }
    assert families["protocols"]["metrics"] == list(PROTOCOLS)
    assert [(each["key"], each["distinct"], each["share"]) for each in families[FLOWS]["attributes"]] == [
        ("client.address", 150, 0.75),
        ("server.port", 400, 1.0),
    ]
    nothing = {FLOWS: Diversity(0, 0.0, {"server.port": 0.0})}
    assert budget.status(nothing)["families"][0]["attributes"][0]["share"] == 0


@pytest.mark.parametrize("limit", [0, 3])
def test_a_limit_below_what_must_be_told_is_no_error(limit: int) -> None:
    budget = SeriesBudget(limit, 300)
    assert places_of(budget, 10) == 0
    result = budget.apply(flows(0) | family(PROTOCOLS, 2) | agent(5), START)
    assert size(result) == 4 + 4 + 5

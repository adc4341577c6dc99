"""One cycle of analysis: from a reading to totals and conversations."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy.typing as npt
import pytest
from hypothesis import given, settings, strategies as st

from otel_netmon.abi.enums import FLOW_FORWARDED, SEQUENCE_SERVER, Direction, Kind, hook_slot
from otel_netmon.analysis.edges import Edge
from otel_netmon.analysis.flows import BYTES, PACKETS
from otel_netmon.analysis.protocols import Side
from otel_netmon.analysis.series import SeriesReading
from otel_netmon.analysis.traffic import Traffic
from support.rows import address, counters, flow, flow_key, reading, row_key

START, NEXT = 1_700_000_000_000_000_000, 1_700_000_010_000_000_000
EPHEMERAL = (32768, 60999)
EVERYTHING = Edge(count_receive=True, count_transmit=True, counted=frozenset())
NOTHING = Edge(count_receive=False, count_transmit=False, counted=frozenset())

Pair = tuple[npt.NDArray[Any], npt.NDArray[Any]]


def traffic(*, top_k: int = 10) -> Traffic:
    return Traffic(top_k, START, EPHEMERAL)


def sums(flows: SeriesReading) -> tuple[int, int]:
    """Packets and bytes of all series and of the rest."""
    packets, octets = (flows.values.sum(axis=1) + flows.rest.sum(axis=0)).tolist()
    return packets, octets


def by_direction(flows: SeriesReading) -> dict[int, tuple[int, int]]:
    """Packets and bytes of series, of which there must be one a direction."""
    directions = flows.keys["direction"].tolist()
    assert len(set(directions)) == len(directions)
    return dict(zip(directions, map(tuple, flows.values.T.tolist()), strict=True))


def test_a_conversation_has_both_directions_under_one_name() -> None:
    top = traffic().update(
        reading(
            [
                (flow_key(direction=1), flow(3, 300)),
                (flow_key("198.18.0.2", 443, "198.18.0.1", 40000), flow(2, 200)),
                (flow_key(source_port=40001, direction=1), flow(1, 50)),
            ]
        ),
        {},
        NEXT,
    )
    assert {key["client"].tobytes() for key in top.keys} == {address("198.18.0.1")}
    assert {key["server"].tobytes() for key in top.keys} == {address("198.18.0.2")}
    assert set(top.keys["server_port"].tolist()) == {443}
    assert by_direction(top) == {1: (4, 350), 0: (2, 200)}
    assert (top.active, top.folded, sums(top)) == (2, 0, (6, 550))


def test_the_handshake_decides_who_is_the_client() -> None:
    key = flow_key(source_port=40000, destination_port=443)
    top = traffic().update(reading([(key, flow(1, 1, sequence_state=SEQUENCE_SERVER))]), {}, NEXT)
    assert top.keys["server_port"].tolist() == [40000]


def test_rows_that_close_are_counted_one_last_time() -> None:
    seen = traffic()
    seen.update(reading([(flow_key(), flow(3, 300)), (flow_key(source_port=1), flow(1, 10))]), {}, NEXT)
    top = seen.update(reading([(flow_key(), flow(4, 400))], [(flow_key(source_port=1), flow(5, 50))]), {}, NEXT + 1)
    assert sums(top) == (9, 450)
    top = seen.update(reading([(flow_key(source_port=1), flow(2, 20))]), {}, NEXT + 2)
    assert sums(top) == (11, 470)
    assert seen.totals.packets_by_slot() == {hook_slot(2, 0, 0): 11}


def test_what_the_programs_counted_before_the_first_reading_is_counted() -> None:
    """The maps are empty when the agent starts; what they hold at the first reading came after that."""
    seen = traffic()
    rows = [(row_key(kind=Kind.OVERFLOW), counters(7, 70))]
    slot = hook_slot(2, 0, 0)
    top = seen.update(reading([(flow_key(), flow(100, 1000))], rows=rows), {slot: 107}, NEXT)
    assert (sums(top), top.rest.tolist(), top.rest_start_ns) == ((107, 1070), [[7, 70], [0, 0]], START)
    assert top.start_ns.tolist() == [START]
    top = seen.update(reading([(flow_key(), flow(101, 1010))], rows=rows), {slot: 108}, NEXT + 1)
    assert sums(top) == (108, 1080)
    assert top.gained.tolist() == [[1], [10]]
    assert (seen.conservation.attributed, seen.conservation.missing) == (108, 0)


def test_the_conversations_of_a_reading_are_those_that_gained() -> None:
    seen = traffic(top_k=0)
    rows = [(flow_key(source_port=port), flow(1, 10)) for port in (40001, 40002)]
    assert seen.update(reading(rows), {}, NEXT).folded == 1
    assert [each["server_port"] for each in seen.gained.conversations] == [443, 443]
    seen.update(reading([rows[0], (flow_key(destination_port=53), flow(1, 10))]), {}, NEXT)
    assert [each["server_port"] for each in seen.gained.conversations] == [53]


def test_what_the_hook_saw_and_the_rows_do_not_hold_is_missing() -> None:
    seen = traffic()
    slot = hook_slot(2, 0, 0)
    seen.update(reading(), {slot: 0}, NEXT)
    rows = [(row_key(kind=Kind.OTHER, ethertype=0x0806), counters(2, 84))]
    seen.update(reading([(flow_key(), flow(5, 500))], rows=rows), {slot: 8}, NEXT)
    assert (seen.conservation.attributed, seen.conservation.missing) == (7, 1)


def test_only_edges_count_a_conversation_but_every_interface_its_own_totals() -> None:
    seen = traffic()
    seen.set_interfaces({(0, 2): EVERYTHING, (0, 3): NOTHING}, [])
    rows = [(row_key(kind=Kind.OVERFLOW, ifindex=index), counters(index, 10 * index)) for index in (2, 3)]
    top = seen.update(reading([(flow_key(ifindex=i), flow(1, 60)) for i in (2, 3)], rows=rows), {}, NEXT)
    assert sums(top) == (1 + 2, 60 + 20)
    assert {side: value[0] for side, value in seen.totals.handed_over.items()} == {Side(0, 2, 0): 3, Side(0, 3, 0): 4}


def test_an_edge_of_one_direction() -> None:
    seen = traffic()
    seen.set_interfaces({(0, 2): dataclasses.replace(EVERYTHING, count_receive=False)}, [])
    top = seen.update(reading([(flow_key(direction=d), flow(1 + 9 * d, 60)) for d in Direction]), {}, NEXT)
    assert by_direction(top) == {1: (10, 60)}


def test_a_forwarded_packet_counts_where_its_way_in_was_not_counted() -> None:
    seen = traffic()
    seen.set_interfaces({(0, 2): dataclasses.replace(EVERYTHING, counted=frozenset({2, 5}))}, [])
    top = seen.update(
        reading(
            [
                (flow_key(source_port=1, direction=1, flags=FLOW_FORWARDED), flow(1, 1, ingress_ifindex=5)),
                (flow_key(source_port=2, direction=1, flags=FLOW_FORWARDED), flow(10, 10, ingress_ifindex=6)),
                (flow_key(source_port=3, direction=1), flow(100, 100, ingress_ifindex=5)),
            ],
            rows=[
                (row_key(kind=Kind.OVERFLOW, direction=1), counters(1000, 1000)),
                (row_key(kind=Kind.OVERFLOW_FORWARDED, direction=1), counters(10_000, 10_000)),
            ],
        ),
        {},
        NEXT,
    )
    assert sums(top) == (1110, 1110)


def test_forwarded_packets_without_a_place_count_where_no_other_interface_could_have() -> None:
    seen = traffic()
    seen.set_interfaces({(0, 2): dataclasses.replace(EVERYTHING, counted=frozenset({2}))}, [])
    rows = [(row_key(kind=Kind.OVERFLOW_FORWARDED, direction=1), counters(3, 30))]
    assert sums(seen.update(reading(rows=rows), {}, NEXT)) == (3, 30)


@pytest.mark.parametrize(("physical", "packets", "octets"), [([(0, 2)], 13, 3180), ([], 7, 3072)])
def test_conversations_count_as_their_interface_does(
    physical: list[tuple[int, int]], packets: int, octets: int
) -> None:
    seen = traffic()
    seen.set_interfaces({(0, 2): EVERYTHING}, physical)
    rows = [(row_key(kind=Kind.OVERFLOW), counters(4, 72, 4, 0))]
    top = seen.update(reading([(flow_key(), flow(3, 3000, 2, 108))], rows=rows), {}, NEXT)
    assert sums(top) == (packets, octets)


def test_interfaces_that_are_gone_are_forgotten_after_their_last_reading() -> None:
    seen = traffic()
    seen.set_interfaces({(0, 2): NOTHING}, [(0, 2)])
    seen.set_interfaces({}, [])
    assert sums(seen.update(reading([(flow_key(), flow(1, 60, 1, 60))]), {}, NEXT)) == (0, 0)
    seen.forget({(0, 2)})
    assert seen.totals.counted == {}
    assert seen.totals.packets_by_slot() == {hook_slot(2, 0, 0): 1}
    assert sums(seen.update(reading([(flow_key(), flow(3, 180, 1, 60))]), {}, NEXT)) == (2, 120), (
        "nothing is known of it"
    )


KEYS = st.tuples(
    st.integers(1, 4),  # client
    st.integers(1, 3),  # interface
    st.sampled_from(Direction),
    st.booleans(),  # forwarded
    st.integers(0, 5),  # way in
)
GROWTH = st.dictionaries(KEYS, st.tuples(st.integers(1, 9), st.integers(0, 3)), max_size=12)
EDGES = st.dictionaries(
    st.integers(1, 3),
    st.builds(Edge, st.booleans(), st.booleans(), st.frozensets(st.integers(0, 5), max_size=3)),
)


@settings(max_examples=100, deadline=None)
@given(cycles=st.lists(GROWTH, max_size=5), edges=EDGES, physical=st.sets(st.integers(1, 3)), top_k=st.integers(0, 5))
def test_conversations_and_the_rest_are_what_the_edges_count(
    cycles: list[dict[tuple[int, int, Direction, bool, int], tuple[int, int]]],
    edges: dict[int, Edge],
    physical: set[int],
    top_k: int,
) -> None:
    seen = traffic(top_k=top_k)
    seen.set_interfaces({(0, index): edge for index, edge in edges.items()}, [(0, index) for index in physical])
    table: dict[tuple[int, int, Direction, bool], Counter[str]] = {}
    want: Counter[str] = Counter()
    handed: Counter[int] = Counter()
    one_by_one = [0, 0]
    for cycle in cycles:
        ways: dict[tuple[int, int, Direction, bool], int] = {}
        gained: dict[tuple[int, int, Direction, bool], Counter[str]] = {}
        for (client, index, direction, maybe, way), (packets, extra) in cycle.items():
            key = (client, index, direction, maybe and direction is Direction.TRANSMIT)
            more = Counter(packets=packets, bytes=packets * 100, extra_packets=extra, extra_bytes=extra * 50)
            table.setdefault(key, Counter()).update(more)
            gained.setdefault(key, Counter()).update(more)
            ways[key] = way if key[3] else 0
            handed[hook_slot(index, 0, direction)] += packets
        for key, more in gained.items():
            _, index, direction, _ = key
            edge = edges.get(index)
            if edge is None or edge.counts(direction, ways[key]):
                wire = index in physical
                want["packets"] += more["packets"] + more["extra_packets"] * wire
                want["bytes"] += more["bytes"] + more["extra_bytes"] * wire
        live: list[Pair] = [
            (
                flow_key(f"198.18.1.{key[0]}", ifindex=key[1], direction=key[2], flags=FLOW_FORWARDED * key[3]),
                flow(
                    row["packets"],
                    row["bytes"],
                    row["extra_packets"],
                    row["extra_bytes"],
                    ingress_ifindex=ways.get(key, 0),
                ),
            )
            for key, row in table.items()
        ]
        top = seen.update(reading(live), dict(handed), NEXT)
        one_by_one[0] += int(top.gained[PACKETS].sum())
        one_by_one[1] += int(top.gained[BYTES].sum())
        assert len(top.keys) <= top_k
        rest = top.rest.sum(axis=0).tolist()
        assert (one_by_one[0] + rest[0], one_by_one[1] + rest[1]) == (want["packets"], want["bytes"])
    assert seen.conservation.missing == 0
    assert seen.totals.packets_by_slot() == dict(handed)


def test_a_reading_of_nothing() -> None:
    top = traffic().update(reading(), {}, NEXT)
    assert (len(top.keys), top.active, top.folded, sums(top)) == (0, 0, 0, (0, 0))
    assert top.rest_start_ns == START

"""Totals by interface and protocol, what had no place, and the proof that nothing is missing."""

from __future__ import annotations

from collections import Counter, defaultdict

from hypothesis import given, strategies as st

from otel_netmon.abi import layout
from otel_netmon.abi.enums import ETHERTYPE_IPV4, ETHERTYPE_IPV6, Kind, Reason, hook_slot
from otel_netmon.analysis.protocols import Conservation, ProtocolKey, ProtocolTotals, Side, is_ipv4, unplaced
from support.rows import flow_key, gains, row_key, table

START = 1_000


def protocol(namespace: int, ifindex: int, direction: int, ethertype: int, number: int, reason: int = 0) -> ProtocolKey:
    return ProtocolKey(namespace, ifindex, direction, ethertype, number, reason)


def test_flows_are_added_up_by_interface_direction_and_protocol() -> None:
    totals = ProtocolTotals(START)
    keys = table(
        [
            flow_key(source_port=1),
            flow_key(source_port=2),
            flow_key("fd00::1", 1, "fd00::2"),
            flow_key(protocol=17, direction=1),
            flow_key(ifindex=70_000, namespace=200),
        ],
        layout.FLOW_KEY,
    )
    totals.add_flows(keys, gains((1, 10, 0, 0), (2, 20, 5, 50), (4, 40, 0, 0), (8, 80, 0, 0), (16, 160, 1, 9)))
    assert totals.counted == {
        protocol(0, 2, 0, ETHERTYPE_IPV4, 6): [3, 30, START],
        protocol(0, 2, 0, ETHERTYPE_IPV6, 6): [4, 40, START],
        protocol(0, 2, 1, ETHERTYPE_IPV4, 17): [8, 80, START],
        protocol(200, 70_000, 0, ETHERTYPE_IPV4, 6): [16, 160, START],
    }
    assert totals.handed_over == {
        Side(0, 2, 0): [7, 70, START],
        Side(0, 2, 1): [8, 80, START],
        Side(200, 70_000, 0): [16, 160, START],
    }
    assert totals.wire == {
        Side(0, 2, 0): [12, 120, START],
        Side(0, 2, 1): [8, 80, START],
        Side(200, 70_000, 0): [17, 169, START],
    }


def test_a_physical_interface_counts_wire_segments() -> None:
    totals = ProtocolTotals(START)
    totals.physical.add((0, 2))
    totals.add_flows(
        table([flow_key(), flow_key(ifindex=3)], layout.FLOW_KEY), gains((1, 3000, 2, 108), (1, 3000, 2, 108))
    )
    totals.add_rows(table([row_key(protocol=6, kind=Kind.OVERFLOW)], layout.PROTOCOL_KEY), gains((1, 100, 1, 54)))
    assert totals.counted[protocol(0, 2, 0, ETHERTYPE_IPV4, 6)] == [3 + 2, 3108 + 154, START]
    assert totals.counted[protocol(0, 3, 0, ETHERTYPE_IPV4, 6)] == [1, 3000, START]
    assert totals.handed_over[Side(0, 2, 0)] == [2, 3100, START]
    assert totals.wire[Side(0, 2, 0)] == [5, 3262, START]


def test_rows_without_a_flow_are_among_the_totals() -> None:
    totals = ProtocolTotals(START)
    rows = [
        row_key(kind=Kind.OTHER, ethertype=0x0806),
        row_key(kind=Kind.UNPARSED, ethertype=0, reason=Reason.SHORT_IPV4),
        row_key(kind=Kind.OVERFLOW, protocol=17),
        row_key(kind=Kind.OVERFLOW_FORWARDED, protocol=17),
        row_key(kind=Kind.OTHER, ethertype=0x88CC),
    ]
    totals.add_rows(
        table(rows, layout.PROTOCOL_KEY), gains((1, 2, 0, 0), (3, 4, 0, 0), (5, 6, 0, 0), (7, 8, 0, 0), (0, 0, 0, 0))
    )
    assert totals.counted == {
        protocol(0, 2, 0, 0x0806, 0): [1, 2, START],
        protocol(0, 2, 0, 0, 0, Reason.SHORT_IPV4): [3, 4, START],
        protocol(0, 2, 0, ETHERTYPE_IPV4, 17): [12, 14, START],
    }


def test_a_series_is_counted_since_the_reading_before_its_first() -> None:
    totals = ProtocolTotals(START)
    totals.add_flows(table([flow_key()], layout.FLOW_KEY), gains((1, 1, 0, 0)))
    totals.end_reading(START + 10)
    totals.add_flows(table([flow_key(), flow_key(ifindex=9)], layout.FLOW_KEY), gains((1, 1, 0, 0), (1, 1, 0, 0)))
    assert totals.handed_over == {Side(0, 2, 0): [2, 2, START], Side(0, 9, 0): [1, 1, START + 10]}


def test_rows_that_gained_nothing_make_no_series() -> None:
    totals = ProtocolTotals(START)
    totals.add_flows(table([flow_key()], layout.FLOW_KEY), gains((0, 0, 0, 0)))
    totals.add_flows(table([], layout.FLOW_KEY), gains())
    totals.add_rows(table([row_key()], layout.PROTOCOL_KEY), gains((0, 0, 0, 0)))
    assert (totals.counted, totals.handed_over, totals.wire) == ({}, {}, {})


FLOWS = st.lists(
    st.tuples(
        st.sampled_from([("198.18.0.1", "198.18.0.2"), ("fd00::1", "fd00::2"), ("fd00::1", "::")]),
        st.integers(0, 255),
        st.sampled_from([1, 2, 1025, 2**32 - 1]),
        st.integers(0, 1),
        st.sampled_from([0, 1, 255]),
        st.tuples(*[st.integers(0, 2**40)] * 4),
    ),
    max_size=40,
)


@given(
    readings=st.lists(FLOWS, max_size=4), physical=st.sets(st.tuples(st.sampled_from([0, 1, 255]), st.integers(1, 2)))
)
def test_the_sums_are_those_of_the_rows(
    readings: list[list[tuple[tuple[str, str], int, int, int, int, tuple[int, ...]]]], physical: set[tuple[int, int]]
) -> None:
    totals = ProtocolTotals(START)
    totals.physical |= physical
    counted: dict[ProtocolKey, Counter[int]] = defaultdict(Counter)
    slots: Counter[int] = Counter()
    for rows in readings:
        keys = [
            flow_key(ends[0], 1, ends[1], 2, protocol=number, ifindex=index, direction=way, namespace=namespace)
            for ends, number, index, way, namespace, _ in rows
        ]
        totals.add_flows(table(keys, layout.FLOW_KEY), gains(*(row[5] for row in rows)))  # type: ignore[arg-type]
        for ends, number, index, way, namespace, (packets, octets, more_packets, more_octets) in rows:
            if packets:
                ethertype = ETHERTYPE_IPV4 if "." in ends[0] else ETHERTYPE_IPV6
                total = counted[protocol(namespace, index, way, ethertype, number)]
                wire = (namespace, index) in physical
                total[0] += packets + more_packets * wire
                total[1] += octets + more_octets * wire
                slots[hook_slot(index, namespace, way)] += packets
    assert {key: value[:2] for key, value in totals.counted.items()} == {k: [c[0], c[1]] for k, c in counted.items()}
    assert totals.packets_by_slot() == dict(slots)


def test_an_interface_that_is_gone_leaves_its_packets_in_the_slots() -> None:
    totals = ProtocolTotals(START)
    totals.physical |= {(0, 2), (0, 3)}
    keys = table([flow_key(), flow_key(ifindex=3), flow_key(namespace=1)], layout.FLOW_KEY)
    totals.add_flows(keys, gains((1, 1, 0, 0), (2, 2, 0, 0), (4, 4, 0, 0)))
    before = totals.packets_by_slot()
    totals.forget({(0, 2), (5, 5)})
    assert {key[:2] for key in totals.counted} == {(0, 3), (1, 2)}
    assert set(totals.handed_over) == set(totals.wire) == {Side(0, 3, 0), Side(1, 2, 0)}
    assert totals.physical == {(0, 3)}
    assert totals.packets_by_slot() == before
    totals.add_flows(keys[:1], gains((8, 8, 0, 0)))
    assert totals.packets_by_slot()[hook_slot(2, 0, 0)] == 9
    assert totals.handed_over[Side(0, 2, 0)][:2] == [8, 8], "its series begins anew"


def test_v4_mapped_addresses_are_ipv4() -> None:
    keys = [flow_key(), flow_key("fd00::1", 1, "fd00::2"), flow_key("::", 1, "ff02::1"), flow_key("::1", 1, "::1")]
    assert is_ipv4(table(keys, layout.FLOW_KEY)).tolist() == [True, False, False, False]


def test_only_what_had_no_place_is_unplaced() -> None:
    rows = [
        row_key(kind=Kind.OTHER),
        row_key(kind=Kind.UNPARSED),
        row_key(kind=Kind.OVERFLOW, protocol=6),
        row_key(kind=Kind.OVERFLOW, protocol=17),
        row_key(kind=Kind.OVERFLOW_FORWARDED, direction=1, ifindex=3),
        row_key(kind=Kind.OVERFLOW, namespace=1),
    ]
    amounts = gains((9, 9, 9, 9), (9, 9, 9, 9), (1, 10, 2, 20), (3, 30, 0, 0), (5, 50, 6, 60), (0, 0, 0, 0))
    table_ = table(rows, layout.PROTOCOL_KEY)
    assert unplaced(table_, amounts, set()) == {(0, 2, 0, False): (4, 40), (0, 3, 1, True): (5, 50)}
    assert unplaced(table_, amounts, {(0, 2)}) == {(0, 2, 0, False): (6, 60), (0, 3, 1, True): (5, 50)}


# ---------------------------------------------------------------------------------------------------------- conservation
def test_nothing_is_missing_while_rows_hold_at_least_what_the_hook_saw() -> None:
    check = Conservation()
    for totals, attributed in (({2: 0, 3: 0}, {}), ({2: 10, 3: 5}, {2: 10, 3: 7}), ({2: 11}, {2: 11, 3: 7})):
        check.check(totals, attributed)
        assert check.missing == 0
    assert check.attributed == 18


def test_what_is_missing_stays_known() -> None:
    check = Conservation()
    check.check({2: 0, 3: 0}, {})
    check.check({2: 10, 3: 10}, {2: 7, 3: 10})
    assert check.missing == 3
    check.check({2: 10, 3: 10}, {2: 9, 3: 6})
    assert check.missing == 3 + 4, "the most that ever was, of each side"
    check.check({2: 20, 3: 20}, {2: 20, 3: 20})
    assert check.missing == 7


def test_a_pipeline_that_begins_later_takes_what_it_finds_as_its_base() -> None:
    check = Conservation()
    check.check({2: 1000}, {2: 400})
    assert check.missing == 0
    check.check({2: 1010}, {2: 410})
    assert check.missing == 0
    check.check({2: 1020}, {2: 415})
    assert check.missing == 5


def test_one_that_goes_on_for_another_has_the_same_base() -> None:
    for readings in range(3):
        one, other = Conservation(), Conservation()
        for number in range(readings):
            one.check({2: 1000 + number, 4: 7}, {2: 400})
        other.restore(one.state())
        for check in (one, other):
            check.check({2: 1010, 4: 9, 5: 1}, {2: 410, 5: 1})
        assert (one.missing, one.attributed) == (other.missing, other.attributed)
        assert one.state()["base"].tolist() == other.state()["base"].tolist()


def test_an_interface_that_appears_later_is_held_to_the_first_packet() -> None:
    check = Conservation()
    check.check({2: 5}, {2: 5})
    check.check({2: 5, 4: 3}, {2: 5, 4: 1})
    assert check.missing == 2


def test_counts_are_numbers_of_python() -> None:
    totals = ProtocolTotals(START)
    totals.add_flows(table([flow_key()], layout.FLOW_KEY), gains((2**60, 2**61, 0, 0)))
    totals.add_flows(table([flow_key()], layout.FLOW_KEY), gains((2**60, 2**63, 0, 0)))
    (value,) = totals.counted.values()
    assert value == [2**61, 2**61 + 2**63, START]
    assert all(type(number) is int for number in value)
    other = ProtocolTotals(START)
    other.restore(totals.state())
    assert other.counted == totals.counted
    assert all(type(number) is int for key, counts in other.counted.items() for number in (*key, *counts))

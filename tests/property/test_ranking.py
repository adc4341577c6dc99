"""The largest conversations one by one and the rest in one row: the sum is always what was given."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings, strategies as st

from otel_netmon.abi import layout
from otel_netmon.abi.enums import Direction
from otel_netmon.analysis import differences
from otel_netmon.analysis.flows import CONVERSATION, Conversation, FlowRanking, conversations
from support.rows import address, flow_key, table

START = 1_700_000_000_000_000_000
INTERVAL = 10_000_000_000
REAL = differences.fingerprints

Row = tuple[int, int, int, int]  # number of the client, direction, packets, bytes
ROWS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 1), st.integers(0, 20), st.integers(0, 5)), max_size=30)
UNPLACED = st.dictionaries(st.integers(0, 1), st.tuples(st.integers(0, 9), st.integers(0, 9)))


def rows_of(rows: list[Row]) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    made = np.zeros(len(rows), CONVERSATION)
    for row, (client, direction, _, _) in zip(made, rows, strict=True):
        row["client"], row["server"] = client, 200
        row["server_port"], row["protocol"], row["direction"] = 443, 6, direction
    packets = np.array([row[2] for row in rows], np.uint64)
    octets = np.array([row[2] * row[3] for row in rows], np.uint64)
    return made, packets, octets


def identity(conversation: Conversation) -> tuple[int, int]:
    return conversation.client[0], conversation.direction


@settings(max_examples=200, deadline=None)
@given(cycles=st.lists(st.tuples(ROWS, UNPLACED), max_size=10), top_k=st.integers(0, 15), weak=st.booleans())
def test_every_packet_is_in_one_conversation_or_in_the_rest(
    cycles: list[tuple[list[Row], dict[int, tuple[int, int]]]], top_k: int, *, weak: bool
) -> None:
    ranking = FlowRanking(top_k, START)
    exported: dict[tuple[int, int], Conversation] = {}
    rest = {int(direction): (0, 0) for direction in Direction}
    with pytest.MonkeyPatch.context() as patch:
        if weak:
            patch.setattr(differences, "fingerprints", lambda k, s: REAL(k, s) & np.uint64(3 if s % 4 else 2**64 - 1))
        for number, (rows, unplaced) in enumerate(cycles, start=1):
            made = rows_of(rows)
            top = ranking.update(*made, unplaced, START + number * INTERVAL)
            given_by_name: dict[tuple[int, int], tuple[int, int]] = defaultdict(lambda: (0, 0))
            for (client, direction, packets, _), octets in zip(rows, made[2].tolist(), strict=True):
                sums = given_by_name[client, direction]
                given_by_name[client, direction] = (sums[0] + packets, sums[1] + octets)
            assert top.active == len(given_by_name)
            for name in exported:
                given_by_name.setdefault(name, (0, 0))  # a quiet one stays until others need its place
            assert len(top.conversations) == min(top_k, len(given_by_name))
            chosen = {identity(each): each for each in top.conversations}
            assert len(chosen) == len(top.conversations)
            for name, each in chosen.items():
                assert (each.packets_gained, each.bytes_gained) == given_by_name[name]
                before = exported.get(name)
                if before is None:
                    assert each.start_ns == START + (number - 1) * INTERVAL
                    assert (each.packets, each.bytes) == given_by_name[name]
                else:
                    assert each.start_ns == before.start_ns
                    assert (each.packets, each.bytes) == (
                        before.packets + each.packets_gained,
                        before.bytes + each.bytes_gained,
                    )
            left_out = {name: gained for name, gained in given_by_name.items() if name not in chosen}
            if chosen and left_out:
                assert min(each.bytes_gained for each in chosen.values()) >= max(g[1] for g in left_out.values())
            sizes = [each.bytes_gained for each in top.conversations]
            assert sizes == sorted(sizes, reverse=True)
            for direction in rest:
                more = [gained for name, gained in left_out.items() if name[1] == direction]
                more.append(unplaced.get(direction, (0, 0)))
                rest[direction] = (
                    rest[direction][0] + sum(packets for packets, _ in more),
                    rest[direction][1] + sum(octets for _, octets in more),
                )
            assert {each.direction: (each.packets, each.bytes) for each in top.rest} == rest
            assert {each.start_ns for each in top.rest} == {START}
            exported = chosen


def test_among_equals_those_that_were_there_stay() -> None:
    ranking = FlowRanking(2, START)
    first = ranking.update(*rows_of([(5, 0, 1, 5), (7, 0, 1, 5)]), {}, START + 1)
    assert {identity(each) for each in first.conversations} == {(5, 0), (7, 0)}
    for number in range(2, 6):
        rows = [(client, 0, 1, 5) for client in (1, 2, 3, 5, 7, 9)]
        again = ranking.update(*rows_of(rows), {}, START + number)
        assert {identity(each) for each in again.conversations} == {(5, 0), (7, 0)}
        assert {each.packets for each in again.conversations} == {number}


def test_a_quiet_conversation_stays_until_others_need_its_place() -> None:
    ranking = FlowRanking(2, START)
    ranking.update(*rows_of([(1, 0, 4, 5), (2, 0, 4, 5)]), {}, START + 1)
    quiet = ranking.update(*rows_of([(2, 0, 1, 5)]), {}, START + 2)
    assert {identity(each): (each.packets, each.packets_gained) for each in quiet.conversations} == {
        (2, 0): (5, 1),
        (1, 0): (4, 0),
    }
    assert quiet.active == 1
    pushed = ranking.update(*rows_of([(3, 0, 1, 5)]), {}, START + 3)
    assert [identity(each) for each in pushed.conversations] == [(3, 0), (2, 0)], "the one quiet for longest leaves"
    back = ranking.update(*rows_of([(1, 0, 9, 5)]), {}, START + 4)
    assert {identity(each): (each.packets, each.start_ns) for each in back.conversations} == {
        (1, 0): (9, START + 3),
        (3, 0): (1, START + 2),
    }
    assert all((each.packets, each.bytes) == (0, 0) for each in back.rest)


def test_rows_of_one_conversation_are_one() -> None:
    keys = table([flow_key(source_port=port) for port in (40000, 40001, 40002)], layout.FLOW_KEY)
    made = conversations(keys, np.ones(3, np.bool_))
    top = FlowRanking(10, START).update(made, np.array([1, 2, 3], np.uint64), np.array([4, 5, 6], np.uint64), {}, START)
    (only,) = top.conversations
    assert (only.packets, only.bytes, only.server_port) == (6, 15, 443)


@pytest.mark.parametrize("client_is_source", [True, False])
def test_a_conversation_names_client_and_server(*, client_is_source: bool) -> None:
    keys = table([flow_key("fd00::1", 50000, "fd00::2", 53, protocol=17, direction=1)], layout.FLOW_KEY)
    (made,) = conversations(keys, np.array([client_is_source]))
    ends = (address("fd00::1"), 50000), (address("fd00::2"), 53)
    client, server = ends if client_is_source else ends[::-1]
    assert (made["client"].tobytes(), made["server"].tobytes()) == (client[0], server[0])
    assert (int(made["server_port"]), int(made["protocol"]), int(made["direction"])) == (server[1], 17, 1)


def test_counts_beyond_64_bits_of_a_double_are_exact() -> None:
    ranking = FlowRanking(1, START)
    huge = np.array([2**53 + 1], np.uint64)
    made = rows_of([(1, 0, 0, 0)])[0]
    top = ranking.update(made, huge, huge, {}, START)
    assert top.conversations[0].packets == 2**53 + 1
    top = ranking.update(made, huge, huge, {0: (2**53 + 1, 1)}, START)
    assert top.conversations[0].packets == 2 * (2**53 + 1)
    assert top.rest[0].packets == 2**53 + 1

"""Whose a packet is by its ends and its time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.abi.enums import Ending, Role
from otel_netmon.analysis import connection_index
from otel_netmon.analysis.connection_index import ENDS, GRACE_NS, TCP, UDP, UNKNOWN, ConnectionIndex
from support.connection_rows import CLIENT, MS, SECOND, SERVER, adopted, connection, datagrams, joined
from support.rows import address

T = 100 * SECOND


def ends(
    local: str = CLIENT, local_port: int = 40_000, remote: str = SERVER, remote_port: int = 443, protocol: int = TCP
) -> npt.NDArray[Any]:
    asked = np.zeros(1, ENDS)
    asked["local"], asked["remote"] = np.frombuffer(address(local), "u1"), np.frombuffer(address(remote), "u1")
    asked["local_port"], asked["remote_port"], asked["protocol"] = local_port, remote_port, protocol
    return asked


def numbers(*which: int) -> npt.NDArray[np.uint64]:
    return np.array(which, np.uint64)


def read(index: ConnectionIndex, tcp: list[Any], udp: list[Any] = [], read_ns: int = T) -> None:  # noqa: B006 - never changed
    """Every row is of the process whose number is its place, from 1."""
    index.read(
        joined(*tcp),
        numbers(*range(1, len(tcp) + 1)),
        joined(*udp) if udp else datagrams()[:0],
        numbers(*range(101, 101 + len(udp))),
        read_ns,
    )


def owner(index: ConnectionIndex, asked: npt.NDArray[Any], time_ns: int = T + SECOND) -> int:
    return int(index.find(asked, np.array([time_ns])).number[0])


def test_both_ends_of_a_connection_have_their_process() -> None:
    index = ConnectionIndex()
    read(index, [
        connection(begin_ns=T), connection(SERVER, CLIENT, role=Role.SERVER, ports=(443, 40_000), begin_ns=T, cgroup=9)
    ])  # fmt: skip
    found = index.find(np.concatenate([ends(), ends(SERVER, 443, CLIENT, 40_000)], dtype=ENDS), np.array([T, T]))
    assert found.number.tolist() == [1, 2]
    assert found.role.tolist() == [Role.CLIENT, Role.SERVER]
    assert found.cgroup.tolist() == [77, 9]
    assert (found.cookie > 0).all()
    assert owner(index, ends(local_port=40_001)) == 0
    assert owner(index, ends(protocol=UDP)) == 0


def test_one_that_ended_is_known_for_a_while_and_not_before_it_began() -> None:
    index = ConnectionIndex()
    row = connection(begin_ns=T, ending=Ending.FIN_LOCAL)
    index.ended(row, numbers(7))
    end = int(row["end_ns"][0])
    assert [owner(index, ends(), at) for at in (T, end, end + GRACE_NS, end + GRACE_NS + 1, T - GRACE_NS - 1)] == [
        7, 7, 7, 0, 0
    ]  # fmt: skip


def test_ends_that_are_used_again_are_told_apart_by_time() -> None:
    index = ConnectionIndex()
    old = connection(begin_ns=T, ending=Ending.FIN_LOCAL, handshake_ns=0, lifetime_ns=SECOND)
    index.ended(old, numbers(7))
    read(index, [connection(begin_ns=T + 2 * SECOND)])
    assert owner(index, ends(), T + SECOND // 2) == 7
    assert owner(index, ends(), T + 2 * SECOND) == 1


def test_the_same_ends_in_two_namespaces_are_nobody_s_unless_they_are_of_one_process() -> None:
    index = ConnectionIndex()
    read(index, [connection(begin_ns=T, netns=1), connection(begin_ns=T, netns=2)])
    assert owner(index, ends()) == 0
    index.read(joined(connection(begin_ns=T), connection(begin_ns=T)), numbers(5, 5), datagrams()[:0], numbers(), T)
    assert owner(index, ends()) == 5


def test_udp_by_peer_then_by_local_end_then_by_port() -> None:
    index = ConnectionIndex()
    read(index, [], [
        datagrams(local_port=5353, remote_port=53, role=Role.CLIENT, begin_ns=T),
        datagrams(SERVER, CLIENT, local_port=53, remote_port=9, role=Role.SERVER, begin_ns=T),
        datagrams("10.0.0.7", "192.0.2.99", local_port=5353, remote_port=54, role=Role.CLIENT, begin_ns=T),
    ])  # fmt: skip
    assert owner(index, ends(CLIENT, 5353, SERVER, 53, UDP)) == 101
    assert owner(index, ends(CLIENT, 5353, "192.0.2.99", 54, UDP)) == 103
    assert owner(index, ends(CLIENT, 5353, "192.0.2.1", 55, UDP)) == 0, "two processes have this end"
    assert owner(index, ends(SERVER, 53, "198.51.100.1", 999, UDP)) == 102
    assert owner(index, ends("192.0.2.200", 53, "198.51.100.1", 999, UDP)) == 102
    assert owner(index, ends("192.0.2.200", 53, "198.51.100.1", 999, TCP)) == 0


def test_listeners_have_no_packets() -> None:
    index = ConnectionIndex()
    read(index, [connection(role=Role.LISTENER, begin_ns=T)])
    assert owner(index, ends()) == 0


def test_those_that_ended_are_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(connection_index, "RECENT_MAX", 10)
    index = ConnectionIndex()
    for port in range(1, 40):
        row = connection(begin_ns=T, ending=Ending.FIN_LOCAL, ports=(port, 443))
        index.ended(row, numbers(port))
    known = [owner(index, ends(local_port=port), T) for port in range(1, 40)]
    assert [number for number in known if number] == list(range(30, 40))
    assert sum(len(rows) for _, rows, _ in index._ended) == 10
    assert owner(ConnectionIndex(), ends()) == 0


def test_nothing_is_nothing() -> None:
    index = ConnectionIndex()
    index.ended(joined(), numbers())
    index.closed(datagrams()[:0], numbers())
    assert len(index.find(np.zeros(0, ENDS), np.zeros(0, np.int64)).number) == 0


def test_a_port_alone_tells_nothing_of_a_packet_that_may_be_passed_on() -> None:
    index = ConnectionIndex()
    read(index, [], [datagrams(begin_ns=T)])
    row = datagrams(begin_ns=T)
    port = int(row["local_port"][0])
    other_peer = ends(local_port=port, remote="192.0.2.99", remote_port=53, protocol=UDP)
    other_peer["local"] = row["local"]
    other_address = ends(local="192.0.2.98", local_port=port, remote="192.0.2.99", remote_port=53, protocol=UDP)
    for asked, strictly, loosely in ((other_peer, 101, 101), (other_address, 0, 101)):
        assert int(index.find(asked, np.array([T]), any_address=False).number[0]) == strictly
        assert int(index.find(asked, np.array([T])).number[0]) == loosely


def test_how_long_the_handshake_took_where_it_was_seen() -> None:
    index = ConnectionIndex()
    read(index, [
        connection(begin_ns=T, handshake_ns=7 * MS),
        connection(SERVER, CLIENT, role=Role.SERVER, ports=(443, 40_000), begin_ns=T, handshake_ns=0, established_ns=T + 3),
        adopted(ports=(40_001, 443), begin_ns=T),
        connection(ports=(40_002, 443), begin_ns=T, handshake_ns=0, established_ns=0),
    ], [datagrams(local_port=53, begin_ns=T)])  # fmt: skip
    asked = [ends(), ends(SERVER, 443, CLIENT, 40_000), ends(local_port=40_001), ends(local_port=40_002)]
    asked += [ends(CLIENT, 53, SERVER, 9, UDP), ends(local_port=40_003)]
    found = index.find(np.concatenate(asked, dtype=ENDS), np.full(len(asked), T))
    assert found.connect_ns.tolist() == [7 * MS, 3, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN]
    assert found.established_ns.tolist() == [T + 7 * MS, T + 3, 0, 0, 0, 0]
    assert found.begin_ns.tolist() == [T] * 5 + [0]
    assert found.resent.tolist() == found.disordered.tolist() == [0, 0, 0, 0, UNKNOWN, UNKNOWN]


def test_what_was_sent_again_is_counted_from_the_reading_before() -> None:
    """Readings at 1, 3 and 5 s with 2, 5 and 11 segments; what begins between two of them has those since the earlier one."""
    index = ConnectionIndex()
    cookie = int(connection()["cookie"][0])
    for at, many in ((1, 2), (3, 5), (5, 11)):
        row = connection(begin_ns=T, cookie=cookie, out_of_order=7 * many)
        row["retransmits"][0, [0, 2]] = many - 1, 1
        read(index, [row], read_ns=T + at * SECOND)
    times = T + np.array([0, 1, 2, 3, 4]) * SECOND
    found = index.find(np.concatenate([ends()] * 5, dtype=ENDS), times)
    assert found.resent.tolist() == [11, 11, 11, 6, 6]
    assert found.disordered.tolist() == [77, 77, 77, 42, 42]
    ended = connection(begin_ns=T, cookie=cookie, out_of_order=80, ending=Ending.FIN_LOCAL, end_ns=T + 6 * SECOND)
    ended["retransmits"][0, 0] = 13
    index.ended(ended, numbers(1))
    read(index, [], read_ns=T + 7 * SECOND)
    found = index.find(np.concatenate([ends()] * 2, dtype=ENDS), T + np.array([4, 5]) * SECOND)
    assert found.resent.tolist() == [13, 2]
    assert found.disordered.tolist() == [80, 3]

"""Full tables, full rings, many at once: nothing is lost, nothing is counted twice. And UDP sockets."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from otel_netmon.abi import layout
from otel_netmon.abi.enums import TOTALS_UDP, ConnectionCount, ConnectionFlags, Ending, Late, Role, Who
from otel_netmon.enrich.addresses import address_text
from otel_netmon.kernel import syscalls
from support.netns import NetNs, namespace, veth_pair
from support.socket_programs import DEADLINE_SECONDS, Rows, SocketPrograms, observed

pytestmark = pytest.mark.kernel

AT_ONCE = 1009
PLACES = 61
OCTETS, BACK = 101, 1009
SO_COOKIE = 57
UDP_SEGMENT = 103


@pytest.fixture(autouse=True)
def _files() -> Iterator[None]:
    """Each connection has two descriptors in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def netns() -> Iterator[NetNs]:
    with namespace() as made:
        yield made


def pairs(netns: NetNs, count: int) -> list[tuple[socket.socket, socket.socket]]:
    """So many connections over loopback, established; OCTETS to the server and BACK to the client have been read."""
    made = []
    with netns.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        for _ in range(count):
            client = netns.socket(socket.AF_INET, socket.SOCK_STREAM)
            client.connect(listening.getsockname())
            made.append((client, listening.accept()[0]))
    for client, server in made:
        client.sendall(bytes(OCTETS))
        server.sendall(bytes(BACK))
        assert len(client.recv(BACK, socket.MSG_WAITALL)) == BACK
        assert len(server.recv(OCTETS, socket.MSG_WAITALL)) == OCTETS
    return made


def close(made: list[tuple[socket.socket, socket.socket]]) -> None:
    """The client first, then the server."""
    for client, server in made:
        client.shutdown(socket.SHUT_WR)
        assert server.recv(1) == b""
        server.close()
        assert client.recv(1) == b""
        client.close()


def total(totals: Rows, role: Role, ending: Ending) -> dict[str, int]:
    row = totals[role * Ending.NUMBER + ending]
    return {name: int(row[name]) for name in layout.CONNECTION_TOTALS.names or ()}


def test_what_has_no_place_is_counted_exactly(netns: NetNs) -> None:
    """1,009 connections at once in a table of 61: rows, records and totals add up, in octets too."""
    with observed(sizes={"connection_stats": PLACES}) as programs:
        made = pairs(netns, AT_ONCE)
        programs.wait_live(lambda rows: len(rows) in (PLACES, PLACES - 1))  # a place was the listener's
        live = programs.live()
        close(made)
        records = programs.wait_ended(len(live))
        deadline = time.monotonic() + DEADLINE_SECONDS
        while programs.totals()["connections"].sum() < 4 * AT_ONCE - 2 * len(live):
            assert time.monotonic() < deadline, programs.totals()["connections"]
        totals, counts = programs.totals(), programs.counts()
    for role, ending, received, sent in (
        (Role.CLIENT, Ending.FIN_LOCAL, BACK, OCTETS),
        (Role.SERVER, Ending.FIN_REMOTE, OCTETS, BACK),
    ):
        rows = records[records["role"] == role]
        left = AT_ONCE - len(rows)
        assert set(rows["ending"].tolist()) <= {ending}
        assert total(totals, role, Ending.NONE)["connections"] == left
        assert total(totals, role, ending) == {
            "connections": left,
            "bytes_received": left * received,
            "bytes_sent": left * sent,
            "packets_received": left,
            "packets_sent": left,
            "retransmits": 0,
        }
        assert rows["bytes_received"].sum() == len(rows) * received
        assert rows["bytes_sent"].sum() == len(rows) * sent
    assert totals["connections"].sum() == 2 * (2 * AT_ONCE - len(records))
    assert counts[ConnectionCount.NO_PLACE] == 2 * AT_ONCE - len(records)


def test_without_a_place_the_ending_is_told_as_well(netns: NetNs) -> None:
    """The one place there is belongs to a socket that is bound, and no more."""
    with (
        observed(sizes={"connection_stats": 1}) as programs,
        netns.socket(socket.AF_INET, socket.SOCK_STREAM) as holder,
    ):
        holder.bind(("127.0.0.1", 0))
        for _ in range(23):
            with netns.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
                assert client.connect_ex(("127.0.0.1", 81)) != 0
        for client, server in pairs(netns, 7):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
            with pytest.raises(ConnectionResetError):
                server.recv(1)
            server.close()
        totals = programs.totals()
        assert not len(programs.ended())
    assert total(totals, Role.CLIENT, Ending.REFUSED)["connections"] == 23
    assert total(totals, Role.SERVER, Ending.RESET_REMOTE)["connections"] == 7
    assert total(totals, Role.SERVER, Ending.RESET_REMOTE)["bytes_received"] == 7 * OCTETS
    assert total(totals, Role.CLIENT, Ending.RESET_LOCAL)["connections"] == 7
    assert total(totals, Role.CLIENT, Ending.RESET_LOCAL)["bytes_sent"] == 7 * OCTETS
    assert totals["connections"].sum() == 23 + 7 + 7 + 7 + 7


def test_more_than_can_be_told_are_counted_as_such(netns: NetNs) -> None:
    with observed(sizes={"connection_stats": 1, "connections_unplaced": 5}) as programs:
        made = pairs(netns, 11)
        counts = programs.counts()
        assert counts[ConnectionCount.NO_PLACE] == 22
        assert counts[ConnectionCount.UNTOLD] == 17
        close(made)
        totals = programs.totals()
        ended = (
            totals["connections"].sum()
            - totals[[role * Ending.NUMBER for role in range(Role.NUMBER)]]["connections"].sum()
        )
        assert ended + len(programs.ended()) == 5


@pytest.mark.parametrize("drains", [False, True], ids=["at-the-end", "all-the-time"])
def test_a_full_ring_loses_nothing_and_doubles_nothing(netns: NetNs, drains: bool) -> None:
    """A ring of one page has room for eleven records."""
    with observed(sizes={"connections": 4096}) as programs:
        for _ in range(7):
            close(pairs(netns, 101))
            if drains:
                programs.ended()
        rows = programs.wait_ended(2 * 707)
        assert len(np.unique(rows["cookie"])) == len(rows)
        assert set(rows["bytes_sent"].tolist()) == {OCTETS, BACK}
        assert (rows["end_ns"] > 0).all()
        assert not len(programs.live())
        counts = programs.counts()
        listeners = 7
        assert counts[ConnectionCount.RECORDS] + counts[ConnectionCount.RING_FULL] == len(rows) + listeners
        assert counts[ConnectionCount.RING_FULL] > 0
        assert counts[ConnectionCount.OPENED] == len(rows) + listeners
        assert programs.totals()["connections"].sum() == 0


def test_a_socket_that_ends_again_while_its_row_waits_is_overflow(netns: NetNs) -> None:
    """The ring is full, so the first attempt waits in the row; the next one of the same socket has no place."""
    with observed(sizes={"connections": 4096}) as programs, netns.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        close(pairs(netns, 23))
        for _ in range(3):
            assert client.connect_ex(("127.0.0.1", 81)) != 0
        cookie = int.from_bytes(client.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), "little")
        rows = programs.wait_ended(2 * 23 + 1)
        assert (rows["cookie"] == cookie).sum() == 1
        assert total(programs.totals(), Role.CLIENT, Ending.REFUSED)["connections"] == 2


def test_thousands_at_once_have_a_row_each(netns: NetNs) -> None:
    count = 4099
    with observed() as programs:
        made = pairs(netns, count)
        rows = programs.live()
        assert len(rows) == len(np.unique(rows["cookie"])) == 2 * count
        close(made)
        assert len(programs.wait_ended(2 * count)) == 2 * count
        assert programs.counts()[ConnectionCount.NO_PLACE] == 0


def test_a_socket_that_is_bound_and_closed_leaves_nothing(netns: NetNs) -> None:
    with observed() as programs:
        for _ in range(23):
            with netns.socket(socket.AF_INET, socket.SOCK_STREAM) as bound:
                bound.bind(("127.0.0.1", 0))
        counts = programs.counts()
        assert (counts[ConnectionCount.OPENED], counts[ConnectionCount.UNUSED]) == (23, 23)
        assert not len(programs.tcp.read().live)
        assert not len(programs.tcp.drain())


# ----------------------------------------------------------------------------------------------------------------- UDP
def udp_records(programs: SocketPrograms, count: int) -> Rows:
    deadline = time.monotonic() + DEADLINE_SECONDS
    taken = [programs.udp.drain()]
    while sum(map(len, taken)) < count:
        assert time.monotonic() < deadline
        taken += [programs.udp.drain(), programs.udp.read().ended]
    rows: Rows = np.concatenate(taken)
    assert len(rows) == count
    return rows


def counted(row: Any) -> dict[str, int]:
    names = ("packets", "bytes")
    return {
        f"{who}{name}_{way}": int(row[f"{who}{name}_{way}"])
        for who in ("", "other_")
        for name in names
        for way in ("received", "sent")
        if row[f"{who}{name}_{way}"]
    }


@pytest.mark.parametrize("version", [4, 6])
def test_datagrams_by_socket(version: int) -> None:
    """A client with one peer, a server with two: what each sent and received, whose it is, and who began."""
    family = {4: socket.AF_INET, 6: socket.AF_INET6}[version]
    with observed() as programs, veth_pair(ipv6=True) as (near, far, way):
        address = way.right_address if version == 4 else address_text(socket.inet_pton(10, way.right_address6))
        server = far.socket(family, socket.SOCK_DGRAM)
        server.bind((address, 0))
        port = server.getsockname()[1]
        clients = [near.socket(family, socket.SOCK_DGRAM) for _ in range(2)]
        clients[1].connect((address, port))
        for number, client in enumerate(clients):
            for _ in range(23):
                client.send(bytes(102)) if number else client.sendto(bytes(101), (address, port))
                data, peer = server.recvfrom(1000)
                server.sendto(data + b"answer!", peer)
                client.recv(1000)
        ends = [client.getsockname()[1] for client in clients]
        for end in (*clients, server):
            end.close()
        unused = near.socket(family, socket.SOCK_DGRAM)
        unused.close()
        rows = udp_records(programs, 3)
        assert programs.counts()[ConnectionCount.UDP_UNUSED] == 1
        assert not len(programs.udp.read().live)
    first, second, served = (
        next(row for row in rows if row["local_port"] == wanted) for wanted in (ends[0], ends[1], port)
    )
    assert counted(first) == {
        "packets_sent": 23, "packets_received": 23, "bytes_sent": 23 * 101, "bytes_received": 23 * 108
    }  # fmt: skip
    assert counted(second) == {
        "packets_sent": 23, "packets_received": 23, "bytes_sent": 23 * 102, "bytes_received": 23 * 109
    }  # fmt: skip
    assert counted(served) == {
        "packets_sent": 23, "packets_received": 23, "bytes_sent": 23 * 108, "bytes_received": 23 * 101,
        "other_packets_sent": 23, "other_packets_received": 23, "other_bytes_sent": 23 * 109,
        "other_bytes_received": 23 * 102,
    }  # fmt: skip
    assert [Role(int(row["role"])) for row in (first, second, served)] == [Role.CLIENT, Role.CLIENT, Role.SERVER]
    assert (address_text(bytes(first["remote"])), first["remote_port"]) == (address, port)
    assert (served["remote_port"], address_text(bytes(served["local"]))) == (ends[0], address)
    for row in rows:
        assert Who(int(row["who"])) == Who.OPENER
        assert row["tgid"] == row["closer_tgid"]
        assert 0 < row["begin_ns"] < row["end_ns"]


def test_a_super_packet_of_udp_is_as_many_datagrams() -> None:
    with observed() as programs, veth_pair() as (near, far, way):
        with far.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind((way.right_address, 0))
            with near.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1009)
                client.sendto(bytes(7 * 1009 + 11), server.getsockname())
                assert sum(len(server.recv(2000)) for _ in range(8)) == 7 * 1009 + 11
        rows = udp_records(programs, 2)
    assert [counted(row) for row in rows] == [
        {"packets_sent": 8, "bytes_sent": 7 * 1009 + 11},
        {"packets_received": 8, "bytes_received": 7 * 1009 + 11},
    ]


def test_a_socket_that_was_there_before_is_adopted_with_its_next_datagram(netns: NetNs) -> None:
    with netns.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        with observed() as programs, observed_socket(netns) as client:
            client.sendto(b"12345", server.getsockname())
            row = next(row for row in programs.udp.read().live if row["local_port"] == client.getsockname()[1])
            assert (Who(int(row["who"])), counted(row)) == (Who.OPENER, {"packets_sent": 1, "bytes_sent": 5})


@contextlib.contextmanager
def observed_socket(netns: NetNs) -> Iterator[socket.socket]:
    with netns.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        yield made


def test_datagrams_of_sockets_without_a_place_are_counted(netns: NetNs) -> None:
    with observed(sizes={"udp_stats": 7}) as programs:
        made = [netns.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(23)]
        with netns.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("127.0.0.1", 0))
            for client in made:
                client.sendto(bytes(101), server.getsockname())
                assert len(server.recv(200)) == 101
            rows, totals = programs.udp.read().live, programs.totals()[TOTALS_UDP]
            assert len(rows) == 7
            sent = int(rows["packets_sent"].sum() + rows["other_packets_sent"].sum())
            received = int(rows["packets_received"].sum() + rows["other_packets_received"].sum())
            assert (sent + int(totals["packets_sent"]), received + int(totals["packets_received"])) == (23, 23)
            assert int(totals["bytes_sent"]) == (23 - sent) * 101
            counts = programs.counts()
            assert counts[ConnectionCount.UDP_NO_PLACE] == 46 - sent - received
        for client in made:
            client.close()


def test_a_full_ring_of_udp_loses_nothing(netns: NetNs) -> None:
    with observed(sizes={"udp_records": 4096}) as programs:
        for _ in range(211):
            with netns.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.sendto(b"x", ("127.0.0.1", 9))
        rows = udp_records(programs, 211)
        assert len(np.unique(rows["cookie"])) == 211
        counts = programs.counts()
        assert counts[ConnectionCount.UDP_RECORDS] + counts[ConnectionCount.UDP_RING_FULL] == 211
        assert counts[ConnectionCount.UDP_RING_FULL] > 0


def test_rows_are_told_by_ring_once_it_has_room_again(netns: NetNs) -> None:
    """After a flood the ring serves as before: no row is left behind."""
    with observed(sizes={"connections": 4096}) as programs:
        close(pairs(netns, 101))
        programs.wait_ended(202)
        programs.forget()
        close(pairs(netns, 1))
        rows = programs.tcp.drain()
        assert (rows["role"] != Role.LISTENER).sum() == 2
        assert not (rows["flags"] & ConnectionFlags.ENDED).any()


def test_without_the_cookie_of_the_namespace_the_rest_is_told(netns: NetNs) -> None:
    """The variant for kernels before 5.15."""
    with observed(late={Late.NETNS: 0}) as programs:
        made = pairs(netns, 3)
        rows = programs.live()
        assert len(rows) == 6
        assert (rows["netns"] > 0).all()  # connect() and accept() tell it
        assert set(rows["who"].tolist()) == {Who.OPENER}
        close(made)
        assert len(programs.wait_ended(6)) == 6


def test_a_row_whose_end_nobody_told_leaves_after_all(netns: NetNs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program that follows sockets set its own flags in the place of ours."""
    with observed() as programs:
        ((client, server),) = pairs(netns, 1)
        rows = programs.live()
        row = rows[rows["role"] == Role.CLIENT].copy()
        row["cookie"], row["released"] = 1 << 40, 1
        syscalls.map_update(programs.loaded.maps["connection_stats"], row["cookie"].tobytes(), row.tobytes())
        assert len(programs.live()) == 3
        monkeypatch.setattr("otel_netmon.readers.connections.CLOSED_SECONDS_MAX", 0.0)
        (forgotten,) = programs.wait_ended(1)
        assert int(forgotten["cookie"]) == 1 << 40
        assert Ending(int(forgotten["ending"])) == Ending.UNKNOWN
        assert forgotten["end_ns"] > forgotten["begin_ns"]
        assert len(programs.live()) == 2
        client.close()
        server.close()
        assert len(programs.wait_ended(3)) == 3

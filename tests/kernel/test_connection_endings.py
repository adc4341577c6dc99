"""How a connection ended, by whom, and why it was never made: each way once, over IPv4 and IPv6."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

from otel_netmon.abi.enums import ConnectionFlags, Ending, Role, TcpState
from otel_netmon.enrich.addresses import address_text
from support.netns import NetNs, Veth, add_veth, namespaces
from support.socket_programs import SocketPrograms, describe, root_cgroup, socket_programs

pytestmark = pytest.mark.kernel

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
IPTABLES = {4: "iptables", 6: "ip6tables"}
NO_LINGER = struct.pack("ii", 1, 0)
SO_COOKIE = 57
SECONDS = 15.0
ICMP_UNREACHABLE = {4: 3, 6: 1}


class Pair(NamedTuple):
    """Both ends of a connection, as they are in this process, and their cookies."""

    client: socket.socket
    server: socket.socket
    client_cookie: int
    server_cookie: int


class Network:
    """Two namespaces with a veth pair between them, and the programs; a connection needs one address."""

    def __init__(self, near: NetNs, far: NetNs, way: Veth, programs: SocketPrograms, version: int) -> None:
        self.near, self.far, self.programs, self.version = near, far, programs, version
        self.address = way.right_address if version == 4 else address_text(socket.inet_pton(10, way.right_address6))
        self.nobody = "198.18.0.77" if version == 4 else "fd00::77"
        self.elsewhere = "203.0.113.7" if version == 4 else "fd07::7"
        self.server = far.socket(FAMILIES[version], socket.SOCK_STREAM)
        self.server.bind((self.address, 0))
        self.server.listen()
        self.port: int = self.server.getsockname()[1]

    def client(self) -> socket.socket:
        made = self.near.socket(FAMILIES[self.version], socket.SOCK_STREAM)
        made.settimeout(SECONDS)
        return made

    def pair(self) -> Pair:
        """A connection that is established."""
        client = self.client()
        client.connect((self.address, self.port))
        server, _ = self.server.accept()
        server.settimeout(SECONDS)
        return Pair(client, server, cookie(client), cookie(server))

    def tables(self, where: NetNs, *rule: str) -> None:
        where.run(IPTABLES[self.version], *rule)

    def record(self, number: int) -> Any:
        """The record of the socket with this cookie, once there is one."""
        deadline = time.monotonic() + SECONDS
        while True:
            rows = self.programs.ended()
            found = rows[rows["cookie"] == number]
            if len(found):
                assert len(found) == 1
                return found[0]
            assert time.monotonic() < deadline, "it has not ended"
            time.sleep(0.01)

    def state(self, number: int, *states: TcpState) -> None:
        """Waits until the row of a living connection is in one of these states."""
        self.programs.wait_live(lambda rows: bool(np.isin(rows["state"][rows["cookie"] == number], states).any()))

    def close(self) -> None:
        self.server.close()


def cookie(end: socket.socket) -> int:
    return int.from_bytes(end.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), "little")


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[NetNs, NetNs, Veth, SocketPrograms]]:
    with namespaces(2, ipv6=True) as (near, far), socket_programs(root_cgroup()) as programs:
        way = add_veth(near, far, ipv6=True)
        for family in ("ipv4", "ipv6"):
            near.run("sysctl", "-qw", f"net.{family}.neigh.left.retrans_time_ms=50")
        near.run("sysctl", "-qw", "net.ipv4.tcp_syn_retries=1")
        near.run("sysctl", "-qw", "net.ipv4.tcp_retries2=1")
        yield near, far, way, programs


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def network(both: tuple[NetNs, NetNs, Veth, SocketPrograms], request: pytest.FixtureRequest) -> Iterator[Network]:
    near, far, way, programs = both
    programs.forget()
    made = Network(near, far, way, programs, request.param)
    with contextlib.closing(made):
        yield made


def ending(row: Any) -> Ending:
    return Ending(int(row["ending"]))


# ------------------------------------------------------------------------------------------------- never established
def failed(network: Network, address: str, port: int, expected: int) -> Any:
    """The record of an attempt that connect() tells to have failed with this error."""
    with network.client() as client:
        number = cookie(client)
        assert client.connect_ex((address, port)) == expected
    row = network.record(number)
    assert Role(int(row["role"])) == Role.CLIENT
    assert (address_text(bytes(row["remote"])), int(row["remote_port"])) == (address, port)
    assert (row["established_ns"], row["handshake_ns"]) == (0, 0)
    assert row["begin_ns"] < row["end_ns"]
    return row


def test_refused(network: Network) -> None:
    row = failed(network, network.address, 81, errno.ECONNREFUSED)
    assert (ending(row), row["reset_received"], row["icmp_type"]) == (Ending.REFUSED, 1, 0)


@pytest.mark.parametrize(
    ("way", "code", "told"),
    [
        ({4: "icmp-host-unreachable", 6: "icmp6-addr-unreachable"}, {4: 1, 6: 3}, Ending.HOST_UNREACHABLE),
        ({4: "icmp-net-unreachable", 6: "icmp6-no-route"}, {4: 0, 6: 0}, Ending.NET_UNREACHABLE),
        ({4: "icmp-port-unreachable", 6: "icmp6-port-unreachable"}, {4: 3, 6: 4}, Ending.REFUSED),
        ({4: "icmp-admin-prohibited", 6: "icmp6-adm-prohibited"}, {4: 13, 6: 1}, Ending.HOST_UNREACHABLE),
        ({4: "icmp-net-prohibited", 6: "icmp6-no-route"}, {4: 9, 6: 0}, Ending.NET_UNREACHABLE),
        ({4: "tcp-reset", 6: "tcp-reset"}, {4: 0, 6: 0}, Ending.REFUSED),
    ],
    ids=["host", "net", "port", "prohibited", "net-prohibited", "reset"],
)
def test_rejected(network: Network, way: dict[int, str], code: dict[int, int], told: Ending) -> None:
    """A firewall on the way answers for the host, by ICMP or by RST."""
    rule = ("-p", "tcp", "--dport", "82", "-j", "REJECT", "--reject-with", way[network.version])
    network.tables(network.far, "-A", "INPUT", *rule)
    try:
        with network.client() as client:
            number = cookie(client)
            assert client.connect_ex((network.address, 82)) != 0
    finally:
        network.tables(network.far, "-D", "INPUT", *rule)
    row = network.record(number)
    kind = 0 if way[4] == "tcp-reset" else ICMP_UNREACHABLE[network.version]
    assert (ending(row), row["icmp_type"], row["icmp_code"]) == (told, kind, code[network.version])


def test_nobody_has_the_address(network: Network) -> None:
    """The kernel's own ICMP error, after it has asked for the neighbour in vain."""
    row = failed(network, network.nobody, 81, errno.EHOSTUNREACH)
    assert (ending(row), row["icmp_type"]) == (Ending.HOST_UNREACHABLE, ICMP_UNREACHABLE[network.version])


def test_nothing_answers(network: Network) -> None:
    rule = ("-p", "tcp", "--dport", "82", "-j", "DROP")
    network.tables(network.far, "-A", "INPUT", *rule)
    try:
        row = failed(network, network.address, 82, errno.ETIMEDOUT)
        assert ending(row) == Ending.CONNECT_TIMED_OUT
        assert row["retransmits"].sum() == row["retransmits"][3] > 0
        assert row["timeouts"] > row["retransmits"][3]
    finally:
        network.tables(network.far, "-D", "INPUT", *rule)


def test_given_up_by_the_process(network: Network) -> None:
    rule = ("-p", "tcp", "--dport", "82", "-j", "DROP")
    network.tables(network.far, "-A", "INPUT", *rule)
    try:
        with network.client() as client:
            number = cookie(client)
            client.setblocking(False)
            assert client.connect_ex((network.address, 82)) == errno.EINPROGRESS
            network.state(number, TcpState.SYN_SENT)
        row = network.record(number)
        assert (ending(row), row["released"]) == (Ending.ABANDONED, 1)
    finally:
        network.tables(network.far, "-D", "INPUT", *rule)


@pytest.mark.parametrize(("kind", "code"), [(None, errno.ENETUNREACH), ("unreachable", errno.EHOSTUNREACH)])
def test_no_way_out(network: Network, kind: str | None, code: int) -> None:
    """connect() fails before there is a SYN; which of its errors it was no hook shows."""
    route = ("ip", f"-{network.version}", "route")
    if kind is not None:
        network.near.run(*route, "add", kind, network.elsewhere)
    try:
        row = failed(network, network.elsewhere, 81, code)
    finally:
        if kind is not None:
            network.near.run(*route, "delete", kind, network.elsewhere)
    assert ending(row) == Ending.NOT_SENT
    assert not row["flags"] & ConnectionFlags.SENT


def test_each_attempt_of_one_socket_is_a_connection_of_its_own(network: Network) -> None:
    """First there is no route, then nobody listens, then it is established: one cookie, three records."""
    with network.client() as client:
        number = cookie(client)
        client.settimeout(None)  # or the error of one attempt is told by the next
        assert client.connect_ex((network.elsewhere, 81)) == errno.ENETUNREACH
        assert client.connect_ex((network.address, 81)) == errno.ECONNREFUSED
        client.connect((network.address, network.port))
        server, _ = network.server.accept()
        server.close()
        assert client.recv(1) == b""
    deadline = time.monotonic() + SECONDS
    while len(rows := network.programs.ended()[network.programs.ended()["cookie"] == number]) < 3:
        assert time.monotonic() < deadline
    assert [ending(row) for row in rows] == [Ending.NOT_SENT, Ending.REFUSED, Ending.FIN_REMOTE]


# ------------------------------------------------------------------------------------------------------- established
def both_records(network: Network, pair: Pair) -> tuple[Any, Any]:
    client, server = network.record(pair.client_cookie), network.record(pair.server_cookie)
    assert (Role(int(client["role"])), Role(int(server["role"]))) == (Role.CLIENT, Role.SERVER)
    for ours, theirs in ((client, server), (server, client)):
        assert bytes(ours["local"]) == bytes(theirs["remote"])
        assert ours["local_port"] == theirs["remote_port"]
        assert 0 < ours["begin_ns"] < ours["established_ns"] < ours["end_ns"]
        assert 0 < ours["handshake_ns"] <= ours["established_ns"] - ours["begin_ns"]
        assert ours["state"] == TcpState.CLOSE
    return client, server


def octets(row: Any) -> tuple[int, int]:
    return int(row["bytes_received"]), int(row["bytes_sent"])


def test_the_client_closes_first(network: Network) -> None:
    pair = network.pair()
    pair.client.sendall(bytes(1009))
    pair.server.sendall(bytes(70_001))
    assert len(pair.client.recv(70_001, socket.MSG_WAITALL)) == 70_001
    assert len(pair.server.recv(1009, socket.MSG_WAITALL)) == 1009
    pair.client.close()
    network.state(pair.server_cookie, TcpState.CLOSE_WAIT)
    pair.server.close()
    client, server = both_records(network, pair)
    assert (ending(client), ending(server)) == (Ending.FIN_LOCAL, Ending.FIN_REMOTE)
    assert (octets(client), octets(server)) == ((70_001, 1009), (1009, 70_001))


def test_the_server_closes_first(network: Network) -> None:
    pair = network.pair()
    pair.server.close()
    assert pair.client.recv(1) == b""
    pair.client.close()
    client, server = both_records(network, pair)
    assert (ending(client), ending(server)) == (Ending.FIN_REMOTE, Ending.FIN_LOCAL)
    assert (octets(client), octets(server)) == ((0, 0), (0, 0))


def test_half_closed(network: Network) -> None:
    """What comes after the own FIN counts too."""
    pair = network.pair()
    pair.client.sendall(bytes(11))
    pair.client.shutdown(socket.SHUT_WR)
    assert len(pair.server.recv(100, socket.MSG_WAITALL)) == 11
    pair.server.sendall(bytes(503))
    pair.server.close()
    assert len(pair.client.recv(1000, socket.MSG_WAITALL)) == 503
    pair.client.close()
    client, server = both_records(network, pair)
    assert (ending(client), ending(server)) == (Ending.FIN_LOCAL, Ending.FIN_REMOTE)
    assert (octets(client), octets(server)) == ((503, 11), (11, 503))


@pytest.mark.parametrize("who", ["client", "server"])
def test_reset(network: Network, who: str) -> None:
    pair = network.pair()
    pair.client.sendall(bytes(101))
    assert len(pair.server.recv(101, socket.MSG_WAITALL)) == 101
    closes, other = (pair.client, pair.server) if who == "client" else (pair.server, pair.client)
    closes.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    closes.close()
    with pytest.raises(ConnectionResetError):
        other.recv(1)
    other.close()
    rows = both_records(network, pair)
    ours, theirs = rows if who == "client" else rows[::-1]
    assert (ending(ours), ending(theirs)) == (Ending.RESET_LOCAL, Ending.RESET_REMOTE)
    assert (ours["reset_sent"], ours["reset_received"]) == (1, 0)
    assert (theirs["reset_sent"], theirs["reset_received"]) == (0, 1)
    assert (octets(rows[0]), octets(rows[1])) == ((0, 101), (101, 0))


def test_closed_with_data_that_nobody_read(network: Network) -> None:
    pair = network.pair()
    pair.server.sendall(bytes(97))
    assert len(pair.client.recv(97, socket.MSG_PEEK | socket.MSG_WAITALL)) == 97
    pair.client.close()
    with pytest.raises(ConnectionResetError):
        pair.server.recv(1)
    pair.server.close()
    client, server = both_records(network, pair)
    assert (ending(client), ending(server)) == (Ending.RESET_LOCAL, Ending.RESET_REMOTE)
    assert (octets(client), octets(server)) == ((97, 0), (0, 97))


def test_the_other_side_is_gone(network: Network) -> None:
    """Established, then every segment is dropped: the retransmission timer gives up."""
    pair = network.pair()
    network.tables(network.far, "-A", "INPUT", "-p", "tcp", "-j", "DROP")
    try:
        pair.client.sendall(bytes(13))
        with pytest.raises(TimeoutError):
            pair.client.recv(1)
        row = network.record(pair.client_cookie)
    finally:
        network.tables(network.far, "-F", "INPUT")
    assert ending(row) == Ending.TIMED_OUT
    assert octets(row) == (0, 0)
    assert row["retransmits"].sum() > 0
    pair.client.close()
    pair.server.close()


def test_nobody_answers_keep_alive_probes(network: Network) -> None:
    pair = network.pair()
    pair.client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT):
        pair.client.setsockopt(socket.IPPROTO_TCP, option, 1)
    network.tables(network.far, "-A", "INPUT", "-p", "tcp", "-j", "DROP")
    try:
        with pytest.raises(TimeoutError):
            pair.client.recv(1)
        row = network.record(pair.client_cookie)
    finally:
        network.tables(network.far, "-F", "INPUT")
    assert ending(row) == Ending.TIMED_OUT
    pair.client.close()
    pair.server.close()


def test_answered_keep_alive_probes_do_not_make_a_reset_a_timeout(network: Network) -> None:
    pair = network.pair()
    pair.client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL):
        pair.client.setsockopt(socket.IPPROTO_TCP, option, 1)
    network.programs.wait_live(lambda rows: rows["probes"][rows["cookie"] == pair.client_cookie].any())
    pair.client.sendall(b"x")
    assert pair.server.recv(1) == b"x"
    pair.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    pair.client.close()
    with pytest.raises(ConnectionResetError):
        pair.server.recv(1)
    pair.server.close()
    client, server = both_records(network, pair)
    assert (ending(client), ending(server)) == (Ending.RESET_LOCAL, Ending.RESET_REMOTE)


def test_a_listener_is_a_row_and_no_connection(network: Network) -> None:
    with network.far.socket(FAMILIES[network.version], socket.SOCK_STREAM) as server:
        server.bind((network.address, 0))
        number = cookie(server)
        server.listen()
        rows = network.programs.tcp.read().live
        (row,) = rows[rows["cookie"] == number]
        assert (Role(int(row["role"])), TcpState(int(row["state"]))) == (Role.LISTENER, TcpState.LISTEN)
        assert int(row["local_port"]) == server.getsockname()[1]
    rows = network.programs.tcp.read().live
    assert not (rows["cookie"] == number).any(), describe(rows[0])


def test_states_follow_the_socket(network: Network) -> None:
    """Each state that a socket with a descriptor can stay in, as the socket itself tells it."""

    def state(end: socket.socket) -> int:
        return end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]

    def rows_agree(pair: Pair) -> None:
        for end, number in ((pair.client, pair.client_cookie), (pair.server, pair.server_cookie)):
            network.state(number, TcpState(state(end)))

    pair = network.pair()
    rows_agree(pair)
    pair.client.shutdown(socket.SHUT_WR)
    network.state(pair.server_cookie, TcpState.CLOSE_WAIT)
    network.state(pair.client_cookie, TcpState.FIN_WAIT2)
    rows_agree(pair)
    network.tables(network.near, "-A", "INPUT", "-p", "tcp", "-j", "DROP")
    try:
        pair.server.shutdown(socket.SHUT_WR)
        network.state(pair.server_cookie, TcpState.LAST_ACK)
        rows_agree(pair)
    finally:
        network.tables(network.near, "-F", "INPUT")
    pair.client.close()
    pair.server.close()
    both_records(network, pair)

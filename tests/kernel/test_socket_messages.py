"""Messages at sockets, in the kernel alone: what is kept of a connection ends with it, however it ends."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import time
from collections.abc import Iterator

import pytest

from otel_netmon.abi.enums import NAMESPACE_SOCKET, Direction, Late, MessageCount, MessageKind
from otel_netmon.kernel import syscalls
from otel_netmon.kernel.messages import DNS_PORTS, set_message_ports
from otel_netmon.readers.messages import MessageCounts, Messages, http_messages, parse_messages
from otel_netmon.readers.ring import RingReader
from support import dns_messages as dns, dtls_datagrams
from support.netns import NetNs, namespace
from support.socket_programs import SocketPrograms, cgroup, inside_cgroup, observed, socket_programs

pytestmark = pytest.mark.kernel

LOOKS = {Late.MESSAGES: 1, Late.STREAMS: 1, Late.HTTP: 1}
RING = 1 << 22
REQUEST = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
OPEN_ENDED = b"HTTP/1.1 200 OK\r\n\r\n"
LINGER = struct.pack("ii", 1, 0)
DEADLINE_SECONDS = 20.0


class Watched:
    """socket_monitor that looks for messages."""

    def __init__(self, programs: SocketPrograms) -> None:
        self.programs = programs
        for name in ("netmon_dns", "netmon_stream", "netmon_http", "netmon_http2"):
            programs.loaded.program(name, {Late.HTTP: 1})
        set_message_ports(programs.loaded, DNS_PORTS)
        self.ring = RingReader(programs.loaded.maps["messages"], RING)
        self._counts = MessageCounts(programs.loaded.maps["message_counts"], syscalls.possible_cpus())

    def records(self) -> Messages:
        return parse_messages(self.ring.drain())

    def counts(self) -> dict[MessageCount, int]:
        return {what: count for what, count in self._counts.read().items() if count}

    def kept(self) -> int:
        """Connections of which something is kept."""
        return len(list(syscalls.map_keys(self.programs.loaded.maps["socket_streams"], 8)))

    def wait_nothing_kept(self) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while self.kept():
            assert time.monotonic() < deadline, f"{self.kept()} connections are kept"
            time.sleep(0.02)


@pytest.fixture
def watched() -> Iterator[Watched]:
    with observed(late=LOOKS, sizes={"messages": RING, "http_connections": 4096}) as programs:
        made = Watched(programs)
        yield made
        made.ring.close()


@pytest.fixture
def where() -> Iterator[NetNs]:
    with namespace(ipv6=True) as made:
        yield made


@contextlib.contextmanager
def pair(where: NetNs, address: str = "127.0.0.1") -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection over loopback; whoever is still open is closed."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with where.socket(family, socket.SOCK_STREAM) as listening:
        listening.bind((address, 0))
        listening.listen()
        client = where.socket(family, socket.SOCK_STREAM)
        client.connect(listening.getsockname())
        server, _ = listening.accept()
    for end in (client, server):
        end.settimeout(DEADLINE_SECONDS)
    with client, server:
        yield client, server


def exchange(client: socket.socket, server: socket.socket, response: bytes = RESPONSE) -> None:
    client.sendall(REQUEST)
    server.recv(4096)
    server.sendall(response)
    client.recv(4096)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_both_ends_of_a_connection_tell_its_requests(watched: Watched, where: NetNs, address: str) -> None:
    with pair(where, address) as (client, server):
        for _ in range(7):
            exchange(client, server)
    heads = watched.records().heads
    assert set(heads["namespace"].tolist()) == {NAMESPACE_SOCKET}
    assert sorted(zip(heads["direction"].tolist(), heads["kind"].tolist(), strict=True)) == sorted(
        [(direction, int(MessageKind.HTTP)) for direction in Direction] * 7
    )
    assert len(set(heads["ifindex"].tolist())) == 2
    sent = heads[heads["direction"] == Direction.TRANSMIT]
    assert len(set(sent["cgroup"].tolist())) == 1
    assert 0 not in sent["cgroup"]
    assert watched.counts() == {MessageCount.HTTP_REQUESTS: 14}
    watched.wait_nothing_kept()


@pytest.mark.parametrize("who_first", ["client", "server", "reset by the client", "reset by the server", "unread data"])
def test_nothing_is_kept_of_a_connection_that_ended(watched: Watched, where: NetNs, who_first: str) -> None:
    for _ in range(11):
        with pair(where) as (client, server):
            exchange(client, server)
            assert watched.kept() == 2
            if who_first == "client":
                client.close()
                assert server.recv(1) == b""
            elif who_first == "server":
                server.close()
                assert client.recv(1) == b""
            elif who_first == "unread data":
                server.sendall(b"x")
                client.close()
                with contextlib.suppress(ConnectionResetError):
                    server.recv(1)
            else:
                end, other = (client, server) if "client" in who_first else (server, client)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
                end.close()
                with pytest.raises(ConnectionResetError):
                    other.recv(1)
        watched.wait_nothing_kept()
    assert watched.counts()[MessageCount.HTTP_REQUESTS] == 22


@pytest.mark.parametrize("is_reset", [False, True])
def test_a_response_ends_with_its_connection(watched: Watched, where: NetNs, *, is_reset: bool) -> None:
    """RST of a socket that is closed is sent when the connection has ended for everybody else."""
    with pair(where) as (client, server):
        exchange(client, server, OPEN_ENDED)
        if is_reset:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
        server.close()
        with contextlib.suppress(ConnectionResetError):
            client.recv(1)
        found = http_messages(watched.records()).http
        assert found["status"].tolist() == [200, 200]
        complete, server_reset = 8, 32
        assert [bool(flags & complete) for flags in found["flags"].tolist()] == [not is_reset] * 2
        assert [bool(flags & server_reset) for flags in found["flags"].tolist()] == [is_reset] * 2
    watched.wait_nothing_kept()


def test_a_connection_that_was_there_before_is_followed_and_forgotten(where: NetNs) -> None:
    with cgroup() as folder, inside_cgroup(folder), pair(where) as (client, server):
        exchange(client, server)
        with socket_programs(folder, late=LOOKS, sizes={"messages": RING, "http_connections": 64}) as programs:
            watched = Watched(programs)
            for _ in range(5):
                exchange(client, server)
            assert watched.counts() == {MessageCount.HTTP_REQUESTS: 10}
            assert watched.kept() == 2
            client.close()
            assert server.recv(1) == b""
            server.close()
            watched.wait_nothing_kept()
            watched.ring.close()


def test_connections_without_a_place_are_counted(where: NetNs) -> None:
    with observed(late=LOOKS, sizes={"messages": RING, "http_connections": 64, "socket_streams": 1}) as programs:
        watched = Watched(programs)
        with pair(where) as (client, server):
            exchange(client, server)
            assert watched.kept() == 1
            assert watched.counts()[MessageCount.STREAM_LOST_TABLE] >= 1
        watched.wait_nothing_kept()
        watched.ring.close()


def test_a_lookup_that_is_sent_to_another_address_has_that_of_its_process(watched: Watched, where: NetNs) -> None:
    """As a resolver inside of a container is: the address is changed on the way out, and back on the way in (DNAT)."""
    rule = "-t nat -A OUTPUT -d 127.0.0.11 -p udp --dport 53 -j DNAT --to-destination 127.0.0.1:5533"
    done = subprocess.run(where.command("iptables", *rule.split()), capture_output=True, check=False)
    if done.returncode:
        pytest.skip("this kernel has no NAT")
    with (
        where.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        where.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.bind(("127.0.0.1", 5533))
        client.connect(("127.0.0.11", 53))
        for end in (server, client):
            end.settimeout(DEADLINE_SECONDS)
        for number in range(13):
            client.send(dns.query(number, "name.example"))
            query, peer = server.recvfrom(512)
            server.sendto(dns.response(int.from_bytes(query[:2], "big"), "name.example"), peer)
            client.recv(512)
    heads = watched.records().heads
    assert heads["kind"].tolist() == [int(MessageKind.DNS_ANSWER)] * 13
    assert {bytes(head["source"]) for head in heads} == {bytes(10) + b"\xff\xff" + bytes([127, 0, 0, 11])}
    assert set(heads["source_port"].tolist()) == {53}
    assert watched.counts() == {MessageCount.DNS_QUERIES: 13, MessageCount.DNS_ANSWERS: 13}


@contextlib.contextmanager
def datagram_pair(
    where: NetNs, address: str, *, client_is_seen: bool
) -> Iterator[tuple[socket.socket, socket.socket, Watched]]:
    """A client and a server over UDP, and the programs at a cgroup that the server's socket is in, and perhaps the client's."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.ExitStack() as stack:
        remote = None if client_is_seen else stack.enter_context(where.socket(family, socket.SOCK_DGRAM))
        watched = Watched(stack.enter_context(observed(late=LOOKS, sizes={"messages": RING})))
        stack.callback(watched.ring.close)
        client = stack.enter_context(where.socket(family, socket.SOCK_DGRAM)) if remote is None else remote
        server = stack.enter_context(where.socket(family, socket.SOCK_DGRAM))
        for end in (client, server):
            end.settimeout(DEADLINE_SECONDS)
        yield client, server, watched


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("client_is_seen", [True, False])
def test_a_lookup_is_told_once(where: NetNs, address: str, *, client_is_seen: bool) -> None:
    with datagram_pair(where, address, client_is_seen=client_is_seen) as (client, server, watched):
        server.bind((address, 53))
        for number in range(13):
            for _ in range(2):
                client.sendto(dns.query(number, "name.example"), server.getsockname())
                query, peer = server.recvfrom(512)
            server.sendto(dns.response(int.from_bytes(query[:2], "big"), "name.example"), peer)
            client.recv(512)
        heads = watched.records().heads
        assert heads["kind"].tolist() == [int(MessageKind.DNS_ANSWER)] * 13
        assert heads["retries"].tolist() == [1] * 13
        assert set(heads["direction"].tolist()) == {Direction.TRANSMIT if client_is_seen else Direction.RECEIVE}
        assert (heads["cgroup"] != 0).tolist() == [client_is_seen] * 13
        seen = {MessageCount.DNS_QUERIES: 26, MessageCount.DNS_RETRIES: 13, MessageCount.DNS_ANSWERS: 13}
        assert watched.counts() == seen


@pytest.mark.parametrize("client_is_seen", [True, False])
def test_a_hello_of_dtls_is_told_once(where: NetNs, *, client_is_seen: bool) -> None:
    with datagram_pair(where, "127.0.0.1", client_is_seen=client_is_seen) as (client, server, watched):
        server.bind(("127.0.0.1", 0))
        for _ in range(3):
            client.sendto(dtls_datagrams.hello(b"name.example"), server.getsockname())
            _, peer = server.recvfrom(2048)
            server.sendto(b"no DTLS", peer)
            client.recv(512)
        heads = watched.records().heads
        assert heads["kind"].tolist() == [int(MessageKind.DTLS)] * 3
        assert set(heads["direction"].tolist()) == {Direction.TRANSMIT if client_is_seen else Direction.RECEIVE}
        assert watched.counts() == {MessageCount.DTLS: 3}

"""DNS on real interfaces: sockets of a network namespace whose loopback carries the programs in both directions."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from struct import pack
from typing import Any, NamedTuple

import numpy.typing as npt
import pytest

from otel_netmon.abi.enums import MESSAGE_BYTES_MAX, Direction, MessageCount, MessageKind
from otel_netmon.readers.messages import Messages
from support import dns_messages as dns
from support.message_programs import MessagePrograms
from support.netns import NetNs, namespace

pytestmark = pytest.mark.kernel

NAME = "www.example.org"
RECORDS_OF_A_PACKET_MAX = 4
UDP_SEGMENT = 103  # linux/udp.h


class Loopback(NamedTuple):
    """A namespace, and the programs at its loopback: every packet is seen when it leaves and when it arrives."""

    netns: NetNs
    programs: MessagePrograms

    def pair(self, family: int, kind: int) -> tuple[socket.socket, socket.socket]:
        """A client connected to port 53, and what it is connected to: a bound socket, or a listening one."""
        address = "127.0.0.1" if family == socket.AF_INET else "::1"
        server, client = (self.netns.socket(family, kind) for _ in range(2))
        server.bind((address, 53))
        if kind == socket.SOCK_STREAM:
            server.listen()
        client.connect((address, 53))
        return client, server


@pytest.fixture
def loopback() -> Iterator[Loopback]:
    with (
        namespace(ipv6=True) as netns,
        MessagePrograms(replay=0, sizes={"messages": 1 << 22}) as programs,
        programs.attached(netns, namespace=1),
    ):
        yield Loopback(netns, programs)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_every_lookup_is_seen_at_both_ends_with_its_time(loopback: Loopback, family: int) -> None:
    client, server = loopback.pair(family, socket.SOCK_DGRAM)
    answers, times = [], []
    with client, server:
        for number in range(1009):
            before = time.monotonic_ns()
            client.send(dns.query(number, f"host{number}.example.org"))
            query, peer = server.recvfrom(512)
            answers.append(dns.response(number, f"host{number}.example.org", dns.address("192.0.2.1")))
            assert query[:2] == answers[-1][:2]
            server.sendto(answers[-1], peer)
            assert client.recv(512) == answers[-1]
            times.append((before, time.monotonic_ns()))
    records = loopback.programs.records()
    heads = records.heads
    assert heads["kind"].tolist() == [MessageKind.DNS_ANSWER] * 2 * 1009
    # The answer leaves before it arrives, and belongs first to the query that has arrived.
    assert heads["direction"].tolist() == [Direction.RECEIVE, Direction.TRANSMIT] * 1009
    assert set(heads["namespace"].tolist()) == {1}
    for number, head in enumerate(heads):
        before, after = times[number // 2]
        assert before <= head["first_request_time_ns"] == head["request_time_ns"] < head["time_ns"] <= after
        assert records.payload(number) == answers[number // 2]
    assert loopback.programs.counts() == {MessageCount.DNS_QUERIES: 2 * 1009, MessageCount.DNS_ANSWERS: 2 * 1009}
    assert len(loopback.programs.open_queries.read().keys) == 0


def test_a_long_answer_is_carried_up_to_the_limit(loopback: Loopback) -> None:
    answer = dns.response(7, NAME, *[dns.address(f"192.0.2.{n % 256}") for n in range(997)])
    client, server = loopback.pair(socket.AF_INET, socket.SOCK_DGRAM)
    with client, server:
        client.send(dns.query(7, NAME))
        server.sendto(answer, server.recvfrom(512)[1])
        assert client.recv(1 << 16) == answer
    records = loopback.programs.records()
    assert records.heads["payload_length"].tolist() == [len(answer)] * 2
    assert records.heads["captured_length"].tolist() == [MESSAGE_BYTES_MAX] * 2
    assert records.payload(0) == records.payload(1) == answer[:MESSAGE_BYTES_MAX]


def test_datagrams_sent_as_one_are_counted_as_lost(loopback: Loopback) -> None:
    query = dns.query(7, NAME)
    client, server = loopback.pair(socket.AF_INET, socket.SOCK_DGRAM)
    with client, server:
        client.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, len(query))
        client.send(query * 23)
        assert [server.recv(512) for _ in range(23)] == [query] * 23
    counts = loopback.programs.counts()
    assert counts[MessageCount.LOST_COALESCED], "the kernel gave no super-packet: that way is not checked"
    assert counts[MessageCount.DNS_QUERIES] + counts[MessageCount.LOST_COALESCED] == 2 * 23


def stream(records: Messages, direction: Direction, port: int) -> dict[int, bytes]:
    """What the records of one side carry, by sequence number."""
    heads = records.heads
    wanted = (heads["direction"] == direction) & (heads["source_port"] == port)
    return {
        int(heads["sequence"][n]): records.payload(int(n)) for n in wanted.nonzero()[0] if heads["payload_length"][n]
    }


def test_segments_and_super_packets_of_tcp(loopback: Loopback) -> None:
    message = dns.response(7, NAME, *[dns.address(f"192.0.2.{n % 256}") for n in range(3900)])
    sent = pack(">H", len(message)) + message
    client, listening = loopback.pair(socket.AF_INET, socket.SOCK_STREAM)
    with client, listening:
        server = listening.accept()[0]
        with server:
            client.sendall(b"\0\x05query")
            assert server.recv(100) == b"\0\x05query"
            server.sendall(sent)
            received = b""
            while len(received) < len(sent):
                received += client.recv(1 << 17)
            assert received == sent
    records = loopback.programs.records()
    heads = records.heads
    assert set(heads["kind"].tolist()) == {MessageKind.DNS_SEGMENT}
    assert MessageCount.LOST_RING not in loopback.programs.counts()
    for direction in Direction:
        side = heads[(heads["direction"] == direction) & (heads["source_port"] == 53)]
        begin = int(side["sequence"][side["tcp_flags"] & 2 != 0][0])
        data = side[side["payload_length"] > 0]
        # Every octet is told: as carried, or as the rest of a packet of which the limit of records left out some.
        assert data["sequence"][0] == begin
        steps = data["payload_length"].astype("u4")
        assert (data["sequence"][1:] == (data["sequence"] + steps)[:-1]).all()
        assert int(steps.sum()) == len(sent)
        assert (data["captured_length"] < data["payload_length"]).any(), "no super-packet was that long"
        for sequence, payload in stream(records, direction, 53).items():
            at = (sequence - begin) & 0xFFFFFFFF
            assert payload == sent[at : at + len(payload)]
        assert int(data["captured_length"].max()) == MESSAGE_BYTES_MAX
    carried = stream(records, Direction.TRANSMIT, 53)
    assert sum(map(len, carried.values())) >= RECORDS_OF_A_PACKET_MAX * MESSAGE_BYTES_MAX
    assert list(stream(records, Direction.TRANSMIT, client_port(heads)).values()) == [b"\0\x05query"]


def client_port(heads: npt.NDArray[Any]) -> int:
    ports = set(heads["source_port"].tolist()) - {53}
    assert len(ports) == 1
    return int(ports.pop())

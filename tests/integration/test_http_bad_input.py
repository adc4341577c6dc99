"""Requests that are made to hurt: what they cost is bounded, all of them is told or counted, and others are counted as ever."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import hpack
import pytest

from bench.resident import usage
from otel_netmon.kernel.messages import HTTP_CONNECTIONS_MAX
from support import http2_frames as f
from support.agent import Agent, agent
from support.frames import ACK, ethernet, ipv4, tcp
from support.netns import NetNs, Veth, veth_pair

pytestmark = pytest.mark.kernel

PORT = 8092
STREAMS = 10_007
CONNECTIONS = 65_521
TIMEOUT_S = 3
GROWTH_MB = 40
"""What all of a test may add to the pipeline, garbage of Python's allocator and its first use of HTTP/2 included."""

Ends = tuple[socket.socket, socket.socket]
Told = Counter[tuple[str, str]]


@pytest.fixture
def link() -> Iterator[tuple[NetNs, NetNs, Veth]]:
    with veth_pair() as made:
        yield made


@contextmanager
def watched(link: tuple[NetNs, NetNs, Veth], *more: str) -> Iterator[tuple[Agent, Callable[[], Ends]]]:
    """An agent at the server; gives it and what makes a connection."""
    near, far, pair = link
    options = ["--interface", pair.right, "--set", f"interfaces.namespaces={far.name}", *more]
    with (
        ExitStack() as stack,
        agent(*options) as running,
        far.socket(socket.AF_INET, socket.SOCK_STREAM) as listener,
    ):
        listener.settimeout(60)
        listener.bind((pair.right_address, PORT))
        listener.listen(64)

        def connect() -> Ends:
            client = stack.enter_context(near.socket(socket.AF_INET, socket.SOCK_STREAM))
            client.connect((pair.right_address, PORT))
            return client, stack.enter_context(listener.accept()[0])

        ask(connect())  # what is loaded and learnt with the first of all
        ask_in_http2(connect())
        running.wait(lambda: told(running)["200", ""] == 2, 60, "the first requests")
        before = usage(running.pipeline_pid())["pss"]
        yield running, connect
        ask(connect())
        running.wait(lambda: told(running)["200", ""] >= 3, 60, "the last request")
        assert usage(running.pipeline_pid())["pss"] - before < GROWTH_MB


def say(one: socket.socket, other: socket.socket, data: bytes) -> None:
    """Sends, and reads it at the other end meanwhile."""
    sent, left = 0, len(data)
    while left:
        if sent < len(data):
            sent += one.send(data[sent : sent + 65536])
        left -= len(other.recv(1 << 20))


def ask(ends: Ends) -> None:
    client, server = ends
    say(client, server, b"GET /fine HTTP/1.1\r\nHost: shop.example\r\n\r\n")
    say(server, client, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


def asking(encoder: hpack.Encoder, *fields: tuple[str, str]) -> bytes:
    named = [(":method", "GET"), (":scheme", "http"), (":path", "/fine"), (":authority", "shop.example")]
    return bytes(encoder.encode([*named, *fields]))


def ask_in_http2(ends: Ends) -> None:
    client, server = ends
    say(client, server, f.PREFACE + f.settings() + f.headers(1, asking(hpack.Encoder()), end=True))
    say(server, client, f.settings() + f.headers(1, hpack.Encoder().encode([(":status", "200")]), end=True))


def told(running: Agent) -> Told:
    """Requests by status and error."""
    found: Told = Counter()
    for labels, value in running.samples("http_server_request_duration_seconds_count"):
        found[labels.get("http_response_status_code", ""), labels.get("error_type", "")] += int(value)
    return +found


def faults(running: Agent) -> dict[str, int]:
    return {
        labels["netmon_reason"]: int(value) for labels, value in running.samples("netmon_http_faults_total") if value
    }


def dropped(running: Agent, stage: str, signal: str) -> dict[str, int]:
    samples = running.samples(
        "netmon_pipeline_items_total", netmon_stage=stage, netmon_signal=signal, netmon_outcome="dropped"
    )
    return {labels["netmon_reason"]: int(value) for labels, value in samples if value}


def received(running: Agent) -> int:
    return running.total("netmon_protocol_packets_total", network_io_direction="receive", network_transport="tcp")


def test_heads_of_64_kib_and_endless_ones(link: tuple[NetNs, NetNs, Veth]) -> None:
    long_head = b"GET /a HTTP/1.1\r\nHost: shop.example\r\n" + b"Cookie: x=" + b"y" * 65_536 + b"\r\n\r\n"
    fields = b"".join(b"X-%06d: %d\r\n" % (number, number) for number in range(4000))
    with watched(link) as (running, connect):
        for _ in range(31):
            client, server = connect()
            for _ in range(3):  # the next one on the same connection is found
                say(client, server, long_head)
                say(server, client, b"HTTP/1.1 201 OK\r\nContent-Length: 5\r\n\r\nhello")
            long_answer = b"HTTP/1.1 202 OK\r\n" + fields + b"Content-Length: 3\r\n\r\nabc"
            say(client, server, b"GET /b HTTP/1.1\r\nHost: a\r\n\r\n")
            say(server, client, long_answer)
            client.shutdown(socket.SHUT_WR)
            server.close()
        for _ in range(7):
            client, server = connect()
            say(client, server, b"GET /c HTTP/1.1\r\n" + fields * 30)  # 2 MB, and no end
            say(server, client, b"HTTP/1.1 431 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            server.close()
        for _ in range(11):
            client, server = connect()
            say(client, server, b"GET /d HTTP/1.1\r\n" + fields * 3)
            server.close()
        expected = Counter({("200", ""): 2, ("201", ""): 93, ("202", ""): 31, ("431", ""): 7, ("", "no_response"): 11})
        running.wait(lambda: told(running).total() >= expected.total(), 60, "all requests")
        assert told(running) == expected


def bombs() -> dict[str, bytes]:
    """Header blocks that are small and say much, or that hardly end, by the fault they are; each is the head of stream 3."""
    large = f.literal(b"x-large", b"v" * 3900)
    begin, end = f.headers(3, b"", complete=False), f.continuation(3, b"")
    return {
        "hpack_list_size": f.headers(3, large + f.indexed(62) * 15_000, end=True),
        "long_blocks": begin + f.continuation(3, b"", complete=False) * 300 + end,
        "long_blocks ": begin + f.continuation(3, bytes(16_000), complete=False) * 10 + end,
    }


@pytest.mark.parametrize("bomb", list(bombs()))
def test_bombs_in_hpack(bomb: str, link: tuple[NetNs, NetNs, Veth]) -> None:
    with watched(link, "--set", f"probes.dns.ring_bytes={1 << 24}") as (running, connect):
        for _ in range(17):
            client, server = connect()
            encoder = hpack.Encoder()
            say(client, server, f.PREFACE + f.settings() + f.headers(1, asking(encoder), end=True))
            say(server, client, f.headers(1, hpack.Encoder().encode([(":status", "201")]), end=True))
            say(client, server, bombs()[bomb])
            say(server, client, f.goaway(1, 11))
            server.close()
        running.wait(lambda: told(running)["201", ""] == 17, 60, "the requests before")
        running.wait(lambda: sum(faults(running).values()) >= 17, 60, "the faults")
        assert faults(running) == {bomb.strip(): 17}
        # What such a head asked for nobody knows, but that it was refused.
        running.wait(lambda: told(running).total() >= 2 + 17 + 17, 60, "the requests that were refused")
        assert told(running) == {("200", ""): 2, ("201", ""): 17, ("", "reset"): 17}


def test_open_streams(link: tuple[NetNs, NetNs, Veth]) -> None:
    """More than are kept: the oldest are given up, and each is told once."""
    with watched(link, "--set", f"probes.dns.ring_bytes={1 << 24}") as (running, connect):
        client, server = connect()
        encoder = hpack.Encoder()
        say(client, server, f.PREFACE + f.settings())
        for first in range(0, STREAMS, 100):
            some = range(first, min(first + 100, STREAMS))
            say(client, server, b"".join(f.headers(2 * each + 1, asking(encoder), end=True) for each in some))
        running.wait(lambda: faults(running).get("evicted_streams", 0) == 7, 60, "what has no place")
        assert told(running) == {("200", ""): 2, ("", "timeout"): 7}
        server.close()
        running.wait(lambda: told(running).total() >= 2 + STREAMS, 60, "all streams")
        assert told(running) == {("200", ""): 2, ("", "timeout"): 7, ("", "no_response"): STREAMS - 7}


def test_connections_by_the_65536(link: tuple[NetNs, NetNs, Veth]) -> None:
    """Each with a request that nobody answers: what has no place is counted, and there is place again when they are given up."""
    near, far, pair = link
    request = b"GET /flood HTTP/1.1\r\nHost: shop.example\r\n\r\n"
    hardware = [
        bytes.fromhex(where.links()[name]["address"].replace(":", ""))
        for where, name in ((far, pair.right), (near, pair.left))
    ]

    def frame(number: int) -> bytes:
        segment = tcp(request, 6000 + number % 59_000, 80, flags=ACK)  # no port of DNS
        made = ethernet(ipv4(segment, 6, source=f"198.18.0.{3 + number // 59_000}", destination="198.18.0.99"))
        return b"".join(hardware) + made[12:]

    options = ["--set", f"probes.http.timeout_seconds={TIMEOUT_S}", "--set", f"probes.dns.ring_bytes={1 << 24}"]
    with watched(link, *options) as (running, _):
        seen_before = received(running)
        for first in range(0, CONNECTIONS, 199):
            near.send_frames(pair.left, [frame(number) for number in range(first, min(first + 199, CONNECTIONS))])

        def accounted() -> int:
            lost = dropped(running, "kernel", "http_messages").get("table_full", 0)
            return told(running)["", "timeout"] + lost

        def is_each_accounted_for() -> bool:  # of so many at once the network itself may lose some
            arrived = received(running) - seen_before
            return arrived > HTTP_CONNECTIONS_MAX and accounted() == arrived

        running.wait(is_each_accounted_for, 60, "all connections")
        assert told(running)["", "timeout"] >= HTTP_CONNECTIONS_MAX

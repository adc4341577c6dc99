"""What becomes of requests that are answered late, never or in part: each is told once, with its error.type, and none is missing."""

from __future__ import annotations

import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import hpack
import pytest

from support import http2_frames as f
from support.agent import Agent, agent
from support.netns import NetNs, Veth, veth_pair

pytestmark = pytest.mark.kernel

PORT = 8090
TIMEOUT_S = 2
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Told = Counter[tuple[str, str]]


@pytest.fixture
def link() -> Iterator[tuple[NetNs, NetNs, Veth]]:
    with veth_pair() as made:
        yield made


@contextmanager
def watched(link: tuple[NetNs, NetNs, Veth], side: str) -> Iterator[Agent]:
    where, interface = (link[0], link[2].left) if side == "client" else (link[1], link[2].right)
    options = ["--interface", interface, "--set", f"interfaces.namespaces={where.name}"]
    with agent(*options, "--set", f"probes.http.timeout_seconds={TIMEOUT_S}") as running:
        yield running


class Ends:
    """Both ends of connections, of which each step is over when the other end has it."""

    def __init__(self, link: tuple[NetNs, NetNs, Veth], listener: socket.socket) -> None:
        self._where, self._address = link[0], link[2].right_address
        self._listener = listener
        self._open: list[socket.socket] = []

    def connect(self) -> tuple[socket.socket, socket.socket]:
        client = self._where.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._open.append(client)
        client.settimeout(60)
        client.connect((self._address, PORT))
        server = self._listener.accept()[0]
        self._open.append(server)
        server.settimeout(60)
        return client, server

    def close(self) -> None:
        for each in self._open:
            each.close()


@pytest.fixture
def ends(link: tuple[NetNs, NetNs, Veth]) -> Iterator[Ends]:
    with link[1].socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.settimeout(60)
        listener.bind((link[2].right_address, PORT))
        listener.listen(64)
        made = Ends(link, listener)
        yield made
        made.close()


def say(one: socket.socket, other: socket.socket, data: bytes) -> None:
    """Sends, and waits until it is there."""
    one.sendall(data)
    left = len(data)
    while left:
        got = other.recv(left)
        assert got
        left -= len(got)


def reset(one: socket.socket, other: socket.socket) -> None:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()
    with pytest.raises(ConnectionResetError):
        other.recv(1)
    other.close()


def close(one: socket.socket, other: socket.socket) -> None:
    one.close()
    assert other.recv(1) == b""
    other.close()


def told(running: Agent, metric: str) -> Told:
    """Requests by status and error."""
    found: Told = Counter()
    for labels, value in running.samples(f"{metric}_count"):
        status = labels.get("http_response_status_code") or labels.get("rpc_response_status_code", "")
        found[status, labels.get("error_type", "")] += int(value)
    return +found


def becomes(running: Agent, metric: str, expected: Told) -> None:
    running.wait(lambda: sum(told(running, metric).values()) >= sum(expected.values()), 60, "all requests")
    assert told(running, metric) == expected


def request(name: str, length: int = 0) -> bytes:
    return f"POST /{name} HTTP/1.1\r\nHost: shop.example\r\nContent-Length: {length}\r\n\r\n".encode()


# ----------------------------------------------------------------------------------------------------------- HTTP/1.1
def asked_and_reset_by_client(client: socket.socket, server: socket.socket) -> None:
    say(client, server, request("a"))
    reset(client, server)


def asked_and_reset_by_server(client: socket.socket, server: socket.socket) -> None:
    say(client, server, request("a"))
    reset(server, client)


def closed_without_a_word(client: socket.socket, server: socket.socket) -> None:
    say(client, server, request("a"))
    close(server, client)


def cut_in_the_request(client: socket.socket, server: socket.socket) -> None:
    say(client, server, request("a", 1000) + b"x" * 10)
    close(client, server)


def cut_in_the_response(client: socket.socket, server: socket.socket) -> None:
    say(client, server, request("a"))
    say(server, client, b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 5000)
    close(server, client)


def reset_in_the_response(client: socket.socket, server: socket.socket) -> None:
    say(client, server, request("a"))
    say(server, client, b"HTTP/1.1 201 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 5000)
    reset(server, client)


def cut_in_the_chunks(client: socket.socket, server: socket.socket) -> None:
    say(client, server, request("a"))
    say(server, client, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nffff\r\nxyz")
    reset(server, client)


def pipelined_and_closed(client: socket.socket, server: socket.socket) -> None:
    say(client, server, request("a") + request("b") + request("c"))
    say(server, client, OK)
    close(server, client)


def pipelined_and_reset(client: socket.socket, server: socket.socket) -> None:
    say(client, server, request("a") + request("b"))
    reset(server, client)


HTTP1: list[tuple[Callable[[socket.socket, socket.socket], None], dict[tuple[str, str], int]]] = [
    (asked_and_reset_by_client, {("", "reset"): 1}),
    (asked_and_reset_by_server, {("", "reset"): 1}),
    (closed_without_a_word, {("", "no_response"): 1}),
    (cut_in_the_request, {("", "no_response"): 1}),
    (cut_in_the_response, {("200", "incomplete"): 1}),
    (reset_in_the_response, {("201", "reset"): 1}),
    (cut_in_the_chunks, {("200", "reset"): 1}),
    (pipelined_and_closed, {("200", ""): 1, ("", "no_response"): 2}),
    (pipelined_and_reset, {("", "reset"): 2}),
]


@pytest.mark.parametrize("side", ["client", "server"])
def test_connections_of_http_1_that_die(side: str, link: tuple[NetNs, NetNs, Veth], ends: Ends) -> None:
    """Each way to die seven times, beside others that live."""
    expected: Told = Counter()
    with watched(link, side) as running:
        for _ in range(7):
            client, server = ends.connect()
            for die, outcome in HTTP1:
                die(*ends.connect())
                expected.update(outcome)
                say(client, server, request("lives"))
                say(server, client, OK)
                expected["200", ""] += 1
            client.close()
        becomes(running, f"http_{side}_request_duration_seconds", expected)


@pytest.mark.parametrize("side", ["client", "server"])
def test_late_and_silent_servers_of_http_1(side: str, link: tuple[NetNs, NetNs, Veth], ends: Ends) -> None:
    metric = f"http_{side}_request_duration_seconds"
    with watched(link, side) as running:
        late, never, half, piped, slow = [ends.connect() for _ in range(5)]
        for client, server in (late, never, half, slow):
            say(client, server, request("a"))
        say(*piped, request("a") + request("b") + request("c"))
        say(*half[::-1], b"HTTP/1.1 203 OK\r\nContent-Length: 1000\r\n\r\nhalf")
        say(*piped[::-1], OK)
        # Nothing but silence from here on: they are told while their connections live.
        expected: Told = Counter({("", "timeout"): 5, ("203", "incomplete"): 1, ("200", ""): 1})
        becomes(running, metric, expected)
        seconds = [value for labels, value in running.samples(f"{metric}_sum") if labels.get("error_type") == "timeout"]
        assert sum(seconds) >= 5 * TIMEOUT_S
        # What comes late is not told once more, and what is asked next is told as ever.
        for client, server in (late, slow):
            say(server, client, OK)
            say(client, server, request("b"))
            say(server, client, b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
        say(*piped[::-1], OK + OK)
        say(*piped, request("d"))
        say(*piped[::-1], b"HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n")
        is_error = {"client": ("404", "405"), "server": ("", "")}[side]
        expected += Counter({("404", is_error[0]): 2, ("405", is_error[1]): 1})
        becomes(running, metric, expected)


# ------------------------------------------------------------------------------------------------------------- HTTP/2
class Session:
    """A connection of HTTP/2 at its begin.

    Args:
        grpc: whether its requests are calls.
    """

    def __init__(self, pair: tuple[socket.socket, socket.socket], *, grpc: bool = False) -> None:
        self.client, self.server = pair
        self._encoders = hpack.Encoder(), hpack.Encoder()
        self._grpc = grpc
        say(self.client, self.server, f.PREFACE + f.settings())
        say(self.server, self.client, f.settings() + f.settings(ack=True))

    def ask(self, stream: int, *, end: bool = True) -> None:
        fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/shop.Orders/Get"),
            (":authority", "shop.example"),
        ]
        fields += [("content-type", "application/grpc"), ("te", "trailers")] * self._grpc
        say(self.client, self.server, f.headers(stream, self._encoders[0].encode(fields), end=end))

    def answer(self, stream: int, status: int = 200, *, end: bool = True) -> None:
        say(self.server, self.client, f.headers(stream, self._encoders[1].encode([(":status", str(status))]), end=end))


@pytest.mark.parametrize("side", ["client", "server"])
def test_connections_and_streams_of_http_2_that_die(side: str, link: tuple[NetNs, NetNs, Veth], ends: Ends) -> None:
    expected: Told = Counter()
    with watched(link, side) as running:
        for _ in range(7):
            for die in (reset, close):
                s = Session(ends.connect())
                for stream in (1, 3, 5):
                    s.ask(stream)
                s.answer(3, end=False)
                s.answer(5)
                die(s.server, s.client)
                expected.update({("200", ""): 1})
                dead = {reset: [("", "reset"), ("200", "reset")], close: [("", "no_response"), ("200", "incomplete")]}
                expected.update(dead[die])
            s = Session(ends.connect())
            for stream in (1, 3, 5, 7):
                s.ask(stream, end=stream != 7)
            say(s.client, s.server, f.reset(1, f.CANCEL))
            say(s.server, s.client, f.reset(3, f.REFUSED_STREAM))
            say(s.server, s.client, f.goaway(5, f.NO_ERROR))  # 7 was not taken
            s.answer(5)
            expected.update({("", "reset"): 3, ("200", ""): 1})
            close(s.server, s.client)
        becomes(running, f"http_{side}_request_duration_seconds", expected)


@pytest.mark.parametrize("side", ["client", "server"])
def test_late_and_silent_servers_of_http_2(side: str, link: tuple[NetNs, NetNs, Veth], ends: Ends) -> None:
    with watched(link, side) as running:
        stop = threading.Event()
        s, calls = Session(ends.connect()), Session(ends.connect(), grpc=True)
        for stream in (1, 3, 5):
            s.ask(stream)
            calls.ask(stream)
        s.answer(5, 206, end=False)  # begins, and goes on whenever it likes

        def pings() -> None:
            while not stop.wait(0.1):
                for one in (s, calls):
                    say(one.client, one.server, f.ping())

        lively = threading.Thread(target=pings)
        lively.start()
        try:
            becomes(running, f"http_{side}_request_duration_seconds", Counter({("", "timeout"): 2}))
            running.wait(lambda: sum(told(running, f"rpc_{side}_call_duration_seconds").values()) == 3, 60, "the calls")
        finally:
            stop.set()
            lively.join()
        s.answer(1)  # late: it was told
        s.answer(3, end=False)
        say(s.server, s.client, f.data(5, 100, end=True))
        s.ask(7)
        s.answer(7, 501)
        expected: Told = Counter({("", "timeout"): 2, ("206", ""): 1, ("501", "501"): 1})
        becomes(running, f"http_{side}_request_duration_seconds", expected)
        (calls_told,) = told(running, f"rpc_{side}_call_duration_seconds")
        assert calls_told[1] == "timeout"

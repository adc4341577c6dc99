"""Receivers that are absent, slow, broken or hostile, and proxies: every attempt ends in time with an outcome that says why."""

from __future__ import annotations

import gzip
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import grpc
import pytest

from otel_netmon.config.model import Otlp
from otel_netmon.export import connecting, otlp_http, otlp_transport
from otel_netmon.export.connecting import Connector
from otel_netmon.export.requests import Outcome, Request, Signal
from otel_netmon.export.streams import CancelledError, Waiter
from support.otlp_receiver import Answer, grpc_receiver, http_receiver, wait_until
from support.raw_servers import RawServer, Serve, answering, head_value, proxying, raw_server, saying, silent

Protocol = Literal["grpc", "http/protobuf"]
REQUEST = Request(Signal.METRICS, b"", 1)
LARGE = Request(Signal.METRICS, os.urandom(32 << 20), 1)
"""More than the buffers of two sockets hold, and not made smaller by gzip."""
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture(autouse=True)
def _no_proxy_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def send(endpoint: str, seconds: float = 10.0, request: Request = REQUEST, **settings: Any) -> Outcome:
    transport = otlp_transport.build(Otlp(endpoint=endpoint, **settings))
    started = time.monotonic()
    try:
        return transport.send(request, seconds)
    finally:
        transport.close()
        assert time.monotonic() - started < seconds + 1.0, "an attempt went on after its deadline"


def send_to(serve: Serve, seconds: float = 10.0, request: Request = REQUEST) -> Outcome:
    """Without compression: a second of it for the large request is no time of the receiver's."""
    with raw_server(serve) as server:
        return send(server.endpoint, seconds, request, compression="none")


# --------------------------------------------------------------------------------------------------------- no receiver
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_dead_port(protocol: Protocol, free_port: int) -> None:
    outcome = send(f"http://127.0.0.1:{free_port}", protocol=protocol)
    assert outcome.kind == "retry"
    assert outcome.reason == ("grpc_unavailable" if protocol == "grpc" else "connection")
    assert "Connection refused" in outcome.detail


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_name_that_does_not_exist(protocol: Protocol) -> None:
    outcome = send("http://does-not-exist.invalid:4318", protocol=protocol)
    assert outcome.kind == "retry"
    assert outcome.reason == ("grpc_unavailable" if protocol == "grpc" else "name_resolution")
    assert "does-not-exist.invalid" in outcome.detail


def test_a_name_that_cannot_be_one() -> None:
    assert send(f"http://{'x' * 70}.example:4318").reason == "name_resolution"


@pytest.fixture
def black_hole() -> Iterator[str]:
    """A listener that accepts nothing and whose queue is full: the kernel drops every further SYN."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        clients = []
        for _ in range(4):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(address)
            clients.append(client)
        yield f"http://127.0.0.1:{address[1]}"
        for client in clients:
            client.close()


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_black_hole(protocol: Protocol, black_hole: str) -> None:
    outcome = send(black_hole, 0.5, protocol=protocol)
    assert outcome.kind == "retry"
    if protocol == "grpc":
        assert outcome.reason in ("grpc_deadline_exceeded", "grpc_unavailable")
    else:
        assert outcome.reason == "timeout"
        assert outcome.detail.endswith(": no connection within 0.5 s")


def test_no_time_at_all_is_a_timeout() -> None:
    with http_receiver() as receiver:
        for seconds in (0.0, -1.0):
            transport = otlp_transport.build(Otlp(endpoint=receiver.endpoint))
            assert transport.send(REQUEST, seconds).reason == "timeout"
            transport.close()
        assert receiver.requests == []


def test_an_address_that_swallows_everything_does_not_keep_the_next_one_waiting(
    black_hole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with http_receiver() as receiver:
        places = [("127.0.0.1", int(black_hole.rpartition(":")[2])), ("127.0.0.1", 1), ("127.0.0.1", receiver.port)]
        unreachable: connecting.Address = (
            socket.AF_INET6,
            ("ff00::1", 1),
        )  # a multicast address: connect fails at once
        addresses: list[connecting.Address] = [unreachable, *((socket.AF_INET, place) for place in places)]

        def lookup(host: str, port: int, flags: int = 0) -> list[connecting.Address]:
            if flags:
                raise socket.gaierror(socket.EAI_NONAME, "a name")
            assert (host, port) == ("several.example", 4318)
            return addresses

        monkeypatch.setattr(connecting, "_addresses", lookup)
        started = time.monotonic()
        assert send("http://several.example:4318").kind == "delivered"
        assert time.monotonic() - started < 5.0
        addresses.pop()
        outcome = send("http://several.example:4318", 0.5)
        assert (outcome.kind, outcome.reason) == ("retry", "timeout")
        addresses[:] = [unreachable]
        assert send("http://several.example:4318").reason == "connection"


def test_a_lookup_that_hangs_ends_with_the_deadline_and_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()
    asked: list[str] = []

    def lookup(host: str, _port: int, flags: int = 0) -> list[connecting.Address]:
        if flags:
            raise socket.gaierror(socket.EAI_NONAME, "a name")
        asked.append(host)
        answer.wait()
        return [(socket.AF_INET, ("127.0.0.1", receiver.port))]

    monkeypatch.setattr(connecting, "_addresses", lookup)
    with http_receiver() as receiver:
        transport = otlp_transport.build(Otlp(endpoint="http://slow.example:4318"))
        for _ in range(2):
            assert transport.send(REQUEST, 0.2).reason == "timeout"
        answer.set()
        assert transport.send(REQUEST, 10.0).kind == "delivered"
        assert asked == ["slow.example"]
        transport.close()
    answer.clear()
    waiter = Waiter()
    connector = Connector(waiter)
    waiter.cancel()
    with pytest.raises(CancelledError):
        connector.connect("slow.example", 1, time.monotonic() + 10)
    connector.close()
    waiter.close()
    answer.set()


# ----------------------------------------------------------------------------------------------------- broken receivers
def drip(*, head: bytes = b"", each: bytes = b"x") -> Serve:
    """Sends a byte twenty times a second for ever."""

    def serve(server: RawServer, connection: socket.socket, _number: int) -> None:
        server.read_request(connection)
        connection.sendall(head)
        while not server.stop.wait(0.05):
            connection.sendall(each)

    return serve


@pytest.mark.parametrize(
    ("serve", "kind", "reason"),
    [
        (drip(head=b"HTTP/1.1 200 OK\r\nX: "), "retry", "timeout"),
        (drip(head=b"HTTP/1.1 100 Continue\r\n\r\n", each=b"HTTP/1.1 100 Continue\r\n\r\n"), "retry", "timeout"),
        (drip(head=b"HTTP/1.1 400 No\r\n\r\n"), "refused", "http_400"),
        (drip(head=b"HTTP/1.1 503 No\r\nContent-Length: 9999\r\n\r\n"), "retry", "http_503"),
        (drip(head=b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"), "delivered", ""),
        (drip(head=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", each=b"1\r\nx\r\n"), "delivered", ""),
    ],
)
def test_a_drip_of_bytes_keeps_the_deadline_and_the_head_decides(serve: Serve, kind: str, reason: str) -> None:
    outcome = send_to(serve, 0.6)
    assert (outcome.kind, outcome.reason) == (kind, reason)
    assert ("cut short" in outcome.detail + outcome.warning) == (reason != "timeout")


@pytest.mark.parametrize(
    ("answer", "kind", "reason", "detail"),
    [
        (b"", "retry", "connection", "closed the connection without an answer"),
        (b"HTTP/1.1 200 O", "retry", "connection", "closed the connection within its answer"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "retry", "not_http", "unknown bytes"),
        (b"\x15\x03\x03\x00\x02\x02\x46", "retry", "not_http", "wants https://"),
        (b"HTTP/1.1 429 Slow\r\nRetry-After: 3\r\nContent-Length: 10\r\n\r\nab", "retry", "http_429", "cut short"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", "refused", "response_too_large", "4 MiB"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5242880\r\n\r\n" + bytes(5 << 20), "refused", "response_too_large", "4 MiB"),
        (b"HTTP/1.1 503 No\r\n\r\n" + bytes(5 << 20), "refused", "response_too_large", "4 MiB"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(bytes(512 << 20), 1), "refused", "response_too_large", "4 MiB"),
    ],
    ids=["nothing", "half a head", "ssh", "tls", "half a body", "head", "5 MiB", "5 MiB of an error", "bomb"],
)  # fmt: skip
def test_broken_answers(answer: bytes, kind: str, reason: str, detail: str) -> None:
    outcome = send_to(saying(answer))
    assert (outcome.kind, outcome.reason) == (kind, reason)
    assert detail in outcome.detail


def test_http_to_a_grpc_receiver_says_so() -> None:
    with grpc_receiver() as receiver:
        outcome = send(receiver.endpoint)
    assert (outcome.kind, outcome.reason) == ("retry", "not_http")
    assert "gRPC" in outcome.detail


@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip])
def test_a_grpc_answer_beyond_the_limit_is_not_retried(compression: grpc.Compression | None) -> None:
    with grpc_receiver(compression=compression) as receiver:
        receiver.answers = [bytes((5 if compression is None else 200) << 20)]
        outcome = send(receiver.endpoint, 30.0, protocol="grpc")
        assert (outcome.kind, outcome.reason, outcome.status) == ("refused", "response_too_large", "RESOURCE_EXHAUSTED")
        assert len(receiver.requests) == 1


def test_a_silent_grpc_receiver_times_out_and_the_next_attempt_takes_a_new_connection() -> None:
    silence = threading.Event()
    with grpc_receiver() as receiver:
        receiver.answers = [silence, b""]
        transport = otlp_transport.build(Otlp(endpoint=receiver.endpoint, protocol="grpc"))
        assert transport.send(REQUEST, 0.3).reason == "grpc_deadline_exceeded"
        assert transport.send(REQUEST, 10.0).kind == "delivered"
        transport.close()
        silence.set()


def test_a_grpc_receiver_that_is_away_is_left_alone_between_attempts() -> None:
    """Left to itself, gRPC would go on connecting in the background."""
    with raw_server(lambda _server, _connection, _number: None) as server:
        transport = otlp_transport.build(Otlp(endpoint=server.endpoint, protocol="grpc"))
        assert transport.send(REQUEST, 5.0).reason == "grpc_unavailable"
        before = server.connections
        deadline = time.monotonic() + 3.0  # the first try in the background would come after a second
        while time.monotonic() < deadline:
            assert server.connections == before
            time.sleep(0.05)
        transport.close()


# ------------------------------------------------------------------------------------------------------- large requests
def refuse_early(*, close: bool) -> Serve:
    """413 after the first bytes; then the rest is never read."""

    def serve(server: RawServer, connection: socket.socket, _number: int) -> None:
        connection.recv(1024)
        connection.sendall(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
        if not close:
            server.stop.wait()

    return serve


@pytest.mark.parametrize("close", [False, True])
def test_a_refusal_before_the_request_was_read_is_heard(close: bool) -> None:
    outcome = send_to(refuse_early(close=close), request=LARGE)
    assert (outcome.kind, outcome.reason) == ("refused", "http_413")


def test_a_receiver_that_stops_reading_times_out() -> None:
    outcome = send_to(silent, 0.5, LARGE)
    assert (outcome.kind, outcome.reason) == ("retry", "timeout")


def test_a_receiver_that_hangs_up_during_the_request_is_tried_again() -> None:
    def serve(_server: RawServer, connection: socket.socket, _number: int) -> None:
        connection.recv(1024)

    assert send_to(serve, request=LARGE).reason == "connection"


def test_a_large_request_arrives_whole() -> None:
    received = []

    def serve(server: RawServer, connection: socket.socket, _number: int) -> None:
        received.append(int(head_value(server.read_request(connection), "content-length")))
        connection.sendall(OK)

    with raw_server(serve) as server:
        assert send(server.endpoint, request=LARGE, compression="none").kind == "delivered"
    assert received == [len(LARGE.body)]


# ------------------------------------------------------------------------------------------------------ kept connections
def closing_after(first: int, *, reset: bool = False) -> Serve:
    """The first connection is closed after so many answers, when the client is not looking."""

    def serve(server: RawServer, connection: socket.socket, number: int) -> None:
        while server.read_request(connection):
            connection.sendall(OK)
            if number == 1 and len(server.heads) == first:
                if reset:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return

    return serve


@pytest.mark.parametrize("reset", [False, True])
def test_a_kept_connection_that_was_closed_meanwhile_costs_no_retry(reset: bool) -> None:
    with raw_server(closing_after(2, reset=reset)) as server:
        transport = otlp_transport.build(Otlp(endpoint=server.endpoint))
        for sent in range(1, 6):
            assert transport.send(REQUEST, 10.0).kind == "delivered"
            assert len(server.heads) == sent
            if sent == 2:
                wait_until(lambda: _closed_by_peer(transport))
        assert server.connections == 2
        transport.close()


def _closed_by_peer(transport: Any) -> bool:
    """Whether the end of the kept connection has arrived, seen without taking it off the socket."""
    (kept,) = transport._kept.values()
    try:
        return bool(kept.stream._socket.recv(1, socket.MSG_PEEK) == b"")
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def hang_up_on_second(then: bytes) -> Serve:
    """Takes the second request of the first connection and closes it with nothing but ``then``."""

    def serve(server: RawServer, connection: socket.socket, number: int) -> None:
        while server.read_request(connection):
            if number == 1 and len(server.heads) == 2:
                connection.sendall(then)
                return
            connection.sendall(OK)

    return serve


def test_a_request_lost_on_a_kept_connection_is_sent_once_more() -> None:
    with raw_server(hang_up_on_second(b"")) as server:
        transport = otlp_transport.build(Otlp(endpoint=server.endpoint))
        assert transport.send(REQUEST, 10.0).kind == "delivered"
        assert transport.send(REQUEST, 10.0).kind == "delivered"
        assert (server.connections, len(server.heads)) == (2, 3)
        transport.close()


def test_a_request_whose_answer_had_begun_is_not_sent_once_more() -> None:
    with raw_server(hang_up_on_second(b"HTTP/1.1 2")) as server:
        transport = otlp_transport.build(Otlp(endpoint=server.endpoint))
        assert transport.send(REQUEST, 10.0).kind == "delivered"
        assert transport.send(REQUEST, 10.0).reason == "connection"
        assert (server.connections, len(server.heads)) == (1, 2)
        transport.close()


def test_a_new_connection_that_is_closed_is_not_tried_twice() -> None:
    with raw_server(saying(b"")) as server:
        assert send(server.endpoint).reason == "connection"
        assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        OK + b"HTTP/1.1 500 not asked for",
    ],
)
def test_a_connection_that_cannot_be_kept_is_not(answer: bytes) -> None:
    with raw_server(answering(answer)) as server:
        transport = otlp_transport.build(Otlp(endpoint=server.endpoint))
        for _ in range(3):
            assert transport.send(REQUEST, 10.0).kind == "delivered"
        assert server.connections == 3
        transport.close()


def test_bytes_that_nobody_asked_for_close_a_kept_connection() -> None:
    def serve(server: RawServer, connection: socket.socket, _number: int) -> None:
        while server.read_request(connection):
            connection.sendall(OK)
            connection.sendall(b"HTTP/1.1 408 Request Timeout\r\n\r\n")

    with raw_server(serve) as server:
        transport = otlp_transport.build(Otlp(endpoint=server.endpoint))
        assert transport.send(REQUEST, 10.0).kind == "delivered"
        wait_until(lambda: not transport._kept or not _quiet(transport))  # type: ignore[attr-defined]
        assert transport.send(REQUEST, 10.0).kind == "delivered"
        assert server.connections == 2
        transport.close()


def _quiet(transport: Any) -> bool:
    (kept,) = transport._kept.values()
    try:
        kept.stream._socket.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    return False


def test_a_connection_that_rested_for_long_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with raw_server(answering(OK)) as server:
        transport = otlp_transport.build(Otlp(endpoint=server.endpoint))
        assert transport.send(REQUEST, 10.0).kind == "delivered"
        monkeypatch.setattr(otlp_http, "MAX_IDLE_SECONDS", 0.0)
        assert transport.send(REQUEST, 10.0).kind == "delivered"
        assert server.connections == 2
        transport.close()


# ---------------------------------------------------------------------------------------------------------------- close
def hanging(server: RawServer, connection: socket.socket, _number: int) -> None:
    server.read_request(connection)
    server.stop.wait()


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize("when", ["connecting", "waiting"])
def test_close_ends_a_request_under_way(protocol: Protocol, when: str, black_hole: str) -> None:
    outcomes: list[Outcome] = []
    silence = threading.Event()
    with grpc_receiver() as receiver, raw_server(hanging) as server:
        receiver.answers = [silence]
        reached: Callable[[], bool]
        if when == "connecting":
            endpoint, reached = black_hole, lambda: True
        elif protocol == "grpc":
            endpoint, reached = receiver.endpoint, lambda: bool(receiver.requests)
        else:
            endpoint, reached = server.endpoint, lambda: bool(server.heads)
        transport = otlp_transport.build(Otlp(endpoint=endpoint, protocol=protocol))
        thread = threading.Thread(target=lambda: outcomes.append(transport.send(REQUEST, 60.0)))
        thread.start()
        wait_until(reached)
        started = time.monotonic()
        transport.close()
        thread.join(10.0)
        silence.set()
        assert time.monotonic() - started < 5.0
        assert [(outcome.kind, outcome.reason) for outcome in outcomes] == [("retry", "closed")]
        assert transport.send(REQUEST, 1.0) == Outcome("retry", "closed", "the transport is closed")
        transport.close()


def test_close_between_the_choice_of_a_channel_and_the_call(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    transport: Any = otlp_transport.build(Otlp(endpoint=f"http://127.0.0.1:{free_port}", protocol="grpc"))
    make = transport._channel

    class Closing:
        """A channel that is closed when the call is about to be made, as another thread may do it."""

        def __init__(self, target: Any) -> None:
            self._channel = make(target)

        def unary_unary(self, method: str) -> Any:
            call = self._channel.unary_unary(method)
            transport.close()
            return call

        def close(self) -> None:
            self._channel.close()

    def other_error(_target: Any) -> Any:
        class Wrong:
            def unary_unary(self, _method: str) -> Any:
                def call(*_arguments: Any, **_options: Any) -> None:
                    raise ValueError("not about closing")

                return call

            def close(self) -> None:
                """Nothing is open."""

        return Wrong()

    monkeypatch.setattr(transport, "_channel", other_error)
    with pytest.raises(ValueError, match="not about closing"):
        transport.send(REQUEST, 1.0)
    transport._channels.clear()
    monkeypatch.setattr(transport, "_channel", Closing)
    outcome = transport.send(REQUEST, 1.0)
    assert outcome == Outcome("retry", "closed", "the transport was closed during the request")


# -------------------------------------------------------------------------------------------------------------- proxies
AUTHORIZATION = "Basic dXNlcjpwIHc="


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize("credentials", [False, True])
@pytest.mark.parametrize("way", ["setting", "environment"])
def test_a_proxy_is_used(protocol: Protocol, credentials: bool, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, for an address of loopback would not go through a proxy of the environment."""
    serve = proxying(AUTHORIZATION if credentials else "")
    with http_receiver() as http, grpc_receiver() as collector, raw_server(serve) as proxy:
        receiver = collector if protocol == "grpc" else http
        url = f"http://{'user:p%20w@' if credentials else ''}127.0.0.1:{proxy.port}"
        settings: dict[str, Any] = {"proxy": url} if way == "setting" else {}
        if way == "environment":
            monkeypatch.setenv("HTTP_PROXY", url)
            endpoint = f"http://{socket.gethostname()}.invalid:{receiver.port}"
        else:
            endpoint = receiver.endpoint
        outcome = send(endpoint, protocol=protocol, **settings)
        method = proxy.heads[0].split(b" ")[0]
        assert method == (b"CONNECT" if protocol == "grpc" else b"POST")
        assert head_value(proxy.heads[0], "proxy-authorization") == (AUTHORIZATION if credentials else "")
        if way == "setting":
            assert outcome.kind == "delivered"
            if protocol != "grpc":
                assert proxy.heads[0].split(b" ")[1].decode() == f"{receiver.endpoint}/v1/metrics"
                assert receiver.requests[0].path == "/v1/metrics"
        else:
            assert outcome.kind == "retry"  # the proxy cannot find the name, but it was asked
            assert f"{socket.gethostname()}.invalid:{receiver.port}" in proxy.heads[0].decode()


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_no_proxy_and_neighbours_are_reached_directly(protocol: Protocol, monkeypatch: pytest.MonkeyPatch) -> None:
    with http_receiver() as http, grpc_receiver() as collector, raw_server(proxying()) as proxy:
        endpoint = (collector if protocol == "grpc" else http).endpoint
        monkeypatch.setenv("http_proxy", proxy.endpoint)
        assert send(endpoint, protocol=protocol).kind == "delivered"
        monkeypatch.setenv("NO_PROXY", "127.0.0.0/8")
        assert send(endpoint, protocol=protocol, proxy=proxy.endpoint).kind == "delivered"
        assert proxy.connections == 0


def test_a_proxy_that_refuses_http_answers_for_the_receiver() -> None:
    with http_receiver() as receiver, raw_server(proxying("Basic other")) as proxy:
        outcome = send(receiver.endpoint, proxy=f"http://user:hidden@127.0.0.1:{proxy.port}")
    assert (outcome.kind, outcome.reason) == ("refused", "http_407")
    assert "hidden" not in repr(outcome)


@pytest.mark.parametrize(
    ("serve", "detail"),
    [
        (proxying("Basic other"), "answered HTTP 407 Proxy Authentication Required"),
        (saying(b""), "broke off: the receiver closed the connection without an answer"),
        (saying(b"garbage"), "broke off: unknown bytes"),
        (answering(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000), "broke off: too much for an answer"),
    ],
)
def test_a_tunnel_that_does_not_come_about_is_tried_again(serve: Serve, detail: str) -> None:
    with raw_server(serve) as proxy:
        outcome = send("https://collector.invalid", proxy=f"http://user:hidden@127.0.0.1:{proxy.port}")
    assert (outcome.kind, outcome.reason) == ("retry", "proxy")
    assert detail in outcome.detail
    assert "hidden" not in repr(outcome)


def test_a_proxy_that_is_away_is_tried_again(free_port: int) -> None:
    outcome = send("https://collector.invalid", proxy=f"http://127.0.0.1:{free_port}")
    assert (outcome.kind, outcome.reason) == ("retry", "proxy")
    assert f"cannot reach the proxy 127.0.0.1:{free_port}: Connection refused" in outcome.detail


def test_a_proxy_that_is_silent_times_out() -> None:
    with raw_server(hanging) as proxy:
        outcome = send("https://collector.invalid", 0.5, proxy=proxy.endpoint)
    assert (outcome.kind, outcome.reason) == ("retry", "timeout")


# ------------------------------------------------------------------------------------------------- interim and odd answers
def test_interim_answers_are_stepped_over() -> None:
    hints = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    assert send_to(saying(hints + OK)) == Outcome("delivered", status="200")


def test_a_gzipped_answer_is_read_although_none_was_asked_for() -> None:
    with http_receiver() as receiver:
        body = gzip.compress(b"too old")
        receiver.answers = [Answer(400, body, "text/plain", (("Content-Encoding", "gzip"),))]
        assert send(receiver.endpoint).detail == "HTTP 400 Bad Request: too old"
        assert receiver.requests[0].headers["accept-encoding"] == "identity"

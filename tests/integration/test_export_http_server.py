"""The web server by real sockets: its pages, its manners, its limits, and that idle costs nothing."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import parser
from structlog.testing import capture_logs

from otel_netmon.errors import ListenError
from otel_netmon.export import prometheus
from otel_netmon.export.http_loop import Limits
from otel_netmon.export.http_server import Server
from otel_netmon.export.prometheus import HOLD_SECONDS
from otel_netmon.export.prometheus_negotiation import OPENMETRICS, PROTOBUF, TEXT
from otel_netmon.otel.attributes import AttributeSet
from otel_netmon.otel.points import NumberSeries, Snapshot
from support.otlp_receiver import wait_until
from support.prometheus_messages import families
from support.snapshots import END, START, every_metric, flows


@dataclass
class Agent:
    """What the server shows."""

    snapshot: Snapshot | None = field(default_factory=every_metric)
    status: Mapping[str, object] = field(default_factory=lambda: {"version": "1"})
    ready: bool = True

    @contextlib.contextmanager
    def serve(self, **limits: Any) -> Iterator[Server]:
        server = Server(
            "127.0.0.1:0",
            lambda: self.snapshot,
            lambda: self.status,
            lambda: self.ready,
            resource={"service.name": "test"},
            limits=Limits(**limits),
        )
        server.start()
        try:
            yield server
        finally:
            server.stop()


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes


def exchange(server: Server, request: bytes) -> Reply:
    """Send bytes, read to the end of the connection."""
    with socket.create_connection(server.address, timeout=20) as sock:
        sock.sendall(request)
        return read_reply(sock)


def read_reply(sock: socket.socket) -> Reply:
    received = b"".join(iter(lambda: sock.recv(65536), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    status_line, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Reply(int(status_line.split()[1]), headers, body)


def get(server: Server, path: str, *headers: str, method: str = "GET") -> Reply:
    return exchange(server, "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode())


def sleeps(server: Server) -> int:
    """How often the server's thread has gone to sleep."""
    thread = server._loop._thread.native_id
    lines = Path(f"/proc/self/task/{thread}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


# --------------------------------------------------------------------------------------------------------- the pages
def test_metrics_in_all_formats_plain_and_compressed() -> None:
    with Agent().serve() as server:
        plain = get(server, "/metrics")
        assert (plain.status, plain.headers["content-type"]) == (200, TEXT)
        assert plain.headers["content-length"] == str(len(plain.body))
        assert plain.headers["vary"] == "Accept, Accept-Encoding"
        assert len(list(parser.text_string_to_metric_families(plain.body.decode()))) > 15
        accepts = ("Accept: application/openmetrics-text; version=1.0.0", "accept-encoding: deflate, gzip")
        packed = get(server, "/metrics?x=y", *accepts)
        assert (packed.headers["content-type"], packed.headers["content-encoding"]) == (OPENMETRICS, "gzip")
        assert gzip.decompress(packed.body) == get(server, "/metrics", accepts[0]).body
        assert get(server, "/metrics", "Accept-Encoding: gzip;q=0").body == plain.body
        binary = get(server, "/metrics", "Accept: text/plain;q=0.5", f"ACCEPT: {PROTOBUF}")  # two lines of one field
        assert binary.headers["content-type"] == PROTOBUF
        assert [family.name for family in families(binary.body)][:2] == ["target_info", "system_network_io_bytes_total"]


def test_metrics_before_the_first_reading() -> None:
    with Agent(snapshot=None).serve() as server:
        assert get(server, "/metrics").status == 503


def test_health_readiness_and_status() -> None:
    agent = Agent(ready=False, status={"interfaces": [{"name": "\udcff"}]})
    with agent.serve() as server:
        assert (get(server, "/healthz").status, get(server, "/healthz").body) == (200, b"ok\n")
        assert (get(server, "/readyz").status, get(server, "/readyz").body) == (503, b"not ready\n")
        agent.ready = True
        assert (get(server, "/readyz").status, get(server, "/readyz").body) == (200, b"ready\n")
        reply = get(server, "/status")
        assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
        assert json.loads(reply.body) == agent.status


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /metrics/ HTTP/1.1\r\n\r\n", 404),
        (b"POST /nowhere HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + 100_000 * b"x", 405),
        (b"DELETE /healthz HTTP/1.1\r\n\r\n", 405),
        (b"GET /healthz HTTP/1.0\r\n\r\n", 200),
        (b"GET http://host:1/healthz HTTP/1.1\r\n\r\n", 200),
        (b"GET /healthz HTTP/1.1\n\n", 200),
        (b"GET /healthz\r\n\r\n", 400),
        (b"GET  /healthz HTTP/1.1\r\n\r\n", 400),
        (b"GET /healthz HTTP/2\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"\x16\x03\x01\x00\xff\n\n", 400),
        (b"GET /healthz HTTP/1.1\r\nno colon\r\n: \r\n\xff\xfe: \x00\r\n\r\n", 200),
        (b"GET /" + 9000 * b"a" + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET /healthz HTTP/1.1\r\nX: " + 9000 * b"a", 431),
    ],
)
def test_any_request_gets_its_status(request_bytes: bytes, status: int) -> None:
    with Agent().serve() as server:
        reply = exchange(server, request_bytes)
        assert (reply.status, reply.headers["connection"]) == (status, "close")
        assert reply.headers.get("allow") == ("GET, HEAD" if status == 405 else None)
        assert len(reply.body) == int(reply.headers["content-length"]) > 0
        assert get(server, "/healthz").status == 200


def test_head_has_the_headers_of_get_and_no_body() -> None:
    with Agent().serve() as server:
        for path in ("/metrics", "/status", "/healthz"):
            head, whole = get(server, path, method="HEAD"), get(server, path)
            assert (head.status, head.headers, head.body) == (whole.status, whole.headers, b"")


def test_a_request_in_small_pieces_is_put_together() -> None:
    with Agent().serve() as server, socket.create_connection(server.address, timeout=20) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n":
            sock.send(bytes([byte]))
        assert read_reply(sock).body == b"ok\n"


def test_a_page_that_fails_is_told_once_and_the_others_go_on() -> None:
    agent = Agent(status={"rate": float("nan")})
    with capture_logs() as logs, agent.serve() as server:
        assert [get(server, "/status").status for _ in range(3)] == [500, 500, 500]
        assert get(server, "/healthz").status == 200
        agent.status = {}
        assert get(server, "/status").status == 200
        agent.status = {"rate": float("nan")}
        assert get(server, "/status").status == 500
    assert [(entry["event"], entry["path"]) for entry in logs] == 2 * [("http.failed", "/status")]


# -------------------------------------------------------------------------------------------------------- the limits
def test_concurrent_scrapes_see_whole_snapshots() -> None:
    """Every page is one snapshot, whichever the writer has swapped in: its values are 1 to n, for the n of its length."""
    agent = Agent(snapshot=flows(1))
    stop = threading.Event()
    counts: list[int] = []

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            agent.snapshot = flows(1 + number % 300, time_unix_nano=END + number)

    def scrape() -> None:
        for _ in range(20):
            (_, family) = parser.text_string_to_metric_families(get(server, "/metrics").body.decode())
            assert [sample.value for sample in family.samples] == list(range(1, len(family.samples) + 1))
            counts.append(len(family.samples))

    with agent.serve() as server:
        threads = [threading.Thread(target=write), *(threading.Thread(target=scrape) for _ in range(4))]
        for thread in threads:
            thread.start()
        for thread in threads[1:]:
            thread.join()
        stop.set()
        threads[0].join()
    assert len(counts) == 80
    assert len(set(counts)) > 1


def test_a_slow_reader_gets_its_page_whole_while_others_are_served() -> None:
    agent = Agent(snapshot=flows(50_000))
    with agent.serve() as server, socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(20)
        slow.connect(server.address)
        slow.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        slow.recv(1, socket.MSG_PEEK)
        assert get(server, "/healthz").status == 200
        reply = read_reply(slow)
        assert len(reply.body) == int(reply.headers["content-length"]) > 1_000_000
        assert reply.body.count(b"\n") == 50_000 + 5


def big() -> Snapshot:
    """100,000 series, whose page is some 12 MB."""
    count = 100_000
    sets = [
        AttributeSet.of({"client.address": f"2001:db8::{i:x}", "server.address": "192.0.2.10", "server.port": 443})
        for i in range(count)
    ]
    starts = np.full(count, START, np.uint64)
    return Snapshot(END, {"netmon.flow.io": NumberSeries(sets, starts, np.arange(count))})


@pytest.mark.parametrize("plain_bytes", [prometheus.PLAIN_BYTES, 1 << 30])
def test_slow_readers_of_the_big_page_share_it_and_harm_nobody(
    plain_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve hold the page of 100,000 series half read: others get theirs, the page is in memory once, and all come whole."""
    monkeypatch.setattr(prometheus, "HOLD_SECONDS", 60.0)
    monkeypatch.setattr(prometheus, "PLAIN_BYTES", plain_bytes)
    agent = Agent(snapshot=big())
    with agent.serve(response_seconds=60.0) as server, contextlib.ExitStack() as stack:
        whole = get(server, "/metrics").body
        assert whole.count(b"\n") == 100_000 + 5
        readers = []
        for _ in range(12):
            slow = stack.enter_context(socket.socket())
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.settimeout(20)
            slow.connect(server.address)
            slow.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            slow.recv(1, socket.MSG_PEEK)
            readers.append(slow)
        for _ in range(3):
            assert get(server, "/healthz").status == 200
            assert gzip.decompress(get(server, "/metrics", "Accept-Encoding: gzip").body) == whole
        waiting = [connection for connection in server._loop._connections if connection.response]
        assert len(waiting) == 12
        held = [sum(map(len, connection.response)) for connection in waiting]
        assert max(held) <= 2 * 2**18
        page = server._page._kept[TEXT, False][0]
        assert page.length == len(whole)
        if plain_bytes > len(whole):
            assert page.held == len(whole)
            assert {id(view.obj) for each in waiting for view in each.response} <= {id(v.obj) for v in page._stored}
        else:
            assert page.held < len(whole) / 5
        bodies: list[bytes] = []
        threads = [threading.Thread(target=lambda sock=sock: bodies.append(read_reply(sock).body)) for sock in readers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(bodies) == 12
        assert set(bodies) == {whole}


def test_a_page_is_let_go_when_nobody_has_asked_for_a_while_and_the_server_sleeps_again() -> None:
    with Agent().serve() as server:
        for accept in (TEXT, OPENMETRICS, PROTOBUF):
            assert get(server, "/metrics", f"Accept: {accept}").status == 200
        assert len(server._page._kept) == 3
        started = time.monotonic()
        wait_until(lambda: not server._page._kept)
        assert time.monotonic() - started < 2 * HOLD_SECONDS
        assert server._page._snapshot is None
        before = sleeps(server)
        time.sleep(1.2)  # the time over which wake-ups are counted
        assert sleeps(server) == before


def test_too_many_connections_are_told_then_closed_and_a_place_is_free_again() -> None:
    with Agent().serve(connections=2, linger_seconds=20.0) as server, contextlib.ExitStack() as stack:

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection(server.address, timeout=20))

        holders = [connect(), connect()]
        told = connect()
        reply = told.recv(65536)
        assert reply.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1" in reply
        connect().recv(65536)
        assert connect().recv(65536) == b""
        for holder in holders:
            holder.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            assert read_reply(holder).body == b"ok\n"
        stack.close()
        wait_until(lambda: get(server, "/healthz").status == 200)


def test_a_client_that_says_nothing_or_reads_nothing_is_closed() -> None:
    with Agent(snapshot=flows(100_000)).serve(request_seconds=0.1, response_seconds=0.2, linger_seconds=0.1) as server:
        with socket.create_connection(server.address, timeout=20) as sock:
            sock.sendall(b"GET /healthz")
            assert sock.recv(1) == b""
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(20)
            sock.connect(server.address)
            sock.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            wait_until(lambda: bool(server._loop._connections))
            wait_until(lambda: not server._loop._connections)
        with socket.create_connection(server.address, timeout=20) as sock:
            sock.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            assert read_reply(sock).status == 200
            wait_until(lambda: not server._loop._connections)


def test_a_client_that_resets_does_no_harm() -> None:
    with Agent(snapshot=flows(100_000)).serve() as server:
        for request in (b"", b"GET /metrics", b"GET /metrics HTTP/1.1\r\n\r\n"):
            with socket.create_connection(server.address, timeout=20) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
                sock.sendall(request)
        assert get(server, "/healthz").status == 200
        wait_until(lambda: not server._loop._connections)


def test_an_idle_server_sleeps_without_a_wake_up() -> None:
    with Agent().serve() as server:
        assert get(server, "/healthz").status == 200
        wait_until(lambda: not server._loop._connections)
        before = sleeps(server)
        time.sleep(1.2)  # the time over which wake-ups are counted; a poll of half a second would show two
        assert sleeps(server) == before


# ------------------------------------------------------------------------------------------------------- the address
def test_an_address_that_cannot_be_bound_is_an_error_with_a_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for listen, text, remedy in (
            (f"127.0.0.1:{port}", "Address already in use", f"sport = {port}"),
            ("192.0.2.1:0", "Cannot assign requested address", "--prometheus"),
            ("does-not-exist.invalid:0", "does-not-exist.invalid", "--prometheus"),
            ("127.0.0.1", "cannot listen on '127.0.0.1'", "host:port"),
            ("127.0.0.1:99999", "99999", "host:port"),
            ("127.0.0.1:-1", "-1", "host:port"),
        ):
            with pytest.raises(ListenError, match=text) as caught:
                Server(listen, lambda: None, dict, lambda: True)
            assert remedy in caught.value.remedy


def test_v6_and_all_addresses() -> None:
    for listen in ("[::1]:0", ":0", "localhost:0"):
        server = Server(listen, lambda: None, dict, lambda: True)
        server.start()
        with socket.create_connection(
            ("localhost" if listen[0] != "[" else "::1", server.address[1]), timeout=20
        ) as sock:
            sock.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            assert read_reply(sock).status == 200
        server.stop()


def test_after_stop_the_port_is_free_at_once_also_with_a_client_connected() -> None:
    with Agent().serve() as server:
        address = server.address
        client = socket.create_connection(address, timeout=20)
    assert client.recv(1) == b""
    client.close()
    again = Server(f"{address[0]}:{address[1]}", lambda: None, dict, lambda: True)
    again.stop()

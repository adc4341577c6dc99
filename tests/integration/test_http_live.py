"""HTTP/1 through the whole agent: what it counts is what was asked and answered, and nothing of a secret is in it."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from support.agent import Agent, agent
from support.netns import NetNs, Veth, veth_pair

pytestmark = pytest.mark.kernel

SECRET = b"canary-5d1f77"
PORT = 8088
COUNT = "http_client_request_duration_seconds_count"
STATUSES = (200, 204, 301, 404, 500)


@pytest.fixture
def link() -> Iterator[tuple[NetNs, NetNs, Veth]]:
    with veth_pair() as made:
        yield made


def request(number: int) -> bytes:
    method = (b"GET", b"POST", b"DELETE")[number % 3]
    body = SECRET * (number % 7) if method == b"POST" else b""
    head = b"%b /item/%d?token=%b HTTP/1.1\r\nHost: service.example\r\nAuthorization: Bearer %b\r\nContent-Length: %d\r\n\r\n"
    return head % (method, number, SECRET, SECRET, len(body)) + body


def status(number: int) -> int:
    return STATUSES[number % len(STATUSES)]


def response(number: int) -> bytes:
    if status(number) == 204:
        return b"HTTP/1.1 204 No Content\r\n\r\n"
    body = SECRET * (number % 301)
    if number % 2:
        return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status(number), len(body), body)
    chunks = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    return b"HTTP/1.1 %d X\r\nTransfer-Encoding: chunked\r\n\r\n%b0\r\n\r\n" % (status(number), chunks)


@contextmanager
def server(where: NetNs, answer: Callable[[int], bytes]) -> Iterator[None]:
    """Answers each request with what `answer` makes of the number in its path; one connection after another."""

    def serve() -> None:
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            with connection:
                data = b""
                while more := connection.recv(1 << 16):
                    data += more
                    while b"\r\n\r\n" in data:
                        head, _, rest = data.partition(b"\r\n\r\n")
                        length = int(head.rsplit(b"Content-Length: ", 1)[1])
                        if len(rest) < length:
                            break
                        data = rest[length:]
                        connection.sendall(answer(int(head.split(b"/item/")[1].split(b"?")[0])))

    with where.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("0.0.0.0", PORT))
        listener.listen()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def read_exactly(connection: socket.socket, octets: int) -> bytes:
    data = bytearray()
    while len(data) < octets and (more := connection.recv(1 << 16)):
        data += more
    return bytes(data)


def counted(running: Agent) -> Counter[tuple[str, int]]:
    """Requests by method and status."""
    found: Counter[tuple[str, int]] = Counter()
    for labels, value in running.samples(COUNT):
        if "http_request_method" in labels:
            found[labels["http_request_method"], int(labels["http_response_status_code"])] += int(value)
        else:
            assert value == 0, labels  # what no series had a place for
    return found


def test_every_request_is_counted(link: tuple[NetNs, NetNs, Veth]) -> None:
    client, far, pair = link
    number_of = 1009
    expected = Counter((request(n).split(b" ")[0].decode(), status(n)) for n in range(number_of))
    with (
        server(far, response),
        agent("--interface", pair.left, "--set", f"interfaces.namespaces={client.name}") as running,
    ):
        for first in range(0, number_of, 101):
            with client.socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
                connection.connect((pair.right_address, PORT))
                for number in range(first, min(first + 101, number_of)):
                    connection.sendall(request(number))
                    answer = response(number)
                    assert read_exactly(connection, len(answer)) == answer
        running.wait(lambda: sum(counted(running).values()) >= number_of, 30, "all requests")
        assert counted(running) == expected
        page, status_page = running.get("/metrics"), running.get("/status")
        assert SECRET.decode() not in page + status_page + running.log_text
        lost = running.samples("netmon_pipeline_items_total", netmon_signal="http_messages", netmon_outcome="dropped")
        assert sum(value for _, value in lost) == 0


def test_a_chunked_response_that_nothing_follows_is_counted(link: tuple[NetNs, NetNs, Veth]) -> None:
    client, far, pair = link
    with (
        server(far, response),
        agent("--interface", pair.left, "--set", f"interfaces.namespaces={client.name}") as running,
        client.socket(socket.AF_INET, socket.SOCK_STREAM) as connection,
    ):
        connection.connect((pair.right_address, PORT))
        connection.sendall(request(10))
        assert read_exactly(connection, len(response(10))) == response(10)
        running.wait(lambda: sum(counted(running).values()) == 1, 30, "the request")

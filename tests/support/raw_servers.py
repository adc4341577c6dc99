"""Servers that keep to no protocol but the one a test wants: what a receiver must never do, and small HTTP proxies."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass
class RawServer:
    """A listening socket on 127.0.0.1 whose connections a test's function serves.

    Attributes:
        heads: of every request that ``read_request`` took, in order.
        stop: set at the end of the test; a function that waits for something waits for this too.
    """

    port: int
    heads: list[bytes] = field(default_factory=list)
    connections: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def read_request(self, connection: socket.socket) -> bytes:
        """Takes one request with its body off a connection, remembers and returns its head; nothing when there is none."""
        data = b""
        while b"\r\n\r\n" not in data:
            piece = connection.recv(65536)
            if not piece:
                return b""
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        self.heads.append(head)
        left = int(head_value(head, "content-length") or 0) - len(body)
        while left > 0:
            piece = connection.recv(65536)
            if not piece:
                return b""
            left -= len(piece)
        return head


def head_value(head: bytes, name: str) -> str:
    """The value of a header in a request head; empty without it."""
    for line in head.decode("latin-1").split("\r\n")[1:]:
        key, _, value = line.partition(":")
        if key.strip().lower() == name:
            return value.strip()
    return ""


Serve = Callable[[RawServer, socket.socket, int], None]
"""Serves a connection: the server, the connection (closed afterwards), its number from 1."""


@contextlib.contextmanager
def raw_server(serve: Serve) -> Iterator[RawServer]:
    """Runs ``serve`` for each connection on a thread; an OSError ends it without a word."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = RawServer(listener.getsockname()[1])
    open_connections: set[socket.socket] = set()
    threads: list[threading.Thread] = []

    def one(connection: socket.socket, number: int) -> None:
        with connection, contextlib.suppress(OSError):
            serve(server, connection, number)
        open_connections.discard(connection)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            server.connections += 1
            open_connections.add(connection)
            thread = threading.Thread(target=one, args=(connection, server.connections))
            threads.append(thread)
            thread.start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield server
    finally:
        server.stop.set()
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()
        listener.close()
        for connection in list(open_connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


def answering(*answers: bytes) -> Serve:
    """Reads each request whole and sends the next of the answers, over all connections; then the last of them again."""
    given = iter(answers)
    last = b""

    def serve(server: RawServer, connection: socket.socket, _number: int) -> None:
        nonlocal last
        while server.read_request(connection):
            last = next(given, last)
            connection.sendall(last)

    return serve


def saying(data: bytes) -> Serve:
    """Reads a request whole, sends the bytes, closes."""

    def serve(server: RawServer, connection: socket.socket, _number: int) -> None:
        server.read_request(connection)
        connection.sendall(data)

    return serve


def silent(server: RawServer, _connection: socket.socket, _number: int) -> None:
    """Neither reads nor says anything until the end of the test."""
    server.stop.wait()


def proxying(wants_authorization: str = "") -> Serve:
    """A proxy: CONNECT, and POST in absolute form on one connection each. 407 where the credentials are not the wanted ones."""

    def serve(server: RawServer, connection: socket.socket, _number: int) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            piece = connection.recv(1)
            if not piece:
                return
            head += piece
        server.heads.append(head.removesuffix(b"\r\n\r\n"))
        if head_value(head, "proxy-authorization") != wants_authorization:
            connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        method, target, _ = head.split(b" ", 2)
        host, _, port = target.removeprefix(b"http://").partition(b"/")[0].decode().rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port))) as upstream:
            if method == b"CONNECT":
                connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                path = b"/" + target.removeprefix(b"http://").partition(b"/")[2]
                upstream.sendall(head.replace(target, path, 1))
            _pass_on(connection, upstream)

    return serve


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    pairs = {one: other, other: one}
    while True:
        for ready in select.select(list(pairs), [], [])[0]:
            data = ready.recv(65536)
            if not data:
                return
            pairs[ready].sendall(data)

"""One thread that serves short HTTP connections, with everything a client can hold bounded.

One selector, no poll: it sleeps until a socket is ready or a connection's time is up, so an idle agent is never woken. Each
connection carries one request (``Connection: close``), so no client occupies a place between scrapes. RFC 9110, RFC 9112.
"""

from __future__ import annotations

import errno
import itertools
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus

import structlog

from otel_netmon.errors import ListenError

_log = structlog.get_logger(__name__)

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_BUFFERS = 64  # the kernel refuses more than IOV_MAX, 1024
_AHEAD_BYTES = 1 << 18  # what each client that reads slowly may hold of a response that is made as it is sent
_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients can make the server hold.

    Attributes:
        connections: served at once; as many again are told 503, further ones are closed.
        request_bytes: request line and headers together.
        request_seconds: from the connection to the end of the request.
        response_seconds: from the end of the request to the response's last byte.
        linger_seconds: for the client to close after the response.
    """

    connections: int = 16
    request_bytes: int = 8192
    request_seconds: float = 5.0
    response_seconds: float = 10.0
    linger_seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class Response:
    """A response; an empty body becomes the status in words.

    Attributes:
        pieces: a body in pieces, taken as they are sent, which several responses may share; stands for ``body``.
        length: of the pieces together, octets.
        headers: further header lines, without line ends.
        head_only: the body's length is told and the body is not sent, as HEAD wants it.
    """

    status: HTTPStatus
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[str, ...] = ()
    head_only: bool = False
    pieces: Iterable[bytes | memoryview] | None = None
    length: int = 0


@dataclass(slots=True, eq=False)
class _Connection:
    """A client: its request arrives, the response leaves, the rest of its input is thrown away."""

    sock: socket.socket
    deadline: float
    received: bytearray = field(default_factory=bytearray)
    response: deque[memoryview] = field(default_factory=deque)
    rest: Iterator[bytes | memoryview] = field(default_factory=lambda: iter(()))
    lingering: bool = False

    def fill(self) -> bool:
        """Takes as much of the response as is sent at once; whether anything is left of it."""
        ready = sum(map(len, self.response))
        while ready < _AHEAD_BYTES and (piece := next(self.rest, None)) is not None:
            if piece:
                self.response.append(memoryview(piece))
                ready += len(piece)
        return bool(self.response)


class Loop:
    """Accepts connections and answers each one's request until stopped.

    Args:
        listener: a listening, non-blocking socket; the loop owns it.
        answer: the response to a complete request head; called on the loop's thread, must not raise.
        limits: what clients can make the server hold.
        tidy: lets go of what answers have left behind; called on the loop's thread whenever it woke. Gives the seconds until it
            wants to be called next, None where nothing is left.
    """

    def __init__(
        self,
        listener: socket.socket,
        answer: Callable[[bytes], Response],
        limits: Limits,
        tidy: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._listener = listener
        self._answer = answer
        self._limits = limits
        self._tidy = tidy
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._connections: set[_Connection] = set()
        self._selector = selectors.DefaultSelector()
        self._starved = False
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self) -> None:
        """Begin to accept."""
        self._thread.start()

    def stop(self) -> None:
        """Close the listener and all connections; returns when the thread has ended."""
        if self._thread.is_alive():
            os.eventfd_write(self._wake, 1)
            self._thread.join()
        for connection in list(self._connections):
            self._close(connection)
        self._selector.close()
        self._listener.close()
        os.close(self._wake)

    def _run(self) -> None:
        self._selector.register(self._listener, _READ)
        self._selector.register(self._wake, _READ)
        while True:
            ready = self._selector.select(self._patience())
            now = time.monotonic()  # before the answers: the time they take is not the other clients'
            for key, _ in ready:
                if key.fd == self._wake:
                    return
                if key.data is None:
                    self._accept()
                else:
                    self._advance(key.data)
            for connection in [each for each in self._connections if each.deadline <= now]:
                self._close(connection)

    def _patience(self) -> float | None:
        """Seconds until the first connection's time is up or there is something to tidy; None, for ever, without both."""
        untidy = self._tidy()
        now = time.monotonic()
        waits = [max(0.0, connection.deadline - now) for connection in self._connections]
        return min(waits if untidy is None else [*waits, untidy], default=None)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # the client gave up between the wake-up and here
        except OSError as error:
            if error.errno not in _OUT_OF_RESOURCES:
                raise
            if not self._starved:
                _log.error("http.accept_failed", error=str(error))
            self._starved = True
            # The client stays in the backlog and would wake the selector again at once.
            time.sleep(0.1)
            return
        self._starved = False
        if len(self._connections) >= 2 * self._limits.connections:
            sock.close()
            return
        sock.setblocking(False)
        connection = _Connection(sock, time.monotonic() + self._limits.request_seconds)
        self._connections.add(connection)
        self._selector.register(sock, _READ, connection)
        if len(self._connections) > self._limits.connections:
            busy = Response(HTTPStatus.SERVICE_UNAVAILABLE, b"too many connections\n", headers=("Retry-After: 1",))
            self._respond(connection, busy)

    def _advance(self, connection: _Connection) -> None:
        try:
            if connection.response:
                self._send(connection)
                return
            chunk = connection.sock.recv(self._limits.request_bytes)
        except BlockingIOError:
            return
        except OSError:  # the client is gone; nobody is left to tell
            self._close(connection)
            return
        if not chunk:
            self._close(connection)
        elif not connection.lingering:
            connection.received += chunk
            if b"\r\n\r\n" in connection.received or b"\n\n" in connection.received:
                self._respond(connection, self._answer(bytes(connection.received)))
            elif len(connection.received) >= self._limits.request_bytes:
                self._respond(connection, Response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE))

    def _respond(self, connection: _Connection, response: Response) -> None:
        body = response.body or f"{response.status.value} {response.status.phrase}\n".encode()
        lines = (
            f"HTTP/1.1 {response.status.value} {response.status.phrase}",
            f"Content-Type: {response.content_type}",
            f"Content-Length: {len(body) if response.pieces is None else response.length}",
            *response.headers,
            "Connection: close\r\n\r\n",
        )
        connection.response = deque([memoryview("\r\n".join(lines).encode())])
        if not response.head_only:
            connection.rest = iter((body,) if response.pieces is None else response.pieces)
        connection.received.clear()
        connection.deadline = time.monotonic() + self._limits.response_seconds
        self._selector.modify(connection.sock, _WRITE, connection)

    def _send(self, connection: _Connection) -> None:
        connection.fill()
        sent = connection.sock.sendmsg(itertools.islice(connection.response, _BUFFERS))
        while connection.response and sent >= len(connection.response[0]):
            sent -= len(connection.response.popleft())
        if connection.response:
            connection.response[0] = connection.response[0][sent:]
        if connection.fill():
            return
        # Closing with unread input makes the kernel send a reset, which can overtake the response (RFC 9112 section 9.6).
        connection.sock.shutdown(socket.SHUT_WR)
        connection.lingering = True
        connection.deadline = time.monotonic() + self._limits.linger_seconds
        self._selector.modify(connection.sock, _READ, connection)

    def _close(self, connection: _Connection) -> None:
        self._selector.unregister(connection.sock)
        connection.sock.close()
        self._connections.discard(connection)


def listen_on(listen: str) -> socket.socket:
    """A listening, non-blocking TCP socket.

    Args:
        listen: ``host:port`` or ``[v6]:port``; port 0 takes a free one, an empty host all addresses.

    Raises:
        ListenError: the address is not well-formed or cannot be bound.
    """
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ListenError(f"cannot listen on {listen!r}", "write it as host:port, with a port from 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ListenError(f"cannot listen on {listen}: {error.strerror}", _CHOOSE) from error
    listener = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(64)
    except OSError as error:
        listener.close()
        raise ListenError(f"cannot listen on {listen}: {error.strerror}", _remedy(error, port)) from error
    return listener


_CHOOSE = "choose an address of this host with --prometheus HOST:PORT"


def _remedy(error: OSError, port: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"`ss -ltnp 'sport = {port}'` shows who has the port; choose another with --prometheus HOST:PORT"
    if error.errno == errno.EACCES:
        return "ports below 1024 need CAP_NET_BIND_SERVICE; choose a higher one with --prometheus HOST:PORT"
    return _CHOOSE

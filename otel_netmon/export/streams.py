"""A connection of which every step keeps one deadline and can be called off by another thread.

The standard library's time limits hold for one system call each: a server that sends a byte a second keeps such a client for ever.
Here sockets do not block, and every wait is one poll on the socket, the rest of the time, and the sign to stop.
"""

from __future__ import annotations

import math
import os
import select
import socket
import ssl
import time
from typing import Final

PIECE_BYTES: Final = 64 << 10

READ: Final = select.POLLIN | select.POLLPRI
WRITE: Final = select.POLLOUT


class CancelledError(Exception):
    """Another thread called it off."""


class Waiter:
    """Waits for file descriptors until a deadline, or until ``cancel``, which any thread may call."""

    def __init__(self) -> None:
        self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def cancel(self) -> None:
        """Ends every wait, now and from now on, by CancelledError."""
        os.eventfd_write(self._stop, 1)

    def wait(self, interests: dict[int, int], deadline: float) -> set[int]:
        """Wait until one is ready.

        Args:
            interests: READ, WRITE or both for each file descriptor.
            deadline: by ``time.monotonic``.

        Returns:
            Those that are ready, or broken; at least one.

        Raises:
            TimeoutError: none is by the deadline.
            CancelledError: ``cancel`` was called.
        """
        poll = select.poll()
        poll.register(self._stop, READ)
        for descriptor, events in interests.items():
            poll.register(descriptor, events)
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        ready = {descriptor for descriptor, _ in poll.poll(math.ceil(left * 1000))}
        if self._stop in ready:
            raise CancelledError
        if not ready:
            raise TimeoutError
        return ready

    def close(self) -> None:
        """Give the descriptor back; nobody may wait any more."""
        os.close(self._stop)


class Stream:
    """A connected socket, with TLS on top when asked for. One thread uses it.

    Args:
        connected: becomes non-blocking and this object's own.
    """

    def __init__(self, connected: socket.socket, waiter: Waiter) -> None:
        self._socket = connected
        self._waiter = waiter
        connected.setblocking(False)
        if connected.family != socket.AF_UNIX:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def start_tls(self, context: ssl.SSLContext, host: str, deadline: float) -> None:
        """Shake hands; ``host`` is the name or address that the certificate must be for.

        Raises:
            ssl.SSLError: the handshake failed, ssl.SSLCertVerificationError where the certificate was refused.
            OSError: the connection broke.
            TimeoutError: the deadline passed.
            CancelledError: it was called off.
        """
        secured = context.wrap_socket(self._socket, server_hostname=host, do_handshake_on_connect=False)
        self._socket = secured
        while True:
            try:
                secured.do_handshake()
            except ssl.SSLWantReadError:
                self._wait(READ, deadline)
            except ssl.SSLWantWriteError:
                self._wait(WRITE, deadline)
            else:
                return

    def send(self, data: bytes, deadline: float) -> bytes:
        """Send it all, unless the peer speaks first: a server may refuse a request before it has read it.

        Returns:
            Nothing when all was sent, otherwise the first bytes of the peer; the rest of ``data`` was not sent.

        Raises:
            OSError: the connection broke, and nothing of an answer was left in it.
            TimeoutError: the deadline passed.
            CancelledError: it was called off.
        """
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest[:PIECE_BYTES]) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._wait(READ | WRITE, deadline)
            except ssl.SSLWantReadError:
                self._wait(READ, deadline)
            except OSError:
                # What a server says before it closes counts; an alert of TLS, which this raises, tells more than the break.
                early = self._arrived()
                if early:
                    return early
                raise
            else:
                continue
            early = self._arrived()
            if early:
                return early
            if early is not None:
                raise ConnectionAbortedError("the peer closed the connection while the request was sent")
        return b""

    def receive(self, deadline: float) -> bytes:
        """What arrives next, nothing at the end.

        Raises:
            OSError: the connection broke.
            TimeoutError: the deadline passed.
            CancelledError: it was called off.
        """
        while True:
            try:
                return self._socket.recv(PIECE_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError):
                self._wait(READ, deadline)
            except ssl.SSLWantWriteError:
                self._wait(WRITE, deadline)

    def quiet(self) -> bool:
        """Whether the peer neither closed the connection nor said anything: only then it can carry another request."""
        try:
            return self._arrived() is None
        except OSError:
            return False

    def close(self) -> None:
        """Close it without ceremony: the peer sees the end, TLS sends no farewell."""
        self._socket.close()

    def _arrived(self) -> bytes | None:
        """What can be read at once: bytes, nothing at the end, None where nothing has come."""
        try:
            return self._socket.recv(PIECE_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None

    def _wait(self, events: int, deadline: float) -> None:
        self._waiter.wait({self._socket.fileno(): events}, deadline)

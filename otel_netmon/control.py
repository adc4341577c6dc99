"""What supervisor and pipeline tell each other: JSON lines over one socketpair, file descriptors beside them."""

from __future__ import annotations

import array
import json
import os
import select
import socket
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_FDS_MAX = 253  # SCM_MAX_FD: what the kernel takes with one piece
_RECEIVE_BYTES = 1 << 16


class Channel:
    """One end of the socketpair.

    Args:
        end: a connected AF_UNIX stream socket; the channel owns it.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._partial = b""
        self._lines: deque[bytes] = deque()
        self._fds: list[int] = []
        self.closed = False

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Gives two connected ends."""
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return cls(left), cls(right)

    def fileno(self) -> int:
        """To wait on for reading."""
        return self._socket.fileno()

    def send(self, kind: str, fields: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """Sends one message; blocks while the other end does not read, for at most 5 s.

        Raises:
            OSError: the other end is gone or does not read. Half a message may be under way then: close the channel.
        """
        self._socket.settimeout(5.0)
        line = json.dumps({"kind": kind, "fds": len(fds), **fields}).encode() + b"\n"
        sent = 0
        for start in range(0, len(fds), _FDS_MAX):
            part = array.array("i", fds[start : start + _FDS_MAX])
            sent += self._socket.sendmsg([line[sent : sent + 1]], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, part)])
        self._socket.sendall(line[sent:])

    def receive(self) -> Iterator[tuple[dict[str, Any], list[int]]]:
        """Gives the messages that have arrived, with the file descriptors that came with them; sets ``closed`` at the end.

        File descriptors come before the end of their message, in order, and are kept until all of it is there. A message that
        is not asked for is given the next time.
        """
        self._socket.setblocking(False)
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(_RECEIVE_BYTES, socket.CMSG_LEN(_FDS_MAX * 4))
            except BlockingIOError:
                break
            except ConnectionResetError:
                data, ancillary = b"", []
            for level, kind, payload in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    numbers = array.array("i")
                    numbers.frombytes(payload[: len(payload) - len(payload) % 4])
                    self._fds += numbers
            if not data:
                self.closed = True
                break
            self._partial += data
        *lines, self._partial = self._partial.split(b"\n")
        self._lines += lines
        while self._lines:
            message = json.loads(self._lines.popleft())
            count = message.pop("fds")
            fds, self._fds = self._fds[:count], self._fds[count:]
            yield message, fds

    def wait(self) -> tuple[dict[str, Any], list[int]] | None:
        """Waits for the next message; None when the other end is closed."""
        while True:
            message = next(self.receive(), None)
            if message is not None or self.closed:
                return message
            select.select([self._socket], [], [])

    def close(self) -> None:
        """Closes this end, and the file descriptors of a message that never came whole."""
        self._socket.close()
        for fd in self._fds:
            os.close(fd)
        self._fds = []

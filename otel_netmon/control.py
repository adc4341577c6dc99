"""What supervisor and pipeline tell each other: JSON lines over one socketpair, file descriptors beside them."""

from __future__ import annotations

import array
import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_FDS_MAX = 16
_RECEIVE_BYTES = 1 << 16


class Channel:
    """One end of the socketpair.

    Args:
        end: a connected AF_UNIX stream socket; the channel owns it.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._partial = b""
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
            OSError: the other end is gone or does not read.
        """
        self._socket.settimeout(5.0)
        line = json.dumps({"kind": kind, **fields}).encode() + b"\n"
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sent = self._socket.sendmsg([line], ancillary)
        self._socket.sendall(line[sent:])

    def receive(self) -> Iterator[tuple[dict[str, Any], list[int]]]:
        """Gives the messages that have arrived, with the file descriptors that came with them; sets ``closed`` at the end."""
        fds: list[int] = []
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
                    fds += numbers
            if not data:
                self.closed = True
                break
            self._partial += data
        *lines, self._partial = self._partial.split(b"\n")
        for line in lines:
            yield json.loads(line), fds
            fds = []

    def close(self) -> None:
        """Closes this end."""
        self._socket.close()

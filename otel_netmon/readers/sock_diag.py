"""All TCP and UDP sockets of a network namespace, from NETLINK_SOCK_DIAG.

The socket shows the namespace in which it was opened, whoever asks, so the pipeline asks by what the supervisor opened. It needs no
privilege. A dump goes through the kernel's tables while they change: a socket that changes its table meanwhile may be missing or be
there twice.

Sources: sock_diag(7), netlink(7).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.readers.inet_diag import (
    HEADER,
    INET_DIAG_INFO,
    INET_DIAG_SKMEMINFO,
    SOCK_DIAG_BY_FAMILY,
    SOCKET,
    SOCKET_WITH_INFO,
    SOCKET_WITH_MEMORY,
    find_messages,
    sockets,
)

ALL_STATES = 0xFFF
"""Bit 1 << state of each of TCP_ESTABLISHED to TCP_CLOSING; the half open ones are in TCP_SYN_RECV."""
TRIES = 3
"""Dumps that are begun anew because the kernel said that one was interrupted."""
WAIT_SECONDS = 5.0
_REQUEST = struct.Struct("=BBBxI48x")  # struct inet_diag_req_v2: family, protocol, extensions, states; any socket
_NLM_F_REQUEST_DUMP = 0x301
_READ_BYTES = 1 << 16  # the kernel fills at most 32 KiB
_BUFFER_BYTES = 1 << 20
_SO_NETNS_COOKIE = 71


class SockDiagReader:
    """Asks the kernel for its sockets.

    Args:
        fd: an open socket of NETLINK_SOCK_DIAG (see ``namespaces.open_sock_diag``); taken over.
    """

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.settimeout(WAIT_SECONDS)
        self._sequence = 0
        self.interrupted = 0

    @property
    def namespace_cookie(self) -> int:
        """Cookie of the network namespace, as bpf_get_netns_cookie() gives it; 0 where the kernel (before 5.14) does not tell it."""
        return namespace_cookie(self._socket)

    def tcp(self, *, info: bool = False, states: int = ALL_STATES) -> npt.NDArray[Any]:
        """TCP sockets over IPv4 and IPv6, as rows of SOCKET, or with ``info`` of SOCKET_WITH_INFO; shape (n,).

        Raises:
            OSError: the kernel refuses, as with ENOENT where it has no tcp_diag.
        """
        extensions = 1 << INET_DIAG_INFO - 1 if info else 0
        return self._both(socket.IPPROTO_TCP, extensions, states, SOCKET_WITH_INFO if info else SOCKET)

    def udp(self) -> npt.NDArray[Any]:
        """UDP sockets over IPv4 and IPv6, as rows of SOCKET_WITH_MEMORY; shape (n,).

        Raises:
            OSError: the kernel refuses, as with ENOENT where it has no udp_diag.
        """
        return self._both(socket.IPPROTO_UDP, 1 << INET_DIAG_SKMEMINFO - 1, ALL_STATES, SOCKET_WITH_MEMORY)

    def _both(self, protocol: int, extensions: int, states: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        parts = []
        for family in (socket.AF_INET, socket.AF_INET6):
            parts += self._dump(_REQUEST.pack(family, protocol, extensions, states), dtype)
        return np.concatenate(parts)

    def _dump(self, request: bytes, dtype: np.dtype[Any]) -> list[npt.NDArray[Any]]:
        for _ in range(TRIES):
            parts, interrupted = self._dump_once(request, dtype)
            if not interrupted:
                break
            self.interrupted += 1
        return parts

    def _dump_once(self, request: bytes, dtype: np.dtype[Any]) -> tuple[list[npt.NDArray[Any]], bool]:
        self._sequence = self._sequence + 1 & 0xFFFFFFFF
        length = HEADER.size + len(request)
        header = HEADER.pack(length, SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, self._sequence, 0)
        self._socket.sendto(header + request, (0, 0))
        buffer = memoryview(bytearray(_BUFFER_BYTES))
        parts = [np.zeros(0, dtype)]
        done = interrupted = False
        while not done:
            starts = []
            filled = 0
            while not done and filled <= len(buffer) - _READ_BYTES:
                read, _, flags, _ = self._socket.recvmsg_into([buffer[filled : filled + _READ_BYTES]])
                if flags & socket.MSG_TRUNC:
                    raise OSError(errno.EMSGSIZE, "a netlink message does not fit")
                found, ending = find_messages(buffer[filled : filled + read], self._sequence)
                if ending.error:
                    raise OSError(ending.error, f"sock_diag: {os.strerror(ending.error)}")
                starts.append(found + filled)
                filled += read
                done, interrupted = ending.done, interrupted or ending.interrupted
            parts.append(sockets(buffer[:filled], np.concatenate(starts), dtype))
        return parts, interrupted

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()


def namespace_cookie(any_socket: socket.socket) -> int:
    """Cookie of the network namespace of a socket (SO_NETNS_COOKIE); 0 where the kernel (before 5.14) does not tell it."""
    try:
        return int.from_bytes(any_socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), "little")
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise
        return 0

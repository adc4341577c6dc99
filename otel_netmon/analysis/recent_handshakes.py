"""Handshakes of TLS of late, for requests that waited for them: those whose plaintext is seen. Bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.connection_index import UNKNOWN
from otel_netmon.analysis.tls_handshakes import TlsHandshake

HANDSHAKES_MAX = 1 << 13

_ENDS = ("local", "local_port", "remote", "remote_port")


class RecentHandshakes:
    """The last handshakes that succeeded, by the ends of their connections."""

    def __init__(self) -> None:
        self._taken: deque[tuple[bytes, int, int]] = deque(maxlen=HANDSHAKES_MAX)

    def take(self, handshakes: Iterable[TlsHandshake]) -> None:
        """Takes handshakes that are over."""
        for each in handshakes:
            if each.outcome == "established" and each.finished_ns is not None:
                ends = each.connection.client + each.connection.server
                self._taken.append((ends, each.start_ns, each.finished_ns))

    def waited(
        self, ends: npt.NDArray[Any], begin_ns: npt.NDArray[np.int64], begun_ns: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Gives how long the handshake of each connection took, UNKNOWN where none is known, and when it was over.

        Args:
            ends: connection_index.ENDS, shape (n,), as the clients see them.
            begin_ns: when the connections began, CLOCK_MONOTONIC.
            begun_ns: when their requests did.
        """
        took, over = np.full(len(ends), UNKNOWN, np.int64), np.zeros(len(ends), np.int64)
        if not len(ends) or not self._taken:
            return took, over
        by_ends: dict[bytes, list[tuple[int, int]]] = {}
        for key, start_ns, end_ns in self._taken:
            by_ends.setdefault(key, []).append((start_ns, end_ns))
        for at in range(len(ends)):  # rows of one: a single one has its ports in the host's order
            key = b"".join([ends[field][at : at + 1].tobytes() for field in _ENDS])
            for start_ns, end_ns in by_ends.get(key, ()):
                if begin_ns[at] <= start_ns <= begun_ns[at]:
                    took[at], over[at] = end_ns - start_ns, end_ns
        return took, over

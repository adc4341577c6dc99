"""TLS sessions whose plaintext is seen: records of kind SESSION, and what became of sessions and calls."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.abi import layout
from otel_netmon.abi.enums import MessageKind, SessionCount
from otel_netmon.kernel import syscalls
from otel_netmon.readers.maps import ArrayReader
from otel_netmon.readers.messages import Messages

KEY_SIZE = 16
"""struct session_key of the programs."""


def session_records(messages: Messages) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Gives the records of kind SESSION that are among messages: heads (layout.MESSAGE) and layout.SESSION, in their order."""
    which = np.flatnonzero(messages.heads["kind"] == MessageKind.SESSION)
    size = layout.SESSION.itemsize
    octets = b"".join([messages.data[start : start + size] for start in messages.starts[which].tolist()])
    return messages.heads[which], np.frombuffer(octets, layout.SESSION)


class SessionCounts:
    """Reads session_counts.

    Args:
        fd: the map.
        cpus: number of possible CPUs.
    """

    def __init__(self, fd: int, cpus: int) -> None:
        self._reader = ArrayReader(fd, np.dtype("<u8"), cpus)

    def read(self) -> dict[SessionCount, int]:
        """Every count, summed over the CPUs."""
        return {what: int(self._reader.read(what).sum()) for what in SessionCount if what is not SessionCount.NUMBER}


def live_sessions(fd: int) -> int:
    """How many sessions are in the map."""
    return sum(1 for _ in syscalls.map_keys(fd, KEY_SIZE))

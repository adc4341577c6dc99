"""TCP connections and UDP sockets out of the maps of socket_monitor: rows of those that live, records of those that have ended."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.abi import layout
from otel_netmon.abi.enums import TOTALS_NUMBER, ConnectionCount, ConnectionFlags, Ending, Role
from otel_netmon.errors import NetmonError
from otel_netmon.kernel import syscalls
from otel_netmon.readers.maps import ArrayReader, HashReader
from otel_netmon.readers.ring import RingReader

CLOSED_SECONDS_MAX = 1800.0
"""No socket outlives its last descriptor so long: the kernel gives up what is left of its connection before."""

_COOKIE = np.dtype("<u8")
_HEADER = ("header", "<u8")

Maps = Mapping[str, tuple[int, int]]
"""Name of a map to its file descriptor and max_entries."""


class SocketRows(NamedTuple):
    """One reading of a table; arrays of layout.CONNECTION or layout.UDP.

    Attributes:
        live: sockets that are open, one row each.
        ended: sockets that have ended while the ring was full, or whose end no hook told; they have left the table and are given once.
    """

    live: npt.NDArray[Any]
    ended: npt.NDArray[Any]


class SocketReader:
    """A table of sockets by cookie and the ring that takes their records when they end.

    Every socket is told once as ended: by the ring, or by ``SocketRows.ended``.

    Args:
        table, ring: file descriptor and max_entries of each.
        row: layout.CONNECTION or layout.UDP.

    Attributes:
        capacity: rows the table has room for.
        live: rows at the last reading.
    """

    def __init__(self, table: tuple[int, int], ring: tuple[int, int], row: np.dtype[Any]) -> None:
        self._fd, self.capacity = table
        self._row = row
        self._record = np.dtype([_HEADER, ("row", row)])
        self._table = HashReader(self._fd, _COOKIE, row, self.capacity)
        self._ring = RingReader(*ring)
        self.live = 0
        self._closed: dict[int, float] = {}

    def drain(self) -> npt.NDArray[Any]:
        """Takes what has ended since the last call out of the ring, oldest first.

        Raises:
            NetmonError: the ring holds something else: maps of another version of the programs.
        """
        drained = self._ring.drain()
        if (drained.lengths != self._row.itemsize).any():
            raise NetmonError("a record of the ring is of another length", "restart the agent")
        rows: npt.NDArray[Any] = np.frombuffer(drained.data, self._record)["row"]
        return rows

    def read(self) -> SocketRows:
        """Reads the table once, and takes out of it what could not go into the ring."""
        keys, rows = self._table.read()
        ended = rows["flags"] & ConnectionFlags.ENDED != 0
        made = rows["begin_ns"] != 0
        live = made & ~ended
        if "released" in (self._row.names or ()):
            forgotten = self._forgotten(keys, live & (rows["released"] != 0))
            live, ended = live & ~forgotten, ended | forgotten
        self.live = int(live.sum())
        return SocketRows(rows[live], self._take(keys[ended]))

    def _forgotten(self, keys: npt.NDArray[Any], closed: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Rows whose end was never told: somebody else's program took the hooks' flags off their socket."""
        now = time.monotonic()
        self._closed = {cookie: self._closed.get(cookie, now) for cookie in keys[closed].tolist()}
        late = [cookie for cookie, since in self._closed.items() if now - since > CLOSED_SECONDS_MAX]
        return np.isin(keys, late) if late else np.zeros(len(keys), np.bool_)

    def _take(self, keys: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Once marked, a row is not written any more: what is read now is whole."""
        taken = []
        for key in keys:
            value = syscalls.map_lookup(self._fd, key.tobytes(), self._row.itemsize)
            if value is not None and syscalls.map_delete(self._fd, key.tobytes()):
                taken.append(value)
        rows = np.frombuffer(bytearray().join(taken), self._row)
        if "ending" in (self._row.names or ()):
            untold = (rows["ending"] == Ending.NONE) & (rows["role"] != Role.LISTENER)
            rows["ending"][untold], rows["end_ns"][untold] = Ending.UNKNOWN, time.monotonic_ns()
        return rows

    def close(self) -> None:
        """Gives the mappings back."""
        self._ring.close()


def tcp_reader(maps: Maps) -> SocketReader:
    """The TCP connections."""
    return SocketReader(maps["connection_stats"], maps["connections"], layout.CONNECTION)


def udp_reader(maps: Maps) -> SocketReader:
    """The UDP sockets."""
    return SocketReader(maps["udp_stats"], maps["udp_records"], layout.UDP)


class ConnectionCounts:
    """Reads connection_counts and connection_totals: what became of sockets, and what had no place in a table.

    Args:
        maps: of socket_monitor.
        cpus: number of possible CPUs.
    """

    def __init__(self, maps: Maps, cpus: int) -> None:
        self._counts = ArrayReader(maps["connection_counts"][0], np.dtype("<u8"), cpus)
        self._totals = ArrayReader(maps["connection_totals"][0], layout.CONNECTION_TOTALS, cpus)

    def read(self) -> dict[ConnectionCount, int]:
        """Every count, summed over the CPUs, since the programs were loaded."""
        return {
            what: int(self._counts.read(what).sum()) for what in ConnectionCount if what is not ConnectionCount.NUMBER
        }

    def totals(self) -> npt.NDArray[Any]:
        """connection_totals, summed over the CPUs: layout.CONNECTION_TOTALS, shape (TOTALS_NUMBER,)."""
        result = np.zeros(TOTALS_NUMBER, layout.CONNECTION_TOTALS)
        for place in range(TOTALS_NUMBER):
            per_cpu = self._totals.read(place)
            for field in layout.CONNECTION_TOTALS.names or ():
                result[place][field] = per_cpu[field].sum(dtype=np.uint64)
        return result

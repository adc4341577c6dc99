"""UDP sockets: what they gained since they were last told, and with whom, from living rows and the records of closed ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.abi.enums import Role
from otel_netmon.analysis.differences import group
from otel_netmon.analysis.series import SeriesReading
from otel_netmon.analysis.series_family import SeriesFamily
from otel_netmon.analysis.told import Told

COUNTERS = ("bytes_received", "bytes_sent", "packets_received", "packets_sent")
"""Rows of the counters; those with the first peer, then the same with all others."""

BYTES_RECEIVED, BYTES_SENT, PACKETS_RECEIVED, PACKETS_SENT = range(len(COUNTERS))

CONVERSATION = np.dtype([("owner", "<u8"), ("server", "u1", 16), ("port", ">u2"), ("role", "u1"), ("reserved", "u1")])
"""The identity of a series: whose it is, and the server: the first peer, or the socket's own end where the peer began.

What a socket that began exchanges with others than its first peer has no server: address and port are 0.
"""

_OTHER = tuple(f"other_{name}" for name in COUNTERS)
_TOLD = np.dtype([("cookie", "<u8"), ("counts", "<u8", 2 * len(COUNTERS))])


class DatagramGains(NamedTuple):
    """What n sockets gained.

    Attributes:
        rows: layout.UDP, as they are now.
        first, others: uint64, shape (4, n), by COUNTERS: with the first peer, and with all others.
    """

    rows: npt.NDArray[Any]
    first: npt.NDArray[np.uint64]
    others: npt.NDArray[np.uint64]


class Datagrams:
    """The UDP sockets of the kernel's table over time."""

    def __init__(self) -> None:
        self._told = Told(_TOLD)

    def __len__(self) -> int:
        return len(self._told)

    def closed(self, rows: npt.NDArray[Any]) -> DatagramGains:
        """Takes records of sockets that were closed, layout.UDP, shape (n,)."""
        return _gains(rows, _counted(rows), self._told.take(rows["cookie"]))

    def living(self, rows: npt.NDArray[Any]) -> DatagramGains:
        """Takes the whole table, layout.UDP; gives those that gained something. A row that was closed counts with its record."""
        rows = rows[rows["end_ns"] == 0]
        counted = _counted(rows)
        gains = _gains(rows, counted, self._told.before(rows["cookie"]))
        self._told.replace(counted)
        busy = gains.first.any(axis=0) | gains.others.any(axis=0)
        return DatagramGains(rows[busy], gains.first[:, busy], gains.others[:, busy])

    def state(self) -> dict[str, Any]:
        """What another process needs to go on."""
        return self._told.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on where another process was, before the first reading."""
        self._told.restore(state)


class DatagramSeries(SeriesFamily):
    """Keeps the series of UDP by process and server; who exchanges most packets has one.

    Args:
        start_ns: Unix time at which counting began.
        idle_ns: a series that gained nothing for so long ends.
    """

    def __init__(self, start_ns: int, idle_ns: int) -> None:
        super().__init__("datagrams", CONVERSATION, start_ns, idle_ns, counters=len(COUNTERS) + 1, weight=len(COUNTERS))

    def add(self, gains: DatagramGains, owners: npt.NDArray[np.uint64], now_ns: int) -> None:
        """Counts what sockets gained; ``owners`` are numbers of identities, shape (n,)."""
        if not len(gains.rows):
            return
        # A socket that was asked has one end for all peers, one that asks a server for each.
        asked = gains.rows["role"] == Role.SERVER
        keys = np.concatenate(
            [_conversations(gains.rows, owners, asked), _conversations(gains.rows, owners, asked, others=True)],
            dtype=CONVERSATION,
        )
        counters = np.concatenate([gains.first, gains.others], axis=1)
        busy = counters.any(axis=0)
        keys, counters = keys[busy], counters[:, busy]
        if not len(keys):
            return
        first, inverse = group(keys)
        sums = np.zeros((len(COUNTERS) + 1, len(first)), np.uint64)
        for total, counter in zip(sums, counters, strict=False):
            np.add.at(total, inverse, counter)
        sums[-1] = sums[PACKETS_RECEIVED] + sums[PACKETS_SENT]
        self._place(keys[first], sums, now_ns)

    def add_to_rest(self, counts: tuple[int, ...]) -> None:
        """Counts datagrams of sockets that are not known, by COUNTERS."""
        self._table.add_to_rest(0, (*counts, counts[PACKETS_RECEIVED] + counts[PACKETS_SENT]))

    def reading(self) -> SeriesReading:
        """The series as they stand."""
        return self._table.reading()

    def numbers(self) -> set[int]:
        """Whose series there are."""
        return set(self._table.reading().keys["owner"].tolist())


def _counted(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    counted = np.zeros(len(rows), _TOLD)
    counted["cookie"] = rows["cookie"]
    for place, name in enumerate((*COUNTERS, *_OTHER)):
        counted["counts"][:, place] = rows[name]
    return counted


def _gains(rows: npt.NDArray[Any], counted: npt.NDArray[Any], before: npt.NDArray[Any]) -> DatagramGains:
    gained = (counted["counts"] - before["counts"]).T
    return DatagramGains(rows, gained[: len(COUNTERS)], gained[len(COUNTERS) :])


def _conversations(
    rows: npt.NDArray[Any], owners: npt.NDArray[np.uint64], asked: npt.NDArray[np.bool_], *, others: bool = False
) -> npt.NDArray[Any]:
    keys = np.zeros(len(rows), CONVERSATION)
    keys["owner"], keys["role"] = owners, rows["role"]
    keys["server"][asked], keys["port"][asked] = rows["local"][asked], rows["local_port"][asked]
    if not others:
        began = rows["role"] == Role.CLIENT
        keys["server"][began], keys["port"][began] = rows["remote"][began], rows["remote_port"][began]
    return keys

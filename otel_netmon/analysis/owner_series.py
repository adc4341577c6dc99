"""What processes and containers transferred: which of them have a series of their own, all others exactly in a rest."""

from __future__ import annotations

import enum

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.differences import group
from otel_netmon.analysis.series import SeriesReading
from otel_netmon.analysis.series_family import SeriesFamily

OWNER = np.dtype([("number", "<u8"), ("transport", "<u4")])
"""The identity of a series: the number of an identity (``enrich.identities``), 0 for who is not known, and a place in TRANSPORTS."""

TRANSPORTS = ("tcp", "udp")


class OwnerCounter(enum.IntEnum):
    """Rows of the values of ``OwnerSeries``."""

    BYTES_RECEIVED = 0
    BYTES_SENT = 1
    DROPS = 2
    WEIGHT = 3


class OwnerSeries(SeriesFamily):
    """Keeps the series of processes, or of containers, by transport. Who transfers most has one.

    Args:
        name: of the family.
        start_ns: Unix time at which counting began.
        idle_ns: a series that gained nothing for so long ends.
    """

    def __init__(self, name: str, start_ns: int, idle_ns: int) -> None:
        super().__init__(
            name,
            OWNER,
            start_ns,
            idle_ns,
            counters=len(OwnerCounter),
            weight=OwnerCounter.WEIGHT,
            partitions=len(TRANSPORTS),
        )

    def add(
        self, numbers: npt.NDArray[np.uint64], transport: int, counters: npt.NDArray[np.uint64], now_ns: int
    ) -> None:
        """Counts.

        Args:
            numbers: whose it is, shape (n,).
            transport: place in TRANSPORTS.
            counters: shape (m, n), the first rows of ``OwnerCounter``.
        """
        if not len(numbers):
            return
        keys = np.zeros(len(numbers), OWNER)
        keys["number"], keys["transport"] = numbers, transport
        first, inverse = group(keys)
        sums = np.zeros((len(OwnerCounter), len(first)), np.uint64)
        for total, counter in zip(sums, counters, strict=False):
            np.add.at(total, inverse, counter)
        sums[OwnerCounter.WEIGHT] = sums[: OwnerCounter.WEIGHT].sum(axis=0)
        partitions = np.full(len(first), transport, np.intp)
        self._place(keys[first], sums, now_ns, partitions)

    def add_to_rest(self, transport: int, received: int, sent: int) -> None:
        """Counts bytes of which nobody knows whose they are."""
        self._table.add_to_rest(transport, (received, sent, 0, received + sent))

    def reading(self) -> SeriesReading:
        """The series as they stand."""
        return self._table.reading()

    def numbers(self) -> set[int]:
        """Who has a series."""
        return set(self._table.reading().keys["number"].tolist())

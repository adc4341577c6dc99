"""Rows of counters that are no wider than what they count."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

TIERS: tuple[type[np.unsignedinteger[Any]], ...] = (np.uint8, np.uint16, np.uint32, np.uint64)
"""The types of counters, narrow to wide."""

_LIMITS = np.array([np.iinfo(kind).max for kind in TIERS[:-1]], np.uint64)


def tier_for(counts: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
    """Gives the narrowest tier whose counters hold each count; shape (n,)."""
    return np.searchsorted(_LIMITS, counts)


class CounterRows:
    """Rows of counters of one type, made when they are needed; a row that was given back is zero and used again.

    Args:
        columns: counters in a row.
        kind: their type, one of ``TIERS``.

    Attributes:
        table: shape (rows, columns); replaced when it grows or shrinks.
    """

    def __init__(self, columns: int, kind: type[np.unsignedinteger[Any]]) -> None:
        self.table: npt.NDArray[Any] = np.zeros((0, columns), kind)
        self._free: list[int] = []

    def take(self, number: int) -> list[int]:
        """Gives the numbers of rows that are all zero."""
        missing = number - len(self._free)
        if missing > 0:
            have, columns = self.table.shape
            more = max(missing, have // 4)
            self.table = np.concatenate([self.table, np.zeros((more, columns), self.table.dtype)])
            self._free[:0] = range(have + more - 1, have - 1, -1)
        taken = self._free[len(self._free) - number :]
        del self._free[len(self._free) - number :]
        return taken

    def give_back(self, rows: npt.NDArray[np.int32]) -> bool:
        """Takes rows back; tells whether most of the table is unused now and ``keep`` would pay."""
        self.table[rows] = 0
        self._free.extend(rows.tolist())
        return len(self._free) > max(64, len(self.table) // 2)

    def keep(self, rows: npt.NDArray[np.int32]) -> None:
        """Makes a table of these rows alone, numbered in this order."""
        self.table = self.table[rows]
        self._free = []

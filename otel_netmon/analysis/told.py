"""What was last told of rows that live in a kernel table and leave it with a record of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

_CYCLES_ABSENT = 2


class Told:
    """Cumulative counts by cookie, so that a record at the end of a life tells only what no reading told before.

    A row that has left the table waits for its record until the next reading but one: the record is written before the row goes, so
    by then it was read, or is lost with the process that took it out of the ring.

    Args:
        dtype: what is kept of a row; its first field is ``cookie``, u8, never 0 and never used again.
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._dtype = np.dtype([*dtype.descr, ("absent", "u1")])
        self._kept = dtype.names or ()
        self._rows = np.empty(0, self._dtype)
        self._taken = np.empty(0, np.bool_)

    def __len__(self) -> int:
        return len(self._rows) - int(np.count_nonzero(self._taken))

    def before(self, cookies: npt.NDArray[np.uint64]) -> npt.NDArray[Any]:
        """What was told of each, shape (n,); all zero where nothing was."""
        found, places = self._find(cookies)
        result = np.zeros(len(cookies), self._dtype)
        result[found] = self._rows[places]
        return result

    def take(self, cookies: npt.NDArray[np.uint64]) -> npt.NDArray[Any]:
        """As ``before``, of rows that are over: they are forgotten."""
        found, places = self._find(cookies)
        result = np.zeros(len(cookies), self._dtype)
        result[found] = self._rows[places]
        self._taken[places] = True
        return result

    def replace(self, living: npt.NDArray[Any]) -> None:
        """Keeps what was told of the rows of a reading; ``living`` has the fields of the dtype given, shape (n,)."""
        order = np.argsort(living["cookie"])
        rows = np.zeros(len(living), self._dtype)
        for name in self._kept:
            rows[name] = living[name][order]
        waiting = self._rows[~self._taken]
        if len(waiting):
            at = np.searchsorted(rows["cookie"], waiting["cookie"])
            at[at == len(rows)] = 0
            here = rows["cookie"][at] == waiting["cookie"] if len(rows) else np.zeros(len(waiting), np.bool_)
            waiting = waiting[~here]
            waiting["absent"] += 1
            waiting = waiting[waiting["absent"] < _CYCLES_ABSENT]
            if len(waiting):
                rows = np.concatenate([rows, waiting])
                rows = rows[np.argsort(rows["cookie"])]
        self._rows, self._taken = rows, np.zeros(len(rows), np.bool_)

    def add(self, rows: npt.NDArray[Any]) -> None:
        """Keeps what was told of rows that are not known yet, as ``replace`` has them."""
        more = np.zeros(len(rows), self._dtype)
        for name in self._kept:
            more[name] = rows[name]
        every = np.concatenate([self._rows[~self._taken], more])
        self._rows = every[np.argsort(every["cookie"])]
        self._taken = np.zeros(len(self._rows), np.bool_)

    def state(self) -> dict[str, Any]:
        """What another process needs to go on."""
        return {"rows": self._rows[~self._taken]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on where another process was; rows of another layout are forgotten by whoever saved them."""
        self._rows = state["rows"]
        self._taken = np.zeros(len(self._rows), np.bool_)

    def _find(self, cookies: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Which of the cookies are known, and their places."""
        if not len(self._rows) or not len(cookies):
            return np.empty(0, np.intp), np.empty(0, np.intp)
        known = self._rows["cookie"]
        at = np.searchsorted(known, cookies)
        at[at == len(known)] = 0
        found = np.flatnonzero((known[at] == cookies) & ~self._taken[at])
        return found, at[found]

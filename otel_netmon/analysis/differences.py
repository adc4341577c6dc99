"""What rows of cumulative counters gained since the reading before."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(29)


def fingerprints(keys: npt.NDArray[Any], seed: int) -> npt.NDArray[np.uint64]:
    """Gives a 64-bit hash of each key (itemsize a multiple of 4 bytes, no padding); shape (n,)."""
    return word_fingerprints(np.ascontiguousarray(keys).view("<u4").reshape(len(keys), keys.dtype.itemsize // 4), seed)


def word_fingerprints(words: npt.NDArray[np.uint32], seed: int) -> npt.NDArray[np.uint64]:
    """The same of keys that are rows of words, shape (n, words)."""
    result = np.full(len(words), seed, np.uint64)
    for column in words.T:
        result ^= column
        result *= _MULTIPLIER
        result ^= result >> _SHIFT
    return result


def group(keys: npt.NDArray[Any]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Groups equal keys.

    Returns:
        the index of one key of each group, and for every key the number of its group.
    """
    # Compared as words: to compare rows numpy would go field by field.
    words = np.ascontiguousarray(keys).view("<u4").reshape(len(keys), keys.dtype.itemsize // 4)
    while True:
        marks = fingerprints(keys, int.from_bytes(os.urandom(8), "little"))
        _, first, inverse = np.unique(marks, return_index=True, return_inverse=True)
        if np.array_equal(words[first][inverse], words):
            return first, inverse
        # Two keys with one hash: one in 10^10 readings of a full table. Another seed tells them apart.


class Differences:
    """Keeps the last reading of a table of cumulative counters and gives what each row gained.

    Args:
        fields: names of the counters in the values' dtype.
    """

    def __init__(self, fields: tuple[str, ...]) -> None:
        self._fields = fields
        self._seed = int.from_bytes(os.urandom(8), "little")
        self._keys: npt.NDArray[Any] = np.empty(0)
        self._marks = np.empty(0, np.uint64)
        self._counters = np.empty((len(fields), 0), np.uint64)

    def update(
        self,
        keys: npt.NDArray[Any],
        values: npt.NDArray[Any],
        closed_keys: npt.NDArray[Any] | None = None,
        closed_values: npt.NDArray[Any] | None = None,
    ) -> npt.NDArray[np.uint64]:
        """Takes a reading; closed rows are counted once more and forgotten.

        Args:
            keys, values: live rows, shape (n,).
            closed_keys, closed_values: rows that have left the table since, shape (m,).

        Returns:
            gains, shape (len(fields), n + m): the live rows, then the closed ones.
        """
        # With its dtype named, for it would make a field in network order one in the host's, and marks of other bytes.
        every = keys if closed_keys is None else np.concatenate([keys, closed_keys], dtype=keys.dtype)
        counters = np.stack([values[f] for f in self._fields])
        if closed_values is not None:
            counters = np.concatenate([counters, np.stack([closed_values[f] for f in self._fields])], axis=1)
        gains = counters.copy()
        marks = fingerprints(every, self._seed)
        if len(self._keys) and len(every):
            at = np.searchsorted(self._marks, marks)
            at[at == len(self._marks)] = 0
            known = self._marks[at] == marks
            if not (self._keys[at[known]] == every[known]).all():
                self._reseed()
                return self.update(keys, values, closed_keys, closed_values)
            # A row that has less than before was deleted and made again: all it has is gained.
            known[known] = counters[0, known] >= self._counters[0, at[known]]
            gains[:, known] -= self._counters[:, at[known]]
        order = np.argsort(marks[: len(keys)])
        self._keys = keys[order]
        self._marks = marks[order]
        self._counters = counters[:, order]
        if (self._marks[1:] == self._marks[:-1]).any():
            self._reseed()
        return gains

    @property
    def keys(self) -> npt.NDArray[Any]:
        """Of the last reading, in an order of its own."""
        return self._keys

    def forget(self, which: npt.NDArray[np.bool_]) -> None:
        """Forgets rows that were deleted after the last reading; ``which`` is a mask over ``keys``."""
        stays = ~which
        self._keys, self._marks, self._counters = self._keys[stays], self._marks[stays], self._counters[:, stays]

    def state(self) -> dict[str, Any]:
        """What another process needs to go on: the last reading. Not copies: to be written down before the next update."""
        return {"keys": self._keys, "counters": self._counters}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from ``state``, before the first update."""
        self._keys, self._counters = state["keys"], state["counters"]
        self._reseed()

    def _reseed(self) -> None:
        while True:
            self._seed = int.from_bytes(os.urandom(8), "little")
            marks = fingerprints(self._keys, self._seed)
            order = np.argsort(marks)
            if (marks[order][1:] != marks[order][:-1]).all():
                break
        self._keys, self._marks, self._counters = self._keys[order], marks[order], self._counters[:, order]

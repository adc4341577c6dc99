"""Which series are exported, with their cumulative counters; everything else exactly in one rest.

Choice: each key has a score, what it gained in this cycle plus half of its score before; the keys with the largest scores hold the
places. This is Space-Saving (Metwally, Agrawal, El Abbadi 2005) with two errors taken out, since the kernel counts every key
exactly: a value holds only what was counted for its key since its start time (Space-Saving would inherit the displaced one's
count), and a place is taken only by a key that gained more than the holder's score (Space-Saving replaces the smallest always).

Error bound: the score of a key without a place is not carried over, so at most the smallest score of the holders at the cycle
before, halved at each cycle, is missing from it. A key that gains more than twice the smallest score in one update always
gets a place. Values and sums have no error: rest + series gain exactly what was given to ``update``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.differences import fingerprints, group

_DECAY = 0.5


class SeriesReading(NamedTuple):
    """The series after an update, in a stable order: one keeps its place in it while it lives.

    Attributes:
        keys: shape (n,), of the table's dtype.
        slots: intp, shape (n,), ascending: the place that a series holds while it lives, and another one after it.
        values: uint64, shape (counters, n), cumulative since start_ns.
        start_ns: uint64, shape (n,), Unix time.
        gained: uint64, shape (counters, n): in this cycle.
        rest: uint64, shape (partitions, counters), cumulative since rest_start_ns.
        active: keys that gained something in this cycle, counted anew at each update.
        folded: those of them that are in the rest.
    """

    keys: npt.NDArray[Any]
    slots: npt.NDArray[np.intp]
    values: npt.NDArray[np.uint64]
    start_ns: npt.NDArray[np.uint64]
    gained: npt.NDArray[np.uint64]
    rest: npt.NDArray[np.uint64]
    rest_start_ns: int
    active: int
    folded: int

    @property
    def starts_ns(self) -> npt.NDArray[np.uint64]:
        """Since when each point counts, Unix time: the rests first, one a partition, then the series."""
        return np.concatenate([np.full(len(self.rest), self.rest_start_ns, np.uint64), self.start_ns])


class Placement(NamedTuple):
    """Where rows went.

    Attributes:
        slots: intp, shape (n,): the slot of each row's key, -1 for the rest.
        fresh: intp: slots of series that begin here; what else is kept by slot must be cleared.
    """

    slots: npt.NDArray[np.intp]
    fresh: npt.NDArray[np.intp]


class CounterSeries:
    """Cumulative counters of at most ``limit`` keys, and of the rest by partition.

    Args:
        key: dtype of a key, a multiple of 4 bytes without implicit padding.
        counters: how many counters a series has.
        partitions: how many rests there are (one for each direction, say).
        limit: how many series there may be; see ``limit``.
        start_ns: Unix time at which counting began.
        idle_ns: a series that gained nothing for so long leaves; 0 lets it stay until another takes its place.
    """

    def __init__(
        self, key: np.dtype[Any], counters: int, partitions: int, limit: int, start_ns: int, idle_ns: int = 0
    ) -> None:
        self._dtype = key
        self._seed = int.from_bytes(os.urandom(8), "little")
        self._read_ns = self._begin_ns = self._rest_start_ns = start_ns
        self._idle_ns = idle_ns
        self.limit = limit
        self._rest = np.zeros((partitions, counters), np.uint64)
        self._keys = np.zeros(0, key)
        self._marks = np.zeros(0, np.uint64)  # fingerprints of the live ones, sorted
        self._marked = np.zeros(0, np.intp)  # their slots
        self._live = np.zeros(0, np.bool_)
        self._values = np.zeros((counters, 0), np.uint64)
        self._gained = np.zeros((counters, 0), np.uint64)
        self._start = np.zeros(0, np.uint64)
        self._last = np.zeros(0, np.uint64)
        self._score = np.zeros(0, np.float64)
        self._active = self._folded = 0

    def __len__(self) -> int:
        return int(np.count_nonzero(self._live))

    def begin_cycle(self) -> None:
        """Begins a cycle, which one or more updates make up."""
        self._gained[:] = 0
        self._score *= _DECAY
        self._active = self._folded = 0
        self._begin_ns = self._read_ns

    def update(
        self,
        keys: npt.NDArray[Any],
        gains: npt.NDArray[np.uint64],
        weight: int,
        partitions: npt.NDArray[np.intp],
        now_ns: int,
        begin_ns: int = 0,
    ) -> Placement:
        """Takes what keys gained since the last update; tells where each row went.

        Args:
            keys: shape (n,); a key may come several times.
            gains: shape (counters, n).
            weight: index of the counter that decides who is large.
            partitions: shape (n,): the rest that a row belongs to where its key has no series.
            now_ns: Unix time of the reading; a series that begins has counted since the reading before,
                or since ``begin_ns`` where that is given.
        """
        first, inverse = group(keys) if len(keys) else (np.zeros(0, np.intp), np.zeros(0, np.intp))
        sums = np.zeros((len(gains), len(first)), np.uint64)
        for total, gain in zip(sums, gains, strict=True):
            np.add.at(total, inverse, gain)
        slots = self._find(keys[first])
        known = slots >= 0
        busy = sums.any(axis=0)
        self._score[slots[known]] += sums[weight, known]
        self._last[slots[known & busy]] = now_ns
        self._drop_idle(now_ns)
        slots[known] = np.where(self._live[slots[known]], slots[known], -1)
        candidates = np.flatnonzero(~known & busy)
        fresh = self._admit(keys, first, sums[weight], slots, candidates, now_ns, begin_ns or self._begin_ns)
        placed = slots >= 0
        self._values[:, slots[placed]] += sums[:, placed]
        self._gained[:, slots[placed]] += sums[:, placed]
        if not placed.all():
            homeless = ~placed[inverse]
            for counter, gain in enumerate(gains):
                np.add.at(self._rest[:, counter], partitions[homeless], gain[homeless])
        self._active += int(np.count_nonzero(busy))
        self._folded += int(np.count_nonzero(busy & ~placed))
        self._read_ns = now_ns
        return Placement(slots[inverse], fresh)

    def add_to_rest(self, partition: int, gains: tuple[int, ...]) -> None:
        """Adds what has no key at all to the rest of a partition."""
        self._rest[partition] += np.array(gains, np.uint64)

    def forget(self, which: npt.NDArray[np.bool_]) -> None:
        """Ends series; ``which`` is a mask over the series of ``reading()``."""
        self._live[np.flatnonzero(self._live)[which]] = False
        self._index()

    def reading(self) -> SeriesReading:
        """The series as they stand; arrays of their own, never changed afterwards."""
        slots = np.flatnonzero(self._live)
        return SeriesReading(
            self._keys[slots],
            slots,
            self._values[:, slots],
            self._start[slots],
            self._gained[:, slots],
            self._rest.copy(),
            self._rest_start_ns,
            self._active,
            self._folded,
        )

    def state(self) -> dict[str, Any]:
        """What another process needs to go on: arrays and integers."""
        slots = np.flatnonzero(self._live)
        return {
            "slots": slots,
            "keys": self._keys[slots],
            "values": self._values[:, slots],
            "start": self._start[slots],
            "last": self._last[slots],
            "score": self._score[slots],
            "rest": self._rest.copy(),
            "rest_start_ns": self._rest_start_ns,
            "read_ns": self._read_ns,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from ``state``, before the first update; the series keep their slots.

        Where there are more of them than places, the smaller ones end.
        """
        keep = np.sort(np.argsort(state["score"], kind="stable")[::-1][: self.limit])
        slots = state["slots"][keep]
        self._grow(int(slots.max(initial=-1)) + 1)
        self._keys[slots] = state["keys"][keep]
        self._values[:, slots] = state["values"][:, keep]
        self._start[slots] = state["start"][keep]
        self._last[slots] = state["last"][keep]
        self._score[slots] = state["score"][keep]
        self._live[slots] = True
        self._rest[:] = state["rest"]
        self._rest_start_ns = int(state["rest_start_ns"])
        self._read_ns = int(state["read_ns"])
        self._index()

    def _find(self, keys: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
        """The slot of each key, -1 where it has none."""
        slots = np.full(len(keys), -1, np.intp)
        if len(keys) and len(self._marks):
            marks = fingerprints(keys, self._seed)
            at = np.searchsorted(self._marks, marks)
            at[at == len(self._marks)] = 0
            found = np.flatnonzero(self._marks[at] == marks)
            holders = self._marked[at[found]]
            same = self._keys[holders] == keys[found]
            slots[found[same]] = holders[same]
        return slots

    def _drop_idle(self, now_ns: int) -> None:
        if self._idle_ns and now_ns > self._idle_ns:
            idle = self._live & (self._last < np.uint64(now_ns - self._idle_ns))
            if idle.any():
                self._live[idle] = False
                self._index()

    def _admit(
        self,
        keys: npt.NDArray[Any],
        first: npt.NDArray[np.intp],
        weights: npt.NDArray[np.uint64],
        slots: npt.NDArray[np.intp],
        candidates: npt.NDArray[np.intp],
        now_ns: int,
        begin_ns: int,
    ) -> npt.NDArray[np.intp]:
        """Gives places to candidates (indexes of groups) and writes their slots; takes places of smaller ones.

        Returns:
            the slots of those that begin.
        """
        holders = np.flatnonzero(self._live)
        displaced = holders[:0]
        if len(holders) + len(candidates) > self.limit:
            displaced, chosen = self._choose(holders, weights[candidates])
            candidates = candidates[chosen]
            if len(displaced):
                self._live[displaced] = False
                slots[np.isin(slots, displaced)] = -1
        if not len(candidates) and not len(displaced):
            return candidates
        self._grow(int(np.count_nonzero(self._live)) + len(candidates))
        free = np.flatnonzero(~self._live)[: len(candidates)]
        self._keys[free] = keys[first[candidates]]
        self._values[:, free] = 0
        self._gained[:, free] = 0
        self._start[free] = begin_ns
        self._last[free] = now_ns
        self._score[free] = weights[candidates]
        self._live[free] = True
        slots[candidates] = free
        self._index()
        return free

    def _choose(
        self, holders: npt.NDArray[np.intp], weights: npt.NDArray[np.uint64]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Where there are fewer places than holders and candidates: which holders leave, and which candidates come, ascending.

        Args:
            holders: slots of the series there are.
            weights: what each candidate gained.
        """
        scores = np.concatenate([self._score[holders], weights.astype(np.float64)])
        # Of equals the holder stays: argsort is stable and holders come first.
        stays = np.zeros(len(scores), np.bool_)
        stays[np.argsort(-scores, kind="stable")[: self.limit]] = True
        return holders[~stays[: len(holders)]], np.flatnonzero(stays[len(holders) :])

    def _grow(self, wanted: int) -> None:
        have = len(self._live)
        if wanted <= have:
            return
        size = max(wanted, min(self.limit, have * 2))
        for name in ("_keys", "_live", "_values", "_gained", "_start", "_last", "_score"):
            old = getattr(self, name)
            new = np.zeros((*old.shape[:-1], size), old.dtype)  # np.concatenate would change a key's byte order
            new[..., :have] = old
            setattr(self, name, new)

    def _index(self) -> None:
        slots = np.flatnonzero(self._live)
        while True:
            marks = fingerprints(self._keys[slots], self._seed)
            order = np.argsort(marks)
            self._marks, self._marked = marks[order], slots[order]
            if not (self._marks[1:] == self._marks[:-1]).any():
                return
            # Two series with one mark: once in 10^11 readings of 10,000.
            self._seed = int.from_bytes(os.urandom(8), "little")

"""Series that are counted many times in a cycle and told once at its end: none leaves before all that it counted was told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.differences import fingerprints
from otel_netmon.analysis.series import CounterSeries, Placement

_HOMELESS_MAX = 1 << 16
_SHARE_LEAVING = 8
_SEED = 0x9E3779B97F4A7C15


class LastingSeries(CounterSeries):
    """Series that leave only between two cycles.

    Where there is no place for all, up to an eighth of them leaves at the end of a cycle: those that gained least, and less than
    one that has no place gained in one update.
    """

    def __init__(
        self, key: np.dtype[Any], counters: int, partitions: int, limit: int, start_ns: int, idle_ns: int = 0
    ) -> None:
        super().__init__(key, counters, partitions, limit, start_ns, idle_ns)
        self._homeless: list[npt.NDArray[np.uint64]] = []
        self._homeless_most = 0
        self._folded_last = 0

    def update(
        self,
        keys: npt.NDArray[Any],
        gains: npt.NDArray[np.uint64],
        weight: int,
        partitions: npt.NDArray[np.intp],
        now_ns: int,
        begin_ns: int = 0,
    ) -> Placement:
        """As in ``CounterSeries``; every key once, and the same weight in each update."""
        placement = super().update(keys, gains, weight, partitions, now_ns, begin_ns)
        homeless = (placement.slots < 0) & gains.any(axis=0)
        if homeless.any():
            self._homeless_most = max(self._homeless_most, int(gains[weight, homeless].max()))
            self._homeless.append(fingerprints(keys[homeless], _SEED))
            if sum(map(len, self._homeless)) > _HOMELESS_MAX:
                self._homeless = [marks[: _HOMELESS_MAX // 2] for marks in _distinct(self._homeless)]
        return placement

    def end_cycle(self, weight: int = 0) -> None:
        """Ends a cycle, whose reading was taken, and makes room.

        Args:
            weight: as it is given to ``update``.
        """
        reading = self.reading()
        self._folded_last = len(_distinct(self._homeless)[0]) if self._homeless else 0
        gained, limit = reading.gained[weight], self.limit
        room = np.count_nonzero(gained < self._homeless_most)
        leaving = max(
            len(gained) - limit,
            min(int(room), self._folded_last, -(-limit // _SHARE_LEAVING)) - max(0, limit - len(gained)),
        )
        if leaving > 0:
            which = np.zeros(len(gained), np.bool_)
            which[np.argsort(gained, kind="stable")[:leaving]] = True
            self.forget(which)
        self.begin_cycle()
        self._homeless, self._homeless_most = [], 0

    @property
    def folded(self) -> int:
        """Keys of the last cycle that had no series of their own, 32,768 at most."""
        return min(self._folded_last, _HOMELESS_MAX // 2)

    def _choose(
        self, holders: npt.NDArray[np.intp], weights: npt.NDArray[np.uint64]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Nobody leaves; the places that are free are given to the largest candidates."""
        free = max(0, self.limit - len(holders))
        largest = np.argsort(weights, kind="stable")[::-1][:free]
        return holders[:0], np.sort(largest)


def _distinct(marks: Sequence[npt.NDArray[np.uint64]]) -> list[npt.NDArray[np.uint64]]:
    return [np.unique(np.concatenate(marks))]

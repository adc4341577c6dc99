"""The live 99th percentile of the durations of each kind of span, in bounded memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_BUCKETS = 256
_PER_OCTAVE = 8
_LOWEST_OCTAVE = 9  # 0.5 us; the highest bucket begins at 2.1e12 ns, 35 minutes
_AT_ONCE = 1 << 14
_ENOUGH = 100
_HALVE_AT = 1 << 13


def _bucket(durations_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
    octaves = np.log2(np.maximum(durations_ns, 1)) - _LOWEST_OCTAVE
    result: npt.NDArray[np.intp] = np.clip(octaves * _PER_OCTAVE, 0, _BUCKETS - 1).astype(np.intp)
    return result


class KindLatency:
    """Counts durations of each kind in buckets, eight to an octave (9 % wide); 512 bytes a kind.

    From 8,192 durations of a kind on all its counts are halved, so that the percentile follows the present.

    Args:
        kinds: number of kinds, each known by its row.
    """

    def __init__(self, kinds: int) -> None:
        # No overflow: a row holds at most _HALVE_AT when _AT_ONCE more are counted in it.
        self._counts = np.zeros((kinds, _BUCKETS), np.uint16)

    def learn(self, rows: npt.NDArray[np.intp], durations_ns: npt.NDArray[np.int64]) -> None:
        """Counts durations, shape (n,), of kinds given by their rows; row -1 is left out."""
        known = rows >= 0
        rows, buckets = rows[known], _bucket(durations_ns[known])
        flat = self._counts.reshape(-1)
        for at in range(0, len(rows), _AT_ONCE):
            part = slice(at, at + _AT_ONCE)
            np.add.at(flat, rows[part] * _BUCKETS + buckets[part], np.uint16(1))
            touched = np.unique(rows[part])
            while len(touched := touched[self._counts[touched].sum(axis=1) > _HALVE_AT]):
                self._counts[touched] >>= 1

    def above(self, rows: npt.NDArray[np.intp], durations_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Tells which durations lie in a bucket above that of the 99th percentile of their kind, as it was learnt so far.

        No kind of fewer than 100 durations has one, nor has row -1.
        """
        touched, inverse = np.unique(rows, return_inverse=True)
        counts = self._counts[touched]
        totals = counts.sum(axis=1, dtype=np.int32)
        below = np.cumsum(counts, axis=1, dtype=np.int32) * np.int32(100) < np.int32(99) * totals[:, None]
        limit = np.where((touched >= 0) & (totals >= _ENOUGH), below.sum(axis=1), _BUCKETS)
        result: npt.NDArray[np.bool_] = _bucket(durations_ns) > limit[inverse]
        return result

    def forget(self, row: int) -> None:
        """Begins anew with a kind."""
        self._counts[row] = 0

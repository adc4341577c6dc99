"""How many distinct values each attribute has had lately: the one with most makes the series explode.

HyperLogLog (Flajolet et al. 2007) over 64-bit hashes with 1,024 registers of a byte, and the estimator of Ertl (2017, "New cardinality
estimation algorithms for HyperLogLog sketches"): one formula from a single value, where it is linear counting, to 2^64, without
correction tables. The standard error is 1.04 / sqrt(1024) = 3.3 %.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.differences import fingerprints

WHOLE_SET = "*"
"""The name under which ``Cardinality.estimate`` tells the number of distinct attribute sets."""

STANDARD_ERROR = 1.04 / math.sqrt(1024)
"""Standard deviation of an estimate, relative to it."""

_INDEX_BITS = 10
_REGISTERS = 1 << _INDEX_BITS
_REST_BITS = 64 - _INDEX_BITS
_SALT = 0x9E3779B97F4A7C15


def mix(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Spreads every bit of a number over all bits of the result, one to one (finaliser of SplitMix64, Steele et al. 2014)."""
    result = numbers ^ (numbers >> np.uint64(30))
    result *= np.uint64(0xBF58476D1CE4E5B9)
    result ^= result >> np.uint64(27)
    result *= np.uint64(0x94D049BB133111EB)
    result ^= result >> np.uint64(31)
    return result


def hash_column(values: npt.NDArray[Any], seed: int) -> npt.NDArray[np.uint64]:
    """Gives a hash of each value: numbers, byte strings of fixed width, rows of a two-dimensional array, or packed records.

    Args:
        values: shape (n,) or (n, k), compared by their bytes: no padding between fields.
        seed: hashes of one ``Cardinality`` are made with its seed.
    """
    number = len(values)
    octets = np.ascontiguousarray(values).view(np.uint8).reshape(number, -1) if number else np.empty((0, 4), np.uint8)
    if octets.shape[1] % 4:
        octets = np.pad(octets, ((0, 0), (0, -octets.shape[1] % 4)))
    records = octets.view([("words", "<u4", octets.shape[1] // 4)]).reshape(number)
    # The seed is spread first: fingerprints takes it for the exclusive or with the first word.
    return mix(fingerprints(records, int(mix(np.array([seed], np.uint64))[0])))


class Cardinality:
    """Distinct values of each attribute and of the whole attribute set, over a window of one to two generations.

    Takes 2 KiB for the whole set and 2 KiB for each column.

    Args:
        columns: the attributes.
        generation_seconds: after this time a generation becomes the previous one, and the previous one is forgotten.
        seed: of the hashes; sketches are merged only with those of the same seed. Random unless given.

    Attributes:
        columns, seed: as given.
    """

    def __init__(self, columns: Sequence[str], generation_seconds: float = 600.0, seed: int | None = None) -> None:
        self.columns = tuple(columns)
        self.seed = int.from_bytes(os.urandom(8), "little") if seed is None else seed
        self._generation_ns = round(generation_seconds * 1e9)
        self._began_ns: int | None = None
        # By generation (this one, the one before); the whole set, then each column.
        self._registers = np.zeros((2, 1 + len(self.columns), _REGISTERS), np.uint8)

    def add_sets(self, hashes: Mapping[str, npt.NDArray[np.uint64]], now_ns: int) -> None:
        """Counts attribute sets: each attribute, and the whole.

        Args:
            hashes: of every column, all of shape (n,), from ``hash_column`` with this seed.
            now_ns: a clock.
        """
        self._turn(now_ns)
        salted = []
        for number, column in enumerate(self.columns):
            self._observe(1 + number, hashes[column])
            # Salted, so that two columns with the same value do not look like two with the same other value.
            salted.append(mix(hashes[column] + np.uint64(_SALT * (number + 1) & (1 << 64) - 1)))
        self._observe(0, mix(np.add.reduce(salted)))

    def estimate(self, now_ns: int) -> dict[str, float]:
        """Distinct values by column, and distinct sets as ``WHOLE_SET``, in the window that ends now."""
        self._turn(now_ns)
        counts = [_estimate(registers) for registers in self._registers.max(axis=0)]
        return dict(zip((WHOLE_SET, *self.columns), counts, strict=True))

    def _turn(self, now_ns: int) -> int:
        """Begins a new generation when it is time; gives when this one began."""
        if self._began_ns is None:
            self._began_ns = now_ns
        passed = (now_ns - self._began_ns) // self._generation_ns
        if passed > 0:
            self._registers[1] = self._registers[0] if passed == 1 else 0
            self._registers[0] = 0
            self._began_ns += passed * self._generation_ns
        return self._began_ns

    def _observe(self, number: int, hashes: npt.NDArray[np.uint64]) -> None:
        index = (hashes >> np.uint64(_REST_BITS)).astype(np.intp)
        rest = (hashes & np.uint64((1 << _REST_BITS) - 1)).astype(np.int64)
        np.maximum.at(self._registers[0, number], index, _leading_zeros(rest) + np.uint8(1))


def _leading_zeros(rest: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Zeros above the highest bit of numbers of 54 bits."""
    # As float64 a number has its length in the exponent, but one of 54 bits may be rounded up to the next power of two:
    # without the lowest bit it is exact, and that bit matters only if it is alone.
    _, length = np.frexp((rest & ~np.int64(1)).astype(np.float64))
    length[rest == 1] = 1
    return (_REST_BITS - length).astype(np.uint8)


def _estimate(registers: npt.NDArray[np.uint8]) -> float:
    counts = np.bincount(registers, minlength=_REST_BITS + 2).tolist()
    z = _REGISTERS * _tau(1 - counts[_REST_BITS + 1] / _REGISTERS)
    for count in counts[_REST_BITS:0:-1]:
        z = 0.5 * (z + count)
    z += _REGISTERS * _sigma(counts[0] / _REGISTERS)
    return _REGISTERS * _REGISTERS / (2 * math.log(2) * z) if z else math.inf


def _sigma(x: float) -> float:
    """The sum of x^(2^k) 2^(k-1) over k >= 1, and x: what registers that are still 0 contribute."""
    if x == 1:
        return math.inf
    y, z, last = 1.0, x, -1.0
    while z != last:
        x *= x
        last = z
        z += x * y
        y += y
    return z


def _tau(x: float) -> float:
    """What registers that are full contribute."""
    if x in (0.0, 1.0):
        return 0.0
    y, z, last = 1.0, 1 - x, -1.0
    while z != last:
        x = math.sqrt(x)
        last = z
        y *= 0.5
        z -= (1 - x) ** 2 * y
    return z / 3

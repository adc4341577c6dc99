"""How many distinct values each attribute has had lately, and which attribute makes the series explode.

HyperLogLog (Flajolet et al. 2007) over 64-bit hashes with 1,024 registers of a byte, and the estimator of Ertl (2017, "New cardinality
estimation algorithms for HyperLogLog sketches"): one formula from a single value, where it is linear counting, to 2^64, without
correction tables. The standard error is 1.04 / sqrt(1024) = 3.3 %.
"""

from __future__ import annotations

import hashlib
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


def hash_texts(values: Sequence[bytes], seed: int) -> npt.NDArray[np.uint64]:
    """Gives a hash of each byte string, whatever its length; see ``hash_column``."""
    digests = b"".join([hashlib.blake2b(value, digest_size=8).digest() for value in values])
    return mix(np.frombuffer(digests, "<u8") ^ np.uint64(seed))


class Cardinality:
    """Distinct values of each attribute and of the whole attribute set, over a window of one to two generations.

    Takes 4 KiB for the whole set and 8 KiB for each column.

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
        # By generation (this one, the one before); the whole set, then each column, then the set without each column.
        self._registers = np.zeros((2, 1 + 2 * len(self.columns), _REGISTERS), np.uint8)

    def add(self, column: str, hashes: npt.NDArray[np.uint64], now_ns: int) -> None:
        """Counts values of one attribute, or attribute sets under ``WHOLE_SET``.

        Args:
            hashes: shape (n,), from ``hash_column`` or ``hash_texts`` with this seed.
            now_ns: a monotonic clock.
        """
        self._turn(now_ns)
        self._observe(0 if column == WHOLE_SET else 1 + self.columns.index(column), hashes)

    def add_sets(self, hashes: Mapping[str, npt.NDArray[np.uint64]], now_ns: int) -> None:
        """Counts attribute sets: each attribute, the whole, and what would be left of the whole without each attribute.

        Args:
            hashes: of every column, all of shape (n,); see ``add``.
        """
        self._turn(now_ns)
        salted = []
        for number, column in enumerate(self.columns):
            self._observe(1 + number, hashes[column])
            # Salted, so that two columns with the same value do not look like two with the same other value.
            salted.append(mix(hashes[column] + np.uint64(_SALT * (number + 1) & (1 << 64) - 1)))
        whole = np.add.reduce(salted)
        self._observe(0, mix(whole))
        for number, part in enumerate(salted):
            self._observe(1 + len(self.columns) + number, mix(whole - part))

    def estimate(self, now_ns: int) -> dict[str, float]:
        """Distinct values by column, and distinct sets as ``WHOLE_SET``, in the window that ends now."""
        self._turn(now_ns)
        counts = self._estimates()
        return {WHOLE_SET: counts[0], **dict(zip(self.columns, counts[1 : 1 + len(self.columns)], strict=True))}

    def without(self, now_ns: int) -> dict[str, float]:
        """By column, how many distinct sets there would be if it were left out: the exploding one has the lowest number."""
        self._turn(now_ns)
        return dict(zip(self.columns, self._estimates()[1 + len(self.columns) :], strict=True))

    def merge(self, other: Cardinality, now_ns: int) -> None:
        """Adds what another one, on the same clock, has seen: this generation to this one, the one before to the one before.

        Raises:
            ValueError: its columns or its seed differ.
        """
        if other.columns != self.columns or other.seed != self.seed:
            raise ValueError("sketches of other columns or of another seed cannot be merged")
        self._turn(now_ns)
        other._turn(now_ns)
        np.maximum(self._registers, other._registers, out=self._registers)

    def state(self, now_ns: int) -> dict[str, npt.NDArray[np.uint8] | int | list[str]]:
        """Everything that ``restore`` needs, as copies."""
        age_ns = now_ns - self._turn(now_ns)
        return {
            "columns": list(self.columns),
            "seed": self.seed,
            "age_ns": age_ns,
            "registers": self._registers.copy(),
        }

    def restore(self, state: Mapping[str, Any], now_ns: int) -> None:
        """Takes over what ``state`` gave, the seed included, in place of all that is here; its age goes on from now.

        Raises:
            ValueError: it is of other columns.
        """
        registers = np.array(state["registers"], np.uint8)
        if tuple(state["columns"]) != self.columns or registers.shape != self._registers.shape:
            raise ValueError(f"the state is of the columns {list(state['columns'])}, not of {list(self.columns)}")
        self.seed = int(state["seed"])
        self._registers = registers
        self._began_ns = now_ns - int(state["age_ns"])

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

    def _estimates(self) -> list[float]:
        return [_estimate(registers) for registers in self._registers.max(axis=0)]


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

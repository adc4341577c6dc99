"""Sketches of distinct values: their error, their window, their hashes."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from otel_netmon.abi import layout
from otel_netmon.analysis.cardinality import (
    STANDARD_ERROR,
    WHOLE_SET,
    Cardinality,
    hash_column,
    mix,
)

MINUTE = 60 * 10**9


def numbers(count: int, seed: int = 0) -> npt.NDArray[np.uint64]:
    return hash_column(np.arange(count), seed)


def estimate_of(hashes: npt.NDArray[np.uint64]) -> float:
    sketch = Cardinality(["a"], seed=0)
    sketch.add_sets({"a": hashes}, 0)
    return sketch.estimate(0)["a"]


@pytest.mark.parametrize("count", [1, 2, 3, 10, 30, 100, 300, 1000, 2000, 3000, 5000, 10_000, 100_000, 1_000_000])
def test_the_error_is_as_stated_at_every_size(count: int) -> None:
    rounds = 5 if count > 50_000 else 100
    errors = np.array([estimate_of(numbers(count, seed)) / count - 1 for seed in range(rounds)])
    # The mean square of n errors of variance s^2 exceeds s^2 (1 + 4 sqrt(2 / n)) once in some ten thousand.
    assert float((errors**2).mean()) < STANDARD_ERROR**2 * (1 + 4 * math.sqrt(2 / rounds))
    assert abs(float(errors.mean())) < 4 * STANDARD_ERROR / math.sqrt(rounds)


def test_standard_error() -> None:
    assert pytest.approx(0.0325) == STANDARD_ERROR


def test_nothing_is_nothing_and_one_is_one() -> None:
    assert estimate_of(numbers(0)) == 0.0
    assert round(estimate_of(numbers(1)), 1) == 1.0
    assert estimate_of(np.repeat(numbers(1), 1000)) == estimate_of(numbers(1))


def test_hashes_of_every_length_of_the_rest_have_their_rank() -> None:
    sketch = Cardinality(["a"], seed=0)
    for rest in range(54):
        for more in {0, 1, (1 << rest) - 1}:
            sketch = Cardinality(["a"], seed=0)
            sketch.add_sets({"a": np.array([5 << 54 | 1 << rest | more], np.uint64)}, 0)
            assert sketch._registers[0, 1, 5] == 54 - rest
            assert np.count_nonzero(sketch._registers[:, 1]) == 1
    sketch = Cardinality(["a"], seed=0)
    sketch.add_sets({"a": np.array([5 << 54], np.uint64)}, 0)
    assert sketch._registers[0, 1, 5] == 55


def test_full_registers_are_a_very_large_number() -> None:
    full = np.arange(1024, dtype=np.uint64) << np.uint64(54)
    assert estimate_of(full) == math.inf
    assert estimate_of(np.where(full == 0, np.uint64(1), full)) > 2.0**64


def test_the_window_has_two_generations() -> None:
    sketch = Cardinality(["a"], generation_seconds=600, seed=0)
    sketch.add_sets({"a": numbers(1000)}, 0)
    sketch.add_sets({"a": numbers(2000)[1000:]}, 11 * MINUTE)
    assert sketch.estimate(19 * MINUTE)["a"] == pytest.approx(2000, rel=4 * STANDARD_ERROR)
    assert sketch.estimate(5 * MINUTE)["a"] == pytest.approx(2000, rel=4 * STANDARD_ERROR), "a clock that goes back"
    assert sketch.estimate(21 * MINUTE)["a"] == pytest.approx(1000, rel=4 * STANDARD_ERROR)
    assert sketch.estimate(31 * MINUTE)["a"] == 0.0
    sketch.add_sets({"a": numbers(100)}, 32 * MINUTE)
    assert sketch.estimate(60 * MINUTE)["a"] == 0.0, "quiet for longer than the window"


def test_the_exploding_attribute_is_told() -> None:
    sketch = Cardinality(["client", "server", "port"], seed=0)
    count = 60_000
    columns = {
        "client": np.arange(count) % 20_000,
        "server": np.arange(count) % 3,
        "port": np.full(count, 443),
    }
    for at in range(0, count, 10_000):
        part = {name: hash_column(values[at : at + 10_000], 0) for name, values in columns.items()}
        sketch.add_sets(part, 0)
    near = 4 * STANDARD_ERROR
    counts = sketch.estimate(0)
    assert counts["client"] == pytest.approx(20_000, rel=near)
    assert round(counts["server"]) == 3
    assert round(counts["port"]) == 1
    assert counts[WHOLE_SET] == pytest.approx(60_000, rel=near)


def test_equal_columns_do_not_hide_each_other() -> None:
    sketch = Cardinality(["client", "server"], seed=0)
    same = hash_column(np.arange(5000), 0)
    sketch.add_sets({"client": same, "server": same}, 0)
    assert sketch.estimate(0)[WHOLE_SET] == pytest.approx(5000, rel=4 * STANDARD_ERROR)
    grid = np.arange(300 * 300)
    sketch.add_sets({"client": hash_column(grid // 300, 0), "server": hash_column(grid % 300, 0)}, 0)
    assert sketch.estimate(0)[WHOLE_SET] == pytest.approx(90_000 + 5000 - 300, rel=4 * STANDARD_ERROR)


@pytest.mark.parametrize(
    "values",
    [
        np.arange(5000, dtype=np.uint8).reshape(-1, 1)[:256],
        np.arange(5000, dtype=np.uint16),
        np.arange(5000, dtype=np.uint32),
        np.arange(5000, dtype=np.int64) << 40,
        np.arange(5000, dtype=np.float64),
        np.array([b"host-%d" % number for number in range(5000)]),
        np.stack([np.arange(5000) % 251, np.arange(5000) // 251, np.zeros(5000)], axis=1).astype(np.uint8),
    ],
    ids=lambda values: f"{values.dtype}-{values.ndim}",
)
def test_columns_of_every_kind(values: npt.NDArray[np.generic]) -> None:
    hashes = hash_column(values, 7)
    assert len(np.unique(hashes)) == len(values)
    assert estimate_of(hashes) == pytest.approx(len(values), rel=4 * STANDARD_ERROR)
    assert np.array_equal(hash_column(values[::2], 7), hashes[::2]), "a strided view"
    assert not np.array_equal(hash_column(values, 8), hashes)


def test_records_and_their_fields() -> None:
    keys = np.zeros(1000, layout.FLOW_KEY)
    keys["source_port"] = np.arange(1000)
    keys["destination"][:, 15] = np.arange(1000) % 10
    assert len(np.unique(hash_column(keys, 0))) == 1000
    assert len(np.unique(hash_column(keys["source_port"], 0))) == 1000
    assert len(np.unique(hash_column(keys["destination"], 0))) == 10
    assert len(hash_column(keys[:0], 0)) == 0


def test_mixing_is_one_to_one_and_spreads_each_bit() -> None:
    assert len(np.unique(mix(np.arange(1 << 16, dtype=np.uint64)))) == 1 << 16
    start = np.arange(2000, dtype=np.uint64)
    for bit in range(64):
        changed = mix(start) ^ mix(start ^ np.uint64(1 << bit))
        flipped = np.bitwise_count(changed)
        assert 31 < float(flipped.mean()) < 33

"""Gains of cumulative counters: whatever comes, stays, goes and comes back, nothing is counted twice or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings, strategies as st

from otel_netmon.abi import layout
from otel_netmon.analysis import differences
from otel_netmon.analysis.differences import Differences, fingerprints, group

KEY = np.dtype([("address", "u1", 8), ("number", "<u4")])
VALUE = np.dtype([("packets", "<u8"), ("other", "<u4"), ("bytes", "<u8")])
FIELDS = ("packets", "bytes")
REAL = fingerprints


def keys_of(numbers: list[int]) -> npt.NDArray[Any]:
    keys = np.zeros(len(numbers), KEY)
    keys["number"] = numbers
    keys["address"][:, 3] = np.array(numbers, np.uint8) if numbers else 0
    return keys


def values_of(counts: list[int]) -> npt.NDArray[Any]:
    values = np.zeros(len(counts), VALUE)
    values["packets"] = counts
    values["bytes"] = [count * 100 for count in counts]
    values["other"] = 77
    return values


def weak(bits: int) -> Callable[[npt.NDArray[Any], int], npt.NDArray[np.uint64]]:
    """A hash that, under three of four seeds, has so few bits that keys collide all the time."""

    def made(keys: npt.NDArray[Any], seed: int) -> npt.NDArray[np.uint64]:
        marks = REAL(keys, seed)
        return marks if seed % 4 == 0 else marks & np.uint64((1 << bits) - 1)

    return made


# Each step: what the live rows gain, by number; a number that is left out has gone (closed if it is in the second set).
STEPS = st.lists(
    st.tuples(st.dictionaries(st.integers(0, 30), st.integers(0, 5), max_size=20), st.sets(st.integers(0, 30))),
    max_size=15,
)


@pytest.mark.parametrize("bits", [0, 1, 3, 64])
@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_gains_are_exact_whatever_the_hash(bits: int, steps: list[tuple[dict[int, int], set[int]]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if bits < 64:
            patch.setattr(differences, "fingerprints", weak(bits))
        table: dict[int, int] = {}
        watched = Differences(FIELDS)
        for gained, closing in steps:
            expected = {}
            for number, more in gained.items():
                table[number] = table.get(number, 0) + more
                expected[number] = more
            stays = [number for number in table if number in gained and number not in closing]
            leaves = [number for number in table if number in closing]
            expected |= {number: expected.get(number, 0) for number in leaves}
            for number in [number for number in table if number not in gained and number not in closing]:
                stays.append(number)
                expected[number] = 0
            gains = watched.update(
                keys_of(stays),
                values_of([table[number] for number in stays]),
                keys_of(leaves),
                values_of([table[number] for number in leaves]),
            )
            assert gains.shape == (2, len(stays) + len(leaves))
            assert gains[0].tolist() == [expected[number] for number in (*stays, *leaves)]
            assert gains[1].tolist() == [expected[number] * 100 for number in (*stays, *leaves)]
            for number in leaves:
                del table[number]


def test_a_row_that_left_and_came_back_begins_anew() -> None:
    watched = Differences(FIELDS)
    assert watched.update(keys_of([1]), values_of([5]))[0].tolist() == [5]
    assert watched.update(keys_of([]), values_of([]), keys_of([1]), values_of([8]))[0].tolist() == [3]
    assert watched.update(keys_of([1]), values_of([2]))[0].tolist() == [2]


def test_a_row_made_anew_between_two_readings_has_gained_all_it_has() -> None:
    watched = Differences(FIELDS)
    watched.update(keys_of([1, 2]), values_of([50, 60]))
    assert watched.update(keys_of([2, 1]), values_of([61, 3])).tolist() == [[1, 3], [100, 300]]
    assert watched.update(keys_of([1]), values_of([4]), keys_of([2]), values_of([7]))[0].tolist() == [1, 7]


def test_a_row_that_is_forgotten_gains_all_it_has() -> None:
    watched = Differences(FIELDS)
    watched.forget(np.zeros(0, np.bool_))
    watched.update(keys_of([1, 2, 3]), values_of([5, 6, 7]))
    assert sorted(watched.keys["number"].tolist()) == [1, 2, 3]
    watched.forget(watched.keys["number"] == 2)
    assert sorted(watched.keys["number"].tolist()) == [1, 3]
    assert watched.update(keys_of([1, 2, 3]), values_of([6, 9, 7]))[0].tolist() == [1, 9, 0]


def test_empty_tables() -> None:
    watched = Differences(FIELDS)
    for _ in range(2):
        assert watched.update(keys_of([]), values_of([])).shape == (2, 0)
    assert watched.update(keys_of([4]), values_of([9])).tolist() == [[9], [900]]
    assert watched.update(keys_of([]), values_of([])).shape == (2, 0)
    assert watched.update(keys_of([4]), values_of([9])).tolist() == [[9], [900]], "it was not in the reading before"


def test_counters_beyond_32_bits() -> None:
    watched = Differences(FIELDS)
    large = 1 << 60
    watched.update(keys_of([1]), values_of([0]))
    values = values_of([0])
    values["packets"], values["bytes"] = large, large + 1
    assert watched.update(keys_of([1]), values).tolist() == [[large], [large + 1]]


def test_the_reading_may_be_overwritten_afterwards() -> None:
    """Readers give views that their next read overwrites."""
    watched = Differences(FIELDS)
    keys, values = keys_of([1, 2]), values_of([10, 20])
    watched.update(keys, values)
    keys["number"], values["packets"] = 9, 0
    assert watched.update(keys_of([1, 2]), values_of([11, 22]))[0].tolist() == [1, 2]


def test_a_table_of_real_size_and_keys() -> None:
    generator = np.random.default_rng(5)
    keys = np.zeros(65_536, layout.FLOW_KEY)
    keys["source"] = generator.integers(0, 256, (len(keys), 16))
    keys["source_port"] = generator.integers(0, 65_536, len(keys))
    values = np.zeros(len(keys), layout.FLOW)
    watched = Differences(("packets", "bytes", "extra_packets", "extra_bytes"))
    total = np.zeros(len(keys), np.uint64)
    for _ in range(4):
        more = generator.integers(0, 1000, len(keys)).astype(np.uint64)
        values["packets"] += more
        order = generator.permutation(len(keys))
        gains = watched.update(keys[order], values[order])
        assert (gains[0] == more[order]).all()
        assert (gains[1:] == 0).all()
        total += more
    assert (values["packets"] == total).all()


@given(numbers=st.lists(st.integers(0, 40), min_size=1, max_size=60), seed=st.integers(0, 2**64 - 1))
def test_equal_keys_have_equal_fingerprints(numbers: list[int], seed: int) -> None:
    marks = fingerprints(keys_of(numbers), seed)
    assert (marks.dtype.str, marks.shape) == ("<u8", (len(numbers),))
    by_key = dict(zip(numbers, marks.tolist(), strict=True))
    assert marks.tolist() == [by_key[number] for number in numbers]
    assert len(set(by_key.values())) == len(by_key), "one collision among 40 keys is one in 10^16"


def test_fingerprints_spread_over_all_bits_and_depend_on_every_octet() -> None:
    keys = np.zeros(1 + layout.FLOW_KEY.itemsize * 8, layout.FLOW_KEY)
    octets = keys.view("u1").reshape(len(keys), layout.FLOW_KEY.itemsize)
    for bit in range(layout.FLOW_KEY.itemsize * 8):
        octets[bit + 1, bit // 8] = 1 << bit % 8
    marks = fingerprints(keys, 99)
    assert len(set(marks.tolist())) == len(keys)
    assert all(0.3 < (marks >> np.uint64(bit) & np.uint64(1)).mean() < 0.7 for bit in range(20, 64))


@pytest.mark.parametrize("bits", [0, 2, 64])
@given(numbers=st.lists(st.integers(0, 25), min_size=1, max_size=80))
def test_groups_are_of_equal_keys_alone(bits: int, numbers: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if bits < 64:
            patch.setattr(differences, "fingerprints", weak(bits))
        keys = keys_of(numbers)
        first, inverse = group(keys)
    assert len(first) == len(set(numbers))
    assert sorted(keys["number"][first].tolist()) == sorted(set(numbers))
    assert keys["number"][first][inverse].tolist() == numbers

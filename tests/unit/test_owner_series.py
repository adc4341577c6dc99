"""Bytes by process and container: who has a series, and that all together are all bytes."""

from __future__ import annotations

import random

import numpy as np
import pytest

from otel_netmon.analysis.owner_series import TRANSPORTS, OwnerCounter, OwnerSeries

START = 1_700_000_000_000_000_000
TCP, UDP = range(len(TRANSPORTS))


def series(limit: int = 100) -> OwnerSeries:
    made = OwnerSeries("owners", START, 10**12)
    made.set_limit(limit)
    return made


def counters(*columns: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
    return np.array(columns, np.uint64).T


def told(owners: OwnerSeries) -> dict[tuple[int, int], tuple[int, ...]]:
    reading = owners.reading()
    return {
        key: tuple(values[: OwnerCounter.WEIGHT])
        for key, values in zip(reading.keys.tolist(), reading.values.T.tolist(), strict=True)
    }


def test_bytes_are_by_owner_and_transport() -> None:
    owners = series()
    owners.add(np.array([7, 7, 11], np.uint64), TCP, counters((1, 2), (10, 20), (5, 6)), START + 1)
    owners.add(np.array([7], np.uint64), UDP, counters((3, 4, 5)), START + 1)
    assert told(owners) == {(7, TCP): (11, 22, 0), (11, TCP): (5, 6, 0), (7, UDP): (3, 4, 5)}
    assert owners.numbers() == {7, 11}


def test_what_has_no_owner_is_in_the_rest_of_its_transport() -> None:
    owners = series(limit=0)
    owners.add(np.array([7], np.uint64), UDP, counters((3, 4)), START + 1)
    owners.add_to_rest(TCP, 100, 200)
    assert owners.reading().rest[:, : OwnerCounter.WEIGHT].tolist() == [[100, 200, 0], [3, 4, 0]]


def test_nothing_is_nothing() -> None:
    owners = series()
    owners.add(np.empty(0, np.uint64), TCP, np.empty((2, 0), np.uint64), START + 1)
    assert told(owners) == {}


@pytest.mark.parametrize("seed", range(5))
def test_series_and_rest_are_all_bytes_also_over_a_restart(seed: int) -> None:
    generator = random.Random(seed)  # noqa: S311 - variety, not secrets
    owners = series()
    given = heard = folded = 0
    before: dict[tuple[int, int, int], int] = {}
    for cycle in range(31):
        owners.set_limit(generator.randrange(2, 9))
        for _ in range(3):
            many = generator.randrange(1, 20)
            numbers = np.array([generator.randrange(1, 30) for _ in range(many)], np.uint64)
            gained = np.array([[generator.randrange(1000) for _ in range(many)] for _ in range(2)], np.uint64)
            given += int(gained.sum())
            owners.add(numbers, generator.randrange(2), gained, START + 1 + cycle)
        reading = owners.reading()
        now = {
            (*key, int(start)): values[0] + values[1]
            for key, start, values in zip(
                reading.keys.tolist(), reading.start_ns, reading.values.T.tolist(), strict=True
            )
        }
        now[0, 0, 0] = int(reading.rest[:, :2].sum())
        heard += sum(value - before.get(key, 0) for key, value in now.items())
        before = now
        assert heard == given
        if generator.random() < 0.3:
            state = owners.state()
            owners = series()
            owners.restore(state)
        owners.end_cycle()
        folded = max(folded, owners.folded)
    assert folded > 0

"""Saves between processes: what fails, what is refused, and a writer that is killed."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator

import numpy as np
import pytest

from otel_netmon.abi import layout
from otel_netmon.analysis.flows import CONVERSATION
from otel_netmon.checkpoint import Checkpoint

DEADLINE_SECONDS = 20.0


@pytest.fixture
def fds() -> Iterator[list[int]]:
    made = [os.memfd_create(f"test-{turn}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING) for turn in range(2)]
    yield made
    for fd in made:
        os.close(fd)


def test_nothing_was_saved_yet(fds: list[int]) -> None:
    assert Checkpoint(fds).load() is None
    os.write(fds[0], b"netmonCP")
    os.write(fds[1], bytes(64))
    assert Checkpoint(fds).load() is None


def test_no_sections_are_a_save_as_well(fds: list[int]) -> None:
    Checkpoint(fds).save({})
    assert Checkpoint(fds).load() == {}
    other = Checkpoint(fds)
    assert other.load() == {}
    other.save({"empty": {}, "one": {"n": 1}})
    assert Checkpoint(fds).load() == {"empty": {}, "one": {"n": 1}}


@pytest.mark.parametrize("dtype", [layout.FLOW_KEY, layout.FLOW, layout.PROTOCOL_KEY, layout.COUNTERS, CONVERSATION])
def test_rows_of_the_kernel_come_back(fds: list[int], dtype: np.dtype[np.void]) -> None:
    rows = np.random.default_rng(5).integers(0, 256, 10_007 * dtype.itemsize, np.uint8).view(dtype)
    Checkpoint(fds).save({"rows": {"all": rows, "none": rows[:0], "one": rows[3:4], "some": rows[::7]}})
    found = Checkpoint(fds).load()
    assert found is not None
    assert found["rows"]["all"].dtype == dtype
    assert found["rows"]["all"].tobytes() == rows.tobytes()
    assert found["rows"]["some"].tobytes() == rows[::7].tobytes()
    assert (found["rows"]["none"].shape, found["rows"]["none"].dtype) == ((0,), dtype)
    found["rows"]["all"]["pad" if "pad" in (dtype.names or ()) else (dtype.names or ())[0]] = (
        0  # it is a copy of its own
    )


def test_an_array_without_dimensions_has_none_afterwards(fds: list[int]) -> None:
    Checkpoint(fds).save({"a": {"b": np.array(7, ">u4")}})
    found = Checkpoint(fds).load()
    assert found is not None
    assert (found["a"]["b"].shape, found["a"]["b"].dtype.str, int(found["a"]["b"])) == ((), ">u4", 7)


def test_more_arrays_than_one_system_call_takes(fds: list[int]) -> None:
    sections = {f"section {n}": {f"array {m}": np.full(n, m, "<u2") for m in range(5)} for n in range(500)}
    Checkpoint(fds).save(sections)
    found = Checkpoint(fds).load()
    assert found is not None
    assert {section: {name: array.tolist() for name, array in state.items()} for section, state in found.items()} == {
        section: {name: array.tolist() for name, array in state.items()} for section, state in sections.items()
    }


@pytest.mark.parametrize("value", [1j, np.array([object()]), 2**64, "\udcff", np.int64(3)])
def test_what_cannot_be_saved_is_refused_before_anything_is_written(fds: list[int], value: object) -> None:
    writer = Checkpoint(fds)
    for number in (1, 2):
        writer.save({"n": {"n": number}})
    with pytest.raises((TypeError, OverflowError, UnicodeEncodeError, ValueError)):
        writer.save({"n": {"n": value}})
    assert Checkpoint(fds).load() == {"n": {"n": 2}}
    writer.save({"n": {"n": 3}})
    assert Checkpoint(fds).load() == {"n": {"n": 3}}


@pytest.mark.parametrize("good", [3, 4])
def test_a_save_that_finds_no_memory_leaves_the_one_before_however_often(fds: list[int], good: int) -> None:
    """Memory that may not grow any more stands for memory that is used up."""
    writer = Checkpoint(fds)
    for number in range(1, good + 1):
        writer.save({"n": {"n": number}})
    for fd in fds:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
    for _ in range(3):
        with pytest.raises(OSError, match="not permitted"):
            writer.save({"n": {"n": np.zeros(10_000)}})
        assert Checkpoint(fds).load() == {"n": {"n": good}}
    writer.save({"n": {"n": 9}})
    assert Checkpoint(fds).load() == {"n": {"n": 9}}, "what fits is saved again"


def test_a_writer_that_is_killed_leaves_a_whole_save() -> None:
    """The state is one number in many arrays of a size that changes: any two that differ show a torn save."""
    fds = [os.memfd_create(f"test-{turn}") for turn in range(2)]
    newest = 0
    try:
        for life in range(12):
            child = os.fork()
            if child == 0:
                try:
                    writer = Checkpoint(fds)
                    writer.load()
                    number = newest
                    while True:
                        number += 1
                        many = {f"{n}": np.full(1000 + number * 37 % 5000, number) for n in range(20)}
                        writer.save({"state": {"number": number, **many}})
                finally:
                    os._exit(1)
            deadline = time.monotonic() + DEADLINE_SECONDS
            found = None
            while found is None or found["state"]["number"] < newest + 5 + life:  # some saves, then at any moment
                assert time.monotonic() < deadline, "the child saves nothing"
                found = Checkpoint(fds).load()
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            found = Checkpoint(fds).load()
            assert found is not None
            number = found["state"].pop("number")
            assert number >= newest + 5
            assert len(found["state"]) == 20
            for array in found["state"].values():
                assert array.shape == (1000 + number * 37 % 5000,)
                assert (array == number).all()
            newest = number
    finally:
        for fd in fds:
            os.close(fd)

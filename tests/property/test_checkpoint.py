"""Whatever is saved comes back as it was; wherever a save is cut short or damaged, the save before is there, whole."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as npst

from otel_netmon import checkpoint
from otel_netmon.checkpoint import Checkpoint

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary()
)
FIELDS = (
    npst.unsigned_integer_dtypes(endianness="?")
    | npst.integer_dtypes(endianness="?")
    | npst.floating_dtypes(endianness="?", sizes=(32, 64))
    | npst.boolean_dtypes()
    | npst.byte_string_dtypes(min_len=1, max_len=5)
)
DTYPES = FIELDS | npst.nested_dtypes(FIELDS | npst.array_dtypes(FIELDS, min_size=1, max_size=3), max_leaves=6)
SHAPES = npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    """An array of any dtype and shape, some of them not contiguous or read-only."""
    dtype = draw(DTYPES)
    dtype = dtype.base if dtype.subdtype else dtype
    shape = draw(SHAPES)
    size = dtype.itemsize * math.prod(shape)
    made = np.frombuffer(draw(st.binary(min_size=size, max_size=size)) or b"", "u1").view(dtype).reshape(shape)
    way = draw(st.sampled_from(["as it is", "transposed", "every second"]))
    if way == "transposed":
        return made.T
    return made[::2] if way == "every second" and made.ndim else made


SECTIONS = st.dictionaries(NAMES, st.dictionaries(NAMES, SCALARS | arrays(), max_size=4), max_size=4)


@contextmanager
def memory() -> Iterator[list[int]]:
    fds = [os.memfd_create(f"test-{turn}") for turn in range(2)]
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return type(one) is type(other) and bool(one == other)


def equal(one: Any, other: Any) -> bool:
    """Sections, value by value: types, shapes and bytes."""
    return (
        one is not None
        and other is not None
        and list(one) == list(other)
        and all(
            list(one[name]) == list(other[name]) and all(same(one[name][key], other[name][key]) for key in one[name])
            for name in one
        )
    )


def whole(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def put(fd: int, data: bytes) -> None:
    os.ftruncate(fd, 0)
    assert os.pwrite(fd, data, 0) == len(data)


@settings(max_examples=300, deadline=None)
@given(saves=st.lists(SECTIONS, min_size=1, max_size=4), again=st.booleans())
def test_the_newest_save_comes_back_as_it_was(saves: list[dict[str, dict[str, Any]]], *, again: bool) -> None:
    with memory() as fds:
        writer = Checkpoint(fds)
        for sections in saves:
            assert writer.save(sections) in {os.fstat(fd).st_size for fd in fds}
            reader = Checkpoint(fds)
            assert equal(reader.load(), sections)
            if again:  # another process goes on
                writer = reader


@settings(max_examples=60, deadline=None)
@given(before=SECTIONS, after=SECTIONS, data=st.data())
def test_a_damaged_save_gives_the_one_before(before: Any, after: Any, data: st.DataObject) -> None:
    """Every cut, and every octet of the newest save changed in some bit."""
    with memory() as fds:
        writer = Checkpoint(fds)
        writer.save(before)
        writer.save(after)
        newest = fds[0]
        image = whole(newest)
        for length in range(0, len(image), data.draw(st.integers(1, 7))):
            put(newest, image[:length])
            assert equal(Checkpoint(fds).load(), before), f"cut to {length} octets"
        for at in range(len(image)):
            damaged = bytearray(image)
            damaged[at] ^= data.draw(st.integers(1, 255)) if at % 16 == 0 else 1 << at % 8
            put(newest, bytes(damaged))
            assert equal(Checkpoint(fds).load(), before), f"octet {at}"
        put(newest, image + b"\0")
        assert equal(Checkpoint(fds).load(), before)
        put(newest, image)
        assert equal(Checkpoint(fds).load(), after)


class Killed(Exception):
    """The process ends here."""


class Steps:
    """The system calls of a save, cut short after so many of them; a write may take only some octets each time."""

    def __init__(self, left: int, most: int) -> None:
        self.left, self._most = left, most

    def _step(self) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        self._step()
        return os.pwrite(fd, data, offset)

    def pwritev(self, fd: int, parts: list[memoryview], offset: int) -> int:
        self._step()
        return os.pwrite(fd, b"".join(parts)[: self._most], offset)

    def ftruncate(self, fd: int, length: int) -> None:
        self._step()
        os.ftruncate(fd, length)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


@settings(max_examples=60, deadline=None)
@given(first=SECTIONS, before=SECTIONS, after=SECTIONS, most=st.integers(1, 40))
def test_a_process_killed_between_any_two_writes_leaves_the_save_before(
    first: Any, before: Any, after: Any, most: int
) -> None:
    for step in range(2000):
        with memory() as fds, pytest.MonkeyPatch.context() as patch:
            writer = Checkpoint(fds)
            writer.save(first)
            writer.save(before)
            steps = Steps(step, most)
            patch.setattr(checkpoint, "os", steps)
            try:
                writer.save(after)
            except Killed:
                ended = False
            else:
                ended = steps.left == 0
            patch.undo()
            reader = Checkpoint(fds)
            assert equal(reader.load(), after if ended else before), f"after {step} writes"
            reader.save(after)
            assert equal(Checkpoint(fds).load(), after), "the next process saves as if nothing had been"
            if ended:
                return
    pytest.fail("the save never ended")


@settings(deadline=None)
@given(lengths=st.lists(st.integers(0, 3000), min_size=2, max_size=8))
def test_a_save_is_as_large_as_what_it_holds(lengths: list[int]) -> None:
    with memory() as fds:
        writer = Checkpoint(fds)
        small = writer.save({"a": {"b": np.zeros(0, np.uint64)}})
        for number, length in enumerate(lengths, start=2):
            size = writer.save({"a": {"b": np.zeros(length, np.uint64)}})
            assert size == os.fstat(fds[number % 2]).st_size
            assert length * 8 <= size - small <= length * 8 + 8

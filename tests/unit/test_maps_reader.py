"""Whole maps of the running kernel into numpy."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from otel_netmon.kernel import loader, syscalls
from otel_netmon.readers import maps
from otel_netmon.readers.maps import ArrayReader, HashReader, sum_over_cpus

pytestmark = pytest.mark.kernel

HASH, ARRAY, PERCPU_HASH, PERCPU_ARRAY = 1, 2, 5, 6
KEY = np.dtype([("high", "<u4"), ("low", "<u2"), ("rest", "u1", 2)])
VALUE = np.dtype([("packets", "<u8"), ("bytes", "<u8")])


@contextmanager
def made(kind: int, key_size: int, value_size: int, entries: int, flags: int = 0) -> Iterator[int]:
    loader.raise_memlock()
    fd = syscalls.map_create(kind, key_size, value_size, entries, flags, "test")
    try:
        yield fd
    finally:
        os.close(fd)


def key(number: int) -> bytes:
    return struct.pack("<IHBB", number, number & 0xFFFF, number & 0xFF, 1)


def fill(fd: int, count: int) -> None:
    for number in range(count):
        syscalls.map_update(fd, key(number), struct.pack("<QQ", number, number * 100))


@pytest.mark.parametrize("flags", [0, syscalls.BPF_F_NO_PREALLOC])
@pytest.mark.parametrize(
    ("entries", "count"), [(1, 0), (1, 1), (5, 3), (100, 100), (4097, 4097), (10_000, 9_999), (1 << 16, 7)]
)
def test_every_entry_is_read_once(entries: int, count: int, flags: int) -> None:
    with made(HASH, KEY.itemsize, VALUE.itemsize, entries, flags) as fd:
        fill(fd, count)
        reader = HashReader(fd, KEY, VALUE, entries)
        for _ in range(2):
            keys, values = reader.read()
            assert (keys.dtype, values.dtype, len(keys), len(values)) == (KEY, VALUE, count, count)
            assert sorted(keys["high"].tolist()) == list(range(count))
            assert (values["packets"] == keys["high"]).all()
            assert (values["bytes"] == keys["high"].astype(np.uint64) * 100).all()
            assert (keys["rest"] == np.stack([keys["high"] & 0xFF, np.ones(count)], axis=1)).all()


@pytest.mark.parametrize("step", [1, 2, 3, 7, 64])
def test_a_batch_too_small_for_a_bucket_grows(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    monkeypatch.setattr(maps, "BATCH_ENTRIES", step)
    with made(HASH, KEY.itemsize, VALUE.itemsize, 1000) as fd:
        fill(fd, 1000)
        keys, _ = HashReader(fd, KEY, VALUE, 1000).read()
        assert sorted(keys["high"].tolist()) == list(range(1000))


def test_a_reader_that_thinks_the_map_smaller_than_it_is_fails_loudly() -> None:
    with made(HASH, KEY.itemsize, VALUE.itemsize, 64) as larger:
        fill(larger, 64)
        refused = 0
        for room in range(1, 64):  # whole buckets alone are given: mostly the last one does not fit
            try:
                assert len(HashReader(larger, KEY, VALUE, room).read()[0]) == room
            except OSError as error:
                assert error.errno == errno.ENOSPC
                refused += 1
        assert refused


def test_values_of_every_cpu_are_side_by_side() -> None:
    cpus = syscalls.possible_cpus()
    with made(PERCPU_HASH, KEY.itemsize, VALUE.itemsize, 300) as fd:
        for number in range(257):
            values = [(number + cpu, cpu) for cpu in range(cpus)]
            syscalls.map_update(fd, key(number), b"".join(struct.pack("<QQ", *value) for value in values))
        keys, per_cpu = HashReader(fd, KEY, VALUE, 300, cpus).read()
        assert per_cpu.shape == (257, cpus)
        for cpu in range(cpus):
            assert (per_cpu["packets"][:, cpu] == keys["high"] + cpu).all()
        same, totals = sum_over_cpus(keys, per_cpu)
        assert same is keys
        assert totals.shape == (257,)
        assert (totals["packets"] == keys["high"] * cpus + sum(range(cpus))).all()
        assert (totals["bytes"] == sum(range(cpus))).all()


def test_sums_do_not_overflow_32_bits() -> None:
    per_cpu = np.full((1, 8), 1 << 61, np.uint64).view(np.dtype([("packets", "<u8")]))
    assert sum_over_cpus(np.zeros(1), per_cpu[:, :4])[1]["packets"].tolist() == [1 << 63]


def test_values_that_the_kernel_would_pad_are_refused() -> None:
    with made(PERCPU_HASH, 4, 4, 1) as fd, pytest.raises(ValueError, match="multiple of 8"):
        HashReader(fd, np.dtype("<u4"), np.dtype("<u4"), 1, syscalls.possible_cpus())


def test_delete_tells_how_many_there_were() -> None:
    with made(HASH, KEY.itemsize, VALUE.itemsize, 100) as fd:
        fill(fd, 50)
        reader = HashReader(fd, KEY, VALUE, 100)
        keys = reader.read()[0].copy()
        assert reader.delete(keys[:20]) == 20
        assert reader.delete(keys[:21]) == 1
        assert reader.delete(keys[:0]) == 0
        assert sorted(reader.read()[0]["high"].tolist()) == sorted(keys["high"][21:].tolist())


def test_entries_of_arrays() -> None:
    with made(ARRAY, 4, VALUE.itemsize, 3) as fd:
        syscalls.map_update(fd, (2).to_bytes(4, "little"), struct.pack("<QQ", 7, 9))
        reader = ArrayReader(fd, VALUE)
        assert reader.read(2).tolist() == (7, 9)
        assert reader.read(0).tolist() == (0, 0)
        with pytest.raises(IndexError):
            reader.read(3)
    cpus = syscalls.possible_cpus()
    with made(PERCPU_ARRAY, 4, VALUE.itemsize, 2) as fd:
        syscalls.map_update(fd, bytes(4), b"".join(struct.pack("<QQ", cpu, 5) for cpu in range(cpus)))
        reader = ArrayReader(fd, VALUE, cpus)
        assert reader.read(0)["packets"].tolist() == list(range(cpus))
        assert reader.read(1).shape == (cpus,)


def test_lookups_of_single_entries() -> None:
    with made(HASH, 4, 8, 4) as fd:
        assert syscalls.map_lookup(fd, b"abcd", 8) is None
        syscalls.map_update(fd, b"abcd", b"12345678")
        assert syscalls.map_lookup(fd, b"abcd", 8) == b"12345678"
        assert syscalls.map_delete(fd, b"abcd")
        assert not syscalls.map_delete(fd, b"abcd")
        no_exist = 1
        syscalls.map_update(fd, b"abcd", bytes(8), no_exist)
        with pytest.raises(OSError, match="File exists"):
            syscalls.map_update(fd, b"abcd", bytes(8), no_exist)

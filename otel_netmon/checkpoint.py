"""What the pipeline must know again if it is killed: saved each cycle into memory that the supervisor keeps.

Two memfds take turns, so that one of them is whole at any moment: a save first makes its own header invalid, writes the arrays,
and the header last. Nothing is copied on the way (pwritev from the arrays themselves), nothing stays mapped, and nothing
reaches a disk. Sections are named; each is a mapping of names to numpy arrays, integers, floats, text or bytes.

Format: header (magic, length of the index, number of the save, CRC-32 of index and arrays), index (MessagePack), arrays as they
lie in memory.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

State = dict[str, Any]

_HEADER = struct.Struct("<8sQQI4x")
_MAGIC = b"netmonCP"
_IOV_MAX = 1024


class _Array(msgspec.Struct, array_like=True, frozen=True):
    """An array in the index: dtype as numpy's ``descr``, shape, place behind the index."""

    dtype: list[Any]
    shape: list[int]
    offset: int


class _Entry(msgspec.Struct, array_like=True, frozen=True):
    """One value: either a scalar or an array."""

    section: str
    name: str
    scalar: int | float | str | bytes | None = None
    array: _Array | None = None


class Checkpoint:
    """Saves and loads sections.

    Args:
        fds: two memfds, which stay the caller's.
    """

    def __init__(self, fds: Sequence[int]) -> None:
        self._fds = tuple(fds)
        self._number = 0

    def load(self) -> dict[str, State] | None:
        """The sections of the newest whole save; None where there is none. Arrays are copies of their own."""
        found = [(number, fd) for fd in self._fds if (number := _number(fd))]
        for number, fd in sorted(found, reverse=True):
            sections = _read(fd)
            if sections is not None:
                self._number = number
                return sections
        return None

    def save(self, sections: Mapping[str, Mapping[str, Any]]) -> int:
        """Saves; gives the bytes written.

        Raises:
            OSError: no memory for it; the save before stays whole.
        """
        entries: list[_Entry] = []
        arrays: list[npt.NDArray[Any]] = []
        offset = 0
        for section, state in sections.items():
            for name, value in state.items():
                if isinstance(value, np.ndarray):
                    array = np.ascontiguousarray(value)
                    entries.append(_Entry(section, name, None, _Array(_descr(array.dtype), list(array.shape), offset)))
                    arrays.append(array)
                    offset += array.nbytes
                else:
                    entries.append(_Entry(section, name, value))
        index = msgspec.msgpack.encode(entries)
        parts = [memoryview(index), *(_bytes_of(array) for array in arrays if array.nbytes)]
        check = 0
        for part in parts:
            check = zlib.crc32(part, check)
        self._number += 1
        fd = self._fds[self._number % 2]
        os.pwrite(fd, bytes(_HEADER.size), 0)
        end = _write_all(fd, parts, _HEADER.size)
        os.ftruncate(fd, end)
        os.pwrite(fd, _HEADER.pack(_MAGIC, len(index), self._number, check), 0)
        return end


def _descr(dtype: np.dtype[Any]) -> list[Any]:
    return [dtype.str] if dtype.names is None else [list(field) for field in dtype.descr]


def _dtype(descr: list[Any]) -> np.dtype[Any]:
    if isinstance(descr[0], str):
        return np.dtype(descr[0])
    return np.dtype([(name, kind, *(tuple(shape) for shape in rest)) for name, kind, *rest in descr])


def _bytes_of(array: npt.NDArray[Any]) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8))


def _write_all(fd: int, parts: Sequence[memoryview], offset: int) -> int:
    waiting = list(parts)
    while waiting:
        written = os.pwritev(fd, waiting[:_IOV_MAX], offset)
        offset += written
        while waiting and written >= len(waiting[0]):
            written -= len(waiting.pop(0))
        if waiting and written:
            waiting[0] = waiting[0][written:]
    return offset


def _number(fd: int) -> int:
    header = os.pread(fd, _HEADER.size, 0)
    if len(header) < _HEADER.size:
        return 0
    magic, _, number, _ = _HEADER.unpack(header)
    return int(number) if magic == _MAGIC else 0


def _read(fd: int) -> dict[str, State] | None:
    _, index_length, _, check = _HEADER.unpack(os.pread(fd, _HEADER.size, 0))
    size = os.fstat(fd).st_size - _HEADER.size
    data = b"".join(_pread_all(fd, size, _HEADER.size))
    if zlib.crc32(data) != check:
        return None
    sections: dict[str, State] = {}
    for entry in msgspec.msgpack.decode(data[:index_length], type=list[_Entry]):
        value: Any = entry.scalar
        if entry.array is not None:
            dtype = _dtype(entry.array.dtype)
            count = int(np.prod(entry.array.shape, dtype=np.int64))
            value = np.frombuffer(data, dtype, count, index_length + entry.array.offset)
            value = value.reshape(entry.array.shape).copy()
        sections.setdefault(entry.section, {})[entry.name] = value
    return sections


def _pread_all(fd: int, size: int, offset: int) -> Iterator[bytes]:
    while size > 0:
        part = os.pread(fd, size, offset)
        if not part:
            return
        yield part
        size -= len(part)
        offset += len(part)

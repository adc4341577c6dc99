"""What the pipeline must know again if it is killed: saved each cycle into memory that the supervisor keeps.

Two memfds take turns, so that one of them is whole at any moment: a save first makes its own header invalid, writes the arrays,
and the header last. Nothing is copied on the way (pwritev from the arrays themselves), nothing stays mapped, and nothing
reaches a disk. Sections are named; each is a mapping of names to numpy arrays, integers, floats, text or bytes.

Format: header (magic, length of the index, number of the save, CRC-32 of both and of all that follows), index (MessagePack),
arrays as they lie in memory.
"""

from __future__ import annotations

import functools
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

State = dict[str, Any]

_HEADER = struct.Struct("<8sQQQ")
_CHECKED = struct.Struct("<QQ")
_MAGIC = b"netmonCP"
_IOV_MAX = 1024


class _Array(msgspec.Struct, array_like=True, frozen=True):
    """An array in the index: dtype as in the header of an .npy file, shape, place behind the index."""

    dtype: str | list[Any]
    shape: list[int]
    offset: int


class _Entry(msgspec.Struct, array_like=True, frozen=True):
    """One value: a scalar as MessagePack knows it, or an array. A section without values has one entry without a name."""

    section: str
    name: str | None
    scalar: Any = None
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
            if not state:
                entries.append(_Entry(section, None))
            for name, value in state.items():
                if isinstance(value, np.ndarray):
                    array = np.asarray(value, order="C")
                    dtype = _description(array.dtype)
                    entries.append(_Entry(section, name, None, _Array(dtype, list(array.shape), offset)))
                    arrays.append(array)
                    offset += array.nbytes
                else:
                    entries.append(_Entry(section, name, value))
        index = msgspec.msgpack.encode(entries)
        parts = [memoryview(index), *(_bytes_of(array) for array in arrays if array.nbytes)]
        number = self._number + 1
        check = zlib.crc32(_CHECKED.pack(len(index), number))
        for part in parts:
            check = zlib.crc32(part, check)
        fd = self._fds[number % 2]
        os.pwrite(fd, bytes(_HEADER.size), 0)
        end = _write_all(fd, parts, _HEADER.size)
        os.ftruncate(fd, end)
        os.pwrite(fd, _HEADER.pack(_MAGIC, len(index), number, check), 0)
        self._number = number  # only now: after a failure the next try must not take the memfd with the save before
        return end


@functools.lru_cache(256)
def _description(dtype: np.dtype[Any]) -> str | list[Any]:
    return npy_format.dtype_to_descr(dtype)


def _tuples(descr: str | list[Any]) -> Any:
    """Fields, titled names and shapes as the tuples that MessagePack gave back as lists."""
    if isinstance(descr, str):
        return descr
    return [
        (name if isinstance(name, str) else tuple(name), _tuples(kind), *map(tuple, shape))
        for name, kind, *shape in descr
    ]


def _bytes_of(array: npt.NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


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
    _, index_length, number, check = _HEADER.unpack(os.pread(fd, _HEADER.size, 0))
    size = os.fstat(fd).st_size - _HEADER.size
    data = b"".join(_pread_all(fd, size, _HEADER.size))
    if zlib.crc32(data, zlib.crc32(_CHECKED.pack(index_length, number))) != check:
        return None
    sections: dict[str, State] = {}
    for entry in msgspec.msgpack.decode(data[:index_length], type=list[_Entry]):
        section = sections.setdefault(entry.section, {})
        if entry.name is None:
            continue
        value: Any = entry.scalar
        if entry.array is not None:
            dtype = npy_format.descr_to_dtype(_tuples(entry.array.dtype))
            count = int(np.prod(entry.array.shape, dtype=np.int64))
            value = np.frombuffer(data, dtype, count, index_length + entry.array.offset)
            value = value.reshape(entry.array.shape).copy()
        section[entry.name] = value
    return sections


def _pread_all(fd: int, size: int, offset: int) -> Iterator[bytes]:
    while size > 0:
        part = os.pread(fd, size, offset)
        if not part:
            return
        yield part
        size -= len(part)
        offset += len(part)

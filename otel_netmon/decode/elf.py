"""ELF files of 64 bits, little-endian: symbols of functions, and what is at their addresses. System V ABI, chapters 4 and 5."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Mapping
from mmap import mmap
from typing import NamedTuple

Octets = bytes | mmap

X86_64 = 62
"""e_machine."""

_IDENT = b"\x7fELF\x02\x01"  # 64 bits, little-endian
_HEADER = struct.Struct("<16xHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_PT_LOAD = 1
_PF_X = 1
_SHT_SYMTAB, _SHT_DYNSYM = 2, 11
_STT_FUNC, _STT_GNU_IFUNC = 2, 10
_HEADERS_MAX = 4096
_SYMBOLS_OCTETS_MAX = 64 << 20


class ElfFault(Exception):
    """The file is no such ELF file, or damaged."""


class Function(NamedTuple):
    """A function: its virtual address, and its length in octets (0: unknown)."""

    address: int
    size: int


class Segment(NamedTuple):
    """Octets of the file that are mapped and can run: first virtual address, offset in the file, length."""

    address: int
    offset: int
    length: int


class Elf:
    """An ELF file.

    Args:
        data: the whole file.

    Attributes:
        machine: e_machine.
        segments: that can run.

    Raises:
        ElfFault: it is none, or its headers lie outside of it.
    """

    def __init__(self, data: Octets) -> None:
        self._data = data
        try:
            if data[: len(_IDENT)] != _IDENT:
                raise ElfFault("not an ELF file of 64 bits, little-endian")
            header = _HEADER.unpack_from(data, 0)
        except struct.error as error:
            raise ElfFault("the header is cut") from error
        _, self.machine, _, _, programs, self._sections, _, _, program_size, program_count, size, count, _ = header
        self._section_size, self._section_count = size, min(count, _HEADERS_MAX)
        try:
            self.segments = tuple(self._segments(programs, program_size, min(program_count, _HEADERS_MAX)))
        except struct.error as error:
            raise ElfFault("the program headers are cut") from error

    def _segments(self, at: int, size: int, count: int) -> Iterator[Segment]:
        for number in range(count):
            kind, flags, offset, address, _, length, _, _ = _PROGRAM_HEADER.unpack_from(self._data, at + number * size)
            if kind == _PT_LOAD and flags & _PF_X:
                yield Segment(address, offset, length)

    def offset(self, address: int) -> int | None:
        """Gives where in the file the octet of a virtual address is; None where nothing that can run is mapped there."""
        for segment in self.segments:
            if segment.address <= address < segment.address + segment.length:
                return segment.offset + address - segment.address
        return None

    def code(self, address: int, length: int) -> bytes:
        """Gives octets from a virtual address on, fewer where the segment or the file ends; nothing where none is mapped."""
        for segment in self.segments:
            if segment.address <= address < segment.address + segment.length:
                at = address - segment.address
                length = min(length, segment.length - at)
                return self._data[segment.offset + at : segment.offset + at + length]
        return b""

    def functions(self, names: Collection[str]) -> Mapping[str, Function]:
        """Gives the functions of these names, out of .dynsym and .symtab; the first of each name.

        Raises:
            ElfFault: a table lies outside of the file.
        """
        wanted = {name.encode("ascii"): name for name in names}
        found: dict[str, Function] = {}
        try:
            for kind in (_SHT_DYNSYM, _SHT_SYMTAB):
                if len(found) < len(wanted):
                    self._look(kind, wanted, found)
        except struct.error as error:
            raise ElfFault("a table of symbols is cut") from error
        return found

    def _look(self, kind: int, wanted: Mapping[bytes, str], found: dict[str, Function]) -> None:
        for section in range(self._section_count):
            fields = _SECTION_HEADER.unpack_from(self._data, self._sections + section * self._section_size)
            _, is_kind, _, _, offset, length, link, _, _, _ = fields
            if is_kind != kind or link >= self._section_count:
                continue
            strings = _SECTION_HEADER.unpack_from(self._data, self._sections + link * self._section_size)
            names = self._names(strings[4], strings[5], wanted)
            if names:
                self._read(offset, min(length, _SYMBOLS_OCTETS_MAX), names, found)

    def _names(self, begin: int, length: int, wanted: Mapping[bytes, str]) -> dict[int, str]:
        """Where in a table of strings wanted names are. A name may be the end of a longer one, so that it may be there twice."""
        names: dict[int, str] = {}
        end = min(begin + length, len(self._data))
        for octets, name in wanted.items():
            at = self._data.find(octets + b"\0", begin, end)
            while at >= 0:
                names[at - begin] = name
                at = self._data.find(octets + b"\0", at + 1, end)
        return names

    def _read(self, offset: int, length: int, names: Mapping[int, str], found: dict[str, Function]) -> None:
        data = self._data[offset : offset + length]
        for name, info, _, section, address, size in _SYMBOL.iter_unpack(data[: len(data) - len(data) % _SYMBOL.size]):
            if name in names and section and info & 15 in (_STT_FUNC, _STT_GNU_IFUNC):
                found.setdefault(names[name], Function(address, size))

"""ELF files of 64 bits, little-endian: symbols of functions, and what is at their addresses. System V ABI, chapters 4 and 5."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

Read = Callable[[int, int], bytes]
"""Gives octets of a file: offset and length; fewer where the file ends."""

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
_TABLE_OCTETS_MAX = 64 << 20


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
        read: gives its octets. A file that another may cut meanwhile must not be mapped into memory.

    Attributes:
        machine: e_machine.
        segments: that can run.

    Raises:
        ElfFault: it is none, or its headers lie outside of it.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        header = read(0, _HEADER.size)
        if header[: len(_IDENT)] != _IDENT or len(header) < _HEADER.size:
            raise ElfFault("not an ELF file of 64 bits, little-endian")
        _, self.machine, _, _, programs, sections, _, _, program_size, program_count, size, count, _ = _HEADER.unpack(
            header
        )
        self._sections = self._table(_SECTION_HEADER, sections, size, count)
        self.segments = tuple(
            [
                Segment(address, offset, length)
                for kind, flags, offset, address, _, length, _, _ in self._table(
                    _PROGRAM_HEADER, programs, program_size, program_count
                )
                if kind == _PT_LOAD and flags & _PF_X
            ]
        )

    def _table(self, entry: struct.Struct, offset: int, size: int, count: int) -> list[tuple[int, ...]]:
        """Entries of a table of headers."""
        if count and size < entry.size:
            raise ElfFault("the entries of a table of headers are too small")
        octets = self._read(offset, size * count)
        if len(octets) < size * count:
            raise ElfFault("a table of headers is cut")
        return [entry.unpack_from(octets, number * size) for number in range(count)]

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
                return self._read(segment.offset + at, min(length, segment.length - at))
        return b""

    def functions(self, names: Collection[str]) -> Mapping[str, Function]:
        """Gives the functions of these names, out of .dynsym and .symtab; the first of each name."""
        wanted = {name.encode("ascii"): name for name in names}
        found: dict[str, Function] = {}
        for wanted_kind in (_SHT_DYNSYM, _SHT_SYMTAB):
            for _, kind, _, _, offset, length, link, _, _, _ in self._sections:
                if kind == wanted_kind and link < len(self._sections) and len(found) < len(wanted):
                    strings = self._sections[link]
                    places = self._places(strings[4], strings[5], wanted)
                    if places:
                        self._look(offset, length, places, found)
        return found

    def _places(self, begin: int, length: int, wanted: Mapping[bytes, str]) -> dict[int, str]:
        """Where in a table of strings wanted names are. A name may be the end of a longer one, so that it may be there twice."""
        strings = self._read(begin, min(length, _TABLE_OCTETS_MAX))
        places: dict[int, str] = {}
        for octets, name in wanted.items():
            at = strings.find(octets + b"\0")
            while at >= 0:
                places[at] = name
                at = strings.find(octets + b"\0", at + 1)
        return places

    def _look(self, offset: int, length: int, places: Mapping[int, str], found: dict[str, Function]) -> None:
        symbols = self._read(offset, min(length, _TABLE_OCTETS_MAX))
        whole = len(symbols) - len(symbols) % _SYMBOL.size
        for name, info, _, section, address, size in _SYMBOL.iter_unpack(symbols[:whole]):
            if name in places and section and info & 15 in (_STT_FUNC, _STT_GNU_IFUNC):
                found.setdefault(places[name], Function(address, size))

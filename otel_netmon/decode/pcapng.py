"""The pcapng format: draft-ietf-opsawg-pcapng.

A file is a chain of blocks. Read are section headers (each with its own byte order), interface descriptions, and
enhanced, simple and obsolete packet blocks; every other block is passed over by its length.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from otel_netmon.decode.capture_source import Frame, Source, captured_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SECTION_HEADER = 0x0A0D0D0A
_INTERFACE_DESCRIPTION = 1
_PACKET = 2
_SIMPLE_PACKET = 3
_ENHANCED_PACKET = 6

_PACKETS = frozenset((_ENHANCED_PACKET, _SIMPLE_PACKET, _PACKET))

_BYTE_ORDERS = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}

_SMALLEST_BLOCK = 12
_LARGEST_BLOCK = (128 << 20) + (128 << 10)
_SMALLEST = {
    _SECTION_HEADER: 28,
    _INTERFACE_DESCRIPTION: 20,
    _PACKET: 32,
    _SIMPLE_PACKET: 16,
    _ENHANCED_PACKET: 32,
}
"""Octets of a block that has no data and no options: header, fixed fields, trailing length."""

_END_OF_OPTIONS = 0
_TIME_RESOLUTION = 9
_TIME_OFFSET = 14
_OPTIONS = {_TIME_RESOLUTION: ("if_tsresol", 1), _TIME_OFFSET: ("if_tsoffset", 8)}
_MICROSECOND_RESOLUTION = 6
_NANOSECOND_RESOLUTION = 9

_TIME_END = 1 << 63


class _Interface(NamedTuple):
    link_type: int
    snapshot: int
    captured_limit: int
    time_multiplier: int
    time_divisor: int
    time_offset_ns: int


class _Order:
    """The fixed fields of each block in one byte order."""

    def __init__(self, order: str) -> None:
        self.word: Callable[[bytes, int], tuple[int]] = Struct(order + "I").unpack_from
        self.words: Callable[[bytes, int], tuple[int, int]] = Struct(order + "II").unpack_from
        self.shorts: Callable[[bytes, int], tuple[int, int]] = Struct(order + "HH").unpack_from
        self.seconds: Callable[[bytes, int], tuple[int]] = Struct(order + "q").unpack_from
        self.interface: Callable[[bytes, int], tuple[int, int]] = Struct(order + "HxxI").unpack_from
        self.packet: Callable[[bytes, int], tuple[int, int, int, int, int]] = Struct(order + "HxxIIII").unpack_from
        self.enhanced: Callable[[bytes, int], tuple[int, int, int, int, int]] = Struct(order + "IIIII").unpack_from


class _Block(NamedTuple):
    """A whole block: ``length`` octets of ``buffer`` from ``start``, which are at ``offset`` in the file."""

    kind: int
    order: _Order
    buffer: bytes
    start: int
    length: int
    offset: int


def is_pcapng(head: bytes) -> bool:
    """Whether a file that begins with these octets (at least 12) begins with a section header block."""
    return head[:4] == b"\x0a\x0d\x0d\x0a" and head[8:12] in _BYTE_ORDERS


def pcapng_frames(source: Source, buffer: bytes) -> Iterator[Frame]:
    """Give the packets of a file that begins with ``buffer``, in the order of the file.

    A block whose length cannot be, that is cut off, or whose two lengths differ ends the iteration: the chain is
    broken there. Faults inside a block cost that block only. A section of a major version other than 1 is passed over,
    as the draft demands.
    """
    new = tuple.__new__  # a third of the time of Frame(...)
    interfaces: dict[int, _Interface | None] = {}
    readable = False
    for block in _blocks(source, buffer):
        kind, order, buffer, start, length, offset = block
        if kind not in _PACKETS:
            if kind == _SECTION_HEADER:
                interfaces = {}
                readable = _section_readable(source, block)
            elif kind == _INTERFACE_DESCRIPTION and readable:
                interfaces[len(interfaces)] = _interface(source, block, len(interfaces))
            continue
        if not readable:
            continue
        room = length - _SMALLEST[kind]
        if room < 0:
            source.skip(offset, f"a packet block of type {kind} has {length} octets, at least {_SMALLEST[kind]}")
            continue
        if kind == _ENHANCED_PACKET:
            number, high, low, captured, wire = order.enhanced(buffer, start + 8)
        elif kind == _PACKET:
            number, high, low, captured, wire = order.packet(buffer, start + 8)
        else:
            number, (wire,) = 0, order.word(buffer, start + 8)
        interface = interfaces.get(number)
        if interface is None:
            source.skip(offset, f"a packet names interface {number}, which its section does not define before it")
            continue
        link_type, snapshot, limit, multiplier, divisor, time_offset_ns = interface
        if kind == _SIMPLE_PACKET:
            captured = min(wire, snapshot) if snapshot else wire
            time_ns = 0
        else:
            time_ns = (high << 32 | low) * multiplier // divisor + time_offset_ns
        if captured > room:
            source.skip(offset, f"a packet states {captured} captured octets, its block has room for {room}")
            continue
        if captured > limit:
            source.skip(offset, f"a packet states {captured} captured octets, at most {limit} are possible")
            continue
        if not 0 <= time_ns < _TIME_END:
            source.fault(offset, f"a packet is dated {time_ns} ns from 1970, outside 0 to 2**63; it is taken as 0")
            time_ns = 0
        data = start + _SMALLEST[kind] - 4
        yield new(Frame, (time_ns, wire, link_type, buffer[data : data + captured]))


def _blocks(source: Source, buffer: bytes) -> Iterator[_Block]:
    """Give each whole block, until the file ends or the chain cannot be followed further."""
    new = tuple.__new__
    orders = {magic: _Order(order) for magic, order in _BYTE_ORDERS.items()}
    order = orders[buffer[8:12]]
    word, words = order.word, order.words
    base = 0
    position = 0
    end = len(buffer)
    while True:
        if end - position < _SMALLEST_BLOCK:
            base += position
            buffer = source.fill(buffer[position:], _SMALLEST_BLOCK)
            position, end = 0, len(buffer)
            if end < _SMALLEST_BLOCK:
                if end:
                    source.fault(base, f"the file ends after {end} octets of a block")
                return
        kind, length = words(buffer, position)
        if kind == _SECTION_HEADER:
            magic = buffer[position + 8 : position + 12]
            if magic not in orders:
                source.fault(base + position + 8, f"a section header has the unknown byte order magic {magic.hex()}")
                return
            order = orders[magic]
            word, words = order.word, order.words
            (length,) = word(buffer, position + 4)
        if length < _SMALLEST_BLOCK or length & 3 or length > _LARGEST_BLOCK:
            source.fault(
                base + position,
                f"a block of type {kind} states a length of {length}, possible are multiples of 4 from "
                f"{_SMALLEST_BLOCK} to {_LARGEST_BLOCK}; where the next block begins is unknown",
            )
            return
        stop = position + length
        if stop > end:
            base += position
            buffer = source.fill(buffer[position:], length)
            position, stop, end = 0, length, len(buffer)
            if stop > end:
                source.fault(base, f"the file ends after {end} of the {length} octets of a block of type {kind}")
                return
        (trailing,) = word(buffer, stop - 4)
        if trailing != length:
            source.fault(
                base + position,
                f"a block of type {kind} states a length of {length} before and {trailing} after its body; "
                "where the next block begins is unknown",
            )
            return
        yield new(_Block, (kind, order, buffer, position, length, base + position))
        position = stop


def _section_readable(source: Source, block: _Block) -> bool:
    """Whether the section that this block begins is of the known major version."""
    if block.length < _SMALLEST[_SECTION_HEADER]:
        source.fault(block.offset, f"a section header has {block.length} octets, at least 28; its section is left out")
        return False
    major, minor = block.order.shorts(block.buffer, block.start + 12)
    if major != 1:
        source.fault(block.offset + 12, f"a section is of version {major}.{minor}, known is 1; it is left out")
        return False
    return True


def _interface(source: Source, block: _Block, number: int) -> _Interface | None:
    """Read an interface description block, the one of this number in its section."""
    _, order, buffer, start, length, offset = block
    if length < _SMALLEST[_INTERFACE_DESCRIPTION]:
        source.fault(
            offset, f"an interface description has {length} octets, at least 20; interface {number} is unknown"
        )
        return None
    link_type, snapshot = order.interface(buffer, start + 8)
    options: dict[int, int] = {}
    position = start + 16
    stop = start + length - 4
    while position < stop:
        code, size = order.shorts(buffer, position)
        if code == _END_OF_OPTIONS:
            break
        value = position + 4
        here = offset + position - start
        if value + size > stop:
            source.fault(here, f"option {code} of {size} octets reaches past the end of its block")
            break
        if code in _OPTIONS:
            name, fixed = _OPTIONS[code]
            if size != fixed:
                source.fault(here, f"{name} has {size} octets instead of {fixed}; it is ignored")
            elif code in options:
                source.fault(here, f"{name} is given again; the first one holds")
            else:
                options[code] = buffer[value] if code == _TIME_RESOLUTION else order.seconds(buffer, value)[0]
        position = value + (size + 3 & ~3)
    multiplier, divisor = _time_scale(options.get(_TIME_RESOLUTION, _MICROSECOND_RESOLUTION))
    time_offset_ns = options.get(_TIME_OFFSET, 0) * 1_000_000_000
    return _Interface(link_type, snapshot, captured_limit(link_type), multiplier, divisor, time_offset_ns)


def _time_scale(resolution: int) -> tuple[int, int]:
    """Factor and divisor from a unit of time to nanoseconds, from the octet of if_tsresol."""
    exponent = resolution & 0x7F
    if resolution & 0x80:
        return 1_000_000_000, 1 << exponent
    if exponent <= _NANOSECOND_RESOLUTION:
        return 10 ** (_NANOSECOND_RESOLUTION - exponent), 1
    return 1, 10 ** (exponent - _NANOSECOND_RESOLUTION)

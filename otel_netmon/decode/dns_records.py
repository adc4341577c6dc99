"""Records of DNS messages: answers (RFC 1035, section 4.1.3), SVCB and HTTPS (RFC 9460), the OPT record of EDNS (RFC 6891)."""

from __future__ import annotations

from struct import Struct
from typing import Literal, NamedTuple

from otel_netmon.decode import dns_numbers as numbers
from otel_netmon.decode.dns_names import ROOT, EndOfData, Suffixes, read_name

RecordFault = Literal["record_data", "opt_record"]
"""Why a record is none: data that does not have the form of its type; an OPT record that is not at the root, not the only
one or not in the additional section."""

V4_MAPPED = b"\0" * 10 + b"\xff\xff"
DNSSEC_OK_FLAG = 0x8000

_RECORD = Struct(">HHIH").unpack_from
_RECORD_OCTETS = 10
_PAIR = Struct(">HH").unpack_from
_POINTER_TO_QUESTION = b"\xc0\x0c"
_HINT_OCTETS = {4: 4, 6: 16}
"""Octets of an address by the key of the parameter: ipv4hint, ipv6hint."""

_NAMES = frozenset((numbers.CNAME, numbers.PTR))
_SERVICES = frozenset((numbers.SVCB, numbers.HTTPS))


class Service(NamedTuple):
    """The data of an SVCB or HTTPS record: the target (``.``: the owner itself) and the addresses it hints at, 16 bytes each."""

    priority: int
    target: str
    hints: tuple[bytes, ...]


RecordData = bytes | str | Service | None
"""Of A and AAAA the address (16 bytes, IPv4 as v4-mapped IPv6), of CNAME and PTR a name, of SVCB and HTTPS a Service; of
every other type, and of other classes than IN, None."""


class Record(NamedTuple):
    """One entry of the answer section; ttl in seconds, 0 where the top bit is set (RFC 2181, section 8)."""

    name: str
    type: int
    cls: int
    ttl: int
    data: RecordData


class Edns(NamedTuple):
    """What the OPT record of a message says; the upper eight bits of the response code stand in ``Message.rcode``."""

    payload_octets: int
    version: int
    dnssec_ok: bool


class UnreadableRecord(Exception):
    """A record is none.

    Attributes:
        fault: why.
    """

    def __init__(self, fault: RecordFault) -> None:
        super().__init__(fault)
        self.fault = fault


def read_answers(
    data: bytes, offset: int, count: int, asked: str | None, suffixes: Suffixes, found: list[Record]
) -> int:
    """Appends the records of the answer section to `found`, so that those before a fault or a cut are there.

    Args:
        data, offset: the message, and where the section begins.
        count: how many records it has.
        asked: the name of the first question, which almost all answers point to.
        suffixes: see ``read_name``.
        found: takes the records.

    Returns:
        the offset behind the section.

    Raises:
        EndOfData, UnreadableName, UnreadableRecord: see there.
    """
    last = len(data)
    for _ in range(count):
        if asked is not None and data[offset : offset + 2] == _POINTER_TO_QUESTION:
            name = asked
            offset += 2
        else:
            name, offset = read_name(data, offset, suffixes)
        start = offset + _RECORD_OCTETS
        if start > last:
            raise EndOfData
        kind, cls, ttl, size = _RECORD(data, offset)
        offset = start + size
        if offset > last:
            raise EndOfData
        value: RecordData = None
        if kind == numbers.OPT:
            raise UnreadableRecord("opt_record")
        if cls & 0x7FFF == 1:  # IN; the top bit is "cache flush" in multicast DNS (RFC 6762, 10.2)
            if kind == numbers.A:
                if size != 4:
                    raise UnreadableRecord("record_data")
                value = V4_MAPPED + data[start:offset]
            elif kind == numbers.AAAA:
                if size != 16:
                    raise UnreadableRecord("record_data")
                value = data[start:offset]
            elif kind in _NAMES:
                value = _name_data(data, start, offset, suffixes)
            elif kind in _SERVICES:
                value = _service_data(data, start, offset)
        found.append(Record(name, kind, cls, ttl if ttl < 0x80000000 else 0, value))
    return offset


def _name_data(data: bytes, start: int, end: int, suffixes: Suffixes) -> str:
    name, stop = _whole_name(data, start, end, suffixes)
    if stop != end:
        raise UnreadableRecord("record_data")
    return name


def _whole_name(data: bytes, start: int, end: int, suffixes: Suffixes) -> tuple[str, int]:
    """A name inside record data that is whole: where it runs out of it, the data is wrong, not missing."""
    try:
        return read_name(data, start, suffixes, end)
    except EndOfData:
        raise UnreadableRecord("record_data") from None


def _service_data(data: bytes, start: int, end: int) -> Service:
    """RFC 9460, section 2.2: priority, an uncompressed name, parameters in strictly growing order of their keys."""
    if start + 2 > end:
        raise UnreadableRecord("record_data")
    target, at = _whole_name(data, start + 2, end, {})
    hints: list[bytes] = []
    before = -1
    while at < end:
        if at + 4 > end:
            raise UnreadableRecord("record_data")
        key, size = _PAIR(data, at)
        at += 4
        stop = at + size
        if stop > end or key <= before:
            raise UnreadableRecord("record_data")
        width = _HINT_OCTETS.get(key)
        if width:
            if size % width or not size:
                raise UnreadableRecord("record_data")
            prefix = V4_MAPPED[: 16 - width]
            hints += [prefix + data[each : each + width] for each in range(at, stop, width)]
        before, at = key, stop
    return Service(int.from_bytes(data[start : start + 2], "big"), target, tuple(hints))


def skip_records(data: bytes, offset: int, count: int, suffixes: Suffixes) -> int:
    """Gives the offset behind `count` records of the authority section; raises as ``read_answers``."""
    for _ in range(count):
        kind, _, _, offset = _outline(data, offset, suffixes)[1:]
        if kind == numbers.OPT:
            raise UnreadableRecord("opt_record")
    return offset


def read_opt(data: bytes, offset: int, count: int, suffixes: Suffixes) -> tuple[Edns | None, int]:
    """Gives the OPT record of an additional section, and its bits of the response code; raises as ``read_answers``."""
    edns = None
    extension = 0
    for _ in range(count):
        name, kind, cls, ttl, offset = _outline(data, offset, suffixes)
        if kind == numbers.OPT:
            if edns is not None or name != ROOT:
                raise UnreadableRecord("opt_record")
            edns = Edns(cls, ttl >> 16 & 0xFF, ttl & DNSSEC_OK_FLAG != 0)
            extension = ttl >> 24
    return edns, extension


def _outline(data: bytes, offset: int, suffixes: Suffixes) -> tuple[str, int, int, int, int]:
    """Name, type, class and TTL of a record, and the offset behind it."""
    if data[offset : offset + 1] == b"\0":
        name, offset = ROOT, offset + 1
    else:
        name, offset = read_name(data, offset, suffixes)
    start = offset + _RECORD_OCTETS
    if start > len(data):
        raise EndOfData
    kind, cls, ttl, size = _RECORD(data, offset)
    if start + size > len(data):
        raise EndOfData
    return name, kind, cls, ttl, start + size

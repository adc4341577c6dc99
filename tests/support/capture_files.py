"""Capture files built octet by octet, from the drafts alone, for tests of the readers."""

from __future__ import annotations

from struct import pack

ENHANCED, SIMPLE, OBSOLETE = 6, 3, 2

MICROSECONDS, NANOSECONDS, KUZNETZOV = 0xA1B2C3D4, 0xA1B23C4D, 0xA1B2CD34


def pcap_header(
    order: str = "<",
    magic: int = MICROSECONDS,
    version: tuple[int, int] = (2, 4),
    snapshot: int = 65535,
    link: int = 1,
) -> bytes:
    """A pcap file header of 24 octets; ``link`` is the whole field with its upper bits."""
    return pack(order + "IHHiIII", magic, *version, 0, 0, snapshot, link)


def pcap_record(
    data: bytes,
    seconds: int = 0,
    fraction: int = 0,
    wire: int | None = None,
    captured: int | None = None,
    order: str = "<",
    magic: int = MICROSECONDS,
    version: tuple[int, int] = (2, 4),
) -> bytes:
    """A packet record; ``wire`` and ``captured`` are the octets of ``data`` unless said otherwise."""
    lengths = [len(data) if captured is None else captured, len(data) if wire is None else wire]
    if version < (2, 3) or version == (543, 0):
        lengths.reverse()
    extra = pack(order + "IHBx", 7, 0x0800, 4) if magic == KUZNETZOV else b""
    return pack(order + "IIII", seconds, fraction, *lengths) + extra + data


def padded(data: bytes) -> bytes:
    """``data`` with zeros up to a multiple of 4."""
    return data + bytes(-len(data) % 4)


def options(*pairs: tuple[int, bytes], order: str = "<", end: bool = True) -> bytes:
    """A list of pcapng options."""
    listed = b"".join(pack(order + "HH", code, len(value)) + padded(value) for code, value in pairs)
    return listed + bytes(4) if end else listed


def block(kind: int, body: bytes, order: str = "<", trailing: int | None = None) -> bytes:
    """A pcapng block; ``body`` is a multiple of 4."""
    length = len(body) + 12
    return pack(order + "II", kind, length) + body + pack(order + "I", length if trailing is None else trailing)


def section(order: str = "<", version: tuple[int, int] = (1, 0), listed: bytes = b"") -> bytes:
    """A section header block; 28 octets without options."""
    return block(0x0A0D0D0A, pack(order + "IHHq", 0x1A2B3C4D, *version, -1) + listed, order)


def interface(link: int = 1, snapshot: int = 0, listed: bytes = b"", order: str = "<") -> bytes:
    """An interface description block; 20 octets without options."""
    return block(1, pack(order + "HHI", link, 0, snapshot) + listed, order)


def enhanced(
    data: bytes,
    number: int = 0,
    units: int = 0,
    wire: int | None = None,
    captured: int | None = None,
    listed: bytes = b"",
    order: str = "<",
    kind: int = ENHANCED,
) -> bytes:
    """An enhanced packet block, or an obsolete packet block (with a drop count of 0xffff)."""
    head = pack(order + "I", number) if kind == ENHANCED else pack(order + "HH", number, 0xFFFF)
    lengths = (len(data) if captured is None else captured, len(data) if wire is None else wire)
    body = head + pack(order + "IIII", units >> 32, units & 0xFFFF_FFFF, *lengths)
    return block(kind, body + padded(data) + listed, order)


def simple(data: bytes, wire: int | None = None, order: str = "<") -> bytes:
    """A simple packet block."""
    return block(SIMPLE, pack(order + "I", len(data) if wire is None else wire) + padded(data), order)

"""DNS messages built octet by octet, by the RFCs and by nothing of what is tested."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from struct import pack

A, NS, CNAME, SOA, PTR, TXT, AAAA, OPT, SVCB, HTTPS, AXFR = 1, 2, 5, 6, 12, 16, 28, 41, 64, 65, 252
IN, ANY = 1, 255
QUERY_FLAGS = 0x0100
RESPONSE_FLAGS = 0x8180
TRUNCATED = 0x0200


def labels(*parts: bytes) -> bytes:
    """A name of these labels."""
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def name(text: str) -> bytes:
    """A name without escapes."""
    return labels(*text.encode("ascii").split(b".")) if text not in {"", "."} else b"\0"


def pointer(offset: int) -> bytes:
    return pack(">H", 0xC000 | offset)


def question(text: str, kind: int = A, cls: int = IN) -> bytes:
    return name(text) + pack(">HH", kind, cls)


def record(owner: bytes, kind: int, data: bytes, ttl: int = 300, cls: int = IN) -> bytes:
    return owner + pack(">HHIH", kind, cls, ttl, len(data)) + data


def address(text: str, owner: bytes = pointer(12), ttl: int = 300) -> bytes:
    """An A or AAAA record, of the question's name unless told otherwise."""
    packed = ipaddress.ip_address(text).packed
    return record(owner, A if len(packed) == 4 else AAAA, packed, ttl)


def service(
    priority: int, target: str = ".", *, owner: bytes = pointer(12), kind: int = HTTPS, hints: Iterable[str] = ()
) -> bytes:
    """An SVCB or HTTPS record with address hints."""
    packed = [ipaddress.ip_address(hint).packed for hint in hints]
    parameters = b""
    for key, width in ((4, 4), (6, 16)):
        value = b"".join(each for each in packed if len(each) == width)
        if value:
            parameters += pack(">HH", key, len(value)) + value
    return record(owner, kind, pack(">H", priority) + name(target) + parameters)


def opt(payload: int = 1232, extended_rcode: int = 0, flags: int = 0) -> bytes:
    return record(b"\0", OPT, b"", extended_rcode << 24 | flags, payload)


def message(
    identifier: int,
    flags: int,
    questions: Iterable[bytes] = (),
    answers: Iterable[bytes] = (),
    authority: Iterable[bytes] = (),
    additional: Iterable[bytes] = (),
) -> bytes:
    sections = [tuple(section) for section in (questions, answers, authority, additional)]
    header = pack(">HHHHHH", identifier, flags, *map(len, sections))
    return header + b"".join(b"".join(section) for section in sections)


def query(identifier: int, text: str, kind: int = A) -> bytes:
    return message(identifier, QUERY_FLAGS, [question(text, kind)])


def response(identifier: int, text: str, *answers: bytes, kind: int = A, rcode: int = 0, flags: int = 0) -> bytes:
    return message(identifier, RESPONSE_FLAGS | flags | rcode, [question(text, kind)], answers)

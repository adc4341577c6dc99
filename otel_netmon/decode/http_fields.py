"""Header fields of HTTP that are looked at, whatever the version: RFC 9110, section 5; Trace Context, W3C 2021.

Pure: octets in, values out. No other field is read, and none of these is told but Host and those of Trace Context.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

ContentLength = int | Literal["invalid"] | None
"""Octets; None where no such field was sent; ``invalid`` where it is no number or several say different things."""

_CONTENT_LENGTH_DIGITS = 18
_GRPC = re.compile(rb"application/grpc(?![-\w])", re.IGNORECASE)
_TRACE_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)


class TraceParent(NamedTuple):
    """The parent of a request in its trace: identifiers of 16 and 8 octets."""

    trace_id: bytes
    span_id: bytes
    is_sampled: bool


def field_text(octets: bytes) -> str:
    r"""Gives what stood on the wire as text: UTF-8, and what is none as ``\xNN``."""
    try:
        return octets.decode("ascii")
    except UnicodeDecodeError:
        return octets.decode("utf-8", "backslashreplace")


def trace_parent(value: str | None) -> TraceParent | None:
    """Reads a traceparent field; None where it is none (Trace Context, sections 3.2 and 4.3)."""
    match = _TRACE_PARENT.fullmatch(value) if value is not None else None
    if match is None:
        return None
    version, trace_id, span_id, flags, further = match.groups()
    if version == "ff" or (version == "00" and further) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceParent(bytes.fromhex(trace_id), bytes.fromhex(span_id), bool(int(flags, 16) & 1))


def content_length(values: list[bytes]) -> ContentLength:
    """Reads all Content-Length fields of a message; the same number may be said again (RFC 9112, section 6.3)."""
    lengths = {element.strip(b" \t\r") for value in values for element in value.split(b",")}
    if not lengths:
        return None
    numbers = {element.lstrip(b"0") or b"0" if element.isdigit() else b"" for element in lengths}
    number = numbers.pop()
    return int(number) if not numbers and 0 < len(number) <= _CONTENT_LENGTH_DIGITS else "invalid"


def elements(values: list[bytes]) -> tuple[bytes, ...]:
    """Gives the elements of a list field in lower case, without their parameters (RFC 9110, section 5.6.1)."""
    if not values:
        return ()
    found = [element.partition(b";")[0].strip(b" \t\r\n\v\f") for value in values for element in value.split(b",")]
    return tuple([element.lower() for element in found if element])


def is_grpc(content_type: bytes) -> bool:
    """Whether a Content-Type is that of gRPC, with or without a suffix such as ``+proto``; gRPC-Web is another."""
    return _GRPC.match(content_type) is not None

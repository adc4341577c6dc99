r"""Domain names of DNS messages as text: RFC 1035, sections 3.1, 4.1.4 and 5.1; RFC 4343, section 2.1.

Text has no closing dot, the root is ``.``. A dot or backslash inside a label is escaped by a backslash, and what is no
printing ASCII character by ``\DDD``. Case is as on the wire, and so is IDNA (``xn--``).
"""

from __future__ import annotations

from typing import Literal

NameFault = Literal["label_type", "pointer", "long_name"]
"""Why a name is none: a label that is neither text nor a pointer (RFC 6891, section 5); a pointer that does not lead
back to an earlier name, or is one too many; more than 255 octets."""

ROOT = "."
NAME_OCTETS_MAX = 255
POINTERS_MAX = 16
"""In one name. Writers of messages need one or two; as every pointer leads back, none of them is a loop."""

_HEADER_OCTETS = 12
_LABELS_BELOW = 0x40
_POINTERS_FROM = 0xC0
_PLAIN = bytes(octet for octet in range(0x21, 0x7F) if octet != ord("\\"))
_TEXT_OF_OCTET = tuple(
    f"\\{chr(octet)}" if octet in b".\\" else chr(octet) if 0x21 <= octet < 0x7F else f"\\{octet:03d}"
    for octet in range(256)
)

Suffixes = dict[int, tuple[str, int, int, int]]
"""What pointers of a message led to so far, by offset: the text, its octets on the wire, where its own part ends, and the
pointers in it."""


class EndOfData(Exception):
    """The octets end inside what is read."""


class UnreadableName(Exception):
    """A name is none.

    Attributes:
        fault: why.
    """

    def __init__(self, fault: NameFault) -> None:
        super().__init__(fault)
        self.fault = fault


def read_name(data: bytes, offset: int, suffixes: Suffixes, limit: int | None = None) -> tuple[str, int]:
    """Reads a name, compressed or not.

    The work is bounded by the labels that stand at the offset itself: what a pointer leads to is read once a message.

    Args:
        data: the message from its header on.
        offset: of the name's first octet.
        suffixes: kept by the caller for all names of one message.
        limit: offset at which the name's own octets must have ended; the end of the message if None.

    Returns:
        the name, and the offset behind its own octets.

    Raises:
        EndOfData, UnreadableName: see there.
    """
    text, _, end, _ = _read(data, offset, len(data) if limit is None else limit, suffixes, POINTERS_MAX)
    return text, end


def text_of_labels(labels: list[bytes]) -> str:
    """Gives labels, without the root's, as text."""
    joined = b".".join(labels)
    if joined.translate(None, _PLAIN) or joined.count(b".") >= len(labels) > 0:
        return ".".join(["".join([_TEXT_OF_OCTET[octet] for octet in label]) for label in labels])
    return joined.decode("ascii") or ROOT


def _read(data: bytes, start: int, limit: int, suffixes: Suffixes, pointers: int) -> tuple[str, int, int, int]:
    """Reads a name whose own octets lie in [start, limit), with so many pointers at most; gives what Suffixes holds."""
    labels: list[bytes] = []
    octets = 1
    at = start
    while True:
        if at >= limit:
            raise EndOfData
        size = data[at]
        at += 1
        if size == 0:
            return text_of_labels(labels), octets, at, 0
        if size >= _LABELS_BELOW:
            break
        stop = at + size
        if stop > limit:
            raise EndOfData
        labels.append(data[at:stop])
        at = stop
        octets += 1 + size
        if octets > NAME_OCTETS_MAX:
            raise UnreadableName("long_name")
    if size < _POINTERS_FROM:
        raise UnreadableName("label_type")
    if at >= limit:
        raise EndOfData
    text, more, end, used = _suffix(data, (size & 0x3F) << 8 | data[at], start, suffixes, pointers)
    if end > start or used >= pointers:
        raise UnreadableName("pointer")
    octets += more - 1
    if octets > NAME_OCTETS_MAX:
        raise UnreadableName("long_name")
    if labels:
        own = text_of_labels(labels)
        text = own if text == ROOT else f"{own}.{text}"
    return text, octets, at + 1, used + 1


def _suffix(data: bytes, target: int, start: int, suffixes: Suffixes, pointers: int) -> tuple[str, int, int, int]:
    """Reads what a name that begins at `start` points to: all of it lies before that name."""
    known = suffixes.get(target)
    if known is None:
        if not _HEADER_OCTETS <= target < start or not pointers:
            raise UnreadableName("pointer")
        try:
            known = _read(data, target, start, suffixes, pointers - 1)
        except EndOfData:
            raise UnreadableName("pointer") from None
        suffixes[target] = known
    return known

"""What the capture readers share: the records they give, and the file as bytes in order, with its faults.

A file is read front to back in pieces, never mapped: a pipe and a regular file take the same way, a file that shrinks
while it is read is a fault instead of SIGBUS, and memory stays at one piece and one record.
"""

from __future__ import annotations

import os
from typing import NamedTuple

PIECE_BYTES = 1 << 17

FAULTS_LISTED = 256
"""Faults that are kept one by one; a damaged file can hold one in each record, so the rest are only counted."""

_CAPTURED_LIMIT = 262_144
_CAPTURED_LIMITS = {189: 128 << 20, 220: 128 << 20, 249: 128 << 20, 231: 128 << 20, 279: 8 << 20}


class Frame(NamedTuple):
    """One packet record.

    Attributes:
        time_ns: Unix time of the capture, ns, in [0, 2**63); 0 where the file has none.
        wire_length: octets of the link-layer frame on the wire, as the record states it; damaged and old captures
            state less than they captured, and the figure is kept.
        link_type: LINKTYPE_* number of the interface the packet was captured on.
        data: the captured octets, beginning with the link-layer header.
    """

    time_ns: int
    wire_length: int
    link_type: int
    data: bytes


class Fault(NamedTuple):
    """Something in the file that stopped or disturbed reading.

    Attributes:
        offset: octet in the file at which the faulty record, block, option or field begins.
        message: what is wrong there, and what becomes of it.
    """

    offset: int
    message: str


def captured_limit(link_type: int) -> int:
    """Most octets a record of this link type can have captured; more means a damaged file.

    The bounds are libpcap's (MAXIMUM_SNAPLEN, and its larger ones for D-Bus 231, EBHSCR 279 and USB 189, 220, 249).
    """
    return _CAPTURED_LIMITS.get(link_type, _CAPTURED_LIMIT)


class Source:
    """The octets of a capture in order, and what was found wrong with them.

    Attributes:
        faults: the first FAULTS_LISTED faults, in the order they were met.
        fault_count: all faults.
        skipped: packet records that were met and could not be given as a frame while reading went on.
    """

    def __init__(self, descriptor: int) -> None:
        self.faults: list[Fault] = []
        self.fault_count = 0
        self.skipped = 0
        self._descriptor = descriptor
        self._taken = 0
        self._ended = False

    def fault(self, offset: int, message: str) -> None:
        """Keep one fault, found at this octet of the file."""
        self.fault_count += 1
        if len(self.faults) < FAULTS_LISTED:
            self.faults.append(Fault(offset, message))

    def skip(self, offset: int, message: str) -> None:
        """Keep one fault that costs exactly one packet."""
        self.skipped += 1
        self.fault(offset, f"{message}; the packet is left out")

    def fill(self, rest: bytes, wanted: int) -> bytes:
        """Put further octets of the file behind ``rest``.

        Returns:
            ``rest`` and what follows it, at least ``wanted`` octets; fewer only where the file ends or an error (kept
            as a fault) stops it.
        """
        pieces = [rest]
        length = len(rest)
        while length < wanted and not self._ended:
            try:
                piece = os.read(self._descriptor, PIECE_BYTES)
            except OSError as error:
                self.fault(self._taken, f"reading fails: {error.strerror}")
                piece = b""
            self._ended = not piece
            self._taken += len(piece)
            length += len(piece)
            pieces.append(piece)
        return b"".join(pieces)

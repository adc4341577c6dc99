"""Where bodies of HTTP/1 messages end: RFC 9112, sections 6 and 7. Pure; nothing of a body is kept."""

from __future__ import annotations

import re
from typing import Literal, Protocol

LINE_OCTETS_MAX = 1 << 14
TRAILER_OCTETS_MAX = 1 << 16

_SIZE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,15})[ \t\r]*(?:;.*)?", re.DOTALL)


class BodyReader(Protocol):
    """Finds the end of one body.

    Attributes:
        octets: of the content itself so far, those that were missing included.
        is_over: its end was reached.
        is_broken: what was read, or a gap, leaves unknown where it ends.
    """

    octets: int
    is_over: bool
    is_broken: bool

    def take(self, data: bytes, offset: int) -> int:
        """Reads from this offset on; gives the offset behind what is the body's."""

    def gap(self, octets: int) -> int:
        """Takes that so many octets are missing; gives how many of them are the body's."""


class LengthBody:
    """A body of a known length."""

    __slots__ = ("_remaining", "is_broken", "is_over", "octets")

    def __init__(self, length: int) -> None:
        self._remaining = length
        self.octets = 0
        self.is_over = length == 0
        self.is_broken = False

    def take(self, data: bytes, offset: int) -> int:
        """As of ``BodyReader``."""
        return offset + self.gap(len(data) - offset)

    def gap(self, octets: int) -> int:
        """As of ``BodyReader``."""
        taken = min(octets, self._remaining)
        self._remaining -= taken
        self.octets += taken
        self.is_over = self._remaining == 0
        return taken


class ChunkedBody:
    """A body in chunks with the trailer section behind it (RFC 9112, section 7.1)."""

    __slots__ = ("_left", "_line", "_part", "_trailer", "is_broken", "is_over", "octets")

    def __init__(self) -> None:
        self._part: Literal["size", "data", "data_end", "trailer"] = "size"
        self._left = 0  # of the data of this chunk
        self._line = b""  # begin of a line whose end has not come
        self._trailer = 0
        self.octets = 0
        self.is_over = self.is_broken = False

    def take(self, data: bytes, offset: int) -> int:
        """As of ``BodyReader``."""
        end = len(data)
        while offset < end and not self.is_over and not self.is_broken:
            if self._part == "data":
                offset += self._pass_data(end - offset)
                continue
            line_end = data.find(b"\n", offset)
            if line_end < 0:
                self._line += data[offset:]
                self.is_broken = len(self._line) > LINE_OCTETS_MAX or self._is_no_line_end()
                return end
            line = self._line + data[offset:line_end]
            self._line = b""
            offset = line_end + 1
            self._end_line(line)
        return offset

    def gap(self, octets: int) -> int:
        """As of ``BodyReader``; where it reaches over the data of one chunk, the end is not known any more."""
        if self._part == "data" and octets <= self._left:
            return self._pass_data(octets)
        if self._part == "data" and octets == self._left + 2:
            self._pass_data(self._left)
            self._part = "size"
        else:
            self.is_broken = True
        return octets

    def _pass_data(self, octets: int) -> int:
        taken = min(octets, self._left)
        self._left -= taken
        self.octets += taken
        if not self._left:
            self._part = "data_end"
        return taken

    def _is_no_line_end(self) -> bool:
        return self._part == "data_end" and self._line.strip(b"\r") != b""

    def _end_line(self, line: bytes) -> None:
        if self._part == "size":
            match = _SIZE.fullmatch(line) if len(line) <= LINE_OCTETS_MAX else None
            if match is None:
                self.is_broken = True
                return
            self._left = int(match[1], 16)
            self._part = "data" if self._left else "trailer"
        elif self._part == "data_end":
            self.is_broken = line.strip(b"\r") != b""
            self._part = "size"
        else:
            self._trailer += len(line) + 1
            self.is_over = not line.strip(b"\r")
            self.is_broken = not self.is_over and self._trailer > TRAILER_OCTETS_MAX


class OpenBody:
    """A body that ends with the connection."""

    __slots__ = ("is_broken", "is_over", "octets")

    def __init__(self) -> None:
        self.octets = 0
        self.is_over = self.is_broken = False

    def take(self, data: bytes, offset: int) -> int:
        """As of ``BodyReader``."""
        self.octets += len(data) - offset
        return len(data)

    def gap(self, octets: int) -> int:
        """As of ``BodyReader``."""
        self.octets += octets
        return octets

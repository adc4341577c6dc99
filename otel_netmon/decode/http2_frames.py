"""HTTP/2 frames out of one direction of a connection: RFC 9113, sections 4 and 6; RFC 9218, section 7.1.

Pure: octets and their times in, frames out. What is kept of a frame is what its type needs: of DATA nothing but its lengths.
"""

from __future__ import annotations

import enum
from struct import Struct
from typing import NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_OCTETS = 9
STREAMS_BELOW = 1 << 31
_STREAM = STREAMS_BELOW - 1


class FrameType(enum.IntEnum):
    """Types that a reader of connections has to know."""

    DATA = 0x0
    HEADERS = 0x1
    PRIORITY = 0x2
    RST_STREAM = 0x3
    SETTINGS = 0x4
    PUSH_PROMISE = 0x5
    PING = 0x6
    GOAWAY = 0x7
    WINDOW_UPDATE = 0x8
    CONTINUATION = 0x9
    ALTSVC = 0xA
    ORIGIN = 0xC
    PRIORITY_UPDATE = 0x10


KNOWN_TYPES: frozenset[int] = frozenset(FrameType)


END_STREAM, END_HEADERS, PADDED, WITH_PRIORITY = 0x1, 0x4, 0x8, 0x20
"""Flags. Numbers, not an enumeration: they are looked at in every frame."""
ACK = 0x1

HEAD_OCTETS_MAX = 1 << 16
"""Kept of one frame. Writers keep to 16,384 octets unless the other side asked for more."""

FRAME_OCTETS = 1 << 14
"""Payload of a frame at most, unless the other side allowed more (SETTINGS_MAX_FRAME_SIZE)."""

_KEPT: dict[int, int] = {
    FrameType.HEADERS: HEAD_OCTETS_MAX,
    FrameType.CONTINUATION: HEAD_OCTETS_MAX,
    FrameType.PUSH_PROMISE: HEAD_OCTETS_MAX,
    FrameType.RST_STREAM: 4,
    FrameType.GOAWAY: 8,
}
_LENGTHS: dict[int, int] = {
    FrameType.PRIORITY: 5,
    FrameType.RST_STREAM: 4,
    FrameType.PING: 8,
    FrameType.WINDOW_UPDATE: 4,
}
_FLAGS: dict[int, int] = {
    FrameType.DATA: END_STREAM | PADDED,
    FrameType.HEADERS: END_STREAM | END_HEADERS | PADDED | WITH_PRIORITY,
    FrameType.PRIORITY: 0,
    FrameType.RST_STREAM: 0,
    FrameType.SETTINGS: ACK,
    FrameType.PUSH_PROMISE: END_HEADERS | PADDED,
    FrameType.PING: ACK,
    FrameType.GOAWAY: 0,
    FrameType.WINDOW_UPDATE: 0,
    FrameType.CONTINUATION: END_HEADERS,
    FrameType.ALTSVC: 0,
    FrameType.ORIGIN: 0,
    FrameType.PRIORITY_UPDATE: 0,
}
_ON_STREAM: dict[int, bool] = {
    FrameType.DATA: True,
    FrameType.HEADERS: True,
    FrameType.PRIORITY: True,
    FrameType.RST_STREAM: True,
    FrameType.SETTINGS: False,
    FrameType.PUSH_PROMISE: True,
    FrameType.PING: False,
    FrameType.GOAWAY: False,
    FrameType.CONTINUATION: True,
    FrameType.PRIORITY_UPDATE: False,
}
_HEADER = Struct(">HBBBI").unpack_from


class FrameHeader(NamedTuple):
    """The 9 octets before each frame; the reserved bit of the stream identifier is left out."""

    length: int
    type: int
    flags: int
    stream: int


class Frame(NamedTuple):
    """A frame whose last octet was seen, or passed in a gap.

    Attributes:
        length: octets of its payload.
        payload: what is kept of it: all of HEADERS, CONTINUATION and PUSH_PROMISE, the first octets of RST_STREAM and
            GOAWAY, the pad length of a padded DATA.
        whole: whether that is all that is to be kept; False where octets were lost or are more than HEAD_OCTETS_MAX.
        first_ns, last_ns: when its first and its last octet were seen.
    """

    type: int
    flags: int
    stream: int
    length: int
    payload: bytes
    whole: bool
    first_ns: int
    last_ns: int


def read_header(data: bytes, offset: int = 0) -> FrameHeader:
    """Gives the header at an offset, behind which there are 9 octets at least."""
    high, low, kind, flags, stream = _HEADER(data, offset)
    return FrameHeader(high << 8 | low, kind, flags, stream & _STREAM)


def is_legal(length: int, kind: int, flags: int, stream: int) -> bool:
    """Whether a frame may have this header: on a stream or not, and the length, as its type demands."""
    if _ON_STREAM.get(kind, stream != 0) != (stream != 0):
        return False
    if kind == 4:  # SETTINGS
        return length % 6 == 0 and not (flags & ACK and length)
    if kind == 7:  # GOAWAY
        return length >= 8
    return _LENGTHS.get(kind, length) == length


def is_likely(header: FrameHeader) -> bool:
    """Whether a header is legal and as writers make them: a known type, its own flags, no more than the default length."""
    length, kind, flags, _ = header
    own = _FLAGS.get(kind)
    return own is not None and not flags & ~own and length <= FRAME_OCTETS and is_legal(*header)


def _kept(kind: int, flags: int) -> int:
    """How many octets of a payload are kept at most: of a padded DATA its pad length."""
    return _KEPT.get(kind, 0) if kind else flags >> 3 & 1


class FrameReader:
    """Follows the frames of one direction over any cuts.

    A frame whose header cannot be one ends the reading: where the next one begins is not known any more, and ``in_step``
    is False until ``start`` is called.

    Attributes:
        end: where the reading ended in the octets of the last call.
        in_step: whether the next octet belongs to a frame that is known, or begins one.
        octets: how many are kept.
    """

    __slots__ = ("_buffer", "_first_ns", "_header", "_kept", "_last_ns", "_left", "_whole", "end", "in_step")

    def __init__(self) -> None:
        self.in_step = True
        self.end = 0
        self._buffer = bytearray()  # of a header, or what is kept of a payload, that is not complete
        self._header: FrameHeader | None = None  # of the frame that is open
        self._kept = 0  # how much of its payload is to be kept
        self._left = 0  # octets of its payload that are to come
        self._whole = True
        self._first_ns = self._last_ns = 0

    @property
    def octets(self) -> int:
        """How many octets are kept."""
        return len(self._buffer)

    def partial(self) -> Frame | None:
        """Gives the frame of which not all has passed, with as many octets as have; last_ns is that of the last of them."""
        if self._header is None:
            return None
        length, kind, flags, stream = self._header
        passed = length - self._left
        return Frame(kind, flags, stream, passed, bytes(self._buffer), False, self._first_ns, self._last_ns)

    def start(self) -> None:
        """Takes the next octet as the first one of a frame."""
        self.in_step = True
        self._header = None
        self._buffer.clear()

    def feed(self, data: bytes, time_ns: int) -> list[Frame]:
        """Takes the next octets; gives the frames that end in them. What follows an illegal header is not read."""
        found: list[Frame] = []
        at, end = 0, len(data)
        while at < end and self.in_step:
            if self._header is not None:
                at = self._go_on(self._header, data, at, time_ns, found)
            elif self._buffer or end - at < HEADER_OCTETS:
                at = self._complete_header(data, at, time_ns, found)
            else:
                high, low, kind, flags, stream = _HEADER(data, at)
                length = high << 8 | low
                stream &= _STREAM
                at += HEADER_OCTETS
                stop = at + length
                if stop > end or length > HEAD_OCTETS_MAX:
                    at = self._open(FrameHeader(length, kind, flags, stream), at, time_ns, time_ns, found)
                elif is_legal(length, kind, flags, stream):
                    kept = _kept(kind, flags)
                    payload = data[at : min(stop, at + kept)] if kept else b""
                    found.append(Frame(kind, flags, stream, length, payload, True, time_ns, time_ns))
                    at = stop
                else:
                    self.in_step = False
        self.end, self._last_ns = at, time_ns
        return found

    def gap(self, octets: int, time_ns: int) -> list[Frame]:
        """Takes that octets were not seen; gives the frame that ends in them, if they reach no further than its end."""
        if not self.in_step:
            return []
        header = self._header
        if header is None or octets > self._left:
            self.in_step = False
            self._header = None
            self._buffer.clear()
            return []
        found: list[Frame] = []
        kept_to = header.length - self._left
        if kept_to < self._kept:
            self._whole = False
            self._kept = kept_to
        self._left -= octets
        if not self._left:
            self._close(header, time_ns, found)
        return found

    def _complete_header(self, data: bytes, at: int, time_ns: int, found: list[Frame]) -> int:
        buffer = self._buffer
        if not buffer:
            self._first_ns = time_ns
        end = min(len(data), at + HEADER_OCTETS - len(buffer))
        buffer += data[at:end]
        if len(buffer) == HEADER_OCTETS:
            header = read_header(bytes(buffer))
            buffer.clear()
            self._open(header, end, self._first_ns, time_ns, found)
        return end

    def _open(self, header: FrameHeader, at: int, first_ns: int, time_ns: int, found: list[Frame]) -> int:
        """Takes a header; gives the offset behind it."""
        length, kind, flags, _ = header
        if not is_legal(*header):
            self.in_step = False
            return at
        kept = _kept(kind, flags)
        self._header, self._left, self._first_ns = header, length, first_ns
        self._kept, self._whole = min(kept, length), length <= HEAD_OCTETS_MAX or not kept
        if not length:
            self._close(header, time_ns, found)
        return at

    def _go_on(self, header: FrameHeader, data: bytes, at: int, time_ns: int, found: list[Frame]) -> int:
        """Takes payload of the open frame; gives the offset behind it."""
        end = min(len(data), at + self._left)
        wanted = self._kept - len(self._buffer)
        if wanted > 0:
            self._buffer += data[at : min(end, at + wanted)]
        self._left -= end - at
        if not self._left:
            self._close(header, time_ns, found)
        return end

    def _close(self, header: FrameHeader, time_ns: int, found: list[Frame]) -> None:
        length, kind, flags, stream = header
        found.append(Frame(kind, flags, stream, length, bytes(self._buffer), self._whole, self._first_ns, time_ns))
        self._header = None
        self._buffer.clear()

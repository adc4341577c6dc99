"""One direction of an HTTP/2 connection: octets in, what happens to its streams out. RFC 9113.

Pure, and bounded: of DATA only lengths, of a header block at most BLOCK_OCTETS_MAX. Every fault is counted by its name.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from otel_netmon.decode.http2_frames import (
    END_HEADERS,
    END_STREAM,
    HEAD_OCTETS_MAX,
    HEADER_OCTETS,
    KNOWN_TYPES,
    PADDED,
    PREFACE,
    STREAMS_BELOW,
    WITH_PRIORITY,
    Frame,
    FrameReader,
    FrameType,
    is_likely,
    read_header,
)

if TYPE_CHECKING:
    from otel_netmon.decode.hpack_fields import FieldReader, Fields

BLOCK_OCTETS_MAX = 1 << 16
CONTINUATIONS_MAX = 256
"""Frames of one header block. A writer needs five to fill BLOCK_OCTETS_MAX; empty ones are a flood (CVE-2024-27316)."""

_PREFACE_LINE = PREFACE.index(b"\r")
_HEAD_FLAGS = END_HEADERS | PADDED | WITH_PRIORITY
_SURE = 3
_STRONG, _FAIR, _WEAK = 3, 2, 1
_SEARCHED_OCTETS_MAX = 1 << 14
_CANDIDATES_MAX = 16
_TRIED_OCTETS_MAX = 4096  # of a header block that may be none: reading costs 0.3 us an octet
_CANDIDATE = re.compile(rb"(?=(?!\0{9})\0[\0-\x40].[\0-\x09\x10][\0-\x2d][\0-\x7f])", re.DOTALL)
_NUMBER = Struct(">I").unpack_from
_PAIR = Struct(">II").unpack_from


class Head(NamedTuple):
    """A header block: a head, an interim one, or trailers.

    Attributes:
        fields: None where it could not be read, or a part of it was lost.
        ends_stream: nothing of this direction follows on the stream.
    """

    stream: int
    fields: Fields | None
    ends_stream: bool
    first_ns: int
    last_ns: int


class Body(NamedTuple):
    """A DATA frame; octets without padding, unless the capture has only the frame's header."""

    stream: int
    octets: int
    ends_stream: bool
    first_ns: int
    last_ns: int


class Reset(NamedTuple):
    """An RST_STREAM frame; error_code is None where it was lost."""

    stream: int
    error_code: int | None
    time_ns: int


class GoAway(NamedTuple):
    """A GOAWAY frame: what the other side began above last_stream was not, and will not be, looked at."""

    last_stream: int
    error_code: int
    time_ns: int


class Lost(NamedTuple):
    """Frames were lost, nobody knows of which streams."""

    time_ns: int


Event = Head | Body | Reset | GoAway | Lost


def begins_http2(data: bytes) -> bool | None:
    """Whether octets are the begin of what a client says, its preface; None: there are too few (RFC 9113, section 3.4).

    The first line is enough: no other protocol has the method PRI.
    """
    if data[: len(PREFACE)] != PREFACE[: len(data)]:
        return False
    return True if len(data) >= _PREFACE_LINE else None


def continues_http2(data: bytes) -> bool | None:
    """Whether octets are frames of a connection joined in the middle, beginning with one; None: there are too few.

    As sure as a few exact octets can be: a frame of the connection, a head that can be read, two frames of a stream with
    fixed lengths, or three of DATA, each behind the other to the end of the octets.
    """
    evidence = 0
    at, end = 0, len(data)
    while at < end:
        if end - at < HEADER_OCTETS:
            return False if data[at] else None if evidence < _SURE else True
        header = read_header(data, at)
        stop = at + HEADER_OCTETS + header.length
        if not is_likely(header) and (evidence < _SURE or header.type in KNOWN_TYPES):
            return False
        if stop > end:
            break
        weight = _weight(Frame(*header[1:], header.length, data[at + HEADER_OCTETS : stop], True, 0, 0))
        if weight is None:
            return False
        evidence += weight
        at = stop
    return True if evidence >= _SURE else None


def _weight(frame: Frame) -> int | None:
    """How much a frame that is likely by its header tells by its payload; None: it is none."""
    payload = frame.payload
    match frame.type:
        case FrameType.DATA:
            return _WEAK if payload else 0
        case FrameType.HEADERS:
            return _head_weight(frame)
        case FrameType.RST_STREAM:
            return _FAIR if _NUMBER(payload)[0] < 1 << 8 else None
        case FrameType.PRIORITY:
            return _FAIR
        case FrameType.SETTINGS:
            identifiers = [int.from_bytes(payload[at : at + 2], "big") for at in range(0, len(payload), 6)]
            return _STRONG if not identifiers or min(identifiers) < 16 else None
        case FrameType.WINDOW_UPDATE:
            increment = _NUMBER(payload)[0]
            return (_FAIR if frame.stream else _STRONG) if 0 < increment < STREAMS_BELOW else None
        case FrameType.PING | FrameType.GOAWAY:
            return _STRONG
    return 0


def _head_weight(frame: Frame) -> int | None:
    from otel_netmon.decode.hpack_fields import FieldReader

    block = _block(frame)
    if block is None:
        return None
    if not frame.flags & END_HEADERS or len(block) > _TRIED_OCTETS_MAX:
        return 0
    fields = FieldReader(begun=False).read(block)
    if isinstance(fields, str):
        return None
    return _STRONG if fields.is_head else 0


def _block(frame: Frame) -> bytes | None:
    """Gives the header block in HEADERS, CONTINUATION or PUSH_PROMISE; None where padding takes more than there is."""
    payload = frame.payload
    begin, end = 0, len(payload)
    if frame.flags & PADDED and frame.type != FrameType.CONTINUATION:
        if not payload:
            return None
        begin, end = 1, end - payload[0]
    if frame.type == FrameType.HEADERS:
        begin += 5 if frame.flags & WITH_PRIORITY else 0
    elif frame.type == FrameType.PUSH_PROMISE:
        begin += 4
    return payload[begin:end] if begin <= end else None


def _body(frame: Frame) -> Body:
    """A DATA frame without its padding."""
    _, flags, stream, octets, payload, _, first_ns, last_ns = frame
    if flags & PADDED and payload:
        octets = max(0, octets - 1 - payload[0])
    return Body(stream, octets, flags & END_STREAM != 0, first_ns, last_ns)


class _OpenBlock:
    """A header block: that of its first frame, and what the next ones add."""

    __slots__ = ("continuations", "fault", "frame", "octets")

    def __init__(self, frame: Frame) -> None:
        block = _block(frame)
        self.frame = frame
        self.octets = bytearray(block or b"")
        self.continuations = 0
        self.fault = "broken_blocks" if block is None else None
        if not frame.whole:
            self.fault = _fault_of(frame)

    def add(self, frame: Frame) -> None:
        """Takes a CONTINUATION."""
        self.continuations += 1
        self.octets += frame.payload
        if not frame.whole:
            self.fault = _fault_of(frame)
        if len(self.octets) > BLOCK_OCTETS_MAX or self.continuations > CONTINUATIONS_MAX:
            self.fault = "long_blocks"
        if self.fault is not None:
            self.octets.clear()


def _fault_of(frame: Frame) -> str:
    return "long_blocks" if frame.length > HEAD_OCTETS_MAX else "lost_blocks"


class Direction:
    """Reads what one side says.

    Args:
        begun: whether it is given from its first octet on.
        counts: of what could not be read: ``illegal_frames`` (a header that none can have: what follows is searched for the next one), ``gaps`` (of
            unknown frames), ``skipped_octets`` (in which no frame was found), ``promises``; header blocks that were not
            read: ``lost_blocks`` (octets were not captured), ``long_blocks``, ``broken_blocks`` (padding, order of frames),
            and by ``decode.hpack_fields.BlockFault`` as ``hpack_index`` and so on.
    """

    __slots__ = ("_block", "_counts", "_fields", "_frames", "_opening", "_searched")

    def __init__(self, counts: Counter[str], *, begun: bool) -> None:
        from otel_netmon.decode.hpack_fields import FieldReader

        self._counts = counts
        self._frames = FrameReader()
        self._fields: FieldReader = FieldReader(begun=begun)
        self._opening: bytes | None = b""  # what may be the begin of the preface
        self._searched: bytes | None = None if begun else b""  # in these no frame was found; None: reading is in step
        self._block: _OpenBlock | None = None

    @property
    def octets(self) -> int:
        """How many octets are kept, about."""
        block = len(self._block.octets) if self._block is not None else 0
        return self._frames.octets + self._fields.octets + block + len(self._searched or b"")

    def partial(self) -> Body | None:
        """Gives the DATA frame of which not all has passed."""
        frame = self._frames.partial()
        return _body(frame)._replace(ends_stream=False) if frame is not None and frame.type == FrameType.DATA else None

    def feed(self, data: bytes, time_ns: int) -> list[Event]:
        """Takes the next octets, of one segment or several; gives what happens in them."""
        events: list[Event] = []
        if self._opening is not None:
            data = self._open(self._opening + data)
        if self._searched is not None:
            data = self._search(data, 0)
        while data:
            for frame in self._frames.feed(data, time_ns):
                self._take(frame, events)
            if self._frames.in_step:
                break
            self._counts["illegal_frames"] += 1
            self._lose(time_ns, events)
            data = self._search(data[self._frames.end :], None)
        return events

    def gap(self, octets: int, time_ns: int) -> list[Event]:
        """Takes that octets were not seen; gives what is known to have happened in them."""
        events: list[Event] = []
        self._opening = None
        if self._searched is None:
            for frame in self._frames.gap(octets, time_ns):
                self._take(frame, events)
            if not self._frames.in_step:
                self._counts["gaps"] += 1
                self._lose(time_ns, events)
        elif self._searched:
            self._counts["skipped_octets"] += len(self._searched)
            self._searched = b""
        return events

    def _open(self, data: bytes) -> bytes:
        """Takes the first octets; gives those behind the preface, if there is one, and nothing while that is open."""
        if not PREFACE.startswith(data[: len(PREFACE)]):
            self._opening = None
            return data
        if len(data) < len(PREFACE):
            self._opening = data
            return b""
        self._opening = self._searched = None
        return data[len(PREFACE) :]

    def _lose(self, time_ns: int, events: list[Event]) -> None:
        """Takes that frames were lost, and where the next one begins."""
        if self._block is not None:
            self._break_block("lost_blocks", time_ns, events)
        self._fields.lose()
        self._searched = b""
        events.append(Lost(time_ns))

    def _search(self, data: bytes, likely: int | None) -> bytes:
        """Looks for the begin of a frame; gives the octets from it on.

        Where a segment begins, at the offset `likely`, a frame is believed without further evidence: most segments begin
        with one.
        """
        searched = self._searched or b""
        begin = None if likely is None else likely + len(searched)
        data = searched + data
        kept = max(0, len(data) - HEADER_OCTETS + 1)
        for match in islice(_CANDIDATE.finditer(data), _CANDIDATES_MAX):
            continues = continues_http2(data[match.start() :])
            if continues:
                return self._found(data, match.start())
            if continues is None:
                kept = min(kept, match.start())
        if begin is not None and len(data) - begin >= HEADER_OCTETS and is_likely(read_header(data, begin)):
            return self._found(data, begin)
        if len(data) - kept > _SEARCHED_OCTETS_MAX:
            kept = len(data) - HEADER_OCTETS + 1
        if kept:
            self._counts["skipped_octets"] += kept
        self._searched = data[kept:]
        return b""

    def _found(self, data: bytes, at: int) -> bytes:
        if at:
            self._counts["skipped_octets"] += at
        self._searched = None
        self._frames.start()
        return data[at:]

    def _take(self, frame: Frame, events: list[Event]) -> None:
        kind, flags, stream, _, payload, whole, first_ns, last_ns = frame
        if self._block is not None and kind != FrameType.CONTINUATION:
            self._break_block("broken_blocks", last_ns, events)
        if not kind:
            events.append(_body(frame))
        elif kind == FrameType.HEADERS and flags & _HEAD_FLAGS == END_HEADERS and whole:  # almost all
            events.append(Head(stream, self._read(payload), flags & END_STREAM != 0, first_ns, last_ns))
        elif kind in (FrameType.HEADERS, FrameType.PUSH_PROMISE):
            if kind == FrameType.PUSH_PROMISE:
                self._counts["promises"] += 1
            block = _OpenBlock(frame)
            if flags & END_HEADERS:
                self._read_block(block, last_ns, events)
            else:
                self._block = block
        elif kind == FrameType.CONTINUATION:
            self._continue_block(frame, events)
        elif kind == FrameType.RST_STREAM:
            events.append(Reset(stream, _NUMBER(payload)[0] if whole else None, last_ns))
        elif kind == FrameType.GOAWAY and whole:
            last_stream, error_code = _PAIR(payload)
            events.append(GoAway(last_stream & STREAMS_BELOW - 1, error_code, last_ns))

    def _read(self, block: bytes) -> Fields | None:
        """Gives the fields of the next block; None if it cannot be read, and counts why."""
        fields = self._fields.read(block)
        if isinstance(fields, str):
            self._counts[f"hpack_{fields}"] += 1
            return None
        return fields

    def _continue_block(self, frame: Frame, events: list[Event]) -> None:
        block = self._block
        if block is None or block.frame.stream != frame.stream:
            self._break_block("broken_blocks", frame.last_ns, events)
            return
        block.add(frame)
        if frame.flags & END_HEADERS:
            self._block = None
            self._read_block(block, frame.last_ns, events)

    def _break_block(self, fault: str, time_ns: int, events: list[Event]) -> None:
        """Ends the open block, if there is one, where something else than the rest of it came."""
        block, self._block = self._block, None
        if block is None:
            self._counts[fault] += 1
            self._fields.lose()
        else:
            block.fault = fault
            self._read_block(block, time_ns, events)

    def _read_block(self, block: _OpenBlock, last_ns: int, events: list[Event]) -> None:
        fields = None
        if block.fault is None:
            fields = self._read(bytes(block.octets))
        else:
            self._counts[block.fault] += 1
            self._fields.lose()
        frame = block.frame
        if frame.type == FrameType.HEADERS:
            events.append(Head(frame.stream, fields, frame.flags & END_STREAM != 0, frame.first_ns, last_ns))

"""Messages of DNS over TCP out of segments: RFC 1035, section 4.2.2; RFC 7766.

Each direction of a connection is a stream of messages, each behind its length in two octets. Segments may come twice, in
any order, cut or not at all, and the first one that is seen may be in the middle. What is kept is bounded: one message, and
what waits behind a gap.
"""

from __future__ import annotations

from bisect import insort
from typing import NamedTuple

from otel_netmon.abi.enums import TcpFlags
from otel_netmon.decode.dns import HEADER_OCTETS, Message, decode

GAP_NS = 2_000_000_000
"""How long what lies behind a gap waits: the first retransmission comes within a second (RFC 6298, section 2.1)."""

_PREFIX_OCTETS = 2
_QUESTION_ENDS = _PREFIX_OCTETS + HEADER_OCTETS + 259
_WAITING_OCTETS_MAX = 1 << 17
_WAITING_SEGMENTS_MAX = 64
_JUMP_OCTETS = 1 << 24
"""Two sequence numbers farther apart are not of one connection: no window of a resolver is that large."""


class Segment(NamedTuple):
    """What a record of kind DNS_SEGMENT says: data are the octets captured of `length`, the first at `sequence`."""

    time_ns: int
    sequence: int
    flags: int
    length: int
    data: bytes


class StreamMessage(NamedTuple):
    """A message without its prefix, at the time of its last octet; data is shorter than length where some was not captured."""

    time_ns: int
    length: int
    data: bytes


class _Piece(NamedTuple):
    """A segment by the offset of its first octet in the stream."""

    offset: int
    time_ns: int
    length: int
    data: bytes


class Stream:
    """One direction of a connection.

    Attributes:
        octets: how many are kept.
        accounted: how many of them the owner of the stream has in its sum.
        skipped: octets that belong to no message that could be told; the owner takes them over.
        gaps: how often octets were missing; likewise.
    """

    __slots__ = (
        "_at",
        "_begun_at",
        "_buffer",
        "_in_step",
        "_is_known",
        "_low",
        "_next",
        "_skip",
        "_waiting",
        "accounted",
        "gaps",
        "octets",
        "skipped",
    )

    def __init__(self) -> None:
        self.octets = self.accounted = self.skipped = self.gaps = 0
        self._begun_at: int | None = None  # sequence number of the first octet of the connection, if its SYN was seen
        self._is_known = False  # whether any octet was seen, or a SYN
        self._next = 0  # sequence number of the octet at self._at
        self._at = 0  # octets passed since the first that was seen
        self._low = 0  # offset of the earliest that was seen
        self._in_step = False  # the buffer begins with a prefix, or with what is left to skip
        self._skip = 0
        self._buffer = bytearray()
        self._waiting: list[_Piece] = []

    def feed(self, segment: Segment) -> list[StreamMessage]:
        """Takes a segment; gives the messages that end with it or with what waited for it."""
        if segment.flags & TcpFlags.SYN and segment.sequence != self._begun_at:
            self._begin(segment.sequence)
            self._begun_at, self._in_step = segment.sequence, True
        if not segment.length:
            return []
        if not self._is_known:
            self._begin(segment.sequence)
        distance = self._distance(segment.sequence)
        if abs(distance) > _JUMP_OCTETS:
            self._begin(segment.sequence)
            distance = 0
        found: list[StreamMessage] = []
        piece = _Piece(self._at + distance, segment.time_ns, segment.length, segment.data)
        if piece.offset > self._at:
            insort(self._waiting, piece)
            self._count_octets()
            while self._waits_too_much():
                self._give_up(found)
        elif piece.offset + piece.length > self._at:
            self._pass(piece, found)
            self._go_on(found)
        elif piece.offset + piece.length == self._low and self._begun_at is None:
            # The first two segments that were seen came in the other order, and the one before is complete in itself.
            self._low = piece.offset
            found = Stream().feed(segment)
        return found

    def advance(self, now_ns: int) -> list[StreamMessage]:
        """Gives up on gaps that are older than GAP_NS; gives the messages behind them."""
        found: list[StreamMessage] = []
        while self._waiting and min(piece.time_ns for piece in self._waiting) <= now_ns - GAP_NS:
            self._give_up(found)
        return found

    def _begin(self, sequence: int) -> None:
        self.skipped += self.octets
        self._begun_at = None
        self._is_known, self._next = True, sequence
        self._at = self._low = self._skip = self.octets = 0
        self._in_step = False
        self._buffer.clear()
        self._waiting.clear()

    def _distance(self, sequence: int) -> int:
        """How far a sequence number lies behind the next one expected; negative: before (RFC 9293, section 3.4)."""
        return (sequence - self._next + 0x80000000 & 0xFFFFFFFF) - 0x80000000

    def _waits_too_much(self) -> bool:
        waiting = len(self._waiting)
        return waiting > _WAITING_SEGMENTS_MAX or (
            waiting > 0 and self.octets - len(self._buffer) > _WAITING_OCTETS_MAX
        )

    def _give_up(self, found: list[StreamMessage]) -> None:
        first = self._waiting[0]
        self._miss(first.offset - self._at, first.time_ns, found)
        self._go_on(found)

    def _go_on(self, found: list[StreamMessage]) -> None:
        """Passes what waited for the octets before."""
        done = 0
        for piece in self._waiting:
            if piece.offset > self._at:
                break
            done += 1
            if piece.offset + piece.length > self._at:
                self._pass(piece, found)
        del self._waiting[:done]
        self._count_octets()

    def _count_octets(self) -> None:
        self.octets = len(self._buffer) + sum([len(piece.data) for piece in self._waiting])

    def _pass(self, piece: _Piece, found: list[StreamMessage]) -> None:
        """Takes the octets of a piece that are new: those captured, and that others were not."""
        known = self._at - piece.offset
        data = piece.data[known:]
        self._step(len(data))
        self._buffer += data
        self._read(piece.time_ns, found)
        missing = piece.length - max(known, len(piece.data))
        if missing > 0:
            self._miss(missing, piece.time_ns, found)

    def _step(self, octets: int) -> None:
        self._at += octets
        self._next = self._next + octets & 0xFFFFFFFF

    def _miss(self, octets: int, time_ns: int, found: list[StreamMessage]) -> None:
        """Passes over octets that were not captured: the prefix tells how many of them are the rest of a message."""
        self.gaps += 1
        self._step(octets)
        buffer = self._buffer
        if self._in_step and not self._skip and len(buffer) >= _PREFIX_OCTETS:
            length = int.from_bytes(buffer[:_PREFIX_OCTETS], "big")
            data = bytes(buffer[_PREFIX_OCTETS:])
            self._skip = length - len(data)
            if len(data) >= HEADER_OCTETS:
                found.append(StreamMessage(time_ns, length, data))
            else:
                self.skipped += len(buffer)
        else:
            self.skipped += len(buffer)
        buffer.clear()
        self._in_step = 0 < octets <= self._skip
        self._skip = self._skip - octets if self._in_step else 0

    def _read(self, time_ns: int, found: list[StreamMessage]) -> None:
        """Takes whole messages out of the buffer."""
        if not self._in_step and not self._find_step():
            return
        buffer = self._buffer
        begin = min(self._skip, len(buffer))
        self._skip -= begin
        while len(buffer) - begin >= _PREFIX_OCTETS:
            length = int.from_bytes(buffer[begin : begin + _PREFIX_OCTETS], "big")
            if length < HEADER_OCTETS:
                self._in_step = False
                self.skipped += len(buffer) - begin
                begin = len(buffer)
                break
            end = begin + _PREFIX_OCTETS + length
            if end > len(buffer):
                break
            found.append(StreamMessage(time_ns, length, bytes(buffer[begin + _PREFIX_OCTETS : end])))
            begin = end
        del buffer[:begin]

    def _find_step(self) -> bool:
        """Whether the buffer, the begin of a segment, begins with a message; dropped if not, kept while that is open."""
        octets = bytes(self._buffer[:_PREFIX_OCTETS])
        if len(octets) < _PREFIX_OCTETS:
            return False
        length = int.from_bytes(octets, "big")
        end = _PREFIX_OCTETS + length
        made = decode(bytes(self._buffer[_PREFIX_OCTETS:end]), length)
        if isinstance(made, Message):
            # One without a question has little to tell it by but that it ends where the segment does.
            likely = made.question_count == 1 or len(self._buffer) == end
            self._in_step = likely and made.fault is None
        elif len(self._buffer) < end and self._may_be_header(length):
            return False
        if not self._in_step:
            self.skipped += len(self._buffer)
            self._buffer.clear()
        return self._in_step

    def _may_be_header(self, length: int) -> bool:
        """Whether a message of this length with one question may begin with what there is of it."""
        if length < HEADER_OCTETS:
            return False
        header = self._buffer[_PREFIX_OCTETS : _PREFIX_OCTETS + HEADER_OCTETS]
        if len(header) < HEADER_OCTETS:
            return True
        questions, *records = (int.from_bytes(header[at : at + 2], "big") for at in range(4, HEADER_OCTETS, 2))
        return questions == 1 and len(self._buffer) <= _QUESTION_ENDS and HEADER_OCTETS + 11 * sum(records) < length

"""Messages of DNS over TCP out of segments: RFC 1035, section 4.2.2; RFC 7766.

Each direction of a connection is a stream of messages, each behind its length in two octets; the first segment that is seen
may be in the middle. What is kept is bounded: one message, and what waits behind a gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from otel_netmon.analysis.tcp_stream import FIN, RST, SYN, Piece, Segment, TcpStream, Waiting
from otel_netmon.decode.dns import HEADER_OCTETS, Message, decode

_PREFIX_OCTETS = 2
_QUESTION_ENDS = _PREFIX_OCTETS + HEADER_OCTETS + 259
_WAITING = Waiting(octets=1 << 17, segments=64)


class StreamMessage(NamedTuple):
    """A message without its prefix, at the time at which its last octet could be read; data is shorter than length where some was not captured."""

    time_ns: int
    length: int
    data: bytes


class Stream:
    """One direction of a connection.

    FIN and RST are passed over: the next connection between the same ends is told by its SYN, or by numbers that are far away.

    Attributes:
        accounted: how many octets the owner of the stream has in its sum.
        skipped: octets that belong to no message that could be told; the owner takes them over.
        gaps: how often octets were missing; likewise.
    """

    __slots__ = ("_buffer", "_in_step", "_skip", "_stream", "accounted", "gaps", "skipped")

    def __init__(self) -> None:
        self.accounted = self.skipped = self.gaps = 0
        self._stream = TcpStream(_WAITING)
        self._in_step = False  # the buffer begins with a prefix, or with what is left to skip
        self._skip = 0
        self._buffer = bytearray()

    @property
    def octets(self) -> int:
        """How many are kept."""
        return len(self._buffer) + self._stream.octets

    @property
    def waits(self) -> bool:
        """Whether octets wait behind a gap."""
        return self._stream.waits

    def feed(self, segment: Segment) -> list[StreamMessage]:
        """Takes a segment; gives the messages that end with it or with what waited for it."""
        is_first = segment.flags & SYN != 0
        if is_first:
            is_another = self._stream.is_of_another(segment.sequence)
        else:
            is_another = segment.length > 0 and self._stream.is_far(segment.sequence)
        if is_another:
            self.skipped += self.octets
            self._stream = TcpStream(_WAITING)
            self._buffer.clear()
            self._in_step, self._skip = False, 0
        if is_first and not self._stream.is_known:
            self._in_step = True
        if segment.flags & (FIN | RST):
            segment = segment._replace(flags=segment.flags & SYN)
        return self._take(self._stream.feed(segment))

    def advance(self, now_ns: int) -> list[StreamMessage]:
        """Gives up on gaps that are older than GAP_NS; gives the messages behind them."""
        return self._take(self._stream.advance(now_ns))

    def _take(self, pieces: Sequence[Piece]) -> list[StreamMessage]:
        found: list[StreamMessage] = []
        for piece in pieces:
            if piece.gap:
                self._miss(piece.gap, piece.time_ns, found)
            elif piece.is_before:
                # The first two segments that were seen came in the other order, and the one before is complete in itself.
                found += Stream().feed(Segment(piece.time_ns, 0, None, 0, len(piece.data), piece.data))
            else:
                self._buffer += piece.data
                self._read(piece.time_ns, found)
        return found

    def _miss(self, octets: int, time_ns: int, found: list[StreamMessage]) -> None:
        """Passes over octets that were not captured: the prefix tells how many of them are the rest of a message."""
        self.gaps += 1
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

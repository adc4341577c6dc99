"""One direction of a TCP connection as octets in order: RFC 9293, sections 3.4 and 3.10.

Segments may come twice, in any order, overlapping, cut or not at all, and the first one that is seen may be in the middle.
What comes out is in order and never twice; what is missing is said. What is kept is bounded: what waits behind a gap.
"""

from __future__ import annotations

from bisect import insort
from typing import Literal, NamedTuple

from otel_netmon.abi.enums import TcpFlags

GAP_NS = 2_000_000_000
"""How long what lies behind a gap waits: the first retransmission comes within a second (RFC 6298, section 2.1)."""

FIN, SYN, RST, ACK = int(TcpFlags.FIN), int(TcpFlags.SYN), int(TcpFlags.RST), int(TcpFlags.ACK)

_JUMP_OCTETS = 1 << 24
"""Two sequence numbers farther apart are not of one connection: few windows are that large."""

_LATE_SYN_OCTETS = 1 << 16
"""A SYN that is seen behind this much of the data it announces is still of the same connection."""

EndKind = Literal["", "fin", "reset"]


class Waiting(NamedTuple):
    """How much of a stream may wait behind a gap: octets, and segments."""

    octets: int = 1 << 20
    segments: int = 1024


_WAITING = Waiting()


class Segment(NamedTuple):
    """What a record of kind STREAM says: data are the octets captured of `length`, the first at `sequence`.

    Attributes:
        sequence: of the first octet of payload; of a SYN its own number + 1.
        acknowledgment: the next octet that the sender expects of the other side; None without the flag ACK.
        first: the sequence number of the first octet of the connection, if the kernel has seen the sender's SYN; a SYN tells
            it itself.
        opens: whether the sender opened the connection; None where that is not known.
    """

    time_ns: int
    sequence: int
    acknowledgment: int | None
    flags: int
    length: int
    data: bytes
    first: int | None = None
    opens: bool | None = None


class Piece(NamedTuple):
    """What comes next in a stream: octets, or that some are missing, or its end.

    Attributes:
        time_ns: when the octets could be read: those that came before what precedes them waited.
        gap: so many octets were never seen; data is empty then.
        is_before: the octets precede all that was given so far: a stream joined in the middle of two segments that came
            in the other order.
    """

    time_ns: int
    data: bytes = b""
    gap: int = 0
    end: EndKind = ""
    is_before: bool = False


class _Held(NamedTuple):
    """A segment by the offset of its first octet in the stream."""

    offset: int
    time_ns: int
    length: int
    data: bytes


class TcpStream:
    """One direction of one connection.

    Args:
        waiting: how much may wait; beyond it the oldest gap is given up.

    Attributes:
        octets: how many wait behind a gap.
        is_known: whether it is known which octet comes next.
        has_ended: whether its end was given; nothing follows.
    """

    __slots__ = (
        "_at",
        "_fin",
        "_first",
        "_is_joined",
        "_jumped_to",
        "_limits",
        "_low",
        "_next",
        "_time_ns",
        "_waiting",
        "has_ended",
        "is_known",
        "octets",
    )

    def __init__(self, waiting: Waiting = _WAITING) -> None:
        self._limits = waiting
        self.octets = 0
        self.is_known = self.has_ended = False
        self._first: int | None = None  # sequence number of the first octet of the connection
        self._is_joined = False
        self._next = 0  # sequence number of the octet at self._at
        self._at = 0  # octets passed since the first that was seen
        self._low = 0  # offset of the earliest that was given
        self._fin: _Held | None = None
        self._time_ns = 0
        self._jumped_to: int | None = None
        self._waiting: list[_Held] = []

    @property
    def has_begun(self) -> bool:
        """Whether the first octet given is the first of the connection, if none is missing."""
        return self._first is not None and not self._is_joined

    @property
    def waits(self) -> bool:
        """Whether octets or the end wait behind a gap."""
        return bool(self._waiting) or (self._fin is not None and not self.has_ended)

    def is_of_another(self, first: int) -> bool:
        """Whether a connection that begins with this number is another one than what was seen so far."""
        if self._first is not None:
            return first != self._first
        before = self._next - self._at + self._low - first & 0xFFFFFFFF
        return self.is_known and before > _LATE_SYN_OCTETS

    def is_far(self, sequence: int) -> bool:
        """Whether a number is so far from the one expected that it is not of this connection."""
        return self.is_known and abs(self._distance(sequence)) > _JUMP_OCTETS

    def jumps(self, segment: Segment) -> bool:
        """Whether a segment goes on where the one before it was, far from all that is expected."""
        if not self.is_far(segment.sequence):
            self._jumped_to = None
            return False
        if segment.flags & RST or not segment.length:
            return False
        goes_on = self._jumped_to == segment.sequence
        self._jumped_to = segment.sequence + segment.length & 0xFFFFFFFF
        return goes_on

    def begin(self, first: int) -> None:
        """Takes the number of the first octet, as a SYN or the acknowledgment of one tells it."""
        self._first = first
        if not self._is_joined:
            self.expect(first)

    def expect(self, sequence: int) -> None:
        """Takes the number of the next octet, as the other side acknowledges, where nothing was seen yet."""
        if not self.is_known:
            self.is_known, self._next = True, sequence

    def skip(self) -> None:
        """Forgets what waits; what is seen next is taken as of one that is joined in the middle."""
        self._waiting.clear()
        self._fin, self.octets = None, 0
        self.is_known, self._is_joined = False, True

    def feed(self, segment: Segment) -> list[Piece]:
        """Takes a segment of this connection; gives what comes next with it, in order."""
        time_ns, sequence, _, flags, length, data, first, _ = segment
        if self._first is None:
            if flags & SYN:
                self.begin(sequence)
            elif first is not None and sequence - first & 0xFFFFFFFF <= _JUMP_OCTETS:
                self.begin(first)
        if self.has_ended:
            return []
        if flags & RST:
            return self._reset(segment)
        if not length and not flags & FIN:
            return []
        if not self.is_known:
            self.is_known, self._next = True, sequence
        distance = (sequence - self._next + 0x80000000 & 0xFFFFFFFF) - 0x80000000
        if not distance and not self.waits and not flags & FIN and len(data) == length:
            self._at += length
            self._next = sequence + length & 0xFFFFFFFF
            self._time_ns = max(time_ns, self._time_ns)
            return [Piece(self._time_ns, data)]
        if abs(distance) > _JUMP_OCTETS:
            return []
        piece = _Held(self._at + distance, time_ns, length, data)
        if flags & FIN and self._fin is None and piece.offset + length >= self._at:
            self._fin = _Held(piece.offset + length, time_ns, 0, b"")
        if not length:
            return self._go_on([])
        if piece.offset <= self._at:
            return self._take(piece)
        if self._fin is None or piece.offset < self._fin.offset:
            insort(self._waiting, piece)
            self.octets += len(data)
        found: list[Piece] = []
        while self.octets > self._limits.octets or len(self._waiting) > self._limits.segments:
            self._give_up(self._waiting[0], found)
        return found

    def acknowledged(self, sequence: int) -> list[Piece]:
        """Takes what the other side has: a gap before it will not be filled any more. Gives what lies behind it."""
        found: list[Piece] = []
        if self.waits:
            acknowledged = self._at + self._distance(sequence)
            while (
                first := self._next_waiting()
            ) is not None and first.offset <= acknowledged <= self._at + _JUMP_OCTETS:
                self._give_up(first, found)
        return found

    def advance(self, now_ns: int, gap_ns: int = GAP_NS) -> list[Piece]:
        """Gives up on gaps that are older than this; gives what lies behind them."""
        found: list[Piece] = []
        while (first := self._next_waiting()) is not None and first.time_ns <= now_ns - gap_ns:
            self._give_up(first, found)
        return found

    def finish(self) -> list[Piece]:
        """Gives what lies behind gaps: nothing more comes."""
        found: list[Piece] = []
        while (first := self._next_waiting()) is not None:
            self._give_up(first, found)
        return found

    def _distance(self, sequence: int) -> int:
        """How far a sequence number lies behind the next one expected; negative: before (RFC 9293, section 3.4)."""
        return (sequence - self._next + 0x80000000 & 0xFFFFFFFF) - 0x80000000

    def _take(self, piece: _Held) -> list[Piece]:
        """Takes a segment that begins where the stream is, or before."""
        end = piece.offset + piece.length
        if end > self._at:
            return self._go_on(self._pass(piece, []))
        if end == self._low and self._first is None and len(piece.data) == piece.length > 1:  # 1: a keep-alive
            self._low = piece.offset
            return self._go_on([Piece(piece.time_ns, piece.data, is_before=True)])
        return self._go_on([])

    def _next_waiting(self) -> _Held | None:
        if self._waiting:
            return self._waiting[0]
        return None if self.has_ended else self._fin

    def _give_up(self, first: _Held, found: list[Piece]) -> None:
        self._miss(first.offset - self._at, first.time_ns, found)
        self._go_on(found)

    def _go_on(self, found: list[Piece]) -> list[Piece]:
        """Passes what waited for the octets before."""
        waiting = self._waiting
        if waiting and waiting[0].offset <= self._at:
            done = 0
            for piece in waiting:
                if piece.offset > self._at:
                    break
                done += 1
                if piece.offset + piece.length > self._at:
                    self._pass(piece, found)
            del waiting[:done]
            self.octets = sum([len(piece.data) for piece in waiting])
        fin = self._fin
        if fin is not None and fin.offset <= self._at and not self.has_ended:
            self._end(fin.time_ns, "fin", found)
        return found

    def _pass(self, piece: _Held, found: list[Piece]) -> list[Piece]:
        """Takes the octets of a piece that are new: those captured, and that others were not."""
        known = self._at - piece.offset
        data = piece.data[known:]
        length = piece.length
        if self._fin is not None and piece.offset + length > self._fin.offset:  # no receiver takes what follows a FIN
            length = self._fin.offset - piece.offset
            data = piece.data[known:length]
        if data:
            self._step(len(data))
            self._time_ns = max(piece.time_ns, self._time_ns)
            found.append(Piece(self._time_ns, data))
        self._miss(length - max(known, len(piece.data)), piece.time_ns, found)
        return found

    def _miss(self, octets: int, time_ns: int, found: list[Piece]) -> None:
        if octets > 0:
            self._step(octets)
            self._time_ns = max(time_ns, self._time_ns)
            found.append(Piece(self._time_ns, gap=octets))

    def _step(self, octets: int) -> None:
        self._at += octets
        self._next = self._next + octets & 0xFFFFFFFF

    def _reset(self, segment: Segment) -> list[Piece]:
        """A reset is no data, whatever it carries (RFC 9293, section 3.10.7.3): what waits was sent before it."""
        # With ACK and number 0 it answers a SYN; any other has to be near what is expected.
        if segment.sequence and self.is_far(segment.sequence):
            return []
        found = self.finish()
        if not self.has_ended:
            self._end(segment.time_ns, "reset", found)
        return found

    def _end(self, time_ns: int, kind: EndKind, found: list[Piece]) -> None:
        self.has_ended = True
        self._waiting.clear()
        self.octets = 0
        self._time_ns = max(time_ns, self._time_ns)
        found.append(Piece(self._time_ns, end=kind))

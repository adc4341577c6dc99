"""Both directions of one TCP connection: put in order, its protocol recognised by content, given to its follower."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from otel_netmon.analysis.dns_lookups import Seen
from otel_netmon.analysis.tcp_followers import ConnectionInfo, Follower, Recogniser
from otel_netmon.analysis.tcp_recognition import Recognised, Recognition
from otel_netmon.analysis.tcp_stream import ACK, SYN, Piece, Segment, TcpStream


class Connection:
    """One connection; way 0 is the direction of its first packet.

    Args:
        seen: its first packet.
        recognisers: asked in this order.
        look_segments: how many segments of each direction are looked at; then a direction is nobody's.

    Attributes:
        accounted: how many octets the owner has in its sum.
        last_ns: the last packet.
    """

    __slots__ = (
        "_answer",
        "_client",
        "_first",
        "_follower",
        "_is_inside",
        "_look_segments",
        "_recognisers",
        "_recognition",
        "_start_ns",
        "_streams",
        "accounted",
        "last_ns",
        "records",
    )

    def __init__(self, seen: Seen, time_ns: int, recognisers: Sequence[Recogniser], look_segments: int) -> None:
        self.accounted = 0
        self.last_ns = self._start_ns = time_ns
        self.records: list[Any] = []
        self._first = seen
        self._answer: Seen | None = None  # the first packet of the other direction
        self._client: int | None = None  # the way of the client, as far as it is known
        self._streams = [TcpStream(), TcpStream()]
        self._recognisers = recognisers
        self._look_segments = look_segments
        self._recognition: Recognition | None = Recognition(recognisers, look_segments)
        self._follower: Follower | None = None
        self._is_inside = False  # whether another protocol opened it and has handed it over

    @property
    def is_over(self) -> bool:
        """Whether nothing of it matters any more, unless another one begins between the same ends."""
        return self._recognition is None and self._follower is None

    @property
    def octets(self) -> int:
        """How many octets are kept."""
        kept = self._streams[0].octets + self._streams[1].octets
        if self._recognition is not None:
            kept += self._recognition.octets
        return kept if self._follower is None else kept + self._follower.octets

    @property
    def waits(self) -> bool:
        """Whether anything waits behind a gap."""
        return self._streams[0].waits or self._streams[1].waits

    def wants(self, seen: Seen) -> bool:
        """Whether anything of the direction of a packet matters."""
        recognition = self._recognition
        return self._follower is not None or (recognition is not None and not recognition.is_over[self._way(seen)])

    def is_replaced_by(self, seen: Seen, segment: Segment) -> bool:
        """Whether a segment is of another connection between the same ends."""
        way = self._way(seen)
        stream = self._streams[way]
        first = segment.sequence if segment.flags & SYN else segment.first
        if first is None or not stream.is_of_another(first):
            return not self.is_over and stream.jumps(segment)
        if segment.flags & SYN and segment.acknowledgment is not None:
            # The answer to the SYN that is known: only the number of this side is another than it was.
            other = self._streams[1 - way]
            if other.has_begun and not other.is_of_another(segment.acknowledgment):
                self._streams[way] = TcpStream()
                return False
        return True

    def feed(self, seen: Seen, segment: Segment) -> None:
        """Takes a segment of this connection; what is finished by it is in ``records``."""
        self.last_ns = max(self.last_ns, segment.time_ns)
        way = self._way(seen)
        if way and self._answer is None:
            self._answer = seen
        if self._client is None:
            if segment.flags & SYN:
                self._client = 1 - way if segment.flags & ACK else way
            elif segment.opens is not None:
                self._client = way if segment.opens else 1 - way
        if self.is_over:
            return
        if segment.acknowledgment is not None:
            self._acknowledge(1 - way, segment.acknowledgment, segment.flags & SYN != 0)
        self._deliver(way, self._streams[way].feed(segment))
        if self._streams[0].has_ended and self._streams[1].has_ended:
            self.finish()

    def advance(self, now_ns: int, gap_ns: int) -> None:
        """Gives up on gaps that are older than this."""
        for way, stream in enumerate(self._streams):
            if stream.waits:
                self._deliver(way, stream.advance(now_ns, gap_ns))

    def tell_late(self, now_ns: int) -> None:
        """Has what waits for too long told."""
        if self._follower is not None:
            self._follower.advance(now_ns)
            if self._follower.records:
                self.records += self._follower.records
                self._follower.records.clear()

    def close(self, time_ns: int) -> None:
        """Takes that both sides have ended it, and nothing that is missing will come."""
        for way, stream in enumerate(self._streams):
            self._deliver(way, [*stream.finish(), Piece(time_ns, end="fin")])

    def finish(self) -> None:
        """Ends it: nothing more comes."""
        for way, stream in enumerate(self._streams):
            self._deliver(way, stream.finish())
        if self._follower is not None:
            self._follower.finish(self.last_ns)
            self.records += self._follower.records
        self._follower = self._recognition = None

    def _way(self, seen: Seen) -> int:
        return int(seen.source != self._first.source)

    def _acknowledge(self, way: int, sequence: int, of_syn: bool) -> None:
        stream = self._streams[way]
        if stream.is_known:
            self._deliver(way, stream.acknowledged(sequence))
        elif of_syn:
            stream.begin(sequence)
        else:
            stream.expect(sequence)

    def _deliver(self, way: int, pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            if self._follower is not None:
                self._follow(self._follower, way == self._client, piece)
            elif self._recognition is not None:
                self._look(self._recognition, way, piece)

    def _follow(self, follower: Follower, from_client: bool, piece: Piece) -> None:
        if piece.is_before:
            return
        if piece.data:
            follower.data(from_client, piece.data, piece.time_ns)
        elif piece.gap:
            follower.gap(from_client, piece.gap, piece.time_ns)
        else:
            follower.end(from_client, piece.time_ns, piece.end == "reset")
        if follower.records:
            self.records += follower.records
            follower.records.clear()
        if follower.successor is not None:
            self._hand_over(follower)
        elif follower.done:
            self._follower = None

    def _hand_over(self, follower: Follower) -> None:
        """Gives what a follower left to its successor."""
        successor = follower.successor
        if isinstance(successor, Follower):
            self._follower = successor
        else:
            self._follower, self._recognition = None, Recognition(self._recognisers, self._look_segments)
            self._is_inside = True
        for from_client, data, time_ns in follower.rest:
            self._deliver(int(from_client == (self._client == 1)), [Piece(time_ns, data)])

    def _look(self, recognition: Recognition, way: int, piece: Piece) -> None:
        recognised = recognition.take(way, piece, self._streams[way].has_begun)
        if recognised is not None:
            self._begin(recognised)
        elif recognition.is_over[way]:
            self._streams[way].skip()
            if recognition.is_over[1 - way]:
                self._recognition = None

    def _begin(self, recognised: Recognised) -> None:
        """Gives the follower of a protocol all of it."""
        recogniser, way, is_first, before, events = recognised
        roles_known = self._client is not None or recogniser.speaks != "either"
        if recogniser.speaks != "either":
            self._client = way if recogniser.speaks == "client" else 1 - way
        elif self._client is None:
            self._client = way
        begun = is_first and self._streams[way].has_begun
        self._recognition = None
        info = self._info(self._client, roles_known, begun)
        self._follower = recogniser.make(info._replace(inside=self._is_inside or not is_first))
        if is_first and self._streams[1 - way].has_begun:
            events = before + events  # what the other side said first is of the same protocol
        for event in events:
            self._deliver(event.way, [event.piece])

    def _info(self, client: int, roles_known: bool, begun: bool) -> ConnectionInfo:
        seen = self._answer if client else self._first
        if seen is not None:
            ends, direction, ingress_ifindex = (seen.source, seen.destination), seen.direction, seen.ingress_ifindex
        else:
            seen = self._first
            ends, direction, ingress_ifindex = (seen.destination, seen.source), 1 - seen.direction, 0
        return ConnectionInfo(
            seen.namespace,
            seen.ifindex,
            *ends,
            roles_known,
            begun,
            self._start_ns,
            direction,
            ingress_ifindex,
            seen.cgroup,
        )

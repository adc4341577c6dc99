"""Both directions of one TCP connection: put in order, its protocol recognised by content, given to its follower."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from otel_netmon.analysis.dns_lookups import Seen
from otel_netmon.analysis.tcp_followers import ANEW, ConnectionInfo, Follower, Recogniser
from otel_netmon.analysis.tcp_stream import ACK, SYN, Piece, Segment, TcpStream

BEGIN_OCTETS_MAX = 1 << 14
"""At most this much is shown to a recogniser."""


class _Event(NamedTuple):
    """A piece of one of the directions, 0 or 1."""

    way: int
    piece: Piece


class _Place(NamedTuple):
    """A begin of a segment from which on some recogniser wants to see more."""

    event: int
    recognisers: tuple[Recogniser, ...]


class _Looking:
    """What was seen of a connection whose protocol is not known yet."""

    __slots__ = ("events", "looked", "octets", "over", "places")

    def __init__(self) -> None:
        self.events: list[_Event] = []
        self.places: tuple[list[_Place], list[_Place]] = [], []
        self.looked = [0, 0]
        self.over = [False, False]
        self.octets = 0


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
        "_client",
        "_follower",
        "_look_segments",
        "_looking",
        "_recognisers",
        "_seens",
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
        self._seens: list[Seen | None] = [seen, None]
        self._streams = [TcpStream(), TcpStream()]
        self._client: int | None = None  # the way of the client, as far as it is known
        self._recognisers = recognisers
        self._look_segments = look_segments
        self._looking: _Looking | None = _Looking()
        self._follower: Follower | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing of it matters any more, unless another one begins between the same ends."""
        return self._looking is None and self._follower is None

    @property
    def octets(self) -> int:
        """How many octets are kept."""
        kept = self._streams[0].octets + self._streams[1].octets
        if self._looking is not None:
            return kept + self._looking.octets
        return kept + self._follower.octets if self._follower is not None else kept

    @property
    def waits(self) -> bool:
        """Whether anything waits behind a gap."""
        return self._streams[0].waits or self._streams[1].waits

    def way(self, seen: Seen) -> int:
        """The direction of a packet."""
        first = self._seens[0]
        assert first is not None
        return int(seen.source != first.source)

    def is_replaced_by(self, seen: Seen, segment: Segment) -> bool:
        """Whether a segment is of another connection between the same ends."""
        way = self.way(seen)
        if not self._streams[way].begins_another(segment):
            return False
        if segment.flags & (SYN | ACK) == SYN | ACK and segment.acknowledgment is not None:
            # The answer to the SYN that is known: only the number of this side is another than it was.
            other = self._streams[1 - way]
            if other.has_begun and not other.begins_another(segment._replace(sequence=segment.acknowledgment)):
                self._streams[way] = TcpStream()
                return False
        return True

    def feed(self, seen: Seen, segment: Segment) -> None:
        """Takes a segment of this connection; what is finished by it is in ``records``."""
        self.last_ns = max(self.last_ns, segment.time_ns)
        way = self.way(seen)
        if self._seens[way] is None:
            self._seens[way] = seen
        acknowledgment = segment.acknowledgment
        if segment.flags & SYN and self._client is None:
            self._client = 1 - way if segment.flags & ACK else way
        if self.is_over:
            return
        if acknowledgment is not None:
            self._acknowledge(1 - way, acknowledgment, segment)
        self._deliver(way, self._streams[way].feed(segment))

    def advance(self, now_ns: int, gap_ns: int) -> None:
        """Gives up on gaps that are older than this."""
        for way, stream in enumerate(self._streams):
            if stream.waits:
                self._deliver(way, stream.advance(now_ns, gap_ns))

    def finish(self) -> None:
        """Ends it: nothing more comes."""
        for way, stream in enumerate(self._streams):
            self._deliver(way, stream.finish())
        if self._follower is not None:
            self._follower.finish(self.last_ns)
            self.records += self._follower.records
        self._follower = self._looking = None

    def _acknowledge(self, way: int, sequence: int, segment: Segment) -> None:
        stream = self._streams[way]
        if not stream.is_known:
            if segment.flags & SYN:
                stream.begin(sequence)
            else:
                stream.expect(sequence)
        elif stream.waits:
            self._deliver(way, stream.acknowledged(sequence))

    def _deliver(self, way: int, pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            if self._follower is not None:
                self._follow(way, piece)
            elif self._looking is not None:
                self._look(way, piece)

    def _follow(self, way: int, piece: Piece) -> None:
        follower = self._follower
        assert follower is not None
        from_client = way == self._client
        if piece.data:
            if piece.is_before:
                return
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
        successor, rest = follower.successor, follower.rest
        assert self._client is not None
        self._follower = successor if isinstance(successor, Follower) else None
        self._looking = _Looking() if successor is ANEW else None
        for from_client, data, time_ns in rest:
            self._deliver(self._client if from_client else 1 - self._client, [Piece(time_ns, data)])

    def _look(self, way: int, piece: Piece) -> None:
        looking = self._looking
        assert looking is not None
        if looking.over[way]:
            return
        if piece.is_before:
            self._look_before(way, piece)
        else:
            looking.events.append(_Event(way, piece))
            looking.octets += len(piece.data)
            if piece.data:
                looking.looked[way] += 1
                looking.places[way].append(_Place(len(looking.events) - 1, self._asked(way)))
                self._recognise(way)
            elif piece.gap:
                looking.places[way].clear()
        if self._looking is looking and looking.looked[way] >= self._look_segments:
            self._look_no_more(looking, way)

    def _look_before(self, way: int, piece: Piece) -> None:
        """Puts octets before all others of their direction."""
        looking = self._looking
        assert looking is not None
        events = looking.events
        first = next((index for index, event in enumerate(events) if event.way == way), len(events))
        events.insert(first, _Event(way, piece._replace(is_before=False)))
        looking.octets += len(piece.data)
        looking.looked[way] += 1
        for places in looking.places:
            places[:] = [place._replace(event=place.event + (place.event >= first)) for place in places]
        looking.places[way].insert(0, _Place(first, self._asked(way)))
        self._recognise(way)

    def _asked(self, way: int) -> tuple[Recogniser, ...]:
        begun = self._streams[way].has_begun
        return tuple([each for each in self._recognisers if not (begun and each.joined_only)])

    def _recognise(self, way: int) -> None:
        looking = self._looking
        assert looking is not None
        left: list[_Place] = []
        for place in looking.places[way]:
            octets = self._octets_from(looking, way, place.event)
            wanting: list[Recogniser] = []
            for recogniser in place.recognisers:
                begins = recogniser.begins(octets)
                if begins:
                    self._begin(looking, way, place.event, recogniser)
                    return
                if begins is None and len(octets) < BEGIN_OCTETS_MAX:
                    wanting.append(recogniser)
            if wanting:
                left.append(place._replace(recognisers=tuple(wanting)))
        looking.places[way][:] = left

    def _octets_from(self, looking: _Looking, way: int, first: int) -> bytes:
        last = looking.events[first].piece.data
        if first == len(looking.events) - 1:
            return last[:BEGIN_OCTETS_MAX]
        parts = [event.piece.data for event in looking.events[first:] if event.way == way]
        return b"".join(parts)[:BEGIN_OCTETS_MAX]

    def _look_no_more(self, looking: _Looking, way: int) -> None:
        """A direction in which too much was looked at in vain is nobody's; with both the connection is."""
        looking.over[way] = True
        kept = [event for event in looking.events if event.way != way]
        moved = {id(event): index for index, event in enumerate(kept)}
        other = looking.places[1 - way]
        other[:] = [place._replace(event=moved[id(looking.events[place.event])]) for place in other]
        looking.events = kept
        looking.places[way].clear()
        looking.octets = sum([len(event.piece.data) for event in kept])
        self._streams[way] = TcpStream()
        if looking.over[1 - way]:
            self._looking = None

    def _begin(self, looking: _Looking, way: int, first: int, recogniser: Recogniser) -> None:
        """Gives the follower of a recognised protocol all of it: from the segment where it begins."""
        roles_known = self._client is not None or recogniser.speaks != "either"
        if recogniser.speaks == "client":
            self._client = way
        elif recogniser.speaks == "server":
            self._client = 1 - way
        elif self._client is None:
            self._client = way
        events = looking.events
        is_first = all(event.way != way for event in events[:first])
        if is_first and self._streams[1 - way].has_begun:
            first = 0  # what the other side said before is of the same protocol
        self._looking = None
        self._follower = recogniser.make(self._info(roles_known, is_first and self._streams[way].has_begun))
        for event in events[first:]:
            self._deliver(event.way, [event.piece])

    def _info(self, roles_known: bool, begun: bool) -> ConnectionInfo:
        assert self._client is not None
        seen = self._seens[self._client]
        if seen is not None:
            client, server = seen.source, seen.destination
            direction, ingress_ifindex = seen.direction, seen.ingress_ifindex
        else:
            seen = self._seens[1 - self._client]
            assert seen is not None
            client, server = seen.destination, seen.source
            direction, ingress_ifindex = 1 - seen.direction, 0
        return ConnectionInfo(
            seen.namespace,
            seen.ifindex,
            client,
            server,
            roles_known,
            begun,
            self._start_ns,
            direction,
            ingress_ifindex,
            seen.cgroup,
        )

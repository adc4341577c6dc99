"""What protocol a TCP connection speaks, by what is said in it first and on whatever port."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from otel_netmon.analysis.tcp_followers import Recogniser
from otel_netmon.analysis.tcp_stream import Piece

BEGIN_OCTETS_MAX = 1 << 14
"""At most this much is shown to a recogniser."""


class Event(NamedTuple):
    """A piece of one of the directions, 0 or 1."""

    way: int
    piece: Piece


class Recognised(NamedTuple):
    """A protocol that begins with an event; the events before it are of another, or of a connection joined in the middle.

    Attributes:
        way: the direction that told it.
        is_first: whether nothing was said in that direction before.
        before, events: in order.
    """

    recogniser: Recogniser
    way: int
    is_first: bool
    before: list[Event]
    events: list[Event]


class _Place(NamedTuple):
    """A begin of a segment from which on some recogniser wants to see more."""

    event: Event
    octets: bytearray
    recognisers: list[Recogniser]


class Recognition:
    """Looks at the first segments of both directions: each may be where a protocol begins.

    So TLS is found behind whatever negotiates it in clear, and what was joined in the middle at the next message.

    Args:
        recognisers: asked in this order.
        segments_max: how many segments of each direction are looked at; then the direction is nobody's.

    Attributes:
        octets: how many are kept.
        is_over: whether all was looked at in vain, by direction.
    """

    __slots__ = ("_events", "_looked", "_places", "_recognisers", "_segments_max", "is_over", "octets")

    def __init__(self, recognisers: Sequence[Recogniser], segments_max: int) -> None:
        self.octets = 0
        self.is_over = [False, False]
        self._recognisers = recognisers
        self._segments_max = segments_max
        self._events: list[Event] = []
        self._looked = [0, 0]
        self._places: tuple[list[_Place], list[_Place]] = [], []

    def take(self, way: int, piece: Piece, has_begun: bool) -> Recognised | None:
        """Takes what comes next; gives the protocol, if this tells it.

        Args:
            has_begun: whether the first octets of this direction were seen.
        """
        if self.is_over[way]:
            return None
        event = Event(way, piece)
        places = self._places[way]
        if piece.is_before:
            event = Event(way, piece._replace(is_before=False))
            octets = b"".join([piece.data, *(each.piece.data for each in self._events if each.way == way)])
            at = next((at for at, each in enumerate(self._events) if each.way == way), len(self._events))
            self._events.insert(at, event)
            places.insert(0, self._place(event, octets, has_begun))
        else:
            self._events.append(event)
            for place in places:
                place.octets.extend(piece.data[: BEGIN_OCTETS_MAX - len(place.octets)])
            if piece.data:
                places.append(self._place(event, piece.data, has_begun))
            elif piece.gap:
                places.clear()
        if not piece.data:
            return None
        self.octets += len(piece.data)
        self._looked[way] += 1
        recognised = self._recognise(way)
        if recognised is None and self._looked[way] >= self._segments_max:
            self._give_up(way)
        return recognised

    def _place(self, event: Event, octets: bytes, has_begun: bool) -> _Place:
        asked = [each for each in self._recognisers if not (has_begun and each.joined_only)]
        return _Place(event, bytearray(octets[:BEGIN_OCTETS_MAX]), asked)

    def _recognise(self, way: int) -> Recognised | None:
        for place in self._places[way]:
            octets = bytes(place.octets)
            wanting = []
            for recogniser in place.recognisers:
                begins = recogniser.begins(octets)
                if begins:
                    return self._found(recogniser, place.event)
                if begins is None and len(octets) < BEGIN_OCTETS_MAX:
                    wanting.append(recogniser)
            place.recognisers[:] = wanting
        self._places[way][:] = [place for place in self._places[way] if place.recognisers]
        return None

    def _found(self, recogniser: Recogniser, event: Event) -> Recognised:
        at = next(at for at, each in enumerate(self._events) if each is event)
        before = self._events[:at]
        is_first = all(each.way != event.way for each in before)
        return Recognised(recogniser, event.way, is_first, before, self._events[at:])

    def _give_up(self, way: int) -> None:
        self.is_over[way] = True
        self._places[way].clear()
        self._events = [each for each in self._events if each.way != way]
        self.octets = sum([len(each.piece.data) for each in self._events])

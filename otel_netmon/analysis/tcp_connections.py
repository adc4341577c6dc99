"""All TCP connections that are followed, bounded in number and octets."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from otel_netmon.analysis.dns_lookups import Seen
from otel_netmon.analysis.tcp_connection import Connection
from otel_netmon.analysis.tcp_followers import ANEW, ConnectionInfo, Follower, Recogniser
from otel_netmon.analysis.tcp_stream import GAP_NS, SYN, Segment

__all__ = ["ANEW", "ConnectionInfo", "Connections", "Follower", "Recogniser"]

IDLE_NS = 300_000_000_000
"""A connection that was silent for so long is forgotten; if it goes on, it is one seen from the middle."""

LATE_EVERY_NS = 2_000_000_000
"""How often connections are asked for what waits for too long."""

LOOK_SEGMENTS = 16

_Key = tuple[int, int, bytes, bytes]


def _nothing(_: Seen) -> None:
    """Where nobody asks for what is unwanted."""


class Connections:
    """The connections that may be of a protocol that is followed.

    Args:
        recognisers: asked in this order.
        connections_max: how many are kept; the one that was silent for longest goes first.
        octets_max: how many octets they keep; the connections that keep any go in the same order.
        look_segments: how many segments of each direction are looked at until its protocol is known.
        idle_ns: silence after which one is forgotten.
        gap_ns: how long what lies behind a gap waits, where no acknowledgment tells that it is in vain.
        unwanted: called with a packet of a direction of which nothing matters any more.
        keeps_over: whether one of which nothing matters any more stays known until it is silent, so that what still comes of it
            is not taken for another. Live the kernel tells nothing more of it.

    Attributes:
        counts: ``connections``, ``evicted_connections`` (ended early, for a place or for octets).
    """

    def __init__(
        self,
        recognisers: Sequence[Recogniser],
        connections_max: int = 65536,
        octets_max: int = 32 << 20,
        look_segments: int = LOOK_SEGMENTS,
        idle_ns: int = IDLE_NS,
        gap_ns: int = GAP_NS,
        unwanted: Callable[[Seen], object] = _nothing,
        keeps_over: bool = True,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._recognisers = tuple(recognisers)
        self._connections_max = connections_max
        self._octets_max = octets_max
        self._look_segments = look_segments
        self._idle_ns = idle_ns
        self._gap_ns = gap_ns
        self._unwanted = unwanted
        self._keeps_over = keeps_over
        self._octets = 0
        self._connections: OrderedDict[_Key, Connection] = OrderedDict()
        self._waiting: set[_Key] = set()  # those in which something waits behind a gap
        self._asked_ns = 0  # when for what is late

    def __len__(self) -> int:
        return len(self._connections)

    @property
    def octets(self) -> int:
        """How many octets are kept."""
        return self._octets

    def follows(self, namespace: int, ifindex: int, one: bytes, other: bytes) -> bool:
        """Whether a connection between two ends is known."""
        return (namespace, ifindex, *((one, other) if one < other else (other, one))) in self._connections

    def feed(self, seen: Seen, segment: Segment) -> list[Any]:
        """Takes a segment; gives the records that it finishes."""
        # Not the direction: what an interface gives back to itself (lo) is the same segment again.
        source, destination = seen.source, seen.destination
        ends = (source, destination) if source < destination else (destination, source)
        key = seen.namespace, seen.ifindex, *ends
        records: list[Any] = []
        connection = self._connections.get(key)
        if connection is not None and connection.is_replaced_by(seen, segment):
            self._end(key, records)
            connection = None
        if connection is None:
            if not segment.length and not segment.flags & SYN:
                return records
            self.counts["connections"] += 1
            connection = Connection(seen, segment.time_ns, self._recognisers, self._look_segments)
            self._connections[key] = connection
            if len(self._connections) > self._connections_max:
                self._evict(next(iter(self._connections)), records)
        else:
            self._connections.move_to_end(key)
        connection.feed(seen, segment)
        self._take(key, connection, records)
        if not connection.wants(seen):
            self._unwanted(seen)
        if not self._keeps_over and connection.is_over:
            self._end(key, records)
        while self._octets > self._octets_max:
            self._evict(next(each for each, one in self._connections.items() if one.accounted), records)
        return records

    def close(self, namespace: int, ifindex: int, one: bytes, other: bytes, time_ns: int) -> list[Any]:
        """Takes that a connection between two ends is over in both directions; gives the records that this finishes."""
        key = namespace, ifindex, *((one, other) if one < other else (other, one))
        records: list[Any] = []
        if key in self._connections:
            self._connections[key].close(time_ns)
            self._end(key, records)
        return records

    def advance(self, now_ns: int) -> list[Any]:
        """Gives up on old gaps, on what is late, and on silent connections; gives the records that this finishes."""
        records: list[Any] = []
        for key in list(self._waiting):
            connection = self._connections[key]
            connection.advance(now_ns, self._gap_ns)
            self._take(key, connection, records)
        if now_ns - self._asked_ns >= LATE_EVERY_NS:
            self._asked_ns = now_ns
            for key, connection in self._connections.items():
                connection.tell_late(now_ns)
                if connection.records:
                    self._take(key, connection, records)
        while self._connections:
            key, connection = next(iter(self._connections.items()))
            if connection.last_ns > now_ns - self._idle_ns:
                break
            self._end(key, records)
        return records

    def finish(self) -> list[Any]:
        """Ends every connection; gives the records that this finishes."""
        records: list[Any] = []
        for key in list(self._connections):
            self._end(key, records)
        return records

    def _take(self, key: _Key, connection: Connection, records: list[Any]) -> None:
        if connection.records:
            records += connection.records
            connection.records.clear()
        if connection.waits:
            self._waiting.add(key)
        else:
            self._waiting.discard(key)
        octets = connection.octets
        self._octets += octets - connection.accounted
        connection.accounted = octets

    def _evict(self, key: _Key, records: list[Any]) -> None:
        if not self._connections[key].is_over:
            self.counts["evicted_connections"] += 1
        self._end(key, records)

    def _end(self, key: _Key, records: list[Any]) -> None:
        connection = self._connections.pop(key)
        self._waiting.discard(key)
        connection.finish()
        records += connection.records
        self._octets -= connection.accounted

"""The streams of all DNS connections, bounded in number and octets."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from otel_netmon.abi.enums import TcpFlags
from otel_netmon.analysis.dns_stream import Segment, Stream, StreamMessage

IDLE_NS = 120_000_000_000
"""A stream that was silent for so long is forgotten; if it goes on, it is picked up as one seen from the middle."""


class StreamKey(NamedTuple):
    """One direction of a connection at one interface; the ends are address and port, 18 octets in network order."""

    namespace: int
    ifindex: int
    source: bytes
    destination: bytes


class Streams:
    """The streams of all connections.

    Args:
        streams_max: how many are kept; the one that was silent for longest goes first.
        octets_max: how many octets they keep; the streams that keep any go in the same order.

    Attributes:
        counts: ``evicted_streams`` (with what they kept), ``skipped_octets``, ``gaps``.
    """

    def __init__(self, streams_max: int = 4096, octets_max: int = 8 << 20) -> None:
        self.counts: Counter[str] = Counter()
        self._streams_max = streams_max
        self._octets_max = octets_max
        self._octets = 0
        self._streams: OrderedDict[StreamKey, Stream] = OrderedDict()
        self._active_ns: dict[StreamKey, int] = {}
        self._evicted: list[StreamKey] = []

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def octets(self) -> int:
        """How many octets are kept."""
        return self._octets

    def feed(self, key: StreamKey, segment: Segment) -> list[StreamMessage]:
        """Takes a segment; gives the messages that it completes."""
        stream = self._streams.get(key)
        if stream is None:
            if not segment.length and not segment.flags & TcpFlags.SYN:
                return []
            stream = self._streams[key] = Stream()
        else:
            self._streams.move_to_end(key)
        self._active_ns[key] = segment.time_ns
        found = self._account(stream, stream.feed(segment))
        if len(self._streams) > self._streams_max:
            self._evict(next(iter(self._streams)))
        while self._octets > self._octets_max:
            self._evict(next(each for each, one in self._streams.items() if one.octets))
        return found

    def advance(self, now_ns: int) -> Iterator[tuple[StreamKey, StreamMessage]]:
        """Gives up on old gaps and forgets silent streams; gives the messages behind the gaps."""
        for key, stream in list(self._streams.items()):
            if stream.octets:
                for message in self._account(stream, stream.advance(now_ns)):
                    yield key, message
            if self._active_ns[key] <= now_ns - IDLE_NS:
                self._forget(key)

    def evicted(self) -> list[StreamKey]:
        """Gives the streams evicted since the last call: of their connections no answer can be waited for any more."""
        evicted, self._evicted = self._evicted, []
        return evicted

    def _account(self, stream: Stream, found: list[StreamMessage]) -> list[StreamMessage]:
        self._octets += stream.octets - stream.accounted
        stream.accounted = stream.octets
        self.counts["skipped_octets"] += stream.skipped
        self.counts["gaps"] += stream.gaps
        stream.skipped = stream.gaps = 0
        return found

    def _evict(self, key: StreamKey) -> None:
        self._forget(key)
        self._evicted.append(key)
        self.counts["evicted_streams"] += 1

    def _forget(self, key: StreamKey) -> None:
        stream = self._streams.pop(key)
        del self._active_ns[key]
        self._octets -= stream.accounted

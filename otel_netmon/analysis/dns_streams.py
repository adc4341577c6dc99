"""The streams of all DNS connections, bounded in number and octets."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator

from otel_netmon.analysis.dns_lookups import Seen
from otel_netmon.analysis.dns_stream import Stream, StreamMessage
from otel_netmon.analysis.tcp_stream import SYN, Segment

IDLE_NS = 120_000_000_000
"""A stream that was silent for so long is forgotten; if it goes on, it is picked up as one seen from the middle."""

_Key = tuple[int, int, bytes, bytes]


class Streams:
    """The streams of all connections.

    Args:
        streams_max: how many are kept; the one that was silent for longest goes first.
        octets_max: how many octets they keep; the streams that keep any go in the same order.

    Attributes:
        counts: ``streams``, of them ``evicted_streams`` (with what they kept); ``told_octets`` of messages, ``skipped_octets``
            that belong to none that could be told; ``gaps``.
    """

    def __init__(self, streams_max: int = 4096, octets_max: int = 8 << 20) -> None:
        self.counts: Counter[str] = Counter()
        self._streams_max = streams_max
        self._octets_max = octets_max
        self._octets = 0
        self._streams: OrderedDict[_Key, Stream] = OrderedDict()
        self._last: dict[_Key, tuple[int, Seen]] = {}
        self._waiting: set[_Key] = set()  # those in which something waits behind a gap
        self._evicted: list[Seen] = []

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def octets(self) -> int:
        """How many octets are kept."""
        return self._octets

    def feed(self, seen: Seen, segment: Segment) -> list[StreamMessage]:
        """Takes a segment; gives the messages that it completes."""
        # Not the direction: what an interface gives back to itself (lo) is the same segment again.
        key = seen.namespace, seen.ifindex, seen.source, seen.destination
        stream = self._streams.get(key)
        if stream is None:
            if not segment.length and not segment.flags & SYN:
                return []
            stream = self._streams[key] = Stream()
            self.counts["streams"] += 1
        else:
            self._streams.move_to_end(key)
        self._last[key] = segment.time_ns, seen
        found = self._account(key, stream, stream.feed(segment))
        if len(self._streams) > self._streams_max:
            self._evict(next(iter(self._streams)))
        while self._octets > self._octets_max:
            self._evict(next(each for each, one in self._streams.items() if one.octets))
        return found

    def advance(self, now_ns: int) -> Iterator[tuple[Seen, StreamMessage]]:
        """Gives up on old gaps and forgets silent streams; gives the messages behind the gaps, with their last packets."""
        for key in list(self._waiting):
            stream = self._streams[key]
            for message in self._account(key, stream, stream.advance(now_ns)):
                yield self._last[key][1], message
        while self._streams:
            key = next(iter(self._streams))
            if self._last[key][0] > now_ns - IDLE_NS:
                break
            self._forget(key)

    def evicted(self) -> list[Seen]:
        """Gives the last packets of the streams evicted since the last call: no answer of theirs can be told any more."""
        evicted, self._evicted = self._evicted, []
        return evicted

    def _account(self, key: _Key, stream: Stream, found: list[StreamMessage]) -> list[StreamMessage]:
        self._octets += stream.octets - stream.accounted
        stream.accounted = stream.octets
        if stream.waits:
            self._waiting.add(key)
        else:
            self._waiting.discard(key)
        self.counts["skipped_octets"] += stream.skipped
        self.counts["gaps"] += stream.gaps
        self.counts["told_octets"] += sum([len(message.data) for message in found])
        stream.skipped = stream.gaps = 0
        return found

    def _evict(self, key: _Key) -> None:
        self._evicted.append(self._last[key][1])
        self._forget(key)
        self.counts["evicted_streams"] += 1

    def _forget(self, key: _Key) -> None:
        stream = self._streams.pop(key)
        del self._last[key]
        self._waiting.discard(key)
        self._octets -= stream.accounted

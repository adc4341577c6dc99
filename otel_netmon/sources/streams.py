"""TCP connections of which the kernel tells what they begin with: segments of the ring to records of the protocols in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from otel_netmon.analysis.dns_lookups import Seen
from otel_netmon.analysis.tcp_connections import Connections, Recogniser
from otel_netmon.analysis.tcp_messages import stream_segments
from otel_netmon.analysis.tcp_stream import Segment
from otel_netmon.readers.messages import Messages

CONNECTIONS_MAX = 16_384
OCTETS_MAX = 16 << 20


class StreamSource:
    """Puts connections in order and has their followers read them.

    Args:
        recognisers: of the protocols, asked in this order.
    """

    def __init__(self, recognisers: Sequence[Recogniser]) -> None:
        self._connections = Connections(recognisers, CONNECTIONS_MAX, OCTETS_MAX, keeps_over=False)

    def take(self, messages: Messages, now_ns: int, begun: Iterable[tuple[Seen, Segment]] = ()) -> list[Any]:
        """Takes the records of a drain; gives what the followers made of them.

        Args:
            now_ns: the clock of the records.
            begun: segments that come before the records of their connections.
        """
        feed = self._connections.feed
        found: list[Any] = []
        for seen, segment in chain(begun, stream_segments(messages)):
            found += feed(seen, segment)
        return found + self._connections.advance(now_ns)

    @property
    def evicted(self) -> int:
        """Connections that lost their place before they were over."""
        return self._connections.counts["evicted_connections"]

    def __len__(self) -> int:
        return len(self._connections)

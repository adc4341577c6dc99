"""TCP connections of which the kernel tells what they begin with: segments of the ring to records of the protocols in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from otel_netmon.abi.enums import MessageCount
from otel_netmon.analysis.dns_lookups import Seen
from otel_netmon.analysis.tcp_connections import Connections, Recogniser
from otel_netmon.analysis.tcp_messages import stream_segments
from otel_netmon.analysis.tcp_stream import Segment
from otel_netmon.analysis.tls_batches import TlsBatches
from otel_netmon.readers.messages import Messages
from otel_netmon.selfmon.status import StageStatus
from otel_netmon.sources.messages import STREAMS, MessageSource

CONNECTIONS_MAX = 16_384
OCTETS_MAX = 16 << 20

_KERNEL_LOSSES = {
    MessageCount.STREAM_LOST_ORDER: "out_of_order",
    MessageCount.STREAM_LOST_LIMIT: "limit",
    MessageCount.STREAM_LOST_COALESCED: "coalesced",
    MessageCount.STREAM_LOST_TABLE: "table_full",
    MessageCount.STREAM_LOST_EARLY: "before_connection",
    MessageCount.STREAM_LOST_NESTED: "nested",
}


def segment_stages(messages: MessageSource) -> dict[tuple[str, str], StageStatus]:
    """What became of segments and datagrams up to here; who reads datagrams knows more of the last stage."""
    counts = messages.counts
    return {
        ("kernel", STREAMS.name): StageStatus(
            delivered=messages.produced(STREAMS) + counts[MessageCount.STREAM_LOST_RING],
            dropped={reason: counts[what] for what, reason in _KERNEL_LOSSES.items()},
        ),
        ("decode", STREAMS.name): StageStatus(delivered=messages.consumed(STREAMS), dropped={}),
    }


class StreamSource:
    """Puts connections in order and has their followers read them.

    Args:
        recognisers: of the protocols, asked in this order.
        batches: tells the TLS handshakes that need no follower; None where TLS is not followed.
    """

    def __init__(self, recognisers: Sequence[Recogniser], batches: TlsBatches | None = None) -> None:
        self._batches = batches
        self._connections = Connections(recognisers, CONNECTIONS_MAX, OCTETS_MAX, keeps_over=False)
        self._earlier: Counter[str] = Counter()  # what processes before this one had counted

    def take(self, messages: Messages, now_ns: int, begun: Iterable[tuple[Seen, Segment]] = ()) -> list[Any]:
        """Takes the records of a drain; gives what the followers made of them.

        Args:
            now_ns: the clock of the records.
            begun: segments that come before the records of their connections.
        """
        feed = self._connections.feed
        found: list[Any] = []
        if self._batches is not None:
            found, messages = self._batches.take(messages, self._connections.follows, now_ns)
        for seen, segment in chain(begun, stream_segments(messages)):
            found += feed(seen, segment)
        return found + self._connections.advance(now_ns)

    def __len__(self) -> int:
        """How many connections are followed."""
        return len(self._connections)

    def stages(self) -> dict[tuple[str, str], StageStatus]:
        """What became of connections: those that lost their place before they were over are dropped."""
        counts = self._earlier + self._connections.counts
        evicted = counts["evicted_connections"]
        return {
            ("decode", "tcp_connections"): StageStatus(
                delivered=counts["connections"] - evicted, dropped={"evicted": evicted}
            )
        }

    def state(self) -> dict[str, dict[str, Any]]:
        """What another process needs to go on; of the connections that are followed it knows nothing."""
        return {"streams": dict(self._earlier + self._connections.counts)}

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Goes on where another process was, before the first drain."""
        self._earlier.update(state["streams"])

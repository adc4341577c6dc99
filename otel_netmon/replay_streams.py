"""The TLS handshakes and HTTP requests of a capture: segments to connections to what ``replay --output json`` prints."""

from __future__ import annotations

from typing import Any

from otel_netmon.analysis.dns_lookups import Seen
from otel_netmon.analysis.tcp_connections import Connections
from otel_netmon.analysis.tcp_messages import stream_segments
from otel_netmon.analysis.tcp_preambles import preamble_recognisers
from otel_netmon.readers.messages import Messages
from otel_netmon.replay_http import HttpReplay
from otel_netmon.replay_tls import TlsReplay

LOOK_SEGMENTS = 64
"""Of each direction, until its protocol is known; the kernel is told then that nothing of it is wanted."""

_GAP_NS = 60_000_000_000
_NEVER_NS = 1 << 61


class StreamsReplay:
    """What is told by its content, of one capture: every interface of it is one, and every packet counts."""

    def __init__(self) -> None:
        self.tls, self.http = TlsReplay(), HttpReplay()
        self._unwanted: dict[Seen, None] = {}
        self._connections = Connections(
            (*preamble_recognisers(), *self.tls.recognisers(), *self.http.recognisers()),
            look_segments=LOOK_SEGMENTS,
            idle_ns=_NEVER_NS,
            gap_ns=_GAP_NS,
            unwanted=self._unwanted.setdefault,
        )

    def take(self, messages: Messages, time_ns: int) -> list[Seen]:
        """Takes records of the ring; gives packets of the directions of which nothing is wanted any more.

        Args:
            time_ns: the capture's.
        """
        feed, records = self._connections.feed, []
        for seen, segment in stream_segments(messages):
            records += feed(seen, segment)
        records += self._connections.advance(time_ns)
        self._sort(records)
        unwanted = list(self._unwanted)
        self._unwanted.clear()
        return unwanted

    def finish(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Gives the handshakes and the requests, in the order of time."""
        self._sort(self._connections.finish())
        return self.tls.finish(), self.http.finish()

    def _sort(self, records: list[Any]) -> None:
        if records:
            self.tls.take(records)
            self.http.take(records)

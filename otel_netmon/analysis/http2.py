"""The requests of one HTTP/2 connection: RFC 9113, section 8; gRPC over HTTP/2, the protocol's own document.

Streams are interleaved and answered in any order. Pushed responses (RFC 9113, section 8.4) answer nothing that a client asked
and are no requests; their promises are counted.
"""

from __future__ import annotations

from collections import Counter

from otel_netmon.analysis.http2_streams import Stream
from otel_netmon.analysis.http_records import HttpRequest, Outcome
from otel_netmon.analysis.tcp_followers import ConnectionInfo, Follower, Recogniser
from otel_netmon.decode.http2 import (
    Body,
    Direction,
    Event,
    Head,
    Lost,
    Reset,
    begins_http2,
    continues_http2,
)

STREAMS_MAX = 10_000
"""Open at the same time on one connection; servers allow some hundred."""

SILENT_NS = 60_000_000_000
"""After so long without a frame a stream is over, if frames were lost that may have been its last."""


def recognisers(counts: Counter[str], timeout_ns: int | None = None) -> tuple[Recogniser, ...]:
    """Gives how HTTP/2 is recognised: by the client's preface, in the middle by the frames of either side."""

    def make(info: ConnectionInfo) -> Follower:
        return Http2Follower(info, counts, timeout_ns=timeout_ns)

    return (
        Recogniser("http2", begins_http2, make),
        Recogniser("http2", continues_http2, make, speaks="either", joined_only=True),
    )


_OWN_OCTETS = 4096
"""A connection at rest, both tables and what is known by heart with a few entries."""


class Http2Follower(Follower):
    """Follows the streams of a connection.

    Args:
        info: the connection. If its roles are not known, the first head tells them.
        counts: of all connections: those of ``decode.http2.Direction``, and ``evicted_streams`` (more than STREAMS_MAX were
            open, the oldest was given up), ``unseen_requests`` (responses to what was asked before the connection was
            joined, or in a gap), ``unexpected_heads`` (that are neither a request nor trailers of one).
        upgraded: the request of HTTP/1.1 that asked for HTTP/2, which is answered as stream 1 (RFC 7540, section 3.2).
        timeout_ns: silence after which a request that nobody has begun to answer is told; None: the end of its connection.
    """

    __slots__ = (
        "_client_side",
        "_counts",
        "_directions",
        "_first_stream",
        "_info",
        "_kept",
        "_last_stream",
        "_over",
        "_streams",
        "_timeout_ns",
    )

    def __init__(
        self,
        info: ConnectionInfo,
        counts: Counter[str],
        upgraded: HttpRequest | None = None,
        *,
        timeout_ns: int | None = None,
    ) -> None:
        super().__init__()
        self._timeout_ns = timeout_ns
        self._info = info
        self._counts = counts
        begun = info.begun or upgraded is not None
        self._directions = {side: Direction(counts, begun=begun) for side in (True, False)}
        self._client_side: bool | None = True if info.roles_known else None  # what from_client is of the client
        self._streams: dict[int, Stream] = {}
        self._first_stream = 1 if begun else 0  # of the client's; 0: none was seen
        self._last_stream = 0
        self._kept = 0  # octets in streams
        self._over = False
        if upgraded is not None:
            stream = self._streams[1] = Stream.of_upgrade(upgraded)
            self._kept = stream.octets
            self._last_stream = 1

    @property
    def done(self) -> bool:
        """Whether the server has said all that it will."""
        return self._over

    @property
    def octets(self) -> int:
        """How many octets it keeps, about."""
        return _OWN_OCTETS + self._kept + self._directions[True].octets + self._directions[False].octets

    def data(self, from_client: bool, data: bytes, time_ns: int) -> None:
        """Takes the next octets of a direction."""
        if not self._over:
            for event in self._directions[from_client].feed(data, time_ns):
                self._take(from_client, event)

    def gap(self, from_client: bool, octets: int, time_ns: int) -> None:
        """Takes that octets were never seen: within DATA that is no loss."""
        if not self._over:
            for event in self._directions[from_client].gap(octets, time_ns):
                self._take(from_client, event)

    def end(self, from_client: bool, time_ns: int, reset: bool) -> None:
        """Takes the FIN or RST of a direction: nobody answers any more after either of the server's, or a reset."""
        if reset or from_client != self._client_side:
            self._finish("reset" if reset else "no_response", time_ns)

    def advance(self, now_ns: int) -> None:
        """Tells requests that nobody has begun to answer for too long; what comes of their responses later is not counted."""
        if self._timeout_ns is not None:
            before_ns = now_ns - self._timeout_ns
            late = [each for each, one in self._streams.items() if not one.answered and one.last_ns <= before_ns]
            for identifier in late:
                self._close(identifier, "timeout", now_ns)

    def finish(self, time_ns: int) -> None:
        """Takes that nothing more comes."""
        self._finish("timeout", time_ns)

    def _finish(self, unanswered: Outcome, time_ns: int) -> None:
        if not self._over:
            for side, direction in self._directions.items():
                body = direction.partial()
                if body is not None and self._client_side is not None:
                    self._take_body(side == self._client_side, body)
            for identifier in list(self._streams):
                self._close(identifier, unanswered, time_ns)
        self._over = True

    def _take(self, side: bool, event: Event) -> None:
        if self._client_side is None:
            self._tell_roles(side, event)
        from_client = side == self._client_side
        if isinstance(event, Head):
            if from_client:
                self._take_request_head(event)
            else:
                self._take_response_head(event)
        elif isinstance(event, Body):
            self._take_body(from_client, event)
        elif isinstance(event, Reset):
            self._close(event.stream, "reset", event.time_ns, event.error_code)
        elif isinstance(event, Lost):
            for stream in self._streams.values():
                stream.lose(from_client=from_client)
        elif not from_client:
            for identifier in [each for each in self._streams if each > event.last_stream]:
                self._close(identifier, "reset", event.time_ns, event.error_code)

    def _tell_roles(self, side: bool, event: Event) -> None:
        """Takes from a head who the client is."""
        fields = event.fields if isinstance(event, Head) else None
        if fields is None or (fields.method is None) == (fields.status is None):
            return
        self._client_side = side if fields.method is not None else not side
        if not self._client_side:
            info = self._info
            self._info = info._replace(
                client=info.server, server=info.client, direction=1 - info.direction, ingress_ifindex=0
            )

    def _take_request_head(self, head: Head) -> None:
        identifier, fields = head.stream, head.fields
        stream = self._streams.get(identifier)
        if stream is None:
            if identifier <= self._last_stream or not identifier & 1 or (fields is not None and not fields.is_head):
                self._counts["unexpected_heads"] += 1
                return
            self._make_room(head.last_ns)
            stream = self._streams[identifier] = Stream(identifier, head.first_ns, head.last_ns)
            stream.take_request(fields)
            self._kept += stream.octets
            self._first_stream = self._first_stream or identifier
            self._last_stream = identifier
        else:
            stream.take_request_body(0, head.last_ns)
        self._end_request(stream, ends=head.ends_stream)

    def _take_response_head(self, head: Head) -> None:
        identifier, fields = head.stream, head.fields
        stream = self._streams.get(identifier)
        if stream is not None:
            stream.take_response(fields, head.first_ns, head.last_ns)
            self._end_response(stream, ends=head.ends_stream)
        elif identifier & 1 and not self._first_stream <= identifier <= self._last_stream and fields and fields.is_head:
            self._counts["unseen_requests"] += 1

    def _take_body(self, from_client: bool, body: Body) -> None:
        stream = self._streams.get(body.stream)
        if stream is None:
            return
        if from_client:
            stream.take_request_body(body.octets, body.last_ns)
            self._end_request(stream, ends=body.ends_stream)
        else:
            stream.take_response_body(body.octets, body.first_ns, body.last_ns)
            self._end_response(stream, ends=body.ends_stream)

    def _end_request(self, stream: Stream, *, ends: bool) -> None:
        stream.request_ended = stream.request_ended or ends
        if stream.request_ended and stream.response_ended:
            self._close(stream.identifier, "answered", stream.last_ns)

    def _end_response(self, stream: Stream, *, ends: bool) -> None:
        stream.response_ended = stream.response_ended or ends
        if stream.response_ended and (stream.request_ended or stream.lossy):
            self._close(stream.identifier, "answered", stream.last_ns)

    def _make_room(self, now_ns: int) -> None:
        """Gives up on what nobody will end, the oldest first."""
        while self._streams:
            oldest = next(iter(self._streams.values()))
            if len(self._streams) >= STREAMS_MAX:
                self._counts["evicted_streams"] += 1
            elif not oldest.lossy or oldest.last_ns > now_ns - SILENT_NS:
                break
            self._close(oldest.identifier, "timeout", now_ns)

    def _close(self, identifier: int, outcome: Outcome, time_ns: int, error_code: int | None = None) -> None:
        """Makes a record of a stream that is over; one of which a response began has not gone without one."""
        stream = self._streams.pop(identifier, None)
        if stream is not None:
            self._kept -= stream.octets
            if stream.answered and outcome in {"no_response", "timeout"}:
                outcome = "incomplete"
            self.records.append(stream.record(self._info, outcome, time_ns, error_code))

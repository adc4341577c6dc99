"""One stream of an HTTP/2 connection: a request and its response, RFC 9113, section 8.1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_netmon.analysis.http_records import HttpRequest, Outcome
from otel_netmon.analysis.tcp_followers import ConnectionInfo

if TYPE_CHECKING:
    from otel_netmon.decode.hpack_fields import Fields

_HEAD_ATTRIBUTES = ("method", "target", "host", "traceparent", "tracestate", "is_grpc")
_STREAM_OCTETS = 700


class Stream:
    """What is known of a stream so far.

    Attributes:
        request_ended, response_ended: whether all of it was seen.
        answered: whether a final response began.
        lossy: frames were lost since it began, which may have been its own.
        last_ns: the last frame of it.
    """

    __slots__ = (
        "answered",
        "grpc_status",
        "grpc_timeout_ns",
        "host",
        "identifier",
        "interim",
        "is_grpc",
        "last_ns",
        "lossy",
        "method",
        "request_ended",
        "request_first_ns",
        "request_last_ns",
        "request_octets",
        "response_ended",
        "response_first_ns",
        "response_last_ns",
        "response_octets",
        "status",
        "target",
        "traceparent",
        "tracestate",
        "unknown",
    )

    def __init__(self, identifier: int, first_ns: int, last_ns: int) -> None:
        self.identifier = identifier
        self.method: str | None = None
        self.target: str | None = None
        self.host: str | None = None
        self.traceparent: str | None = None
        self.tracestate: str | None = None
        self.is_grpc = False
        self.status: int | None = None
        self.interim: tuple[int, ...] = ()
        self.grpc_status: int | None = None
        self.grpc_timeout_ns: int | None = None
        self.request_first_ns = first_ns
        self.request_last_ns = self.last_ns = last_ns
        self.response_first_ns: int | None = None
        self.response_last_ns: int | None = None
        self.request_octets = self.response_octets = 0
        self.request_ended = self.response_ended = self.answered = self.lossy = False
        self.unknown: tuple[str, ...] = ()

    @classmethod
    def of_upgrade(cls, request: HttpRequest) -> Stream:
        """Stream 1 of a connection that an HTTP/1.1 request asked to be HTTP/2; its own response was 101."""
        stream = cls(1, request.request_first_ns, request.request_last_ns)
        stream.method, stream.target, stream.host = request.method, request.target, request.host
        stream.traceparent, stream.tracestate, stream.is_grpc = request.traceparent, request.tracestate, request.is_grpc
        stream.request_octets = request.request_body_octets
        stream.request_ended = True
        stream.interim = (101,)
        stream.unknown = request.unknown
        return stream

    @property
    def octets(self) -> int:
        """How many octets it keeps, about."""
        kept = (self.target, self.host, self.traceparent, self.tracestate)
        return _STREAM_OCTETS + sum([len(each) for each in kept if each is not None])

    def take_request(self, fields: Fields | None) -> None:
        """Takes the head of the request; None where it could not be read."""
        if fields is None:
            self.unknown = _HEAD_ATTRIBUTES
            return
        self.method, self.target, self.host = fields.method, fields.path, fields.authority or fields.host
        if self.method == "CONNECT" and self.target is None:
            self.target = fields.authority
        self.traceparent, self.tracestate, self.is_grpc = fields.traceparent, fields.tracestate, fields.is_grpc
        self.grpc_timeout_ns = fields.grpc_timeout_ns
        if fields.unknown:
            self.unknown = tuple([name for name in _HEAD_ATTRIBUTES if not getattr(self, name)])

    def take_response(self, fields: Fields | None, first_ns: int, last_ns: int) -> None:
        """Takes a head of the response, or its trailers; None where they could not be read."""
        self.last_ns = last_ns
        if fields is not None and fields.status is not None and fields.status < 200 and not self.answered:
            self.interim += (fields.status,)
            return
        begins = not self.answered
        self._answer(first_ns, last_ns)
        if begins:
            self.status = None if fields is None else fields.status
            if self.status is None:
                self._miss("status")
        if fields is None:
            self._miss("grpc_status")
        else:
            self.is_grpc = self.is_grpc or fields.is_grpc
            if fields.grpc_status is not None:
                self.grpc_status = fields.grpc_status
            elif fields.unknown and not fields.is_head:
                self._miss("grpc_status")

    def take_request_body(self, octets: int, last_ns: int) -> None:
        """Takes octets of the request's content."""
        self.request_octets += octets
        self.request_last_ns = self.last_ns = last_ns

    def take_response_body(self, octets: int, first_ns: int, last_ns: int) -> None:
        """Takes octets of the response's content."""
        if not self.answered:
            self._miss("status")  # its head was lost
        self._answer(first_ns, last_ns)
        self.response_octets += octets
        self.last_ns = last_ns

    def lose(self, *, from_client: bool) -> None:
        """Takes that frames of one side were lost, which may have been of this stream."""
        self.lossy = True
        if not (self.request_ended if from_client else self.response_ended):
            self._miss("request_body_octets" if from_client else "response_body_octets")

    def record(self, info: ConnectionInfo, outcome: Outcome, time_ns: int, error_code: int | None) -> HttpRequest:
        """Gives what is known of it at its end; a response that was seen to its end is an answer, whatever came then."""
        if self.response_ended:
            if outcome != "reset" and not self.request_ended:
                self._miss("request_body_octets")  # more of it may have come
            outcome, error_code, time_ns = "answered", None, self.last_ns
        return HttpRequest(
            "2",
            info.client,
            info.server,
            self.method,
            self.target,
            self.host,
            self.status,
            outcome,
            self.request_first_ns,
            self.request_last_ns,
            self.response_first_ns,
            self.response_last_ns,
            self.request_octets,
            self.response_octets,
            self.interim,
            self.traceparent,
            self.tracestate,
            self.identifier,
            error_code,
            self.is_grpc,
            self.grpc_status,
            self._unknown(),
            None,
            time_ns,
            self.grpc_timeout_ns,
            info,
        )

    def _answer(self, first_ns: int, last_ns: int) -> None:
        if not self.answered:
            self.answered = True
            self.response_first_ns = first_ns
        self.response_last_ns = last_ns

    def _miss(self, name: str) -> None:
        if name not in self.unknown:
            self.unknown += (name,)

    def _unknown(self) -> tuple[str, ...]:
        """What is still not known."""
        if not self.unknown:
            return ()
        known_not_grpc = not self.is_grpc and "is_grpc" not in self.unknown
        return tuple(
            [
                name
                for name in self.unknown
                if name.endswith("_octets") or not (getattr(self, name) or (name == "grpc_status" and known_not_grpc))
            ]
        )

"""What is known of an HTTP request and its response, whatever the version: RFC 9110."""

from __future__ import annotations

from typing import Literal, NamedTuple

from otel_netmon.analysis.tcp_followers import ConnectionInfo

Version = Literal["0.9", "1.0", "1.1", "2"]

Outcome = Literal["answered", "no_response", "reset", "timeout", "incomplete"]
"""The final response was seen to its end; the connection, or the stream, ended in order without one; it was reset before
the response had ended; nobody answered until the request was given up, or the capture was over; a response began and its
end was not seen."""


UNPLACED = bytes(18)
"""Address and port of an end that nobody knows: of a TLS session whose connection was not found."""


class HttpRequest(NamedTuple):
    """One request.

    A field that is None was not sent, or could not be known: then its name stands in `unknown`.

    Attributes:
        client, server: address and port, 18 octets in network order, IPv4 as v4-mapped IPv6; both UNPLACED or none.
        method: as sent, in its case (RFC 9110, section 9.1).
        target: the request target as sent (RFC 9112, section 3.2), or ``:path``; of CONNECT its authority.
        host: the Host field or ``:authority`` as sent.
        status: of the final response, or 101; None without one.
        interim: the statuses of the interim responses before it, in their order.
        request_first_ns, request_last_ns: when the first and the last octet of the request were seen, body included.
        response_first_ns, response_last_ns: likewise of the final response; None without one.
        request_body_octets, response_body_octets: of the bodies as they were sent, without their framing (chunk sizes,
            frame headers); octets that were lost count where the framing tells them.
        traceparent, tracestate: the fields of Trace Context as sent; several tracestate fields joined by commas.
        stream: HTTP/2 stream identifier, 0 in HTTP/1.
        error_code: HTTP/2 error code of the RST_STREAM or GOAWAY that ended the request.
        is_grpc: the request's Content-Type begins with ``application/grpc``.
        grpc_status: of the trailers.
        upgrade: the protocol that the connection went over to by a response 101, in lower case.
        end_ns: when its outcome was there: the last octet of either side, the reset, the end of the connection or of waiting.
        grpc_timeout_ns: how long a gRPC client waits, as it tells the server.
        connection: where it was seen; None where nobody asked.
        is_secure: it went through TLS.
        unknown: names of attributes that were sent but could not be known, because the connection was joined in the middle,
            octets were lost or a head was too long.
    """

    version: Version
    client: bytes
    server: bytes
    method: str | None
    target: str | None
    host: str | None
    status: int | None
    outcome: Outcome
    request_first_ns: int
    request_last_ns: int
    response_first_ns: int | None
    response_last_ns: int | None
    request_body_octets: int
    response_body_octets: int
    interim: tuple[int, ...] = ()
    traceparent: str | None = None
    tracestate: str | None = None
    stream: int = 0
    error_code: int | None = None
    is_grpc: bool = False
    grpc_status: int | None = None
    unknown: tuple[str, ...] = ()
    upgrade: str | None = None
    end_ns: int = 0
    grpc_timeout_ns: int | None = None
    connection: ConnectionInfo | None = None
    is_secure: bool = False

    @property
    def duration_ns(self) -> int | None:
        """From the first octet of the request to the last one of the response; None without a response."""
        return None if self.response_last_ns is None else max(0, self.response_last_ns - self.request_first_ns)

    @property
    def lasted_ns(self) -> int:
        """As duration_ns where the response was seen to its end; otherwise until the outcome was there."""
        end_ns = self.response_last_ns if self.outcome == "answered" else None
        return max(0, (self.end_ns if end_ns is None else end_ns) - self.request_first_ns)

    @property
    def is_first_of_http2(self) -> bool:
        """Whether it was asked in HTTP/1.1 and answered in HTTP/2; the record in HTTP/1.1 has the status 101."""
        return self.version == "2" and self.interim[:1] == (101,)

    @property
    def first_byte_ns(self) -> int | None:
        """From the last octet of the request to the first one of the response, 0 where that came before it."""
        return None if self.response_first_ns is None else max(0, self.response_first_ns - self.request_last_ns)

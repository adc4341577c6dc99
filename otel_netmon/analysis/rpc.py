"""What a gRPC call was, from the HTTP/2 request that carried it.

gRPC over HTTP/2 (PROTOCOL-HTTP2.md), HTTP to gRPC status code mapping, and status codes of gRPC (statuscodes.md).
"""

from __future__ import annotations

import enum
import re
from typing import NamedTuple

from otel_netmon.analysis.http_records import HttpRequest, Outcome


class GrpcStatus(enum.IntEnum):
    """Status codes that gRPC defines."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


SERVER_ERRORS = frozenset(
    (
        GrpcStatus.UNKNOWN,
        GrpcStatus.DEADLINE_EXCEEDED,
        GrpcStatus.UNIMPLEMENTED,
        GrpcStatus.INTERNAL,
        GrpcStatus.UNAVAILABLE,
        GrpcStatus.DATA_LOSS,
    )
)
"""What is an error of the server; for the client everything but OK is (semantic conventions for gRPC)."""

OTHER = "_OTHER"
METHOD_CHARACTERS_MAX = 256
_DEADLINE_SLACK = 20

_METHOD = re.compile(r"/((?:[\w.$~-]+/){1,4}[\w.$~-]+)", re.ASCII)
_CANCEL = 8
_STATUS_OF_RESET = {
    7: GrpcStatus.UNAVAILABLE,  # REFUSED_STREAM
    _CANCEL: GrpcStatus.CANCELLED,
    11: GrpcStatus.RESOURCE_EXHAUSTED,  # ENHANCE_YOUR_CALM
    12: GrpcStatus.PERMISSION_DENIED,  # INADEQUATE_SECURITY
    13: GrpcStatus.UNKNOWN,  # HTTP_1_1_REQUIRED
}
_STATUS_OF_HTTP = {
    400: GrpcStatus.INTERNAL,
    401: GrpcStatus.UNAUTHENTICATED,
    403: GrpcStatus.PERMISSION_DENIED,
    404: GrpcStatus.UNIMPLEMENTED,
    429: GrpcStatus.UNAVAILABLE,
    502: GrpcStatus.UNAVAILABLE,
    503: GrpcStatus.UNAVAILABLE,
    504: GrpcStatus.UNAVAILABLE,
}


class GrpcCall(NamedTuple):
    """A call.

    Attributes:
        method: full name, ``package.Service/Method``, as the client asked; None if it is not known, or is none.
        status: of the trailers, or the one that gRPC says a client makes of what happened instead; a number that gRPC does
            not define as it is; None if it is not known, or nothing has happened.
    """

    method: str | None
    status: int | None

    @property
    def is_recognised(self) -> bool:
        """Whether the server knows the method, as far as can be told: it did not answer that it does not."""
        return self.method is not None and self.status != GrpcStatus.UNIMPLEMENTED


def call_of(request: HttpRequest) -> GrpcCall:
    """Gives the call that a request with ``is_grpc`` was."""
    match = _METHOD.fullmatch(request.target) if request.target is not None else None
    method = match[1] if match is not None and len(match[1]) <= METHOD_CHARACTERS_MAX else None
    return GrpcCall(method, _status(request))


def status_name(status: int) -> str:
    """``OK``, ``UNAVAILABLE``, …; the number where gRPC defines none."""
    return GrpcStatus(status).name if status in _DEFINED else str(status)


def error_type(status: int | None, outcome: Outcome, *, is_server: bool) -> str | None:
    """Gives what the conventions have as error.type; None if the call did not fail, or nobody knows.

    A failure without a status is told by the outcome of its request.
    """
    if status is None:
        return None if outcome == "answered" else outcome
    if status == GrpcStatus.OK or (is_server and status in _DEFINED and status not in SERVER_ERRORS):
        return None
    return status_name(status)


_DEFINED = frozenset(int(status) for status in GrpcStatus)


def _status(request: HttpRequest) -> int | None:
    if request.grpc_status is not None:
        return request.grpc_status
    match request.outcome:
        case "answered" if request.status is not None and "grpc_status" not in request.unknown:
            return GrpcStatus.UNKNOWN if request.status == 200 else _of_http(request.status)
        case "reset" if request.error_code is not None:
            if request.error_code == _CANCEL and _is_past_deadline(request):
                return GrpcStatus.DEADLINE_EXCEEDED
            return _STATUS_OF_RESET.get(request.error_code, GrpcStatus.INTERNAL)
        case "reset" | "no_response":
            return GrpcStatus.UNAVAILABLE
    return None


def _of_http(status: int) -> GrpcStatus:
    return _STATUS_OF_HTTP.get(status, GrpcStatus.UNKNOWN)


def _is_past_deadline(request: HttpRequest) -> bool:
    """Whether the client gave up since its own time was over; its clock began a little before the request was seen."""
    timeout = request.grpc_timeout_ns
    return timeout is not None and request.end_ns - request.request_first_ns >= timeout - timeout // _DEADLINE_SLACK

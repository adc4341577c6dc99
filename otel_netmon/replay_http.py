"""The HTTP requests of a capture, as ``replay --output json`` prints them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from otel_netmon.analysis import http1, http2
from otel_netmon.analysis.http_records import HttpRequest
from otel_netmon.analysis.rpc import call_of, status_name
from otel_netmon.analysis.tcp_followers import Recogniser
from otel_netmon.enrich.addresses import address_text


class HttpReplay:
    """Requests of one capture, of every version.

    Attributes:
        counts: what went wrong, see ``Http1Follower`` and ``Http2Follower``.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._requests: list[HttpRequest] = []

    def recognisers(self) -> tuple[Recogniser, ...]:
        """How HTTP is recognised; the preface of HTTP/2 looks like a request line, so that HTTP/1 is asked behind it."""
        return *http2.recognisers(self.counts), http1.recogniser(self.counts)

    def take(self, records: Iterable[object]) -> None:
        """Takes the requests among records, in any order."""
        self._requests += [record for record in records if isinstance(record, HttpRequest)]

    def finish(self) -> list[dict[str, Any]]:
        """Gives every request in the order of their first octets; what was open has been given by then."""
        # A request that went over to HTTP/2 is told once, as it was asked.
        requests = [request for request in self._requests if not request.is_first_of_http2]
        return [_row(request) for request in sorted(requests, key=lambda each: (each.request_first_ns, each.stream))]


def _row(request: HttpRequest) -> dict[str, Any]:
    duration_ns = request.duration_ns if request.status is not None else None
    row: dict[str, Any] = {
        "version": request.version,
        "client": address_text(request.client[:16]),
        "client_port": int.from_bytes(request.client[16:], "big"),
        "server": address_text(request.server[:16]),
        "server_port": int.from_bytes(request.server[16:], "big"),
        "method": request.method,
        "target": request.target,
        "host": request.host,
        "status": request.status,
        "duration_ms": None if duration_ns is None else duration_ns / 1e6,
        "traceparent": request.traceparent,
        "outcome": request.outcome,
        "request_body": request.request_body_octets,
        "response_body": request.response_body_octets,
    }
    if request.interim:
        row["interim"] = list(request.interim)
    if request.is_grpc:
        call = call_of(request)
        status = None if call.status is None else status_name(call.status)
        row["grpc_status"] = request.grpc_status
        row["rpc"] = {"method": call.method, "status": status}
    if request.unknown:
        row["unknown"] = list(request.unknown)
    return row

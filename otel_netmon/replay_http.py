"""The HTTP requests of a capture, as ``replay --output json`` prints them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from otel_netmon.analysis.http_records import HttpRequest
from otel_netmon.enrich.addresses import address_text


class HttpReplay:
    """Requests of one capture, of every version."""

    def __init__(self) -> None:
        self._requests: list[HttpRequest] = []

    def take(self, requests: Iterable[HttpRequest]) -> None:
        """Takes requests that are over, in any order."""
        self._requests += requests

    def finish(self) -> list[dict[str, Any]]:
        """Gives every request in the order of their first octets; what was open has been given by then."""
        self._requests.sort(key=lambda request: request.request_first_ns)
        return [_row(request) for request in self._requests]


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
        row["grpc_status"] = request.grpc_status
    if request.unknown:
        row["unknown"] = list(request.unknown)
    return row

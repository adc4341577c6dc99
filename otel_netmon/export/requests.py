"""What encoder, queue, spool and transport hand to each other: requests as bytes, and what became of one.

OTLP specification 1.x: opentelemetry.io/docs/specs/otlp.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal, Protocol


class Signal(enum.Enum):
    """A signal of OTLP: its path under the base URL, its gRPC method, and what its items are called."""

    METRICS = (
        "metrics",
        "/v1/metrics",
        "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        "metric_points",
    )
    TRACES = ("traces", "/v1/traces", "/opentelemetry.proto.collector.trace.v1.TraceService/Export", "spans")
    LOGS = ("logs", "/v1/logs", "/opentelemetry.proto.collector.logs.v1.LogsService/Export", "log_records")

    def __init__(self, word: str, path: str, method: str, items: str) -> None:
        self.word = word
        self.path = path
        self.method = method
        self.items = items


@dataclass(frozen=True, slots=True)
class Request:
    """One serialised Export…ServiceRequest.

    Attributes:
        signal: which of the three.
        body: the protobuf message, not compressed.
        items: data points, spans or log records in it.
    """

    signal: Signal
    body: bytes
    items: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one attempt to send a request.

    Attributes:
        kind: ``delivered`` (also in part), ``retry`` (the specification allows another attempt), ``refused`` (it forbids one).
        reason: one of a few words, fit for an attribute; empty when delivered.
        detail: for people: the collector's words, the error; holds no secret.
        rejected: items the collector refused for good in a request that it took (partial success).
        warning: the collector's words in a partial success; may stand without a rejected item.
        retry_after_seconds: how long the collector asks to wait (Retry-After, RetryInfo); None where it says nothing.
        status: the HTTP status or the gRPC status code's name; empty where no answer came.
    """

    kind: Literal["delivered", "retry", "refused"]
    reason: str = ""
    detail: str = ""
    rejected: int = 0
    warning: str = ""
    retry_after_seconds: float | None = None
    status: str = ""


class Transport(Protocol):
    """A way to one receiver. Used by one thread at a time, except ``close``, which ends a ``send`` under way."""

    def send(self, request: Request, timeout_seconds: float) -> Outcome:
        """One attempt, within the time. Never raises for what the network or the collector does."""

    def close(self) -> None:
        """Gives connections back; a send under way ends as ``retry``."""

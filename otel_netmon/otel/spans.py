"""Spans and events as columns, ready for the encoder: what probes give once a transaction is over.

Terms and identifiers: OpenTelemetry specification (trace API, logs data model), opentelemetry/proto/trace/v1/trace.proto and
logs/v1/logs.proto; W3C Trace Context for trace_id, span_id and flags.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.request_phases import RequestTimes


class SpanKind(enum.IntEnum):
    """SpanKind of trace.proto."""

    INTERNAL = 1
    SERVER = 2
    CLIENT = 3


class StatusCode(enum.IntEnum):
    """StatusCode of trace.proto."""

    UNSET = 0
    OK = 1
    ERROR = 2


class Severity(enum.IntEnum):
    """The first of each range of SeverityNumber in logs.proto."""

    INFO = 9
    WARN = 13
    ERROR = 17


@dataclass(frozen=True, slots=True, eq=False)
class SpanBatch:
    """n finished spans, columns of length n.

    Attributes:
        names: span names, of low cardinality.
        kinds: uint8, ``SpanKind``.
        trace_ids: uint8, shape (n, 16); span_ids, parent_span_ids: uint8, shape (n, 8), all zero for a span without parent.
        flags: uint32, the flags of Span.flags.
        start_time_unix_nano, end_time_unix_nano: uint64.
        attributes: each encoded by ``attributes.encode(…, Tag.SPAN)``; spans may share one.
        statuses: uint8, ``StatusCode``.
        messages: status message of each span, empty where there is none.
        trace_states: W3C tracestate of each span; an empty sequence where none has one.
        resources: what each span is about, encoded by ``attributes.encode(…, Tag.RESOURCE)``, nothing for the agent's own resource;
            an empty sequence where all are the agent's own. Spans should share the objects.
    """

    names: Sequence[str]
    kinds: npt.NDArray[np.uint8]
    trace_ids: npt.NDArray[np.uint8]
    span_ids: npt.NDArray[np.uint8]
    parent_span_ids: npt.NDArray[np.uint8]
    flags: npt.NDArray[np.uint32]
    start_time_unix_nano: npt.NDArray[np.uint64]
    end_time_unix_nano: npt.NDArray[np.uint64]
    attributes: Sequence[bytes]
    statuses: npt.NDArray[np.uint8]
    messages: Sequence[str]
    trace_states: Sequence[str] = ()
    resources: Sequence[bytes] = ()

    def __len__(self) -> int:
        return len(self.names)


class Description(NamedTuple):
    """What a span says: name, attributes by ``attributes.encode(…, Tag.SPAN)``, status message, empty unless it failed."""

    name: str
    attributes: bytes
    message: str


Describe = Callable[[int, bool], Description]
"""Gives what the span at a place says when it is told from a side, the server's or not."""


class Sought(NamedTuple):
    """Spans of messages, and by what the process of each can be found.

    Attributes:
        batch: the spans, without resources.
        ends: analysis.connection_index.ENDS, shape (n,), as the client sees them.
        times_ns: int64, shape (n,), when the connection or socket was there, CLOCK_MONOTONIC.
        either_side: where the end that the kind of a span says is not known and the other one is, the span is told from there.
        describe: None where a span says the same from both sides.
        requests: of spans of requests, their times.
    """

    batch: SpanBatch
    ends: npt.NDArray[Any]
    times_ns: npt.NDArray[np.int64]
    either_side: bool = False
    describe: Describe | None = None
    requests: RequestTimes | None = None

    def behind(self, earlier_ns: npt.NDArray[np.int64]) -> Sought:
        """The same, where requests that may be of the same connections began at these times."""
        return self if self.requests is None else self._replace(requests=self.requests.behind(earlier_ns))


@dataclass(frozen=True, slots=True)
class Event:
    """A log record with an event name: something without a duration.

    Attributes:
        name: event name, of low cardinality.
        time_unix_nano: when it happened.
        severity: see ``Severity``.
        body: a sentence for people.
        attributes: encoded by ``attributes.encode(…, Tag.LOG_RECORD)``.
        trace_id, span_id: 16 and 8 bytes, or empty.
        resource: what it is about, as in ``SpanBatch.resources``.
    """

    name: str
    time_unix_nano: int
    severity: Severity
    body: str
    attributes: bytes
    trace_id: bytes = b""
    span_id: bytes = b""
    resource: bytes = b""

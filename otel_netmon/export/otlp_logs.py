"""Events as ExportLogsServiceRequest messages: log records with an event name.

Source: opentelemetry/proto/logs/v1/logs.proto and collector/logs/v1/logs_service.proto; OpenTelemetry logs data model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from otel_netmon.export.otlp_requests import RequestBuilder
from otel_netmon.export.otlp_resources import order
from otel_netmon.export.otlp_wire import (
    MAX_BYTES,
    MAX_ITEMS,
    Envelope,
    Records,
    chunks,
    delimited,
    text,
)
from otel_netmon.export.requests import Request, Signal
from otel_netmon.otel.spans import Event, Severity
from otel_netmon.otel.text import portable_text

_LOG_RECORDS = 0x12
_TAIL = b"\x09" + bytes(8) + b"\x59" + bytes(8)  # time_unix_nano, observed_time_unix_nano
_SEVERITIES = {severity: bytes((0x10, severity)) + text(0x1A, severity.name) for severity in Severity}


def event_requests(
    events: Sequence[Event], envelope: Envelope, max_items: int = MAX_ITEMS, max_bytes: int = MAX_BYTES
) -> Iterator[Request]:
    """The events as requests, made one at a time.

    The observed time is the time itself: what told the event is what saw it.

    Args:
        max_items: log records in a request at most.
        max_bytes: bytes of a request at most; a record that is larger goes alone.
    """
    builder = RequestBuilder(Signal.LOGS, envelope, max_items, max_bytes)
    resources = order([event.resource for event in events])
    if resources is not None and resources.rows is not None:
        events = [events[place] for place in resources.rows.tolist()]
    for rows in chunks(len(events)):
        yield from builder.add(_records(events[rows]), runs=resources.runs(rows) if resources is not None else ())
    yield from builder.finish()


def _records(events: Sequence[Event]) -> Records:
    columns = [
        [text(0x62, event.name) for event in events],
        [_SEVERITIES[event.severity] for event in events],
        [delimited(0x2A, delimited(0x0A, portable_text(event.body).encode())) for event in events],
        [event.attributes for event in events],
        [
            (delimited(0x4A, event.trace_id) if event.trace_id else b"")
            + (delimited(0x52, event.span_id) if event.span_id else b"")
            for event in events
        ],
    ]
    records = Records(_LOG_RECORDS, columns, _TAIL)
    times = np.array([event.time_unix_nano for event in events], np.uint64)
    records.fill(17, times)
    records.fill(8, times)
    return records

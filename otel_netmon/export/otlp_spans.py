"""Spans as ExportTraceServiceRequest messages.

Source: opentelemetry/proto/trace/v1/trace.proto and collector/trace/v1/trace_service.proto.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.export.otlp_requests import RequestBuilder
from otel_netmon.export.otlp_resources import Index, order
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
from otel_netmon.otel.spans import SpanBatch
from otel_netmon.otel.text import portable_text

_SPANS = 0x12
_PARENT = b"\x22\x08" + bytes(8)
_TAIL = (
    b"\x0a\x10" + bytes(16)  # trace_id
    + b"\x12\x08" + bytes(8)  # span_id
    + b"\x30" + bytes(1)  # kind
    + b"\x39" + bytes(8)  # start_time_unix_nano
    + b"\x41" + bytes(8)  # end_time_unix_nano
    + b"\x85\x01" + bytes(4)  # flags
)  # fmt: skip


def span_requests(
    batch: SpanBatch, envelope: Envelope, max_items: int = MAX_ITEMS, max_bytes: int = MAX_BYTES
) -> Iterator[Request]:
    """The spans as requests, made one at a time.

    Args:
        max_items: spans in a request at most.
        max_bytes: bytes of a request at most; a span that is larger goes alone.
    """
    builder = RequestBuilder(Signal.TRACES, envelope, max_items, max_bytes)
    resources = order(batch.resources)
    if resources is not None and resources.rows is not None:
        batch = _ordered(batch, resources.rows)
    for rows in chunks(len(batch)):
        yield from builder.add(_records(batch, rows), runs=resources.runs(rows) if resources is not None else ())
    yield from builder.finish()


def _ordered(batch: SpanBatch, rows: Index) -> SpanBatch:
    chosen = operator.itemgetter(*rows.tolist())  # there are two at least: an order is of several

    def ordered(column: Any) -> Any:
        return column[rows] if isinstance(column, np.ndarray) else chosen(column) if column else column

    return SpanBatch(*(ordered(getattr(batch, name)) for name in SpanBatch.__dataclass_fields__))


def _records(batch: SpanBatch, rows: slice) -> Records:
    parents = batch.parent_span_ids[rows]
    has_parent = np.asarray(parents.any(axis=1))
    columns = [
        [text(0x2A, name) for name in batch.names[rows]],
        batch.attributes[rows],
        list(map(_status, batch.statuses[rows].tolist(), batch.messages[rows])),
        [_PARENT if has else b"" for has in has_parent.tolist()],
    ]
    if batch.trace_states:
        columns.insert(0, [text(0x1A, state) for state in batch.trace_states[rows]])
    records = Records(_SPANS, columns, _TAIL)
    records.fill(len(_TAIL) + 8, _identifiers(parents[has_parent]), has_parent)
    records.fill(len(_TAIL) - 2, _identifiers(batch.trace_ids[rows]))
    records.fill(len(_TAIL) - 20, _identifiers(batch.span_ids[rows]))
    records.fill(25, batch.kinds[rows].astype(np.uint8, copy=False))
    records.fill(23, batch.start_time_unix_nano[rows].astype(np.uint64, copy=False))
    records.fill(14, batch.end_time_unix_nano[rows].astype(np.uint64, copy=False))
    records.fill(4, batch.flags[rows].astype(np.uint32, copy=False))
    return records


def _identifiers(ids: npt.NDArray[np.uint8]) -> npt.NDArray[np.void]:
    """Rows of bytes as one item each."""
    return np.ascontiguousarray(ids).view(f"V{ids.shape[1]}").ravel()


def _status(code: int, message: str) -> bytes:
    """Always there, as in a span of an SDK."""
    return (
        _STATUSES[code]
        if not message
        else delimited(0x7A, delimited(0x12, portable_text(message).encode()) + bytes((0x18, code)))
    )


_STATUSES = (b"\x7a\x00", b"\x7a\x02\x18\x01", b"\x7a\x02\x18\x02")

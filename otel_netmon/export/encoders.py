"""What makes the requests for a receiver, out of its settings."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from otel_netmon.config.model import Receiver
from otel_netmon.export import otlp_logs, otlp_metrics, otlp_spans
from otel_netmon.export.otlp_resources import SeriesOrders
from otel_netmon.export.otlp_wire import Envelope
from otel_netmon.export.requests import Request
from otel_netmon.export.snapshots import EncodeSnapshot
from otel_netmon.otel.points import Snapshot
from otel_netmon.otel.spans import Event, SpanBatch


@dataclass(frozen=True, slots=True)
class Encoders:
    """What makes requests; see ``otlp_metrics``, ``otlp_spans`` and ``otlp_logs``."""

    metrics: EncodeSnapshot
    spans: Callable[[SpanBatch], Iterator[Request]]
    events: Callable[[Sequence[Event]], Iterator[Request]]
    count_points: Callable[[Snapshot], int]


def encoders(settings: Receiver, resource: Mapping[str, str]) -> Encoders:
    """What makes the requests for a receiver."""
    envelope, orders = Envelope(resource), SeriesOrders()

    def metrics(snapshot: Snapshot, previous: Snapshot | None) -> Iterator[Request]:
        return otlp_metrics.metric_requests(
            snapshot,
            envelope,
            previous=previous,
            temporality=settings.temporality,
            histograms=settings.histograms,
            orders=orders,
        )

    return Encoders(
        metrics,
        functools.partial(otlp_spans.span_requests, envelope=envelope),
        functools.partial(otlp_logs.event_requests, envelope=envelope),
        otlp_metrics.count_points,
    )

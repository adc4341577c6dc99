"""A receiver of OTLP that a test moves through time: a clock, a transport that answers what the test wants, nothing that waits."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_netmon.config.model import Receiver
from otel_netmon.export.delivery import Delivery, Terms
from otel_netmon.export.encoders import Encoders
from otel_netmon.export.otlp_logs import event_requests
from otel_netmon.export.otlp_metrics import count_points, metric_requests
from otel_netmon.export.otlp_spans import span_requests
from otel_netmon.export.otlp_wire import MAX_ITEMS, Envelope
from otel_netmon.export.requests import Outcome, Request, Signal
from otel_netmon.export.spool import Spool
from otel_netmon.otel.points import Point, Points, Snapshot
from otel_netmon.otel.spans import Event, Severity, SpanBatch
from otel_netmon.otel.temporality import Temporality
from support.snapshots import END, START

DELIVERED = Outcome("delivered", status="200")
AWAY = Outcome("retry", "connection", "connection refused")
REFUSED = Outcome("refused", "http_400", "HTTP 400", status="400")
UNKNOWN = Outcome("refused", "http_404", "HTTP 404", status="404")

Answer = Callable[[Request], Outcome]


@dataclass
class Clock:
    """Seconds that pass when a test says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeTransport:
    """A transport.

    Attributes:
        answers: what the next requests are told, one each.
        always: what all others are told.
        seen: every request that came, with the time.
        taken: those that were delivered.
    """

    clock: Callable[[], float]
    answers: list[Outcome] = field(default_factory=list)
    always: Answer = lambda _: DELIVERED
    seen: list[tuple[float, Request]] = field(default_factory=list)
    taken: list[Request] = field(default_factory=list)
    timeouts: set[float] = field(default_factory=set)
    closed: bool = False

    def send(self, request: Request, timeout_seconds: float) -> Outcome:
        self.seen.append((self.clock(), request))
        self.timeouts.add(timeout_seconds)
        outcome = self.answers.pop(0) if self.answers else self.always(request)
        if outcome.kind == "delivered":
            self.taken.append(request)
        return outcome

    def close(self) -> None:
        self.closed = True

    def numbers(self, signal: Signal | None = None) -> list[int]:
        """What was delivered, by the number that ``snapshot``, ``spans`` and ``events`` gave each item."""
        return [number for request in self.taken if signal in {None, request.signal} for number in numbers(request)]


def encoders(max_items: int = MAX_ITEMS, temporality: Temporality = "cumulative") -> Encoders:
    """The agent's own, with requests of another size."""
    envelope = Envelope({"service.name": "test"})

    def metrics(now: Snapshot, previous: Snapshot | None) -> Iterator[Request]:
        return metric_requests(
            now,
            envelope,
            previous=previous,
            temporality=temporality,
            histograms="exponential",
            max_items=max_items,
        )

    return Encoders(
        metrics,
        functools.partial(span_requests, envelope=envelope, max_items=max_items),
        functools.partial(event_requests, envelope=envelope, max_items=max_items),
        count_points,
    )


def encode_small(_settings: Receiver, _resource: Mapping[str, str]) -> Encoders:
    """For a sink: four items in a request."""
    return encoders(4)


class Rig:
    """A delivery, its clock and its transport. Its waits are the longest that the jitter allows."""

    def __init__(
        self,
        spool: Spool | None = None,
        *,
        clock: Clock | None = None,
        max_items: int = MAX_ITEMS,
        temporality: Temporality = "cumulative",
        draw: Callable[[], float] = lambda: 1.0,
        signals: Sequence[Signal] = tuple(Signal),
        queue_bytes: int = 4 << 20,
    ) -> None:
        self.clock = clock or Clock()
        self.transport = FakeTransport(self.clock)
        self.spool = spool
        self.delivery = Delivery(
            self.transport,
            encoders(max_items, temporality),
            spool,
            Terms(signals=signals, delta=temporality != "cumulative", timeout_seconds=7.0, queue_bytes=queue_bytes),
            clock=self.clock,
            draw=draw,
        )

    def run(self, seconds: float = 0.0) -> None:
        """Lets time pass, with a step whenever one is due."""
        end = self.clock.now + seconds
        while True:
            wake = self.delivery.step()
            if wake is None or wake > end:
                self.clock.now = end
                return
            self.clock.now = max(self.clock.now, wake)

    def check(self) -> None:
        """Every item that was offered is delivered, dropped for a reason, or where one can point at it."""
        queue, spool = self.delivery._queue, self.spool
        newest = self.delivery._lanes[0].source
        for signal, account in self.delivery.ledger.items():
            assert account.offered == account.delivered + sum(account.dropped.values()) + account.pending, signal
            there = sum(entry.items for entry in queue._waiting[signal])
            there += sum(ready.items for ready in queue._ready[signal])
            if spool is not None:
                on_disk = spool.pending(signal).items
                assert account.spooled == on_disk, signal
                there += on_disk
            elif signal is Signal.METRICS:
                encoding, request = newest._encoding, newest._request  # type: ignore[attr-defined]
                there += (encoding.left if encoding else 0) + (request.items if request else 0)
            assert account.pending == there, signal
            assert min(account.dropped.values(), default=1) > 0
        waiting = sum(entry.size for entries in queue._waiting.values() for entry in entries)
        assert queue.size == waiting + sum(ready.size for entries in queue._ready.values() for ready in entries)

    def dropped(self, signal: Signal) -> dict[str, int]:
        return dict(self.delivery.ledger[signal].dropped)


# ------------------------------------------------------------------------------------------------------------- items
def snapshot(*values: int, at: int = END, first_port: int = 1) -> Snapshot:
    """A counter of netmon.flow.packets for each value."""
    points: list[Point] = [
        Point({"client.address": "10.0.0.1", "server.port": port}, value, START)
        for port, value in enumerate(values, start=first_port)
    ]
    everything: dict[str, Points] = {"netmon.flow.packets": points}
    return Snapshot(at, everything)


def spans(*numbered: int, size: int = 0) -> SpanBatch:
    """Spans that begin at the nanosecond of their number."""
    count = len(numbered)
    return SpanBatch(
        names=["GET"] * count,
        kinds=np.full(count, 3, np.uint8),
        trace_ids=np.full((count, 16), 7, np.uint8),
        span_ids=np.full((count, 8), 9, np.uint8),
        parent_span_ids=np.zeros((count, 8), np.uint8),
        flags=np.zeros(count, np.uint32),
        start_time_unix_nano=np.array(numbered, np.uint64),
        end_time_unix_nano=np.array(numbered, np.uint64),
        attributes=[b""] * count,
        statuses=np.zeros(count, np.uint8),
        messages=["x" * size] * count,
    )


def events(*numbered: int, size: int = 0) -> list[Event]:
    """Events at the nanosecond of their number."""
    return [Event("test", number, Severity.INFO, "x" * size, b"") for number in numbered]


def numbers(request: Request) -> list[int]:
    """The number of each item of a request, in order: values of counters, times of spans and events; -1 for an end of a series."""
    if request.signal is Signal.METRICS:
        metrics = ExportMetricsServiceRequest.FromString(request.body)
        return [
            -1 if point.flags else point.as_int
            for resource in metrics.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.sum.data_points
        ]
    if request.signal is Signal.TRACES:
        traces = ExportTraceServiceRequest.FromString(request.body)
        scopes = itertools.chain.from_iterable(resource.scope_spans for resource in traces.resource_spans)
        return [span.start_time_unix_nano for scope in scopes for span in scope.spans]
    logs = ExportLogsServiceRequest.FromString(request.body)
    records = itertools.chain.from_iterable(resource.scope_logs for resource in logs.resource_logs)
    return [record.time_unix_nano for scope in records for record in scope.log_records]

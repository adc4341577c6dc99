"""Our requests, parsed by the published protobuf classes, and what the SDK's own encoder makes of the same snapshot."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

from google.protobuf.message import Message
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

from otel_netmon.export.requests import Request, Signal
from otel_netmon.otel.metrics_data import batches
from otel_netmon.otel.points import Snapshot

RESOURCE = {"service.name": "test", "host.name": "größe"}
NO_RECORDED_VALUE = 1


class Sent(NamedTuple):
    """One data point and what is around it."""

    name: str
    metric: bytes
    point: Any
    resource: bytes

    @property
    def attributes(self) -> dict[str, Any]:
        return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "") for pair in self.point.attributes}

    @property
    def key(self) -> tuple[str, str]:
        return self.name, repr((sorted(self.attributes.items()), self.resource))

    @property
    def ended(self) -> bool:
        return bool(self.point.flags & NO_RECORDED_VALUE)


def canonical(message: Message) -> bytes:
    """Equal for equal messages; NaN equals itself."""
    return message.SerializeToString(deterministic=True)


def parsed(request: Request) -> ExportMetricsServiceRequest:
    """The request, whose count of items is checked."""
    assert request.signal is Signal.METRICS
    message = ExportMetricsServiceRequest.FromString(request.body)
    assert request.items == len(list(_points(message)))
    resources = [canonical(each.resource) for each in message.resource_metrics]
    assert len(set(resources)) == len(resources)
    return message


def stock(snapshot: Snapshot, histograms: Literal["exponential", "explicit"]) -> ExportMetricsServiceRequest:
    """The same snapshot by the SDK's dataclasses and encoder, in one request."""
    found = [encode_metrics(data) for _, data in batches(snapshot, RESOURCE, 1 << 40, histograms)]
    return found[0] if found else ExportMetricsServiceRequest()


def flat(messages: Iterable[ExportMetricsServiceRequest]) -> list[Sent]:
    """All points of all requests, in order."""
    return [sent for message in messages for sent in _points(message)]


def comparable(sent: Iterable[Sent]) -> list[tuple[bytes, str, bytes, bytes]]:
    """Points as values that can be compared."""
    return [(one.resource, one.name, one.metric, canonical(one.point)) for one in sent]


def frames(messages: Iterable[ExportMetricsServiceRequest]) -> set[bytes]:
    """What stands around the metrics of each resource, each kind of it once."""
    found = set()
    for message in messages:
        frame = ExportMetricsServiceRequest.FromString(message.SerializeToString())
        for resource_metrics in frame.resource_metrics:
            for scope_metrics in resource_metrics.scope_metrics:
                scope_metrics.ClearField("metrics")
            found.add(canonical(resource_metrics))
    return found


def _points(message: ExportMetricsServiceRequest) -> Iterator[Sent]:
    for resource_metrics in message.resource_metrics:
        resource = canonical(resource_metrics.resource)
        for scope_metrics in resource_metrics.scope_metrics:
            for metric in scope_metrics.metrics:
                data = getattr(metric, metric.WhichOneof("data") or "")
                points = list(data.data_points)
                empty = Metric.FromString(metric.SerializeToString())
                getattr(empty, metric.WhichOneof("data") or "").ClearField("data_points")
                for point in points:
                    yield Sent(metric.name, canonical(empty), point, resource)

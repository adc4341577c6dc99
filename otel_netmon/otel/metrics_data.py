"""Snapshots as the SDK's MetricsData, the input of the stock OTLP exporters.

Built from the public dataclasses, never by instruments: flows come and go, and an SDK instrument never releases an attribute set
it has once seen (2000 a reader, then only the overflow point is left).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_netmon import __version__
from otel_netmon.otel import catalogue
from otel_netmon.otel.points import Point, Snapshot, portable_text

SCOPE = InstrumentationScope(catalogue.SCOPE_NAME, __version__, catalogue.SCHEMA_URL)


def count_points(snapshot: Snapshot) -> int:
    """Points of the snapshot that go out by OTLP."""
    return sum(len(points) for name, points in snapshot.points.items() if not catalogue.CATALOGUE[name].prometheus_only)


def batches(snapshot: Snapshot, resource: Resource, max_points: int) -> Iterator[tuple[int, MetricsData]]:
    """The snapshot cut into requests of at most ``max_points`` points, built one at a time.

    One request for everything would meet the 4 MiB that a gRPC receiver takes by default at some 20,000 points.

    Yields:
        Number of points and the data; nothing for a snapshot without points.
    """
    room = max_points
    metrics: list[Metric] = []
    for name, points in snapshot.points.items():
        definition = catalogue.CATALOGUE[name]
        if definition.prometheus_only:
            continue
        start = 0
        while start < len(points):
            part = points[start : start + room]
            metrics.append(_metric(definition, part, snapshot.time_unix_nano))
            start += len(part)
            room -= len(part)
            if room == 0:
                yield max_points, _wrap(metrics, resource)
                metrics, room = [], max_points
    if metrics:
        yield max_points - room, _wrap(metrics, resource)


def _wrap(metrics: list[Metric], resource: Resource) -> MetricsData:
    scope = ScopeMetrics(scope=SCOPE, metrics=metrics, schema_url=catalogue.SCHEMA_URL)
    return MetricsData([ResourceMetrics(resource=resource, scope_metrics=[scope], schema_url=resource.schema_url)])


def _metric(definition: catalogue.Metric, points: Sequence[Point], time_unix_nano: int) -> Metric:
    convert = definition.value_type
    data_points = [
        NumberDataPoint(
            attributes={
                key: portable_text(value) if isinstance(value, str) else value
                for key, value in point.attributes.items()
            },
            start_time_unix_nano=point.start_time_unix_nano,
            time_unix_nano=time_unix_nano,
            value=convert(point.value),
        )
        for point in points
    ]
    data: Gauge | Sum
    if definition.kind == "gauge":
        data = Gauge(data_points)
    else:
        data = Sum(data_points, AggregationTemporality.CUMULATIVE, is_monotonic=definition.kind == "counter")
    return Metric(name=definition.name, description=definition.description, unit=definition.unit, data=data)

"""Snapshots as the SDK's MetricsData: for those who embed the agent in a program that has the SDK, and the oracle of our own encoder.

Built from the public dataclasses, never by instruments: flows come and go, and an SDK instrument never releases an attribute set
it has once seen (2000 a reader, then only the overflow point is left). The agent itself does not import this module.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
from opentelemetry.sdk.metrics import Exemplar as SdkExemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Buckets,
    ExponentialHistogram,
    ExponentialHistogramDataPoint,
    Gauge,
    Histogram,
    HistogramDataPoint,
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
from otel_netmon.otel.attributes import AttributeSet, Value, decoded
from otel_netmon.otel.points import Exemplar, HistogramSeries, NumberSeries, Point, Points, Snapshot, portable_text
from otel_netmon.otel.resource import host_attributes

SCOPE = InstrumentationScope(catalogue.SCOPE_NAME, __version__, catalogue.SCHEMA_URL)


def count_points(snapshot: Snapshot) -> int:
    """Points of the snapshot that go out by OTLP."""
    return sum(len(points) for name, points in snapshot.points.items() if not catalogue.CATALOGUE[name].prometheus_only)


def batches(
    snapshot: Snapshot,
    resource: Mapping[str, str],
    max_points: int,
    histograms: Literal["exponential", "explicit"] = "explicit",
) -> Iterator[tuple[int, MetricsData]]:
    """The snapshot cut into requests of at most ``max_points`` points, built one at a time. All values are cumulative.

    One request for everything would meet the 4 MiB that a gRPC receiver takes by default at some 20,000 points. Each has every
    resource once. Resources other than the agent's have what the agent's says of their host as well.

    Args:
        resource: the agent's.

    Yields:
        Number of points and the data; nothing for a snapshot without points.
    """
    own = {key: portable_text(value) for key, value in resource.items()}
    room = max_points
    metrics: dict[bytes, list[Metric]] = {}
    for name, points in snapshot.points.items():
        definition = catalogue.CATALOGUE[name]
        if definition.prometheus_only:
            continue
        start = 0
        while start < len(points):
            part = points[start : start + room]
            for of, some in _by_resource(part).items():
                metrics.setdefault(of, []).append(_metric(definition, some, snapshot.time_unix_nano, histograms))
            start += len(part)
            room -= len(part)
            if room == 0:
                yield max_points, _wrap(metrics, own)
                metrics, room = {}, max_points
    if metrics:
        yield max_points - room, _wrap(metrics, own)


def _by_resource(points: Points) -> dict[bytes, Points]:
    """Points by their resource, encoded."""
    if not isinstance(points, NumberSeries | HistogramSeries):
        some: dict[bytes, list[Point]] = {}
        for point in points:
            some.setdefault(point.resource, []).append(point)
        return dict(some)
    rows: dict[bytes, list[int]] = {}
    for row, each in enumerate(points.attributes):
        rows.setdefault(each.resource, []).append(row)
    return {resource: points.at(np.array(places)) for resource, places in rows.items()}


def _wrap(metrics: Mapping[bytes, list[Metric]], own: Mapping[str, str]) -> MetricsData:
    host = host_attributes(own)
    found = []
    for encoded, some in metrics.items():
        attributes = decoded(encoded) or dict(own)
        missing = {key: value for key, value in host.items() if key not in attributes}
        resource = Resource({**attributes, **missing}, catalogue.SCHEMA_URL)
        scope = ScopeMetrics(scope=SCOPE, metrics=some, schema_url=catalogue.SCHEMA_URL)
        found.append(ResourceMetrics(resource=resource, scope_metrics=[scope], schema_url=resource.schema_url))
    return MetricsData(found)


def _metric(
    definition: catalogue.Metric, points: Points, time_unix_nano: int, histograms: Literal["exponential", "explicit"]
) -> Metric:
    data: Gauge | Sum | Histogram | ExponentialHistogram
    if isinstance(points, HistogramSeries):
        if histograms == "explicit":
            data = Histogram(_explicit(points, time_unix_nano), AggregationTemporality.CUMULATIVE)
        else:
            data = ExponentialHistogram(_exponential(points, time_unix_nano), AggregationTemporality.CUMULATIVE)
    elif definition.kind == "gauge":
        data = Gauge(_numbers(definition, points, time_unix_nano))
    else:
        data = Sum(
            _numbers(definition, points, time_unix_nano),
            AggregationTemporality.CUMULATIVE,
            is_monotonic=definition.kind == "counter",
        )
    return Metric(name=definition.name, description=definition.description, unit=definition.unit, data=data)


def _numbers(definition: catalogue.Metric, points: Sequence[Point], time_unix_nano: int) -> list[NumberDataPoint]:
    portable = isinstance(points, NumberSeries)  # its attributes are decoded from their encoded form
    return [
        NumberDataPoint(
            attributes={
                key: portable_text(value) if isinstance(value, str) and not portable else value
                for key, value in point.attributes.items()
            },
            start_time_unix_nano=point.start_time_unix_nano,
            time_unix_nano=time_unix_nano,
            value=definition.value_type(point.value),
        )
        for point in points
    ]


def _explicit(series: HistogramSeries, time_unix_nano: int) -> list[HistogramDataPoint]:
    return [
        HistogramDataPoint(
            attributes=_attributes(series.attributes[row]),
            start_time_unix_nano=int(series.start_time_unix_nano[row]),
            time_unix_nano=time_unix_nano,
            count=int(series.count[row]),
            sum=float(series.sum[row]),
            bucket_counts=series.bucket_counts[row].tolist(),
            explicit_bounds=series.bounds.tolist(),
            min=_extreme(series, row, float(series.minimum[row])),  # type: ignore[arg-type] # None is left out
            max=_extreme(series, row, float(series.maximum[row])),  # type: ignore[arg-type]
            exemplars=_exemplars(series.exemplars[row]),
        )
        for row in range(len(series))
    ]


def _exponential(series: HistogramSeries, time_unix_nano: int) -> list[ExponentialHistogramDataPoint]:
    return [
        ExponentialHistogramDataPoint(
            attributes=_attributes(series.attributes[row]),
            start_time_unix_nano=int(series.start_time_unix_nano[row]),
            time_unix_nano=time_unix_nano,
            count=int(series.count[row]),
            sum=float(series.sum[row]),
            scale=int(series.scale[row]),
            zero_count=int(series.zero_count[row]),
            positive=_buckets(int(series.offset[row]), series.buckets[row].tolist()),
            negative=Buckets(0, []),
            flags=0,
            min=_extreme(series, row, float(series.minimum[row])),  # type: ignore[arg-type] # None is left out
            max=_extreme(series, row, float(series.maximum[row])),  # type: ignore[arg-type]
            exemplars=_exemplars(series.exemplars[row]),
        )
        for row in range(len(series))
    ]


def _buckets(offset: int, counts: list[int]) -> Buckets:
    """From the first bucket in use to the last."""
    used = [position for position, count in enumerate(counts) if count]
    return Buckets(offset + used[0], counts[used[0] : used[-1] + 1]) if used else Buckets(0, [])


def _attributes(attributes: AttributeSet) -> dict[str, Value]:
    return dict(attributes.items())


def _extreme(series: HistogramSeries, row: int, value: float) -> float | None:
    return None if series.count[row] == 0 or math.isnan(value) else value


def _exemplars(exemplars: Sequence[Exemplar]) -> list[SdkExemplar]:
    return [
        SdkExemplar(
            {},
            float(one.value),
            one.time_unix_nano,
            span_id=int.from_bytes(one.span_id, "big"),
            trace_id=int.from_bytes(one.trace_id, "big"),
        )
        for one in exemplars
    ]

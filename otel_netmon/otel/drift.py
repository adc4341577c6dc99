"""Does a snapshot keep to the catalogue? Asked by the tests of everything that makes points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from otel_netmon.otel.attributes import Value
from otel_netmon.otel.catalogue import ATTRIBUTES, CATALOGUE, Metric
from otel_netmon.otel.points import HistogramSeries, Point, Points, Snapshot


def problems(snapshot: Snapshot) -> list[str]:
    """Where a snapshot departs from the catalogue: unknown names, undeclared attributes, wrong types, attribute sets used twice."""
    found: list[str] = []
    for name, points in snapshot.points.items():
        metric = CATALOGUE.get(name)
        if metric is None:
            found.append(f"{name}: not in the catalogue")
            continue
        seen: set[frozenset[tuple[str, object]]] = set()
        for attributes, start_time_unix_nano in _series(points):
            found += _attribute_problems(metric, attributes)
            identity = frozenset(attributes.items())
            if identity in seen:
                found.append(f"{name}: two points with {dict(attributes)}")
            seen.add(identity)
            if not 0 < start_time_unix_nano <= snapshot.time_unix_nano:
                found.append(f"{name}: start time {start_time_unix_nano} is not before {snapshot.time_unix_nano}")
        if isinstance(points, HistogramSeries):
            found += _distribution_problems(metric, points)
        else:
            found += _value_problems(metric, points)
    return found


def _series(points: Points) -> Iterator[tuple[Mapping[str, Value], int]]:
    if isinstance(points, HistogramSeries):
        for attributes, start in zip(points.attributes, points.start_time_unix_nano.tolist(), strict=True):
            yield dict(attributes.items()), start
    else:
        for point in points:
            yield point.attributes, point.start_time_unix_nano


def _attribute_problems(metric: Metric, attributes: Mapping[str, Value]) -> Iterator[str]:
    for key, value in attributes.items():
        if key not in metric.attributes:
            yield f"{metric.name}: attribute {key} is not declared"
        elif type(value) is not ATTRIBUTES[key].type:
            yield f"{metric.name}: attribute {key} is {type(value).__name__}, not {ATTRIBUTES[key].type.__name__}"


def _value_problems(metric: Metric, points: Sequence[Point]) -> Iterator[str]:
    for point in points:
        if metric.kind == "histogram":
            yield f"{metric.name}: value {point.value!r} is not a distribution"
        elif isinstance(point.value, bool) or not isinstance(point.value, (int, metric.value_type)):
            yield f"{metric.name}: value {point.value!r} is not {metric.value_type.__name__}"
        elif metric.kind == "counter" and point.value < 0:
            yield f"{metric.name}: counter with the negative value {point.value!r}"


def _distribution_problems(metric: Metric, series: HistogramSeries) -> Iterator[str]:
    if metric.kind != "histogram":
        yield f"{metric.name}: a distribution, not a {metric.kind}"
    elif tuple(series.bounds.tolist()) != metric.bounds:
        yield f"{metric.name}: bounds {series.bounds.tolist()}, not {list(metric.bounds)}"
    sums = {
        "explicit": series.bucket_counts.sum(axis=1),
        "exponential": series.buckets.sum(axis=1) + series.zero_count,
    }
    for form, counts in sums.items():
        for row in np.flatnonzero(counts != series.count).tolist():
            yield f"{metric.name}: {series.count[row]} measurements, {counts[row]} in {form} buckets"

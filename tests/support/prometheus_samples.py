"""A snapshot of the whole catalogue, and its samples as Prometheus has them, one by one and without the code that writes the page."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.utils import floatToGoString

from otel_netmon.otel.attributes import AttributeSet
from otel_netmon.otel.catalogue import CATALOGUE
from otel_netmon.otel.points import HistogramSeries, Points, Snapshot
from support.distributions import histogram_series
from support.snapshots import END, START, every_metric

Sample = tuple[str, dict[str, str], float]


def whole_catalogue() -> Snapshot:
    """``every_metric`` with histograms as columns."""
    points: dict[str, Points] = {}
    for name, found in every_metric().points.items():
        metric = CATALOGUE[name]
        if metric.kind == "histogram" and not isinstance(found, HistogramSeries):
            values = [[2.0 ** (i - 3 * row) for i in range(-5, row + 3)] for row in range(len(found))]
            attributes = [AttributeSet.of(point.attributes) for point in found]
            points[name] = histogram_series(attributes, [START] * len(found), values, [3] * len(found), metric.bounds)
        else:
            points[name] = found
    return Snapshot(END, points)


def samples_of(snapshot: Snapshot) -> Iterator[Sample]:
    """Name, labels and value."""
    for name, points in snapshot.points.items():
        sample = CATALOGUE[name].prometheus_name
        if isinstance(points, HistogramSeries):
            yield from _histograms(sample, points)
            continue
        for point in points:
            yield sample, dict(map(_label, point.attributes.items())), float(point.value)


def _histograms(name: str, series: HistogramSeries) -> Iterator[Sample]:
    for row, attributes in enumerate(series.attributes):
        labels = dict(map(_label, attributes.items()))
        below = 0
        for limit, count in zip(
            [*series.bounds.tolist(), float("inf")], series.bucket_counts[row].tolist(), strict=True
        ):
            below += count
            yield f"{name}_bucket", {**labels, "le": floatToGoString(limit)}, float(below)  # type: ignore[no-untyped-call]
        yield f"{name}_count", labels, float(series.count[row])
        yield f"{name}_sum", labels, float(series.sum[row])


def _label(attribute: tuple[str, object]) -> tuple[str, str]:
    key, value = attribute
    return key.replace(".", "_"), str(value).lower() if isinstance(value, bool) else str(value)

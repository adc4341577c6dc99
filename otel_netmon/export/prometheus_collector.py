"""The snapshot as a custom collector of the Python client library, for programs that embed the agent and have a registry.

The one module here that needs ``prometheus_client``. The agent itself serves its own page, at a hundredth of the cost a line; the
families and samples are the same. The library's formats have no native histograms, and it holds numbers as floats.

    REGISTRY.register(NetmonCollector(lambda: pipeline.snapshot))
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterator

from prometheus_client import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar as LibraryExemplar, Timestamp

from otel_netmon.export.prometheus_text import bound
from otel_netmon.otel import prometheus_names
from otel_netmon.otel.catalogue import CATALOGUE, Metric
from otel_netmon.otel.points import Exemplar, HistogramSeries, NumberSeries, Snapshot, number_series


class NetmonCollector(Collector):
    """Collects the current snapshot.

    Args:
        snapshot_source: the current snapshot, None before the first reading: nothing is collected then.
    """

    def __init__(self, snapshot_source: Callable[[], Snapshot | None]) -> None:
        self._snapshot_source = snapshot_source

    def describe(self) -> Iterator[Family]:
        """All families there can be, so that a registry refuses a second collector with one of their names."""
        return map(_family, CATALOGUE.values())

    def collect(self) -> Iterator[Family]:
        """The families that have points, in the order of the snapshot."""
        snapshot = self._snapshot_source()
        if snapshot is None:
            return
        for name, points in snapshot.points.items():
            if len(points):
                metric = CATALOGUE[name]
                family = _family(metric)
                if isinstance(points, HistogramSeries):
                    _add_histograms(family, points)
                else:
                    _add_numbers(family, metric, number_series(points, metric.value_type))
                yield family


def _family(metric: Metric) -> Family:
    kind = metric.kind if metric.kind in {"counter", "histogram"} else "gauge"
    name = prometheus_names.family_name(metric.name, metric.unit, metric.kind)
    return Family(name, metric.description, kind, prometheus_names.unit_suffix(metric.unit, metric.kind))


def _add_numbers(family: Family, metric: Metric, series: NumberSeries) -> None:
    columns = series.attributes, series.values.tolist(), series.start_time_unix_nano.tolist()
    for attributes, value, start in zip(*columns, strict=True):
        labels = dict(attributes.label_pairs())
        family.add_sample(metric.prometheus_name, labels, value)
        if metric.kind == "counter":
            family.add_sample(f"{family.name}_created", labels, start / 1e9)


def _add_histograms(family: Family, series: HistogramSeries) -> None:
    bounds = series.bounds.tolist()
    limits = [*map(bound, bounds), "+Inf"]
    rows = zip(series.attributes, series.bucket_counts.tolist(), series.sum.tolist(), series.exemplars, strict=True)
    for (attributes, counts, total, marks), count, start in zip(
        rows, series.count.tolist(), series.start_time_unix_nano.tolist(), strict=True
    ):
        labels = dict(attributes.label_pairs())
        exemplars = {bisect.bisect_left(bounds, mark.value): _exemplar(mark) for mark in marks}
        for at, (limit, below) in enumerate(zip(limits, itertools.accumulate(counts), strict=True)):
            family.add_sample(f"{family.name}_bucket", {**labels, "le": limit}, below, exemplar=exemplars.get(at))
        family.add_sample(f"{family.name}_count", labels, count)
        family.add_sample(f"{family.name}_sum", labels, total)
        family.add_sample(f"{family.name}_created", labels, start / 1e9)


def _exemplar(exemplar: Exemplar) -> LibraryExemplar:
    labels = {"trace_id": exemplar.trace_id.hex(), "span_id": exemplar.span_id.hex()}
    return LibraryExemplar(labels, exemplar.value, Timestamp(*divmod(exemplar.time_unix_nano, 1_000_000_000)))

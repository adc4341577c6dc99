"""Counters and gauges of the protobuf page, read by Google's own protobuf classes."""

from __future__ import annotations

import numpy as np
import pytest

from otel_netmon.export.prometheus import MetricsPage
from otel_netmon.export.prometheus_negotiation import PROTOBUF
from otel_netmon.otel import prometheus_names
from otel_netmon.otel.attributes import AttributeSet
from otel_netmon.otel.catalogue import CATALOGUE
from otel_netmon.otel.points import HistogramSeries, NumberSeries, Snapshot
from support.prometheus_messages import families
from support.prometheus_samples import whole_catalogue
from support.snapshots import END, START


def page(snapshot: Snapshot) -> bytes:
    shown = MetricsPage(lambda: snapshot, {"service.name": "otel-netmon"}).render(PROTOBUF)
    assert shown.content_type == PROTOBUF
    return shown.body


def test_every_point_is_there_by_value_with_its_family() -> None:
    snapshot = whole_catalogue()
    target, *rest = families(page(snapshot))
    assert (target.name, target.type, target.metric[0].gauge.value) == ("target_info", 1, 1.0)
    assert [(label.name, label.value) for label in target.metric[0].label] == [("service_name", "otel-netmon")]
    for name, family in zip(snapshot.points, rest, strict=True):
        metric = CATALOGUE[name]
        unit = prometheus_names.unit_suffix(metric.unit, metric.kind)
        assert (family.name, family.help, family.unit) == (metric.prometheus_name, metric.description, unit)
        points = snapshot.points[name]
        assert family.type == {"counter": 0, "histogram": 4}.get(metric.kind, 1)
        if isinstance(points, HistogramSeries):  # looked into by test_prometheus_histograms.py
            assert [each.histogram.sample_count for each in family.metric] == points.count.tolist()
            continue
        for point, shown in zip(points, family.metric, strict=True):
            assert [(label.name, label.value) for label in shown.label] == AttributeSet.of(
                point.attributes, point.resource
            ).label_pairs()
            value = shown.counter if metric.kind == "counter" else shown.gauge
            assert value.value == float(point.value)
            assert shown.HasField("counter") is (metric.kind == "counter") is not shown.HasField("gauge")
            if metric.kind == "counter":
                created = shown.counter.created_timestamp
                assert created.seconds * 10**9 + created.nanos == point.start_time_unix_nano


@pytest.mark.parametrize("name", ["netmon.flow.io", "netmon.coverage"])
def test_lengths_are_right_for_labels_of_any_length(name: str) -> None:
    """Around the lengths at which a length takes one byte more, and over more series than are made at once."""
    widths = [*range(60, 260), *range(16_300, 16_420), *[1] * 4000]
    sets = [AttributeSet.of({"client.address": f"{i}".ljust(width, "x")}) for i, width in enumerate(widths)]
    starts = np.array([START * (i % 3 > 0) + i % 5 for i in range(len(sets))], np.uint64)
    values = np.arange(len(sets)) if name == "netmon.flow.io" else np.arange(len(sets)) / 7
    _, family = families(page(Snapshot(END, {name: NumberSeries(sets, starts, values)})))
    assert len(family.metric) == len(sets)
    for i, shown in enumerate(family.metric):
        assert shown.label[0].value == f"{i}".ljust(widths[i], "x")
        assert (shown.counter if name == "netmon.flow.io" else shown.gauge).value == values[i]
        if name == "netmon.flow.io":
            assert shown.counter.created_timestamp.ToNanoseconds() == starts[i]

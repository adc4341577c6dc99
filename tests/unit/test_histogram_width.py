"""Exponential buckets are as narrow as their largest count lets them be, and every exporter tells the same of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from otel_netmon.export import prometheus_protobuf
from otel_netmon.export.otlp_metrics import metric_requests
from otel_netmon.export.otlp_wire import Envelope
from otel_netmon.otel.attributes import AttributeSet
from otel_netmon.otel.histograms import Distribution
from otel_netmon.otel.points import HistogramSeries, Snapshot

NAME = "netmon.pipeline.cycle.duration"
NOW = 1_700_000_000_000_000_000


def series(many: int, start: int = NOW - 9) -> HistogramSeries:
    distribution = Distribution(NAME, start)
    distribution.record(({}, 0.001 * (1 + number % 7)) for number in range(many))
    points = distribution.points()[NAME]
    assert isinstance(points, HistogramSeries)
    return points


def wide(points: HistogramSeries) -> HistogramSeries:
    return replace(points, buckets=points.buckets.astype(np.uint64))


@pytest.mark.parametrize(("many", "dtype"), [(7, np.uint8), (7 * 300, np.uint16), (0, np.uint8)])
@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
def test_the_width_is_not_seen(many: int, dtype: type, temporality: Literal["cumulative", "delta"]) -> None:
    before, now = series(many // 2), series(many)
    assert now.buckets.dtype == dtype

    def told(first: HistogramSeries, second: HistogramSeries) -> list[bytes]:
        snapshots = Snapshot(NOW, {NAME: first}), Snapshot(NOW + 10, {NAME: second})
        requests = metric_requests(
            snapshots[1],
            Envelope({}),
            previous=snapshots[0],
            temporality=temporality,
            histograms="exponential",
        )
        return [request.body for request in requests]

    assert told(before, now) == told(wide(before), wide(now)) == told(before, wide(now)) == told(wide(before), now)
    pages = [
        b"".join(prometheus_protobuf.render(Snapshot(NOW + 10, {NAME: each}), AttributeSet.of({})))
        for each in (now, wide(now))
    ]
    assert pages[0] == pages[1]

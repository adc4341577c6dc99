"""A snapshot through the checkpoint's arrays: what a receiver is told afterwards is the same."""

from __future__ import annotations

import os

import numpy as np

from otel_netmon.checkpoint import Checkpoint
from otel_netmon.otel.attributes import encoded_resource
from otel_netmon.otel.histograms import Distribution
from otel_netmon.otel.points import HistogramSeries, Point, Snapshot
from otel_netmon.otel.snapshot_state import restored_snapshot, snapshot_state

NOW = 1_700_000_000_000_000_000


PROCESSES = [
    Point({"server.port": port}, port, NOW - 5, encoded_resource({"process.pid": pid}))
    for pid, port in [(7, 443), (8, 443), (7, 80)]
]


def test_numbers_and_distributions_come_back() -> None:
    durations = Distribution("netmon.pipeline.cycle.duration", NOW - 7)
    durations.record([({}, 0.25), ({}, 3.0), ({}, 0.0)])
    snapshot = Snapshot(
        NOW,
        {
            "netmon.flow.io": [
                Point({"client.address": "198.18.0.1", "server.port": 443}, 2**60 + 1, NOW - 5),
                Point({"otel.metric.overflow": True, "network.io.direction": "receive"}, 0, NOW - 9),
            ],
            "netmon.coverage": [Point({"network.interface.name": "\udcff\n"}, 0.5, NOW - 5)],
            "netmon.series.limit": [],
            "netmon.flow.packets": [Point({}, 1, NOW - 5), *PROCESSES],
            **durations.points(),
        },
    )
    fds = [os.memfd_create(f"test-{number}") for number in range(2)]
    try:
        Checkpoint(fds).save({"otlp.default": snapshot_state(snapshot)})
        loaded = Checkpoint(fds).load()
    finally:
        for fd in fds:
            os.close(fd)
    assert loaded is not None
    again = restored_snapshot(loaded["otlp.default"])
    assert again.time_unix_nano == NOW
    assert again.points.keys() == snapshot.points.keys()
    numbers = again.points["netmon.flow.io"]
    assert not isinstance(numbers, HistogramSeries)
    assert list(numbers) == snapshot.points["netmon.flow.io"]
    processes = again.points["netmon.flow.packets"]
    assert not isinstance(processes, HistogramSeries)
    assert list(processes) == [Point({}, 1, NOW - 5), *PROCESSES]
    before, after = snapshot.points["netmon.pipeline.cycle.duration"], again.points["netmon.pipeline.cycle.duration"]
    assert isinstance(before, HistogramSeries)
    assert isinstance(after, HistogramSeries)
    assert list(after.attributes) == list(before.attributes)
    for column in ("count", "sum", "scale", "offset", "buckets", "bounds", "bucket_counts", "start_time_unix_nano"):
        assert np.array_equal(getattr(after, column), getattr(before, column)), column
    assert snapshot_state(again).keys() == snapshot_state(snapshot).keys()

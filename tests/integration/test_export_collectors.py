"""What the sink sends, read back by value from the output of real collectors, over both protocols."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

import pytest

from otel_netmon.config.model import Otlp
from otel_netmon.export.otlp import OtlpSink
from otel_netmon.otel.catalogue import CATALOGUE
from otel_netmon.otel.metrics_data import count_points
from otel_netmon.otel.resource import build_resource
from support import collectors
from support.collectors import Collector
from support.otlp_receiver import wait_until
from support.snapshots import END, START, every_metric, flows

pytestmark = pytest.mark.collector

RUNNERS = {"otelcol": collectors.otelcol, "rotel": collectors.rotel}
Runner = Callable[[Path], AbstractContextManager[Collector]]
Identity = tuple[str, str, str, frozenset[tuple[str, object]], float, int, int]


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize("name", RUNNERS)
def test_every_metric_arrives_by_value(name: str, protocol: Literal["grpc", "http/protobuf"], tmp_path: Path) -> None:
    snapshot = every_metric()
    run: Runner = RUNNERS[name]
    with run(tmp_path) as collector:
        endpoint = collector.grpc if protocol == "grpc" else collector.http
        resource = build_resource({"deployment.environment.name": "test"})
        sink = OtlpSink(Otlp(endpoint=endpoint, protocol=protocol, compression="gzip"), resource)
        sink.start()
        sink.offer(snapshot)
        assert sink.flush(10.0), sink.stats()
        sink.shutdown(5.0)
        assert sink.stats()["points_delivered"] == count_points(snapshot)
        points = collector.wait_for(lambda points: len(points) >= count_points(snapshot))
    expected: list[Identity] = []
    for metric in CATALOGUE.values():
        kind = "gauge" if metric.kind == "gauge" else "sum"
        start = 0 if kind == "gauge" else START
        expected += [
            (metric.name, metric.unit, kind, frozenset(point.attributes.items()), point.value, start, END)
            for point in snapshot.points[metric.name]
            if not metric.prometheus_only
        ]
    arrived: list[Identity] = [
        (each.name, each.unit, each.kind, frozenset(each.attributes.items()), each.value, each.start_time, each.time)  # type: ignore[misc]
        for each in points
    ]
    assert sorted(arrived, key=repr) == sorted(expected, key=repr)
    assert all(point.resource == dict(resource.attributes) for point in points)


def test_a_snapshot_of_several_requests_arrives_whole(tmp_path: Path) -> None:
    with collectors.otelcol(tmp_path) as collector:
        sink = OtlpSink(Otlp(endpoint=collector.grpc, protocol="grpc"), build_resource({}))
        sink.start()
        sink.offer(flows(20_000))
        assert sink.flush(30.0), sink.stats()
        sink.shutdown(5.0)
        assert sink.stats()["requests"] == 3
        points = collector.wait_for(lambda points: len(points) >= 20_000)
    assert sorted(point.value for point in points) == list(range(1, 20_001))  # type: ignore[type-var]


def test_a_collector_that_starts_later_receives(tmp_path: Path) -> None:
    ports = collectors.free_ports(2)
    sink = OtlpSink(
        Otlp(endpoint=f"http://127.0.0.1:{ports[0]}", protocol="grpc", timeout_seconds=1.0), build_resource({})
    )
    sink.start()
    sink.offer(flows(3))
    assert not sink.flush(10.0)
    with collectors.otelcol(tmp_path, (ports[0], ports[1])) as collector:
        missed = sink.stats()["points_dropped"]

        def offer() -> bool:
            """As each cycle does; the first may meet the pause that gRPC makes between its attempts to connect."""
            sink.offer(flows(3, time_unix_nano=END + 1))
            return sink.flush(10.0)

        wait_until(offer)
        points = collector.wait_for(lambda points: len(points) >= 3)
    sink.shutdown(2.0)
    assert sum(missed.values()) == 3
    assert [(point.value, point.time) for point in points] == [(1, END + 1), (2, END + 1), (3, END + 1)]

"""What the sink sends, read back by value from the output of real collectors, over both protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from otel_netmon.config.model import Otlp
from otel_netmon.export.otlp import OtlpSink
from otel_netmon.export.otlp_metrics import count_points
from otel_netmon.otel.catalogue import CATALOGUE
from otel_netmon.otel.points import HistogramSeries, Snapshot
from otel_netmon.otel.resource import build_resource
from support import collectors
from support.collectors import Collector
from support.otlp_receiver import wait_until
from support.points import Exponential, Histogram, Point, points_of_otlp_json
from support.snapshots import END, OF_PROCESS, PROCESS, START, every_metric, flows

pytestmark = pytest.mark.collector

RUNNERS = {"otelcol": collectors.otelcol, "rotel": collectors.rotel}
Runner = Callable[[Path], AbstractContextManager[Collector]]
Form = Literal["exponential", "explicit"]


def by_series(points: Iterable[Point]) -> dict[str, Point]:
    """Points by name, attributes and resource, of which there is one each."""
    result = {f"{each.name}{sorted(each.attributes.items())}{sorted(each.resource.items())}": each for each in points}
    return dict(sorted(result.items()))


def expected(snapshot: Snapshot, form: Form, own: Mapping[str, str]) -> Iterator[Point]:
    """A process has its own resource and the place of the agent's."""
    place = {key: value for key, value in own.items() if key.split(".")[0] in {"host", "os", "deployment"}}
    resources: dict[bytes, Mapping[str, Any]] = {b"": own, OF_PROCESS: {**PROCESS, **place}}
    for metric in CATALOGUE.values():
        points = snapshot.points[metric.name]
        if metric.prometheus_only:
            continue
        if isinstance(points, HistogramSeries):
            kind = "exponentialHistogram" if form == "exponential" else "histogram"
            for row, attributes in enumerate(points.attributes):
                value = distribution(points, row, form)
                told = dict(attributes.items()), value, START, END, resources[attributes.resource]
                yield Point(metric.name, metric.unit, kind, *told)
            continue
        kind, start = ("gauge", 0) if metric.kind == "gauge" else ("sum", START)
        for point in points:
            identity = point.attributes, point.value, start, END, resources[point.resource]
            yield Point(metric.name, metric.unit, kind, *identity)


def distribution(points: HistogramSeries, row: int, form: Form) -> Histogram | Exponential:
    count, total = int(points.count[row]), float(points.sum[row])
    if form == "explicit":
        return Histogram(count, total, points.bounds.tolist(), points.bucket_counts[row].tolist())
    return Exponential(count, total, np.trim_zeros(points.buckets[row]).tolist())


@pytest.mark.parametrize("form", ["exponential", "explicit"])
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize("name", RUNNERS)
def test_every_metric_arrives_by_value(
    name: str, protocol: Literal["grpc", "http/protobuf"], form: Form, tmp_path: Path
) -> None:
    snapshot = every_metric()
    run: Runner = RUNNERS[name]
    with run(tmp_path) as collector:
        endpoint = collector.grpc if protocol == "grpc" else collector.http
        resource = build_resource({"deployment.environment.name": "test"})
        sink = OtlpSink("default", Otlp(endpoint=endpoint, protocol=protocol, histograms=form), resource)
        sink.start()
        sink.offer(snapshot)
        assert sink.flush(10.0), sink.stats()
        sink.shutdown(5.0)
        assert sink.stats()["points_delivered"] == count_points(snapshot)
        points = collector.wait_for(lambda points: len(points) >= count_points(snapshot))
    assert len(points) == count_points(snapshot)
    assert by_series(points) == by_series(expected(snapshot, form, resource))


def test_a_snapshot_of_several_requests_arrives_whole(tmp_path: Path) -> None:
    with collectors.otelcol(tmp_path) as collector:
        sink = OtlpSink("default", Otlp(endpoint=collector.grpc, protocol="grpc"), build_resource({}))
        sink.start()
        sink.offer(flows(20_000))
        assert sink.flush(30.0), sink.stats()
        sink.shutdown(5.0)
        assert sink.stats()["requests"] == 3
        points = collector.wait_for(lambda points: len(points) >= 20_000)
    assert sorted(point.value for point in points) == list(range(1, 20_001))


def test_the_end_of_a_series_arrives(tmp_path: Path) -> None:
    with collectors.otelcol(tmp_path) as collector:
        sink = OtlpSink("default", Otlp(endpoint=collector.http), build_resource({}))
        sink.start()
        for at, count in enumerate((3, 2)):
            sink.offer(flows(count, time_unix_nano=END + at))
            assert sink.flush(10.0), sink.stats()
        sink.shutdown(5.0)
        points = collector.wait_for(lambda points: len(points) >= 5)
        (output,) = tmp_path.glob("*.json")
        ended = points_of_otlp_json(output.read_text(), ends=True)
    assert [(point.value, point.time - END) for point in points] == [(1, 0), (2, 0), (3, 0), (1, 1), (2, 1)]
    assert [(point.attributes["server.port"], point.start_time, point.time) for point in ended] == [(3, START, END + 1)]


def test_a_collector_that_starts_later_receives_the_newest(tmp_path: Path) -> None:
    ports = collectors.free_ports(2)
    settings = Otlp(endpoint=f"http://127.0.0.1:{ports[0]}", protocol="grpc", timeout_seconds=1.0)
    sink = OtlpSink("default", settings, build_resource({}))
    sink.start()
    sink.offer(flows(3))
    wait_until(lambda: sink.stats()["requests"] > 0)
    sink.offer(flows(3, time_unix_nano=END + 1))
    with collectors.otelcol(tmp_path, (ports[0], ports[1])) as collector:
        assert sink.flush(60.0)
        points = collector.wait_for(lambda points: len(points) >= 3)
    sink.shutdown(2.0)
    assert sink.stats()["points_dropped"] == {"superseded": 3}
    assert [(point.value, point.time) for point in points] == [(1, END + 1), (2, END + 1), (3, END + 1)]

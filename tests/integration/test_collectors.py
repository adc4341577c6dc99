"""The test collectors themselves: what a stock OTLP exporter sends is read back by value from the collector's output."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram as SdkHistogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from support import collectors
from support.collectors import OTELCOL, Collector
from support.points import Histogram, Point

pytestmark = pytest.mark.collector

START, END = 1_700_000_000_000_000_001, 1_700_000_010_000_000_003
ATTRIBUTES: dict[str, str | int | float | bool] = {
    "client.address": "2001:db8::1",
    "server.port": 65535,
    "share": 0.25,
    "last": False,
}
RESOURCE: dict[str, str | list[str]] = {"service.name": "otel-netmon", "host.ip": ["192.0.2.1", "192.0.2.2"]}
BYTES = 2**53 + 1  # what a double cannot hold

EXPECTED = [
    Point("netmon.flow.io", "By", "sum", ATTRIBUTES, BYTES, START, END, RESOURCE),
    Point("netmon.coverage", "1", "gauge", {"network.interface.name": "lo"}, 0.9375, 0, END, RESOURCE),
    Point("netmon.tcp.rtt", "s", "histogram", {}, Histogram(3, 1.5, [0.1, 1.0], [1, 1, 1]), START, END, RESOURCE),
]

EXPORTERS: dict[str, Callable[[Collector], MetricExporter]] = {
    "grpc": lambda collector: GrpcExporter(endpoint=collector.grpc, insecure=True),
    "http": lambda collector: HttpExporter(endpoint=f"{collector.http}/v1/metrics"),
}
COLLECTORS = {"otelcol": collectors.otelcol, "rotel": collectors.rotel}


def known_metrics() -> MetricsData:
    """The metrics of EXPECTED as the SDK's data classes."""
    total = NumberDataPoint(attributes=ATTRIBUTES, start_time_unix_nano=START, time_unix_nano=END, value=BYTES)
    gauge = NumberDataPoint(
        attributes={"network.interface.name": "lo"}, start_time_unix_nano=0, time_unix_nano=END, value=0.9375
    )
    histogram = HistogramDataPoint(
        attributes={},
        start_time_unix_nano=START,
        time_unix_nano=END,
        count=3,
        sum=1.5,
        bucket_counts=[1, 1, 1],
        explicit_bounds=[0.1, 1.0],
        min=0.05,
        max=1.2,
    )
    cumulative = AggregationTemporality.CUMULATIVE
    metrics = [
        Metric("netmon.flow.io", "bytes", "By", Sum([total], cumulative, is_monotonic=True)),
        Metric("netmon.coverage", "share", "1", Gauge([gauge])),
        Metric("netmon.tcp.rtt", "round trip", "s", SdkHistogram([histogram], cumulative)),
    ]
    scope = ScopeMetrics(InstrumentationScope("test", "1"), metrics, "")
    return MetricsData([ResourceMetrics(Resource(RESOURCE), [scope], "")])


def by_name(points: list[Point]) -> list[Point]:
    return sorted(points, key=lambda point: point.name)


def send(protocol: str, collector: Collector) -> None:
    exporter = EXPORTERS[protocol](collector)
    try:
        assert exporter.export(known_metrics()) is MetricExportResult.SUCCESS
    finally:
        exporter.shutdown()


@pytest.mark.parametrize("protocol", EXPORTERS)
@pytest.mark.parametrize("name", COLLECTORS)
def test_points_come_back_by_value(name: str, protocol: str, tmp_path: Path) -> None:
    with COLLECTORS[name](tmp_path) as collector:
        send(protocol, collector)
        received = collector.wait_for(lambda points: len(points) >= len(EXPECTED))
        assert by_name(received) == by_name(EXPECTED)
        assert collector.received("netmon.coverage") == [EXPECTED[1]]


@pytest.mark.parametrize("name", COLLECTORS)
def test_nothing_is_left_of_a_collector(name: str, tmp_path: Path) -> None:
    with COLLECTORS[name](tmp_path) as collector:
        port = int(collector.grpc.rpartition(":")[2])
        assert collector.process.poll() is None
    assert collector.process.returncode == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize("name", COLLECTORS)
def test_a_collector_that_cannot_listen_is_an_error_with_its_log(name: str, tmp_path: Path) -> None:
    (http,) = collectors.free_ports(1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        grpc = taken.getsockname()[1]
        with pytest.raises(AssertionError, match="does not listen"), COLLECTORS[name](tmp_path, (grpc, http)):
            pytest.fail("it said that it listens")


def test_points_that_do_not_come_are_told(otelcol: Collector) -> None:
    with pytest.raises(AssertionError, match=r"otelcol did not receive it within 0\.1 s; it has 0 points"):
        otelcol.wait_for(bool, seconds=0.1)


def test_the_gateway_passes_points_on(project: Path, tmp_path: Path, otelcol: Collector) -> None:
    grpc, http = collectors.free_ports(2)
    environment = os.environ | {
        "OTELCOL_GRPC": f"127.0.0.1:{grpc}",
        "OTELCOL_HTTP": f"127.0.0.1:{http}",
        "OTELCOL_TELEMETRY": "none",
        "OTEL_BACKEND_ENDPOINT": otelcol.http,
    }
    log = tmp_path / "gateway.log"
    with log.open("wb") as output, contextlib.ExitStack() as stack:
        process = subprocess.Popen(
            [OTELCOL, "--config", project / "collector-config" / "gateway.yaml"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        stack.callback(process.wait, 15)
        stack.callback(process.terminate)
        gateway = Collector("gateway", f"http://127.0.0.1:{grpc}", f"http://127.0.0.1:{http}", log, process, list, log)
        deadline = time.monotonic() + 20
        while b"Everything is ready" not in log.read_bytes():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        send("grpc", gateway)
        received = otelcol.wait_for(lambda points: len(points) >= len(EXPECTED))
    assert by_name(received) == by_name(EXPECTED)

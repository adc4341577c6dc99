"""A real Prometheus scrapes the page and gives every value back: numbers, hostile labels, native and classic histograms."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from otel_netmon.export import prometheus_protobuf, prometheus_text
from otel_netmon.export.http_server import Server
from otel_netmon.export.prometheus_protobuf import ZERO_THRESHOLD
from otel_netmon.otel.attributes import AttributeSet
from otel_netmon.otel.catalogue import CATALOGUE, Metric
from otel_netmon.otel.points import Exemplar, HistogramSeries, Point, Snapshot
from support.distributions import histogram_series
from support.otlp_receiver import wait_until
from support.prometheus_samples import Sample, samples_of, whole_catalogue
from support.snapshots import START

HOSTILE = 'a"b\\c\nd\x00e\udcff'


pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="no prometheus on PATH; remedy: apt-get install prometheus"
)


@contextlib.contextmanager
def prometheus(directory: Path, port: int, server: Server, *flags: str) -> Iterator[None]:
    """Prometheus scrapes the server ten times a second; ready when it has the first page."""
    config = directory / "prometheus.yml"
    target = f"127.0.0.1:{server.address[1]}"
    job = {"job_name": "netmon", "static_configs": [{"targets": [target]}]}
    config.write_text(
        json.dumps({"global": {"scrape_interval": "100ms", "scrape_timeout": "100ms"}, "scrape_configs": [job]})
    )
    arguments = [
        f"--config.file={config}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            ["prometheus", *arguments, *flags], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        wait_until(lambda: bool(query(port, "target_info")), 30.0)
        yield
    finally:
        process.terminate()
        process.wait(20)


@contextlib.contextmanager
def serving(snapshot: Snapshot) -> Iterator[Server]:
    server = Server("127.0.0.1:0", lambda: snapshot, dict, lambda: True, resource={"service.name": "otel-netmon"})
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.mark.parametrize("flags", [(), ("--enable-feature=native-histograms",)])
def test_prometheus_has_every_value(tmp_path: Path, free_port: int, flags: tuple[str, ...]) -> None:
    """Without native histograms it asks for OpenMetrics, with them for protobuf."""
    snapshot = whole_catalogue()
    before = snapshot.points["system.network.io"]
    assert not isinstance(before, HistogramSeries)
    hostile = Point({"network.interface.name": HOSTILE, "network.io.direction": "receive"}, 7, snapshot.time_unix_nano)
    shown = Snapshot(snapshot.time_unix_nano, {**snapshot.points, "system.network.io": [*before, hostile]})
    with serving(shown) as server, prometheus(tmp_path, free_port, server, *flags):
        series = query(free_port, '{job="netmon"}')
    wanted = [("target_info", {"service_name": "otel-netmon"}, 1.0)]
    distributions = tuple(f"{each.prometheus_name}_" for each in CATALOGUE.values() if each.kind == "histogram")
    for name, labels, value in samples_of(shown):
        if labels.get("network_interface_name") == HOSTILE:
            labels["network_interface_name"] = 'a"b\\c\nd\ufffd0000e\ufffddcff'
        if not flags or not name.startswith(distributions):
            wanted.append((name, labels, value))
    found = samples(series)
    # Only OpenMetrics tells as series of their own when counting began; protobuf does by a field.
    created = [each for each in found if each[0].endswith("_created")]
    counting = [points for name, points in shown.points.items() if CATALOGUE[name].kind in {"counter", "histogram"}]
    assert len(created) == (0 if flags else sum(map(len, counting)))
    assert in_order(each for each in found if each not in created) == in_order(wanted)
    native = {each["metric"]["__name__"]: int(each["histogram"][1]["count"]) for each in series if "histogram" in each}
    points = {CATALOGUE[name].prometheus_name: points for name, points in shown.points.items()}
    histograms = {name: each.count[-1] for name, each in points.items() if isinstance(each, HistogramSeries)}
    assert native == (histograms if flags else {})


BOUNDS = (0.0009765625, 0.03125, 0.25, 1.0, 4.0, 1048576.0)
DURATIONS = {
    "tcp": [2.0**-10] * 10 + [2.0**-3] * 70 + [2.0**1] * 20,
    "udp": [0.0] * 5 + [2.0**-30] * 15,
    "sctp": [8.0] * 3,
}
SCALES = [3, 20, -2]


def durations(monkeypatch: pytest.MonkeyPatch) -> Snapshot:
    """A histogram of three series, beside a metric of the catalogue."""
    metric = Metric("test.duration", "s", "histogram", float, "How long it took.", ("network.transport",))
    for module in (prometheus_text, prometheus_protobuf):
        monkeypatch.setattr(module, "CATALOGUE", MappingProxyType({**CATALOGUE, metric.name: metric}))
    now = time.time_ns()
    mark = Exemplar(2.0, now, bytes(range(16)), bytes(range(8)))
    sets = [AttributeSet.of({"network.transport": transport}) for transport in DURATIONS]
    series = histogram_series(sets, [START] * 3, list(DURATIONS.values()), SCALES, BOUNDS, [[mark], [], []])
    return Snapshot(now, {metric.name: series})


def by_transport(port: int, expression: str) -> dict[str, float]:
    return {each["metric"]["network_transport"]: float(each["value"][1]) for each in query(port, expression)}


def test_native_histograms_have_count_sum_and_quantiles(
    tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quantiles lie in the bucket that holds the measurement of that rank: within a factor of the base of the scale."""
    flags = ("--enable-feature=native-histograms,exemplar-storage",)
    with serving(durations(monkeypatch)) as server, prometheus(tmp_path, free_port, server, *flags):
        counts = by_transport(free_port, "histogram_count(test_duration_seconds)")
        sums = by_transport(free_port, "histogram_sum(test_duration_seconds)")
        quantiles = {
            q: by_transport(free_port, f"histogram_quantile({q}, test_duration_seconds)")
            for q in (0.05, 0.5, 0.79, 0.95)
        }
        shares = by_transport(free_port, "histogram_fraction(-1, 0.125, test_duration_seconds)")
        classic = query(free_port, "test_duration_seconds_bucket")
        exemplars = get(free_port, "query_exemplars", query="test_duration_seconds", start=0, end=2**33)["data"]
    assert counts == {transport: len(values) for transport, values in DURATIONS.items()}
    assert sums == {transport: sum(values) for transport, values in DURATIONS.items()}
    assert classic == []
    for q, found in quantiles.items():
        for (transport, values), scale in zip(DURATIONS.items(), SCALES, strict=True):
            exact = sorted(values)[math.ceil(q * len(values)) - 1]
            base = 2.0 ** (2.0 ** -min(scale, 8))
            assert exact / base <= found[transport] <= max(exact * base * (1 + 1e-9), ZERO_THRESHOLD), (q, transport)
    assert shares["tcp"] == pytest.approx(0.8)
    assert shares["udp"] == 1.0
    (series,) = exemplars
    assert [(each["labels"], float(each["value"])) for each in series["exemplars"]] == [
        ({"trace_id": "000102030405060708090a0b0c0d0e0f", "span_id": "0001020304050607"}, 2.0)
    ]


def test_classic_histograms_have_every_bucket(tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--enable-feature=exemplar-storage",)
    with serving(durations(monkeypatch)) as server, prometheus(tmp_path, free_port, server, *flags):
        series = query(free_port, '{__name__=~"test_duration_seconds.*"}')
        quantile = by_transport(free_port, "histogram_quantile(0.5, test_duration_seconds_bucket)")
        exemplars = get(free_port, "query_exemplars", query="test_duration_seconds_bucket", start=0, end=2**33)["data"]
    limits = ["0.0009765625", "0.03125", "0.25", "1.0", "4.0", "1.048576e+06", "+Inf"]
    wanted = []
    for transport, values in DURATIONS.items():
        labels = {"network_transport": transport}
        for text, limit in zip(limits, [*BOUNDS, math.inf], strict=True):
            count = sum(value <= limit for value in values)
            wanted.append(("test_duration_seconds_bucket", {**labels, "le": text}, float(count)))
        for suffix, value in (("count", len(values)), ("sum", sum(values)), ("created", START / 1e9)):
            wanted.append((f"test_duration_seconds_{suffix}", labels, float(value)))
    assert in_order(samples(series)) == in_order(wanted)
    assert 0.03125 <= quantile["tcp"] <= 0.25
    (exemplar,) = (each for found in exemplars for each in found["exemplars"])
    assert exemplar["labels"]["trace_id"] == "000102030405060708090a0b0c0d0e0f"


def query(port: int, expression: str) -> list[dict[str, Any]]:
    """Result of an instant query; nothing while Prometheus is starting."""
    try:
        result: list[dict[str, Any]] = get(port, "query", query=expression)["data"]["result"]
    except OSError:
        return []
    return result


def get(port: int, what: str, **parameters: str | int) -> dict[str, Any]:
    """An answer of Prometheus' HTTP API."""
    url = f"http://127.0.0.1:{port}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=10) as response:
        answer: dict[str, Any] = json.load(response)
        return answer


def samples(series: list[dict[str, Any]]) -> list[Sample]:
    """Name, labels and value of all series of ours that are no native histograms."""
    found = []
    for each in series:
        labels = {key: value for key, value in each["metric"].items() if key not in {"__name__", "job", "instance"}}
        name = each["metric"]["__name__"]
        if "value" in each and name != "up" and not name.startswith("scrape_"):
            found.append((name, labels, float(each["value"][1])))
    return found


def in_order(found: Iterable[Sample]) -> list[tuple[str, list[tuple[str, str]], float]]:
    return sorted((name, sorted(labels.items()), value) for name, labels, value in found)

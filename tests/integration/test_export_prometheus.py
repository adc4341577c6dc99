"""A real Prometheus scrapes the page and gives every value back."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from otel_netmon.export.http_server import Server
from otel_netmon.otel.catalogue import CATALOGUE
from otel_netmon.otel.points import Point, Snapshot
from support.otlp_receiver import wait_until
from support.snapshots import every_metric

HOSTILE = 'a"b\\c\nd\x00e\udcff'


@pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="no prometheus on PATH; remedy: apt-get install prometheus"
)
def test_prometheus_has_every_value(tmp_path: Path, free_port: int) -> None:
    snapshot = every_metric()
    hostile = Point({"network.interface.name": HOSTILE, "network.io.direction": "receive"}, 7, snapshot.time_unix_nano)
    points = {**snapshot.points, "system.network.io": [*snapshot.points["system.network.io"], hostile]}
    shown = Snapshot(snapshot.time_unix_nano, points)
    server = Server("127.0.0.1:0", lambda: shown, dict, lambda: True, resource={"service.name": "otel-netmon"})
    server.start()
    config = tmp_path / "prometheus.yml"
    target = f"127.0.0.1:{server.address[1]}"
    job = {"job_name": "netmon", "static_configs": [{"targets": [target]}]}
    config.write_text(
        json.dumps({"global": {"scrape_interval": "100ms", "scrape_timeout": "100ms"}, "scrape_configs": [job]})
    )
    with (tmp_path / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={tmp_path / 'data'}",
                f"--web.listen-address=127.0.0.1:{free_port}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: bool(query(free_port, "target_info")), 30.0)
        series = query(free_port, '{job="netmon"}')
    finally:
        process.terminate()
        process.wait(20)
        server.stop()
    assert query_result(series, "target_info") == [({"service_name": "otel-netmon"}, 1.0)]
    for name, metric in CATALOGUE.items():
        expected = [
            (
                {key.replace(".", "_"): as_label(value) for key, value in sorted(point.attributes.items())},
                float(point.value),
            )
            for point in points[name]
        ]
        assert query_result(series, metric.prometheus_name) == sorted(expected, key=repr), (
            tmp_path / "prometheus.log"
        ).read_text()


def as_label(value: object) -> str:
    if value == HOSTILE:
        return 'a"b\\c\nd\ufffd0000e\ufffddcff'
    return str(value).lower() if isinstance(value, bool) else str(value)


def query(port: int, expression: str) -> list[dict[str, Any]]:
    """Result of an instant query; nothing while Prometheus is starting."""
    url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            result: list[dict[str, Any]] = json.load(response)["data"]["result"]
            return result
    except OSError:
        return []


def query_result(series: list[dict[str, Any]], name: str) -> list[tuple[dict[str, str], float]]:
    """Labels and value of every series of that name."""
    found = []
    for each in series:
        labels = dict(each["metric"])
        if labels.pop("__name__") == name:
            del labels["job"], labels["instance"]
            found.append((dict(sorted(labels.items())), float(each["value"][1])))
    return sorted(((dict(labels), value) for labels, value in found), key=repr)

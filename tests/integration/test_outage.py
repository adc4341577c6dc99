"""A real collector that is away, and an agent's export that is killed meanwhile: what arrives in the end, and in which order."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from scripts.local_collector import ROOT
from support import collectors
from support.points import points_of_otlp_json

pytestmark = pytest.mark.collector

PIPELINES = """
service:
  pipelines:
    traces: {receivers: [otlp], exporters: [file]}
    logs: {receivers: [otlp], exporters: [file]}
"""
"""Beside what collector-config/otelcol.yaml has, so that one file tells the order of all signals."""

EXPORTER = """
import pathlib, sys, threading, time
from otel_netmon.config.model import Otlp
from otel_netmon.export.otlp import OtlpSink
from otel_netmon.export.spool import Spool
from support.delivery import events, snapshot, spans

directory, endpoint, protocol, first, count = sys.argv[1:]
settings = Otlp(endpoint=endpoint, protocol=protocol, timeout_seconds=2.0)
sink = OtlpSink("default", settings, {"service.name": "outage"}, spool=Spool(pathlib.Path(directory), 64 << 20))
sink.start()
for number in range(int(first), int(first) + int(count)):
    sink.offer(snapshot(number, 10 * number, at=1_700_000_000_000_000_000 + number))
    sink.offer_spans(spans(2 * number, 2 * number + 1))
    sink.offer_events(events(number))
    sink.send_now()
    while sink._delivery.in_memory():
        time.sleep(0.001)
    print("kept", number, flush=True)
line = sys.stdin.readline()
if line == "flush\\n":
    print("flushed", sink.flush(60.0), flush=True)
    sink.shutdown(5.0)
    stats = sink.stats()
    print("dropped", sum(sum(row.values()) for row in
        (stats["points_dropped"], stats["spans"]["dropped"], stats["log_records"]["dropped"])), flush=True)
"""


@dataclass
class Arrived:
    """What the collector wrote, in the order of its file: counters by time, spans and events by number."""

    snapshots: list[tuple[int, int]]
    spans: list[int]
    events: list[int]

    def last(self) -> tuple[list[int], list[int], list[int]]:
        """Numbers of each signal."""
        return [number for number, _ in self.snapshots], self.spans, self.events


def arrived(path: Path) -> Arrived:
    text = path.read_text()
    points = [point for point in points_of_otlp_json(text) if isinstance(point.value, int)]
    result = Arrived([(point.time - 1_700_000_000_000_000_000, int(str(point.value))) for point in points], [], [])
    for line in text[: text.rfind("\n") + 1].splitlines():
        document = json.loads(line)
        for scope in _scopes(document, "resourceSpans", "scopeSpans"):
            result.spans += [int(span["startTimeUnixNano"]) for span in scope["spans"]]
        for scope in _scopes(document, "resourceLogs", "scopeLogs"):
            # A record at the nanosecond 0 has no time in JSON.
            result.events += [int(record.get("timeUnixNano", 0)) for record in scope["logRecords"]]
    return result


def _scopes(document: dict[str, Any], outer: str, inner: str) -> list[dict[str, Any]]:
    return [scope for resource in document.get(outer, []) for scope in resource[inner]]


@contextlib.contextmanager
def otelcol(directory: Path, ports: tuple[int, int], output: Path) -> Iterator[None]:
    """The collector of the project with two pipelines more."""
    more = directory / "pipelines.yaml"
    more.write_text(PIPELINES)
    output.touch()
    environment = {
        "OTELCOL_GRPC": f"127.0.0.1:{ports[0]}",
        "OTELCOL_HTTP": f"127.0.0.1:{ports[1]}",
        "OTELCOL_FILE": str(output),
    }
    config = ROOT / "collector-config" / "otelcol.yaml"
    command = [str(collectors.OTELCOL), "--config", str(config), "--config", str(more)]
    with collectors._running("otelcol", command, environment, ports, directory, list):
        yield


@contextlib.contextmanager
def exporter(directory: Path, endpoint: str, protocol: str, first: int, count: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", EXPORTER, str(directory), endpoint, protocol, str(first), str(count)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], wanted: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line == f"{wanted}\n":
            return
    msg = f"the exporter ended before it said {wanted!r}"
    raise AssertionError(msg)


def repeats(numbered: list[Any]) -> int:
    """How many came again."""
    return len(numbered) - len(set(numbered))


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_collector_that_starts_late_and_an_exporter_that_is_killed_twice(
    protocol: Literal["http/protobuf", "grpc"], tmp_path: Path
) -> None:
    ports = collectors.free_ports(2)
    endpoint = f"http://127.0.0.1:{ports[0 if protocol == 'grpc' else 1]}"
    spool, output = tmp_path / "spool", tmp_path / "arrived.json"
    first, more, last = 200, 400, 20
    with exporter(spool, endpoint, protocol, 1, first) as process:
        read_until(process, f"kept {first}")
        process.kill()  # while the collector is away
    with contextlib.ExitStack() as running:
        with exporter(spool, endpoint, protocol, 1 + first, more) as process:
            read_until(process, f"kept {first + more}")
            running.enter_context(otelcol(tmp_path, (ports[0], ports[1]), output))
            wait_for(lambda: len(output.read_bytes()) > 20_000)
            process.kill()  # while it delivers
        assert 0 < sum(map(len, arrived(output).last())) < 5 * (first + more)
        total = first + more + last
        with exporter(spool, endpoint, protocol, 1 + first + more, last) as process:
            assert process.stdin is not None
            read_until(process, f"kept {total}")
            process.stdin.write("flush\n")
            process.stdin.flush()
            read_until(process, "flushed True")
            read_until(process, "dropped 0")
        wait_for(lambda: [max(each, default=0) for each in arrived(output).last()] == [total, 2 * total + 1, total])
    after = arrived(output)
    numbers = range(1, total + 1)
    assert sorted(set(after.snapshots)) == sorted((number, value * number) for number in numbers for value in (1, 10))
    assert sorted(set(after.spans)) == list(range(2, 2 * total + 2))
    assert sorted(set(after.events)) == list(numbers)
    # The kill within the delivery sends one request again at most.
    assert repeats(after.snapshots) / 2 + repeats(after.spans) / 2 + repeats(after.events) <= 1
    for signal in after.last():
        firsts = list(dict.fromkeys(signal))
        assert firsts == sorted(firsts)
    assert list(spool.rglob("*.segment")) == []


def wait_for(condition: Callable[[], bool]) -> None:
    """Looks ten times a second, longer than the longest wait between two attempts."""
    deadline = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)

"""Points, spans and events about processes through a real collector: an outage, a restart, and differences from before it."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from otel_netmon.checkpoint import Checkpoint
from otel_netmon.config.model import Otlp
from otel_netmon.export.otlp import OtlpSink
from otel_netmon.export.spool import Spool
from otel_netmon.otel.attributes import AttributeSet, Value, encoded_resource
from otel_netmon.otel.points import NumberSeries, Snapshot
from otel_netmon.otel.snapshot_state import restored_snapshot, snapshot_state
from support import collectors
from support.delivery import events, spans
from support.otlp_receiver import wait_until
from support.points import Point
from support.snapshots import END, START

pytestmark = pytest.mark.collector

OWN = {"service.name": "otel-netmon", "service.instance.id": "4d63009a", "host.name": "node-1"}
IO, COUNT = "netmon.flow.io", "netmon.series.active"
PORTS = (80, 443)
PROCESSES = 101


def resource(pid: int) -> dict[str, Value]:
    """Of a process; the agent's own for none."""
    return {"service.name": f"service-{pid % 7}", "process.pid": pid} if pid else {}


def snapshot(values: dict[int, int], time: int) -> Snapshot:
    """Two counters for each pid with this value and its double, in an order in which no two of a process follow each other."""
    sets = [AttributeSet.of({"server.port": port}, resource(pid)) for port in PORTS for pid in values]
    counts = np.array([value * factor for factor in (1, 2) for value in values.values()])
    series = NumberSeries(sets, np.full(len(sets), START, np.uint64), counts)
    return Snapshot(time, {IO: series, COUNT: series})


def through_a_checkpoint(base: Snapshot) -> Snapshot:
    fds = [os.memfd_create(f"test-{number}") for number in range(2)]
    try:
        Checkpoint(fds).save({"otlp.default": snapshot_state(base)})
        loaded = Checkpoint(fds).load()
    finally:
        for fd in fds:
            os.close(fd)
    assert loaded is not None
    return restored_snapshot(loaded["otlp.default"])


def pid_of(point: Point) -> int:
    """The process, whose resource is whole: its own attributes and the place of the agent's."""
    pid = point.resource.get("process.pid", 0)
    assert isinstance(pid, int)
    assert point.resource == ({**resource(pid), "host.name": "node-1"} if pid else OWN)
    return pid


def attributes(message: dict[str, Any]) -> dict[str, Any]:
    return {pair["key"]: next(iter(pair["value"].values())) for pair in message["attributes"]}


def items(text: str, resources: str, scopes: str, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The pid of each span or log record, ``0`` for the agent's own, and what the collector wrote of it."""
    for line in text.splitlines():
        for each in json.loads(line).get(resources, ()):
            found = attributes(each["resource"])
            assert ("service.instance.id" in found) is ("process.pid" not in found)
            assert found["host.name"] == "node-1"
            yield from ((found.get("process.pid", "0"), item) for scope in each[scopes] for item in scope[name])


def test_differences_by_process_go_on_over_an_outage_and_a_restart(tmp_path: Path) -> None:
    ports = collectors.free_ports(2)
    settings = Otlp(endpoint=f"http://127.0.0.1:{ports[1]}", temporality="delta", timeout_seconds=2.0)
    pids = range(PROCESSES)
    first = {pid: 3 + pid for pid in pids}
    second = {pid: first[pid] + 5 * (pid % 3) for pid in reversed(pids) if pid % 10 != 9} | {PROCESSES: 11}

    sink = OtlpSink("default", settings, OWN, spool=Spool(tmp_path / "spool", 64 << 20))
    sink.start()
    sink.offer(snapshot(first, END))
    sink.offer_spans(replace(spans(1, 2, 3), resources=[encoded_resource(resource(pid)) for pid in (7, 0, 7)]))
    wait_until(lambda: sink.base is not None)
    assert sink.base is not None
    base = through_a_checkpoint(sink.base)
    sink.shutdown(2.0)

    sink = OtlpSink("default", settings, OWN, spool=Spool(tmp_path / "spool", 64 << 20))
    sink.resume(base)
    sink.start()
    sink.offer(snapshot(second, END + 1))
    sink.offer_events([replace(each, resource=encoded_resource(resource(8))) for each in events(4)])
    expected = 4 * len(first) + 4 * len(second) + 4 * sum(pid % 10 == 9 for pid in pids)
    with collectors.otelcol(tmp_path, (ports[0], ports[1]), all_signals=True) as collector:
        assert sink.flush(30.0), sink.stats()
        sink.shutdown(5.0)
        collector.wait_for(lambda found: len(found) + len(collector.ends()) >= expected)
        wait_until(lambda: len(collector.spans()) >= 3 and b"resourceLogs" in collector.output.read_bytes())
        text = collector.output.read_text()
        points, ends = collector.received(), collector.ends()
    assert len(points) + len(ends) == expected

    gained: Counter[tuple[int, Any]] = Counter()
    for point in points:
        if point.name == IO:
            gained[pid_of(point), point.attributes["server.port"]] += point.value
            assert point.start_time == (END if point.time == END + 1 and pid_of(point) in first else START)
    last = {**first, **second}
    assert gained == {(pid, port): last[pid] * factor for pid in last for factor, port in enumerate(PORTS, start=1)}
    levels = {(pid_of(p), p.attributes["server.port"]): p.value for p in points if (p.name, p.time) == (COUNT, END + 1)}
    assert levels == {(pid, port): second[pid] * factor for pid in second for factor, port in enumerate(PORTS, start=1)}
    gone = Counter((point.name, pid_of(point), point.attributes["server.port"]) for point in ends)
    assert gone == dict.fromkeys(
        ((n, pid, port) for n in (IO, COUNT) for pid in pids if pid % 10 == 9 for port in PORTS), 1
    )

    sent = {(pid, span["startTimeUnixNano"]) for pid, span in items(text, "resourceSpans", "scopeSpans", "spans")}
    assert sent == {("7", "1"), ("0", "2"), ("7", "3")}
    told = {(pid, record["timeUnixNano"]) for pid, record in items(text, "resourceLogs", "scopeLogs", "logRecords")}
    assert told == {("8", "4")}

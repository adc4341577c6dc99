"""Several resources in one request, by hand-picked cases; mixes of all kinds are in the property tests of the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_netmon.export.otlp_logs import event_requests
from otel_netmon.export.otlp_metrics import metric_requests
from otel_netmon.export.otlp_resources import SeriesOrders, order, runs
from otel_netmon.export.otlp_spans import span_requests
from otel_netmon.export.otlp_wire import MAX_BYTES, MAX_ITEMS, Envelope
from otel_netmon.export.requests import Request
from otel_netmon.otel.attributes import AttributeSet, Value, encoded_resource
from otel_netmon.otel.points import NumberSeries, Snapshot
from otel_netmon.otel.temporality import Temporality
from support.delivery import events, spans
from support.distributions import histogram_series
from support.otlp_requests import flat, parsed
from support.snapshots import END, START

AGENT = {
    "service.name": "otel-netmon",
    "service.instance.id": "4d63009a",
    "host.name": "node-1",
    "host.id": "0123",
    "os.type": "linux",
    "team": "network",
}
HOST = {"host.name": "node-1", "host.id": "0123", "os.type": "linux"}
ENVELOPE = Envelope(AGENT)
PROCESSES: list[dict[str, Value]] = [{"service.name": f"service-{pid}", "process.pid": pid} for pid in range(3)]
IO, PACKETS, DURATION = "netmon.flow.io", "netmon.flow.packets", "netmon.pipeline.cycle.duration"


def numbers(*series: tuple[int, int | None], start: int = START) -> NumberSeries:
    """A point for each port and process, None being the agent; the value is the place."""
    sets = [AttributeSet.of({"server.port": port}, PROCESSES[pid] if pid is not None else None) for port, pid in series]
    return NumberSeries(sets, start + np.arange(len(sets), dtype=np.uint64), np.arange(len(sets)))


def requests(
    snapshot: Snapshot,
    previous: Snapshot | None = None,
    temporality: Temporality = "cumulative",
    max_items: int = MAX_ITEMS,
    max_bytes: int = MAX_BYTES,
) -> list[Request]:
    return list(
        metric_requests(
            snapshot,
            ENVELOPE,
            previous=previous,
            temporality=temporality,
            histograms="explicit",
            max_items=max_items,
            max_bytes=max_bytes,
        )
    )


def attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


def layout(request: Request) -> list[tuple[Any, dict[str, list[int]]]]:
    """Of each resource the pid, and by metric the ports."""
    found = []
    for each in parsed(request).resource_metrics:
        (scope,) = each.scope_metrics
        names = [metric.name for metric in scope.metrics]
        assert len(set(names)) == len(names)
        ports = {
            one.name: [point.attributes[0].value.int_value for point in one.sum.data_points] for one in scope.metrics
        }
        found.append((attributes(each.resource.attributes).get("process.pid"), ports))
    return found


def test_a_process_has_the_host_of_the_agent_and_nothing_else_of_it() -> None:
    (request,) = requests(Snapshot(END, {IO: numbers((1, None), (1, 0))}))
    own, process = (attributes(each.resource.attributes) for each in parsed(request).resource_metrics)
    assert own == AGENT
    assert process == {**PROCESSES[0], **HOST}


@pytest.mark.parametrize(
    "resource",
    [
        {"host.name": "a pod's own"},
        {"note": "\n\thost.name"},
        {"note": "\n\thost.name\x12\x03\n\x01x", "host.id": "7"},
        {"host": "x", "host.names": "y"},
    ],
)
def test_what_a_resource_says_of_its_host_itself_wins(resource: dict[str, Value]) -> None:
    sets = [AttributeSet.of({}, resource)]
    series = NumberSeries(sets, np.array([START], np.uint64), np.array([1]))
    (request,) = requests(Snapshot(END, {IO: series}))
    (found,) = parsed(request).resource_metrics
    assert attributes(found.resource.attributes) == {**HOST, **resource}
    assert len(found.resource.attributes) == len({**HOST, **resource})


def test_each_resource_and_each_metric_of_it_stands_once() -> None:
    mixed = numbers((1, None), (2, 1), (3, 0), (4, None), (5, 1))
    (request,) = requests(Snapshot(END, {IO: mixed, PACKETS: numbers((6, 2), (7, 1), (8, None), (9, 2))}))
    assert layout(request) == [
        (None, {IO: [1, 4], PACKETS: [8]}),
        (1, {IO: [2, 5], PACKETS: [7]}),
        (0, {IO: [3]}),
        (2, {PACKETS: [6, 9]}),
    ]


def test_requests_are_cut_between_points_of_a_resource() -> None:
    mixed = numbers((1, 0), (2, 1), (3, 0), (4, 1), (5, 0))
    assert [layout(request) for request in requests(Snapshot(END, {IO: mixed}), max_items=2)] == [
        [(0, {IO: [1, 3]})],
        [(0, {IO: [5]}), (1, {IO: [2]})],
        [(1, {IO: [4]})],
    ]


def test_no_request_with_many_resources_is_a_byte_longer_than_the_limit() -> None:
    mixed = numbers(*[(port, pid) for port in range(12) for pid in (None, 0, 1, 2)])
    snapshot = Snapshot(END, {IO: mixed, PACKETS: mixed})
    for max_bytes in range(1200, 1500, 7):
        made = requests(snapshot, max_bytes=max_bytes)
        assert all(len(request.body) <= max_bytes for request in made)
        assert sum(request.items for request in made) == 96
        assert len(made) < 24


@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
def test_marks_are_of_the_resource_and_start_of_their_series(temporality: Temporality) -> None:
    before = numbers((1, 0), (2, None), (3, 1), (4, 0), (5, 1))
    now = numbers((1, 1), (2, None))
    (request,) = requests(Snapshot(END, {IO: now}), Snapshot(START + 100, {IO: before}), temporality)
    marks = [one for one in flat([parsed(request)]) if one.ended]
    found = {one.attributes["server.port"]: one.point.start_time_unix_nano - START for one in marks}
    wanted = dict.fromkeys((1, 3, 4, 5), 100) if temporality == "delta" else {1: 0, 3: 2, 4: 3, 5: 4}
    assert found == wanted
    assert layout(request) == [(1, {IO: [1, 3, 5]}), (None, {IO: [2]}), (0, {IO: [1, 4]})]


def test_differences_are_told_from_the_series_of_the_same_resource() -> None:
    order = [(port, pid) for port in (1, 2) for pid in (None, 0, 1)]
    before, now = numbers(*order), numbers(*reversed(order))
    now = replace(now, values=now.values[::-1] * 10, start_time_unix_nano=now.start_time_unix_nano[::-1])
    (request,) = requests(Snapshot(END, {IO: now}), Snapshot(START + 100, {IO: before}), "delta")
    found = flat([parsed(request)])
    assert [one.point.as_int for one in found] == [45, 18, 36, 9, 27, 0]
    assert [one.attributes["server.port"] for one in found] == [2, 1, 2, 1, 2, 1]
    assert {one.point.start_time_unix_nano for one in found} == {START + 100}


@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
def test_distributions_keep_their_resource_and_exemplars(temporality: Temporality) -> None:
    sets = [AttributeSet.of({"server.port": port}, PROCESSES[port % 2]) for port in range(4)]
    values = [[1.0] * port for port in range(4)]
    series = histogram_series(sets, [START] * 4, values, [3] * 4, [0.5])
    before = histogram_series(sets[::-1], [START] * 4, [[], [], [], []], [3] * 4, [0.5])
    (request,) = requests(Snapshot(END, {DURATION: series}), Snapshot(START + 1, {DURATION: before}), temporality)
    found = {
        attributes(each.resource.attributes)["process.pid"]: [
            (point.attributes[0].value.int_value, point.count)
            for point in each.scope_metrics[0].metrics[0].histogram.data_points
        ]
        for each in parsed(request).resource_metrics
    }
    first = [(2, 2)] if temporality == "delta" else [(0, 0), (2, 2)]
    assert found == {0: first, 1: [(1, 1), (3, 3)]}


def of_pids(pids: Sequence[int | None]) -> list[bytes]:
    return [encoded_resource(PROCESSES[pid]) if pid is not None else b"" for pid in pids]


def test_spans_and_events_stand_under_their_resource() -> None:
    pids = [1, None, 1, 0, None]
    batch = replace(spans(1, 2, 3, 4, 5), resources=of_pids(pids))
    (request,) = span_requests(batch, ENVELOPE)
    sent = ExportTraceServiceRequest.FromString(request.body).resource_spans
    assert [attributes(each.resource.attributes).get("process.pid") for each in sent] == [1, None, 0]
    assert [[one.start_time_unix_nano for one in each.scope_spans[0].spans] for each in sent] == [[1, 3], [2, 5], [4]]
    told = [replace(event, resource=each) for event, each in zip(events(1, 2, 3, 4, 5), of_pids(pids), strict=True)]
    (request,) = event_requests(told, ENVELOPE)
    logs = ExportLogsServiceRequest.FromString(request.body).resource_logs
    assert [attributes(each.resource.attributes).get("process.pid") for each in logs] == [1, None, 0]
    assert [[one.time_unix_nano for one in each.scope_logs[0].log_records] for each in logs] == [[1, 3], [2, 5], [4]]


def test_an_order_is_made_only_where_it_is_needed() -> None:
    assert order([]) is order([b"", b""]) is None
    for grouped in ([b"a"], [b"a", b"a", b"", b"b"]):
        found = order(grouped)
        assert found is not None
        assert found.rows is None
        assert found.runs(slice(0, None)) == runs(grouped)
    found = order([b"a", b"", b"a", b"b", b""])
    assert found is not None
    assert found.rows is not None
    assert found.rows.tolist() == [0, 2, 1, 4, 3]
    assert found.runs(slice(1, 4)) == [(b"a", 1), (b"", 2)]
    assert runs([b"a", b"a", b"", b"a"]) == [(b"a", 2), (b"", 1), (b"a", 1)]


def test_more_resources_than_sixteen_bits_number() -> None:
    resources = [b"%d" % (number % 65_537) for number in range(2 * 65_537)]
    found = order(resources)
    assert found is not None
    assert found.rows is not None
    assert found.rows[:4].tolist() == [0, 65_537, 1, 65_538]
    assert found.rows[-2:].tolist() == [65_536, 131_073]


def test_the_order_of_a_metric_is_kept_while_its_series_are_the_same() -> None:
    orders = SeriesOrders()
    first, second = numbers((1, 0), (2, 1), (3, 0)).attributes, numbers((1, None)).attributes
    found = orders.of(IO, first)
    assert found is not None
    assert orders.of(PACKETS, first) is found
    assert orders.of(DURATION, second) is None
    assert orders.of(IO, list(first)) is orders.of(PACKETS, list(first)) is found
    changed = orders.of(IO, [*first[:2], AttributeSet.of({"server.port": 3}, PROCESSES[2])])
    assert changed is not None
    assert changed.rows is None
    again = orders.of(PACKETS, list(first))
    assert again is found

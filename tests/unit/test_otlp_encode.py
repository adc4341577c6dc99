"""Requests by hand-picked cases: limits, ends of series, what the encoder needs at run time."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality

from otel_netmon.export.otlp_logs import event_requests
from otel_netmon.export.otlp_metrics import HistogramForm, count_points, metric_requests
from otel_netmon.export.otlp_spans import span_requests
from otel_netmon.export.otlp_wire import CHUNK, Envelope, varint_sizes, varints
from otel_netmon.export.requests import Request
from otel_netmon.otel.attributes import AttributeSet, varint
from otel_netmon.otel.catalogue import CATALOGUE
from otel_netmon.otel.points import NumberSeries, Point, Points, Snapshot
from otel_netmon.otel.spans import Event, Severity, SpanBatch, SpanKind, StatusCode
from otel_netmon.otel.temporality import Temporality
from support.distributions import histogram_series
from support.otlp_requests import RESOURCE, Sent, canonical, flat, parsed, stock
from support.snapshots import END, START, every_metric, flows

ENVELOPE = Envelope(RESOURCE)


def requests(
    snapshot: Snapshot,
    previous: Snapshot | None = None,
    temporality: Temporality = "cumulative",
    histograms: HistogramForm = "explicit",
    max_items: int = 8192,
    max_bytes: int = 3 << 20,
) -> list[Request]:
    return list(
        metric_requests(
            snapshot,
            ENVELOPE,
            previous=previous,
            temporality=temporality,
            histograms=histograms,
            max_items=max_items,
            max_bytes=max_bytes,
        )
    )


def sent(snapshot: Snapshot, previous: Snapshot | None = None, temporality: Temporality = "cumulative") -> list[Sent]:
    return flat(map(parsed, requests(snapshot, previous, temporality)))


@pytest.mark.parametrize("value", [0, 1, 127, 128, 2**14 - 1, 2**14, 2**35, 2**63, 2**64 - 1])
def test_varints(value: int) -> None:
    numbers = np.array([value, 5, value], np.uint64)
    data, ends = varints(numbers)
    assert data == varint(value) + varint(5) + varint(value)
    assert ends.tolist() == np.cumsum(varint_sizes(numbers)).tolist()


@pytest.mark.parametrize("histograms", ["explicit", "exponential"])
def test_every_metric_of_the_catalogue_equals_the_stock_encoder(histograms: HistogramForm) -> None:
    snapshot = every_metric()
    (request,) = requests(snapshot, histograms=histograms)
    assert request.items == count_points(snapshot)
    assert canonical(parsed(request)) == canonical(stock(snapshot, histograms))


def test_nothing_to_say_is_no_request() -> None:
    prometheus_only = next(name for name, metric in CATALOGUE.items() if metric.prometheus_only)
    assert requests(Snapshot(END, {})) == []
    assert requests(Snapshot(END, {"netmon.flow.io": [], prometheus_only: [Point({}, 1, START)]})) == []
    assert requests(Snapshot(END, {}), Snapshot(START, {prometheus_only: [Point({}, 1, START)]})) == []


def test_many_points_are_cut_at_either_limit() -> None:
    count = 2 * CHUNK + 3
    snapshot = flows(count)
    assert [request.items for request in requests(snapshot, max_items=1000)] == [1000, 1000, 1000, 1000, 99]
    by_size = requests(snapshot, max_bytes=100_000)
    assert all(95_000 < len(request.body) <= 100_000 for request in by_size[:-1])
    assert [one.point.as_int for one in flat(map(parsed, by_size))] == list(range(1, count + 1))


def test_no_request_is_a_byte_longer_than_the_limit() -> None:
    events = [Event("netmon.probe.state", END, Severity.WARN, "x" * (number % 7), b"") for number in range(20)]
    for max_bytes in range(400, 520):
        made = list(event_requests(events, ENVELOPE, 8192, max_bytes))
        assert sum(request.items for request in made) == len(events)
        assert all(len(request.body) <= max_bytes for request in made)
        assert len(made) < len(events)


def test_a_point_beyond_the_limit_goes_alone() -> None:
    names = ["a", "x" * 70_000, "b", "c", "y" * 300]
    snapshot = Snapshot(
        END, {"system.network.io": [Point({"network.interface.name": name}, 1, START) for name in names]}
    )
    cut = requests(snapshot, max_bytes=1500)
    assert [request.items for request in cut] == [1, 1, 3]
    assert [one.attributes["network.interface.name"] for one in flat(map(parsed, cut))] == names


def test_a_request_may_end_with_a_metric_and_the_next_begin_with_another() -> None:
    names = ["netmon.series.active", "netmon.series.limit", "netmon.flow.io"]
    snapshot = Snapshot(END, {name: [Point({}, 1, START)] for name in names})
    assert [[one.name for one in flat([parsed(each)])] for each in requests(snapshot, max_items=2)] == [
        names[:2],
        names[2:],
    ]


@pytest.mark.parametrize(("temporality", "start"), [("cumulative", START), ("lowmemory", START), ("delta", END)])
def test_a_series_that_ended_is_marked_once(temporality: Temporality, start: int) -> None:
    before, now, after = flows(3), flows(2, time_unix_nano=END + 5), flows(2, time_unix_nano=END + 10)
    assert not [one for one in sent(before, None, temporality) if one.ended]
    (mark,) = (one for one in sent(now, before, temporality) if one.ended)
    assert mark.attributes["server.port"] == 3
    assert (mark.point.start_time_unix_nano, mark.point.time_unix_nano) == (start, END + 5)
    assert mark.point.WhichOneof("value") is None
    assert not [one for one in sent(after, now, temporality) if one.ended]


def test_a_mark_never_starts_after_a_clock_that_was_set_back() -> None:
    (*_, mark) = sent(flows(1, time_unix_nano=END - 5), flows(2), "delta")
    assert (mark.ended, mark.point.start_time_unix_nano, mark.point.time_unix_nano) == (True, END - 5, END - 5)


def test_a_series_that_came_back_is_not_marked() -> None:
    points = [Point({"server.port": 1}, 7, START + 1)]
    found = sent(
        Snapshot(END + 5, {"netmon.flow.packets": points}),
        Snapshot(END, {"netmon.flow.packets": [Point({"server.port": 1}, 9, START)]}),
    )
    assert [(one.point.start_time_unix_nano, one.point.as_int, one.ended) for one in found] == [(START + 1, 7, False)]


def test_a_metric_that_is_gone_ends_all_its_series() -> None:
    before = Snapshot(
        END, {"netmon.flow.packets": flows(2).points["netmon.flow.packets"], "netmon.coverage": [Point({}, 1.0, START)]}
    )
    found = sent(Snapshot(END + 5, {}), before)
    assert [(one.name, one.ended) for one in found] == [
        ("netmon.flow.packets", True),
        ("netmon.flow.packets", True),
        ("netmon.coverage", True),
    ]
    assert [one.point.start_time_unix_nano for one in found] == [START, START, 0]


@pytest.mark.parametrize("histograms", ["explicit", "exponential"])
@pytest.mark.parametrize("now", ["none", "list", "histogram"])
def test_a_distribution_that_ended_is_marked_whatever_form_no_points_have(histograms: HistogramForm, now: str) -> None:
    name = "netmon.pipeline.cycle.duration"
    empty = histogram_series([], [], [], [], [1.0])
    series = histogram_series([AttributeSet.of({"server.port": 1})], [START], [[1.0, 4.0]], [2], [1.0])
    forms: dict[str, dict[str, Points]] = {"none": {}, "list": {name: []}, "histogram": {name: empty}}
    (request,) = requests(Snapshot(END, forms[now]), Snapshot(START, {name: series}), histograms=histograms)
    (mark,) = flat([parsed(request)])
    assert mark.ended
    assert (mark.point.count, mark.point.start_time_unix_nano, mark.point.time_unix_nano) == (0, START, END)
    (begun,) = flat(
        map(parsed, requests(Snapshot(END, {name: series}), Snapshot(START, forms[now]), histograms=histograms))
    )
    assert (begun.point.count, begun.ended) == (2, False)


@pytest.mark.parametrize("temporality", ["cumulative", "lowmemory", "delta"])
def test_metrics_tell_their_temporality(temporality: Temporality) -> None:
    (request,) = requests(every_metric(), None, temporality)
    (scope_metrics,) = parsed(request).resource_metrics[0].scope_metrics
    delta, cumulative = (
        AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA,
        AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE,
    )
    for metric in scope_metrics.metrics:
        kind = metric.WhichOneof("data") or ""
        if kind == "gauge":
            continue
        wanted = {
            "counter": delta if temporality == "delta" else cumulative,
            "updowncounter": cumulative,
            "histogram": cumulative if temporality == "cumulative" else delta,
        }[CATALOGUE[metric.name].kind]
        assert getattr(metric, kind).aggregation_temporality == wanted, metric.name


def test_integers_of_any_width_and_layout_are_carried() -> None:
    sets = [AttributeSet.of({"server.port": port}) for port in range(4)]
    wide = np.array([[1, 2], [3, 4], [5, 6], [2**63 - 1, 8]], np.uint64)
    for values in (wide[:, 0], wide[:, 0].astype(np.int64)[::-1], np.array([1, 2, 3, 4], np.uint32)):
        starts = np.full(8, START, np.uint64)[::2]
        found = sent(Snapshot(END, {"netmon.flow.io": NumberSeries(sets, starts, values)}))
        assert [one.point.as_int for one in found] == values.tolist()
        assert {one.point.start_time_unix_nano for one in found} == {START}


def test_status_messages_and_parents_stand_where_they_are() -> None:
    ids = np.arange(1, 49, dtype=np.uint8).reshape(3, 16)
    parents = ids[:, :8].copy()
    parents[1] = 0
    batch = SpanBatch(
        names=["GET", "", "GET"],
        kinds=np.array([SpanKind.CLIENT] * 3, np.uint8),
        trace_ids=ids,
        span_ids=ids[:, 8:],
        parent_span_ids=parents,
        flags=np.array([0x101, 0x100, 0x301], np.uint32),
        start_time_unix_nano=np.array([1, 2, 3], np.uint64),
        end_time_unix_nano=np.array([4, 5, 6], np.uint64),
        attributes=[b""] * 3,
        statuses=np.array([StatusCode.OK, StatusCode.UNSET, StatusCode.ERROR], np.uint8),
        messages=["", "", "no \udcff answer"],
    )
    (request,) = span_requests(batch, ENVELOPE)
    spans = ExportTraceServiceRequest.FromString(request.body).resource_spans[0].scope_spans[0].spans
    assert [span.trace_id for span in spans] == [row.tobytes() for row in ids]
    assert [span.span_id for span in spans] == [row.tobytes() for row in ids[:, 8:]]
    assert [span.parent_span_id for span in spans] == [parents[0].tobytes(), b"", parents[2].tobytes()]
    assert [(span.name, span.kind, span.flags) for span in spans] == [
        ("GET", 3, 0x101),
        ("", 3, 0x100),
        ("GET", 3, 0x301),
    ]
    assert [(span.start_time_unix_nano, span.end_time_unix_nano) for span in spans] == [(1, 4), (2, 5), (3, 6)]
    assert [(span.status.code, span.status.message) for span in spans] == [
        (1, ""),
        (0, ""),
        (2, "no \ufffddcff answer"),
    ]


def test_encoding_needs_neither_the_sdk_nor_protobuf() -> None:
    program = (
        "import sys, otel_netmon.export.otlp_metrics, otel_netmon.export.otlp_spans, otel_netmon.export.otlp_logs\n"
        "found = {name.split('.')[0] for name in sys.modules} & {'opentelemetry', 'google', 'grpc', 'prometheus_client'}\n"
        "sys.exit(' '.join(found) or 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)

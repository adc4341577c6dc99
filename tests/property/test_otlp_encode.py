"""Our bytes, parsed by the published protobuf classes, equal what the SDK's own encoders make of the same data."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as SentResource
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, SpanKind as SdkSpanKind, Status, StatusCode as SdkStatusCode, TraceState

from otel_netmon.export import otlp_histograms, otlp_metrics, otlp_wire
from otel_netmon.export.otlp_logs import event_requests
from otel_netmon.export.otlp_metrics import count_points, metric_requests
from otel_netmon.export.otlp_spans import span_requests
from otel_netmon.export.otlp_wire import Envelope
from otel_netmon.export.requests import Signal
from otel_netmon.otel.attributes import AttributeSet, Tag, Value, encode
from otel_netmon.otel.catalogue import SCHEMA_URL
from otel_netmon.otel.metrics_data import SCOPE
from otel_netmon.otel.points import Exemplar, HistogramSeries, NumberSeries, Point, Snapshot
from otel_netmon.otel.snapshot_state import restored_snapshot, snapshot_state
from otel_netmon.otel.spans import Event, Severity, SpanBatch, SpanKind, StatusCode
from otel_netmon.otel.text import portable_text
from support.distributions import bucket_of, histogram_series
from support.otlp_requests import RESOURCE, Sent, canonical, comparable, flat, frames, parsed, stock

ENVELOPE = Envelope(RESOURCE)
SDK_RESOURCE = Resource(RESOURCE, SCHEMA_URL)
COUNTER, GAUGE, UPDOWN, SECONDS = (
    "netmon.flow.io",
    "netmon.coverage",
    "netmon.series.active",
    "netmon.bpf.program.run_time",
)
DISTRIBUTION = "netmon.pipeline.cycle.duration"

TEXT = st.text(st.characters(exclude_categories=()), max_size=40) | st.sampled_from(
    ["\udcff\x00", "x" * 70_000, "\ufffd"]
)
VALUES = TEXT | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.booleans()
KEYS = st.sampled_from(["client.address", "server.port", "k", "x" * 200])
ATTRIBUTES = st.dictionaries(KEYS, VALUES, max_size=4)
RESOURCES: list[dict[str, Value]] = [
    {},
    {},
    {"service.name": "nginx", "process.pid": 4711},
    {"service.name": "nginx", "process.pid": 4712},
    {"host.name": "a pod's own", "container.id": "f" * 64},
    {"text": "\x0a\x09host.name", "long": "x" * 300},
]
TIMES = st.integers(0, 2**63 - 1)
COUNTS = st.integers(0, 2**63 - 1)
IDS = st.integers(1, 2**64 - 1)
TRACE_IDS = st.integers(1, 2**128 - 1)


def attribute_sets(count: int) -> st.SearchStrategy[list[AttributeSet]]:
    one = st.builds(AttributeSet.of, ATTRIBUTES, st.sampled_from(RESOURCES))
    return st.lists(one, min_size=count, max_size=count, unique=True)


@st.composite
def numbers(draw: st.DrawFn, values: st.SearchStrategy[int | float]) -> Sequence[Point]:
    sets = draw(st.integers(0, 6).flatmap(attribute_sets))
    points = [Point(dict(each.items()), draw(values), draw(TIMES), each.resource) for each in sets]
    if draw(st.booleans()):
        return points
    kind = draw(st.sampled_from([np.int64, np.uint64])) if all(type(point.value) is int for point in points) else None
    kind = np.int64 if kind is np.uint64 and any(point.value < 0 for point in points) else kind
    return NumberSeries(
        sets,
        np.array([point.start_time_unix_nano for point in points], np.uint64),
        np.array([point.value for point in points], kind or np.float64),
    )


@st.composite
def distributions(draw: st.DrawFn) -> HistogramSeries:
    """Columns of numbers that need not belong together: the encoder carries what it is given."""
    sets = draw(st.integers(0, 5).flatmap(attribute_sets))
    rows, width, bounds = (
        len(sets),
        draw(st.integers(0, 5)),
        sorted(draw(st.sets(st.floats(allow_nan=False), max_size=4))),
    )

    def column(values: st.SearchStrategy[Any], kind: type, *shape: int) -> Any:
        size = math.prod((rows, *shape))
        return np.array(draw(st.lists(values, min_size=size, max_size=size)), kind).reshape(rows, *shape)

    counts = st.integers(0, 3) | st.integers(0, 2**64 - 1)
    exemplar = st.builds(
        Exemplar, st.floats(), TIMES, st.binary(min_size=16, max_size=16), st.binary(min_size=8, max_size=8)
    )
    return HistogramSeries(
        attributes=sets,
        start_time_unix_nano=column(TIMES, np.uint64),
        count=column(counts, np.uint64),
        sum=column(st.floats(), np.float64),
        minimum=column(st.floats(), np.float64),
        maximum=column(st.floats(), np.float64),
        scale=column(st.integers(-10, 20), np.int32),
        offset=column(st.integers(-(2**30), 2**30), np.int32),
        zero_count=column(counts, np.uint64),
        buckets=column(counts, np.uint64, width),
        bounds=np.array(bounds, np.float64),
        bucket_counts=column(counts, np.uint64, len(bounds) + 1),
        exemplars=draw(st.lists(st.lists(exemplar, max_size=3), min_size=rows, max_size=rows)),
    )


SNAPSHOTS = st.builds(
    Snapshot,
    TIMES,
    st.fixed_dictionaries(
        {},
        optional={
            COUNTER: numbers(COUNTS),
            GAUGE: numbers(st.floats()),
            UPDOWN: numbers(st.integers(-(2**63), 2**63 - 1)),
            SECONDS: numbers(st.floats()),
            DISTRIBUTION: distributions(),
        },
    ),
)
FORMS = st.sampled_from(["exponential", "explicit"])


@given(SNAPSHOTS, FORMS, st.integers(1, 12), st.sampled_from([1, 400, 1000, 3 << 20]), st.sampled_from([1, 2, 2048]))
@settings(max_examples=300, deadline=None)
def test_points_equal_those_of_the_stock_encoder(
    snapshot: Snapshot, form: Literal["exponential", "explicit"], max_items: int, max_bytes: int, chunk: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(otlp_wire, "CHUNK", chunk)
        patch.setattr(otlp_metrics, "CELLS", 20 * chunk)
        patch.setattr(otlp_histograms, "_VARINTS", 5 * chunk)
        requests = list(
            metric_requests(
                snapshot,
                ENVELOPE,
                previous=None,
                temporality="cumulative",
                histograms=form,
                max_items=max_items,
                max_bytes=max_bytes,
            )
        )
    expected = stock(snapshot, form)
    messages = [parsed(request) for request in requests]
    assert by_resource(comparable(flat(messages))) == by_resource(comparable(flat([expected])))
    assert sum(request.items for request in requests) == count_points(snapshot)
    for request in requests:
        assert 1 <= request.items <= max_items
        assert len(request.body) <= max_bytes or request.items == 1
    if requests:
        assert frames(messages) == frames([expected])
    assert len({one.resource for one in flat(messages)}) == len(expected.resource_metrics)
    if len(requests) == 1:
        assert canonical(messages[0]) == canonical(expected)


@given(SNAPSHOTS, FORMS)
@settings(max_examples=100, deadline=None)
def test_a_snapshot_from_a_checkpoint_goes_out_as_the_same_bytes(
    snapshot: Snapshot, form: Literal["exponential", "explicit"]
) -> None:
    restored = restored_snapshot(snapshot_state(snapshot))
    bare = {
        name: replace(points, exemplars=[()] * len(points)) if isinstance(points, HistogramSeries) else points
        for name, points in snapshot.points.items()
    }
    made = [
        list(metric_requests(each, ENVELOPE, previous=None, temporality="cumulative", histograms=form))
        for each in (restored, Snapshot(snapshot.time_unix_nano, bare))
    ]
    assert made[0] == made[1]


def by_resource(items: Iterable[tuple[bytes, *tuple[Any, ...]]]) -> dict[bytes, list[Any]]:
    """What follows the resource of each, in order."""
    found = defaultdict[bytes, list[Any]](list)
    for resource, *rest in items:
        found[resource].append(rest)
    return dict(found)


# -------------------------------------------------------------------------------------------------- differences, ends
class Series:
    """A series of a made-up world: what it measured since its start, step by step."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.values: list[float] = []


STEP = st.tuples(
    st.sampled_from(["gain", "gain", "idle", "leave", "restart", "fall"]),
    st.lists(st.sampled_from([0.0, 0.25, 1.0, 2.0, 64.0]), max_size=4),
    st.integers(-2, 3),
)
WORLD = st.lists(st.lists(STEP, min_size=3, max_size=3), min_size=1, max_size=6)
BEGIN, SECOND = 1_700_000_000_000_000_000, 1_000_000_000


def play(world: list[list[tuple[str, list[float], int]]]) -> Any:
    """Steps of the world: time, the series alive by name, what each measured since the last step, which fell, scales."""
    alive: dict[int, Series] = {}
    scales = defaultdict[int, int](lambda: 3)
    for number, step in enumerate(world):
        time = BEGIN + (number + 1) * SECOND
        gained: dict[int, list[float]] = {}
        fell = set()
        for name, (what, values, scale) in enumerate(step):
            if what == "leave":
                alive.pop(name, None)
                continue
            if name not in alive or what == "restart":
                alive[name] = Series(time - SECOND // 2 - number)
                scales[name] = 3
            elif what == "fall":
                if sum(alive[name].values) > sum(values) and len(values) < len(alive[name].values):
                    fell.add(name)
                    alive[name].values = []
                else:
                    values = []  # noqa: PLW2901 - it would not be seen to fall
            gained[name] = [] if what == "idle" else values
            alive[name].values += gained[name]
            scales[name] = min(scales[name], scale)
        yield time, dict(alive), gained, fell, {name: scales[name] for name in alive}


SETS = [
    AttributeSet.of({"server.port": 0}),
    AttributeSet.of({"server.port": 0}, {"process.pid": 1}),
    AttributeSet.of({"server.port": 1}, {"process.pid": 1}),
]


def name_of(sent: Sent) -> int:
    """The place in ``SETS``."""
    found = {pair.key: pair.value for pair in SentResource.FromString(sent.resource).attributes}
    pid = found["process.pid"].int_value if "process.pid" in found else 0
    (port,) = sent.attributes.values()
    assert isinstance(port, int)
    assert found["service.name"].string_value == RESOURCE["service.name"] if not pid else "service.name" not in found
    assert found["host.name"].string_value == RESOURCE["host.name"]
    return port + pid


def send(snapshot: Snapshot, previous: Snapshot | None, temporality: Any, histograms: Any = "explicit") -> list[Sent]:
    requests = metric_requests(
        snapshot, ENVELOPE, previous=previous, temporality=temporality, histograms=histograms, max_items=4
    )
    return flat(map(parsed, requests))


@given(WORLD, st.sampled_from(["delta", "cumulative", "lowmemory"]))
@settings(max_examples=200, deadline=None)
def test_counters_add_up(world: Any, temporality: Literal["delta", "cumulative", "lowmemory"]) -> None:
    previous: Snapshot | None = None
    before: dict[int, int] = {}
    for time, alive, gained, _, _ in play(world):
        sets = [SETS[name] for name in alive]
        starts = np.array([series.start for series in alive.values()], np.uint64)
        totals = np.array([int(4 * sum(series.values)) for series in alive.values()], np.uint64)
        snapshot = Snapshot(
            time, {COUNTER: NumberSeries(sets, starts, totals), UPDOWN: NumberSeries(sets, starts, totals)}
        )
        sent = send(snapshot, previous, temporality)
        for metric, delta in ((COUNTER, temporality == "delta"), (UPDOWN, False)):
            points = [one for one in sent if one.name == metric]
            assert sorted(name_of(one) for one in points if not one.ended) == sorted(alive)
            for one in points:
                name, point = name_of(one), one.point
                assert point.time_unix_nano == time
                goes_on = name in alive and before.get(name) == alive[name].start
                if one.ended:
                    assert point.start_time_unix_nano == (time - SECOND if delta else before[name])
                    assert point.WhichOneof("value") is None
                elif delta:
                    assert point.start_time_unix_nano == (time - SECOND if goes_on else alive[name].start)
                    assert point.as_int == int(4 * sum(gained[name]))
                else:
                    assert point.start_time_unix_nano == alive[name].start
                    assert point.as_int == int(4 * sum(alive[name].values))
            assert {name_of(one) for one in points if one.ended} == before.keys() - alive.keys()
            assert len(points) == len(before.keys() | alive.keys())
        previous, before = snapshot, {name: series.start for name, series in alive.items()}


@given(WORLD, st.sampled_from(["delta", "lowmemory"]), st.integers(1, 3))
@settings(max_examples=200, deadline=None)
def test_distributions_add_up(world: Any, temporality: Literal["delta", "lowmemory"], chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(otlp_metrics, "CELLS", 20 * chunk)
        check_distributions(world, temporality)


def check_distributions(world: Any, temporality: Literal["delta", "lowmemory"]) -> None:
    bounds = [0.0, 0.5, 1.0, 8.0]
    previous: Snapshot | None = None
    before: dict[int, tuple[int, list[float]]] = {}
    for time, alive, gained, fell, scales in play(world):
        series = histogram_series(
            [SETS[name] for name in alive],
            [each.start for each in alive.values()],
            [each.values for each in alive.values()],
            list(scales.values()),
            bounds,
        )
        snapshot = Snapshot(time, {DISTRIBUTION: series})
        exponential = {name_of(one): one for one in send(snapshot, previous, temporality, "exponential")}
        explicit = {name_of(one): one for one in send(snapshot, previous, temporality, "explicit")}
        assert exponential.keys() == explicit.keys()
        assert exponential.keys() == {name for name in alive if gained[name]} | (before.keys() - alive.keys())
        for name, one in exponential.items():
            assert one.ended == explicit[name].ended == (name not in alive)
            if one.ended:
                assert one.point.start_time_unix_nano == explicit[name].point.start_time_unix_nano == time - SECOND
                assert (one.point.count, explicit[name].point.count) == (0, 0)
                continue
            goes_on = name in before and before[name][0] == alive[name].start
            values = gained[name]
            old = before[name][1] if goes_on and name not in fell else []
            for point in (one.point, explicit[name].point):
                assert point.start_time_unix_nano == (time - SECOND if goes_on else alive[name].start)
                assert (point.count, point.sum) == (len(values), sum(values))
                assert point.HasField("min") == (not old or min(values) < min(old))
                assert point.HasField("max") == (not old or max(values) > max(old))
                assert not point.HasField("min") or point.min == min(values)
                assert not point.HasField("max") or point.max == max(values)
            point = one.point
            assert point.zero_count == values.count(0)
            buckets = {point.positive.offset + at: n for at, n in enumerate(point.positive.bucket_counts) if n}
            wanted = defaultdict[int, int](int)
            for value in values:
                if value:
                    wanted[bucket_of(value, point.scale)] += 1
            assert buckets == wanted
            assert point.scale <= scales[name]
            assert list(explicit[name].point.explicit_bounds) == bounds
            assert (
                list(explicit[name].point.bucket_counts)
                == histogram_series([AttributeSet.of({})], [0], [values], [0], bounds).bucket_counts[0].tolist()
            )
        previous, before = snapshot, {name: (each.start, list(each.values)) for name, each in alive.items()}


# ------------------------------------------------------------------------------------------------------- spans, events
SPANS = st.lists(
    st.tuples(
        TEXT,
        st.sampled_from(SpanKind),
        TRACE_IDS,
        IDS,
        st.none() | st.tuples(IDS, st.booleans()),
        st.tuples(TIMES, TIMES),
        ATTRIBUTES,
        st.sampled_from(StatusCode),
        TEXT,
        st.sampled_from(["", "ot=th:8", "ot=th:c;rv:00000000000001,vendor=x"]),
        st.sampled_from(RESOURCES),
    ),
    max_size=6,
)


@given(SPANS, st.booleans(), st.booleans(), st.integers(1, 8), st.sampled_from([1, 300, 3 << 20]))
@settings(max_examples=200, deadline=None)
def test_spans_equal_those_of_the_stock_encoder(
    spans: list[Any], has_states: bool, has_resources: bool, max_items: int, max_bytes: int
) -> None:
    def bytes_of(ids: list[int], size: int) -> Any:
        return np.array([list(number.to_bytes(size, "big")) for number in ids], np.uint8).reshape(len(ids), size)

    sdk = []
    for name, kind, trace_id, span_id, parent, (start, end), attributes, status, message, state, resource in spans:
        sdk.append(
            ReadableSpan(
                name=portable_text(name),
                context=SpanContext(
                    trace_id,
                    span_id,
                    is_remote=False,
                    trace_state=TraceState.from_header([state]) if has_states else None,
                ),
                parent=SpanContext(trace_id, parent[0], is_remote=parent[1]) if parent else None,
                resource=sdk_resource(resource if has_resources else {}),
                attributes=portable(attributes),
                kind=SdkSpanKind[kind.name],
                # An SDK has descriptions of errors only.
                status=Status(
                    SdkStatusCode[status.name], portable_text(message) if status is StatusCode.ERROR else None
                ),
                start_time=start,
                end_time=end,
                instrumentation_scope=SCOPE,
            )
        )
    batch = SpanBatch(
        names=[span[0] for span in spans],
        kinds=np.array([span[1] for span in spans], np.uint8),
        trace_ids=bytes_of([span[2] for span in spans], 16),
        span_ids=bytes_of([span[3] for span in spans], 8),
        parent_span_ids=bytes_of([span[4][0] if span[4] else 0 for span in spans], 8),
        flags=np.array([0x300 if span[4] and span[4][1] else 0x100 for span in spans], np.uint32),
        start_time_unix_nano=np.array([span[5][0] for span in spans], np.uint64),
        end_time_unix_nano=np.array([span[5][1] for span in spans], np.uint64),
        attributes=[encode(span[6], Tag.SPAN) for span in spans],
        statuses=np.array([span[7] for span in spans], np.uint8),
        messages=[span[8] if span[7] is StatusCode.ERROR else "" for span in spans],
        trace_states=[span[9] for span in spans] if has_states else (),
        resources=[encode(span[10], Tag.RESOURCE) for span in spans] if has_resources else (),
    )
    requests = list(span_requests(batch, ENVELOPE, max_items, max_bytes))
    messages = [ExportTraceServiceRequest.FromString(request.body) for request in requests]
    parts = [message.resource_spans for message in messages]
    check_parts([encode_spans(sdk).resource_spans], parts, "scope_spans", "spans", requests)
    check_limits(requests, Signal.TRACES, max_items, max_bytes)


EVENTS = st.lists(
    st.builds(
        lambda attributes, resource, ids, **rest: (attributes, resource, ids, rest),
        ATTRIBUTES,
        st.sampled_from(RESOURCES),
        st.none() | st.tuples(TRACE_IDS, IDS),
        name=TEXT.filter(bool),
        time_unix_nano=TIMES,
        severity=st.sampled_from(Severity),
        body=TEXT,
    ),
    max_size=6,
)


@given(EVENTS, st.integers(1, 8), st.sampled_from([1, 300, 3 << 20]))
@settings(max_examples=200, deadline=None)
def test_events_equal_those_of_the_stock_encoder(events: list[Any], max_items: int, max_bytes: int) -> None:
    ours, sdk = [], []
    for attributes, resource, ids, rest in events:
        trace_id, span_id = ids or (0, 0)
        ours.append(
            Event(
                attributes=encode(attributes, Tag.LOG_RECORD),
                trace_id=trace_id.to_bytes(16, "big") if ids else b"",
                span_id=span_id.to_bytes(8, "big") if ids else b"",
                resource=encode(resource, Tag.RESOURCE),
                **rest,
            )
        )
        record = LogRecord(
            timestamp=rest["time_unix_nano"],
            observed_timestamp=rest["time_unix_nano"],
            severity_text=rest["severity"].name,
            severity_number=SeverityNumber(rest["severity"]),
            body=portable_text(rest["body"]),
            attributes=portable(attributes),
            event_name=portable_text(rest["name"]),
        )
        record.trace_id, record.span_id, record.trace_flags = trace_id, span_id, 0  # type: ignore[assignment]
        sdk.append(ReadableLogRecord(record, sdk_resource(resource), SCOPE))
    requests = list(event_requests(ours, ENVELOPE, max_items, max_bytes))
    messages = [ExportLogsServiceRequest.FromString(request.body) for request in requests]
    parts = [message.resource_logs for message in messages]
    check_parts([encode_logs(sdk).resource_logs], parts, "scope_logs", "log_records", requests)
    check_limits(requests, Signal.LOGS, max_items, max_bytes)


def sdk_resource(attributes: dict[str, Value]) -> Resource:
    """The agent's own for no attributes; where another one runs is known from the agent's."""
    other = {**attributes, "host.name": attributes.get("host.name", RESOURCE["host.name"])}
    return Resource(portable(other), SCHEMA_URL) if attributes else SDK_RESOURCE


def check_parts(expected: list[Any], ours: list[Any], scopes: str, items: str, requests: list[Any]) -> None:
    """Each resource once in a request, all items of it in order, and around them what the stock encoder has."""

    def taken_apart(messages: list[Any]) -> tuple[dict[bytes, list[Any]], set[bytes], list[int]]:
        found, around, counts = [], set(), []
        for resources in messages:
            assert len({canonical(each.resource) for each in resources}) == len(resources)
            counts.append(0)
            for each in resources:
                (scope,) = getattr(each, scopes)
                counts[-1] += len(getattr(scope, items))
                found += [(canonical(each.resource), canonical(item)) for item in getattr(scope, items)]
                scope.ClearField(items)
                around.add(canonical(each))
        return by_resource(found), around, counts

    found, around, counts = taken_apart(ours)
    assert (found, around) == taken_apart(expected)[:2]
    assert counts == [request.items for request in requests]


def portable(attributes: dict[str, Value]) -> dict[str, Value]:
    return {key: portable_text(value) if isinstance(value, str) else value for key, value in attributes.items()}


def check_limits(requests: list[Any], signal: Signal, max_items: int, max_bytes: int) -> None:
    for request in requests:
        assert request.signal is signal
        assert 1 <= request.items <= max_items
        assert len(request.body) <= max_bytes or request.items == 1

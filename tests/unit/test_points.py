"""Snapshots, their text, and the MetricsData made of them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, strategies as st
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality

from otel_netmon import __version__
from otel_netmon.otel.attributes import AttributeSet
from otel_netmon.otel.catalogue import CATALOGUE, SCHEMA_URL
from otel_netmon.otel.metrics_data import batches, count_points
from otel_netmon.otel.points import HistogramSeries, NumberSeries, Point, Points, Snapshot, number_series, portable_text
from support.snapshots import END, OF_PROCESS, PROCESS, START, every_metric, flows

RESOURCE = {"service.name": "test", "host.name": "node-1"}
ANY_TEXT = st.text(st.characters(exclude_categories=()))


@pytest.mark.parametrize(
    ("text", "portable"),
    [
        ("eth0", "eth0"),
        ("größe", "größe"),
        ("a\x00b", "a\ufffd0000b"),
        (b"e\xff".decode("utf-8", "surrogateescape"), "e\ufffddcff"),
        ("\ufffd", "\ufffdfffd"),
    ],
)
def test_portable_text(text: str, portable: str) -> None:
    assert portable_text(text) == portable


@given(st.sets(ANY_TEXT, max_size=5))
def test_portable_text_is_utf8_without_nul_and_keeps_different_texts_different(texts: set[str]) -> None:
    portable = {portable_text(text) for text in texts}
    assert len(portable) == len(texts)
    assert b"\x00" not in "".join(sorted(portable)).encode()


def test_points_are_immutable() -> None:
    point = Point({}, 1, START)
    with pytest.raises(AttributeError):
        point.value = 2  # type: ignore[misc]


def columns() -> NumberSeries:
    sets = [AttributeSet.of({"network.interface.name": f"eth{n}", "server.port": n}) for n in range(4)]
    return NumberSeries(sets, np.arange(START, START + 4, dtype=np.uint64), np.array([1, 2, 3, 2**53 + 1], np.uint64))


def test_columns_read_like_points() -> None:
    series = columns()
    points = [
        Point({"network.interface.name": f"eth{n}", "server.port": n}, value, START + n)
        for n, value in enumerate([1, 2, 3, 2**53 + 1])
    ]
    assert list(series) == [series[n] for n in range(len(series))] == points
    assert (series[-1], list(series[1:3]), list(reversed(series))) == (points[-1], points[1:3], points[::-1])
    assert isinstance(series[1:3], NumberSeries)
    assert all(type(point.value) is type(point.start_time_unix_nano) is int for point in series)
    assert points[2] in series
    assert (series.index(points[2]), len(series[4:])) == (2, 0)


def test_points_become_columns_of_the_type_of_the_metric() -> None:
    series = columns()
    assert number_series(series, int) is series
    as_float = number_series(series, float)
    assert (as_float.values.dtype.kind, as_float.values.tolist()) == ("f", [1.0, 2.0, 3.0, float(2**53)])
    assert number_series(as_float, float) is as_float
    assert number_series(as_float, int).values.tolist() == [1, 2, 3, 2**53]
    made = number_series(list(series), int)
    assert (made.values.dtype.str, made.start_time_unix_nano.dtype.str) == ("<i8", "<u8")
    assert list(made) == list(series)
    assert list(made.attributes) == list(series.attributes)
    assert number_series([Point({}, 3, START)], float).values.tolist() == [3.0]
    assert len(number_series([], int)) == 0


def test_points_keep_their_resource_in_columns_and_back() -> None:
    points = [Point({"server.port": port}, port, START, resource) for port in (1, 2) for resource in (b"", OF_PROCESS)]
    series = number_series(points, int)
    assert [each.resource for each in series.attributes] == [b"", OF_PROCESS] * 2
    assert list(series) == [series[row] for row in range(4)] == list(number_series(list(series), int)) == points
    assert list(series.at(np.array([3, 0]))) == [points[3], points[0]]


@pytest.mark.parametrize(("histograms", "words"), [("histogram", "explicit"), ("exponential_histogram", "exponential")])
def test_every_metric_reaches_protobuf_by_value(histograms: str, words: Literal["explicit", "exponential"]) -> None:
    snapshot = every_metric()
    ((count, batch),) = batches(snapshot, RESOURCE, 10_000, words)
    assert count == count_points(snapshot)
    own, process = encode_metrics(batch).resource_metrics
    assert attributes(own.resource) == RESOURCE
    assert attributes(process.resource) == {**PROCESS, "host.name": RESOURCE["host.name"]}
    sizes = [
        check_metrics(*pair, histograms) for pair in ((own, of(snapshot, b"")), (process, of(snapshot, OF_PROCESS)))
    ]
    assert sum(sizes) == count


def attributes(message: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "") for pair in message.attributes}


def of(snapshot: Snapshot, resource: bytes) -> Snapshot:
    """The points of one resource that go out by OTLP."""
    points: dict[str, Points] = {}
    for name, found in snapshot.points.items():
        if isinstance(found, HistogramSeries):
            points[name] = found.at(np.flatnonzero([each.resource == resource for each in found.attributes]))
        else:
            points[name] = [each for each in found if each.resource == resource]
    return Snapshot(
        END, {name: some for name, some in points.items() if len(some) and not CATALOGUE[name].prometheus_only}
    )


def check_metrics(resource_metrics: Any, snapshot: Snapshot, histograms: str) -> int:
    (scope_metrics,) = resource_metrics.scope_metrics
    assert resource_metrics.schema_url == scope_metrics.schema_url == SCHEMA_URL
    assert (scope_metrics.scope.name, scope_metrics.scope.version) == ("otel_netmon", __version__)
    sent = {metric.name: metric for metric in scope_metrics.metrics}
    assert sent.keys() == snapshot.points.keys()
    for name, metric in sent.items():
        definition = CATALOGUE[name]
        assert (metric.unit, metric.description) == (definition.unit, definition.description)
        form = {"gauge": "gauge", "histogram": histograms}.get(definition.kind, "sum")
        assert metric.WhichOneof("data") == form
        data = getattr(metric, form)
        if form != "gauge":
            assert data.aggregation_temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
        if form == "sum":
            assert data.is_monotonic == (definition.kind == "counter")
        points, originals = data.data_points, snapshot.points[name]
        if isinstance(originals, HistogramSeries):
            check_distributions(points, originals)
            continue
        for point, original in zip(points, originals, strict=True):
            field = "as_int" if definition.value_type is int else "as_double"
            assert point.WhichOneof("value") == field
            assert getattr(point, field) == original.value
            assert point.time_unix_nano == END
            assert point.start_time_unix_nano == (0 if definition.kind == "gauge" else START)
            assert attributes(point) == original.attributes
    return sum(map(len, snapshot.points.values()))


def check_distributions(points: Any, series: HistogramSeries) -> None:
    for row, point in enumerate(points):
        assert attributes(point) == dict(series.attributes[row].items())
        assert (point.start_time_unix_nano, point.time_unix_nano) == (START, END)
        assert (point.count, point.sum) == (series.count[row], series.sum[row])
        assert (point.min, point.max) == (series.minimum[row], series.maximum[row])
        if hasattr(point, "explicit_bounds"):
            assert list(point.explicit_bounds) == series.bounds.tolist()
            assert list(point.bucket_counts) == series.bucket_counts[row].tolist()
        else:
            assert (point.scale, point.zero_count) == (series.scale[row], series.zero_count[row])
            assert point.positive.offset == series.offset[row]
            assert list(point.positive.bucket_counts) == np.trim_zeros(series.buckets[row], "b").tolist()
    assert len(points) == len(series)


@pytest.mark.parametrize(
    ("points", "size", "expected"), [(10, 3, [3, 3, 3, 1]), (6, 3, [3, 3]), (0, 3, []), (2, 3, [2])]
)
def test_batches_hold_every_point_once(points: int, size: int, expected: list[int]) -> None:
    cut = list(batches(flows(points), RESOURCE, size))
    assert [count for count, _ in cut] == expected
    values = [
        point.as_int
        for _, data in cut
        for point in encode_metrics(data).resource_metrics[0].scope_metrics[0].metrics[0].sum.data_points
    ]
    assert values == list(range(1, points + 1))


def test_a_batch_goes_over_several_metrics() -> None:
    point = Point({}, 1, START)
    names = ["netmon.series.active", "netmon.series.limit", "netmon.flow.io"]
    snapshot = Snapshot(END, {name: [point] for name in names})
    cut = [
        [metric.name for metric in data.resource_metrics[0].scope_metrics[0].metrics]
        for _, data in batches(snapshot, RESOURCE, 2)
    ]
    assert cut == [names[:2], names[2:]]


def test_numbers_of_numpy_become_the_type_of_the_metric() -> None:
    snapshot = Snapshot(
        END,
        {
            "netmon.flow.io": [Point({}, np.uint64(2**53 + 1), START)],  # type: ignore[arg-type]
            "netmon.coverage": [Point({}, 1, START)],
        },
    )
    ((_, data),) = batches(snapshot, RESOURCE, 10)
    flow, coverage = encode_metrics(data).resource_metrics[0].scope_metrics[0].metrics
    assert flow.sum.data_points[0].as_int == 2**53 + 1
    assert coverage.gauge.data_points[0].WhichOneof("value") == "as_double"


def test_hostile_text_reaches_protobuf() -> None:
    name = '\udcff\x00\n"' + 65536 * "x"
    snapshot = Snapshot(END, {"system.network.io": [Point({"network.interface.name": name}, 1, START)]})
    ((_, data),) = batches(snapshot, RESOURCE, 10)
    (point,) = encode_metrics(data).resource_metrics[0].scope_metrics[0].metrics[0].sum.data_points
    assert point.attributes[0].value.string_value == portable_text(name)

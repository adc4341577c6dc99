"""Histograms on the page, in all three formats, against the measurements they were made of."""

from __future__ import annotations

import bisect
import math
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from otel_netmon.export import prometheus_protobuf, prometheus_text
from otel_netmon.export.prometheus import MetricsPage
from otel_netmon.export.prometheus_negotiation import OPENMETRICS, PROTOBUF
from otel_netmon.export.prometheus_protobuf import ZERO_THRESHOLD
from otel_netmon.export.prometheus_text import bound
from otel_netmon.otel.attributes import AttributeSet
from otel_netmon.otel.catalogue import CATALOGUE, Metric
from otel_netmon.otel.points import Exemplar, HistogramSeries, Snapshot
from support.distributions import histogram_series
from support.prometheus_messages import families
from support.snapshots import END, START

BOUNDS = (0.001, 0.0625, 0.5, 1.0, 1e6)
LIBRARY_TEXT: Callable[[float], str] = floatToGoString
NAME = "test_lookup_duration_seconds"
TCP, BARE = AttributeSet.of({"network.transport": "tcp", "dns.name": 'a"{}\n%d\\é'}), AttributeSet.of({})


@pytest.fixture(autouse=True)
def _a_histogram_in_the_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = Metric(
        "test.lookup.duration", "s", "histogram", float, "How long it took.", ("network.transport", "dns.name")
    )
    catalogue = MappingProxyType({**CATALOGUE, metric.name: metric})
    monkeypatch.setattr(prometheus_text, "CATALOGUE", catalogue)
    monkeypatch.setattr(prometheus_protobuf, "CATALOGUE", catalogue)


def series(
    values: list[list[float]], scales: list[int], exemplars: list[list[Exemplar]] | None = None
) -> HistogramSeries:
    sets = [TCP, BARE, *[AttributeSet.of({"network.transport": f"t{i}"}) for i in range(len(values))]][: len(values)]
    return histogram_series(sets, [START + i for i in range(len(values))], values, scales, BOUNDS, exemplars)


def page(points: HistogramSeries, accept: str = "") -> bytes:
    return MetricsPage(lambda: Snapshot(END, {"test.lookup.duration": points}), {}).render(accept).body


def parsed(points: HistogramSeries, *, openmetrics: bool) -> list[Sample]:
    read = (openmetrics_parser if openmetrics else parser).text_string_to_metric_families
    (family,) = read(page(points, OPENMETRICS if openmetrics else "").decode())
    assert (family.name, family.type, family.documentation) == (NAME, "histogram", "How long it took.")
    assert family.unit == ("seconds" if openmetrics else "")
    return list(family.samples)


def below(values: list[float]) -> dict[str, float]:
    """Cumulative buckets, counted one by one."""
    limits = {**{LIBRARY_TEXT(each): each for each in BOUNDS}, "+Inf": math.inf}
    return {text: sum(value <= limit for value in values) for text, limit in limits.items()}


VALUES = [[0.0, 0.0009765625, 0.5, 0.5, 1.0, 2.0**21], [2.0**-30], [], [1.0] * 23]
SCALES = [0, 20, 0, -2]


@pytest.mark.parametrize("openmetrics", [False, True])
def test_classic_buckets_sum_and_count_are_those_of_the_measurements(openmetrics: bool) -> None:
    points = series(VALUES, SCALES)
    samples = parsed(points, openmetrics=openmetrics)
    for attributes, values, start in zip(points.attributes, VALUES, points.start_time_unix_nano.tolist(), strict=True):
        labels = dict(attributes.label_pairs())
        found = [each for each in samples if {k: v for k, v in each.labels.items() if k != "le"} == labels]
        assert {each.labels["le"]: each.value for each in found if each.name == f"{NAME}_bucket"} == below(values)
        rest = {each.name.removeprefix(NAME): each.value for each in found if "le" not in each.labels}
        assert rest == {"_count": len(values), "_sum": sum(values)} | ({"_created": start / 1e9} if openmetrics else {})


def test_lines_of_histograms_as_they_stand_there() -> None:
    text = page(series([[], [0.5, 0.5, 2.0**21]], [0, 0]), OPENMETRICS).decode()
    (first, *_), bare = text.splitlines()[3:4], [line for line in text.splitlines() if "dns_name" not in line]
    assert first == f'{NAME}_bucket{{network_transport="tcp",dns_name="a\\"{{}}\\n%d\\\\é",le="0.001"}} 0'
    assert bare == [
        f"# HELP {NAME} How long it took.",
        f"# TYPE {NAME} histogram",
        f"# UNIT {NAME} seconds",
        f'{NAME}_bucket{{le="0.001"}} 0',
        f'{NAME}_bucket{{le="0.0625"}} 0',
        f'{NAME}_bucket{{le="0.5"}} 2',
        f'{NAME}_bucket{{le="1.0"}} 2',
        f'{NAME}_bucket{{le="1e+06"}} 2',
        f'{NAME}_bucket{{le="+Inf"}} 3',
        f"{NAME}_count 3",
        f"{NAME}_sum 2097153.0",
        f"{NAME}_created 1700000000.000000002",
        "# EOF",
    ]


def marks() -> list[Exemplar]:
    return [
        Exemplar(value, START + i, bytes(range(16)), bytes([i] * 8)) for i, value in enumerate((0.0625, 0.5, 2.0**21))
    ]


def test_openmetrics_has_the_exemplars_and_text_has_none() -> None:
    for row in (0, 1):  # with labels and without
        exemplars: list[list[Exemplar]] = [[], []]
        exemplars[row] = marks()
        points = series([[0.0625, 0.5, 2.0**21]] * 2, [0, 0], exemplars)
        assert b"trace_id" not in page(points)
        found = {
            sample.labels["le"]: sample.exemplar
            for sample in parsed(points, openmetrics=True)
            if sample.exemplar is not None and ("dns_name" in sample.labels) is (row == 0)
        }
        assert list(found) == ["0.0625", "0.5", "+Inf"]
        for i, exemplar in enumerate(found.values()):
            assert exemplar.labels == {"trace_id": "000102030405060708090a0b0c0d0e0f", "span_id": f"{i:02x}" * 8}
            assert (exemplar.value, str(exemplar.timestamp)) == (marks()[i].value, f"1700000000.00000000{1 + i}")


def test_many_histograms_keep_their_order() -> None:
    """More than are made at once."""
    values = [[2.0 ** (i % 5)] * (i % 3) for i in range(1000)]
    counts = [
        sample.value
        for sample in parsed(series(values, [0] * 1000), openmetrics=True)
        if sample.name == f"{NAME}_count"
    ]
    assert counts == [i % 3 for i in range(1000)]


def test_promtool_has_nothing_to_say() -> None:
    check = subprocess.run(["promtool", "check", "metrics"], input=page(series(VALUES, SCALES)), capture_output=True)
    assert (check.returncode, check.stdout, check.stderr) == (0, b"", b"")


@given(st.floats(allow_nan=False, min_value=0))
def test_le_is_written_as_the_client_library_writes_it(limit: float) -> None:
    assert bound(limit) == LIBRARY_TEXT(limit)


@pytest.mark.parametrize(
    ("limit", "text"),
    [(0.0, "0.0"), (1.0, "1.0"), (0.00001, "1e-05"), (999999.5, "999999.5"), (1e6, "1e+06"), (1048576.0, "1.048576e+06"),
     (1234567.25, "1.23456725e+06"), (1e21, "1e+21"), (-2.5e6, "-2.5e+06"), (float("inf"), "+Inf")],
)  # fmt: skip
def test_le(limit: float, text: str) -> None:
    assert bound(limit) == text
    assert float(bound(limit)) == limit


# -------------------------------------------------------------------------------------------------------- protobuf
def native(histogram: Any) -> Iterator[tuple[int, int]]:
    """Index and count of the positive buckets in use, undone from spans and deltas."""
    index, count, deltas = 0, 0, iter(histogram.positive_delta)
    for span in histogram.positive_span:
        index += span.offset
        for _ in range(span.length):
            count += next(deltas)
            yield index, count
            index += 1
    assert next(deltas, None) is None


def histograms(points: HistogramSeries) -> list[tuple[dict[str, str], Any]]:
    (family,) = families(page(points, PROTOBUF))
    assert (family.name, family.help, family.unit, family.type) == (NAME, "How long it took.", "seconds", 4)
    return [({label.name: label.value for label in metric.label}, metric.histogram) for metric in family.metric]


def test_protobuf_has_classic_and_native_buckets() -> None:
    points = series([*VALUES, [2.0**-1000, 2.0**1000]], [*SCALES, -10])
    for row, (labels, histogram) in enumerate(histograms(points)):
        values = [*VALUES, [2.0**-1000, 2.0**1000]][row]
        assert labels == dict(points.attributes[row].label_pairs())
        assert (histogram.sample_count, histogram.sample_sum) == (len(values), sum(values))
        assert {bound(each.upper_bound): each.cumulative_count for each in histogram.bucket} == below(values)
        created = histogram.created_timestamp
        assert created.seconds * 10**9 + created.nanos == points.start_time_unix_nano[row]
        scale = int(points.scale[row])
        if scale < -4:  # the format has no such schema: a classic histogram
            assert not histogram.HasField("schema")
            assert not histogram.HasField("zero_threshold")
            assert list(histogram.positive_span) == []
            continue
        assert (histogram.schema, histogram.zero_threshold) == (min(scale, 8), ZERO_THRESHOLD)
        assert histogram.zero_count == values.count(0)
        # Native bucket i ends at base ** i, and these values are powers of two: each is the end of its bucket.
        ends = Counter(math.ceil(math.log2(value) * 2.0**histogram.schema) for value in values if value)
        assert dict(native(histogram)) == ends


def test_scales_beyond_the_highest_schema_are_merged_exactly() -> None:
    """Buckets that lie apart at scale 12 fall together at schema 8: against the bucket each lower end falls in."""
    rng = np.random.default_rng(5)
    for scale in (9, 12, 20):
        for offset in (-70_000, -17, 0, 123_456):
            points = series([[1.0]], [scale])
            counts = rng.choice(np.array([0, 0, 1, 5, 2**40], np.uint64), (1, 160))
            changed = HistogramSeries(**{
                **{name: getattr(points, name) for name in points.__slots__},
                "offset": np.array([offset], np.int32), "buckets": counts,
            })  # fmt: skip
            ((_, histogram),) = histograms(changed)
            wanted: Counter[int] = Counter()
            for j, count in enumerate(counts[0].tolist()):
                # (lower, upper] of the fine bucket lies within (i - 1, i] of the coarse one, in units of the coarse exponent.
                i = math.floor((offset + j) / 2 ** (scale - 8)) + 1
                assert i - 1 <= (offset + j) / 2 ** (scale - 8) < (offset + j + 1) / 2 ** (scale - 8) <= i
                wanted[i] += count
            assert histogram.schema == 8
            assert dict(native(histogram)) == {i: count for i, count in wanted.items() if count}


def test_protobuf_exemplars_stand_on_the_buckets_that_hold_them() -> None:
    ((_, first), (_, second)) = histograms(series([[0.0625, 0.5, 2.0**21], [1.0]], [0, 0], [marks(), []]))
    assert not any(bucket.HasField("exemplar") for bucket in second.bucket)
    found = {bound(bucket.upper_bound): bucket.exemplar for bucket in first.bucket if bucket.HasField("exemplar")}
    assert list(found) == ["0.0625", "0.5", "+Inf"]
    for i, exemplar in enumerate(found.values()):
        labels = {label.name: label.value for label in exemplar.label}
        assert labels == {"trace_id": "000102030405060708090a0b0c0d0e0f", "span_id": f"{i:02x}" * 8}
        assert (exemplar.value, exemplar.timestamp.seconds, exemplar.timestamp.nanos) == (
            marks()[i].value,
            1_700_000_000,
            1 + i,
        )
        assert bisect.bisect_left(BOUNDS, exemplar.value) == [bound(each) for each in (*BOUNDS, math.inf)].index(
            list(found)[i]
        )


def test_an_empty_histogram_is_a_native_one_too() -> None:
    ((_, histogram),) = histograms(series([[]], [0]))
    assert histogram.zero_threshold > 0
    assert (histogram.sample_count, list(histogram.positive_span), list(histogram.positive_delta)) == (0, [], [])

"""The metrics page against the client library's parsers, promtool, and the stock OpenTelemetry exporter."""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from opentelemetry.exporter.prometheus import _CustomCollector
from prometheus_client import parser
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from otel_netmon.export.prometheus import HOLD_SECONDS, MetricsPage, NoSnapshotError
from otel_netmon.export.prometheus_negotiation import OPENMETRICS, PROTOBUF, TEXT
from otel_netmon.otel import prometheus_names
from otel_netmon.otel.attributes import AttributeSet
from otel_netmon.otel.catalogue import CATALOGUE
from otel_netmon.otel.metrics_data import batches
from otel_netmon.otel.points import HistogramSeries, NumberSeries, Point, Points, Snapshot, number_series
from otel_netmon.otel.prometheus_names import family_name
from support.prometheus_messages import families
from support.prometheus_samples import samples_of, whole_catalogue
from support.snapshots import END, START, flows

read_openmetrics: Callable[[str], Iterable[Metric]] = openmetrics_parser.text_string_to_metric_families

RESOURCE = {"service.name": "otel-netmon", "host.name": "node-1"}
TARGET = {"service_name": "otel-netmon", "host_name": "node-1"}

Samples = set[tuple[str, frozenset[tuple[str, str]], float]]


def page(snapshot: Snapshot, accept: str = "") -> str:
    return MetricsPage(lambda: snapshot, RESOURCE).render(accept).body.decode()


def as_set(samples: Iterable[Sample]) -> Samples:
    """Samples without their order; empty labels are none, as in Prometheus' data model. No sample may be there twice."""
    found = [(each.name, frozenset((k, v) for k, v in each.labels.items() if v), float(each.value)) for each in samples]
    assert len(set(found)) == len(found)
    return set(found)


def parsed(text: str) -> list[Sample]:
    return [sample for family in parser.text_string_to_metric_families(text) for sample in family.samples]


def parsed_openmetrics(text: str) -> list[Sample]:
    return [sample for family in read_openmetrics(text) for sample in family.samples]


def expected(snapshot: Snapshot) -> Samples:
    samples = {(name, frozenset(labels.items()), value) for name, labels, value in samples_of(snapshot)}
    return samples | {("target_info", frozenset(TARGET.items()), 1.0)}


def test_text_holds_every_point_by_value() -> None:
    assert as_set(parsed(page(whole_catalogue()))) == expected(whole_catalogue())


def test_openmetrics_holds_every_point_by_value_and_when_counting_began() -> None:
    text = page(whole_catalogue(), "application/openmetrics-text")
    assert text.endswith("\n# EOF\n")
    samples = parsed_openmetrics(text)
    created = [sample for sample in samples if sample.name.endswith("_created")]
    assert as_set(sample for sample in samples if sample not in created) == expected(whole_catalogue())
    assert {sample.value for sample in created} == {START / 1e9}
    counting = [metric for metric in CATALOGUE.values() if metric.kind in {"counter", "histogram"}]
    assert len(created) == sum(len(whole_catalogue().points[metric.name]) for metric in counting)
    assert " 1700000000.000000001\n" in text


def test_openmetrics_families_have_type_unit_and_help() -> None:
    text = page(whole_catalogue(), "application/openmetrics-text")
    families = {family.name: family for family in read_openmetrics(text)}
    assert families.pop("target").type == "info"
    units = {"By": "bytes", "s": "seconds"}
    for metric in CATALOGUE.values():
        family = families.pop(family_name(metric.name, metric.unit, metric.kind))
        assert family.documentation == metric.description
        assert family.type == ("gauge" if metric.kind == "updowncounter" else metric.kind)
        assert family.unit == ("ratio" if (metric.unit, metric.kind) == ("1", "gauge") else units.get(metric.unit, ""))
    assert families == {}


def test_promtool_has_nothing_to_say() -> None:
    check = subprocess.run(
        ["promtool", "check", "metrics"], input=page(whole_catalogue()), capture_output=True, text=True, check=False
    )
    assert (check.returncode, check.stdout, check.stderr) == (0, "", "")


def test_promtool_is_a_check_that_can_fail() -> None:
    text = page(whole_catalogue()).replace("# HELP netmon_flow_packets_total", "# HELP netmon_other")
    check = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert check.returncode != 0


def with_bounds_as_in_go(sample: Sample) -> Sample:
    """The stock exporter writes bounds as Python does: the same below a million."""
    limit = sample.labels.get("le")
    if limit is None:
        return sample
    written = floatToGoString(float(limit))  # type: ignore[no-untyped-call]
    return sample._replace(labels={**sample.labels, "le": written})


def test_names_labels_and_values_are_those_of_the_stock_exporter() -> None:
    """Only ``1`` differs: the specification makes it ``ratio`` for gauges, the stock exporter leaves it out (its issue 4058)."""
    snapshot = whole_catalogue()
    sent = Snapshot(END, {k: v for k, v in snapshot.points.items() if not CATALOGUE[k].prometheus_only})
    stock = _CustomCollector(scope_info_enabled=False)
    ((_, data),) = batches(sent, RESOURCE, 10_000)
    stock.add_metrics_data(data)
    theirs = as_set(
        with_bounds_as_in_go(sample)
        for family in stock.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    )
    ratios = {name for name, metric in CATALOGUE.items() if (metric.unit, metric.kind) == ("1", "gauge")}
    renamed = {CATALOGUE[name].prometheus_name: name.replace(".", "_") for name in ratios}
    assert renamed == {
        "netmon_coverage_ratio": "netmon_coverage",
        "netmon_probe_state_ratio": "netmon_probe_state",
        "netmon_dns_nxdomain_ratio": "netmon_dns_nxdomain_ratio",
    }
    ours = as_set(each._replace(name=renamed.get(each.name, each.name)) for each in parsed(page(sent)))
    assert ours == theirs


def test_integers_are_exact_to_the_last_digit() -> None:
    snapshot = Snapshot(END, {"netmon.flow.io": [Point({}, 2**63 - 1, START)]})
    assert f"\nnetmon_flow_io_bytes_total {2**63 - 1}\n" in page(snapshot)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1, "0.1"), (float("inf"), "+Inf"), (float("-inf"), "-Inf"), (float("nan"), "NaN"), (1, "1.0")],
)
def test_floats(value: float, text: str) -> None:
    assert f"\nnetmon_coverage_ratio {text}\n" in page(Snapshot(END, {"netmon.coverage": [Point({}, value, START)]}))


@pytest.mark.parametrize("accept", ["", OPENMETRICS, PROTOBUF])
def test_columns_and_points_are_one_page(accept: str) -> None:
    columns: dict[str, Points] = {}
    for name, points in whole_catalogue().points.items():
        columns[name] = points
        if not isinstance(points, HistogramSeries):
            columns[name] = number_series(points, CATALOGUE[name].value_type)
            assert isinstance(columns[name], NumberSeries)
    of_columns = MetricsPage(lambda: Snapshot(END, columns), RESOURCE).render(accept)
    assert of_columns.body == MetricsPage(whole_catalogue, RESOURCE).render(accept).body


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_lines_have_the_order_of_the_snapshot_whatever_their_number(accept: str) -> None:
    """More series than are made at once, some of them without labels or with text that is wider than ASCII."""
    sets = [AttributeSet.of({"client.address": f"h{i}"}) for i in range(5000)]
    sets[0], sets[2500], sets[4100] = (
        AttributeSet.of(each) for each in ({}, {"client.address": "höst"}, {"server.port": 1})
    )
    values, starts = np.arange(5000) + 2**62, np.arange(5000).astype(np.uint64) % 7 + START
    snapshot = Snapshot(END, {"netmon.flow.io": NumberSeries(sets, starts.astype(np.uint64), values)})
    lines = [line for line in page(snapshot, accept).splitlines() if line.startswith("netmon_flow_io")]
    wanted = []
    for i, each in enumerate(sets):
        braces = f"{{{each.labels}}}" if i else ""
        wanted.append(f"netmon_flow_io_bytes_total{braces} {2**62 + i}")
        if accept:
            wanted.append(f"netmon_flow_io_bytes_created{braces} 1700000000.{i % 7 + 1:09d}")
    assert lines == wanted


def test_columns_of_floats() -> None:
    values = np.array([0.1, float("inf"), float("nan"), 1e300, -0.0])
    sets = [AttributeSet.of({"network.interface.name": f"e{i}"}) for i in range(5)]
    snapshot = Snapshot(END, {"netmon.coverage": NumberSeries(sets, np.full(5, START, np.uint64), values)})
    lines = [line.split(" ")[1] for line in page(snapshot).splitlines() if line.startswith("netmon_coverage_ratio{")]
    assert lines == ["0.1", "+Inf", "NaN", "1e+300", "-0.0"]


def test_resource_keys_that_become_one_label_are_one_label() -> None:
    """Two labels of one name would make a scraper refuse the whole page."""
    resource = {"a.b": "2", "a_b": "3", "a-b": "1", "c": "", "9": "x"}
    (sample,) = parsed(MetricsPage(lambda: Snapshot(END, {}), resource).render().body.decode())
    assert (sample.name, sample.labels) == ("target_info", {"a_b": "1;2;3", "_9": "x"})
    body = MetricsPage(lambda: Snapshot(END, {}), resource).render(PROTOBUF).body
    (family,) = families(body)
    assert {label.name: label.value for label in family.metric[0].label} == {"a_b": "1;2;3", "_9": "x"}


def test_no_two_attributes_of_a_metric_are_one_label() -> None:
    for metric in CATALOGUE.values():
        names = [prometheus_names.label_name(key) for key in metric.attributes]
        assert len(set(names)) == len(names), metric.name


def test_without_points_a_metric_is_not_there_and_without_resource_no_target() -> None:
    snapshot = Snapshot(END, {"netmon.flow.io": []})
    for accept, content_type, body in (
        ("", TEXT, b""),
        (OPENMETRICS, OPENMETRICS, b"# EOF\n"),
        (PROTOBUF, PROTOBUF, b""),
    ):
        shown = MetricsPage(lambda: snapshot, {}).render(accept)
        assert (shown.content_type, shown.gzip, shown.body) == (content_type, False, body)


def test_before_the_first_reading_there_is_no_page() -> None:
    with pytest.raises(NoSnapshotError):
        MetricsPage(lambda: None, RESOURCE).render()


# ------------------------------------------------------------------------------------------------ one page for many
@pytest.mark.parametrize("coding", ["", "gzip"])
def test_scrapers_of_one_cycle_share_one_page_and_the_next_cycle_has_its_own(coding: str) -> None:
    current = flows(3)
    metrics = MetricsPage(lambda: current, RESOURCE)
    first = metrics.render("", coding)
    assert metrics.render("", coding) is first
    assert metrics.render(OPENMETRICS, coding) is not first
    assert metrics.render("", coding) is first
    current = flows(4, time_unix_nano=END + 1)
    body = metrics.render("", coding).body
    assert as_set(parsed((gzip.decompress(body) if coding else body).decode())) == expected(current)


def test_a_page_goes_when_nobody_asks_for_it() -> None:
    now, snapshots = 100.0, [flows(3)]
    metrics = MetricsPage(lambda: snapshots[-1], RESOURCE, lambda: now)
    assert metrics.expire() is None
    plain = metrics.render()
    now += HOLD_SECONDS / 2
    packed = metrics.render("", "gzip")
    assert metrics.expire() == HOLD_SECONDS / 2
    assert metrics.render() is plain
    now += HOLD_SECONDS / 2
    assert metrics.render() is plain
    assert metrics.expire() == HOLD_SECONDS / 2
    now += HOLD_SECONDS / 2
    assert metrics.expire() == HOLD_SECONDS / 2
    assert metrics.render("", "gzip") is not packed
    now += HOLD_SECONDS
    assert metrics.expire() is None
    assert metrics.render() is not plain


def test_the_page_holds_no_snapshot_when_its_pages_are_gone() -> None:
    now = 0.0
    snapshots = [flows(3)]
    metrics = MetricsPage(lambda: snapshots[-1], RESOURCE, lambda: now)
    metrics.render()
    before = sys.getrefcount(snapshots[0])
    now = HOLD_SECONDS
    assert metrics.expire() is None
    after = sys.getrefcount(snapshots[0])
    assert after == before - 1


@pytest.mark.parametrize("accept", ["", OPENMETRICS, PROTOBUF])
def test_a_compressed_page_is_one_stream_of_the_plain_one(accept: str) -> None:
    """However large: compressed piece by piece, so that the plain page is never there as a whole."""
    metrics = MetricsPage(lambda: flows(20_000), RESOURCE)
    plain, packed = metrics.render(accept), metrics.render(accept, "gzip")
    assert gzip.decompress(packed.body) == plain.body
    assert packed.gzip
    assert len(plain.pieces) > 4
    assert max(map(len, plain.pieces)) < 2**20

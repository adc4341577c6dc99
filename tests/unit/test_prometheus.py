"""The metrics page against the client library's parsers, promtool, and the stock OpenTelemetry exporter."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable

import pytest
from opentelemetry.exporter.prometheus import _CustomCollector
from opentelemetry.sdk.resources import Resource
from prometheus_client import openmetrics, parser
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.samples import Sample

from otel_netmon.export.prometheus import OPENMETRICS, TEXT, MetricsPage, NoSnapshotError, negotiate
from otel_netmon.otel.catalogue import CATALOGUE
from otel_netmon.otel.metrics_data import batches
from otel_netmon.otel.points import Point, Snapshot
from otel_netmon.otel.prometheus_names import family_name
from support.snapshots import END, START, every_metric, flows

read_openmetrics: Callable[[str], Iterable[Metric]] = openmetrics_parser.text_string_to_metric_families

RESOURCE = {"service.name": "otel-netmon", "host.name": "node-1"}
TARGET = {"service_name": "otel-netmon", "host_name": "node-1"}

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)

Samples = set[tuple[str, frozenset[tuple[str, str]], float]]


def page(snapshot: Snapshot, accept: str = "") -> str:
    return MetricsPage(lambda: snapshot, RESOURCE).render(accept)[1].decode()


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
    def label(value: object) -> str:
        return str(value).lower() if isinstance(value, bool) else str(value)

    samples = {
        (
            CATALOGUE[name].prometheus_name,
            frozenset((key.replace(".", "_"), label(value)) for key, value in point.attributes.items()),
            float(point.value),
        )
        for name, points in snapshot.points.items()
        for point in points
    }
    return samples | {("target_info", frozenset(TARGET.items()), 1.0)}


def test_text_holds_every_point_by_value() -> None:
    assert as_set(parsed(page(every_metric()))) == expected(every_metric())


def test_openmetrics_holds_every_point_by_value_and_when_counting_began() -> None:
    text = page(every_metric(), "application/openmetrics-text")
    assert text.endswith("\n# EOF\n")
    samples = parsed_openmetrics(text)
    created = [sample for sample in samples if sample.name.endswith("_created")]
    assert as_set(sample for sample in samples if sample not in created) == expected(every_metric())
    assert {sample.value for sample in created} == {START / 1e9}
    counters = [metric for metric in CATALOGUE.values() if metric.kind == "counter"]
    assert len(created) == sum(len(every_metric().points[metric.name]) for metric in counters)
    assert " 1700000000.000000001\n" in text


def test_openmetrics_families_have_type_unit_and_help() -> None:
    text = page(every_metric(), "application/openmetrics-text")
    families = {family.name: family for family in read_openmetrics(text)}
    assert families.pop("target").type == "info"
    units = {"By": "bytes", "s": "seconds"}
    for metric in CATALOGUE.values():
        family = families.pop(family_name(metric.name, metric.unit, metric.kind))
        assert family.documentation == metric.description
        assert family.type == ("counter" if metric.kind == "counter" else "gauge")
        assert family.unit == ("ratio" if (metric.unit, metric.kind) == ("1", "gauge") else units.get(metric.unit, ""))
    assert families == {}


def test_promtool_has_nothing_to_say() -> None:
    check = subprocess.run(
        ["promtool", "check", "metrics"], input=page(every_metric()), capture_output=True, text=True, check=False
    )
    assert (check.returncode, check.stdout, check.stderr) == (0, "", "")


def test_promtool_is_a_check_that_can_fail() -> None:
    text = page(every_metric()).replace("# HELP netmon_flow_packets_total", "# HELP netmon_other")
    check = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert check.returncode != 0


def test_names_labels_and_values_are_those_of_the_stock_exporter() -> None:
    """Only ``1`` differs: the specification makes it ``ratio`` for gauges, the stock exporter leaves it out (its issue 4058)."""
    snapshot = every_metric()
    sent = Snapshot(END, {k: v for k, v in snapshot.points.items() if not CATALOGUE[k].prometheus_only})
    stock = _CustomCollector(scope_info_enabled=False)
    ((_, data),) = batches(sent, Resource(RESOURCE), 10_000)
    stock.add_metrics_data(data)
    theirs = as_set(
        sample for family in stock.collect() for sample in family.samples if not sample.name.endswith("_created")
    )
    ratios = {name for name, metric in CATALOGUE.items() if (metric.unit, metric.kind) == ("1", "gauge")}
    renamed = {CATALOGUE[name].prometheus_name: name.replace(".", "_") for name in ratios}
    assert renamed == {"netmon_coverage_ratio": "netmon_coverage", "netmon_probe_state_ratio": "netmon_probe_state"}
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


def test_without_points_a_metric_is_not_there_and_without_resource_no_target() -> None:
    snapshot = Snapshot(END, {"netmon.flow.io": []})
    assert MetricsPage(lambda: snapshot, {}).render() == (TEXT, b"")
    assert MetricsPage(lambda: snapshot, {}).render("application/openmetrics-text") == (OPENMETRICS, b"# EOF\n")


def test_before_the_first_reading_there_is_no_page() -> None:
    with pytest.raises(NoSnapshotError):
        MetricsPage(lambda: None, RESOURCE).render()


def test_scrapers_of_one_cycle_share_one_page_and_the_next_cycle_has_its_own() -> None:
    current = flows(3)
    metrics = MetricsPage(lambda: current, RESOURCE)
    _, first = metrics.render()
    assert metrics.render()[1] is first
    assert metrics.render("application/openmetrics-text")[1] != first
    assert metrics.render()[1] == first
    current = flows(4, time_unix_nano=END + 1)
    assert as_set(parsed(metrics.render()[1].decode())) == expected(current)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("Application/OpenMetrics-Text; version=1.0.0; charset=utf-8", OPENMETRICS),
        ("application/openmetrics-text;version=0.0.1", TEXT),
        ("application/openmetrics-text;version=2.0.0", TEXT),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;q=0.3,text/plain;q=0.4", TEXT),
        ("application/openmetrics-text;q=0.4,text/plain;q=0.4", OPENMETRICS),
        ("application/openmetrics-text;q=nan", TEXT),
        ("application/openmetrics-text;q=1e9", TEXT),
        ("text/html,application/xhtml+xml,*/*;q=0.8", TEXT),
        (";;;,,=,q=,application/openmetrics-text;version", OPENMETRICS),
        (PROMETHEUS_2, OPENMETRICS),
        (PROMETHEUS_3, OPENMETRICS),
    ],
)
def test_negotiation(accept: str, content_type: str) -> None:
    assert negotiate(accept) == content_type
    assert openmetrics.exposition.CONTENT_TYPE_LATEST == OPENMETRICS

"""The custom collector in a registry of the client library, against our own page family by family."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import MappingProxyType

import pytest
from prometheus_client import CollectorRegistry, Metric as Family, exposition, openmetrics, parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from otel_netmon.export import prometheus_collector, prometheus_text
from otel_netmon.export.prometheus import MetricsPage
from otel_netmon.export.prometheus_collector import NetmonCollector
from otel_netmon.export.prometheus_negotiation import OPENMETRICS
from otel_netmon.otel.attributes import AttributeSet
from otel_netmon.otel.catalogue import CATALOGUE, Metric
from otel_netmon.otel.points import Exemplar, Snapshot
from support.distributions import histogram_series
from support.prometheus_samples import whole_catalogue
from support.snapshots import END, START

DURATION = Metric("test.duration", "s", "histogram", float, "How long it took.", ("network.transport",))


@pytest.fixture(autouse=True)
def _a_histogram_in_the_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue = MappingProxyType({**CATALOGUE, DURATION.name: DURATION})
    monkeypatch.setattr(prometheus_text, "CATALOGUE", catalogue)
    monkeypatch.setattr(prometheus_collector, "CATALOGUE", catalogue)


def snapshot() -> Snapshot:
    sets = [AttributeSet.of({"network.transport": each}) for each in ("tcp", 'u"d\np\\')]
    marks = [Exemplar(0.5, START, bytes(range(16)), bytes(range(8))), Exemplar(4.0, END, bytes(16), bytes(8))]
    durations = histogram_series(sets, [START, END], [[0.0, 0.5, 4.0], []], [3, 0], (0.001, 0.5, 1e6), [marks, []])
    return Snapshot(END, {**whole_catalogue().points, DURATION.name: durations})


def collected() -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=True)
    registry.register(NetmonCollector(snapshot))
    return registry


def as_lists(families: Iterable[Family]) -> list[tuple[object, ...]]:
    """Families and samples in their order, with everything that a parser tells of them; the library holds numbers as floats."""
    return [
        (
            *(each.name, each.type, each.documentation, each.unit),
            [
                (sample.name, sample.labels, float(sample.value), sample.timestamp, sample.exemplar)
                for sample in each.samples
            ],
        )
        for each in families
    ]


def test_openmetrics_is_that_of_our_page() -> None:
    read: Callable[[str], Iterable[Family]] = openmetrics_parser.text_string_to_metric_families
    generate: Callable[[CollectorRegistry], bytes] = openmetrics.exposition.generate_latest
    theirs = as_lists(read(generate(collected()).decode()))
    ours = as_lists(read(MetricsPage(snapshot, {}).render(OPENMETRICS).body.decode()))
    assert len(ours) == len(CATALOGUE) + 1
    assert ours == theirs


def test_text_is_that_of_our_page() -> None:
    """The library's text format has ``_created`` as families of their own, ours leaves it to the formats that know it."""
    generate: Callable[[CollectorRegistry], bytes] = exposition.generate_latest
    text = parser.text_string_to_metric_families(generate(collected()).decode())
    theirs = as_lists(family for family in text if not family.name.endswith("_created"))
    ours = as_lists(parser.text_string_to_metric_families(MetricsPage(snapshot, {}).render().body.decode()))
    assert ours == theirs


def test_exemplars_reach_the_library() -> None:
    (family,) = (family for family in collected().collect() if family.name == "test_duration_seconds")
    found = {sample.labels["le"]: sample.exemplar for sample in family.samples if sample.exemplar}
    assert {le: (each.value, str(each.timestamp)) for le, each in found.items()} == {
        "0.5": (0.5, "1700000000.000000001"),
        "1e+06": (4.0, "1700000010.000000003"),
    }


def test_before_the_first_reading_there_is_nothing_and_names_are_taken_already() -> None:
    registry = CollectorRegistry(auto_describe=True)
    registry.register(NetmonCollector(lambda: None))
    assert list(registry.collect()) == []
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        registry.register(NetmonCollector(lambda: None))

"""The catalogue against the semantic conventions, against itself, and against docs/metrics.md."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from opentelemetry import semconv
from opentelemetry.semconv import _incubating, attributes
from opentelemetry.semconv._incubating.attributes import network_attributes
from opentelemetry.semconv.schemas import Schemas

from otel_netmon.otel import catalogue, prometheus_names, request_times
from otel_netmon.otel.catalogue import ATTRIBUTES, CATALOGUE, EVENTS
from otel_netmon.otel.drift import problems
from otel_netmon.otel.points import HistogramSeries, Point, Snapshot
from otel_netmon.otel.span_attributes import SPAN_ATTRIBUTES
from support.snapshots import END, START, every_metric

SEMCONV_METRICS = [metric for metric in CATALOGUE.values() if metric.source == "semconv"]


def conventional_attributes() -> set[str]:
    """Every attribute key of the installed conventions."""
    names: set[str] = set()
    for package in (attributes, importlib.import_module(f"{_incubating.__name__}.attributes")):
        for info in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"{package.__name__}.{info.name}")
            names |= {value for name, value in vars(module).items() if name.isupper() and isinstance(value, str)}
    return names


def conventional_module(name: str, constant: str) -> ModuleType:
    """The module that defines a metric: what is stable is in a package of its own."""
    module = f"metrics.{name.partition('.')[0]}_metrics"
    for package in (semconv, _incubating):
        with contextlib.suppress(ModuleNotFoundError):
            found = importlib.import_module(f"{package.__name__}.{module}")
            if hasattr(found, constant):
                return found
    raise AssertionError(f"the conventions have no {name}")


def test_docs_are_what_the_catalogue_generates(project: Path) -> None:
    page = subprocess.run(
        [sys.executable, "-m", "otel_netmon.otel.catalogue"], cwd=project, check=True, capture_output=True, text=True
    ).stdout
    assert (project / "docs" / "metrics.md").read_text() == page, (
        "run python -m otel_netmon.otel.catalogue > docs/metrics.md"
    )


def test_the_schema_is_the_one_of_the_installed_conventions() -> None:
    assert max(Schemas, key=lambda schema: tuple(map(int, schema.value.rpartition("/")[2].split(".")))).value == (
        catalogue.SCHEMA_URL
    )


@pytest.mark.parametrize("metric", SEMCONV_METRICS, ids=lambda metric: metric.name)
def test_conventional_metrics_have_the_conventional_name_unit_and_kind(metric: catalogue.Metric) -> None:
    constant = metric.name.replace(".", "_").upper()
    module = conventional_module(metric.name, constant)
    assert getattr(module, constant) == metric.name
    source = Path(str(module.__file__)).read_text()
    documentation = re.search(rf'^{constant}: Final = .*?"""(.*?)"""', source, re.DOTALL | re.MULTILINE)
    assert documentation is not None
    assert f"\nInstrument: {metric.kind}\n" in documentation[1]
    assert f"\nUnit: {metric.unit}\n" in documentation[1]
    assert "Deprecated" not in documentation[1]


def test_attributes_are_conventional_exactly_where_they_say_so() -> None:
    conventional = conventional_attributes()
    assert len(conventional) > 500
    for key, attribute in ATTRIBUTES.items():
        assert (key in conventional) == (attribute.source == "semconv"), key
        assert (key.startswith("netmon.")) == (attribute.source == "netmon"), key
        assert attribute.source != "proposed" or key.startswith("network.tcp."), key


def test_directions_are_the_conventional_ones() -> None:
    values = {value.value for value in network_attributes.NetworkIoDirectionValues}
    assert set(ATTRIBUTES["network.io.direction"].examples) == values


@pytest.mark.parametrize("metric", CATALOGUE.values(), ids=lambda metric: metric.name)
def test_every_metric_is_complete(metric: catalogue.Metric) -> None:
    assert metric.description.endswith(".")
    assert "\n" not in metric.description
    assert set(metric.attributes) <= ATTRIBUTES.keys()
    assert len(set(metric.attributes)) == len(metric.attributes)
    assert re.fullmatch(r"[a-z][a-z0-9_.]*", metric.name)
    prefixes = {
        "semconv": ("system.", "process.", "container.", "dns.", "http.", "rpc.", "otel.sdk."),
        "netmon": ("netmon.",),
        "otelcol": ("otelcol_",),
    }
    assert metric.name.startswith(prefixes[metric.source])
    assert bool(metric.bounds) == (metric.kind == "histogram")
    assert metric.prometheus_only == (metric.source == "otelcol")
    assert re.fullmatch(r"[a-z][a-z0-9_]*", metric.prometheus_name)


def test_every_attribute_is_used_and_its_examples_have_its_type() -> None:
    assert {key for metric in CATALOGUE.values() for key in metric.attributes} == set(ATTRIBUTES)
    for key, attribute in ATTRIBUTES.items():
        assert attribute.examples, key
        assert {type(example) for example in attribute.examples} == {attribute.type}, key


def test_no_two_metrics_share_a_prometheus_name() -> None:
    names = [metric.prometheus_name for metric in CATALOGUE.values()]
    assert len(set(names)) == len(names)


def test_byte_metrics_say_which_bytes() -> None:
    for metric in CATALOGUE.values():
        if metric.unit == "By":
            which = "body" if metric.name.endswith(".body.size") else "ayer-2 bytes|ayload bytes"
            assert re.search(which, metric.description), metric.name
    wire = [f"netmon.{family}.{what}" for family in ("protocol", "flow") for what in ("io", "packets")]
    assert all("wire segments after unfolding GSO and GRO" in CATALOGUE[name].description for name in wire)


@pytest.mark.parametrize(
    ("name", "prometheus"),
    [
        ("netmon.protocol.packets", "netmon_protocol_packets_total"),
        ("netmon.protocol.io", "netmon_protocol_io_bytes_total"),
        ("system.network.io", "system_network_io_bytes_total"),
        ("system.network.packet.count", "system_network_packet_count_total"),
        ("netmon.bpf.program.run_time", "netmon_bpf_program_run_time_seconds_total"),
        ("netmon.coverage", "netmon_coverage_ratio"),
        ("netmon.bpf.map.entries", "netmon_bpf_map_entries"),
        ("otelcol_receiver_accepted_metric_points", "otelcol_receiver_accepted_metric_points_total"),
    ],
)
def test_prometheus_names(name: str, prometheus: str) -> None:
    assert CATALOGUE[name].prometheus_name == prometheus


def test_a_unit_in_the_name_is_not_repeated_and_an_unknown_one_is_refused() -> None:
    assert prometheus_names.family_name("a.duration.seconds", "s", "gauge") == "a_duration_seconds"
    assert prometheus_names.family_name("a..b-c", "1", "counter") == "a_b_c"
    assert prometheus_names.label_name("9.lives") == "_9_lives"
    with pytest.raises(ValueError, match="furlong"):
        prometheus_names.family_name("a", "furlong", "gauge")


def test_a_snapshot_that_keeps_to_the_catalogue_has_no_problems() -> None:
    assert problems(every_metric()) == []
    assert every_metric().points.keys() == CATALOGUE.keys()


IO = Point({"network.interface.name": "lo", "network.io.direction": "receive"}, 1, START)


@pytest.mark.parametrize(
    ("name", "points", "problem"),
    [
        ("netmon.typo", [IO], "not in the catalogue"),
        ("netmon.flow.io", [IO], "network.interface.name is not declared"),
        ("system.network.io", [IO, replace(IO, value=2)], "two points"),
        ("system.network.io", [replace(IO, attributes={"network.interface.name": 1})], "is int, not str"),
        ("system.network.io", [replace(IO, value=1.5)], "1.5 is not int"),
        ("system.network.io", [replace(IO, value=True)], "True is not int"),
        ("system.network.io", [replace(IO, value=-1)], "negative"),
        ("system.network.io", [replace(IO, start_time_unix_nano=END + 1)], "start time"),
        ("system.network.io", [replace(IO, start_time_unix_nano=0)], "start time"),
    ],
)
def test_every_departure_from_the_catalogue_is_found(name: str, points: list[Point], problem: str) -> None:
    (found,) = problems(Snapshot(END, {name: points}))
    assert problem in found


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("netmon.coverage", {}, "a distribution, not a gauge"),
        ("netmon.pipeline.cycle.duration", {"bounds": np.array([1.0])}, "bounds [1.0], not [0.005"),
        (
            "netmon.pipeline.cycle.duration",
            {"count": np.array([3], np.uint64)},
            "3 measurements, 2 in explicit buckets",
        ),
        ("netmon.pipeline.cycle.duration", {"zero_count": np.array([1], np.uint64)}, "3 in exponential buckets"),
        ("netmon.pipeline.cycle.duration", {"start_time_unix_nano": np.array([0], np.uint64)}, "start time"),
    ],
)
def test_every_departure_of_a_distribution_is_found(name: str, change: dict[str, Any], problem: str) -> None:
    series = every_metric().points["netmon.pipeline.cycle.duration"]
    assert isinstance(series, HistogramSeries)
    found = problems(Snapshot(END, {name: replace(series, **change)}))
    assert problem in " ".join(found)
    assert problems(Snapshot(END, {"netmon.pipeline.cycle.duration": series})) == []


def test_a_number_is_no_distribution() -> None:
    (found,) = problems(Snapshot(END, {"netmon.pipeline.cycle.duration": [Point({}, 1.0, START)]}))
    assert found == "netmon.pipeline.cycle.duration: value 1.0 is not a distribution"


def test_every_attribute_of_our_own_on_spans_is_documented(project: Path) -> None:
    sources = ["connection_spans", "dns", "http", "request_times", "rpc", "tls"]
    text = "".join((project / "otel_netmon" / "otel" / f"{name}.py").read_text() for name in sources)
    told = set(re.findall(r'"(netmon\.[a-z0-9_.]*[a-z0-9])"', text)) | set(request_times.KEYS)
    known = set(CATALOGUE) | set(ATTRIBUTES) | set(EVENTS)
    assert told - known - set(SPAN_ATTRIBUTES) == set()
    assert set(SPAN_ATTRIBUTES) - told == set()
    assert {attribute.type for attribute in SPAN_ATTRIBUTES.values()} <= {str, int, float, bool}

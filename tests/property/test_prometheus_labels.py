"""Whatever stands in a label, the page stays readable and says it back, in all formats."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, strategies as st
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from otel_netmon.export.prometheus import MetricsPage
from otel_netmon.export.prometheus_negotiation import OPENMETRICS, PROTOBUF, accepts_gzip, content_type
from otel_netmon.otel.attributes import AttributeSet, Tag, encode
from otel_netmon.otel.points import Point, Snapshot, portable_text
from otel_netmon.otel.prometheus_names import label_name
from support.prometheus_messages import families
from support.snapshots import END, START

NASTY = st.sampled_from(
    [
        '"',
        "\\",
        "\n",
        "\r",
        "\x00",
        "{",
        "}",
        ",",
        "=",
        "#",
        " ",
        "\\n",
        "\ud800",
        "\u2028",
        "\ufffd",
        "é",
        "%s",
        "\x01",
    ]
)
VALUES = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=20), st.lists(NASTY, max_size=10).map("".join)
)
HOSTILE = [
    "a\nb",
    'a"b',
    "a\\b",
    "a\x00b",
    "\udcff\ud800",
    65536 * "\\",
    65536 * "é",
    65536 * "\x00",
    "\r\n# EOF\n",
    "\\",
    "{} 1",
]
KEYS = st.sampled_from(["a", "b", "a.b", "a_b", "a-b", "a__b", "_", "9", "é", "server.address"])
ATTRIBUTES = st.dictionaries(KEYS, st.one_of(VALUES, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats()))


def page(values: list[str], accept: str) -> bytes:
    points = [
        Point({"network.interface.name": value, "network.io.direction": "receive"}, number, START)
        for number, value in enumerate(values)
    ]
    snapshot = Snapshot(END, {"system.network.io": points})
    return MetricsPage(lambda: snapshot, {"service.name": "test", "hostile": values[0]}).render(accept).body


def check(values: list[str]) -> None:
    expected = {portable_text(value): number for number, value in enumerate(values)}
    for accept, read in (
        ("", parser.text_string_to_metric_families),
        (OPENMETRICS, openmetrics_parser.text_string_to_metric_families),
    ):
        samples = [sample for family in read(page(values, accept).decode()) for sample in family.samples]
        totals = {
            sample.labels.get("network_interface_name", ""): sample.value
            for sample in samples
            if "_total" in sample.name
        }
        assert totals == expected
        (target,) = (sample for sample in samples if sample.name == "target_info")
        assert target.labels.get("hostile", "") == portable_text(values[0])
    _, family = families(page(values, PROTOBUF))
    shown = [({label.name: label.value for label in metric.label}, metric.counter.value) for metric in family.metric]
    assert {labels.get("network_interface_name", ""): value for labels, value in shown} == expected


@given(st.lists(VALUES, min_size=1, max_size=5, unique=True))
def test_any_label_value_is_read_back_by_all_parsers(values: list[str]) -> None:
    check(values)


def test_hostile_label_values_are_read_back_by_all_parsers() -> None:
    check(HOSTILE)


def test_promtool_reads_hostile_label_values() -> None:
    result = subprocess.run(["promtool", "check", "metrics"], input=page(HOSTILE, ""), capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (0, b"")


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_no_label_value_makes_another_line(accept: str) -> None:
    assert page(HOSTILE, accept).count(b"\n") == page([f"{i}" for i in range(len(HOSTILE))], accept).count(b"\n")


@given(ATTRIBUTES)
def test_no_label_name_stands_twice_and_no_value_is_lost(attributes: dict[str, str | int | float | bool]) -> None:
    """Keys that become one label: their values in the order of the keys, as the OpenTelemetry specification wants it."""
    each = AttributeSet(encode(attributes, Tag.NUMBER_DATA_POINT))
    wanted: dict[str, list[str]] = {}
    for key in sorted(attributes):
        value = attributes[key]
        if value != "":
            text = portable_text(value) if isinstance(value, str) else AttributeSet.of({"x": value}).label_pairs()[0][1]
            wanted.setdefault(label_name(key), []).append(text)
    joined = {name: ";".join(values) for name, values in wanted.items()}
    for text in (f"x{{{each.labels}}} 1\n", f"# TYPE x gauge\nx{{{each.labels}}} 1\n# EOF\n"):
        read = (openmetrics_parser if "EOF" in text else parser).text_string_to_metric_families
        ((sample,),) = [family.samples for family in read(text)]
        assert sample.labels == joined
        assert len(each.label_pairs()) == len(joined)
        assert dict(each.label_pairs()) == joined
    body = MetricsPage(lambda: Snapshot(END, {}), attributes).render(PROTOBUF).body
    shown = [(label.name, label.value) for family in families(body) for label in family.metric[0].label]
    assert len(shown) == len(joined)
    assert dict(shown) == joined


@given(st.text())
def test_any_header_gets_an_answer(header: str) -> None:
    content_type(header)
    accepts_gzip(header)


@given(st.text('",;=\\ q*/.01a'))
def test_any_header_of_the_grammars_own_characters_gets_an_answer(header: str) -> None:
    content_type(header)
    accepts_gzip(header)
    content_type("application/openmetrics-text," + header)

"""Whatever stands in a label, the page stays readable and says it back."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, strategies as st
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from otel_netmon.export.prometheus import MetricsPage, negotiate
from otel_netmon.otel.points import Point, Snapshot, portable_text
from support.snapshots import END, START

NASTY = st.sampled_from(
    ['"', "\\", "\n", "\r", "\x00", "{", "}", ",", "=", "#", " ", "\\n", "\ud800", "\u2028", "\ufffd", "é"]
)
VALUES = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=20), st.lists(NASTY, max_size=10).map("".join)
)
HOSTILE = ["a\nb", 'a"b', "a\\b", "a\x00b", "\udcff\ud800", 65536 * "\\", 65536 * "é", "\r\n# EOF\n", "\\"]


def page(values: list[str], accept: str) -> str:
    points = [
        Point({"network.interface.name": value, "network.io.direction": "receive"}, number, START)
        for number, value in enumerate(values)
    ]
    snapshot = Snapshot(END, {"system.network.io": points})
    return MetricsPage(lambda: snapshot, {"service.name": "test", "hostile": values[0]}).render(accept)[1].decode()


def check(values: list[str]) -> None:
    for accept, read in (
        ("", parser.text_string_to_metric_families),
        ("application/openmetrics-text", openmetrics_parser.text_string_to_metric_families),
    ):
        samples = [sample for family in read(page(values, accept)) for sample in family.samples]
        totals = {
            sample.labels.get("network_interface_name", ""): sample.value
            for sample in samples
            if "_total" in sample.name
        }
        assert totals == {portable_text(value): number for number, value in enumerate(values)}
        (target,) = (sample for sample in samples if sample.name == "target_info")
        assert target.labels.get("hostile", "") == portable_text(values[0])


@given(st.lists(VALUES, min_size=1, max_size=5, unique=True))
def test_any_label_value_is_read_back_by_both_parsers(values: list[str]) -> None:
    check(values)


def test_hostile_label_values_are_read_back_by_both_parsers() -> None:
    check(HOSTILE)


def test_promtool_reads_hostile_label_values() -> None:
    result = subprocess.run(
        ["promtool", "check", "metrics"], input=page(HOSTILE, "").encode(), capture_output=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, b"")


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text"])
def test_no_label_value_makes_another_line(accept: str) -> None:
    assert page(HOSTILE, accept).count("\n") == page([f"{i}" for i in range(len(HOSTILE))], accept).count("\n")


@given(st.text())
def test_any_accept_header_gets_an_answer(header: str) -> None:
    negotiate(header)

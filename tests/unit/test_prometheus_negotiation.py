"""Which format and coding a scraper gets, with the headers that real ones send."""

from __future__ import annotations

import pytest
from prometheus_client import openmetrics

from otel_netmon.export.prometheus_negotiation import OPENMETRICS, PROTOBUF, TEXT, accepts_gzip, content_type

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_2_NATIVE = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,"
    "application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROMETHEUS_3_NATIVE = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;escaping=underscores;q=0.7,"
    + PROMETHEUS_3
)
DELIMITED = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/*", TEXT),
        ("application/*", OPENMETRICS),
        ("application/*;q=0.9, text/plain", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("Application/OpenMetrics-Text; Version=1.0.0; charset=UTF-8", OPENMETRICS),
        ('application/openmetrics-text; version="1.0.0"; x="a,b;q=0"', OPENMETRICS),
        ("application/openmetrics-text;version=0.0.1", TEXT),
        ("application/openmetrics-text;version=2.0.0", TEXT),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;q=0,*/*", TEXT),
        ("application/openmetrics-text;q=0.3,text/plain;q=0.4", TEXT),
        ("application/openmetrics-text;q=0.4,text/plain;q=0.4", OPENMETRICS),
        ("application/openmetrics-text;q=0.4,*/*;q=0.4", OPENMETRICS),
        ("application/openmetrics-text;q=0.3,*/*;q=0.4", TEXT),
        ("text/plain;q=0,*/*;q=0.5", OPENMETRICS),  # the most specific range counts: no text
        ("application/openmetrics-text;version=1.0.0;q=0.2,application/openmetrics-text;q=0.9,text/plain;q=0.5", TEXT),
        ("application/openmetrics-text;q=nan", TEXT),
        ("application/openmetrics-text;q=1e9", TEXT),
        ("application/openmetrics-text;q=1.001", TEXT),
        ("application/openmetrics-text;Q=0.001", OPENMETRICS),
        ("text/html,application/xhtml+xml,*/*;q=0.8", TEXT),
        ("text/html", TEXT),
        (";;;,,=,q=,application/openmetrics-text;version", OPENMETRICS),
        (DELIMITED, PROTOBUF),
        (DELIMITED + ";escaping=allow-utf-8", PROTOBUF),
        ('application/vnd.google.protobuf; proto="io.prometheus.client.MetricFamily"; encoding="delimited"', PROTOBUF),
        ("application/vnd.google.protobuf", TEXT),
        ("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text", TEXT),
        ("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=compact-text", TEXT),
        ("application/vnd.google.protobuf;proto=other;encoding=delimited", TEXT),
        (DELIMITED + ";q=0.5,application/openmetrics-text;q=0.6", OPENMETRICS),
        (DELIMITED + ";q=0.5,application/openmetrics-text;q=0.5", PROTOBUF),
        (PROMETHEUS_2, OPENMETRICS),
        (PROMETHEUS_2_NATIVE, PROTOBUF),
        (PROMETHEUS_3, OPENMETRICS),
        (PROMETHEUS_3_NATIVE, PROTOBUF),
    ],
)
def test_format(accept: str, expected: str) -> None:
    assert content_type(accept) == expected


def test_openmetrics_has_the_content_type_of_the_client_library() -> None:
    assert openmetrics.exposition.CONTENT_TYPE_LATEST == OPENMETRICS


@pytest.mark.parametrize(
    ("accept_encoding", "expected"),
    [
        ("", False),
        ("gzip", True),
        ("GZip", True),
        ("x-gzip", True),
        ("deflate, gzip;q=1.0, *;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("gzip;q=0, *", False),
        ("gzip;q=much", False),
        ("*", True),
        ("*;q=0", False),
        ("identity", False),
        ("identity;q=0.5, gzip;q=0.4", False),
        ("identity;q=0.5, gzip;q=0.5", True),
        ("br, zstd", False),
        ("gzip;q=0.1", True),
    ],
)
def test_coding(accept_encoding: str, expected: bool) -> None:
    assert accepts_gzip(accept_encoding) is expected

"""Requests that went through TLS: their series and spans say https, and leave out ends that nobody knows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from otel_netmon.analysis.http_alike import AlikeRequests
from otel_netmon.analysis.http_columns import columns_of
from otel_netmon.analysis.http_records import UNPLACED, HttpRequest
from otel_netmon.analysis.http_series import HttpSeries
from otel_netmon.analysis.routes import RouteRules
from otel_netmon.analysis.sampling import KeepRule
from otel_netmon.enrich.addresses import address_text
from otel_netmon.otel.catalogue import CATALOGUE
from otel_netmon.otel.http import HttpPoints, http_spans, metrics_of
from otel_netmon.otel.request_ends import end_attributes
from otel_netmon.otel.rpc import server_of

CLIENT = bytes(10) + b"\xff\xff" + bytes([10, 0, 0, 1]) + (40000).to_bytes(2, "big")
SERVER = bytes(10) + b"\xff\xff" + bytes([10, 0, 0, 2]) + (443).to_bytes(2, "big")
ENDS = {
    "client.address": "10.0.0.1",
    "client.port": 40000,
    "server.address": "10.0.0.2",
    "server.port": 443,
    "network.peer.address": "10.0.0.2",
    "network.peer.port": 443,
}


def request(client: bytes, server: bytes, host: str | None, *, is_secure: bool = True) -> HttpRequest:
    return HttpRequest(
        "1.1", client, server, "GET", "/a/b", host, 200, "answered", 1000, 1100, 1200, 1300, 0, 0, is_secure=is_secure
    )  # fmt: skip


def series_of(side: str, *requests: HttpRequest) -> list[dict[str, Any]]:
    """The attributes of the series of requests, in their order."""
    duration, _, size, _ = metrics_of(side)
    bounds = CATALOGUE[duration].bounds, CATALOGUE[size].bounds
    series = HttpSeries(side, address_text, bounds, 64, 64, 0, 1 << 60)
    series.set_limit(64)
    alike = AlikeRequests(RouteRules(()), keeps_paths=False)
    series.add(columns_of(requests, alike), alike.sights, None, 1)
    told = HttpPoints(side).points(series.reading())[duration]
    return [dict(attributes.items()) for attributes in told.attributes[1:]]


def test_series_tell_the_scheme_apart() -> None:
    found = series_of("server", request(CLIENT, SERVER, "a"), request(CLIENT, SERVER, "a", is_secure=False))
    assert sorted(each["url.scheme"] for each in found) == ["http", "https"]
    assert {(each["server.address"], each["server.port"]) for each in found} == {("10.0.0.2", 443)}


@pytest.mark.parametrize(("side", "known"), [("server", {}), ("client", {"server.address": "service.example"})])
def test_a_series_without_a_known_connection_has_no_address(side: str, known: dict[str, str]) -> None:
    (found,) = series_of(side, request(UNPLACED, UNPLACED, "service.example"))
    assert {name: value for name, value in found.items() if name.startswith("server.")} == known


def test_spans_name_the_ends_that_are_known() -> None:
    assert end_attributes(request(CLIENT, SERVER, None), is_server=False) == ENDS
    assert end_attributes(request(CLIENT, SERVER, "service.example:8443"), is_server=False) == {
        **ENDS,
        "server.address": "service.example",
        "server.port": 8443,
    }
    peer = {"network.peer.address": "10.0.0.1", "network.peer.port": 40000}
    assert end_attributes(request(CLIENT, SERVER, None), is_server=True) == {**ENDS, **peer}
    assert end_attributes(request(UNPLACED, UNPLACED, None), is_server=True) == {}
    assert end_attributes(request(UNPLACED, UNPLACED, "service.example"), is_server=False) == {
        "server.address": "service.example"
    }


def test_calls_likewise() -> None:
    assert server_of(request(CLIENT, SERVER, None)) == ("10.0.0.2", 443)
    assert server_of(request(UNPLACED, UNPLACED, None)) is None
    assert server_of(request(UNPLACED, UNPLACED, "service.example")) == ("service.example", 0)


@pytest.mark.parametrize(
    ("client", "server", "host", "url"),
    [
        (CLIENT, SERVER, "service.example", b"https://service.example/a/b"),
        (CLIENT, SERVER, "service.example:8443", b"https://service.example:8443/a/b"),
        (CLIENT, SERVER, "service.example:80", b"https://service.example:80/a/b"),
        (UNPLACED, UNPLACED, "service.example", b"https://service.example/a/b"),
        (UNPLACED, UNPLACED, None, b""),
    ],
)
def test_the_url_of_a_client_has_the_scheme_and_a_port_that_is_not_its_own(
    client: bytes, server: bytes, host: str | None, url: bytes
) -> None:
    alike = AlikeRequests(RouteRules(()), keeps_paths=False)
    columns = columns_of([request(client, server, host)], alike)
    rule = KeepRule(1.0, 1000, None)
    kept = http_spans(columns, np.zeros(1, np.int64), alike.sights, None, rule, 0, 1, is_server=False)
    (attributes,) = kept.spans.batch.attributes
    assert url in attributes
    assert (b"url.full" in attributes) == bool(url)

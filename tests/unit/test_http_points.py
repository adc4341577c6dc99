"""Requests as series, points and spans: names, attributes, parents, and nothing that is secret."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from otel_netmon.analysis.http_alike import AlikeRequests
from otel_netmon.analysis.http_columns import HttpColumns, HttpRecords, columns_of
from otel_netmon.analysis.http_records import HttpRequest
from otel_netmon.analysis.http_series import HttpSeries
from otel_netmon.analysis.routes import LearnedRoutes, RouteRules
from otel_netmon.analysis.sampling import KeepRule, Reason
from otel_netmon.config.routes import parse_rule
from otel_netmon.enrich.addresses import address_text
from otel_netmon.otel.attributes import AttributeSet, Tag, Value
from otel_netmon.otel.catalogue import CATALOGUE
from otel_netmon.otel.drift import problems
from otel_netmon.otel.histograms import joined_series
from otel_netmon.otel.http import FIRST_BYTE, HttpPoints, http_spans, metrics_of
from otel_netmon.otel.points import HistogramSeries, Snapshot
from otel_netmon.otel.spans import SpanBatch, SpanKind, StatusCode
from otel_netmon.readers.messages import http_messages
from support.http_events import Event, event, messages
from support.http_messages import HOST, INFO, request

MS = 1_000_000
SECOND = 1_000_000_000
UNIX = 1_700_000_000 * SECOND
OFFSET = UNIX - 1000 * MS
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SERVER: dict[str, Value] = {
    "url.scheme": "http",
    "server.address": "192.0.2.2",
    "server.port": 8080,
    "network.protocol.version": "1.1",
}


class Counting:
    """One side of the probe."""

    def __init__(
        self, side: str = "server", rules: Sequence[str] = (), *, learns: bool = False, names: int = 10
    ) -> None:
        self.side = side
        self.learned = LearnedRoutes(10) if learns else None
        self.alike = AlikeRequests(RouteRules(map(parse_rule, rules)), keeps_paths=learns)
        duration, _, size, _ = metrics_of(side)
        bounds = CATALOGUE[duration].bounds, CATALOGUE[size].bounds
        self.series = HttpSeries(side, address_text, bounds, names, names, UNIX, 3600 * SECOND)
        self.series.set_limit(100)
        self.rule = KeepRule(1.0, 1000)
        self.made = HttpPoints(side)

    def columns(self, *events: Event) -> HttpColumns:
        return HttpRecords(http_messages(messages(events))).columns(self.alike)

    def count(self, *events: Event) -> Counting:
        self.series.add(self.columns(*events), self.alike.sights, self.learned, UNIX)
        return self

    def points(self) -> dict[str, HistogramSeries]:
        return self.made.points(self.series.reading())

    def counts(self, which: int = 0) -> dict[AttributeSet, int]:
        told = self.points()[metrics_of(self.side)[which]]
        return dict(zip(told.attributes, map(int, told.count), strict=True))

    def by_attributes(self) -> dict[tuple[tuple[str, Value], ...], int]:
        return {tuple(sorted(each.items())): count for each, count in self.counts().items()}

    def spans(self, requests: HttpColumns) -> SpanBatch:
        counted = self.series.add(requests, self.alike.sights, self.learned, UNIX)
        is_server = self.side == "server"
        found = http_spans(
            requests, counted.kinds, self.alike.sights, self.learned, self.rule, OFFSET, 2 * SECOND, is_server=is_server
        )
        return found.batch

    def span(self, *events: Event) -> dict[str, Value]:
        batch = self.spans(self.columns(*events))
        assert len(batch) == 1
        return attributes(batch, 0)


def attributes(batch: SpanBatch, at: int) -> dict[str, Value]:
    # The tag is one octet, and an AttributeSet reads whatever the tag is.
    assert not batch.attributes[at] or batch.attributes[at][0] == Tag.SPAN
    return dict(AttributeSet(batch.attributes[at]).items())


OVERFLOWED: dict[str, Value] = {"otel.metric.overflow": True}
OVERFLOW = AttributeSet.of(OVERFLOWED)


def test_points_of_the_server() -> None:
    side = Counting("server", ["GET /users/{id}"])
    side.count(
        event(request("GET /users/1", HOST)),
        event(request("GET /users/2?secret", HOST)),
        event(request("GET /users/3", HOST), 404),
        event(request("GET /users/3", HOST), 503),
        event(request("BREW /pot", HOST), 0, flags=128, told_ns=61 * MS),
    )
    users: dict[str, Value] = {"http.request.method": "GET", **SERVER, "http.route": "/users/{id}"}
    assert side.by_attributes() == {
        tuple(sorted(each.items())): count
        for each, count in [
            (OVERFLOWED, 0),
            ({**users, "http.response.status_code": 200}, 2),
            ({**users, "http.response.status_code": 404}, 1),
            ({**users, "http.response.status_code": 503, "error.type": "503"}, 1),
            ({"http.request.method": "_OTHER", **SERVER, "error.type": "timeout"}, 1),
        ]
    }


def test_points_of_the_client() -> None:
    side = Counting("client", ["/users/{id}"])
    side.count(
        event(request("GET /users/1", "Host: A.example:81")),
        event(request("GET /users/1", "Host: a.example"), 404),
        event(request("GET /users/1", "Host: ???"), 0, flags=16),
    )
    expected: dict[str, Value] = {"http.request.method": "GET", "url.scheme": "http", "network.protocol.version": "1.1"}
    expected["url.template"] = "/users/{id}"
    assert side.by_attributes() == {
        tuple(sorted(each.items())): count
        for each, count in [
            (OVERFLOWED, 0),
            ({**expected, "server.address": "a.example", "server.port": 81, "http.response.status_code": 200}, 1),
            (
                {
                    **expected,
                    "server.address": "a.example",
                    "server.port": 8080,
                    "http.response.status_code": 404,
                    "error.type": "404",
                },
                1,
            ),
            ({**expected, "server.address": "192.0.2.2", "server.port": 8080, "error.type": "reset"}, 1),
        ]
    }


def test_what_is_measured() -> None:
    side = Counting()
    side.count(
        event(sending_ns=1 * MS, waiting_ns=2 * MS, receiving_ns=4 * MS, request_body=100, response_body=3000),
        event(waiting_ns=20 * MS, response_body=5000, captured=20),
    )
    side.count(event(status=0, flags=128, told_ns=61 * MS))
    points = side.points()
    assert {name: int(each.count.sum()) for name, each in points.items()} == {
        "http.server.request.duration": 3,
        FIRST_BYTE: 2,
        "http.server.request.body.size": 1,
        "http.server.response.body.size": 2,
    }
    sums = [float(each.sum.sum()) for each in points.values()]
    assert sums == pytest.approx([0.007 + 0.020 + 0.060, 0.022, 100.0, 8000.0])


def test_the_points_of_both_sides_are_as_the_catalogue_has_them() -> None:
    points: dict[str, Any] = {}
    parts = []
    for side in ("server", "client"):
        counting = Counting(side, ["/users/{id}"])
        for number in range(7):
            status, flags = ((200, 8), (0, 128), (500, 8))[number % 3]
            counting.count(event(request(f"GET /users/{number}", HOST), status, flags=flags, told_ns=9 * MS))
        made = counting.points()
        parts.append(made.pop(FIRST_BYTE))
        points |= made
    points[FIRST_BYTE] = joined_series(parts)
    assert problems(Snapshot(UNIX + SECOND, points)) == []
    roles = [dict(each.items())["netmon.http.role"] for each in points[FIRST_BYTE].attributes]
    assert set(roles) == {"server", "client"}
    assert len(points[FIRST_BYTE]) == 8


def test_learned_routes() -> None:
    side = Counting("server", ["/users/me"], learns=True)
    side.count(*[event(request(f"GET /users/{number}", HOST)) for number in range(5)])
    side.count(event(request("GET /users/me", HOST)), event(request("GET /nothing/here", HOST), 404))
    routes = {dict(each.items()).get("http.route"): count for each, count in side.counts().items()}
    assert routes == {None: 1, "/users/{number}": 5, "/users/me": 1}
    assert side.learned is not None
    assert side.learned.counts == {"/users/{number}": 5}


def test_names_are_bounded() -> None:
    side = Counting("client", [f"/{name}" for name in ("one", "two", "three")], names=2)
    names = ["one", "two", "three"]
    side.count(*[event(request(f"GET /{name}", f"Host: {name}.example")) for name in names])
    told = [dict(each.items()) for each in side.counts() if each != OVERFLOW]
    assert [each["server.address"] for each in told].count("other") == 1
    assert [each.get("url.template") for each in told].count(None) == 1
    assert len({each["server.address"] for each in told}) == len({each.get("url.template") for each in told}) == 3


def test_what_has_no_series_is_in_the_overflow() -> None:
    side = Counting()
    side.series.set_limit(3)
    side.count(*[event(status=200 + number % 7) for number in range(101)])
    counts = side.counts()
    assert len(counts) == 4
    assert sum(counts.values()) == 101
    assert counts[OVERFLOW] > 0
    assert side.series.folded == 0
    side.series.end_cycle()
    assert side.series.folded == 4


def test_another_process_goes_on() -> None:
    side = Counting("client", ["/users/{id}"])
    side.count(*[event(request(f"GET /users/{n}", f"Host: h{n % 3}.example"), 200 + n % 5) for n in range(53)])
    other = Counting("client", ["/users/{id}"])
    other.series.restore(side.series.state())
    for which in range(4):
        assert other.counts(which) == side.counts(which)
    for each in (side, other):
        each.series.set_limit(100)
        each.count(event(request("GET /users/9", "Host: h1.example"), 201))
    assert other.counts() == side.counts()


# ----------------------------------------------------------------------------------------------------------------- spans
def test_the_span_of_a_request_at_its_server() -> None:
    side = Counting("server", ["GET /users/{id}"])
    made = event(
        request("GET /users/7?token=secret", "Host: user:secret@A.example"),
        begun_ns=5 * MS,
        sending_ns=2 * MS,
        waiting_ns=3 * MS,
        receiving_ns=4 * MS,
        response_body=17,
    )
    requests = side.columns(made)
    batch = side.spans(requests)
    assert list(batch.names) == ["GET /users/{id}"]
    assert batch.kinds.tolist() == [SpanKind.SERVER]
    assert batch.statuses.tolist() == [StatusCode.UNSET]
    assert batch.start_time_unix_nano.tolist() == [5 * MS + OFFSET]
    assert (batch.end_time_unix_nano - batch.start_time_unix_nano).tolist() == [9 * MS]
    assert not batch.parent_span_ids.any()
    assert attributes(batch, 0) == {
        "http.request.method": "GET",
        "url.scheme": "http",
        "http.response.status_code": 200,
        "http.route": "/users/{id}",
        "server.address": "a.example",
        "server.port": 8080,
        "client.address": "192.0.2.1",
        "client.port": 40000,
        "network.peer.address": "192.0.2.1",
        "network.peer.port": 40000,
        "network.protocol.version": "1.1",
        "http.request.body.size": 0,
        "http.response.body.size": 17,
        "url.path": "/users/{id}",
    }


def test_the_span_of_a_request_at_its_client() -> None:
    made = Counting("client").span(event(request("GET /users/7/orders?a=b#c", "Host: a.example"), 404))
    assert made["url.path"] == "/users/{number}/orders"
    assert made["url.full"] == "http://a.example:8080/users/{number}/orders"
    assert (made["error.type"], made["network.peer.port"]) == ("404", 8080)
    v6 = Counting("client").span(event(request("GET /", "Host: [2001:db8::1]:80")))
    assert v6["url.full"] == "http://[2001:db8::1]/"


def test_a_request_told_from_either_side() -> None:
    side = Counting("server", ["GET /users/{id}"])
    made = event(request("GET /users/7", "Host: a.example"), 404)
    requests = side.columns(made)
    sought = http_spans(
        requests, np.zeros(1, np.int64), side.alike.sights, None, side.rule, OFFSET, 2 * SECOND, is_server=True
    ).spans
    assert sought.either_side
    assert sought.describe is not None
    side.alike.clear()  # what it says does not change with what is forgotten
    told = {of_server: sought.describe(0, of_server) for of_server in (True, False)}
    found = {of_server: dict(AttributeSet(each.attributes).items()) for of_server, each in told.items()}
    assert found[True] == attributes(sought.batch, 0)
    assert (told[True].name, told[False].name) == ("GET /users/{id}", "GET /users/{id}")
    assert (told[True].message, told[False].message) == ("", "404")
    only = {of_server: set(found[of_server]) - set(found[not of_server]) for of_server in (True, False)}
    assert only == {True: {"http.route"}, False: {"url.template", "url.full", "error.type"}}
    assert (found[True]["network.peer.port"], found[False]["network.peer.port"]) == (40000, 8080)


@pytest.mark.parametrize(
    ("line", "name", "original"),
    [("GET /a", "GET", None), ("BREW /pot", "HTTP", "BREW"), ("OPTIONS *", "OPTIONS", None), ("get /a", "HTTP", "get")],
)
def test_names_of_spans(line: str, name: str, original: str | None) -> None:
    side = Counting()
    batch = side.spans(side.columns(event(request(line, HOST))))
    assert list(batch.names) == [name]
    made = attributes(batch, 0)
    assert made.get("http.request.method_original") == original
    assert ("url.path" in made) == ("*" not in line)


def test_a_route_that_was_learned_names_spans() -> None:
    side = Counting("server", learns=True)
    side.count(event(request("GET /users/7", HOST)))
    batch = side.spans(side.columns(event(request("GET /users/8", HOST), 500)))
    assert list(batch.names) == ["GET /users/{number}"]
    assert batch.messages == ["500"]
    assert batch.statuses.tolist() == [StatusCode.ERROR]
    assert side.learned is not None
    assert side.learned.counts == {"/users/{number}": 2}


def test_requests_are_children_of_their_parents() -> None:
    side = Counting()
    heads = [request("GET /", HOST, f"traceparent: {TRACE[:-1]}{flag}", "tracestate: a=b") for flag in (1, 0)]
    batch = side.spans(side.columns(event(heads[0]), event(heads[1]), event()))
    assert len(batch) == 2
    assert side.rule.counts[Reason.SAMPLED_OUT] == 1
    assert batch.trace_ids[0].tobytes().hex() == "0af7651916cd43dd8448eb211c80319c"
    assert batch.parent_span_ids[0].tobytes().hex() == "b7ad6b7169203331"
    assert list(batch.trace_states) == ["ot=th:0,a=b", "ot=th:0"]
    assert batch.parent_span_ids[1].tolist() == [0] * 8
    assert batch.trace_ids[1].any()
    assert len({bytes(each) for each in batch.span_ids}) == 2


def test_the_share_that_is_kept_follows_the_randomness_of_the_trace() -> None:
    """Samplers that look at the same trace come to the same decision."""
    side = Counting()
    side.rule = KeepRule(0.25, 100_000, slow_ns=SECOND)
    traces = [secrets.token_hex(16) for _ in range(4001)]
    heads = [request("GET /", HOST, f"traceparent: 00-{each}-{secrets.token_hex(8)}-01") for each in traces]
    rv = request("GET /", HOST, f"traceparent: {TRACE}", "tracestate: ot=rv:ffffffffffffff")
    batch = side.spans(side.columns(*map(event, heads), event(rv)))
    threshold = 0xC0_00_00_00_00_00_00
    kept = {bytes(each).hex() for each in batch.trace_ids}
    expected = {trace for trace in traces if int(trace[18:], 16) >= threshold} | {traces[0], TRACE[3:35]}
    assert kept == expected
    random = side.spans(side.columns(*[event() for _ in range(4001)]))
    assert 800 < len(random) < 1200
    assert all(int(bytes(each).hex()[18:], 16) >= threshold for each in random.trace_ids)


def test_spans_of_requests_that_were_followed() -> None:
    made = HttpRequest(
        "2", INFO.client, INFO.server, None, None, None, None, "reset", 5 * MS, 6 * MS, None, None, 0, 0,
        end_ns=9 * MS, unknown=("method", "target", "host"), connection=INFO,
    )  # fmt: skip
    side = Counting()
    batch = side.spans(columns_of([made], side.alike))
    assert list(batch.names) == ["HTTP"]
    assert batch.messages == ["reset"]
    told = attributes(batch, 0)
    assert (told["error.type"], told["netmon.http.unknown"]) == ("reset", "method,target,host")
    assert "url.path" not in told


def test_no_secret_is_told() -> None:
    """In queries, fields, user information, fragments and identifiers of paths."""
    hidden = [secrets.token_hex(12) for _ in range(200)]
    made = []
    for at in range(0, 200, 8):
        some = hidden[at : at + 8]
        head = request(
            f"GET /reset/{some[0]}/x?token={some[1]}&a={some[2]}#{some[3]}",
            f"Host: {some[4]}:{some[5]}@a.example",
            f"Authorization: Bearer {some[6]}",
            f"Cookie: session={some[7]}",
        )
        made.append(event(head, 500))
    for side in (Counting("server", learns=True), Counting("client")):
        batch = side.spans(side.columns(*made))
        assert len(batch) == len(made)
        told = repr([attributes(batch, at) for at in range(len(batch))]) + repr(list(batch.names))
        told += repr([dict(each.items()) for series in side.points().values() for each in series.attributes])
        assert [each for each in hidden if each in told] == []
        assert "/reset/{hash}/x" in told


def test_the_series_of_a_side_are_known_by_their_kinds() -> None:
    side = Counting("server", ["/users/{id}"])
    events = [event(request(f"GET /users/{n % 5}", HOST), 200 + n % 2) for n in range(20)]
    counted = side.series.add(side.columns(*events), side.alike.sights, None, UNIX)
    assert len(set(counted.kinds.tolist())) == len(set(counted.rows.tolist())) == 2
    assert side.series.add(side.columns(), side.alike.sights, None, UNIX).rows.tolist() == []
    assert np.array_equal(counted.kinds, side.series.add(side.columns(*events), side.alike.sights, None, UNIX).kinds)

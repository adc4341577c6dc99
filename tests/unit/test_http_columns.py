"""Requests as columns: what they were for, how they ended, and whose children they are."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from otel_netmon.abi.enums import HttpFlags
from otel_netmon.analysis.http_alike import AlikeRequests, Sight
from otel_netmon.analysis.http_columns import OUTCOMES, UNKNOWN, HttpRecords, columns_of
from otel_netmon.analysis.http_records import HttpRequest
from otel_netmon.analysis.http_trace_parents import may_name_parent, parents_of_heads
from otel_netmon.analysis.routes import RouteRules
from otel_netmon.config.routes import parse_rule
from otel_netmon.decode.authority import Authority
from otel_netmon.decode.http1_heads import read_request
from otel_netmon.decode.http_fields import trace_parent
from otel_netmon.readers.messages import HttpMessages, http_messages
from support.http_events import COMPLETE, Event, event, messages
from support.http_messages import HOST, INFO, request

MS = 1_000_000
RULES = ["GET /users/{id}", "b.example/static/{file...}"]
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

HEADS = [
    request("GET /users/7?secret=1", "Host: a.example:81", "Cookie: x"),
    request("GET /users/8", "Host: a.example:81"),
    request("POST /users/8", "host: A.example."),
    request("GET /static/a/b?c", "User-Agent: x", "Host: b.example"),
    request("GET /static/a/b?c", "User-Agent: x", "Host: c.example"),
    request("GET /a HTTP/1.0"),
    request("GET /a?b HTTP/1.0", "Host: a"),
    request("GET /a?b HTTP/1.1", "Host: a"),
    request("BREW /pot", "Host: a"),
    request("OPTIONS *", "Host: a"),
    request("CONNECT a:443", "Host: a:443"),
    request("GET http://a/users/9", "Host: a"),
    request("GET /users/1", "Host: user:secret@a"),
    request("GET /users/1", "Host: not a host"),
    request("GET /users/1", HOST, end="\n"),
    request("GET /" + "p" * 2000, HOST)[:1024],
    request("GET /users/2", "Host: " + "h" * 2000)[:1024],
    b"GET /users/1 HTTP/1.1",
    b"GET /a?" + b"b" * 1100,
    b"\n\n",
    b"no request at all\r\nHost: a\r\n\r\n",
]


def whole(head: bytes) -> HttpRequest:
    """A request as the followers tell it."""
    read = read_request(head, is_whole=False)
    if read is None:
        return HttpRequest("1.1", b"", b"", None, None, None, None, "timeout", 0, 0, None, None, 0, 0)
    unknown = ("target",) if read.cut_line else ()
    return HttpRequest(
        read.version, b"", b"", read.method, read.target, read.fields.host, None, "timeout", 0, 0, None, None, 0, 0,
        unknown=unknown,
    )  # fmt: skip


def http(events: Iterable[Event]) -> HttpMessages:
    return http_messages(messages(events))


def sights(alike: AlikeRequests, heads: list[bytes]) -> list[Sight]:
    records = messages(event(head, captured=len(head)) for head in heads)
    columns = HttpRecords(http_messages(records)).columns(alike)
    return [alike.sights[place] for place in columns.places.tolist()]


@pytest.mark.parametrize("keeps_paths", [False, True])
@pytest.mark.parametrize("rules", [[], RULES])
def test_heads_are_for_what_they_say_however_often_they_come(rules: list[str], keeps_paths: bool) -> None:
    generator = random.Random(23)  # noqa: S311
    alike = AlikeRequests(RouteRules(map(parse_rule, rules)), keeps_paths=keeps_paths)
    oracle = AlikeRequests(RouteRules(map(parse_rule, rules)), keeps_paths=keeps_paths)
    for _ in range(101):
        heads = generator.choices(HEADS, k=generator.randrange(1, 50))
        if generator.random() < 0.3:
            heads = [head.replace(b"Cookie: x", b"Cookie: %d" % generator.randrange(1 << 30)) for head in heads]
        expected = [oracle.sights[oracle.of_request(whole(head))] for head in heads]
        assert sights(alike, heads) == expected


def test_what_a_request_was_for() -> None:
    alike = AlikeRequests(RouteRules(map(parse_rule, RULES)), keeps_paths=True)
    assert sights(alike, HEADS[:9:2]) == [
        Sight("GET", "1.1", Authority("a.example", 81), None, "/users/{id}"),
        Sight("POST", "1.1", Authority("a.example", None), "/users/8", None),
        Sight("GET", "1.1", Authority("c.example", None), "/static/a/b", None),
        Sight("GET", "1.0", Authority("a", None), "/a", None),
        Sight("_OTHER", "1.1", Authority("a", None), "/pot", None),
    ]


def test_what_is_remembered_is_bounded() -> None:
    alike = AlikeRequests(RouteRules([]), keeps_paths=True)
    rounds = 0
    while not alike.is_full:
        rounds += 1
        assert rounds < 20
        sights(alike, [request(f"GET /{rounds}/{number}/{'x' * 300}", HOST) for number in range(503)])
    alike.clear()
    assert len(alike.sights) == 0
    assert sights(alike, HEADS[:1])[0].method == "GET"


@pytest.mark.parametrize(
    ("flags", "status", "outcome"),
    [
        (HttpFlags.COMPLETE, 200, "answered"),
        (HttpFlags.COMPLETE | HttpFlags.CLIENT_RESET, 200, "answered"),
        (HttpFlags.HANDED_OVER, 101, "answered"),
        (HttpFlags.CLIENT_RESET, 0, "reset"),
        (HttpFlags.SERVER_RESET, 200, "reset"),
        (HttpFlags.CLOSED, 0, "no_response"),
        (HttpFlags.CLOSED, 200, "incomplete"),
        (HttpFlags.QUIET, 0, "timeout"),
        (HttpFlags.QUIET, 200, "incomplete"),
        (HttpFlags.QUIET | HttpFlags.RESPONSE_OPEN | HttpFlags.CHUNKED, 200, "answered"),
        (0, 200, "incomplete"),
    ],
)
def test_outcomes(flags: int, status: int, outcome: str) -> None:
    records = HttpRecords(http([event(status=status, flags=flags)]))
    columns = records.columns(AlikeRequests(RouteRules([]), keeps_paths=False))
    assert OUTCOMES[columns.outcome[0]] == outcome
    assert columns.whole(np.array([0]))[0].outcome == outcome
    assert columns.status.tolist() == [status]


def test_times_and_sizes() -> None:
    made = [
        event(sending_ns=2 * MS, waiting_ns=3 * MS, receiving_ns=5 * MS, request_body=7, response_body=11),
        event(status=0, flags=int(HttpFlags.QUIET), told_ns=61 * MS),
        event(request("GET /a", HOST, "X: y"), captured=20, response_body=3),
    ]
    columns = HttpRecords(http(made)).columns(AlikeRequests(RouteRules([]), keeps_paths=False))
    assert columns.lasted_ns.tolist() == [10 * MS, 60 * MS, MS]
    assert columns.first_byte_ns.tolist() == [3 * MS, UNKNOWN, MS]
    assert columns.request_body.tolist() == [7, UNKNOWN, UNKNOWN]
    assert columns.response_body.tolist() == [11, UNKNOWN, 3]
    first, second, cut = columns.whole(np.arange(3))
    assert (first.lasted_ns, first.first_byte_ns, first.request_body_octets, first.response_body_octets) == (
        10 * MS,
        3 * MS,
        7,
        11,
    )
    assert first.unknown == ()
    assert (second.lasted_ns, second.status, second.response_first_ns) == (60 * MS, None, None)
    assert cut.unknown == ("request_body_octets", "host", "traceparent", "tracestate")


def test_one_whole() -> None:
    head = request("PUT /a?b", "Host: a.example", f"traceparent: {TRACE}", "tracestate: a=b")
    made = event(head, 201, namespace=2, ingress_ifindex=5, cgroup=17, direction=1, interim=103, interims=2)
    one = (
        HttpRecords(http([event(), made]))
        .columns(AlikeRequests(RouteRules([]), keeps_paths=False))
        .whole(np.array([1]))[0]
    )
    assert (one.version, one.method, one.target, one.host, one.status) == ("1.1", "PUT", "/a?b", "a.example", 201)
    assert (one.traceparent, one.tracestate, one.unknown) == (TRACE, "a=b", ())
    assert one.interim == (103,)
    assert one.server[16:] == (8080).to_bytes(2, "big")
    assert one.connection is not None
    seen = one.connection
    assert (seen.namespace, seen.ifindex, seen.direction, seen.ingress_ifindex, seen.cgroup) == (2, 3, 1, 5, 17)
    assert (seen.client, seen.server) == (one.client, one.server)


def test_those_that_are_chosen() -> None:
    heads = [
        request(f"GET /{number}", HOST, f"traceparent: {TRACE[:-1]}{number % 2}", "tracestate: ot=rv:11223344556677")
        for number in range(7)
    ]
    columns = HttpRecords(http(event(head, 200 + at) for at, head in enumerate(heads))).columns(
        AlikeRequests(RouteRules([]), keeps_paths=True)
    )
    chosen = columns.where(np.array([False, True, False, True, True, False, False]))
    assert chosen.status.tolist() == [201, 203, 204]
    assert [request.target for request in chosen.whole(np.arange(3))] == ["/1", "/3", "/4"]
    assert [request.status for request in chosen.whole(np.array([2, 0]))] == [204, 201]
    assert chosen.parents.sampled.tolist() == [True, True, False]
    assert chosen.parents.states == dict.fromkeys(range(3), "ot=rv:11223344556677")
    assert columns.where(np.ones(7, np.bool_)) is columns


def test_requests_of_connections_that_were_followed() -> None:
    made = HttpRequest(
        "2", INFO.client, INFO.server, "GET", "/users/3", "a.example", 200, "answered", MS, 2 * MS, 5 * MS, 9 * MS, 3, 4,
        traceparent=TRACE, unknown=("request_body_octets",),
    )  # fmt: skip
    failed = made._replace(
        status=None, outcome="reset", response_first_ns=None, response_last_ns=None, end_ns=11 * MS, traceparent=None
    )
    alike = AlikeRequests(RouteRules(map(parse_rule, RULES)), keeps_paths=False)
    columns = columns_of([made, failed], alike)
    assert [alike.sights[place].template for place in columns.places.tolist()] == ["/users/{id}"] * 2
    assert columns.status.tolist() == [200, 0]
    assert [OUTCOMES[outcome] for outcome in columns.outcome.tolist()] == ["answered", "reset"]
    assert columns.lasted_ns.tolist() == [8 * MS, 10 * MS]
    assert columns.first_byte_ns.tolist() == [3 * MS, UNKNOWN]
    assert (columns.request_body.tolist(), columns.response_body.tolist()) == ([UNKNOWN, UNKNOWN], [4, UNKNOWN])
    assert columns.servers.tobytes() == INFO.server * 2
    assert columns.parents.exist.tolist() == [True, False]
    assert columns.whole(np.array([1]))[0] is failed


# --------------------------------------------------------------------------------------------------------- trace context
VALUES = [
    TRACE,
    TRACE[:-2] + "00",
    TRACE[:-2] + "ff",
    "01" + TRACE[2:],
    "01" + TRACE[2:] + "-more",
    "ff" + TRACE[2:],
    TRACE + "-more",
    TRACE.upper(),
    TRACE.replace("-", "_"),
    "00-" + "0" * 32 + TRACE[35:],
    TRACE[:36] + "0" * 16 + TRACE[52:],
    TRACE[:30],
    " " + TRACE,
    "",
    "x",
]


@pytest.mark.parametrize("name", ["traceparent", "Traceparent", "TraceParent", "x-raceparent", "xtraceparent"])
def test_parents_of_many_are_those_of_each(name: str) -> None:
    generator = random.Random(29)  # noqa: S311
    heads = [
        request("GET /", *([f"{name}: {value}"] if value else []), *rest) for value in VALUES for rest in ([], [HOST])
    ]
    heads += [
        request("GET /", HOST, "X: traceparent: " + TRACE),
        request("GET /", "tracestate: a=b", f"{name}: {TRACE}"),
    ]
    heads += [head[: generator.randrange(10, len(head))] for head in heads]
    heads += [request("GET /", f"{name}: {TRACE}", "tracestate: ot=rv:0123456789abcd")]
    generator.shuffle(heads)
    records = messages(event(head, captured=len(head)) for head in heads)
    starts = records.starts + 64
    marked = np.array([may_name_parent(head) for head in heads])
    found = parents_of_heads(records.data, starts, records.starts + records.heads["captured_length"], marked)
    for at, head in enumerate(heads):
        read = read_request(head, is_whole=False)
        parent = trace_parent(read.fields.traceparent) if read is not None else None
        assert bool(found.exist[at]) == (parent is not None), head
        if parent is not None:
            assert bool(found.sampled[at]) == parent.is_sampled
            assert found.trace_ids[at].tobytes() == parent.trace_id
            assert read is not None
            expected: Any = read.fields.tracestate if "rv:" in (read.fields.tracestate or "") else found.states.get(at)
            assert found.states.get(at) == expected
        else:
            assert not found.trace_ids[at].any()


def test_no_requests_at_all() -> None:
    records = HttpRecords(http([]))
    columns = records.columns(AlikeRequests(RouteRules([]), keeps_paths=False))
    assert len(columns) == 0
    assert len(columns.parents.exist) == 0
    assert COMPLETE

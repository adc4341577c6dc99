"""Streams of HTTP/2 to requests: interleaved, interrupted, joined in the middle, in great numbers."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import hpack
import pytest

from otel_netmon.analysis.http2 import SILENT_NS, STREAMS_MAX, Http2Follower, recognisers
from otel_netmon.analysis.http_records import HttpRequest
from otel_netmon.analysis.tcp_connections import Connections
from otel_netmon.analysis.tcp_followers import ConnectionInfo
from support import http2_frames as f
from support.tcp_talk import CLIENT, SERVER, Talk

SECOND = 1_000_000_000
TRACE = "00-d52ac471b0dfbbc5bd1ac5eadcea9870-b2d76db5796e4adc-01"


INFO = ConnectionInfo(0, 1, CLIENT, SERVER, True, True, 0, 0, 0, 0)


@dataclasses.dataclass
class Sides:
    """Both encoders of a connection and its follower; every step is a millisecond behind the one before."""

    begun: bool = True
    roles_known: bool = True
    upgraded: HttpRequest | None = None
    timeout_ns: int | None = None

    def __post_init__(self) -> None:
        info = INFO._replace(roles_known=self.roles_known, begun=self.begun)
        self.counts: Counter[str] = Counter()
        self.follower = Http2Follower(info, self.counts, self.upgraded, timeout_ns=self.timeout_ns)
        self.encoders = {True: hpack.Encoder(), False: hpack.Encoder()}
        self.now = 0
        if self.begun:
            self.say(True, f.PREFACE + f.settings())
            self.say(False, f.settings() + f.settings(ack=True))

    def say(self, from_client: bool, octets: bytes) -> None:
        self.now += 1
        self.follower.data(from_client, octets, self.now)

    def request(self, path: str = "/x.Y/Z", **fields: str) -> bytes:
        listed = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "example:80"} | {
            name.replace("_", "-"): value for name, value in fields.items()
        }
        return self.encoders[True].encode(list(listed.items()))

    def response(self, status: int = 200, **fields: str) -> bytes:
        listed = [(":status", str(status))] + [(name.replace("_", "-"), value) for name, value in fields.items()]
        return self.encoders[False].encode(listed)

    def trailers(self, **fields: str) -> bytes:
        return self.encoders[False].encode([(name.replace("_", "-"), value) for name, value in fields.items()])

    @property
    def records(self) -> list[HttpRequest]:
        return self.follower.records

    def one(self) -> HttpRequest:
        (record,) = self.records
        return record


def test_a_request_and_its_response() -> None:
    s = Sides()
    s.say(True, f.headers(1, s.request("/a?b=c", traceparent=TRACE, tracestate="x=1")))
    s.say(True, f.data(1, 100) + f.data(1, 23)[:20])
    s.say(True, f.data(1, 23)[20:] + f.data(1, 7, end=True, pad=9))
    s.say(False, f.headers(1, s.response(201)) + f.data(1, 1000)[:50])
    s.say(False, f.data(1, 1000)[50:] + f.data(1, 0, end=True))
    assert s.one() == HttpRequest(
        version="2",
        client=CLIENT,
        server=SERVER,
        method="POST",
        target="/a?b=c",
        host="example:80",
        status=201,
        outcome="answered",
        request_first_ns=3,
        request_last_ns=5,
        response_first_ns=6,
        response_last_ns=7,
        request_body_octets=130,
        response_body_octets=1000,
        traceparent=TRACE,
        tracestate="x=1",
        stream=1,
        end_ns=7,
        connection=INFO,
    )
    assert not s.counts


def test_streams_are_answered_in_any_order() -> None:
    s = Sides()
    s.say(True, b"".join(f.headers(stream, s.request(f"/{stream}"), end=True) for stream in (1, 3, 5, 7)))
    for stream, status in ((5, 400), (1, 200), (7, 500), (3, 302)):
        s.say(False, f.headers(stream, s.response(status)) + f.data(stream, stream, end=True))
    told = [(each.stream, each.target, each.status, each.response_body_octets, each.duration_ns) for each in s.records]
    assert told == [(5, "/5", 400, 5, 1), (1, "/1", 200, 1, 2), (7, "/7", 500, 7, 3), (3, "/3", 302, 3, 4)]


def test_bodies_are_interleaved() -> None:
    s = Sides()
    s.say(True, f.headers(1, s.request("/1")) + f.headers(3, s.request("/3")))
    s.say(False, f.headers(3, s.response()) + f.headers(1, s.response()))
    for _ in range(10):
        s.say(True, f.data(1, 11) + f.data(3, 13))
        s.say(False, f.data(3, 17) + f.data(1, 19))
    s.say(False, f.data(1, 0, end=True) + f.data(3, 0, end=True))
    assert s.records == []  # the requests have not ended
    s.say(True, f.data(3, 0, end=True) + f.data(1, 0, end=True))
    told = [(each.stream, each.request_body_octets, each.response_body_octets) for each in s.records]
    assert told == [(3, 130, 170), (1, 110, 190)]


@pytest.mark.parametrize("status", ["0", "5", "14"])
def test_grpc(status: str) -> None:
    s = Sides()
    s.say(True, f.headers(1, s.request(content_type="application/grpc")) + f.data(1, 5, end=True))
    s.say(False, f.headers(1, s.response(content_type="application/grpc")) + f.data(1, 7))
    s.say(False, f.headers(1, s.trailers(grpc_status=status, grpc_message="secret"), end=True))
    told = s.one()
    assert (told.is_grpc, told.status, told.grpc_status, told.outcome) == (True, 200, int(status), "answered")
    assert "secret" not in repr(told)


def test_grpc_with_trailers_only() -> None:
    s = Sides()
    s.say(True, f.headers(1, s.request(content_type="application/grpc+proto"), end=True))
    s.say(False, f.headers(1, s.response(content_type="application/grpc", grpc_status="12"), end=True))
    assert (s.one().is_grpc, s.one().status, s.one().grpc_status) == (True, 200, 12)


def test_an_early_answer_ends_with_the_reset_that_follows() -> None:
    """A server need not read the request (RFC 9113, section 8.1): it answers, then asks to stop by NO_ERROR."""
    s = Sides()
    s.say(True, f.headers(1, s.request()) + f.data(1, 100))
    s.say(False, f.headers(1, s.response(413), end=True))
    assert s.records == []
    s.say(False, f.reset(1, f.NO_ERROR))
    assert (s.one().status, s.one().outcome, s.one().error_code, s.one().request_body_octets) == (
        413,
        "answered",
        None,
        100,
    )


@pytest.mark.parametrize("from_client", [True, False])
@pytest.mark.parametrize("answered", [True, False])
def test_resets(from_client: bool, answered: bool) -> None:
    s = Sides()
    s.say(True, f.headers(1, s.request(), end=True) + f.headers(3, s.request(), end=True))
    if answered:
        s.say(False, f.headers(1, s.response()) + f.data(1, 5))
    s.say(from_client, f.reset(1, f.CANCEL))
    s.say(False, f.data(1, 9, end=True))  # was on its way
    told = s.one()
    assert (told.stream, told.outcome, told.error_code, told.status) == (1, "reset", 8, 200 if answered else None)
    s.say(False, f.headers(3, s.response(), end=True))
    assert [each.outcome for each in s.records] == ["reset", "answered"]


def test_interim_responses() -> None:
    s = Sides()
    s.say(True, f.headers(1, s.request(expect="100-continue")))
    s.say(False, f.headers(1, s.response(100)))
    s.say(True, f.data(1, 5, end=True))
    s.say(False, f.headers(1, s.response(103)))
    s.say(False, f.headers(1, s.response(204), end=True))
    assert (s.one().interim, s.one().status, s.one().response_first_ns) == ((100, 103), 204, 7)


def test_goaway_refuses_what_the_server_has_not_looked_at() -> None:
    s = Sides()
    s.say(True, b"".join(f.headers(stream, s.request(), end=True) for stream in (1, 3, 5)))
    s.say(False, f.goaway((1 << 31) - 1))  # a server that is about to close (RFC 9113, section 6.8)
    assert s.records == []
    s.say(False, f.goaway(3, 11))
    assert [(each.stream, each.outcome, each.error_code) for each in s.records] == [(5, "reset", 11)]
    s.say(True, f.goaway(0))
    s.say(False, f.headers(1, s.response(), end=True) + f.headers(3, s.response(), end=True))
    assert [each.outcome for each in s.records[1:]] == ["answered", "answered"]


@pytest.mark.parametrize(
    ("how", "outcomes"),
    [
        ("fin", ["no_response", "incomplete", "answered"]),
        ("client_fin", []),
        ("reset", ["reset", "reset", "answered"]),
        ("client_reset", ["reset", "reset", "answered"]),
        ("finish", ["timeout", "incomplete", "answered"]),
    ],
)
def test_the_connection_ends(how: str, outcomes: list[str]) -> None:
    s = Sides()
    s.say(True, b"".join(f.headers(stream, s.request(), end=stream < 5) for stream in (1, 3, 5)))
    s.say(False, f.headers(3, s.response(200)) + f.data(3, 1000)[:109] + b"")
    s.say(False, f.data(3, 1000)[109:] + f.headers(5, s.response(404), end=True) + f.data(3, 50)[:20])
    follower = s.follower
    if how == "finish":
        follower.finish(99)
    else:
        follower.end(how.startswith("client"), 99, how.endswith("reset"))
    told = {each.stream: each for each in s.records}
    assert [told[stream].outcome for stream in sorted(told)] == outcomes
    assert follower.done == (how != "client_fin")
    if told:
        assert (told[3].status, told[3].response_body_octets, told[3].response_last_ns) == (200, 1011, 5)
    follower.finish(100)
    assert len(s.records) == 3
    s.say(True, f.headers(7, s.request(), end=True))
    assert len(s.records) == 3


def test_joined_in_the_middle() -> None:
    s = Sides(begun=False)
    earlier = s.request("/earlier", content_type="application/grpc", traceparent=TRACE)
    s.response(content_type="application/grpc")
    assert earlier
    s.say(False, f.data(99, 5) + f.headers(99, s.trailers(grpc_status="0"), end=True))
    s.say(
        True,
        f.headers(101, s.request("/new", content_type="application/grpc", traceparent=TRACE))
        + f.data(101, 5, end=True),
    )
    s.say(
        False,
        f.headers(101, s.response(content_type="application/grpc"))
        + f.headers(101, s.trailers(grpc_status="0"), end=True),
    )
    told = s.one()
    assert (told.method, told.target, told.host, told.status) == ("POST", "/new", None, 200)
    assert (told.traceparent, told.is_grpc, told.grpc_status, told.outcome) == (None, False, 0, "answered")
    assert told.unknown == ("host", "traceparent", "tracestate", "is_grpc")
    s.say(False, f.headers(97, s.response(), end=True))
    assert s.counts["unseen_requests"] == 1


def test_roles_are_told_by_heads() -> None:
    s = Sides(begun=False, roles_known=False)
    s.say(True, f.window_update(0) + f.data(5, 10))  # what is taken for the client is the server
    s.say(False, f.window_update(0) + f.headers(7, s.request("/a"), end=True))
    s.say(True, f.headers(7, s.response(200), end=True))
    assert (s.one().client, s.one().server, s.one().target, s.one().status) == (SERVER, CLIENT, "/a", 200)
    s = Sides(begun=False, roles_known=False)
    s.say(True, f.headers(5, s.response(200), end=True))
    s.say(False, f.headers(7, s.request("/a"), end=True))
    s.follower.end(False, 9, reset=False)
    assert s.records == []  # it was the client's end
    s.say(True, f.headers(7, s.response(204), end=True))
    assert (s.one().client, s.one().server, s.one().status) == (SERVER, CLIENT, 204)


def test_only_the_client_was_captured() -> None:
    s = Sides(begun=False)
    s.say(True, f.headers(1, s.request("/1"), end=True) + f.headers(3, s.request("/3"), end=True))
    s.follower.finish(99)
    assert [(each.target, each.status, each.outcome) for each in s.records] == [
        ("/1", None, "timeout"),
        ("/3", None, "timeout"),
    ]


def test_only_the_server_was_captured() -> None:
    s = Sides(begun=False)
    s.say(False, f.settings() + f.headers(1, s.response(), end=True) + f.headers(3, s.response(), end=True))
    s.follower.finish(99)
    assert s.records == []
    assert s.counts == {"unseen_requests": 2}


def test_a_gap_in_a_body_costs_nothing() -> None:
    s = Sides()
    s.say(True, f.headers(1, s.request(), end=True))
    s.say(False, f.headers(1, s.response()) + f.data(1, 10000, end=True)[:100])
    s.follower.gap(False, 9909, 77)
    assert (s.one().outcome, s.one().response_body_octets, s.one().response_last_ns) == ("answered", 10000, 77)


def test_a_gap_over_the_end_of_a_response() -> None:
    """It may have been lost that it ended: the stream is held for a while, then told as it is."""
    s = Sides()
    s.say(True, f.headers(1, s.request(), end=True))
    s.say(False, f.headers(1, s.response()) + f.data(1, 100))
    s.follower.gap(False, 500, 77)
    assert s.records == []
    s.now = 4 + SILENT_NS - 2
    s.say(True, f.headers(3, s.request(), end=True))
    assert s.records == []
    s.say(True, f.headers(5, s.request(), end=True))
    assert (s.one().stream, s.one().outcome, s.one().status) == (1, "incomplete", 200)
    assert s.one().unknown == ("response_body_octets",)


def test_a_gap_over_the_head_of_a_response() -> None:
    s = Sides()
    s.say(True, f.headers(1, s.request(content_type="application/grpc"), end=True))
    s.follower.gap(False, 500, 77)
    s.say(False, f.data(1, 5) + f.headers(1, s.trailers(grpc_status="3"), end=True))
    assert (s.one().status, s.one().grpc_status) == (None, 3)
    assert s.one().unknown == ("response_body_octets", "status")


def test_a_gap_over_the_end_of_a_request() -> None:
    s = Sides()
    s.say(True, f.headers(1, s.request()) + f.data(1, 50))
    s.follower.gap(True, 500, 77)
    s.say(False, f.headers(1, s.response(200), end=True))
    assert (s.one().outcome, s.one().unknown) == ("answered", ("request_body_octets",))


def test_a_head_that_cannot_be_read() -> None:
    s = Sides()
    s.say(True, f.headers(1, b"\x80", end=True))
    s.say(False, f.headers(1, s.response(400), end=True))
    told = s.one()
    assert (told.method, told.status, told.outcome) == (None, 400, "answered")
    assert told.unknown == ("method", "target", "host", "traceparent", "tracestate", "is_grpc")
    assert s.counts == {"hpack_index": 1}
    s.say(True, f.headers(3, s.request(), end=True))
    s.say(False, f.headers(3, b"\x80", end=True))
    assert (s.records[1].status, s.records[1].unknown) == (None, ("status",))


def test_connect() -> None:
    s = Sides()
    plain = s.encoders[True].encode([(":method", "CONNECT"), (":authority", "far.example:443")])
    websocket = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":path", "/chat"),
        (":authority", "x"),
    ]
    s.say(True, f.headers(1, plain) + f.headers(3, s.encoders[True].encode(websocket)))
    s.say(False, f.headers(1, s.response()) + f.headers(3, s.response()))
    s.follower.finish(9)
    told = [(each.method, each.target, each.host, each.outcome) for each in s.records]
    assert told == [
        ("CONNECT", "far.example:443", "far.example:443", "incomplete"),
        ("CONNECT", "/chat", "x", "incomplete"),
    ]


def test_host_without_authority() -> None:
    s = Sides()
    listed = [(":method", "GET"), (":scheme", "http"), (":path", "/"), ("host", "from.http1")]
    s.say(True, f.headers(1, s.encoders[True].encode(listed), end=True))
    s.say(False, f.headers(1, s.response(), end=True))
    assert s.one().host == "from.http1"


def test_pushed_responses_are_no_requests() -> None:
    s = Sides()
    s.say(True, f.headers(1, s.request("/page"), end=True))
    promise = s.encoders[False].encode(
        [(":method", "GET"), (":scheme", "http"), (":path", "/style"), (":authority", "x")]
    )
    s.say(False, f.push_promise(1, 2, promise) + f.headers(1, s.response(200, x="1")))
    s.say(False, f.headers(2, s.response(200, y="2")) + f.data(2, 100, end=True) + f.data(1, 7, end=True))
    assert (s.one().target, s.one().response_body_octets) == ("/page", 7)
    assert s.counts == {"promises": 1}


def test_trailers_of_a_request() -> None:
    s = Sides()
    s.say(True, f.headers(1, s.request()) + f.data(1, 5))
    s.say(True, f.headers(1, s.encoders[True].encode([("x-checksum", "1")]), end=True))
    s.say(False, f.headers(1, s.response(), end=True))
    assert (s.one().method, s.one().request_last_ns, s.one().outcome) == ("POST", 4, "answered")


def test_heads_that_have_no_place() -> None:
    s = Sides()
    s.say(True, f.headers(3, s.request(), end=True))
    s.say(True, f.headers(1, s.request(), end=True))  # streams begin in order
    s.say(True, f.headers(4, s.request(), end=True))  # of the server
    s.say(True, f.headers(5, s.encoders[True].encode([("x", "y")]), end=True))  # no head
    s.say(False, f.headers(3, s.response(), end=True))
    assert s.one().stream == 3
    assert s.counts == {"unexpected_heads": 3}


def test_an_upgraded_connection() -> None:
    asked = HttpRequest("1.1", CLIENT, SERVER, "GET", "/up", "x", 101, "answered", 10, 11, 12, 13, 0, 0)
    s = Sides(upgraded=asked)
    s.say(False, f.headers(1, s.response(200)) + f.data(1, 42, end=True))
    told = s.one()
    assert (told.version, told.stream, told.method, told.target, told.status) == ("2", 1, "GET", "/up", 200)
    assert (told.interim, told.request_first_ns, told.response_last_ns, told.outcome) == ((101,), 10, 3, "answered")
    s.say(True, f.headers(3, s.request("/next"), end=True))
    s.say(False, f.headers(3, s.response(204), end=True))
    assert (s.records[1].target, s.records[1].status) == ("/next", 204)


def test_the_streams_are_bounded() -> None:
    s = Sides()
    block = s.request()
    s.say(True, f.headers(1, block, end=True))
    block = s.request()
    for stream in range(3, 2 * STREAMS_MAX + 1, 2):
        s.say(True, f.headers(stream, block, end=True))
    assert s.records == []
    octets = s.follower.octets
    for stream in range(2 * STREAMS_MAX + 1, 2 * STREAMS_MAX + 47, 2):
        s.say(True, f.headers(stream, block, end=True))
    assert [each.stream for each in s.records] == list(range(1, 47, 2))
    assert s.counts == {"evicted_streams": 23}
    assert s.follower.octets == octets
    s.follower.finish(s.now)
    assert len(s.records) == STREAMS_MAX + 23
    assert 4096 <= s.follower.octets < 10_000


def records_of(packets: list[Any]) -> tuple[list[HttpRequest], Counter[str]]:
    counts: Counter[str] = Counter()
    connections = Connections(recognisers(counts))
    records = [record for packet in packets for record in connections.feed(*packet)]
    return records + connections.finish(), counts


@pytest.mark.parametrize("size", [1, 7, 100, 1460])
def test_over_segments(size: int) -> None:
    s, talk = Sides(), Talk()
    ask = (
        f.PREFACE
        + f.settings()
        + f.headers(1, s.request("/1"))
        + f.data(1, 3000, end=True)
        + f.headers(3, s.request("/3"), end=True)
    )
    answer = (
        f.settings()
        + f.headers(3, s.response(404), end=True)
        + f.headers(1, s.response(200))
        + f.data(1, 5000, end=True)
    )
    records, counts = records_of([*talk.open(), *talk.say(True, ask, size), *talk.say(False, answer, size)])
    told = [(each.target, each.status, each.request_body_octets, each.response_body_octets) for each in records]
    assert told == [("/3", 404, 0, 0), ("/1", 200, 3000, 5000)]
    assert not counts


def test_the_server_may_speak_first() -> None:
    s, talk = Sides(), Talk()
    packets = [*talk.open(), *talk.say(False, f.settings()), *talk.say(True, f.PREFACE + f.settings())]
    packets += talk.say(True, f.headers(1, s.request("/1"), end=True)) + talk.say(
        False, f.headers(1, s.response(), end=True)
    )
    records, counts = records_of(packets)
    assert [(each.target, each.status) for each in records] == [("/1", 200)]
    assert not counts


@pytest.mark.parametrize("first", [True, False])
def test_a_connection_without_its_handshake(first: bool) -> None:
    s, talk = Sides(), Talk()
    ask, answer = f.headers(7, s.request("/7"), end=True), f.headers(7, s.response(), end=True)
    packets = talk.say(first, f.window_update(0)) + talk.say(True, ask) + talk.say(False, answer)
    records, counts = records_of(packets)
    assert [(each.client, each.target, each.status) for each in records] == [(CLIENT, "/7", 200)]
    assert not counts


def test_what_nobody_answers_is_told_while_the_connection_lives() -> None:
    s = Sides(timeout_ns=SECOND)
    for stream in (1, 3, 5):
        s.say(True, f.headers(stream, s.request(f"/{stream}"), end=stream != 5))
    s.say(False, f.headers(3, s.response(200)))  # begins, and may go on for hours
    s.follower.advance(s.now + SECOND - 3)
    assert [each.target for each in s.records] == ["/1"]
    s.say(True, f.data(5, 10))
    s.follower.advance(s.now + SECOND - 1)
    assert len(s.records) == 1
    s.follower.advance(s.now + SECOND)
    assert [(each.target, each.outcome, each.status, each.lasted_ns) for each in s.records] == [
        ("/1", "timeout", None, SECOND),
        ("/5", "timeout", None, SECOND + 2),
    ]
    s.say(False, f.headers(1, s.response(200), end=True))  # too late: it was told
    s.say(False, f.data(3, 7, end=True))
    assert [(each.target, each.outcome) for each in s.records][2:] == [("/3", "answered")]
    assert not s.counts


def test_without_a_limit_of_time_only_the_end_tells() -> None:
    s = Sides()
    s.say(True, f.headers(1, s.request(), end=True))
    s.follower.advance(1 << 62)
    assert not s.records

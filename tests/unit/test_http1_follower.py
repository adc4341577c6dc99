"""Requests of HTTP/1 paired with their responses."""

from __future__ import annotations

import pytest

from otel_netmon.analysis.http1 import OPEN_MAX
from otel_netmon.analysis.http2 import Http2Follower
from otel_netmon.analysis.tcp_followers import ANEW
from support.http_messages import (
    CLIENT,
    HOST,
    INFO,
    MILLISECOND,
    SERVER,
    Conversation,
    chunks,
    request,
    response,
    told,
)

EMPTY = "Content-Length: 0"
TLS = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32)


def test_what_a_record_tells() -> None:
    talk = Conversation()
    data = request("POST /a?b", HOST, "Traceparent: t", "Tracestate: s", body=b"12345")
    answer = response(201, "Transfer-Encoding: chunked", body=chunks(b"abc", b"defg"))
    talk.client(data[:9], data[9:40], data[40:]).server(response(100), answer[:20], answer[20:70], answer[70:])
    (record,) = talk.records
    assert (record.version, record.client, record.server) == ("1.1", CLIENT, SERVER)
    assert (record.method, record.target, record.host, record.status) == ("POST", "/a?b", "a.example", 201)
    assert (record.traceparent, record.tracestate, record.outcome, record.interim) == ("t", "s", "answered", (100,))
    assert (record.request_body_octets, record.response_body_octets) == (5, 7)
    times = (record.request_first_ns, record.request_last_ns, record.response_first_ns, record.response_last_ns)
    assert [time // MILLISECOND for time in times if time is not None] == [1, 3, 5, 7]
    assert (record.duration_ns, record.first_byte_ns) == (6 * MILLISECOND, 2 * MILLISECOND)
    assert (record.unknown, record.connection, record.end_ns) == ((), INFO, 7 * MILLISECOND)


def test_a_request_lasts_until_its_outcome_is_there() -> None:
    talk = Conversation()
    talk.client(request("GET /1") + request("GET /2")).server(response(200, EMPTY))
    talk.server(response(200, "Content-Length: 9", body=b"abc")).end(True).end(False, reset=True)
    assert [(record.lasted_ns, record.outcome) for record in talk.records] == [
        (MILLISECOND, "answered"),
        (4 * MILLISECOND, "reset"),
    ]


def test_keep_alive_and_pipelining() -> None:
    talk = Conversation()
    talk.client(request("GET /1")).server(response(200, body=b"a"))
    talk.client(request("GET /2") + request("HEAD /3") + request("GET /4"))
    talk.server(
        response(304, "Content-Length: 9") + response(200, "Content-Length: 9") + response(204, "Content-Length: 9")
    )
    assert told(talk.records) == [
        ("GET", "/1", 200, "answered"),
        ("GET", "/2", 304, "answered"),
        ("HEAD", "/3", 200, "answered"),
        ("GET", "/4", 204, "answered"),
    ]
    assert not talk.counts


@pytest.mark.parametrize("statuses", [(100,), (103,), (100, 103, 103), (102, 199)])
def test_interim_responses_are_not_the_status(statuses: tuple[int, ...]) -> None:
    talk = Conversation()
    talk.client(request("GET /1") + request("GET /2"))
    interim = [response(status, "Link: </a>") for status in statuses]
    talk.server(b"".join(interim) + response(200, EMPTY), *interim, response(404, EMPTY))
    assert [(record.status, record.interim) for record in talk.records] == [(200, statuses), (404, statuses)]


def test_a_response_may_come_before_the_whole_request() -> None:
    talk = Conversation()
    talk.client(request("POST /1", "Content-Length: 10", body=b"12345")).server(response(413, EMPTY))
    assert talk.records == []
    talk.client(b"67890", request("GET /2")).server(response(200, EMPTY))
    assert told(talk.records) == [("POST", "/1", 413, "answered"), ("GET", "/2", 200, "answered")]
    assert talk.records[0].request_body_octets == 10
    assert talk.records[0].first_byte_ns == 0


def test_a_client_that_was_told_the_status_first_may_not_send_the_body() -> None:
    talk = Conversation()
    ask = request("PUT /1", "Expect: 100-continue", "Content-Length: 500")
    talk.client(ask).server(response(417, EMPTY))
    talk.client(request("PUT /1", body=b"12345")).server(response(201, EMPTY))
    talk.client(ask).server(response(100)).client(b"x" * 500).server(response(201, EMPTY))
    assert [(record.status, record.request_body_octets) for record in talk.records] == [(417, 0), (201, 5), (201, 500)]


@pytest.mark.parametrize(("reset", "outcome"), [(False, "no_response"), (True, "reset")], ids=["fin", "reset"])
def test_a_connection_that_ends_without_a_response(reset: bool, outcome: str) -> None:
    talk = Conversation()
    talk.client(request("GET /1")).end(False, reset)
    assert told(talk.records) == [("GET", "/1", None, outcome)]
    assert talk.records[0].duration_ns is None


def test_nobody_answers_to_the_end() -> None:
    talk = Conversation()
    talk.client(request("GET /1"), request("GET /2")).end(True)
    assert told(talk.finish()) == [("GET", "/1", None, "timeout"), ("GET", "/2", None, "timeout")]


def test_a_response_on_its_way_when_the_client_resets_is_taken() -> None:
    talk = Conversation()
    talk.client(request("GET /1")).end(True, reset=True).server(response(200, body=b"abc"))
    assert told(talk.records) == [("GET", "/1", 200, "answered")]
    other = Conversation()
    other.client(request("GET /1")).end(True, reset=True)
    assert told(other.finish()) == [("GET", "/1", None, "reset")]


def test_a_body_that_ends_with_the_connection_is_whole_after_fin_only() -> None:
    for reset, outcome in ((False, "answered"), (True, "reset")):
        talk = Conversation()
        talk.client(request("GET /1 HTTP/1.0")).server(response(200, body=b"")[:-2] + b"\r\n", b"abc", b"def")
        talk.end(False, reset)
        (record,) = talk.records
        assert (record.outcome, record.response_body_octets, record.version) == (outcome, 6, "1.0")
        assert record.response_last_ns == 4 * MILLISECOND
    open_end = Conversation()
    open_end.client(request("GET /1")).server(response(200), b"abc")
    assert told(open_end.finish()) == [("GET", "/1", 200, "incomplete")]


def test_a_body_of_a_known_length_that_stops_is_incomplete() -> None:
    talk = Conversation()
    talk.client(request("GET /1")).server(response(200, "Content-Length: 9", body=b"abc")).end(False)
    assert told(talk.records) == [("GET", "/1", 200, "incomplete")]


def test_only_requests_are_seen() -> None:
    talk = Conversation()
    talk.client(request("GET /1"), request("POST /2", body=b"abc"), request("GET /3"))
    assert told(talk.finish()) == [(m, t, None, "timeout") for m, t in (("GET", "/1"), ("POST", "/2"), ("GET", "/3"))]


def test_responses_without_requests_are_no_requests() -> None:
    talk = Conversation()
    talk.server(response(200, body=b"abc"), response(404, EMPTY))
    assert talk.finish() == []
    assert talk.counts["unmatched_response"] == 2


def test_a_connection_joined_in_the_middle() -> None:
    talk = Conversation()
    talk.server(b"rest of a body", response(200, EMPTY)).client(request("GET /2")).server(response(404, EMPTY))
    talk.client(b"rest of a body\r\n\r\n").server(response(500, EMPTY)).client(request("GET /3")).server(
        response(302, EMPTY)
    )
    assert told(talk.finish()) == [("GET", "/2", 404, "answered"), ("GET", "/3", 302, "answered")]
    assert talk.counts["unmatched_response"] == 2


def test_a_response_that_could_be_read_before_its_request_is_paired_by_its_time() -> None:
    talk = Conversation()
    talk.time_ns = 10 * MILLISECOND
    talk.server(response(200, EMPTY), response(404, EMPTY))
    talk.time_ns = 5 * MILLISECOND  # these waited for octets that were missing before them
    talk.client(request("GET /1"), request("GET /2"))
    assert told(talk.records) == [("GET", "/1", 200, "answered"), ("GET", "/2", 404, "answered")]


def test_gaps_in_bodies_are_counted_by_length() -> None:
    talk = Conversation()
    talk.client(request("GET /1")).server(response(200, "Content-Length: 1000"), b"x" * 100).gap(False, 800).server(
        b"x" * 100
    )
    talk.client(request("POST /2", "Content-Length: 100")).gap(True, 100).server(response(201, EMPTY))
    assert told(talk.records) == [("GET", "/1", 200, "answered"), ("POST", "/2", 201, "answered")]
    assert [(record.request_body_octets, record.response_body_octets) for record in talk.records] == [
        (0, 1000),
        (100, 0),
    ]
    assert not talk.counts


def test_where_responses_are_missing_the_next_one_is_the_last_requests() -> None:
    talk = Conversation()
    talk.client(request("GET /1")).server(response(200, EMPTY)).client(request("GET /2")).gap(False, 90)
    talk.client(request("GET /3")).server(response(404, EMPTY)).client(request("GET /4")).server(response(302, EMPTY))
    assert told(talk.finish()) == [
        ("GET", "/1", 200, "answered"),
        ("GET", "/2", None, "incomplete"),
        ("GET", "/3", 404, "answered"),
        ("GET", "/4", 302, "answered"),
    ]


def test_behind_octets_of_nobody_it_is_not_guessed_whose_response_it_is() -> None:
    talk = Conversation()
    talk.client(request("GET /1")).server(response(200, EMPTY)).client(request("GET /2")).gap(False, 90)
    talk.server(b"rest of a body").client(request("GET /3")).server(response(404, EMPTY))
    talk.client(request("GET /4")).server(response(302, EMPTY))
    assert told(talk.finish()) == [
        ("GET", "/1", 200, "answered"),
        ("GET", "/2", None, "incomplete"),
        ("GET", "/3", None, "incomplete"),
        ("GET", "/4", 302, "answered"),
    ]
    assert talk.counts["unmatched_response"] == 1
    alone = Conversation()
    alone.client(request("GET /1")).gap(False, 90).server(b"rest", response(404, EMPTY))
    assert told(alone.finish()) == [("GET", "/1", 404, "answered")]


def test_where_requests_are_missing_their_responses_are_nobodys() -> None:
    talk = Conversation()
    talk.client(request("GET /1")).server(response(200, EMPTY)).gap(True, 90).server(response(404, EMPTY))
    talk.client(request("GET /3")).server(response(302, EMPTY))
    assert told(talk.finish()) == [("GET", "/1", 200, "answered"), ("GET", "/3", 302, "answered")]
    assert talk.counts["unmatched_response"] == 1


def test_a_gap_in_a_head_leaves_a_request_that_says_what_is_unknown() -> None:
    talk = Conversation()
    talk.client(request("GET /1", HOST, "Cookie: a")[:-10]).gap(True, 50).client(b"\r\n\r\n")
    talk.server(response(200, EMPTY)).client(request("GET /2")).server(response(204))
    assert told(talk.finish()) == [("GET", "/1", 200, "answered"), ("GET", "/2", 204, "answered")]
    first = talk.finish()[0]
    assert (first.host, first.unknown) == ("a.example", ("traceparent", "tracestate"))
    cut = Conversation()
    cut.client(b"GET /lo").gap(True, 50).server(response(200, EMPTY))
    (record,) = cut.finish()
    assert (record.target, record.unknown[:3]) == ("/lo", ("target", "version", "host"))


def test_a_head_that_never_ended_is_no_request_unless_somebody_answers_it() -> None:
    talk = Conversation()
    talk.client(request("GET /1", HOST)[:-2])
    assert talk.finish() == []
    assert talk.counts == {"cut_head": 1, "unfinished_request": 1}
    answered = Conversation()
    answered.client(request("GET /1", HOST)[:-2]).end(True).server(response(400, EMPTY))
    assert told(answered.records) == [("GET", "/1", 400, "answered")]


def test_a_head_that_was_answered_before_its_end() -> None:
    talk = Conversation()
    talk.client(request("GET /1", HOST, "X: ")[:-4], b"x" * 100).server(response(431, EMPTY)).client(b"x\r\n\r\n")
    talk.client(request("GET /2")).server(response(200, EMPTY))
    assert told(talk.records) == [("GET", "/1", 431, "answered"), ("GET", "/2", 200, "answered")]
    first = talk.records[0]
    assert (first.host, first.unknown) == ("a.example", ("traceparent", "tracestate"))
    assert (first.request_last_ns, first.duration_ns) == (4 * MILLISECOND, 2 * MILLISECOND)


def test_a_response_of_which_only_the_status_line_came() -> None:
    talk = Conversation()
    talk.client(request("GET /1")).server(b"HTTP/1.1 200 OK\rno: line feed\r\r<html>").end(False)
    assert told(talk.records) == [("GET", "/1", 200, "incomplete")]


def test_a_response_that_is_none() -> None:
    talk = Conversation()
    talk.client(request("GET /1")).server(b"<html>no head</html>").end(False)
    assert told(talk.records) == [("GET", "/1", None, "no_response")]
    assert talk.counts["not_http"] == 1


def test_http_0_9() -> None:
    talk = Conversation()
    talk.client(b"GET /old\r\n").server(b"<html>", b"HTTP/1.1 200 OK\r\n\r\n").end(False)
    (record,) = talk.records
    assert (record.version, record.status, record.outcome, record.response_body_octets) == ("0.9", None, "answered", 25)
    refused = Conversation()
    refused.client(b"GET /old\r\n").server(response(400, EMPTY))
    assert told(refused.records) == [("GET", "/old", 400, "answered")]


def test_websocket_is_opaque_afterwards() -> None:
    talk = Conversation()
    upgrade = ("Connection: Upgrade", "Upgrade: websocket")
    talk.client(request("GET /ws", *upgrade)).server(response(101, *upgrade) + b"\x81\5hello")
    assert told(talk.records) == [("GET", "/ws", 101, "answered")]
    assert talk.follower.done
    assert (talk.records[0].duration_ns, talk.records[0].upgrade) == (MILLISECOND, "websocket")


@pytest.mark.parametrize("says", ["TLS/1.2", ""])
def test_an_upgrade_to_anything_else_is_recognised_anew(says: str) -> None:
    talk = Conversation()
    fields = [f"Upgrade: {says}", "Connection: Upgrade"] if says else []
    talk.client(request("GET /1", "Connection: Upgrade", "Upgrade: TLS/1.2, x")).server(response(101, *fields))
    assert talk.follower.successor is ANEW
    assert talk.records[0].upgrade == "tls/1.2"


def test_an_upgrade_that_is_not_taken_goes_on() -> None:
    talk = Conversation()
    talk.client(request("GET /1", "Connection: Upgrade", "Upgrade: h2c")).server(response(200, body=b"abc"))
    talk.client(request("GET /2")).server(response(404, EMPTY))
    pipelined = request("GET /3", "Connection: Upgrade", "Upgrade: h2c") + request("GET /4")
    talk.client(pipelined).server(response(200, EMPTY), response(204))
    assert [record.status for record in talk.records] == [200, 404, 200, 204]


def test_h2c_is_handed_over() -> None:
    talk = Conversation()
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c")
    talk.client(request("GET /1", *upgrade)).server(response(101, *upgrade) + b"settings")
    assert told(talk.records) == [("GET", "/1", 101, "answered")]
    assert isinstance(talk.follower.successor, Http2Follower)
    assert talk.follower.rest == [(False, b"settings", talk.time_ns)]
    assert talk.records[0].upgrade == "h2c"


def test_the_response_in_http2_to_what_was_asked_in_http1_is_told_there() -> None:
    talk = Conversation()
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c")
    talk.client(request("GET /1", HOST, *upgrade)).server(response(101, *upgrade))
    successor = talk.follower.successor
    assert isinstance(successor, Http2Follower)
    status_404_ends_stream_1 = bytes.fromhex("000001 01 05 00000001 8d")
    successor.data(False, bytes.fromhex("000000 04 00 00000000") + status_404_ends_stream_1, 7 * MILLISECOND)
    (record,) = successor.records
    assert (record.version, record.stream, record.target, record.status, record.host) == (
        "2",
        1,
        "/1",
        404,
        "a.example",
    )
    assert record.is_first_of_http2
    assert not talk.records[0].is_first_of_http2
    assert record.duration_ns == 6 * MILLISECOND


def test_what_the_client_says_before_the_101_is_seen_is_the_successors() -> None:
    talk = Conversation()
    upgrade = ("Connection: Upgrade", "Upgrade: h2c")
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    talk.client(request("GET /1", *upgrade), preface, b"frames").server(response(101, *upgrade) + b"settings")
    assert told(talk.records) == [("GET", "/1", 101, "answered")]
    times = [2 * MILLISECOND, 3 * MILLISECOND]
    assert talk.follower.rest == [
        (False, b"settings", 4 * MILLISECOND),
        (True, preface, times[0]),
        (True, b"frames", times[1]),
    ]


@pytest.mark.parametrize(
    "head", [response(200), b"HTTP/1.0 200 Connection established\r\n\r\n", response(200, "Content-Length: 9")]
)
def test_connect_hands_the_connection_over(head: bytes) -> None:
    talk = Conversation()
    talk.client(request("CONNECT a.example:443", HOST)).server(head).client(TLS)
    assert told(talk.records) == [("CONNECT", "a.example:443", 200, "answered")]
    assert talk.follower.successor is ANEW
    early = Conversation()
    early.client(request("CONNECT a.example:443") + TLS).server(head)
    assert early.follower.rest == [(True, TLS, MILLISECOND)]


def test_connect_that_is_refused_goes_on() -> None:
    talk = Conversation()
    connect = request("CONNECT a.example:443")
    talk.client(connect).server(response(407, body=b"who are you?")).client(connect).server(response(200))
    assert told(talk.records) == [
        ("CONNECT", "a.example:443", 407, "answered"),
        ("CONNECT", "a.example:443", 200, "answered"),
    ]


def test_connect_seen_from_the_client_alone() -> None:
    connect = request("CONNECT a.example:443")
    again = Conversation()
    again.client(connect, connect).client(*[TLS] * 4)
    assert told(again.records) == [("CONNECT", "a.example:443", None, "timeout")] * 2
    assert again.follower.successor is ANEW
    assert [data for _, data, _ in again.follower.rest] == [TLS] * 4
    ended = Conversation()
    ended.client(connect, TLS).end(True)
    assert ended.follower.successor is ANEW
    http = Conversation()
    http.client(connect, request("GET /in"))
    assert [record.target for record in http.finish()] == ["a.example:443", "/in"]


def test_many_connects_in_one_segment() -> None:
    talk = Conversation()
    talk.client(request("CONNECT a:1") * 2003)
    assert len(talk.finish()) == 2003


def test_more_open_requests_than_are_kept_are_told_and_counted() -> None:
    talk = Conversation()
    talk.client(request("GET /") * (OPEN_MAX + 7))
    assert [record.outcome for record in talk.records] == ["incomplete"] * 7
    assert talk.counts == {"pipeline_full": 7}
    assert len(talk.finish()) == OPEN_MAX + 7


def test_a_length_less_response_ends_with_the_next_request() -> None:
    talk = Conversation()
    talk.client(request("GET /1")).server(response(200), b"abc").client(request("GET /2")).server(response(404), b"d")
    talk.end(False)
    records = talk.finish()
    assert told(records) == [("GET", "/1", 200, "answered"), ("GET", "/2", 404, "answered")]
    assert [record.response_body_octets for record in records] == [3, 1]
    assert records[0].duration_ns == 2 * MILLISECOND


def test_multipart_byteranges_is_a_body_as_any_other() -> None:
    parts = b"--x\r\nContent-Range: bytes 0-1/9\r\n\r\nab\r\n--x--\r\n"
    talk = Conversation()
    talk.client(request("GET /1", "Range: bytes=0-1,5-6")).server(
        response(206, "Content-Type: multipart/byteranges; boundary=x", body=parts)
    )
    talk.client(request("GET /2")).server(response(416, EMPTY))
    assert [(record.status, record.response_body_octets) for record in talk.records] == [(206, len(parts)), (416, 0)]


def test_what_cannot_be_a_length_is_resynchronised() -> None:
    talk = Conversation()
    talk.client(request("POST /1", "Content-Length: 3", "Content-Length: 5"), b"12345").server(response(400, EMPTY))
    talk.client(request("GET /2")).server(response(200, EMPTY))
    assert told(talk.records) == [("POST", "/1", 400, "answered"), ("GET", "/2", 200, "answered")]
    assert talk.counts == {"body": 1}
    assert talk.records[0].request_body_octets == 5


def test_what_nobody_answers_is_told_while_the_connection_lives() -> None:
    talk = Conversation(timeout_ns=MILLISECOND * 10)
    talk.client(request("GET /1") + request("GET /2") + request("GET /3")).server(response(200, EMPTY))
    talk.advance(11 * MILLISECOND)
    assert told(talk.records) == [("GET", "/1", 200, "answered")]
    talk.advance(12 * MILLISECOND)
    talk.advance(13 * MILLISECOND)
    late = [("GET", "/2", None, "timeout"), ("GET", "/3", None, "timeout")]
    assert told(talk.records)[1:] == late
    # What comes late is still the response to what was asked before: the next one has its own.
    talk.client(request("GET /4")).server(response(500, EMPTY), response(501, EMPTY), response(404, EMPTY))
    talk.end(True).end(False)
    assert told(talk.records)[1:] == [*late, ("GET", "/4", 404, "answered")]
    assert not talk.counts


def test_without_a_limit_of_time_only_the_end_tells() -> None:
    talk = Conversation()
    talk.client(request("GET /1"))
    talk.advance(1 << 62)
    assert talk.records == []

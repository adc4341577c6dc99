"""Heads of HTTP/1: what begins a message, and what is read of its lines."""

from __future__ import annotations

import pytest

from otel_netmon.decode.http1 import begins_http1
from otel_netmon.decode.http1_heads import (
    HEAD_OCTETS_MAX,
    Body,
    begins_request,
    begins_response,
    read_request,
    read_response,
    request_body,
    response_body,
)
from support.http_messages import request, response

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("data", "verdict"),
    [
        (b"", None),
        (b"\r\n", None),
        (b"G", None),
        (b"GET", None),
        (b"GET ", None),
        (b"GET /", True),
        (b"\r\n\r\nPOST http://a.example/", True),
        (b"CONNECT a.example:443 HTTP", None),
        (b"CONNECT a.example:443 HTTP/1.1\r\n", True),
        (b"OPTIONS * HTTP/1.1\r\n", True),
        (b"OPTIONS * RTSP/1.0\r\n", False),
        (b"OPTIONS sip:a@example SIP/2.0\r\n", False),
        (b"DESCRIBE rtsp://a.example/b RTSP/1.0\r\n", False),
        (b"M-SEARCH * HTTP/1.1\r\n", True),
        (b"brew /pot HTTP/1.1\n", True),
        (b"brew /pot HTTP/2.0\n", False),
        (b"GET / HTTP/2.0\r\n", True),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", False),
        (b"GET /old\r\n", True),
        (b"GET key\r\n", None),
        (b"GET key\r\nGET other\r\n", False),
        (b"POST /old\r\n", None),
        (b"POST /old\r\n\r\n", False),
        (b"POST /old\r\nHo", None),
        (b"POST /old\r\nHost: a", True),
        (b"GET HTTP/1.1\r\nHost: a", True),
        (b"BREW /old\r\nHost: a", False),
        (b"MAIL FROM:<a@b>\r\n", False),
        (b"GET\t/a\tHTTP/1.1\r\n", True),
        (b"EHLO a.example\r\n", False),
        (b"220 a.example ESMTP\r\n", False),
        (b"SSH-2.0-OpenSSH_9.2\r\n", False),
        (b"\x16\x03\x01\x02\x00\x01", False),
        (b"GET \x00\x01", False),
        (b"x" * 65, False),
        (b"x" * 64, None),
        (b"x " + b"y" * HEAD_OCTETS_MAX, False),
        (b"REQMOD icap://a.example/ ICAP/1.0\r\n", False),
        (b"GNUTELLA CONNECT/0.6\r\n", False),
        (b"HTTP/1.1 200 OK\r\n", False),
    ],
)
def test_what_begins_a_request(data: bytes, verdict: bool | None) -> None:
    assert begins_request(data) is verdict


@pytest.mark.parametrize(
    ("data", "verdict"),
    [
        (b"", None),
        (b"HT", None),
        (b"HTTP/1.1 ", None),
        (b"HTTP/1.1 20", None),
        (b"HTTP/1.1 200", True),
        (b"HTTP/1.0\t404 Not Found\r\n", True),
        (b"HTTP/1.1 2000 OK", False),
        (b"HTTP/1.1 2x0 OK", False),
        (b"http/1.1 200 ok\n", True),
        (b"\r\n HTTP/1.1 200", True),
        (b"HTTP 200 OK", False),
        (b"ICY 200 OK\r\n", True),
        (b"HTTP/" + b"1" * 64, False),
        (b"<html>", False),
        (b"GET / HTTP/1.1\r\n", False),
    ],
)
def test_what_begins_a_response(data: bytes, verdict: bool | None) -> None:
    assert begins_response(data) is verdict


def test_every_begin_of_a_message_is_one_or_may_be_one() -> None:
    for whole in (request("GET /a", "Host: b"), request("BREW /pot"), response(204)):
        verdicts = [begins_http1(whole[:length]) for length in range(len(whole) + 1)]
        assert False not in verdicts
        assert verdicts == sorted(verdicts, key=bool)  # once sure, it stays so
        assert verdicts[-1] is True


def test_the_fields_that_are_looked_at_are_read_in_any_case_and_order() -> None:
    head = read_request(
        request(
            "POST /a?b=c#d",
            "hOST:\t a.example:81 ",
            "Cookie: host: b.example",
            f"TraceParent: {TRACEPARENT}",
            "tracestate: a=1",
            "Tracestate: b=2,c=3",
            "Content-Type: application/grpc+proto",
            "Expect: 100-Continue",
            "Content-Length: 7",
        )
    )
    assert head is not None
    assert (head.method, head.target, head.version, head.is_whole) == ("POST", "/a?b=c#d", "1.1", True)
    fields = head.fields
    assert (fields.host, fields.traceparent, fields.tracestate) == ("a.example:81", TRACEPARENT, "a=1,b=2,c=3")
    assert (fields.length, fields.expects_continue, fields.is_grpc) == (7, True, True)


def test_bare_line_feeds_and_folded_fields_are_read() -> None:
    head = read_request(request("GET /a HTTP/1.0", "tracestate: a=1,", "  b=2,", "\tc=3", "Host: b", end="\n"))
    assert head is not None
    assert (head.version, head.fields.tracestate, head.fields.host) == ("1.0", "a=1, b=2, c=3", "b")


def test_a_name_inside_a_value_or_another_name_is_no_field() -> None:
    head = read_request(request("GET /", "X-Host: a", "Cookie: x", " Host: b", "Forwarded-Host: c", "host : d"))
    assert head is not None
    assert head.fields.host == "d"


@pytest.mark.parametrize(
    ("line", "method", "target", "version"),
    [
        ("GET / HTTP/1.1", "GET", "/", "1.1"),
        ("get /a HTTP/1.0", "get", "/a", "1.0"),
        ("CONNECT [2001:db8::1]:443 HTTP/1.1", "CONNECT", "[2001:db8::1]:443", "1.1"),
        ("GET http://a.example/b?c HTTP/1.1", "GET", "http://a.example/b?c", "1.1"),
        ("OPTIONS * HTTP/1.1", "OPTIONS", "*", "1.1"),
        ("GET   /a\t HTTP/1.1  ", "GET", "/a", "1.1"),
        ("GET /a b c HTTP/1.1", "GET", "/a b c", "1.1"),
        ("GET /a HTTP/1.1 more", "GET", "/a", "1.1"),
        ("GET /a HTTP/9.7", "GET", "/a", "1.1"),
        ("GET /a http/1.1", "GET", "/a", "1.1"),
        ("GET /a HTTP/x", "GET", "/a", "1.1"),
        ("!#$%&'*+-.^_`|~ /a HTTP/1.1", "!#$%&'*+-.^_`|~", "/a", "1.1"),
        ("GET /\xe4 HTTP/1.1", "GET", "/\\xe4", "1.1"),
        ("GET /\xc3\xa4 HTTP/1.1", "GET", "/ä", "1.1"),
        ("GET /a", "GET", "/a", "0.9"),
    ],
)
def test_request_lines(line: str, method: str, target: str, version: str) -> None:
    head = read_request(line.encode("latin-1") + b"\r\n\r\n")
    assert head is not None
    assert (head.method, head.target, head.version) == (method, target, version)


@pytest.mark.parametrize(
    "line", ["GET", "GET /a FTP/1.1", "/a GET HTTP/1.1", "PRI * HTTP/2.0", "A: b", "", "G\0T / HTTP/1.1"]
)
def test_what_is_no_request_line(line: str) -> None:
    assert read_request(f"{line}\r\n\r\n".encode()) is None


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("HTTP/1.1 200 OK", 200),
        ("HTTP/1.0  404", 404),
        ("HTTP/1.1\t302 \xff", 302),
        ("ICY 200 OK", 200),
        ("HTTP/2 204 ", 204),
        ("HTTP/1.x 200 OK", 200),
        ("HTTP/ 200", 200),
    ],
)
def test_status_lines(line: str, status: int) -> None:
    head = read_response(line.encode("latin-1") + b"\r\nContent-Length: 3\r\n\r\n")
    assert head is not None
    assert (head.status, head.fields.length) == (status, 3)


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ([], 0),
        (["Content-Length: 5"], 5),
        (["Content-Length: 5", "Content-Length: 5"], 5),
        (["Content-Length: 5, 05"], 5),
        (["Content-Length: 5", "Content-Length: 6"], "invalid"),
        (["Content-Length: -5"], "invalid"),
        (["Content-Length: +5"], "invalid"),
        (["Content-Length: "], "invalid"),
        (["Content-Length: 5 5"], "invalid"),
        (["Content-Length: " + "9" * 19], "invalid"),
        (["Transfer-Encoding: chunked"], "chunked"),
        (["Transfer-Encoding: gzip, CHUNKED"], "chunked"),
        (["Transfer-Encoding: gzip", "Transfer-Encoding: chunked"], "chunked"),
        (["Transfer-Encoding: chunked", "Content-Length: 5"], "chunked"),
        (["Transfer-Encoding: chunked, gzip"], "invalid"),
        (["Transfer-Encoding: xchunked"], "invalid"),
        (["Transfer-Encoding: identity", "Content-Length: 5"], 5),
        (["Transfer-Encoding: identity"], 0),
    ],
)
def test_what_follows_the_head_of_a_request(fields: list[str], body: Body) -> None:
    head = read_request(request("POST /", *fields))
    assert head is not None
    assert request_body(head) == body
    # A response says the same, but where a request has no body or none that can be known, it ends with the connection.
    answer = read_response(response(200, *fields))
    assert answer is not None
    says_nothing = not fields or fields == ["Transfer-Encoding: identity"]
    assert response_body(answer, head) == ("close" if body == "invalid" or says_nothing else body)


def test_chunks_of_http_1_0_are_not_believed() -> None:
    head = read_request(request("POST / HTTP/1.0", "Transfer-Encoding: chunked"))
    answer = read_response(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert head is not None
    assert answer is not None
    assert (request_body(head), response_body(answer, head)) == ("invalid", "close")


@pytest.mark.parametrize(
    ("method", "status", "body"),
    [
        ("HEAD", 200, 0),
        ("GET", 304, 0),
        ("GET", 204, 0),
        ("GET", 100, 0),
        ("GET", 103, 0),
        ("GET", 101, "opaque"),
        ("CONNECT", 200, "opaque"),
        ("CONNECT", 407, 5),
        ("GET", 205, 5),
        ("HEAD", 101, "opaque"),
    ],
)
def test_methods_and_statuses_without_a_body(method: str, status: int, body: Body) -> None:
    head, answer = read_request(request(f"{method} /")), read_response(response(status, "Content-Length: 5"))
    assert answer is not None
    assert response_body(answer, head) == body


def test_an_upgrade_is_meant_only_if_connection_says_so() -> None:
    meant = read_request(request("GET /", "Connection: keep-alive, Upgrade", "Upgrade: WebSocket"))
    idle = read_request(request("GET /", "Upgrade: h2c"))
    assert meant is not None
    assert idle is not None
    assert (meant.fields.upgrade, idle.fields.upgrade) == ((b"websocket",), ())


def test_a_head_that_is_cut_tells_what_is_whole_of_it() -> None:
    whole = request("GET /a", "Host: b", "traceparent: " + TRACEPARENT)
    cut = read_request(whole[: whole.index(b"\r\ntrace") + 20], is_whole=False)
    assert cut is not None
    assert (cut.method, cut.target, cut.fields.host, cut.fields.traceparent) == ("GET", "/a", "b", None)
    line = read_request(b"GET /a/long/pa", is_whole=False)
    assert line is not None
    assert (line.method, line.target, line.cut_line) == ("GET", "/a/long/pa", True)
    assert read_request(b"BREW /a/long/pa", is_whole=False) is None
    answer = read_response(b"HTTP/1.1 301 Mov", is_whole=False)
    assert answer is not None
    assert (answer.status, answer.is_whole) == (301, False)

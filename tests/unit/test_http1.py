"""One direction of HTTP/1: where messages begin and end."""

from __future__ import annotations

import pytest

from otel_netmon.decode.http1 import Begin, Content, End, Event, Fault, Http1Reader
from otel_netmon.decode.http1_bodies import LINE_OCTETS_MAX, TRAILER_OCTETS_MAX, ChunkedBody
from otel_netmon.decode.http1_heads import HEAD_OCTETS_MAX, RequestHead, ResponseHead, request_body, response_body
from support.http_messages import chunks, request, response

Told = str | int


class Reading:
    """A reader whose owner knows nothing but the heads; what it tells in short: content in octets, faults in <>."""

    def __init__(self, *, is_request: bool = True) -> None:
        self.reader = Http1Reader(is_request=is_request)

    def feed(self, *pieces: bytes) -> list[Told]:
        told: list[Told] = []
        for piece in pieces:
            self.reader.feed(piece)
            told += self._told()
        return told

    def gap(self, octets: int) -> list[Told]:
        self.reader.gap(octets)
        return self._told()

    def end(self) -> list[Told]:
        self.reader.end()
        return self._told()

    def _told(self) -> list[Told]:
        told: list[Told] = []
        while (event := self.reader.next()) is not None:
            self._tell(event, told)
        return told

    def _tell(self, event: Event, told: list[Told]) -> None:
        if isinstance(event, Begin):
            told.append("begin")
        elif isinstance(event, RequestHead):
            self.reader.expect(request_body(event))
            told.append(event.target)
        elif isinstance(event, ResponseHead):
            self.reader.expect(response_body(event, None))
            told.append(event.status)
        elif isinstance(event, Content):
            told.append(event.octets)
        elif isinstance(event, End):
            told.append("end")
        else:
            assert isinstance(event, Fault)
            told.append(f"<{event.reason}>")


def whole(target: Told, *content: int) -> list[Told]:
    return ["begin", target, *content, "end"]


def test_pipelined_requests_in_one_segment() -> None:
    data = request("GET /1") + request("POST /2", body=b"12345") + b"\r\n" + request("GET /3")
    assert Reading().feed(data) == [*whole("/1"), *whole("/2", 5), *whole("/3")]


def test_a_response_may_begin_in_the_middle_of_a_segment() -> None:
    first, second = response(200, body=b"a" * 7), response(404, body=b"b" * 11)
    data = first + second
    cut = len(first) - 3
    reading = Reading(is_request=False)
    assert reading.feed(data[:cut], data[cut:]) == ["begin", 200, 4, 3, "end", "begin", 404, 11, "end"]


def test_a_body_that_looks_like_a_head_is_a_body() -> None:
    inner = response(500) + request("GET /inner")
    for outer in (
        response(200, body=inner),
        response(200, "Transfer-Encoding: chunked", body=chunks(inner[:9], inner[9:])),
    ):
        head = outer.index(b"\r\n\r\n") + 4
        told = Reading(is_request=False).feed(outer[:head], outer[head:], response(204))
        assert [each for each in told if each != "begin"] == [200, len(inner), "end", 204, "end"]


@pytest.mark.parametrize("extension", ["", ";a", ';a="b;c"', " ; a = b"])
def test_chunks_with_extensions_and_trailers(extension: str) -> None:
    body = chunks(b"12345", b"x" * 300, trailer="X: y\r\nTraceparent: none\r\n", extension=extension)
    data = response(200, "Transfer-Encoding: chunked", body=body)
    assert Reading(is_request=False).feed(data + data) == [*whole(200, 305), *whole(200, 305)]
    told = Reading(is_request=False).feed(*[data[at : at + 1] for at in range(len(data))])
    assert [each for each in told if not isinstance(each, int) or each == 200] == ["begin", 200, "end"]
    assert sum(each for each in told if isinstance(each, int)) == 200 + 305


@pytest.mark.parametrize("body", [b"5\n12345\n0\n\n", b"00005\r\n12345\r\n000\r\n\r\n", b"5 \r\n12345\r\n0\r\n\r\n"])
def test_chunks_as_some_write_them(body: bytes) -> None:
    assert Reading().feed(request("POST /", "Transfer-Encoding: chunked", body=body)) == whole("/", 5)


@pytest.mark.parametrize(
    "body",
    [
        b"g\r\n",
        b"-5\r\n12345\r\n0\r\n\r\n",
        b"5\r\n123456\r\n0\r\n\r\n",
        b"\r\n",
        b"0x5\r\n",
        b"1" * 16 + b"\r\n",
        b"5\r\n12345xx",
    ],
)
def test_chunks_that_are_none_are_a_body_of_unknown_length(body: bytes) -> None:
    reading = Reading(is_request=False)
    told = reading.feed(response(200, "Transfer-Encoding: chunked", body=body))
    assert told[:2] == ["begin", 200]
    assert "<body>" in told
    assert "end" not in told
    assert reading.feed(b"more", response(204)) == [4, "end", "begin", 204, "end"]


def test_lines_of_chunks_are_bounded() -> None:
    assert ChunkedBody().take(b"5;" + b"a" * LINE_OCTETS_MAX, 0) == LINE_OCTETS_MAX + 2
    endless = ChunkedBody()
    for _ in range(LINE_OCTETS_MAX // 1000 + 1):
        endless.take(b"5" * 1000, 0)
    assert endless.is_broken
    trailer = ChunkedBody()
    trailer.take(b"0\r\n", 0)
    for _ in range(TRAILER_OCTETS_MAX // 1000 + 1):
        assert not trailer.is_broken
        trailer.take(b"a" * 998 + b"\r\n", 0)
    assert trailer.is_broken


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    reading = Reading(is_request=False)
    assert reading.feed(response(200), b"abc", response(500)) == ["begin", 200, 3, len(response(500))]
    assert reading.end() == ["end"]


def test_behind_another_request_a_response_may_begin_in_a_body_without_a_length() -> None:
    reading = Reading(is_request=False)
    reading.feed(response(200), b"abc")
    reading.reader.may_begin = True
    assert reading.feed(b"abc", response(500, "Content-Length: 0")) == [3, "end", "begin", 500, "end"]


def test_gaps_inside_bodies_are_skipped_by_length() -> None:
    reading = Reading(is_request=False)
    assert reading.feed(response(200, "Content-Length: 1000", body=b"a" * 10)) == ["begin", 200, 10]
    assert reading.gap(980) == [980]
    assert reading.feed(b"b" * 10 + response(204)) == [10, "end", "begin", 204, "end"]
    chunked = Reading(is_request=False)
    assert chunked.feed(response(200, "Transfer-Encoding: chunked", body=b"100\r\nabc")) == ["begin", 200, 3]
    assert chunked.gap(253) == [253]
    assert chunked.feed(b"\r\n100\r\nabc") == [3]
    assert chunked.gap(255) == [253]
    assert chunked.feed(b"0\r\n\r\n") == [0, "end"]


def test_a_gap_up_to_the_end_of_a_body_leaves_the_reader_in_step() -> None:
    reading = Reading()
    reading.feed(request("POST /1", "Content-Length: 50"))
    assert reading.gap(50) == [50, "end"]
    assert reading.reader.is_in_step
    assert reading.feed(request("GET /2")) == whole("/2")


def test_behind_a_gap_over_the_end_of_a_body_the_next_head_at_the_begin_of_a_segment_counts() -> None:
    reading = Reading()
    reading.feed(request("POST /1", "Content-Length: 50"))
    assert reading.gap(51) == [50, "end", "<gap>"]
    assert not reading.reader.is_in_step
    assert reading.feed(b"rest of a head\r\n\r\n" + request("GET /inside")) == []
    assert reading.feed(request("GET /2")) == whole("/2")


def test_a_gap_inside_a_head_leaves_what_was_before_it() -> None:
    reading = Reading()
    assert reading.feed(request("GET /1", "Host: a", "Cookie: b")[:-10]) == ["begin"]
    assert reading.gap(30) == ["<cut_head>", "/1"]
    assert reading.feed(b"okie: x\r\n\r\n", request("GET /2")) == [11, "end", "begin", "/2", "end"]


def test_a_gap_between_messages_may_hide_some() -> None:
    reading = Reading()
    assert reading.feed(request("GET /1")) == whole("/1")
    assert reading.gap(30) == ["<gap>"]
    assert reading.feed(b"GE", b"T /2 HTTP/1.1\r\n\r\n") == whole("/2")


def test_a_connection_joined_in_the_middle_of_a_body() -> None:
    reading = Reading(is_request=False)
    assert reading.feed(
        b"body\r\n\r\n" + response(500), b"H", b"ello", b"HT", response(200, "Content-Length: 0")
    ) == whole(200)


def test_what_is_no_message_is_counted_once_and_the_next_one_is_found() -> None:
    reading = Reading()
    assert reading.feed(request("GET /1") + b"\0\1\2", b"\0\1", request("GET /2")) == [
        *whole("/1"),
        "begin",
        "<not_http>",
        *whole("/2"),
    ]


def test_what_waits_for_more_and_is_no_begin_does_not_hide_the_next_message() -> None:
    reading = Reading(is_request=False)
    told = reading.feed(response(204), b"HT", response(304))
    assert told == [*whole(204), "begin", "<not_http>", *whole(304)]


def test_empty_lines_before_a_message_are_none_of_it() -> None:
    assert Reading().feed(b"\r\n", b"\n\r\n" + request("GET /1"), b"\r\n") == whole("/1")


def test_an_end_inside_a_head_leaves_what_was_before_it() -> None:
    reading = Reading(is_request=False)
    assert reading.feed(b"HTTP/1.1 200 OK\rContent-Length: 3\r\r") == ["begin"]
    assert reading.end() == ["<cut_head>", 200]
    assert Reading().end() == []


def test_an_end_inside_a_body_of_a_known_length_is_no_end_of_it() -> None:
    reading = Reading()
    assert reading.feed(request("POST /", "Content-Length: 9"), b"abc") == ["begin", "/", 3]
    assert reading.end() == []


def test_a_head_of_exactly_the_limit_is_whole_and_of_one_octet_more_it_is_not() -> None:
    empty = len(request("GET /", "Host: a", "X: "))
    fitting = request("GET /", "Host: a", "X: " + "x" * (HEAD_OCTETS_MAX - empty))
    assert len(fitting) == HEAD_OCTETS_MAX
    assert Reading().feed(fitting) == whole("/")
    too_long = request("GET /", "Host: a", "X: " + "x" * (HEAD_OCTETS_MAX - empty + 1), "Content-Length: 3") + b"abc"
    for size in (len(too_long), 1460, HEAD_OCTETS_MAX):
        pieces = [too_long[at : at + size] for at in range(0, len(too_long), size)]
        told = Reading().feed(*pieces, request("GET /2"))
        told = [each for each in told if each != 0]
        assert told[:4] == ["begin", "<head_too_long>", "/", "end"]  # its length stood behind what is read of it
        assert told[-3:] == whole("/2")


def test_the_length_that_a_long_head_says_early_is_believed() -> None:
    data = request("POST /", "Content-Length: 5", "X: " + "x" * HEAD_OCTETS_MAX) + b"12345" + request("GET /2")
    assert Reading().feed(data) == ["begin", "<head_too_long>", "/", 0, 5, "end", *whole("/2")]
    answer = response(200, "X: " + "x" * HEAD_OCTETS_MAX) + b"12345"
    reading = Reading(is_request=False)
    assert reading.feed(answer, response(204)) == ["begin", "<head_too_long>", 200, 0, 5, "end", "begin", 204, "end"]


def test_an_endless_head_keeps_nothing() -> None:
    reading = Reading()
    reading.feed(request("GET /")[:-2])
    for _ in range(200):
        reading.feed(b"X: " + b"x" * 1000 + b"\r\n")
        assert reading.reader.octets <= HEAD_OCTETS_MAX
    assert reading.reader.octets < 10
    assert reading.feed(b"\r\n" + request("GET /2")) == [0, "end", *whole("/2")]


def test_a_gap_inside_a_head_that_is_not_kept() -> None:
    reading = Reading()
    reading.feed(request("GET /", "X: " + "x" * HEAD_OCTETS_MAX)[:-4])
    assert reading.gap(40) == ["<gap>"]
    assert reading.feed(b"x\r\n\r\n", request("GET /2")) == [5, "end", "begin", "/2", "end"]


def test_http_0_9_has_one_line_and_its_response_no_head() -> None:
    reading = Reading()
    assert reading.feed(b"GET /old\r\n") == whole("/old")
    assert Reading().feed(b"GET /old\r\n\r\n" + b"GET /older\r\n") == [*whole("/old"), *whole("/older")]
    assert Reading().feed(b"GET /a\r\nH", b"ost: a\r\n\r\n", b"GET /b\r\n") == [*whole("/a"), *whole("/b")]
    answer = Reading(is_request=False)
    answer.reader.expect_headless()
    assert answer.feed(b"<html>", b"HTTP/1.1 200 OK\r\n\r\n") == [6, 19]
    assert answer.end() == ["end"]


def test_what_follows_an_upgrade_is_left_to_the_owner() -> None:
    reading = Reading(is_request=False)
    assert reading.feed(response(101) + b"\x81\x05hello") == ["begin", 101]
    assert reading.reader.take_rest() == b"\x81\x05hello"
    assert reading.feed(b"more") == []

"""HTTP/1 in the kernel: one record a request with what is known of its response, and nothing of a body."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from otel_netmon.abi import layout
from otel_netmon.abi.enums import Direction, HttpFlags, MessageCount, MessageKind
from otel_netmon.analysis.tcp_messages import stream_segments
from otel_netmon.kernel import syscalls
from otel_netmon.readers.messages import HttpMessages, Messages, http_messages
from support.frames import ACK, FIN, PSH, RST, SYN
from support.message_programs import MessagePrograms
from support.tcp_conversation import CLIENT_NUMBER, SERVER_NUMBER, Conversation, clear

pytestmark = pytest.mark.kernel

CANARY = b"CANARY-91cc"
COUNT = MessageCount
LAST_NS = (layout.MESSAGE.itemsize + layout.HTTP.itemsize + 2 * (1024 + 24) + 2 * layout.FLOW_KEY.itemsize) // 8 + 1
"""Which word of a row of http_connections is last_ns."""

COMPLETE, OPEN, CHUNKED = HttpFlags.COMPLETE, HttpFlags.RESPONSE_OPEN, HttpFlags.CHUNKED


def ask(name: str, *fields: str, method: str = "GET", body: bytes = b"") -> bytes:
    length = [f"Content-Length: {len(body)}"] if body else []
    lines = [f"{method} /{name} HTTP/1.1", "Host: www.example.org", *fields, *length]
    return "\r\n".join([*lines, "", ""]).encode() + body


def answer(status: int, *fields: str, body: bytes | None = b"") -> bytes:
    """A response; without a body, without a length."""
    length = [] if body is None else [f"Content-Length: {len(body)}"]
    return "\r\n".join([f"HTTP/1.1 {status} Any Reason", *fields, *length, "", ""]).encode() + (body or b"")


@pytest.fixture(scope="module")
def made() -> Iterator[MessagePrograms]:
    with MessagePrograms(replay=0, streams=1, http=1, sizes={"messages": 1 << 20, "http_connections": 512}) as programs:
        yield programs


@pytest.fixture
def programs(made: MessagePrograms) -> MessagePrograms:
    """The programs as an agent attaches them, with nothing in their maps."""
    return reset(made)


def reset(made: MessagePrograms) -> MessagePrograms:
    fd = made.loaded.maps["http_connections"]
    for key in connections(made):
        syscalls.map_delete(fd, key)
    return clear(made)


def connections(programs: MessagePrograms) -> list[bytes]:
    """The keys of http_connections."""
    return list(syscalls.map_keys(programs.loaded.maps["http_connections"], layout.FLOW_KEY.itemsize))


def told(programs: MessagePrograms) -> HttpMessages:
    """The requests, and nothing else, that the ring held."""
    messages = programs.records()
    assert messages.heads["kind"].tolist() == [MessageKind.HTTP] * len(messages.heads)
    assert CANARY not in messages.data
    return http_messages(messages)


def rows(requests: HttpMessages) -> list[tuple[bytes, int, int, int, HttpFlags]]:
    """Target, status, octets of request and response, flags."""
    return [
        (
            requests.head(index).split(b" ")[1][1:],
            int(http["status"]),
            int(http["request_octets"]),
            int(http["response_octets"]),
            HttpFlags(int(http["flags"])),
        )
        for index, http in enumerate(requests.http)
    ]


# ------------------------------------------------------------------------------------------------------- one exchange
def test_a_record_holds_the_exchange(programs: MessagePrograms) -> None:
    talk = Conversation(programs)
    request, response = ask("one"), answer(404, body=CANARY * 9)
    talk.send(request, flags=ACK | PSH)
    assert len(told(programs).heads) == 0
    talk.send(response, from_client=False)
    requests = told(programs)
    ((head,), (http,)) = requests.heads, requests.http
    assert requests.head(0) == request
    fields = ("sequence", "acknowledgment", "payload_length", "captured_length", "tcp_flags", "kind", "direction")
    assert {name: head[name].item() for name in fields} == {
        "sequence": CLIENT_NUMBER + 1,
        "acknowledgment": SERVER_NUMBER + 1,
        "payload_length": 64 + len(request),
        "captured_length": 64 + len(request),
        "tcp_flags": ACK | PSH,
        "kind": MessageKind.HTTP,
        "direction": Direction.TRANSMIT,
    }
    assert (int(head["source_port"]), int(head["destination_port"])) == (40000, 443)
    names = ("request_octets", "response_octets", "request_head", "response_head", "status", "interims", "reserved")
    assert {name: int(http[name]) for name in names} == {
        "request_octets": len(request),
        "response_octets": len(response),
        "request_head": len(request),
        "response_head": len(response) - len(CANARY * 9),
        "status": 404,
        "interims": 0,
        "reserved": 0,
    }
    assert http["flags"] == COMPLETE
    assert http["request_first_ns"] == http["request_last_ns"] < http["response_first_ns"] == http["response_last_ns"]
    assert http["response_last_ns"] <= head["time_ns"]
    assert programs.counts()[COUNT.HTTP_REQUESTS] == 1


def test_keep_alive(programs: MessagePrograms) -> None:
    talk = Conversation(programs)
    expected = []
    for number in range(101):
        request, response = ask(f"{number}", "A: " + "x" * number), answer(400 + number, body=CANARY * number)
        talk.send(request)
        talk.send(b"", from_client=False)
        talk.send(response, from_client=False)
        talk.send(b"")
        expected.append((b"%d" % number, 400 + number, len(request), len(response), COMPLETE))
    assert rows(told(programs)) == expected
    assert len(connections(programs)) == 1
    talk.send(b"", from_client=False, flags=FIN | ACK)
    talk.send(b"", flags=FIN | ACK)
    assert (rows(told(programs)), connections(programs)) == ([], [])


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS", "PROPFIND", "M-SEARCH", "DELETE"])
@pytest.mark.parametrize("status", [200, 204, 304, 404, 599])
def test_which_responses_have_a_body(programs: MessagePrograms, method: str, status: int) -> None:
    talk = Conversation(programs)
    has_body = method != "HEAD" and status not in (204, 304)
    response = answer(status, "Content-Length: 11", body=None) + CANARY * has_body
    for number in range(3):
        talk.send(ask(f"{number}", method=method))
        talk.send(response, from_client=False)
    assert [row[0::2] for row in rows(told(programs))] == [
        (b"%d" % number, len(ask("0", method=method)), COMPLETE) for number in range(3)
    ]


# ------------------------------------------------------------------------------------------------------------- bodies
def test_bodies_of_known_length_cost_nothing_and_what_looks_like_a_head_in_them_is_none(
    programs: MessagePrograms,
) -> None:
    talk = Conversation(programs)
    fake = (ask("fake") + answer(500)).ljust(1000, b".")
    for number in range(3):
        body = fake * 20
        request, response = ask(f"{number}", method="PUT", body=body), answer(200, body=body)
        for from_client, data in ((True, request), (False, response)):
            talk.cut(data, *range(len(data) - len(body), len(data), 1000), from_client=from_client)
        requests = told(programs)
        assert rows(requests) == [(b"%d" % number, 200, len(request), len(response), COMPLETE)]
        (http,) = requests.http
        assert http["request_first_ns"] < http["request_last_ns"] < http["response_first_ns"]
        assert http["response_first_ns"] < http["response_last_ns"]


def test_the_end_of_a_body_that_was_looked_at_is_the_end(programs: MessagePrograms) -> None:
    """Segments in a body may come in any order and twice; the last octet is that with the last number."""
    talk = Conversation(programs)
    talk.send(ask("one"))
    response = answer(200, body=CANARY * 1000)
    talk.cut(response[:2000], 200, from_client=False)
    for begin in (5000, 2000, 2000, 8000, 5000):
        talk.send(response[begin : begin + 3000], from_client=False, at=begin)
    assert len(told(programs).heads) == (len(response) <= 11000)
    talk.send(response[11000:], from_client=False, at=11000)
    assert [row[3] for row in rows(told(programs))] == [len(response)]
    talk.send(response[11000:], from_client=False, at=11000)
    assert rows(told(programs)) == []


@pytest.mark.parametrize(
    "fields", [["Transfer-Encoding: chunked"], ["tRANSFER-eNCODING:chunked", "Content-Length: 3"], []]
)
def test_a_response_whose_length_is_not_told_ends_with_the_next_request(
    programs: MessagePrograms, fields: list[str]
) -> None:
    talk = Conversation(programs)
    flags = COMPLETE | OPEN | (CHUNKED if fields else HttpFlags(0))
    for number in range(5):
        talk.send(ask(f"{number}"))
        if number:
            assert [row[0::4] for row in rows(told(programs))] == [(b"%d" % (number - 1), flags)]
        # The last chunk is there, but a trailer behind it.
        for piece in (answer(200, *fields, body=None) + b"b\r\n", CANARY, CANARY, b"\r\n0\r\nX: y\r\n\r\n"):
            talk.send(piece, from_client=False)
        assert rows(told(programs)) == []
    talk.send(b"", from_client=False, flags=FIN | ACK)
    requests = told(programs)
    length = len(answer(200, *fields, body=None)) + 3 + 22 + 13
    assert [row[1:] for row in rows(requests)] == [(200, len(ask("4")), length, flags | HttpFlags.CLOSED)]
    assert requests.http["response_first_ns"] < requests.http["response_last_ns"]


@pytest.mark.parametrize(
    "pieces",
    [
        [b"HEAD" + b"b\r\n" + CANARY + b"\r\n0\r\n\r\n"],
        [b"HEAD" + b"0\r\n\r\n"],
        [b"HEAD", b"0\r\n\r\n"],
        [b"HEAD", b"5\r\n10\r\n\r", b"\n\r\n0\r\n\r\n"],
        [b"HEAD", b"b\r\n", CANARY, b"\r\n0\r\n\r\n"],
    ],
)
def test_the_last_chunk_ends_a_response(programs: MessagePrograms, pieces: list[bytes]) -> None:
    talk = Conversation(programs)
    head = answer(200, "Transfer-Encoding: chunked", body=None)
    length = 0
    for number in range(3):
        talk.send(ask(f"{number}"))
        for piece in pieces:
            assert rows(told(programs)) == []
            octets = piece.replace(b"HEAD", head)
            talk.send(octets, from_client=False)
            length += len(octets)
        assert [row[1::2] for row in rows(told(programs))] == [(200, length)]
        length = 0


@pytest.mark.parametrize(
    "pieces",
    [
        [b"5\r\n1,10\r\n\r\n", b"b\r\n"],  # a line of numbers: what looks like the last chunk is the end of one
        [b"0\r\n", b"\r\n"],
        [b"\r\n0\r\n\r", b"\n"],
    ],
)
def test_what_is_no_last_chunk_or_comes_in_pieces_waits_for_what_is_next(
    programs: MessagePrograms, pieces: list[bytes]
) -> None:
    talk = Conversation(programs)
    talk.send(ask("1"))
    for piece in (answer(200, "Transfer-Encoding: chunked", body=None), *pieces):
        talk.send(piece, from_client=False)
    assert rows(told(programs)) == []
    talk.send(ask("2"))
    assert [row[0::4] for row in rows(told(programs))] == [(b"1", COMPLETE | OPEN | CHUNKED)]


def test_a_request_whose_length_is_not_told(programs: MessagePrograms) -> None:
    talk = Conversation(programs)
    for number in range(3):
        request = ask(f"{number}", "Transfer-Encoding: chunked", method="POST")
        for piece in (request, b"b\r\n" + CANARY, b"\r\n0\r\n\r\n"):
            talk.send(piece)
        talk.send(answer(201), from_client=False)
    assert rows(told(programs)) == [
        (b"%d" % number, 201, len(request) + 21, len(answer(201)), COMPLETE | HttpFlags.REQUEST_OPEN)
        for number in range(3)
    ]


# --------------------------------------------------------------------------------------------------------------- heads
def test_heads_cut_anywhere(programs: MessagePrograms) -> None:
    request, response = ask("cut", "X: y", method="POST", body=CANARY), answer(206, "Y: z", body=CANARY)
    for cut in [*range(32, len(request))]:
        reset(programs)
        talk = Conversation(programs)
        talk.cut(request, cut)
        talk.cut(response, min(cut, len(response) - 1), from_client=False)
        assert rows(told(programs)) == [(b"cut", 206, len(request), len(response), COMPLETE)], cut


@pytest.mark.parametrize("size", range(1, 9))
def test_heads_in_pieces_of_a_few_octets(programs: MessagePrograms, size: int) -> None:
    request, response = ask("cut", "X: y", method="POST", body=CANARY), answer(206, "Y: z", body=CANARY)
    talk = Conversation(programs)
    talk.cut(request, *range(30, len(request), size))
    talk.cut(response, *range(size, len(response), size), from_client=False)
    assert rows(told(programs)) == [(b"cut", 206, len(request), len(response), COMPLETE)]


@pytest.mark.parametrize("line", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "field", ["Content-Length: 11", "content-length:11", "CONTENT-LENGTH:   11", "CoNtEnT-LeNgTh:\t11 "]
)
def test_fields_in_any_case_and_lines_of_any_kind(programs: MessagePrograms, field: str, line: str) -> None:
    talk = Conversation(programs)
    request = line.join(["POST /any HTTP/1.0", "A:b", field, "", ""]).encode() + CANARY
    response = line.join(["HTTP/1.0 200 OK", "X-Content-Length: 99", field, "", ""]).encode() + CANARY
    talk.send(request)
    talk.send(response, from_client=False)
    assert rows(told(programs)) == [(b"any", 200, len(request), len(response), COMPLETE)]


@pytest.mark.parametrize(
    "request_", [b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.0\n\n", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"]
)
def test_the_shortest_requests(programs: MessagePrograms, request_: bytes) -> None:
    talk = Conversation(programs)
    talk.send(request_)
    talk.send(answer(200), from_client=False)
    requests = told(programs)
    assert [requests.head(index) for index in range(len(requests.heads))] == [request_]


@pytest.mark.parametrize("octets", [1000, 1023, 1024, 1025, 2000, 5000])
def test_long_heads(programs: MessagePrograms, octets: int) -> None:
    talk = Conversation(programs)
    request = ask("long", "X: ".ljust(octets - len(ask("long")) - 2, "x"))
    response = answer(200, "X: ".ljust(octets - len(answer(200)) - 2, "x"))
    assert len(request) == len(response) == octets
    for _ in range(2):
        talk.cut(request, *range(1448, octets, 1448))
        talk.cut(response, *range(1448, octets, 1448), from_client=False)
    talk.send(b"", from_client=False, flags=FIN | ACK)
    requests = told(programs)
    assert [requests.head(index) for index in range(2)] == [request[:1024]] * 2
    assert [row[1:4] for row in rows(requests)] == [(200, octets, octets)] * 2
    whole = octets <= 1024
    assert requests.http["request_head"].tolist() == [octets * whole] * 2
    assert [bool(flags & HttpFlags.REQUEST_OPEN) for flags in requests.http["flags"].tolist()] == [not whole] * 2


def test_heads_of_many_lines(programs: MessagePrograms) -> None:
    talk = Conversation(programs)
    fields = [f"{number}: {number}" for number in range(60)]
    for number in range(3):
        talk.send(ask(f"{number}", *fields))
        talk.send(answer(200, *fields), from_client=False)
    talk.send(b"", from_client=False, flags=RST)
    expected = (200, len(ask("0", *fields)), len(answer(200, *fields)))
    assert [row[:4] for row in rows(told(programs))] == [(b"%d" % number, *expected) for number in range(3)]


def test_interim_responses(programs: MessagePrograms) -> None:
    talk = Conversation(programs)
    body = CANARY * 100
    request = ask("upload", "Expect: 100-continue", method="PUT", body=body)
    for together in (False, True):
        talk.send(request[: -len(body)])
        early, late = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", answer(201)
        talk.send(b"HTTP/1.1 100 Continue\r\n\r\n", from_client=False)
        talk.send(body)
        for piece in [early + late] if together else [early, late]:
            talk.send(piece, from_client=False)
        requests = told(programs)
        assert rows(requests) == [(b"upload", 201, len(request), len(late), COMPLETE)]
        (http,) = requests.http
        assert (http["interim"], http["interims"]) == (103, 2)
        assert http["request_first_ns"] < http["request_last_ns"] < http["response_first_ns"]


# ------------------------------------------------------------------------------------------------------------- endings
@pytest.mark.parametrize(
    ("flags", "from_client", "expected"),
    [
        (RST, True, HttpFlags.CLIENT_RESET),
        (RST | ACK, False, HttpFlags.SERVER_RESET),
        (FIN | ACK, False, HttpFlags.CLOSED),
    ],
)
@pytest.mark.parametrize("sent", [0, 5, 40, 90])
def test_connections_that_end_before_the_response_does(
    programs: MessagePrograms, flags: int, sent: int, expected: HttpFlags, *, from_client: bool
) -> None:
    talk = Conversation(programs)
    response = answer(200, body=CANARY * 10)
    talk.send(ask("one"))
    if sent:
        talk.send(response[:sent], from_client=False)
    talk.send(b"", from_client=from_client, flags=flags)
    talk.send(b"", from_client=not from_client, flags=flags)
    status = 200 if sent > len(response) - 110 else 0
    assert [row[1:2] + row[3:] for row in rows(told(programs))] == [(status, sent, expected)]
    assert connections(programs) == []


def test_a_client_that_closes_its_side_is_still_answered(programs: MessagePrograms) -> None:
    talk = Conversation(programs)
    talk.send(ask("one"), flags=FIN | ACK)
    talk.send(answer(200, body=CANARY), from_client=False, flags=FIN | ACK)
    assert [row[1::3] for row in rows(told(programs))] == [(200, COMPLETE)]
    assert connections(programs) == []


def test_a_new_connection_on_the_same_ports(programs: MessagePrograms) -> None:
    for number in range(3):
        talk = Conversation(programs, opened=False)
        talk.next = {True: CLIENT_NUMBER + number * 99_991, False: SERVER_NUMBER + number * 99_991}
        talk.send(b"", flags=SYN)
        talk.send(b"", from_client=False, flags=SYN | ACK)
        talk.send(ask(f"{number}"))
        if number == 1:
            talk.send(answer(200), from_client=False)
    assert [row[:2] for row in rows(told(programs))] == [(b"0", 0), (b"1", 200)]
    assert len(connections(programs)) == 1


@pytest.mark.parametrize(
    ("request_", "status"),
    [(ask("up", "Upgrade: websocket"), 101), (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 200)],
)
def test_what_becomes_another_protocol(programs: MessagePrograms, request_: bytes, status: int) -> None:
    talk = Conversation(programs)
    talk.send(request_)
    talk.send(answer(status, body=None), from_client=False)
    assert [row[1::3] for row in rows(told(programs))] == [(status, COMPLETE | HttpFlags.HANDED_OVER)]
    for _ in range(40):
        talk.send(CANARY)
        talk.send(CANARY, from_client=False)
    assert len(programs.records().heads) == 0
    assert connections(programs) == []


def test_tls_inside_of_a_tunnel(programs: MessagePrograms) -> None:
    talk = Conversation(programs)
    talk.send(b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n")
    talk.send(answer(200, body=None), from_client=False)
    told(programs)
    hello = b"\x16\x03\x01\0\x80\1\0\0\x7c".ljust(5 + 128, b"\0")
    talk.send(hello)
    assert [segment.data for _, segment in stream_segments(programs.records())] == [hello]


# --------------------------------------------------------------------------------------------------- joined, one-sided
def test_a_connection_joined_in_the_middle(programs: MessagePrograms) -> None:
    talk = Conversation(programs, opened=False)
    talk.send(b"the end of a response", from_client=False)
    talk.send(ask("next"))
    talk.send(answer(200), from_client=False)
    assert [row[:2] for row in rows(told(programs))] == [(b"next", 200)]


def test_requests_alone(programs: MessagePrograms) -> None:
    talk = Conversation(programs, opened=False)
    talk.send(ask("0"))
    talk.send(ask("1"))
    assert programs.counts()[COUNT.HTTP_WHOLE] == 1


@pytest.mark.parametrize(
    "line",
    [b"USER /anonymous\r\n", b"INVITE sip:a@b SIP/2.0\r\n\r\n", b"CWD /pub/some/where\r\n", b"GET / ICE/1.0\r\n\r\n"],
)
def test_what_is_no_http(programs: MessagePrograms, line: bytes) -> None:
    talk = Conversation(programs)
    for _ in range(20):
        talk.send(line)
        talk.send(b"200 ok\r\n", from_client=False)
    assert len(programs.records().heads) == 0
    assert connections(programs) == []
    assert programs.counts() == {COUNT.STREAM_NOTHING: 2}


def test_connections_without_a_place_are_counted() -> None:
    with MessagePrograms(replay=0, streams=1, http=1, sizes={"messages": 1 << 20, "http_connections": 16}) as small:
        for port in range(2000, 2053):
            talk = Conversation(small, port, opened=False)
            talk.send(ask(f"{port}"))
            talk.send(answer(200), from_client=False)
        counts = small.counts()
        told_of = len(told(small).heads)
        assert 0 < told_of < 53
        assert counts[COUNT.HTTP_LOST_TABLE] == 53 - told_of


def test_every_record_is_counted() -> None:
    with MessagePrograms(replay=0, streams=1, http=1, sizes={"messages": 4096}) as small:
        talk = Conversation(small)
        for number in range(53):
            talk.send(ask(f"{number}"))
            talk.send(answer(200), from_client=False)
        counts = small.counts()
        assert counts[COUNT.HTTP_REQUESTS] == 53
        assert 0 < len(told(small).heads) == 53 - counts[COUNT.HTTP_LOST_RING]


# --------------------------------------------------------------------------------------------------------------- whole
def whole(programs: MessagePrograms) -> tuple[list[tuple[Any, ...]], dict[bool, bytes]]:
    """The requests that were told, and the octets of both directions that were handed over."""
    messages = programs.records()
    octets = {True: b"", False: b""}
    for seen, segment in stream_segments(messages):
        octets[seen.destination[16:] == (443).to_bytes(2, "big")] += segment.data
    return rows(http_messages(messages)), octets


def test_pipelining_in_one_segment(programs: MessagePrograms) -> None:
    talk = Conversation(programs)
    both, answers = ask("1") + ask("2"), [answer(200), answer(404)]
    talk.send(both)
    for each in answers:
        talk.send(each, from_client=False)
    assert whole(programs) == ([], {True: both, False: b"".join(answers)})
    assert programs.counts()[COUNT.HTTP_WHOLE] == 1
    talk.send(ask("3"))
    talk.send(b"", from_client=False, flags=FIN | ACK)
    talk.send(ask("4"))
    messages = programs.records()
    assert [segment.flags for _, segment in stream_segments(messages)] == [ACK, FIN | ACK, ACK]


def test_pipelining_in_several_segments(programs: MessagePrograms) -> None:
    talk = Conversation(programs)
    first = ask("1", method="PUT", body=CANARY * 3)
    talk.cut(first, len(first) - 5)
    talk.send(ask("2"))
    talk.send(answer(200) + answer(404), from_client=False)
    messages = programs.records()
    requests = http_messages(messages)
    assert rows(requests) == [(b"1", 0, len(first), 0, HttpFlags.WHOLE)]
    assert requests.head(0) == first[: -len(CANARY * 3)]
    assert [segment.data for _, segment in stream_segments(messages)] == [ask("2"), answer(200) + answer(404)]
    (sequence,) = requests.heads["sequence"].tolist()
    segments = [segment for _, segment in stream_segments(messages)]
    assert segments[0].sequence == sequence + len(first) & 0xFFFFFFFF


def test_a_request_before_the_response_is_over(programs: MessagePrograms) -> None:
    talk = Conversation(programs)
    response = answer(200, body=b"x" * 3000)
    talk.send(ask("1"))
    talk.send(response[:1000], from_client=False)
    talk.send(ask("2"))
    messages = programs.records()
    assert [row[:2] + row[4:] for row in rows(http_messages(messages))] == [(b"1", 200, HttpFlags(0))]
    assert [segment.data for _, segment in stream_segments(messages)] == [ask("2")]


def test_a_segment_that_is_missing_where_a_head_is_expected(programs: MessagePrograms) -> None:
    talk = Conversation(programs)
    request = ask("gap", "X: " + "y" * 300)
    talk.send(request[100:], at=100)
    assert len(programs.records().heads) == 0  # nobody knows that it is HTTP
    talk.send(request[:100], at=0)
    talk.next[True] += len(request)
    talk.send(answer(200)[5:], from_client=False, at=5)
    messages = programs.records()
    assert [segment.data for _, segment in stream_segments(messages)] == [answer(200)[5:]]
    assert [row[0::4] for row in rows(http_messages(messages))] == [(b"gap", HttpFlags.WHOLE)]


def test_what_is_handed_over_whole_is_limited(programs: MessagePrograms) -> None:
    talk = Conversation(programs)
    talk.send(ask("1") + ask("2"))
    octets = 0
    for _ in range(10):
        for _ in range(100):
            talk.send(bytes(3000), from_client=False)
        octets += len(whole(programs)[1][False])
    assert (1 << 20) - 10_000 <= octets <= 1 << 20
    assert programs.counts()[COUNT.HTTP_LOST_LIMIT] == 1


def test_an_answer_that_is_no_http(programs: MessagePrograms) -> None:
    talk = Conversation(programs)
    talk.send(ask("old"))
    talk.send(b"<html>and so on</html>", from_client=False)
    told_rows, octets = whole(programs)
    assert [row[0::4] for row in told_rows] == [(b"old", HttpFlags.WHOLE)]
    assert octets == {True: b"", False: b"<html>and so on</html>"}


# ---------------------------------------------------------------------------------------------------------------- quiet
def quiet(programs: MessagePrograms, quiet_ms: int, forget_ms: int) -> int:
    keys = connections(programs)
    run = syscalls.TestRun(programs.program("netmon_quiet"), 16 + 8 * 44)
    return int(run.run(bytes(16) + b"".join(keys).ljust(8 * 44, b"\0"), (len(keys), quiet_ms, forget_ms, 0, 0), 0))


def test_exchanges_that_are_quiet_are_told(programs: MessagePrograms) -> None:
    never = 1 << 31
    talk = Conversation(programs)
    talk.send(ask("1"))
    talk.send(answer(200, "Transfer-Encoding: chunked", body=None), from_client=False)
    assert quiet(programs, never, never) == 0
    assert rows(told(programs)) == []
    assert quiet(programs, 0, never) == 1
    assert [row[0::4] for row in rows(told(programs))] == [(b"1", OPEN | CHUNKED | HttpFlags.QUIET)]
    assert quiet(programs, 0, never) == 0
    talk.send(ask("2"))
    assert rows(told(programs)) == []
    assert quiet(programs, 0, 0) == 1
    assert [row[:2] + row[4:] for row in rows(told(programs))] == [(b"2", 0, HttpFlags.QUIET)]
    assert connections(programs) == []
    talk.send(ask("3"))
    talk.send(answer(200), from_client=False)
    assert [row[:2] for row in rows(told(programs))] == [(b"3", 200)]


def test_what_another_cpu_looks_at_meanwhile_is_not_quiet(programs: MessagePrograms) -> None:
    """It has a later time than netmon_quiet began with."""
    talk = Conversation(programs)
    talk.send(ask("1"))
    (key,) = connections(programs)
    fd, size = programs.loaded.maps["http_connections"], programs.loaded.definitions["http_connections"].value_size
    value = syscalls.map_lookup(fd, key, size)
    assert value is not None
    words = np.frombuffer(value, np.uint64).copy()
    assert 0 < time.monotonic_ns() - int(words[LAST_NS]) < 60 * 10**9
    words[LAST_NS] += np.uint64(3600 * 10**9)
    syscalls.map_update(fd, key, words.tobytes())
    assert quiet(programs, 0, 60_000) == quiet(programs, 0, 0) == 0
    talk.send(answer(404), from_client=False)
    assert [row[:2] for row in rows(told(programs))] == [(b"1", 404)]


def test_a_long_download_is_not_quiet(programs: MessagePrograms) -> None:
    talk = Conversation(programs)
    talk.send(ask("1"))
    response = answer(200, body=bytes(9000))
    for begin, end in pairwise(range(0, 9001, 3000)):
        talk.send(response[begin:end], from_client=False)
        assert quiet(programs, 0, 0) == 0
    assert quiet(programs, 0, 0) == 1
    assert [row[3:] for row in rows(told(programs))] == [(9000, HttpFlags.QUIET)]


# ------------------------------------------------------------------------------------------------------------ anything
def test_any_exchange_in_any_pieces_is_told_as_it_was(programs: MessagePrograms) -> None:
    generator = random.Random(23)  # noqa: S311 - reproducible
    for number in range(199):
        reset(programs)
        talk = Conversation(programs)
        expected = []
        for index in range(generator.randrange(1, 5)):
            size = generator.choice([0, 0, 1, 100, 5000])
            request = ask(f"{index}", *["F: " + "v" * generator.randrange(90)] * generator.randrange(4),
                          method="POST", body=b"q" * size)  # fmt: skip
            response = answer(
                200 + index, *["Set: x"] * generator.randrange(4), body=b"r" * generator.choice([0, 7, 4000])
            )
            for from_client, data in ((True, request), (False, response)):
                first = 40 if from_client else 1
                cuts = generator.sample(range(first, len(data)), min(len(data) - first, generator.randrange(4)))
                cuts = sorted({*cuts, *range(2900, len(data), 2900)})
                talk.cut(data, *cuts, from_client=from_client)
            expected.append((b"%d" % index, 200 + index, len(request), len(response), COMPLETE))
        assert rows(told(programs)) == expected, number


def test_any_octets_are_taken(programs: MessagePrograms) -> None:
    """Nothing that a client or server sends keeps the next connection from being told."""
    generator = random.Random(29)  # noqa: S311 - reproducible
    for number in range(299):
        talk = Conversation(programs, 3000 + number)
        for _ in range(4):
            for from_client, data in ((True, ask("x", "Content-Length: 5")), (False, answer(200, body=b"12345"))):
                damaged = bytearray(data * generator.randrange(1, 3))
                for _ in range(generator.randrange(4)):
                    damaged[generator.randrange(len(damaged))] = generator.choice(b"\r\n \0\xff:HTP1a")
                talk.cut(bytes(damaged), *sorted(generator.sample(range(1, len(damaged)), 2)), from_client=from_client)
        talk.send(b"", flags=RST)
    messages = programs.records()
    assert set(messages.heads["kind"].tolist()) <= {MessageKind.HTTP, MessageKind.STREAM}
    assert (http_messages(messages).lengths <= 1024).all()
    reset(programs)
    test_keep_alive(programs)


def test_columns_of_no_messages() -> None:
    nothing = Messages(np.empty(0, layout.MESSAGE), b"", np.empty(0, np.int64))
    assert len(http_messages(nothing).http) == 0

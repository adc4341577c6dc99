"""HTTP/2 in the kernel: which octets leave it, and what user space makes of them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import hpack
import pytest

from otel_netmon.abi.enums import MessageCount, MessageKind
from otel_netmon.analysis.http2 import recognisers
from otel_netmon.analysis.http_records import HttpRequest
from otel_netmon.analysis.tcp_connections import Connections
from otel_netmon.analysis.tcp_messages import stream_segments
from support import http2_frames as f
from support.frames import ACK, FIN, RST
from support.message_programs import MessagePrograms
from support.tcp_conversation import Conversation, clear

pytestmark = pytest.mark.kernel

CANARY = b"CANARY-7f3a"


@pytest.fixture(scope="module")
def programs() -> Iterator[MessagePrograms]:
    with MessagePrograms(replay=0, streams=1, http=1, sizes={"messages": 1 << 22}) as made:
        yield made


@pytest.fixture
def live(programs: MessagePrograms) -> MessagePrograms:
    return clear(programs)


def requests_of(live: MessagePrograms) -> tuple[list[HttpRequest], Counter[str]]:
    messages = live.records()
    assert set(messages.heads["kind"].tolist()) <= {MessageKind.STREAM}
    assert CANARY not in messages.data
    counts: Counter[str] = Counter()
    connections = Connections(recognisers(counts))
    records: list[Any] = []
    for each in stream_segments(messages):
        records += connections.feed(*each)
    return records + connections.finish(), counts


def told(records: list[HttpRequest]) -> list[tuple[Any, ...]]:
    return [
        (
            each.stream,
            each.method,
            each.target,
            each.status,
            each.request_body_octets,
            each.response_body_octets,
            each.outcome,
        )
        for each in records
    ]


def body(octets: int) -> bytes:
    return (CANARY * (octets // len(CANARY) + 1))[:octets]


class Sides:
    def __init__(self) -> None:
        self.client, self.server = hpack.Encoder(), hpack.Encoder()

    def request(self, stream: int, path: str, octets: int = 0, *, long: int = 0) -> bytes:
        listed = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x")]
        listed += [("x-long", "v" * long)] if long else []
        head = f.headers(stream, self.client.encode(listed), end=not octets)
        return head + (f.data(stream, body(octets), end=True) if octets else b"")

    def response(self, stream: int, status: int, octets: int = 0) -> bytes:
        head = f.headers(stream, self.server.encode([(":status", str(status)), ("x-a", "b")]), end=not octets)
        return head + (f.data(stream, body(octets), end=True) if octets else b"")


def conversation() -> tuple[bytes, bytes, list[tuple[Any, ...]]]:
    """What both sides say, and the requests in it."""
    s = Sides()
    ask = f.PREFACE + f.settings((3, 100)) + s.request(1, "/1", 3000) + f.window_update(0) + s.request(3, "/3")
    ask += s.request(5, "/5", 17, long=3000) + s.request(7, "/7", 5)
    answer = f.settings() + f.settings(ack=True) + s.response(3, 404) + s.response(1, 200, 2000) + f.ping(ack=True)
    answer += s.response(7, 204) + s.response(5, 500, 1)
    expected = [(3, "POST", "/3", 404, 0, 0, "answered"), (1, "POST", "/1", 200, 3000, 2000, "answered"),
                (7, "POST", "/7", 204, 5, 0, "answered"), (5, "POST", "/5", 500, 17, 1, "answered")]  # fmt: skip
    return ask, answer, expected


def test_bodies_stay_and_lengths_are_told(live: MessagePrograms) -> None:
    ask, answer, expected = conversation()
    talk = Conversation(live)
    talk.cut(ask, *range(3000, len(ask), 3000))
    talk.cut(answer, *range(3000, len(answer), 3000), from_client=False)
    records, counts = requests_of(live)
    assert told(records) == expected
    assert not counts


@pytest.mark.parametrize("size", [1, 2, 5, 7, 100, 1460])
def test_any_segments(live: MessagePrograms, size: int) -> None:
    """The preface comes in one; nothing else need."""
    ask, answer, expected = conversation()
    talk = Conversation(live)
    talk.cut(ask, *range(24, len(ask), size))
    talk.cut(answer, *range(size, len(answer), size), from_client=False)
    records, counts = requests_of(live)
    assert told(records) == expected
    assert not counts
    assert MessageCount.STREAM_LOST_ORDER not in live.counts()


def test_every_cut(live: MessagePrograms) -> None:
    s = Sides()
    ask = f.PREFACE + f.settings() + s.request(1, "/1", 30) + s.request(3, "/3") + s.request(5, "/5", 20)
    expected = [(1, "POST", "/1", None, 30, 0), (3, "POST", "/3", None, 0, 0), (5, "POST", "/5", None, 20, 0)]
    for cut in range(24, len(ask)):
        clear(live)
        talk = Conversation(live)
        talk.cut(ask, cut)
        records, counts = requests_of(live)
        assert [each[:6] for each in told(records)] == expected, cut
        assert not counts


def test_times_of_a_body_are_those_of_its_octets(live: MessagePrograms) -> None:
    s = Sides()
    talk = Conversation(live)
    talk.send(f.PREFACE + s.request(1, "/1"))
    answer = s.response(1, 200, 5000)
    talk.cut(answer, 1000, 2000, 3000, 4000, from_client=False)
    segments = [each for _, each in stream_segments(live.records())]
    assert len(segments) == 3  # the request; the response's head with a header; the end of the body
    assert [segment.length for segment in segments[2:]] == [5000]
    assert segments[2].data == b""
    assert segments[2].time_ns > segments[1].time_ns


def test_more_frames_than_one_run_reads(live: MessagePrograms) -> None:
    s = Sides()
    talk = Conversation(live)
    octets = f.PREFACE + b"".join(s.request(stream, f"/{stream % 3}", 3) for stream in range(1, 254, 2))
    assert 3000 < len(octets) < 3400
    talk.send(octets)
    records, counts = requests_of(live)
    assert len(records) == 127
    assert not counts
    assert MessageCount.STREAM_LOST_ORDER not in live.counts()


def test_a_missing_segment_and_the_next_frame(live: MessagePrograms) -> None:
    """Octets that are missing over a header: the next segment that begins with a frame goes on."""
    s = Sides()
    talk = Conversation(live)
    talk.send(f.PREFACE + s.request(1, "/1"))
    talk.next[True] += len(s.request(3, "/lost"))
    talk.send(s.request(5, "/5"))
    talk.send(s.response(1, 200) + s.response(5, 404), from_client=False)
    records, counts = requests_of(live)
    assert [(each[0], each[3]) for each in told(records)] == [(1, 200), (5, 404)]
    assert counts == {"gaps": 1}
    assert live.counts()[MessageCount.STREAM_LOST_ORDER] == 1


def test_retransmissions(live: MessagePrograms) -> None:
    ask, answer, expected = conversation()
    talk = Conversation(live)
    for begin, end in pairwise([0, *range(500, len(ask), 500), len(ask)]):
        talk.send(ask[begin:end])
        talk.send(ask[begin:end], at=begin)
    talk.send(answer, from_client=False)
    records, counts = requests_of(live)
    assert told(records) == expected
    assert not counts


def test_the_server_speaks_first(live: MessagePrograms) -> None:
    s = Sides()
    talk = Conversation(live)
    talk.send(f.settings(), from_client=False)
    talk.send(f.PREFACE + s.request(1, "/1"))
    talk.send(s.response(1, 200, 7), from_client=False)
    assert told(requests_of(live)[0]) == [(1, "POST", "/1", 200, 0, 7, "answered")]


def test_joined_in_the_middle(live: MessagePrograms) -> None:
    s = Sides()
    talk = Conversation(live, opened=False)
    talk.send(body(400), from_client=False)
    talk.send(s.request(101, "/101"))
    talk.send(s.response(101, 200, 3000), from_client=False)
    talk.send(s.request(103, "/103", 100))
    talk.send(s.response(103, 404), from_client=False)
    assert told(requests_of(live)[0]) == [
        (101, "POST", "/101", 200, 0, 3000, "answered"),
        (103, "POST", "/103", 404, 100, 0, "answered"),
    ]


@pytest.mark.parametrize(("flags", "outcome"), [(FIN | ACK, "no_response"), (RST, "reset")])
def test_the_end_of_a_connection(live: MessagePrograms, flags: int, outcome: str) -> None:
    s = Sides()
    talk = Conversation(live)
    talk.send(f.PREFACE + s.request(1, "/1"))
    talk.send(b"", from_client=False, flags=flags)
    assert [each[6] for each in told(requests_of(live)[0])] == [outcome]


def test_octets_that_are_no_frames(live: MessagePrograms) -> None:
    generator = random.Random(7)  # noqa: S311 - reproducible
    for _ in range(101):
        clear(live)
        talk = Conversation(live)
        talk.send(f.PREFACE + generator.randbytes(generator.randrange(200)))
        for _ in range(5):
            talk.send(generator.randbytes(generator.randrange(1, 1400)), from_client=generator.random() < 0.5)
        requests_of(live)

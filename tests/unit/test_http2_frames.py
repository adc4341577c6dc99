"""Frames of HTTP/2 over any cuts and gaps, and what a direction makes of them."""

from __future__ import annotations

from collections import Counter

import hpack
import pytest

from otel_netmon.decode.http2 import (
    BLOCK_OCTETS_MAX,
    CONTINUATIONS_MAX,
    Body,
    Direction,
    Event,
    GoAway,
    Head,
    Lost,
    Reset,
    begins_http2,
    continues_http2,
)
from otel_netmon.decode.http2_frames import HEAD_OCTETS_MAX, Frame, FrameReader, FrameType
from support import http2_frames as f

REQUEST = [(":method", "POST"), (":scheme", "http"), (":path", "/a.B/One"), (":authority", "grpc.example")]
BLOCK = hpack.Encoder().encode(REQUEST)


def direction(*, begun: bool = True) -> tuple[Direction, Counter[str]]:
    counts: Counter[str] = Counter()
    return Direction(counts, begun=begun), counts


def events_of(*parts: bytes, begun: bool = True) -> tuple[list[Event], Counter[str]]:
    """What happens in these octets, each of them a millisecond after the one before."""
    reader, counts = direction(begun=begun)
    return [event for time, part in enumerate(parts) for event in reader.feed(part, time)], counts


def paths(events: list[Event]) -> list[str | None]:
    return [event.fields.path if event.fields is not None else None for event in events if isinstance(event, Head)]


def test_frames_are_the_same_over_any_cut() -> None:
    octets = f.settings((1, 4096)) + f.headers(1, BLOCK) + f.data(1, 23, end=True) + f.reset(3) + f.window_update(0)
    whole = FrameReader().feed(octets, 7)
    assert [(each.type, each.stream, each.length) for each in whole] == [
        (4, 0, 6),
        (1, 1, len(BLOCK)),
        (0, 1, 23),
        (3, 3, 4),
        (8, 0, 4),
    ]
    assert [each.payload for each in whole] == [b"", BLOCK, b"", b"\0\0\0\x08", b""]
    for cut in range(len(octets) + 1):
        reader = FrameReader()
        assert reader.feed(octets[:cut], 7) + reader.feed(octets[cut:], 7) == whole
    reader = FrameReader()
    assert [frame for octet in octets for frame in reader.feed(bytes([octet]), 7)] == whole
    assert reader.octets == 0


def test_times_are_those_of_the_first_and_the_last_octet() -> None:
    reader = FrameReader()
    octets = f.data(1, 23, end=True)
    assert reader.feed(octets[:3], 10) == []
    assert reader.feed(octets[3:20], 20) == []
    assert reader.partial() == Frame(FrameType.DATA, f.END_STREAM, 1, 11, b"", False, 10, 20)
    (frame,) = reader.feed(octets[20:] + f.ping()[:4], 30)
    assert (frame.first_ns, frame.last_ns) == (10, 30)
    (frame,) = reader.feed(f.ping()[4:], 40)
    assert (frame.type, frame.first_ns, frame.last_ns) == (FrameType.PING, 30, 40)
    assert reader.partial() is None


def test_nothing_of_a_body_is_kept() -> None:
    reader = FrameReader()
    reader.feed(f.data(1, b"secret" * 1000)[:-1], 0)
    assert reader.octets == 0
    assert f.data(1, b"secret", pad=3)[9:10] == b"\x03"
    (frame,) = FrameReader().feed(f.data(1, b"secret", pad=3), 0)
    assert frame.payload == b"\x03"


@pytest.mark.parametrize(
    "octets",
    [
        f.frame(f.DATA, b"x"),
        f.frame(f.HEADERS, b"x"),
        f.frame(f.SETTINGS, b"", 1),
        f.frame(f.SETTINGS, b"12345"),
        f.frame(f.SETTINGS, bytes(6), 0, f.ACK),
        f.frame(f.PING, b"1234567"),
        f.frame(f.PING, b"12345678", 1),
        f.frame(f.RST_STREAM, b"123", 1),
        f.frame(f.RST_STREAM, b"1234"),
        f.frame(f.PRIORITY, b"1234", 1),
        f.frame(f.WINDOW_UPDATE, b"123", 1),
        f.frame(f.GOAWAY, b"1234567"),
        f.frame(f.GOAWAY, b"12345678", 1),
        f.frame(f.PUSH_PROMISE, b"1234"),
        f.frame(f.CONTINUATION, b"1234"),
    ],
)
def test_a_header_that_none_can_have_ends_the_reading(octets: bytes) -> None:
    reader = FrameReader()
    assert len(reader.feed(f.ping() + octets + f.ping(), 0)) == 1
    assert not reader.in_step
    assert reader.end == len(f.ping()) + 9
    events, counts = events_of(f.PREFACE + octets)
    assert events == [Lost(0)]
    assert counts["illegal_frames"] == 1


def test_unknown_frames_are_passed_over() -> None:
    grease = f.frame(0x2F, b"1234567", 0, 0xFF) + f.frame(0xFF, b"", 5)
    events, counts = events_of(f.PREFACE + f.settings() + grease + f.headers(1, BLOCK, end=True) + grease)
    assert paths(events) == ["/a.B/One"]
    assert not counts


@pytest.mark.parametrize("pad", [None, 0, 1, 255])
@pytest.mark.parametrize("priority", [None, b"\x80\0\0\3\x10"])
def test_padding_and_priority(pad: int | None, priority: bytes | None) -> None:
    events, _ = events_of(
        f.PREFACE + f.headers(1, BLOCK, pad=pad, priority=priority) + f.data(1, 23, end=True, pad=pad)
    )
    assert paths(events) == ["/a.B/One"]
    assert events[1] == Body(1, 23, True, 0, 0)


def test_padding_longer_than_the_frame() -> None:
    for octets in (
        f.frame(f.HEADERS, b"\x05" + b"abcd", 1, f.PADDED | f.END_HEADERS),
        f.frame(f.HEADERS, b"", 1, f.PADDED | f.END_HEADERS),
        f.frame(f.HEADERS, b"\0\0\0\0", 1, f.WITH_PRIORITY | f.END_HEADERS),
    ):
        events, counts = events_of(f.PREFACE + octets)
        assert events == [Head(1, None, False, 0, 0)]
        assert counts == {"broken_blocks": 1}
    events, _ = events_of(f.frame(f.DATA, b"\xff", 1, f.PADDED) + f.frame(f.DATA, b"", 1, f.PADDED))
    assert events == [Body(1, 0, False, 0, 0), Body(1, 0, False, 0, 0)]


@pytest.mark.parametrize("pieces", [1, 2, 5, len(BLOCK)])
def test_continuation(pieces: int) -> None:
    size = -(-len(BLOCK) // pieces)
    parts = [BLOCK[at : at + size] for at in range(0, len(BLOCK), size)] + [b""]
    octets = f.headers(1, parts[0], end=True, complete=False, pad=7)
    octets += b"".join(f.continuation(1, part, complete=False) for part in parts[1:-1]) + f.continuation(1, parts[-1])
    for cut in range(len(octets)):
        events, counts = events_of(f.PREFACE, octets[:cut], octets[cut:])
        assert paths(events) == ["/a.B/One"]
        assert [(each.ends_stream, each.last_ns) for each in events if isinstance(each, Head)] == [(True, 2)]
        assert not counts


@pytest.mark.parametrize(
    "between", [f.data(1, 5), f.headers(3, BLOCK), f.ping(), f.continuation(3, BLOCK), f.frame(0x2F)]
)
def test_nothing_may_stand_inside_a_header_block(between: bytes) -> None:
    events, counts = events_of(f.PREFACE + f.headers(1, BLOCK, complete=False) + between)
    assert events[0] == Head(1, None, False, 0, 0)
    assert counts == {"broken_blocks": 1}


def test_a_flood_of_continuation_is_bounded() -> None:
    reader, counts = direction()
    reader.feed(f.PREFACE + f.headers(1, BLOCK, complete=False), 0)
    for _ in range(CONTINUATIONS_MAX + 1):
        assert reader.feed(f.continuation(1, b"", complete=False), 0) == []
    assert reader.octets == 0
    assert reader.feed(f.continuation(1, b""), 1) == [Head(1, None, False, 0, 1)]
    reader.feed(f.headers(3, BLOCK, complete=False), 0)
    for _ in range(100):
        reader.feed(f.continuation(3, bytes(16384), complete=False), 0)
        assert reader.octets <= BLOCK_OCTETS_MAX
    assert reader.feed(f.continuation(3, b""), 2) == [Head(3, None, False, 0, 2)]
    assert counts == {"long_blocks": 2}


def test_a_head_longer_than_the_limit() -> None:
    reader, counts = direction()
    octets = f.headers(1, bytes(HEAD_OCTETS_MAX + 1))
    for at in range(0, len(octets), 1000):
        reader.feed(octets[at : at + 1000], 0)
        assert reader.octets <= HEAD_OCTETS_MAX
    assert paths(reader.feed(f.headers(3, BLOCK), 0)) == ["/a.B/One"]
    assert counts == {"long_blocks": 1}


def test_16_mib_of_body_in_one_frame() -> None:
    reader, _ = direction()
    reader.feed(f.PREFACE + f.frame(f.DATA, b"", 1, f.END_STREAM, (1 << 24) - 1), 0)
    for _ in range(255):
        assert reader.feed(bytes(1 << 16), 0) == []
    assert reader.feed(bytes((1 << 16) - 1) + f.reset(1), 1) == [Body(1, (1 << 24) - 1, True, 0, 1), Reset(1, 8, 1)]


def test_reset_and_goaway() -> None:
    events, _ = events_of(f.PREFACE + f.reset(5, 0xDEADBEEF) + f.goaway(7, 11, b"debug data"))
    assert events == [Reset(5, 0xDEADBEEF, 0), GoAway(7, 11, 0)]


def test_a_gap_inside_a_body_is_none() -> None:
    octets = f.data(1, 1000, end=True)
    for cut in (9, 10, 500, 1008):
        reader, counts = direction()
        reader.feed(octets[:cut], 0)
        assert reader.gap(len(octets) - cut, 5) == [Body(1, 1000, True, 0, 5)]
        assert paths(reader.feed(f.headers(3, BLOCK), 6)) == ["/a.B/One"]
        assert not counts


def test_a_gap_inside_a_head_loses_this_block_and_the_table() -> None:
    encoder = hpack.Encoder()
    first, second = encoder.encode(REQUEST), encoder.encode(REQUEST)
    reader, counts = direction()
    reader.feed(f.headers(1, first), 0)
    octets = f.headers(3, second)
    assert reader.feed(octets[:-2], 1) == []
    assert reader.gap(2, 2) == [Head(3, None, False, 1, 2)]
    (event,) = reader.feed(f.headers(5, second), 3)
    assert isinstance(event, Head)
    assert event.fields is not None
    assert (event.fields.method, event.fields.path, event.fields.unknown) == ("POST", None, 2)
    assert counts == {"lost_blocks": 1}


def test_a_gap_over_frames_is_a_loss_and_the_next_frame_is_found() -> None:
    for octets in (5, 9 + 23 + 1):
        reader, counts = direction()
        assert reader.feed(f.headers(1, BLOCK) + f.data(1, 23)[:4], 0) == paths_event("/a.B/One")
        assert reader.gap(octets, 1) == [Lost(1)]
        assert counts == {"gaps": 1}
        assert paths(reader.feed(f.headers(3, BLOCK), 2)) == ["/a.B/One"]
        assert counts == {"gaps": 1}


def paths_event(path: str) -> list[Event]:
    events, _ = events_of(f.headers(1, BLOCK))
    assert paths(events) == [path]
    return events


def test_a_gap_while_searching() -> None:
    reader, counts = direction(begun=False)
    assert reader.feed(b"\xff" * 100, 0) == []
    assert reader.gap(50, 0) == []
    assert paths(reader.feed(f.headers(3, BLOCK), 2)) == ["/a.B/One"]
    assert counts == {"skipped_octets": 100}


def test_the_step_is_found_inside_a_segment() -> None:
    """A connection joined in the middle of a body: the next head follows it in the same segment."""
    body = b"some text of a body, 0\r\n" * 20
    reader, counts = direction(begun=False)
    assert reader.feed(body, 0) == []
    events = reader.feed(body[:101] + f.headers(9, BLOCK, end=True) + f.headers(11, BLOCK)[:15], 1)
    assert paths(events) == ["/a.B/One"]
    assert paths(reader.feed(f.headers(11, BLOCK)[15:], 2)) == ["/a.B/One"]
    assert counts == {"skipped_octets": len(body) + 101}


def test_the_step_is_found_over_a_cut() -> None:
    head = f.headers(9, BLOCK, end=True)
    for cut in range(1, len(head)):
        reader, counts = direction(begun=False)
        assert reader.feed(b"body" * 5, 0) == []
        assert reader.feed(b"body" * 5 + head[:cut], 1) == []
        assert paths(reader.feed(head[cut:], 2)) == ["/a.B/One"], cut
        assert counts == {"skipped_octets": 40}


def test_what_is_searched_is_bounded() -> None:
    reader, _ = direction(begun=False)
    for octets in (
        b"\xff" * 1460,
        bytes(1460),
        b"\0\0\2\0\0\0\0\0\1\xff" * 140,
        f.frame(f.DATA, b"", 1, 0, 16384) + b"\xff" * 1400,
    ):
        for _ in range(50):
            reader.feed(octets, 0)  # some of it may look like frames
            assert reader.octets <= 2 * (1 << 14)


def test_a_search_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever writes what looks like one head behind the other makes no more work than a few of them."""
    block = f.literal(b"x", b"y" * 60, index=False) * 60  # no head: without pseudo-header fields
    octets = b"\xff" + b"".join(f.headers(stream, block) for stream in range(1, 200, 2))
    tried: list[bytes] = []
    monkeypatch.setattr("otel_netmon.decode.http2.continues_http2", tried.append)
    reader, _ = direction(begun=False)
    for number in range(1, 5):
        assert reader.feed(octets, 0) == []
        assert 0 < len(tried) <= 16 * number
    assert continues_http2(f.headers(1, block)) is None
    assert continues_http2(f.headers(1, f.indexed(2) + block)) is True
    assert continues_http2(f.headers(1, f.indexed(2) + block * 2)) is None  # too long to try


def test_after_an_illegal_frame_the_next_is_found() -> None:
    reader, counts = direction()
    assert reader.feed(f.PREFACE + f.frame(f.PING, b"1") + b"garbage", 0) == [Lost(0)]
    assert paths(reader.feed(f.headers(3, BLOCK), 1)) == ["/a.B/One"]
    assert counts == {"illegal_frames": 1, "skipped_octets": 8}


# --------------------------------------------------------------------------------------------------------- recognition
def test_the_preface() -> None:
    assert begins_http2(b"") is None
    for cut in range(1, len(f.PREFACE)):
        assert begins_http2(f.PREFACE[:cut]) is (True if cut >= 14 else None)
        assert begins_http2(f.PREFACE[:cut] + b"X") is False
    assert begins_http2(f.PREFACE) is True
    assert begins_http2(f.PREFACE + f.settings()) is True
    assert begins_http2(b"PRI * HTTP/1.1\r\nHost: x\r\n\r\n") is False


RESPONSE = hpack.Encoder().encode([(":status", "200"), ("content-type", "application/grpc")])


@pytest.mark.parametrize(
    "octets",
    [
        f.settings(),
        f.settings(ack=True),
        f.settings((3, 100), (4, 65535)),
        f.ping(ack=True),
        f.goaway(7),
        f.window_update(0, 5),
        f.window_update(7, 5) + f.reset(5),
        f.data(1, 5) + f.data(1, 0) + f.data(3, 5) + f.data(1, 6),
        f.headers(928401, BLOCK),
        f.headers(928401, RESPONSE, pad=3, priority=bytes(5)),
        f.headers(7, BLOCK) + f.data(7, 5, end=True)[:11],
        f.window_update(7, 5) + f.data(1, 23),
        f.ping() + f.frame(0x2F, b"grease"),
    ],
)
def test_frames_of_a_connection_joined_in_the_middle(octets: bytes) -> None:
    assert continues_http2(octets) is True
    for cut in range(len(octets)):
        assert continues_http2(octets[:cut]) is not False, cut


@pytest.mark.parametrize(
    "octets",
    [
        b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        bytes(64),
        b"\xff" * 64,
        f.data(1, 0) + b"more",
        f.window_update(0, 0),
        f.reset(3, 0x41424344),
        f.settings((0x4142, 1)),
        f.frame(f.HEADERS, b"\xff" * 30, 5, f.END_HEADERS),
        f.frame(f.HEADERS, b"\x00\x7fshort", 5, f.END_HEADERS),
        f.frame(f.HEADERS, b"\x05", 5, f.END_HEADERS | f.PADDED),
        f.frame(f.HEADERS, BLOCK, 5, 0xD2),
        f.continuation(5, BLOCK) + b"\xff",
        f.frame(0x2F, b"grease"),
        f.frame(f.DATA, bytes(16385), 1),
        # lengths before messages, as in Kafka, MySQL, PostgreSQL, DNS over TCP, MongoDB
        b"\0\0\4\3\0\0\0\0\x08\0\0\0\1\0\5abcde" + bytes(1000),
        b"\x4a\0\0\0\x0a8.0.36\0" + bytes(60),
        b"\0\0\0\x54\0\3\0\0user\0postgres\0database\0postgres\0\0",
        b"\0\x1d\x12\x34\1\0\0\1\0\0\0\0\0\0\7example\3com\0\0\1\0\1",
        b"\x3f\0\0\0\1\0\0\0\0\0\0\0\xd4\7\0\0" + bytes(60),
    ],
)
def test_what_is_no_http2(octets: bytes) -> None:
    assert continues_http2(octets) is False


def test_too_little_to_tell() -> None:
    for octets in (
        b"",
        b"\0",
        f.data(1, 1000),
        f.data(1, 1000) + f.data(1, 5),
        f.window_update(7),
        f.headers(1, BLOCK, complete=False),
    ):
        assert continues_http2(octets) is None

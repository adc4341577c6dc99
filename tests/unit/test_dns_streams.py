"""Segments to messages: every order, every cut, every place to begin."""

from __future__ import annotations

from itertools import pairwise, permutations

import pytest

from otel_netmon.abi.enums import Direction, TcpFlags
from otel_netmon.analysis.dns_lookups import Seen
from otel_netmon.analysis.dns_stream import Stream, StreamMessage
from otel_netmon.analysis.dns_streams import IDLE_NS, Streams
from otel_netmon.analysis.tcp_stream import GAP_NS, Segment
from support import dns_messages as d

SECOND = 1_000_000_000
START = 0xFFFFFFF0  # sequence numbers wrap within every test
QUERIES = [d.query(1, "one.example"), d.query(2, "second.example"), d.query(3, "t.example")]


def prefixed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


STREAM = b"".join(map(prefixed, QUERIES))


def segment(
    offset: int, data: bytes, *, time_ns: int = SECOND, flags: int = TcpFlags.ACK, length: int | None = None
) -> Segment:
    return Segment(time_ns, (START + offset) & 0xFFFFFFFF, None, flags, len(data) if length is None else length, data)


SYN = segment(0, b"", flags=TcpFlags.SYN)


def read(*segments: Segment, begin: bool = True) -> list[bytes]:
    stream = Stream()
    found: list[bytes] = []
    for each in (SYN, *segments) if begin else segments:
        found += [message.data for message in stream.feed(each)]
    return found


def pieces(*cuts: int) -> list[Segment]:
    """The stream, cut at these offsets, each piece a nanosecond later than the one before."""
    edges = [0, *cuts, len(STREAM)]
    return [
        segment(begin, STREAM[begin:end], time_ns=SECOND + number)
        for number, (begin, end) in enumerate(pairwise(edges))
    ]


@pytest.mark.parametrize("begin", [True, False])
def test_several_messages_in_a_segment(*, begin: bool) -> None:
    assert read(*pieces(), begin=begin) == QUERIES


@pytest.mark.parametrize("begin", [True, False])
@pytest.mark.parametrize("cut", range(1, len(STREAM)))
def test_every_cut(cut: int, *, begin: bool) -> None:
    assert read(*pieces(cut), begin=begin) == QUERIES


@pytest.mark.parametrize("begin", [True, False])
def test_octet_by_octet(*, begin: bool) -> None:
    assert read(*pieces(*range(1, len(STREAM))), begin=begin) == QUERIES


def test_every_order_of_five_segments() -> None:
    for order in permutations(pieces(1, 14, 31, 60)):
        assert read(*order) == QUERIES


def test_retransmissions_count_once() -> None:
    made = pieces(10, 40)
    assert read(*made, *made) == QUERIES
    assert read(made[2], made[2], made[0], made[0], made[1]) == QUERIES
    overlapping = (
        segment(0, STREAM[:20]),
        segment(10, STREAM[10:50]),
        segment(0, STREAM[:70]),
        segment(45, STREAM[45:]),
    )
    assert read(*overlapping) == QUERIES


def test_the_time_of_a_message_is_when_its_last_octet_could_be_read() -> None:
    stream = Stream()
    stream.feed(SYN)
    first, second, third = (
        segment(begin, STREAM[begin:end], time_ns=time_ns)
        for begin, end, time_ns in ((0, 10, 5), (10, 40, 9), (40, len(STREAM), 7))
    )
    assert stream.feed(first) == stream.feed(third) == []
    assert [message.time_ns for message in stream.feed(second)] == [9, 9, 9]


@pytest.mark.parametrize("flags", [TcpFlags.SYN, TcpFlags.SYN | TcpFlags.ACK])
def test_data_with_the_syn(flags: int) -> None:
    """TCP Fast Open: the kernel's sequence is that of the first octet."""
    assert read(segment(0, STREAM, flags=flags), SYN, segment(0, STREAM), begin=False) == QUERIES


def test_the_ports_are_used_again() -> None:
    again = [each._replace(sequence=each.sequence + 7777 & 0xFFFFFFFF) for each in (SYN, *pieces())]
    assert read(*pieces(30)[:1], *again) == QUERIES
    far = [each._replace(sequence=each.sequence + 0x70000000 & 0xFFFFFFFF) for each in pieces()]
    assert read(*pieces(30)[:1], *far) == QUERIES


def test_a_begin_in_the_middle_of_a_message() -> None:
    stream = Stream()
    rest = prefixed(QUERIES[0])[9:]
    assert stream.feed(segment(0, rest)) == []
    assert (stream.skipped, stream.octets) == (len(rest), 0)
    assert [each.data for each in stream.feed(segment(len(rest), STREAM))] == QUERIES
    # A segment of the rest and more: the messages behind it in the same segment are not found, those of the next are.
    assert read(segment(0, rest + STREAM), segment(len(rest + STREAM), STREAM), begin=False) == QUERIES


def test_the_first_two_segments_in_the_other_order() -> None:
    first, second = segment(0, prefixed(QUERIES[0])), segment(len(QUERIES[0]) + 2, prefixed(QUERIES[1]))
    assert read(second, first, first, second, begin=False) == [QUERIES[1], QUERIES[0]]


def test_a_prefix_that_is_none_ends_the_reading_of_a_segment() -> None:
    stream = Stream()
    stream.feed(SYN)
    assert stream.feed(segment(0, b"\0\x0b" + bytes(11))) == []
    assert stream.skipped == 13
    assert [each.data for each in stream.feed(segment(13, STREAM))] == QUERIES


def test_no_message_is_found_in_other_protocols() -> None:
    for data in (b"GET / HTTP/1.1\r\nHost: example\r\n\r\n", bytes(64), b"\x16\x03\x01\x02\x00" + bytes(range(200))):
        stream = Stream()
        assert stream.feed(segment(0, data)) == []
        assert stream.octets == 0


def test_64_kib() -> None:
    largest = d.response(7, "big.example", *[d.record(d.pointer(12), d.TXT, b"\xff" + b"x" * 255)] * 244)
    largest += bytes(65535 - len(largest))
    octets = prefixed(largest) + STREAM
    cuts = [*range(0, len(octets), 1448), len(octets)]
    made = [segment(begin, octets[begin:end]) for begin, end in pairwise(cuts)]
    assert read(*made) == [largest, *QUERIES]
    assert read(*made[1::2][:20], *made[0::2], *made[1::2][20:]) == [largest, *QUERIES]


def test_what_was_not_captured_of_a_message_is_passed_over() -> None:
    large = d.response(7, "large.example", *[d.address("192.0.2.1")] * 500)
    octets = prefixed(large)
    stream = Stream()
    stream.feed(SYN)
    assert stream.feed(segment(0, octets[:4096], length=6000)) == [StreamMessage(SECOND, len(large), large[:4094])]
    assert stream.feed(segment(6000, octets[6000:])) == []
    assert stream.gaps == 1
    assert [each.data for each in stream.feed(segment(len(octets), STREAM))] == QUERIES


def test_what_was_not_captured_of_a_rest_is_passed_over() -> None:
    large = d.response(7, "large.example", *[d.address("192.0.2.1")] * 500)
    octets = prefixed(large)
    first, second = segment(0, octets[:3000], length=4000), segment(4000, octets[4000:4100], length=len(octets) - 4000)
    third = segment(len(octets), STREAM)
    assert read(first, second, third) == [large[:2998], *QUERIES]
    assert read(first, third, second) == [large[:2998], *QUERIES]


@pytest.mark.parametrize("captured", [0, 1, 2, 13])
def test_without_a_header_there_is_no_message(captured: int) -> None:
    octets = prefixed(QUERIES[0])
    behind = segment(len(octets), STREAM)
    assert read(segment(0, octets[:captured], length=len(octets)), behind) == QUERIES


def test_a_gap_over_the_end_of_a_message() -> None:
    """Where the next message begins is not known; the next segment that begins with one tells."""
    stream = Stream()
    stream.feed(SYN)
    (told,) = stream.feed(segment(0, STREAM[:20], length=len(STREAM)))
    assert told == StreamMessage(SECOND, len(QUERIES[0]), STREAM[2:20])
    assert stream.feed(segment(len(STREAM), STREAM[9:])) == []
    assert [each.data for each in stream.feed(segment(2 * len(STREAM) - 9, STREAM))] == QUERIES


def test_a_gap_is_given_up() -> None:
    octets = STREAM * 3
    stream = Stream()
    stream.feed(SYN)
    assert len(stream.feed(segment(0, octets[:20]))) == 0
    assert stream.feed(segment(len(STREAM), octets[len(STREAM) :], time_ns=5 * SECOND)) == []
    assert stream.advance(5 * SECOND + GAP_NS - 1) == []
    told = stream.advance(5 * SECOND + GAP_NS)
    assert [each.data for each in told] == [STREAM[2:20], *QUERIES, *QUERIES]
    assert stream.octets == 0
    assert stream.feed(segment(20, octets[20 : len(STREAM)])) == []


def test_what_waits_is_bounded() -> None:
    stream = Stream()
    stream.feed(SYN)
    behind = [segment(100 + 2 * number, b"\xff") for number in range(100)]
    for each in behind:
        stream.feed(each)
        assert stream.octets <= 65
    stream = Stream()
    stream.feed(SYN)
    for number in range(64):
        stream.feed(segment(100 + 60_000 * number, bytes(60_000)))
        assert stream.octets <= (1 << 17) + 60_000


CLIENT, SERVER = bytes(15) + b"\1\x80\0", bytes(15) + b"\2\0\x35"


def key(number: int = 0) -> Seen:
    return Seen(0, 2 + number, Direction.RECEIVE, 0, 0, CLIENT, SERVER)


def test_streams_are_apart() -> None:
    streams = Streams()
    first, second = pieces(20)
    for each in (key(0), key(1), key()._replace(namespace=1), key()._replace(source=SERVER, destination=CLIENT)):
        streams.feed(each, SYN)
        assert streams.feed(each, first) == []
    assert streams.octets == 4 * 20
    assert [each.data for each in streams.feed(key(1), second)] == QUERIES
    assert streams.octets == 3 * 20
    assert len(streams) == 4


def test_what_an_interface_gives_back_to_itself_is_no_other_stream() -> None:
    streams = Streams()
    out = key()._replace(direction=Direction.TRANSMIT)
    for each in (SYN, *pieces(20)):
        found = streams.feed(out, each)
        assert streams.feed(key(), each) == []
    assert [each.data for each in found] == QUERIES


def test_ends_of_unknown_connections_make_no_stream() -> None:
    streams = Streams()
    for flags in (TcpFlags.FIN, TcpFlags.RST, TcpFlags.ACK):
        assert streams.feed(key(), segment(0, b"", flags=flags)) == []
    assert len(streams) == 0


def test_the_streams_are_bounded_in_number() -> None:
    streams = Streams(streams_max=7)
    for number in range(23):
        streams.feed(key(number), SYN)
        streams.feed(key(0), segment(0, b"", flags=TcpFlags.ACK))
    assert len(streams) == 7
    assert streams.counts["evicted_streams"] == 16
    assert streams.evicted() == [key(number) for number in range(1, 17)]
    assert streams.evicted() == []


def test_the_streams_are_bounded_in_octets() -> None:
    streams = Streams(octets_max=50)
    for number in range(3):
        streams.feed(key(number), SYN)
    for number in range(3):
        streams.feed(key(number), segment(0, STREAM[:20]))
        assert streams.octets == (20, 40, 40)[number]
    assert streams.evicted() == [key(0)]
    assert len(streams) == 2
    assert [each.data for each in streams.feed(key(1), segment(20, STREAM[20:]))] == QUERIES


def test_time_gives_gaps_up_and_forgets_silent_streams() -> None:
    streams = Streams()
    streams.feed(key(), SYN)
    streams.feed(key(1), SYN)
    streams.feed(key(), segment(len(STREAM), STREAM))
    assert list(streams.advance(SECOND + GAP_NS - 1)) == []
    assert [(seen, each.data) for seen, each in streams.advance(SECOND + GAP_NS)] == [(key(), each) for each in QUERIES]
    assert streams.counts["gaps"] == 1
    assert list(streams.advance(SECOND + IDLE_NS - 1)) == []
    assert len(streams) == 2
    assert list(streams.advance(SECOND + IDLE_NS)) == []
    assert (len(streams), streams.octets) == (0, 0)
    assert streams.evicted() == []

"""Segments to octets in order: every order, every cut, every place to begin, and what is missing is told."""

from __future__ import annotations

from itertools import permutations

import pytest

from otel_netmon.analysis.tcp_stream import ACK, FIN, GAP_NS, RST, SYN, Piece, Segment, TcpStream

START = 0xFFFFFFF8  # sequence numbers wrap within every test
OCTETS = bytes(range(48))


def segment(begin: int, end: int, flags: int = ACK, *, time_ns: int = 0, captured: int | None = None) -> Segment:
    data = OCTETS[begin:end] if captured is None else OCTETS[begin : begin + captured]
    return Segment(time_ns, START + begin & 0xFFFFFFFF, None, flags, end - begin, data)


def opened() -> TcpStream:
    stream = TcpStream()
    assert stream.feed(segment(0, 0, SYN)) == []
    return stream


def read(stream: TcpStream, *segments: Segment) -> list[bytes | int | str]:
    """Octets that follow one another joined; a gap as its length; an end as its kind."""
    found: list[bytes | int | str] = []
    for each in segments:
        for piece in stream.feed(each):
            if piece.data and found and isinstance(last := found[-1], bytes):
                found[-1] = last + piece.data
            else:
                found.append(piece.data or piece.gap or piece.end)
    return found


@pytest.mark.parametrize("cut", range(1, len(OCTETS)))
def test_every_cut(cut: int) -> None:
    assert read(opened(), segment(0, cut), segment(cut, 48)) == [OCTETS]
    assert read(opened(), segment(cut, 48), segment(0, cut)) == [OCTETS]


@pytest.mark.parametrize("order", list(permutations([(0, 11), (11, 23), (23, 37), (37, 48)])))
def test_every_order_of_four(order: tuple[tuple[int, int], ...]) -> None:
    stream = opened()
    assert read(stream, *[segment(*each) for each in order]) == [OCTETS]
    assert (stream.octets, stream.waits) == (0, False)


@pytest.mark.parametrize("order", list(permutations([(0, 17), (13, 31), (29, 48), (5, 37)])))
def test_overlaps_come_once(order: tuple[tuple[int, int], ...]) -> None:
    assert read(opened(), *[segment(*each) for each in order]) == [OCTETS]


def test_repeated_segments_and_a_repeated_syn_come_once() -> None:
    again = [segment(0, 0, SYN), segment(0, 20), segment(0, 0, SYN), segment(0, 20), segment(20, 48), segment(3, 48)]
    assert read(opened(), *again) == [OCTETS]


def test_data_in_a_syn() -> None:
    stream = TcpStream()
    assert read(stream, segment(0, 20, SYN), segment(0, 20, SYN), segment(0, 48)) == [OCTETS]
    assert stream.has_begun


def test_what_was_not_captured_is_told() -> None:
    assert read(opened(), segment(0, 20, captured=7), segment(20, 48)) == [OCTETS[:7], 13, OCTETS[20:]]
    assert read(opened(), segment(0, 20, captured=0), segment(20, 48)) == [20, OCTETS[20:]]


def test_a_gap_is_given_up_when_the_other_side_has_what_lies_in_it() -> None:
    stream = opened()
    assert read(stream, segment(0, 10), segment(20, 30), segment(35, 48)) == [OCTETS[:10]]
    assert stream.acknowledged(START + 10 & 0xFFFFFFFF) == []
    assert stream.acknowledged(START + 19 & 0xFFFFFFFF) == []
    assert stream.acknowledged(START + 30 & 0xFFFFFFFF) == [Piece(0, gap=10), Piece(0, OCTETS[20:30])]
    assert stream.acknowledged(START + 48 & 0xFFFFFFFF) == [Piece(0, gap=5), Piece(0, OCTETS[35:])]


def test_a_gap_is_given_up_in_time() -> None:
    stream = opened()
    assert read(stream, segment(20, 30, time_ns=5), segment(40, 48, time_ns=7)) == []
    assert stream.advance(4 + GAP_NS) == []
    assert stream.advance(5 + GAP_NS) == [Piece(5, gap=20), Piece(5, OCTETS[20:30])]
    assert stream.finish() == [Piece(7, gap=10), Piece(7, OCTETS[40:])]


def test_what_waits_is_bounded_in_segments_and_octets() -> None:
    stream = opened()
    for number in range(1, 1025):
        assert stream.feed(Segment(0, START + 2 * number & 0xFFFFFFFF, None, ACK, 1, b"x")) == []
    assert stream.octets == 1024
    found = stream.feed(Segment(0, START + 2 * 1025 & 0xFFFFFFFF, None, ACK, 1, b"x"))
    assert found == [Piece(0, gap=2), Piece(0, b"x")]
    stream = opened()
    large = bytes(60_000)
    given = 0
    for number in range(40):
        at = START + 1 + number * len(large) & 0xFFFFFFFF
        given += sum(len(piece.data) for piece in stream.feed(Segment(0, at, None, ACK, len(large), large)))
        assert stream.octets <= 1 << 20
    assert given == 40 * len(large)


def test_octets_are_told_when_they_can_be_read() -> None:
    stream = opened()
    assert stream.feed(segment(10, 48, time_ns=3)) == []
    assert stream.feed(segment(0, 10, time_ns=8)) == [Piece(8, OCTETS[:10]), Piece(8, OCTETS[10:])]


def test_the_end_waits_for_what_is_before_it() -> None:
    stream = opened()
    assert read(stream, segment(20, 48, FIN | ACK), segment(48, 48, FIN | ACK)) == []
    assert read(stream, segment(0, 20)) == [OCTETS, "fin"]
    assert read(stream, segment(40, 48, FIN | ACK), segment(48, 48, FIN | ACK)) == []


def test_an_end_of_which_all_before_is_missing() -> None:
    stream = opened()
    assert read(stream, segment(0, 20), segment(48, 48, FIN | ACK)) == [OCTETS[:20]]
    assert stream.waits
    assert stream.finish() == [Piece(0, gap=28), Piece(0, end="fin")]


def test_nothing_follows_the_end() -> None:
    assert read(opened(), segment(0, 20, FIN | ACK), segment(20, 48)) == [OCTETS[:20], "fin"]
    assert read(opened(), segment(20, 20, FIN | ACK), segment(20, 48), segment(0, 48)) == [OCTETS[:20], "fin"]


def test_a_reset_ends_at_once_and_its_payload_is_no_data() -> None:
    stream = opened()
    reset = Segment(9, START + 40 & 0xFFFFFFFF, None, RST, 8, b"go away!")
    assert read(stream, segment(0, 20), segment(30, 40), reset) == [OCTETS[:20], 10, OCTETS[30:40], "reset"]
    assert read(stream, reset, segment(40, 48)) == []


def test_a_reset_from_nowhere_is_none() -> None:
    blind = Segment(9, START + (1 << 30) & 0xFFFFFFFF, None, RST, 0, b"")
    assert read(opened(), segment(0, 20), blind, segment(20, 48)) == [OCTETS]


def test_the_reset_that_answers_a_syn_has_number_0() -> None:
    stream = TcpStream()
    assert read(stream, Segment(9, 0, None, RST | ACK, 0, b"")) == ["reset"]


def test_joined_in_the_middle() -> None:
    stream = TcpStream()
    assert read(stream, segment(7, 20), segment(20, 48)) == [OCTETS[7:]]
    assert (stream.is_known, stream.has_begun) == (True, False)


def test_joined_in_the_middle_of_two_swapped_segments() -> None:
    stream = TcpStream()
    assert stream.feed(segment(20, 48)) == [Piece(0, OCTETS[20:])]
    assert stream.feed(segment(9, 20)) == [Piece(0, OCTETS[9:20], is_before=True)]
    assert stream.feed(segment(0, 9)) == [Piece(0, OCTETS[:9], is_before=True)]
    assert stream.feed(segment(0, 9)) == []


def test_the_other_side_tells_where_one_is_joined() -> None:
    stream = TcpStream()
    stream.expect(START)
    assert read(stream, segment(20, 48), segment(0, 20)) == [OCTETS]


def test_a_keep_alive_is_nothing() -> None:
    keep_alive = Segment(0, START - 1, None, ACK, 1, b"?")
    assert read(opened(), keep_alive, segment(0, 20), segment(19, 20), segment(20, 48), keep_alive) == [OCTETS]
    stream = TcpStream()
    stream.expect(START)
    assert stream.feed(keep_alive) == []


def test_a_first_number_of_another_connection() -> None:
    stream = TcpStream()
    assert not stream.is_of_another(START)
    stream = opened()
    assert not stream.is_of_another(START)
    assert stream.is_of_another(START + 1)
    stream.skip()
    assert stream.is_of_another(START + 1)


def test_a_syn_that_comes_late_is_of_the_same_connection() -> None:
    stream = TcpStream()
    read(stream, segment(0, 20), segment(20, 40))
    assert not stream.is_of_another(START)
    assert stream.is_of_another(START + 4000 & 0xFFFFFFFF)
    assert stream.feed(segment(0, 0, SYN)) == []
    assert stream.has_begun
    assert read(stream, segment(40, 48)) == [OCTETS[40:]]


@pytest.mark.parametrize("first", [0, 20])
def test_the_kernel_tells_the_first_number_with_each_segment(first: int) -> None:
    stream = TcpStream()
    told = START + first & 0xFFFFFFFF
    segments = [segment(20, 48)._replace(first=told), segment(first, 20)._replace(first=told)]
    assert read(stream, *segments) == [OCTETS[first:]]
    assert stream.has_begun


def test_a_first_number_far_away_is_of_no_use() -> None:
    stream = TcpStream()
    assert read(stream, segment(0, 48)._replace(first=START - (1 << 25) & 0xFFFFFFFF)) == [OCTETS]
    assert not stream.has_begun


def test_what_was_skipped_is_not_waited_for() -> None:
    stream = opened()
    assert read(stream, segment(10, 20)) == []
    stream.skip()
    assert (stream.octets, stream.waits, stream.has_begun) == (0, False, False)
    assert read(stream, segment(30, 48)._replace(first=START)) == [OCTETS[30:]]
    assert not stream.has_begun


def test_another_connection_without_its_syn_is_told_by_two_segments_that_follow_one_another() -> None:
    stream = opened()
    far = START + (1 << 30)
    first = Segment(0, far & 0xFFFFFFFF, None, ACK, 10, OCTETS[:10])
    assert not stream.jumps(first)
    assert stream.feed(first) == []
    assert not stream.jumps(segment(0, 20))
    assert read(stream, segment(0, 20)) == [OCTETS[:20]]
    assert not stream.jumps(first)
    assert stream.jumps(Segment(0, far + 10 & 0xFFFFFFFF, None, ACK, 10, OCTETS[:10]))

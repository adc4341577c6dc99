"""Any octets, cut anywhere, in any order and any number of times, come out once and in order; what is missing is told."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, strategies as st

from otel_netmon.analysis.tcp_stream import ACK, FIN, SYN, Segment, TcpStream

OCTETS = bytes(number * 7 & 255 for number in range(3001))


@given(start=st.integers(0, 2**32 - 1), size=st.integers(1, len(OCTETS)), data=st.data())
def test_a_stream_comes_out_as_it_went_in(start: int, size: int, data: st.DataObject) -> None:
    octets = OCTETS[:size]
    cuts = sorted({0, size, *data.draw(st.lists(st.integers(0, size), max_size=30))})
    pieces = list(pairwise(cuts))
    again = data.draw(st.lists(st.tuples(st.integers(0, size - 1), st.integers(1, 400)), max_size=8))
    pieces += [(begin, min(begin + length, size)) for begin, length in again]
    stream = TcpStream()
    found = stream.feed(Segment(0, start, None, SYN, 0, b""))
    for begin, end in data.draw(st.permutations(pieces)):
        flags = ACK | FIN if end == size else ACK
        found += stream.feed(Segment(0, (start + begin) % 2**32, None, flags, end - begin, octets[begin:end]))
    assert b"".join(each.data for each in found) == octets
    assert [each.end for each in found if each.end] == ["fin"]
    assert not any(each.gap for each in found)
    assert (stream.octets, stream.waits) == (0, False)


@given(
    pieces=st.lists(st.tuples(st.integers(0, 2999), st.integers(1, 900), st.integers(0, 900))),
    start=st.integers(0, 2**32 - 1),
    acknowledge=st.booleans(),
)
def test_what_is_given_and_what_is_missing_are_the_whole(
    pieces: list[tuple[int, int, int]], start: int, *, acknowledge: bool
) -> None:
    """Each octet is given at its place, or is part of a gap; where two copies are cut differently either may count."""
    stream = TcpStream()
    found = stream.feed(Segment(0, start, None, SYN, 0, b""))
    highest = 0
    for begin, length, captured in pieces:
        end = min(begin + length, len(OCTETS))
        highest = max(highest, end)
        octets = OCTETS[begin : min(begin + captured, end)]
        found += stream.feed(Segment(0, (start + begin) % 2**32, None, ACK, end - begin, octets))
        if acknowledge:
            found += stream.acknowledged((start + highest) % 2**32)
    if acknowledge:
        assert not stream.waits
    found += stream.finish()
    at = 0
    for piece in found:
        if piece.data:
            assert piece.data == OCTETS[at : at + len(piece.data)]
        at += len(piece.data) + piece.gap
    assert at == highest
    assert (stream.octets, stream.waits) == (0, False)


@given(
    segments=st.lists(
        st.tuples(
            st.integers(0, 2**32 - 1),
            st.integers(0, 31),
            st.binary(max_size=300),
            st.integers(0, 70_000),
            st.booleans(),
        )
    )
)
def test_any_segments_are_taken(segments: list[tuple[int, int, bytes, int, bool]]) -> None:
    stream = TcpStream()
    for sequence, flags, octets, missing, acknowledges in segments:
        segment = Segment(0, sequence, None, flags, len(octets) + missing, octets)
        if stream.jumps(segment) or (flags & SYN and stream.is_of_another(sequence)):
            stream = TcpStream()
        stream.feed(segment)
        if acknowledges:
            stream.acknowledged(sequence)
        assert stream.octets <= 1 << 20
    stream.finish()
    assert not stream.waits

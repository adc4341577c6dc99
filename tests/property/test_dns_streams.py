"""Any messages, cut anywhere, in any order and any number of times, come out once each and in their order."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, strategies as st

from otel_netmon.abi.enums import TcpFlags
from otel_netmon.analysis.dns_stream import Stream
from otel_netmon.analysis.tcp_stream import GAP_NS, Segment
from support import dns_messages as d

QUERIES = [d.query(number, "x" * (number * 5 % 60 + 1) + ".example") for number in range(40)]
LARGE = d.response(7, "large.example", *[d.address("192.0.2.1")] * 300)
MESSAGES = st.lists(st.sampled_from([*QUERIES, LARGE]), min_size=1, max_size=8)


def prefixed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


@given(messages=MESSAGES, start=st.integers(0, 2**32 - 1), data=st.data())
def test_a_stream_comes_out_as_it_went_in(messages: list[bytes], start: int, data: st.DataObject) -> None:
    octets = b"".join(map(prefixed, messages))
    cuts = sorted({0, len(octets), *data.draw(st.lists(st.integers(0, len(octets)), max_size=30))})
    pieces = list(pairwise(cuts))
    again = data.draw(st.lists(st.tuples(st.integers(0, len(octets) - 1), st.integers(1, 400)), max_size=8))
    pieces += [(begin, min(begin + size, len(octets))) for begin, size in again]
    order = data.draw(st.permutations(pieces))
    stream = Stream()
    found = stream.feed(Segment(0, start, None, TcpFlags.SYN, 0, b""))
    for begin, end in order:
        found += stream.feed(Segment(0, (start + begin) % 2**32, None, TcpFlags.ACK, end - begin, octets[begin:end]))
    assert [each.data for each in found] == messages
    assert (stream.octets, stream.skipped, stream.gaps) == (0, 0, 0)


@given(messages=MESSAGES, data=st.data())
def test_what_is_missing_costs_only_the_messages_that_it_is_of(messages: list[bytes], data: st.DataObject) -> None:
    """Segments that are cut behind their prefix, and segments of which nothing was captured, or that were lost."""
    stream = Stream()
    found = stream.feed(Segment(0, 0, None, TcpFlags.SYN, 0, b""))
    expected, at, lost = [], 0, False
    for message in messages:
        octets = prefixed(message)
        # Behind one without its prefix, the next begins where a segment begins with a whole message.
        captured = len(octets) if lost else data.draw(st.sampled_from([len(octets), len(octets) // 2, 0]))
        lost = not captured
        if captured or data.draw(st.booleans()):
            found += stream.feed(Segment(0, at, None, TcpFlags.ACK, len(octets), octets[:captured]))
        if captured:
            expected.append(octets[2:captured])
        at += len(octets)
    found += stream.advance(GAP_NS)
    assert [each.data for each in found] == expected
    assert stream.octets == 0


@given(
    segments=st.lists(
        st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 31), st.binary(max_size=300), st.integers(0, 70_000))
    )
)
def test_any_segments_are_taken(segments: list[tuple[int, int, bytes, int]]) -> None:
    stream = Stream()
    for sequence, flags, octets, missing in segments:
        for message in stream.feed(Segment(0, sequence, None, flags, len(octets) + missing, octets)):
            assert 12 <= len(message.data) <= message.length <= 65535
        assert stream.octets <= 2 + 65535 + (1 << 17)
    stream.advance(GAP_NS)

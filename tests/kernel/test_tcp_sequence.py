"""Retransmissions, resets and roles by sequence numbers, against a second opinion in plain Python."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from otel_netmon.abi.enums import SEQUENCE_CLIENT, SEQUENCE_SERVER
from support import frames as f
from support.frames import ACK, CWR, ECE, FIN, PSH, RST, SYN, URG
from support.programs import Programs

pytestmark = pytest.mark.kernel

SPACE = 1 << 32


class Segment(NamedTuple):
    """A TCP segment of one direction; cut: the IP packet ends inside its TCP header."""

    sequence: int
    payload: int = 0
    flags: int = ACK
    cut: bool = False

    def frame(self, *, v6: bool = False) -> bytes:
        segment = f.tcp(bytes(self.payload), sequence=self.sequence, flags=self.flags, words=15 if self.cut else None)
        return f.ethernet(f.ipv6(segment, f.TCP), f.IPV6) if v6 else f.ethernet(f.ipv4(segment, f.TCP))


class Answer(NamedTuple):
    retransmits: int
    resets: int
    flags: int
    role: int


def second_opinion(segments: Sequence[Segment]) -> Answer:
    """RFC 9293 in unbounded integers: no comparison modulo 2^32 can go wrong here."""
    retransmits = resets = flags = role = 0
    initial: int | None = None
    highest: int | None = None  # the number after the last one that was used, counted without wrapping
    for segment in segments:
        flags |= segment.flags
        resets += bool(segment.flags & RST)
        if segment.cut:
            continue
        length = segment.payload + bool(segment.flags & SYN) + bool(segment.flags & FIN)
        if segment.flags & SYN and segment.sequence != initial:
            initial = segment.sequence
            role = SEQUENCE_SERVER if segment.flags & ACK else SEQUENCE_CLIENT
            highest = segment.sequence + length
            continue
        if highest is None:
            highest = segment.sequence + length
            continue
        distance = (segment.sequence - highest + SPACE // 2) % SPACE - SPACE // 2
        first = highest + distance
        if segment.flags & SYN:
            retransmits += 1
        elif length and distance < 0:
            probes = distance == -1 and (segment.payload > 1 or not segment.flags & (FIN | RST))
            retransmits += not probes
        forward = first + length - highest
        if 0 < forward < SPACE // 2 and (not segment.flags & RST or segment.flags & SYN):
            highest += forward  # numbers half of all apart cannot be compared (RFC 9293, 3.4)
    return Answer(retransmits, resets, flags, role)


@pytest.fixture(scope="module")
def tc() -> Iterator[Programs]:
    with Programs("tc_monitor", sizes={"flow_table": 16}) as programs:
        yield programs


def measured(tc: Programs, segments: Sequence[Segment], *, v6: bool = False, fast: int = 1) -> Answer:
    tc.many([segment.frame(v6=v6) for segment in segments], fast_path=fast)
    (flow,) = tc.flows().values()
    assert flow["packets"] == len(segments)
    role = flow["sequence_state"] & (SEQUENCE_CLIENT | SEQUENCE_SERVER)
    return Answer(flow["retransmits"], flow["resets"], flow["tcp_flags"], role)


OPEN = [Segment(1000, flags=SYN), Segment(1001)]
CASES = {
    "a transfer": ([*OPEN, Segment(1001, 500), Segment(1501, 500), Segment(2001, 0, FIN | ACK)], 0),
    "data again": ([*OPEN, Segment(1001, 500), Segment(1001, 500)], 1),
    "data again, cut otherwise": ([*OPEN, Segment(1001, 500), Segment(1501, 500), Segment(1251, 500)], 1),
    "data again with more behind": ([*OPEN, Segment(1001, 500), Segment(1001, 900), Segment(1901, 1)], 1),
    "data that overtook": ([*OPEN, Segment(1501, 500), Segment(1001, 500), Segment(2001, 5)], 1),
    "a hole": ([*OPEN, Segment(2001, 500), Segment(2501, 500)], 0),
    "data that a bare ACK already followed": ([*OPEN, Segment(1501), Segment(1001, 500)], 1),
    "a keep-alive without data": ([*OPEN, Segment(1001, 500), Segment(1500), Segment(1500)], 0),
    "a keep-alive of one octet": ([*OPEN, Segment(1001, 500), Segment(1500, 1), Segment(1500, 1)], 0),
    "one octet further back is none": ([*OPEN, Segment(1001, 500), Segment(1499, 1)], 1),
    "FIN again": ([*OPEN, Segment(1001, 0, FIN | ACK), Segment(1001, 0, FIN | ACK)], 1),
    "FIN in a segment sent again": ([*OPEN, Segment(1001, 5, FIN | ACK), Segment(1001, 5, FIN | ACK)], 1),
    "a probe of a zero window, then its data": ([*OPEN, Segment(1001, 500), Segment(1501, 1), Segment(1501, 500)], 0),
    "SYN again": ([Segment(1000, flags=SYN), Segment(1000, flags=SYN), Segment(1000, flags=SYN)], 2),
    "SYN+ACK again": ([Segment(1000, flags=SYN | ACK), Segment(1000, flags=SYN | ACK)], 1),
    "a simultaneous open": ([Segment(1000, flags=SYN), Segment(1000, flags=SYN | ACK), Segment(1001)], 1),
    "Fast Open": ([Segment(1000, 300, SYN), Segment(1301), Segment(1301, 10)], 0),
    "Fast Open refused": ([Segment(1000, 300, SYN), Segment(1001, 300), Segment(1301, 1)], 1),
    "Fast Open, SYN again without data": ([Segment(1000, 300, SYN), Segment(1000, 0, SYN), Segment(1301)], 1),
    "ports used again": ([*OPEN, Segment(1001, 500), Segment(77, flags=SYN), Segment(78, 500), Segment(578, 1)], 0),
    "seen from the middle": ([Segment(5000, 500), Segment(5500, 500), Segment(5000, 500)], 1),
    "seen from a bare ACK": ([Segment(5000), Segment(5000, 500), Segment(5500, 1)], 0),
    "a reset with data": ([*OPEN, Segment(1001, 500), Segment(1501, 40, RST | ACK)], 0),
    "a reset with data again": ([*OPEN, Segment(1001, 500), Segment(1001, 40, RST)], 1),
    "a reset that echoes another number": ([*OPEN, Segment(900_000, 0, RST), Segment(1001, 500)], 0),
    "over the end of the numbers": ([Segment(SPACE - 300, 200), Segment(SPACE - 100, 200), Segment(100, 5)], 0),
    "again over the end": ([Segment(SPACE - 300, 200), Segment(SPACE - 100, 200), Segment(SPACE - 100, 200)], 1),
    "again behind the end": ([Segment(SPACE - 100, 200), Segment(SPACE - 50, 100), Segment(20, 30)], 2),
    "keep-alive at the end": ([Segment(SPACE - 100, 100), Segment(SPACE - 1, 1), Segment(0, 5)], 0),
    "SYN at the end": ([Segment(SPACE - 1, flags=SYN), Segment(0), Segment(0, 10), Segment(0, 10)], 1),
    "half the numbers behind": ([Segment(0, 10), Segment(SPACE // 2 + 11, 10)], 1),
    "half the numbers ahead": ([Segment(0, 10), Segment(SPACE // 2 + 9, 10)], 0),
    "bare ACKs again and again": ([*OPEN, Segment(1001), Segment(1001), Segment(1001)], 0),
    "a header that is cut": ([*OPEN, Segment(1001, 5), Segment(1001, 5, cut=True), Segment(1006, 1)], 0),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize("fast", [0, 1])
def test_known_courses(tc: Programs, name: str, *, v6: bool, fast: int) -> None:
    segments, retransmits = CASES[name]
    answer = measured(tc, segments, v6=v6, fast=fast)
    assert answer.retransmits == retransmits
    assert answer == second_opinion(segments)


@pytest.mark.parametrize(
    ("segments", "role"),
    [
        ([Segment(1, flags=SYN)], SEQUENCE_CLIENT),
        ([Segment(1, flags=SYN | ECE | CWR), Segment(2)], SEQUENCE_CLIENT),
        ([Segment(1, flags=SYN | ACK)], SEQUENCE_SERVER),
        ([Segment(1), Segment(2, 5)], 0),
        ([Segment(1), Segment(900, flags=SYN | ACK)], SEQUENCE_SERVER),
        ([Segment(1, flags=SYN), Segment(900, flags=SYN | ACK)], SEQUENCE_SERVER),
        ([Segment(1, flags=SYN), Segment(1, flags=SYN | ACK)], SEQUENCE_CLIENT),
    ],
)
def test_the_handshake_tells_the_role(tc: Programs, segments: list[Segment], role: int) -> None:
    assert measured(tc, segments).role == role


def test_all_flags_are_kept(tc: Programs) -> None:
    for flag in (FIN, SYN, RST, PSH, ACK, URG, ECE, CWR):
        assert measured(tc, [Segment(5, 1), Segment(6, 1, flag)]).flags == ACK | flag


@pytest.mark.parametrize("words", range(5))
def test_a_header_shorter_than_one_can_be_tells_its_ports_alone(tc: Programs, words: int) -> None:
    frame = f.ethernet(f.ipv4(f.tcp(b"data", flags=RST, words=words), f.TCP))
    for fast in (0, 1):
        tc.many([frame, frame], fast_path=fast)
        ((key, flow),) = tc.flows().items()
        assert (key.source_port, key.destination_port) == (40000, 443)
        assert (flow["tcp_flags"], flow["resets"], flow["retransmits"], flow["sequence_state"]) == (0, 0, 0, 0)


@pytest.mark.parametrize(("total", "again"), [(0, 1), (40, 0), (42, 1), (9000, 1), (39, 0), (20, 0)])
def test_the_ip_length_says_how_much_is_payload(tc: Programs, total: int, again: int) -> None:
    """0: what the frame holds. 40: headers alone, the rest is padding. Past the frame: what it holds. Less: no segment."""
    frame = f.ethernet(f.ipv4(f.tcp(b"data"), f.TCP, total=total))
    tc.many([frame, frame])
    (flow,) = tc.flows().values()
    assert flow["retransmits"] == again


def test_the_payload_of_a_replay_is_that_of_the_wire(tc: Programs) -> None:
    """A snapshot length cuts the capture, not the segment."""
    tc.clear()
    run = tc.runner(replay=1)
    for sequence in (1000, 2460, 3920, 1000):
        frame = f.ethernet(f.ipv4(f.tcp(bytes(1460), sequence=sequence), f.TCP))
        run.run(frame[:54], (len(frame), 1, 0, 0, 0), 1)
    (flow,) = tc.flows().values()
    assert (flow["packets"], flow["bytes"], flow["retransmits"]) == (4, 4 * 1500, 1)


NEAR = st.integers(-6, 6)
FLAGS = st.one_of(
    st.just(ACK), st.sampled_from([SYN, SYN | ACK, FIN | ACK, RST, RST | ACK, PSH | ACK]), st.integers(0, 255)
)
COURSE = st.tuples(
    st.sampled_from([0, 1, 1000, SPACE - 3, SPACE // 2, 0x7FFFFFFF]),
    st.lists(st.tuples(NEAR, st.integers(0, 4), FLAGS, st.integers(0, 20)), min_size=1, max_size=40),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(course=COURSE, far=st.lists(st.integers(0, SPACE - 1), max_size=3))
def test_any_course(tc: Programs, course: tuple[int, list[tuple[int, int, int, int]]], far: list[int]) -> None:
    at, steps = course
    segments = []
    for step, payload, flags, kind in steps:
        at = (at + step) % SPACE
        segments.append(Segment(at, payload, flags, cut=kind == 0))
        at = (at + payload) % SPACE
    for number, sequence in enumerate(far):
        segments.insert(number * 3, Segment(sequence, 3))
    want = second_opinion(segments)
    assert measured(tc, segments) == want
    assert measured(tc, segments, fast=0, v6=True) == want

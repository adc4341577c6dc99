"""Protocols that are told by their content, in the kernel: what leaves it of a TLS connection, and what never does."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise
from struct import pack

import numpy as np
import pytest

from otel_netmon.abi.enums import (
    SEQUENCE_CLIENT,
    SEQUENCE_DECIDED,
    SEQUENCE_INITIAL,
    SWEEP_HEADER_SIZE,
    Direction,
    MessageCount,
    MessageKind,
)
from otel_netmon.analysis.tcp_messages import stream_segments
from otel_netmon.analysis.tcp_stream import Segment, TcpStream
from otel_netmon.kernel import syscalls
from support import dns_messages as dns, frames as f
from support.frames import ACK, FIN, PSH, RST, SYN
from support.message_programs import MessagePrograms, query_frame
from support.tcp_conversation import CLIENT_NUMBER, SERVER_NUMBER, Conversation, clear

pytestmark = pytest.mark.kernel

CANARY = b"CANARY-7f3a"
COUNT = MessageCount


def record(kind: int, body: bytes, version: int = 0x0303) -> bytes:
    return pack(">BHH", kind, version, len(body)) + body


def sized(kind: int, octets: int) -> bytes:
    """A handshake record with a message of this kind; what is in it does not matter to the kernel."""
    message = bytes([kind]) + (octets - 4).to_bytes(3, "big")
    return record(22, message + bytes(number & 127 for number in range(octets - 4)))


CLIENT_HELLO = sized(1, 512)
SERVER_HELLO = sized(2, 90)
CERTIFICATE = sized(11, 3000)
CHANGED = record(20, b"\1")
SEALED = record(23, CANARY * 9)


@pytest.fixture(scope="module")
def live_programs() -> Iterator[MessagePrograms]:
    with MessagePrograms(replay=0, streams=1, sizes={"messages": 1 << 20}) as programs:
        yield programs


@pytest.fixture
def live(live_programs: MessagePrograms) -> MessagePrograms:
    """The programs as an agent attaches them, with nothing in their maps."""
    return clear(live_programs)


@pytest.fixture(scope="module")
def replay_programs() -> Iterator[MessagePrograms]:
    with MessagePrograms(streams=1) as programs:
        yield programs


@pytest.fixture
def replay(replay_programs: MessagePrograms) -> MessagePrograms:
    """The programs of a replay, with nothing in their maps."""
    return clear(replay_programs)


def handed(programs: MessagePrograms) -> list[Segment]:
    """What the ring held, as segments; every record is one."""
    messages = programs.records()
    assert messages.heads["kind"].tolist() == [MessageKind.STREAM] * len(messages.heads)
    assert CANARY not in messages.data
    return [segment for _, segment in stream_segments(messages)]


def octets(segments: list[Segment]) -> bytes:
    """The segments of one direction in order; gaps are zeros."""
    stream = TcpStream()
    pieces = [piece for segment in segments for piece in stream.feed(segment)] + stream.finish()
    return b"".join(piece.data or bytes(piece.gap) for piece in pieces)


def decided(programs: MessagePrograms) -> list[bool]:
    """Of every flow, those of the client first."""
    flows = sorted(programs.flows().items(), key=lambda each: -each[0].source_port)
    return [bool(flow["sequence_state"] & SEQUENCE_DECIDED) for _, flow in flows]


# ------------------------------------------------------------------------------------------------------------------- TLS
def test_a_record_says_where_a_segment_is_in_its_connection(live: MessagePrograms) -> None:
    talk = Conversation(live)
    talk.send(CLIENT_HELLO, flags=ACK | PSH)
    (head,) = live.records().heads
    assert {name: head[name].item() for name in head.dtype.names if head[name].shape == () and name != "time_ns"} == {
        "request_time_ns": 0,
        "first_request_time_ns": 0,
        "cgroup": 0,
        "ifindex": 1,
        "ingress_ifindex": 0,
        "sequence": CLIENT_NUMBER + 1,
        "acknowledgment": SERVER_NUMBER + 1,
        "initial_sequence": CLIENT_NUMBER,
        "payload_length": len(CLIENT_HELLO),
        "retries": 0,
        "captured_length": len(CLIENT_HELLO),
        "tcp_flags": ACK | PSH,
        "sequence_state": 1 | SEQUENCE_INITIAL | SEQUENCE_CLIENT,
        "source_port": 40000,
        "destination_port": 443,
        "protocol": 6,
        "kind": MessageKind.STREAM,
        "direction": Direction.TRANSMIT,
        "namespace": 0,
    }


def test_nothing_of_application_data_leaves_but_its_header(live: MessagePrograms) -> None:
    talk = Conversation(live)
    talk.send(CLIENT_HELLO)
    talk.send(SERVER_HELLO + CHANGED + SEALED + CANARY, from_client=False)
    talk.send(CHANGED + SEALED)
    for from_client in (True, False):
        talk.send(SEALED, from_client=from_client)
        talk.send(CLIENT_HELLO + CANARY, from_client=from_client)
        talk.send(b"", from_client=from_client, flags=FIN | ACK)
    segments = handed(live)
    assert [each.data for each in segments] == [
        CLIENT_HELLO,
        SERVER_HELLO + CHANGED + SEALED[:5],
        CHANGED + SEALED[:5],
    ]
    assert [each.length for each in segments] == [len(each.data) for each in segments]
    assert decided(live) == [True, True]


STREAM = sized(1, 70) + CHANGED + sized(16, 40) + sized(20, 13)


@pytest.mark.parametrize("end", [SEALED, record(24, CANARY), record(0x47, CANARY), pack(">BHH", 22, 0x0303, 20000)])
def test_every_cut(live: MessagePrograms, end: bytes) -> None:
    whole = STREAM + end + CANARY
    expected = STREAM + (end[:5] if end[0] in (23, 24) else b"")
    for cut in range(1, len(STREAM) + 9):
        clear(live)
        talk = Conversation(live)
        talk.cut(whole, cut)
        talk.send(CANARY)
        found = octets(handed(live))
        if end[0] in (23, 24) and len(STREAM) < cut < len(STREAM) + 5:
            assert found == whole[:cut]  # what is left of the header is behind what decided
        elif end[0] == 22 and len(STREAM) < cut < len(STREAM) + 5:
            assert found in (
                whole[:cut],
                whole[: len(STREAM) + 4],
            )  # a length that none has is known with its last octet
        else:
            assert found == expected
        assert decided(live)[0]


@pytest.mark.parametrize("size", range(1, 8))
def test_pieces_of_a_few_octets(live: MessagePrograms, size: int) -> None:
    talk = Conversation(live)
    talk.cut(STREAM + SEALED, *range(size, len(STREAM + SEALED), size))
    assert octets(handed(live))[: len(STREAM)] == STREAM
    assert len(octets(handed(live))) <= len(STREAM) + 5
    assert live.counts() == {COUNT.STREAM_SEGMENTS: -(-(len(STREAM) + 1) // size)}


def test_any_cuts_in_any_order_within_known_records(live: MessagePrograms) -> None:
    generator = random.Random(7)  # noqa: S311 - reproducible
    whole = SERVER_HELLO + CERTIFICATE + CHANGED
    certificate = range(len(SERVER_HELLO) + 5, len(SERVER_HELLO + CERTIFICATE))
    for _ in range(101):
        clear(live)
        talk = Conversation(live)
        begin = generator.randrange(len(SERVER_HELLO) + 5, len(SERVER_HELLO) + 50)
        cuts = [begin, *sorted(generator.sample(certificate[60:], 5))]
        pieces = list(pairwise([*cuts, len(whole)]))
        generator.shuffle(pieces)
        talk.send(whole[:begin], from_client=False)
        for first, last in [*pieces, *pieces[:2]]:
            talk.send(whole[first:last], from_client=False, at=first)
        assert octets(handed(live)) == whole
        assert COUNT.STREAM_LOST_ORDER not in live.counts()


def test_what_comes_before_the_header_that_tells_about_it_is_lost_and_counted(live: MessagePrograms) -> None:
    talk = Conversation(live)
    whole = SERVER_HELLO + sized(11, 100) + sized(12, 100) + CANARY * 200
    begin, end = len(SERVER_HELLO) + 20, len(SERVER_HELLO) + 150
    talk.send(whole[:20], from_client=False)
    talk.send(whole[end : end + 20], from_client=False, at=end)
    assert live.counts()[COUNT.STREAM_LOST_ORDER] == 1
    talk.send(whole[20:begin], from_client=False, at=20)
    talk.send(whole[begin:end], from_client=False, at=begin)
    talk.send(whole[end:], from_client=False, at=end)
    assert octets(handed(live)) == whole[: whole.index(CANARY)]
    clear(live)
    talk = Conversation(live)
    talk.send(CLIENT_HELLO[300:] + SEALED, at=300)
    talk.send(CLIENT_HELLO[:300], at=0)
    assert octets(handed(live)) == CLIENT_HELLO[:300]
    assert live.counts()[COUNT.STREAM_LOST_ORDER] == 1


def test_a_direction_in_which_a_record_header_never_comes_is_given_up(live: MessagePrograms) -> None:
    talk = Conversation(live)
    talk.send(CLIENT_HELLO)
    for number in range(50):
        talk.send(bytes(3000), at=len(CLIENT_HELLO) + 1 + number * 3000)
    assert decided(live)[0]
    assert len(handed(live)) == 1
    assert live.counts()[COUNT.STREAM_LOST_ORDER] == 23


def test_the_limit_of_a_handshake() -> None:
    with MessagePrograms(replay=0, streams=1, handshake_bytes=1000) as programs:
        talk = Conversation(programs)
        talk.send(SERVER_HELLO, from_client=False)
        talk.cut(CERTIFICATE, 700, 1400, from_client=False)
        assert octets(handed(programs)) == (SERVER_HELLO + CERTIFICATE)[:1000]
        assert decided(programs)[1]
        assert programs.counts() == {COUNT.STREAM_SEGMENTS: 3, COUNT.STREAM_LOST_LIMIT: 1}


def test_a_hello_in_the_form_of_ssl_2(live: MessagePrograms) -> None:
    old = pack(">HBHHHH", 0x8000 | 9 + 30, 1, 0x0301, 6, 0, 24) + bytes(30)
    talk = Conversation(live)
    talk.send(old)
    talk.send(CHANGED + SEALED)
    assert octets(handed(live)) == old + CHANGED + SEALED[:5]


def test_the_end_of_a_handshake_that_fails(live: MessagePrograms) -> None:
    alert = record(21, b"\2\x28")
    talk = Conversation(live)
    talk.send(CLIENT_HELLO)
    talk.send(alert, from_client=False, flags=FIN | ACK)
    talk.send(b"", flags=RST)
    talk.send(b"", flags=RST)
    segments = handed(live)
    assert [(each.data, each.flags) for each in segments] == [(CLIENT_HELLO, ACK), (alert, FIN | ACK), (b"", RST)]
    clear(live)
    talk = Conversation(live)
    talk.send(CLIENT_HELLO)
    talk.send(b"", from_client=False, flags=RST | ACK)
    assert [each.flags for each in handed(live)] == [ACK, RST | ACK]


def test_what_answers_a_hello_with_no_tls(live: MessagePrograms) -> None:
    talk = Conversation(live)
    talk.send(CLIENT_HELLO)
    talk.send(b"HTTP/" + CANARY, from_client=False, flags=FIN | ACK)
    assert [(each.data, each.length, each.flags) for each in handed(live)][1:] == [(b"HTTP/", 5, ACK)]
    assert decided(live)[1]


def test_tls_that_begins_behind_something_else(live: MessagePrograms) -> None:
    talk = Conversation(live)
    for command, answer in ((b"EHLO me\r\n", b"250 STARTTLS\r\n"), (b"STARTTLS\r\n", b"220 go ahead\r\n")):
        talk.send(command)
        talk.send(answer, from_client=False)
    talk.send(CLIENT_HELLO)
    talk.send(SERVER_HELLO, from_client=False)
    assert [each.data for each in handed(live)] == [CLIENT_HELLO, SERVER_HELLO]


def test_what_is_nothing_is_looked_at_16_times(live: MessagePrograms) -> None:
    for look in (15, 16):
        clear(live)
        talk = Conversation(live)
        for _ in range(look):
            talk.send(CANARY)
        talk.send(b"")
        talk.send(CLIENT_HELLO)
        assert [each.data for each in handed(live)] == [CLIENT_HELLO] * (look < 16)
        assert decided(live) == [look == 16, False]
        assert (COUNT.STREAM_NOTHING in live.counts()) == (look == 16)
    talk.send(b"", flags=FIN | ACK)
    talk.next[True] = CLIENT_NUMBER - 99999
    talk.send(b"", flags=SYN)
    talk.send(CLIENT_HELLO)
    assert [each.data for each in handed(live)] == [CLIENT_HELLO]


def test_what_is_joined_in_the_middle(live: MessagePrograms) -> None:
    talk = Conversation(live, opened=False)
    talk.send(CLIENT_HELLO[:3])
    talk.send(CLIENT_HELLO[3:])
    talk.send(CLIENT_HELLO)
    (segment,) = handed(live)
    assert (segment.data, segment.first, segment.opens) == (CLIENT_HELLO, None, None)


def test_a_flow_without_a_place_is_not_looked_at() -> None:
    with MessagePrograms(replay=0, streams=1, sizes={"flow_table": 1}) as programs:
        for port in range(1024, 1024 + 199):
            Conversation(programs, port, opened=False).send(CLIENT_HELLO)
        assert 0 < len(handed(programs)) == len(programs.flows()) < 199


def test_where_nobody_asks_nothing_is_looked_at(live: MessagePrograms) -> None:
    with MessagePrograms(replay=0) as programs:
        Conversation(programs).send(CLIENT_HELLO)
        assert handed(programs) == []


def test_packets_on_the_ports_of_dns_are_of_dns(live: MessagePrograms) -> None:
    live.run(query_frame(dns.query(7, "www.example.org")))
    assert live.counts() == {COUNT.DNS_QUERIES: 1}


# ------------------------------------------------------------------------------------------------------------------- UDP
def quic(version: int, kind: int, octets: int = 1200) -> bytes:
    return bytes([0xC0 | kind << 4]) + version.to_bytes(4, "big") + b"\x08" + bytes(8) + bytes(octets - 14)


@pytest.mark.parametrize(
    ("version", "initial"), [(1, 0), (0x6B3343CF, 1), (0xFF00001D, 0), (0xFF000022, 0), (0xFF000023, None), (2, None)]
)
def test_initial_packets_of_quic(live: MessagePrograms, version: int, initial: int | None) -> None:
    for kind in range(4):
        live.run(query_frame(quic(version, kind), server_port=443))
    messages = live.records()
    assert messages.heads["kind"].tolist() == [MessageKind.QUIC] * (initial is not None)
    if initial is not None:
        assert messages.payload(0) == quic(version, initial)
    live.run(query_frame(b"\x40" + CANARY * 9, server_port=443))
    assert decided(live) == [initial is not None]
    live.run(query_frame(quic(1, 0), server_port=443))
    assert live.kinds() == [MessageKind.QUIC] * (initial is None)


def dtls(kind: int, body: bytes, version: int = 0xFEFD) -> bytes:
    return pack(">BHHHIH", kind, version, 0, 0, 7, len(body)) + body


def test_dtls_up_to_application_data(live: MessagePrograms) -> None:
    first, second = dtls(22, b"\1" + bytes(60), 0xFEFF), dtls(22, b"\x10" + bytes(30)) + dtls(20, b"\1")
    for datagram in (b"\0\1" + bytes(18), first, second, second + dtls(23, CANARY), first):
        live.run(query_frame(datagram, server_port=3478))
    messages = live.records()
    assert messages.heads["kind"].tolist() == [MessageKind.DTLS] * 3
    assert [messages.payload(n) for n in range(3)] == [first, second, second + dtls(23, CANARY)[:13]]
    assert decided(live) == [True]
    assert live.counts() == {COUNT.DTLS: 3}


def test_datagrams_that_are_nothing_are_looked_at_16_times(live: MessagePrograms) -> None:
    for number in range(16):
        assert decided(live) == [False] * (number > 0)
        live.run(query_frame(bytes(number), server_port=5000))
    assert decided(live) == [True]
    assert live.counts() == {COUNT.STREAM_NOTHING: 1}


# ---------------------------------------------------------------------------------------------------------------- replay
def test_a_replay_hands_over_all_payload(replay: MessagePrograms) -> None:
    talk = Conversation(replay)
    for number in range(99):
        talk.send(b"%d" % number)
        talk.send(b"", from_client=False)
    talk.send(b"", flags=FIN | ACK)
    talk.send(b"", from_client=False, flags=RST)
    segments = handed(replay)
    assert [each.data for each in segments] == [*(b"%d" % number for number in range(99)), b"", b""]
    assert {each.first for each in segments} == {CLIENT_NUMBER + 1, SERVER_NUMBER + 1}
    assert [each.flags for each in segments[-2:]] == [FIN | ACK, RST]
    assert decided(replay) == [False, False]


def test_a_replay_tells_no_end_of_what_had_no_payload(replay: MessagePrograms) -> None:
    talk = Conversation(replay)
    talk.send(b"", flags=FIN | ACK)
    talk.send(b"", from_client=False, flags=RST)
    assert handed(replay) == []


def test_data_in_a_syn(replay: MessagePrograms) -> None:
    talk = Conversation(replay, opened=False)
    talk.next[True] = CLIENT_NUMBER
    talk.send(b"fast", flags=SYN)
    (segment,) = handed(replay)
    assert (segment.sequence, segment.first, segment.data, segment.opens) == (
        CLIENT_NUMBER + 1,
        CLIENT_NUMBER + 1,
        b"fast",
        True,
    )


def test_a_cut_segment_says_how_long_it_was(replay: MessagePrograms) -> None:
    talk = Conversation(replay)
    frame = f.ethernet(f.ipv4(f.tcp(bytes(1000), sequence=CLIENT_NUMBER + 1), f.TCP))
    replay.run(frame[:100], 9, length=len(frame))
    (segment,) = handed(replay)
    assert (segment.length, segment.data) == (1000, bytes(100 - 54))
    assert talk.first() == segment.sequence


def decide(programs: MessagePrograms, port: int) -> None:
    keys, values = programs.flow_reader.read()
    for key, value in zip(keys, values, strict=True):
        if int(key["source_port"]) == port:
            value["sequence_state"] |= SEQUENCE_DECIDED
            syscalls.map_update(programs.loaded.maps["flow_table"], key.tobytes(), value.tobytes())


def received(port: int, back: bool, sequence: int, data: bytes, flags: int = ACK) -> bytes:
    ports, ends = ((443, port), (f.B4, f.A4)) if back else ((port, 443), (f.A4, f.B4))
    return f.ethernet(f.ipv4(f.tcp(data, *ports, sequence=sequence, flags=flags), f.TCP, *ends))


def test_a_replay_tells_nothing_of_what_is_decided_until_the_other_side_speaks(replay: MessagePrograms) -> None:
    def run(*frames: bytes) -> list[bytes]:
        for frame in frames:
            replay.run(frame)
        return [each.data for each in handed(replay)]

    assert run(received(4000, True, 1, b"1"), received(4000, False, 1, b"2")) == [b"1", b"2"]
    decide(replay, 443)
    assert run(received(4000, True, 2, b"3"), received(4000, True, 3, b"4")) == []
    assert run(received(4000, False, 2, b"5"), received(4000, True, 4, b"6")) == [b"5", b"6"]
    decide(replay, 443)
    decide(replay, 4000)
    assert run(received(4000, False, 3, b"7"), received(4000, True, 5, b"8")) == []
    assert run(received(4000, True, 99, b"", SYN | ACK), received(4000, True, 100, b"9")) == [b"9"]


@pytest.mark.parametrize("flags", [SYN, SYN | ACK, FIN | ACK, RST])
def test_inside_a_tunnel_a_replay_tells_begin_and_end(replay: MessagePrograms, flags: int) -> None:
    inside = f.ipv4(f.tcp(b"", sequence=77, flags=flags), f.TCP)
    replay.program("netmon_receive", replay=1, decapsulate=1, streams=1)
    run = replay.runner("netmon_receive", replay=1, decapsulate=1, streams=1)
    frame = f.ethernet(f.ipv4(inside, f.IPIP))
    run.run(frame, (len(frame), 1, 0, 0, 1), 5)
    (segment,) = handed(replay)
    assert (segment.sequence, segment.flags, segment.first) == (77 + bool(flags & SYN), flags, None)


def test_every_record_is_counted(live: MessagePrograms, replay: MessagePrograms) -> None:
    for programs in (live, replay):
        with MessagePrograms(replay=int(programs is replay), streams=1, sizes={"messages": 4096}) as small:
            for port in range(2000, 2000 + 53):
                Conversation(small, port, opened=False).send(CLIENT_HELLO)
            counts = small.counts()
            assert counts[COUNT.STREAM_SEGMENTS] == 53
            assert 0 < len(handed(small)) == 53 - counts[COUNT.STREAM_LOST_RING]


def test_any_octets_are_taken(live: MessagePrograms) -> None:
    """What may leave of damaged streams is what a reader of TLS records finds in them."""
    generator = random.Random(11)  # noqa: S311 - reproducible
    for number in range(499):
        clear(live)
        damaged = bytearray(sized(1, 60) + CHANGED + sized(16, 30) + SEALED)
        for _ in range(generator.randrange(3)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        cuts = sorted(generator.sample(range(1, len(damaged)), generator.randrange(5)))
        talk = Conversation(live)
        talk.cut(bytes(damaged), *cuts)
        found = octets([segment for _, segment in stream_segments(live.records())])
        assert found == bytes(damaged[: len(found)]), number
        assert len(found) <= may_leave(bytes(damaged)), number


def may_leave(data: bytes) -> int:
    """How many octets are in handshake, alert and ChangeCipherSpec records, or the header behind them."""
    at = 0
    while at + 5 <= len(data):
        kind, version, length = data[at], data[at + 1], int.from_bytes(data[at + 3 : at + 5], "big")
        if kind in (23, 24):
            return at + 5
        if kind not in (20, 21, 22) or version != 3 or length > 18432:
            return at + 5
        at += 5 + length
    return len(data)


def test_flows_count_alike_with_and_without(live: MessagePrograms) -> None:
    with MessagePrograms(replay=0) as plain:
        for programs in (live, plain):
            talk = Conversation(programs)
            talk.send(CLIENT_HELLO)
            talk.send(SERVER_HELLO + CERTIFICATE, from_client=False)
            talk.send(b"", flags=FIN | ACK)
        of_live, of_plain = (
            {
                key: {name: flow[name] for name in ("packets", "bytes", "retransmits", "tcp_flags")}
                for key, flow in each.items()
            }
            for each in (live.flows(), plain.flows())
        )
        assert of_live == of_plain
        assert np.isclose(live.totals()["bytes"], plain.totals()["bytes"])


def test_a_connection_that_begins_in_a_row_that_closes_is_told_as_any_other(live: MessagePrograms) -> None:
    """The same ports again, between the mark of the idle row and its end: nothing is counted in it, all is looked at."""
    old = Conversation(live)
    old.send(CLIENT_HELLO)
    keys, _ = live.flow_reader.read()
    sweep = live.runner("netmon_sweep").run
    assert sweep(bytes(SWEEP_HEADER_SIZE) + keys.tobytes(), (len(keys), 0, 0, 0, 0)) == len(keys) == 2
    before = {key: flow["packets"] for key, flow in live.flows().items()}
    live.records()

    again = Conversation(live, opened=False)
    again.next = {True: 77, False: 99}
    again.send(b"", flags=SYN)
    again.send(b"", from_client=False, flags=SYN | ACK)
    again.send(CLIENT_HELLO)
    again.send(SERVER_HELLO, from_client=False)

    segments = handed(live)
    assert [segment.data for segment in segments if segment.data] == [CLIENT_HELLO, SERVER_HELLO]
    assert {key: flow["packets"] for key, flow in live.flows().items()} == before

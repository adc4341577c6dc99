"""Messages in IP datagrams that came in fragments: looked into once, as one, while flows count each fragment."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from otel_netmon.replay import Replay, replay
from support import dns_messages as dns, frames as f
from support.capture_files import NANOSECONDS, pcap_header, pcap_record
from support.dns_captures import CLIENT6, SERVER6, UNMATCHED, Packet, answer, expected, udp, write

pytestmark = pytest.mark.kernel

MS = 1_000_000
NAME = "www.example.org"
ADDRESSES = [f"192.0.2.{number}" for number in range(200)]
ANSWER = answer(7, NAME, *ADDRESSES)  # 3.2 KiB


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Replays frames 1 ms apart."""

    def replayed(*frames: bytes, decapsulate: bool = False) -> Replay:
        packets = [Packet(number * MS, frame) for number, frame in enumerate(frames)]
        result = replay(write(tmp_path / "fragments.pcap", packets), tmp_path, decapsulate)
        assert result.messages_lost == result.dns_unparsed == {}
        assert result.counted == len(frames) == sum(flow["packets"] for flow in result.flows)
        return result

    return replayed


def cut(frame: bytes, size: int = 1480) -> list[bytes]:
    """The fragments of the datagram in an Ethernet frame; size is that of their payloads, a multiple of 8."""
    link, packet = frame[:14], frame[14:]
    six = packet[0] >> 4 == 6
    head, payload = (packet[:40], packet[40:]) if six else (packet[:20], packet[20:])
    made = []
    for begin in range(0, len(payload), size):
        octets, more = payload[begin : begin + size], begin + size < len(payload)
        if six:
            octets = f.fragment(octets, head[6], begin, more=more)
            made.append(link + head[:4] + len(octets).to_bytes(2, "big") + b"\x2c" + head[7:] + octets)
        else:
            placed = (more << 13 | begin // 8).to_bytes(2, "big")
            made.append(
                link + head[:2] + (20 + len(octets)).to_bytes(2, "big") + head[4:6] + placed + head[8:] + octets
            )
    return made


def lengths(frames: Iterable[bytes]) -> int:
    return sum(len(frame) - 14 for frame in frames)


@pytest.mark.parametrize("six", [False, True])
@pytest.mark.parametrize("decapsulate", [False, True])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_dns_answer(run: Any, *, six: bool, decapsulate: bool, backwards: bool) -> None:
    fragments = cut(udp(ANSWER, back=True, six=six))
    assert len(fragments) == 3
    if backwards:
        fragments.reverse()
    result = run(udp(dns.query(7, NAME), six=six), *fragments, decapsulate=decapsulate)
    ends = {"client": CLIENT6, "server": SERVER6} if six else {}
    assert result.dns == [expected(7, NAME, answers=200, duration_ms=3.0, **ends)]
    assert result.fragments == {"reassembled": 1}
    flows = {(flow["sport"], flow["packets"], flow["bytes"]) for flow in result.flows if flow["dport"] != 53}
    first = [frame for frame in fragments if frame == fragments[-1 if backwards else 0]]
    rest = [frame for frame in fragments if frame not in first]
    assert flows == {(53, 1, lengths(first)), (0, 2, lengths(rest))}


def test_copies_of_a_capture_on_two_networks(run: Any) -> None:
    """A mirror port sees a datagram before and behind a router, with another tag."""
    fragments = cut(udp(ANSWER, back=True))
    tagged = [frame[:12] + b"\x81\0\0\x64" + frame[12:] for frame in fragments]
    pairs = [frame for pair in zip(fragments, tagged, strict=True) for frame in pair]
    result = run(udp(dns.query(7, NAME)), *pairs)
    assert result.dns == [
        expected(7, NAME, answers=200, duration_ms=5.0),
        expected(7, NAME, answers=200, **UNMATCHED),
    ]


@pytest.mark.parametrize("decapsulate", [False, True])
def test_the_first_fragment_alone(run: Any, *, decapsulate: bool) -> None:
    """All that a capture has that was filtered by ports: its answer counts from its own time."""
    first = cut(udp(ANSWER, back=True))[0]
    again = [udp(dns.query(8, NAME)), udp(answer(8, NAME, "192.0.2.1"), back=True)]
    result = run(udp(dns.query(7, NAME)), first, *again, decapsulate=decapsulate)
    told = [(each["id"], each["outcome"], each["duration_ms"]) for each in result.dns]
    assert told == [(7, "answered", 1.0), (8, "answered", 1.0)]
    assert result.dns[0]["answers"] == 200  # as its header says
    assert result.fragments == {"incomplete": 1}


def test_many_that_stay_alone_at_once(tmp_path: Path) -> None:
    """Together they are more than the ring holds."""
    firsts = [cut(udp(answer(number, NAME, *ADDRESSES), back=True), 3200)[0] for number in range(401)]
    for number, frame in enumerate(firsts):
        firsts[number] = frame[:18] + number.to_bytes(2, "big") + frame[20:]  # the identification
    packets = [Packet(0, frame) for frame in firsts]
    late = cut(udp(ANSWER, back=True))[1]
    result = replay(write(tmp_path / "many.pcap", [*packets, Packet(61_000 * MS, late)]), tmp_path)
    assert result.messages_lost == {}
    assert [each["id"] for each in result.dns] == list(range(401))
    assert result.fragments == {"incomplete": 402}


def test_later_fragments_alone_are_nothing(run: Any) -> None:
    """Their octets look like a message with ports of DNS."""
    inside = udp(dns.query(7, NAME))[34:]
    later = f.ethernet(f.ipv4(inside + bytes(-len(inside) % 8), offset=1480, more=True))
    result = run(later, *cut(udp(bytes(1472) + inside, server_port=443))[1:])
    assert result.dns == result.tls == result.http == []
    assert result.fragments == {"incomplete": 1}


AROUND: dict[str, Callable[[bytes], bytes]] = {
    "ipip": lambda packet: f.ethernet(f.ipv4(packet, f.IPIP, "203.0.113.1", "203.0.113.2")),
    "gre": lambda packet: f.ethernet(f.ipv4(f.gre(packet, f.IPV4), f.GRE, "203.0.113.1", "203.0.113.2")),
    "vxlan": lambda packet: f.ethernet(f.ipv4(f.vxlan(f.ethernet(packet)), f.UDP, "203.0.113.1", "203.0.113.2")),
    "nothing": f.ethernet,
}


@pytest.mark.parametrize("decapsulate", [False, True])
@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("size", [8, 1480, 4000])
def test_http_in_fragments_of_what_carries_it(run: Any, around: str, size: int, *, decapsulate: bool) -> None:
    request = b"GET /1 HTTP/1.1\r\nHost: www.example.org\r\nX: " + b"x" * (9000 if size > 8 else 90) + b"\r\n\r\n"
    response = b"HTTP/1.1 404 no\r\nContent-Length: 0\r\n\r\n"
    segments = [
        f.ipv4(f.tcp(request, 40000, 80, sequence=1, acknowledgment=1), f.TCP, f.A4, f.B4),
        f.ipv4(f.tcp(response, 80, 40000, sequence=1, acknowledgment=1 + len(request)), f.TCP, f.B4, f.A4),
    ]
    frames = [piece for segment in segments for piece in cut(AROUND[around](segment), size)]
    result = run(*frames, decapsulate=decapsulate)
    assert [(each["target"], each["status"]) for each in result.http] == [("/1", 404)]
    assert result.fragments["reassembled"] == (2 if size == 8 else 1)


def test_ipv6_overlaps_are_no_message(run: Any) -> None:
    fragments = cut(udp(ANSWER, back=True, six=True))
    fragments.insert(1, cut(udp(ANSWER, back=True, six=True), 1472)[1])
    result = run(*fragments)
    assert result.dns == []
    assert result.fragments == {"overlapping": 1}
    assert result.document()["fragments"] == {"overlapping": 1}


def test_the_snapshot_length_cut_them(tmp_path: Path) -> None:
    """Nothing can be put together; the first fragment has what it has."""
    frames = [udp(dns.query(7, NAME)), *cut(udp(ANSWER, back=True))]
    path = tmp_path / "cut.pcap"
    records = [pcap_record(frame[:96], 0, number * MS, len(frame)) for number, frame in enumerate(frames)]
    path.write_bytes(pcap_header(magic=NANOSECONDS, snapshot=96) + b"".join(records))
    result = replay(str(path), tmp_path)
    assert [(each["id"], each["outcome"], each["duration_ms"]) for each in result.dns] == [(7, "answered", 1.0)]
    assert result.fragments == {"cut": 3}

"""Connections in a replay, whatever they speak: tunnels, frames of 64 KiB, noise, new connections on the same ports."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from otel_netmon import replay as replays
from otel_netmon.abi.enums import MessageCount
from otel_netmon.replay import Replay, replay
from otel_netmon.replay_streams import LOOK_SEGMENTS
from support import frames as f
from support.dns_captures import Packet, write
from support.frames import ACK, FIN, RST, SYN

pytestmark = pytest.mark.kernel

MS = 1_000_000
ASK = b"GET /%s HTTP/1.1\r\nHost: www.example.org\r\n\r\n"
ANSWER = b"HTTP/1.1 %d OK\r\nContent-Length: %d\r\n\r\n"


class Wire:
    """Frames of connections to port 80, each a millisecond behind the one before.

    Args:
        around: puts the IP packet of each into whatever carries it.
    """

    def __init__(self, around: Any = f.ethernet) -> None:
        self.packets: list[Packet] = []
        self._around = around
        self._next: dict[tuple[int, bool], int] = {}

    def send(self, data: bytes, *, back: bool = False, port: int = 40000, flags: int = ACK, number: int = 0) -> None:
        sequence = number or self._next.get((port, back), 1000)
        ports, ends = ((80, port), (f.B4, f.A4)) if back else ((port, 80), (f.A4, f.B4))
        other = self._next.get((port, not back), 1000)
        segment = f.tcp(data, *ports, sequence=sequence, acknowledgment=other, flags=flags)
        total = 20 + len(segment)
        packet = f.ipv4(segment, f.TCP, *ends, total=total if total < 1 << 16 else 0)
        self.packets.append(Packet(len(self.packets) * MS, self._around(packet)))
        self._next[port, back] = sequence + len(data) + bool(flags & SYN) + bool(flags & FIN)

    def open(self, port: int = 40000, number: int = 1000) -> None:
        self.send(b"", port=port, flags=SYN, number=number)
        self.send(b"", back=True, port=port, flags=SYN | ACK, number=number)

    def exchange(self, name: bytes, status: int = 200, port: int = 40000, body: int = 5) -> None:
        self.send(ASK % name, port=port)
        self.send(ANSWER % (status, body) + bytes(body), back=True, port=port)


@pytest.fixture
def run(tmp_path: Path) -> Any:
    def replayed(packets: Iterable[Packet], decapsulate: bool = False) -> Replay:
        return replay(write(tmp_path / "streams.pcap", packets), tmp_path, decapsulate)

    return replayed


def told(result: Replay) -> list[tuple[str, int | None]]:
    assert result.messages_lost == {}
    return [(each["target"], each["status"]) for each in result.http]


AROUND = {
    "vlan": lambda packet: f.tagged(packet, f.IPV4, 0x88A8, 0x8100),
    "gre": lambda packet: f.ethernet(f.ipv4(f.gre(packet, f.IPV4), f.GRE, "203.0.113.1", "203.0.113.2")),
    "ipip": lambda packet: f.ethernet(f.ipv4(packet, f.IPIP, "203.0.113.1", "203.0.113.2")),
    "geneve, gre": lambda packet: f.ethernet(
        f.ipv4(
            f.geneve(f.ipv4(f.gre(packet, f.IPV4), f.GRE, "10.0.0.1", "10.0.0.2"), f.IPV4),
            f.UDP,
            "203.0.113.1",
            "203.0.113.2",
        )
    ),
    "ipip, ipip, ipip": lambda packet: f.ethernet(
        f.ipv4(f.ipv4(f.ipv4(packet, f.IPIP, "10.0.0.3"), f.IPIP, "10.0.0.1", "10.0.0.2"), f.IPIP, "203.0.113.1")
    ),
    "vxlan": lambda packet: f.ethernet(f.ipv4(f.vxlan(f.ethernet(packet)), f.UDP, "203.0.113.1", "203.0.113.2")),
}


@pytest.mark.parametrize("decapsulate", [False, True])
@pytest.mark.parametrize("around", AROUND)
def test_inside_of_whatever_carries_it(run: Any, around: str, *, decapsulate: bool) -> None:
    wire = Wire(AROUND[around])
    wire.open()
    for number in range(23):
        wire.exchange(b"%d" % number, 200 + number)
    wire.send(b"", flags=FIN | ACK)
    assert told(run(wire.packets, decapsulate)) == [(f"/{number}", 200 + number) for number in range(23)]


@pytest.mark.parametrize(
    ("size", "tunnel"),
    # An outer packet says how long it is, so there the largest is smaller.
    [(size, tunnel) for size in (3000, 3466, 3467, 9000, 40_000, 65_000) for tunnel in (False, True)]
    + [(200_000, False)],
)
def test_frames_of_any_length(run: Any, size: int, *, tunnel: bool) -> None:
    """What comes behind a long body in the same frame is found, and what looks like a head within it is not."""
    wire = Wire(AROUND["ipip"] if tunnel else f.ethernet)
    wire.open()
    wire.send(ASK % b"1" + ASK % b"2")
    body = (ANSWER % (500, 0)).ljust(64).ljust(size, b".")
    wire.send(ANSWER % (200, len(body)) + body + ANSWER % (404, 0), back=True)
    wire.exchange(b"3")
    result = run(wire.packets)
    assert told(result) == [("/1", 200), ("/2", 404), ("/3", 200)]
    assert result.http[0]["response_body"] == size


def test_noise_is_told_to_the_kernel_and_costs_nothing_then(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    read = replays.Session.message_counts

    def keep(session: replays.Session) -> dict[MessageCount, int]:
        counts = read(session)
        counted.append(counts[MessageCount.STREAM_SEGMENTS])
        return counts

    monkeypatch.setattr(replays.Session, "message_counts", keep)
    wire = Wire()
    wire.open()
    for _ in range(5003):
        wire.send(bytes(1000), back=True)
        wire.send(b"")
    wire.open(40001)
    wire.exchange(b"other", port=40001)
    assert told(run(wire.packets)) == [("/other", 200)]
    assert LOOK_SEGMENTS <= counted[0] < LOOK_SEGMENTS + replays.DRAIN_FRAMES


def test_an_answer_behind_noise_that_was_joined_in_the_middle(run: Any) -> None:
    wire = Wire()
    for _ in range(5003):
        wire.send(b"the rest of a download ", back=True)
    wire.exchange(b"next")
    assert told(run(wire.packets)) == [("/next", 200)]


def test_connections_between_the_same_ends(run: Any) -> None:
    wire = Wire()
    for number in range(53):
        wire.open(number=1000 + number * 99_991)
        wire.exchange(b"%d" % number)
        if number % 3 == 0:
            wire.send(b"", flags=FIN | ACK)
            wire.send(b"", back=True, flags=FIN | ACK)
        elif number % 3 == 1:
            wire.send(b"", back=True, flags=RST | ACK)
    assert told(run(wire.packets)) == [(f"/{number}", 200) for number in range(53)]


def test_a_connection_behind_one_that_was_nothing(run: Any) -> None:
    wire = Wire()
    wire.open()
    for _ in range(499):
        wire.send(b"noise")
        wire.send(b"noise", back=True)
    wire.open(number=777_777)
    wire.exchange(b"after")
    assert told(run(wire.packets)) == [("/after", 200)]


def test_many_connections_at_once(run: Any) -> None:
    wire = Wire()
    ports = range(2000, 2000 + 1009)
    for port in ports:
        wire.open(port)
    for port in ports:
        wire.exchange(b"%d" % port, port=port)
    assert told(run(wire.packets)) == [(f"/{port}", 200) for port in ports]

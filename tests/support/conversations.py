"""Captures of TCP and UDP conversations as networks deliver them: cut, tagged, padded, lost, doubled, out of order."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import count
from typing import NamedTuple

from support import frames as f
from support.capture_files import pcap_header, pcap_record
from support.frames import ACK, FIN, PSH, RST, SYN

SPACE = 1 << 32
KEEP_ALIVE_OCTETS = (0, 1)


class Packet(NamedTuple):
    """A frame and when it was seen, seconds from the beginning."""

    time: float
    frame: bytes


class Path:
    """How the packets of one conversation look on the wire: addresses, tags, options, extension headers, padding."""

    def __init__(self, generator: random.Random, number: int) -> None:
        self.v6 = generator.random() < 0.4
        ends = (number >> 8 & 255, number & 255)
        self.near, self.far = (
            (f"fd00::{number:x}:1", "fd00::ffff:2") if self.v6 else (f"198.18.{ends[0]}.{ends[1]}", "198.19.0.1")
        )
        self.tags = [generator.choice([0x8100, 0x88A8]) for _ in range(generator.choice([0, 0, 0, 1, 2]))]
        self.options = bytes(generator.choice([0, 0, 4, 12, 40])).replace(b"\0", b"\1")
        self.extensions = [
            generator.choice([f.HOP_BY_HOP, f.ROUTING, f.DESTINATION]) for _ in range(generator.choice([0, 0, 1, 3]))
        ]
        self.extensions.sort()  # hop-by-hop comes first, and at most once
        self.extensions = [h for n, h in enumerate(self.extensions) if h or not n]
        self.minimum = generator.choice([0, 60])

    def ip(self, payload: bytes, protocol: int, *, back: bool, **fields: int | bool) -> bytes:
        source, destination = (self.far, self.near) if back else (self.near, self.far)
        if not self.v6:
            return f.ipv4(payload, protocol, source, destination, options=self.options, **fields)  # type: ignore[arg-type]
        for header in reversed(self.extensions):
            payload, protocol = f.extension(payload, protocol, 16), header
        return f.ipv6(payload, protocol, source, destination)

    def frame(self, packet: bytes) -> bytes:
        made = f.tagged(packet, f.IPV6 if self.v6 else f.IPV4, *self.tags)
        return made.ljust(self.minimum, b"\0")


class TcpConversation:
    """One connection; each disturbance is one that a network or a host makes, and an ACK never comes before its data."""

    def __init__(self, generator: random.Random, path: Path, ports: tuple[int, int], start: float) -> None:
        self._generator = generator
        self._path = path
        self._ports = ports
        self._clock = start
        # By direction, back or not: the next sequence number. Some are near the end of the numbers.
        self._numbers = [
            generator.choice([generator.randrange(SPACE), SPACE - generator.randrange(3000)]) for _ in range(2)
        ]

    def __iter__(self) -> Iterator[Packet]:
        if self._generator.random() < 0.7:
            yield from self._open()
            if self._generator.random() < 0.1:
                yield self._segment(back=True, flags=RST | ACK)
                return
        for _ in range(self._generator.randrange(1, 12)):
            yield from self._exchange(back=self._generator.random() < 0.6)
        if self._generator.random() < 0.3:
            reason = self._generator.choice([b"", b"reset because"])
            yield self._segment(back=self._generator.random() < 0.5, payload=reason, flags=RST | ACK)
            return
        for back in (False, True):
            yield self._segment(back=back, flags=FIN | ACK, after=0.01)
            self._numbers[back] += 1
            yield self._segment(back=not back)

    def _segment(
        self,
        *,
        back: bool,
        payload: bytes = b"",
        flags: int = ACK,
        at: int | None = None,
        window: int = 500,
        after: float = 0.0,
    ) -> Packet:
        self._clock += after
        sequence = self._numbers[back] if at is None else at
        source, destination = self._ports[::-1] if back else self._ports
        body = f.tcp(payload, source, destination, sequence=sequence, flags=flags, window=window)
        acknowledged = self._numbers[not back] % SPACE if flags & ACK else 0
        body = body[:8] + acknowledged.to_bytes(4, "big") + body[12:]
        return Packet(self._clock, self._path.frame(self._path.ip(body, f.TCP, back=back)))

    def _open(self) -> Iterator[Packet]:
        for _ in range(self._generator.choice([1, 1, 1, 3])):
            yield self._segment(back=False, flags=SYN, after=1.0)
        self._numbers[0] += 1
        yield self._segment(back=True, flags=SYN | ACK)
        self._numbers[1] += 1
        yield self._segment(back=False, after=0.03)

    def _exchange(self, *, back: bool) -> Iterator[Packet]:
        burst = []
        for _ in range(self._generator.randrange(1, 6)):
            payload = self._generator.randbytes(self._generator.choice([1, 2, 100, 536, 1400]))
            burst.append(self._segment(back=back, payload=payload, flags=ACK | PSH))
            self._numbers[back] += len(payload)
        trouble = self._generator.random()
        if trouble < 0.15 and len(burst) > 1:
            burst[0], burst[1] = burst[1], burst[0]
        elif trouble < 0.3 and len(burst) > 2:
            burst.append(burst.pop(self._generator.randrange(len(burst) - 1)))
        for packet in burst:
            self._clock += 0.0004
            yield packet._replace(time=self._clock)
        if 0.3 < trouble < 0.5:
            self._clock += 0.3
            yield self._generator.choice(burst)._replace(time=self._clock)
        yield self._segment(back=not back, after=0.02)
        if 0.5 < trouble < 0.6:
            yield from self._keep_alive(back=back)
        elif 0.6 < trouble < 0.7:
            yield from self._closed_window(back=back)
        self._clock += self._generator.choice([0.05, 2.0])

    def _keep_alive(self, *, back: bool) -> Iterator[Packet]:
        for _ in range(self._generator.randrange(1, 4)):
            octets = bytes(self._generator.choice(KEEP_ALIVE_OCTETS))
            yield self._segment(back=back, payload=octets, at=self._numbers[back] - 1, after=15.0)
            yield self._segment(back=not back)

    def _closed_window(self, *, back: bool) -> Iterator[Packet]:
        """The probe holds the first octet of what follows, and is not taken; then the window opens."""
        payload = self._generator.randbytes(700)
        yield self._segment(back=not back, window=0)
        yield self._segment(back=back, payload=payload[:1], after=1.0)
        yield self._segment(back=not back, window=0, after=0.02)
        yield self._segment(back=not back)
        yield self._segment(back=back, payload=payload)
        self._numbers[back] += len(payload)
        yield self._segment(back=not back)


def udp_conversation(generator: random.Random, path: Path, ports: tuple[int, int], start: float) -> Iterator[Packet]:
    """Datagrams both ways, some in fragments."""
    clock = start
    for _ in range(generator.randrange(1, 10)):
        back = generator.random() < 0.5
        datagram = f.udp(
            generator.randbytes(generator.choice([0, 1, 17, 512, 3000])), *(ports[::-1] if back else ports)
        )
        clock += 0.1
        if len(datagram) <= 1400:
            yield Packet(clock, path.frame(path.ip(datagram, f.UDP, back=back)))
            continue
        for at in range(0, len(datagram), 1400):
            part, more = datagram[at : at + 1400], at + 1400 < len(datagram)
            if path.v6:
                packet = path.ip(f.fragment(part, f.UDP, at, more=more), f.FRAGMENT, back=back)
            else:
                packet = path.ip(part, f.UDP, back=back, more=more, offset=at)
            yield Packet(clock, path.frame(packet))


def capture(seed: int, conversations: int, snapshot: int = 262144) -> bytes:
    """A pcap file of so many conversations at once."""
    generator = random.Random(seed)  # noqa: S311 - packets, not secrets
    packets: list[tuple[float, int, bytes]] = []
    order = count()
    for number in range(conversations):
        path = Path(generator, number + 1)
        ports = generator.randrange(1024, 65536), generator.choice([80, 443, 5432, 4444])
        start = generator.random() * 20
        made: Iterable[Packet] = (
            TcpConversation(generator, path, ports, start)
            if generator.random() < 0.7
            else udp_conversation(generator, path, ports, start)
        )
        packets += [(packet.time, next(order), packet.frame) for packet in made]
    records = [
        pcap_record(frame[:snapshot], 1_700_000_000 + int(time), int(time % 1 * 1e6), len(frame))
        for time, _, frame in sorted(packets)
    ]
    return pcap_header(snapshot=snapshot) + b"".join(records)

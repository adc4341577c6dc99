"""Segments of a TCP connection as records of the kernel tell them, without a kernel; and a follower that notes its calls."""

from __future__ import annotations

from typing import Any

from otel_netmon.analysis.dns_lookups import Seen
from otel_netmon.analysis.tcp_followers import ConnectionInfo, Follower
from otel_netmon.analysis.tcp_stream import ACK, FIN, RST, SYN, Segment

MILLISECOND = 1_000_000
CLIENT = b"\0" * 10 + b"\xff\xff\xc0\0\2\1" + (40000).to_bytes(2, "big")
SERVER = b"\0" * 10 + b"\xff\xff\xc0\0\2\2" + (8443).to_bytes(2, "big")

Packet = tuple[Seen, Segment]


class Talk:
    """Both sides of one connection: each call gives the packet that it makes, a millisecond behind the one before.

    Args:
        numbers: initial sequence numbers of client and server; near the end by default, so that they wrap.
    """

    def __init__(
        self, client: bytes = CLIENT, server: bytes = SERVER, numbers: tuple[int, int] = (0xFFFFFFF0, 0xFFFFFF00)
    ) -> None:
        self.ends = client, server
        self.time_ns = 0
        self._next = {True: numbers[0], False: numbers[1]}
        self._first = {side: number + 1 & 0xFFFFFFFF for side, number in self._next.items()}

    def first(self, from_client: bool) -> int:
        """The sequence number of the first octet of a side, if it sent a SYN."""
        return self._first[from_client]

    def open(self) -> list[Packet]:
        """The three packets of a handshake; the third has no payload, and the kernel does not tell it."""
        return [self.syn(True), self.syn(False)]

    def syn(self, from_client: bool, data: bytes = b"") -> Packet:
        self._next[from_client] = self._next[from_client] + 1 & 0xFFFFFFFF
        flags = SYN if from_client else SYN | ACK
        return self.packet(from_client, data, flags)

    def packet(self, from_client: bool, data: bytes, flags: int = ACK, length: int | None = None) -> Packet:
        """The next octets of one side; length where not all of them are captured."""
        self.time_ns += MILLISECOND
        sequence = self._next[from_client]
        length = len(data) if length is None else length
        acknowledgment = self._next[not from_client] if flags & ACK else None
        self._next[from_client] = sequence + length + bool(flags & FIN) & 0xFFFFFFFF
        source, destination = self.ends if from_client else self.ends[::-1]
        seen = Seen(0, 1, 0, 0, 0, source, destination)
        return seen, Segment(self.time_ns, sequence, acknowledgment, flags, length, data)

    def say(self, from_client: bool, data: bytes, size: int = 1460) -> list[Packet]:
        return [self.packet(from_client, data[at : at + size]) for at in range(0, len(data), size)]

    def fin(self, from_client: bool) -> Packet:
        return self.packet(from_client, b"", FIN | ACK)

    def reset(self, from_client: bool) -> Packet:
        return self.packet(from_client, b"", RST)

    def lose(self, from_client: bool, octets: int) -> None:
        """Octets that were sent and are in no capture."""
        self._next[from_client] = self._next[from_client] + octets & 0xFFFFFFFF


class NotingFollower(Follower):
    """Notes every call; its one record, when it ends, is what it noted.

    Attributes:
        calls: octets that follow one another in one direction are joined.
        times: of every call, in ns.
    """

    __slots__ = ("calls", "info", "times")

    def __init__(self, info: ConnectionInfo) -> None:
        super().__init__()
        self.info = info
        self.calls: list[tuple[Any, ...]] = []
        self.times: list[int] = []

    def data(self, from_client: bool, data: bytes, time_ns: int) -> None:
        self.times.append(time_ns)
        if self.calls and self.calls[-1][:2] == ("data", from_client):
            data = self.calls.pop()[2] + data
        self.calls.append(("data", from_client, data))

    def gap(self, from_client: bool, octets: int, time_ns: int) -> None:
        self.times.append(time_ns)
        self.calls.append(("gap", from_client, octets))

    def end(self, from_client: bool, time_ns: int, reset: bool) -> None:
        self.times.append(time_ns)
        self.calls.append(("end", from_client, reset))

    def finish(self, time_ns: int) -> None:
        self.times.append(time_ns)
        self.records.append(self)

    @property
    def done(self) -> bool:
        return False

    def said(self, from_client: bool) -> bytes:
        return b"".join(call[2] for call in self.calls if call[:2] == ("data", from_client))

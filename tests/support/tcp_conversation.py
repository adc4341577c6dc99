"""Frames of a TCP connection through the tc programs."""

from __future__ import annotations

from itertools import pairwise

from otel_netmon.abi.enums import Direction, MessageCount
from otel_netmon.kernel import syscalls
from support import frames as f
from support.frames import ACK, FIN, SYN
from support.message_programs import MessagePrograms

CLIENT_NUMBER, SERVER_NUMBER = 0xFFFFFE00, 5000


class Conversation:
    """Frames of one connection through the programs: those of the client leave, in a replay all come in.

    Args:
        opened: whether its SYNs are seen.
    """

    def __init__(self, programs: MessagePrograms, port: int = 40000, *, opened: bool = True) -> None:
        self._programs = programs
        self._client_direction = Direction.RECEIVE if programs.is_replay else Direction.TRANSMIT
        self._port = port
        self.next = {True: CLIENT_NUMBER, False: SERVER_NUMBER}
        self.time = 0
        if opened:
            self.send(b"", flags=SYN)
            self.send(b"", from_client=False, flags=SYN | ACK)
        else:
            self.next = {True: CLIENT_NUMBER + 1 & 0xFFFFFFFF, False: SERVER_NUMBER + 1}

    def send(
        self,
        data: bytes,
        *,
        from_client: bool = True,
        flags: int = ACK,
        at: int | None = None,
        length: int | None = None,
    ) -> None:
        """Sends octets; at: at this offset behind the last SYN of the side, and the next ones go on as if it had not."""
        number = self.next[from_client] if at is None else self.first(from_client) + at
        other = self.next[not from_client]
        ports = (self._port, 443) if from_client else (443, self._port)
        ends = (f.A4, f.B4) if from_client else (f.B4, f.A4)
        segment = f.tcp(data, *ports, sequence=number, acknowledgment=other, flags=flags)
        self.time += 1
        direction = self._client_direction if from_client else Direction.RECEIVE
        self._programs.run(f.ethernet(f.ipv4(segment, f.TCP, *ends)), self.time, direction, length=length)
        if at is None:
            self.next[from_client] = number + len(data) + bool(flags & SYN) + bool(flags & FIN) & 0xFFFFFFFF

    def first(self, from_client: bool = True) -> int:
        return (CLIENT_NUMBER if from_client else SERVER_NUMBER) + 1 & 0xFFFFFFFF

    def cut(self, data: bytes, *cuts: int, from_client: bool = True) -> None:
        for begin, end in pairwise([0, *cuts, len(data)]):
            self.send(data[begin:end], from_client=from_client)


def clear(programs: MessagePrograms) -> MessagePrograms:
    programs.clear()
    programs.records()
    for what in MessageCount:
        if what is not MessageCount.NUMBER:
            zeros = bytes(8 * syscalls.possible_cpus())
            syscalls.map_update(programs.loaded.maps["message_counts"], what.to_bytes(4, "little"), zeros)
    return programs

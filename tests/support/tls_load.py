"""Handshakes at a rate: those that OpenSSL made once, sent again as packets, each from a client of its own."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from otel_netmon.analysis.tcp_stream import ACK
from support.http2_captures import frame_of
from support.netns import NetNs
from support.tcp_talk import Talk
from support.tls_talk import Authority, contexts, converse

NAMES = 50
TICK_SECONDS = 0.001
_SOURCE, _DESTINATION, _PORTS = 26, 30, 34  # of an Ethernet frame with IPv4


class Frame(NamedTuple):
    """One frame of a handshake, without the client's address."""

    from_client: bool
    octets: bytes


def recorded(folder: Path, version: ssl.TLSVersion, *, resumed: bool = False) -> list[list[Frame]]:
    """Connections with a handshake, a question, an answer and their end: one for each of NAMES servers' names."""
    authority = Authority(folder)
    both = contexts(authority.issue(["*.shop.example"]), authority.file, version)
    for each in both:
        each.set_alpn_protocols(["h2", "http/1.1"])
    made = []
    for number in range(NAMES):
        name = f"n{number:02}.shop.example"
        said = converse(both, name)
        if resumed:
            said = converse(both, name, said.client.session)
        assert said.error is None, said.error
        talk = Talk()
        packets = [*talk.open(), talk.packet(True, b"", ACK)]
        for from_client, data in said.flights:
            packets += talk.say(from_client, data)
        packets += [talk.fin(True), talk.fin(False), talk.packet(True, b"", ACK)]
        made.append([Frame(seen.source == talk.ends[0], frame_of((seen, segment))[1]) for seen, segment in packets])
    return made


class Sender:
    """Sends handshakes over a link whose ends are in two namespaces; no socket there ever gets a packet of them.

    Args:
        ends: (namespace, interface) of the clients, and of the servers.
    """

    def __init__(self, ends: Sequence[tuple[NetNs, str]]) -> None:
        self.packets = 0
        self._sockets = []
        for where, interface in ends:
            opened = where.socket(socket.AF_PACKET, socket.SOCK_RAW)
            opened.bind((interface, 0))
            self._sockets.append(opened)
        self._clients = 0

    def close(self) -> None:
        for each in self._sockets:
            each.close()

    def send(self, kinds: Sequence[list[Frame]], rate: float, many: int) -> float:
        """Sends so many at this rate, a packet of each a millisecond; gives the seconds that it took."""
        began = time.monotonic()
        under_way: list[tuple[bytes, list[Frame], int]] = []
        sent = 0
        while sent < many or under_way:
            now = time.monotonic() - began
            while sent < many and sent <= now * rate:
                self._clients += 1
                client = (0x0A000000 + self._clients).to_bytes(4, "big")  # 10.0.0.0/8
                under_way.append((client, kinds[sent % len(kinds)], 0))
                sent += 1
            left = []
            for client, frames, at in under_way:
                self._put(client, frames[at])
                if at + 1 < len(frames):
                    left.append((client, frames, at + 1))
            under_way = left
            time.sleep(max(0.0, TICK_SECONDS - (time.monotonic() - began - now)))
        return time.monotonic() - began

    def _put(self, client: bytes, frame: Frame) -> None:
        octets = frame.octets
        at = _SOURCE if frame.from_client else _DESTINATION
        self._sockets[not frame.from_client].send(octets[:at] + client + octets[at + 4 :])
        self.packets += 1

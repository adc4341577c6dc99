"""TLS handshakes straight out of a capture, without the kernel: each frame's TCP segment given to the connections."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from otel_netmon.analysis.dns_lookups import Seen
from otel_netmon.analysis.tcp_connections import Connections
from otel_netmon.analysis.tcp_preambles import preamble_recognisers
from otel_netmon.analysis.tcp_stream import Segment
from otel_netmon.analysis.tls import tls_recogniser
from otel_netmon.analysis.tls_certificates import Certificates
from otel_netmon.analysis.tls_handshakes import TlsHandshake
from otel_netmon.decode.capture import Capture, to_ethernet

_TAGS = (0x8100, 0x88A8, 0x9100)
_SKIPPED = (0, 43, 60)
_TCP = 6


def segments(path: str) -> Iterator[tuple[Seen, Segment]]:
    """The TCP segments of a capture in order; fragments and tunnels are left out."""
    with Capture(path) as capture:
        for time_ns, wire_length, link_type, data in capture:
            ethernet = to_ethernet(link_type, data, wire_length)
            if isinstance(ethernet, str):
                continue
            found = _segment(bytes(ethernet[0]), ethernet[1], time_ns)
            if found is not None:
                yield found


def handshakes(path: str) -> list[TlsHandshake]:
    """The handshakes of a capture."""
    connections = Connections([*preamble_recognisers(), tls_recogniser(Certificates())])
    found = []
    now = 0
    for seen, segment in segments(path):
        found += connections.feed(seen, segment)
        if segment.time_ns > now + 1_000_000_000:
            now = segment.time_ns
            found += connections.advance(now)
    return found + connections.finish()


def _segment(frame: bytes, on_wire: int, time_ns: int) -> tuple[Seen, Segment] | None:
    at = 12
    while len(frame) >= at + 2 and int.from_bytes(frame[at : at + 2], "big") in _TAGS:
        at += 4
    ethertype = int.from_bytes(frame[at : at + 2], "big")
    at += 2
    if ethertype == 0x0800:
        if len(frame) < at + 20:
            return None
        header = (frame[at] & 15) * 4
        total = int.from_bytes(frame[at + 2 : at + 4], "big") or len(frame) - at
        protocol, fragment = frame[at + 9], int.from_bytes(frame[at + 6 : at + 8], "big") & 0x3FFF
        source, destination = (bytes(10) + b"\xff\xff" + frame[at + n : at + n + 4] for n in (12, 16))
    elif ethertype == 0x86DD:
        if len(frame) < at + 40:
            return None
        header, total = 40, 40 + int.from_bytes(frame[at + 4 : at + 6], "big")
        protocol, fragment = frame[at + 6], 0
        source, destination = frame[at + 8 : at + 24], frame[at + 24 : at + 40]
        while protocol in _SKIPPED and at + header + 2 <= len(frame):
            protocol, header = frame[at + header], header + 8 * (frame[at + header + 1] + 1)
    else:
        return None
    tcp = at + header
    if protocol != _TCP or fragment or len(frame) < tcp + 20:
        return None
    flags = frame[tcp + 13]
    begin = tcp + (frame[tcp + 12] >> 4) * 4
    length = max(0, min(at + total, on_wire) - begin)
    sequence = int.from_bytes(frame[tcp + 4 : tcp + 8], "big") + (flags >> 1 & 1) & 0xFFFFFFFF
    acknowledgment = int.from_bytes(frame[tcp + 8 : tcp + 12], "big") if flags & 16 else None
    seen = Seen(0, 1, 0, 0, 0, source + frame[tcp : tcp + 2], destination + frame[tcp + 2 : tcp + 4])
    return seen, Segment(time_ns, sequence, acknowledgment, flags, length, frame[begin : begin + length])


def address(end: bytes) -> str:
    """An address and port as 18 octets, as text."""
    mapped = end[:12] == bytes(10) + b"\xff\xff"
    host = socket.inet_ntoa(end[12:16]) if mapped else socket.inet_ntop(socket.AF_INET6, end[:16])
    return f"{host}:{int.from_bytes(end[16:], 'big')}"

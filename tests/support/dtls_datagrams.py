"""Datagrams of DTLS built octet by octet."""

from __future__ import annotations

from struct import pack

from support import tls_messages as t

DTLS10, DTLS12, DTLS13 = 0xFEFF, 0xFEFD, 0xFEFC


def message(body: bytes, offset: int, data: bytes, sequence: int = 0, kind: int = t.CLIENT_HELLO) -> bytes:
    """A fragment of a handshake message."""
    return bytes([kind]) + t.vector(body, 3)[:3] + pack(">H", sequence) + offset.to_bytes(3, "big") + t.vector(data, 3)


def record(data: bytes, version: int = DTLS12, epoch: int = 0, kind: int = t.HANDSHAKE) -> bytes:
    return pack(">BHHHIH", kind, version, epoch, 0, 7, len(data)) + data


def hello(name: bytes, sequence: int = 0) -> bytes:
    """A datagram with a whole ClientHello."""
    body = t.client_hello([0xC02B], [t.server_name(name), t.alpn(b"webrtc")], DTLS12, cookie=b"")
    return record(message(body, 0, body, sequence))

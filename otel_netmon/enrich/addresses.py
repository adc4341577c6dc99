"""Addresses of the kernel contract as text."""

from __future__ import annotations

from socket import AF_INET, AF_INET6, inet_ntop

_V4_MAPPED = b"\0" * 10 + b"\xff\xff"


def address_text(address: bytes) -> str:
    """Gives 16 bytes in network order as text, v4-mapped ones (RFC 4291, 2.5.5.2) as IPv4."""
    if address[:12] == _V4_MAPPED:
        return inet_ntop(AF_INET, address[12:])
    return inet_ntop(AF_INET6, address)

"""Lookups that are sealed: which TLS and QUIC handshakes are with a resolver. What is asked inside nobody can tell.

DNS over TLS (RFC 7858), over QUIC (RFC 9250) and over HTTPS (RFC 8484). The first two have a port and an ALPN name of their own;
DNS over HTTPS looks like any HTTPS, so it is told by the name of a server that is known to be a resolver, never by its traffic.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

EncryptedTransport = Literal["dot", "doq", "doh"]

PORT = 853
"""Of DNS over TLS, and over QUIC."""


def encrypted_transport(
    server_port: int, alpn: Collection[str], server_name: str | None, quic: bool, resolvers: Collection[str]
) -> EncryptedTransport | None:
    """What a handshake is for, where it is with a resolver.

    Args:
        alpn: names that the client offers.
        server_name: that it asks for.
        quic: over QUIC, not TCP.
        resolvers: names of servers that are resolvers, without a dot at the end, in lower case; each with all names below it.
    """
    if quic:
        if "doq" in alpn or (server_port == PORT and not alpn):
            return "doq"
    elif "dot" in alpn or server_port == PORT:
        return "dot"
    if server_name is None:
        return None
    name = server_name.rstrip(".").lower()
    while name:
        if name in resolvers:
            return "doh"
        _, _, name = name.partition(".")
    return None

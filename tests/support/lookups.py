"""DNS lookups over a link of a test: a server that answers every question, and a client that asks."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Self

from support import dns_messages as dns
from support.netns import NetNs

PORT = 53
ADDRESS = dns.address("192.0.2.53")


class Lookups:
    """A client in one namespace and a server in the other, both driven by the caller: no lookup is ever left open.

    Args:
        client: asks.
        server: answers each question with one A record.
        address: of the server's end of the link.
    """

    def __init__(self, client: NetNs, server: NetNs, address: str) -> None:
        self._server = server.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._server.bind((address, PORT))
        self._client = client.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._client.connect((address, PORT))
        for end in (self._server, self._client):
            end.settimeout(10.0)
        self.answered = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._server.close()

    def ask(self, names: Iterable[str]) -> int:
        """Looks every name up, one after the other; gives how many were answered since the beginning."""
        for name in names:
            self.answered += 1
            identifier = self.answered % 0xFFFF + 1
            self._client.send(dns.query(identifier, name))
            query, client = self._server.recvfrom(512)
            self._server.sendto(dns.response(int.from_bytes(query[:2], "big"), name, ADDRESS), client)
            self._client.recv(512)
        return self.answered

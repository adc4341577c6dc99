"""Servers by name and port: when their certificates end, and what of them was told already."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.differences import fingerprints
from otel_netmon.analysis.tls_handshakes import TlsHandshake
from otel_netmon.decode.x509 import Certificate

TOLD_AGAIN_SECONDS = 86_400.0
"""What does not change is told once a day."""

FORGOTTEN_SECONDS = 86_400.0
"""A server of which no certificate was seen for so long is forgotten."""

_TOLD_MAX = 16_384
_ENDS_MAX = 4096
_END = np.dtype([("address", "u1", 16), ("port", ">u2"), ("reserved", "<u2")])
_SEED = 0x9E3779B97F4A7C15


class Server(NamedTuple):
    """Who is asked: the name that the client asked for, or the address of who was asked; and the port."""

    name: str
    port: int


class ServerCertificate(NamedTuple):
    """The certificate that a server showed last.

    Attributes:
        seen_seconds: when the server was seen last, Unix time.
        is_asked_for: it was shown to a handshake of the agent's own.
    """

    certificate: Certificate
    seen_seconds: float
    is_asked_for: bool = False


class ServerCertificates:
    """The certificates of servers; the server not seen for longest goes first.

    Args:
        limit: how many servers are kept.

    Attributes:
        evicted: how many lost their place to others.
    """

    def __init__(self, limit: int) -> None:
        self.evicted = 0
        self._limit = limit
        self._servers: OrderedDict[Server, ServerCertificate] = OrderedDict()

    def __len__(self) -> int:
        return len(self._servers)

    def see(self, server: Server, handshake: TlsHandshake, now_seconds: float) -> Certificate | None:
        """Takes what a handshake showed; gives the server's certificate, None where it is sealed or cannot be read."""
        leaf = handshake.leaf
        if leaf is not None:
            self._keep(server, ServerCertificate(leaf, now_seconds))
        elif (last := self._servers.get(server)) is not None and last.is_asked_for:
            self._keep(server, last._replace(seen_seconds=now_seconds))
        return leaf

    def take(self, server: Server, certificate: Certificate, now_seconds: float) -> None:
        """Takes what a server showed to a handshake of the agent's own."""
        self._keep(server, ServerCertificate(certificate, now_seconds, is_asked_for=True))

    def shows(self, server: Server) -> bool:
        """Whether a server has shown its certificate in the clear of late."""
        last = self._servers.get(server)
        return last is not None and not last.is_asked_for

    def _keep(self, server: Server, last: ServerCertificate) -> None:
        self._servers[server] = last
        self._servers.move_to_end(server)
        if len(self._servers) > self._limit:
            self._servers.popitem(last=False)
            self.evicted += 1

    def asked_for(self) -> dict[Server, ServerCertificate]:
        """Those that were shown to handshakes of the agent's own."""
        return {server: last for server, last in self._servers.items() if last.is_asked_for}

    def restore(self, server: Server, last: ServerCertificate) -> None:
        """Takes what another process knew."""
        self._keep(server, last)

    def current(self, now_seconds: float) -> list[tuple[Server, ServerCertificate]]:
        """The servers that are known and the certificates they showed last; forgets those not seen for a day."""
        while self._servers:
            server, last = next(iter(self._servers.items()))
            if last.seen_seconds >= now_seconds - FORGOTTEN_SECONDS:
                break
            del self._servers[server]
        return list(self._servers.items())


class Told:
    """What was told of late, so that it is not told again and again; what was told first is forgotten first."""

    def __init__(self) -> None:
        self._told: OrderedDict[tuple[object, ...], float] = OrderedDict()

    def is_new(self, now_seconds: float, *what: object) -> bool:
        """Whether something was not told within a day; then it is now."""
        told = self._told.get(what)
        if told is not None and told > now_seconds - TOLD_AGAIN_SECONDS:
            return False
        self._told[what] = now_seconds
        self._told.move_to_end(what)
        if len(self._told) > _TOLD_MAX:
            self._told.popitem(last=False)
        return True


class TlsEnds:
    """Addresses and ports where servers were seen to speak TLS, 4,096 of them; the one not seen for longest goes first."""

    def __init__(self) -> None:
        self._ends: OrderedDict[bytes, float] = OrderedDict()
        self._marks: npt.NDArray[np.uint64] | None = None

    def see(self, end: bytes, now_seconds: float) -> None:
        """Takes an end, 18 octets, that has answered a ClientHello with a ServerHello."""
        if end not in self._ends:
            self._marks = None
        self._ends[end] = now_seconds
        self._ends.move_to_end(end)
        if len(self._ends) > _ENDS_MAX:
            self._ends.popitem(last=False)
            self._marks = None

    def knows(self, end: bytes) -> bool:
        """Whether TLS was spoken there."""
        return end in self._ends

    def among(self, heads: npt.NDArray[Any]) -> list[tuple[int, bytes]]:
        """The records, layout.MESSAGE, of which one end is known: place and end."""
        if not self._ends or not len(heads):
            return []
        if self._marks is None:
            octets = np.frombuffer(b"".join([end + b"\0\0" for end in self._ends]), _END)
            self._marks = fingerprints(octets, _SEED)
        found: list[tuple[int, bytes]] = []
        for address, port in (("source", "source_port"), ("destination", "destination_port")):
            ends = np.zeros(len(heads), _END)
            ends["address"], ends["port"] = heads[address], heads[port]
            for place in np.flatnonzero(np.isin(fingerprints(ends, _SEED), self._marks)).tolist():
                end = ends[place].tobytes()[:18]
                if end in self._ends:
                    found.append((place, end))
        return found

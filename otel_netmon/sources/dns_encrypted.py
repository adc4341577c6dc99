"""Lookups that are sealed: handshakes with resolvers over TLS and hellos over QUIC -> netmon.dns.encrypted.*.

How many lookups are in a connection, and for what, is sealed; so connections are counted, with resolver and handshake.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from otel_netmon.analysis.dns_encrypted import encrypted_transport
from otel_netmon.analysis.tls_datagrams import DatagramHello
from otel_netmon.analysis.tls_handshakes import TlsHandshake
from otel_netmon.analysis.tls_series import NO_ERROR, error_number, error_text, lasted_ns
from otel_netmon.enrich.addresses import address_text
from otel_netmon.otel.attributes import Value
from otel_netmon.otel.histograms import Distribution
from otel_netmon.otel.points import Point, Points
from otel_netmon.otel.series_sets import OVERFLOW

HANDSHAKES = "netmon.dns.encrypted.handshake.duration"
HELLOS = "netmon.dns.encrypted.hellos"

RESOLVERS_MAX = 63
"""Kinds of hellos that are told apart; further ones are counted together."""

_STATE = "dns.encrypted"
_REST = ("", "", 0)

Kind = tuple[str, str, int]
"""Transport, address and port of the resolver."""


class EncryptedLookups:
    """Counts handshakes and hellos that are with a resolver.

    Args:
        resolvers: see ``analysis.dns_encrypted``; in any case, with a dot at the end or without.
        start_ns: Unix time at which counting began.
    """

    def __init__(self, resolvers: Collection[str], start_ns: int) -> None:
        self._resolvers = frozenset(name.rstrip(".").lower() for name in resolvers)
        self._handshakes = Distribution(HANDSHAKES, start_ns)
        self._hellos: Counter[Kind] = Counter()
        self._start_ns = start_ns

    def take_handshakes(self, handshakes: Sequence[TlsHandshake]) -> None:
        """Takes handshakes that are over."""
        self._handshakes.record(
            (_attributes(kind, error_number(each)), lasted_ns(each) / 1e9)
            for each in handshakes
            if (kind := self._kind(each.connection.server, each.hello.alpn, each.server_name, quic=False)) is not None
        )

    def take_hellos(self, hellos: Sequence[DatagramHello]) -> None:
        """Takes hellos that came in datagrams; those of DTLS are no lookup's."""
        for each in hellos:
            if each.carrier != "quic":
                continue
            kind = self._kind(each.seen.destination, each.hello.alpn, each.hello.server_name, quic=True)
            if kind is not None:
                is_known = kind in self._hellos or len(self._hellos) < RESOLVERS_MAX
                self._hellos[kind if is_known else _REST] += 1

    def _kind(self, server: bytes, alpn: Collection[str], name: str | None, *, quic: bool) -> Kind | None:
        port = int.from_bytes(server[16:], "big")
        transport = encrypted_transport(port, alpn, name, quic, self._resolvers)
        return None if transport is None else (transport, address_text(server[:16]), port)

    def points(self) -> dict[str, Points]:
        """The points of this cycle."""
        hellos = [Point(_attributes(kind), count, self._start_ns) for kind, count in self._hellos.items()]
        return {**self._handshakes.points(), HELLOS: hellos}

    def state(self) -> dict[str, dict[str, Any]]:
        """What another process needs to go on."""
        hellos = {f"{transport} {port} {address}": count for (transport, address, port), count in self._hellos.items()}
        return {f"{_STATE}.handshakes": self._handshakes.state(), f"{_STATE}.hellos": hellos}

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Goes on where another process was, before anything is counted."""
        self._handshakes.restore(state[f"{_STATE}.handshakes"])
        for name, count in state[f"{_STATE}.hellos"].items():
            transport, port, address = name.split(" ")
            self._hellos[transport, address, int(port)] = count


def _attributes(kind: Kind, error: int = NO_ERROR) -> dict[str, Value]:
    if kind == _REST:
        return dict(OVERFLOW)
    transport, address, port = kind
    attributes: dict[str, Value] = {
        "netmon.dns.encrypted.transport": transport,
        "server.address": address,
        "server.port": port,
    }
    if error != NO_ERROR:
        attributes["error.type"] = error_text(error)
    return attributes

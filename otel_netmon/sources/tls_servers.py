"""What servers of TLS show of themselves: certificates and weaknesses -> points and events, each event once a day."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from otel_netmon.analysis.tls_certificates import Certificates
from otel_netmon.analysis.tls_due import server_of_key
from otel_netmon.analysis.tls_handshakes import TlsHandshake
from otel_netmon.analysis.tls_servers import Server, ServerCertificate, ServerCertificates, Told
from otel_netmon.analysis.tls_weak import Thresholds, Weakness, chain_weaknesses, weaknesses
from otel_netmon.config.model import TlsProbe
from otel_netmon.decode.tls_numbers import TLS10, TLS11, TLS12, TLS13
from otel_netmon.decode.x509 import Certificate
from otel_netmon.otel import tls as told, tls_events as events
from otel_netmon.otel.points import Points
from otel_netmon.otel.spans import Event
from otel_netmon.sources.tls_active import ActiveCertificates

_VERSIONS = {"1.0": TLS10, "1.1": TLS11, "1.2": TLS12, "1.3": TLS13}
_DAY_SECONDS = 86_400.0
_EVENTS_MAX = 256


class TlsServers:
    """Knows servers by what handshakes show of them.

    Args:
        probe: the configuration.
        known: where certificates are read.
        start_ns: Unix time at which counting began.

    Attributes:
        active: asks for certificates that nobody can see; None unless that is configured.
    """

    def __init__(self, probe: TlsProbe, known: Certificates, start_ns: int) -> None:
        self.active = ActiveCertificates(probe.server_names) if probe.certificate == "active" else None
        self._known = known
        self._thresholds = Thresholds(
            _VERSIONS[probe.minimum_version], probe.minimum_rsa_bits, probe.minimum_curve_bits, probe.minimum_group_bits
        )
        self._warning_seconds = probe.expiry_warning_days * _DAY_SECONDS
        self._servers = ServerCertificates(probe.server_names)
        self._told = Told()
        self._weak: Counter[Weakness] = Counter()
        self._weak_asked_for: Counter[Weakness] = Counter()
        self._events: list[Event] = []
        self._start_ns = start_ns

    def look_at(
        self, handshakes: Iterable[TlsHandshake], servers: Iterable[Server], unix_ns: int
    ) -> list[tuple[Weakness, ...]]:
        """Notes what servers showed; gives what is weak about each handshake.

        Args:
            servers: of each handshake.
            unix_ns: Unix time.
        """
        return [
            self._look_at(handshake, server, unix_ns) for handshake, server in zip(handshakes, servers, strict=True)
        ]

    def plain(self, ends: Sequence[bytes], unix_ns: int) -> None:
        """Takes that something was asked for in the clear where TLS is spoken, 18 octets each."""
        for end in ends:
            self._weak[Weakness.PLAINTEXT] += 1
            self._tell_weak(told.server_at(end), Weakness.PLAINTEXT, None, unix_ns)

    def ask(self, now_ns: int, unix_ns: int) -> None:
        """Asks the server that is due for its certificate, and takes what the one before has answered.

        Args:
            now_ns: CLOCK_MONOTONIC; unix_ns: Unix time.
        """
        active, seconds = self.active, unix_ns / 1e9
        answer = active.advance(now_ns, seconds) if active is not None else None
        if active is None or answer is None:
            return
        server, failure = answer.due.server, answer.failure
        chain = [self._known.get(der) for der in answer.chain]
        if chain and isinstance(chain[0], Certificate):
            kinds = chain_weaknesses(chain, answer.due.name, self._thresholds, seconds)
            self._take(server, chain[0], kinds, unix_ns)
            active.counts["read"] += 1
            return
        failure = failure or "unreadable"
        active.counts[failure] += 1
        if len(self._events) < _EVENTS_MAX:
            self._events.append(events.unread_event(server, failure, unix_ns))

    def take_events(self) -> list[Event]:
        """The events since the last call."""
        events, self._events = self._events, []
        return events

    def points(self, now_ns: int) -> dict[str, Points]:
        """The points of this cycle.

        Args:
            now_ns: Unix time.
        """
        seconds = now_ns / 1e9
        return {
            **told.weak_points(self._weak, self._weak_asked_for, self._start_ns),
            **told.expiry_points(self._servers.current(seconds), seconds, self._start_ns),
        }

    def state(self) -> dict[str, dict[str, Any]]:
        """What another process needs to go on. Certificates in the clear come again with the next handshakes."""
        weak = {
            **{f"weak.{kind.value}": count for kind, count in self._weak.items()},
            **{f"asked_for.{kind.value}": count for kind, count in self._weak_asked_for.items()},
        }
        if self.active is None:
            return {"tls.weak": weak}
        shown = {
            f"{server.port} {server.name}": msgspec.json.encode(last).decode()
            for server, last in self._servers.asked_for().items()
        }
        return {"tls.weak": weak, "tls.shown": shown, **self.active.state()}

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Goes on where another process was."""
        for key, count in state["tls.weak"].items():
            table, _, kind = key.partition(".")
            (self._weak if table == "weak" else self._weak_asked_for)[Weakness(kind)] = count
        if self.active is not None:
            self.active.restore(state)
            for key, text in state["tls.shown"].items():
                self._servers.restore(server_of_key(key), msgspec.json.decode(text, type=ServerCertificate))

    def _look_at(self, handshake: TlsHandshake, server: Server, unix_ns: int) -> tuple[Weakness, ...]:
        seconds = unix_ns / 1e9
        kinds = weaknesses(handshake, self._thresholds, seconds)
        leaf = self._servers.see(server, handshake, seconds)
        if leaf is not None:
            self._tell_end(server, leaf, unix_ns)
        elif self.active is not None and not self._servers.shows(server):
            self.active.due.see(server, handshake, seconds)
        for kind in kinds:
            self._weak[kind] += 1
            self._tell_weak(server, kind, handshake, unix_ns)
        return kinds

    def _take(self, server: Server, certificate: Certificate, kinds: tuple[Weakness, ...], unix_ns: int) -> None:
        """Takes what a server showed to a handshake of the agent's own."""
        seconds = unix_ns / 1e9
        self._servers.take(server, certificate, seconds)
        self._tell_end(server, certificate, unix_ns, asked_for=True)
        self._weak_asked_for.update(kinds)
        for kind in kinds:
            if len(self._events) < _EVENTS_MAX and self._told.is_new(seconds, server, kind):
                self._events.append(events.weak_certificate_event(server, kind, certificate, unix_ns))

    def _tell_end(self, server: Server, leaf: Certificate, unix_ns: int, *, asked_for: bool = False) -> None:
        seconds = unix_ns / 1e9
        if leaf.not_after >= seconds + self._warning_seconds or len(self._events) >= _EVENTS_MAX:
            return
        if self._told.is_new(seconds, server, leaf.sha256):
            self._events.append(events.expiring_event(server, leaf, unix_ns, asked_for=asked_for))

    def _tell_weak(self, server: Server, kind: Weakness, handshake: TlsHandshake | None, unix_ns: int) -> None:
        if len(self._events) < _EVENTS_MAX and self._told.is_new(unix_ns / 1e9, server, kind):
            self._events.append(events.weak_event(server, kind, handshake, unix_ns))

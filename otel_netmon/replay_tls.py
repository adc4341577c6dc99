"""The TLS part of a replay: handshakes to the ``tls`` list of its JSON."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from otel_netmon.analysis.tcp_followers import Recogniser
from otel_netmon.analysis.tls import tls_recogniser
from otel_netmon.analysis.tls_certificates import Certificates
from otel_netmon.analysis.tls_handshakes import TlsHandshake
from otel_netmon.decode.tls_ciphers import cipher_name
from otel_netmon.decode.tls_numbers import alert_name, group_name, version_name
from otel_netmon.enrich.addresses import address_text

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OUTCOMES = {
    "established": "established",
    "alert": "failed",
    "closed": "failed",
    "reset": "failed",
    "not_tls": "failed",
    "timed_out": "incomplete",
    "incomplete": "incomplete",
}


class TlsReplay:
    """Handshakes of one capture."""

    def __init__(self) -> None:
        self._known = Certificates()
        self._handshakes: list[TlsHandshake] = []

    def recognisers(self) -> tuple[Recogniser, ...]:
        """How TLS is recognised."""
        return (tls_recogniser(self._known),)

    def take(self, records: Iterable[object]) -> None:
        """Takes the handshakes among records, in any order."""
        self._handshakes += [record for record in records if isinstance(record, TlsHandshake)]

    def finish(self) -> list[dict[str, Any]]:
        """Gives every handshake in the order of the hellos."""
        return [tls_entry(each) for each in sorted(self._handshakes, key=lambda each: each.start_ns)]


def tls_entry(handshake: TlsHandshake) -> dict[str, Any]:
    """One handshake as it is printed."""
    answer, hello, not_after = handshake.answer, handshake.hello, handshake.not_after
    client, server = handshake.connection.client, handshake.connection.server
    duration = handshake.duration_ns
    return {
        "client": address_text(client[:16]),
        "client_port": int.from_bytes(client[16:], "big"),
        "server": address_text(server[:16]),
        "server_port": int.from_bytes(server[16:], "big"),
        "sni": handshake.server_name,
        "version": None if answer is None else version_name(answer.version),
        "version_offered": version_name(hello.version),
        "cipher": None if answer is None else cipher_name(answer.cipher),
        "alpn": None if answer is None else answer.alpn,
        "alpn_offered": list(hello.alpn),
        "group": None if handshake.group is None else group_name(handshake.group),
        "resumed": handshake.resumed,
        "ja3": handshake.ja3,
        "ja3s": handshake.ja3s,
        "ja4": handshake.ja4,
        "handshake_ms": None if duration is None or answer is None else duration / 1e6,
        "cert_not_after": None if not_after is None else _stamp(not_after),
        "alert": _first_alert(handshake),
        "outcome": _OUTCOMES[handshake.outcome],
    }


def _stamp(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ").rjust(20, "0")


def _first_alert(handshake: TlsHandshake) -> str | None:
    if not handshake.alerts:
        return None
    description = handshake.alerts[0].description
    return "sealed" if description is None else alert_name(description)

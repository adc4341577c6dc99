"""Events about servers of TLS, and what is told of their certificates."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from otel_netmon.analysis.tls_handshakes import TlsHandshake
from otel_netmon.analysis.tls_servers import Server
from otel_netmon.analysis.tls_weak import Weakness
from otel_netmon.decode.tls_ciphers import cipher_name
from otel_netmon.decode.tls_numbers import SSL3, version_name
from otel_netmon.decode.x509 import Certificate
from otel_netmon.otel.attributes import Tag, Value, encode
from otel_netmon.otel.spans import Event, Severity

EXPIRING_EVENT = "netmon.tls.certificate.expiring"
UNREAD_EVENT = "netmon.tls.certificate.unread"
WEAK_EVENT = "netmon.tls.weak"
ASKED_FOR: Final[Mapping[str, Value]] = {"netmon.tls.certificate.source": "active"}
"""Of what was found by a handshake of the agent's own."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = 86_400.0


def version_text(version: int) -> str:
    """The number alone, as the conventions want it."""
    return "3" if version == SSL3 else version_name(version)


def certificate_attributes(certificate: Certificate) -> dict[str, Value]:
    """What is told of a server's own certificate."""
    return {
        "tls.server.subject": certificate.subject,
        "tls.server.issuer": certificate.issuer,
        "tls.server.not_before": _stamp(certificate.not_before),
        "tls.server.not_after": _stamp(certificate.not_after),
        "tls.server.hash.sha256": certificate.sha256.upper(),
    }


def _stamp(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def _server_attributes(server: Server) -> dict[str, Value]:
    return {"server.address": server.name, "server.port": server.port}


def expiring_event(server: Server, certificate: Certificate, now_ns: int, *, asked_for: bool = False) -> Event:
    """A server's certificate ends soon, or has ended.

    Args:
        asked_for: it was shown to a handshake of the agent's own.
    """
    source = ASKED_FOR if asked_for else {}
    left = certificate.not_after - now_ns / 1e9
    when = f"ends in {left / _DAY:.1f} days" if left >= 0 else f"ended {-left / _DAY:.1f} days ago"
    return Event(
        EXPIRING_EVENT,
        now_ns,
        Severity.WARN if left >= 0 else Severity.ERROR,
        f"the certificate of {server.name} port {server.port} {when}, on {_stamp(certificate.not_after)}",
        encode({**_server_attributes(server), **certificate_attributes(certificate), **source}, Tag.LOG_RECORD),
    )


def weak_event(server: Server, kind: Weakness, handshake: TlsHandshake | None, now_ns: int) -> Event:
    """Something of a server is weak; what is in the clear has no handshake."""
    attributes: dict[str, Value] = {**_server_attributes(server), "netmon.tls.weakness": kind.value}
    answer = handshake.answer if handshake is not None else None
    if answer is not None:
        attributes["tls.protocol.version"] = version_text(answer.version)
        attributes["tls.cipher"] = cipher_name(answer.cipher)
    if handshake is not None and handshake.leaf is not None:
        attributes |= certificate_attributes(handshake.leaf)
    return Event(
        WEAK_EVENT,
        now_ns,
        Severity.WARN,
        f"TLS of {server.name} port {server.port} is weak: {kind.value}",
        encode(attributes, Tag.LOG_RECORD),
    )


def weak_certificate_event(server: Server, kind: Weakness, certificate: Certificate, now_ns: int) -> Event:
    """Something about the certificate is weak that a server showed to a handshake of the agent's own."""
    attributes = {"netmon.tls.weakness": kind.value, **certificate_attributes(certificate), **ASKED_FOR}
    return Event(
        WEAK_EVENT,
        now_ns,
        Severity.WARN,
        f"the certificate of {server.name} port {server.port} is weak: {kind.value}",
        encode({**_server_attributes(server), **attributes}, Tag.LOG_RECORD),
    )


def unread_event(server: Server, reason: str, now_ns: int) -> Event:
    """A server showed no certificate to a handshake of the agent's own."""
    return Event(
        UNREAD_EVENT,
        now_ns,
        Severity.WARN,
        f"the certificate of {server.name} port {server.port} could not be read by a handshake of the agent's own: {reason}",
        encode({**_server_attributes(server), "netmon.reason": reason}, Tag.LOG_RECORD),
    )

"""What is known of a TLS handshake: one for each connection with a ClientHello."""

from __future__ import annotations

from typing import Literal, NamedTuple

from otel_netmon.analysis.tcp_followers import ConnectionInfo
from otel_netmon.decode.tls_handshake import KeyExchange
from otel_netmon.decode.tls_hello import ClientHello, ServerHello
from otel_netmon.decode.x509 import Certificate, RefusedCertificate

Outcome = Literal["established", "alert", "closed", "reset", "not_tls", "timed_out", "incomplete"]
"""Both sides seal what they send; one refused by an alert; one ended the connection, or reset it, before that; the other
side speaks no TLS; nothing more came in time; what came was not seen to its end."""

FAILURES: frozenset[Outcome] = frozenset(("alert", "closed", "reset", "not_tls", "timed_out"))


class Alert(NamedTuple):
    """One alert.

    Attributes:
        description: its number; None where it is sealed, so that nobody can tell.
    """

    from_client: bool
    level: int
    description: int | None
    time_ns: int


class TlsHandshake(NamedTuple):
    """One handshake. Times are those of the packets that end what is spoken of.

    Attributes:
        connection: the ends, and where they were seen; client is who sent the ClientHello.
        hello: the first ClientHello.
        answer: the ServerHello, where there is only one the HelloRetryRequest; None without one.
        ja3, ja3s, ja4: fingerprints; ja3s is None without an answer, the others of a hello in the form of SSL 2.
        start_ns: the first ClientHello.
        answer_ns: the ServerHello, or the HelloRetryRequest before it.
        client_ns: what the client answered to the server's first flight.
        finished_ns: when the second of both sides had begun to seal: ChangeCipherSpec before TLS 1.3, in it the first
            sealed record. Of only one of them, where the other was not seen.
        both_sealed: whether both were seen.
        end_ns: the last packet that mattered.
        retried: there was a HelloRetryRequest.
        resumed: whether a session or key from before was taken up; None where that cannot be told.
        group: of the key exchange, by number; None where there is none or it was not seen.
        exchange: what ServerKeyExchange told, None without one.
        chain: the server's certificates in its order, None where they are sealed (TLS 1.3) or there are none.
        chain_length: how many there are.
        asked_for_certificate: the server asked the client for one, as far as that is in the clear.
        client_certificates: how many the client sent in the clear; None where it sent no such message.
        stapled: a CertificateStatus was there.
        alerts: those before sealing, and the first sealed one.
        failed_by_client: who ended it, where outcome is a failure; None where nobody did.
    """

    connection: ConnectionInfo
    hello: ClientHello
    answer: ServerHello | None
    ja3: str | None
    ja3s: str | None
    ja4: str | None
    start_ns: int
    answer_ns: int | None
    client_ns: int | None
    finished_ns: int | None
    both_sealed: bool
    end_ns: int
    retried: bool
    resumed: bool | None
    group: int | None
    exchange: KeyExchange | None
    chain: tuple[Certificate | RefusedCertificate, ...]
    chain_length: int
    asked_for_certificate: bool
    client_certificates: int | None
    stapled: bool
    alerts: tuple[Alert, ...]
    outcome: Outcome
    failed_by_client: bool | None

    @property
    def duration_ns(self) -> int | None:
        """From the ClientHello until both sides seal; None where that was not seen."""
        return None if self.finished_ns is None else self.finished_ns - self.start_ns

    @property
    def server_flight_ns(self) -> int | None:
        """From the ClientHello to the server's first answer."""
        return None if self.answer_ns is None else self.answer_ns - self.start_ns

    @property
    def client_flight_ns(self) -> int | None:
        """From the server's first answer to what the client answered to it."""
        return None if self.answer_ns is None or self.client_ns is None else self.client_ns - self.answer_ns

    @property
    def leaf(self) -> Certificate | None:
        """The server's own certificate, where it is in the clear and can be read."""
        return self.chain[0] if self.chain and isinstance(self.chain[0], Certificate) else None

    @property
    def not_after(self) -> int | None:
        """When the server's certificate ends, Unix seconds, where it is in the clear and that can be read."""
        return self.chain[0].not_after if self.chain else None

    @property
    def server_name(self) -> str | None:
        """The name that the client asked for."""
        return self.hello.server_name

"""Handshakes as the followers tell them, without a connection."""

from __future__ import annotations

from otel_netmon.analysis.tcp_followers import ConnectionInfo
from otel_netmon.analysis.tls_handshakes import Alert, Outcome, TlsHandshake
from otel_netmon.decode.tls_hello import ClientHello, ServerHello
from otel_netmon.decode.x509 import Certificate
from support import tls_messages as t
from support.tcp_talk import CLIENT, SERVER

SECOND = 1_000_000_000
NOW = 1_800_000_000
"""Unix time, seconds."""
START = 5000 * SECOND
"""The first hello by the handshakes' clock."""

CERTIFICATE = Certificate(
    sha256="ab" * 32,
    subject="CN=www.example",
    issuer="CN=An Authority",
    names=("www.example",),
    not_before=NOW - 86_400,
    not_after=NOW + 100 * 86_400,
    key="rsa",
    key_bits=2048,
    signature_hash="sha256",
    is_self_signed=False,
)
CONNECTION = ConnectionInfo(0, 1, CLIENT, SERVER, True, True, START, 0, 0, 0)
HELLO = ClientHello(t.TLS12, b"", (0xC02F, 0x1301), server_name="www.example", alpn=("h2", "http/1.1"))
ANSWER = ServerHello(t.TLS12, t.TLS12, b"", 0xC02F, 0, alpn="h2")
ANSWER_13 = ServerHello(t.TLS12, t.TLS13, b"", 0x1301, 0, group=29)


def handshake(
    outcome: Outcome = "established",
    *,
    answer: ServerHello | None = ANSWER,
    name: str | None = "www.example",
    milliseconds: float = 30,
    start_ns: int = START,
    chain: tuple[Certificate, ...] = (CERTIFICATE,),
    alert: int | None = None,
    connection: ConnectionInfo = CONNECTION,
) -> TlsHandshake:
    """One handshake; `alert` is the description of one that the client sent."""
    end_ns = start_ns + round(milliseconds * 1e6)
    failed = outcome not in ("established", "incomplete")
    return TlsHandshake(
        connection=connection,
        hello=HELLO._replace(server_name=name),
        answer=answer,
        ja3="3" * 32,
        ja3s=None if answer is None else "5" * 32,
        ja4="4" * 36,
        start_ns=start_ns,
        answer_ns=None if answer is None else start_ns + round(milliseconds * 4e5),
        client_ns=None if answer is None else start_ns + round(milliseconds * 7e5),
        finished_ns=None if failed else end_ns,
        both_sealed=not failed,
        end_ns=end_ns,
        retried=False,
        resumed=None if answer is None else not chain,
        group=29,
        exchange=None,
        chain=chain if answer is not None else (),
        chain_length=len(chain) if answer is not None else 0,
        asked_for_certificate=False,
        client_certificates=None,
        stapled=False,
        alerts=() if outcome != "alert" else (Alert(True, 2, alert, end_ns),),
        outcome=outcome,
        failed_by_client=failed or None,
    )

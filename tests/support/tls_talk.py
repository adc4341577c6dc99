"""Real handshakes between two OpenSSL contexts in memory, and what the follower makes of them."""

from __future__ import annotations

import datetime as dt
import ssl
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from otel_netmon.analysis.tcp_connections import Connections
from otel_netmon.analysis.tcp_preambles import preamble_recognisers
from otel_netmon.analysis.tls import tls_recogniser
from otel_netmon.analysis.tls_certificates import Certificates
from otel_netmon.analysis.tls_handshakes import TlsHandshake
from support.tcp_talk import Packet, Talk

Flight = tuple[bool, bytes]
UTC = dt.UTC
NOT_BEFORE = dt.datetime(2024, 1, 1, tzinfo=UTC)
NOT_AFTER = dt.datetime(2034, 6, 7, 8, 9, 10, tzinfo=UTC)


class Authority:
    """Issues certificates for tests.

    Args:
        folder: where certificates and keys are written.
    """

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._sign(self._builder(self._name, self._key.public_key(), authority=True), None)
        self.file = folder / f"{name.replace(' ', '-')}.pem"
        self.file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        names: list[str],
        *,
        rsa_bits: int | None = None,
        not_before: dt.datetime = NOT_BEFORE,
        not_after: dt.datetime = NOT_AFTER,
        subject: str = "",
    ) -> Path:
        """Gives a file with certificate and key for these DNS names."""
        key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = (
            ec.generate_private_key(ec.SECP256R1())
            if rsa_bits is None
            else rsa.generate_private_key(public_exponent=65537, key_size=rsa_bits)
        )
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject or (names[0] if names else "nobody"))])
        builder = self._builder(name, key.public_key(), not_before=not_before, not_after=not_after)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), False)
        made = self._sign(builder, self._key)
        file = self._folder / f"{made.serial_number:x}.pem"
        file.write_bytes(
            made.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return file

    def _builder(
        self,
        subject: x509.Name,
        key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
        *,
        authority: bool = False,
        not_before: dt.datetime = NOT_BEFORE,
        not_after: dt.datetime = NOT_AFTER,
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before)
            .not_valid_after(not_after)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )

    def _sign(self, builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey | None) -> x509.Certificate:
        return builder.sign(key or self._key, hashes.SHA256())


class Outcome(NamedTuple):
    """What the two ends say.

    Attributes:
        flights: what they sent, in order.
        client, server: their objects, which tell what was agreed.
        error: what stopped them.
    """

    flights: list[Flight]
    client: ssl.SSLObject
    server: ssl.SSLObject
    error: str | None


@contextmanager
def old_versions() -> Iterator[None]:
    """TLS 1.0 and 1.1 are what is tested: Python need not warn of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def contexts(
    server_file: Path, authority: Path, version: ssl.TLSVersion, ciphers: str = "ALL"
) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A client's and a server's context that agree on one version."""
    with old_versions():
        client = ssl.create_default_context(cafile=str(authority))
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(server_file)
        for context in (client, server):
            context.minimum_version = context.maximum_version = version
            context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    return client, server


def converse(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
    name: str | None = "secure.example",
    session: ssl.SSLSession | None = None,
    data: tuple[bytes, bytes] = (b"question", b"answer"),
) -> Outcome:
    """Lets a client and a server talk, to the end of the handshake and some data, or to what stops them."""
    hears = {side: ssl.MemoryBIO() for side in (True, False)}
    says = {side: ssl.MemoryBIO() for side in (True, False)}
    client = contexts[0].wrap_bio(hears[True], says[True], server_hostname=name, session=session)
    server = contexts[1].wrap_bio(hears[False], says[False], server_side=True)
    ends = {True: client, False: server}
    shaken = {True: False, False: False}
    flights: list[Flight] = []
    error = None
    silent = 0
    while silent < 2:
        for from_client, end in ends.items():
            try:
                if not shaken[from_client]:
                    end.do_handshake()
                    shaken[from_client] = True
                    if from_client:
                        end.write(data[0])
                elif end.read(1 << 14) == data[0] and not from_client:
                    end.write(data[1])
            except ssl.SSLWantReadError:
                pass
            except (ssl.SSLError, ssl.CertificateError) as refused:
                error = error or str(refused)
            sent = says[from_client].read()
            if sent:
                flights.append((from_client, sent))
                hears[not from_client].write(sent)
            silent = 0 if sent else silent + 1
    return Outcome(flights, client, server, error)


def packets(flights: list[Flight], size: int = 1460, *, close: bool = True) -> list[Packet]:
    """A connection in which this is said."""
    talk = Talk()
    found = talk.open()
    for from_client, data in flights:
        found += talk.say(from_client, data, size)
    if close:
        found += [talk.fin(True), talk.fin(False)]
    return found


def follow(found: list[Packet], known: Certificates | None = None) -> list[TlsHandshake]:
    """The handshakes of these packets."""
    connections = Connections([*preamble_recognisers(), tls_recogniser(known or Certificates())])
    records: list[TlsHandshake] = []
    for seen, segment in found:
        records += connections.feed(seen, segment)
    return records + connections.finish()

"""What is weak about a handshake: RFC 8996 (old versions), RFC 9325 (recommendations for TLS), RFC 9155 (MD5, SHA-1)."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from otel_netmon.analysis.tls_handshakes import TlsHandshake
from otel_netmon.decode.tls_ciphers import cipher_name
from otel_netmon.decode.tls_numbers import TLS12, scheme_name, version_age
from otel_netmon.decode.x509 import Certificate, RefusedCertificate


class Weakness(enum.StrEnum):
    """One kind of weakness."""

    OLD_VERSION = "old_version"
    EXPORT_CIPHER = "export_cipher"
    RC4 = "rc4"
    DES = "des"
    TRIPLE_DES = "3des"
    NULL_CIPHER = "null_cipher"
    ANONYMOUS = "anonymous"
    MD5_SIGNATURE = "md5_signature"
    SHA1_SIGNATURE = "sha1_signature"
    SMALL_KEY = "small_key"
    """Of a certificate."""
    SMALL_GROUP = "small_group"
    """Of the key exchange."""
    SELF_SIGNED = "self_signed"
    WRONG_NAME = "wrong_name"
    """The certificate is not for the name that the client asked for."""
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    PLAINTEXT = "plaintext"
    """No handshake: a request of HTTP in the clear to where TLS is spoken."""


class Thresholds(NamedTuple):
    """From where on something is weak.

    Attributes:
        version: the oldest that is not, by its number.
        rsa_bits, curve_bits: of a key in a certificate, the fewest that are not; rsa_bits of DSA too.
        field_bits: of the prime of a Diffie-Hellman exchange, likewise.
    """

    version: int = TLS12
    rsa_bits: int = 2048
    curve_bits: int = 224
    field_bits: int = 2048


def weaknesses(handshake: TlsHandshake, thresholds: Thresholds, now_seconds: float) -> tuple[Weakness, ...]:
    """What is weak about what the server chose and showed, each kind once; nothing where it chose nothing.

    Args:
        now_seconds: Unix time.
    """
    answer = handshake.answer
    if answer is None or answer.is_retry:
        return ()
    found: dict[Weakness, None] = {}
    if version_age(answer.version) < version_age(thresholds.version):
        found[Weakness.OLD_VERSION] = None
    found |= dict.fromkeys(_of_cipher(answer.cipher))
    exchange = handshake.exchange
    if exchange is not None:
        if exchange.bits is not None and exchange.bits < thresholds.field_bits:
            found[Weakness.SMALL_GROUP] = None
        if exchange.scheme is not None:
            found |= dict.fromkeys(_of_hash(scheme_name(exchange.scheme).rpartition("_")[2]))
    found |= dict.fromkeys(_of_chain(handshake.chain, handshake.server_name, thresholds, now_seconds))
    return tuple(found)


def chain_weaknesses(
    chain: Sequence[Certificate | RefusedCertificate],
    server_name: str | None,
    thresholds: Thresholds,
    now_seconds: float,
) -> tuple[Weakness, ...]:
    """What is weak about certificates, each kind once.

    Args:
        chain: the server's own first.
        server_name: that was asked for.
        now_seconds: Unix time.
    """
    return tuple(dict.fromkeys(_of_chain(chain, server_name, thresholds, now_seconds)))


def _of_chain(
    chain: Sequence[Certificate | RefusedCertificate],
    server_name: str | None,
    thresholds: Thresholds,
    now_seconds: float,
) -> Iterator[Weakness]:
    for place, certificate in enumerate(chain):
        if isinstance(certificate, Certificate):
            yield from _of_certificate(certificate, thresholds)
            if place == 0:
                yield from _of_leaf(certificate, server_name, now_seconds)


@lru_cache(512)
def _of_cipher(number: int) -> tuple[Weakness, ...]:
    words = cipher_name(number).replace("DES40", "DES").split("_")
    kinds = (
        (Weakness.NULL_CIPHER, "NULL" in words),
        (Weakness.EXPORT_CIPHER, "EXPORT" in words or "EXPORT1024" in words),
        (Weakness.RC4, "RC4" in words),
        (Weakness.TRIPLE_DES, "3DES" in words),
        (Weakness.DES, "DES" in words),
        (Weakness.ANONYMOUS, "anon" in words),
    )
    return tuple(kind for kind, fits in kinds if fits)


def _of_hash(name: str | None) -> Iterator[Weakness]:
    if name in ("md2", "md4", "md5"):
        yield Weakness.MD5_SIGNATURE
    elif name == "sha1":
        yield Weakness.SHA1_SIGNATURE


def _of_certificate(certificate: Certificate, thresholds: Thresholds) -> Iterator[Weakness]:
    bits = certificate.key_bits
    fewest = {"rsa": thresholds.rsa_bits, "dsa": thresholds.rsa_bits, "ec": thresholds.curve_bits}.get(certificate.key)
    if bits is not None and fewest is not None and bits < fewest:
        yield Weakness.SMALL_KEY
    if not certificate.is_self_signed:  # nobody checks the signature of a trust anchor
        yield from _of_hash(certificate.signature_hash)


def _of_leaf(certificate: Certificate, server_name: str | None, now_seconds: float) -> Iterator[Weakness]:
    if certificate.is_self_signed:
        yield Weakness.SELF_SIGNED
        yield from _of_hash(certificate.signature_hash)
    if server_name is not None and not certificate.is_for(server_name):
        yield Weakness.WRONG_NAME
    if certificate.not_after < now_seconds:
        yield Weakness.EXPIRED
    elif certificate.not_before > now_seconds:
        yield Weakness.NOT_YET_VALID

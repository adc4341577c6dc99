"""What matters of a certificate for those who run a server: names, keys, signature, validity: RFC 5280, RFC 9525.

The parser is that of the package cryptography, which is loaded when the first certificate is read: it costs 13 MB.
"""

from __future__ import annotations

import functools
import ipaddress
import types
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_netmon.decode.tls_hello import text

if TYPE_CHECKING:
    from cryptography import x509

NAMES_MAX = 256
"""Alternative names kept of one certificate."""

NAMES_OCTETS_MAX = 1 << 14
"""Of all of them."""

TEXT_MAX = 256
"""Characters kept of a subject or an issuer."""

_VERSION_TAG = 0xA0
_UTC_TIME_TAG = 0x17
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SIGNATURE_HASHES = {
    "1.2.840.113549.1.1.2": "md2",
    "1.2.840.113549.1.1.3": "md4",
    "1.2.840.113549.1.1.4": "md5",
    "1.2.840.113549.1.1.5": "sha1",
    "1.3.14.3.2.29": "sha1",
    "1.3.14.3.2.15": "sha1",
    "1.2.840.10040.4.3": "sha1",
    "1.3.14.3.2.27": "sha1",
    "1.2.840.10045.4.1": "sha1",
    "1.2.840.113549.1.1.14": "sha224",
    "1.2.840.113549.1.1.11": "sha256",
    "1.2.840.113549.1.1.12": "sha384",
    "1.2.840.113549.1.1.13": "sha512",
    "1.2.840.10045.4.3.1": "sha224",
    "1.2.840.10045.4.3.2": "sha256",
    "1.2.840.10045.4.3.3": "sha384",
    "1.2.840.10045.4.3.4": "sha512",
    "2.16.840.1.101.3.4.3.1": "sha224",
    "2.16.840.1.101.3.4.3.2": "sha256",
}
"""Of signature algorithms, which name their hash: RFC 3279, 4055, 5758; some do without (Ed25519, ML-DSA)."""

_KEYS_OF_OTHERS = {
    "1.2.840.113549.1.1.1": "rsa",
    "1.2.840.113549.1.1.10": "rsa-pss",
    "1.2.840.10045.2.1": "ec",
    "1.2.840.10040.4.1": "dsa",
    "1.2.156.10197.1.301": "sm2",
    "1.2.643.2.2.19": "gost2001",
    "1.2.643.7.1.1.1.1": "gost2012-256",
    "1.2.643.7.1.1.1.2": "gost2012-512",
    "2.16.840.1.101.3.4.3.17": "ml-dsa-44",
    "2.16.840.1.101.3.4.3.18": "ml-dsa-65",
    "2.16.840.1.101.3.4.3.19": "ml-dsa-87",
}


class Certificate(NamedTuple):
    """A certificate.

    Attributes:
        sha256: of its DER, 64 hexadecimal digits.
        subject, issuer: RFC 4514, printing ASCII characters, at most TEXT_MAX of them.
        names: DNS names and IP addresses it is for, in lower case: its alternative names, or where it has none of any kind
            the common name of its subject.
        not_before, not_after: Unix seconds.
        key: ``rsa``, ``ec``, ``dsa``, ``ed25519``, ``ml-dsa-44``, …, or the object identifier.
        key_bits: of the modulus or the field; None where the kind tells it.
        signature_hash: ``sha256``, …; None where the algorithm has none of its own, or it is not known.
        is_self_signed: it names itself as its issuer.
    """

    sha256: str
    subject: str
    issuer: str
    names: tuple[str, ...]
    not_before: int
    not_after: int
    key: str
    key_bits: int | None
    signature_hash: str | None
    is_self_signed: bool

    def is_for(self, name: str) -> bool:
        """Whether it is for a name: RFC 9525, section 6; the first label may be an asterisk."""
        wanted = name.lower().rstrip(".")
        address = _address(wanted)
        if address is not None:
            return address in self.names
        _, _, parent = wanted.partition(".")
        return wanted in self.names or (bool(parent) and f"*.{parent}" in self.names)


class RefusedCertificate(NamedTuple):
    """What stands where a certificate should and cannot be read.

    Attributes:
        sha256: of it, 64 hexadecimal digits.
        reason: what the parser says.
        not_after: Unix seconds, where at least that can be read.
    """

    sha256: str
    reason: str
    not_after: int | None = None


def parse_certificate(der: bytes) -> Certificate | RefusedCertificate:
    """Reads a certificate.

    Args:
        der: as in a Certificate message.
    """
    digest = sha256(der).hexdigest()
    x509 = _x509()
    try:
        with warnings.catch_warnings():
            # The parser warns of what is against the rules and met anyway (serial numbers that are not positive): nothing
            # is wrong with what is taken from it.
            warnings.simplefilter("ignore")
            return _read(x509.load_der_x509_certificate(der), digest)
    except (ValueError, OverflowError, TypeError, x509.InvalidVersion) as error:
        return RefusedCertificate(digest, _bounded(str(error)), _not_after(der))


@functools.cache
def _x509() -> types.ModuleType:
    from cryptography import x509

    return x509


def _read(certificate: x509.Certificate, digest: str) -> Certificate:
    subject, issuer = certificate.subject, certificate.issuer
    key, bits = _key(certificate)
    return Certificate(
        digest,
        _bounded(subject.rfc4514_string()),
        _bounded(issuer.rfc4514_string()),
        tuple(_names(certificate)),
        _seconds(certificate.not_valid_before_utc),
        _seconds(certificate.not_valid_after_utc),
        key,
        bits,
        _signature_hash(certificate),
        subject == issuer,
    )


def _seconds(at: datetime) -> int:
    return round((at - _EPOCH).total_seconds())


def _bounded(line: str) -> str:
    return "".join([character if " " <= character <= "~" else "?" for character in line[:TEXT_MAX]])


def _or_none(take: Callable[[], Any]) -> Any:
    """What a part of a certificate is; None where it cannot be read, which does not hinder reading the others."""
    from cryptography.exceptions import UnsupportedAlgorithm

    x509 = _x509()
    try:
        return take()
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return None


def _key(certificate: x509.Certificate) -> tuple[str, int | None]:
    oid = certificate.public_key_algorithm_oid.dotted_string
    key = _or_none(certificate.public_key)
    kind = type(key).__name__.removesuffix("PublicKey").lower()
    if kind in ("rsa", "dsa"):
        return kind, key.key_size
    if kind == "ellipticcurve" or oid == "1.2.840.10045.2.1":
        return "ec", key.key_size if key is not None else None
    if kind in ("ed25519", "ed448"):
        return kind, None
    return _KEYS_OF_OTHERS.get(oid, oid), None


def _signature_hash(certificate: x509.Certificate) -> str | None:
    known = _SIGNATURE_HASHES.get(certificate.signature_algorithm_oid.dotted_string)
    if known is not None:
        return known
    # RSASSA-PSS has its hash in the parameters.
    algorithm = _or_none(lambda: certificate.signature_hash_algorithm)
    return None if algorithm is None else str(algorithm.name)


def _not_after(der: bytes) -> int | None:
    """The end of the validity of a certificate that the parser refuses for some other part: RFC 5280, section 4.1."""
    try:
        _, at, _ = _element(der, 0)  # Certificate
        _, at, _ = _element(der, at)  # TBSCertificate
        if der[at] == _VERSION_TAG:
            _, _, at = _element(der, at)
        for _ in range(3):  # serialNumber, signature, issuer
            _, _, at = _element(der, at)
        _, at, _ = _element(der, at)  # Validity
        _, _, at = _element(der, at)  # notBefore
        tag, begin, end = _element(der, at)
        digits = der[begin:end].decode("ascii")
        if tag == _UTC_TIME_TAG:  # the years 1950 to 2049
            digits = f"{'19' if digits[:2] >= '50' else '20'}{digits}"
        return _seconds(datetime.strptime(digits, "%Y%m%d%H%M%S%z"))
    except (IndexError, ValueError):
        return None


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """Of the element that begins here: its tag, and where its contents begin and end: X.690, section 8.1."""
    length, begin = der[at + 1], at + 2
    if length & 0x80:
        octets = length & 0x7F
        length, begin = int.from_bytes(der[begin : begin + octets], "big"), begin + octets
    if begin + length > len(der):
        raise IndexError
    return der[at], begin, begin + length


def _names(certificate: x509.Certificate) -> list[str]:
    x509 = _x509()
    extensions = _or_none(lambda: certificate.extensions)
    found: list[str] = []
    for extension in extensions or ():
        if isinstance(extension.value, x509.SubjectAlternativeName):
            octets = 0
            for name in list(extension.value)[:NAMES_MAX]:
                if isinstance(name, x509.DNSName):
                    found.append(text(name.value.encode(errors="replace")).lower().rstrip("."))
                elif isinstance(name, x509.IPAddress):
                    found.append(str(name.value))
                else:
                    continue
                octets += len(found[-1])
                if octets > NAMES_OCTETS_MAX:
                    break
            return found
    for attribute in certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[:1]:
        value = attribute.value.encode(errors="replace") if isinstance(attribute.value, str) else attribute.value
        found.append(text(value[:TEXT_MAX]).lower().rstrip("."))
    return found


@functools.lru_cache(1024)
def _address(name: str) -> str | None:
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return None

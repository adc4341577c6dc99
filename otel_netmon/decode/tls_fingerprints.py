"""Fingerprints of hellos: JA3 and JA3S (salesforce/ja3, README), JA4 (FoxIO, technical_details/JA4.md)."""

from __future__ import annotations

from functools import lru_cache
from hashlib import md5, sha256
from typing import Literal

from otel_netmon.decode.tls_hello import ClientHello, ServerHello, without_grease
from otel_netmon.decode.tls_numbers import (
    DTLS10,
    DTLS12,
    DTLS13,
    SSL2,
    SSL3,
    TLS10,
    TLS11,
    TLS12,
    TLS13,
    Extension,
)

Carrier = Literal["t", "q", "d"]
"""What the hello came by, as JA4 writes it: TLS over TCP, QUIC, DTLS."""

_JA4_VERSIONS = {
    TLS13: "13",
    TLS12: "12",
    TLS11: "11",
    TLS10: "10",
    SSL3: "s3",
    SSL2: "s2",
    DTLS10: "d1",
    DTLS12: "d2",
    DTLS13: "d3",
}
_NOTHING = "000000000000"
_ALPHANUMERIC = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_ELSEWHERE = (Extension.SERVER_NAME, Extension.ALPN)
_COMMON_MAX = 256
_KNOWN = 512
"""Fingerprints kept; most clients of a host are alike but for their GREASE values."""


def ja3(hello: ClientHello) -> str:
    """32 hexadecimal digits. Where the extensions cannot be read at all, the fields that tell of them are left out."""
    if hello.fault and not hello.extensions:
        return _md5(f"{hello.legacy_version},{_dashes(hello.ciphers)},")
    make = _ja3 if _is_common(hello) else _ja3.__wrapped__
    return make(hello.legacy_version, hello.ciphers, hello.extensions, hello.groups, hello.point_formats)


def ja3s(hello: ServerHello) -> str:
    """32 hexadecimal digits."""
    return _md5(f"{hello.legacy_version},{hello.cipher},{'-'.join(map(str, hello.extensions))}")


def ja4(hello: ClientHello, carrier: Carrier = "t") -> str:
    """36 characters, ``t13d1516h2_8daaf6152771_e5627efa2ab1``."""
    versions = without_grease(hello.versions)
    make = _ja4 if _is_common(hello) else _ja4.__wrapped__
    return make(
        carrier,
        max(versions) if versions else hello.legacy_version,
        hello.ciphers,
        hello.extensions,
        hello.signature_algorithms,
        hello.alpn_first,
    )


def _is_common(hello: ClientHello) -> bool:
    """Whether it is worth keeping: longer ones are nobody's, and what is kept has a bound."""
    lists = (hello.ciphers, hello.extensions, hello.groups, hello.signature_algorithms, hello.point_formats)
    return sum(map(len, lists)) <= _COMMON_MAX


@lru_cache(_KNOWN)
def _ja3(
    version: int,
    ciphers: tuple[int, ...],
    extensions: tuple[int, ...],
    groups: tuple[int, ...],
    point_formats: tuple[int, ...],
) -> str:
    lists = ",".join([_dashes(each) for each in (ciphers, extensions, groups)])
    return _md5(f"{version},{lists},{'-'.join(map(str, point_formats))}")


@lru_cache(_KNOWN)
def _ja4(
    carrier: Carrier,
    version: int,
    ciphers: tuple[int, ...],
    extensions: tuple[int, ...],
    schemes: tuple[int, ...],
    protocol: bytes,
) -> str:
    offered, told = without_grease(ciphers), without_grease(extensions)
    target = "d" if Extension.SERVER_NAME in told else "i"
    counts = f"{min(len(offered), 99):02d}{min(len(told), 99):02d}"
    kinds = _commas(sorted([each for each in told if each not in _ELSEWHERE]))
    algorithms = _commas(without_grease(schemes))
    return (
        f"{carrier}{_JA4_VERSIONS.get(version, '00')}{target}{counts}{_first_and_last(protocol)}"
        f"_{_sha256(_commas(sorted(offered)))}_{_sha256(f'{kinds}_{algorithms}' if kinds and algorithms else kinds)}"
    )


def _first_and_last(name: bytes) -> str:
    """Of the first protocol of ALPN: its first and last character, or those of its hexadecimal form."""
    if not name:
        return "00"
    if name[0] in _ALPHANUMERIC and name[-1] in _ALPHANUMERIC:
        return chr(name[0]) + chr(name[-1])
    digits = name.hex()
    return digits[0] + digits[-1]


def _dashes(numbers: tuple[int, ...]) -> str:
    return "-".join(map(str, without_grease(numbers)))


def _commas(numbers: list[int]) -> str:
    return ",".join([f"{number:04x}" for number in numbers])


def _md5(of: str) -> str:
    return md5(of.encode(), usedforsecurity=False).hexdigest()


def _sha256(of: str) -> str:
    return sha256(of.encode()).hexdigest()[:12] if of else _NOTHING

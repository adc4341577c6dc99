"""Certificates as they are met: common ones, odd ones, damaged ones."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.x509.oid import NameOID

from otel_netmon.analysis.tls_certificates import Certificates
from otel_netmon.decode.x509 import NAMES_MAX, TEXT_MAX, Certificate, RefusedCertificate, parse_certificate

UTC = dt.UTC
BEFORE, AFTER = dt.datetime(2020, 2, 3, 4, 5, 6, tzinfo=UTC), dt.datetime(2031, 7, 8, 9, 10, 11, tzinfo=UTC)
EC_KEY = ec.generate_private_key(ec.SECP256R1())

Key = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | dsa.DSAPrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
)


def name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def der(
    *,
    key: Key = EC_KEY,
    subject: str = "www.example",
    issuer: str = "An Authority",
    names: Sequence[x509.GeneralName] | None = None,
    after: dt.datetime = AFTER,
    before: dt.datetime = BEFORE,
    serial: int = 4711,
) -> bytes:
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(before)
        .not_valid_after(after)
    )
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    algorithm = None if isinstance(key, (ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.DER)


def read(data: bytes) -> Certificate:
    made = parse_certificate(data)
    assert isinstance(made, Certificate), made
    return made


def test_a_certificate() -> None:
    data = der(
        names=[
            x509.DNSName("WWW.example"),
            x509.DNSName("*.example"),
            x509.IPAddress(ipaddress.ip_address("192.0.2.7")),
        ]
    )
    made = read(data)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(data)
    assert made == Certificate(
        sha256=digest.finalize().hex(),
        subject="CN=www.example",
        issuer="CN=An Authority",
        names=("www.example", "*.example", "192.0.2.7"),
        not_before=int(BEFORE.timestamp()),
        not_after=int(AFTER.timestamp()),
        key="ec",
        key_bits=256,
        signature_hash="sha256",
        is_self_signed=False,
    )


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ("www.example", True),
        ("WWW.EXAMPLE.", True),
        ("a.wild.example", True),
        ("a.b.wild.example", False),
        ("wild.example", False),
        (".wild.example", True),
        ("other.example", False),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("2001:db8::1", True),
        ("2001:0db8:0::1", True),
        ("", False),
    ],
)
def test_names_it_is_for(wanted: str, fits: bool) -> None:
    addresses = [x509.IPAddress(ipaddress.ip_address(each)) for each in ("192.0.2.7", "2001:db8::1")]
    made = read(der(names=[x509.DNSName("www.example"), x509.DNSName("*.wild.example"), *addresses]))
    assert made.is_for(wanted) is fits


def test_without_alternative_names_the_common_name_counts_and_with_them_it_does_not() -> None:
    assert read(der()).is_for("www.example")
    assert not read(der(names=[x509.DNSName("other.example")])).is_for("www.example")
    assert read(der(names=[x509.RFC822Name("a@b.example")])).names == ()


@pytest.mark.parametrize(
    ("key", "kind", "bits", "signature_hash"),
    [
        (rsa.generate_private_key(65537, 2048), "rsa", 2048, "sha256"),
        (ec.generate_private_key(ec.SECP384R1()), "ec", 384, "sha256"),
        (dsa.generate_private_key(2048), "dsa", 2048, "sha256"),
        (ed25519.Ed25519PrivateKey.generate(), "ed25519", None, None),
        (ed448.Ed448PrivateKey.generate(), "ed448", None, None),
    ],
)
def test_kinds_of_keys(key: Key, kind: str, bits: int | None, signature_hash: str | None) -> None:
    made = read(der(key=key))
    assert (made.key, made.key_bits, made.signature_hash) == (kind, bits, signature_hash)


def test_self_signed() -> None:
    assert read(der(issuer="www.example")).is_self_signed


@pytest.mark.parametrize(
    "after",
    [
        dt.datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC),  # the last UTCTime
        dt.datetime(2050, 1, 1, tzinfo=UTC),  # the first GeneralizedTime
        dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),
    ],
)
def test_the_end_of_validity(after: dt.datetime) -> None:
    assert read(der(after=after)).not_after == int(after.timestamp())


def test_generalized_time_before_2050() -> None:
    # RFC 5280 wants UTCTime there; who writes the other is understood.
    data = der()
    utc = b"\x17\x0d" + AFTER.strftime("%y%m%d%H%M%SZ").encode()
    general = b"\x18\x0f" + AFTER.strftime("%Y%m%d%H%M%SZ").encode()
    assert _not_after(_grown(data, utc, general)) == int(AFTER.timestamp())


def test_a_serial_number_that_is_negative_does_not_hinder() -> None:
    data = der(serial=0x1234)
    assert read(data.replace(b"\x02\x02\x12\x34", b"\x02\x02\x92\x34", 1)).subject == "CN=www.example"


def test_a_key_of_an_unknown_kind() -> None:
    oid = bytes.fromhex("06072a8648ce3d0201")  # id-ecPublicKey
    data = der()
    assert oid in data
    made = read(data.replace(oid, bytes.fromhex("06072a8648ce3d027f"), 1))
    assert (made.key, made.key_bits) == ("1.2.840.10045.2.127", None)
    assert made.not_after == int(AFTER.timestamp())


def test_a_signature_of_an_unknown_kind() -> None:
    oid = bytes.fromhex("06082a8648ce3d040302")  # ecdsa-with-SHA256
    made = read(der().replace(oid, bytes.fromhex("06082a8648ce3d04037f")))
    assert made.signature_hash is None


def test_old_hashes_are_known_by_the_algorithm() -> None:
    oid = bytes.fromhex("06082a8648ce3d040302")
    other = bytes.fromhex("06072a8648ce3d0401")  # ecdsa-with-SHA1
    assert read(_grown(der(), oid, other)).signature_hash == "sha1"


def test_names_are_bounded() -> None:
    made = read(der(names=[x509.DNSName(f"n{at}.example") for at in range(NAMES_MAX + 7)]))
    assert len(made.names) == NAMES_MAX
    long = read(der(names=[x509.DNSName(f"{at}.{'x' * 60}.{'y' * 60}.{'z' * 60}.example") for at in range(200)]))
    assert 16000 < sum(map(len, long.names)) < 17000
    parts = [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, f"é\n{'u' * 50}{at}") for at in range(9)]
    builder = (
        x509.CertificateBuilder().subject_name(x509.Name(parts)).issuer_name(name("a")).public_key(EC_KEY.public_key())
    )
    made = read(
        builder.serial_number(1)
        .not_valid_before(BEFORE)
        .not_valid_after(AFTER)
        .sign(EC_KEY, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )
    assert len(made.subject) == TEXT_MAX
    assert made.subject.isascii()
    assert made.subject.isprintable()


def test_what_is_refused_says_why_and_when_it_ends() -> None:
    data = der()
    tag = data.index(b"\x55\x04\x03")  # the type of the issuer's name
    damaged = data[: tag + 3] + b"\x01" + data[tag + 4 :]  # what was text is a boolean of twelve octets
    made = parse_certificate(damaged)
    if isinstance(made, RefusedCertificate):
        assert made.reason
    assert made.not_after == int(AFTER.timestamp())


@pytest.mark.parametrize(
    ("end", "seconds"),
    [
        (b"\x17\x0d310708091011Z", int(AFTER.timestamp())),
        (b"\x17\x11310708091011+0130", int(AFTER.timestamp()) - 5400),
        (b"\x17\x0d991231235959Z", 946684799),
        (b"\x18\x0f20310708091011Z", int(AFTER.timestamp())),
        (b"\x17\x0d319908091011Z", None),
        (b"\x17\x03abc", None),
    ],
)
def test_the_end_of_what_is_refused(end: bytes, seconds: int | None) -> None:
    utc = b"\x17\x0d" + AFTER.strftime("%y%m%d%H%M%SZ").encode()
    # A version that there is not makes the parser refuse whatever else stands there.
    data = _grown(der(), utc, end).replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07", 1)
    made = parse_certificate(data)
    assert isinstance(made, RefusedCertificate)
    assert made.reason
    assert made.not_after == seconds


def test_a_certificate_cut_anywhere_is_refused() -> None:
    data = der(names=[x509.DNSName("www.example")])
    for length in range(len(data)):
        made = parse_certificate(data[:length])
        assert isinstance(made, RefusedCertificate)
        assert len(made.reason) <= TEXT_MAX


def test_each_is_read_once_and_the_number_is_bounded() -> None:
    known = Certificates(limit=3)
    ders = [der(serial=each) for each in range(1, 6)]
    assert len({known.get(ders[at]).sha256 for at in (0, 1, 2, 0, 0)}) == 3
    assert (known.counts["parsed"], known.counts["known"]) == (3, 2)
    known.get(ders[3])  # the second is the one not met for longest
    assert len(known) == 3
    known.get(ders[0])
    known.get(ders[1])
    assert (known.counts["parsed"], known.counts["known"]) == (5, 3)
    assert isinstance(known.get(b"nothing"), RefusedCertificate)
    assert known.counts["refused"] == 1


def _not_after(data: bytes) -> int | None:
    return parse_certificate(data).not_after


def _grown(data: bytes, old: bytes, new: bytes) -> bytes:
    """The certificate with one element in place of another, wherever it stands, the lengths around put right."""
    assert old in data
    return _with(data, old, new)[0]


def _with(data: bytes, old: bytes, new: bytes) -> tuple[bytes, int]:
    made, at = b"", 0
    while at < len(data):
        tag, length, begin = data[at], data[at + 1], at + 2
        if length & 0x80:
            octets = length & 0x7F
            length, begin = int.from_bytes(data[begin : begin + octets], "big"), begin + octets
        whole, inside = data[at : begin + length], data[begin : begin + length]
        if whole == old:
            made += new
        elif tag & 0x20:
            inner, _ = _with(inside, old, new)
            size = len(inner)
            made += bytes([tag]) + (
                bytes([size])
                if size < 128
                else b"\x82" + size.to_bytes(2, "big")
                if size > 255
                else b"\x81" + bytes([size])
            )
            made += inner
        else:
            made += whole
        at = begin + length
    return made, at

"""JA3, JA3S and JA4 against the vectors that their specifications publish."""

from __future__ import annotations

from hashlib import md5

import pytest

from otel_netmon.decode.tls_fingerprints import ja3, ja3s, ja4
from otel_netmon.decode.tls_hello import ClientHello, ServerHello

CHROME = ClientHello(
    legacy_version=0x0303,
    session_id=bytes(32),
    ciphers=tuple(
        int(each, 16)
        for each in [
            "0a0a",
            "1301",
            "1302",
            "1303",
            "c02b",
            "c02f",
            "c02c",
            "c030",
            "cca9",
            "cca8",
            "c013",
            "c014",
            "009c",
            "009d",
            "002f",
            "0035",
        ]
    ),
    extensions=tuple(
        int(each, 16)
        for each in [
            "dada",
            "001b",
            "0000",
            "0033",
            "0010",
            "4469",
            "0017",
            "002d",
            "000d",
            "0005",
            "0023",
            "0012",
            "002b",
            "ff01",
            "000b",
            "000a",
            "1a1a",
            "0015",
        ]
    ),
    server_name="example",
    versions=(0x3A3A, 0x0304, 0x0303),
    alpn=("h2", "http/1.1"),
    alpn_first=b"h2",
    signature_algorithms=(0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601),
)
"""The example of JA4.md, with the GREASE values that its sender adds."""


@pytest.mark.parametrize(
    ("fields", "digest"),
    [
        # The two examples of the README of JA3.
        ("769,47-53-5-10-49161-49162-49171-49172-50-56-19-4,0-10-11,23-24-25,0", "ada70206e40642a3e4461f35503241d5"),
        ("769,4-5-10-9-100-98-3-6-19-18-99,,,", "de350869b8c85de67a350c8d186f11e6"),
    ],
)
def test_ja3(fields: str, digest: str) -> None:
    version, *lists = fields.split(",")
    ciphers, extensions, groups, formats = (tuple(int(each) for each in one.split("-") if each) for one in lists)
    hello = ClientHello(int(version), b"", ciphers, extensions, groups=groups, point_formats=formats)
    assert ja3(hello) == digest
    grease = hello._replace(ciphers=(0x2A2A, *ciphers), extensions=(*extensions, 0xBABA), groups=(0x0A0A, *groups))
    assert ja3(grease) == digest


def test_ja3s() -> None:
    # The specification has no digest that can be checked; its form is version, suite and extensions.
    hello = ServerHello(769, 769, b"", 47, 0, (65281, 0, 11, 35, 5, 16))
    assert ja3s(hello) == md5(b"769,47,65281-0-11-35-5-16", usedforsecurity=False).hexdigest()
    # TLS 1.3 has its version elsewhere: what counts is the field. Two hellos of servers in the wild, as tshark 4 tells them.
    assert ja3s(ServerHello(771, 772, b"", 4865, 0, (51, 43))) == "eb1d94daa7e0344597e756a1fb6e7054"
    assert ja3s(ServerHello(771, 772, b"", 4866, 0, (43, 51))) == "15af977ce25de452b96affa2addb1036"


def test_ja4() -> None:
    assert ja4(CHROME) == "t13d1516h2_8daaf6152771_e5627efa2ab1"
    assert ja4(CHROME, "q") == "q13d1516h2_8daaf6152771_e5627efa2ab1"


def test_ja4_without_signature_algorithms() -> None:
    assert ja4(CHROME._replace(signature_algorithms=())) == "t13d1516h2_8daaf6152771_6d807ffa2a79"


def test_ja4_of_nothing() -> None:
    assert ja4(ClientHello(0x0301, b"", ())) == "t10i000000_000000000000_000000000000"


def test_ja4_counts_up_to_99() -> None:
    hello = CHROME._replace(ciphers=tuple(range(200)), extensions=tuple(range(1000, 1200)))
    assert ja4(hello).startswith("t13i9999h2_")


@pytest.mark.parametrize(
    ("versions", "legacy", "told"),
    [
        ((0x4A4A, 0x0304, 0x0303), 0x0303, "13"),
        ((), 0x0303, "12"),
        ((), 0x0302, "11"),
        ((), 0x0301, "10"),
        ((), 0x0300, "s3"),
        ((), 0x0002, "s2"),
        ((), 0xFEFF, "d1"),
        ((), 0xFEFD, "d2"),
        ((0xFEFC,), 0xFEFD, "d3"),
        ((0x7F1C,), 0x0303, "00"),
    ],
)
def test_ja4_versions(versions: tuple[int, ...], legacy: int, told: str) -> None:
    assert ja4(CHROME._replace(versions=versions, legacy_version=legacy))[1:3] == told


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (b"", "00"),
        (b"h2", "h2"),
        (b"http/1.1", "h1"),
        (b"x", "xx"),
        # The examples of JA4.md.
        (b"\xab", "ab"),
        (b"\x20", "20"),
        (b"\xab\xcd", "ad"),
        (b"\x20\x61", "21"),
        (b"\x30\xab", "3b"),
        (b"\x61\x20", "60"),
        (b"\x30\x31\xab\xcd", "3d"),
        (b"\x30\xab\xcd\x31", "01"),
    ],
)
def test_ja4_protocols(name: bytes, told: str) -> None:
    assert ja4(CHROME._replace(alpn_first=name))[8:10] == told

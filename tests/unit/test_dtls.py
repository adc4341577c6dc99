"""ClientHellos of DTLS in datagrams."""

from __future__ import annotations

import random

import pytest

from otel_netmon.decode.dtls import HELLO_OCTETS_MAX, Fragment, HelloFragments, begins_dtls, hello_fragments
from otel_netmon.decode.tls_hello import ClientHello
from support import tls_messages as t
from support.dtls_datagrams import DTLS10, DTLS12, DTLS13, message, record

BODY = t.client_hello([0xC02B, 0x1301], [t.server_name(b"media.example"), t.alpn(b"webrtc")], DTLS12, cookie=b"cookie")


def hello_of(*datagrams: bytes) -> ClientHello | None:
    hello = HelloFragments()
    for datagram in datagrams:
        for fragment in hello_fragments(datagram):
            made = hello.add(fragment)
            if made is not None:
                return made
    return None


@pytest.mark.parametrize("version", [DTLS10, DTLS12])
def test_a_hello(version: int) -> None:
    datagram = record(message(BODY, 0, BODY), version)
    assert begins_dtls(datagram)
    assert hello_fragments(datagram) == [Fragment(0, len(BODY), 0, BODY)]
    made = hello_of(datagram)
    assert made is not None
    assert (made.legacy_version, made.server_name, made.alpn, made.ciphers) == (
        DTLS12,
        "media.example",
        ("webrtc",),
        (0xC02B, 0x1301),
    )


def test_a_hello_of_dtls13() -> None:
    body = t.client_hello([0x1301], [t.supported_versions(DTLS13, DTLS12)], DTLS12, cookie=b"")
    made = hello_of(record(message(body, 0, body)))
    assert made is not None
    assert made.version == DTLS13


def test_a_hello_in_pieces_in_any_order_twice_and_overlapping() -> None:
    datagrams = [record(message(BODY, at, BODY[at : at + 23])) for at in range(0, len(BODY), 19)]
    random.Random(5).shuffle(datagrams)  # noqa: S311
    made = hello_of(*datagrams[:4], *datagrams)
    assert made is not None
    assert made.server_name == "media.example"
    assert hello_of(*datagrams[:-1]) is None


def test_several_messages_and_records_in_a_datagram() -> None:
    half = len(BODY) // 2
    one = message(BODY, 0, BODY[:half]) + message(BODY, half, BODY[half:])
    assert hello_of(record(one)) is not None
    assert hello_of(record(message(BODY, 0, BODY[:half])) + record(message(BODY, half, BODY[half:]))) is not None


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        record(message(BODY, 0, BODY), 0x0303),
        record(message(BODY, 0, BODY), epoch=1),
        record(message(BODY, 0, BODY), kind=t.ALERT),
        record(message(BODY, 0, BODY, kind=t.SERVER_HELLO)),
        record(b"short"),
    ],
)
def test_what_is_no_hello(datagram: bytes) -> None:
    assert not begins_dtls(datagram)
    assert hello_of(datagram) is None


def test_what_is_cut_gives_nothing() -> None:
    datagram = record(message(BODY, 0, BODY))
    for length in range(len(datagram)):
        assert hello_of(datagram[:length]) is None


def test_what_lies_about_its_length_is_not_kept() -> None:
    hello = HelloFragments()
    assert hello.add(Fragment(0, 100, 90, bytes(20))) is None
    assert hello.add(Fragment(0, 100, 0, bytes(20))) is None
    assert hello.add(Fragment(1, 100, 20, bytes(80))) is None
    assert hello.octets == 20
    assert HelloFragments().add(Fragment(0, 1 << 24, HELLO_OCTETS_MAX, b"x")) is None
    unreadable = HelloFragments()
    assert unreadable.add(Fragment(0, 10, 0, bytes(10))) is None

"""Initial packets of QUIC: the examples of RFC 9001 and RFC 9369, and packets built by their rules."""

from __future__ import annotations

import random

import pytest

from otel_netmon.decode.quic import (
    CRYPTO_OCTETS_MAX,
    VERSION_1,
    VERSION_2,
    CryptoFrame,
    CryptoStream,
    Initial,
    begins_initial,
    client_keys,
    open_initial,
    read_initials,
)
from otel_netmon.decode.tls_hello import ClientHello, decode_client_hello
from support import quic_packets as q, tls_messages as t

ID = bytes.fromhex("8394c8f03e515708")
RFC_HELLO = bytes.fromhex(
    "010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e86804fe3a47f06a2b69484c00000413011302010000c000000010000e00000b"
    "6578616d706c652e636f6dff01000100000a00080006001d0017001800100007000504616c706e00050005010000000000330026002400"
    "1d00209370b2c9caa47fbabaf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b0003020304000d0010000e04030503060302"
    "03080408050806002d00020101001c00024001003900320408ffffffffffffffff05048000ffff07048000ffff08011001048000753009"
    "01100f088394c8f03e51570806048000ffff"
)
"""RFC 9001, appendix A.2: the ClientHello."""


def hello_of(datagram: bytes) -> ClientHello:
    stream = CryptoStream()
    for packet in read_initials(datagram):
        for frame in open_initial(datagram, packet, client_keys(packet.version, packet.destination_id)) or []:
            stream.add(frame)
    message = stream.message()
    assert message is not None
    assert message[0] == t.CLIENT_HELLO
    made = decode_client_hello(message[1])
    assert isinstance(made, ClientHello)
    return made


def test_the_keys_of_the_rfcs() -> None:
    keys = client_keys(VERSION_1, ID)
    assert keys.key.hex() == "1f369613dd76d5467730efcbe3b1a22d"
    assert keys.iv.hex() == "fa044b2f42a3fd3b46fb255c"
    assert keys.protection.hex() == "9f50449e04a0e810283a1e9933adedd2"
    keys = client_keys(VERSION_2, ID)
    assert keys.key.hex() == "8b1a0bc121284290a29e0971b5cd045d"
    assert keys.iv.hex() == "91f73e2351d8fa91660e909f"
    assert keys.protection.hex() == "45b95e15235d6f45a6b19cbcb0294ba9"


def test_the_packet_of_the_rfc() -> None:
    datagram = q.initial(q.crypto(0, RFC_HELLO), ID, 2)
    # How it is built is checked with the begin of the protected packet that the appendix shows.
    assert len(datagram) == 1200
    assert datagram[:32].hex() == "c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11"
    assert begins_initial(datagram)
    assert read_initials(datagram) == [Initial(VERSION_1, ID, b"", 0, 0, 18, 1200)]
    made = hello_of(datagram)
    assert (made.server_name, made.alpn, made.versions) == ("example.com", ("alpn",), (t.TLS13,))


def test_version_2() -> None:
    datagram = q.initial(q.crypto(0, RFC_HELLO), ID, 2, q.V2)
    assert datagram[:10].hex() == "d76b3343cf088394c8f0"
    assert begins_initial(datagram)
    assert hello_of(datagram).server_name == "example.com"


@pytest.mark.parametrize("number_octets", [1, 2, 3, 4])
def test_short_packet_numbers_tokens_and_ids(number_octets: int) -> None:
    datagram = q.initial(
        q.crypto(0, RFC_HELLO), bytes(20), 7, source=b"source", token=b"t" * 100, number_octets=number_octets
    )
    (packet,) = read_initials(datagram)
    assert (packet.destination_id, packet.source_id, packet.token_length) == (bytes(20), b"source", 100)
    assert hello_of(datagram).server_name == "example.com"


def test_frames_of_every_kind_in_any_order() -> None:
    pieces = [(at, RFC_HELLO[at : at + 17]) for at in range(0, len(RFC_HELLO), 17)]
    random.Random(7).shuffle(pieces)  # noqa: S311
    frames = q.PING + q.ACK + b"\0\0\0".join(q.crypto(at, data) for at, data in pieces)
    assert hello_of(q.initial(frames, ID)).server_name == "example.com"


def test_a_hello_over_several_packets_in_one_datagram_and_over_datagrams() -> None:
    one, other = (
        q.initial(q.crypto(100, RFC_HELLO[100:]), ID, 0, size=400),
        q.initial(q.crypto(0, RFC_HELLO[:120]), ID, 1, size=400),
    )
    assert len(read_initials(one + other)) == 2
    assert hello_of(one + other).server_name == "example.com"


def test_a_packet_that_is_not_sealed_by_these_keys() -> None:
    datagram = q.initial(q.crypto(0, RFC_HELLO), ID)
    (packet,) = read_initials(datagram)
    assert open_initial(datagram, packet, client_keys(VERSION_1, b"another")) is None
    damaged = datagram[:-1] + bytes([datagram[-1] ^ 1])
    assert open_initial(damaged, packet, client_keys(VERSION_1, ID)) is None


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"\xc0\x00\x00\x00\x01",
        bytes(1200),
        b"\xc0\xff\x00\x00\x1d\x08" + bytes(1200),
        b"\xe0\x00\x00\x00\x01\x08" + bytes(1200),
        b"\xf0\x00\x00\x00\x01\x08" + bytes(1200),
        b"\x40" + bytes(1200),
        b"\xc0\x00\x00\x00\x01\x15" + bytes(1200),
        b"\xc0\x00\x00\x00\x01\x00\x00\x00\x7f\xff" + bytes(100),
    ],
)
def test_what_holds_no_initial(datagram: bytes) -> None:
    assert read_initials(datagram) == []


def test_a_datagram_cut_anywhere_holds_none() -> None:
    datagram = q.initial(q.crypto(0, RFC_HELLO), ID)
    for length in range(len(datagram)):
        assert read_initials(datagram[:length]) == []


def test_a_stream_keeps_a_bounded_number_of_octets() -> None:
    stream = CryptoStream()
    stream.add(CryptoFrame(CRYPTO_OCTETS_MAX - 1, b"12"))
    assert stream.octets == 0
    for at in range(0, 4 * CRYPTO_OCTETS_MAX, 1000):
        stream.add(CryptoFrame(at % 60000 + at // 60000, bytes(1000)))
    assert stream.octets <= 2 * CRYPTO_OCTETS_MAX


def test_a_message_is_there_when_all_of_it_is() -> None:
    stream = CryptoStream()
    assert stream.message() is None
    stream.add(CryptoFrame(3, b"\x02ab"))
    assert stream.message() is None
    stream.add(CryptoFrame(0, b"\x01\x00\x00\x02a"))
    assert stream.message() == (1, b"ab")

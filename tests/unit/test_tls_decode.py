"""Hellos, records and handshake messages of TLS to records, and what is none."""

from __future__ import annotations

import pytest

from otel_netmon.decode.tls import SSL2_HELLO, Records, begins_tls
from otel_netmon.decode.tls_ciphers import CIPHER_NAMES, cipher_name
from otel_netmon.decode.tls_handshake import (
    MESSAGE_OCTETS_MAX,
    HandshakeMessage,
    Handshakes,
    KeyExchange,
    certificates,
    key_exchange,
)
from otel_netmon.decode.tls_hello import (
    SERVER_NAME_OCTETS_MAX,
    ClientHello,
    ServerHello,
    decode_client_hello,
    decode_server_hello,
    decode_ssl2_client_hello,
)
from otel_netmon.decode.tls_numbers import (
    GREASE,
    alert_name,
    group_name,
    scheme_name,
    version_name,
)
from support import tls_messages as t

CIPHERS = [0x1A1A, 0x1301, 0xC02F, 0x00FF]


def offered(*extensions: bytes, version: int = t.TLS12) -> ClientHello:
    made = decode_client_hello(t.client_hello(CIPHERS, list(extensions), version))
    assert isinstance(made, ClientHello)
    return made


def chosen(body: bytes) -> ServerHello:
    made = decode_server_hello(body)
    assert isinstance(made, ServerHello)
    return made


def test_a_client_hello() -> None:
    body = t.client_hello(
        CIPHERS,
        [
            t.extension(0x3A3A),
            t.server_name(b"Secure.Example"),
            t.alpn(b"h2", b"http/1.1"),
            t.groups(0x2A2A, 0x11EC, 29),
            t.point_formats(0, 1),
            t.signature_algorithms(0x0403, 0x0804),
            t.supported_versions(0x4A4A, t.TLS13, t.TLS12),
            t.key_share(0x2A2A, 29),
            t.extension(35, b"ticket"),
            t.extension(42),
            t.extension(0xFE0D, bytes(40)),
            t.extension(41, bytes(64)),
        ],
        session_id=bytes(32),
    )
    assert decode_client_hello(body) == ClientHello(
        legacy_version=t.TLS12,
        session_id=bytes(32),
        ciphers=tuple(CIPHERS),
        extensions=(0x3A3A, 0, 16, 10, 11, 13, 43, 51, 35, 42, 0xFE0D, 41),
        server_name="Secure.Example",
        versions=(0x4A4A, t.TLS13, t.TLS12),
        alpn=("h2", "http/1.1"),
        alpn_first=b"h2",
        groups=(0x2A2A, 0x11EC, 29),
        point_formats=(0, 1),
        signature_algorithms=(0x0403, 0x0804),
        key_shares=(0x2A2A, 29),
        has_ticket=True,
        has_psk=True,
        has_early_data=True,
        has_ech=True,
    )


def test_the_newest_version_offered_is_no_grease_value_and_drafts_come_before_the_standard() -> None:
    assert offered(t.supported_versions(0xFAFA, t.TLS12, 0x7F1C, t.TLS13)).version == t.TLS13
    assert offered(t.supported_versions(0xFAFA, t.TLS12, 0x7F17, 0x7F1C)).version == 0x7F1C
    assert offered(version=t.TLS11).version == t.TLS11
    assert offered(t.supported_versions(0xFAFA)).version == t.TLS12


@pytest.mark.parametrize(
    ("extension", "name"),
    [
        (t.server_name(b"first.example", b"second.example"), "first.example"),
        (t.extension(0), None),
        (
            t.extension(0, t.vector(b"\x07" + t.vector(b"other kind") + b"\0" + t.vector(b"host.example"))),
            "host.example",
        ),
        (t.server_name(b""), None),
        (t.server_name(b'a\n"\\ \xc3\xa9\x00'), 'a\\010"\\092\\032\\195\\169\\000'),
        (t.server_name(b"x" * 5000), "x" * SERVER_NAME_OCTETS_MAX),
    ],
)
def test_server_names_are_bounded_printing_ascii(extension: bytes, name: str | None) -> None:
    made = offered(extension)
    assert made.server_name == name
    assert made.extensions == (0,)


def test_a_hello_without_extensions() -> None:
    made = decode_client_hello(t.client_hello([4, 5], None, t.SSL3))
    assert made == ClientHello(t.SSL3, b"", (4, 5))


def test_extensions_that_do_not_fit_are_read_as_far_as_they_do() -> None:
    body = t.client_hello(CIPHERS, [t.server_name(b"secure.example"), t.groups(29)])
    made = decode_client_hello(body[:-1])
    assert isinstance(made, ClientHello)
    assert made.fault
    assert (made.server_name, made.extensions, made.groups) == ("secure.example", (0,), ())
    made = decode_client_hello(body + b"\0")
    assert isinstance(made, ClientHello)
    assert (made.fault, made.groups) == (True, (29,))


def test_a_hello_cut_anywhere_is_short_or_has_a_fault() -> None:
    body = t.client_hello(CIPHERS, [t.server_name(b"secure.example"), t.alpn(b"h2"), t.supported_versions(t.TLS13)])
    begin_of_extensions = 2 + 32 + 1 + 2 + 2 * len(CIPHERS) + 2
    for length in range(len(body)):
        made = decode_client_hello(body[:length])
        if length < begin_of_extensions - 1:
            assert made == "short_hello", length
        elif isinstance(made, ClientHello):
            assert made.fault or length == begin_of_extensions, length


def test_suites_of_odd_length_are_none() -> None:
    body = bytearray(t.client_hello(CIPHERS, []))
    body[35:37] = b"\0\x07"
    assert decode_client_hello(bytes(body)) == "bad_length"


def test_a_server_hello() -> None:
    extensions = [t.extension(0xFF01, b"\0"), t.alpn(b"h2"), t.extension(35)]
    assert chosen(t.server_hello(0xC02F, extensions, session_id=b"12")) == ServerHello(
        legacy_version=t.TLS12,
        version=t.TLS12,
        session_id=b"12",
        cipher=0xC02F,
        compression=0,
        extensions=(0xFF01, 16, 35),
        alpn="h2",
        has_ticket=True,
    )


def test_a_server_hello_of_tls13() -> None:
    extensions = [t.chosen_version(t.TLS13), t.chosen_share(0x11EC), t.extension(41, b"\0\0")]
    made = chosen(t.server_hello(0x1302, extensions))
    assert (made.legacy_version, made.version, made.group, made.has_psk) == (t.TLS12, t.TLS13, 0x11EC, True)
    assert not made.is_retry


def test_a_hello_retry_request() -> None:
    extensions = [t.chosen_version(t.TLS13), t.extension(51, b"\0\x17")]
    made = chosen(t.server_hello(0x1302, extensions, random=t.RETRY_RANDOM))
    assert made.is_retry
    assert made.group == 23


@pytest.mark.parametrize("version", [0x7F0E, 0x7F12, t.TLS13])
def test_drafts_before_22_have_neither_session_id_nor_compression(version: int) -> None:
    extensions = t.vector(t.extension(40, b"\0\x1d" + t.vector(bytes(32))))
    body = version.to_bytes(2, "big") + t.RANDOM + b"\x13\x01" + extensions
    made = chosen(body)
    assert (made.cipher, made.group, version_name(made.version)) == (0x1301, 29, "1.3")


def test_drafts_from_22_on_choose_in_an_extension() -> None:
    made = chosen(t.server_hello(0x1301, [t.chosen_version(0x7F1C)]))
    assert (made.version, version_name(made.version)) == (0x7F1C, "1.3")


@pytest.mark.parametrize(("version", "cipher"), [(0x7F12, 0), (0x7F13, 0x1302)])
def test_retries_of_the_drafts_are_a_message_of_their_own(version: int, cipher: int) -> None:
    body = version.to_bytes(2, "big") + (b"\x13\x02" if cipher else b"") + t.vector(t.extension(40, b"\0\x17"))
    made = decode_server_hello(body, of_drafts=True)
    assert isinstance(made, ServerHello)
    assert (made.is_retry, made.cipher, made.group) == (True, cipher, 23)


def test_a_server_hello_cut_anywhere() -> None:
    body = t.server_hello(0x1302, [t.chosen_version(t.TLS13), t.chosen_share(29)], session_id=bytes(32))
    for length in range(len(body)):
        made = decode_server_hello(body[:length])
        assert not isinstance(made, ServerHello) or made.fault or length == 2 + 32 + 33 + 3, length


def test_a_hello_in_the_form_of_ssl2() -> None:
    octets = t.ssl2_hello(t.TLS10, [0x010080, 0x000004, 0x00000A])
    assert begins_tls(octets) is True
    (record,) = Records().feed(octets)
    assert record.type == SSL2_HELLO
    assert decode_ssl2_client_hello(record.data) == ClientHello(t.TLS10, b"", (4, 10), is_ssl2=True)
    assert decode_ssl2_client_hello(record.data[:-1]) == "bad_length"
    assert decode_ssl2_client_hello(record.data[:5]) == "short_hello"


HELLO = t.record(
    t.HANDSHAKE, t.handshake(t.CLIENT_HELLO, t.client_hello(CIPHERS, [t.server_name(b"a.example")])), t.TLS10
)


@pytest.mark.parametrize(
    "octets",
    [
        HELLO,
        t.records(t.HANDSHAKE, HELLO[5:], 1),
        t.records(t.HANDSHAKE, HELLO[5:], 3, t.SSL3),
        t.ssl2_hello(2, [0x010080]),
        t.ssl2_hello(t.TLS12, [5], bytes(16), bytes(32)),
    ],
)
def test_what_begins_with_a_client_hello(octets: bytes) -> None:
    told = [begins_tls(octets[:length]) for length in range(len(octets) + 1)]
    first = told.index(True)
    assert first <= 41
    assert told == [None] * first + [True] * (len(told) - first)


@pytest.mark.parametrize(
    "octets",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x16\x03\x01\x50\x01\x01\x00\x00",
        b"\x16\x03\x09\x00\x50\x01",
        t.record(t.HANDSHAKE, t.handshake(t.SERVER_HELLO, t.server_hello(4))),
        t.sealed(),
        t.alert(40),
        b"\x16\x03\x01\x00\x00\x16\x03\x01\x00\x00",
        b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x11" + bytes(40),
        b"\x80\x2e\x01\x07\x07\x00\x15\x00\x00\x00\x10" + bytes(40),
        bytes(64),
    ],
)
def test_what_does_not(octets: bytes) -> None:
    assert begins_tls(octets) is False


def test_records_come_out_whatever_the_cuts() -> None:
    said = HELLO + t.change_cipher_spec() + t.alert(48) + t.sealed(5000) + t.sealed(17) + t.record(t.HEARTBEAT, b"1234")
    whole = Records().feed(said)
    assert [(each.type, each.length, len(each.data)) for each in whole] == [
        (t.HANDSHAKE, len(HELLO) - 5, len(HELLO) - 5),
        (t.CHANGE_CIPHER_SPEC, 1, 1),
        (t.ALERT, 2, 2),
        (t.APPLICATION_DATA, 5000, 0),
        (t.APPLICATION_DATA, 17, 0),
        (t.HEARTBEAT, 4, 0),
    ]
    for size in (1, 2, 3, 4, 5, 6, 7, 97, 1460):
        records = Records()
        assert [each for at in range(0, len(said), size) for each in records.feed(said[at : at + size])] == whole
        assert records.octets == 0


def test_application_data_is_told_by_its_header_and_not_kept() -> None:
    records = Records()
    octets = t.sealed(16000)
    assert len(records.feed(octets[:5])) == 1
    assert records.feed(octets[5:9000]) == []
    assert records.octets == 0


def test_what_is_no_record_ends_it() -> None:
    records = Records()
    assert len(records.feed(t.alert(40, t.WARNING) + b"HTTP/1.1 400 Bad Request\r\n")) == 1
    assert records.is_none
    assert records.feed(HELLO) == []


def test_a_gap_inside_application_data_loses_nothing() -> None:
    records = Records()
    records.feed(t.sealed(3000)[:105])
    assert records.gap(1000) == (None, 1000)
    assert [each.type for each in records.feed(t.sealed(3000)[1105:] + t.alert(0))] == [t.ALERT]


def test_a_gap_over_the_end_of_a_record_is_found_out_of_at_the_next() -> None:
    records = Records()
    records.feed(HELLO[:50])
    partial, own = records.gap(5000)
    assert partial is not None
    assert (partial.data, own) == (HELLO[5:50], len(HELLO) - 50)
    assert records.is_lost
    assert records.feed(b"the rest of something") == []
    assert [each.type for each in records.feed(t.change_cipher_spec())] == [t.CHANGE_CIPHER_SPEC]


def test_messages_come_out_whatever_the_cuts() -> None:
    said = (
        t.handshake(t.SERVER_HELLO, t.server_hello(0xC02F))
        + t.handshake(t.CERTIFICATE, t.certificate(b"\x30" * 3000, b"\x31" * 2000))
        + t.handshake(t.CERTIFICATE_REQUEST, bytes(300))
        + t.handshake(t.HELLO_DONE, b"")
    )
    whole = Handshakes().feed(said)
    assert [(each.type, each.length, each.is_whole) for each in whole] == [
        (t.SERVER_HELLO, len(t.server_hello(0xC02F)), True),
        (t.CERTIFICATE, 5009, True),
        (t.CERTIFICATE_REQUEST, 300, False),
        (t.HELLO_DONE, 0, True),
    ]
    for size in (1, 2, 3, 4, 5, 7, 1000):
        handshakes = Handshakes()
        found = [each for at in range(0, len(said), size) for each in handshakes.feed(said[at : at + size])]
        assert found == whole
        assert handshakes.octets == 0


def test_a_message_too_long_to_be_kept_is_passed_over() -> None:
    handshakes = Handshakes()
    length = MESSAGE_OCTETS_MAX + 1
    found = handshakes.feed(b"\x0b" + length.to_bytes(3, "big") + bytes(1000))
    assert found == [HandshakeMessage(t.CERTIFICATE, length, b"")]
    assert handshakes.feed(bytes(length - 1000)) == []
    assert handshakes.octets == 0
    assert handshakes.feed(t.handshake(t.HELLO_DONE, b"")) == [HandshakeMessage(t.HELLO_DONE, 0, b"")]


def test_a_gap_in_a_message_gives_what_there_is_of_it() -> None:
    handshakes = Handshakes()
    said = t.handshake(t.CERTIFICATE, t.certificate(b"\x30" * 50, b"\x31" * 50)) + t.handshake(t.HELLO_DONE, b"")
    handshakes.feed(said[:90])
    assert handshakes.gap(10) == HandshakeMessage(t.CERTIFICATE, 109, said[4:90])
    assert certificates(said[4:90]) == [b"\x30" * 50]
    assert handshakes.feed(said[100:]) == [HandshakeMessage(t.HELLO_DONE, 0, b"")]
    handshakes.feed(said[:90])
    handshakes.gap(None)
    assert handshakes.feed(b"the rest of it") == []
    assert handshakes.feed(t.handshake(t.HELLO_DONE, b"")) == [HandshakeMessage(t.HELLO_DONE, 0, b"")]


def test_certificates_of_a_damaged_message() -> None:
    body = t.certificate(b"\x30" * 5, b"", b"\x31" * 6)
    assert certificates(body) == [b"\x30" * 5, b"\x31" * 6]
    assert certificates(b"\xff\xff\xff" + body[3:]) == [b"\x30" * 5, b"\x31" * 6]
    assert certificates(body[:10]) == []
    assert certificates(b"") == []


@pytest.mark.parametrize(
    ("body", "cipher", "version", "told"),
    [
        (t.curve_exchange(29), "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", t.TLS12, KeyExchange(29, None, 0x0804)),
        (t.curve_exchange(23, None), "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", t.TLS10, KeyExchange(23)),
        (t.curve_exchange(23, None), "TLS_ECDH_anon_WITH_AES_128_CBC_SHA", t.TLS12, KeyExchange(23)),
        (t.field_exchange(1024, 0x0201), "TLS_DHE_RSA_WITH_AES_128_CBC_SHA", t.TLS12, KeyExchange(None, 1024, 0x0201)),
        (t.field_exchange(512, None), "TLS_DH_anon_WITH_RC4_128_MD5", t.TLS12, KeyExchange(None, 512)),
        (t.vector(b"hint") + t.curve_exchange(29, None), "TLS_ECDHE_PSK_WITH_NULL_SHA", t.TLS12, KeyExchange(29)),
        (t.vector(b"hint"), "TLS_PSK_WITH_AES_128_CBC_SHA", t.TLS12, KeyExchange()),
        (
            t.vector(b"\xff" * 64) + t.vector(b"\3") + bytes(66),
            "TLS_RSA_EXPORT_WITH_RC4_40_MD5",
            t.SSL3,
            KeyExchange(None, 512),
        ),
        (b"\x01" + bytes(80), "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", t.TLS12, KeyExchange()),
        (b"", "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", t.TLS12, KeyExchange()),
        (b"\0", "TLS_DHE_RSA_WITH_AES_128_CBC_SHA", t.TLS12, KeyExchange()),
        (b"\0", "TLS_PSK_WITH_AES_128_CBC_SHA", t.TLS12, KeyExchange()),
    ],
)
def test_key_exchanges(body: bytes, cipher: str, version: int, told: KeyExchange) -> None:
    assert key_exchange(body, cipher, version) == told


def test_names_of_numbers() -> None:
    assert [
        cipher_name(each) for each in (0, 0x000A, 0x1301, 0xC02F, 0xC0AA, 0xCCA8, 0xCC14, 0xD005, 0xFEFE, 0xFFFF)
    ] == [
        "TLS_NULL_WITH_NULL_NULL",
        "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
        "TLS_AES_128_GCM_SHA256",
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        "TLS_PSK_DHE_WITH_AES_128_CCM_8",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        "TLS_ECDHE_PSK_WITH_AES_128_CCM_SHA256",
        "SSL_RSA_FIPS_WITH_DES_CBC_SHA",
        "0xFFFF",
    ]
    assert not GREASE & set(CIPHER_NAMES)
    assert [version_name(each) for each in (0x0300, 0x0301, 0x0303, 0x0304, 0x7F1C, 0xFB1A, 0xFEFD, 0x0505)] == [
        "ssl3",
        "1.0",
        "1.2",
        "1.3",
        "1.3",
        "1.3",
        "dtls1.2",
        "0x0505",
    ]
    assert (alert_name(40), alert_name(200)) == ("handshake_failure", "alert_200")
    assert (group_name(29), group_name(0x11EC), group_name(0xABCD)) == ("x25519", "X25519MLKEM768", "0xABCD")
    assert (scheme_name(0x0201), scheme_name(0x0804), scheme_name(0x0905), scheme_name(0xEEEE)) == (
        "rsa_sha1",
        "rsa_pss_rsae_sha256",
        "mldsa65",
        "0xEEEE",
    )

"""Connections to handshakes: real ones of OpenSSL, and those that fail, are cut, cross or lie."""

from __future__ import annotations

import os
import random
import ssl
from pathlib import Path

import pytest

from otel_netmon.analysis.tcp_followers import ConnectionInfo
from otel_netmon.analysis.tcp_preambles import mysql_preamble, proxy_preamble
from otel_netmon.analysis.tls import TlsFollower
from otel_netmon.analysis.tls_certificates import Certificates
from otel_netmon.analysis.tls_handshakes import FAILURES, Alert, TlsHandshake
from otel_netmon.decode.tls_ciphers import cipher_name
from otel_netmon.decode.tls_handshake import KeyExchange
from otel_netmon.decode.tls_hello import ClientHello
from otel_netmon.decode.tls_numbers import group_name, version_name
from otel_netmon.decode.x509 import Certificate, RefusedCertificate
from support import tls_messages as t
from support.tcp_talk import CLIENT, MILLISECOND, SERVER, Talk
from support.tls_talk import NOT_AFTER, Authority, Flight, contexts, converse, follow, packets

VERSIONS = {
    "1.0": ssl.TLSVersion.TLSv1,
    "1.1": ssl.TLSVersion.TLSv1_1,
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}
NAME = "secure.example"
HELLO = t.handshake(
    t.CLIENT_HELLO, t.client_hello([0xC02F, 0x009C], [t.server_name(NAME.encode())], session_id=b"s" * 32)
)
HELLO_13 = t.handshake(
    t.CLIENT_HELLO,
    t.client_hello([0x1301], [t.server_name(NAME.encode()), t.supported_versions(t.TLS13), t.key_share(29)]),
)
ANSWER = t.handshake(t.SERVER_HELLO, t.server_hello(0xC02F, session_id=b"t" * 32))
ANSWER_13 = t.handshake(t.SERVER_HELLO, t.server_hello(0x1301, [t.chosen_version(t.TLS13), t.chosen_share(29)]))
RETRY_13 = t.handshake(
    t.SERVER_HELLO,
    t.server_hello(0x1301, [t.chosen_version(t.TLS13), t.extension(51, b"\0\x17")], random=t.RETRY_RANDOM),
)
SEALED_FINISHED = t.sealed(40, t.HANDSHAKE)


def shake(data: bytes) -> bytes:
    return t.record(t.HANDSHAKE, data)


def one(flights: list[Flight], **how: bool) -> TlsHandshake:
    (found,) = follow(packets(flights, **how))
    return found


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server_file(authority: Authority) -> Path:
    return authority.issue([NAME, "*.wild.example"])


@pytest.mark.parametrize("version", VERSIONS)
def test_what_openssl_agrees_on_is_what_is_told(version: str, authority: Authority, server_file: Path) -> None:
    both = contexts(server_file, authority.file, VERSIONS[version])
    both[0].set_alpn_protocols(["spdy/9", "h2"])
    both[1].set_alpn_protocols(["h2"])
    said = converse(both)
    assert said.error is None
    made = one(said.flights)
    assert made.outcome == "established"
    assert made.answer is not None
    agreed = said.client.cipher()
    assert agreed is not None
    names = {each["name"]: each["id"] & 0xFFFF for each in both[0].get_ciphers()}
    assert made.answer.cipher == names[agreed[0]]
    assert version_name(made.answer.version) == version
    assert made.server_name == NAME
    assert made.hello.alpn == ("spdy/9", "h2")
    assert made.resumed is False
    assert (made.connection.client, made.connection.server) == (CLIENT, SERVER)
    if version == "1.3":
        assert made.answer.alpn is None
        assert (made.chain, made.not_after) == ((), None)
    else:
        assert made.answer.alpn == said.client.selected_alpn_protocol() == "h2"
        assert made.not_after == int(NOT_AFTER.timestamp())
        assert made.leaf is not None
        assert made.leaf.is_for(NAME)
        assert made.leaf.names == (NAME, "*.wild.example")
        assert made.chain_length == 1
    assert group_name(made.group or 0) == "x25519"


@pytest.mark.parametrize("version", VERSIONS)
def test_resumption(version: str, authority: Authority, server_file: Path) -> None:
    both = contexts(server_file, authority.file, VERSIONS[version])
    session = converse(both).client.session
    said = converse(both, session=session)
    assert said.client.session_reused
    made = one(said.flights)
    assert (made.outcome, made.resumed, made.chain_length) == ("established", True, 0)


@pytest.mark.parametrize("version", ["1.0", "1.2"])
def test_resumption_by_session_id(version: str, authority: Authority, server_file: Path) -> None:
    both = contexts(server_file, authority.file, VERSIONS[version])
    for context in both:
        context.options |= ssl.OP_NO_TICKET
    first = converse(both)  # kept: OpenSSL forgets the session of a connection that goes without goodbye
    session = first.client.session
    said = converse(both, session=session)
    assert said.client.session_reused
    made = one(said.flights)
    assert (made.resumed, made.hello.has_ticket) == (True, False)
    # A server that knows nothing of the session makes a new one.
    fresh = converse((both[0], contexts(server_file, authority.file, VERSIONS[version])[1]), session=session)
    assert not fresh.client.session_reused
    assert one(fresh.flights).resumed is False


def test_a_hello_retry_request(authority: Authority, server_file: Path) -> None:
    both = contexts(server_file, authority.file, VERSIONS["1.3"])
    both[1].set_ecdh_curve("secp384r1")
    said = converse(both)
    assert said.error is None
    made = one(said.flights)
    assert (made.outcome, made.retried, group_name(made.group or 0)) == ("established", True, "secp384r1")
    assert made.answer is not None
    assert not made.answer.is_retry
    assert made.hello.key_shares == (29,)


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_client_certificates_are_counted_and_not_kept(version: str, authority: Authority, server_file: Path) -> None:
    canary = "canary-4711"
    both = contexts(server_file, authority.file, VERSIONS[version])
    both[0].load_cert_chain(authority.issue([], subject=canary))
    both[1].verify_mode = ssl.CERT_REQUIRED
    both[1].load_verify_locations(authority.file)
    said = converse(both)
    assert said.error is None
    made = one(said.flights)
    assert made.outcome == "established"
    if version == "1.2":
        assert any(canary.encode() in data for from_client, data in said.flights if from_client)
        assert (made.asked_for_certificate, made.client_certificates) == (True, 2)  # and its authority's
    else:
        assert (made.asked_for_certificate, made.client_certificates) == (False, None)
    assert canary not in repr(made)


@pytest.mark.parametrize("version", ["1.0", "1.2", "1.3"])
@pytest.mark.parametrize("why", ["unknown_ca", "expired", "name"])
def test_a_client_that_does_not_trust(
    version: str, why: str, authority: Authority, server_file: Path, tmp_path: Path
) -> None:
    file, name = server_file, NAME
    trusted = authority.file
    if why == "unknown_ca":
        trusted = Authority(tmp_path, "another").file
    elif why == "expired":
        file = authority.issue([NAME], not_after=NOT_AFTER.replace(year=2025))
    else:
        name = "other.example"
    said = converse(contexts(file, trusted, VERSIONS[version]), name=name)
    assert said.error is not None
    assert "certificate verify failed" in said.error
    made = one(said.flights)
    alerts = {"unknown_ca": 48, "expired": 45, "name": 42}
    assert [(each.from_client, each.level, each.description) for each in made.alerts] == [(True, 2, alerts[why])]
    assert (made.outcome, made.failed_by_client) == ("alert", True)


def test_no_version_in_common(authority: Authority, server_file: Path) -> None:
    client, _ = contexts(server_file, authority.file, VERSIONS["1.1"])
    _, server = contexts(server_file, authority.file, VERSIONS["1.2"])
    made = one(converse((client, server)).flights)
    assert (made.outcome, made.failed_by_client, made.answer) == ("alert", False, None)
    assert made.alerts[0].description == 70
    assert made.hello.version == t.TLS11


def test_no_cipher_in_common(authority: Authority, server_file: Path) -> None:
    client, _ = contexts(server_file, authority.file, VERSIONS["1.2"], "AES128-SHA")
    _, server = contexts(server_file, authority.file, VERSIONS["1.2"], "ECDHE-ECDSA-AES256-SHA384")
    made = one(converse((client, server)).flights)
    assert (made.outcome, made.failed_by_client, made.alerts[0].description) == ("alert", False, 40)


@pytest.mark.parametrize(
    ("cipher", "group"),
    [
        ("AES128-SHA256", None),
        ("ECDHE-RSA-CHACHA20-POLY1305", 29),
        ("AECDH-AES128-SHA", 29),
        ("ECDHE-RSA-NULL-SHA", 29),
    ],
)
def test_suites_and_groups(cipher: str, group: int | None, authority: Authority) -> None:
    both = contexts(authority.issue([NAME], rsa_bits=2048), authority.file, VERSIONS["1.2"], f"{cipher}:eNULL:aNULL")
    both[0].set_ciphers(f"{cipher}:@SECLEVEL=0")
    if cipher.startswith("A"):
        both[0].check_hostname = False
        both[0].verify_mode = ssl.CERT_NONE
    said = converse(both)
    assert said.error is None, said.error
    made = one(said.flights)
    assert made.answer is not None
    assert made.group == group
    assert cipher_name(made.answer.cipher).startswith("TLS_")


def test_finite_fields() -> None:
    answer = t.handshake(t.SERVER_HELLO, t.server_hello(0x009E))
    made = one(
        [(True, shake(HELLO)), (False, shake(answer + t.handshake(t.KEY_EXCHANGE, t.field_exchange(1024, 0x0201))))]
    )
    assert made.exchange == KeyExchange(None, 1024, 0x0201)
    assert made.group is None


def test_times() -> None:
    flights = [
        (True, shake(HELLO)),
        (False, shake(ANSWER)),
        (False, shake(t.handshake(t.HELLO_DONE, b""))),
        (True, shake(t.handshake(t.CLIENT_KEY_EXCHANGE, bytes(66)))),
        (True, t.change_cipher_spec()),
        (True, SEALED_FINISHED),
        (False, t.change_cipher_spec()),
        (False, SEALED_FINISHED),
    ]
    made = one(flights)
    assert made.start_ns == 3 * MILLISECOND
    assert made.server_flight_ns == MILLISECOND
    assert made.client_flight_ns == 2 * MILLISECOND
    assert made.duration_ns == 6 * MILLISECOND
    assert made.both_sealed


def test_of_one_side_alone_there_is_no_outcome() -> None:
    flights = [(True, shake(HELLO)), (True, t.change_cipher_spec()), (True, SEALED_FINISHED), (True, t.sealed())]
    made = one(flights, close=False)
    assert (made.outcome, made.answer, made.both_sealed) == ("incomplete", None, False)


def test_a_server_of_which_the_client_was_not_seen_has_no_handshake() -> None:
    assert follow(packets([(False, shake(ANSWER)), (False, t.change_cipher_spec())])) == []


@pytest.mark.parametrize("by_client", [True, False])
def test_who_leaves_before_both_seal(by_client: bool) -> None:
    talk = Talk()
    found = [*talk.open(), *talk.say(True, shake(HELLO)), talk.fin(by_client), talk.fin(not by_client)]
    (made,) = follow(found)
    assert (made.outcome, made.failed_by_client) == ("closed", by_client)


def test_the_answer_to_a_client_that_has_left_is_still_told() -> None:
    talk = Talk()
    found = [
        *talk.open(),
        *talk.say(True, shake(HELLO)),
        talk.fin(True),
        *talk.say(False, shake(ANSWER)),
        talk.fin(False),
    ]
    (made,) = follow(found)
    assert (made.outcome, made.failed_by_client, made.answer is not None) == ("closed", True, True)


@pytest.mark.parametrize("by_client", [True, False])
def test_a_reset(by_client: bool) -> None:
    talk = Talk()
    (made,) = follow([*talk.open(), *talk.say(True, shake(HELLO)), talk.reset(by_client)])
    assert (made.outcome, made.failed_by_client) == ("reset", by_client)


def test_a_reset_that_answers_a_leave_is_the_leave() -> None:
    talk = Talk()
    (made,) = follow([*talk.open(), *talk.say(True, shake(HELLO)), talk.fin(True), talk.reset(False)])
    assert (made.outcome, made.failed_by_client) == ("closed", True)


def test_a_server_that_speaks_no_tls() -> None:
    made = one([(True, shake(HELLO)), (False, b"HTTP/1.1 400 Bad Request\r\n\r\n")])
    assert (made.outcome, made.failed_by_client) == ("not_tls", False)
    # As the kernel tells it live: five octets of it.
    assert one([(True, shake(HELLO)), (False, b"SSH-2")], close=False).outcome == "not_tls"


def test_warnings_do_not_end_it() -> None:
    said = [
        (True, shake(HELLO)),
        (False, t.alert(112, t.WARNING) + shake(ANSWER)),
        (True, t.change_cipher_spec()),
        (False, t.change_cipher_spec()),
    ]
    made = one(said)
    assert made.outcome == "established"
    assert made.alerts == (Alert(False, t.WARNING, 112, made.start_ns + MILLISECOND),)


def test_a_close_notify_in_the_clear_is_a_leave() -> None:
    made = one([(True, shake(HELLO)), (False, t.alert(0, t.WARNING))])
    assert (made.outcome, made.failed_by_client) == ("closed", False)


def test_alerts_in_one_record() -> None:
    made = one([(True, shake(HELLO)), (False, t.record(t.ALERT, bytes([1, 90, 2, 40])))])
    assert [each.description for each in made.alerts] == [90, 40]
    assert made.outcome == "alert"


def test_a_sealed_alert_before_tls13() -> None:
    said = [
        (True, shake(HELLO)),
        (False, shake(ANSWER)),
        (True, t.change_cipher_spec() + SEALED_FINISHED),
        (True, t.sealed(26, t.ALERT)),
    ]
    made = one(said)
    assert [each.description for each in made.alerts] == [None]
    assert (made.outcome, made.failed_by_client) == ("closed", True)


@pytest.mark.parametrize("octets", [11, 19])
def test_a_sealed_alert_of_tls13_is_known_by_its_length(octets: int) -> None:
    said = [(True, shake(HELLO_13)), (False, shake(ANSWER_13) + t.sealed(700)), (True, t.sealed(octets))]
    made = one(said)
    assert (made.outcome, made.failed_by_client) == ("alert", True)
    assert [each.description for each in made.alerts] == [None]
    assert one([*said[:2], (True, t.sealed(octets + 1))]).outcome == "established"


def test_change_cipher_spec_means_nothing_in_tls13() -> None:
    said = [
        (True, shake(HELLO_13) + t.change_cipher_spec()),
        (False, shake(RETRY_13) + t.change_cipher_spec()),
        (True, shake(HELLO_13)),
        (False, shake(ANSWER_13) + t.sealed(700)),
    ]
    assert one(said, close=False).outcome == "incomplete"
    made = one([*said, (True, t.sealed(53))])
    assert (made.outcome, made.retried, made.group) == ("established", True, 29)


def test_a_retry_without_more() -> None:
    made = one([(True, shake(HELLO_13)), (False, shake(RETRY_13))])
    assert (made.outcome, made.retried) == ("closed", True)
    assert made.answer is not None
    assert made.answer.is_retry


def test_early_data_is_no_alert() -> None:
    hello = t.handshake(t.CLIENT_HELLO, t.client_hello([0x1301], [t.supported_versions(t.TLS13), t.extension(42)]))
    said = [(True, shake(hello) + t.sealed(19)), (False, shake(ANSWER_13) + t.sealed(100))]
    assert one(said).outcome == "established"


def test_what_a_server_says_before_the_hello_is_of_something_else() -> None:
    said = [
        (False, b"220 ready\r\n"),
        (True, shake(HELLO_13)),
        (False, shake(ANSWER_13) + t.sealed()),
        (True, t.sealed(53)),
    ]
    assert one(said).outcome == "established"


@pytest.mark.parametrize(
    "before",
    [
        [(False, b"220 mx\r\n"), (True, b"EHLO me\r\n"), (False, b"250 STARTTLS\r\n"), (True, b"STARTTLS\r\n"), (False, b"220 go\r\n")],
        [(False, b"* OK\r\n"), (True, b"a STARTTLS\r\n"), (False, b"a OK\r\n")],
        [(False, b"+OK\r\n"), (True, b"STLS\r\n"), (False, b"+OK\r\n")],
        [(True, b"\0\0\0\x08\x04\xd2\x16\x2f"), (False, b"S")],
        [(True, b"CONNECT a:443 HTTP/1.1\r\n\r\n"), (False, b"HTTP/1.1 200 OK\r\n\r\n")],
        [(True, b"\x05\x01\x00"), (False, b"\x05\x00"), (True, b"\x05\x01\x00\x01\x7f\0\0\1\1\xbb"), (False, b"\5\0\0\1" + bytes(6))],
        [(True, b"\x03\0\0\x13\x0e\xe0" + bytes(13)), (False, b"\x03\0\0\x13\x0e\xd0" + bytes(13))],
    ],
)  # fmt: skip
def test_tls_behind_other_protocols(before: list[Flight]) -> None:
    said = [
        *before,
        (True, shake(HELLO)),
        (False, shake(ANSWER)),
        (True, t.change_cipher_spec()),
        (False, t.change_cipher_spec()),
    ]
    made = one(said)
    assert (made.outcome, made.server_name) == ("established", NAME)
    assert made.connection.inside is any(from_client for from_client, _ in before)


MYSQL = b"\x20\0\0\1" + b"\x85\xae\x3f\x20" + b"\0\0\0\1" + b"\x21" + bytes(23)
PROXIES = [
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 443\r\n",
    b"PROXY UNKNOWN\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12),
]


@pytest.mark.parametrize("preamble", [*PROXIES, MYSQL])
@pytest.mark.parametrize("size", [1460, 20, 7])
def test_tls_behind_a_preamble_in_the_same_breath(preamble: bytes, size: int) -> None:
    said = [
        (True, preamble + shake(HELLO)),
        (False, shake(ANSWER)),
        (True, t.change_cipher_spec()),
        (False, t.change_cipher_spec()),
    ]
    (made,) = follow(packets(said, size))
    assert (made.outcome, made.server_name) == ("established", NAME)


def test_preambles() -> None:
    for preamble in PROXIES:
        told = [proxy_preamble(preamble[:length]) for length in range(1, len(preamble) + 1)]
        assert told[-1] == len(preamble)
        assert set(told) <= {None, len(preamble)}
    assert proxy_preamble(b"PROXIED") == 0
    assert proxy_preamble(b"PROXY " + b"x" * 200) == 0
    assert proxy_preamble(b"GET /") == 0
    assert [mysql_preamble(MYSQL[:length]) for length in (1, 4, 35, 36)] == [None, None, None, 36]
    assert mysql_preamble(MYSQL[:5] + b"\xa6" + MYSQL[6:]) == 0
    assert mysql_preamble(MYSQL[:20] + b"1" + MYSQL[21:]) == 0


def test_ssl2_hellos() -> None:
    said = [
        (True, t.ssl2_hello(t.TLS10, [0x010080, 0x000004, 0x00000A])),
        (False, t.record(t.HANDSHAKE, t.handshake(t.SERVER_HELLO, t.server_hello(4, None, t.TLS10)), t.TLS10)),
        (True, t.change_cipher_spec(t.TLS10)),
        (False, t.change_cipher_spec(t.TLS10)),
    ]
    made = one(said)
    assert (made.outcome, made.ja3, made.ja4, made.hello.ciphers) == ("established", None, None, (4, 10))
    assert made.answer is not None
    assert made.answer.version == t.TLS10


def test_a_server_of_ssl2_is_not_followed() -> None:
    made = one([(True, t.ssl2_hello(2, [0x010080])), (False, b"\x83\xb4\4\0\1\0\2" + bytes(60))])
    assert (made.outcome, made.answer, made.hello.ciphers) == ("incomplete", None, ())


def test_a_message_that_is_no_hello_makes_no_record() -> None:
    assert follow(packets([(True, shake(t.handshake(t.CLIENT_HELLO, bytes(40))))])) == []


def test_two_messages_that_are_no_hello_in_one_record_end_it_once() -> None:
    over: list[TlsFollower] = []
    (seen, _), *_ = Talk().open()
    info = ConnectionInfo(0, 1, seen.source, seen.destination, True, True, 0, 0, 0, 0)
    follower = TlsFollower(info, Certificates(), over.append)
    short = t.handshake(t.CLIENT_HELLO, bytes(40)[:36])
    follower.data(True, t.record(t.HANDSHAKE, short + short), 1)
    assert over == [follower]
    assert follower.done
    assert follower.records == []


def test_certificates_that_cannot_be_read_are_told_as_such() -> None:
    chain = t.handshake(t.CERTIFICATE, t.certificate(b"\x30\x03\x02\x01\x00", b"nothing"))
    made = one([(True, shake(HELLO)), (False, shake(ANSWER + chain))])
    assert [type(each) for each in made.chain] == [RefusedCertificate, RefusedCertificate]
    assert (made.leaf, made.not_after, made.chain_length) == (None, None, 2)


def test_a_chain_of_which_the_end_is_missing_has_a_leaf(authority: Authority, server_file: Path) -> None:
    flights = converse(contexts(server_file, authority.file, VERSIONS["1.2"])).flights
    hello, answer = flights[0][1], flights[1][1]
    leaf = ssl.PEM_cert_to_DER_cert(server_file.read_text().split("-----BEGIN PRIVATE")[0])
    end = answer.index(leaf) + len(leaf)
    talk = Talk()
    found = [*talk.open(), *talk.say(True, hello), talk.packet(False, answer[:end], length=len(answer)), talk.fin(True)]
    (made,) = follow(found)
    assert made.not_after == int(NOT_AFTER.timestamp())
    assert made.outcome == "incomplete"


def test_what_is_lost_makes_no_failure() -> None:
    talk = Talk()
    found = [*talk.open(), *talk.say(True, shake(HELLO)), *talk.say(False, shake(ANSWER))]
    talk.lose(False, 700)
    found += [*talk.say(False, t.sealed(100)[20:]), talk.fin(False), talk.fin(True)]
    (made,) = follow(found)
    assert (made.outcome, made.failed_by_client) == ("incomplete", None)


def test_a_lost_piece_in_the_middle_does_not_hide_the_end(authority: Authority, server_file: Path) -> None:
    flights = converse(contexts(server_file, authority.file, VERSIONS["1.2"])).flights
    talk = Talk()
    found = talk.open()
    for number, (from_client, data) in enumerate(flights):
        if number == 1:
            found += talk.say(from_client, data[:200])
            talk.lose(from_client, 100)
            found += talk.say(from_client, data[300:])
        else:
            found += talk.say(from_client, data)
    (made,) = follow(found)
    assert made.outcome == "established"
    assert made.not_after is None


def told(made: TlsHandshake) -> TlsHandshake:
    """A handshake without its times, which hang on the cuts."""
    alerts = tuple(each._replace(time_ns=0) for each in made.alerts)
    return made._replace(
        connection=made.connection._replace(start_ns=0),
        start_ns=0,
        answer_ns=None,
        client_ns=None,
        finished_ns=None,
        end_ns=0,
        alerts=alerts,
    )


def rerecorded(data: bytes, size: int) -> bytes:
    """The same handshake messages in records of this many octets, up to ChangeCipherSpec; what follows as it is."""
    made, at, kept = b"", 0, b""
    while at < len(data):
        kind, length = data[at], int.from_bytes(data[at + 3 : at + 5], "big")
        if kind != t.HANDSHAKE:
            break
        kept += data[at + 5 : at + 5 + length]
        at += 5 + length
    made = t.records(t.HANDSHAKE, kept, size)
    return made + data[at:]


@pytest.mark.parametrize("version", ["1.0", "1.2", "1.3"])
def test_the_cuts_of_segments_change_nothing(version: str, authority: Authority, server_file: Path) -> None:
    flights = converse(contexts(server_file, authority.file, VERSIONS[version])).flights
    known = Certificates()
    (whole,) = follow(packets(flights, 100_000), known)
    for number, (from_client, data) in enumerate(flights[:4]):
        for cut in range(1, len(data)):
            pieces = [(from_client, data[:cut]), (from_client, data[cut:])]
            (made,) = follow(packets([*flights[:number], *pieces, *flights[number + 1 :]], 100_000), known)
            assert told(made) == told(whole), (number, cut)


@pytest.mark.parametrize("version", ["1.0", "1.2", "1.3"])
def test_the_cuts_of_records_change_nothing(version: str, authority: Authority, server_file: Path) -> None:
    flights = converse(contexts(server_file, authority.file, VERSIONS[version])).flights
    known = Certificates()
    (whole,) = follow(packets(flights), known)
    for number in (0, 1):
        from_client, data = flights[number]
        for size in range(1, len(data)):
            cut = [*flights[:number], (from_client, rerecorded(data, size)), *flights[number + 1 :]]
            (made,) = follow(packets(cut), known)
            assert told(made) == told(whole), (number, size)


@pytest.mark.parametrize("version", ["1.0", "1.2", "1.3"])
def test_order_and_repetition_of_segments_change_nothing(version: str, authority: Authority, server_file: Path) -> None:
    flights = converse(contexts(server_file, authority.file, VERSIONS[version])).flights
    known = Certificates()
    generator = random.Random(11)  # noqa: S311
    (whole,) = follow(packets(flights), known)
    for _ in range(300):
        talk = Talk()
        found = talk.open()
        for from_client, data in flights:
            said = talk.say(from_client, data, generator.choice([60, 200, 536]))
            said += generator.choices(said, k=generator.randrange(3))
            generator.shuffle(said)
            found += said
        found += [talk.fin(True), talk.fin(False)]
        (made,) = follow(found, known)
        assert told(made) == told(whole)


def damaged(data: bytes, generator: random.Random) -> bytes:
    octets = bytearray(data)
    for _ in range(generator.choice([0, 1, 1, 2, 8])):
        where = generator.randrange(len(octets))
        what = generator.randrange(4)
        if what == 0:
            octets[where] = generator.randrange(256)
        elif what == 1:
            octets[where] = generator.choice([0, 1, 0x7F, 0x80, 0xFF])
        elif what == 2:
            del octets[where : where + generator.randrange(1, 20)]
        else:
            octets[where:where] = generator.randbytes(generator.randrange(1, 20))
        if not octets:
            return b""
    return bytes(octets)


def test_damaged_handshakes_never_fail(authority: Authority, server_file: Path) -> None:
    number = int(os.environ.get("NETMON_FUZZ_MESSAGES", "2000"))
    generator = random.Random(number)  # noqa: S311
    templates = [converse(contexts(server_file, authority.file, version)).flights for version in VERSIONS.values()]
    templates.append(
        [
            (True, shake(HELLO_13)),
            (False, shake(RETRY_13)),
            (True, shake(HELLO_13)),
            (False, shake(ANSWER_13) + t.sealed()),
        ]
    )
    templates.append(converse(contexts(server_file, authority.file, VERSIONS["1.2"]), name="other.example").flights)
    known = Certificates(limit=64)
    outcomes = set()
    for _ in range(number):
        talk = Talk()
        found = talk.open()
        for from_client, data in generator.choice(templates):
            hurt = damaged(data, generator)
            if generator.random() < 0.05:
                talk.lose(from_client, generator.randrange(1, 2000))
            if hurt:
                found += talk.say(from_client, hurt, generator.choice([100, 536, 1460]))
        made = follow(found, known)
        assert len(made) <= 1
        for each in made:
            outcomes.add(each.outcome)
            assert isinstance(each.hello, ClientHello)
            assert (each.outcome in FAILURES) == (each.failed_by_client is not None)
            assert each.hello.server_name is None or each.hello.server_name.isprintable()
            assert all(isinstance(one_of, (Certificate, RefusedCertificate)) for one_of in each.chain)
    assert outcomes >= {"established", "incomplete", "alert", "not_tls"}

"""What is made of handshakes: what is weak, which servers are known, who takes too long."""

from __future__ import annotations

import numpy as np
import pytest

from otel_netmon.abi import layout
from otel_netmon.analysis.tcp_followers import ConnectionInfo
from otel_netmon.analysis.tls_series import lasted_ns
from otel_netmon.analysis.tls_servers import Server, ServerCertificate, ServerCertificates, TlsEnds, Told
from otel_netmon.analysis.tls_tracker import TlsTracker
from otel_netmon.analysis.tls_weak import Thresholds, Weakness, weaknesses
from otel_netmon.decode.tls_handshake import KeyExchange
from otel_netmon.decode.x509 import Certificate
from support import tls_messages as t
from support.tcp_talk import CLIENT, SERVER
from support.tls_handshakes import ANSWER, ANSWER_13, CERTIFICATE, CONNECTION, NOW, SECOND, handshake

# ---- what is weak


@pytest.mark.parametrize(
    ("cipher", "kinds"),
    [
        (0xC02F, set()),
        (0x1301, set()),
        (0x0001, {Weakness.NULL_CIPHER}),
        (0x0003, {Weakness.EXPORT_CIPHER, Weakness.RC4}),
        (0x0005, {Weakness.RC4}),
        (0x0008, {Weakness.EXPORT_CIPHER, Weakness.DES}),
        (0x0009, {Weakness.DES}),
        (0x000A, {Weakness.TRIPLE_DES}),
        (0x0018, {Weakness.ANONYMOUS, Weakness.RC4}),
        (0x0062, {Weakness.EXPORT_CIPHER, Weakness.DES}),
        (0xC018, {Weakness.ANONYMOUS}),
    ],
)
def test_weak_suites(cipher: int, kinds: set[Weakness]) -> None:
    made = handshake(answer=ANSWER._replace(cipher=cipher))
    assert set(weaknesses(made, Thresholds(), NOW)) == kinds


@pytest.mark.parametrize(
    ("version", "oldest", "is_weak"),
    [
        (t.SSL3, t.TLS12, True),
        (t.TLS11, t.TLS12, True),
        (t.TLS12, t.TLS12, False),
        (t.TLS12, t.TLS13, True),
        (0x7F1C, t.TLS12, False),
        (t.TLS13, t.TLS13, False),
        (t.TLS10, t.TLS10, False),
    ],
)
def test_old_versions(version: int, oldest: int, is_weak: bool) -> None:
    made = handshake(answer=ANSWER._replace(version=version))
    assert (Weakness.OLD_VERSION in weaknesses(made, Thresholds(version=oldest), NOW)) is is_weak


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        ({}, set()),
        ({"key_bits": 2047}, {Weakness.SMALL_KEY}),
        ({"key": "ec", "key_bits": 192}, {Weakness.SMALL_KEY}),
        ({"key": "ec", "key_bits": 256}, set()),
        ({"key": "ed25519", "key_bits": None}, set()),
        ({"signature_hash": "sha1"}, {Weakness.SHA1_SIGNATURE}),
        ({"signature_hash": "md5"}, {Weakness.MD5_SIGNATURE}),
        ({"signature_hash": None}, set()),
        ({"is_self_signed": True}, {Weakness.SELF_SIGNED}),
        ({"is_self_signed": True, "signature_hash": "sha1"}, {Weakness.SELF_SIGNED, Weakness.SHA1_SIGNATURE}),
        ({"names": ("other.example",)}, {Weakness.WRONG_NAME}),
        ({"not_after": NOW - 1}, {Weakness.EXPIRED}),
        ({"not_before": NOW + 1}, {Weakness.NOT_YET_VALID}),
    ],
)
def test_weak_certificates(change: dict[str, object], kinds: set[Weakness]) -> None:
    leaf = Certificate(**{**CERTIFICATE._asdict(), **change})
    assert set(weaknesses(handshake(chain=(leaf,)), Thresholds(), NOW)) == kinds


def test_of_a_chain_the_keys_and_signatures_count_but_not_the_names_and_not_the_signature_of_its_root() -> None:
    middle = CERTIFICATE._replace(names=(), signature_hash="sha1", key_bits=1024, not_after=0)
    root = CERTIFICATE._replace(names=(), signature_hash="md5", is_self_signed=True)
    made = weaknesses(handshake(chain=(CERTIFICATE, middle, root)), Thresholds(), NOW)
    assert set(made) == {Weakness.SMALL_KEY, Weakness.SHA1_SIGNATURE}


@pytest.mark.parametrize(
    ("exchange", "kinds"),
    [
        (KeyExchange(bits=1024), {Weakness.SMALL_GROUP}),
        (KeyExchange(bits=2048, scheme=0x0804), set()),
        (KeyExchange(group=29, scheme=0x0201), {Weakness.SHA1_SIGNATURE}),
        (KeyExchange(group=29, scheme=0x0101), {Weakness.MD5_SIGNATURE}),
    ],
)
def test_weak_exchanges(exchange: KeyExchange, kinds: set[Weakness]) -> None:
    assert set(weaknesses(handshake()._replace(exchange=exchange), Thresholds(), NOW)) == kinds


def test_where_the_server_chose_nothing_nothing_is_weak() -> None:
    assert weaknesses(handshake("alert", answer=None, alert=70), Thresholds(), NOW) == ()
    assert weaknesses(handshake(answer=ANSWER_13._replace(is_retry=True)), Thresholds(version=0x0400), NOW) == ()


def test_a_name_that_was_not_asked_for_cannot_be_wrong() -> None:
    assert weaknesses(handshake(name=None), Thresholds(), NOW) == ()


# ---- servers


def test_the_certificate_that_a_server_showed_last_is_known_for_a_day() -> None:
    servers = ServerCertificates(3)
    renewed = CERTIFICATE._replace(not_after=NOW + 7)
    www = Server("www.example", 443)
    assert servers.see(www, handshake(), NOW) == CERTIFICATE
    servers.see(www, handshake(chain=(renewed,)), NOW + 10)
    assert servers.see(Server("sealed.example", 443), handshake(answer=ANSWER_13, chain=()), NOW) is None
    assert servers.current(NOW + 20) == [(www, ServerCertificate(renewed, NOW + 10))]
    assert servers.current(NOW + 10 + 86_400) == [(www, ServerCertificate(renewed, NOW + 10))]
    assert servers.current(NOW + 11 + 86_400) == []


def test_servers_are_bounded() -> None:
    servers = ServerCertificates(3)
    names = [Server(f"n{at}.example", 443) for at in range(5)]
    for at in (0, 1, 2, 0, 3, 4):
        servers.see(names[at], handshake(), NOW + at)
    assert [server for server, _ in servers.current(NOW)] == [names[0], names[3], names[4]]
    assert (len(servers), servers.evicted) == (3, 2)


def test_what_was_told_is_told_again_after_a_day() -> None:
    told = Told()
    assert told.is_new(NOW, "a", 1)
    assert not told.is_new(NOW + 86_399, "a", 1)
    assert told.is_new(NOW, "a", 2)
    assert told.is_new(NOW + 86_400, "a", 1)
    assert not told.is_new(NOW + 86_401, "a", 1)


def test_ends_where_tls_is_spoken_are_found_among_records() -> None:
    ends = TlsEnds()
    heads = np.zeros(4, layout.MESSAGE)
    for place, (source, destination) in enumerate(
        [(CLIENT, SERVER), (SERVER, CLIENT), (CLIENT, CLIENT), (SERVER, SERVER)]
    ):
        for name, end in (("source", source), ("destination", destination)):
            heads[name][place] = np.frombuffer(end[:16], "u1")
            heads[f"{name}_port"][place] = int.from_bytes(end[16:], "big")
    assert ends.among(heads) == []
    ends.see(SERVER, NOW)
    assert ends.knows(SERVER)
    assert not ends.knows(CLIENT)
    assert sorted(ends.among(heads)) == [(0, SERVER), (1, SERVER), (3, SERVER), (3, SERVER)]
    assert ends.among(heads[:0]) == []
    for number in range(4096):
        ends.see(number.to_bytes(18, "big"), NOW)
    assert not ends.knows(SERVER)
    assert ends.among(heads) == []


# ---- who takes too long


HELLO = t.record(t.HANDSHAKE, t.handshake(t.CLIENT_HELLO, t.client_hello([0xC02F], [t.server_name(b"www.example")])))
ANSWER_OCTETS = t.record(t.HANDSHAKE, t.handshake(t.SERVER_HELLO, t.server_hello(0xC02F)))


def info(start_ns: int) -> ConnectionInfo:
    return CONNECTION._replace(start_ns=start_ns)


def test_handshakes_that_take_too_long() -> None:
    tracker = TlsTracker(10 * SECOND, 16384)
    make = tracker.recogniser().make
    silent, answered, over = (make(info(at * SECOND)) for at in (1, 2, 3))
    for at, follower in enumerate((silent, answered, over)):
        follower.data(True, HELLO, (at + 1) * SECOND)
    answered.data(False, ANSWER_OCTETS, 2 * SECOND)
    over.data(False, t.alert(40), 3 * SECOND)
    assert len(tracker) == 2
    assert tracker.advance(11 * SECOND - 1) == []
    (first,) = tracker.advance(11 * SECOND)
    assert (first.outcome, first.failed_by_client, lasted_ns(first)) == ("timed_out", False, 10 * SECOND)
    (second,) = tracker.advance(20 * SECOND)
    assert (second.outcome, second.failed_by_client) == ("timed_out", True)
    assert len(tracker) == 0
    assert silent.done
    assert silent.records == []
    assert tracker.advance(1000 * SECOND) == []


def test_what_was_not_seen_to_its_end_has_not_timed_out() -> None:
    tracker = TlsTracker(10 * SECOND, len(HELLO) + 100)
    make = tracker.recogniser().make
    lost, long = make(info(SECOND)), make(info(SECOND))
    for follower in (lost, long):
        follower.data(True, HELLO, SECOND)
    lost.gap(False, 100, SECOND)
    long.data(False, ANSWER_OCTETS + t.record(t.HANDSHAKE, t.handshake(t.CERTIFICATE, bytes(100))), SECOND)
    long.data(False, t.record(t.HANDSHAKE, t.handshake(t.CERTIFICATE_REQUEST, bytes(100))), SECOND)
    assert [each.outcome for each in tracker.advance(12 * SECOND)] == ["incomplete", "incomplete"]


def test_a_connection_whose_hello_never_ended_tells_nothing() -> None:
    tracker = TlsTracker(10 * SECOND, 16384)
    follower = tracker.recogniser().make(info(SECOND))
    follower.data(True, HELLO[:20], SECOND)
    assert tracker.advance(12 * SECOND) == []
    assert len(tracker) == 0

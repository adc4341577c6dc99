"""What is made of handshakes: what is weak, which servers, names and hellos are known, who takes too long."""

from __future__ import annotations

import numpy as np
import pytest

from otel_netmon.abi import layout
from otel_netmon.abi.enums import MessageKind
from otel_netmon.analysis.cardinality import WHOLE_SET
from otel_netmon.analysis.dns_lookups import Seen
from otel_netmon.analysis.name_table import OTHER, NameTable, name_number
from otel_netmon.analysis.tcp_followers import ConnectionInfo
from otel_netmon.analysis.tls_datagrams import CLIENTS_MAX, DatagramHello, DatagramHellos, datagrams
from otel_netmon.analysis.tls_series import NO_ERROR, TlsSeries, error_number, error_text, lasted_ns
from otel_netmon.analysis.tls_servers import Server, ServerCertificate, ServerCertificates, TlsEnds, Told
from otel_netmon.analysis.tls_tracker import TlsTracker
from otel_netmon.analysis.tls_weak import Thresholds, Weakness, weaknesses
from otel_netmon.decode.quic import VERSION_1
from otel_netmon.decode.tls_handshake import KeyExchange
from otel_netmon.decode.x509 import Certificate
from otel_netmon.readers.messages import Messages
from support import dtls_datagrams as d, quic_packets as q, tls_messages as t
from support.tcp_talk import CLIENT, SERVER
from support.tls_handshakes import ANSWER, ANSWER_13, CERTIFICATE, CONNECTION, NOW, SECOND, handshake

UNIX = NOW * SECOND


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


# ---- names


def test_names_are_bounded_and_the_others_share_one() -> None:
    names = NameTable(2, 100)
    assert [names.number(name, 10) for name in ("a", "b", "a")] == [name_number(each) for each in ("a", "b", "a")]
    assert names.number("c", 10) == name_number(OTHER)
    assert names.texts == {name_number(each): each for each in (OTHER, "a", "b")}
    assert (len(names), names.folded) == (2, 1)


def test_names_that_are_quiet_make_room_for_others() -> None:
    names = NameTable(8, 1000)
    for name in "abcdefgh":
        names.number(name, 10)
    names.end_cycle((), 20)
    for name in "bcdefgh":
        names.number(name, 30)
    assert names.number("i", 30) == name_number(OTHER)
    names.end_cycle((), 40)
    assert names.number("i", 50) == name_number("i")
    assert names.number("a", 50) == name_number(OTHER)


def test_names_that_are_busy_keep_their_places() -> None:
    names = NameTable(2, 1000)
    for now in range(10, 100, 10):
        assert [names.number(name, now) for name in "abc"] == [name_number(each) for each in ("a", "b", OTHER)]
        names.end_cycle((), now + 5)


def test_idle_names_leave_and_those_that_are_told_keep_their_text() -> None:
    names = NameTable(4, 100)
    names.number("a", 10)
    names.number("b", 150)
    names.end_cycle({name_number("a")}, 200)
    assert len(names) == 1
    assert set(names.texts.values()) == {OTHER, "a", "b"}
    names.end_cycle((), 201)
    assert set(names.texts.values()) == {OTHER, "b"}


def test_another_process_goes_on_with_the_names() -> None:
    names = NameTable(2, 100)
    names.number("a", 10)
    names.number("b", 20)
    names.end_cycle({name_number("gone")}, 30)
    after = NameTable(2, 100)
    after.restore(names.state())
    assert after.texts == names.texts
    assert after.number("c", 40) == name_number(OTHER)


# ---- series


def series(names: int = 10) -> TlsSeries:
    made = TlsSeries((0.01, 0.1, 1.0), names, UNIX, 3600 * SECOND)
    made.set_limit(100)
    return made


def test_handshakes_are_counted_by_what_was_agreed() -> None:
    made = series()
    every = [
        *[handshake(milliseconds=ms) for ms in (5, 50, 500)],
        handshake(answer=ANSWER_13, chain=()),
        handshake("alert", alert=48),
        handshake("alert", alert=None),
        handshake("timed_out", answer=None, milliseconds=10_000),
    ]
    made.add(every, ["www.example"] * len(every), UNIX + SECOND)
    read = made.reading()
    keys = read.series.keys
    counts = dict(zip(map(bytes, keys), read.distributions[0].count[1:].tolist(), strict=True))
    assert sorted(counts.values()) == [1, 1, 1, 1, 3]
    assert read.distributions[0].count[0] == 0
    assert {error_text(each) for each in keys["error"].tolist() if each != NO_ERROR} == {
        "unknown_ca",
        "sealed_alert",
        "timeout",
    }
    assert {read.names["server"][each] for each in keys["server"].tolist()} == {"www.example"}
    assert {read.names["protocol"][each] for each in keys["protocol"].tolist() if each} == {"h2"}
    assert read.distributions[0].sum.sum() == pytest.approx(0.555 + 0.03 * 3 + 10)


def test_what_has_no_place_is_exact_in_the_rest() -> None:
    made = series(names=3)
    made.set_limit(2)
    for at in range(7):
        made.add([handshake(name=f"n{at}.example")], [f"n{at}.example"], UNIX + at)
    durations = made.reading().distributions[0]
    assert durations.count.sum() == 7
    assert durations.count[0] == 5
    made.end_cycle()
    # Two of the rest had names of their own, the others are one: `other`.
    assert made.folded == 2
    assert made.distinct()[WHOLE_SET] == pytest.approx(4, abs=0.5)


def test_another_process_goes_on_with_the_series() -> None:
    made = series()
    made.add([handshake(), handshake("closed")], ["www.example"] * 2, UNIX + SECOND)
    after = series()
    after.restore(made.state())
    after.add([handshake()], ["www.example"], UNIX + 2 * SECOND)
    read = after.reading()
    assert sorted(read.distributions[0].count.tolist()) == [0, 1, 2]
    assert read.names["server"][int(read.series.keys["server"][0])] == "www.example"


def test_how_long_it_lasted_and_why_it_failed() -> None:
    assert lasted_ns(handshake(milliseconds=20)) == 20_000_000
    assert lasted_ns(handshake("reset", milliseconds=7)) == 7_000_000
    assert error_number(handshake()) == NO_ERROR
    texts = {what: error_text(error_number(handshake(what))) for what in ("closed", "reset", "not_tls", "timed_out")}
    assert texts == {"closed": "closed", "reset": "reset", "not_tls": "not_tls", "timed_out": "timeout"}
    assert error_text(error_number(handshake("alert", alert=40))) == "handshake_failure"


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


# ---- hellos in datagrams


QUIC_HELLO = t.handshake(
    t.CLIENT_HELLO,
    t.client_hello([0x1301], [t.server_name(b"quic.example"), t.alpn(b"h3"), t.supported_versions(t.TLS13)]),
)


def seen(number: int = 0, *, back: bool = False) -> Seen:
    client = CLIENT[:16] + (50_000 + number % 10_000).to_bytes(2, "big")
    server = SERVER[:16] + (443 + number // 10_000).to_bytes(2, "big")
    return Seen(0, 1, 0, 0, 0, *((server, client) if back else (client, server)))


def fed(hellos: DatagramHellos, *given: tuple[Seen, bytes]) -> list[DatagramHello]:
    found = [hellos.feed(where, data, at) for at, (where, data) in enumerate(given)]
    return [each for each in found if each is not None]


def test_a_hello_of_quic_counts_once() -> None:
    hellos = DatagramHellos()
    first, second = (q.initial(q.crypto(0, QUIC_HELLO), b"connection", number) for number in (0, 1))
    server = q.initial(q.crypto(0, b"\x02\0\0\x01x"), b"another id", 0, keys_of=b"secret")
    (made,) = fed(hellos, (seen(), first), (seen(), second), (seen(back=True), server))
    assert (made.carrier, made.quic_version, made.time_ns) == ("quic", VERSION_1, 0)
    assert (made.hello.server_name, made.hello.alpn) == ("quic.example", ("h3",))
    assert made.seen == seen()
    assert hellos.counts == {"hello": 1, "again": 2}


def test_a_hello_over_datagrams_in_any_order() -> None:
    hellos = DatagramHellos()
    parts = [
        q.initial(q.crypto(60, QUIC_HELLO[60:]), b"connection", 0, q.V2),
        q.initial(q.crypto(0, QUIC_HELLO[:60]), b"the server's id", 1, q.V2, keys_of=b"connection"),
    ]
    (made,) = fed(hellos, *((seen(), part) for part in parts))
    assert made.hello.server_name == "quic.example"
    assert hellos.counts == {"part": 1, "hello": 1}


def test_a_retry_changes_the_keys() -> None:
    hellos = DatagramHellos()
    first = q.initial(q.crypto(0, QUIC_HELLO[:60]), b"connection")
    again = q.initial(q.crypto(0, QUIC_HELLO), b"of the retry", token=b"token")
    (made,) = fed(hellos, (seen(), first), (seen(), again))
    assert made.hello.server_name == "quic.example"


def test_a_hello_of_dtls_counts_once_with_its_cookie_or_without() -> None:
    hellos = DatagramHellos()
    (made,) = fed(hellos, (seen(), d.hello(b"media.example")), (seen(), d.hello(b"media.example", 1)))
    assert (made.carrier, made.hello.server_name, made.quic_version) == ("dtls", "media.example", 0)
    assert hellos.counts == {"hello": 1, "again": 1}


def test_what_cannot_be_read_is_counted() -> None:
    hellos = DatagramHellos()
    sealed = q.initial(q.crypto(0, QUIC_HELLO), b"connection", keys_of=b"other")
    no_hello = q.initial(q.crypto(0, b"\x02\0\0\x01x"), b"connection")
    broken = q.initial(q.crypto(0, b"\x01\0\0\x01x"), b"connection")
    given = [sealed, no_hello, broken, b"nothing", d.record(b"short")]
    assert fed(hellos, *((seen(number), data) for number, data in enumerate(given))) == []
    assert hellos.counts == {"sealed": 1, "unreadable": 4}


def test_clients_are_bounded() -> None:
    hellos = DatagramHellos()
    part = q.initial(q.crypto(0, QUIC_HELLO[:60]), b"connection")
    for number in range(CLIENTS_MAX + 23):
        hellos.feed(seen(number), part, number)
    assert (len(hellos), hellos.counts["evicted"]) == (CLIENTS_MAX, 23)
    for _ in range(100):
        hellos.feed(seen(CLIENTS_MAX), part, 0)
    assert hellos.counts["again"] > 60


def test_datagrams_among_messages() -> None:
    kinds = [MessageKind.STREAM, MessageKind.QUIC, MessageKind.DTLS]
    heads = np.zeros(3, layout.MESSAGE)
    heads["kind"], heads["captured_length"], heads["time_ns"] = kinds, [3, 4, 5], [7, 8, 9]
    heads["source_port"], heads["destination_port"], heads["namespace"], heads["ifindex"] = 50_000, 443, 3, 9
    messages = Messages(heads, b"abcdefghijkl", np.array([0, 3, 7]))
    found = list(datagrams(messages))
    assert [(time_ns, data) for _, time_ns, data in found] == [(8, b"defg"), (9, b"hijkl")]
    assert found[0][0] == Seen(3, 9, 0, 0, 0, bytes(16) + b"\xc3\x50", bytes(16) + b"\x01\xbb")

"""Handshakes as points, spans and events: names, attributes, statuses."""

from __future__ import annotations

import numpy as np
import pytest

from otel_netmon.analysis.lasting import LastingSeries
from otel_netmon.analysis.sampling import KeepRule
from otel_netmon.analysis.tls_handshakes import TlsHandshake
from otel_netmon.analysis.tls_series import TlsSeries
from otel_netmon.analysis.tls_servers import Server, ServerCertificate
from otel_netmon.analysis.tls_weak import Weakness
from otel_netmon.decode.tls_handshake import KeyExchange
from otel_netmon.otel import tls, tls_events
from otel_netmon.otel.attributes import AttributeSet, Tag, Value
from otel_netmon.otel.catalogue import EVENTS
from otel_netmon.otel.spans import Severity, SpanKind, StatusCode
from support import tls_messages as t
from support.tls_handshakes import ANSWER, ANSWER_13, CERTIFICATE, NOW, SECOND, START, handshake

UNIX = NOW * SECOND
OFFSET = UNIX - START
WWW = Server("www.example", 8443)


def span_attributes(made: TlsHandshake, *weak: Weakness) -> dict[str, Value]:
    """What the span of a handshake says of it."""
    batch = tls.tls_spans([made], [tls.server_of(made)], [weak], KeepRule(1.0, 10), OFFSET, START).batch
    assert len(batch) == 1
    return decoded(batch.attributes[0], Tag.SPAN)


def decoded(encoded: bytes, tag: Tag) -> dict[str, Value]:
    # The tag is one octet, and an AttributeSet reads whatever the tag is.
    assert encoded[0] == tag
    return dict(AttributeSet(encoded).items())


def points(*handshakes: TlsHandshake, names: int = 10) -> dict[AttributeSet, int]:
    """Counts of netmon.tls.handshake.duration by attributes."""
    series = TlsSeries([1.0], names, UNIX, 3600 * SECOND)
    series.set_limit(100)
    series.add(handshakes, [tls.server_of(each).name for each in handshakes], UNIX)
    told = tls.TlsPoints().durations(series.reading())[tls.DURATION]
    return dict(zip(told.attributes, map(int, told.count), strict=True))


def test_points_of_handshakes() -> None:
    assert points(
        handshake(),
        handshake(),
        handshake(answer=ANSWER_13, chain=()),
        handshake("alert", answer=None, alert=70, name=None),
        handshake("timed_out", answer=ANSWER._replace(version=t.SSL3, alpn=None)),
    ) == {
        AttributeSet.of({"otel.metric.overflow": True}): 0,
        AttributeSet.of(
            {
                "server.address": "www.example",
                "tls.protocol.version": "1.2",
                "tls.cipher": "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
                "tls.next_protocol": "h2",
                "tls.resumed": False,
            }
        ): 2,
        AttributeSet.of(
            {
                "server.address": "www.example",
                "tls.protocol.version": "1.3",
                "tls.cipher": "TLS_AES_128_GCM_SHA256",
                "tls.resumed": True,
            }
        ): 1,
        AttributeSet.of({"server.address": "192.0.2.2", "error.type": "protocol_version"}): 1,
        AttributeSet.of(
            {
                "server.address": "www.example",
                "tls.protocol.version": "3",
                "tls.cipher": "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
                "tls.resumed": False,
                "error.type": "timeout",
            }
        ): 1,
    }


def test_names_without_a_place_are_other() -> None:
    counts = points(*(handshake(name=f"n{at}.example") for at in range(5)), names=2)
    names = {dict(each.items()).get("server.address"): count for each, count in counts.items()}
    assert names == {None: 0, "n0.example": 1, "n1.example": 1, "other": 3}


@pytest.mark.parametrize(
    ("asked", "name"), [("WWW.Example.", "www.example"), (None, "192.0.2.2"), (".", "."), ("a\\010b", "a\\010b")]
)
def test_servers(asked: str | None, name: str) -> None:
    assert tls.server_of(handshake(name=asked)) == Server(name, 8443)


def test_the_encoded_attributes_are_made_once_while_a_series_lives() -> None:
    series = TlsSeries([1.0], 10, UNIX, 3600 * SECOND)
    series.set_limit(100)
    made = tls.TlsPoints()
    series.add([handshake()], ["www.example"], UNIX)
    first = made.durations(series.reading())[tls.DURATION].attributes[1]
    series.add([handshake()], ["www.example"], UNIX + SECOND)
    assert made.durations(series.reading())[tls.DURATION].attributes[1] is first


def test_points_of_expiry() -> None:
    ended = CERTIFICATE._replace(not_after=NOW - 7, issuer="CN=Old")
    rows = [
        (WWW, ServerCertificate(CERTIFICATE, NOW)),
        (Server("old.example", 443), ServerCertificate(ended, NOW, is_asked_for=True)),
    ]
    keys = "server.address", "tls.server.issuer", "netmon.tls.certificate.source"
    found = tls.expiry_points(rows, NOW, UNIX)[tls.EXPIRY]
    assert [(*(point.attributes.get(key) for key in keys), point.value) for point in found] == [
        ("www.example", "CN=An Authority", None, 100 * 86_400),
        ("old.example", "CN=Old", "active", -7),
    ]


def test_points_of_weaknesses_are_there_from_the_start() -> None:
    *passive, active = tls.weak_points({Weakness.RC4: 3}, {Weakness.EXPIRED: 2}, UNIX)[tls.WEAK]
    assert {point.attributes["netmon.tls.weakness"]: point.value for point in passive} == {
        kind.value: 3 if kind is Weakness.RC4 else 0 for kind in Weakness
    }
    assert active.attributes == {"netmon.tls.weakness": "expired", "netmon.tls.certificate.source": "active"}
    assert active.value == 2


def test_points_of_hellos() -> None:
    dtype = np.dtype([("server", "<u8"), ("carrier", "u1"), ("reserved", "u1", 3)])
    series = LastingSeries(dtype, 1, 2, 2, UNIX)
    keys = np.zeros(3, dtype)
    keys["server"], keys["carrier"] = [7, 7, 9], [0, 1, 1]
    series.update(keys, np.array([[5, 3, 2]], np.uint64), 0, keys["carrier"].astype(np.intp), UNIX)
    found = tls.hello_points(series.reading(), {7: "quic.example", 9: "other"})[tls.HELLOS]
    told = {(p.attributes["network.protocol.name"], p.attributes.get("server.address")): p.value for p in found}
    assert told == {("quic", None): 0, ("dtls", None): 2, ("quic", "quic.example"): 5, ("dtls", "quic.example"): 3}


def test_a_span_of_a_handshake() -> None:
    made = handshake()._replace(
        exchange=KeyExchange(29, None, 0x0804), asked_for_certificate=True, client_certificates=2
    )
    assert span_attributes(made, Weakness.RC4, Weakness.OLD_VERSION) == {
        "server.address": "www.example",
        "server.port": 8443,
        "client.address": "192.0.2.1",
        "client.port": 40000,
        "network.peer.address": "192.0.2.2",
        "network.transport": "tcp",
        "tls.established": True,
        "tls.resumed": False,
        "tls.client.ja3": "3" * 32,
        "netmon.tls.client.ja4": "4" * 36,
        "netmon.tls.client.version": "1.2",
        "netmon.tls.client.next_protocols": "h2,http/1.1",
        "tls.server.ja3s": "5" * 32,
        "tls.curve": "x25519",
        "netmon.tls.certificate.requested": True,
        "netmon.tls.client.certificates": 2,
        "netmon.tls.server.certificates": 1,
        "netmon.tls.server.flight": 0.012,
        "netmon.tls.client.flight": 0.009,
        "netmon.tls.weaknesses": "rc4,old_version",
        "tls.protocol.name": "tls",
        "tls.protocol.version": "1.2",
        "tls.cipher": "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        "tls.next_protocol": "h2",
        "tls.server.subject": "CN=www.example",
        "tls.server.issuer": "CN=An Authority",
        "tls.server.not_before": "2027-01-14T08:00:00Z",
        "tls.server.not_after": "2027-04-25T08:00:00Z",
        "tls.server.hash.sha256": "AB" * 32,
    }


def test_a_span_of_a_failure() -> None:
    made = handshake("alert", answer=None, alert=48)
    told = span_attributes(made)
    assert (told["tls.established"], told["error.type"], told["netmon.tls.failed_by"]) == (
        False,
        "unknown_ca",
        "client",
    )
    assert not {"tls.protocol.version", "tls.server.subject", "netmon.tls.server.flight"} & told.keys()


def test_spans_tell_begin_end_status_and_why() -> None:
    every = [
        handshake(milliseconds=23),
        handshake("alert", alert=48),
        handshake("alert", alert=None),
        handshake("closed"),
        handshake("reset")._replace(failed_by_client=False),
        handshake("not_tls")._replace(failed_by_client=False),
        handshake("timed_out"),
    ]
    made = tls.tls_spans(every, [WWW] * 7, [()] * 7, KeepRule(1.0, 10), OFFSET, START)
    batch = made.batch
    assert made.kept.tolist() == list(range(7))
    assert set(batch.names) == {"TLS handshake"}
    assert set(batch.kinds.tolist()) == {SpanKind.CLIENT}
    assert batch.start_time_unix_nano.tolist() == [UNIX] * 7
    assert int(batch.end_time_unix_nano[0]) == UNIX + 23_000_000
    assert batch.statuses.tolist() == [StatusCode.UNSET, *[StatusCode.ERROR] * 6]
    assert batch.messages == [
        "",
        "alert of the client: unknown_ca",
        "alert of the client: sealed_alert",
        "the client closed the connection",
        "the server reset the connection",
        "the server does not speak TLS",
        "the client did not answer in time",
    ]
    assert len({bytes(each) for each in batch.trace_ids}) == 7


def test_the_keep_rule_decides_and_keeps_errors() -> None:
    every = [handshake() for _ in range(50)] + [handshake("reset") for _ in range(3)]
    servers = [WWW] * len(every)
    rule = KeepRule(0.0, 1000, 10 * SECOND)
    made = tls.tls_spans(every, servers, [()] * len(every), rule, OFFSET, START)
    assert len(made.batch) == 1 + 3  # the first of its kind, and the errors
    assert set(made.kept[1:].tolist()) == {50, 51, 52}
    assert all(state.startswith("ot=th:") for state in made.batch.trace_states)


@pytest.mark.parametrize(
    ("not_after", "severity", "words"),
    [
        (NOW + 3 * 86_400, Severity.WARN, "ends in 3.0 days, on 2027-01-18T08:00:00Z"),
        (NOW - 86_400, Severity.ERROR, "ended 1.0 days ago, on 2027-01-14T08:00:00Z"),
    ],
)
def test_an_event_of_expiry(not_after: int, severity: Severity, words: str) -> None:
    event = tls_events.expiring_event(WWW, CERTIFICATE._replace(not_after=not_after), UNIX)
    assert (event.name, event.time_unix_nano, event.severity) == (tls_events.EXPIRING_EVENT, UNIX, severity)
    assert event.body == f"the certificate of www.example port 8443 {words}"
    told = decoded(event.attributes, Tag.LOG_RECORD)
    assert set(told) == set(EVENTS[event.name].attributes) - {"netmon.tls.certificate.source"}


def test_an_event_of_weakness() -> None:
    event = tls_events.weak_event(WWW, Weakness.RC4, handshake(), UNIX)
    assert event.body == "TLS of www.example port 8443 is weak: rc4"
    told = decoded(event.attributes, Tag.LOG_RECORD)
    assert set(told) == set(EVENTS[event.name].attributes) - {"netmon.tls.certificate.source"}
    assert told["netmon.tls.weakness"] == "rc4"


def test_events_of_what_the_agent_asked_for_say_so() -> None:
    ending = tls_events.expiring_event(WWW, CERTIFICATE, UNIX, asked_for=True)
    weak = tls_events.weak_certificate_event(WWW, Weakness.EXPIRED, CERTIFICATE, UNIX)
    for event in (ending, weak):
        told = decoded(event.attributes, Tag.LOG_RECORD)
        assert told["netmon.tls.certificate.source"] == "active"
        assert set(told) <= set(EVENTS[event.name].attributes)
    unread = tls_events.unread_event(WWW, "refused", UNIX)
    assert decoded(unread.attributes, Tag.LOG_RECORD) == {
        "server.address": "www.example",
        "server.port": 8443,
        "netmon.reason": "refused",
    }

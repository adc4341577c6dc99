"""The TLS source: what it counts, tells and keeps, without a kernel."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from otel_netmon.abi import layout
from otel_netmon.abi.enums import MessageCount, MessageKind
from otel_netmon.analysis.edges import Edge
from otel_netmon.analysis.sampling import KeepRule
from otel_netmon.config.load import load
from otel_netmon.otel import tls as told
from otel_netmon.otel.points import HistogramSeries
from otel_netmon.readers.messages import Messages
from otel_netmon.sources.messages import STREAMS, Signal
from otel_netmon.sources.tls import TlsSource
from support import quic_packets as q, tls_messages as t
from support.tcp_talk import CLIENT, SERVER
from support.tls_handshakes import ANSWER, ANSWER_13, CERTIFICATE, CONNECTION, NOW, SECOND, handshake

NOTHING = Messages(np.empty(0, layout.MESSAGE), b"", np.empty(0, np.int64))
NO_EDGE = Edge(count_receive=False, count_transmit=False, counted=frozenset())
QUIC = t.handshake(t.CLIENT_HELLO, t.client_hello([0x1301], [t.server_name(b"quic.example")]))


class Ring:
    """What the source asks of who drains the ring."""

    def __init__(self) -> None:
        self.counts: Counter[MessageCount] = Counter()
        self.taken = 0

    def produced(self, signal: Signal) -> int:
        assert signal is STREAMS
        return sum(self.counts[what] for what in signal.produced) - self.counts[signal.lost]

    def consumed(self, signal: Signal) -> int:
        assert signal is STREAMS
        return self.taken


def source(*sets: str) -> TlsSource:
    config = load(None, {}, list(sets), {}).config
    made = TlsSource(Ring(), config, KeepRule(1.0, 1000, 10 * SECOND), NOW * SECOND)  # type: ignore[arg-type]
    made.begin_cycle(100, 100)
    return made


@pytest.fixture(autouse=True)
def clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unix time is NOW where the monotonic clock says 6000 s."""
    monkeypatch.setattr(time, "time_ns", lambda: NOW * SECOND)
    monkeypatch.setattr(time, "monotonic_ns", lambda: MONOTONIC)


MONOTONIC = 6000 * SECOND


def take(made: TlsSource, *records: object, messages: Messages = NOTHING, http: Messages = NOTHING) -> None:
    made.take(messages, http, records, MONOTONIC)


def points(made: TlsSource) -> dict[str, Any]:
    return made.points(NOW * SECOND)


def counted(found: dict[str, Any]) -> int:
    series = found[told.DURATION]
    assert isinstance(series, HistogramSeries)
    return int(series.count.sum())


def values(found: dict[str, Any], metric: str, key: str) -> dict[object, float]:
    return {point.attributes[key]: point.value for point in found[metric] if key in point.attributes and point.value}


def datagrams(*payloads: bytes) -> Messages:
    heads = np.zeros(len(payloads), layout.MESSAGE)
    heads["kind"], heads["ifindex"] = MessageKind.QUIC, 1
    heads["captured_length"] = [len(each) for each in payloads]
    for name, end in (("source", CLIENT), ("destination", SERVER)):
        heads[name] = np.frombuffer(end[:16], "u1")
        heads[f"{name}_port"] = int.from_bytes(end[16:], "big")
    starts = np.concatenate([[0], np.cumsum(heads["captured_length"].astype(np.int64))[:-1]])
    return Messages(heads, b"".join(payloads), starts)


def http_records(*ends: tuple[bytes, bytes]) -> Messages:
    heads = np.zeros(len(ends), layout.MESSAGE)
    heads["kind"] = MessageKind.HTTP
    for place, pair in enumerate(ends):
        for name, end in zip(("source", "destination"), pair, strict=True):
            heads[name][place] = np.frombuffer(end[:16], "u1")
            heads[f"{name}_port"][place] = int.from_bytes(end[16:], "big")
    return Messages(heads, b"", np.zeros(len(ends), np.int64))


def test_handshakes_become_points_spans_and_stages() -> None:
    made = source()
    take(made, handshake(), handshake("alert", alert=48), handshake("incomplete"), "something else")
    found = points(made)
    assert counted(found) == 2
    assert made.stages()["decode", "tls_handshakes"] == {
        "delivered": 2,
        "dropped": {"incomplete": 1, "not_counted": 0},
    }
    (sought,) = made.take_spans()
    batch = sought.batch
    assert len(batch) == 2
    assert batch.start_time_unix_nano.tolist() == [(NOW - 1000) * SECOND] * 2
    assert made.take_spans() == []
    assert values(found, told.EXPIRY, "server.address") == {"www.example": 100 * 86_400}


def test_handshakes_of_several_drains_are_told_at_once_and_with_each_cycle() -> None:
    made = source()
    told_in = []
    for step in range(5):
        if step == 3:
            made.begin_cycle(100, 100)
        made.take(NOTHING, NOTHING, [handshake("alert", alert=48)], MONOTONIC + step * SECOND // 5)
        told_in.append(len(made.take_spans()))
    assert told_in == [1, 0, 0, 1, 0]
    made.take(NOTHING, NOTHING, [], MONOTONIC + 2 * SECOND)
    assert len(made.take_spans()) == 1
    assert counted(points(made)) == 5


def test_an_interface_that_does_not_count_tells_nothing() -> None:
    made = source()
    made.set_edges({(0, 1): NO_EDGE})
    take(made, handshake(), messages=datagrams(q.initial(q.crypto(0, QUIC), b"connection")))
    elsewhere = CONNECTION._replace(ifindex=2)
    take(made, handshake(connection=elsewhere))
    found = points(made)
    assert counted(found) == 1
    assert values(found, told.HELLOS, "server.address") == {}
    assert made.stages()["decode", "tls_handshakes"]["dropped"] == {"incomplete": 0, "not_counted": 1}


def test_hellos_in_datagrams_and_what_cannot_be_read() -> None:
    made = source()
    take(
        made,
        messages=datagrams(
            q.initial(q.crypto(0, QUIC), b"connection", keys_of=b"other"),
            q.initial(q.crypto(0, QUIC), b"connection"),
            q.initial(q.crypto(0, QUIC), b"connection", 1),
        ),
    )
    made._messages.taken = 3  # type: ignore[attr-defined]
    assert values(points(made), told.HELLOS, "server.address") == {"quic.example": 1}
    assert made.stages()["decode", "stream_messages"] == {"delivered": 2, "dropped": {"sealed": 1, "unreadable": 0}}
    assert made.stages()["decode", "tls_hellos"] == {"delivered": 1, "dropped": {"evicted": 0}}


def test_what_is_weak_is_counted_each_time_and_told_once() -> None:
    made = source("probes.tls.minimum_version=1.3")
    self_signed = CERTIFICATE._replace(is_self_signed=True)
    take(made, *[handshake(chain=(self_signed,))] * 3, handshake(answer=ANSWER_13, chain=()))
    assert values(points(made), told.WEAK, "netmon.tls.weakness") == {"old_version": 3, "self_signed": 3}
    assert [event.name for event in made.take_events()] == ["netmon.tls.weak"] * 2
    assert made.take_events() == []


@pytest.mark.parametrize(("days", "events"), [(99.9, 0), (100.1, 1)])
def test_what_ends_soon_is_told_once(days: float, events: int) -> None:
    made = source(f"probes.tls.expiry_warning_days={days}")
    take(made, handshake(), handshake())
    take(made, handshake())
    assert [event.name for event in made.take_events()] == ["netmon.tls.certificate.expiring"] * events


def test_requests_in_the_clear_to_where_tls_is_spoken() -> None:
    made = source()
    http = http_records((CLIENT, SERVER), (CLIENT, CLIENT))
    take(made, http=http)
    assert values(points(made), told.WEAK, "netmon.tls.weakness") == {}
    take(made, handshake(answer=ANSWER_13, chain=()))
    take(made, http=http)
    take(made, http=http)
    assert values(points(made), told.WEAK, "netmon.tls.weakness") == {"plaintext": 2}
    (event,) = made.take_events()
    assert event.body == "TLS of 192.0.2.2 port 8443 is weak: plaintext"


def test_a_proxy_behind_which_tls_is_spoken_is_no_server_of_tls() -> None:
    made = source()
    take(made, handshake(connection=CONNECTION._replace(inside=True)))
    take(made, http=http_records((CLIENT, SERVER)))
    assert values(points(made), told.WEAK, "netmon.tls.weakness") == {}


def test_another_process_goes_on() -> None:
    made = source()
    take(
        made,
        *[handshake(answer=ANSWER._replace(cipher=5))] * 3,
        handshake("incomplete"),
        messages=datagrams(q.initial(q.crypto(0, QUIC), b"connection")),
    )
    points(made)
    after = source()
    after.restore(made.state())
    take(after, handshake(answer=ANSWER._replace(cipher=5)))
    found = points(after)
    assert counted(found) == 4
    assert values(found, told.WEAK, "netmon.tls.weakness") == {"rc4": 4}
    assert values(found, told.HELLOS, "server.address") == {"quic.example": 1}
    assert after.stages()["decode", "tls_handshakes"]["dropped"]["incomplete"] == 1


def names(found: dict[str, Any]) -> Sequence[object]:
    return [dict(each.items()).get("server.address") for each in found[told.DURATION].attributes]


def test_servers_and_series_are_bounded() -> None:
    made = source("probes.tls.server_names=3")
    take(made, *(handshake(name=f"n{number}.example") for number in range(10)))
    found = points(made)
    assert counted(found) == 10
    assert sorted(map(str, names(found))) == ["None", "n0.example", "n1.example", "n2.example", "other"]
    assert len(values(found, told.EXPIRY, "server.address")) == 3
    handshakes, hellos = made.wanted
    assert (handshakes, hellos) == (64 + 2 * 4, 16)
    assert made.diversity()[0].sets == pytest.approx(4, abs=0.5)

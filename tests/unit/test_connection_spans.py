"""Connections to spans and events."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from otel_netmon.abi.enums import Ending, Role
from otel_netmon.analysis.connection_series import ConnectionSeries
from otel_netmon.analysis.connections import Connections
from otel_netmon.analysis.sampling import KeepRule
from otel_netmon.otel.attributes import Tag, decoded, encode
from otel_netmon.otel.connection_events import QUIET_CYCLES, ConnectionEvents
from otel_netmon.otel.connection_spans import KeptConnections, connection_spans
from otel_netmon.otel.spans import Event, SpanKind, StatusCode
from support.connection_rows import MS, SECOND, adopted, connection, joined

OFFSET = 1_700_000_000 * SECOND
NOW = 200 * SECOND
SHOP = encode({"service.name": "shop"}, Tag.RESOURCE)


def spans(*rows: Any, share: float = 1.0, slow_ns: int | None = None) -> KeptConnections:
    rule = KeepRule(share, 1000, slow_ns=slow_ns, seed=7)
    return connection_spans(Connections().ended(joined(*rows)), lambda _: SHOP, rule, OFFSET, NOW)


def test_a_span_is_a_connection_from_its_begin_to_its_end() -> None:
    row = connection(
        ending=Ending.FIN_REMOTE, begin_ns=100 * SECOND, handshake_ns=2 * MS, lifetime_ns=3 * SECOND, bytes_sent=11,
        rtt_count=2, rtt_sum_us=3000, rtt_min_us=1000, rtt_max_us=2000, rtt_us=2000, zero_windows_received=5,
    )  # fmt: skip
    row["retransmits"][0, :] = [1, 0, 0, 2, 0, 0]
    batch = spans(row).batch
    assert (batch.names, batch.kinds.tolist(), batch.messages) == (["TCP connection"], [SpanKind.CLIENT], [""])
    assert (batch.statuses.tolist(), batch.resources) == ([StatusCode.UNSET], [SHOP])
    assert batch.start_time_unix_nano.tolist() == [OFFSET + 100 * SECOND]
    assert batch.end_time_unix_nano.tolist() == [OFFSET + 103 * SECOND + 2 * MS]
    assert decoded(batch.attributes[0]) == {
        "client.address": "10.0.0.7",
        "client.port": 40_000,
        "server.address": "192.0.2.10",
        "server.port": 443,
        "network.local.address": "10.0.0.7",
        "network.local.port": 40_000,
        "network.peer.address": "192.0.2.10",
        "network.peer.port": 443,
        "network.transport": "tcp",
        "network.type": "ipv4",
        "netmon.tcp.ending": "fin_remote",
        "netmon.tcp.handshake.duration": 0.002,
        "netmon.tcp.io.receive": 0,
        "netmon.tcp.io.transmit": 11,
        "netmon.tcp.retransmits": 3,
        "netmon.tcp.retransmits.syn": 2,
        "netmon.tcp.zero_windows.receive": 5,
        "netmon.tcp.rtt.min": 0.001,
        "netmon.tcp.rtt.max": 0.002,
        "netmon.tcp.rtt.mean": 0.0015,
        "netmon.tcp.rtt.last": 0.002,
    }


def test_a_server_has_its_own_end_as_server() -> None:
    batch = spans(
        connection("2001:db8::1", "2001:db8::2", role=Role.SERVER, ports=(8080, 999), ending=Ending.FIN_LOCAL)
    ).batch
    found = decoded(batch.attributes[0])
    assert batch.kinds.tolist() == [SpanKind.SERVER]
    assert (found["server.address"], found["server.port"]) == ("2001:db8::1", 8080)
    assert (found["client.address"], found["client.port"]) == ("2001:db8::2", 999)
    assert found["network.type"] == "ipv6"


@pytest.mark.parametrize("ending", [each for each in Ending if each not in (Ending.NONE, Ending.NUMBER)])
def test_every_end_that_is_not_orderly_is_an_error_with_its_type(ending: Ending) -> None:
    kept = spans(connection(ending=ending, icmp_type=3, icmp_code=1), share=0.0)
    orderly = ending in (Ending.FIN_LOCAL, Ending.FIN_REMOTE, Ending.UNKNOWN)
    attributes = decoded(kept.batch.attributes[0])
    assert kept.batch.statuses.tolist() == [StatusCode.UNSET if orderly else StatusCode.ERROR]
    assert ("error.type" in attributes) == (not orderly) == bool(kept.batch.messages[0])
    assert kept.batch.names == ["TCP connect" if ending >= Ending.REFUSED else "TCP connection"]
    assert (attributes["netmon.icmp.type"], attributes["netmon.icmp.code"]) == (3, 1)


def test_slow_handshakes_and_errors_are_kept_and_those_older_than_the_agent_have_no_span() -> None:
    rows = [
        adopted(ending=Ending.RESET_LOCAL),
        connection(ending=Ending.FIN_LOCAL),
        *(connection(ending=Ending.FIN_LOCAL, lifetime_ns=SECOND) for _ in range(7)),
        connection(ending=Ending.FIN_LOCAL, handshake_ns=SECOND),
        connection(ending=Ending.REFUSED),
    ]
    kept = spans(*rows, share=0.0, slow_ns=500 * MS)
    assert set(kept.kept.tolist()) == {1, 9, 10}, "the first of its kind, the slow one, the error"
    assert len(set(map(bytes, kept.batch.trace_ids))) == 3


def test_no_connection_no_span() -> None:
    assert len(spans(adopted(ending=Ending.FIN_LOCAL)[:0]).kept) == 0


class Cycles:
    """Series and the events of their cycles."""

    def __init__(self, limit: int = 10) -> None:
        self.series = ConnectionSeries([1.0], [1.0], OFFSET, 10**15)
        self.series.set_limit(limit)
        self.events = ConnectionEvents(resets_per_second=2.0, failures_per_second=1.0)
        self.now_ns = OFFSET

    def cycle(self, *rows: Any) -> list[Event]:
        self.now_ns += 5 * SECOND
        self.series.add(Connections().ended(joined(*rows)), self.now_ns)
        events = self.events.take(self.series.reading().series, 5.0, self.now_ns)
        self.series.end_cycle()
        return events


def refused(number: int) -> list[Any]:
    return [connection(ending=Ending.REFUSED) for _ in range(number)]


def reset(number: int, **fields: Any) -> list[Any]:
    return [connection(ending=Ending.RESET_REMOTE, reset_received=1, **fields) for _ in range(number)]


def test_trouble_is_told_once_while_it_lasts() -> None:
    cycles = Cycles()
    assert cycles.cycle(*refused(4), *reset(9)) == []
    events = cycles.cycle(*refused(5), *reset(10))
    assert [(event.name, event.body) for event in events] == [
        ("netmon.tcp.reset_burst", "10 connections were reset in 5 s, with 192.0.2.10 port 443"),
        ("netmon.tcp.connect_failures", "5 connects failed in 5 s, with 192.0.2.10 port 443"),
    ]
    assert decoded(events[0].attributes) == {
        "network.tcp.handshake.role": "client",
        "server.address": "192.0.2.10",
        "server.port": 443,
    }
    for _ in range(QUIET_CYCLES - 1):
        assert cycles.cycle() == []
    assert cycles.cycle(*refused(5)) == []
    for _ in range(QUIET_CYCLES):
        assert cycles.cycle() == []
    assert [event.name for event in cycles.cycle(*refused(5))] == ["netmon.tcp.connect_failures"]


def test_trouble_of_a_server_and_of_those_without_a_series() -> None:
    events = Cycles().cycle(*reset(10, role=Role.SERVER, ports=(8080, 999)))
    assert [event.body for event in events] == ["10 connections were reset in 5 s, of this host's 10.0.0.7 port 8080"]
    cycles = Cycles(limit=0)
    assert cycles.cycle() == []
    events = cycles.cycle(*reset(10))
    assert [(event.body, event.attributes) for event in events] == [
        ("10 connections were reset in 5 s, of several servers", b"")
    ]


def test_a_threshold_of_zero_tells_nothing() -> None:
    cycles = Cycles()
    cycles.events = ConnectionEvents(0, 0)
    assert cycles.cycle(*refused(1000), *reset(1000)) == []


def test_adopted_connections_have_no_server_in_events_either() -> None:
    row = adopted(ending=Ending.RESET_REMOTE, reset_received=1)
    many = np.repeat(row, 10)
    many["cookie"] += np.arange(10).astype(np.uint64) << np.uint64(40)
    assert [event.body for event in Cycles().cycle(many)] == [
        "10 connections were reset in 5 s, of those that are older than the agent"
    ]

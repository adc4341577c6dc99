"""Flows and answers to traffic by domain."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from otel_netmon.abi.enums import Direction, Role
from otel_netmon.analysis.dns import DnsAnalysis
from otel_netmon.analysis.dns_names import NameFolding
from otel_netmon.analysis.domains import DomainCache
from otel_netmon.analysis.flows import CONVERSATION
from otel_netmon.analysis.traffic import Gained
from otel_netmon.otel.attributes import AttributeSet, Tag, encode
from otel_netmon.otel.points import NumberSeries
from otel_netmon.otel.spans import SpanBatch, SpanKind
from otel_netmon.sources.connections import ConnectionSpans
from otel_netmon.sources.domains import SEVERAL, DomainSource
from support import dns_messages as d
from support.connection_rows import connection, joined
from support.dns_events import CLIENT, PORT, SECOND, answer, messages, open_queries
from support.rows import address

T = 1000 * SECOND
UNIX = 1_700_000_000 * SECOND
WEB, OTHER, UNKNOWN = "198.51.100.1", "198.51.100.2", "198.51.100.3"
RECEIVE, TRANSMIT = Direction
HOUR = 3600 * SECOND


class World:
    """Names that a client was told, and the domains of its flows."""

    def __init__(self, limit: int = 100) -> None:
        self.cache = DomainCache()
        self.sockets: dict[int, int] = {}
        self.source = self.fresh()
        self.limit = limit
        self.now_ns = UNIX
        self.read_ns = T

    def cgroups(self, ends: np.ndarray, times_ns: np.ndarray) -> np.ndarray:
        """By the client's port."""
        assert ends["local"].tobytes() == address(CLIENT) * len(ends)
        assert (times_ns >= T - 1).all()
        return np.array([self.sockets.get(int(port), 0) for port in ends["local_port"]], np.uint64)

    def fresh(self) -> DomainSource:
        return DomainSource(self.cache, self.cgroups, NameFolding(), UNIX, HOUR)

    def learn(self, name: str, *addresses: str, time_ns: int = T, ttl: int = 300, port: int = PORT) -> None:
        data = d.response(7, name, *(d.address(text, ttl=ttl) for text in addresses))
        made = DnsAnalysis(5 * SECOND, lambda *_: True).update(
            messages(answer(data, time_ns, time_ns, destination_port=port)), open_queries(), T
        )
        self.cache.learn_many(made.answered)

    def flows(self, *rows: tuple[str, Direction, int, int], ports: Iterable[int] = ()) -> None:
        """Rows: server, direction, octets, when it began; those transmitted are the client's."""
        self.now_ns += SECOND
        self.read_ns += 10 * SECOND
        conversations = np.zeros(len(rows), CONVERSATION)
        conversations["client"] = np.frombuffer(address(CLIENT), "u1")
        octets = [each[2] for each in rows]
        for at, (server, direction, _, _) in enumerate(rows):
            conversations["server"][at] = np.frombuffer(address(server), "u1")
            conversations["direction"][at] = direction
        gained = Gained(
            conversations,
            np.array([[1] * len(rows), octets], np.uint64),
            np.array([each[3] for each in rows], np.uint64),
            np.array([each[1] is TRANSMIT for each in rows], np.bool_),
            np.array(list(ports) or [PORT] * len(rows), ">u2"),
        )
        self.source.read(gained, self.read_ns, self.limit, self.now_ns)

    def told(self, metric: str) -> dict[AttributeSet, int]:
        series = self.source.points()[metric]
        assert isinstance(series, NumberSeries)
        values = dict(zip(series.attributes, map(int, series.values), strict=True))
        return {key: value for key, value in values.items() if value}

    @property
    def io(self) -> dict[AttributeSet, int]:
        return self.told("netmon.domain.io")

    @property
    def connections(self) -> dict[AttributeSet, int]:
        return self.told("netmon.domain.connections")


def domain(name: str, direction: str) -> AttributeSet:
    return AttributeSet.of({"netmon.domain": name, "network.io.direction": direction})


def rest(direction: str) -> AttributeSet:
    return AttributeSet.of({"otel.metric.overflow": True, "network.io.direction": direction})


@pytest.fixture
def world() -> World:
    return World()


def test_traffic_to_addresses_that_were_answered_has_their_domain(world: World) -> None:
    world.learn("www.shop.example", WEB)
    world.learn("api.shop.example", OTHER)
    world.flows(
        (WEB, TRANSMIT, 101, T + SECOND),
        (WEB, RECEIVE, 1009, T + SECOND),
        (OTHER, TRANSMIT, 17, T + SECOND),
        (UNKNOWN, TRANSMIT, 23, T + SECOND),
    )
    assert world.io == {domain("shop.example", "transmit"): 118, domain("shop.example", "receive"): 1009}
    assert world.connections == {domain("shop.example", "transmit"): 2}
    world.flows((WEB, TRANSMIT, 7, T + SECOND), (WEB, RECEIVE, 5, T + SECOND))
    assert world.io == {domain("shop.example", "transmit"): 125, domain("shop.example", "receive"): 1014}
    assert world.connections == {domain("shop.example", "transmit"): 2}


def test_only_what_began_within_the_life_of_a_name_has_it(world: World) -> None:
    world.learn("www.shop.example", WEB, ttl=60)
    world.flows((WEB, TRANSMIT, 1, T - 1), (WEB, TRANSMIT, 10, T), (WEB, TRANSMIT, 100, T + 61 * SECOND))
    assert world.io == {domain("shop.example", "transmit"): 10}


def test_each_cgroup_has_its_own_name_for_an_address(world: World) -> None:
    world.learn("www.shop.example", WEB, port=1001)
    world.learn("www.mail.example", WEB, port=1002)
    world.sockets = {1001: 11, 1002: 22, 2001: 11, 2002: 22, 2003: 33}
    sent = [(WEB, TRANSMIT, octets, T + 1) for octets in (101, 1009, 10007, 100_003)]
    world.flows(*sent, ports=[2001, 2002, 2003, 2004])
    expected = {"shop.example": (101, 1), "mail.example": (1009, 1), SEVERAL: (110_010, 2)}
    assert world.io == {domain(name, "transmit"): octets for name, (octets, _) in expected.items()}
    assert world.connections == {domain(name, "transmit"): many for name, (_, many) in expected.items()}


def test_connections_that_were_made_have_the_domain_behind_their_server(world: World) -> None:
    world.learn("www.shop.example", WEB, port=1001)
    world.learn("www.mail.example", WEB, port=1002)
    world.sockets = {1001: 11, 1002: 22}
    rows = joined(
        connection(CLIENT, WEB, begin_ns=T + 1, cgroup=11),
        connection(CLIENT, WEB, begin_ns=T + 1, cgroup=22),
        connection(CLIENT, WEB, begin_ns=T + 1, cgroup=33),
        connection(CLIENT, WEB, begin_ns=T - 1, cgroup=11),
        connection(CLIENT, UNKNOWN, begin_ns=T + 1, cgroup=11),
        connection(CLIENT, WEB, begin_ns=T + 1, cgroup=11, role=Role.SERVER),
    )
    offered = [ConnectionSpans(spans(2), rows[:2]), ConnectionSpans(spans(4), rows[2:])]
    made = world.source.named(offered, T + SECOND)
    expected = ["shop.example", "mail.example", SEVERAL, None, None, None]
    texts = [encode({"a": "b"} | ({} if name is None else {"netmon.domain": name}), Tag.SPAN) for name in expected]
    assert [list(each.attributes) for each in made] == [texts[:2], texts[2:]]
    assert [each.names for each in made] == [["name"] * 2, ["name"] * 4]
    assert world.source.named([], T) == []


def spans(number: int) -> SpanBatch:
    identifiers = np.zeros((number, 16), np.uint8)
    return SpanBatch(
        names=["name"] * number,
        kinds=np.full(number, SpanKind.CLIENT, np.uint8),
        trace_ids=identifiers,
        span_ids=identifiers[:, :8],
        parent_span_ids=identifiers[:, :8],
        flags=np.zeros(number, np.uint32),
        start_time_unix_nano=np.zeros(number, np.uint64),
        end_time_unix_nano=np.zeros(number, np.uint64),
        attributes=[encode({"a": "b"}, Tag.SPAN)] * number,
        statuses=np.zeros(number, np.uint8),
        messages=[""] * number,
    )


def test_an_address_with_several_names_says_so(world: World) -> None:
    world.learn("www.shop.example", WEB)
    world.learn("mail.other.example", WEB)
    world.learn("a.cdn.example", OTHER)
    world.learn("b.cdn.example", OTHER)
    world.flows((WEB, TRANSMIT, 11, T + 1), (OTHER, TRANSMIT, 13, T + 1))
    assert world.io == {domain(SEVERAL, "transmit"): 11, domain("cdn.example", "transmit"): 13}


def test_what_was_forgotten_for_want_of_room_is_counted(world: World) -> None:
    world.cache = DomainCache(lives_max=2)
    world.source = world.fresh()
    for number, server in enumerate((WEB, OTHER, UNKNOWN)):
        world.learn(f"n{number}.example", server)
    world.flows((WEB, TRANSMIT, 11, T), (OTHER, TRANSMIT, 13, T))
    assert world.io == {domain("n1.example", "transmit"): 13}
    assert world.source.stages() == {
        ("domains", "dns_answers"): {"delivered": 3, "dropped": {"before_its_cgroup": 0}},
        ("domains", "names"): {"delivered": 2, "dropped": {"cache_full": 1}},
    }


def test_what_has_no_place_is_in_the_rest_of_its_direction() -> None:
    world = World(limit=1)
    world.learn("www.shop.example", WEB)
    world.learn("www.mail.example", OTHER)
    world.flows((WEB, TRANSMIT, 101, T), (OTHER, TRANSMIT, 11, T), (OTHER, RECEIVE, 13, T))
    assert world.io == {domain("shop.example", "transmit"): 101, rest("transmit"): 11, rest("receive"): 13}
    assert world.source.diversity().folded == 2
    assert world.source.wanted == 64 + 2 * 3


def test_without_names_or_flows_there_is_nothing(world: World) -> None:
    world.flows((WEB, TRANSMIT, 11, T))
    world.flows()
    world.learn("www.shop.example", WEB)
    world.flows()
    assert (world.io, world.connections, world.source.diversity().folded) == ({}, {}, 0)


def test_a_series_that_is_taken_by_another_begins_anew_and_sums_stay() -> None:
    world = World(limit=1)
    world.learn("www.shop.example", WEB)
    world.learn("www.mail.example", OTHER)
    told = 0
    before: dict[AttributeSet, tuple[int, int]] = {}
    given = 0
    for turn, octets in enumerate((10, 1000, 3, 100_000)):
        server = (WEB, OTHER)[turn % 2]
        world.flows((server, TRANSMIT, octets, T))
        given += octets
        series = world.source.points()["netmon.domain.io"]
        assert isinstance(series, NumberSeries)
        now = dict(zip(series.attributes, _pairs(series), strict=True))
        for key, (start, value) in now.items():
            told += value - before[key][1] if key in before and before[key][0] == start else value
        before = now
    assert told == given


def _pairs(series: NumberSeries) -> Iterable[tuple[int, int]]:
    return zip(map(int, series.start_time_unix_nano), map(int, series.values), strict=True)


def test_another_process_goes_on_with_the_same_series(world: World) -> None:
    world.learn("www.shop.example", WEB)
    began = T + 5 * SECOND
    world.flows((WEB, TRANSMIT, 101, began))
    told, connections = world.io, world.connections
    state = world.source.state()
    world.source = world.fresh()
    world.source.restore(state)
    assert (world.io, world.connections) == (told, connections)
    world.flows((WEB, TRANSMIT, 7, began), (WEB, TRANSMIT, 9, T + 15 * SECOND))
    assert world.io == {domain("shop.example", "transmit"): 117}
    assert connections == {domain("shop.example", "transmit"): 1}
    assert world.connections == {domain("shop.example", "transmit"): 2}

"""What was analysed as points and as rows of the status: names, attributes, values, start times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings, strategies as st

from otel_netmon.abi.enums import PROTOCOL_NAMES, Direction, Reason, protocol_name
from otel_netmon.analysis.edges import Edge
from otel_netmon.analysis.flows import BYTES, CONVERSATION
from otel_netmon.analysis.protocols import ProtocolKey, Side
from otel_netmon.analysis.series import CounterSeries, SeriesReading
from otel_netmon.enrich.addresses import address_text
from otel_netmon.enrich.interfaces import GONE_KEPT, InterfaceNames
from otel_netmon.kernel.interfaces import Interface
from otel_netmon.kernel.syscalls import ProgramInfo
from otel_netmon.otel import flows, interfaces, protocols, selfmon, status_rows
from otel_netmon.otel.catalogue import CATALOGUE
from otel_netmon.otel.drift import problems
from otel_netmon.otel.flows import FlowPoints
from otel_netmon.otel.points import Point, Snapshot
from otel_netmon.readers.netdev import Counters
from support.rows import address

START, LATER = 1_700_000_000_000_000_000, 1_700_000_010_000_000_000


def conversation(
    client: str = "198.18.0.1", server: str = "198.18.0.2", port: int = 443, protocol: int = 6, direction: int = 0
) -> npt.NDArray[Any]:
    key = np.zeros((), CONVERSATION)
    key["client"], key["server"] = (np.frombuffer(address(end), "u1") for end in (client, server))
    key["server_port"], key["protocol"], key["direction"] = port, protocol, direction
    return key


def series_reading(
    keys: Sequence[npt.NDArray[Any]],
    values: Sequence[tuple[int, int]],
    start_ns: Sequence[int],
    *,
    gained: Sequence[tuple[int, int]] | None = None,
    rest: Sequence[tuple[int, int]] = ((7, 70), (0, 0)),
) -> SeriesReading:
    """Packets and bytes by key and of the rest by direction."""
    return SeriesReading(
        np.array(keys, CONVERSATION),
        np.arange(len(keys)),
        np.array(values, np.uint64).reshape(-1, 2).T,
        np.array(start_ns, np.uint64),
        np.array(values if gained is None else gained, np.uint64).reshape(-1, 2).T,
        np.array(rest, np.uint64),
        START,
        len(keys),
        0,
    )


def interface(index: int, name: str, namespace: int = 0, namespace_name: str = "", kind: str = "veth") -> Interface:
    return Interface(index, name, namespace, namespace_name, kind, 1, 1, 1500, b"", None, None, None, None, None)


def names(*known: Interface) -> InterfaceNames:
    made = InterfaceNames()
    made.update(known or [interface(2, "eth0"), interface(2, "eth0", 1, "blue"), interface(3, "lo", kind="loopback")])
    return made


def by_attributes(points: Sequence[Point]) -> dict[frozenset[tuple[str, object]], tuple[float, int]]:
    found: dict[frozenset[tuple[str, object]], tuple[float, int]] = {
        frozenset(point.attributes.items()): (point.value, point.start_time_unix_nano) for point in points
    }
    assert len(found) == len(points), "attribute sets are unique within a metric"
    return found


def check_catalogue(points: Mapping[str, Sequence[Point]]) -> None:
    """Every metric is in the catalogue, with no attribute that it does not list."""
    for name, listed in points.items():
        for point in listed:
            assert set(point.attributes) <= set(CATALOGUE[name].attributes), name


# ----------------------------------------------------------------------------------------------------------------- flows
FOUR = {
    "client.address": "198.18.0.1",
    "server.address": "198.18.0.2",
    "server.port": 443,
    "network.transport": "tcp",
    "network.io.direction": "receive",
}
SIX = {
    "client.address": "fd00::1",
    "server.address": "fd00::2",
    "network.transport": "icmpv6",
    "network.io.direction": "transmit",
}
REST = [{"otel.metric.overflow": True, "network.io.direction": way} for way in ("receive", "transmit")]


def test_conversations_and_the_rest_become_points() -> None:
    points = FlowPoints().points(
        series_reading(
            [conversation(), conversation("fd00::1", "fd00::2", 0, 58, 1)],
            [(10, 1000), (2**53 + 1, 5)],
            [LATER, LATER - 1],
        )
    )
    check_catalogue(points)
    assert problems(Snapshot(LATER, points)) == []
    assert [(dict(p.attributes), p.value, p.start_time_unix_nano) for p in points["netmon.flow.packets"]] == [
        (REST[0], 7, START),
        (REST[1], 0, START),
        (FOUR, 10, LATER),
        (SIX, 2**53 + 1, LATER - 1),
    ]
    assert [p.value for p in points["netmon.flow.io"]] == [70, 0, 1000, 5]
    assert points["netmon.flow.io"].attributes is points["netmon.flow.packets"].attributes


def test_without_conversations_there_is_the_rest() -> None:
    points = FlowPoints().points(series_reading([], [], []))
    assert [(dict(p.attributes), p.value) for p in points["netmon.flow.io"]] == [(REST[0], 70), (REST[1], 0)]


def by_conversation(reading: SeriesReading) -> list[tuple[dict[str, object], int, int]]:
    """What the points of a reading must be, one by one and without memory."""
    listed = []
    for key, (_, octets), start in zip(reading.keys, reading.values.T.tolist(), reading.start_ns.tolist(), strict=True):
        attributes: dict[str, object] = {
            "client.address": address_text(key["client"].tobytes()),
            "server.address": address_text(key["server"].tobytes()),
            "network.transport": protocol_name(int(key["protocol"])),
            "network.io.direction": flows.DIRECTIONS[int(key["direction"])],
        }
        if key["server_port"]:
            attributes["server.port"] = int(key["server_port"])
        listed.append((attributes, octets, start))
    return listed


KEYS = st.builds(
    conversation,
    client=st.ip_addresses(v=6).map(str),
    port=st.integers(0, 65535),
    protocol=st.integers(0, 255),
    direction=st.integers(0, 1),
)


@settings(deadline=None)
@given(
    pool=st.lists(KEYS, min_size=1, max_size=12, unique_by=lambda key: bytes(key.tobytes())),
    cycles=st.lists(
        st.tuples(st.lists(st.tuples(st.integers(0, 11), st.integers(1, 9))), st.integers(0, 8)), max_size=8
    ),
)
def test_points_follow_series_that_come_and_go(
    pool: list[npt.NDArray[Any]], cycles: list[tuple[list[tuple[int, int]], int]]
) -> None:
    """Places are taken by others, and attribute sets are kept from cycle to cycle: never those of another series."""
    series = CounterSeries(CONVERSATION, 2, 2, 5, START, 3)
    made = FlowPoints()
    before: dict[bytes, object] = {}
    for number, (gains, limit) in enumerate(cycles, start=1):
        keys = np.array([pool[which % len(pool)] for which, _ in gains], CONVERSATION)
        amounts = np.array([amount for _, amount in gains], np.uint64)
        series.limit = limit
        series.update(keys, np.stack([amounts, amounts]), BYTES, keys["direction"].astype(np.intp), START + number)
        reading = series.reading()
        points = made.points(reading)["netmon.flow.io"]
        told = [(dict(p.attributes), p.value, p.start_time_unix_nano) for p in points][2:]
        assert told == by_conversation(reading)
        assert len({frozenset(attributes.items()) for attributes, _, _ in told}) == len(told)
        sets = dict(zip((key.tobytes() for key in reading.keys), points.attributes[2:], strict=True))
        assert all(sets[key] is known for key, known in before.items() if key in sets), "encoded once while it lives"
        before = dict(sets)


def test_protocols_have_names_or_their_number() -> None:
    assert (protocol_name(6), protocol_name(17), protocol_name(58), protocol_name(132)) == (
        "tcp",
        "udp",
        "icmpv6",
        "sctp",
    )
    assert protocol_name(200) == "200"
    assert len(set(map(protocol_name, range(256)))) == 256
    assert all(name == name.lower() and not name.isdigit() for name in PROTOCOL_NAMES.values())


def test_rows_of_the_status_have_rates() -> None:
    reading = series_reading(
        [conversation(port=0, direction=1), conversation()],
        [(10, 1000), (10, 1000)],
        [LATER, LATER],
        gained=[(2, 1), (2, 200)],
    )
    rows = status_rows.flow_rows(reading, 3.0)
    assert rows[0] == {
        "client": "198.18.0.1",
        "server": "198.18.0.2",
        "port": 443,
        "transport": "tcp",
        "direction": "receive",
        "bytes_per_second": 66.667,
        "packets_per_second": 0.667,
        "bytes": 1000,
        "packets": 10,
    }
    assert (rows[1]["port"], rows[1]["direction"], rows[1]["bytes_per_second"]) == (None, "transmit", 0.333)


def test_the_status_has_the_busiest_rows_only() -> None:
    count = status_rows.ROWS + 7
    reading = series_reading(
        [conversation(port=port) for port in range(1, count + 1)],
        [(1, 9)] * count,
        [LATER] * count,
        gained=[(1, number * 31 % count) for number in range(count)],
    )
    rates = [row["bytes_per_second"] for row in status_rows.flow_rows(reading, 1.0)]
    assert rates == sorted(range(count), reverse=True)[: status_rows.ROWS]


# ------------------------------------------------------------------------------------------------------------- protocols
def test_totals_become_points_by_protocol() -> None:
    totals = {
        ProtocolKey(0, 2, 0, 0x0800, 6, 0): [1, 10, START],
        ProtocolKey(0, 2, 1, 0x86DD, 200, 0): [2, 20, START],
        ProtocolKey(1, 2, 0, 0x0806, 0, 0): [3, 30, LATER],
        ProtocolKey(0, 3, 0, 0, 0, 0): [4, 40, START],
        ProtocolKey(0, 2, 0, 0, 0, Reason.SHORT_IPV4): [5, 50, START],
        ProtocolKey(0, 2, 0, 0, 0, Reason.SHORT_VLAN): [6, 60, LATER],
        ProtocolKey(0, 99, 0, 1, 0, 0): [7, 70, START],
    }
    points = protocols.protocol_points(totals, names(), "netmon.protocol")
    check_catalogue(points)
    assert by_attributes(points["netmon.protocol.packets"]) == {
        frozenset(pairs.items()): value
        for pairs, value in (
            (_side("eth0", 0) | {"network.type": "ipv4", "network.transport": "tcp"}, (1, START)),
            (_side("eth0", 1) | {"network.type": "ipv6", "network.transport": "200"}, (2, START)),
            (_side("eth0", 0, "blue") | {"network.type": "arp"}, (3, LATER)),
            (_side("lo", 0) | {"network.type": "other"}, (4, START)),
            (_side("eth0", 0) | {"network.type": "unparsed"}, (11, START)),
            (_side("#99", 0) | {"network.type": "llc"}, (7, START)),
        )
    }
    assert sorted(point.value for point in points["netmon.protocol.io"]) == [10, 20, 30, 40, 70, 110]
    assert by_attributes(points["netmon.protocol.unparsed"]) == {
        frozenset((_side("eth0", 0) | {"netmon.reason": "short_ipv4"}).items()): (5, START),
        frozenset((_side("eth0", 0) | {"netmon.reason": "short_vlan"}).items()): (6, LATER),
    }


def _side(name: str, direction: int, namespace: str = "") -> dict[str, object]:
    side: dict[str, object] = {
        "network.interface.name": name,
        "network.io.direction": Direction(direction).name.lower(),
    }
    return side | ({"netmon.network.namespace": namespace} if namespace else {})


def test_an_interface_that_came_back_under_its_name_goes_on() -> None:
    known = names(interface(2, "eth0"), interface(7, "eth0"))
    totals = {ProtocolKey(0, i, 0, 0x0800, 6, 0): [i, i * 10, LATER - i] for i in (2, 7)}
    (point,) = protocols.protocol_points(totals, known, "netmon.protocol")["netmon.protocol.packets"]
    assert (point.value, point.start_time_unix_nano) == (9, LATER - 7)
    wire = protocols.wire_points({Side(0, i, 1): [i, i * 10, LATER - i] for i in (2, 7)}, known)
    check_catalogue(wire)
    assert [(p.value, p.start_time_unix_nano) for p in wire["netmon.wire.io"]] == [(90, LATER - 7)]


def test_xdp_points_have_names_of_their_own() -> None:
    totals = {
        ProtocolKey(0, 2, 0, 0x0800, 6, 0): [1, 10, START],
        ProtocolKey(0, 2, 0, 0, 0, Reason.SHORT_LLC): [2, 20, START],
    }
    points = protocols.protocol_points(totals, names(), "netmon.xdp")
    check_catalogue(points)
    assert set(points) == {"netmon.xdp.packets", "netmon.xdp.io"}
    assert sorted(point.value for point in points["netmon.xdp.packets"]) == [1, 2]


# ------------------------------------------------------------------------------------------------------------ interfaces
def test_the_counters_of_the_kernel_become_points() -> None:
    counters = Counters(1, 2, 3, 4, 5, 6, 7, 8)
    points = interfaces.interface_points([(0, 2, counters), (1, 2, counters)], names(), START)
    check_catalogue(points)
    for metric, receive, transmit in (
        ("system.network.io", 1, 5),
        ("system.network.packet.count", 2, 6),
        ("system.network.errors", 3, 7),
        ("system.network.packet.dropped", 4, 8),
    ):
        assert by_attributes(points[metric]) == {
            frozenset(_side("eth0", way, namespace).items()): (value, START)
            for way, value in ((0, receive), (1, transmit))
            for namespace in ("", "blue")
        }


def test_coverage_is_a_point_a_side() -> None:
    points = interfaces.coverage_points({(0, 2, 0): 1.0, (1, 2, 1): 0.25}, names(), START)
    check_catalogue(points)
    assert by_attributes(points["netmon.coverage"]) == {
        frozenset(_side("eth0", 0).items()): (1.0, START),
        frozenset(_side("eth0", 1, "blue").items()): (0.25, START),
    }


def test_names_of_interfaces_that_are_gone_are_kept_for_a_while() -> None:
    known = InterfaceNames()
    known.update([interface(1, "first")])
    known.update([interface(index, f"veth{index}") for index in range(2, GONE_KEPT + 1)])
    assert known.attributes(0, 1) == {"network.interface.name": "first"}
    known.update([interface(1, "renamed")])
    known.update([interface(GONE_KEPT + 1, "one more")])
    assert known.attributes(0, 1) == {"network.interface.name": "renamed"}
    assert known.attributes(0, 2) == {"network.interface.name": "#2"}, "the one not told of for longest"


def test_rows_of_interfaces_have_both_sides_in_order() -> None:
    known = [interface(3, "lo", kind="loopback"), interface(2, "e\udcff", 1, "blue"), interface(2, "eth0")]
    edges = {each.key: Edge(each.index == 2, each.namespace == 0, frozenset()) for each in known}
    rows = status_rows.interface_rows(
        known,
        edges,
        {each.key: {"tc": "tcx"} for each in known},
        totals={Side(0, 2, 0): [5, 500]},
        handed_over={Side(0, 2, 0): [3, 300, START]},
        wire={Side(0, 2, 0): [6, 600, START]},
        rates={Side(0, 2, 0): (1.23456, 2.0)},
        shares={(0, 2, 0): 0.5},
    )
    assert [(row["name"], row["namespace"]) for row in rows] == [("eth0", ""), ("lo", ""), ("e\ufffddcff", "blue")]
    assert rows[0]["receive"] == {
        "packets": 5,
        "bytes": 500,
        "skb_packets": 3,
        "skb_bytes": 300,
        "wire_packets": 6,
        "wire_bytes": 600,
        "packets_per_second": 1.235,
        "bytes_per_second": 2.0,
        "coverage": 0.5,
    }
    assert rows[0]["transmit"]["coverage"] is None
    assert rows[0]["transmit"]["packets"] == 0
    assert [row["edge"] for row in rows] == [True, True, True]
    assert rows[0]["hooks"] == {"tc": "tcx"}


# --------------------------------------------------------------------------------------------------------- the agent itself
def test_stages_tell_what_was_delivered_and_dropped() -> None:
    points = selfmon.stage_points(
        {("kernel", "packets"): {"delivered": 7, "dropped": {"unattributed": 2}}},
        {
            ("otlp", "export", "metric_points"): {"delivered": 5, "dropped": {"superseded": 1, "refused": 3}},
            ("second", "spool", "spans"): {"delivered": 4, "dropped": {}},
        },
        START,
    )
    check_catalogue(points)
    rows = [dict(p.attributes) | {"value": p.value} for p in points["netmon.pipeline.items"]]
    assert [tuple(row.values()) for row in rows] == [
        ("kernel", "packets", "delivered", 7),
        ("kernel", "packets", "dropped", "unattributed", 2),
        ("export", "metric_points", "otlp", "delivered", 5),
        ("export", "metric_points", "otlp", "dropped", "superseded", 1),
        ("export", "metric_points", "otlp", "dropped", "refused", 3),
        ("spool", "spans", "second", "delivered", 4),
    ]
    without = selfmon.stage_points({}, {}, START)
    assert without == {"netmon.pipeline.items": []}


def test_probes_tell_their_state_and_its_reason() -> None:
    points = selfmon.probe_points(
        [
            {"name": "flows", "state": "ok", "reason": "", "detail": "at 3 interfaces"},
            {"name": "xdp", "state": "off", "reason": "not_enabled", "detail": ""},
        ],
        START,
    )
    check_catalogue(points)
    assert [(dict(p.attributes), p.value) for p in points["netmon.probe.state"]] == [
        ({"netmon.probe": "flows", "netmon.state": "ok"}, 1),
        ({"netmon.probe": "xdp", "netmon.state": "off", "netmon.reason": "not_enabled"}, 1),
    ]


def program(name: str, runs: int, nanoseconds: int) -> ProgramInfo:
    return ProgramInfo(1, name, nanoseconds, runs, 100)


def test_variants_of_a_program_are_one() -> None:
    points = selfmon.program_points(
        [program("receive", 3, 500_000_000), program("receive", 4, 1_000_000_000), program("transmit", 0, 0)], START
    )
    check_catalogue(points)
    values = {
        metric: {p.attributes["netmon.bpf.program.name"]: p.value for p in listed} for metric, listed in points.items()
    }
    assert values == {
        "netmon.bpf.program.runs": {"receive": 7, "transmit": 0},
        "netmon.bpf.program.run_time": {"receive": 1.5, "transmit": 0.0},
    }


def test_without_statistics_of_the_kernel_there_are_no_points_of_programs() -> None:
    assert selfmon.program_points([program("receive", 0, 0)], START) == {}
    assert selfmon.program_points([], START) == {}


def test_sizes_and_receiver_counters() -> None:
    points = selfmon.map_points({"flow_table": (3, 65536), "protocol_stats": (1, 8192)}, START)
    points |= selfmon.receiver_points(1234, START)
    check_catalogue(points)
    assert {name: [p.value for p in listed] for name, listed in points.items()} == {
        "netmon.bpf.map.entries": [3, 1],
        "netmon.bpf.map.capacity": [65536, 8192],
        "otelcol_receiver_accepted_metric_points": [1234],
        "otelcol_receiver_refused_metric_points": [0],
        "otelcol_receiver_failed_metric_points": [0],
    }
    flow_points = FlowPoints().points(series_reading([conversation()], [(1, 1)], [START]))
    assert selfmon.exported_points(Snapshot(LATER, {**points, **flow_points})) == 4 + 6, (
        "what Prometheus alone has is no part"
    )


@pytest.mark.parametrize("direction", Direction)
def test_directions_are_named_as_the_conventions_say(direction: Direction) -> None:
    assert flows.DIRECTIONS[direction] in {"receive", "transmit"}
    assert len(flows.DIRECTIONS) == 2

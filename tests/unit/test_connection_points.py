"""Connections to points: names, attributes, resources, and distributions that are what was counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from otel_netmon.abi.enums import RTT_BUCKETS, RTT_LOWEST_EXPONENT, Ending, Retransmit, Role
from otel_netmon.analysis.connection_series import ConnectionSeries
from otel_netmon.analysis.connections import Connections, Counter
from otel_netmon.analysis.datagrams import Datagrams, DatagramSeries
from otel_netmon.analysis.owner_series import OwnerSeries
from otel_netmon.otel.catalogue import CATALOGUE
from otel_netmon.otel.connections import ConnectionPoints, DatagramPoints, OwnerPoints
from otel_netmon.otel.drift import problems
from otel_netmon.otel.points import HistogramSeries, NumberSeries, Points, Snapshot
from otel_netmon.otel.status_rows import endpoint_rows
from support.connection_rows import MS, SECOND, adopted, connection, datagrams, joined

START = 1_700_000_000 * SECOND
CLIENT_OF: dict[str, Any] = {"network.tcp.handshake.role": "client", "server.address": "192.0.2.10", "server.port": 443}
SERVER_OF: dict[str, Any] = {"network.tcp.handshake.role": "server", "server.address": "10.0.0.7", "server.port": 8080}
REST: dict[str, Any] = {"otel.metric.overflow": True}
RESOURCES: dict[int, dict[str, str | int]] = {
    0: {"service.name": "unknown_service"},
    7: {"service.name": "shop", "process.pid": 7},
    11: {"container.id": "ab" * 32},
}


def series(*rows: Any, limit: int = 100) -> ConnectionSeries:
    made = ConnectionSeries(
        CATALOGUE["netmon.tcp.handshake.duration"].bounds,
        CATALOGUE["netmon.tcp.connection.duration"].bounds,
        START,
        10**12,
    )
    made.set_limit(limit)
    made.add(Connections().ended(joined(*rows)), START + SECOND)
    return made


def told(points: Points) -> list[tuple[dict[str, Any], Any]]:
    """Attributes and value, of a histogram count and sum; sorted."""
    if isinstance(points, HistogramSeries):
        values = [(int(count), float(total)) for count, total in zip(points.count, points.sum, strict=True)]
        return sorted(zip([dict(each.items()) for each in points.attributes], values, strict=True), key=repr)
    return sorted([(dict(point.attributes), point.value) for point in points], key=repr)


def test_handshakes_and_lifetimes_are_by_role_server_and_failure() -> None:
    made = series(
        connection(ending=Ending.FIN_LOCAL, handshake_ns=2 * MS, lifetime_ns=3 * SECOND),
        connection(ending=Ending.REFUSED, handshake_ns=5 * MS),
        connection(ending=Ending.RESET_REMOTE, handshake_ns=2 * MS, lifetime_ns=SECOND, role=Role.SERVER,
                   ports=(8080, 40_000)),
    )  # fmt: skip
    points = ConnectionPoints().points(made.reading())
    assert told(points["netmon.tcp.handshake.duration"]) == sorted(
        [
            (CLIENT_OF, (1, 0.002)),
            ({**CLIENT_OF, "error.type": "refused"}, (1, 0.005)),
            (SERVER_OF, (1, 0.002)),
        ],
        key=repr,
    )
    assert told(points["netmon.tcp.connection.duration"]) == sorted(
        [(CLIENT_OF, (1, 3.0)), ({**SERVER_OF, "error.type": "reset"}, (1, 1.0))], key=repr
    )


def test_health_is_counted_by_kind_and_direction_and_zero_has_no_point() -> None:
    row = connection(ending=Ending.RESET_LOCAL, reset_sent=1, zero_windows_received=3, out_of_order=5)
    row["retransmits"][0] = [1, 2, 0, 4, 5, 6]
    points = ConnectionPoints().points(series(row, connection(ending=Ending.FIN_LOCAL, ports=(1, 80))).reading())
    kinds = {kind["network.tcp.retransmit.type"]: value for kind, value in told(points["netmon.tcp.retransmits"])}
    assert kinds == {"fast": 1, "timeout": 2, "syn": 4, "syn_ack": 5, "other": 6}
    assert told(points["netmon.tcp.resets"]) == [({**CLIENT_OF, "network.io.direction": "transmit"}, 1)]
    assert told(points["netmon.tcp.zero_windows"]) == [({**CLIENT_OF, "network.io.direction": "receive"}, 3)]
    assert told(points["netmon.tcp.out_of_order"]) == [(CLIENT_OF, 5)]


def test_round_trips_have_the_buckets_of_the_kernel_in_both_forms() -> None:
    row = connection(ending=Ending.FIN_LOCAL, rtt_count=6, rtt_sum_us=70_000)
    row["rtt_buckets"][0, :3], row["rtt_buckets"][0, -1] = [1, 0, 4], 1
    made = series(row, adopted(ending=Ending.FIN_LOCAL, rtt_count=1, rtt_sum_us=10))
    rtt = ConnectionPoints().points(made.reading())["netmon.tcp.rtt"]
    assert isinstance(rtt, HistogramSeries)
    at = [dict(each.items()) for each in rtt.attributes].index(CLIENT_OF)
    assert (rtt.count[at], rtt.sum[at], rtt.scale[at], rtt.zero_count[at]) == (6, 0.07, 0, 0)
    assert rtt.buckets[at].tolist() == rtt.bucket_counts[at].tolist() == [1, 0, 4, *[0] * (RTT_BUCKETS - 4), 1]
    uppers = 2.0 ** (rtt.offset[at] + 1 + np.arange(RTT_BUCKETS - 1))
    assert uppers.tolist() == rtt.bounds.tolist()
    assert rtt.bounds[0] == 2.0**RTT_LOWEST_EXPONENT
    assert np.isnan(rtt.minimum).all()
    assert np.isnan(rtt.maximum).all()


def test_a_role_that_is_not_known_has_no_server() -> None:
    made = series(adopted(ending=Ending.FIN_LOCAL, out_of_order=1))
    assert told(ConnectionPoints().points(made.reading())["netmon.tcp.out_of_order"]) == [
        ({"network.tcp.handshake.role": "unknown"}, 1)
    ]


def test_what_has_no_series_is_in_points_with_overflow_by_the_same_kinds() -> None:
    row = connection(ending=Ending.FIN_LOCAL, rtt_count=1, rtt_sum_us=500_000)
    row["retransmits"][0, Retransmit.FAST] = 3
    row["rtt_buckets"][0, 4] = 1
    made = series(row, connection(ending=Ending.REFUSED), limit=0)
    made.add_to_rest({Counter.RETRANSMITS + Retransmit.OTHER: 2})
    points = ConnectionPoints().points(made.reading())
    assert told(points["netmon.tcp.handshake.duration"]) == [
        ({**REST, "error.type": "refused"}, (1, 0.002)),
        (REST, (1, 0.002)),
    ]
    assert told(points["netmon.tcp.retransmits"]) == [
        ({**REST, "network.tcp.retransmit.type": "fast"}, 3),
        ({**REST, "network.tcp.retransmit.type": "other"}, 2),
    ]
    assert told(points["netmon.tcp.rtt"]) == [(REST, (1, 0.5))]


def test_sets_are_made_once_while_they_are_told() -> None:
    made, maker = series(connection(ending=Ending.FIN_LOCAL, out_of_order=1)), ConnectionPoints()
    first, second = (maker.points(made.reading())["netmon.tcp.out_of_order"] for _ in range(2))
    assert isinstance(first, NumberSeries)
    assert isinstance(second, NumberSeries)
    assert first.attributes[0] is second.attributes[0]


def test_bytes_have_the_resource_of_their_process() -> None:
    owners = OwnerSeries("owners", START, 10**12)
    owners.set_limit(10)
    owners.add(np.array([7, 0], np.uint64), 0, np.array([[1, 10], [2, 20]], np.uint64), START + 1)
    owners.add(np.array([7], np.uint64), 1, np.array([[3], [4], [5]], np.uint64), START + 1)
    owners.add_to_rest(1, 100, 0)
    points = OwnerPoints("process.network.io").points(owners.reading(), RESOURCES.__getitem__)
    found = points["process.network.io"]
    assert isinstance(found, NumberSeries)
    values = {
        (dict(each.resource_items()).get("service.name"), *dict(each.items()).values()): value
        for each, value in zip(found.attributes, found.values.tolist(), strict=True)
    }
    assert values == {
        ("shop", "tcp", "receive"): 1,
        ("shop", "tcp", "transmit"): 2,
        ("unknown_service", "tcp", "receive"): 10,
        ("unknown_service", "tcp", "transmit"): 20,
        ("shop", "udp", "receive"): 3,
        ("shop", "udp", "transmit"): 4,
        (None, True, "udp", "receive"): 100,
    }
    assert told(points["netmon.udp.drops"]) == [({}, 5)]


def test_containers_have_bytes_alone() -> None:
    owners = OwnerSeries("owners", START, 10**12)
    owners.set_limit(10)
    owners.add(np.array([11], np.uint64), 0, np.array([[1], [0]], np.uint64), START + 1)
    points = OwnerPoints("container.network.io").points(owners.reading(), RESOURCES.__getitem__)
    assert told(points.pop("container.network.io")) == [
        ({"network.transport": "tcp", "network.io.direction": "receive"}, 1)
    ]
    assert points == {}


def test_datagrams_are_by_process_and_server() -> None:
    made = DatagramSeries(START, 10**12)
    made.set_limit(1)
    rows = joined(
        datagrams(role=Role.CLIENT, remote_port=53, packets_sent=9, bytes_sent=90),
        datagrams(role=Role.CLIENT, remote_port=54, packets_sent=2, bytes_sent=20),
    )
    made.add(Datagrams().closed(rows), np.array([7, 7], np.uint64), START + 1)
    points = DatagramPoints().points(made.reading(), RESOURCES.__getitem__)
    sent = {"network.io.direction": "transmit"}
    server = {"server.address": "192.0.2.10", "server.port": 53}
    assert told(points["netmon.udp.io"]) == sorted([({**server, **sent}, 90), ({**REST, **sent}, 20)], key=repr)
    assert told(points["netmon.udp.packets"]) == sorted([({**server, **sent}, 9), ({**REST, **sent}, 2)], key=repr)


@pytest.mark.parametrize("limit", [0, 100])
def test_all_of_it_keeps_to_the_catalogue(limit: int) -> None:
    rows = [connection(ending=ending, out_of_order=1, rtt_count=1, reset_sent=1, zero_windows_sent=1)
            for ending in Ending if ending not in (Ending.NONE, Ending.NUMBER)]  # fmt: skip
    points = ConnectionPoints().points(series(*rows, limit=limit).reading())
    assert problems(Snapshot(START + SECOND, points)) == []


def test_rows_of_the_status_are_the_busiest_servers_with_rates() -> None:
    busy = connection(ending=Ending.FIN_LOCAL, data_sent=100, bytes_sent=4000, rtt_count=2, rtt_sum_us=3000)
    busy["retransmits"][0] = [1, 2, 0, 0, 0, 1]
    made = series(
        busy, *(connection(ending=Ending.REFUSED, ports=(1, 81)) for _ in range(4)),
        adopted(ending=Ending.RESET_LOCAL, reset_sent=1),
    )  # fmt: skip
    rows = endpoint_rows(made.reading().series, 2.0)
    assert rows[0] == {
        "role": "client", "server": "192.0.2.10", "port": 443, "bytes_per_second": 2000.0, "failed_per_second": 0.0,
        "resets_per_second": 0.0, "retransmits_per_second": 2.0, "rtt_seconds": 0.0015,
    }  # fmt: skip
    assert (rows[1]["port"], rows[1]["failed_per_second"], rows[1]["rtt_seconds"]) == (81, 2.0, None)
    assert (rows[2]["role"], rows[2]["server"], rows[2]["port"]) == ("unknown", "", None)
    assert rows[2]["resets_per_second"] == 0.5

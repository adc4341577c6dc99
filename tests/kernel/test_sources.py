"""The flows and XDP probes on real maps: what is read becomes points, and another process goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from otel_netmon.abi.enums import SWEEP_HEADER_SIZE, Direction, Kind
from otel_netmon.analysis.edges import Edge
from otel_netmon.analysis.protocols import Side
from otel_netmon.config.model import Config
from otel_netmon.enrich.interfaces import InterfaceNames
from otel_netmon.kernel import syscalls
from otel_netmon.kernel.interfaces import Interface
from otel_netmon.otel.drift import problems
from otel_netmon.otel.points import HistogramSeries, Point, Points, Snapshot
from otel_netmon.readers import flows as flow_readers
from otel_netmon.sources.flows import FlowSource
from otel_netmon.sources.xdp import XdpSource
from support import frames as f
from support.programs import LOOPBACK, Programs, XdpRun

pytestmark = pytest.mark.kernel

START = time.time_ns()
LO = Interface(LOOPBACK, "lo", 0, "", "loopback", 1, 1, 65536, b"", None, None, None, None, None)


def datagram(number: int, payload: bytes = b"") -> bytes:
    return f.ethernet(f.ipv4(f.udp(payload, source=50000, destination=number)))


ARP = f.ethernet(bytes(28), 0x0806)


@pytest.fixture
def names() -> InterfaceNames:
    made = InterfaceNames()
    made.update([LO])
    return made


@pytest.fixture
def tc() -> Iterator[Programs]:
    with Programs("tc_monitor", sizes={"flow_table": 128}) as programs:
        yield programs


def maps(programs: Programs) -> dict[str, tuple[int, int]]:
    loaded = programs.loaded
    return {name: (fd, loaded.definitions[name].max_entries) for name, fd in loaded.maps.items()}


def flow_source(tc: Programs, idle_seconds: float = 600.0) -> FlowSource:
    config = msgspec.convert({"probes": {"flows": {"idle_seconds": idle_seconds, "table_entries": 1024}}}, Config)
    fds = {name: tc.program(name) for name in ("netmon_sweep", "netmon_mark", "netmon_clock")}
    return FlowSource(maps(tc), fds, config, START)


def values(points: Mapping[str, Points]) -> dict[str, list[Point]]:
    found = {}
    for metric, series in points.items():
        assert not isinstance(series, HistogramSeries)
        found[metric] = list(series)
    return found


def total(points: Mapping[str, Points], metric: str) -> int:
    return sum(int(point.value) for point in values(points)[metric])


def test_flows_become_points(tc: Programs, names: InterfaceNames) -> None:
    source = flow_source(tc)
    source.set_interfaces({LO.key: Edge(count_receive=True, count_transmit=True, counted=frozenset())}, [])
    assert (source.live, source.monotonic_ns, source.map_sizes()) == (
        0,
        0,
        {"flow_table": (0, 1024), "protocol_stats": (0, maps(tc)["protocol_stats"][1])},
    )
    for number in range(1, 8):
        tc.runner().run(datagram(number, bytes(number)))
    tc.runner("netmon_transmit").run(ARP)
    octets = sum(len(datagram(number, bytes(number))) for number in range(1, 8))
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    series = source.read([LO], 5, START + 10)
    assert source.series is series
    assert before <= source.monotonic_ns <= time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    points = source.points(names)
    assert problems(Snapshot(START + 10, points)) == []
    assert (total(points, "netmon.flow.packets"), total(points, "netmon.flow.io")) == (7, octets)
    assert len(points["netmon.flow.io"]) == 5 + 2
    assert (total(points, "netmon.protocol.packets"), total(points, "netmon.wire.packets")) == (8, 8)
    assert (source.live, source.map_sizes()["flow_table"], source.map_sizes()["protocol_stats"][0]) == (7, (7, 1024), 1)
    assert source.stage() == {"delivered": 8, "dropped": {"unattributed": 0}}
    assert source.by_side() == {Side(0, LOOPBACK, 0): [7, octets], Side(0, LOOPBACK, 1): [1, len(ARP)]}
    assert source.interfaces() == {LO.key}
    (receive,) = source.totals([(LOOPBACK, 0, Direction.RECEIVE)]).values()
    assert int(receive["packets"]) == 7
    diversity = source.diversity()
    assert (diversity.folded, round(diversity.sets)) == (2, 7)
    assert {key: round(count) for key, count in diversity.distinct.items()} == {
        "client.address": 1,
        "server.address": 1,
        "server.port": 7,
        "network.transport": 1,
    }


def test_what_was_seen_of_an_interface_that_is_gone_is_forgotten(tc: Programs, names: InterfaceNames) -> None:
    source = flow_source(tc)
    tc.runner().run(datagram(1))
    tc.runner().run(ARP)
    source.read([LO], 5, START + 10)
    assert Kind.OTHER in {row.kind for row in tc.rows()}
    source.forget([LO.key])
    assert (source.interfaces(), tc.rows()) == (set(), {})
    tc.runner().run(ARP)
    source.read([LO], 5, START + 20)
    assert (total(source.points(names), "netmon.protocol.packets"), source.stage()["dropped"]) == (
        1,
        {"unattributed": 0},
    )


def test_another_source_goes_on(tc: Programs, names: InterfaceNames) -> None:
    source = flow_source(tc)
    assert len(source.state()["flows.leaving"]["keys"]) == 0
    for number in range(1, 5):
        tc.runner().run(datagram(number))
    source.read([LO], 2, START + 10)
    told = source.points(names)
    source.settle()
    other = flow_source(tc)
    other.settle()
    other.restore(source.state())
    assert values(other.points(names)) == values(told)
    for number in range(1, 7):
        tc.runner().run(datagram(number))
    for each in (source, other):
        each.read([LO], 2, START + 20)
        assert total(each.points(names), "netmon.flow.packets") == 10
        assert each.stage() == {"delivered": 10, "dropped": {"unattributed": 0}}


def test_frames_at_the_driver_become_points_and_another_source_goes_on(names: InterfaceNames) -> None:
    with Programs("xdp_monitor") as xdp:
        run = XdpRun(xdp.program("netmon_xdp"), 4096).run
        source = XdpSource(maps(xdp), START)
        for number in range(1, 6):
            run(datagram(number))
        run(ARP)
        source.read(START + 10)
        points = source.points(names)
        assert problems(Snapshot(START + 10, points)) == []
        assert total(points, "netmon.xdp.packets") == 6
        assert total(points, "netmon.xdp.io") == 5 * len(datagram(1)) + len(ARP)
        other = XdpSource(maps(xdp), START + 5)
        other.restore(source.state())
        run(ARP)
        for each in (source, other):
            each.read(START + 20)
        assert source.points(names) == other.points(names)
        assert total(other.points(names), "netmon.xdp.packets") == 7
        (key, *_) = xdp.row_reader.read()[0]
        other.forget([(int(key["namespace"]), int(key["ifindex"]))])
        assert (total(other.points(names), "netmon.xdp.packets"), xdp.rows()) == (0, {})
        run(ARP)
        run(ARP)
        other.read(START + 30)
        assert total(other.points(names), "netmon.xdp.packets") == 2, "a row made again has gained all it has"


# ---------------------------------------------------------------------------------------------- kernels unlike this one
def test_where_the_kernel_knows_no_grace_period_the_reader_waits(tc: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nohz_full, membarrier is refused."""

    def refused() -> None:
        raise OSError

    def noted(seconds: float) -> None:
        waited.append(seconds)

    waited: list[float] = []
    monkeypatch.setattr(syscalls, "rcu_grace_period", refused)
    source = flow_source(tc)
    tc.runner().run(datagram(1))
    source.read([LO], 2, START + 10)
    assert not waited
    monkeypatch.setattr("otel_netmon.readers.flows.time", SimpleNamespace(sleep=noted))
    swept = tc.flow_reader.read()[0].tobytes()
    tc.runner("netmon_sweep").run(bytes(SWEEP_HEADER_SIZE) + swept, (1, 0, 0, 0, 0))
    source.read([LO], 2, START + 20)
    assert (len(waited), source.live) == (1, 0)
    source.settle()
    assert tc.flows() == {}
    assert source.stage() == {"delivered": 1, "dropped": {"unattributed": 0}}


def test_a_tick_rate_that_both_clocks_do_not_tell_is_measured(tc: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    source = flow_source(tc)
    source.read([], 2, START + 10)
    known: Any = source._reader.tick_rate
    monkeypatch.setattr(flow_readers, "tick_rate", lambda *_: 0)
    other = flow_source(tc)
    other.read([], 2, START + 10)
    assert other._reader.tick_rate == known
    assert other._reader.tick_rate in flow_readers.TICK_RATES

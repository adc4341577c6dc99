"""The interfaces probe: counters of /proc/net/dev beside what the programs saw."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from otel_netmon.abi import layout
from otel_netmon.abi.enums import Direction, hook_slot
from otel_netmon.enrich.interfaces import InterfaceNames
from otel_netmon.kernel.interfaces import Interface
from otel_netmon.otel.drift import problems
from otel_netmon.otel.points import HistogramSeries, Point, Points, Snapshot
from otel_netmon.sources.interfaces import InterfaceSource

BOOT, START = 1_700_000_000_000_000_000, 1_700_000_010_000_000_000
HEADER = "Inter-|   Receive\n face |bytes\n"


def interface(index: int, name: str, namespace: int = 0, kind: str = "veth") -> Interface:
    namespace_name = "blue" if namespace else ""
    return Interface(index, name, namespace, namespace_name, kind, 1, 1, 1500, b"", None, None, None, None, None)


def line(name: str, receive: int, transmit: int) -> str:
    """A line with so many packets of 100 octets."""
    return f"{name:>6}: {receive * 100} {receive} 1 2 0 0 0 0 {transmit * 100} {transmit} 3 4 0 0 0 0\n"


class NetDev:
    """A file like /proc/net/dev whose lines a test writes."""

    def __init__(self, *lines: str) -> None:
        self.fd = os.memfd_create("netdev", os.MFD_CLOEXEC)
        self.write(*lines)

    def write(self, *lines: str) -> None:
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, (HEADER + "".join(lines)).encode(), 0)


def seen(sides: Mapping[tuple[int, int, int], tuple[int, int]]) -> Callable[[], dict[int, Any]]:
    """hook_totals: packets and extra packets by (ifindex, namespace, direction)."""
    totals = {}
    for (index, namespace, way), (packets, extra) in sides.items():
        total = np.zeros((), layout.COUNTERS)
        total["packets"], total["extra_packets"] = packets, extra
        totals[hook_slot(index, namespace, Direction(way))] = total
    return lambda: totals


def of(points: Mapping[str, Points], metric: str) -> list[Point]:
    series = points[metric]
    assert not isinstance(series, HistogramSeries)
    return list(series)


def coverage(points: Mapping[str, Points]) -> dict[tuple[object, ...], float]:
    """By name, namespace and direction."""
    return {
        tuple(
            point.attributes.get(key)
            for key in ("network.interface.name", "netmon.network.namespace", "network.io.direction")
        ): (point.value)
        for point in of(points, "netmon.coverage")
    }


@pytest.fixture
def names() -> InterfaceNames:
    made = InterfaceNames()
    made.update([interface(2, "eth0", kind="physical"), interface(3, "lo"), interface(2, "eth0", 1)])
    return made


@pytest.fixture(autouse=True)
def _closes_what_it_takes() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


def test_counters_and_coverage_of_several_namespaces(names: InterfaceNames) -> None:
    own, blue = NetDev(line("eth0", 10, 20), line("lo", 5, 5)), NetDev(line("eth0", 1, 2), line("other", 9, 9))
    source = InterfaceSource({0: own.fd, 1: blue.fd}, BOOT, START)
    known = [interface(2, "eth0", kind="physical"), interface(3, "lo"), interface(2, "eth0", 1), interface(9, "gone")]
    source.read(known, seen({(2, 0, 0): (8, 2), (2, 0, 1): (20, 0), (2, 1, 0): (1, 0)}))
    points = source.points(names)
    assert coverage(points) == {}, "there was nothing before"
    received = {
        (point.attributes["network.interface.name"], point.attributes.get("netmon.network.namespace")): point.value
        for point in of(points, "system.network.packet.count")
        if point.attributes["network.io.direction"] == "receive"
    }
    assert received == {("eth0", None): 10, ("lo", None): 5, ("eth0", "blue"): 1}
    assert {point.start_time_unix_nano for point in of(points, "system.network.io")} == {BOOT}
    own.write(line("eth0", 20, 30), line("lo", 5, 5))
    blue.write(line("eth0", 5, 2))
    source.read(known, seen({(2, 0, 0): (13, 7), (2, 0, 1): (25, 0), (2, 1, 0): (3, 0)}))
    points = source.points(names)
    assert problems(Snapshot(START + 1, points)) == []
    assert coverage(points) == {
        ("eth0", None, "receive"): 1.0,  # on the wire 10 of 10
        ("eth0", None, "transmit"): 0.5,
        ("eth0", "blue", "receive"): 0.5,
    }
    assert source.shares == {(0, 2, 0): 1.0, (0, 2, 1): 0.5, (1, 2, 0): 0.5}
    source.forget({(0, 2)})
    assert coverage(source.points(names)) == {("eth0", "blue", "receive"): 0.5}
    source.read(known, seen({}))
    assert source.shares == {(1, 2, 0): 0.5}, "the last share stays"
    source.set_namespaces({})


def test_interfaces_that_share_a_slot_have_no_coverage(names: InterfaceNames) -> None:
    first = 2
    slot = hook_slot(first, 0, Direction.RECEIVE)
    other = next(index for index in range(3, 1 << 20) if hook_slot(index, 0, Direction.RECEIVE) == slot)
    netdev = NetDev()
    source = InterfaceSource({0: netdev.fd}, BOOT, START)
    known = [interface(first, "eth0"), interface(other, "eth9")]
    for packets in (1, 2):
        netdev.write(line("eth0", packets, packets), line("eth9", packets, packets))
        source.read(known, seen({(first, 0, 0): (packets, 0), (first, 0, 1): (packets, 0)}))
    assert source.shares == {}
    assert len(source.points(names)["system.network.io"]) == 4
    source.read(known[:1], seen({(first, 0, 0): (3, 0)}))
    netdev.write(line("eth0", 4, 4))
    source.read(known[:1], seen({(first, 0, 0): (5, 0)}))
    assert source.shares == {(0, first, 0): 1.0}, "alone it has one"
    source.set_namespaces({})


def test_files_of_namespaces_that_are_not_observed_are_closed(names: InterfaceNames) -> None:
    old, blue = NetDev(line("eth0", 1, 1)), NetDev(line("eth0", 2, 2))
    source = InterfaceSource({0: old.fd, 1: blue.fd}, BOOT, START)
    new = NetDev(line("eth0", 3, 3))
    source.set_namespaces({0: new.fd})
    for closed in (old, blue):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(closed.fd)
    source.read([interface(2, "eth0"), interface(2, "eth0", 1)], seen({}))
    (receive, transmit) = of(source.points(names), "system.network.packet.count")
    assert (receive.value, transmit.value) == (3, 3)
    source.set_namespaces({})

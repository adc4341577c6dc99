"""The kernel's protocol counters: text, points, and what a source makes of them over time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_netmon.errors import NetmonError
from otel_netmon.otel.attributes import Tag, encode
from otel_netmon.otel.catalogue import CATALOGUE
from otel_netmon.otel.drift import problems
from otel_netmon.otel.netstat import (
    LISTEN_OVERFLOW,
    QUIET_CYCLES,
    USED,
    NamespaceCounters,
    OverflowEvents,
    netstat_points,
)
from otel_netmon.otel.points import Snapshot
from otel_netmon.readers.netstat import NetstatReader, parse_netstat, parse_snmp6
from otel_netmon.sources.netstat import NetstatSource

BOOT, NOW = 1_700_000_000_000_000_000, 1_700_000_100_000_000_000

NETSTAT = b"""TcpExt: SyncookiesSent PruneCalled ListenOverflows ListenDrops TCPReqQFullDrop
TcpExt: 0 5 {overflows} 13 0
IpExt: InNoRoutes InTruncatedPkts
IpExt: 7 0
"""
SNMP = b"""Ip: Forwarding DefaultTTL InHdrErrors
Ip: 2 64 3
Tcp: MaxConn InErrs
Tcp: -1 17
Udp: InDatagrams NoPorts InErrors RcvbufErrors SndbufErrors InCsumErrors MemErrors
Udp: 1000 2 {errors} 5 1 2 1
"""
SNMP6 = b"""Ip6InReceives                   \t223
Ip6InNoRoutes                   \t19
Icmp6InType133                  \t3
Udp6NoPorts                     \t23
UdpLite6NoPorts                 \t29
"""


def text(template: bytes, **values: int) -> bytes:
    for name, value in values.items():
        template = template.replace(b"{%s}" % name.encode(), b"%d" % value)
    return template


def test_pairs_of_lines() -> None:
    counters = parse_netstat(text(NETSTAT, overflows=11))
    assert counters["TcpExt.ListenOverflows"] == 11
    assert counters["IpExt.InNoRoutes"] == 7
    assert len(counters) == 7
    assert parse_netstat(text(SNMP, errors=9))["Tcp.MaxConn"] == -1
    assert parse_netstat(b"") == {}


def test_lines_of_ipv6() -> None:
    assert parse_snmp6(SNMP6) == {
        "Ip6.InReceives": 223,
        "Ip6.InNoRoutes": 19,
        "Icmp6.InType133": 3,
        "Udp6.NoPorts": 23,
        "UdpLite6.NoPorts": 29,
    }
    assert parse_snmp6(b"") == {}


@pytest.mark.parametrize(
    "damaged",
    [b"Ip: A\n", b"Ip: A B\nIp: 1\n", b"Ip: A\nTcp: 1\n", b"Ip: A\nIp: x\n", b"Ip: A\nIp: 1\nTcp: B\n", b"\n\xff"],
)
def test_lines_that_do_not_fit_are_refused(damaged: bytes) -> None:
    with pytest.raises(NetmonError, match="in /proc/net"):
        parse_netstat(damaged)


@pytest.mark.parametrize("damaged", [b"Ip6InReceives 223\n", b"Ip6InReceives\tx\n", b"Other\t1\n", b"\n"])
def test_lines_of_ipv6_that_do_not_fit_are_refused(damaged: bytes) -> None:
    with pytest.raises(NetmonError, match="snmp6"):
        parse_snmp6(damaged)


def test_this_host_has_what_is_told() -> None:
    fds = {name: os.open(f"/proc/net/{name}", os.O_RDONLY) for name in ("netstat", "snmp", "snmp6")}
    try:
        counters = NetstatReader(fds).read()
    finally:
        for fd in fds.values():
            os.close(fd)
    assert USED - counters.keys() == {"Udp.InOtherErrors", "Udp6.InOtherErrors"}
    assert counters["Ip.InReceives"] > 0


def test_points_are_those_of_the_catalogue() -> None:
    readings = [NamespaceCounters(name, BOOT, {key: n for n, key in enumerate(sorted(USED))}) for name in ("", "blue")]
    points = netstat_points(readings)
    assert problems(Snapshot(NOW, points)) == []
    assert {name for name in CATALOGUE if name in points} == points.keys()
    assert sum(map(len, points.values())) == 2 * len(USED)
    for metric, found in points.items():
        sets = {tuple(sorted(point.attributes.items())) for point in found}
        assert len(sets) == len(found), metric
    (overflow,) = [
        point
        for point in points["netmon.tcp.listen.overflows"]
        if point.attributes == {"netmon.reason": "accept_queue", "netmon.network.namespace": "blue"}
    ]
    assert overflow.value == sorted(USED).index("TcpExt.ListenOverflows")
    assert overflow.start_time_unix_nano == BOOT


def test_what_the_kernel_does_not_count_has_no_point() -> None:
    points = netstat_points([NamespaceCounters("", BOOT, {"Udp6.NoPorts": 23})])
    (point,) = points["netmon.stack.drops"]
    assert point.value == 23
    assert point.attributes == {
        "network.type": "ipv6",
        "network.transport": "udp",
        "network.io.direction": "receive",
        "netmon.reason": "no_port",
    }
    assert [name for name, found in points.items() if found] == ["netmon.stack.drops"]


class Files:
    """Files as they are under /proc/net, whose text the test changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = NetstatSource(BOOT)
        self.write()

    def write(self, overflows: int = 11, errors: int = 9) -> None:
        (self.folder / "netstat").write_bytes(text(NETSTAT, overflows=overflows))
        (self.folder / "snmp").write_bytes(text(SNMP, errors=errors))
        (self.folder / "snmp6").write_bytes(SNMP6)

    def open(self) -> dict[str, int]:
        return {name: os.open(self.folder / name, os.O_RDONLY) for name in ("netstat", "snmp", "snmp6")}

    def read(self, now_ns: int = NOW) -> dict[tuple[str, str], tuple[int, int]]:
        """Value and start by metric and reason, of the namespace without a name."""
        self.source.read(now_ns)
        return {
            (name, str(point.attributes.get("netmon.reason"))): (int(point.value), point.start_time_unix_nano)
            for name, points in self.source.points().items()
            for point in points
            if point.attributes.get("network.type") != "ipv6"
        }


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    made = Files(tmp_path)
    made.source.set_namespaces({0: ("", made.open())})
    yield made
    made.source.close()


def test_a_source_reads_again_and_again(files: Files) -> None:
    found = files.read()
    assert found["netmon.tcp.listen.overflows", "accept_queue"] == (11, BOOT)
    assert found["netmon.tcp.listen.drops", "None"] == (13, BOOT)
    assert found["netmon.tcp.memory_shortage", "queues_collapsed"] == (5, BOOT)
    assert found["netmon.stack.drops", "invalid"] == (17, BOOT)
    assert found["netmon.stack.drops", "other"] == (1, BOOT)
    files.write(overflows=23, errors=19)
    found = files.read()
    assert found["netmon.tcp.listen.overflows", "accept_queue"] == (23, BOOT)
    assert found["netmon.stack.drops", "other"] == (11, BOOT)


def test_what_is_left_of_udp_errors_never_goes_back(files: Files) -> None:
    files.write(errors=19)
    assert files.read()["netmon.stack.drops", "other"] == (11, BOOT)
    files.write(errors=19)
    (files.folder / "snmp").write_bytes(text(SNMP, errors=19).replace(b" 5 1 2 1\n", b" 7 1 2 1\n"))
    assert files.read()["netmon.stack.drops", "other"] == (11, BOOT)
    assert files.read()["netmon.stack.drops", "receive_buffer"] == (7, BOOT)


def test_a_namespace_that_was_made_anew_counts_anew(files: Files) -> None:
    files.read()
    files.write(overflows=2)
    assert files.read(NOW)["netmon.tcp.listen.overflows", "accept_queue"] == (2, NOW)
    assert files.source.take_events(NOW) == []
    files.write(overflows=3)
    assert files.read(NOW + 1)["netmon.tcp.listen.overflows", "accept_queue"] == (3, NOW)
    assert len(files.source.take_events(NOW)) == 1


def test_files_opened_anew_go_on(files: Files) -> None:
    before = len(os.listdir("/proc/self/fd"))
    files.read()
    files.write(overflows=2)
    files.read(NOW)
    files.source.set_namespaces({0: ("", files.open()), 1: ("blue", files.open())})
    assert len(os.listdir("/proc/self/fd")) == before + 3
    files.source.read(NOW + 1)
    starts = {point.start_time_unix_nano for point in files.source.points()["netmon.tcp.listen.drops"]}
    assert starts == {NOW, BOOT}
    files.source.set_namespaces({1: ("blue", files.open())})
    assert len(os.listdir("/proc/self/fd")) == before
    files.source.read(NOW + 2)
    (point,) = files.source.points()["netmon.tcp.listen.drops"]
    assert point.attributes == {"netmon.network.namespace": "blue"}


def test_an_overflow_is_told_once(files: Files) -> None:
    files.read()
    assert files.source.take_events(NOW) == []  # before the first reading is no trouble of now
    files.write(overflows=34)
    files.read()
    (event,) = files.source.take_events(NOW)
    assert event.name == LISTEN_OVERFLOW
    assert event.attributes == encode({"netmon.reason": "accept_queue"}, Tag.LOG_RECORD)
    assert event.body.startswith("23 times in ")
    files.write(overflows=35)
    files.read()
    assert files.source.take_events(NOW) == []


def test_trouble_ends_when_it_was_quiet() -> None:
    events = OverflowEvents()
    trouble = {"blue": {"accept_queue": 7, "request_queue": 0}}
    (event,) = events.take(trouble, 10.0, NOW)
    assert event.body == (
        "7 times in 10 s the queue of connections that wait for accept() was full in the network namespace blue"
    )
    for _ in range(QUIET_CYCLES - 1):
        assert events.take({}, 10.0, NOW) == []
    assert events.take(trouble, 10.0, NOW) == []
    for _ in range(QUIET_CYCLES):
        assert events.take({}, 10.0, NOW) == []
    assert len(events.take(trouble, 10.0, NOW)) == 1
    assert len(events.take({"": {"request_queue_cookie": 1}}, 10.0, NOW)) == 1

"""The edge rule on packets that went through the running kernel: what its hooks saw, counted under every choice."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations

import pytest

from otel_netmon.abi.enums import Direction
from otel_netmon.analysis.edges import edge_rule
from otel_netmon.kernel.interfaces import InterfaceTable, Key
from support.netns import NetNs, add_veth, namespaces
from support.sightings import Sightings, sightings

pytestmark = pytest.mark.kernel

DEADLINE_SECONDS = 10
PACKETS = 23
PAYLOAD = 333
FRAME = 14 + 20 + 8 + PAYLOAD
VXLAN_HEADERS = 14 + 20 + 8 + 8


def send(netns: NetNs, address: str) -> None:
    with netns.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        for _ in range(PACKETS):
            assert udp.sendto(bytes(PAYLOAD), (address, 9)) == PAYLOAD


def route(netns: NetNs, via: str) -> None:
    netns.run("ip", "route", "add", "default", "via", via)


def forward(netns: NetNs) -> None:
    netns.run("sysctl", "-qw", "net.ipv4.ip_forward=1")


def neighbour(netns: NetNs, address: str, device: str, of: NetNs, of_device: str) -> None:
    hardware = of.links()[of_device]["address"]
    netns.run("ip", "neighbour", "replace", address, "lladdr", hardware, "dev", device, "nud", "permanent")


@contextmanager
def watched(*followed: NetNs) -> Iterator[tuple[InterfaceTable, Sightings]]:
    with InterfaceTable([netns.name for netns in followed]) as table:
        table.refresh()
        with sightings(table) as seen:
            yield table, seen


def arrived(table: InterfaceTable, seen: Sightings, last: str, *, length: int = FRAME, packets: int = PACKETS) -> None:
    """Wait until the last interface on the way has seen them all: the kernel may hand frames on a little later."""
    (key,) = keys(table, last)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while sum(frames for (at, _, _, size), frames in seen.rows().items() if (at, size) == (key, length)) < packets:
        assert time.monotonic() < deadline


def counted(
    table: InterfaceTable, seen: Sightings, monitored: set[Key], *, length: int = FRAME, opened: int = 0
) -> int:
    """Frames of that length that count; with `opened` also those that carry them and are this much longer."""
    rule = edge_rule(table.interfaces.values(), monitored, decapsulate=bool(opened))
    return sum(
        frames
        for (key, direction, ingress, size), frames in seen.rows().items()
        if size in (length, length + opened)
        and key in rule.edges
        and rule.edges[key].counts(direction, ingress if direction is Direction.TRANSMIT else 0)
    )


def keys(table: InterfaceTable, *names: str) -> set[Key]:
    found = {interface.name: key for key, interface in table.interfaces.items() if key[0]}  # not the test's own
    return {found[name] for name in names}


def choices(*names: str) -> list[tuple[str, ...]]:
    return [choice for size in range(1, len(names) + 1) for choice in combinations(names, size)]


def test_a_container_behind_a_bridge() -> None:
    with namespaces(3) as (container, host, world):
        add_veth(container, host, "inside", "port", subnet=1)
        add_veth(host, world, "uplink", "far", subnet=2)
        host.run("ip", "link", "add", "bridge", "type", "bridge")
        host.run("ip", "address", "flush", "dev", "port")
        host.run("ip", "link", "set", "port", "master", "bridge")
        host.run("ip", "address", "add", "198.18.1.2/24", "dev", "bridge")
        host.run("ip", "link", "set", "bridge", "up")
        neighbour(container, "198.18.1.2", "inside", host, "bridge")
        neighbour(host, "198.18.1.1", "bridge", container, "inside")
        forward(host)
        route(container, "198.18.1.2")
        route(world, "198.18.2.1")
        for sender, address, last in ((container, "198.18.2.2", "uplink"), (world, "198.18.1.1", "port")):
            with watched(host) as (table, seen):
                send(sender, address)
                arrived(table, seen, last)
                for choice in choices("port", "bridge", "uplink"):
                    assert counted(table, seen, keys(table, *choice)) == PACKETS, choice
        with watched(container, host) as (table, seen):
            send(container, "198.18.2.2")
            send(world, "198.18.1.1")
            arrived(table, seen, "uplink", packets=2 * PACKETS)
            arrived(table, seen, "inside", packets=2 * PACKETS)
            for choice in choices("bridge", "uplink"):
                both_ends = keys(table, "inside", "port", *choice)
                assert counted(table, seen, both_ends) == 2 * PACKETS, choice
            assert counted(table, seen, keys(table, "inside")) == 2 * PACKETS


def test_from_port_to_port_of_a_bridge() -> None:
    with namespaces(3) as (one, switch, two):
        add_veth(one, switch, "left", "port1", subnet=1)
        add_veth(two, switch, "right", "port2", subnet=1)
        two.run("ip", "address", "flush", "dev", "right")
        two.run("ip", "address", "add", "198.18.1.3/24", "dev", "right")
        switch.run("ip", "link", "add", "bridge", "type", "bridge")
        for port in ("port1", "port2"):
            switch.run("ip", "address", "flush", "dev", port)
            switch.run("ip", "link", "set", port, "master", "bridge")
        switch.run("ip", "link", "set", "bridge", "up")
        neighbour(one, "198.18.1.3", "left", two, "right")
        # The bridge learns the port of each side, so that it floods neither.
        neighbour(two, "198.18.1.1", "right", one, "left")
        send(two, "198.18.1.1")
        with watched(switch) as (table, seen):
            send(one, "198.18.1.3")
            arrived(table, seen, "port2")
            for choice in choices("port1", "port2"):
                for names in (choice, (*choice, "bridge")):
                    assert counted(table, seen, keys(table, *names)) == PACKETS, names
        with watched(one, switch, two) as (table, seen):
            send(one, "198.18.1.3")
            arrived(table, seen, "right")
            everything = set(table.monitored)
            assert counted(table, seen, everything) == PACKETS


def test_a_router_between_namespaces() -> None:
    with namespaces(3) as (one, router, two):
        add_veth(one, router, "left", "west", subnet=1)
        add_veth(router, two, "east", "right", subnet=2)
        forward(router)
        route(one, "198.18.1.2")
        with watched(one, router, two) as (table, seen):
            send(one, "198.18.2.2")
            arrived(table, seen, "right")
            for pairs in choices("left west", "east right", "left", "west"):
                names = " ".join(pairs).split()
                assert counted(table, seen, keys(table, *names)) == PACKETS, names
            # By sight of the receiving end alone nobody can tell that the packet was counted before the pair.
            half = keys(table, "west", "right")
            rule = edge_rule(table.interfaces.values(), half, decapsulate=False)
            assert rule.half_pairs == keys(table, "right")
            assert counted(table, seen, half) == 2 * PACKETS


def test_loopback() -> None:
    with namespaces(1) as (one,), watched(one) as (table, seen):
        send(one, "127.0.0.1")
        arrived(table, seen, "lo", packets=2 * PACKETS)
        assert counted(table, seen, set(table.monitored)) == PACKETS


def test_a_vxlan_and_what_it_carries() -> None:
    with namespaces(3) as (container, host, world):
        add_veth(container, host, "inside", "port", subnet=1)
        add_veth(host, world, "uplink", "far", subnet=2)
        for netns, own, remote, number in (
            (host, "198.18.2.1", "198.18.2.2", 1),
            (world, "198.18.2.2", "198.18.2.1", 2),
        ):
            options = ("type", "vxlan", "id", "5", "dstport", "4789", "local", own, "remote", remote)
            netns.run("ip", "link", "add", f"tunnel{number}", *options)
            netns.run("ip", "address", "add", f"198.18.3.{number}/24", "dev", f"tunnel{number}")
            netns.run("ip", "link", "set", f"tunnel{number}", "up")
        neighbour(host, "198.18.3.2", "tunnel1", world, "tunnel2")
        neighbour(world, "198.18.3.1", "tunnel2", host, "tunnel1")
        forward(host)
        route(container, "198.18.1.2")
        route(world, "198.18.3.1")
        names = ("port", "tunnel1", "uplink")
        with watched(host) as (table, seen):
            send(host, "198.18.3.2")
            arrived(table, seen, "uplink", length=FRAME + VXLAN_HEADERS)
            everything = keys(table, *names)
            assert counted(table, seen, everything) == PACKETS
            assert counted(table, seen, everything, length=FRAME + VXLAN_HEADERS) == PACKETS
            assert counted(table, seen, everything, opened=VXLAN_HEADERS) == PACKETS
        with watched(host) as (table, seen):
            send(world, "198.18.1.1")
            arrived(table, seen, "port")
            assert counted(table, seen, everything) == PACKETS
            assert counted(table, seen, everything, length=FRAME + VXLAN_HEADERS) == PACKETS
            assert counted(table, seen, everything, opened=VXLAN_HEADERS) == PACKETS
        with watched(host) as (table, seen):
            send(container, "198.18.3.2")
            arrived(table, seen, "uplink", length=FRAME + VXLAN_HEADERS)
            assert counted(table, seen, everything) == PACKETS
            assert counted(table, seen, everything, length=FRAME + VXLAN_HEADERS) == PACKETS
            # The kernel forgets at the tunnel by which interface the packet came in: opened, it is counted at both ends.
            assert counted(table, seen, everything, opened=VXLAN_HEADERS) == 2 * PACKETS

"""The kernel's interface counters and the coverage to points of system.network.* and netmon.coverage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from otel_netmon.enrich.interfaces import InterfaceNames
from otel_netmon.otel.flows import DIRECTIONS
from otel_netmon.otel.points import Point
from otel_netmon.readers.netdev import Counters

_COUNTERS = (
    ("system.network.io", "bytes"),
    ("system.network.packet.count", "packets"),
    ("system.network.packet.dropped", "dropped"),
    ("system.network.errors", "errors"),
)


def interface_points(
    counters: Iterable[tuple[int, int, Counters]], names: InterfaceNames, start_ns: int
) -> dict[str, list[Point]]:
    """Gives the system.network.* points of (namespace, ifindex, counters); start_ns is the boot of the machine."""
    points: dict[str, list[Point]] = {name: [] for name, _ in _COUNTERS}
    for namespace, ifindex, values in counters:
        name = names.attributes(namespace, ifindex)
        for direction in DIRECTIONS.values():
            attributes = {**name, "network.io.direction": direction}
            for metric, field in _COUNTERS:
                points[metric].append(Point(attributes, getattr(values, f"{direction}_{field}"), start_ns))
    return points


def coverage_points(
    shares: Mapping[tuple[int, int, int], float], names: InterfaceNames, start_ns: int
) -> dict[str, list[Point]]:
    """Gives netmon.coverage by (namespace, ifindex, direction)."""
    return {
        "netmon.coverage": [
            Point(
                {**names.attributes(namespace, ifindex), "network.io.direction": DIRECTIONS[direction]}, share, start_ns
            )
            for (namespace, ifindex, direction), share in shares.items()
        ]
    }

"""Totals by interface and protocol to points of netmon.protocol.* and netmon.xdp.*."""

from __future__ import annotations

from collections.abc import Mapping

from otel_netmon.abi.enums import ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_NAMES, Reason, protocol_name
from otel_netmon.analysis.protocols import ProtocolKey, Side
from otel_netmon.enrich.interfaces import InterfaceNames
from otel_netmon.otel.flows import DIRECTIONS
from otel_netmon.otel.points import Point


def protocol_points(
    totals: Mapping[ProtocolKey, list[int]], names: InterfaceNames, start_ns: int, prefix: str
) -> dict[str, list[Point]]:
    """Gives PREFIX.io and PREFIX.packets, and for the prefix netmon.protocol also what could not be read, by reason.

    Totals of one name are added up: an interface that left and came back under its name goes on.
    """
    sums: dict[tuple[tuple[str, str], ...], list[int]] = {}
    unparsed: dict[tuple[tuple[str, str], ...], int] = {}
    for key, (packets, octets) in totals.items():
        side = (
            *names.attributes(key.namespace, key.ifindex).items(),
            ("network.io.direction", DIRECTIONS[key.direction]),
        )
        if key.reason:
            attributes: tuple[tuple[str, str], ...] = (*side, ("network.type", "unparsed"))
            why = (*side, ("netmon.reason", Reason(key.reason).name.lower()))
            unparsed[why] = unparsed.get(why, 0) + packets
        else:
            attributes = (*side, ("network.type", ETHERTYPE_NAMES.get(key.ethertype, "other")))
            if key.ethertype in (ETHERTYPE_IPV4, ETHERTYPE_IPV6):
                attributes = (*attributes, ("network.transport", protocol_name(key.protocol)))
        total = sums.setdefault(attributes, [0, 0])
        total[0] += packets
        total[1] += octets
    points = {
        f"{prefix}.packets": [Point(dict(a), packets, start_ns) for a, (packets, _) in sums.items()],
        f"{prefix}.io": [Point(dict(a), octets, start_ns) for a, (_, octets) in sums.items()],
    }
    if prefix == "netmon.protocol":
        points["netmon.protocol.unparsed"] = [Point(dict(a), packets, start_ns) for a, packets in unparsed.items()]
    return points


def wire_points(totals: Mapping[Side, list[int]], names: InterfaceNames, start_ns: int) -> dict[str, list[Point]]:
    """Gives netmon.wire.packets and netmon.wire.io by interface and direction."""
    sums: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for side, (packets, octets) in totals.items():
        name = names.attributes(side.namespace, side.ifindex)
        total = sums.setdefault((*name.items(), ("network.io.direction", DIRECTIONS[side.direction])), [0, 0])
        total[0] += packets
        total[1] += octets
    return {
        "netmon.wire.packets": [Point(dict(a), packets, start_ns) for a, (packets, _) in sums.items()],
        "netmon.wire.io": [Point(dict(a), octets, start_ns) for a, (_, octets) in sums.items()],
    }

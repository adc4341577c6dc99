"""Totals by interface and protocol to points of netmon.protocol.* and netmon.xdp.*."""

from __future__ import annotations

from collections.abc import Mapping

from otel_netmon.abi.enums import ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_NAMES, Reason, protocol_name
from otel_netmon.analysis.protocols import ProtocolKey, Side
from otel_netmon.enrich.interfaces import InterfaceNames
from otel_netmon.otel.flows import DIRECTIONS
from otel_netmon.otel.points import Point

Attributes = tuple[tuple[str, str], ...]


def protocol_points(
    totals: Mapping[ProtocolKey, list[int]], names: InterfaceNames, prefix: str
) -> dict[str, list[Point]]:
    """Gives PREFIX.io and PREFIX.packets, and for the prefix netmon.protocol also what could not be read, by reason.

    Totals of one name and protocol are added up, since the earliest start of them.
    """
    sums: dict[Attributes, list[int]] = {}
    unparsed: dict[Attributes, list[int]] = {}
    for key, total in totals.items():
        side = _side(key, names)
        if key.reason:
            attributes: Attributes = (*side, ("network.type", "unparsed"))
            _add(unparsed, (*side, ("netmon.reason", Reason(key.reason).name.lower())), total)
        else:
            attributes = (*side, ("network.type", ETHERTYPE_NAMES.get(key.ethertype, "other")))
            if key.ethertype in (ETHERTYPE_IPV4, ETHERTYPE_IPV6):
                attributes = (*attributes, ("network.transport", protocol_name(key.protocol)))
        _add(sums, attributes, total)
    points = _points(sums, prefix)
    if prefix == "netmon.protocol":
        points["netmon.protocol.unparsed"] = [Point(dict(a), t[0], t[2]) for a, t in unparsed.items()]
    return points


def wire_points(totals: Mapping[Side, list[int]], names: InterfaceNames) -> dict[str, list[Point]]:
    """Gives netmon.wire.packets and netmon.wire.io by interface and direction."""
    sums: dict[Attributes, list[int]] = {}
    for side, total in totals.items():
        _add(sums, _side(side, names), total)
    return _points(sums, "netmon.wire")


def _side(key: ProtocolKey | Side, names: InterfaceNames) -> Attributes:
    name = names.attributes(key.namespace, key.ifindex)
    return (*name.items(), ("network.io.direction", DIRECTIONS[key.direction]))


def _add(sums: dict[Attributes, list[int]], attributes: Attributes, total: list[int]) -> None:
    known = sums.get(attributes)
    if known is None:
        sums[attributes] = list(total)
    else:
        sums[attributes] = [known[0] + total[0], known[1] + total[1], min(known[2], total[2])]


def _points(sums: Mapping[Attributes, list[int]], prefix: str) -> dict[str, list[Point]]:
    return {
        f"{prefix}.packets": [Point(dict(a), packets, start) for a, (packets, _, start) in sums.items()],
        f"{prefix}.io": [Point(dict(a), octets, start) for a, (_, octets, start) in sums.items()],
    }

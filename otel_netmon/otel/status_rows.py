"""Rows of the /status document from what the analysis found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np

from otel_netmon.abi.enums import Direction, Retransmit, protocol_name
from otel_netmon.analysis.connection_series import FAILURES, WEIGHT
from otel_netmon.analysis.connections import Counter
from otel_netmon.analysis.edges import Edge
from otel_netmon.analysis.flows import BYTES, PACKETS
from otel_netmon.analysis.protocols import Side
from otel_netmon.analysis.series import SeriesReading
from otel_netmon.enrich.addresses import address_text
from otel_netmon.kernel.interfaces import Interface, Key
from otel_netmon.otel.connections import ROLES
from otel_netmon.otel.text import portable_text
from otel_netmon.selfmon.status import DirectionStatus, EndpointStatus, FlowStatus, InterfaceStatus

ROWS = 100
"""Conversations in the document at most."""

_NOTHING = [0, 0]


def interface_rows(
    known: Iterable[Interface],
    edges: Mapping[Key, Edge],
    hooks: Mapping[Key, dict[str, str]],
    totals: Mapping[Side, list[int]],
    handed_over: Mapping[Side, list[int]],
    wire: Mapping[Side, list[int]],
    rates: Mapping[Side, tuple[float, float]],
    shares: Mapping[tuple[int, int, int], float],
) -> list[InterfaceStatus]:
    """One row an interface, in the order of namespaces and indexes.

    Args:
        totals: packets and bytes by side as the interface counts them.
        handed_over, wire: packets and bytes by side, see ``ProtocolTotals``.
        rates: packets and bytes a second by side, over the last cycle.
        shares: coverage by (namespace, ifindex, direction).
    """
    rows = []
    for interface in sorted(known, key=lambda each: each.key):
        sides = {}
        for direction in Direction:
            side = Side(*interface.key, direction)
            packets, octets = totals.get(side, (0, 0))
            packet_rate, octet_rate = rates.get(side, (0.0, 0.0))
            sides[direction] = DirectionStatus(
                packets=packets,
                bytes=octets,
                skb_packets=handed_over.get(side, _NOTHING)[0],
                skb_bytes=handed_over.get(side, _NOTHING)[1],
                wire_packets=wire.get(side, _NOTHING)[0],
                wire_bytes=wire.get(side, _NOTHING)[1],
                packets_per_second=round(packet_rate, 3),
                bytes_per_second=round(octet_rate, 3),
                coverage=shares.get((*interface.key, int(direction))),
            )
        edge = edges[interface.key]
        rows.append(
            InterfaceStatus(
                name=portable_text(interface.name),
                index=interface.index,
                namespace=portable_text(interface.namespace_name),
                kind=interface.kind,
                edge=edge.count_receive or edge.count_transmit,
                hooks=hooks[interface.key],
                receive=sides[Direction.RECEIVE],
                transmit=sides[Direction.TRANSMIT],
            )
        )
    return rows


def endpoint_rows(series: SeriesReading, seconds: float) -> list[EndpointStatus]:
    """One row a server by role, the busiest first, at most ROWS; rates over the last cycle of this many seconds."""
    order = np.argsort(series.gained[WEIGHT], kind="stable")[::-1][:ROWS]
    rows = []
    for (server, port, role, _), gained in zip(
        series.keys[order].tolist(), series.gained[:, order].T.tolist(), strict=True
    ):
        count = gained[Counter.RTT_COUNT]
        retransmits = sum(gained[Counter.RETRANSMITS : Counter.RETRANSMITS + Retransmit.NUMBER])
        rows.append(
            EndpointStatus(
                role=ROLES[role],
                server=address_text(bytes(server)) if port else "",
                port=port or None,
                bytes_per_second=round((gained[Counter.BYTES_RECEIVED] + gained[Counter.BYTES_SENT]) / seconds, 3),
                failed_per_second=round(gained[FAILURES] / seconds, 3),
                resets_per_second=round((gained[Counter.RESETS_RECEIVED] + gained[Counter.RESETS_SENT]) / seconds, 3),
                retransmits_per_second=round(retransmits / seconds, 3),
                rtt_seconds=round(gained[Counter.RTT_SUM_US] / count / 1e6, 6) if count else None,
            )
        )
    return rows


def flow_rows(flows: SeriesReading, seconds: float) -> list[FlowStatus]:
    """One row a conversation and direction, the busiest first, at most ROWS; rates over the last cycle of this many seconds."""
    names: dict[int, Literal["receive", "transmit"]] = {0: "receive", 1: "transmit"}
    order = np.argsort(flows.gained[BYTES], kind="stable")[::-1][:ROWS]
    return [
        FlowStatus(
            client=address_text(bytes(client)),
            server=address_text(bytes(server)),
            port=port or None,
            transport=protocol_name(protocol),
            direction=names[direction],
            bytes_per_second=round(gained[BYTES] / seconds, 3),
            packets_per_second=round(gained[PACKETS] / seconds, 3),
            bytes=values[BYTES],
            packets=values[PACKETS],
        )
        for (client, server, port, protocol, direction), values, gained in zip(
            flows.keys[order].tolist(),
            flows.values[:, order].T.tolist(),
            flows.gained[:, order].T.tolist(),
            strict=True,
        )
    ]

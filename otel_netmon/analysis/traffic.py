"""One cycle of analysis: a reading of the maps to exact totals, the largest conversations, and the proof that nothing is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set as AbstractSet
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.abi.enums import FLOW_FORWARDED, Direction
from otel_netmon.analysis.differences import Differences, group
from otel_netmon.analysis.edges import Edge
from otel_netmon.analysis.flows import BYTES, CONVERSATION, conversations
from otel_netmon.analysis.protocols import COUNTERS, Conservation, ProtocolTotals, unplaced
from otel_netmon.analysis.roles import source_is_client
from otel_netmon.analysis.series import CounterSeries, SeriesReading
from otel_netmon.kernel.interfaces import Key
from otel_netmon.readers.flows import FlowReading
from otel_netmon.readers.maps import of_interfaces

_SIGHTING = np.dtype(
    [("ifindex", "<u4"), ("ingress", "<u4"), ("namespace", "u1"), ("direction", "u1"), ("pad", "u1", 2)]
)


class Gained(NamedTuple):
    """Rows of flow_table that gained something in a reading, those that the edge rule counts.

    Attributes:
        conversations: CONVERSATION, shape (n,), some of them more than once.
        counters: uint64, shape (2, n): packets and bytes gained.
        first_ns: uint64, shape (n,): when the row's first packet came, CLOCK_MONOTONIC.
        by_client: bool, shape (n,): whether the packets of the row are the client's.
        client_ports: big-endian uint16, shape (n,).
    """

    conversations: npt.NDArray[Any]
    counters: npt.NDArray[np.uint64]
    first_ns: npt.NDArray[np.uint64]
    by_client: npt.NDArray[np.bool_]
    client_ports: npt.NDArray[np.uint16]


class Traffic:
    """State of the flows probe over time.

    Args:
        top_k: conversations exported one by one; ``flows.limit`` may be set anew at any time.
        start_ns: Unix time from which the counts are told.
        ephemeral: range of the host's local ports.
        idle_ns: a conversation without traffic for so long loses its series; 0 lets it stay until another needs the place.

    Attributes:
        flows: the conversations with a series, packets and bytes, the rest by direction.
        gained: the rows that gained something in the last reading.
    """

    def __init__(self, top_k: int, start_ns: int, ephemeral: tuple[int, int], idle_ns: int = 0) -> None:
        self.totals = ProtocolTotals(start_ns)
        self.conservation = Conservation()
        self.flows = CounterSeries(CONVERSATION, 2, len(Direction), top_k, start_ns, idle_ns)
        self.let_go()
        self._flows = Differences(COUNTERS)
        self._rows = Differences(COUNTERS)
        self._ephemeral = ephemeral
        self._edges: dict[Key, Edge] = {}

    def set_interfaces(self, edges: Mapping[Key, Edge], physical: Iterable[Key]) -> None:
        """Takes the edge rule and which interfaces are physical; those that are gone keep theirs while flows of them live."""
        self._edges.update(edges)
        self.totals.physical.update(physical)

    def update(self, reading: FlowReading, totals_before: dict[int, int], now_ns: int) -> SeriesReading:
        """Takes a reading.

        Args:
            totals_before: packets by slot of hook_totals, read before the rows.
            now_ns: Unix time of the reading.
        """
        gains = self._flows.update(reading.keys, reading.flows, reading.closed_keys, reading.closed_flows)
        row_gains = self._rows.update(reading.protocol_keys, reading.protocol_counters)
        keys = np.concatenate([reading.keys, reading.closed_keys], dtype=reading.keys.dtype)
        flows = np.concatenate([reading.flows, reading.closed_flows], dtype=reading.flows.dtype)
        self.totals.add_flows(keys, gains)
        self.totals.add_rows(reading.protocol_keys, row_gains)
        self.totals.end_reading(now_ns)
        self.conservation.check(totals_before, self.totals.packets_by_slot())
        counted, physical = self._counted(keys, flows)
        keys, flows, gains, physical = keys[counted], flows[counted], gains[:, counted], physical[counted]
        by_client = source_is_client(keys, flows, self._ephemeral)
        every = conversations(keys, by_client)
        counters = np.stack([gains[0] + gains[2] * physical, gains[1] + gains[3] * physical])
        busy = gains[0] != 0
        ports = np.where(by_client, keys["source_port"], keys["destination_port"])
        self.gained = Gained(
            every[busy], counters[:, busy], flows["first_ns"][busy], by_client[busy], ports[busy].astype(">u2")
        )
        self.flows.begin_cycle()
        self.flows.update(
            every,
            counters,
            BYTES,
            keys["direction"].astype(np.intp),
            now_ns,
        )
        for direction, amount in self._unplaced_at_edges(reading.protocol_keys, row_gains).items():
            self.flows.add_to_rest(direction, amount)
        return self.flows.reading()

    def let_go(self) -> None:
        """Forgets the rows of the last reading."""
        nothing = np.empty(0, np.uint64)
        self.gained = Gained(
            np.empty(0, CONVERSATION),
            np.empty((2, 0), np.uint64),
            nothing,
            np.empty(0, np.bool_),
            np.empty(0, ">u2"),
        )

    def state(self) -> dict[str, dict[str, Any]]:
        """What another process needs to go on, by part."""
        return {name: part.state() for name, part in self._parts().items()} | {"traffic.edges": self._edge_state()}

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Goes on from ``state``, before the first update."""
        for name, part in self._parts().items():
            part.restore(state[name])
        edges = state["traffic.edges"]
        counted: dict[int, set[int]] = {}
        for number, ifindex in edges["counted"].tolist():
            counted.setdefault(number, set()).add(ifindex)
        sets = {number: frozenset(members) for number, members in counted.items()}
        for namespace, ifindex, receive, transmit, number in edges["edges"].tolist():
            self._edges[namespace, ifindex] = Edge(bool(receive), bool(transmit), sets.get(number, frozenset()))

    def interfaces(self) -> set[Key]:
        """(namespace, ifindex) of all of which something is kept."""
        return {side[:2] for side in self.totals.handed_over} | self._edges.keys()

    def _edge_state(self) -> dict[str, Any]:
        """The edge rule by interface: of one that goes while no process runs nobody else could tell it."""
        sets = {counted: number for number, counted in enumerate({edge.counted for edge in self._edges.values()})}
        edges = [
            [*key, edge.count_receive, edge.count_transmit, sets[edge.counted]] for key, edge in self._edges.items()
        ]
        counted = [[number, ifindex] for members, number in sets.items() for ifindex in members]
        return {
            "edges": np.array(edges, np.int64).reshape(-1, 5),
            "counted": np.array(counted, np.int64).reshape(-1, 2),
        }

    def _parts(self) -> dict[str, Any]:
        return {
            "traffic.totals": self.totals,
            "traffic.conservation": self.conservation,
            "traffic.flows": self.flows,
            "traffic.flow_rows": self._flows,
            "traffic.protocol_rows": self._rows,
        }

    def forget(self, gone: AbstractSet[Key]) -> None:
        """Drops the series of interfaces that are gone, after the reading that held their last packets.

        Their rows of protocol_stats are deleted as well; one that is made again has gained all it has.
        """
        self.totals.forget(gone)
        self._rows.forget(of_interfaces(self._rows.keys, gone))
        for key in gone:
            self._edges.pop(key, None)

    def _counted(
        self, keys: npt.NDArray[Any], flows: npt.NDArray[Any]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Tells which rows the edge rule counts, and which are of physical interfaces; decided once for each sighting."""
        if not len(keys):
            return np.zeros(0, np.bool_), np.zeros(0, np.bool_)
        sightings = np.zeros(len(keys), _SIGHTING)
        sightings["ifindex"] = keys["ifindex"]
        sightings["namespace"] = keys["namespace"]
        sightings["direction"] = keys["direction"]
        sightings["ingress"] = np.where(keys["flags"] & FLOW_FORWARDED, flows["ingress_ifindex"], 0)
        first, inverse = group(sightings)
        kinds = [sighting[:4] for sighting in sightings[first].tolist()]
        counts = np.array([self._counts(*kind) for kind in kinds], np.bool_)
        physical = np.array([(kind[2], kind[0]) in self.totals.physical for kind in kinds], np.bool_)
        return counts[inverse], physical[inverse]

    def _counts(self, ifindex: int, ingress: int, namespace: int, direction: int) -> bool:
        edge = self._edges.get((namespace, ifindex))
        return edge is None or edge.counts(Direction(direction), ingress)

    def _unplaced_at_edges(self, keys: npt.NDArray[Any], gains: npt.NDArray[np.uint64]) -> dict[int, tuple[int, int]]:
        """Packets in no flow by direction, where the edge rule counts them.

        They carry no way in: forwarded ones count where no other interface could have counted them before.
        """
        result: dict[int, tuple[int, int]] = {}
        for (namespace, ifindex, direction, forwarded), (packets, octets) in unplaced(
            keys, gains, self.totals.physical
        ).items():
            edge = self._edges.get((namespace, ifindex))
            if edge is not None and (not edge.counts(Direction(direction)) or (forwarded and edge.counted - {ifindex})):
                continue
            before = result.get(direction, (0, 0))
            result[direction] = (before[0] + packets, before[1] + octets)
        return result

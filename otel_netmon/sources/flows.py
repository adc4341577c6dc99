"""The flows probe: maps of tc_monitor -> exact totals and conversations -> netmon.protocol.*, netmon.wire.*, netmon.flow.*."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.abi import layout
from otel_netmon.abi.enums import Direction
from otel_netmon.analysis.cardinality import WHOLE_SET, Cardinality, hash_column
from otel_netmon.analysis.edges import Edge
from otel_netmon.analysis.protocols import Side
from otel_netmon.analysis.roles import ephemeral_ports
from otel_netmon.analysis.series import SeriesReading
from otel_netmon.analysis.traffic import Traffic
from otel_netmon.config.model import Config
from otel_netmon.enrich.interfaces import InterfaceNames
from otel_netmon.kernel.interfaces import Interface, Key
from otel_netmon.otel import protocols
from otel_netmon.otel.flows import FlowPoints
from otel_netmon.otel.points import Points
from otel_netmon.otel.series import Diversity
from otel_netmon.readers.flows import FlowMaps, FlowReader, FlowReading
from otel_netmon.selfmon.status import StageStatus

ATTRIBUTES = ("client.address", "server.address", "server.port", "network.transport")
"""What tells conversations apart, beside the direction."""


class FlowSource:
    """Reads the maps once a cycle and keeps what must be known from cycle to cycle.

    Args:
        maps: name to file descriptor and number of entries.
        programs: name to file descriptor.
        config: the configuration.
        start_ns: Unix time at which the programs began to count.
    """

    def __init__(
        self, maps: Mapping[str, tuple[int, int]], programs: Mapping[str, int], config: Config, start_ns: int
    ) -> None:
        self._reader = FlowReader(
            FlowMaps(
                flow_table=maps["flow_table"][0],
                protocol_stats=maps["protocol_stats"][0],
                hook_totals=maps["hook_totals"][0],
                agent_state=maps["agent_state"][0],
                flow_filter=maps["flow_filter"][0],
                sweep_program=programs["netmon_sweep"],
                mark_program=programs["netmon_mark"],
                clock_program=programs["netmon_clock"],
                flow_entries=maps["flow_table"][1],
                protocol_entries=maps["protocol_stats"][1],
            ),
            config.probes.flows.idle_seconds,
        )
        self.capacity = config.probes.flows.table_entries
        idle_ns = int(config.limits.series_idle_seconds * 1e9)
        self.traffic = Traffic(config.flows.top_k, start_ns, ephemeral_ports(), idle_ns)
        self._points = FlowPoints()
        self._cardinality = Cardinality(ATTRIBUTES)
        self._read_ns = start_ns
        self._reading: FlowReading | None = None
        self._sizes = (0, 0, 0)  # flows, rows of protocol_stats, CLOCK_MONOTONIC, at the last reading
        self._series = self.traffic.flows.reading()

    def set_interfaces(self, edges: Mapping[Key, Edge], physical: Iterable[Key]) -> None:
        """Takes the edge rule and which interfaces are physical."""
        self.traffic.set_interfaces(edges, physical)

    def read(self, known: Iterable[Interface], series_limit: int, now_ns: int) -> SeriesReading:
        """Reads the maps; at most ``series_limit`` conversations are told one by one.

        The rows that have left stay in the table until ``settle``: what they held must be safe first.
        """
        sides = [(i.index, i.namespace, d) for i in known for d in Direction]
        before = {slot: int(total["packets"]) for slot, total in self._reader.totals(sides).items()}
        self.traffic.flows.limit = series_limit
        self._reading = reading = self._reader.read()
        self._sizes = (len(reading.keys), len(reading.protocol_keys), reading.monotonic_ns)
        self._series = self.traffic.update(self._reading, before, now_ns)
        self._read_ns = now_ns
        self._measure_cardinality()
        return self._series

    def settle(self) -> None:
        """Deletes what has left the table; to be called once the state is saved."""
        if self._reading is not None:
            self._reader.delete_closed(self._reading)
        self._reading = None  # a full table is 8 MB, and what it gained another 4
        self.traffic.let_go()

    def points(self, names: InterfaceNames) -> dict[str, Points]:
        """The points of the last reading."""
        totals = self.traffic.totals
        return {
            **protocols.protocol_points(totals.counted, names, "netmon.protocol"),
            **protocols.wire_points(totals.wire, names),
            **self._points.points(self._series),
        }

    def totals(self, sides: Iterable[tuple[int, int, int]]) -> dict[int, npt.NDArray[Any]]:
        """hook_totals by slot as they are now, see ``FlowReader.totals``."""
        return self._reader.totals(sides)

    def forget(self, gone: Collection[Key]) -> None:
        """Drops interfaces that are gone, after the reading that held their last packets."""
        self.traffic.forget(set(gone))
        self._reader.forget(gone)

    @property
    def series(self) -> SeriesReading:
        """The conversations of the last reading."""
        return self._series

    def interfaces(self) -> set[Key]:
        """(namespace, ifindex) of all of which something is kept."""
        return self.traffic.interfaces()

    @property
    def monotonic_ns(self) -> int:
        """CLOCK_MONOTONIC at the last reading."""
        return self._sizes[2]

    @property
    def live(self) -> int:
        """Flows in the table at the last reading."""
        return self._sizes[0]

    def map_sizes(self) -> dict[str, tuple[int, int]]:
        """Entries in use and capacity by name of the map."""
        rows = self._sizes[1]
        return {"flow_table": (self.live, self.capacity), "protocol_stats": (rows, self._reader.protocol_entries)}

    def stage(self) -> StageStatus:
        """Packets that the kernel stage delivered and lost."""
        conservation = self.traffic.conservation
        return StageStatus(delivered=conservation.attributed, dropped={"unattributed": conservation.missing})

    def by_side(self) -> dict[Side, list[int]]:
        """Packets and bytes by side as the interface counts them."""
        result: dict[Side, list[int]] = {}
        for key, (packets, octets, _) in self.traffic.totals.counted.items():
            total = result.setdefault(Side(key.namespace, key.ifindex, key.direction), [0, 0])
            total[0] += packets
            total[1] += octets
        return result

    def state(self) -> dict[str, dict[str, Any]]:
        """What another process needs to go on; refers to the last reading, not a copy."""
        leaving = {
            "keys": np.empty(0, layout.FLOW_KEY) if self._reading is None else self._reading.closed_keys,
            "flows": np.empty(0, layout.FLOW) if self._reading is None else self._reading.closed_flows,
        }
        return {**self.traffic.state(), "flows.leaving": leaving}

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Goes on where another process was, before the first reading.

        ``points`` then gives what it had counted, which it has perhaps told nobody: it must be told before the next reading,
        in which some of the series may end.
        """
        self.traffic.restore(state)
        self._series = self.traffic.flows.reading()
        self._reader.delete_told(state["flows.leaving"]["keys"], state["flows.leaving"]["flows"])

    def diversity(self) -> Diversity:
        """How many conversations there are, with and without a series."""
        counts = self._cardinality.estimate(self._read_ns)
        return Diversity(self._series.folded, counts.pop(WHOLE_SET), counts)

    def _measure_cardinality(self) -> None:
        """Counts the distinct values of each attribute over all conversations, those in the rest among them."""
        conversations = self.traffic.gained.conversations
        if len(conversations):
            fields = zip(ATTRIBUTES, ("client", "server", "server_port", "protocol"), strict=True)
            seed = self._cardinality.seed
            self._cardinality.add_sets(
                {attribute: hash_column(conversations[field], seed) for attribute, field in fields}, self._read_ns
            )

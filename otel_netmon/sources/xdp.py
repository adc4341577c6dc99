"""The XDP probe: protocol_stats of xdp_monitor -> netmon.xdp.*."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from otel_netmon.abi import layout
from otel_netmon.analysis.differences import Differences
from otel_netmon.analysis.protocols import COUNTERS, ProtocolTotals
from otel_netmon.enrich.interfaces import InterfaceNames
from otel_netmon.kernel import syscalls
from otel_netmon.kernel.interfaces import Key
from otel_netmon.otel import protocols
from otel_netmon.otel.points import Points
from otel_netmon.readers.maps import HashReader, of_interfaces, sum_over_cpus


class XdpSource:
    """Reads the map once a cycle and keeps the totals.

    Args:
        maps: name to file descriptor and number of entries.
        start_ns: Unix time at which the programs began to count.
    """

    def __init__(self, maps: Mapping[str, tuple[int, int]], start_ns: int) -> None:
        fd, entries = maps["protocol_stats"]
        self._reader = HashReader(fd, layout.PROTOCOL_KEY, layout.COUNTERS, entries, syscalls.possible_cpus())
        self._differences = Differences(COUNTERS)
        self._totals = ProtocolTotals(start_ns)

    def read(self, now_ns: int) -> None:
        """Reads the map."""
        keys, counters = sum_over_cpus(*self._reader.read())
        self._totals.add_rows(keys, self._differences.update(keys, counters))
        self._totals.end_reading(now_ns)

    def points(self, names: InterfaceNames) -> Mapping[str, Points]:
        """The points of the last reading."""
        return protocols.protocol_points(self._totals.counted, names, "netmon.xdp")

    def forget(self, gone: Collection[Key]) -> None:
        """Drops interfaces that are gone, also their rows of the map, after the reading that held their last frames."""
        self._totals.forget(set(gone))
        rows = of_interfaces(self._differences.keys, gone)
        self._reader.delete(self._differences.keys[rows])
        self._differences.forget(rows)

    def state(self) -> dict[str, dict[str, Any]]:
        """What another process needs to go on."""
        return {"xdp.totals": self._totals.state(), "xdp.rows": self._differences.state()}

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Goes on where another process was, before the first reading."""
        self._totals.restore(state["xdp.totals"])
        self._differences.restore(state["xdp.rows"])

"""Connections and datagrams that had no place in a table of the kernel: in the rests of what they belong to, and counted as such."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from otel_netmon.abi.enums import TOTALS_NUMBER, TOTALS_UDP, Ending, Retransmit, Role
from otel_netmon.abi.layout import CONNECTION_TOTALS
from otel_netmon.analysis.connection_series import ConnectionSeries
from otel_netmon.analysis.connections import Counter, error_type
from otel_netmon.analysis.datagrams import COUNTERS, DatagramSeries
from otel_netmon.analysis.owner_series import TRANSPORTS
from otel_netmon.otel.connections import ROLES
from otel_netmon.otel.points import Point
from otel_netmon.readers.connections import ConnectionCounts
from otel_netmon.sources.owners import Owners


class Rowless:
    """What connection_totals tells.

    Args:
        kernel: its reader.
        start_ns: Unix time at which the programs began to count.
    """

    def __init__(self, kernel: ConnectionCounts, start_ns: int) -> None:
        self._kernel = kernel
        self._start_ns = start_ns
        self._totals = np.zeros(TOTALS_NUMBER, CONNECTION_TOTALS)

    def read(self, owners: Owners, connections: ConnectionSeries, datagrams: DatagramSeries) -> None:
        """Adds to the rests what came since the last reading."""
        totals, before = self._kernel.totals(), self._totals
        self._totals = totals
        gained = {name: totals[name] - before[name] for name in totals.dtype.names or ()}
        tcp = {name: int(values[:TOTALS_UDP].sum()) for name, values in gained.items()}
        udp = {name: int(values[TOTALS_UDP]) for name, values in gained.items()}
        if any(tcp.values()):
            owners.count_unknown(TRANSPORTS.index("tcp"), tcp["bytes_received"], tcp["bytes_sent"])
            connections.add_to_rest({Counter.RETRANSMITS + Retransmit.OTHER: tcp["retransmits"]})
        if any(udp.values()):
            owners.count_unknown(TRANSPORTS.index("udp"), udp["bytes_received"], udp["bytes_sent"])
            datagrams.add_to_rest(tuple(udp[name] for name in COUNTERS))

    def points(self) -> list[Point]:
        """Gives netmon.connection.untracked: those that were established by role, and connects that failed by why."""
        counts = self._totals["connections"][:TOTALS_UDP].reshape(Role.NUMBER, Ending.NUMBER)
        points = [
            Point({"network.tcp.handshake.role": ROLES[role]}, int(counts[role, Ending.NONE]), self._start_ns)
            for role in (Role.CLIENT, Role.SERVER)
        ]
        for ending in range(Ending.REFUSED, Ending.NUMBER):
            failed = int(counts[:, ending].sum())
            if failed:
                why = {"network.tcp.handshake.role": "client", "error.type": error_type(Ending(ending)) or ""}
                points.append(Point(why, failed, self._start_ns))
        return points

    def state(self) -> dict[str, Any]:
        """What another process needs to go on."""
        return {"totals": self._totals}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on where another process was, before the first reading."""
        self._totals = state["totals"]

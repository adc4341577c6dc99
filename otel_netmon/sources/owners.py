"""Whose connections and sockets they are: processes and containers, and what each transferred -> process.network.io, container.network.io."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.abi.enums import Who
from otel_netmon.analysis.differences import group
from otel_netmon.analysis.owner_series import OwnerSeries
from otel_netmon.enrich.identities import UNKNOWN_SERVICE
from otel_netmon.enrich.processes import Processes
from otel_netmon.otel.attributes import encoded_resource
from otel_netmon.otel.connections import OwnerPoints
from otel_netmon.otel.points import Points
from otel_netmon.otel.series import CONTAINERS, PROCESSES, Diversity, diversity

_WHO = np.dtype([("cgroup", "<u8"), ("tgid", "<u4"), ("comm", "S16")])
_UNKNOWN: Mapping[str, str | int] = {"service.name": UNKNOWN_SERVICE}


class Owners:
    """Tells whose a row is, and counts what they transferred.

    Args:
        processes: identities.
        start_ns: Unix time at which counting began.
        idle_ns: a series that gained nothing for so long ends.
    """

    def __init__(self, processes: Processes, start_ns: int, idle_ns: int) -> None:
        self.identities = processes
        self._processes = OwnerSeries("processes", start_ns, idle_ns)
        self._containers = OwnerSeries("containers", start_ns, idle_ns)
        self._process_points = OwnerPoints("process.network.io")
        self._container_points = OwnerPoints("container.network.io")

    def numbers_of(self, rows: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
        """The number of the identity of each row (layout.CONNECTION or layout.UDP), 0 where nobody knows; shape (n,)."""
        if not len(rows):
            return np.empty(0, np.uint64)
        who = np.zeros(len(rows), _WHO)
        for name in _WHO.names or ():
            who[name] = rows[name]
        first, inverse = group(who)
        did_ns = np.where(rows["who"] == Who.CLOSER, rows["end_ns"], rows["begin_ns"])
        last_ns = np.zeros(len(first), np.uint64)
        np.maximum.at(last_ns, inverse, did_ns)
        distinct = who[first]
        numbers = self.identities.identify(distinct["tgid"], last_ns, distinct["comm"], distinct["cgroup"])
        return numbers[inverse]

    def count(
        self, numbers: npt.NDArray[np.uint64], transport: int, counters: npt.NDArray[np.uint64], now_ns: int
    ) -> None:
        """Counts by process and by container, see ``OwnerSeries.add``."""
        self._processes.add(numbers, transport, counters, now_ns)
        distinct, inverse = np.unique(numbers, return_inverse=True)
        containers = np.array(
            [self.identities.container_of(number) if number else 0 for number in distinct.tolist()], np.uint64
        )[inverse]
        inside = containers != 0
        self._containers.add(containers[inside], transport, counters[:, inside], now_ns)

    def count_unknown(self, transport: int, received: int, sent: int) -> None:
        """Counts bytes of sockets that are not known."""
        self._processes.add_to_rest(transport, received, sent)

    def keep(self, others: Iterable[int] = ()) -> None:
        """Lets nobody be forgotten who has a series here, or is among the others."""
        self.identities.set_in_use(self._told() | set(others))

    def resource(self, number: int) -> Mapping[str, str | int]:
        """Attributes of the resource of a process."""
        return self.identities.resource(number) if number else _UNKNOWN

    def encoded_resource(self, number: int) -> bytes:
        """Likewise, encoded."""
        return encoded_resource(self.resource(number))

    def known_resource(self, number: int) -> bytes:
        """Likewise; nothing for a process that is not known, or was forgotten since."""
        try:
            return encoded_resource(self.identities.resource(number)) if number else b""
        except KeyError:
            return b""

    def set_limits(self, places: Mapping[str, int]) -> None:
        """Lets there be so many series by family."""
        self._processes.set_limit(places[PROCESSES])
        self._containers.set_limit(places[CONTAINERS])

    def wanted(self) -> dict[str, int]:
        """How many series there is use for, by family."""
        return {name: series.wanted for name, series in self._families()}

    def diversity(self) -> dict[str, Diversity]:
        """How many have no series of their own, by family."""
        return {name: diversity(series) for name, series in self._families()}

    def points(self) -> dict[str, Points]:
        """The points of this cycle, which it ends."""
        points = {
            **self._process_points.points(self._processes.reading(), self.resource),
            **self._container_points.points(self._containers.reading(), self.identities.container_resource),
        }
        for _, series in self._families():
            series.end_cycle()
        return points

    def state(self, others: Collection[int]) -> dict[str, dict[str, Any]]:
        """What another process needs to go on; of the others, too, it knows who they are."""
        told = self._told() | set(others)
        return {
            **self._processes.state(),
            **self._containers.state(),
            "processes.identities": self.identities.state(told),
        }

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Goes on where another process was, before anything is counted."""
        self.identities.restore(state["processes.identities"])
        for _, series in self._families():
            series.restore(state)

    def _families(self) -> tuple[tuple[str, OwnerSeries], ...]:
        return (PROCESSES, self._processes), (CONTAINERS, self._containers)

    def _told(self) -> set[int]:
        return self._processes.numbers() | self._containers.numbers()

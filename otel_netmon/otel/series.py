"""One budget of series for all metrics: each family gets a share by weight, what has no place is folded, and all of it is told.

A family is a group of metrics with the same attribute sets. Conversations (and what later probes bring) choose their series in the
analysis, by weight of traffic; the small sets of interfaces and protocols are folded here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from otel_netmon.analysis.budget import Family, share
from otel_netmon.otel.fold import Fold
from otel_netmon.otel.points import Point, Points
from otel_netmon.selfmon.status import SeriesAttributeStatus, SeriesFamilyStatus, SeriesStatus

FLOWS = "flows"
AGENT = "agent"


@dataclass(frozen=True, slots=True)
class _Group:
    """A family that is folded here: its metrics and its claim to the budget."""

    metrics: tuple[str, ...]
    weight: float


_FLOW_METRICS = ("netmon.flow.io", "netmon.flow.packets")
_FLOW_WEIGHT = 8.0
_AGENT_WEIGHT = 16.0
_GROUPS: Mapping[str, _Group] = {
    "interfaces": _Group(
        ("system.network.io", "system.network.packet.count", "system.network.packet.dropped", "system.network.errors"),
        4.0,
    ),
    "protocols": _Group(("netmon.protocol.io", "netmon.protocol.packets"), 4.0),
    "wire": _Group(("netmon.wire.io", "netmon.wire.packets"), 2.0),
    "xdp": _Group(("netmon.xdp.io", "netmon.xdp.packets"), 2.0),
    "coverage": _Group(("netmon.coverage",), 1.0),
    "unparsed": _Group(("netmon.protocol.unparsed",), 1.0),
}
_FOLDED = frozenset(name for group in _GROUPS.values() for name in group.metrics)
_RESTS = 2  # overflow points of each flow metric, one a direction


class SeriesBudget:
    """Keeps what is exported within the limit.

    Args:
        limit: series at most, one for each metric and attribute set.
        idle_seconds: told in the status.
    """

    def __init__(self, limit: int, idle_seconds: float) -> None:
        self.limit = limit
        self._idle_seconds = idle_seconds
        self._folds = {name: Fold() for name in _GROUPS}
        # First guesses, every cycle corrects them: at the start conversations get no more than their weight gives them.
        self._wanted = dict.fromkeys(_GROUPS, limit)
        self._agent = 64
        self._flows_wanted = 0
        self._shares: dict[str, int] = {}
        self._active: dict[str, int] = {}

    def conversations(self, top_k: int) -> int:
        """How many conversations may have a series in the next reading; ``top_k`` at most."""
        self._flows_wanted = (top_k + _RESTS) * len(_FLOW_METRICS)
        self._share(_RESTS * len(_FLOW_METRICS))
        return max(0, min(top_k, self._shares[FLOWS] // len(_FLOW_METRICS) - _RESTS))

    def apply(self, points: Mapping[str, Points], now_ns: int | None = None) -> dict[str, Points]:
        """Folds what has no place; every other metric is given back as it is.

        Args:
            now_ns: Unix time of the reading; the present where it is not given.
        """
        result = dict(points)
        sizes = {metric: len(series) for metric, series in points.items()}
        flows = sum(sizes.get(metric, 0) for metric in _FLOW_METRICS)
        self._agent = sum(size for metric, size in sizes.items() if metric not in _FOLDED) - flows
        self._wanted = {
            name: sum(sizes.get(metric, 0) for metric in group.metrics) + len(self._folds[name])
            for name, group in _GROUPS.items()
        }
        self._share(flows)
        self._active = {FLOWS: flows, AGENT: self._agent}
        for name, group in _GROUPS.items():
            own = {metric: cast("Sequence[Point]", points[metric]) for metric in group.metrics if metric in points}
            if not own:
                continue
            folded = self._folds[name].apply(own, self._shares[name] // len(own), now_ns or time.time_ns())
            result |= folded
            self._active[name] = sum(map(len, folded.values()))
        return result

    def state(self) -> dict[str, dict[str, Any]]:
        """What another process needs to go on."""
        wanted = {f"wanted.{name}": count for name, count in self._wanted.items()}
        folds = {f"series.{name}": fold.state() for name, fold in self._folds.items()}
        return {"series": {"agent": self._agent, **wanted}, **folds}

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Goes on where another process was, before the first cycle."""
        self._agent = state["series"]["agent"]
        for name, fold in self._folds.items():
            self._wanted[name] = state["series"][f"wanted.{name}"]
            fold.restore(state[f"series.{name}"])

    def _share(self, flows: int) -> None:
        """Shares the limit by weight; the agent's own series and so many of the conversations come first."""
        families = [
            Family(AGENT, _AGENT_WEIGHT, self._agent, self._agent),
            Family(FLOWS, _FLOW_WEIGHT, flows, max(flows, self._flows_wanted)),
            *(Family(name, group.weight, 0, self._wanted[name]) for name, group in _GROUPS.items()),
        ]
        self._shares = share(self.limit, families)

    def folded(self, folded_flows: int) -> dict[str, int]:
        """Attribute sets without a series of their own in the last cycle, by family."""
        return {FLOWS: folded_flows, **{name: fold.folded for name, fold in self._folds.items()}}

    def points(self, folded_flows: int, distinct: Mapping[str, float], start_ns: int) -> dict[str, list[Point]]:
        """Gives netmon.series.*: the last cycle's.

        Args:
            folded_flows: conversations of the last reading that are in the rest.
            distinct: estimated number of distinct values by attribute of conversations.
        """
        folded = self.folded(folded_flows)
        return {
            "netmon.series.active": [
                Point({"netmon.series.family": name}, count, start_ns) for name, count in self._active.items()
            ],
            "netmon.series.folded": [
                Point({"netmon.series.family": name}, folded[name], start_ns) for name in self._active if name in folded
            ],
            "netmon.series.limit": [Point({}, self.limit, start_ns)],
            "netmon.series.distinct": [
                Point({"netmon.series.family": FLOWS, "netmon.series.attribute": key}, round(count), start_ns)
                for key, count in distinct.items()
            ],
        }

    def status(self, folded_flows: int, sets: float, distinct: Mapping[str, float]) -> SeriesStatus:
        """The section of /status.

        Args:
            folded_flows, distinct: see ``points``.
            sets: estimated number of distinct conversations.
        """
        families = [
            SeriesFamilyStatus(
                name=FLOWS,
                metrics=list(_FLOW_METRICS),
                active=self._active.get(FLOWS, 0),
                limit=self._shares.get(FLOWS, 0),
                folded=folded_flows,
                weight=_FLOW_WEIGHT,
                attributes=[
                    SeriesAttributeStatus(
                        key=key, distinct=round(count), share=round(min(1.0, count / sets), 4) if sets else 0.0
                    )
                    for key, count in distinct.items()
                ],
            )
        ]
        families += [
            SeriesFamilyStatus(
                name=name,
                metrics=list(group.metrics),
                active=self._active[name],
                limit=self._shares[name],
                folded=self._folds[name].folded,
                weight=group.weight,
                attributes=[],
            )
            for name, group in _GROUPS.items()
            if name in self._active
        ]
        families.append(
            SeriesFamilyStatus(
                name=AGENT,
                metrics=[],
                active=self._agent,
                limit=self._agent,
                folded=0,
                weight=_AGENT_WEIGHT,
                attributes=[],
            )
        )
        return SeriesStatus(
            active=sum(self._active.values()), limit=self.limit, idle_seconds=self._idle_seconds, families=families
        )

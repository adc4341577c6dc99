"""One budget of series for all metrics: each family gets a share by weight, what has no place is folded, and all of it is told.

A family is a group of metrics with the same attribute sets. Conversations (and what later probes bring) choose their series in the
analysis, by weight of traffic; the small sets of interfaces and protocols are folded here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from otel_netmon.analysis.budget import Family, share
from otel_netmon.analysis.cardinality import WHOLE_SET
from otel_netmon.analysis.series_family import SeriesFamily
from otel_netmon.otel.fold import Fold
from otel_netmon.otel.points import Point, Points
from otel_netmon.selfmon.status import SeriesAttributeStatus, SeriesFamilyStatus, SeriesStatus

FLOWS = "flows"
DNS = "dns"
DOMAINS = "domains"
CONNECTIONS = "connections"
PROCESSES = "processes"
CONTAINERS = "containers"
UDP = "udp"
TLS = "tls"
HELLOS = "tls_datagrams"
HTTP = "http"
RPC_SERVER = "rpc_server"
RPC_CLIENT = "rpc_client"
AGENT = "agent"

_AGENT_WEIGHT = 16.0


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A family whose sets are chosen in the analysis: its metrics, its claim, series of a set, overflow points of all metrics."""

    metrics: tuple[str, ...]
    weight: float
    cost: int
    rests: int


@dataclass(frozen=True, slots=True)
class _Group:
    """A family that is folded here: its metrics and its claim to the budget."""

    metrics: tuple[str, ...]
    weight: float


_CHOSEN: Mapping[str, _Chosen] = {
    FLOWS: _Chosen(("netmon.flow.io", "netmon.flow.packets"), 8.0, 2, 4),
    DNS: _Chosen(("dns.lookup.duration",), 6.0, 1, 1),
    DOMAINS: _Chosen(("netmon.domain.io", "netmon.domain.connections"), 4.0, 2, 4),
    # What is zero has no point: few servers have more than a handshake, a duration, a round-trip time and a few counters.
    CONNECTIONS: _Chosen(
        (
            "netmon.tcp.handshake.duration",
            "netmon.tcp.connection.duration",
            "netmon.tcp.rtt",
            "netmon.tcp.retransmits",
            "netmon.tcp.resets",
            "netmon.tcp.zero_windows",
            "netmon.tcp.out_of_order",
        ),
        8.0,
        7,
        23,
    ),
    PROCESSES: _Chosen(("process.network.io", "netmon.udp.drops"), 4.0, 3, 6),
    CONTAINERS: _Chosen(("container.network.io",), 4.0, 2, 4),
    UDP: _Chosen(("netmon.udp.io", "netmon.udp.packets"), 3.0, 4, 4),
    TLS: _Chosen(("netmon.tls.handshake.duration",), 6.0, 1, 1),
    HELLOS: _Chosen(("netmon.tls.datagram_hellos",), 2.0, 1, 2),
    HTTP: _Chosen(
        (
            "http.server.request.duration",
            "http.server.request.body.size",
            "http.server.response.body.size",
            "http.client.request.duration",
            "http.client.request.body.size",
            "http.client.response.body.size",
            "netmon.http.time_to_first_byte",
        ),
        8.0,
        4,
        8,
    ),
    RPC_SERVER: _Chosen(("rpc.server.call.duration",), 6.0, 1, 1),
    RPC_CLIENT: _Chosen(("rpc.client.call.duration",), 6.0, 1, 1),
}
_GROUPS: Mapping[str, _Group] = {
    "interfaces": _Group(
        ("system.network.io", "system.network.packet.count", "system.network.packet.dropped", "system.network.errors"),
        4.0,
    ),
    "states": _Group(("system.network.connection.count",), 2.0),
    "drift": _Group(("netmon.connection.drift",), 1.0),
    "protocols": _Group(("netmon.protocol.io", "netmon.protocol.packets"), 4.0),
    "wire": _Group(("netmon.wire.io", "netmon.wire.packets"), 2.0),
    "xdp": _Group(("netmon.xdp.io", "netmon.xdp.packets"), 2.0),
    "coverage": _Group(("netmon.coverage",), 1.0),
    "unparsed": _Group(("netmon.protocol.unparsed",), 1.0),
    "stack": _Group(("netmon.stack.drops",), 2.0),
    "certificates": _Group(("netmon.tls.certificate.expiry",), 2.0),
}
_OF_A_FAMILY = frozenset(
    name for families in (_CHOSEN, _GROUPS) for family in families.values() for name in family.metrics
)


@dataclass(frozen=True, slots=True)
class Diversity:
    """How many there are of a chosen family.

    Attributes:
        folded: sets of the last cycle that have no series of their own.
        sets: estimated number of distinct sets, lately.
        distinct: estimated number of distinct values by attribute, lately.
    """

    folded: int
    sets: float = 0.0
    distinct: Mapping[str, float] = field(default_factory=dict)


def diversity(family: SeriesFamily) -> Diversity:
    """How many there are of a family, with and without a series."""
    counts = family.distinct()
    return Diversity(family.folded, counts.pop(WHOLE_SET, 0.0), counts)


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
        self._chosen: dict[str, int] = {}
        self._shares: dict[str, int] = {}
        self._active: dict[str, int] = {}

    def places(self, wanted: Mapping[str, int]) -> dict[str, int]:
        """How many sets of each chosen family may have series in the next reading; as many as wanted at most."""
        self._chosen = {name: sets * _CHOSEN[name].cost + _CHOSEN[name].rests for name, sets in wanted.items()}
        self._share({name: _CHOSEN[name].rests for name in wanted})
        return {
            name: max(0, min(sets, (self._shares[name] - _CHOSEN[name].rests) // _CHOSEN[name].cost))
            for name, sets in wanted.items()
        }

    def apply(self, points: Mapping[str, Points], now_ns: int) -> dict[str, Points]:
        """Folds what has no place; every other metric is given back as it is.

        Args:
            now_ns: Unix time of the reading.
        """
        result = dict(points)
        sizes = {metric: len(series) for metric, series in points.items()}
        chosen = {
            name: sum(sizes.get(metric, 0) for metric in family.metrics)
            for name, family in _CHOSEN.items()
            if family.metrics[0] in sizes
        }
        self._agent = sum(size for metric, size in sizes.items() if metric not in _OF_A_FAMILY)
        self._wanted = {
            name: sum(sizes.get(metric, 0) for metric in group.metrics) + len(self._folds[name])
            for name, group in _GROUPS.items()
        }
        self._share(chosen)
        self._active = {**chosen, AGENT: self._agent}
        for name, group in _GROUPS.items():
            own = {metric: cast("Sequence[Point]", points[metric]) for metric in group.metrics if metric in points}
            if not own:
                continue
            folded = self._folds[name].apply(own, self._shares[name] // len(own), now_ns)
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

    def _share(self, minimums: Mapping[str, int]) -> None:
        """Shares the limit by weight; the agent's own series and these of the chosen families come first."""
        families = [
            Family(AGENT, _AGENT_WEIGHT, self._agent, self._agent),
            *(
                Family(name, _CHOSEN[name].weight, least, max(least, self._chosen.get(name, 0)))
                for name, least in minimums.items()
            ),
            *(Family(name, group.weight, 0, self._wanted[name]) for name, group in _GROUPS.items()),
        ]
        self._shares = share(self.limit, families)

    def folded(self, chosen: Mapping[str, Diversity]) -> dict[str, int]:
        """Attribute sets without a series of their own in the last cycle, by family."""
        return {
            **{name: diversity.folded for name, diversity in chosen.items()},
            **{name: fold.folded for name, fold in self._folds.items()},
        }

    def points(self, chosen: Mapping[str, Diversity], start_ns: int) -> dict[str, list[Point]]:
        """Gives netmon.series.*: the last cycle's."""
        folded = self.folded(chosen)
        return {
            "netmon.series.active": [
                Point({"netmon.series.family": name}, count, start_ns) for name, count in self._active.items()
            ],
            "netmon.series.folded": [
                Point({"netmon.series.family": name}, folded[name], start_ns) for name in self._active if name in folded
            ],
            "netmon.series.limit": [Point({}, self.limit, start_ns)],
            "netmon.series.distinct": [
                Point({"netmon.series.family": name, "netmon.series.attribute": key}, round(count), start_ns)
                for name, diversity in chosen.items()
                for key, count in diversity.distinct.items()
            ],
        }

    def status(self, chosen: Mapping[str, Diversity]) -> SeriesStatus:
        """The section of /status."""
        families = [
            SeriesFamilyStatus(
                name=name,
                metrics=list(_CHOSEN[name].metrics),
                active=self._active.get(name, 0),
                limit=self._shares.get(name, 0),
                folded=diversity.folded,
                weight=_CHOSEN[name].weight,
                attributes=[
                    SeriesAttributeStatus(
                        key=key,
                        distinct=round(count),
                        share=round(min(1.0, count / diversity.sets), 4) if diversity.sets else 0.0,
                    )
                    for key, count in diversity.distinct.items()
                ],
            )
            for name, diversity in chosen.items()
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

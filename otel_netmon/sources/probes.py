"""All probes that run, read in the order in which one needs the other."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from otel_netmon.abi.enums import Direction
from otel_netmon.analysis.edges import Edge
from otel_netmon.analysis.protocols import Side
from otel_netmon.analysis.sampling import KeepRule, Reason
from otel_netmon.config.model import Config
from otel_netmon.enrich.cgroups import Cgroups
from otel_netmon.enrich.interfaces import InterfaceNames
from otel_netmon.enrich.processes import Processes
from otel_netmon.handover import DropSetup
from otel_netmon.kernel.cgroup import CgroupMount, find_cgroup2
from otel_netmon.kernel.interfaces import Interface, Key
from otel_netmon.kernel.messages import MESSAGE_IMAGES
from otel_netmon.otel.points import Points
from otel_netmon.otel.series import DOMAINS, FLOWS, Diversity, SeriesBudget
from otel_netmon.otel.spans import Event, SpanBatch
from otel_netmon.readers.netstat import FILES
from otel_netmon.readers.ring import RingAlarm
from otel_netmon.selfmon.status import ProbeStatus, StageStatus
from otel_netmon.sources.attribution import attribution
from otel_netmon.sources.connections import ConnectionSource, ConnectionSpans
from otel_netmon.sources.dns import DnsSource
from otel_netmon.sources.domains import DomainSource
from otel_netmon.sources.drops import DropSource
from otel_netmon.sources.flows import FlowSource
from otel_netmon.sources.http import HttpSource
from otel_netmon.sources.interfaces import InterfaceSource
from otel_netmon.sources.message_probes import MessageProbes
from otel_netmon.sources.messages import MessageSource
from otel_netmon.sources.netstat import NetstatSource
from otel_netmon.sources.plaintext import PlaintextSource
from otel_netmon.sources.streams import StreamSource
from otel_netmon.sources.tls import TlsSource
from otel_netmon.sources.xdp import XdpSource


class NamespaceFiles(NamedTuple):
    """What the supervisor opened in a network namespace.

    Attributes:
        number: by which it is known.
        name: empty for the agent's own.
        fds: by name: ``netdev``, ``sock_diag``, ``rtnetlink`` and those of /proc/net that are read; what the kernel refused is not there.
    """

    number: int
    name: str
    fds: Mapping[str, int]


class Sources:
    """What runs in this configuration.

    Args:
        config: the configuration.
        maps: of each image that is loaded: name to file descriptor and number of entries.
        programs: of each image that is loaded: name to file descriptor.
        namespaces: that are observed.
        start_ns: Unix time at which the programs began to count.
        boot_ns: Unix time at which the machine booted.
        drops: see ``DropSource``; None where no drops are counted.

    Attributes:
        flows, messages, plaintext, connections, xdp: None where the probe is off.
    """

    def __init__(
        self,
        config: Config,
        maps: Mapping[str, Mapping[str, tuple[int, int]]],
        programs: Mapping[str, Mapping[str, int]],
        namespaces: Sequence[NamespaceFiles],
        start_ns: int,
        boot_ns: int,
        *,
        drops: DropSetup | None = None,
    ) -> None:
        self._config = config
        tc = maps.get("tc_monitor")
        self.flows = FlowSource(tc, programs["tc_monitor"], config, start_ns) if tc is not None else None
        spans = config.spans
        self._rule = KeepRule(spans.share, spans.limit_per_second, round(spans.slow_seconds * 1e9) or None)
        seen_by = MESSAGE_IMAGES[config.messages.vantage]
        self.messages = (
            MessageProbes(maps[seen_by], programs[seen_by], config, self._rule, start_ns) if seen_by in maps else None
        )
        self.xdp = XdpSource(maps["xdp_monitor"], start_ns) if "xdp_monitor" in maps else None
        sockets = maps.get("socket_monitor")
        self.connections = (
            ConnectionSource(sockets, config, start_ns, self._rule, Processes(Cgroups(_cgroup(config))))
            if sockets is not None
            else None
        )
        idle_ns = round(config.limits.series_idle_seconds * 1e9)
        dns = self.messages.dns if self.messages is not None else None
        cgroups = self.connections.cgroups_of if self.connections is not None else None
        self._domains = DomainSource(dns.domains, cgroups, dns.folding, start_ns, idle_ns) if dns is not None else None
        self._attribution = attribution(self.connections, self.messages, sees_plaintext="plaintext_monitor" in maps)
        self._waited: list[SpanBatch] = []
        self._young: list[ConnectionSpans] = []
        http = self.messages.http if self.messages is not None else None
        plaintext = maps.get("plaintext_monitor")
        self.plaintext = (
            PlaintextSource(plaintext, programs["plaintext_monitor"], config, http)
            if plaintext is not None and http is not None
            else None
        )
        self._netstat = NetstatSource(boot_ns)
        self._drops = DropSource(maps["drop_monitor"], drops, start_ns) if drops is not None else None
        self.interfaces = InterfaceSource({}, boot_ns, start_ns)
        self.set_namespaces(namespaces)

    def set_namespaces(self, namespaces: Sequence[NamespaceFiles]) -> None:
        """Takes files opened anew, which are taken over, for exactly the namespaces that are observed now."""
        self.interfaces.set_namespaces({each.number: each.fds["netdev"] for each in namespaces})
        self._netstat.set_namespaces(
            {
                each.number: (each.name, {name: each.fds[name] for name in FILES if name in each.fds})
                for each in namespaces
            }
        )
        if self.connections is not None:
            self.connections.sockets.set_namespaces(
                {each.number: (each.name, each.fds.get("sock_diag")) for each in namespaces}
            )
            self.connections.failures.set_namespaces(
                {each.number: each.fds["rtnetlink"] for each in namespaces if "rtnetlink" in each.fds}
            )

    def set_interfaces(self, edges: Mapping[Key, Edge], physical: Collection[Key]) -> None:
        """Takes the edge rule and which interfaces are physical."""
        if self.flows is not None:
            self.flows.set_interfaces(edges, physical)
        if self.messages is not None:
            self.messages.set_edges(edges)

    def read(self, known: Collection[Interface], budget: SeriesBudget, now_ns: int) -> None:
        """Reads everything once."""
        places = budget.places(self._wanted())
        if self.flows is not None:
            self.flows.read(known, places[FLOWS], now_ns)
        answers_ns = time.monotonic_ns()
        if self.messages is not None:
            self.messages.read(places, now_ns)  # after flows: the answer that a flow follows from is in the ring
        if self.plaintext is not None:
            self.plaintext.drain(counting=True)
        if self._config.probes.interfaces.enabled:
            self.interfaces.read(known, lambda: self._hook_totals(known))
        if self.xdp is not None:
            self.xdp.read(now_ns)
        if self.connections is not None:
            self.connections.read(places, now_ns)
            if self.messages is not None:
                self._waited += self._attribution.told(self.messages.take_spans())
        self._read_domains(places, answers_ns, now_ns)
        self._netstat.read(now_ns)
        if self._drops is not None:
            self._drops.read()

    def _read_domains(self, places: Mapping[str, int], answers_ns: int, now_ns: int) -> None:
        """Names flows and connections, when connections were read: whose a lookup was is known by then.

        Connections that are younger than the answers that were read wait once more.
        """
        if self._domains is None:
            return
        if self.flows is not None:
            self._domains.read(self.flows.traffic.gained, self.flows.monotonic_ns, places[DOMAINS], now_ns)
        if self.connections is not None:
            spans = self._young + self.connections.take_spans()
            self._young = [each for each in spans if each.rows["begin_ns"].max() > answers_ns]
            old = [each for each in spans if each.rows["begin_ns"].max() <= answers_ns]
            self._waited += self._domains.named(old, time.monotonic_ns())
        self._domains.end_reading(time.monotonic_ns())

    def points(self, names: InterfaceNames) -> dict[str, Points]:
        """The points of the last reading, or of the state that was restored."""
        points: dict[str, Points] = {}
        if self.messages is not None:
            points |= self.messages.points()
        if self.flows is not None:
            points |= self.flows.points(names)
        if self._domains is not None:
            points |= self._domains.points()
        if self._config.probes.interfaces.enabled:
            points |= self.interfaces.points(names)
        if self.xdp is not None:
            points |= self.xdp.points(names)
        if self.connections is not None:
            points |= self.connections.points()
        if self._drops is not None:
            points |= self._drops.points()
        return points | self._netstat.points()

    @property
    def alarms(self) -> list[RingAlarm]:
        """Each tells that a ring is filling up."""
        alarms = [source.alarm for source in (self.messages, self.plaintext) if source is not None]
        return alarms + (self.connections.alarms if self.connections is not None else [])

    def drain(self) -> None:
        """Empties the rings between two readings."""
        for source in (self.messages, self.plaintext, self.connections):
            if source is not None:
                source.drain()

    def settle(self) -> None:
        """Ends a reading whose state is saved."""
        if self.flows is not None:
            self.flows.settle()

    def forget(self, gone: Collection[Key]) -> None:
        """Drops interfaces that are gone, once their last packets are told."""
        for source in (self.flows, self.xdp):
            if source is not None:
                source.forget(gone)

    def take_spans(self) -> list[SpanBatch]:
        """The spans that were kept since the last call.

        Where connections are followed, those of messages wait for a reading, which tells whose they are; and where lookups are,
        too, those of connections wait as well, for the name behind the address.
        """
        if self.connections is None:
            return self._attribution.told(self.messages.take_spans()) if self.messages is not None else []
        spans, self._waited = self._waited, []
        return spans if self._domains is not None else spans + [each.batch for each in self.connections.take_spans()]

    def take_last_spans(self) -> list[SpanBatch]:
        """Those that wait for another reading, which there will not be."""
        if self.connections is None or self._domains is None:
            return []
        young, self._young = self._young + self.connections.take_spans(), []
        return self._domains.named(young, time.monotonic_ns())

    def take_events(self, now_ns: int) -> list[Event]:
        """The events since the last call."""
        sources = [source for source in (self.messages, self.connections) if source is not None]
        return self._netstat.take_events(now_ns) + [event for source in sources for event in source.take_events()]

    def probes(self, told: Iterable[ProbeStatus]) -> list[ProbeStatus]:
        """States of the probes: what the supervisor told, and what is known here besides."""
        trouble = self.connections.trouble if self.connections is not None else ("", "")
        return [
            ProbeStatus(name=each["name"], state="degraded", reason=trouble[0], detail=trouble[1])
            if each["name"] == "connections" and each["state"] == "ok" and trouble[0]
            else each
            for each in told
        ]

    def stages(self) -> dict[tuple[str, str], StageStatus]:
        """What became of items before they are exported, by stage and signal."""
        stages: dict[tuple[str, str], StageStatus] = {}
        if self.flows is not None:
            stages["kernel", "packets"] = self.flows.stage()
        for source in (self.messages, self.plaintext, self.connections, self._domains):
            if source is not None:
                stages |= source.stages()
        if self.messages is not None or self.connections is not None:
            kept = self._rule.counts
            shed = {reason.name.lower(): int(kept[reason]) for reason in (Reason.SAMPLED_OUT, Reason.RATE_LIMITED)}
            stages["sampling", "spans"] = StageStatus(delivered=int(kept.sum()) - sum(shed.values()), dropped=shed)
        return stages

    def diversity(self) -> dict[str, Diversity]:
        """How many there are of each chosen family, with and without a series."""
        chosen: dict[str, Diversity] = {}
        if self.flows is not None:
            chosen[FLOWS] = self.flows.diversity()
        if self.messages is not None:
            chosen |= self.messages.diversity()
        if self._domains is not None:
            chosen[DOMAINS] = self._domains.diversity()
        if self.connections is not None:
            chosen |= self.connections.diversity()
        return chosen

    def map_sizes(self) -> dict[str, tuple[int, int]]:
        """Entries in use and capacity by name of the map."""
        sizes = self.flows.map_sizes() if self.flows is not None else {}
        for source in (self.messages, self.plaintext, self.connections):
            if source is not None:
                sizes |= source.map_sizes()
        return sizes

    def by_side(self) -> dict[Side, list[int]]:
        """Packets and bytes by side as the interface counts them."""
        return self.flows.by_side() if self.flows is not None else {}

    def state(self) -> dict[str, dict[str, Any]]:
        """What another process needs to go on."""
        sections: dict[str, dict[str, Any]] = {}
        for source in self._lasting():
            sections |= source.state()
        return sections

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> set[Key]:
        """Goes on where another process was, before the first reading; gives the interfaces of which something is kept."""
        for source in self._lasting():
            source.restore(state)
        return self.flows.traffic.interfaces() if self.flows is not None else set()

    def _lasting(
        self,
    ) -> Iterator[
        FlowSource
        | MessageSource
        | StreamSource
        | DnsSource
        | TlsSource
        | HttpSource
        | PlaintextSource
        | DomainSource
        | XdpSource
        | ConnectionSource
    ]:
        if self.messages is not None:
            yield from self.messages.lasting()
        for source in (self.plaintext, self.flows, self._domains, self.xdp, self.connections):
            if source is not None:
                yield source

    def _wanted(self) -> dict[str, int]:
        wanted: dict[str, int] = {}
        if self.flows is not None:
            wanted[FLOWS] = self._config.flows.top_k
        if self.messages is not None:
            wanted |= self.messages.wanted()
        if self._domains is not None:
            wanted[DOMAINS] = self._domains.wanted
        if self.connections is not None:
            wanted |= self.connections.wanted()
        return wanted

    def _hook_totals(self, known: Iterable[Interface]) -> Mapping[int, Any]:
        if self.flows is None:
            return {}
        return self.flows.totals([(i.index, i.namespace, d) for i in known for d in Direction])


def _cgroup(config: Config) -> CgroupMount | None:
    """Where the paths of cgroups are read."""
    chosen = config.probes.connections.cgroup
    return find_cgroup2() if chosen is None else CgroupMount(chosen, "/")

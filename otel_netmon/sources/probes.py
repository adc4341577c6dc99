"""All probes that run, read in the order in which one needs the other."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from otel_netmon.abi.enums import Direction
from otel_netmon.analysis.edges import Edge
from otel_netmon.analysis.protocols import Side
from otel_netmon.analysis.sampling import KeepRule, Reason
from otel_netmon.analysis.tcp_preambles import preamble_recognisers
from otel_netmon.config.model import Config
from otel_netmon.enrich.interfaces import InterfaceNames
from otel_netmon.kernel.interfaces import Interface, Key
from otel_netmon.otel.points import Points
from otel_netmon.otel.series import (
    DNS,
    DOMAINS,
    FLOWS,
    HELLOS,
    HTTP,
    RPC_CLIENT,
    RPC_SERVER,
    TLS,
    Diversity,
    SeriesBudget,
)
from otel_netmon.otel.spans import Event, SpanBatch
from otel_netmon.readers.http import HttpQuiet
from otel_netmon.readers.ring import RingAlarm
from otel_netmon.selfmon.status import StageStatus
from otel_netmon.sources import messages as ring
from otel_netmon.sources.dns import DnsSource
from otel_netmon.sources.domains import DomainSource
from otel_netmon.sources.flows import FlowSource
from otel_netmon.sources.http import HttpSource
from otel_netmon.sources.interfaces import InterfaceSource
from otel_netmon.sources.messages import MessageSource
from otel_netmon.sources.streams import StreamSource
from otel_netmon.sources.tls import TlsSource
from otel_netmon.sources.xdp import XdpSource


class Sources:
    """What runs in this configuration.

    Args:
        config: the configuration.
        maps: of each image that is loaded: name to file descriptor and number of entries.
        programs: of each image that is loaded: name to file descriptor.
        netdev: see ``InterfaceSource``.
        start_ns: Unix time at which the programs began to count.
        boot_ns: Unix time at which the machine booted.

    Attributes:
        flows, dns, tls, http, xdp: None where the probe is off.
    """

    def __init__(
        self,
        config: Config,
        maps: Mapping[str, Mapping[str, tuple[int, int]]],
        programs: Mapping[str, Mapping[str, int]],
        netdev: Mapping[int, int],
        start_ns: int,
        boot_ns: int,
    ) -> None:
        self._config = config
        self._now_ns = start_ns
        tc = maps.get("tc_monitor")
        self.flows = FlowSource(tc, programs["tc_monitor"], config, start_ns) if tc is not None else None
        running = programs.get("tc_monitor", {})
        runs_dns = config.probes.dns.enabled and _runs("netmon_dns", running)
        runs_tls = config.probes.tls.enabled and _runs("netmon_stream", running)
        runs_http = config.probes.http.enabled and _runs("netmon_http", running)
        spans = config.spans
        self._rule = KeepRule(spans.share, spans.limit_per_second, round(spans.slow_seconds * 1e9) or None)
        self._messages = MessageSource(tc) if tc is not None and (runs_dns or runs_tls or runs_http) else None
        self.dns = self.tls = self.http = self._streams = None
        if tc is not None and self._messages is not None:
            if runs_dns:
                self.dns = DnsSource(tc, self._messages, config, self._rule, start_ns)
            if runs_tls:
                self.tls = TlsSource(self._messages, config, self._rule, start_ns)
            if runs_http:
                quiet = HttpQuiet(*tc["http_connections"], running["netmon_quiet"], config.probes.http.timeout_seconds)
                self.http = HttpSource(self._messages, quiet, config, self._rule, start_ns)
            recognisers = [self.tls.recogniser()] if self.tls is not None else []
            if self.http is not None:
                recognisers += self.http.recognisers()
            if recognisers:
                self._streams = StreamSource([*preamble_recognisers(), *recognisers])
        idle_ns = round(config.limits.series_idle_seconds * 1e9)
        self._domains = (
            DomainSource(self.dns.domains, self.dns.folding, start_ns, idle_ns) if self.dns is not None else None
        )
        self.xdp = XdpSource(maps["xdp_monitor"], start_ns) if "xdp_monitor" in maps else None
        self.interfaces = InterfaceSource(netdev, boot_ns, start_ns)

    def set_interfaces(self, edges: Mapping[Key, Edge], physical: Collection[Key]) -> None:
        """Takes the edge rule and which interfaces are physical."""
        if self.flows is not None:
            self.flows.set_interfaces(edges, physical)
        for source in (self.dns, self.tls, self.http):
            if source is not None:
                source.set_edges(edges)

    def read(self, known: Collection[Interface], budget: SeriesBudget, now_ns: int) -> None:
        """Reads everything once."""
        self._now_ns = now_ns
        places = budget.places(self._wanted())
        if self.dns is not None:
            self.dns.begin_cycle(places[DNS])
        if self.tls is not None:
            self.tls.begin_cycle(places[TLS], places[HELLOS])
        if self.http is not None:
            self.http.begin_cycle(places[HTTP], places[RPC_SERVER], places[RPC_CLIENT])
        self.drain(counting=True)
        if self.flows is not None:
            self.flows.read(known, places[FLOWS], now_ns)
            if self._domains is not None:
                gained = self.flows.traffic.gained
                self._domains.read(gained, self.flows.monotonic_ns, places[DOMAINS], now_ns)
        if self._config.probes.interfaces.enabled:
            self.interfaces.read(known, lambda: self._hook_totals(known))
        if self.xdp is not None:
            self.xdp.read(now_ns)

    def points(self, names: InterfaceNames) -> dict[str, Points]:
        """The points of the last reading, or of the state that was restored."""
        points: dict[str, Points] = {}
        if self.dns is not None:
            points |= self.dns.points()
        if self.tls is not None:
            points |= self.tls.points(self._now_ns)
        if self.http is not None:
            points |= self.http.points()
        if self.flows is not None:
            points |= self.flows.points(names)
        if self._domains is not None:
            points |= self._domains.points()
        if self._config.probes.interfaces.enabled:
            points |= self.interfaces.points(names)
        if self.xdp is not None:
            points |= self.xdp.points(names)
        return points

    @property
    def alarm(self) -> RingAlarm | None:
        """Tells that a ring is filling up; None where there is none."""
        return self._messages.alarm if self._messages is not None else None

    def drain(self, *, counting: bool = False) -> None:
        """Empties the ring.

        Args:
            counting: for a cycle, see ``MessageSource.drain``.
        """
        if self._messages is None:
            return
        if self.dns is not None:
            self.dns.prepare()
        if self.http is not None:
            self.http.prepare()
        drained = self._messages.drain(counting=counting)
        if self.dns is not None:
            self.dns.take(drained.dns)
        if self._streams is None:
            return
        now_ns = time.monotonic_ns()
        begun = self.http.begun(drained.http) if self.http is not None else []
        records = self._streams.take(drained.streams, now_ns, begun)
        if self.tls is not None:
            self.tls.take(drained.streams, drained.http, records, now_ns)
        if self.http is not None:
            self.http.take(drained.http, records, now_ns)

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
        """The spans that were kept since the last call."""
        return [
            batch for source in (self.dns, self.tls, self.http) if source is not None for batch in source.take_spans()
        ]

    def take_events(self) -> list[Event]:
        """The events of probes since the last call."""
        return self.tls.take_events() if self.tls is not None else []

    def stages(self) -> dict[tuple[str, str], StageStatus]:
        """What became of items before they are exported, by stage and signal."""
        stages: dict[tuple[str, str], StageStatus] = {}
        if self.flows is not None:
            stages["kernel", "packets"] = self.flows.stage()
        if self.dns is not None:
            stages |= self.dns.stages()
        if self.tls is not None:
            stages |= self.tls.stages()
        if self.http is not None:
            stages |= self.http.stages()
        if self._messages is not None:
            for signal, source in ((ring.DNS, self.dns), (ring.STREAMS, self._streams), (ring.HTTP, self.http)):
                if source is not None:
                    stages["ring", signal.name] = self._messages.stage(signal)
            kept = self._rule.counts
            shed = {reason.name.lower(): int(kept[reason]) for reason in (Reason.SAMPLED_OUT, Reason.RATE_LIMITED)}
            stages["sampling", "spans"] = StageStatus(delivered=int(kept.sum()) - sum(shed.values()), dropped=shed)
        return stages

    def diversity(self) -> dict[str, Diversity]:
        """How many there are of each chosen family, with and without a series."""
        chosen: dict[str, Diversity] = {}
        if self.flows is not None:
            chosen[FLOWS] = self.flows.diversity()
        if self.dns is not None:
            chosen[DNS] = self.dns.diversity()
        if self.tls is not None:
            chosen[TLS], chosen[HELLOS] = self.tls.diversity()
        if self.http is not None:
            chosen[HTTP], chosen[RPC_SERVER], chosen[RPC_CLIENT] = self.http.diversity()
        if self._domains is not None:
            chosen[DOMAINS] = self._domains.diversity()
        return chosen

    def map_sizes(self) -> dict[str, tuple[int, int]]:
        """Entries in use and capacity by name of the map."""
        sizes = self.flows.map_sizes() if self.flows is not None else {}
        for source in (self.dns, self.http):
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
    ) -> Iterator[FlowSource | MessageSource | DnsSource | TlsSource | HttpSource | DomainSource | XdpSource]:
        for source in (self.flows, self._messages, self.dns, self.tls, self.http, self._domains, self.xdp):
            if source is not None:
                yield source

    def _wanted(self) -> dict[str, int]:
        wanted: dict[str, int] = {}
        if self.flows is not None:
            wanted[FLOWS] = self._config.flows.top_k
        if self.dns is not None:
            wanted[DNS] = self.dns.wanted
        if self.tls is not None:
            wanted[TLS], wanted[HELLOS] = self.tls.wanted
        if self.http is not None:
            wanted[HTTP], wanted[RPC_SERVER], wanted[RPC_CLIENT] = self.http.wanted
        if self._domains is not None:
            wanted[DOMAINS] = self._domains.wanted
        return wanted

    def _hook_totals(self, known: Iterable[Interface]) -> Mapping[int, Any]:
        if self.flows is None:
            return {}
        return self.flows.totals([(i.index, i.namespace, d) for i in known for d in Direction])


def _runs(program: str, running: Mapping[str, int]) -> bool:
    """Whether a program is among those loaded; its variants have names that begin with its own."""
    return any(name.startswith(program) for name in running)

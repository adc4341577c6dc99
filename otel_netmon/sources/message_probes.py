"""The probes that live on the heads of messages: DNS, TLS, HTTP and gRPC, fed from one ring."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from otel_netmon.analysis.edges import Edge
from otel_netmon.analysis.sampling import KeepRule
from otel_netmon.analysis.tcp_preambles import preamble_recognisers
from otel_netmon.config.model import Config
from otel_netmon.kernel.interfaces import Key
from otel_netmon.otel.points import Points
from otel_netmon.otel.series import DNS, HELLOS, HTTP, RPC_CLIENT, RPC_SERVER, TLS, Diversity
from otel_netmon.otel.spans import Event, Sought
from otel_netmon.readers.http import HttpQuiet
from otel_netmon.readers.ring import RingAlarm
from otel_netmon.selfmon.status import StageStatus
from otel_netmon.sources import messages as ring
from otel_netmon.sources.dns import DnsSource
from otel_netmon.sources.http import HttpSource
from otel_netmon.sources.messages import MessageSource
from otel_netmon.sources.streams import StreamSource, segment_stages
from otel_netmon.sources.tls import TlsSource


class MessageProbes:
    """What reads the ring ``messages``, each probe where its program is loaded.

    Args:
        maps: of tc_monitor: name to file descriptor and number of entries.
        programs: that are loaded of it, by name.
        config: the configuration.
        rule: which spans are kept.
        start_ns: Unix time at which the programs began to count.

    Attributes:
        dns, tls, http: None where the probe is off.
    """

    def __init__(
        self,
        maps: Mapping[str, tuple[int, int]],
        programs: Mapping[str, int],
        config: Config,
        rule: KeepRule,
        start_ns: int,
    ) -> None:
        probes = config.probes
        self._ring = MessageSource(maps)
        self.dns = (
            DnsSource(maps, self._ring, config, rule, start_ns)
            if probes.dns.enabled and _runs("netmon_dns", programs)
            else None
        )
        self.tls = (
            TlsSource(self._ring, config, rule, start_ns)
            if probes.tls.enabled and _runs("netmon_stream", programs)
            else None
        )
        self.http = None
        if probes.http.enabled and _runs("netmon_http", programs):
            quiet = HttpQuiet(*maps["http_connections"], programs["netmon_quiet"], probes.http.timeout_seconds)
            self.http = HttpSource(self._ring, quiet, config, rule, start_ns)
        recognisers = [self.tls.recogniser()] if self.tls is not None else []
        if self.http is not None:
            recognisers += self.http.recognisers()
        batches = self.tls.batches if self.tls is not None else None
        self._streams = StreamSource([*preamble_recognisers(), *recognisers], batches) if recognisers else None
        self._now_ns = start_ns

    @property
    def alarm(self) -> RingAlarm:
        """Tells that the ring is filling up."""
        return self._ring.alarm

    def set_edges(self, edges: Mapping[Key, Edge]) -> None:
        """Takes the edge rule: which interface tells a message that crosses several."""
        for source in self._sources():
            source.set_edges(edges)

    def read(self, places: Mapping[str, int], now_ns: int) -> None:
        """Empties the ring for what is told next, of so many series of each family at most."""
        self._now_ns = now_ns
        if self.dns is not None:
            self.dns.begin_cycle(places[DNS])
        if self.tls is not None:
            self.tls.begin_cycle(places[TLS], places[HELLOS])
        if self.http is not None:
            self.http.begin_cycle(places[HTTP], places[RPC_SERVER], places[RPC_CLIENT])
        self.drain(counting=True)

    def drain(self, *, counting: bool = False) -> None:
        """Empties the ring.

        Args:
            counting: for a cycle, see ``MessageSource.drain``.
        """
        for source in (self.dns, self.http):
            if source is not None:
                source.prepare()
        drained = self._ring.drain(counting=counting)
        if self.dns is not None:
            self.dns.take(drained.dns, at_once=counting)
        if self._streams is None:
            return
        now_ns = time.monotonic_ns()
        begun = self.http.begun(drained.http) if self.http is not None else []
        records = self._streams.take(drained.streams, now_ns, begun)
        if self.tls is not None:
            self.tls.take(drained.streams, drained.http, records, now_ns)
        if self.http is not None:
            self.http.take(drained.http, records, now_ns)

    def points(self) -> dict[str, Points]:
        """The points of the last reading, or of the state that was restored."""
        points: dict[str, Points] = {}
        if self.dns is not None:
            points |= self.dns.points()
        if self.tls is not None:
            points |= self.tls.points(self._now_ns)
        if self.http is not None:
            points |= self.http.points()
        return points

    def take_spans(self) -> list[Sought]:
        """The spans that were kept since the last call."""
        return [spans for source in self._sources() for spans in source.take_spans()]

    def take_events(self) -> list[Event]:
        """The events since the last call."""
        return self.tls.take_events() if self.tls is not None else []

    def stages(self) -> dict[tuple[str, str], StageStatus]:
        """What became of messages before they are exported, by stage and signal."""
        stages: dict[tuple[str, str], StageStatus] = {}
        if self._streams is not None:
            stages |= segment_stages(self._ring) | self._streams.stages()
        for source in self._sources():
            stages |= source.stages()
        for signal, taker in ((ring.DNS, self.dns), (ring.STREAMS, self._streams), (ring.HTTP, self.http)):
            if taker is not None:
                stages["ring", signal.name] = self._ring.stage(signal)
        return stages

    def diversity(self) -> dict[str, Diversity]:
        """How many there are of each family, with and without a series."""
        chosen: dict[str, Diversity] = {}
        if self.dns is not None:
            chosen[DNS] = self.dns.diversity()
        if self.tls is not None:
            chosen[TLS], chosen[HELLOS] = self.tls.diversity()
        if self.http is not None:
            chosen[HTTP], chosen[RPC_SERVER], chosen[RPC_CLIENT] = self.http.diversity()
        return chosen

    def wanted(self) -> dict[str, int]:
        """How many series of each family there is use for."""
        wanted: dict[str, int] = {}
        if self.dns is not None:
            wanted[DNS] = self.dns.wanted
        if self.tls is not None:
            wanted[TLS], wanted[HELLOS] = self.tls.wanted
        if self.http is not None:
            wanted[HTTP], wanted[RPC_SERVER], wanted[RPC_CLIENT] = self.http.wanted
        return wanted

    def map_sizes(self) -> dict[str, tuple[int, int]]:
        """Entries in use and capacity by name of the map."""
        sizes: dict[str, tuple[int, int]] = {}
        for source in (self.dns, self.http):
            if source is not None:
                sizes |= source.map_sizes()
        return sizes

    def lasting(self) -> Iterator[MessageSource | DnsSource | TlsSource | HttpSource | StreamSource]:
        """Those that keep something over the life of the process."""
        yield self._ring
        if self._streams is not None:
            yield self._streams
        yield from self._sources()

    def _sources(self) -> Iterator[DnsSource | TlsSource | HttpSource]:
        for source in (self.dns, self.tls, self.http):
            if source is not None:
                yield source


def _runs(program: str, running: Mapping[str, int]) -> bool:
    """Whether a program is among those loaded; its variants have names that begin with its own."""
    return any(name.startswith(program) for name in running)

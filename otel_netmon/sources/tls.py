"""The TLS probe: handshakes of TCP connections, hellos of QUIC and DTLS -> netmon.tls.*, spans, events."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from otel_netmon.analysis.edges import Edge
from otel_netmon.analysis.http_records import HttpRequest
from otel_netmon.analysis.lasting import LastingSeries
from otel_netmon.analysis.recent_handshakes import RecentHandshakes
from otel_netmon.analysis.sampling import KeepRule
from otel_netmon.analysis.tcp_followers import Recogniser
from otel_netmon.analysis.tls_batches import TlsBatches
from otel_netmon.analysis.tls_datagrams import DatagramHello, DatagramHellos, datagrams
from otel_netmon.analysis.tls_handshakes import TlsHandshake
from otel_netmon.analysis.tls_series import TlsSeries
from otel_netmon.analysis.tls_servers import TlsEnds
from otel_netmon.analysis.tls_tracker import TlsTracker
from otel_netmon.config.model import Config
from otel_netmon.kernel.interfaces import Key
from otel_netmon.otel import tls as told
from otel_netmon.otel.catalogue import CATALOGUE
from otel_netmon.otel.points import Points
from otel_netmon.otel.series import Diversity, diversity
from otel_netmon.otel.spans import Event, Sought
from otel_netmon.readers.messages import Messages
from otel_netmon.selfmon.status import StageStatus
from otel_netmon.sources import messages as ring
from otel_netmon.sources.dns_encrypted import EncryptedLookups
from otel_netmon.sources.message_edges import MessageEdges
from otel_netmon.sources.messages import MessageSource
from otel_netmon.sources.tls_servers import TlsServers

_UNTOLD_MAX = 1024
_TOLD_NS = 900_000_000
_HELLO = np.dtype([("server", "<u8"), ("carrier", "u1"), ("reserved", "u1", 3)])


class TlsSource:
    """Counts handshakes and keeps what must be known from cycle to cycle.

    Args:
        messages: who drains the ring.
        config: the configuration.
        rule: which spans are kept.
        start_ns: Unix time at which the programs began to count.

    Attributes:
        servers: what servers show of themselves.
    """

    def __init__(self, messages: MessageSource, config: Config, rule: KeepRule, start_ns: int) -> None:
        probe = config.probes.tls
        self._messages = messages
        self._edges = MessageEdges()
        self._tracker = TlsTracker(round(probe.timeout_seconds * 1e9), probe.handshake_bytes)
        self._datagrams = DatagramHellos()
        idle_ns = round(config.limits.series_idle_seconds * 1e9)
        self._series = TlsSeries(CATALOGUE[told.DURATION].bounds, probe.server_names, start_ns, idle_ns)
        self._hellos = LastingSeries(_HELLO, 1, len(told.CARRIERS), 0, start_ns, idle_ns)
        self.servers = TlsServers(probe, self._tracker.certificates, start_ns)
        self._ends = TlsEnds()
        self._handshakes: Counter[str] = Counter()
        dns = config.probes.dns
        self._lookups = EncryptedLookups(dns.resolver_names, start_ns) if dns.enabled else None
        self._recent: RecentHandshakes | None = None
        self._rule = rule
        self._points = told.TlsPoints()
        self._spans: list[Sought] = []
        self._untold: list[TlsHandshake] = []
        self._clocks = (0, 0)
        self._told_ns = 0

    def recogniser(self) -> Recogniser:
        """How TLS is recognised."""
        return self._tracker.recogniser()

    @property
    def batches(self) -> TlsBatches:
        """What tells the handshakes that need no follower."""
        return self._tracker.batches

    def set_edges(self, edges: Mapping[Key, Edge]) -> None:
        """Takes the edge rule: which interface tells a handshake that crosses several."""
        self._edges.update(edges)

    def remember(self) -> RecentHandshakes:
        """Remembers handshakes from now on, for those who ask which requests waited for them."""
        self._recent = RecentHandshakes()
        return self._recent

    def begin_cycle(self, handshakes: int, hellos: int) -> None:
        """Begins to read what is told, of so many series at most."""
        self._series.set_limit(handshakes)
        self._hellos.limit = hellos
        self._told_ns = 0  # what is taken for a cycle is told in it, with its spans

    def take(self, messages: Messages, http: Messages, records: Sequence[object], now_ns: int) -> None:
        """Takes the datagrams of a drain, and the handshakes and what is in the clear among what connections told.

        Args:
            messages: of the kinds of streams; http: of requests of HTTP.
            now_ns: CLOCK_MONOTONIC.
        """
        offset_ns = time.time_ns() - time.monotonic_ns()  # now_ns is older: connections were followed since
        handshakes = [each for each in records if isinstance(each, TlsHandshake)]
        handshakes += self._tracker.advance(now_ns)
        counted = [each for each in handshakes if self._is_counted(each)]
        for handshake in counted:
            if handshake.answer is not None and not handshake.connection.inside:
                self._ends.see(handshake.connection.server, (now_ns + offset_ns) / 1e9)
        self._untold += counted
        self._clocks = offset_ns, now_ns
        if len(self._untold) >= _UNTOLD_MAX or now_ns - self._told_ns >= _TOLD_NS:
            self._tell()
        hellos = [
            hello
            for seen, time_ns, data in datagrams(messages)
            if (hello := self._datagrams.feed(seen, data, time_ns)) is not None and self._edges.counts_at(seen)
        ]
        if hellos:
            self._count_hellos(hellos, now_ns + offset_ns)
        plain = [end for place, end in self._ends.among(http.heads) if self._edges.counts(*_where(http.heads[place]))]
        for each in records:
            if isinstance(each, HttpRequest) and self._ends.knows(each.server) and each.connection is not None:
                seen = each.connection
                if self._edges.counts_at(seen):
                    plain.append(each.server)
        self.servers.plain(plain, now_ns + offset_ns)
        self.servers.ask(now_ns, now_ns + offset_ns)

    def _is_counted(self, handshake: TlsHandshake) -> bool:
        seen = handshake.connection
        if handshake.outcome == "incomplete":
            self._handshakes["incomplete"] += 1
        elif self.servers.active is not None and self.servers.active.is_own(handshake):
            self._handshakes["own"] += 1
        elif not self._edges.counts_at(seen):
            self._handshakes["not_counted"] += 1
        else:
            self._handshakes["told"] += 1
            return True
        return False

    def _tell(self) -> None:
        """Tells the handshakes that were not told yet: many at once cost less than a few each time that the ring fills up."""
        handshakes, self._untold = self._untold, []
        offset_ns, now_ns = self._clocks
        unix_ns = now_ns + offset_ns
        self._told_ns = now_ns
        if not handshakes:
            return
        if self._lookups is not None:
            self._lookups.take_handshakes(handshakes)
        if self._recent is not None:
            self._recent.take(handshakes)
        servers = [told.server_of(each) for each in handshakes]
        weak = self.servers.look_at(handshakes, servers, unix_ns)
        rows = self._series.add(handshakes, [server.name for server in servers], unix_ns)
        spans = told.tls_spans(handshakes, servers, weak, self._rule, offset_ns, now_ns)
        if not len(spans.kept):
            return
        self._spans.append(spans.spans)
        self._series.offer_exemplars(rows[spans.kept], *spans.exemplars())

    def _count_hellos(self, hellos: list[DatagramHello], unix_ns: int) -> None:
        if self._lookups is not None:
            self._lookups.take_hellos(hellos)
        names = self._series.servers
        carriers = [told.CARRIERS.index(hello.carrier) for hello in hellos]
        many: Counter[tuple[int, int]] = Counter()
        for hello, carrier in zip(hellos, carriers, strict=True):
            many[names.number(told.hello_server(hello), unix_ns), carrier] += 1
        keys = np.zeros(len(many), _HELLO)
        keys["server"], keys["carrier"] = zip(*many, strict=True)
        gains = np.array([list(many.values())], np.uint64)
        self._hellos.update(keys, gains, 0, keys["carrier"].astype(np.intp), unix_ns)

    @property
    def wanted(self) -> tuple[int, int]:
        """How many series there is use for: of handshakes, and of hellos."""
        return self._series.wanted, 16 + 2 * (len(self._hellos) + self._hellos.folded)

    def diversity(self) -> tuple[Diversity, Diversity]:
        """How many different handshakes and hellos there are, with and without a series."""
        return diversity(self._series), Diversity(self._hellos.folded)

    def take_spans(self) -> list[Sought]:
        """The spans that were kept since the last call."""
        spans, self._spans = self._spans, []
        return spans

    def take_events(self) -> list[Event]:
        """The events since the last call."""
        return self.servers.take_events()

    def points(self, now_ns: int) -> dict[str, Points]:
        """The points of this cycle.

        Args:
            now_ns: Unix time.
        """
        self._tell()
        points: dict[str, Points] = {
            **self._points.durations(self._series.reading()),
            **told.hello_points(self._hellos.reading(), self._series.servers.texts),
            **self.servers.points(now_ns),
        }
        if self._lookups is not None:
            points |= self._lookups.points()
        self._hellos.end_cycle()
        self._series.end_cycle({"server": self._hellos.reading().keys["server"].tolist()})
        return points

    def stages(self) -> dict[tuple[str, str], StageStatus]:
        """What became of messages and handshakes, by stage and signal."""
        consumed = self._messages.consumed(ring.STREAMS)
        unread = {reason: self._datagrams.counts[reason] for reason in ("sealed", "unreadable")}
        active = self.servers.active
        reasons = ("incomplete", "not_counted") if active is None else ("incomplete", "not_counted", "own")
        lost = {reason: self._handshakes[reason] for reason in reasons}
        return {
            **({} if active is None else {("active", "tls_certificates"): active.stage()}),
            ("decode", "stream_messages"): StageStatus(delivered=consumed - sum(unread.values()), dropped=unread),
            ("decode", "tls_handshakes"): StageStatus(delivered=self._handshakes["told"], dropped=lost),
            ("decode", "tls_hellos"): StageStatus(
                delivered=self._datagrams.counts["hello"], dropped={"evicted": self._datagrams.counts["evicted"]}
            ),
        }

    def state(self) -> dict[str, dict[str, Any]]:
        """What another process needs to go on."""
        self._tell()
        counts = {
            **{f"handshakes.{what}": count for what, count in self._handshakes.items()},
            **{f"datagrams.{what}": count for what, count in self._datagrams.counts.items()},
        }
        sealed = self._lookups.state() if self._lookups is not None else {}
        return {
            **self._series.state(),
            **sealed,
            **self.servers.state(),
            "tls.hellos": self._hellos.state(),
            "tls.counts": counts,
        }

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Goes on where another process was, before the first drain."""
        self._series.restore(state)
        if self._lookups is not None:
            self._lookups.restore(state)
        self.servers.restore(state)
        self._hellos.limit = len(state["tls.hellos"]["keys"])
        self._hellos.restore(state["tls.hellos"])
        for name, count in state["tls.counts"].items():
            table, _, what = name.partition(".")
            if table == "handshakes":
                self._handshakes[what] = count
            else:
                self._datagrams.counts[what] = count


def _where(head: Any) -> tuple[int, int, int, int]:
    """What the edge rule asks of a record."""
    return int(head["namespace"]), int(head["ifindex"]), int(head["direction"]), int(head["ingress_ifindex"])

"""The DNS probe: records of tc_monitor's ring and open queries -> lookups -> dns.lookup.duration, netmon.dns.*, netmon.domain.*, spans."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from otel_netmon.abi.enums import MessageCount
from otel_netmon.analysis.dns import DnsAnalysis
from otel_netmon.analysis.dns_answers import AnsweredLookups
from otel_netmon.analysis.dns_lookups import Lookup
from otel_netmon.analysis.dns_names import NameFolding
from otel_netmon.analysis.dns_series import DnsSeries
from otel_netmon.analysis.domains import DomainCache
from otel_netmon.analysis.edges import Edge
from otel_netmon.analysis.recent_lookups import RecentLookups
from otel_netmon.analysis.sampling import KeepRule
from otel_netmon.config.model import Config
from otel_netmon.kernel.interfaces import Key
from otel_netmon.otel.catalogue import CATALOGUE
from otel_netmon.otel.dns import DURATION, DnsPoints, dns_spans
from otel_netmon.otel.histograms import Distribution
from otel_netmon.otel.points import Point, Points
from otel_netmon.otel.series import Diversity, diversity
from otel_netmon.otel.spans import Sought
from otel_netmon.readers.messages import NO_QUERIES, Messages, OpenQueries, OpenQueryReader, joined
from otel_netmon.selfmon.status import StageStatus
from otel_netmon.sources import messages as ring
from otel_netmon.sources.message_edges import MessageEdges
from otel_netmon.sources.messages import MessageSource

_NOT_DNS = {
    MessageCount.NOT_DNS_SHORT: "short",
    MessageCount.NOT_DNS_HEADER: "header",
    MessageCount.NOT_DNS_QUESTION: "question",
}
_EXPIRE_NS = 900_000_000  # the ring is drained each second
_SOME = 64  # so few wait for the cycle: not more than the keep rule takes at once
_QUERY = 0  # opcode, RFC 1035


class DnsSource:
    """Takes what is of DNS out of the ring and keeps what must be known from cycle to cycle.

    A drain is ``prepare``, the ring's own, and ``take``.

    Args:
        maps: name to file descriptor and number of entries.
        messages: who drains the ring.
        config: the configuration.
        rule: which spans are kept.
        start_ns: Unix time at which the programs began to count.
    """

    def __init__(
        self,
        maps: Mapping[str, tuple[int, int]],
        messages: MessageSource,
        config: Config,
        rule: KeepRule,
        start_ns: int,
    ) -> None:
        probe = config.probes.dns
        self._messages = messages
        self._open = OpenQueryReader(*maps["dns_cache"])
        self._timeout_ns = round(probe.timeout_seconds * 1e9)
        self._edges = MessageEdges()
        self._analysis = DnsAnalysis(self._timeout_ns, self._edges.counts)
        self.folding = NameFolding(probe.name_labels)
        self.domains = DomainCache()
        self.series = DnsSeries(
            self.folding,
            CATALOGUE[DURATION].bounds,
            start_ns,
            round(config.limits.series_idle_seconds * 1e9),
            probe.timeout_seconds,
        )
        self._points = DnsPoints()
        self._recent: RecentLookups | None = None
        self._rule = rule
        self._searches = Distribution("netmon.dns.search.lookups", start_ns)
        self._spans: list[Sought] = []
        self._start_ns = start_ns
        self._expired: OpenQueries | None = None
        self._expired_ns = 0
        self._waiting: list[Messages] = []
        self._answers = (0, 0)
        self._ratio: float | None = None
        self._earlier: Counter[str] = Counter()  # what processes before this one lost

    def set_edges(self, edges: Mapping[Key, Edge]) -> None:
        """Takes the edge rule: which interface tells a lookup that crosses several."""
        self._edges.update(edges)
        self._analysis.set_edges(self._edges.counts)

    def remember(self) -> RecentLookups:
        """Remembers lookups from now on, for those who ask what waited for them."""
        self._recent = RecentLookups(self._timeout_ns)
        return self._recent

    def begin_cycle(self, limit: int) -> None:
        """Begins to read what is told, of so many series at most."""
        self.series.set_limit(limit)

    def prepare(self) -> None:
        """Takes what has timed out, before the ring is drained: an answer that came is there."""
        self._expired = self._take_expired(time.monotonic_ns())

    def take(self, messages: Messages, *, at_once: bool = False) -> None:
        """Takes the records of a drain; to look at few costs as much as at many.

        They are looked at when there are many, once a second when there are some, and when a query has timed out.

        Args:
            at_once: they are looked at now, for a cycle.
        """
        if len(messages.heads):
            self._waiting.append(messages)
        many = sum([len(each.heads) for each in self._waiting])
        expired, self._expired = self._expired, None
        in_second = expired is not None and (many >= _SOME or len(expired.keys) > 0)
        if not (at_once or in_second or many >= DnsAnalysis.AT_ONCE):
            return
        messages, self._waiting = joined(self._waiting) if many else messages, []
        now_ns = time.monotonic_ns()
        offset_ns = time.time_ns() - now_ns
        for result in self._analysis.updates(messages, NO_QUERIES if expired is None else expired, now_ns):
            self._searches.record(({}, float(search.lookups)) for search in result.searches)
            answered = result.answered.where(result.answered.column("opcode") == _QUERY)
            others = [lookup for lookup in result.others if _is_lookup(lookup)]
            self.domains.learn_many(answered)
            for lookup in others:
                self.domains.learn(lookup)
            if self._recent is not None:
                self._recent.take(answered, others)
            if answered.number or others:
                self._tell(answered, others, offset_ns, now_ns)

    def _take_expired(self, now_ns: int) -> OpenQueries | None:
        """The queries that nobody answered in time; looked for once a second, however often the ring is full."""
        if now_ns - self._expired_ns < _EXPIRE_NS:
            return None
        self._expired_ns = now_ns
        return self._open.take_expired(now_ns, self._timeout_ns)

    def _tell(self, answered: AnsweredLookups, others: list[Lookup], offset_ns: int, now_ns: int) -> None:
        rows = self.series.add(answered, others, now_ns + offset_ns)
        spans = dns_spans(answered, others, self._rule, offset_ns, self._timeout_ns, now_ns)
        if not len(spans.kept):
            return
        self._spans.append(spans.spans)
        self.series.offer_exemplars(rows[spans.kept], *spans.exemplars())

    @property
    def wanted(self) -> int:
        """How many series there is use for."""
        return self.series.wanted

    def diversity(self) -> Diversity:
        """How many different lookups there are, with and without a series."""
        return diversity(self.series)

    def take_spans(self) -> list[Sought]:
        """The spans that were kept since the last call."""
        spans, self._spans = self._spans, []
        return spans

    def points(self) -> dict[str, Points]:
        """The points of this cycle."""
        totals = self._analysis.totals.counts
        answers, nothing = totals["answered"], totals["nxdomain"]
        before = self._answers
        if answers > before[0]:
            self._ratio = (nothing - before[1]) / (answers - before[0])
        self._answers = (answers, nothing)
        start = self._start_ns
        points: dict[str, Points] = {**self._points.points(self.series.reading()), **self._searches.points()}
        self.series.end_cycle()
        points["netmon.dns.retries"] = [Point({}, totals["retries"], start)]
        points["netmon.dns.truncated"] = [Point({}, totals["truncated"], start)]
        points["netmon.dns.tcp_retries"] = [Point({}, totals["tcp_retry"], start)]
        points["netmon.dns.unmatched"] = [
            Point({"netmon.reason": reason}, totals[reason], start)
            for reason in ("late", "duplicate", "wrong_question", "wrong_id", "unknown")
        ]
        if self._ratio is not None:
            points["netmon.dns.nxdomain.ratio"] = [Point({}, self._ratio, start)]
        return points

    def stages(self) -> dict[tuple[str, str], StageStatus]:
        """What became of queries and messages, by stage and signal."""
        now = self._messages.counts
        queries, no_place = now[MessageCount.DNS_QUERIES], now[MessageCount.LOST_CACHE]
        not_dns = {reason: now[what] for what, reason in _NOT_DNS.items()}
        consumed = self._messages.consumed(ring.DNS)
        lost = self._earlier + self._analysis.counts
        unparsed = {name.removeprefix("unparsed."): lost[name] for name in sorted(lost) if name.startswith("unparsed.")}
        totals = self._analysis.totals.counts
        return {
            ("kernel", "dns_queries"): StageStatus(delivered=queries - no_place, dropped={"cache_full": no_place}),
            ("kernel", "dns_messages"): StageStatus(
                delivered=self._messages.produced(ring.DNS) + now[MessageCount.LOST_RING],
                dropped={
                    **not_dns,
                    "coalesced": now[MessageCount.LOST_COALESCED],
                    "nested": now[MessageCount.LOST_NESTED],
                },
            ),
            ("decode", "dns_messages"): StageStatus(delivered=consumed - sum(unparsed.values()), dropped=unparsed),
            ("decode", "dns_lookups"): StageStatus(
                delivered=totals["answered"] + totals["timeout"],
                dropped={"no_place": lost["no_place"], "evicted": lost["evicted_queries"]},
            ),
            ("decode", "dns_streams"): StageStatus(
                delivered=lost["streams"] - lost["evicted_streams"], dropped={"evicted": lost["evicted_streams"]}
            ),
            ("decode", "dns_stream_octets"): StageStatus(
                delivered=lost["told_octets"], dropped={"skipped": lost["skipped_octets"]}
            ),
        }

    def map_sizes(self) -> dict[str, tuple[int, int]]:
        """Entries in use and capacity by name of the map."""
        return {"dns_cache": (self._open.live, self._open.capacity)}

    def state(self) -> dict[str, dict[str, Any]]:
        """What another process needs to go on."""
        totals = self._analysis.totals.counts
        counts = {f"total.{name}": count for name, count in totals.items()}
        counts |= {f"lost.{name}": count for name, count in (self._earlier + self._analysis.counts).items()}
        return {**self.series.state(), "dns.searches": self._searches.state(), "dns.counts": counts}

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Goes on where another process was, before the first drain."""
        self.series.restore(state)
        self._searches.restore(state["dns.searches"])
        counts = state["dns.counts"]
        for name, count in counts.items():
            table, _, what = name.partition(".")
            (self._analysis.totals.counts if table == "total" else self._earlier)[what] = count
        self._answers = (self._analysis.totals.counts["answered"], self._analysis.totals.counts["nxdomain"])


def _is_lookup(lookup: Lookup) -> bool:
    """Whether a metric of lookups has it: a query of DNS, and what became of it."""
    return lookup.protocol == "dns" and lookup.opcode == _QUERY and lookup.outcome != "unmatched_response"

"""The HTTP probe: requests that the kernel tells, and those of connections that are followed -> http.*, rpc.*, spans."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.abi.enums import NAMESPACE_SOCKET, Direction, HttpFlags, MessageCount
from otel_netmon.analysis import http1, http2
from otel_netmon.analysis.differences import group
from otel_netmon.analysis.dns_lookups import Seen
from otel_netmon.analysis.edges import Edge
from otel_netmon.analysis.http_alike import AlikeRequests
from otel_netmon.analysis.http_columns import HttpColumns, HttpRecords, columns_of
from otel_netmon.analysis.http_records import UNPLACED, HttpRequest
from otel_netmon.analysis.http_series import HttpSeries
from otel_netmon.analysis.request_phases import EarlierRequests
from otel_netmon.analysis.routes import LearnedRoutes, RouteRules
from otel_netmon.analysis.sampling import KeepRule
from otel_netmon.analysis.tcp_followers import Recogniser
from otel_netmon.analysis.tcp_stream import Segment
from otel_netmon.config.model import Config
from otel_netmon.config.routes import parse_rule
from otel_netmon.enrich.addresses import address_text
from otel_netmon.kernel.interfaces import Key
from otel_netmon.otel.catalogue import CATALOGUE
from otel_netmon.otel.histograms import joined_series
from otel_netmon.otel.http import FIRST_BYTE, HttpPoints, http_spans, metrics_of
from otel_netmon.otel.points import HistogramSeries, Point, Points
from otel_netmon.otel.series import Diversity, diversity
from otel_netmon.otel.spans import Sought
from otel_netmon.readers.http import HttpQuiet
from otel_netmon.readers.messages import Messages, http_messages, joined
from otel_netmon.selfmon.status import RoutesStatus, RouteStatus, StageStatus
from otel_netmon.sources import messages as ring
from otel_netmon.sources.message_edges import MessageEdges
from otel_netmon.sources.messages import MessageSource
from otel_netmon.sources.rpc import RpcSide

SIDES = ("server", "client")
FAULTS = "netmon.http.faults"

_SIGHTING = np.dtype(
    [("ifindex", "<u4"), ("ingress_ifindex", "<u4"), ("namespace", "u1"), ("direction", "u1"), ("reserved", "<u2")]
)
_KERNEL_LOSSES = {MessageCount.HTTP_LOST_TABLE: "table_full", MessageCount.HTTP_LOST_LIMIT: "limit"}
_BATCH = 8192
_BATCH_NS = 900_000_000  # the ring is drained each second
_NO_ROUTE = "routes_full"
_UNPLACED = "connection_unknown"


class HttpSource:
    """Counts requests and keeps what must be known from cycle to cycle.

    Args:
        messages: who drains the ring.
        quiet: has the kernel tell what is quiet.
        config: the configuration.
        rule: which spans are kept.
        start_ns: Unix time at which the programs began to count.
    """

    def __init__(
        self, messages: MessageSource, quiet: HttpQuiet, config: Config, rule: KeepRule, start_ns: int
    ) -> None:
        probe = config.probes.http
        idle_ns = round(config.limits.series_idle_seconds * 1e9)
        self._messages = messages
        self._quiet = quiet
        self._timeout_ns = round(probe.timeout_seconds * 1e9)
        self._edges = MessageEdges()
        self._rules, self._routes_max = probe.routes, probe.learned_routes_max
        self.learned = LearnedRoutes(probe.learned_routes_max) if probe.learn_routes else None
        self._alike = AlikeRequests(RouteRules(map(parse_rule, probe.routes)), keeps_paths=probe.learn_routes)
        self._sides = {side: _Side(side, probe.names, rule, self.learned, start_ns, idle_ns) for side in SIDES}
        self._rpc = {
            side: RpcSide(is_server=side == "server", names=probe.names, rule=rule, start_ns=start_ns, idle_ns=idle_ns)
            for side in SIDES
        }
        self._waiting: list[Messages] = []
        self._counted_ns = 0
        self._faults: Counter[str] = Counter()
        self._requests: Counter[str] = Counter()
        self._start_ns = start_ns

    def recognisers(self) -> tuple[Recogniser, ...]:
        """How HTTP is recognised; the preface of HTTP/2 looks like a request line, so that HTTP/1 is asked behind it."""
        timeout_ns = self._timeout_ns
        return *http2.recognisers(self._faults, timeout_ns), http1.recogniser(self._faults, timeout_ns)

    def set_edges(self, edges: Mapping[Key, Edge]) -> None:
        """Takes the edge rule: which interface tells a request that crosses several."""
        self._edges.update(edges)

    def begin_cycle(self, requests: int, rpc_server: int, rpc_client: int) -> None:
        """Begins to read what is told, of so many series at most."""
        self._counted_ns = 0  # the next records count at once: their spans are told with this reading
        wanted = [side.wanted for side in self._sides.values()]
        server = min(wanted[0], max(requests - wanted[1], requests // 2))
        for side, limit in zip(SIDES, (server, min(wanted[1], requests - server)), strict=True):
            self._sides[side].series.set_limit(limit)
        for side, limit in zip(SIDES, (rpc_server, rpc_client), strict=True):
            self._rpc[side].begin_cycle(limit)

    def prepare(self) -> None:
        """Before the ring is drained: has what is quiet told there."""
        self._quiet.run(time.monotonic_ns())

    def begun(self, messages: Messages) -> list[tuple[Seen, Segment]]:
        """Gives what comes before the segments of connections that the kernel does not follow any more, out of a drain."""
        return HttpRecords.begun(http_messages(messages)) if len(messages.heads) else []

    def take(self, messages: Messages, records: Iterable[object], now_ns: int) -> None:
        """Takes the requests of a drain, and those among what connections told.

        Args:
            messages: of kind HTTP.
            now_ns: CLOCK_MONOTONIC.
        """
        offset_ns = time.time_ns() - time.monotonic_ns()  # now_ns is older: connections were followed since
        if len(messages.heads):
            self._waiting.append(messages)
        if sum([len(each.heads) for each in self._waiting]) >= _BATCH or now_ns - self._counted_ns > _BATCH_NS:
            self._count_waiting(now_ns)
        requests = [each for each in records if isinstance(each, HttpRequest)]
        if requests:
            self._take_requests(requests, offset_ns, now_ns)

    def take_secure(self, messages: Messages, requests: Sequence[HttpRequest], now_ns: int) -> None:
        """Takes requests that went through TLS: of kind HTTP, and those of connections that were followed.

        Args:
            now_ns: CLOCK_MONOTONIC.
        """
        offset_ns = time.time_ns() - time.monotonic_ns()
        if len(messages.heads):
            self._faults[_UNPLACED] += int(np.count_nonzero(messages.heads["destination_port"] == 0))
            self._take_records(messages, offset_ns, now_ns, is_secure=True)
        if requests:
            self._faults[_UNPLACED] += sum([each.server == UNPLACED for each in requests])
            self._take_requests(requests, offset_ns, now_ns)

    def _count_waiting(self, now_ns: int) -> None:
        """Counts the records of the last drains at once: to count few costs as much as to count many."""
        self._counted_ns = now_ns
        if self._waiting:
            messages, self._waiting = joined(self._waiting), []
            self._take_records(messages, time.time_ns() - time.monotonic_ns(), now_ns)

    def _take_records(self, messages: Messages, offset_ns: int, now_ns: int, *, is_secure: bool = False) -> None:
        if self._alike.is_full:
            self._alike.clear()
        records = HttpRecords(http_messages(messages), is_secure=is_secure)
        over = records.http["flags"] & HttpFlags.WHOLE == 0
        counted, is_server = self._sight(records.heads)
        counted &= over
        self._requests["not_counted"] += int(np.count_nonzero(over & ~counted))
        self._requests["told"] += int(np.count_nonzero(counted))
        columns = records.columns(self._alike)
        self._tell(columns, counted, is_server, offset_ns, now_ns)

    def _take_requests(self, requests: Sequence[HttpRequest], offset_ns: int, now_ns: int) -> None:
        counted = [each for each in requests if self._is_counted(each)]
        self._requests["told"] += len(counted)
        self._requests["not_counted"] += len(requests) - len(counted)
        http = [each for each in counted if not each.is_grpc]
        if http:
            if self._alike.is_full:
                self._alike.clear()
            which = np.ones(len(http), np.bool_)
            sides = np.array([_is_server(each) for each in http], np.bool_)
            self._tell(columns_of(http, self._alike), which, sides, offset_ns, now_ns)
        for side in SIDES:
            calls = [each for each in counted if each.is_grpc and _is_server(each) == (side == "server")]
            self._rpc[side].take(calls, offset_ns, now_ns)

    def _tell(
        self,
        columns: HttpColumns,
        counted: npt.NDArray[np.bool_],
        is_server: npt.NDArray[np.bool_],
        offset_ns: int,
        now_ns: int,
    ) -> None:
        for name, side in self._sides.items():
            which = counted & (is_server if name == "server" else ~is_server)
            if which.any():
                side.take(columns.where(which), self._alike, offset_ns, now_ns)

    def _sight(self, heads: npt.NDArray[Any]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Which records count by the edge rule, and which are seen where the server is."""
        sightings = np.zeros(len(heads), _SIGHTING)
        for name in ("ifindex", "ingress_ifindex", "namespace", "direction"):
            sightings[name] = heads[name]
        sightings["ifindex"][heads["namespace"] == NAMESPACE_SOCKET] = 0  # sockets are all alike
        first, inverse = group(sightings)
        counts, sides = [], []
        for at in first.tolist():
            ifindex, ingress, namespace, direction, _ = sightings[at].tolist()
            counts.append(self._edges.counts(namespace, ifindex, direction, ingress))
            sides.append(_is_servers(direction, ingress))
        return np.array(counts, np.bool_)[inverse], np.array(sides, np.bool_)[inverse]

    def _is_counted(self, request: HttpRequest) -> bool:
        seen = request.connection
        if request.upgrade == "h2c" or seen is None:
            return False  # it is told by its response in HTTP/2
        return self._edges.counts_at(seen)

    @property
    def wanted(self) -> tuple[int, int, int]:
        """How many series there is use for: of requests, of calls where the server is, and where the client is."""
        return sum(side.wanted for side in self._sides.values()), self._rpc["server"].wanted, self._rpc["client"].wanted

    def diversity(self) -> tuple[Diversity, Diversity, Diversity]:
        """How many different requests and calls there are, as in ``wanted``."""
        found = [side.diversity() for side in self._sides.values()]
        distinct: Counter[str] = Counter()
        for each in found:
            distinct.update(each.distinct)
        both = Diversity(sum(each.folded for each in found), sum(each.sets for each in found), dict(distinct))
        return both, self._rpc["server"].diversity(), self._rpc["client"].diversity()

    def take_spans(self) -> list[Sought]:
        """The spans that were kept since the last call."""
        spans = [each for rpc in self._rpc.values() for each in rpc.take_spans()]
        for side in self._sides.values():
            spans += side.take_spans()
        return spans

    def points(self) -> dict[str, Points]:
        """The points of this cycle."""
        self._count_waiting(time.monotonic_ns())
        points: dict[str, Points] = {}
        first_bytes: list[HistogramSeries] = []
        for side in self._sides.values():
            series = side.take_points()
            first_bytes.append(series.pop(FIRST_BYTE))
            points |= series
        points[FIRST_BYTE] = joined_series(first_bytes)
        for rpc in self._rpc.values():
            points |= rpc.points()
        faults = dict(self._faults)
        if self.learned is not None:
            faults[_NO_ROUTE] = self.learned.refused
        points[FAULTS] = [
            Point({"netmon.reason": reason}, count, self._start_ns) for reason, count in sorted(faults.items())
        ]
        return points

    def stages(self) -> dict[tuple[str, str], StageStatus]:
        """What became of requests, by stage and signal."""
        counts = self._messages.counts
        return {
            ("kernel", "http_messages"): StageStatus(
                delivered=self._messages.produced(ring.HTTP) + counts[MessageCount.HTTP_LOST_RING],
                dropped={reason: counts[what] for what, reason in _KERNEL_LOSSES.items()},
            ),
            ("decode", "http_requests"): StageStatus(
                delivered=self._requests["told"], dropped={"not_counted": self._requests["not_counted"]}
            ),
        }

    def map_sizes(self) -> dict[str, tuple[int, int]]:
        """Entries in use and capacity by name of the map."""
        return {"http_connections": (self._quiet.live, self._quiet.capacity)}

    def routes(self) -> RoutesStatus:
        """Rules, and what was learned."""
        learned = self.learned
        found = learned.counts.most_common() if learned is not None else []
        return RoutesStatus(
            rules=list(self._rules),
            learning=learned is not None,
            limit=self._routes_max,
            refused=learned.refused if learned is not None else 0,
            learned=[RouteStatus(template=template, requests=requests) for template, requests in found],
        )

    def state(self) -> dict[str, dict[str, Any]]:
        """What another process needs to go on."""
        self._count_waiting(time.monotonic_ns())
        sections: dict[str, dict[str, Any]] = {
            "http.counts": {
                **{f"requests.{what}": count for what, count in self._requests.items()},
                **{f"faults.{what}": count for what, count in self._faults.items()},
            }
        }
        if self.learned is not None:
            sections["http.learned"] = self.learned.state()
        for side in SIDES:
            sections |= self._sides[side].series.state() | self._rpc[side].state()
        return sections

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Goes on where another process was, before the first drain."""
        for side in SIDES:
            self._sides[side].series.restore(state)
            self._rpc[side].restore(state)
        if self.learned is not None and "http.learned" in state:
            self.learned.restore(state["http.learned"])
        for name, count in state["http.counts"].items():
            table, _, what = name.partition(".")
            (self._requests if table == "requests" else self._faults)[what] = count


class _Side:
    """The requests of one side."""

    def __init__(
        self, side: str, names: int, rule: KeepRule, learned: LearnedRoutes | None, start_ns: int, idle_ns: int
    ) -> None:
        duration, _, size, _ = metrics_of(side)
        bounds = CATALOGUE[duration].bounds, CATALOGUE[size].bounds
        self._is_server = side == "server"
        self.series = HttpSeries(side, address_text, bounds, names, names, start_ns, idle_ns)
        self._rule = rule
        self._earlier = EarlierRequests()
        self._learned = learned
        self._points = HttpPoints(side)
        self._spans: list[Sought] = []

    @property
    def wanted(self) -> int:
        return self.series.wanted

    def diversity(self) -> Diversity:
        return diversity(self.series)

    def take(self, requests: HttpColumns, alike: AlikeRequests, offset_ns: int, now_ns: int) -> None:
        counted = self.series.add(requests, alike.sights, self._learned, now_ns + offset_ns)
        spans = http_spans(
            requests,
            counted.kinds,
            alike.sights,
            self._learned,
            self._rule,
            offset_ns,
            now_ns,
            is_server=self._is_server,
        )
        earlier_ns = self._earlier.before(requests.client_ports, requests.begun_ns)
        if len(spans.kept):
            self._spans.append(spans.spans.behind(earlier_ns[spans.kept]))
            self.series.offer_exemplars(counted.rows[spans.kept], *spans.exemplars())

    def take_spans(self) -> list[Sought]:
        spans, self._spans = self._spans, []
        return spans

    def take_points(self) -> dict[str, HistogramSeries]:
        points = self._points.points(self.series.reading())
        self.series.end_cycle()
        return points


def _is_server(request: HttpRequest) -> bool:
    seen = request.connection
    return seen is not None and _is_servers(seen.direction, seen.ingress_ifindex)


def _is_servers(direction: int, ingress_ifindex: int) -> bool:
    """Whether a request that crosses the interface so is seen at its server: it comes in, or is passed on."""
    return direction == Direction.RECEIVE or ingress_ifindex > 0

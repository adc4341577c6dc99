"""The connections probe: maps of socket_monitor -> netmon.tcp.*, netmon.udp.*, bytes by process and container, spans, events."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.abi.enums import ConnectionCount
from otel_netmon.abi.layout import CONNECTION, UDP as UDP_ROW
from otel_netmon.analysis.connection_index import ConnectionIndex
from otel_netmon.analysis.connection_series import ConnectionSeries
from otel_netmon.analysis.connections import Connections, Counter, Gains
from otel_netmon.analysis.datagrams import (
    BYTES_RECEIVED,
    BYTES_SENT,
    DatagramGains,
    Datagrams,
    DatagramSeries,
)
from otel_netmon.analysis.owner_series import TRANSPORTS, OwnerCounter
from otel_netmon.analysis.sampling import KeepRule
from otel_netmon.config.model import Config
from otel_netmon.enrich.processes import Processes
from otel_netmon.kernel import syscalls
from otel_netmon.otel.catalogue import CATALOGUE
from otel_netmon.otel.connection_events import ConnectionEvents
from otel_netmon.otel.connection_spans import connection_spans
from otel_netmon.otel.connections import HANDSHAKE, LIFETIME, ConnectionPoints, DatagramPoints
from otel_netmon.otel.points import Points
from otel_netmon.otel.series import CONNECTIONS, UDP, Diversity, diversity
from otel_netmon.otel.spans import Event, SpanBatch
from otel_netmon.otel.status_rows import endpoint_rows
from otel_netmon.readers.connections import ConnectionCounts, tcp_reader, udp_reader
from otel_netmon.readers.ring import RingAlarm
from otel_netmon.selfmon.status import ConnectionsStatus, EndpointStatus, StageStatus
from otel_netmon.sources.owners import Owners
from otel_netmon.sources.routes import LocalFailures
from otel_netmon.sources.rowless import Rowless
from otel_netmon.sources.sockets import SocketSource

_FAR = 1 << 62
_AT_ONCE = 4096
_COUNT_NS = 900_000_000  # the rings are drained each second
_TCP, _UDP = TRANSPORTS.index("tcp"), TRANSPORTS.index("udp")
_BYTES = [Counter.BYTES_RECEIVED, Counter.BYTES_SENT]


class ConnectionSpans(NamedTuple):
    """Spans of connections that ended, and their rows (layout.CONNECTION), one each."""

    batch: SpanBatch
    rows: npt.NDArray[Any]


class ConnectionSource:
    """Drains the rings, reads the tables once a cycle, and keeps what must be known from cycle to cycle.

    Args:
        maps: name to file descriptor and number of entries.
        config: the configuration.
        start_ns: Unix time at which the programs began to count.
        rule: which spans are kept.
        processes: identities.

    Attributes:
        alarms: tell that a ring is filling up.
        sockets: what sock_diag tells.
        failures: why connects failed that sent nothing.
        index: whose a packet is by its ends.
        rows: layout.CONNECTION and layout.UDP: what lived at the last reading.
    """

    def __init__(
        self,
        maps: Mapping[str, tuple[int, int]],
        config: Config,
        start_ns: int,
        rule: KeepRule,
        processes: Processes,
    ) -> None:
        probe = config.probes.connections
        self.alarms = [RingAlarm(maps[name][0]) for name in ("connections", "udp_records")]
        self._tcp, self._udp = tcp_reader(maps), udp_reader(maps)
        self._kernel = ConnectionCounts(maps, syscalls.possible_cpus())
        idle_ns = round(config.limits.series_idle_seconds * 1e9)
        self.owners = Owners(processes, start_ns, idle_ns)
        self.failures = LocalFailures()
        self._connections = Connections()
        self._datagrams = Datagrams()
        self.series = ConnectionSeries(CATALOGUE[HANDSHAKE].bounds, CATALOGUE[LIFETIME].bounds, start_ns, idle_ns)
        self._udp_series = DatagramSeries(start_ns, idle_ns)
        self.index = ConnectionIndex()
        self.sockets = SocketSource(probe.compare_seconds, start_ns)
        self.failures = LocalFailures()
        self._points = ConnectionPoints()
        self._udp_points = DatagramPoints()
        self._events = ConnectionEvents(probe.reset_burst_per_second, probe.connect_failures_per_second)
        self._rule = rule
        self._spans: list[ConnectionSpans] = []
        self._told_events: list[Event] = []
        self._top: list[EndpointStatus] = []
        self._read_ns = start_ns
        self._counts = self._kernel.read()
        self._ended: list[npt.NDArray[Any]] = []
        self._closed: list[npt.NDArray[Any]] = []
        self._counted_ns = 0
        self._rowless = Rowless(self._kernel, start_ns)
        self._consumed = {"connections": 0, "udp_sockets": 0}
        self._missing = {"connections": _FAR, "udp_sockets": _FAR}
        self.rows: tuple[npt.NDArray[Any], npt.NDArray[Any]] = np.empty(0, CONNECTION), np.empty(0, UDP_ROW)

    def drain(self, *, at_once: bool = False) -> None:
        """Takes what has ended since the last call out of the rings; it is counted when there is much of it, or once a second.

        Args:
            at_once: it is counted now.
        """
        now_ns = time.monotonic_ns()
        self._ended.append(self._tcp.drain())
        self._closed.append(self._udp.drain())
        many = sum(map(len, self._ended)) + sum(map(len, self._closed))
        if not at_once and many < _AT_ONCE and now_ns - self._counted_ns < _COUNT_NS:
            return
        self._counted_ns = now_ns
        ended = np.concatenate(self._ended, dtype=CONNECTION)
        closed = np.concatenate(self._closed, dtype=UDP_ROW)
        self._ended, self._closed = [], []
        self._consumed["connections"] += len(ended)
        self._consumed["udp_sockets"] += len(closed)
        if at_once:  # what the kernel counted takes longer to read than a quiet second has in its rings
            self._counts = self._kernel.read()
            self._note("connections", ConnectionCount.RECORDS)
            self._note("udp_sockets", ConnectionCount.UDP_RECORDS)
        self._take_ended(ended, now_ns)
        self._take_closed(closed)
        if many:
            self.owners.keep(self._udp_series.numbers())

    def read(self, places: Mapping[str, int], now_ns: int) -> None:
        """Reads everything once.

        Args:
            places: how many sets of each family may have series.
            now_ns: Unix time.
        """
        self.series.set_limit(places[CONNECTIONS])
        self._udp_series.set_limit(places[UDP])
        self.owners.set_limits(places)
        self.drain(at_once=True)  # before the tables: a row that is in both is known to have ended
        monotonic_ns = time.monotonic_ns()
        tcp, udp = self._tcp.read(), self._udp.read()
        read_ns = time.monotonic_ns()
        self._take_ended(tcp.ended, monotonic_ns)
        self._take_closed(udp.ended)
        numbers = self.owners.numbers_of(tcp.live)
        self._count_tcp(self._connections.living(tcp.live))
        self._count_udp(self._datagrams.living(udp.live))
        self.index.read(tcp.live, numbers, udp.live, self.owners.numbers_of(udp.live), read_ns)
        self.drain(at_once=True)  # what ended between the first drain and the tables is in neither
        self._rowless.read(self.owners, self.series, self._udp_series)
        self.rows = tcp.live, udp.live
        self.sockets.read(*self.rows)
        if self.sockets.gains is not None:
            self._count_tcp(self.sockets.gains)
        if self.sockets.drops is not None:
            self._count_drops(*self.sockets.drops, now_ns)
        self.owners.keep(self._udp_series.numbers())
        seconds = max((now_ns - self._read_ns) / 1e9, 1e-3)
        series = self.series.reading().series
        self._told_events += self._events.take(series, seconds, now_ns)
        self._top = endpoint_rows(series, seconds)
        self._read_ns = now_ns

    def _note(self, what: str, produced: ConnectionCount) -> None:
        """Keeps the least that was missing at any time: what is on its way is there the next time."""
        self._missing[what] = max(0, min(self._missing[what], self._counts[produced] - self._consumed[what]))

    def _take_ended(self, rows: npt.NDArray[Any], now_ns: int) -> None:
        if not len(rows):
            return
        gains = self._connections.ended(self.failures.explain(rows))
        numbers, handshakes = self._count_tcp(gains)
        self.index.ended(rows, numbers)
        offset_ns = time.time_ns() - time.monotonic_ns()
        spans = connection_spans(
            gains, lambda place: self.owners.encoded_resource(int(numbers[place])), self._rule, offset_ns, now_ns
        )
        if not len(spans.kept):
            return
        self._spans.append(ConnectionSpans(spans.batch, rows[spans.kept]))
        shaken = handshakes[spans.kept] >= 0
        kept = spans.kept[shaken]
        self.series.offer_exemplars(
            handshakes[kept],
            gains.handshake_ns[kept] / 1e9,
            spans.batch.end_time_unix_nano[shaken],
            spans.batch.trace_ids[shaken],
            spans.batch.span_ids[shaken],
        )

    def _count_tcp(self, gains: Gains) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.intp]]:
        """Counts; gives whose each is, and its row among the handshakes."""
        numbers = self.owners.numbers_of(gains.rows)
        now_ns = time.time_ns()
        rows = self.series.add(gains, now_ns)
        self.owners.count(numbers, _TCP, gains.counters[_BYTES], now_ns)
        return numbers, rows

    def _take_closed(self, rows: npt.NDArray[Any]) -> None:
        if len(rows):
            self.index.closed(rows, self._count_udp(self._datagrams.closed(rows)))

    def _count_udp(self, gains: DatagramGains) -> npt.NDArray[np.uint64]:
        numbers = self.owners.numbers_of(gains.rows)
        now_ns = time.time_ns()
        self._udp_series.add(gains, numbers, now_ns)
        octets = [BYTES_RECEIVED, BYTES_SENT]
        self.owners.count(numbers, _UDP, gains.first[octets] + gains.others[octets], now_ns)
        return numbers

    def _count_drops(self, rows: npt.NDArray[Any], drops: npt.NDArray[np.uint64], now_ns: int) -> None:
        counters = np.zeros((OwnerCounter.WEIGHT, len(rows)), np.uint64)
        counters[OwnerCounter.DROPS] = drops
        self.owners.count(self.owners.numbers_of(rows), _UDP, counters, now_ns)

    @property
    def trouble(self) -> tuple[str, str]:
        """What the probe lacks: a word, empty where nothing is, and a sentence for people."""
        if self.sockets.refused:
            return "sock_diag_refused", self.sockets.refused
        if not self.owners.identities.readable:
            return (
                "no_processes",
                "/proc is not that of the first PID namespace: processes are told by number, name and cgroup",
            )
        return "", ""

    def wanted(self) -> dict[str, int]:
        """How many series there is use for, by family."""
        return {
            CONNECTIONS: self.series.wanted,
            UDP: self._udp_series.wanted,
            **self.owners.wanted(),
        }

    def diversity(self) -> dict[str, Diversity]:
        """How many there are of each family, with and without a series."""
        return {
            CONNECTIONS: diversity(self.series),
            UDP: diversity(self._udp_series),
            **self.owners.diversity(),
        }

    def take_spans(self) -> list[ConnectionSpans]:
        """The spans that were kept since the last call."""
        spans, self._spans = self._spans, []
        return spans

    def cgroups_of(self, ends: npt.NDArray[Any], times_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """The cgroup at the local end of each, 0 where that is not known.

        Args:
            ends: analysis.connection_index.ENDS, shape (n,), seen from the end that is asked for.
            times_ns: when a packet was there, CLOCK_MONOTONIC, before the last reading.
        """
        return self.index.find(ends, times_ns, any_address=False).cgroup

    def take_events(self) -> list[Event]:
        """The events since the last call."""
        events, self._told_events = self._told_events, []
        return events

    def points(self) -> dict[str, Points]:
        """The points of this cycle, which it ends."""
        points = {
            **self._points.points(self.series.reading()),
            **self._udp_points.points(self._udp_series.reading(), self.owners.resource),
            **self.owners.points(),
            **self.sockets.points(),
            "netmon.connection.untracked": self._rowless.points(),
        }
        self.series.end_cycle()
        self._udp_series.end_cycle()
        return points

    def stages(self) -> dict[tuple[str, str], StageStatus]:
        """What became of connections and UDP sockets, by stage and signal: a row is living, unused, or in the ring stage."""
        now = self._counts
        ring = {what: missing if missing < _FAR else 0 for what, missing in self._missing.items()}
        return {
            ("kernel", "connections"): StageStatus(
                delivered=now[ConnectionCount.OPENED], dropped={"table_full": now[ConnectionCount.NO_PLACE]}
            ),
            ("kernel", "udp_sockets"): StageStatus(delivered=now[ConnectionCount.UDP_OPENED], dropped={}),
            **{
                ("ring", what): StageStatus(delivered=consumed, dropped={"pipeline_died": ring[what]})
                for what, consumed in self._consumed.items()
            },
            ("identity", "processes"): self.owners.identities.counts.stage(),
        }

    def map_sizes(self) -> dict[str, tuple[int, int]]:
        """Entries in use and capacity by name of the map."""
        return {
            "connection_stats": (self._tcp.live, self._tcp.capacity),
            "udp_stats": (self._udp.live, self._udp.capacity),
        }

    def status(self) -> ConnectionsStatus:
        """The section of /status."""
        return ConnectionsStatus(
            live=self._tcp.live,
            capacity=self._tcp.capacity,
            udp_live=self._udp.live,
            udp_capacity=self._udp.capacity,
            states=self.sockets.own_states(),
            top=self._top,
        )

    def state(self) -> dict[str, dict[str, Any]]:
        """What another process needs to go on."""
        return {
            **self.series.state(),
            **self._udp_series.state(),
            **self.owners.state(self._udp_series.numbers()),
            **self.sockets.state(),
            "connections.told": self._connections.state(),
            "datagrams.told": self._datagrams.state(),
            "connections.rowless": self._rowless.state(),
            "connections.counts": {"read_ns": self._read_ns, **self._consumed},
        }

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Goes on where another process was, before the first drain."""
        self.series.restore(state)
        self._udp_series.restore(state)
        self.owners.restore(state)
        self.sockets.restore(state)
        self._connections.restore(state["connections.told"])
        self._datagrams.restore(state["datagrams.told"])
        self._rowless.restore(state["connections.rowless"])
        counts = state["connections.counts"]
        self._read_ns = counts["read_ns"]
        self._consumed = {what: counts[what] for what in self._consumed}

    def close(self) -> None:
        """Gives the mappings back."""
        for alarm in self.alarms:
            alarm.close()
        self._tcp.close()
        self._udp.close()
        self.sockets.close()
        self.failures.close()
        self.failures.close()

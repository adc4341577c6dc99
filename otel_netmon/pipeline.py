"""The pipeline, whole: read -> analyse -> points -> export, once a cycle, in a process of its own.

    maps ──FlowReader──> FlowReading ──Traffic──> totals, conversations ──otel/*──> Snapshot ──┬──> OtlpSink
    /proc/net/dev ──NetdevReader──> Counters ──Coverage──────────────────^                    └──> Server (/metrics)

It begins as a fork of the supervisor with the file descriptors of the maps, and ends when its channel closes.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: it would start a thread for each core

import selectors
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import structs

from otel_netmon.abi import layout
from otel_netmon.abi.enums import Direction, hook_slot
from otel_netmon.analysis.coverage import Coverage, Sighting
from otel_netmon.analysis.differences import Differences
from otel_netmon.analysis.edges import edge_rule
from otel_netmon.analysis.flows import TopConversations
from otel_netmon.analysis.protocols import COUNTERS, ProtocolTotals, Side
from otel_netmon.analysis.roles import ephemeral_ports
from otel_netmon.analysis.traffic import Traffic
from otel_netmon.config.model import Config
from otel_netmon.control import Channel
from otel_netmon.enrich.interfaces import InterfaceNames
from otel_netmon.errors import NetmonError
from otel_netmon.export.http_server import Server
from otel_netmon.export.otlp import OtlpSink
from otel_netmon.kernel import syscalls
from otel_netmon.kernel.interfaces import Interface, Key
from otel_netmon.otel import flows, interfaces, protocols, selfmon
from otel_netmon.otel.metrics_data import count_points
from otel_netmon.otel.points import Point, Snapshot
from otel_netmon.otel.resource import build_resource
from otel_netmon.otel.status_rows import flow_rows, interface_rows
from otel_netmon.readers.flows import FlowMaps, FlowReader
from otel_netmon.readers.maps import HashReader, sum_over_cpus
from otel_netmon.readers.netdev import Counters, NetdevReader
from otel_netmon.selfmon import logging
from otel_netmon.selfmon.status import ExportStatus, FlowsStatus, ProbeStatus, StageStatus, Status, build

FLUSH_SECONDS = 5.0


class Pipeline:
    """Everything between the maps and the exporters.

    Args:
        channel: to the supervisor.
        config: the configuration.
        setup: what the supervisor made: maps, programs, open files, times (see ``Supervisor._start_child``).
    """

    def __init__(self, channel: Channel, config: Config, setup: Mapping[str, Any]) -> None:
        self._channel = channel
        self._config = config
        self._programs: dict[str, int] = {
            f"{stem}/{name}": fd for stem, programs in setup["programs"].items() for name, fd in programs.items()
        }
        first = setup["generation"] == 0
        self._told_before = not first
        self._started_monotonic: float = setup["started_monotonic"]
        self._start_ns: int = setup["started_unix_ns"] if first else time.time_ns()
        self._boot_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._log = logging.get_logger()
        self._names = InterfaceNames()
        self._known: dict[Key, Interface] = {}
        self._hooks: dict[Key, dict[str, str]] = {}
        self._gone: set[Key] = set()
        self._probes: list[ProbeStatus] = []
        self._netdev = {number: NetdevReader(fd) for number, fd in setup["netdev"].items()}
        self._netdev_fds: dict[int, int] = dict(setup["netdev"])
        self._coverage = Coverage()
        self._shares: dict[tuple[int, int, int], float] = {}
        self._previous: tuple[float, dict[Side, list[int]]] = (time.monotonic(), {})
        self._rates: dict[Side, tuple[float, float]] = {}
        self._accepted = 0
        self._snapshot: Snapshot | None = None
        self._status: Status | None = None
        self._reader, self._traffic = self._flows_probe(setup, first)
        self._xdp, self._xdp_differences, self._xdp_totals = self._xdp_probe(setup, first)
        resource = build_resource(config.resource.attributes)
        self._server = (
            Server(
                config.prometheus.listen,
                lambda: self._snapshot,
                lambda: self._status or {},
                lambda: self._snapshot is not None,
                resource=resource.attributes,
            )
            if config.prometheus.enabled
            else None
        )
        timeout = min(config.otlp.timeout_seconds, config.export.timeout_seconds)
        otlp = structs.replace(config.otlp, timeout_seconds=timeout)
        self._sink = OtlpSink(otlp, resource) if otlp.enabled else None

    def _flows_probe(self, setup: Mapping[str, Any], first: bool) -> tuple[FlowReader | None, Traffic | None]:
        maps = setup["maps"].get("tc_monitor")
        if maps is None:
            return None, None
        programs = setup["programs"]["tc_monitor"]
        reader = FlowReader(
            FlowMaps(
                flow_table=maps["flow_table"][0],
                protocol_stats=maps["protocol_stats"][0],
                hook_totals=maps["hook_totals"][0],
                agent_state=maps["agent_state"][0],
                flow_filter=maps["flow_filter"][0],
                sweep_program=programs["netmon_sweep"],
                mark_program=programs["netmon_mark"],
                clock_program=programs["netmon_clock"],
                flow_entries=maps["flow_table"][1],
                protocol_entries=maps["protocol_stats"][1],
            ),
            self._config.probes.flows.idle_seconds,
        )
        return reader, Traffic(self._config.flows.top_k, self._start_ns, ephemeral_ports(), first)

    def _xdp_probe(
        self, setup: Mapping[str, Any], first: bool
    ) -> tuple[HashReader | None, Differences, ProtocolTotals]:
        maps = setup["maps"].get("xdp_monitor")
        reader = None
        differences = Differences(COUNTERS)
        if maps is not None:
            fd, entries = maps["protocol_stats"]
            reader = HashReader(fd, layout.PROTOCOL_KEY, layout.COUNTERS, entries, syscalls.possible_cpus())
            if not first:
                differences.update(*sum_over_cpus(*reader.read()))  # an earlier pipeline process has told these
        return reader, differences, ProtocolTotals(self._start_ns)

    # ---- life

    def run(self) -> int:
        """Serves until SIGTERM or the end of the channel; gives the exit code."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides; a terminal sends it to both
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, lambda *_: None)
        if self._sink is not None:
            self._sink.start()
        if self._server is not None:
            self._server.start()
        selector = selectors.DefaultSelector()
        selector.register(wake_read, selectors.EVENT_READ)
        selector.register(self._channel.fileno(), selectors.EVENT_READ)
        interval = self._config.export.interval_seconds
        next_cycle: float | None = None  # the first one follows the first list of interfaces
        stopping = False
        while not stopping:
            now = time.monotonic()
            events = selector.select(None if next_cycle is None else max(0.0, next_cycle - now))
            flush = False
            for key, _ in events:
                if key.fd == wake_read:
                    received = os.read(wake_read, 4096)
                    stopping = stopping or signal.SIGTERM in received
                    flush = signal.SIGUSR1 in received
                else:
                    self._listen()
                    stopping = stopping or self._channel.closed
                    if next_cycle is None and self._snapshot is not None:
                        next_cycle = now + interval
            if stopping or flush or (next_cycle is not None and time.monotonic() >= next_cycle):
                self._cycle()
                if next_cycle is not None:
                    next_cycle = max(next_cycle + interval, time.monotonic())
            if flush and self._sink is not None:
                self._sink.flush(FLUSH_SECONDS)
        self._stop()
        return 0

    def _listen(self) -> None:
        for message, fds in self._channel.receive():
            if message["kind"] != "interfaces":
                continue
            for number, fd in zip(message["netdev"], fds, strict=True):
                old = self._netdev_fds.get(number)
                self._netdev_fds[number], self._netdev[number] = fd, NetdevReader(fd)
                if old is not None:
                    os.close(old)
            for number in set(self._netdev) - set(message["netdev"]):
                del self._netdev[number]
                os.close(self._netdev_fds.pop(number))
            self._take_interfaces(message)

    def _take_interfaces(self, message: Mapping[str, Any]) -> None:
        every = []
        monitored: dict[Key, Interface] = {}
        self._hooks = {}
        for row in message["interfaces"]:
            hooks = row.pop("hooks")
            interface = Interface(**row, address=b"")
            every.append(interface)
            if hooks is not None:
                monitored[interface.key] = interface
                self._hooks[interface.key] = hooks
        self._names.update(monitored.values())
        self._gone = (self._gone | self._known.keys()) - monitored.keys()
        for key in self._gone:
            self._coverage.forget(*key)
            self._shares = {side: share for side, share in self._shares.items() if side[:2] != key}
        self._known = monitored
        self._edges = edge_rule(every, monitored, decapsulate=self._config.probes.flows.decapsulate).edges
        if self._traffic is not None:
            self._traffic.set_interfaces(
                self._edges, [key for key, interface in monitored.items() if interface.kind == "physical"]
            )
        self._probes = message["probes"]
        if self._snapshot is None:
            self._cycle()
            otlp = self._sink.stats()["endpoint"] if self._sink is not None else None
            listen = self._server.listening if self._server is not None else None
            self._channel.send("ready", {"prometheus": listen, "otlp": otlp})

    def _stop(self) -> None:
        deadline = time.monotonic() + self._config.export.shutdown_seconds
        if self._sink is not None:
            self._sink.shutdown(max(0.1, deadline - time.monotonic()))
            stats = self._sink.stats()
            self._log.info("otlp.stopped", delivered=stats["points_delivered"], dropped=stats["points_dropped"])
        if self._server is not None:
            self._server.stop()

    # ---- one cycle

    def _cycle(self) -> None:
        now_ns = time.time_ns()
        points: dict[str, list[Point]] = {}
        top = TopConversations((), (), 0)
        live = 0
        maps: dict[str, tuple[int, int]] = {}
        stages: dict[str, StageStatus] = {}
        if self._reader is not None and self._traffic is not None:
            sides = [(i.index, i.namespace, d) for i in self._known.values() for d in Direction]
            before = {slot: int(total["packets"]) for slot, total in self._reader.totals(sides).items()}
            reading = self._reader.read()
            if self._told_before:
                # The base of what is told from here on: packets of this moment must not be missed later.
                before = {slot: int(total["packets"]) for slot, total in self._reader.totals(sides).items()}
                self._told_before = False
            top = self._traffic.update(reading, before, now_ns)
            live = len(reading.keys)
            maps["flow_table"] = (live, self._config.probes.flows.table_entries)
            maps["protocol_stats"] = (len(reading.protocol_keys), self._reader.protocol_entries)
            points |= protocols.protocol_points(self._traffic.totals.counted, self._names, "netmon.protocol")
            points |= protocols.wire_points(self._traffic.totals.wire, self._names)
            points |= flows.flow_points(top)
            stages["kernel"] = StageStatus(
                delivered=self._traffic.conservation.attributed,
                dropped={"unattributed": self._traffic.conservation.missing},
            )
        if self._config.probes.interfaces.enabled:
            points |= self._interface_points()
        if self._xdp is not None:
            keys, counters = sum_over_cpus(*self._xdp.read())
            self._xdp_totals.add_rows(keys, self._xdp_differences.update(keys, counters))
            self._xdp_totals.end_reading(now_ns)
            points |= protocols.protocol_points(self._xdp_totals.counted, self._names, "netmon.xdp")
        self._measure_rates()
        if self._sink is not None:
            stats = self._sink.stats()
            stages["export"] = StageStatus(delivered=stats["points_delivered"], dropped=stats["points_dropped"])
        points |= selfmon.stage_points(stages, self._start_ns)
        points |= selfmon.probe_points(self._probes, self._start_ns)
        points |= selfmon.program_points(map(syscalls.program_info, self._programs.values()), self._start_ns)
        series = (len(top.conversations), self._config.flows.top_k)
        points |= selfmon.size_points(maps, series, self._accepted, self._start_ns)
        snapshot = Snapshot(now_ns, points)
        self._accepted += count_points(snapshot)
        self._status = self._build_status(top, live, stages)
        self._snapshot = snapshot
        if self._gone:
            # Their last packets are in this snapshot.
            if self._reader is not None and self._traffic is not None:
                self._traffic.forget(self._gone)
                self._reader.forget(self._gone)
            self._xdp_totals.forget(self._gone)
            self._gone = set()
        if self._sink is not None:
            self._sink.offer(snapshot)

    def _interface_points(self) -> dict[str, list[Point]]:
        counters = {number: reader.read() for number, reader in self._netdev.items()}
        rows: list[tuple[int, int, Counters]] = []
        after: dict[int, Any] = {}
        if self._reader is not None:
            sides = [(i.index, i.namespace, d) for i in self._known.values() for d in Direction]
            after = self._reader.totals(sides)
        shared = self._shared_slots()
        for interface in self._known.values():
            values = counters.get(interface.namespace, {}).get(interface.name)
            if values is None:
                continue  # it has gone or was renamed a moment ago; the supervisor will tell
            rows.append((interface.namespace, interface.index, values))
            for direction in Direction:
                slot = hook_slot(interface.index, interface.namespace, direction)
                if slot not in after or slot in shared:
                    continue
                handed = int(after[slot]["packets"])
                counter = values.receive_packets if direction == Direction.RECEIVE else values.transmit_packets
                side = (interface.namespace, interface.index, int(direction))
                share = self._coverage.update(
                    side,
                    interface.kind == "physical",
                    Sighting(handed, handed + int(after[slot]["extra_packets"]), counter),
                )
                if share is not None:
                    self._shares[side] = share
        points = interfaces.interface_points(rows, self._names, self._boot_ns)
        return points | interfaces.coverage_points(self._shares, self._names, self._start_ns)

    def _shared_slots(self) -> set[int]:
        """Slots of hook_totals that two of the interfaces share: their coverage cannot be told apart."""
        seen: set[int] = set()
        shared: set[int] = set()
        for interface in self._known.values():
            for direction in Direction:
                slot = hook_slot(interface.index, interface.namespace, direction)
                (shared if slot in seen else seen).add(slot)
        return shared

    def _measure_rates(self) -> None:
        now = time.monotonic()
        current: dict[Side, list[int]] = {}
        if self._traffic is not None:
            for key, (packets, octets, _) in self._traffic.totals.counted.items():
                total = current.setdefault(Side(key.namespace, key.ifindex, key.direction), [0, 0])
                total[0] += packets
                total[1] += octets
        then, previous = self._previous
        seconds = max(now - then, 1e-3)
        self._rates = {
            side: (
                (packets - previous.get(side, [0, 0])[0]) / seconds,
                (octets - previous.get(side, [0, 0])[1]) / seconds,
            )
            for side, (packets, octets) in current.items()
        }
        self._previous = (now, current)

    def _build_status(self, top: TopConversations, live: int, stages: Mapping[str, StageStatus]) -> Status:
        export: ExportStatus = {}
        if self._sink is not None:
            export["otlp"] = self._sink.stats()
        if self._server is not None:
            export["prometheus"] = {"listen": self._server.listening}
        return build(
            uptime_seconds=time.monotonic() - self._started_monotonic,
            interval_seconds=self._config.export.interval_seconds,
            probes=self._probes,
            stages=stages,
            interfaces=interface_rows(
                self._known.values(),
                self._edges,
                self._hooks,
                self._previous[1],
                self._traffic.totals.handed_over if self._traffic is not None else {},
                self._traffic.totals.wire if self._traffic is not None else {},
                self._rates,
                self._shares,
            ),
            flows=FlowsStatus(
                live=live,
                capacity=self._config.probes.flows.table_entries,
                top=flow_rows(top, self._config.export.interval_seconds),
            ),
            export=export,
        )


def main(channel: Channel, config: Config, setup: Mapping[str, Any]) -> int:
    """The pipeline process; a failure before it serves is told to the supervisor."""
    logging.configure(config.log.level, config.log.format)
    try:
        pipeline = Pipeline(channel, config, setup)
    except NetmonError as error:
        channel.send("failed", {"error": str(error), "exit_code": error.exit_code})
        return error.exit_code
    Path("/proc/self/comm").write_text("netmon-pipeline", encoding="ascii")
    return pipeline.run()

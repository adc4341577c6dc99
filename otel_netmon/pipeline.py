"""The pipeline, whole: read -> analyse -> points -> export, once a cycle, in a process of its own.

    maps ──FlowSource──> totals, conversations ──> netmon.protocol.*, netmon.flow.* ──┐
    /proc/net/dev ──InterfaceSource──> system.network.*, netmon.coverage ─────────────┼──> SeriesBudget ──> Snapshot ──┬──> OtlpSink, one a receiver
    ring of messages ──MessageProbes──> dns.lookup.*, netmon.tls.*, http.*, rpc.* ────┤                                │
    maps, rings, sock_diag ──ConnectionSource──> netmon.tcp.*, process.network.io, … ─┤                                │
    maps ──XdpSource──> netmon.xdp.* ─────────────────────────────────────────────────┘                                └──> Server (/metrics)

Each ``sources`` module puts readers, analysis and points of one probe together. Their state is saved (``checkpoint``) before a
snapshot is handed on, so that a pipeline process that takes over goes on with the same counts. The process begins as a fork
of the supervisor with the file descriptors of the maps, and ends when its channel closes.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: it would start a thread for each core

import selectors
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from otel_netmon.analysis.edges import edge_rule
from otel_netmon.analysis.protocols import Side
from otel_netmon.checkpoint import Checkpoint
from otel_netmon.config.checks import FIRST_DESTINATION
from otel_netmon.config.model import Config
from otel_netmon.control import Channel
from otel_netmon.enrich.interfaces import InterfaceNames
from otel_netmon.errors import NetmonError
from otel_netmon.export.http_server import Server
from otel_netmon.export.receivers import Receivers
from otel_netmon.handover import Setup, receive_setup
from otel_netmon.kernel import syscalls
from otel_netmon.kernel.interfaces import Interface, Key
from otel_netmon.otel import selfmon
from otel_netmon.otel.events import AgentEvents
from otel_netmon.otel.histograms import Distribution
from otel_netmon.otel.points import Points, Snapshot
from otel_netmon.otel.resource import build_resource
from otel_netmon.otel.series import Diversity, SeriesBudget
from otel_netmon.otel.status_rows import flow_rows, interface_rows
from otel_netmon.selfmon import logging
from otel_netmon.selfmon.lazy import without_masked_arrays
from otel_netmon.selfmon.memory import Keeping
from otel_netmon.selfmon.status import ExportStatus, FlowsStatus, ProbeStatus, StageStatus, Status, build
from otel_netmon.sources.probes import NamespaceFiles, Sources

DRAIN_SECONDS = 1.0
"""Messages are taken out of the ring so often, and at once when a quarter of it is full."""


class Pipeline:
    """Everything between the maps and the exporters.

    Args:
        channel: to the supervisor.
        config: the configuration.
        setup: what the supervisor made: maps, programs, open files, times.
        checkpoint: files in memory for what another pipeline process needs to go on.
    """

    def __init__(self, channel: Channel, config: Config, setup: Setup, checkpoint: Sequence[int]) -> None:
        self._channel = channel
        self._config = config
        self._programs: dict[str, int] = {
            f"{stem}/{name}": fd for stem, programs in setup.programs.items() for name, fd in programs.items()
        }
        self._started_monotonic: float = setup.started_monotonic
        self._process_start_ns = time.time_ns()
        start_ns: int = setup.started_unix_ns
        boot_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._log = logging.get_logger()
        self._names = InterfaceNames()
        self._known: dict[Key, Interface] = {}
        self._hooks: dict[Key, dict[str, str]] = {}
        self._gone: set[Key] = set()
        self._probes: list[ProbeStatus] = []
        self._previous: tuple[float, dict[Side, list[int]]] = (time.monotonic(), {})
        self._rates: dict[Side, tuple[float, float]] = {}
        self._accepted = 0
        self._snapshot: Snapshot | None = None
        self._status: Status | None = None
        namespaces = [NamespaceFiles(*each) for each in setup.namespaces]
        self._sources = Sources(config, setup.maps, setup.programs, namespaces, start_ns, boot_ns, drops=setup.drops)
        self._budget = SeriesBudget(config.limits.series, config.limits.series_idle_seconds)
        self._events = AgentEvents()
        self._durations = Distribution("netmon.pipeline.cycle.duration", self._process_start_ns)
        self._attempts = Distribution("otel.sdk.exporter.operation.duration", self._process_start_ns)
        self._checkpoint = Checkpoint(checkpoint)
        self._save_failed = False
        self._memory = Keeping()
        resource = build_resource(config.resource.attributes)
        self._server = (
            Server(
                config.prometheus.listen,
                lambda: self._snapshot,
                lambda: self._status or {},
                lambda: self._snapshot is not None,
                resource=resource,
            )
            if config.prometheus.enabled
            else None
        )
        self._receivers = Receivers(config, resource)
        self._restore()

    def _restore(self) -> None:
        """Goes on where an earlier pipeline process was; nothing is saved yet at the start of the agent."""
        saved = self._checkpoint.load()
        if saved is None:
            return
        self._gone = self._sources.restore(saved)  # but for those that the supervisor will name
        self._names.restore(saved["pipeline"])
        self._budget.restore(saved)
        self._receivers.restore(saved)
        # Whoever saved it may have died before it told: a series that the next reading displaces is told a last time.
        read_ns = saved["pipeline"]["read_ns"]
        self._receivers.offer_restored(
            Snapshot(read_ns, self._budget.apply(self._sources.points(self._names), read_ns))
        )
        self._log.info("pipeline.resumed", sections=len(saved))

    def _save(self, now_ns: int) -> None:
        own = {"pipeline": {"read_ns": now_ns, **self._names.state()}}
        try:
            self._checkpoint.save({**own, **self._sources.state(), **self._budget.state(), **self._receivers.state()})
            self._save_failed = False
        except OSError as error:
            if not self._save_failed:
                self._log.error(
                    "checkpoint.failed", error=str(error), consequence="a pipeline that dies now loses counts"
                )
            self._save_failed = True

    def _save_told(self, told: int) -> None:
        """Saves after a difference was told: a process that takes over goes on with the next one."""
        os.eventfd_read(told)
        if self._snapshot is not None:
            self._save(time.time_ns())

    # ---- life

    def run(self) -> int:
        """Serves until SIGTERM or the end of the channel; gives the exit code."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides; a terminal sends it to both
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, lambda *_: None)
        self._receivers.start()
        if self._server is not None:
            self._server.start()
        selector = selectors.DefaultSelector()
        selector.register(wake_read, selectors.EVENT_READ)
        selector.register(self._channel.fileno(), selectors.EVENT_READ)
        alarms = {alarm.fileno(): alarm for alarm in self._sources.alarms}
        for fileno in alarms:
            selector.register(fileno, selectors.EVENT_READ)
        told = self._receivers.told
        if told is not None:
            selector.register(told, selectors.EVENT_READ)
        interval = self._config.export.interval_seconds
        self._listen()  # what came right behind the setup is here already
        # Without a list of interfaces there is no cycle: the next one follows the first.
        next_cycle = None if self._snapshot is None else time.monotonic() + interval
        next_drain = time.monotonic() + DRAIN_SECONDS if alarms else float("inf")
        stopping = self._channel.closed
        while not stopping:
            now = time.monotonic()
            due = min(next_drain, float("inf") if next_cycle is None else next_cycle)
            events = selector.select(None if due == float("inf") else max(0.0, due - now))
            flush = False
            for key, _ in events:
                if key.fd == wake_read:
                    received = os.read(wake_read, 4096)
                    stopping = stopping or signal.SIGTERM in received
                    flush = signal.SIGUSR1 in received
                elif key.fd in alarms:
                    alarms[key.fd].clear()
                    next_drain = now
                    self._memory.busy()
                elif key.fd == told:
                    self._save_told(key.fd)
                else:
                    self._listen()
                    stopping = stopping or self._channel.closed
                    if next_cycle is None and self._snapshot is not None:
                        next_cycle = now + interval
            if stopping or flush or (next_cycle is not None and time.monotonic() >= next_cycle):
                self._cycle()
                if next_cycle is not None:
                    next_cycle = max(next_cycle + interval, time.monotonic())
                next_drain = max(next_drain, time.monotonic() + DRAIN_SECONDS)
            elif time.monotonic() >= next_drain:
                self._sources.drain()
                self._hand_on_spans()
                next_drain = time.monotonic() + DRAIN_SECONDS
            if flush:
                self._receivers.send_now()
        self._stop()
        return 0

    def _listen(self) -> None:
        for message, fds in self._channel.receive():
            if message["kind"] != "interfaces":
                continue
            opened = iter(fds)
            self._sources.set_namespaces(
                [
                    NamespaceFiles(each["number"], each["name"], {name: next(opened) for name in each["files"]})
                    for each in message["namespaces"]
                ]
            )
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
        self._sources.interfaces.forget(self._gone)
        self._known = monitored
        self._edges = edge_rule(every, monitored, decapsulate=self._config.probes.flows.decapsulate).edges
        self._sources.set_interfaces(
            self._edges, [key for key, interface in monitored.items() if interface.kind == "physical"]
        )
        self._probes = message["probes"]
        if self._snapshot is None:
            self._cycle()
            listen = self._server.listening if self._server is not None else None
            self._channel.send("ready", {"prometheus": listen, "otlp": self._receivers.endpoints()})

    def _stop(self) -> None:
        for batch in self._sources.take_last_spans():
            self._receivers.offer_spans(batch)
        self._receivers.shutdown(self._config.export.shutdown_seconds)
        if self._server is not None:
            self._server.stop()

    # ---- one cycle

    def _cycle(self) -> None:
        began = time.perf_counter()
        now_ns = time.time_ns()
        self._sources.read(list(self._known.values()), self._budget, now_ns)
        self._measure_rates()
        told = self._sources.points(self._names)
        diversity = self._sources.diversity()
        points = self._budget.apply(told | self._about_the_agent(diversity), now_ns)
        self._save(now_ns)  # before anybody is told: what is told must never be told again
        self._sources.settle()
        snapshot = Snapshot(now_ns, points)
        self._accepted += selfmon.exported_points(snapshot)
        self._status = self._build_status(diversity)
        self._snapshot = snapshot
        if self._gone:
            self._sources.forget(self._gone)  # their last packets are in this snapshot
            self._gone = set()
        self._receivers.offer(snapshot)
        self._hand_on_spans()
        self._receivers.offer_events(self._sources.take_events(now_ns))
        self._receivers.offer_events(self._events.probes(self._sources.probes(self._probes), now_ns))
        folded = self._budget.folded(diversity)
        self._receivers.offer_events(self._events.folded(folded, self._config.limits.series, now_ns))
        self._memory.cycle()
        self._durations.record([({}, time.perf_counter() - began)])

    def _hand_on_spans(self) -> None:
        for batch in self._sources.take_spans():
            self._receivers.offer_spans(batch)

    def _about_the_agent(self, diversity: Mapping[str, Diversity]) -> dict[str, Points]:
        start_ns = self._process_start_ns
        self._attempts.record(self._receivers.take_attempts())
        return {
            **selfmon.stage_points(self._sources.stages(), self._receivers.stages(), start_ns),
            **selfmon.probe_points(self._sources.probes(self._probes), start_ns),
            **selfmon.program_points(map(syscalls.program_info, self._programs.values()), start_ns),
            **selfmon.map_points(self._sources.map_sizes(), start_ns),
            **selfmon.receiver_points(self._accepted, start_ns),
            **self._durations.points(),
            **self._attempts.points(),
            **self._budget.points(diversity, start_ns),
        }

    def _measure_rates(self) -> None:
        now = time.monotonic()
        current = self._sources.by_side()
        then, previous = self._previous
        seconds = max(now - then, 1e-3)
        self._rates = {
            side: (
                max(0, packets - previous.get(side, [0, 0])[0]) / seconds,  # less than before: an index used again
                max(0, octets - previous.get(side, [0, 0])[1]) / seconds,
            )
            for side, (packets, octets) in current.items()
        }
        self._previous = (now, current)

    def _stages(self) -> dict[str, StageStatus]:
        stages: dict[str, StageStatus] = {}
        kernel = self._sources.stages().get(("kernel", "packets"))
        if kernel is not None:
            stages["kernel"] = kernel
        export = self._receivers.stages().get((FIRST_DESTINATION, "export", "metric_points"))
        if export is not None:
            stages["export"] = export
        return stages

    def _build_status(self, diversity: Mapping[str, Diversity]) -> Status:
        export: ExportStatus = self._receivers.status()
        if self._server is not None:
            export["prometheus"] = {"listen": self._server.listening}
        flows = self._sources.flows
        totals = flows.traffic.totals if flows is not None else None
        http = self._sources.messages.http if self._sources.messages is not None else None
        interval = self._config.export.interval_seconds
        document = build(
            uptime_seconds=time.monotonic() - self._started_monotonic,
            interval_seconds=interval,
            probes=self._sources.probes(self._probes),
            stages=self._stages(),
            interfaces=interface_rows(
                self._known.values(),
                self._edges,
                self._hooks,
                self._previous[1],
                totals.handed_over if totals is not None else {},
                totals.wire if totals is not None else {},
                self._rates,
                self._sources.interfaces.shares,
            ),
            flows=FlowsStatus(
                live=flows.live if flows is not None else 0,
                capacity=self._config.probes.flows.table_entries,
                top=flow_rows(flows.series, interval) if flows is not None else [],
            ),
            series=self._budget.status(diversity),
            routes=http.routes() if http is not None else None,
            export=export,
        )
        tls = self._sources.messages.tls if self._sources.messages is not None else None
        if tls is not None and tls.servers.active is not None:
            document["certificates"] = tls.servers.active.status()
        if self._sources.connections is not None:
            document["connections"] = self._sources.connections.status()
        return document


def main(channel: Channel, config: Config, checkpoint: Sequence[int]) -> int:
    """The pipeline process; a failure before it serves is told to the supervisor."""
    logging.configure(config.log.level, config.log.format)
    without_masked_arrays()
    setup = receive_setup(channel)
    if setup is None:
        return 0  # the supervisor gave up before it had something to read
    try:
        pipeline = Pipeline(channel, config, setup, checkpoint)
    except NetmonError as error:
        channel.send("failed", {"error": str(error), "exit_code": error.exit_code})
        return error.exit_code
    Path("/proc/self/comm").write_text("netmon-pipeline", encoding="ascii")
    return pipeline.run()

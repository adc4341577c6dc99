"""The supervisor: loads, attaches, follows the interfaces, keeps the maps, and keeps the pipeline running.

It imports neither bcc, OpenTelemetry, numpy nor structlog: about 15 MB for the whole life of the agent. The pipeline is a
fork of it, so both share the interpreter's pages; it imports what it needs after the fork, at the start while this process
loads and attaches, and is handed the maps when they are there (``handover``).
"""

from __future__ import annotations

import contextlib
import gc
import os
import selectors
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from otel_netmon.attachments import Attachments
from otel_netmon.cgroup_attachments import CgroupAttachments
from otel_netmon.config import reload
from otel_netmon.config.checks import FIRST_DESTINATION
from otel_netmon.config.load import Loaded
from otel_netmon.config.model import Config
from otel_netmon.control import Channel
from otel_netmon.errors import NetmonError
from otel_netmon.handover import Files, Setup
from otel_netmon.kernel.drops import DropMonitor
from otel_netmon.kernel.hooks import TC_HOOKS
from otel_netmon.kernel.interfaces import Added, Event, Interface, InterfaceTable, Removed, Renamed
from otel_netmon.kernel.namespaces import open_netdev, open_proc_net, open_rtnetlink, open_sock_diag
from otel_netmon.loading import Images, load_images
from otel_netmon.plaintext_attachments import PlaintextAttachments
from otel_netmon.readers.netstat import FILES as NETSTAT_FILES
from otel_netmon.selfmon.journal import Journal

RESTART_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)
STABLE_SECONDS = 60.0
REFRESH_SECONDS = 1.0
KILL_GRACE_SECONDS = 2.0

Reload = Callable[[], Loaded]


class Supervisor:
    """One run of the agent.

    Args:
        loaded: the configuration and its origins.
        read_again: loads the configuration anew, for SIGHUP.
        journal: the event log.
        duration: seconds after which to stop, from when everything is attached on; None for never.
    """

    def __init__(self, loaded: Loaded, read_again: Reload, journal: Journal, duration: float | None = None) -> None:
        self._loaded = loaded
        self._read_again = read_again
        self._journal = journal
        self._duration = duration
        self._started = time.monotonic()
        self._started_unix_ns = time.time_ns()
        self._selector = selectors.DefaultSelector()
        self._watched: set[int] = set()
        self._stop_reason: str | None = None
        self._exit_code = 0
        self._postponed = b""
        self._child = 0
        self._channel: Channel | None = None
        self._ready = False
        self._end_at: float | None = None
        self._checkpoint = [os.memfd_create(f"netmon-checkpoint-{turn}") for turn in range(2)]
        self._child_started = 0.0
        self._failures = 0
        self._restart_at: float | None = None
        self._images = Images({}, {}, {}, {})
        self._attached = contextlib.ExitStack()
        self._leave_to_parent: tuple[Callable[[], None], ...] = ()

    @property
    def _config(self) -> Config:
        return self._loaded.config

    def run(self) -> int:
        """Runs until a signal, the end of the duration, or a failure at start; gives the exit code."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1):
            signal.signal(number, lambda *_: None)
        self._selector.register(wake_read, selectors.EVENT_READ)
        try:
            self._start_child()  # which imports its libraries while this process loads and attaches
            try:
                self._images = load_images(self._config, self._journal)
                self._begin(*self._find_interfaces(self._config))
                self._loop(wake_read)
            finally:
                self._end_child()
                self._close_interfaces()
        finally:
            self._images.close()
            for fd in self._checkpoint:
                os.close(fd)
            signal.set_wakeup_fd(-1)
        self._journal.info("agent.stopped", reason=self._stop_reason, uptime_seconds=round(self._uptime(), 3))
        return self._exit_code

    def _uptime(self) -> float:
        return time.monotonic() - self._started

    # ---- kernel side

    def _find_interfaces(self, config: Config) -> tuple[InterfaceTable, list[Event]]:
        settings = config.interfaces
        table = InterfaceTable(settings.namespaces, settings.include, settings.exclude)
        try:
            found = table.refresh()
            if not settings.allow_missing:
                table.require_names()
        except BaseException:
            table.close()
            raise
        return table, found

    def _begin(self, table: InterfaceTable, found: list[Event]) -> None:
        """Attaches what was found, and hands the maps to the pipeline."""
        self._table = table
        self._attached.callback(self._close_table)
        self._attachments = Attachments(
            self._config, self._images.loaded.get("tc_monitor"), self._images.loaded.get("xdp_monitor")
        )
        self._sockets = CgroupAttachments(self._config, self._images.loaded.get("socket_monitor"))
        self._drops = DropMonitor(self._images.loaded.get("drop_monitor"))
        self._plaintext = PlaintextAttachments(
            self._config, self._images.loaded.get("plaintext_monitor"), self._journal
        )
        for each in (self._attachments, self._sockets, self._drops, self._plaintext):
            self._attached.callback(each.close)
        self._leave_to_parent = (
            # A copy of a link in another process would keep the program attached after the supervisor is gone.
            self._attachments.leave_to_parent,
            self._sockets.leave_to_parent,
            self._drops.leave_to_parent,
            self._plaintext.leave_to_parent,
            # A copy of an open namespace would keep the namespace after the supervisor has let go of it.
            self._close_table,
        )
        self._hand_over()
        self._apply(found)
        self._watch()
        self._tell_interfaces()

    def _close_table(self) -> None:
        self._table.close()

    def _take_table(self, table: InterfaceTable, found: list[Event]) -> None:
        """Follows another choice of interfaces; what both choices have stays attached and misses no packet."""
        self._forget_watched()
        self._table.close()
        self._table = table
        wanted = {event.interface.key for event in found}
        present = self._attachments.table
        gone: list[Event] = [Removed(there.interface) for key, there in present.items() if key not in wanted]
        come = [event for event in found if event.interface.key not in present]
        self._apply(gone + come)
        self._watch()
        self._tell_interfaces()

    def _forget_watched(self) -> None:
        for fd in self._watched:
            self._selector.unregister(fd)
        self._watched = set()

    def _close_interfaces(self) -> None:
        self._forget_watched()
        self._leave_to_parent = ()
        self._attached.close()

    def _apply(self, events: list[Event]) -> bool:
        """Attaches and detaches as interfaces come and go; tells whether anything changed."""
        for event in events:
            interface = event.interface
            fields = {"interface": interface.name, "index": interface.index, "namespace": interface.namespace_name}
            if isinstance(event, Added):
                attached = self._attachments.add(interface, self._table.namespaces[interface.namespace])
                self._journal.info("interface.added", **fields, interface_kind=interface.kind, **attached.hooks)
            elif isinstance(event, Removed):
                self._attachments.remove(interface.key)
                self._journal.info("interface.removed", **fields)
            elif interface.key in self._attachments.table:
                self._attachments.table[interface.key].interface = interface
                if isinstance(event, Renamed):
                    self._journal.info("interface.renamed", **fields, old_name=event.old_name)
        while self._attachments.leftovers:
            left = self._attachments.leftovers.pop()
            self._journal.warning(
                "clsact.leftover_removed",
                index=left.ifindex,
                namespace=left.namespace_name,
                direction=left.direction.name.lower(),
            )
        return bool(events)

    def _watch(self) -> None:
        wanted = set(self._table.filenos())
        for fd in self._watched - wanted:
            self._selector.unregister(fd)
        for fd in wanted - self._watched:
            self._selector.register(fd, selectors.EVENT_READ)
        self._watched = wanted

    # ---- the loop

    def _loop(self, wake: int) -> None:
        refresh_at = time.monotonic() + REFRESH_SECONDS
        while True:
            postponed, self._postponed = self._postponed, b""
            for number in postponed:
                self._signalled(number)
            if self._stop_reason is not None:
                return
            due = self._next_due(refresh_at)
            ready = self._selector.select(None if due == float("inf") else max(0.0, due - time.monotonic()))
            now = time.monotonic()
            for key, _ in ready:
                if key.fd == wake:
                    for number in os.read(wake, 4096):
                        self._signalled(number)
                elif self._channel is not None and key.fd == self._channel.fileno():
                    self._read_channel(self._channel)
            if self._watched & {key.fd for key, _ in ready} and self._apply(self._table.process()):
                self._tell_interfaces()
            if self._config.interfaces.namespaces and now >= refresh_at:
                refresh_at = now + REFRESH_SECONDS
                if self._apply(self._table.refresh()):
                    self._tell_interfaces()
            if now >= self._plaintext.look_at and self._plaintext.look(now):
                self._tell_interfaces()
            self._watch()
            if self._restart_at is not None and now >= self._restart_at and self._stop_reason is None:
                self._start_child()
                self._hand_over()
                self._tell_interfaces()
            if self._end_at is not None and now >= self._end_at:
                self._stop_reason = "duration"

    def _next_due(self, refresh_at: float) -> float:
        """When there is something to do that nobody will tell of, by time.monotonic()."""
        times = [self._plaintext.look_at]
        if self._restart_at is not None:
            times.append(self._restart_at)
        if self._config.interfaces.namespaces:
            times.append(refresh_at)
        if self._end_at is not None:
            times.append(self._end_at)
        return min(times)

    def _signalled(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._stop_reason = signal.Signals(number).name
        elif number == signal.SIGHUP:
            self._reload()
        elif number == signal.SIGUSR1 and self._child:
            os.kill(self._child, signal.SIGUSR1)  # flush now
        elif number == signal.SIGCHLD:
            self._reap()

    def _reload(self) -> None:
        attempt = reload.attempt(self._loaded, self._read_again)
        if attempt.error is not None:
            self._journal.error("config.reload_refused", error=str(attempt.error))
            return
        plan, config = attempt.plan, attempt.loaded.config
        restart = plan.reach == reload.Reach.PROGRAMS
        table: InterfaceTable | None = None
        images: Images | None = None
        try:
            if restart or "interfaces" in plan.sections:
                table, found = self._find_interfaces(config)
                restart = restart or not _same_numbers(self._table, table)
            if restart:
                images = load_images(config, self._journal)
        except NetmonError as error:
            if table is not None:
                table.close()
            self._journal.error("config.reload_refused", error=str(error))
            return
        self._loaded = attempt.loaded
        self._journal.info("config.reloaded", changed=list(plan.keys), reach=plan.reach.name.lower())
        if table is not None and images is not None:
            self._end_child()
            self._close_interfaces()
            self._images.close()
            self._images = images
            for fd in self._checkpoint:
                os.ftruncate(fd, 0)  # what was saved is about the old maps
            self._started_unix_ns = time.time_ns()
            self._start_child()
            self._begin(table, found)
            return
        if table is not None:
            self._take_table(table, found)
        if plan.reach == reload.Reach.PIPELINE:
            self._end_child()
            self._start_child()
            self._hand_over()
            self._tell_interfaces()

    # ---- the pipeline

    def _start_child(self) -> None:
        parent_end, child_end = Channel.pair()
        sys.stdout.flush()
        sys.stderr.flush()
        gc.collect()
        gc.freeze()
        # A signal between the fork and the child's own handlers would be taken by the supervisor's, which only note it.
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGUSR1))
        self._child = os.fork()
        if self._child == 0:
            parent_end.close()  # or the pipeline would never see its end
            self._become_pipeline(child_end, unblocked)
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        child_end.close()
        self._channel = parent_end
        self._selector.register(parent_end.fileno(), selectors.EVENT_READ)
        self._child_started = time.monotonic()
        self._restart_at = None

    def _hand_over(self) -> None:
        """Gives the pipeline what it begins with."""
        files = self._open_namespaces()
        setup = Setup(
            started_monotonic=self._started,
            started_unix_ns=self._started_unix_ns,
            namespaces=files,
            maps={
                stem: {name: (fd, image.definitions[name].max_entries) for name, fd in image.maps.items()}
                for stem, image in self._images.loaded.items()
            },
            programs={stem: image.programs() for stem, image in self._images.loaded.items()},
            drops=self._drops.setup(),
        )
        self._send(files, "setup", *setup.packed())

    def _become_pipeline(self, channel: Channel, unblocked: set[int | signal.Signals]) -> NoReturn:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # until it serves there is nothing to export
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
            self._selector.close()
            for leave in self._leave_to_parent:
                leave()
            self._images.close()  # those that are handed over are its own
            from otel_netmon.selfmon.memory import give_back_early

            give_back_early()  # before the imports, which need much for a moment
            # After the fork, so that the supervisor never pays for it; logging first: it keeps structlog from loading rich.
            from otel_netmon.selfmon import logging as _logging  # noqa: F401, I001
            from otel_netmon.pipeline import main

            code = main(channel, self._config, self._checkpoint)
        except BaseException as error:  # noqa: BLE001 - the last frame of this process: told, and it ends
            import traceback

            self._journal.error("pipeline.crashed", error=repr(error), traceback=traceback.format_exc())
        finally:
            os._exit(code)

    def _read_channel(self, channel: Channel) -> None:
        for message, _ in channel.receive():
            if message["kind"] == "ready" and not self._ready:
                self._ready = True
                self._end_at = None if self._duration is None else time.monotonic() + self._duration
                self._journal.info(
                    "agent.ready",
                    seconds=round(self._uptime(), 3),
                    interfaces=len(self._attachments.table),
                    images=self._images.origins,
                    prometheus=message["prometheus"],
                    otlp=message["otlp"].pop(FIRST_DESTINATION, None),
                    destinations=message["otlp"],
                )
            elif message["kind"] == "failed" and self._ready:
                self._journal.error("pipeline.start_failed", error=message["error"])
            elif message["kind"] == "failed":
                self._journal.error("agent.start_failed", error=message["error"])
                self._stop_reason = "start_failed"
                self._exit_code = int(message["exit_code"])
        if channel.closed:
            self._forget_channel()

    def _forget_channel(self) -> None:
        if self._channel is not None:
            self._selector.unregister(self._channel.fileno())
            self._channel.close()
            self._channel = None

    def _tell_interfaces(self) -> None:
        if self._channel is None:
            return
        probes = []
        tc, enabled = tuple(TC_HOOKS), self._config.probes
        by_interface = partial(self._attachments.state, tc)
        messages = by_interface if self._config.messages.vantage == "interface" else self._sockets.message_state
        for name, on, attached_state in (
            ("flows", enabled.flows.enabled, by_interface),
            ("dns", enabled.dns.enabled, messages),
            ("tls", enabled.tls.enabled, messages),
            ("http", enabled.http.enabled, messages),
            ("xdp", enabled.xdp.enabled, partial(self._attachments.state, ("xdp",))),
            ("interfaces", enabled.interfaces.enabled, partial(self._attachments.state, ())),
            ("connections", enabled.connections.enabled, self._sockets.state),
            ("netstat", enabled.netstat.enabled, partial(self._attachments.state, ())),
            ("drops", enabled.drops.enabled, self._drops.state),
            ("tls_plaintext", enabled.tls_plaintext != "off", self._plaintext.state),
        ):
            if not on:
                state = ("off", "not_enabled", _switched_off(name))
            elif name in self._images.failed:
                state = ("off", *self._images.failed[name])
            else:
                state = attached_state()
                if state[0] == "ok" and name in self._images.degraded:
                    state = ("degraded", *self._images.degraded[name])
            probes.append({"name": name, "state": state[0], "reason": state[1], "detail": state[2]})
        attached = self._attachments.table
        rows = [
            _describe(interface, attached[key].hooks if key in attached else None)
            for key, interface in self._table.interfaces.items()
        ]
        files = self._open_namespaces()
        namespaces = [{"number": number, "name": name, "files": list(fds)} for number, name, fds in files]
        fds = [fd for _, _, opened in files for fd in opened.values()]
        self._send(files, "interfaces", {"interfaces": rows, "probes": probes, "namespaces": namespaces}, fds)

    def _send(self, files: list[Files], kind: str, fields: dict[str, Any], fds: list[int]) -> None:
        """Tells the pipeline something, and closes the files that were opened for it."""
        try:
            if self._channel is not None:
                self._channel.send(kind, fields, fds)
        except (BrokenPipeError, ConnectionResetError):
            return  # it has ended; what it said before is read when it is reaped
        except OSError as error:
            self._journal.error("pipeline.deaf", error=str(error))
            self._forget_channel()  # it may hold half a message
            if self._child:
                os.kill(self._child, signal.SIGKILL)  # it has hung for seconds; the next one is told everything anew
        finally:
            _close_files(files)

    def _open_namespaces(self) -> list[Files]:
        """What the pipeline reads of each observed namespace, opened inside it; what the kernel refuses is left out."""
        probes = self._config.probes
        files: list[Files] = []
        try:
            for number, namespace in self._table.namespaces.items():
                fds = {"netdev": open_netdev(namespace)}
                files.append((number, namespace.name, fds))
                for name in NETSTAT_FILES if probes.netstat.enabled else ():
                    with contextlib.suppress(FileNotFoundError):
                        fds[name] = open_proc_net(namespace, name)
                if probes.connections.enabled:
                    with contextlib.suppress(OSError):  # the pipeline tells what it has not
                        fds["sock_diag"] = open_sock_diag(namespace)
                    with contextlib.suppress(OSError):
                        fds["rtnetlink"] = open_rtnetlink(namespace)
        except BaseException:
            _close_files(files)
            raise
        return files

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._child:
                self._child = 0
                if self._channel is not None:
                    self._read_channel(self._channel)
                    self._forget_channel()
                if self._stop_reason is None:
                    self._child_died(os.waitstatus_to_exitcode(status))

    def _child_died(self, code: int) -> None:
        if not self._ready:
            self._stop_reason = "start_failed"
            self._exit_code = self._exit_code or 1
            self._journal.error("pipeline.failed_at_start", exit_code=code)
            return
        if time.monotonic() - self._child_started > STABLE_SECONDS:
            self._failures = 0
        delay = RESTART_SECONDS[min(self._failures, len(RESTART_SECONDS) - 1)]
        self._failures += 1
        self._restart_at = time.monotonic() + delay
        self._journal.error("pipeline.died", exit_code=code, restart_in_seconds=delay, restarts=self._failures)

    def _end_child(self) -> None:
        """Asks the pipeline to export a last time and to end; kills it when its time is up."""
        if not self._child:
            return
        deadline = time.monotonic() + self._config.export.shutdown_seconds + KILL_GRACE_SECONDS
        os.kill(self._child, signal.SIGTERM)
        while self._child and time.monotonic() < deadline:
            self._selector.select(max(0.0, deadline - time.monotonic()))
            self._drain_wakeups()
            pid, _ = os.waitpid(self._child, os.WNOHANG)
            if pid:
                self._child = 0
        if self._child:
            self._journal.error("pipeline.killed", reason="it did not end in time")
            os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)
            self._child = 0
        self._forget_channel()

    def _drain_wakeups(self) -> None:
        """Takes what select() would report again and again while the child ends; signals wait until it has ended."""
        for key in list(self._selector.get_map().values()):
            if self._channel is not None and key.fd == self._channel.fileno():
                for _ in self._channel.receive():
                    pass
                if self._channel.closed:
                    self._forget_channel()
            elif key.fd in self._watched:
                self._apply(self._table.process())
            else:
                with contextlib.suppress(BlockingIOError):
                    self._postponed += os.read(key.fd, 4096)


def _switched_off(probe: str) -> str:
    return "probes.tls_plaintext is off" if probe == "tls_plaintext" else f"probes.{probe}.enabled is false"


def _close_files(files: list[Files]) -> None:
    for _, _, fds in files:
        for fd in fds.values():
            os.close(fd)


def _describe(interface: Interface, hooks: dict[str, str] | None) -> dict[str, Any]:
    row = {name: getattr(interface, name) for name in Interface.__dataclass_fields__ if name != "address"}
    return {**row, "hooks": hooks}


def _same_numbers(old: InterfaceTable, new: InterfaceTable) -> bool:
    """Whether each number stands for one namespace in both: the kernel's keys hold the number."""
    return all(
        new.namespaces[number].identity == namespace.identity
        for number, namespace in old.namespaces.items()
        if number in new.namespaces
    )

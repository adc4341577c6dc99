"""Whose connection it is: what the kernel said about a process, and procfs where the process is still there, to a resource.

A process is known by its number, the time it began, its executable and its cgroup. That the number belongs to the one that is meant is
told by the times: who began after the connection did is another one. Of a process that has gone before it was read the kernel's own
words are left: number, name of the thread and cgroup. Nothing waits: one call reads a bounded number of processes.

The numbers of processes are those of the first PID namespace, as the kernel gives them: a procfs that shows others is not read.
"""

from __future__ import annotations

import bisect
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.enrich.cgroups import Cgroups
from otel_netmon.enrich.containers import NOWHERE, parse_cgroups, place_all
from otel_netmon.enrich.identities import IDENTITIES_MAX, Identities, Identity, first_unused, number_of
from otel_netmon.readers.procfs import Process, Stat, read_process, read_stat, shows_all_processes
from otel_netmon.selfmon.status import StageStatus

READS_PER_CALL = 500
"""Processes read from procfs in one ``identify``: 25 ms."""
NAMES_MAX = 8
"""Names of threads that are remembered of one process."""
SURE_NS = 1_000_000_000
"""The number of a process is not given to another one within this time."""
_CLOCK_STEP_NS = 1_000_000
_OFFSETS_MAX = 16


@dataclass(slots=True)
class ProcessCounts:
    """What became of look-ups.

    Attributes:
        read: processes read from procfs.
        vanished: they had gone: what the kernel said is all that is known.
        reused: their number belonged to another process meanwhile, likewise.
        refused: read, but executable and network namespace may not be.
        postponed: not looked up because the call had read as many as it may; what the kernel said was taken.
    """

    read: int = 0
    vanished: int = 0
    reused: int = 0
    refused: int = 0
    postponed: int = 0

    def stage(self) -> StageStatus:
        """Look-ups by what became of them; of those that are dropped not all is known that could be."""
        dropped = {name: getattr(self, name) for name in ("vanished", "reused", "refused", "postponed")}
        return StageStatus(delivered=self.read - self.refused, dropped=dropped)


@dataclass(slots=True)
class _Seen:
    """A process that was read; times are CLOCK_MONOTONIC in ns."""

    identity: Identity
    stat: Stat
    began_ns: int
    verified_ns: int
    names: set[str] = field(default_factory=set)


class Processes(Identities):
    """Identities by number, bounded.

    Args:
        cgroups: paths of cgroups; ``identify`` lets it walk on.
        proc: where procfs is mounted. One that does not show all processes of the host has other numbers and is not read.
        reads_per_call: see ``READS_PER_CALL``.
        identities_max: see ``Identities``; of the processes that were looked up as many are remembered.
        clocks: gives CLOCK_MONOTONIC and CLOCK_BOOTTIME in ns.
    """

    def __init__(
        self,
        cgroups: Cgroups,
        proc: Path = Path("/proc"),
        reads_per_call: int = READS_PER_CALL,
        identities_max: int = IDENTITIES_MAX,
        clocks: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        super().__init__(identities_max)
        self._cgroups = cgroups
        self._proc = proc
        self._reads_per_call = reads_per_call
        self._clocks = clocks or _clocks
        self._tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
        self._left = 0
        self._now = 0
        self._offsets: list[tuple[int, int]] = []  # since when the one clock is ahead of the other by how much
        self._seen: dict[tuple[int, int], _Seen] = {}  # by pid and cgroup
        self._tried: dict[tuple[int, int], int] = {}  # when they were not there
        self.readable = shows_all_processes(proc)
        self.counts = ProcessCounts()

    def identify(
        self,
        tgids: npt.NDArray[np.integer[Any]],
        begun_ns: npt.NDArray[np.integer[Any]],
        commands: npt.NDArray[Any],
        cgroups: npt.NDArray[np.integer[Any]],
    ) -> npt.NDArray[np.uint64]:
        """Gives the number of the identity of each row, 0 where nothing at all is known of it; shape (n,).

        Args:
            tgids: number of the process in the first PID namespace; 0 where the kernel did not know it.
            begun_ns: when the process did what the row is about, CLOCK_MONOTONIC.
            commands: S16, or uint8 of shape (n, 16): bpf_get_current_comm().
            cgroups: cgroup v2 identifiers, 0 where the kernel did not know it.
        """
        self._begin_call()
        names = np.ascontiguousarray(commands).view("S16").reshape(-1).tolist() if len(tgids) else []
        pids, said = tgids.tolist(), [_text(name) for name in names]
        rows = list(zip(pids, begun_ns.tolist(), said, cgroups.tolist(), strict=True))
        found = [self._find(*row) for row in rows]
        # Only now, when procfs has told what it knows: a cgroup that is asked for makes the whole hierarchy be walked.
        for seen, cgroup in zip(found, cgroups.tolist(), strict=True):
            if seen is None:
                self._cgroups.path(cgroup)
        self._cgroups.advance(self._now / 1e9)
        numbers = [
            self.keep(seen.identity) if seen is not None else self._said(pid, command, cgroup)
            for seen, (pid, _, command, cgroup) in zip(found, rows, strict=True)
        ]
        return np.array(numbers, np.uint64)

    def _begin_call(self) -> None:
        self.trim()
        for table in (self._seen, self._tried):
            for key in first_unused(table, self._identities_max):
                del table[key]
        self._left = self._reads_per_call
        self._now, boot_ns = self._clocks()
        offset = boot_ns - self._now
        if not self._offsets or abs(offset - self._offsets[-1][1]) > _CLOCK_STEP_NS:
            self._offsets.append((self._now if self._offsets else 0, offset))
            del self._offsets[:-_OFFSETS_MAX]

    def _find(self, pid: int, begun_ns: int, command: str, cgroup: int) -> _Seen | None:
        """The process, as it was read; None where nothing but the kernel's words is known."""
        if pid == 0:
            return None
        seen = self._seen.get((pid, cgroup))
        if seen is not None and begun_ns > seen.verified_ns:
            seen = self._verified(pid, cgroup, seen, begun_ns, command)
        elif seen is None:
            seen = self._looked_up(pid, cgroup, begun_ns)
        if seen is not None and begun_ns < seen.began_ns:
            self.counts.reused += 1
            return None
        if seen is not None and len(seen.names) < NAMES_MAX:
            seen.names.add(command)
        return seen

    def _looked_up(self, pid: int, cgroup: int, begun_ns: int) -> _Seen | None:
        """Reads a process that is not known; None where it is not there."""
        if not self.readable or begun_ns <= self._tried.get((pid, cgroup), -1):
            return None
        if self._left == 0:
            self.counts.postponed += 1
            return None
        self._left -= 1
        process = read_process(self._proc, pid)
        if process is None:
            self.counts.vanished += 1
            self._tried.pop((pid, cgroup), None)
            self._tried[pid, cgroup] = self._now
            return None
        self.counts.read += 1
        self.counts.refused += process.refused
        identity = self._identity_of(pid, process, cgroup)
        seen = _Seen(identity, process.stat, self._began_ns(process.stat), self._now)
        self._seen[pid, cgroup] = seen
        return seen

    def _verified(self, pid: int, cgroup: int, seen: _Seen, begun_ns: int, command: str) -> _Seen | None:
        """The same process, or the one that has its number now, or what it has become by execve(2); None if none is there."""
        if self._left == 0:
            self.counts.postponed += 1
        else:
            self._left -= 1
            stat = read_stat(self._proc, pid)
            if stat == seen.stat:
                self._seen.pop((pid, cgroup))
                self._seen[pid, cgroup] = seen
                seen.verified_ns = self._now
                return seen
            if stat is not None:
                self._left += 1
                there_now = self._looked_up(pid, cgroup, begun_ns)
                if there_now is not None and begun_ns >= there_now.began_ns:
                    return there_now
        # It had gone then, or nobody looked: it was the same one where it had that name, or was there a moment before.
        if command in seen.names or command == seen.stat.comm or begun_ns - seen.verified_ns < SURE_NS:
            return seen
        return None

    def _began_ns(self, stat: Stat) -> int:
        """CLOCK_MONOTONIC at which a process began, less a tick: the kernel rounds down, and two clocks are compared."""
        boot_ns = stat.start_ticks * self._tick_ns
        since = [monotonic + offset for monotonic, offset in self._offsets]
        _, offset = self._offsets[max(0, bisect.bisect_right(since, boot_ns) - 1)]
        return boot_ns - offset - self._tick_ns

    # ---- identities

    def _identity_of(self, pid: int, process: Process, cgroup: int) -> Identity:
        paths = parse_cgroups(process.cgroups)
        if "" in paths and self._cgroups.path(cgroup) is None:
            self._cgroups.learn(paths[""])
        path = self._cgroups.path(cgroup)
        if path is not None:
            paths[""] = path  # where it was then
        stat = process.stat
        number = number_of("process", pid, stat.start_ticks, process.executable, cgroup)
        return Identity(
            number=number,
            pid=pid,
            command=stat.comm,
            start_ticks=stat.start_ticks,
            executable=process.executable,
            namespace_pid=process.namespace_pid if process.namespace_pid != pid else 0,
            network_namespace=process.network_namespace,
            kernel_thread=stat.kernel_thread,
            placement=place_all(paths),
        )

    def _said(self, pid: int, command: str, cgroup: int) -> int:
        """The identity of a process of which only the kernel's words are left; 0 where they say nothing."""
        if pid == 0:
            return self._of_cgroup(cgroup)
        number = number_of("said", pid, command, cgroup)
        known = self._identities.get(number)
        if known is None or (known.placement == NOWHERE and number not in self._resources):
            known = Identity(number, pid, command, placement=self._cgroups.placement(cgroup))
        return self.keep(known)

    def _of_cgroup(self, cgroup: int) -> int:
        """The identity of a cgroup whose process is not known; 0 where its path tells nothing."""
        placement = self._cgroups.placement(cgroup)
        identity = Identity(number_of("cgroup", cgroup), placement=placement)
        return self.keep(identity) if identity.resource().keys() - {"service.name"} else 0


def _text(command: bytes) -> str:
    return command.split(b"\0", 1)[0].decode(errors="surrogateescape")


def _clocks() -> tuple[int, int]:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC), time.clock_gettime_ns(time.CLOCK_BOOTTIME)

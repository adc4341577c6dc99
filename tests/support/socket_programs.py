"""socket_monitor at a cgroup made for a test, and processes in cgroups and network namespaces of their own."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.abi.enums import ConnectionCount, Ending, Late, Role
from otel_netmon.cgroup_attachments import ORDER
from otel_netmon.enrich.addresses import address_text
from otel_netmon.kernel import image, links, loader, syscalls
from otel_netmon.kernel.cgroup import find_cgroup2
from otel_netmon.readers.connections import ConnectionCounts, tcp_reader, udp_reader
from support.netns import NetNs
from support.programs import shipped

Rows = npt.NDArray[Any]
DEADLINE_SECONDS = 20.0
TESTS = Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def cgroup(parent: Path | None = None, name: str = "") -> Iterator[Path]:
    """A new cgroup v2, below another or the root."""
    made = (parent or root_cgroup()) / (name or f"nm{secrets.token_hex(5)}")
    made.mkdir()
    try:
        yield made
    finally:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                made.rmdir()
                break
            except OSError:  # its last process is going
                assert time.monotonic() < deadline
                time.sleep(0.01)


def root_cgroup() -> Path:
    """The cgroup that every process is below, and every socket of the kernel in."""
    mount = find_cgroup2()
    assert mount is not None
    return Path(mount.path)


@contextlib.contextmanager
def inside_cgroup(folder: Path) -> Iterator[None]:
    """This process is in that cgroup: so are the sockets it makes."""
    mount = find_cgroup2()
    assert mount is not None
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    home = mount.folder(next(line[3:] for line in lines if line.startswith("0::")))
    assert home is not None
    (folder / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield
    finally:
        (Path(home) / "cgroup.procs").write_text(str(os.getpid()))


class SocketPrograms:
    """socket_monitor, attached to a cgroup as long as this lives.

    Args:
        folder: of the cgroup.
        sizes: of maps by name.
        hooks: programs that are attached.
        late: late constants.
        shared: maps of another image by name.

    Attributes:
        processes: only their connections are told; None: all.
    """

    def __init__(
        self,
        folder: Path,
        *,
        sizes: Mapping[str, int] | None = None,
        hooks: tuple[str, ...] = ORDER,
        late: Mapping[Late, int] | None = None,
        shared: Mapping[str, int] | None = None,
    ) -> None:
        loader.raise_memlock()
        chosen = {"connections": 1 << 23, "udp_records": 1 << 20, **(sizes or {})}
        self.loaded = loader.LoadedImage(shipped("socket_monitor"), chosen, shared=shared)
        self.maps = {name: (fd, self.loaded.definitions[name].max_entries) for name, fd in self.loaded.maps.items()}
        self._links = []
        fd = os.open(folder, os.O_RDONLY)
        try:
            for name in hooks:
                self._links.append(links.attach_cgroup(fd, image.CGROUP_HOOKS[name], self.loaded.program(name, late)))
        finally:
            os.close(fd)
        self.tcp, self.udp = tcp_reader(self.maps), udp_reader(self.maps)
        self._counts = ConnectionCounts(self.maps, syscalls.possible_cpus())
        self.processes: set[int] | None = None
        self.records: list[Rows] = []

    def ended(self) -> Rows:
        """Every connection that has ended so far, the listeners aside."""
        self.records += [self.tcp.drain(), self.tcp.read().ended]
        rows = np.concatenate(self.records)
        return self._of_interest(rows[rows["role"] != Role.LISTENER])

    def wait_ended(self, count: int) -> Rows:
        """The records of so many connections; fails if there come more, or fewer in time."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while len(rows := self.ended()) < count:
            assert time.monotonic() < deadline, f"{len(rows)} of {count} have ended"
            time.sleep(0.02)
        assert len(rows) == count
        return rows

    def forget(self) -> None:
        """Begins anew: what has ended is not told again."""
        self.ended()
        self.records.clear()

    def live(self) -> Rows:
        """The rows of connections, those of listeners and of sockets that are only bound aside."""
        rows = self.tcp.read().live
        return self._of_interest(rows[(rows["role"] == Role.CLIENT) | (rows["role"] == Role.SERVER)])

    def _of_interest(self, rows: Rows) -> Rows:
        return rows if self.processes is None else rows[np.isin(rows["tgid"], list(self.processes))]

    def wait_live(self, condition: Callable[[Rows], bool]) -> Rows:
        """The rows, once they are as they should be."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition(rows := self.live()):
            assert time.monotonic() < deadline, [describe(row) for row in rows]
            time.sleep(0.02)
        return rows

    def counts(self) -> dict[ConnectionCount, int]:
        """connection_counts."""
        return self._counts.read()

    def totals(self) -> Rows:
        """connection_totals."""
        return self._counts.totals()

    def close(self) -> None:
        for link in self._links:
            os.close(link)
        self.tcp.close()
        self.udp.close()
        self.loaded.close()


@contextlib.contextmanager
def socket_programs(folder: Path, **arguments: Any) -> Iterator[SocketPrograms]:
    """The programs at a cgroup, gone at the end."""
    programs = SocketPrograms(folder, **arguments)
    try:
        yield programs
    finally:
        programs.close()


@contextlib.contextmanager
def observed(**arguments: Any) -> Iterator[SocketPrograms]:
    """The programs at a cgroup that this process is in."""
    with cgroup() as folder, inside_cgroup(folder), socket_programs(folder, **arguments) as programs:
        yield programs


def describe(row: Any) -> dict[str, Any]:
    """A row as a person reads it, for what a failed test prints."""
    ends = {end: f"{address_text(bytes(row[end]))} {int(row[f'{end}_port'])}" for end in ("local", "remote")}
    shown = ("state", "previous_state", "bytes_received", "bytes_sent", "tgid", "flags", "released", "reset_received")
    return {
        "role": Role(int(row["role"])).name,
        "ending": Ending(int(row["ending"])).name,
        **ends,
        **{name: int(row[name]) for name in shown},
    }


class Worker:
    """A process that opens sockets as it is told, see ``support.socket_worker``."""

    def __init__(self, folder: Path, netns: NetNs) -> None:
        script = f'echo $$ > "{folder}/cgroup.procs" && exec "$@"'
        command = netns.command("sh", "-c", script, "sh", sys.executable, "-m", "support.socket_worker")
        environment = {**os.environ, "PYTHONPATH": str(TESTS)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.cgroup = folder.stat().st_ino
        self.pid: int = self._answer()["pid"]

    def tell(self, do: str, **arguments: Any) -> None:
        """Gives an order; ``done`` waits for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()

    def done(self) -> dict[str, Any]:
        """The answer to the last order."""
        return self._answer()

    def do(self, order: str, **arguments: Any) -> dict[str, Any]:
        """Gives an order and waits for the answer."""
        self.tell(order, **arguments)
        return self.done()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the process has ended: {self._process.wait()}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


@contextlib.contextmanager
def worker(folder: Path, netns: NetNs) -> Iterator[Worker]:
    """A worker, gone at the end."""
    made = Worker(folder, netns)
    try:
        yield made
    finally:
        made.end()

"""Processes of this host, in cgroups and PID namespaces made for the test."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from otel_netmon.enrich.cgroups import Cgroups
from otel_netmon.enrich.identities import Identity
from otel_netmon.enrich.processes import Processes
from otel_netmon.kernel.cgroup import CgroupMount, find_cgroup2
from otel_netmon.readers.procfs import read_process

pytestmark = pytest.mark.kernel

CONTAINER = secrets.token_hex(32)
DEADLINE_SECONDS = 10.0


@pytest.fixture
def mount() -> CgroupMount:
    found = find_cgroup2()
    assert found is not None
    return found


@contextlib.contextmanager
def cgroup(mount: CgroupMount, path: str) -> Iterator[Path]:
    made = Path(f"{mount.path}{path}")
    made.mkdir()
    try:
        yield made
    finally:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while "populated 0" not in (made / "cgroup.events").read_text():  # who was killed has not left yet
            assert time.monotonic() < deadline
        made.rmdir()


@contextlib.contextmanager
def running(folder: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is in a cgroup before it runs the command."""
    child = subprocess.Popen(["sh", "-c", f'echo $$ > "{folder}/cgroup.procs" && exec "$@"', "sh", *command])
    try:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while Path(f"/proc/{child.pid}/comm").read_text() != f"{command[0]}\n":
            assert time.monotonic() < deadline
        yield child
    finally:
        child.kill()
        child.wait()


def identify(processes: Processes, pid: int, comm: bytes, cgroup_id: int) -> Identity:
    numbers = processes.identify(
        np.array([pid], np.uint32),
        np.array([time.monotonic_ns()], np.uint64),
        np.array([comm], "S16"),
        np.array([cgroup_id], np.uint64),
    )
    return processes.identity(int(numbers[0]))


def test_a_process_in_a_container(mount: CgroupMount) -> None:
    processes = Processes(Cgroups(mount))
    assert processes.readable
    with cgroup(mount, f"/docker-{CONTAINER}.scope") as folder, running(folder, "sleep", "60") as child:
        identity = identify(processes, child.pid, b"sleep", folder.stat().st_ino)
    assert identity.container == CONTAINER
    assert identity.placement.runtime == "docker"
    assert os.path.basename(identity.executable) in ("sleep", "coreutils", "busybox")
    assert identity.network_namespace == os.stat("/proc/self/ns/net").st_ino
    assert identity.namespace_pid == 0


def test_a_process_that_has_gone_before_it_was_read(mount: CgroupMount) -> None:
    processes = Processes(Cgroups(mount))
    with cgroup(mount, f"/libpod-{CONTAINER}.scope") as folder:
        with running(folder, "sleep", "60") as child:
            pass
        identity = identify(processes, child.pid, b"sleep", folder.stat().st_ino)
    assert (identity.executable, identity.command, identity.container) == ("", "sleep", CONTAINER)


def test_the_number_in_a_pid_namespace(mount: CgroupMount) -> None:
    processes = Processes(Cgroups(mount))
    with cgroup(mount, f"/crio-{CONTAINER}.scope") as folder:
        with running(folder, "unshare", "--pid", "--fork", "--kill-child", "sleep", "60") as outer:
            deadline = time.monotonic() + DEADLINE_SECONDS
            children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
            while not children.read_text():
                assert time.monotonic() < deadline
            pid = int(children.read_text())
            while Path(f"/proc/{pid}/comm").read_text() != "sleep\n":  # only then will it end with its parent
                assert time.monotonic() < deadline
            identity = identify(processes, pid, b"sleep", folder.stat().st_ino)
        while read_process(Path("/proc"), pid) is not None:
            assert time.monotonic() < deadline
    assert (identity.pid, identity.namespace_pid) == (pid, 1)
    assert identity.resource()["process.vpid"] == 1
    assert identity.container == CONTAINER


def test_the_start_is_measured_by_the_clock_of_the_hooks(mount: CgroupMount) -> None:
    processes = Processes(Cgroups(mount))
    before = time.monotonic_ns()
    with cgroup(mount, f"/nerdctl-{CONTAINER}.scope") as folder, running(folder, "sleep", "60") as child:
        after = time.monotonic_ns()
        identify(processes, child.pid, b"sleep", folder.stat().st_ino)
        tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
        (seen,) = processes._seen.values()
        assert before - 2 * tick <= seen.began_ns <= after


def test_every_process_of_this_host(mount: CgroupMount) -> None:
    processes = Processes(Cgroups(mount), reads_per_call=1 << 20)
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    rows = np.array(pids, np.uint32)
    zeros = np.zeros(len(pids), np.uint64)
    numbers = processes.identify(rows, zeros + np.uint64(time.monotonic_ns()), np.full(len(pids), b"x", "S16"), zeros)
    assert processes.counts.read + processes.counts.vanished == len(pids)
    assert processes.counts.read > 1
    assert processes.counts.reused == processes.counts.postponed == 0
    own = processes.identity(int(numbers[pids.index(os.getpid())]))
    assert own.executable == os.readlink("/proc/self/exe")
    assert processes.identity(int(numbers[pids.index(2)])).service == "kernel"

"""Processes by number and time, in a procfs of plain files with clocks that the test moves."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from otel_netmon.enrich.cgroups import Cgroups
from otel_netmon.enrich.identities import Identity
from otel_netmon.enrich.processes import NAMES_MAX, SURE_NS, Processes
from otel_netmon.kernel.cgroup import CgroupMount
from support.processes import fake_process, fake_procfs

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
SECOND = 1_000_000_000
ID = "6dc3fdffbf66b1239d55e98da9aaa759ea51ed35d04eb09d19ebd78963aa26c2"
EXECUTABLE = "/usr/sbin/nginx"


class Host:
    """A procfs, a cgroup hierarchy and clocks."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.proc = fake_procfs(folder / "proc")
        self.hierarchy = folder / "cgroup"
        self.hierarchy.mkdir()
        self.monotonic = 1000 * SECOND
        self.asleep = 0
        self.cgroups = Cgroups(CgroupMount(str(self.hierarchy), "/"))
        self.processes = Processes(
            self.cgroups, self.proc, clocks=lambda: (self.monotonic, self.monotonic + self.asleep), **options
        )

    def cgroup(self, path: str) -> int:
        folder = self.hierarchy / path
        folder.mkdir(parents=True)
        return folder.stat().st_ino

    def start(self, pid: int, comm: bytes = b"nginx", path: str = "/", executable: str = EXECUTABLE) -> None:
        """A process that begins now."""
        ticks = (self.monotonic + self.asleep) // TICK_NS
        fake_process(
            self.proc, pid, comm=comm, start_ticks=ticks, executable=executable, cgroups=f"0::{path}\n".encode()
        )

    def end(self, pid: int) -> None:
        shutil.rmtree(self.proc / str(pid))

    def wait(self, seconds: float) -> None:
        self.monotonic += round(seconds * SECOND)

    def identify(self, *rows: tuple[int, int, bytes, int]) -> list[Identity | None]:
        pids, begun, commands, cgroups = zip(*rows, strict=True)
        numbers = self.processes.identify(
            np.array(pids, np.uint32),
            np.array(begun, np.uint64),
            np.array(commands, "S16"),
            np.array(cgroups, np.uint64),
        )
        assert numbers.dtype == np.uint64
        return [self.processes.identity(number) if number else None for number in numbers.tolist()]

    def who(self, pid: int, begun: int | None = None, comm: bytes = b"nginx", cgroup: int = 0) -> Identity:
        found = self.identify((pid, self.monotonic if begun is None else begun, comm, cgroup))[0]
        assert found is not None
        return found


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_process_that_is_there_is_told_whole(host: Host) -> None:
    cgroup = host.cgroup(f"docker/{ID}")
    host.start(42, path=f"/docker/{ID}")
    host.wait(5)
    identity = host.who(42, comm=b"nginx worker", cgroup=cgroup)
    assert (identity.pid, identity.command, identity.executable) == (42, "nginx", EXECUTABLE)
    assert identity.namespace_pid == 3
    assert identity.network_namespace == (host.proc / "42" / "ns" / "net").stat().st_ino
    assert identity.container == ID
    assert host.cgroups.counts.folders == 0  # procfs told the path
    assert host.processes.counts.read == 1


def test_it_is_read_once_and_then_only_whether_it_is_the_same(host: Host) -> None:
    host.start(42)
    first = host.who(42)
    for _ in range(23):
        host.wait(1)
        assert host.who(42) == first
        assert host.who(42, begun=host.monotonic - SECOND // 2) == first
    assert host.processes.counts.read == 1


def test_what_began_before_the_process_is_not_its_own(host: Host) -> None:
    begun = host.monotonic
    host.wait(10)
    host.start(42)
    host.wait(1)
    earlier = host.who(42, begun, b"curl")
    assert (earlier.pid, earlier.command, earlier.executable, earlier.start_ticks) == (42, "curl", "", 0)
    assert host.processes.counts.reused == 1
    assert host.who(42).executable == EXECUTABLE


def test_what_began_with_the_process_is_its_own(host: Host) -> None:
    host.start(42)  # its start is rounded down by less than a tick
    assert host.who(42).executable == EXECUTABLE


def test_a_number_that_was_given_to_another_process(host: Host) -> None:
    host.start(42)
    first = host.who(42)
    host.wait(100)
    host.end(42)
    host.start(42, b"curl", executable="/usr/bin/curl")
    host.wait(1)
    second = host.who(42, comm=b"curl")
    assert second.executable == "/usr/bin/curl"
    assert second.number != first.number
    # What is told late of the first one: it had that name, and the second was not there yet.
    assert host.who(42, host.monotonic - 50 * SECOND, b"nginx").executable == ""


def test_a_number_that_was_given_to_another_process_of_that_name(host: Host) -> None:
    host.start(42)
    first = host.who(42)
    host.wait(100)
    host.start(42)
    second = host.who(42)
    assert second.number != first.number
    assert second.start_ticks > first.start_ticks


def test_a_process_that_becomes_another_program(host: Host) -> None:
    host.start(42, b"sh", executable="/bin/sh")
    first = host.who(42, comm=b"sh")
    ticks = first.start_ticks
    host.wait(1)
    fake_process(host.proc, 42, comm=b"nginx", start_ticks=ticks, executable=EXECUTABLE)
    second = host.who(42)
    assert (second.executable, second.start_ticks) == (EXECUTABLE, ticks)
    assert second.number != first.number


def test_a_process_that_has_gone_keeps_what_was_known_of_it(host: Host) -> None:
    host.start(42)
    first = host.who(42)
    host.end(42)
    host.wait(0.5)
    assert host.who(42, comm=b"some thread") == first  # its number cannot have been given away so soon
    host.wait(100)
    assert host.who(42, comm=b"nginx") == first
    assert host.who(42, comm=b"some thread") == first  # a name that was seen
    stranger = host.who(42, comm=b"curl")
    assert (stranger.executable, stranger.command) == ("", "curl")


def test_a_process_that_was_never_read_keeps_what_the_kernel_said(host: Host) -> None:
    cgroup = host.cgroup(f"system.slice/docker-{ID}.scope")
    identity = host.who(42, comm=b"curl", cgroup=cgroup)
    assert (identity.pid, identity.command, identity.executable) == (42, "curl", "")
    assert identity.container == ID  # found by a walk
    assert identity.service == "curl"
    assert host.who(42, comm=b"curl", cgroup=cgroup) == identity
    assert host.who(42, comm=b"wget", cgroup=cgroup).number != identity.number
    assert host.processes.counts.vanished == 1  # it was not there a moment ago, so it is not looked for again
    host.wait(1)
    host.who(42, comm=b"curl", cgroup=cgroup)
    assert host.processes.counts.vanished == 2


def test_a_cgroup_that_is_found_later(host: Host) -> None:
    first = host.cgroup("a.slice")
    host.who(41, cgroup=first)  # makes the hierarchy be walked
    cgroup = host.cgroup(f"docker/{ID}")
    assert host.who(42, comm=b"curl", cgroup=cgroup).container == ""  # the next walk waits
    host.wait(2)
    assert host.who(42, comm=b"curl", cgroup=cgroup).container == ID
    number = host.who(43, comm=b"curl", cgroup=7).number
    host.processes.resource(number)
    assert host.who(43, comm=b"curl", cgroup=7).number == number


def test_a_cgroup_without_a_process(host: Host) -> None:
    service = host.cgroup("system.slice/web.service")
    nothing = host.cgroup("a")
    found = host.identify((0, 0, b"", service), (0, 0, b"swapper/0", nothing), (0, 0, b"", 0), (0, 0, b"", 4711))
    assert [identity.service if identity else None for identity in found] == ["web", None, None, None]
    assert found[0] is not None
    assert found[0].resource() == {"service.name": "web", "netmon.systemd.unit": "web.service"}


def test_where_it_was_then_counts_and_not_where_it_is(host: Host) -> None:
    before = host.cgroup("system.slice/web.service")
    host.cgroup("system.slice/other.service")
    host.who(1, cgroup=before)
    host.start(42, path="/system.slice/other.service")
    assert host.who(42, cgroup=before).placement.unit == "web.service"


def test_a_process_of_a_hybrid_host_is_placed_by_version_1(host: Host) -> None:
    root = host.hierarchy.stat().st_ino
    ticks = host.monotonic // TICK_NS
    cgroups = f"12:pids:/docker/{ID}\n1:name=systemd:/docker/{ID}\n0::/\n".encode()
    fake_process(host.proc, 42, comm=b"nginx", start_ticks=ticks, executable=EXECUTABLE, cgroups=cgroups)
    assert host.who(42, cgroup=root).container == ID


def test_a_kernel_thread(host: Host) -> None:
    fake_process(host.proc, 77, comm=b"kworker/0:1", start_ticks=1, kernel_thread=True)
    assert host.who(77, comm=b"kworker/0:1").service == "kernel"


def test_one_call_reads_so_many(tmp_path: Path) -> None:
    host = Host(tmp_path, reads_per_call=7)
    for pid in range(100, 123):
        host.start(pid)
    rows = [(pid, host.monotonic, b"nginx", 0) for pid in range(100, 123)]
    found = host.identify(*rows)
    assert [bool(identity and identity.executable) for identity in found] == [True] * 7 + [False] * 16
    assert host.processes.counts.postponed == 16
    for _ in range(3):
        found = host.identify(*rows)
    assert all(identity and identity.executable for identity in found)
    assert host.processes.counts.read == 23
    host.wait(1)
    later = [(pid, host.monotonic, b"nginx", 0) for pid in range(100, 123)]
    assert host.identify(*later) == found  # 16 of them without a look: they have that name
    assert host.processes.counts.postponed == 16 + 9 + 2 + 16
    dropped = {"vanished": 0, "reused": 0, "refused": 0, "postponed": 43}
    assert host.processes.counts.stage() == {"delivered": 23, "dropped": dropped}


def test_clocks_that_part_while_the_host_sleeps(host: Host) -> None:
    host.who(1)
    host.start(42)
    host.wait(10)
    begun = host.monotonic
    host.wait(10)
    host.asleep = 3600 * SECOND
    assert host.who(42, begun).executable == EXECUTABLE
    host.wait(10)
    host.start(43)
    assert host.who(43, begun, b"curl").executable == ""  # an hour later by one clock, after it by the other
    host.wait(1)
    assert host.who(43).executable == EXECUTABLE


def test_another_pid_namespace_is_not_read(tmp_path: Path) -> None:
    fake_process(tmp_path, 42, comm=b"nginx", start_ticks=1, executable=EXECUTABLE)
    processes = Processes(Cgroups(None), tmp_path)
    assert not processes.readable
    numbers = processes.identify(
        np.array([42], np.uint32), np.array([1 << 60], np.uint64), np.array([b"nginx"], "S16"), np.zeros(1, np.uint64)
    )
    assert processes.identity(int(numbers[0])).executable == ""


def test_names_as_bytes_and_as_columns(host: Host) -> None:
    names = np.zeros((2, 16), np.uint8)
    names[0, :5] = np.frombuffer(b"a\xffb\0c", np.uint8)
    names[1] = np.frombuffer(b"sixteen bytes...", np.uint8)
    zeros = np.zeros(2, np.uint64)
    numbers = host.processes.identify(np.array([1, 1], np.uint32), zeros, names, zeros).tolist()
    assert [host.processes.identity(number).command for number in numbers] == ["a\udcffb", "sixteen bytes..."]
    assert host.processes.identify(zeros[:0], zeros[:0], names[:0], zeros[:0]).shape == (0,)


def test_it_is_bounded(tmp_path: Path) -> None:
    host = Host(tmp_path, identities_max=10)
    for pid in range(100, 150):
        host.wait(1)
        if pid % 2:
            host.start(pid)
        host.who(pid)
    for table in (host.processes._seen, host.processes._tried, host.processes._identities):
        assert len(table) <= 11
    host.start(99)
    for number in range(50):
        host.who(99, comm=b"thread %d" % number)
    (seen,) = [seen for key, seen in host.processes._seen.items() if key[0] == 99]
    assert len(seen.names) == NAMES_MAX
    assert SURE_NS == SECOND

"""What procfs tells of a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from otel_netmon.readers.procfs import (
    Stat,
    parse_namespace_pid,
    parse_stat,
    read_process,
    read_stat,
    shows_all_processes,
)
from support.processes import fake_process, stat_text

PROC = Path("/proc")
NOBODY = 4_194_305  # above the largest number that a process can have (PID_MAX_LIMIT)


@pytest.mark.parametrize(
    "comm", [b"nginx", b"a b", b"a) R 1 (b", b"(sd-pam)", b"x\ny", b"\xff\xfe", b"", b") S 0 0 0 0 0 0 0 0"]
)
def test_a_process_may_have_any_name(comm: bytes) -> None:
    assert parse_stat(stat_text(42, comm, 2338605)) == Stat(comm.decode(errors="surrogateescape"), 2338605, False)


def test_kernel_threads_are_told() -> None:
    assert parse_stat(stat_text(2, b"kthreadd", 24, kernel_thread=True)) == Stat("kthreadd", 24, True)


@pytest.mark.parametrize(
    "text", [b"", b"42", b"42 (", b"42 (x", b"42 )x( S", b"42 (x) S 1 2 3", b"42 (x) " + b"z " * 50]
)
def test_what_is_no_stat_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"/proc/PID/stat|invalid literal"):
        parse_stat(text)


@pytest.mark.parametrize(
    ("status", "pid"),
    [
        (b"Name:\tx\nNSpid:\t42\nThreads:\t1\n", 42),
        (b"NSpid:\t42\t7\t1\n", 1),
        (b"Name:\tNSpid:\t9\nPid:\t3\n", 0),  # before it was there
        (b"NSpid:\n", 0),
        (b"NSpid:\tx\n", 0),
        (b"", 0),
    ],
)
def test_the_number_in_its_own_namespace(status: bytes, pid: int) -> None:
    assert parse_namespace_pid(status) == pid


def test_this_process() -> None:
    process = read_process(PROC, os.getpid())
    assert process is not None
    assert process.executable == os.path.realpath(sys.executable)
    assert process.network_namespace == os.stat("/proc/self/ns/net").st_ino
    assert process.cgroups == Path("/proc/self/cgroup").read_bytes()
    assert process.stat.comm == Path("/proc/self/comm").read_text().removesuffix("\n")
    assert process.stat == read_stat(PROC, os.getpid())
    assert not process.stat.kernel_thread
    assert not process.refused
    assert process.namespace_pid == os.getpid()


def test_the_start_tells_processes_apart() -> None:
    boot_ticks = int(float(Path("/proc/uptime").read_text().split()[0]) * os.sysconf("SC_CLK_TCK"))
    with subprocess.Popen(["sleep", "60"]) as child:
        stat = read_stat(PROC, child.pid)
        child.kill()
    assert stat is not None
    assert boot_ticks - 1 <= stat.start_ticks <= boot_ticks + 100 * os.sysconf("SC_CLK_TCK")
    assert read_stat(PROC, child.pid) is None
    assert read_process(PROC, child.pid) is None


def test_nobody() -> None:
    assert read_stat(PROC, NOBODY) is None
    assert read_process(PROC, NOBODY) is None


def test_an_executable_that_was_deleted(tmp_path: Path) -> None:
    copy = tmp_path / "my sleep"
    copy.write_bytes(Path("/bin/sleep").resolve().read_bytes())
    copy.chmod(0o755)
    with subprocess.Popen([copy, "60"]) as child:
        copy.unlink()
        process = read_process(PROC, child.pid)
        child.kill()
    assert process is not None
    assert process.executable == str(copy)


@pytest.mark.kernel
def test_a_kernel_thread() -> None:
    process = read_process(PROC, 2)
    assert process is not None
    assert process.executable == ""
    assert process.stat.kernel_thread


@pytest.mark.kernel
def test_what_an_unprivileged_reader_may_not_read_is_left_out() -> None:
    script = (
        "import os, sys; from pathlib import Path; from otel_netmon.readers.procfs import *;"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); print(repr(read_process(Path('/proc'), int(sys.argv[1]))))"
    )
    output = subprocess.run(
        [sys.executable, "-c", script, str(os.getpid())], capture_output=True, text=True, check=True
    )
    own = read_process(PROC, os.getpid())
    assert own is not None
    hidden = own._replace(executable="", network_namespace=0, refused=True)
    assert output.stdout.strip() == repr(hidden)


def test_a_procfs_of_another_namespace_is_told(tmp_path: Path) -> None:
    assert not shows_all_processes(tmp_path)
    fake_process(tmp_path, 2, comm=b"kthreadd", start_ticks=1)  # anybody can take the name
    assert not shows_all_processes(tmp_path)
    fake_process(tmp_path, 2, comm=b"kthreadd", start_ticks=1, kernel_thread=True)
    assert shows_all_processes(tmp_path)


@pytest.mark.kernel
def test_a_procfs_of_another_namespace_is_told_for_real() -> None:
    script = (
        "from pathlib import Path; from otel_netmon.readers.procfs import *; import time, subprocess;"
        "child = subprocess.Popen(['sleep', '60']);"  # which has the number 2
        "print(child.pid, shows_all_processes(Path('/proc'))); child.kill()"
    )
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", script]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "2 False\n"

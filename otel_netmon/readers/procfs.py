"""What procfs tells about one process. Never its command line or its environment: both hold secrets.

A process is held by its folder while it is read, so that everything is about the same one although its number may be given to another.
Names of executables and network namespaces of other users need CAP_SYS_PTRACE; what is refused is left out, and said.

Source: proc_pid_stat(5), proc_pid_status(5), proc_pid_exe(5), namespaces(7).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

_READ_BYTES = 1 << 16
_DELETED = " (deleted)"
_PF_KTHREAD = 0x00200000
_FLAGS_FIELD, _START_FIELD = 8, 21
"""Fields 9 and 22 of proc_pid_stat(5)."""
_FIRST_BEHIND_COMM = 2
_KERNEL_THREADS_PID = 2


class Stat(NamedTuple):
    """From /proc/PID/stat.

    Attributes:
        comm: name of its first thread, at most 15 bytes of a user process; bytes that are not UTF-8 become surrogates.
        start_ticks: when it began, clock ticks (_SC_CLK_TCK) after the boot, with the time asleep (CLOCK_BOOTTIME).
        kernel_thread: it has no executable.
    """

    comm: str
    start_ticks: int
    kernel_thread: bool


class Process(NamedTuple):
    """A process as it was a moment ago.

    Attributes:
        stat: see ``Stat``.
        executable: path as the process itself sees it; empty where it has none or it may not be read.
        namespace_pid: its number in the innermost PID namespace that it is in; 0 where that is not told.
        network_namespace: inode of it; 0 where it may not be read.
        cgroups: text of /proc/PID/cgroup.
        refused: something may not be read.
    """

    stat: Stat
    executable: str
    namespace_pid: int
    network_namespace: int
    cgroups: bytes
    refused: bool


def parse_stat(text: bytes) -> Stat:
    """Reads the text of /proc/PID/stat. The name of a process may hold anything, also spaces, parentheses and line breaks.

    Raises:
        ValueError: it is not such a text.
    """
    opening, closing = text.find(b"("), text.rfind(b")")
    fields = text[closing + 1 :].split()
    if opening < 0 or closing < opening or len(fields) <= _START_FIELD - _FIRST_BEHIND_COMM:
        raise ValueError(f"no text of /proc/PID/stat: {text[:100]!r}")
    flags = int(fields[_FLAGS_FIELD - _FIRST_BEHIND_COMM])
    return Stat(
        text[opening + 1 : closing].decode(errors="surrogateescape"),
        int(fields[_START_FIELD - _FIRST_BEHIND_COMM]),
        bool(flags & _PF_KTHREAD),
    )


def parse_namespace_pid(status: bytes) -> int:
    """The last number of NSpid in the text of /proc/PID/status; 0 where there is none."""
    for line in status.split(b"\n"):
        key, _, value = line.partition(b":")
        if key == b"NSpid":
            numbers = value.split()
            return int(numbers[-1]) if numbers and numbers[-1].isdigit() else 0
    return 0


def read_stat(proc: Path, pid: int) -> Stat | None:
    """What /proc/PID/stat tells; None where there is no such process, or it is hidden (hidepid)."""
    try:
        return parse_stat(_read(f"{proc}/{pid}/stat", None))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def read_process(proc: Path, pid: int) -> Process | None:
    """Reads a process; None where there is none of this number, or it is hidden (hidepid)."""
    try:
        folder = os.open(f"{proc}/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    try:
        stat = parse_stat(_read("stat", folder))
        cgroups = _read("cgroup", folder)
        namespace_pid = parse_namespace_pid(_read("status", folder))
        refused = False
        executable, network_namespace = "", 0
        try:
            network_namespace = os.stat("ns/net", dir_fd=folder).st_ino
            executable = os.readlink("exe", dir_fd=folder).removesuffix(_DELETED)
        except PermissionError:
            refused = True
        except (FileNotFoundError, ProcessLookupError):
            if not stat.kernel_thread:  # they have none; any other has just ended
                return None
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    finally:
        os.close(folder)
    return Process(stat, executable, namespace_pid, network_namespace, cgroups, refused)


def shows_all_processes(proc: Path) -> bool:
    """Whether the numbers there are those of the kernel (the first PID namespace), by the kernel thread that only it shows."""
    stat = read_stat(proc, _KERNEL_THREADS_PID)
    return stat is not None and stat.kernel_thread


def _read(path: str, folder: int | None) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.read(fd, _READ_BYTES)
    finally:
        os.close(fd)

"""A procfs of plain files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_PF_KTHREAD = 0x00200000


def stat_text(pid: int, comm: bytes, start_ticks: int, *, kernel_thread: bool = False) -> bytes:
    """A line as /proc/PID/stat has it."""
    flags = _PF_KTHREAD if kernel_thread else 4194304
    before = b"%d (%s) S 1 1 1 0 -1 %d 1 2 3 4 5 6 7 8 20 0 1 0 " % (pid, comm, flags)
    return before + b"%d 9 8 7 6\n" % start_ticks


def fake_process(
    proc: Path,
    pid: int,
    *,
    comm: bytes,
    start_ticks: int,
    executable: str = "",
    cgroups: bytes = b"0::/\n",
    kernel_thread: bool = False,
) -> None:
    """Makes the folder of a process, in the place of an earlier one of this number."""
    folder = proc / str(pid)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "ns").mkdir(parents=True)
    (folder / "ns" / "net").touch()
    (folder / "stat").write_bytes(stat_text(pid, comm, start_ticks, kernel_thread=kernel_thread))
    (folder / "status").write_bytes(b"Name:\tx\nNSpid:\t%d\t3\n" % pid)
    (folder / "cgroup").write_bytes(cgroups)
    if executable:
        os.symlink(executable, folder / "exe")


def fake_procfs(proc: Path) -> Path:
    """A procfs of the first PID namespace, with no process."""
    fake_process(proc, 2, comm=b"kthreadd", start_ticks=1, kernel_thread=True)
    return proc

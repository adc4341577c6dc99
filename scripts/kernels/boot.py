"""Boots one kernel under qemu's emulation (no KVM), runs a command in it as root and gives back what it wrote.

The guest shares the host's root file system read-only; virtme-ng lays writable memory over /etc, /usr, /var and /tmp. One
directory is shared for writing: results come back as files, where the console cannot garble them.
"""

from __future__ import annotations

import os
import pty
import select
import shlex
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from scripts.kernels.fetch import Kernel

BOOT_SECONDS = 120.0
MEMORY = "2G"
CPUS = 2
PROCESSOR = "Westmere"  # x86-64-v2, what numpy asks for at least

_STARTED = b"virtme-ng-init: starting script"
_PANIC = b"Kernel panic"


class GuestError(Exception):
    """The guest did not boot, or did not end in time."""


@dataclass(frozen=True, slots=True)
class Guest:
    """What every guest is made of.

    Attributes:
        vng: the command of virtme-ng.
        disk: an image that the guest finds at /dev/disk/by-id/virtio-netmon, read-only.
        directories: a text file with the directories in it.
    """

    vng: Path
    disk: Path
    directories: Path


@dataclass(frozen=True, slots=True)
class Run:
    """What is to run in a guest.

    Attributes:
        shared: a directory that the guest may write to, under the same path.
        command: what runs as root; its exit code is its own affair, its result a file in `shared`.
        console: receives the guest's console and the command's output.
        seconds: how long the command may take; the boot has its own limit.
    """

    guest: Guest
    shared: Path
    command: list[str]
    console: Path
    seconds: float


@dataclass(frozen=True, slots=True)
class Ended:
    """How a guest went.

    Attributes:
        boot_seconds: from qemu's start to the command's.
        seconds: from qemu's start to power off.
        boots: 2 where the kernel panicked before the command ran, and was booted once more.
    """

    boot_seconds: float
    seconds: float
    boots: int


def boot(kernel: Kernel, run: Run) -> Ended:
    """Boots a kernel, runs the command and waits for power off.

    Raises:
        GuestError: not booted in time, panicked, or not off in time; the message names the console file.
    """
    for boots in (1, 2):
        start = time.monotonic()
        started = _boot_once(kernel, run, start)
        if started is not None:
            return Ended(round(started - start, 1), round(time.monotonic() - start, 1), boots)
        # Seldom, emulation trips a kernel in its first second. Nothing of ours has run by then: once more, and it is told.
        shutil.copy(run.console, run.console.with_suffix(".panic"))
    raise GuestError(f"{kernel.release} panicked twice before the command; see {run.console}")


def _boot_once(kernel: Kernel, run: Run, start: float) -> float | None:
    """Returns when the command began, or None if the kernel panicked before."""
    # qemu's own words, after those of vng: its disk would be writable, and its processor has everything qemu emulates, AVX2
    # included, which qemu 7.2 gets wrong: numpy's argsort of 12 integers came back unsorted.
    qemu = (
        f"-cpu {PROCESSOR} -drive if=none,id=netmon,file={run.guest.disk},format=raw,readonly=on "
        "-device virtio-blk-pci,drive=netmon,serial=netmon"
    )
    words = [str(run.guest.vng), "--verbose", "--disable-kvm", "--force-9p", "--run", str(kernel.image)]
    words += ["--cpus", str(CPUS), "--memory", MEMORY, "--user", "root", f"--rwdir={run.shared}", f"--qemu-opts={qemu}"]
    words += ["--", shlex.join(run.command)]
    # vng finds virtme-run by PATH, and passes a command's output on only to a terminal.
    environment = {**os.environ, "PATH": f"{run.guest.vng.parent}:/usr/sbin:/sbin:{os.environ.get('PATH', '')}"}
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        words, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    try:
        return _follow(process, ours, run, start, kernel.release)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # the session made above: vng, virtme-run, qemu
            process.wait()
        os.close(ours)


def _follow(process: subprocess.Popen[bytes], terminal: int, run: Run, start: float, release: str) -> float | None:
    started: float | None = None
    text = bytearray()
    with run.console.open("wb", buffering=0) as console:
        while True:
            deadline = start + BOOT_SECONDS if started is None else started + run.seconds
            left = deadline - time.monotonic()
            if left <= 0:
                state = "did not boot" if started is None else "did not end"
                raise GuestError(f"{release} {state} in time; see {run.console}")
            if not select.select([terminal], [], [], min(left, 1.0))[0]:
                if process.poll() is not None:
                    break
                continue
            try:
                chunk = os.read(terminal, 65536)
            except OSError:  # EIO: the last process with the terminal open has ended
                break
            console.write(chunk)
            text += chunk
            if started is None and _STARTED in text:
                started = time.monotonic()
    process.wait()
    if started is None and _PANIC not in text:
        raise GuestError(f"{release}: qemu ended with {process.returncode} before the command ran; see {run.console}")
    if started is not None and _PANIC in text:
        raise GuestError(f"{release} panicked while the command ran; see {run.console}")
    return started

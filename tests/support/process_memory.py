"""What is in the memory of a process, as its core would have it and more: mappings that a core leaves out too."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Collection
from pathlib import Path

RINGS = "bpf-map"
"""Ring buffers and maps that the process has mapped: what the kernel captured is there until it is overwritten."""

OWN = "own"


def found_in_memory(pid: int, wanted: Collection[bytes]) -> dict[str, set[bytes]]:
    """Which of these octets are in the memory of a process, by kind of mapping: RINGS, or OWN for all others.

    It stands still meanwhile, so that what it has mapped stays there.
    """
    os.kill(pid, signal.SIGSTOP)
    try:
        while _state(pid) not in "Tt":
            time.sleep(0.001)
        return _search(pid, re.compile(b"|".join(map(re.escape, wanted))))
    finally:
        os.kill(pid, signal.SIGCONT)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _search(pid: int, pattern: re.Pattern[bytes]) -> dict[str, set[bytes]]:
    found: dict[str, set[bytes]] = {RINGS: set(), OWN: set()}
    mappings = [line.split(maxsplit=5) for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for extent, access, _offset, _device, inode, *name in mappings:
            kind = RINGS if name and RINGS in name[0] else OWN
            # Of files only what the process has changed is its own.
            if not access.startswith("r") or (inode != "0" and "w" not in access and kind == OWN):
                continue
            if name and name[0].startswith(("[vvar", "[vsyscall", "[vdso")):
                continue
            begin, end = (int(each, 16) for each in extent.split("-"))
            memory.seek(begin)
            found[kind] |= set(pattern.findall(memory.read(end - begin)))
    return found

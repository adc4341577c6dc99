"""Files that processes have mapped to run: which may hold a library. /proc/PID/maps and /proc/PID/exe (proc(5)).

A process is looked at when it is first seen, and again and again at growing intervals, since libraries may be loaded late.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

FIRST_SECONDS = 2.0
LONGEST_SECONDS = 60.0
_DELETED = b" (deleted)"


class Mapped(NamedTuple):
    """A file as one of the processes that have it mapped sees it; the path leads to it through that process's root."""

    pid: int
    name: str
    path: str


class MappedFiles:
    """Looks for files whose name contains a word, and for the executables themselves.

    Args:
        word: part of the name.
        proc: the file system of processes.

    Attributes:
        processes: that are known.
        unreadable: of these, those whose maps may not be read.
    """

    def __init__(self, word: str, proc: str = "/proc") -> None:
        self._word = word.encode()
        self._proc = proc
        self._due: dict[
            int, tuple[float, float]
        ] = {}  # by process: when it is looked at next, and after how long again
        self._unreadable: set[int] = set()

    @property
    def processes(self) -> int:
        """As above."""
        return len(self._due)

    @property
    def unreadable(self) -> int:
        """As above."""
        return len(self._unreadable)

    def look(self, now: float) -> Iterator[Mapped]:
        """Gives the files of the processes that are due.

        Args:
            now: time.monotonic().
        """
        present = {int(name) for name in os.listdir(self._proc) if name.isdigit()}
        for gone in self._due.keys() - present:
            del self._due[gone]
            self._unreadable.discard(gone)
        for pid in sorted(present):
            due, after = self._due.get(pid, (now, FIRST_SECONDS))
            if due <= now:
                self._due[pid] = (now + after, min(after * 2, LONGEST_SECONDS))
                yield from self._files(pid)

    def _files(self, pid: int) -> Iterator[Mapped]:
        try:
            executable = os.readlink(f"{self._proc}/{pid}/exe")
            with open(f"{self._proc}/{pid}/maps", "rb") as file:
                lines = file.read().splitlines()
        except PermissionError:
            self._unreadable.add(pid)
            return
        except OSError:
            return  # it has ended, or is a thread of the kernel
        self._unreadable.discard(pid)
        found = dict.fromkeys(
            fields[5].strip()
            for fields in (line.split(b" ", 5) for line in lines)
            if len(fields) == 6 and b"x" in fields[1]
        )
        for path in found:
            is_executable = path == os.fsencode(executable)
            if not is_executable and self._word not in os.path.basename(path):
                continue
            if path.startswith(b"/") and not path.endswith(_DELETED):
                name = os.fsdecode(path)
                yield Mapped(pid, name, f"{self._proc}/{pid}/root{name}")

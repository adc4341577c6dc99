"""Cgroup v2 identifiers, as bpf_get_current_cgroup_id() and bpf_skb_cgroup_id() give them, to paths.

The identifier is the inode of the cgroup's folder, so walking the mounted hierarchy finds it, without any privilege. What a process
tells in /proc/PID/cgroup is learned with one stat(2); the hierarchy is walked only for an identifier that nobody told, and never more
folders of it in one go than was said. The path of a cgroup that has gone is kept for a while, for connections that are told later.

Sources: cgroups(7), proc_pid_mountinfo(5), Documentation/admin-guide/cgroup-v2.rst; kernfs_node.id is the inode from Linux 5.5 on.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass

from otel_netmon.enrich.containers import NOWHERE, Placement, place
from otel_netmon.kernel.cgroup import CgroupMount

FOLDERS_PER_STEP = 1000
"""Folders of cgroups read in one ``advance``: 30 ms with the usual number of files in each."""
ENTRIES_MAX = 16384
GONE_KEPT_SECONDS = 300.0
WALK_SECONDS = 1.0
"""From the begin of one walk to that of the next at least."""
MISSING_SECONDS = 60.0
"""An identifier that a whole walk did not find is not looked for again for so long."""
ASKED_MAX = 4096


@dataclass(slots=True)
class CgroupCounts:
    """What was done.

    Attributes:
        walks: walks that came to their end.
        folders: folders that were read.
        refused: folders that could not be read: what is below them is not known.
        displaced: paths that were forgotten for want of room.
    """

    walks: int = 0
    folders: int = 0
    refused: int = 0
    displaced: int = 0


@dataclass(slots=True)
class _Known:
    path: str
    walk: int
    gone_since: float | None = None


class Cgroups:
    """Paths by identifier, bounded.

    Args:
        mount: see ``kernel.cgroup.find_cgroup2``; None where there is no cgroup v2: nothing is known then.
        folders_per_step: folders that one ``advance`` reads at most.
        entries_max: paths that are kept at most.
    """

    def __init__(
        self, mount: CgroupMount | None, folders_per_step: int = FOLDERS_PER_STEP, entries_max: int = ENTRIES_MAX
    ) -> None:
        self._mount = mount
        self._folders_per_step = folders_per_step
        self._entries_max = entries_max
        self._known: dict[int, _Known] = {}  # in the order in which they were seen last
        self._asked: set[int] = set()
        self._sought: set[int] = set()  # by the walk that is under way
        self._missing: dict[int, float] = {}  # until when
        self._walk: Iterator[None] | None = None
        self._number = 0
        self._began = -WALK_SECONDS
        self._now = 0.0
        self.counts = CgroupCounts()

    def __len__(self) -> int:
        return len(self._known)

    def path(self, cgroup: int) -> str | None:
        """The path of a cgroup as /proc/PID/cgroup has it; None while it is not known. The next ``advance`` looks for it then."""
        known = self._known.get(cgroup)
        if known is not None:
            return known.path
        if cgroup and self._missing.get(cgroup, self._now) <= self._now and len(self._asked) < ASKED_MAX:
            self._asked.add(cgroup)
        return None

    def placement(self, cgroup: int) -> Placement:
        """What its path tells, see ``containers.place``."""
        path = self.path(cgroup)
        return NOWHERE if path is None else place(path)

    def learn(self, path: str) -> int | None:
        """Takes the path of a cgroup v2 from /proc/PID/cgroup; gives its identifier, None where it has none (any more)."""
        folder = self._mount.folder(path) if self._mount is not None else None
        if folder is None:
            return None
        try:
            inode = os.stat(folder).st_ino
        except (OSError, ValueError):
            return None
        self._see(inode, path)
        self._asked.discard(inode)
        return inode

    def advance(self, now: float) -> None:
        """Walks on, if anybody asked for a cgroup that is not known.

        Args:
            now: seconds of a clock that only goes forward.
        """
        self._now = now
        if self._walk is None:
            if not self._asked or self._mount is None or now - self._began < WALK_SECONDS:
                return
            self._began = now
            self._number += 1
            self._sought, self._asked = self._asked, set()
            self._walk = self._folders(self._mount)
        for _ in range(self._folders_per_step):
            if next(self._walk, self) is self:
                self._end_walk(now)
                return

    def _folders(self, mount: CgroupMount) -> Iterator[None]:
        """Reads one folder after the other, and says so after each."""
        try:
            self._see(os.stat(mount.path).st_ino, mount.cgroup(""))
        except OSError:
            self.counts.refused += 1
            return
        waiting = [""]
        while waiting:
            below = waiting.pop()
            self.counts.folders += 1
            try:
                with os.scandir(mount.path + below) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            path = f"{below}/{entry.name}"
                            self._see(entry.inode(), mount.cgroup(path))
                            waiting.append(path)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENODEV):  # it has gone meanwhile
                    self.counts.refused += 1
            yield

    def _see(self, inode: int, path: str) -> None:
        self._known.pop(inode, None)
        self._known[inode] = _Known(path, self._number)
        if len(self._known) > self._entries_max:
            del self._known[next(iter(self._known))]
            self.counts.displaced += 1

    def _end_walk(self, now: float) -> None:
        self._walk = None
        self.counts.walks += 1
        for inode, known in list(self._known.items()):
            if known.walk == self._number:
                continue
            if known.gone_since is None:
                known.gone_since = now
            elif now - known.gone_since > GONE_KEPT_SECONDS:
                del self._known[inode]
        for inode in self._sought - self._known.keys():
            self._missing.pop(inode, None)
            self._missing[inode] = now + MISSING_SECONDS
        _drop_first(self._missing, len(self._missing) - ASKED_MAX)
        self._sought = set()


def _drop_first(table: dict[int, float], number: int) -> None:
    for _ in range(number):
        del table[next(iter(table))]

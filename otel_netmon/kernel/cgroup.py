"""Where cgroup v2 is mounted, wherever that is: alone, beside cgroup v1 (hybrid), or in a part of the hierarchy.

Sources: cgroups(7), proc_pid_mountinfo(5), Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class CgroupMount:
    """Where a part of the cgroup v2 hierarchy is mounted.

    Attributes:
        path: the folder.
        root: the cgroup that is shown there, relative to the reader's cgroup namespace, as /proc/PID/cgroup has it: "/", "/a" for a
            part of what is below, "/.." for what is above.
    """

    path: str
    root: str

    def cgroup(self, below: str) -> str:
        """Path of a cgroup from its path below ``path`` ("" or "/a/b")."""
        return (self.root.rstrip("/") + below) or "/"

    def folder(self, cgroup: str) -> str | None:
        """Folder of a cgroup; None for one that is not shown here."""
        root = self.root.rstrip("/")
        if cgroup != root and not cgroup.startswith(f"{root}/"):
            return None
        below = cgroup[len(root) :].rstrip("/")
        return None if below.startswith("/..") else self.path + below


def mounts(mountinfo: bytes, kind: bytes) -> list[tuple[str, str]]:
    """Folder and root of every mount of a kind of file system in the text of /proc/PID/mountinfo, in order."""
    found = []
    for line in mountinfo.split(b"\n"):
        before, separator, after = line.partition(b" - ")
        fields = before.split(b" ")
        if separator and len(fields) > 4 and after.split(b" ", 1)[0] == kind:
            found.append((_plain(fields[4]), _plain(fields[3])))
    return found


def cgroup2_mounts(mountinfo: bytes) -> list[CgroupMount]:
    """Every mount of cgroup v2 in the text of /proc/PID/mountinfo, those that show most first."""
    return sorted((CgroupMount(path, root) for path, root in mounts(mountinfo, b"cgroup2")), key=_shown)


def find_cgroup2(mountinfo: Path = Path("/proc/self/mountinfo")) -> CgroupMount | None:
    """The mount of cgroup v2 that shows most; None where there is none."""
    return next(iter(cgroup2_mounts(mountinfo.read_bytes())), None)


def _shown(mount: CgroupMount) -> tuple[int, int]:
    """The higher its root, the more a mount shows."""
    parts = [part for part in mount.root.split("/") if part]
    above = parts.count("..")
    return -above, len(parts) - above


def _plain(text: bytes) -> str:
    """Without the octal escapes of space, tab, line break and backslash."""
    return _OCTAL.sub(lambda match: bytes((int(match[1], 8) & 0xFF,)), text).decode(errors="surrogateescape")

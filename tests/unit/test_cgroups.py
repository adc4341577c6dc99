"""Inodes to paths: the hierarchy here is a tree of plain folders, which is all that a walk needs."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from otel_netmon.enrich.cgroups import (
    ENTRIES_MAX,
    GONE_KEPT_SECONDS,
    MISSING_SECONDS,
    WALK_SECONDS,
    Cgroups,
)
from otel_netmon.kernel.cgroup import CgroupMount, cgroup2_mounts, find_cgroup2

NOT_THERE = (1 << 62) + 7
ID = "6dc3fdffbf66b1239d55e98da9aaa759ea51ed35d04eb09d19ebd78963aa26c2"


def inode(path: Path) -> int:
    return path.stat().st_ino


def tree(root: Path, *names: str) -> None:
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "cgroup.procs").touch()


def walked(cgroups: Cgroups, now: float, wanted: int) -> str | None:
    """The path after as many steps as one walk needs."""
    cgroups.path(wanted)
    walks = cgroups.counts.walks
    for _ in range(1000):
        cgroups.advance(now)
        if cgroups.counts.walks > walks:
            return cgroups.path(wanted)
    raise AssertionError("the walk does not end")


MOUNTINFO = rb"""31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 master:1 - cgroup2 cgroup2 rw
50 31 0:38 /a\040b\134/c /mnt/a\011b\012c ro - cgroup2 none rw
51 31 0:38 /../../.. /host/cgroup ro - cgroup2 none rw
52 31 0:38 /.. /mnt/\303\244\377 ro - cgroup2 none rw
53 31 0:99 / /mnt/cgroup2 ro - ext4 cgroup2 rw
broken line
"""


def test_mounts_that_show_most_come_first() -> None:
    assert cgroup2_mounts(MOUNTINFO) == [
        CgroupMount("/host/cgroup", "/../../.."),
        CgroupMount("/mnt/ä\udcff", "/.."),
        CgroupMount("/sys/fs/cgroup/unified", "/"),
        CgroupMount("/mnt/a\tb\nc", "/a b\\/c"),
    ]


def test_a_host_without_cgroup_v2(tmp_path: Path) -> None:
    file = tmp_path / "mountinfo"
    file.write_bytes(b"\n".join(line for line in MOUNTINFO.splitlines() if b"- cgroup2" not in line))
    assert find_cgroup2(file) is None
    cgroups = Cgroups(None)
    assert cgroups.path(1) is None
    cgroups.advance(0.0)
    assert cgroups.learn("/system.slice") is None
    assert cgroups.counts.walks == 0


@pytest.mark.parametrize(
    ("root", "cgroup", "folder"),
    [
        ("/", "/", "/m"),
        ("/", "/a/b", "/m/a/b"),
        ("/", "/../x", None),
        ("/a", "/a", "/m"),
        ("/a", "/a/b", "/m/b"),
        ("/a", "/ab", None),
        ("/a", "/", None),
        ("/../..", "/../../x", "/m/x"),
        ("/../..", "/../../../x", None),
        ("/../..", "/x", None),
    ],
)
def test_folders_of_paths(root: str, cgroup: str, folder: str | None) -> None:
    mount = CgroupMount("/m", root)
    assert mount.folder(cgroup) == folder
    if folder is not None:
        assert mount.cgroup(folder.removeprefix("/m")) == cgroup


def test_every_cgroup_is_found_by_its_inode(tmp_path: Path) -> None:
    tree(tmp_path, "system.slice/ssh.service", f"docker/{ID}", "odd\\x2d \udcff/b")
    (tmp_path / "link").symlink_to(tmp_path / "docker")
    cgroups = Cgroups(CgroupMount(str(tmp_path), "/"))
    assert cgroups.path(inode(tmp_path / "docker" / ID)) is None
    assert walked(cgroups, 0.0, inode(tmp_path / "docker" / ID)) == f"/docker/{ID}"
    for path in ("system.slice", "system.slice/ssh.service", "odd\\x2d \udcff/b"):
        assert cgroups.path(inode(tmp_path / path)) == f"/{path}"
    assert cgroups.path(inode(tmp_path)) == "/"
    assert len(cgroups) == 7
    assert cgroups.counts.folders == 7
    assert cgroups.placement(inode(tmp_path / "docker" / ID)).container_id == ID
    assert cgroups.placement(inode(tmp_path / "system.slice/ssh.service")).unit == "ssh.service"
    assert cgroups.placement(NOT_THERE).container_id == ""


def test_a_part_of_the_hierarchy_has_whole_paths(tmp_path: Path) -> None:
    tree(tmp_path, "b")
    cgroups = Cgroups(CgroupMount(str(tmp_path), "/a"))
    assert walked(cgroups, 0.0, inode(tmp_path / "b")) == "/a/b"
    assert cgroups.path(inode(tmp_path)) == "/a"


def test_nothing_is_walked_until_somebody_asks(tmp_path: Path) -> None:
    cgroups = Cgroups(CgroupMount(str(tmp_path), "/"))
    cgroups.path(0)  # the kernel knew none
    for now in range(10):
        cgroups.advance(float(now))
    assert cgroups.counts.folders == 0


def test_one_step_reads_no_more_folders_than_was_said(tmp_path: Path) -> None:
    tree(tmp_path, *(f"{number:02}/inner" for number in range(23)))
    cgroups = Cgroups(CgroupMount(str(tmp_path), "/"), folders_per_step=5)
    cgroups.path(NOT_THERE)
    read = []
    while not cgroups.counts.walks:
        before = cgroups.counts.folders
        cgroups.advance(0.0)
        read.append(cgroups.counts.folders - before)
    assert max(read) == 5
    assert sum(read) == 47
    assert len(cgroups) == 47


def test_walks_follow_each_other_slowly_and_not_for_what_is_not_there(tmp_path: Path) -> None:
    cgroups = Cgroups(CgroupMount(str(tmp_path), "/"))
    assert walked(cgroups, 10.0, NOT_THERE) is None
    cgroups.path(NOT_THERE + 1)
    cgroups.advance(10.0 + WALK_SECONDS / 2)
    assert cgroups.counts.walks == 1
    cgroups.advance(10.0 + WALK_SECONDS)
    assert cgroups.counts.walks == 2
    cgroups.path(NOT_THERE)
    cgroups.advance(20.0)
    assert cgroups.counts.walks == 2  # it was looked for a moment ago
    cgroups.advance(10.0 + MISSING_SECONDS)
    cgroups.path(NOT_THERE)
    cgroups.advance(10.0 + MISSING_SECONDS)
    assert cgroups.counts.walks == 3


def test_who_asks_during_a_walk_gets_the_next_one(tmp_path: Path) -> None:
    tree(tmp_path, "a/b", "c")
    cgroups = Cgroups(CgroupMount(str(tmp_path), "/"), folders_per_step=1)
    cgroups.path(NOT_THERE)
    cgroups.advance(0.0)  # the root is read
    tree(tmp_path, "late")
    assert cgroups.path(inode(tmp_path / "late")) is None
    while cgroups.counts.walks < 1:
        cgroups.advance(0.5)
    assert cgroups.path(inode(tmp_path / "late")) is None
    while cgroups.counts.walks < 2:
        cgroups.advance(2.0)
    assert cgroups.path(inode(tmp_path / "late")) == "/late"


def test_a_cgroup_that_has_gone_keeps_its_path_for_a_while(tmp_path: Path) -> None:
    tree(tmp_path, "gone", "stays")
    cgroups = Cgroups(CgroupMount(str(tmp_path), "/"))
    gone = inode(tmp_path / "gone")
    walked(cgroups, 0.0, gone)
    shutil.rmtree(tmp_path / "gone")
    walked(cgroups, 10.0, NOT_THERE)
    assert cgroups.path(gone) == "/gone"
    walked(cgroups, 10.0 + GONE_KEPT_SECONDS, NOT_THERE + 1)
    assert cgroups.path(gone) == "/gone"
    walked(cgroups, 11.0 + 2 * GONE_KEPT_SECONDS, NOT_THERE + 2)
    assert cgroups.path(gone) is None
    assert cgroups.path(inode(tmp_path / "stays")) == "/stays"


def test_what_procfs_tells_needs_no_walk(tmp_path: Path) -> None:
    tree(tmp_path, "a/b")
    cgroups = Cgroups(CgroupMount(str(tmp_path), "/"))
    assert cgroups.learn("/a/b") == inode(tmp_path / "a" / "b")
    assert cgroups.path(inode(tmp_path / "a" / "b")) == "/a/b"
    assert cgroups.learn("/gone") is None
    assert cgroups.learn("/../x") is None
    assert cgroups.learn("/nul\0") is None
    cgroups.advance(0.0)
    assert cgroups.counts.folders == 0


def test_it_is_bounded(tmp_path: Path) -> None:
    tree(tmp_path, *(f"{number:02}" for number in range(23)))
    cgroups = Cgroups(CgroupMount(str(tmp_path), "/"), entries_max=7)
    walked(cgroups, 0.0, NOT_THERE)
    assert len(cgroups) == 7
    assert cgroups.counts.displaced == 24 - 7
    for number in range(3 * ENTRIES_MAX):
        cgroups.path(NOT_THERE + number)
    assert len(cgroups._asked) < ENTRIES_MAX
    walked(cgroups, 10.0, NOT_THERE)
    assert len(cgroups._missing) < ENTRIES_MAX


def test_a_folder_that_may_not_be_read_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "private/inner", "open")
    scandir = os.scandir

    def refusing(path: str) -> Any:
        if path.endswith("/private"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    cgroups = Cgroups(CgroupMount(str(tmp_path), "/"))
    assert walked(cgroups, 0.0, inode(tmp_path / "open")) == "/open"
    assert walked(cgroups, 10.0, inode(tmp_path / "private" / "inner")) is None
    assert cgroups.counts.refused == 2


def test_a_mount_that_has_gone_is_counted(tmp_path: Path) -> None:
    cgroups = Cgroups(CgroupMount(str(tmp_path / "absent"), "/"))
    assert walked(cgroups, 0.0, NOT_THERE) is None
    assert cgroups.counts.refused == 1

"""Which files processes run: of a made-up /proc, and of this process."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from otel_netmon.kernel.mapped_files import FIRST_SECONDS, LONGEST_SECONDS, Mapped, MappedFiles

LINE = "7f00-7f01 {access} 00000000 fe:01 42                 {path}\n"


def process(proc: Path, pid: int, executable: str, *mapped: tuple[str, str]) -> None:
    folder = proc / str(pid)
    folder.mkdir(exist_ok=True)
    (folder / "exe").unlink(missing_ok=True)
    (folder / "exe").symlink_to(executable)
    lines = [LINE.format(access=access, path=path) for access, path in (("r-xp", executable), *mapped)]
    (folder / "maps").write_text("7f00-7f01 r-xp 00000000 00:00 0 \n" + "".join(lines))


def looked(files: MappedFiles, now: float) -> list[tuple[int, str]]:
    return [(mapped.pid, mapped.name) for mapped in files.look(now)]


def test_libraries_by_name_and_every_executable(tmp_path: Path) -> None:
    process(
        tmp_path,
        11,
        "/usr/bin/node",
        ("r-xp", "/usr/lib/libssl.so.3"),
        ("r--p", "/usr/lib/libssl.so.1.1"),  # no code
        ("r-xp", "/usr/lib/libc.so.6"),
        ("r-xp", "/opt/openssl/lib/libcrypto.so.3"),
        ("r-xp", "/srv/a b/libssl-9f.so"),
        ("r-xp", "/usr/lib/libssl.so.0 (deleted)"),
    )
    files = MappedFiles("ssl", str(tmp_path))
    assert list(files.look(0.0)) == [
        Mapped(11, name, f"{tmp_path}/11/root{name}")
        for name in ("/usr/bin/node", "/usr/lib/libssl.so.3", "/srv/a b/libssl-9f.so")
    ]
    assert (files.processes, files.unreadable) == (1, 0)


def test_a_process_is_looked_at_again_at_growing_intervals(tmp_path: Path) -> None:
    process(tmp_path, 11, "/bin/a")
    files = MappedFiles("ssl", str(tmp_path))
    looks = [now for now in range(300) if looked(files, float(now))]
    first = int(FIRST_SECONDS)
    assert looks[:5] == [0, first, 3 * first, 7 * first, 15 * first]
    assert {later - sooner for sooner, later in itertools.pairwise(looks[6:])} == {int(LONGEST_SECONDS)}


def test_new_processes_are_looked_at_at_once_and_old_ones_forgotten(tmp_path: Path) -> None:
    process(tmp_path, 11, "/bin/a")
    (tmp_path / "self").mkdir()
    files = MappedFiles("ssl", str(tmp_path))
    assert looked(files, 0.0) == [(11, "/bin/a")]
    process(tmp_path, 12, "/bin/b")
    assert looked(files, 1.0) == [(12, "/bin/b")]
    for name in ("exe", "maps"):
        (tmp_path / "11" / name).unlink()
    (tmp_path / "11").rmdir()
    assert looked(files, 1.5) == []
    assert files.processes == 1


def test_a_thread_of_the_kernel_and_one_that_ended_have_none(tmp_path: Path) -> None:
    (tmp_path / "2").mkdir()
    files = MappedFiles("ssl", str(tmp_path))
    assert looked(files, 0.0) == []
    assert files.unreadable == 0


def test_what_may_not_be_read_is_counted_until_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process(tmp_path, 11, "/bin/a")
    files = MappedFiles("ssl", str(tmp_path))

    def refuse(path: str) -> str:
        raise PermissionError(13, "Permission denied", path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "readlink", refuse)
        assert looked(files, 0.0) == []
        assert files.unreadable == 1
    assert looked(files, 10.0) == [(11, "/bin/a")]
    assert files.unreadable == 0


def test_this_process_is_found() -> None:
    found = {mapped.name for mapped in MappedFiles("ssl").look(0.0) if mapped.pid == os.getpid()}
    assert os.path.realpath("/proc/self/exe") in found

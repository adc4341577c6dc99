"""The programs at OpenSSL: attached once a file, refused where the kernel refuses, gone without a trace."""

from __future__ import annotations

import gc
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_netmon import plaintext_attachments
from otel_netmon.config.model import Config
from otel_netmon.kernel import links, syscalls, uprobes
from otel_netmon.kernel.loader import LoadedImage
from otel_netmon.plaintext_attachments import PlaintextAttachments
from otel_netmon.selfmon.journal import Journal
from support.programs import shipped

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="uprobes at OpenSSL are there for x86-64"),
]

LIBRARY = Path("/usr/lib/x86_64-linux-gnu/libssl.so.3")
SLEEPER = "import ctypes, sys; ctypes.CDLL(sys.argv[1]); print('ready', flush=True); sys.stdin.read()"
needs_library = pytest.mark.skipif(not LIBRARY.exists(), reason="no OpenSSL 3 of Debian here")


@pytest.fixture
def loaded() -> Iterator[LoadedImage]:
    image = LoadedImage(shipped("plaintext_monitor"), {"sessions": 64, "http_connections": 64})
    yield image
    image.close()


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plaintext_attachments, "_INSTALLED", ())


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A library that nobody else has mapped."""
    return Path(shutil.copy(LIBRARY, tmp_path / "libssl-own.so.3"))


def started(library: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER, str(library)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def own(attachments: PlaintextAttachments, library: Path) -> list[plaintext_attachments.Watched]:
    return [watched for watched in attachments.files.values() if watched.path == str(library)]


def open_files() -> set[str]:
    gc.collect()
    return set(os.listdir("/proc/self/fd"))


@needs_library
@pytest.mark.usefixtures("nothing_installed")
def test_a_library_that_is_loaded_late_is_watched_once_whoever_has_it(loaded: LoadedImage, copy: Path) -> None:
    attachments = PlaintextAttachments(Config(), loaded, Journal("error"))
    try:
        assert own(attachments, copy) == []
        with started(copy) as one, started(copy) as other:
            assert attachments.look(time.monotonic())
            (watched,) = own(attachments, copy)
            # A program at each site, and at the returns of what reads and writes another one.
            assert len(watched.fds) == len(watched.sites) + sum(
                site.what in ("read", "write") for site in watched.sites
            )
            assert not attachments.look(time.monotonic())
            one.communicate(b"")
            other.communicate(b"")
        before = open_files()
        # Nobody has it mapped for long.
        attachments.look(time.monotonic() + plaintext_attachments.UNUSED_SECONDS + 1)
        assert own(attachments, copy) == []
        assert len(before - open_files()) >= len(watched.sites)
    finally:
        attachments.close()


@needs_library
@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare is not installed")
def test_a_library_of_a_container_is_found_by_its_root(loaded: LoadedImage, copy: Path) -> None:
    """The path is the host's, the file that lies there is another one."""
    inside = f'mount --bind {copy} {LIBRARY} && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", inside, "sh", sys.executable, "-c", SLEEPER, str(LIBRARY)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        attachments = PlaintextAttachments(Config(), loaded, Journal("error"))
        try:
            status = copy.stat()
            watched = attachments.files[status.st_dev, status.st_ino]
            assert watched.path == str(LIBRARY)
            assert watched.fds
        finally:
            attachments.close()
            process.communicate(b"")


@needs_library
def test_what_is_installed_is_watched_before_anybody_runs_it_and_let_go_of(loaded: LoadedImage) -> None:
    for program in loaded.image.programs:
        if program not in ("netmon_stream", "netmon_http", "netmon_http2"):
            loaded.program(program)
    before = open_files()
    attachments = PlaintextAttachments(Config(), loaded, Journal("error"))
    assert any(watched.path == str(LIBRARY) for watched in attachments.files.values())
    assert attachments.state()[0] == "ok"
    assert "OpenSSL in" in attachments.state()[2]
    attachments.close()
    assert open_files() == before


@needs_library
@pytest.mark.parametrize(
    ("error", "reason"), [(13, "not_permitted"), (1, "not_permitted"), (22, "no_uprobe_here"), (12, "enomem")]
)
def test_a_refusal_is_told(
    error: int, reason: str, loaded: LoadedImage, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(syscalls, "uprobe_open", refuse)
    attachments = PlaintextAttachments(Config(), loaded, Journal("info"))
    state, told, detail = attachments.state()
    attachments.close()
    assert (state, told) == ("off", reason)
    assert str(LIBRARY) in detail
    assert "plaintext.refused" in capfd.readouterr().err


def test_a_kernel_without_uprobes_and_another_machine_are_told(
    loaded: LoadedImage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(uprobes, "TYPE", tmp_path / "absent")
        assert PlaintextAttachments(Config(), loaded, Journal("error")).state()[:2] == ("off", "no_uprobes")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    attachments = PlaintextAttachments(Config(), loaded, Journal("error"))
    assert attachments.state()[:2] == ("off", "machine_aarch64")
    assert attachments.look_at == float("inf")


@needs_library
def test_without_the_hook_of_a_cgroup_connections_are_unknown_and_it_says_so(
    loaded: LoadedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise links.Refused("no_cgroup_hook", lacks_feature=True)

    monkeypatch.setattr(links, "attach_cgroup", refuse)
    attachments = PlaintextAttachments(Config(), loaded, Journal("error"))
    state, reason, detail = attachments.state()
    attachments.close()
    assert (state, reason) == ("degraded", "connections_unknown")
    assert "no_cgroup_hook" in detail


def test_switched_off_there_is_nothing_to_look_for() -> None:
    attachments = PlaintextAttachments(Config(), None, Journal("error"))
    assert attachments.look_at == float("inf")
    assert attachments.files == {}
    attachments.close()


@needs_library
@pytest.mark.usefixtures("nothing_installed")
def test_more_files_than_there_is_place_for_are_told(
    loaded: LoadedImage, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plaintext_attachments, "FILES_MAX", 0)
    with started(copy) as process:
        attachments = PlaintextAttachments(Config(), loaded, Journal("error"))
        assert attachments.state()[:2] == ("degraded", "too_many_files")
        attachments.close()
        process.communicate(b"")

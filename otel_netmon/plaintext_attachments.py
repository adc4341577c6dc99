"""The programs of plaintext_monitor at OpenSSL, in every file that has it and that a process runs, and why not where not.

A file is watched once, whoever has it mapped: the kernel knows it by its inode, in running processes and those to come, in every
container. When the files are let go the processes are as they were.
"""

from __future__ import annotations

import glob
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from otel_netmon.config.model import Config
from otel_netmon.decode.elf import Elf, ElfFault
from otel_netmon.decode.openssl import Site, openssl_sites
from otel_netmon.errors import KernelLacksError
from otel_netmon.kernel import links, uprobes
from otel_netmon.kernel.cgroup import find_cgroup2
from otel_netmon.kernel.image import CGROUP_HOOKS
from otel_netmon.kernel.loader import LoadedImage
from otel_netmon.kernel.mapped_files import Mapped, MappedFiles
from otel_netmon.selfmon.journal import Journal

LOOK_SECONDS: Final = 2.0
FILES_MAX: Final = 256
UNUSED_SECONDS: Final = 600.0
"""A file that nobody has had mapped for so long is let go. It is looked for more often."""

MACHINE: Final = "x86_64"
SEALED: Final = "netmon_sealed"
_WORD: Final = "ssl"
_CAP_SYS_PTRACE: Final = 19
_INSTALLED: Final = ("/usr/lib*/libssl.so.*", "/usr/lib*/*/libssl.so.*", "/usr/local/lib*/libssl.so.*")
"""Watched before anybody runs them, so that the first short-lived process is seen, too."""

_BEGIN: Final[Mapping[tuple[str, str], str]] = {
    ("read", "plain"): "netmon_ssl_read",
    ("read", "ex"): "netmon_ssl_read_ex",
    ("write", "plain"): "netmon_ssl_write",
    ("write", "ex"): "netmon_ssl_write_ex",
    ("write", "ex2"): "netmon_ssl_write_ex2",
    ("write", "sendfile"): "netmon_ssl_sendfile",
    ("free", "plain"): "netmon_ssl_free",
    ("renew", "plain"): "netmon_ssl_renew",
}
_RETURN: Final[Mapping[str, str]] = {
    "read": "netmon_ssl_return",
    "write": "netmon_ssl_return",
    "new": "netmon_ssl_new",
}

FileKey = tuple[int, int]
"""Device and inode."""


@dataclass(slots=True)
class Watched:
    """A file with OpenSSL: where it was found first, its sites, and why it is not watched (empty: it is)."""

    path: str
    sites: tuple[Site, ...]
    refused: str = ""
    fds: list[int] = field(default_factory=list)
    used: float = 0.0


class PlaintextAttachments:
    """Watches OpenSSL wherever it is found.

    Args:
        config: whose cgroup the sessions' sockets are in.
        image: the loaded plaintext_monitor, None where the probe is off.
        journal: told of each file.

    Attributes:
        files: with OpenSSL.
        look_at: when ``look`` is due, by time.monotonic(); never where there is nothing to look for.
    """

    def __init__(self, config: Config, image: LoadedImage | None, journal: Journal) -> None:
        self.files: dict[FileKey, Watched] = {}
        self.look_at = float("inf")
        self._without: dict[FileKey, float] = {}  # files that have no OpenSSL, and when they were found last
        self._image = image
        self._journal = journal
        self._mapped = MappedFiles(_WORD)
        self._limits: list[str] = []
        self._off = ""
        self._too_many = 0
        self._sealed: int | None = None
        self._kind = 0
        if image is not None:
            self._begin(config, image)

    def _begin(self, config: Config, image: LoadedImage) -> None:
        if platform.machine() != MACHINE:
            self._off = f"machine_{platform.machine()}"
            return
        try:
            self._kind = uprobes.uprobe_type()
        except links.Refused as refused:
            self._off = refused.reason
            return
        self._limits += self._attach_sealed(config, image)
        now = time.monotonic()
        root = "/proc/1/root" if os.access("/proc/1/root/", os.R_OK) else ""
        for pattern in _INSTALLED:
            for path in sorted(glob.glob(root + pattern)):
                self._take(Mapped(0, path.removeprefix(root), path), now)
        self.look(now)

    def _attach_sealed(self, config: Config, image: LoadedImage) -> list[str]:
        """Attaches the program that tells which session is on which connection; gives why not."""
        mount = find_cgroup2() if config.probes.connections.cgroup is None else None
        path = config.probes.connections.cgroup or (mount.path if mount is not None else "")
        try:
            cgroup = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            return [f"no session is told its connection: {path or 'cgroup v2'}: {error.strerror}"]
        try:
            self._sealed = links.attach_cgroup(cgroup, CGROUP_HOOKS[SEALED], image.program(SEALED))
        except (links.Refused, KernelLacksError) as error:
            return [f"no session is told its connection: {error}"]
        finally:
            os.close(cgroup)
        return []

    def look(self, now: float) -> bool:
        """Looks for files in processes that are due; tells whether anything changed.

        Args:
            now: time.monotonic().
        """
        before = self.state()
        for mapped in self._mapped.look(now):
            self._take(mapped, now)
        for key in [key for key, found in self._without.items() if now - found > UNUSED_SECONDS]:
            del self._without[key]
        for key in [key for key, watched in self.files.items() if now - watched.used > UNUSED_SECONDS]:
            watched = self.files.pop(key)
            _close(watched.fds)
            self._journal.info("plaintext.released", file=watched.path)
        self.look_at = now + LOOK_SECONDS
        return self.state() != before

    def _take(self, mapped: Mapped, now: float) -> None:
        try:
            fd = os.open(mapped.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return  # it has ended, or the file is no more
        try:
            status = os.fstat(fd)
            key = status.st_dev, status.st_ino
            if key in self.files:
                self.files[key].used = now
            elif key in self._without:
                self._without[key] = now
            else:
                self._read(key, fd, mapped, now)
        finally:
            os.close(fd)

    def _read(self, key: FileKey, fd: int, mapped: Mapped, now: float) -> None:
        try:
            sites = openssl_sites(Elf(lambda offset, length: os.pread(fd, length, offset)))
        except (ElfFault, OSError) as error:
            self._journal.warning("plaintext.unreadable", file=mapped.name, process=mapped.pid, detail=str(error))
            sites = ()
        if not sites:
            self._without[key] = now
            return
        if len(self.files) >= FILES_MAX:
            self._too_many += 1
            return
        watched = self.files[key] = Watched(mapped.name, sites, used=now)
        try:
            self._attach(watched, f"/proc/self/fd/{fd}")
        except links.Refused as refused:
            watched.refused = refused.reason
            _close(watched.fds)
            self._journal.error("plaintext.refused", file=mapped.name, process=mapped.pid, reason=refused.reason)
            return
        self._journal.info(
            "plaintext.attached",
            file=mapped.name,
            process=mapped.pid,
            stepped=[site.function for site in sites if not site.is_emulated],
            sites=[
                f"{site.what} {site.function} +{site.offset:#x} {site.code.hex()}"
                f" {'emulated' if site.is_emulated else 'stepped'}"
                for site in sites
            ],
        )

    def _attach(self, watched: Watched, path: str) -> None:
        """Attaches all programs of a file.

        Raises:
            Refused: one of them is.
        """
        if self._image is None:
            return
        # Returns first: a call that was begun and whose return is not seen would be kept for nothing.
        for site in watched.sites:
            if site.what in _RETURN:
                program = self._image.program(_RETURN[site.what])
                watched.fds.append(uprobes.attach_uprobe(self._kind, path, site.offset, program, returns=True))
        for site in watched.sites:
            if (site.what, site.shape) in _BEGIN:
                program = self._image.program(_BEGIN[site.what, site.shape])
                watched.fds.append(uprobes.attach_uprobe(self._kind, path, site.offset, program))

    def state(self) -> tuple[str, str, str]:
        """State of the probe: ok, degraded or off; a reason; a detail for people."""
        if self._off:
            return "off", self._off, f"uprobes at OpenSSL are there for {MACHINE}"
        watched = [each for each in self.files.values() if not each.refused]
        refused = [each for each in self.files.values() if each.refused]
        stepped = sum(not site.is_emulated for each in watched for site in each.sites)
        details = [f"OpenSSL in {len(watched)} files" + (f", {stepped} sites stepped" if stepped else "")]
        details += [f"{each.path}: {each.refused}" for each in refused[:3]]
        if self._mapped.unreadable:
            need = "" if _may_look() else ": needs CAP_SYS_PTRACE"
            details.append(f"{self._mapped.unreadable} processes may not be looked into{need}")
        if self._too_many:
            details.append(f"more than {FILES_MAX} files")
        detail = "; ".join([*details, *self._limits])
        if refused:
            return ("degraded" if watched else "off"), refused[0].refused, detail
        if self._mapped.unreadable and not _may_look():
            return "degraded", "not_permitted", detail
        if self._limits:
            return "degraded", "connections_unknown", detail
        return ("degraded", "too_many_files", detail) if self._too_many else ("ok", "", detail)

    def leave_to_parent(self) -> None:
        """In a forked child: lets go of every program, so that the parent's end detaches them."""
        self.close()

    def close(self) -> None:
        """Takes everything off; processes go on as if nothing had been there."""
        for watched in self.files.values():
            _close(watched.fds)
        if self._sealed is not None:
            os.close(self._sealed)
            self._sealed = None


def _may_look() -> bool:
    """Whether this process has CAP_SYS_PTRACE; some processes are closed even then."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        held = next((line.split()[1] for line in status if line.startswith("CapEff:")), "0")
    return bool(int(held, 16) >> _CAP_SYS_PTRACE & 1)


def _close(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())

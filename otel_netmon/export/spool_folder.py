"""The folder of a spool: one process at a time, and what to do when it cannot be used."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from pathlib import Path
from typing import Final

from otel_netmon.errors import SpoolError

_LOCK_POLL_SECONDS: Final = 0.05

_REMEDIES: Final = {
    errno.ENOSPC: "make room on its file system, or lower export.spool.max_bytes",
    errno.EDQUOT: "raise the quota of the agent's user, or lower export.spool.max_bytes",
    errno.EROFS: "mount its file system for writing, or set export.spool.directory to another folder",
    errno.EIO: "move the folder away, or set export.spool.directory to another disk: this one fails",
    errno.EMFILE: "raise the limit of open files (LimitNOFILE)",
}
_OTHER_REMEDY: Final = "let the agent's user own the folder, or set export.spool.directory to another"


def unusable(what: str, directory: Path, error: OSError) -> SpoolError:
    """The error for something that the system does not let a spool do.

    Args:
        what: it was to do: use, read, write to.
    """
    return SpoolError(
        f"cannot {what} the spool {error.filename or directory}: {error.strerror or error}",
        remedy_of(error),
    )


def remedy_of(error: OSError) -> str:
    """What can be done about something that the system does not let a spool do."""
    return _REMEDIES.get(error.errno or 0, _OTHER_REMEDY)


def take_lock(path: Path, wait_seconds: float) -> int:
    """Locks the folder for this process until the descriptor is closed, which its end does too.

    Raises:
        OSError: the file cannot be made.
        SpoolError: another process has it.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    deadline = time.monotonic() + wait_seconds
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(_LOCK_POLL_SECONDS)
                    continue
                owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
                raise SpoolError(
                    f"the spool {path.parent} is in use by process {owner}",
                    "stop that agent, or give each a folder of its own (export.spool.directory)",
                ) from None
            with contextlib.suppress(OSError):  # the number is for people only; a full disk is no reason not to start
                os.ftruncate(fd, 0)
                os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
            return fd
    except BaseException:
        os.close(fd)
        raise

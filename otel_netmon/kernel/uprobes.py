"""Programs at instructions of files that processes have mapped, by perf events: they vanish with the process that holds them.

A uprobe is an inode and an offset. The kernel puts a breakpoint there in every process that has the file mapped, and in those to come,
and takes it away when the probe ends (Documentation/trace/uprobetracer.rst). Next to no kernel lacks it; a distribution may ask for
CAP_SYS_ADMIN (CVE-2025-38466).
"""

from __future__ import annotations

import errno
from pathlib import Path

from otel_netmon.kernel import syscalls
from otel_netmon.kernel.links import Refused

TYPE = Path("/sys/bus/event_source/devices/uprobe/type")


def uprobe_type() -> int:
    """Gives the number of the kernel's source of uprobes.

    Raises:
        Refused: the kernel has none.
    """
    try:
        return int(TYPE.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise Refused("no_uprobes", lacks_feature=True) from error


def attach_uprobe(kind: int, path: str, offset: int, program: int, *, returns: bool = False) -> int:
    """Attaches a program at an instruction of a file, or at the return of the function that begins there; gives a file descriptor.

    Args:
        kind: of ``uprobe_type``.
        path: of the file; what it leads to now is meant.

    Raises:
        Refused: with the reason.
    """
    try:
        return syscalls.uprobe_open(kind, path, offset, program, returns=returns)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise Refused("not_permitted") from error
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
            raise Refused("no_uprobe_here") from error  # the instruction, or the file system
        raise Refused(errno.errorcode.get(error.errno or 0, "error").lower()) from error

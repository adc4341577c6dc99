"""The program of drop_monitor at the raw tracepoint skb/kfree_skb, and the kernel's names for its reasons.

A raw tracepoint needs no tracefs. Whether the kernel hands over a reason (from 5.17 on) is found out by attaching the program that
reads it: the kernel does not attach one that reads more than it hands over. The names stand in the format of the tracepoint, where
tracefs is mounted; it is never mounted for them.

Sources: BPF_RAW_TRACEPOINT_OPEN in include/uapi/linux/bpf.h, Documentation/trace/events.rst.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import struct
from pathlib import Path

from otel_netmon.errors import KernelLacksError, PrivilegeError
from otel_netmon.handover import DropSetup
from otel_netmon.kernel import syscalls
from otel_netmon.kernel.cgroup import mounts
from otel_netmon.kernel.links import Refused
from otel_netmon.kernel.loader import LoadedImage

TRACEPOINT = b"kfree_skb"
WITH_REASON, WITHOUT_REASON = "netmon_drop", "netmon_drop_any"
_FORMAT = "events/skb/kfree_skb/format"
_SYMBOL = re.compile(r'\{\s*(0x[0-9a-fA-F]+|\d+)\s*,\s*"([^"]+)"\s*\}')


def open_raw_tracepoint(name: bytes, program: int) -> int:
    """Attaches a program to a raw tracepoint until the file descriptor that it gives is closed.

    Raises:
        Refused: lacks_feature is set where there is no such tracepoint, or it hands over less than the program reads.
    """
    text = ctypes.create_string_buffer(name)
    try:
        return syscalls.bpf(syscalls.RAW_TRACEPOINT_OPEN, struct.pack("<QI", ctypes.addressof(text), program))
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            raise Refused("not_permitted") from error
        lacks = error.errno in (errno.EINVAL, errno.ENOENT)
        raise Refused(errno.errorcode.get(error.errno or 0, "error").lower(), lacks) from error


class DropMonitor:
    """Counts drops as long as it is open.

    Args:
        image: the loaded drop_monitor, None where the probe is off.

    Attributes:
        has_reasons: the kernel tells its reasons; without, all drops are in the last slot.
        program: file descriptor of the program that is attached, -1 for none; it is the image's.
    """

    def __init__(self, image: LoadedImage | None) -> None:
        self._link = -1
        self._state = ("off", "", "")
        self.has_reasons = False
        self.program = -1
        if image is not None:
            self._attach(image)

    def _attach(self, image: LoadedImage) -> None:
        try:
            try:
                self._open(image.program(WITH_REASON))
                self.has_reasons = True
                self._state = ("ok", "", "")
            except Refused as refused:
                if not refused.lacks_feature:
                    raise
                self._open(image.program(WITHOUT_REASON))
                self._state = ("degraded", "no_reasons", "this kernel tells no reasons: drops are counted without one")
        except Refused as refused:
            self._state = ("off", refused.reason, f"the raw tracepoint skb/kfree_skb: {refused.reason}")
        except (KernelLacksError, PrivilegeError) as error:
            self._state = ("off", "kernel_refuses", str(error))

    def _open(self, program: int) -> None:
        self._link = open_raw_tracepoint(TRACEPOINT, program)
        self.program = program

    def state(self) -> tuple[str, str, str]:
        """State of the probe: ok, degraded or off; a reason; a detail for people."""
        return self._state

    def setup(self) -> DropSetup | None:
        """What the pipeline needs to know to read the counts; None where nothing is counted."""
        if self._link < 0:
            return None
        return DropSetup(has_reasons=self.has_reasons, program=self.program, names=reason_names())

    def leave_to_parent(self) -> None:
        """In a forked child: lets go, so that the parent's end detaches the program."""
        self.close()

    def close(self) -> None:
        """Takes the program off."""
        if self._link >= 0:
            os.close(self._link)
            self._link = -1


def reason_names(mountinfo: Path = Path("/proc/self/mountinfo")) -> dict[int, str]:
    """The kernel's own names of its reasons, by number; none where tracefs is not mounted or may not be read."""
    for folder, root in mounts(mountinfo.read_bytes(), b"tracefs"):
        if root == "/":
            with contextlib.suppress(OSError):
                return parse_format(Path(folder, _FORMAT).read_text(encoding="ascii", errors="replace"))
    return {}


def parse_format(text: str) -> dict[int, str]:
    """Names of values of the field ``reason`` in the text of a format file."""
    _, _, symbols = text.partition("__print_symbolic(REC->reason,")
    return {int(number, 0): name for number, name in _SYMBOL.findall(symbols)}

"""The kernel's own counters of every interface in a namespace, from /proc/net/dev.

One open file shows the namespace in which it was opened, whoever reads it, so the pipeline reads what the supervisor opened.
The kernel fills one page a read, so many interfaces take a few reads; every line is whole.

Source: proc_net(5), dev_seq_printf_stats in net/core/net-procfs.c of the kernel for what each column sums.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from otel_netmon.errors import NetmonError

_READ_BYTES = 1 << 16
_HEADER_LINES = 2
_COLUMNS = 16


class Counters(NamedTuple):
    """Counters of one interface since it was made; bytes are layer-2 bytes as the driver counts them.

    `receive_dropped` holds rx_dropped + rx_missed_errors of `ip -s -s link`.
    """

    receive_bytes: int
    receive_packets: int
    receive_errors: int
    receive_dropped: int
    transmit_bytes: int
    transmit_packets: int
    transmit_errors: int
    transmit_dropped: int


class NetdevReader:
    """Reads an open /proc/net/dev again and again.

    Args:
        fd: the open file; it stays the caller's, and nobody else may read it meanwhile.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self) -> dict[str, Counters]:
        """Counters by interface name as they are now.

        Raises:
            NetmonError: a line does not have the columns of proc_net(5).
            OSError: reading failed.
        """
        chunks: list[bytes] = []
        offset = 0
        while chunk := os.pread(self._fd, _READ_BYTES, offset):
            chunks.append(chunk)
            offset += len(chunk)
        return parse_netdev(b"".join(chunks))


def parse_netdev(text: bytes) -> dict[str, Counters]:
    """Counters by interface name from the text of /proc/net/dev; bytes of a name that are not UTF-8 become surrogates.

    Raises:
        NetmonError: a line does not have the columns of proc_net(5).
    """
    counters: dict[str, Counters] = {}
    for line in text.split(b"\n")[_HEADER_LINES:]:
        if not line:
            continue
        # A name may hold any byte but '/', ':' and white space; the kernel pads it with blanks on the left.
        name, colon, numbers = line.rpartition(b":")
        columns = numbers.split()
        if not colon or len(columns) != _COLUMNS or not all(column.isdigit() for column in columns):
            raise NetmonError(f"unknown line in /proc/net/dev: {line!r}")
        values = [int(column) for column in columns]
        counters[os.fsdecode(name.lstrip(b" "))] = Counters(*values[0:4], *values[8:12])
    return counters

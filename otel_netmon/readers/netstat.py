"""The kernel's own protocol counters of a network namespace: /proc/net/netstat, snmp and snmp6.

One open file shows the namespace in which it was opened, whoever reads it, so the pipeline reads what the supervisor opened.

Sources: proc_net(5); net/ipv4/proc.c and net/ipv6/proc.c of the kernel for the names; RFC 4293, RFC 4022 and RFC 4113 for the meaning of
those in snmp and snmp6; Documentation/networking/snmp_counter.rst for those in netstat.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from otel_netmon.errors import NetmonError

FILES = ("netstat", "snmp", "snmp6")
"""Names under /proc/net; snmp6 only where there is IPv6."""

_READ_BYTES = 1 << 16
_PREFIXES6 = ("Ip6", "Icmp6", "UdpLite6", "Udp6")


class NetstatReader:
    """Reads open files of one namespace again and again.

    Args:
        fds: the open files by name; they stay the caller's, and nobody else may read them meanwhile.
    """

    def __init__(self, fds: Mapping[str, int]) -> None:
        self._fds = dict(fds)

    def read(self) -> dict[str, int]:
        """Counters as they are now, by group and name as nstat(8) groups them: ``TcpExt.ListenDrops``, ``Udp6.NoPorts``.

        Raises:
            NetmonError: a line is not as proc_net(5) says.
            OSError: reading failed.
        """
        counters: dict[str, int] = {}
        for name, fd in self._fds.items():
            counters |= (parse_snmp6 if name == "snmp6" else parse_netstat)(_read(fd))
        return counters


def parse_netstat(text: bytes) -> dict[str, int]:
    """Counters from the text of netstat or snmp: a line with the names of a group, a line with their values.

    Raises:
        NetmonError: the two do not fit each other.
    """
    counters: dict[str, int] = {}
    lines = text.decode("ascii", "replace").splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=False):
        group, _, rest = names.partition(":")
        group_again, _, numbers = values.partition(":")
        keys, found = rest.split(), numbers.split()
        if group != group_again or len(keys) != len(found) or not all(map(_is_number, found)):
            raise NetmonError(f"unknown lines in /proc/net: {names[:100]!r}, {values[:100]!r}")
        counters |= {f"{group}.{key}": int(value) for key, value in zip(keys, found, strict=True)}
    if len(lines) % 2:
        raise NetmonError(f"no values in /proc/net for {lines[-1][:100]!r}")
    return counters


def parse_snmp6(text: bytes) -> dict[str, int]:
    """Counters from the text of snmp6: a name and a value in each line.

    Raises:
        NetmonError: a line is not so.
    """
    counters: dict[str, int] = {}
    for line in text.decode("ascii", "replace").splitlines():
        name, _, value = line.partition("\t")
        name, value = name.strip(), value.strip()
        prefix = next((each for each in _PREFIXES6 if name.startswith(each)), "")
        if not prefix or not _is_number(value):
            raise NetmonError(f"unknown line in /proc/net/snmp6: {line[:100]!r}")
        counters[f"{prefix}.{name.removeprefix(prefix)}"] = int(value)
    return counters


def _is_number(text: str) -> bool:
    return text.isdecimal() or (text[:1] == "-" and text[1:].isdecimal())


def _read(fd: int) -> bytes:
    chunks: list[bytes] = []
    offset = 0
    while chunk := os.pread(fd, _READ_BYTES, offset):
        chunks.append(chunk)
        offset += len(chunk)
    return b"".join(chunks)

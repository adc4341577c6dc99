"""The netstat probe: /proc/net/{netstat,snmp,snmp6} -> what the network stack drops, queues of listening sockets that overflow."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from otel_netmon.otel import netstat
from otel_netmon.otel.netstat import LISTEN_OVERFLOWS, USED, NamespaceCounters, OverflowEvents
from otel_netmon.otel.points import Point
from otel_netmon.otel.spans import Event
from otel_netmon.readers.netstat import NetstatReader

_PARTS_OF_IN_ERRORS = ("RcvbufErrors", "MemErrors", "InCsumErrors")


@dataclass(slots=True)
class _Namespace:
    """A namespace whose files are open, and what was read of it last."""

    name: str
    fds: dict[str, int]
    reader: NetstatReader
    start_ns: int
    counters: dict[str, int] = field(default_factory=dict)


class NetstatSource:
    """Reads the counters once a cycle.

    Args:
        boot_ns: Unix time at which the machine booted: since then, at the earliest, the counters count.
    """

    def __init__(self, boot_ns: int) -> None:
        self._boot_ns = boot_ns
        self._namespaces: dict[int, _Namespace] = {}
        self._events = OverflowEvents()
        self._gained: dict[str, dict[str, int]] = {}
        self._read_at = time.monotonic()
        self._seconds = 0.0

    def set_namespaces(self, files: Mapping[int, tuple[str, Mapping[str, int]]]) -> None:
        """Takes files opened anew, for exactly the namespaces that are observed now.

        Args:
            files: by number of the namespace: its name, empty for the agent's own, and open files of /proc/net by name, which are
                taken over.
        """
        for number in set(self._namespaces) - set(files):
            _close(self._namespaces.pop(number))
        for number, (name, fds) in files.items():
            old = self._namespaces.get(number)
            made = _Namespace(name, dict(fds), NetstatReader(fds), self._boot_ns)
            if old is not None:
                if old.name == name:
                    made.start_ns, made.counters = old.start_ns, old.counters
                _close(old)
            self._namespaces[number] = made

    def read(self, now_ns: int) -> None:
        """Reads every namespace.

        Raises:
            NetmonError, OSError: as ``NetstatReader.read``.
        """
        now = time.monotonic()
        self._seconds, self._read_at = now - self._read_at, now
        self._gained = {}
        for namespace in self._namespaces.values():
            found = namespace.reader.read()
            counters = {key: value for key, value in found.items() if key in USED}
            before = namespace.counters
            if any(value < before.get(key, 0) for key, value in counters.items()):
                before, namespace.start_ns = {}, now_ns  # another namespace has the name now
            for udp in ("Udp", "Udp6"):
                if f"{udp}.InErrors" in found:
                    parts = sum(found.get(f"{udp}.{part}", 0) for part in _PARTS_OF_IN_ERRORS)
                    # The kernel adds them up CPU by CPU while they count: for a moment the parts can be more than the whole.
                    key = f"{udp}.InOtherErrors"
                    counters[key] = max(found[f"{udp}.InErrors"] - parts, before.get(key, 0))
            if before:
                self._gained[namespace.name] = {
                    reason: counters[key] - before[key]
                    for key, reason in LISTEN_OVERFLOWS.items()
                    if key in counters and key in before
                }
            namespace.counters = counters

    def points(self) -> dict[str, list[Point]]:
        """The points of the last reading."""
        return netstat.netstat_points(
            NamespaceCounters(each.name, each.start_ns, each.counters) for each in self._namespaces.values()
        )

    def take_events(self, now_ns: int) -> list[Event]:
        """Events of the last reading."""
        gained, self._gained = self._gained, {}
        return self._events.take(gained, self._seconds, now_ns)

    def close(self) -> None:
        """Closes every file."""
        self.set_namespaces({})


def _close(namespace: _Namespace) -> None:
    for fd in namespace.fds.values():
        os.close(fd)

"""The interfaces probe: /proc/net/dev -> system.network.*, and compared with what the programs saw -> netmon.coverage."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from otel_netmon.abi.enums import Direction, hook_slot
from otel_netmon.analysis.coverage import Coverage, Sighting
from otel_netmon.enrich.interfaces import InterfaceNames
from otel_netmon.kernel.interfaces import Interface, Key
from otel_netmon.otel import interfaces
from otel_netmon.otel.points import Points
from otel_netmon.readers.netdev import Counters, NetdevReader


class InterfaceSource:
    """Reads the kernel's own counters once a cycle.

    Args:
        netdev: an open /proc/net/dev by number of the network namespace; taken over.
        boot_ns: Unix time at which the machine booted: its counters began then.
        start_ns: Unix time from which the coverage is told.
    """

    def __init__(self, netdev: Mapping[int, int], boot_ns: int, start_ns: int) -> None:
        self._fds = dict(netdev)
        self._readers = {number: NetdevReader(fd) for number, fd in self._fds.items()}
        self._boot_ns = boot_ns
        self._start_ns = start_ns
        self._coverage = Coverage()
        self._rows: list[tuple[int, int, Counters]] = []
        self.shares: dict[tuple[int, int, int], float] = {}

    def set_namespaces(self, netdev: Mapping[int, int]) -> None:
        """Takes files opened anew, for exactly the namespaces that are observed now."""
        for number, fd in netdev.items():
            old = self._fds.get(number)
            self._fds[number], self._readers[number] = fd, NetdevReader(fd)
            if old is not None:
                os.close(old)
        for number in set(self._readers) - set(netdev):
            del self._readers[number]
            os.close(self._fds.pop(number))

    def read(self, known: Iterable[Interface], hook_totals: Callable[[], Mapping[int, Any]]) -> None:
        """Reads the counters of the known interfaces.

        Args:
            hook_totals: gives hook_totals by slot as they are now; nothing where the flows probe is off.
        """
        known = list(known)
        counters = {number: reader.read() for number, reader in self._readers.items()}
        totals = hook_totals()
        shared = _shared_slots(known)
        self._rows = []
        for interface in known:
            values = counters.get(interface.namespace, {}).get(interface.name)
            if values is None:
                continue  # it has gone or was renamed a moment ago; the supervisor will tell
            self._rows.append((interface.namespace, interface.index, values))
            for direction in Direction:
                slot = hook_slot(interface.index, interface.namespace, direction)
                if slot not in totals or slot in shared:
                    continue
                handed = int(totals[slot]["packets"])
                counter = values.receive_packets if direction == Direction.RECEIVE else values.transmit_packets
                side = (interface.namespace, interface.index, int(direction))
                share = self._coverage.update(
                    side,
                    interface.kind == "physical",
                    Sighting(handed, handed + int(totals[slot]["extra_packets"]), counter),
                )
                if share is not None:
                    self.shares[side] = share

    def points(self, names: InterfaceNames) -> dict[str, Points]:
        """The points of the last reading."""
        return {
            **interfaces.interface_points(self._rows, names, self._boot_ns),
            **interfaces.coverage_points(self.shares, names, self._start_ns),
        }

    def forget(self, gone: Collection[Key]) -> None:
        """Drops interfaces that are gone."""
        for key in gone:
            self._coverage.forget(*key)
        self.shares = {side: share for side, share in self.shares.items() if side[:2] not in gone}


def _shared_slots(known: Iterable[Interface]) -> set[int]:
    """Slots of hook_totals that two of the interfaces share: their coverage cannot be told apart."""
    seen: set[int] = set()
    shared: set[int] = set()
    for interface in known:
        for direction in Direction:
            slot = hook_slot(interface.index, interface.namespace, direction)
            (shared if slot in seen else seen).add(slot)
    return shared

"""What the kernel dropped, by its own reasons: the map drop_counts."""

from __future__ import annotations

import numpy as np

from otel_netmon.abi import layout
from otel_netmon.abi.enums import DROPS_CORE, DROPS_SUBSYSTEM, DROPS_SUBSYSTEMS
from otel_netmon.readers.maps import ArrayReader

UNKNOWN = -1
"""Stands for what has no number: reasons beyond the map's places, and all where the kernel tells none."""

_SUBSYSTEM_SHIFT = 16


class DropReader:
    """Reads the counts, cumulative since the program was attached.

    Args:
        fd: the map drop_counts.
        cpus: number of possible CPUs.
    """

    def __init__(self, fd: int, cpus: int) -> None:
        self._array = ArrayReader(fd, layout.DROPS, cpus)

    def read(self) -> dict[int, int]:
        """Packets by number of the reason (enum skb_drop_reason), those that are not 0, in order; UNKNOWN last."""
        totals = self._array.read(0)["packets"].sum(axis=0, dtype=np.uint64)
        slots = np.flatnonzero(totals).tolist()
        return {_reason(slot): int(totals[slot]) for slot in slots}


def _reason(slot: int) -> int:
    """The number of a reason: its subsystem is in the upper 16 bits, 0 for the core."""
    if slot < DROPS_CORE:
        return slot
    subsystem, number = divmod(slot - DROPS_CORE, DROPS_SUBSYSTEM)
    return (subsystem + 1 << _SUBSYSTEM_SHIFT) + number if subsystem < DROPS_SUBSYSTEMS else UNKNOWN

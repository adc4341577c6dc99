"""netmon.coverage: what share of the kernel's own interface counters the programs saw, interval by interval."""

from __future__ import annotations

from typing import NamedTuple


class Sighting(NamedTuple):
    """Packets of one direction of one interface, cumulative: as handed over, on the wire, and by the kernel's counter."""

    handed_over: int
    wire: int
    counter: int


class Coverage:
    """Keeps the last sighting of each side and gives the share seen since then.

    Software interfaces count a super-packet once; drivers of hardware differ (some count segments), so for those the
    nearer of the two exact counts is compared. Without traffic the last share stays.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[int, int, int], Sighting] = {}
        self._share: dict[tuple[int, int, int], float] = {}

    def update(self, side: tuple[int, int, int], physical: bool, now: Sighting) -> float | None:
        """Takes a reading of (namespace, ifindex, direction); None until there was traffic between two readings."""
        before = self._last.get(side)
        self._last[side] = now
        if before is None or now.counter < before.counter:
            return self._share.get(side)
        counted = now.counter - before.counter
        if counted == 0:
            return self._share.get(side)
        shares = [(now.handed_over - before.handed_over) / counted]
        if physical:
            shares.append((now.wire - before.wire) / counted)
        self._share[side] = min(shares, key=lambda share: abs(share - 1))
        return self._share[side]

    def forget(self, namespace: int, ifindex: int) -> None:
        """Drops an interface that is gone."""
        for side in [s for s in self._last if s[:2] == (namespace, ifindex)]:
            del self._last[side]
            self._share.pop(side, None)

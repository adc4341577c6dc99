"""What has become of every item that was offered to a receiver, by signal. Not locked: who changes it holds the lock of the queue."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from otel_netmon.export.requests import Signal
from otel_netmon.selfmon.status import SignalStatus, StageStatus

QUEUE_REASONS: Final = frozenset({"superseded", "unchanged", "queue_full", "not_encoded", "shutdown"})
"""Why items never left the memory of this process.

superseded: a newer snapshot has the same counters, further on. unchanged: a distribution that gained nothing has no delta.
"""

SPOOL_REASONS: Final = frozenset({"spool_full", "spool_damaged"})
"""Why items were on disk and never left it for the receiver; every other reason is the receiver's or the transport's."""

NO_LOSS: Final = frozenset({"superseded", "unchanged"})
"""Reasons with which the receiver knows as much as without."""


@dataclass(slots=True)
class Account:
    """The items of one signal: offered = delivered + the sum of dropped + pending.

    Attributes:
        pending: wait in memory, on disk, or are under way.
        spooled: those of them that are on disk.
        found: were on disk already when this process began; offered too.
        left_spool: left the disk for the receiver, whatever it said.
        not_spooled: could not be written to the disk, and were sent from memory instead.
        closed: nothing changes any more; what is still offered is dropped at once.
    """

    offered: int = 0
    delivered: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    pending: int = 0
    spooled: int = 0
    found: int = 0
    left_spool: int = 0
    not_spooled: int = 0
    closed: bool = False

    def offer(self, items: int) -> None:
        """Items came."""
        self.offered += items
        if self.closed:
            self.dropped["shutdown"] += items
        else:
            self.pending += items

    def deliver(self, items: int, rejected: int = 0) -> None:
        """The receiver took a request, but for the rejected items."""
        if self.closed:
            return
        self.pending -= items
        self.delivered += items - rejected
        if rejected:
            self.dropped["rejected"] += rejected

    def drop(self, reason: str, items: int) -> None:
        """Items are given up."""
        if self.closed or not items:
            return
        self.pending -= items
        self.dropped[reason] += items

    def find(self, items: int) -> None:
        """Items of an earlier process are on disk."""
        self.offer(items)
        self.enter_spool(items)
        self.found += items

    def enter_spool(self, items: int) -> None:
        """Items that were offered are on disk."""
        if not self.closed:
            self.spooled += items

    def miss_spool(self, items: int) -> None:
        """Items could not be written to the disk."""
        if not self.closed:
            self.not_spooled += items

    def leave_spool(self, items: int, reason: str = "") -> None:
        """Items are on disk no more: answered by the receiver, or given up for a reason."""
        if self.closed:
            return
        self.spooled -= items
        if reason:
            self.drop(reason, items)
        else:
            self.left_spool += items

    def close(self) -> None:
        """What is in memory is given up; what is on disk waits for the next process."""
        self.drop("shutdown", self.pending - self.spooled)
        self.closed = True

    def lost(self) -> int:
        """Items that no receiver has and that no later ones stand for."""
        return sum(count for reason, count in self.dropped.items() if reason not in NO_LOSS | {"rejected"})

    def status(self) -> SignalStatus:
        """A copy for /status."""
        return SignalStatus(
            offered=self.offered, delivered=self.delivered, dropped=dict(self.dropped), pending=self.pending
        )

    def stages(self, *, has_spool: bool) -> dict[str, StageStatus]:
        """Delivered and dropped by each stage that items of this signal pass: queue, spool, export.

        What a stage delivers the next one gets, or has in its keeping still.
        """
        at = {stage: dict[str, int]() for stage in ("queue", "spool", "export")}
        for reason, count in self.dropped.items():
            stage = "queue" if reason in QUEUE_REASONS else "spool" if reason in SPOOL_REASONS else "export"
            at[stage][reason] = count
        answered = self.delivered + sum(at["export"].values())
        stages = {"export": StageStatus(delivered=self.delivered, dropped=at["export"])}
        if not has_spool:
            return {"queue": StageStatus(delivered=answered, dropped=at["queue"]), **stages}
        direct = answered - self.left_spool
        through = direct + self.left_spool + self.spooled + sum(at["spool"].values()) - self.found
        if self.not_spooled:
            at["spool"]["spool_failed"] = self.not_spooled
        return {
            "queue": StageStatus(delivered=through, dropped=at["queue"]),
            "spool": StageStatus(delivered=self.left_spool, dropped=at["spool"]),
            **stages,
        }


Ledger = dict[Signal, Account]


def new_ledger() -> Ledger:
    """An empty account for each signal."""
    return {signal: Account() for signal in Signal}

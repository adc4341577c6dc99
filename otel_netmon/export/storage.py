"""Where encoded requests wait for their turn: on disk where there is a spool, in memory where there is none or it fails."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

import structlog

from otel_netmon.errors import SpoolError
from otel_netmon.export.ledger import Account, Ledger
from otel_netmon.export.queue import Queue, Ready
from otel_netmon.export.requests import Request, Signal
from otel_netmon.export.spool import Spool
from otel_netmon.export.spool_lane import Entry

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Work:
    """A request whose turn it is.

    Attributes:
        entry: its place in the spool, for one that comes from there.
        ready: its place in memory, for one that waited there.
    """

    request: Request
    entry: Entry | None = None
    ready: Ready | None = None


class Source(Protocol):
    """Where a lane gets its requests. Each one that ``next`` gives is followed by ``done`` or ``later``."""

    def next(self) -> Work | None:
        """The request whose turn it is; None where there is none.

        Raises:
            SpoolError: it cannot be read for the moment.
        """

    def done(self, work: Work) -> None:
        """It was answered for good, which the caller counts."""

    def later(self, work: Work) -> None:
        """It is to be tried again."""

    def has(self) -> bool:
        """Whether there is something to send."""


class Storage:
    """Requests of one receiver, in the order in which they came. Used by the worker alone; the queue is guarded by ``lock``.

    Args:
        queue: memory.
        spool: disk; None for memory only.
        ledger: where everything is counted.
        lock: of queue and ledger. Never held while the disk is asked.
    """

    def __init__(self, queue: Queue, spool: Spool | None, ledger: Ledger, lock: threading.RLock) -> None:
        self._queue = queue
        self._spool = spool
        self._ledger = ledger
        self._lock = lock
        self._failing = False
        self._settled = dict.fromkeys(Signal, (0, 0))
        if spool is not None:
            for signal, account in ledger.items():
                account.find(spool.pending(signal).items)

    def keep(self, request: Request) -> None:
        """Takes a request in. One that cannot be written to disk waits in memory, as if there were no spool."""
        account = self._ledger[request.signal]
        if self._spool is None:
            with self._lock:
                self._queue.put(Ready(request))
            return
        try:
            self._spool.append(request)
        except SpoolError as error:
            self._tell(error)
            with self._lock:
                account.miss_spool(request.items)
                self._queue.put(Ready(request, self._spool.next_sequence(request.signal)))
            return
        self._tell(None)
        with self._lock:
            account.enter_spool(request.items)
        self.settle(self._spool)

    def source(self, signal: Signal) -> Source:
        """The requests of a signal, oldest first."""
        return _Stored(self, self._queue, self._spool, self._ledger[signal], self._lock, signal)

    def settle(self, spool: Spool) -> None:
        """Counts what the spool gave up since the last time."""
        for signal, account in self._ledger.items():
            counts = spool.counts(signal)
            evicted, damaged = counts.evicted.items, counts.damaged.items
            was = self._settled[signal]
            if (evicted, damaged) != was:
                self._settled[signal] = evicted, damaged
                with self._lock:
                    account.leave_spool(evicted - was[0], "spool_full")
                    account.leave_spool(damaged - was[1], "spool_damaged")

    def _tell(self, error: SpoolError | None) -> None:
        """Logs once that the disk does not take requests, and once that it does again."""
        if (error is not None) == self._failing:
            return
        self._failing = error is not None
        if error is not None:
            _log.error("spool.failing", error=error.message, remedy=error.remedy, consequence="sent from memory")
        else:
            _log.info("spool.writing")


class _Stored:
    """One signal's part of a storage; see ``Source``."""

    def __init__(
        self,
        storage: Storage,
        queue: Queue,
        spool: Spool | None,
        account: Account,
        lock: threading.RLock,
        signal: Signal,
    ) -> None:
        self._storage = storage
        self._queue = queue
        self._spool = spool
        self._account = account
        self._lock = lock
        self._signal = signal

    def next(self) -> Work | None:
        if self._spool is not None:
            with self._lock:
                ready = self._queue.first(self._signal)
            entry = self._spool.peek(self._signal)
            self._storage.settle(self._spool)
            if entry is not None and (ready is None or entry.found.header.sequence < ready.before):
                return Work(entry.request, entry=entry)
        with self._lock:
            if self._queue.first(self._signal) is None:
                return None
            ready = self._queue.get(self._signal)
        return Work(ready.request, ready=ready)

    def done(self, work: Work) -> None:
        if work.entry is not None and self._spool is not None:
            self._spool.acknowledge(work.entry)

    def later(self, work: Work) -> None:
        if work.ready is not None:
            with self._lock:
                self._queue.put_back(work.ready)

    def has(self) -> bool:
        with self._lock:
            return self._queue.first(self._signal) is not None or self._account.spooled > 0

"""What one receiver gets, when, and how often: a state machine without a thread of its own.

    offer ──> Queue ──encode──┬──> NewestSnapshot ──────────────┐
                              └──> Storage (memory, or Spool) ──┴──> Transport ──> Outcome: done, tried again later, or given up

Each signal has a lane with a wait of its own: a receiver that fails for one holds up no other. Metrics go before spans, spans
before events. OTLP specification 1.x.
"""

from __future__ import annotations

import functools
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog

from otel_netmon.errors import SpoolError
from otel_netmon.export.backoff import Backoff
from otel_netmon.export.encoders import Encoders
from otel_netmon.export.lanes import Lane, State, reason_of
from otel_netmon.export.ledger import Ledger, new_ledger
from otel_netmon.export.queue import Queue, joined_spans
from otel_netmon.export.requests import Outcome, Request, Signal, Transport
from otel_netmon.export.snapshots import Encoding, NewestSnapshot
from otel_netmon.export.spool import Spool
from otel_netmon.export.storage import Storage, Work
from otel_netmon.otel.points import Snapshot
from otel_netmon.otel.spans import Event, SpanBatch
from otel_netmon.selfmon.status import SpoolStatus

_log = structlog.get_logger(__name__)

_ATTEMPTS_MAX = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a receiver gets and how.

    Attributes:
        signals: what it gets; the rest is not even counted.
        delta: whether a part of the metrics goes out as differences.
        timeout_seconds: for one attempt.
        queue_bytes: what may wait in memory.
        where: fields of every log line.
    """

    signals: Collection[Signal] = tuple(Signal)
    delta: bool = False
    timeout_seconds: float = 10.0
    queue_bytes: int = 4 << 20
    where: Mapping[str, str] = field(default_factory=dict)


class Attempt(NamedTuple):
    """One attempt to send a request, and how long it took."""

    signal: Signal
    seconds: float
    outcome: Outcome


@dataclass(slots=True)
class Health:
    """What /status says beside the counts."""

    requests: int = 0
    last_error: str | None = None
    last_success_unix_nano: int | None = None
    spool: SpoolStatus | None = None
    states: dict[Signal, State] = field(default_factory=dict)


class Delivery:
    """Everything between what is offered and the transport of one receiver.

    ``offer*``, ``hurry`` and what reads counts may be called by any thread; ``step`` by one, the worker.

    Attributes:
        attempts: the newest of those not taken yet.

    Args:
        transport: the way to the receiver.
        encoders: what makes requests.
        spool: keeps requests on disk; None for memory only.
        terms: see ``Terms``.
        clock: monotonic seconds.
        draw: gives a number in [0, 1), for the jitter.
    """

    def __init__(
        self,
        transport: Transport,
        encoders: Encoders,
        spool: Spool | None,
        terms: Terms,
        *,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._transport = transport
        self._encoders = encoders
        self._spool = spool
        self._terms = terms
        self._clock = clock
        self._log = _log.bind(**terms.where)
        self.lock = threading.RLock()
        self.ledger: Ledger = new_ledger()
        self.attempts: deque[Attempt] = deque(maxlen=_ATTEMPTS_MAX)
        self.health = Health(spool=spool.status() if spool is not None else None)
        self._queue = Queue(terms.queue_bytes, self.ledger, newest_only=spool is None)
        self._storage = Storage(self._queue, spool, self.ledger, self.lock)
        sources = {signal: self._storage.source(signal) for signal in Signal}
        self._newest: NewestSnapshot | None = None
        if spool is None:
            account = self.ledger[Signal.METRICS]
            self._newest = NewestSnapshot(encoders.metrics, self._queue, account, self.lock, delta=terms.delta)
            sources[Signal.METRICS] = self._newest
        self._base: Snapshot | None = None
        self._lanes = [Lane(signal, source, Backoff(draw)) for signal, source in sources.items()]
        self._hurried = False
        self._sending = True

    @property
    def base(self) -> Snapshot | None:
        """The snapshot from which ends of series and differences are told; it may be set before the first is offered."""
        return self._base if self._newest is None else self._newest.base

    @base.setter
    def base(self, snapshot: Snapshot) -> None:
        if self._newest is None:
            self._base = snapshot
        else:
            self._newest.base = snapshot

    # ---- what is offered

    def offer(self, snapshot: Snapshot) -> None:
        """A snapshot; never blocks."""
        if Signal.METRICS not in self._terms.signals:
            return
        items = self._encoders.count_points(snapshot)
        account = self.ledger[Signal.METRICS]
        with self.lock:
            if account.closed:
                account.offer(items)
            else:
                self._queue.offer_snapshot(snapshot, items, self._clock())

    def offer_spans(self, batch: SpanBatch) -> None:
        """Finished spans; never blocks."""
        self._offer_batch(Signal.TRACES, batch)

    def offer_events(self, events: Sequence[Event]) -> None:
        """Events; never blocks."""
        self._offer_batch(Signal.LOGS, events)

    def _offer_batch(self, signal: Signal, content: SpanBatch | Sequence[Event]) -> None:
        if signal not in self._terms.signals:
            return
        account = self.ledger[signal]
        with self.lock:
            if account.closed:
                account.offer(len(content))
            else:
                self._queue.offer(signal, content, self._clock())

    def hurry(self) -> None:
        """Nothing waits for more of its kind, and no wait of our own holds it back; what the receiver asked for does."""
        with self.lock:
            self._hurried = True

    def stop_sending(self) -> None:
        """No further attempt; what waits is still encoded and written to the spool."""
        self._sending = False
        self.hurry()

    def close(self) -> None:
        """What is in memory is counted as dropped; nothing is counted any more but what is still offered."""
        with self.lock:
            for account in self.ledger.values():
                account.close()

    def in_memory(self) -> int:
        """Items that the end of the process would take."""
        with self.lock:
            return sum(account.pending - account.spooled for account in self.ledger.values())

    def pending(self) -> int:
        """Items that were offered and not answered."""
        with self.lock:
            return sum(account.pending for account in self.ledger.values())

    def lost(self) -> int:
        """Items of all signals that no receiver has and that no later ones stand for."""
        with self.lock:
            return sum(account.lost() for account in self.ledger.values())

    @property
    def sending(self) -> bool:
        """Whether ``stop_sending`` was not called yet."""
        return self._sending

    @property
    def queue_bytes(self) -> int:
        """What waits in memory."""
        return self._queue.size

    @property
    def failing(self) -> bool:
        """Whether every lane that has something to send waits before it tries again."""
        now = self._clock()
        return all(lane.not_before > now for lane in self._lanes if lane.source.has())

    # ---- the machine

    def step(self) -> float | None:
        """Encodes what is due, then makes at most one attempt to send.

        Returns:
            When to call again, by the clock; None for not before something is offered.
        """
        now = self._clock()
        with self.lock:
            hurried, self._hurried = self._hurried, False
        if hurried:
            for lane in self._lanes:
                lane.hurry()
        self._take_in(now, everything=hurried)
        wake = [self._spool.maintain(now)] if self._spool is not None else []
        attempted = False
        for lane in self._lanes if self._sending else ():
            if lane.not_before > now:
                wake.append(lane.not_before if lane.source.has() else None)
            elif self._attempt(lane):
                attempted = True
                break
        with self.lock:
            wake += [self._queue.due(signal) for signal in (Signal.TRACES, Signal.LOGS)]
            if self._spool is not None:
                self.health.spool = self._spool.status()
        return now if attempted else min((at for at in wake if at is not None), default=None)

    def _take_in(self, now: float, *, everything: bool) -> None:
        """Encodes what is due into the storage; without a spool snapshots wait until their turn comes."""
        if self._spool is not None:
            self._take_snapshots()
        for signal in (Signal.TRACES, Signal.LOGS):
            with self.lock:
                due = self._queue.due(signal)
                if due is None or (due > now and not everything):
                    continue
                waiting = self._queue.take(signal)
            account = self.ledger[signal]
            make: Callable[[], Iterator[Request]]
            if signal is Signal.TRACES:
                make = functools.partial(self._encoders.spans, joined_spans([entry.content for entry in waiting]))
            else:
                make = functools.partial(self._encoders.events, [event for entry in waiting for event in entry.content])
            for request in Encoding(make, sum(entry.items for entry in waiting), account, self.lock):
                self._storage.keep(request)

    def _take_snapshots(self) -> None:
        account = self.ledger[Signal.METRICS]
        while True:
            with self.lock:
                if account.closed or not self._queue.has_waiting(Signal.METRICS):
                    return
                waiting = self._queue.take_first(Signal.METRICS)
            make = functools.partial(self._encoders.metrics, waiting.content, self._base)
            encoding = Encoding(make, waiting.items, account, self.lock)
            for request in encoding:
                self._storage.keep(request)
            if encoding.made or not encoding.failed:
                self._base = waiting.content

    def _attempt(self, lane: Lane) -> bool:
        """Sends the next request of a lane; False where there is none."""
        try:
            work = lane.source.next()
        except SpoolError as error:
            self._postpone(lane, Outcome("retry", "spool_unreadable", str(error)))
            return False
        if work is None:
            return False
        outcome = self._send(work.request)
        was_away, lane.unanswered = lane.unanswered, not outcome.status
        if was_away and outcome.status:
            self._is_back()
        if outcome.kind == "retry":
            lane.source.later(work)
            self._postpone(lane, outcome)
        else:
            lane.source.done(work)
            self._finish(lane, work, outcome)
        return True

    def _is_back(self) -> None:
        """A receiver that answers for one signal again is worth an attempt for the others that got no answer."""
        for lane in self._lanes:
            if lane.unanswered:
                lane.hurry()

    def _send(self, request: Request) -> Outcome:
        with self.lock:
            self.health.requests += 1
        began = self._clock()
        try:
            outcome = self._transport.send(request, self._terms.timeout_seconds)
        except Exception as error:  # noqa: BLE001 - a defect of the transport costs one request and not the worker; told here
            self._log.exception("otlp.transport_failed", error=repr(error))
            outcome = Outcome("refused", "internal", repr(error))
        self.attempts.append(Attempt(request.signal, self._clock() - began, outcome))
        return outcome

    def _finish(self, lane: Lane, work: Work, outcome: Outcome) -> None:
        """The receiver has answered for good."""
        items = work.request.items
        account = self.ledger[lane.signal]
        lane.answered(outcome, self._log)
        with self.lock:
            if work.entry is not None:
                account.leave_spool(items)
            if outcome.kind == "delivered":
                account.deliver(items, min(max(outcome.rejected, 0), items))
                self.health.last_success_unix_nano = time.time_ns()
            else:
                account.drop(reason_of(outcome), items)
                self.health.last_error = f"{reason_of(outcome)}: {outcome.detail}"
            self.health.states[lane.signal] = lane.state

    def _postpone(self, lane: Lane, outcome: Outcome) -> None:
        """The request is tried again, after a wait."""
        if not self._sending:
            return  # it was ended by us
        lane.postpone(outcome, self._clock(), self._log)
        with self.lock:
            self.health.last_error = f"{outcome.reason}: {outcome.detail}"
            self.health.states[lane.signal] = lane.state

"""What waits in memory for one receiver, bounded in bytes over all signals together.

Snapshots, spans and events wait as they came; what was encoded and is not on disk waits as requests. Not locked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import numpy as np

from otel_netmon.export.ledger import Ledger
from otel_netmon.export.requests import Request, Signal
from otel_netmon.otel.points import HistogramSeries, NumberSeries, Points, Snapshot
from otel_netmon.otel.spans import Event, SpanBatch

EVICTION: Final = (Signal.LOGS, Signal.TRACES, Signal.METRICS)
"""Whose oldest entry is dropped first when the limit is reached. Nothing displaces what stands behind its own signal."""

GATHER_ITEMS: Final = 512
"""Spans or events that are worth a request."""
GATHER_SECONDS: Final = 1.0
"""How long fewer of them wait for more."""

_SPAN_BYTES = 120
_POINT_BYTES = 300

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Waiting(Generic[T]):
    """Something that was offered and is not encoded yet."""

    content: T
    items: int
    size: int
    since: float


@dataclass(frozen=True, slots=True)
class Ready:
    """A request that waits in memory.

    Attributes:
        before: the spool's next sequence number when it came: what is in the spool with a smaller one goes first.
    """

    request: Request
    before: int = 0

    @property
    def items(self) -> int:
        """Items in it."""
        return self.request.items

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return len(self.request.body)


class Queue:
    """The memory of one receiver.

    Args:
        max_bytes: of everything that waits; the newest snapshot is kept whatever its size.
        ledger: where what is dropped is counted.
        newest_only: a snapshot replaces one that waits.
    """

    def __init__(self, max_bytes: int, ledger: Ledger, *, newest_only: bool) -> None:
        self._max_bytes = max_bytes
        self._ledger = ledger
        self._newest_only = newest_only
        self._waiting: dict[Signal, deque[Waiting[Any]]] = {signal: deque() for signal in Signal}
        self._ready: dict[Signal, deque[Ready]] = {signal: deque() for signal in Signal}
        self.size = 0

    # ---- what came

    def offer_snapshot(self, snapshot: Snapshot, items: int, now: float) -> None:
        """A snapshot waits; older ones make room as superseded."""
        waiting = self._waiting[Signal.METRICS]
        while waiting and self._newest_only:
            self._supersede()
        entry = Waiting(snapshot, items, snapshot_bytes(snapshot), now)
        self._ledger[Signal.METRICS].offer(items)
        while not self._make_room(Signal.METRICS, entry.size) and waiting:
            self._supersede()
        self._push(Signal.METRICS, entry)

    def offer(self, signal: Signal, content: SpanBatch | Sequence[Event], now: float) -> None:
        """Spans or events wait until enough are there; without room the oldest are dropped."""
        for piece in _pieces(content):
            entry = Waiting(piece, len(piece), batch_bytes(piece), now)
            self._ledger[signal].offer(entry.items)
            if self._make_room(signal, entry.size):
                self._push(signal, entry)
            else:
                self._ledger[signal].drop("queue_full", entry.items)

    def _push(self, signal: Signal, entry: Waiting[Any]) -> None:
        self._waiting[signal].append(entry)
        self.size += entry.size

    def has_waiting(self, signal: Signal) -> bool:
        """Whether something of this signal is not encoded yet."""
        return bool(self._waiting[signal])

    def due(self, signal: Signal) -> float | None:
        """When what waits is to be encoded; None where nothing does."""
        waiting = self._waiting[signal]
        if not waiting:
            return None
        enough = signal is Signal.METRICS or sum(entry.items for entry in waiting) >= GATHER_ITEMS
        return waiting[0].since + (0.0 if enough else GATHER_SECONDS)

    def take(self, signal: Signal) -> list[Waiting[Any]]:
        """Everything of a signal that is not encoded yet, oldest first."""
        taken = list(self._waiting[signal])
        self._waiting[signal].clear()
        self.size -= sum(entry.size for entry in taken)
        return taken

    def take_first(self, signal: Signal) -> Waiting[Any]:
        """The oldest entry that is not encoded yet; there is one."""
        entry = self._waiting[signal].popleft()
        self.size -= entry.size
        return entry

    # ---- requests

    def put(self, ready: Ready) -> None:
        """A request waits; without room the oldest are dropped."""
        signal = ready.request.signal
        if self._make_room(signal, ready.size):
            self._ready[signal].append(ready)
            self.size += ready.size
        else:
            self._ledger[signal].drop("queue_full", ready.items)

    def put_back(self, ready: Ready) -> None:
        """What ``get`` gave waits on, first of its signal."""
        self._ready[ready.request.signal].appendleft(ready)
        self.size += ready.size

    def first(self, signal: Signal) -> Ready | None:
        """The oldest request, which stays."""
        ready = self._ready[signal]
        return ready[0] if ready else None

    def get(self, signal: Signal) -> Ready:
        """The oldest request, which leaves; there is one."""
        ready = self._ready[signal].popleft()
        self.size -= ready.size
        return ready

    # ---- room

    def _make_room(self, signal: Signal, need: int) -> bool:
        if need > self._max_bytes:
            return False
        for victim in EVICTION[: EVICTION.index(signal) + 1]:
            while self.size + need > self._max_bytes and self._evict(victim):
                pass
        return self.size + need <= self._max_bytes

    def _evict(self, victim: Signal) -> bool:
        if self._ready[victim]:
            self._ledger[victim].drop("queue_full", self.get(victim).items)
            return True
        if not self._waiting[victim]:
            return False
        if victim is Signal.METRICS:
            self._supersede()
        else:
            self._ledger[victim].drop("queue_full", self.take_first(victim).items)
        return True

    def _supersede(self) -> None:
        self._ledger[Signal.METRICS].drop("superseded", self.take_first(Signal.METRICS).items)


def snapshot_bytes(snapshot: Snapshot) -> int:
    """About what a snapshot holds in memory; columns that metrics share count for each of them."""
    return sum(map(_points_bytes, snapshot.points.values()))


def _points_bytes(points: Points) -> int:
    if not isinstance(points, NumberSeries | HistogramSeries):
        return _POINT_BYTES * len(points)
    arrays = (getattr(points, name) for name in points.__dataclass_fields__)
    return 8 * len(points) + sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))


def batch_bytes(content: SpanBatch | Sequence[Event]) -> int:
    """About what spans or events take when they are encoded, which is no less than what they hold now."""
    if isinstance(content, SpanBatch):
        shared = sum(map(len, set(content.resources)))  # spans of one resource go out under one copy of it
        return _SPAN_BYTES * len(content) + sum(map(len, content.attributes)) + sum(map(len, content.messages)) + shared
    shared = sum(map(len, {event.resource for event in content}))
    return sum(_SPAN_BYTES + len(event.body) + len(event.attributes) for event in content) + shared


def _pieces(content: SpanBatch | Sequence[Event]) -> Iterator[SpanBatch | Sequence[Event]]:
    """At most ``GATHER_ITEMS`` each, so that a full queue drops no more than it must."""
    for begin in range(0, len(content), GATHER_ITEMS):
        rows = slice(begin, begin + GATHER_ITEMS)
        if isinstance(content, SpanBatch):
            yield SpanBatch(*(getattr(content, name)[rows] for name in SpanBatch.__dataclass_fields__))
        else:
            yield content[rows]


def joined_spans(batches: Sequence[SpanBatch]) -> SpanBatch:
    """Batches as one, in order."""
    if len(batches) == 1:
        return batches[0]
    columns: list[Any] = []
    absent = {"trace_states": "", "resources": b""}
    for name in SpanBatch.__dataclass_fields__:
        parts = [getattr(batch, name) for batch in batches]
        if name in absent and any(map(len, parts)):
            parts = [part or [absent[name]] * len(batch) for part, batch in zip(parts, batches, strict=True)]
        columns.append(
            np.concatenate(parts) if isinstance(parts[0], np.ndarray) else [value for part in parts for value in part]
        )
    return SpanBatch(*columns)

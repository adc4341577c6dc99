"""Snapshots on their way into requests, and out: one at a time, the newest, where nothing is kept on disk."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator

import structlog

from otel_netmon.export.ledger import Account
from otel_netmon.export.queue import Queue
from otel_netmon.export.requests import Request, Signal
from otel_netmon.export.storage import Work
from otel_netmon.otel.points import Snapshot

_log = structlog.get_logger(__name__)

EncodeSnapshot = Callable[[Snapshot, Snapshot | None], Iterator[Request]]
"""A snapshot, and the one that the receiver was given before it, to requests."""


class Encoding(Iterator[Request]):
    """Requests as they are made, counted: the encoder may add items (series that ended) or leave some out (nothing to tell).

    Args:
        encode: gives the requests.
        items: that were offered.
        account: of the signal.
        lock: of the account.

    Attributes:
        left: offered items that are in no request yet.
        made: how many requests came out.
        failed: the encoder raised; what was left is counted as not_encoded.
    """

    def __init__(
        self, encode: Callable[[], Iterator[Request]], items: int, account: Account, lock: threading.RLock
    ) -> None:
        self._encode = encode
        self._requests: Iterator[Request] | None = None
        self._account = account
        self._lock = lock
        self.left = items
        self.made = 0
        self.failed = False

    def __next__(self) -> Request:
        request: Request | None = None
        try:
            if self._requests is None:
                self._requests = self._encode()
            request = next(self._requests, None)
        except Exception as error:  # noqa: BLE001 - whatever a snapshot does to the encoder, the next one is sent; told here
            self.failed = True
            _log.exception("otlp.encode_failed", error=repr(error))
        with self._lock:
            if request is None:
                self._account.drop("not_encoded" if self.failed else "unchanged", self.left)
                self.left = 0
                raise StopIteration
            if request.items > self.left:
                self._account.offer(request.items - self.left)
            self.left = max(0, self.left - request.items)
            self.made += 1
        return request


class NewestSnapshot:
    """The newest snapshot, request by request; a ``storage.Source``.

    One of which nothing was answered yet gives way to a newer one. Once a part of it has arrived it is finished first, so that
    there is always one snapshot which the receiver knows, and from which ends of series and differences are told. Differences that
    were once on their way are tried again as they were: sent in another cut, they would count twice where only the answer
    was lost.

    Args:
        encode: see ``EncodeSnapshot``.
        queue: where the newest one waits.
        account: of metrics.
        lock: of both.
        delta: whether requests hold differences.

    Attributes:
        base: the snapshot that the receiver knows; may be set before the first one is offered.
    """

    def __init__(
        self, encode: EncodeSnapshot, queue: Queue, account: Account, lock: threading.RLock, *, delta: bool
    ) -> None:
        self._encode = encode
        self._queue = queue
        self._account = account
        self._lock = lock
        self._delta = delta
        self.base: Snapshot | None = None
        self._snapshot: Snapshot | None = None
        self._encoding: Encoding | None = None
        self._request: Request | None = None
        self._holds = False

    def next(self) -> Work | None:
        """See ``Source``."""
        with self._lock:
            if self._request is not None and not self._holds and self._queue.has_waiting(Signal.METRICS):
                left = self._encoding.left if self._encoding is not None else 0
                self._account.drop("superseded", self._request.items + left)
                self._encoding = self._request = None
        while self._request is None:
            if self._encoding is None and not self._begin():
                return None
            self._advance()
        return Work(self._request)

    def done(self, _work: Work) -> None:
        """See ``Source``."""
        self._request, self._holds = None, True

    def later(self, _work: Work) -> None:
        """See ``Source``."""
        self._holds = self._holds or self._delta

    def has(self) -> bool:
        """See ``Source``."""
        with self._lock:
            return self._encoding is not None or self._queue.has_waiting(Signal.METRICS)

    def _begin(self) -> bool:
        with self._lock:
            if not self._queue.has_waiting(Signal.METRICS):
                return False
            waiting = self._queue.take_first(Signal.METRICS)
        self._snapshot, self._holds = waiting.content, False
        encode = functools.partial(self._encode, waiting.content, self.base)
        self._encoding = Encoding(encode, waiting.items, self._account, self._lock)
        return True

    def _advance(self) -> None:
        if self._encoding is None:
            return
        self._request = next(self._encoding, None)
        if self._request is None:
            if self._encoding.made or not self._encoding.failed:
                self.base = self._snapshot
            self._encoding = self._snapshot = None

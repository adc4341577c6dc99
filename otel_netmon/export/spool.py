"""Requests of one receiver on disk: written before they are sent, sent in order, kept over outages, kill -9 and loss of power.

A folder holds a lane for each signal (``spool_lane``), the cursor (``spool_cursor``) and a lock. Used by one thread.

How often a request arrives: at least once. What ends in the middle, by kill -9 or loss of power, sends again at most the request
that was under way, and after a loss of power also what was acknowledged since the last sync (see ``Sync``).
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import structlog

from otel_netmon.export.requests import Request, Signal
from otel_netmon.export.spool_counts import Counts, Tally
from otel_netmon.export.spool_cursor import Cursor
from otel_netmon.export.spool_folder import remedy_of, take_lock, unusable
from otel_netmon.export.spool_format import SIGNALS, compress
from otel_netmon.export.spool_lane import Entry, Lane
from otel_netmon.selfmon.status import SpoolStatus

_log = structlog.get_logger(__name__)

Sync = Literal["always", "interval", "never"]
"""When written requests are forced to the disk (fdatasync), which decides what a loss of power takes. kill -9 takes nothing.

always: before ``append`` and ``acknowledge`` return. Nothing is lost; what was under way is sent again.
interval: by ``maintain``, at most once in ``SYNC_SECONDS`` and at the latest that long after a write. That much is lost or sent again.
never: when the kernel likes, 30 s by default. That much is lost, sent again, or counted as damaged.
"""

SYNC_SECONDS: Final = 1.0

SEGMENT_BYTES: Final = 4 << 20
"""Of a segment; smaller where the limit is small, so that one is a sixteenth of it at most, and larger above 4 GiB."""

EVICTION: Final = (Signal.LOGS, Signal.TRACES, Signal.METRICS)
"""Whose oldest segment is given up first when the limit is reached. A request never displaces what stands behind its own signal."""


class Spool:
    """The spool of one receiver.

    Args:
        directory: its folder; made with mode 0700 when missing. No other process may use it.
        max_bytes: of all segments together; the cursor has 8 KiB more.
        sync: see ``Sync``.
        clock: monotonic seconds.
        segment_bytes: in place of ``SEGMENT_BYTES``.
        wait_seconds: how long to wait for another process that uses the folder and may be about to end.

    Raises:
        SpoolError: the folder cannot be used, another process uses it, or a newer version wrote to it.
    """

    def __init__(
        self,
        directory: Path,
        max_bytes: int,
        sync: Sync = "interval",
        *,
        clock: Callable[[], float] = time.monotonic,
        segment_bytes: int | None = None,
        wait_seconds: float = 0.0,
    ) -> None:
        self.directory = directory
        self._max_bytes = max_bytes
        self._sync = sync
        self._clock = clock
        self._last_sync = float("-inf")
        self._troubles: set[str] = set()
        segment_bytes = segment_bytes or max(min(SEGMENT_BYTES, max_bytes // 16), max_bytes // 1024)
        self._lanes = {
            signal: Lane(directory / signal.word, signal, segment_bytes, forced=sync != "never") for signal in SIGNALS
        }
        with contextlib.ExitStack() as opened:
            try:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                if directory.stat().st_mode & 0o077:
                    directory.chmod(0o700)
                self._lock = take_lock(directory / "lock", wait_seconds)
                opened.callback(os.close, self._lock)
                self._cursor = Cursor(directory / "cursor")
                opened.callback(self._cursor.close)
                self._open_lanes(opened)
            except OSError as error:
                raise unusable("use", directory, error) from error
            opened.pop_all()
        self._save()  # what was found behind the cursor is known from here on, whatever becomes of it
        self._tidy()

    def _open_lanes(self, opened: contextlib.ExitStack) -> None:
        positions = self._cursor.positions
        if self._cursor.damaged:
            _log.warning(
                "spool.cursor_damaged",
                directory=str(self.directory),
                consequence="requests that were sent already may be sent again, one segment of each signal at most",
            )
        for index, (signal, lane) in enumerate(self._lanes.items()):
            opened.callback(lane.close)
            torn = lane.open(positions[index] if positions is not None else None)
            if torn:
                _log.warning("spool.torn_tail", directory=str(self.directory), signal=signal.word, bytes=torn)
            for name in lane.foreign:
                _log.warning("spool.foreign_file", path=str(self.directory / signal.word / name), remedy="move it away")
        found = {signal.word: lane.pending.records for signal, lane in self._lanes.items() if lane.pending.records}
        if found:
            _log.info("spool.found", directory=str(self.directory), **found)

    # ---- requests

    def append(self, request: Request) -> bool:
        """Keeps a request.

        Returns:
            False where it was given up for the size limit, which ``counts`` then tells as evicted.

        Raises:
            SpoolError: it cannot be written; the spool is as before.
        """
        lane = self._lanes[request.signal]
        stored = compress(request.body)
        try:
            if not self._make_room(lane, len(stored)):
                lane.refuse(request.items)
                return False
            lane.append(
                stored,
                body_bytes=len(request.body),
                items=request.items,
                time_unix_nano=time.time_ns(),
                durable=self._sync == "always",
            )
        except OSError as error:
            raise unusable("write to", self.directory, error) from error
        self._save()
        return True

    def peek(self, signal: Signal) -> Entry | None:
        """The oldest request of a signal, to be acknowledged once it is done with. What is damaged before it is counted.

        Raises:
            SpoolError: something is missing for the moment, as file descriptors are; nothing is lost.
        """
        lane = self._lanes[signal]
        damaged = lane.counts.damaged.records
        try:
            entry = lane.peek()
        except OSError as error:
            raise unusable("read", self.directory, error) from error
        damaged = lane.counts.damaged.records - damaged
        if damaged:
            _log.error("spool.damaged", directory=str(self.directory), signal=signal.word, requests=damaged)
            self._save()
        self._tidy()
        return entry

    def acknowledge(self, entry: Entry) -> None:
        """Forgets the request that ``peek`` gave last.

        Raises:
            ValueError: it is another one.
        """
        self._lanes[entry.request.signal].acknowledge(entry)
        self._save()
        self._tidy()

    def maintain(self, now: float) -> float | None:
        """Does what is due, which is to sync.

        Args:
            now: by the clock that was given.

        Returns:
            When to call again; None for not before the next request.
        """
        if self._sync != "interval" or not (self._cursor.dirty or any(lane.dirty for lane in self._lanes.values())):
            return None
        due = self._last_sync + SYNC_SECONDS
        if now < due:
            return due
        self._last_sync = now
        return None if self._force() else now + SYNC_SECONDS

    def close(self) -> None:
        """Syncs, and gives everything back. What is not acknowledged is found by the next one that opens the folder."""
        for lane in self._lanes.values():
            lane.finish_read()
        self._save()
        self._tidy()
        if self._sync != "never":
            self._force()
        for lane in self._lanes.values():
            lane.close()
        self._cursor.close()
        os.close(self._lock)

    # ---- state

    def counts(self, signal: Signal) -> Counts:
        """What has become of a signal's requests."""
        return self._lanes[signal].counts

    def pending(self, signal: Signal) -> Tally:
        """What waits; what is damaged and was not come upon yet is included."""
        return self._lanes[signal].pending

    def read_sequence(self, signal: Signal) -> int:
        """The number of the request that is read next."""
        return self._lanes[signal].positions.read.sequence

    def next_sequence(self, signal: Signal) -> int:
        """The number that the next request will have."""
        return self._lanes[signal].positions.written.sequence

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        return sum(lane.size + sum(segment.size for segment in lane.finished) for lane in self._lanes.values())

    def status(self) -> SpoolStatus:
        """The spool's part of /status."""
        lanes = self._lanes.values()
        dropped = {
            "spool_full": sum(lane.counts.evicted.records for lane in lanes),
            "spool_damaged": sum(lane.counts.damaged.records for lane in lanes),
        }
        return SpoolStatus(
            directory=str(self.directory),
            bytes=self.size,
            max_bytes=self._max_bytes,
            records=sum(lane.pending.records for lane in lanes),
            oldest_unix_nano=min((t for lane in lanes if (t := lane.oldest_unix_nano) is not None), default=None),
            dropped={reason: count for reason, count in dropped.items() if count},
        )

    # ---- inside

    def _make_room(self, lane: Lane, stored_bytes: int) -> bool:
        """Deletes by the order of ``EVICTION`` until a request fits; whether it does."""
        if lane.most_room_for(stored_bytes) > self._max_bytes:
            return False
        expendable = EVICTION[: EVICTION.index(lane.signal) + 1]
        while self.size + lane.room_for(stored_bytes) > self._max_bytes:
            for each in self._lanes.values():
                each.finish_read()
            self._tidy()
            if self.size + lane.room_for(stored_bytes) <= self._max_bytes:
                return True
            if any(each.finished for each in self._lanes.values()):
                raise OSError(errno.ENOSPC, "segments that were sent cannot be deleted")
            if not any(self._lanes[signal].evict() for signal in expendable):
                return False
            self._tidy()
        return True

    def _save(self) -> bool:
        """Writes the cursor; whether that worked."""
        try:
            self._cursor.write(tuple(lane.positions for lane in self._lanes.values()))
            if self._sync == "always":
                self._cursor.sync()
        except OSError as error:
            self._trouble("cursor", error, "after the next start requests that were sent already are sent again")
            return False
        self._troubles.discard("cursor")
        return True

    def _tidy(self) -> None:
        """Deletes finished segments, once the cursor on the disk says that they are."""
        finished = [(lane, segment) for lane in self._lanes.values() for segment in lane.finished]
        if not finished or not self._save():
            return
        try:
            if self._sync != "never":
                self._cursor.sync()
            for lane, segment in finished:
                segment.remove()
                lane.finished.remove(segment)
        except OSError as error:
            self._trouble("delete", error, "segments that were sent keep their place")
            return
        self._troubles.discard("delete")

    def _force(self) -> bool:
        try:
            for lane in self._lanes.values():
                lane.sync()
            self._cursor.sync()
        except OSError as error:
            self._trouble("sync", error, "a loss of power would take what was written since")
            return False
        self._troubles.discard("sync")
        return True

    def _trouble(self, kind: str, error: OSError, consequence: str) -> None:
        """Tells a trouble once until it is over."""
        if kind not in self._troubles:
            self._troubles.add(kind)
            words = {
                "directory": str(self.directory),
                "error": error.strerror or str(error),
                "remedy": remedy_of(error),
            }
            _log.error(f"spool.{kind}_failing", **words, consequence=consequence)

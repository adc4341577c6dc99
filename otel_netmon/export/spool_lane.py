"""The requests of one signal on disk, first in, first out, in segments that are deleted whole."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final, NamedTuple

from otel_netmon.export.requests import Request, Signal
from otel_netmon.export.spool_counts import Counts, Tally
from otel_netmon.export.spool_cursor import LanePositions, Position
from otel_netmon.export.spool_format import RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, parse_segment_name
from otel_netmon.export.spool_segment import Found, Segment

_TRANSIENT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR, errno.EAGAIN})
"""What passes; any other error of a read means that the segment cannot be read."""


class Entry(NamedTuple):
    """A request out of the spool; it stays there until it is acknowledged."""

    request: Request
    found: Found


class Lane:
    """One signal's segments.

    Args:
        directory: of the segments.
        signal: what they hold.
        segment_bytes: size at which a new segment is begun.
        forced: whether ``sync`` will be called.

    Attributes:
        positions: what is read next, and what is written next.
        counts: since the lane was opened.
        finished: segments that nobody needs any more, to be deleted once the cursor says so.
        foreign: names in the folder that are no segments; they are left alone.
        oldest_unix_nano: when the next request was written; None where there is none.
    """

    def __init__(self, directory: Path, signal: Signal, segment_bytes: int, *, forced: bool) -> None:
        self._directory = directory
        self.signal = signal
        self._segment_bytes = segment_bytes
        self._forced = forced
        self._segments: list[Segment] = []
        self._read = Position()
        self._written = Position()
        self._offset = SEGMENT_HEADER_BYTES
        self._writable = False
        self._unsynced: list[Segment] = []
        self._new_names = False
        self.counts = Counts()
        self.finished: list[Segment] = []
        self.foreign: list[str] = []
        self.oldest_unix_nano: int | None = None

    def open(self, cursor: LanePositions | None) -> int:
        """Finds the segments and where reading and writing go on; reads headers only.

        Args:
            cursor: how far the lane had come; None where nobody knows.

        Returns:
            Bytes of a torn tail that were cut off.

        Raises:
            OSError: the folder cannot be used.
            SpoolError: a newer version wrote a segment.
        """
        self._directory.mkdir(mode=0o700, exist_ok=True)
        with os.scandir(self._directory) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            if parse_segment_name(entry.name) is None or not entry.is_file(follow_symlinks=False):
                self.foreign.append(entry.name)
            else:
                self._segments.append(Segment(Path(entry.path), entry.stat().st_size))
        for segment in self._segments:
            segment.header()  # a newer version is told now, not when its turn comes
            segment.close()
        torn = self._find_tail()
        if cursor is None:
            self._read = self._begin_of(0)
        else:
            self._read = cursor.read
            self._written = max(self._written, cursor.written)
        self._written = max(self._written, self._read)
        self.counts.found.add(self._read, self._written)
        # Segments that the cursor has passed were to be deleted when the last run ended.
        first = None
        while self._segments and (first := self._segments[0].find(0, self._read.sequence)) is None:
            if len(self._segments) == 1:
                break  # it may be written on
            self._finish_first()
        self.oldest_unix_nano = first.header.time_unix_nano if first is not None else None
        return torn

    def _find_tail(self) -> int:
        """Sets where writing goes on, behind the last whole record; gives the bytes that were cut off behind it."""
        torn = 0
        for segment in reversed(self._segments):
            offset, last = SEGMENT_HEADER_BYTES, None
            while (found := segment.find(offset, 0)) is not None:
                offset, last = found.end, found
            header = segment.header()
            if segment is self._segments[-1]:
                # Where the header is damaged the records are read, but nothing is written behind them any more.
                self._writable = header is not None
                if segment.size > offset:
                    torn = segment.size - offset
                    segment.cut(offset)
            if last is not None:
                self._written = max(self._written, last.after)
                break
            if header is not None:
                self._written = max(self._written, Position(header.first_sequence, header.items_before))
        return torn

    def _begin_of(self, index: int) -> Position:
        """The place where a segment begins, or the next one that tells; behind the last one, where writing goes on."""
        for segment in self._segments[index:]:
            try:
                header = segment.header()
                if header is not None:
                    return Position(header.first_sequence, header.items_before)
                found = segment.find(0, 0)
            except OSError as error:
                if error.errno in _TRANSIENT:
                    raise
                continue
            if found is not None:
                return found.begin
        return self._written

    # ---- state

    @property
    def positions(self) -> LanePositions:
        """How far the lane was read and written."""
        return LanePositions(self._read, self._written)

    @property
    def pending(self) -> Tally:
        """What waits to be read, what is damaged and not yet seen to be included."""
        tally = Tally()
        tally.add(self._read, self._written)
        return tally

    @property
    def size(self) -> int:
        """Bytes on disk, those of finished segments not included."""
        return sum(segment.size for segment in self._segments)

    def room_for(self, stored_bytes: int) -> int:
        """Bytes on disk that one more request of this length takes."""
        need = RECORD_HEADER_BYTES + stored_bytes
        return need if self._fits(need) else need + SEGMENT_HEADER_BYTES

    @staticmethod
    def most_room_for(stored_bytes: int) -> int:
        """The same, in a segment of its own."""
        return SEGMENT_HEADER_BYTES + RECORD_HEADER_BYTES + stored_bytes

    def _fits(self, need: int) -> bool:
        if not self._writable:
            return False
        size = self._segments[-1].size
        return size + need <= self._segment_bytes or size <= SEGMENT_HEADER_BYTES

    # ---- writing

    def append(self, stored: bytes, *, body_bytes: int, items: int, time_unix_nano: int, durable: bool) -> None:
        """Writes a request.

        Args:
            stored: its body, compressed.
            body_bytes: length of the body before.
            items: in it.
            time_unix_nano: wall clock, for people.
            durable: whether it is to be forced to the disk before it counts.

        Raises:
            OSError: it cannot be written; the lane is as before.
        """
        if not self._fits(RECORD_HEADER_BYTES + len(stored)):
            segment = Segment.create(self._directory, self.signal, self._written, time_unix_nano)
            if self._segments and self._segments[-1] not in self._unsynced:
                self._segments[-1].close()
            self._segments.append(segment)
            self._writable, self._new_names = True, self._forced
        segment = self._segments[-1]
        found = segment.append(
            stored, body_bytes=body_bytes, items=items, begin=self._written, time_unix_nano=time_unix_nano
        )
        if self._forced and segment not in self._unsynced:
            self._unsynced.append(segment)
        if durable:
            try:
                self.sync()
            except OSError:
                segment.cut(found.offset)
                raise
        self.counts.appended.add(self._written, found.after)
        self._written = found.after
        if self.oldest_unix_nano is None:
            self.oldest_unix_nano = time_unix_nano

    @property
    def dirty(self) -> bool:
        """Whether there is something that ``sync`` would force to the disk."""
        return bool(self._unsynced) or self._new_names

    def sync(self) -> None:
        """Forces what was written to the disk.

        Raises:
            OSError: nobody knows how much of it is there.
        """
        while self._unsynced:
            segment = self._unsynced[0]
            segment.sync()
            if segment is not self._segments[-1]:
                segment.close()
            self._unsynced.pop(0)
        if self._new_names:
            directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
            self._new_names = False

    def refuse(self, items: int) -> None:
        """Counts a request that was given up before it was written."""
        for tally in (self.counts.appended, self.counts.evicted):
            tally.records += 1
            tally.items += items

    def evict(self) -> bool:
        """Gives the oldest segment up, with all that was not read of it; whether there was one."""
        if not self._segments:
            return False
        end = max(self._begin_of(1), self._read)
        self.counts.evicted.add(self._read, end)
        self._move_to(end)
        self._finish_first()
        return True

    def finish_read(self) -> None:
        """Gives up the segments of which everything was read."""
        if self._read == self._written:
            while self._segments:
                self._finish_first()

    # ---- reading

    def peek(self) -> Entry | None:
        """The next request that can be read; what is damaged before it is counted. None where there is none.

        Raises:
            OSError: something is missing for the moment, as file descriptors are; nothing is lost.
        """
        while self._segments:
            segment = self._segments[0]
            try:
                found = segment.find(self._offset, self._read.sequence)
                if found is not None:
                    body = segment.body(found)
                    go_on = found.offset if body is not None else segment.behind(found)
                elif len(self._segments) == 1:
                    self._offset = segment.size
                    break
            except OSError as error:
                if error.errno in _TRANSIENT:
                    raise
                found = None  # the whole segment cannot be read
            if found is None:
                self._finish_first()
                continue
            self._lose(found.begin)
            self._offset = go_on
            if body is not None:
                self.oldest_unix_nano = found.header.time_unix_nano
                return Entry(Request(self.signal, body, found.header.items), found)
            self._lose(found.after)
        self._lose(self._written)
        return None

    def acknowledge(self, entry: Entry) -> None:
        """Steps over the request that ``peek`` gave last.

        Raises:
            ValueError: it is another one.
        """
        if entry.found.begin != self._read:
            msg = f"request {entry.found.header.sequence} is not the next one, which is {self._read.sequence}"
            raise ValueError(msg)
        self.counts.acknowledged.add(self._read, entry.found.after)
        self._move_to(entry.found.after)
        self._offset = entry.found.end

    def _lose(self, end: Position) -> None:
        self.counts.damaged.add(self._read, end)
        self._move_to(end)

    def _move_to(self, place: Position) -> None:
        self._read = place
        if self._read == self._written:
            self.oldest_unix_nano = None

    def _finish_first(self) -> None:
        """Takes the first segment away; the cursor must say so before it is deleted."""
        segment = self._segments.pop(0)
        if segment in self._unsynced:
            self._unsynced.remove(segment)
        segment.close()
        self.finished.append(segment)
        self._offset = SEGMENT_HEADER_BYTES
        self._writable = self._writable and bool(self._segments)

    def close(self) -> None:
        """Gives all files back."""
        for segment in self._segments:
            segment.close()

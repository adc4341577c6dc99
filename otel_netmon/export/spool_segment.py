"""One file of a spool: written at its end, read record by record, whatever has become of its bytes."""

from __future__ import annotations

import contextlib
import errno
import os
import zlib
from pathlib import Path
from typing import Final, NamedTuple

from otel_netmon.export.requests import Signal
from otel_netmon.export.spool_cursor import Position, newer
from otel_netmon.export.spool_format import (
    MARKER,
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    VERSION,
    RecordHeader,
    SegmentHeader,
    parse_segment_name,
    segment_name,
    unpack_body,
)

WINDOW_BYTES: Final = 64 << 10
"""Read at a time where damage makes the next record hard to find."""


def _nonce() -> int:
    return int.from_bytes(os.urandom(4), "little")


class Found(NamedTuple):
    """A record whose header is whole and whose bytes are all there."""

    offset: int
    header: RecordHeader

    @property
    def end(self) -> int:
        """Where the next record begins."""
        return self.offset + self.header.total_bytes

    @property
    def begin(self) -> Position:
        """Its place in the lane."""
        return Position(self.header.sequence, self.header.items_before)

    @property
    def after(self) -> Position:
        """The place behind it."""
        return Position(self.header.sequence + 1, self.header.items_before + self.header.items)


class Segment:
    """A segment's file. Opened when it is first read or written.

    Args:
        path: of the file; its name holds the nonce too, so that a damaged header costs no record.
        size: of the file in bytes.

    Attributes:
        size: bytes that count; what a failed write left behind them does not.
    """

    def __init__(self, path: Path, size: int) -> None:
        parsed = parse_segment_name(path.name)
        if parsed is None:
            msg = f"not a segment's name: {path.name!r}"
            raise ValueError(msg)
        self.path = path
        self.size = size
        _, self.nonce = parsed
        self._fd: int | None = None

    @classmethod
    def create(cls, directory: Path, signal: Signal, begin: Position, time_unix_nano: int) -> Segment:
        """A new segment with its header.

        Raises:
            OSError: it cannot be made; nothing is left of it.
        """
        nonce = _nonce()
        path = directory / segment_name(begin.sequence, nonce)
        segment = cls(path, 0)
        segment._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        header = SegmentHeader(signal, nonce, begin.sequence, begin.items, time_unix_nano)
        try:
            segment._write(header.pack())
        except BaseException:
            segment.close()
            with contextlib.suppress(OSError):  # the error that is told is the first one
                path.unlink()
            raise
        return segment

    def header(self) -> SegmentHeader | None:
        """The segment's header; None where it is damaged.

        Raises:
            SpoolError: a newer version wrote the file.
        """
        header = SegmentHeader.unpack(os.pread(self._open(), SEGMENT_HEADER_BYTES, 0))
        if header is not None and header.version > VERSION:
            raise newer(self.path, header.version)
        return header

    # ---- reading

    def find(self, offset: int, sequence: int) -> Found | None:
        """The first record at or behind an offset with at least this sequence; None where there is none.

        A record with a whole header that ends behind the end of the file is none.
        """
        fd = self._open()
        offset = max(offset, SEGMENT_HEADER_BYTES)
        while offset + RECORD_HEADER_BYTES <= self.size:
            found = self._at(os.pread(fd, RECORD_HEADER_BYTES, offset), 0, offset)
            if found is None:
                found = self._search(fd, offset + 1)
            if found is None or found.header.sequence >= sequence:
                return found
            offset = found.end
        return None

    def body(self, found: Found) -> bytes | None:
        """The body of a record; None where it is damaged."""
        stored = os.pread(self._open(), found.header.stored_bytes, found.offset + RECORD_HEADER_BYTES)
        return unpack_body(found.header, stored, self.nonce)

    def behind(self, damaged: Found) -> int:
        """Where to go on behind a record with a damaged body: at its end, or within it where bytes are missing there."""
        whole = damaged.end == self.size or self._at(
            os.pread(self._open(), RECORD_HEADER_BYTES, damaged.end), 0, damaged.end
        )
        return damaged.end if whole else damaged.offset + 1

    def _at(self, data: bytes, index: int, offset: int) -> Found | None:
        header = RecordHeader.unpack(data, index, self.nonce)
        if header is None or offset + header.total_bytes > self.size:
            return None
        return Found(offset, header)

    def _search(self, fd: int, offset: int) -> Found | None:
        while offset + RECORD_HEADER_BYTES <= self.size:
            window = os.pread(fd, WINDOW_BYTES, offset)
            index = window.find(MARKER)
            while index >= 0 and index + RECORD_HEADER_BYTES <= len(window):
                found = self._at(window, index, offset + index)
                if found is not None:
                    return found
                index = window.find(MARKER, index + 1)
            if len(window) < WINDOW_BYTES:
                return None
            offset += WINDOW_BYTES - RECORD_HEADER_BYTES + 1
        return None

    # ---- writing

    def append(self, stored: bytes, *, body_bytes: int, items: int, begin: Position, time_unix_nano: int) -> Found:
        """Writes a record at the end.

        Args:
            stored: the body, compressed.
            body_bytes: its length before.
            items: in it.
            begin: the record's place in the lane.
            time_unix_nano: wall clock, for people.

        Raises:
            OSError: it cannot be written; ``size`` is as before, and the file too where the system lets it be cut.
        """
        header = RecordHeader(
            begin.sequence,
            begin.items,
            time_unix_nano,
            items,
            len(stored),
            body_bytes,
            zlib.crc32(stored, self.nonce),
        )
        found = Found(self.size, header)
        self._write(header.pack(self.nonce) + stored)
        return found

    def _write(self, data: bytes) -> None:
        fd = self._open()
        view, written = memoryview(data), 0
        try:
            while written < len(data):
                written += os.pwrite(fd, view[written:], self.size + written)
        except OSError:
            self.cut()
            raise
        self.size += written

    def cut(self, size: int | None = None) -> None:
        """Takes away what lies behind ``size``, or behind what counts. Where that fails, the next record overwrites it."""
        self.size = self.size if size is None else size
        with contextlib.suppress(OSError):
            os.ftruncate(self._open(), self.size)

    def sync(self) -> None:
        """Forces what was written to the disk.

        Raises:
            OSError: nobody knows what of it is there.
        """
        os.fdatasync(self._open())

    def _open(self) -> int:
        if self._fd is None:
            try:
                self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError as error:
                if error.errno not in {errno.EACCES, errno.EROFS}:
                    raise
                self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        return self._fd

    def close(self) -> None:
        """Gives the file back; it is opened again when it is needed."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def remove(self) -> None:
        """Deletes the file.

        Raises:
            OSError: it cannot be deleted; one that is gone already is no error.
        """
        self.close()
        self.path.unlink(missing_ok=True)

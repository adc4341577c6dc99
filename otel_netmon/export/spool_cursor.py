"""How far each lane of a spool was written and read, in a file of two slots that are overwritten in turn.

A slot is one write of less than a sector, with a generation and a CRC-32, little-endian::

    magic 8s | version u16 | lanes u16, 4 unused | generation u64
    | for each signal: read sequence u64, read items u64, written sequence u64, written items u64 | CRC u32

Later versions keep magic, version and a CRC at this place. The valid slot of the highest generation counts. kill -9 cannot tear it: it is in the page cache or it is not. A loss of power that
tears one slot leaves the other, which is one step behind.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from pathlib import Path
from typing import Final, NamedTuple

from otel_netmon.errors import SpoolError
from otel_netmon.export.spool_format import SIGNALS

VERSION: Final = 1
MAGIC: Final = b"NETMCUR\n"
SLOT_BYTES: Final = 4096
"""Each slot has a page and a sector of its own."""

_SLOT = struct.Struct(f"<8sHH4xQ{4 * len(SIGNALS)}Q")
_CRC = struct.Struct("<I")
_FIXED = struct.Struct("<8sH")
_USED = _SLOT.size + _CRC.size


class Position(NamedTuple):
    """A place between two requests of a lane: the number of the next one, and all items before it."""

    sequence: int = 0
    items: int = 0


class LanePositions(NamedTuple):
    """How far a lane was read (delivered, refused or given up) and written."""

    read: Position = Position()
    written: Position = Position()


Positions = tuple[LanePositions, ...]
"""By the order of ``spool_format.SIGNALS``."""


class Cursor:
    """The cursor file of a spool.

    Args:
        path: of the file; made with mode 0600 when missing.

    Attributes:
        positions: what was found when the file was opened, None for nothing.
        damaged: the file was there and no slot of it was whole: nobody knows what was sent already.

    Raises:
        OSError: the file cannot be opened or read.
        SpoolError: the file was written by a newer version.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            data = os.pread(self._fd, 2 * SLOT_BYTES, 0)
            slots = [self._unpack(data[at : at + SLOT_BYTES], path) for at in (0, SLOT_BYTES)]
        except BaseException:
            os.close(self._fd)
            raise
        self._generation = 0
        self.positions: Positions | None = None
        for slot in slots:
            if slot is not None and slot[0] > self._generation:
                self._generation, self.positions = slot
        self.damaged = bool(data) and self.positions is None
        self._synced = self._generation

    @staticmethod
    def _unpack(data: bytes, path: Path) -> tuple[int, Positions] | None:
        if len(data) < _FIXED.size or not data.startswith(MAGIC):
            return None
        _, version = _FIXED.unpack_from(data)
        if len(data) < _USED or _CRC.unpack_from(data, _SLOT.size)[0] != zlib.crc32(data[: _SLOT.size]):
            return None
        if version > VERSION:
            raise newer(path, version)
        _, _, _, generation, *numbers = _SLOT.unpack_from(data)
        return generation, tuple(
            LanePositions(Position(*numbers[at : at + 2]), Position(*numbers[at + 2 : at + 4]))
            for at in range(0, len(numbers), 4)
        )

    def write(self, positions: Positions) -> None:
        """Overwrites the older slot.

        Raises:
            OSError: it cannot be written; the other slot is as it was.
        """
        numbers = [
            number
            for lane in positions
            for place in (lane.read, lane.written)
            for number in (place.sequence, place.items)
        ]
        head = _SLOT.pack(MAGIC, VERSION, len(positions), self._generation + 1, *numbers)
        data = head + _CRC.pack(zlib.crc32(head))
        if os.pwrite(self._fd, data, SLOT_BYTES * ((self._generation + 1) % 2)) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # nothing else cuts a write short
        self._generation += 1

    @property
    def dirty(self) -> bool:
        """Whether there is something that ``sync`` would force to the disk."""
        return self._generation != self._synced

    def sync(self) -> None:
        """Forces what was written to the disk."""
        os.fdatasync(self._fd)
        self._synced = self._generation

    def close(self) -> None:
        """Gives the file back."""
        os.close(self._fd)


def newer(path: Path, version: int) -> SpoolError:
    """The error for a file that a newer agent wrote; the file is left as it is."""
    return SpoolError(
        f"{path} has format {version}, this version knows {VERSION}",
        "run the newer version until the spool is empty, or move the folder away and keep it",
    )

"""BPF_MAP_TYPE_RINGBUF (kernel 5.8) by mmap: every complete record of a drain at once.

Source: Documentation/bpf/ringbuf.rst and kernel/bpf/ringbuf.c of the kernel. Page 0 of the map is the consumer's position,
the only page that user space may write. Page 1 is the producer's position; behind it lie the data twice in a row, so that
no record is broken at the end. A record is a header of 8 octets (length, of which two bits are flags) and its content,
padded to 8.
"""

from __future__ import annotations

import mmap
import select
import threading
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

BUSY = 1 << 31  # reserved, not yet written
DISCARDED = 1 << 30
LENGTH_MASK = DISCARDED - 1
HEADER_OCTETS = 8


class Drained(NamedTuple):
    """Records taken out of a ring in the order in which they were reserved.

    Attributes:
        data: octets that hold them.
        offsets: where each begins in `data`, int64; a multiple of 8.
        lengths: how long each is in octets, int64.
    """

    data: bytes
    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]


class RingReader:
    """The one consumer of a ring; needs the map's file descriptor and no privilege.

    The position of the consumer is in the map: who opens it next goes on where this one ended.

    Args:
        fd: the map; it stays the caller's.
        size: its max_entries, the octets of data.

    Raises:
        OSError: the kernel refuses to map it.
    """

    def __init__(self, fd: int, size: int) -> None:
        self._size = size
        self._consumer_map = mmap.mmap(fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        try:
            self._producer_map = mmap.mmap(
                fd, mmap.PAGESIZE + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=mmap.PAGESIZE
            )
        except OSError:
            self._consumer_map.close()
            raise
        # Memoryviews of 8 and 4 octets: CPython reads and writes an item of them by one access of the machine.
        self._consumed = memoryview(self._consumer_map).cast("Q")
        self._produced = memoryview(self._producer_map).cast("Q")
        self._octets = memoryview(self._producer_map)[mmap.PAGESIZE :]
        self._words = self._octets.cast("I")
        self._fence = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives the mappings back."""
        for view in (self._words, self._octets, self._produced, self._consumed):
            view.release()
        self._producer_map.close()
        self._consumer_map.close()

    @property
    def waiting(self) -> int:
        """Octets that lie in the ring, headers included."""
        return self._produced[0] - self._consumed[0]

    def drain(self) -> Drained:
        """Takes out what is complete up to the first record that is still being written; that one comes next time."""
        words = self._words
        consumed: int = self._consumed[0]
        available: int = self._produced[0] - consumed
        self._order()
        first = consumed & (self._size - 1)
        at, end = first, first + available
        places: list[int] = []
        while at < end:
            header = words[at >> 2]
            if header & BUSY:
                break
            places.append(at)
            at += ((header & LENGTH_MASK) + HEADER_OCTETS + 7) & ~7
        self._order()
        data = bytes(self._octets[first:at])
        self._order()
        self._consumed[0] = consumed + at - first
        begins = np.array(places, np.int64) - first
        headers = np.frombuffer(data, "<u4")[begins >> 2]
        kept = headers & np.uint32(DISCARDED) == 0
        return Drained(data, begins[kept] + HEADER_OCTETS, (headers[kept] & np.uint32(LENGTH_MASK)).astype(np.int64))

    def _order(self) -> None:
        """What was read before stays before what is read after: taking a lock orders memory on every machine."""
        with self._fence:
            pass


class RingAlarm:
    """Tells when the kernel asks for the consumer of a ring (BPF_RB_FORCE_WAKEUP), and not for what merely lies in it.

    An epoll set with the ring alone, edge-triggered, itself to be waited on: level-triggered, a ring under load would always
    be ready, for a few records at a time.

    Args:
        fd: the ring; it stays the caller's.
    """

    def __init__(self, fd: int) -> None:
        self._epoll = select.epoll()
        self._epoll.register(fd, select.EPOLLIN | select.EPOLLET)

    def fileno(self) -> int:
        """To wait on for reading."""
        return self._epoll.fileno()

    def clear(self) -> None:
        """Takes the alarm, so that only the next one is told."""
        self._epoll.poll(0)

    def close(self) -> None:
        """Gives the set back."""
        self._epoll.close()

"""How the C library keeps memory: given back at once at rest, for a process that needs much for a moment once a cycle; kept under load.

Source: mallopt(3), malloc_trim(3), PR_SET_THP_DISABLE of prctl(2). Measured in docs/decisions/0075-memory.md.
"""

from __future__ import annotations

import ctypes

_PR_SET_THP_DISABLE = 41
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_OCTETS = 1 << 14
_BUSY_MAPPED, _BUSY_KEPT = 1 << 18, 1 << 20


def give_back_early() -> bool:
    """Lets large blocks go back to the kernel when they are freed, and threads share one arena; no huge pages.

    By default glibc learns to keep blocks of up to 32 MiB, each thread gets an arena of its own, and the first byte of a large
    block takes 2 MiB where transparent huge pages are on.

    Returns:
        False where the C library has no mallopt (musl, which gives back by itself).
    """
    library = ctypes.CDLL(None)
    library.prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)
    return _set_options((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _OCTETS), (_TRIM_THRESHOLD, _OCTETS))


class Keeping:
    """Keeps the memory of a batch for the next one while batches follow each other; at rest all goes back, as ``give_back_early`` has it.

    Each page that is given back is filled with zeros when it is needed again, which under load costs a third of the system's time.
    """

    def __init__(self) -> None:
        self._keeps = False
        self._wanted = False

    def busy(self) -> None:
        """There was a batch that could not wait."""
        self._wanted = True
        if not self._keeps:
            self._keeps = _set_options((_MMAP_THRESHOLD, _BUSY_MAPPED), (_TRIM_THRESHOLD, _BUSY_KEPT))

    def cycle(self) -> None:
        """A cycle has ended: if there was no such batch in it, what was kept is given back."""
        if self._keeps and not self._wanted:
            self._keeps = False
            _set_options((_MMAP_THRESHOLD, _OCTETS), (_TRIM_THRESHOLD, _OCTETS))
            ctypes.CDLL(None).malloc_trim(0)
        self._wanted = False


def _set_options(*options: tuple[int, int]) -> bool:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(option, value) for option, value in options)

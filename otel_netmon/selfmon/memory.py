"""How the C library keeps memory: given back at once, for a process that needs much for a moment once a cycle.

Source: mallopt(3), PR_SET_THP_DISABLE of prctl(2). Measured in docs/decisions/0075-memory.md.
"""

from __future__ import annotations

import ctypes

_PR_SET_THP_DISABLE = 41
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_OCTETS = 1 << 14


def give_back_early() -> bool:
    """Lets large blocks go back to the kernel when they are freed, and threads share one arena; no huge pages.

    By default glibc learns to keep blocks of up to 32 MiB, each thread gets an arena of its own, and the first byte of a large
    block takes 2 MiB where transparent huge pages are on.

    Returns:
        False where the C library has no mallopt (musl, which gives back by itself).
    """
    library = ctypes.CDLL(None)
    library.prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)
    mallopt = getattr(library, "mallopt", None)
    if mallopt is None:
        return False
    return all(
        mallopt(option, value)
        for option, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _OCTETS), (_TRIM_THRESHOLD, _OCTETS))
    )

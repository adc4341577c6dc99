"""Names from outside as numbers, a bounded number of them; all others share one name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from hashlib import blake2b
from typing import Any

import numpy as np

OTHER = "other"
"""The name of all that have none of their own."""

_SHARE_LEAVING = 8


def name_number(name: str) -> int:
    """64 bits that stand for a name, the same in every process."""
    return int.from_bytes(blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest(), "little")


class NameTable:
    """Gives each name a number, the same in every process.

    There are at most ``limit`` at a time. At the end of a cycle names leave that were not used for ``idle_ns``, and where some
    found no place, up to an eighth of the others, those not used for longest first, none that was used in this cycle.

    Args:
        limit: how many names there may be, beside OTHER.
        idle_ns: see above.
    """

    def __init__(self, limit: int, idle_ns: int) -> None:
        self._limit = limit
        self._idle_ns = idle_ns
        self._used: dict[str, int] = {}
        self._texts = {name_number(OTHER): OTHER}
        self._homeless = 0
        self._began_ns = 0
        self.folded = 0

    def __len__(self) -> int:
        return len(self._used)

    def number(self, name: str, now_ns: int) -> int:
        """The number of a name, or that of OTHER."""
        if name not in self._used:
            if len(self._used) >= self._limit:
                self._homeless += 1
                self.folded += 1
                return name_number(OTHER)
            self._texts[name_number(name)] = name
        self._used[name] = now_ns
        return name_number(name)

    @property
    def texts(self) -> Mapping[int, str]:
        """Names by number: of those there are, and of those that ``keep`` was told of."""
        return self._texts

    def end_cycle(self, keep: Collection[int], now_ns: int) -> None:
        """Makes room.

        Args:
            keep: numbers of names that are still told, whether or not they have a place.
        """
        used = sorted(self._used.items(), key=lambda item: item[1])
        leaving = sum(at < now_ns - self._idle_ns for _, at in used)
        if self._homeless:
            quiet = sum(at < self._began_ns for _, at in used)
            leaving = max(leaving, min(quiet, self._homeless, -(-self._limit // _SHARE_LEAVING)))
        self._used = dict(used[leaving:])
        wanted = {*keep, name_number(OTHER), *map(name_number, self._used)}
        self._texts = {number: name for number, name in self._texts.items() if number in wanted}
        self._homeless, self._began_ns = 0, now_ns

    def state(self) -> dict[str, Any]:
        """What another process needs to go on."""
        places = [self._used.get(name, -1) for name in self._texts.values()]
        return {"texts": "\n".join(self._texts.values()).encode(), "used": np.array(places, np.int64)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on where another process was."""
        names = state["texts"].decode().split("\n")
        self._texts = {name_number(name): name for name in names}
        used = zip(names, state["used"].tolist(), strict=True)
        self._used = {name: at for name, at in used if at >= 0}

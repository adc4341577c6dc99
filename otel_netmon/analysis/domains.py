"""The names behind addresses, as clients were told them: a bounded cache that is fed by answers and nothing else.

Every client has its own view, since the same address is another name to another client. A client is a cgroup where that is
known, else an address. Times are those of the lookups and flows, in ns.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.dns_answers import AnsweredLookups
from otel_netmon.analysis.dns_lookups import Lookup
from otel_netmon.analysis.domain_answers import Cgroups, Taught, WaitingAnswers
from otel_netmon.analysis.domain_table import WHOM, Domains, DomainTable

_SECOND = 1_000_000_000
_LIVES_MAX = 8
"""Names that an address has had for one client."""


class _Life:
    """A name that an address had for a client from since_ns to until_ns, both included; asked for at used_ns the last time."""

    __slots__ = ("name", "since_ns", "until_ns", "used_ns")

    def __init__(self, name: str, since_ns: int, until_ns: int) -> None:
        self.name, self.since_ns, self.until_ns, self.used_ns = name, since_ns, until_ns, 0


class DomainCache:
    """Names by client and address; the end of a life is exact to a second, as TTLs are.

    Answers wait until somebody asks, which is to be done when connections were read: then the cgroup of a client is known that
    had its socket for a millisecond only.

    Args:
        lives_max: how many names of pairs of client and address are kept; the pair answered least recently goes first.
        ttl_min_seconds: no name lives shorter: clients use an address longer than a very short TTL lets them.
        ttl_max_seconds: no name lives longer (RFC 8767, section 4, on TTLs that are too long to be true).
        keep_seconds: so long a name can be looked up after its life, or after it was last, for conversations that began
            within it.

    Attributes:
        counts: ``learned`` and ``refreshed`` names; those ``evicted`` to make place, those ``expired``.
    """

    def __init__(
        self,
        lives_max: int = 16384,
        ttl_min_seconds: int = 60,
        ttl_max_seconds: int = 86_400,
        keep_seconds: int = 3600,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._lives_max = lives_max
        self._ttl_min = ttl_min_seconds
        self._ttl_max = ttl_max_seconds
        self._keep_ns = keep_seconds * _SECOND
        self._lives: OrderedDict[bytes, list[_Life]] = OrderedDict()
        self._number = 0
        self._waiting = WaitingAnswers(ttl_min_seconds * _SECOND)
        self._table: DomainTable | None = None
        self._in_table: list[_Life] = []

    def __len__(self) -> int:
        self._settle()
        return self._number

    @property
    def answers(self) -> tuple[int, int]:
        """Answers that were taken, and those of them that were before it could be known whose they are: too many waited."""
        return self._waiting.taken, self._waiting.unattributed

    def set_cgroups(self, cgroups: Cgroups) -> None:
        """Takes who knows the cgroups of clients by the ends of their lookups."""
        self._waiting.cgroups = cgroups

    def learn(self, lookup: Lookup) -> None:
        """Takes the addresses that an answer gives to the name that was asked for, see ``domain_answers.lesson_of``.

        Nothing is learned of responses that no query asked for.
        """
        self._waiting.add(lookup)
        self._take(self._waiting.make_room())

    def learn_many(self, answered: AnsweredLookups) -> None:
        """Takes the addresses of many answers."""
        self._waiting.add_many(answered)
        self._take(self._waiting.make_room())

    def knows(self, servers: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Tells of which addresses (u1, shape (n, 16)) a name may be known: the others need not be matched."""
        return self._at_rest().knows(servers)

    def match(self, asked: npt.NDArray[Any], times_ns: npt.NDArray[np.integer[Any]], now_ns: int) -> Domains:
        """Gives the names of many conversations.

        The name is that which the client's cgroup was told; where that is not known or was told nothing, what clients with
        its address were told; else what anybody was.

        Args:
            asked: WHOM, shape (n,).
            times_ns: when each began, shape (n,).
            now_ns: the clock of the lookups.
        """
        found = self._at_rest().match(asked, times_ns)
        for place in found.used.tolist():
            self._in_table[place].used_ns = now_ns
        return found

    def expire(self, now_ns: int) -> None:
        """Forgets names whose life ended, and for which nobody asked, for longer than keep_seconds."""
        self._settle()
        limit = now_ns - self._keep_ns
        for key, lives in list(self._lives.items()):
            kept = [life for life in lives if max(life.until_ns, life.used_ns) >= limit]
            gone = len(lives) - len(kept)
            if gone:
                self.counts["expired"] += gone
                self._number -= gone
                self._table = None
                if kept:
                    self._lives[key] = kept
                else:
                    del self._lives[key]

    def _at_rest(self) -> DomainTable:
        self._settle()
        if self._table is None:
            self._in_table = [life for lives in self._lives.values() for life in lives]
            counts = [len(lives) for lives in self._lives.values()]
            keys = np.repeat(np.frombuffer(b"".join(self._lives), WHOM), counts)
            self._table = DomainTable(keys, self._in_table)
        return self._table

    def _settle(self) -> None:
        """Takes what waits, in the order in which it was answered last."""
        self._take(self._waiting.take())

    def _take(self, taught: list[Taught]) -> None:
        for client, cgroup, lesson, since_ns, until_ns in taught:
            whom = client + cgroup.to_bytes(8, "little")
            for address, ttl in lesson.addresses:
                lives_ns = min(max(ttl, self._ttl_min), self._ttl_max) * _SECOND
                self._learn(whom + address, lesson.name, since_ns, until_ns + lives_ns)

    def _learn(self, key: bytes, name: str, since_ns: int, until_ns: int) -> None:
        self._table = None
        lives = self._lives.setdefault(key, [])
        self._lives.move_to_end(key)
        for at in range(len(lives) - 1, -1, -1):
            life = lives[at]
            if life.name == name and life.since_ns <= until_ns and since_ns <= life.until_ns:
                life.since_ns, life.until_ns = min(life.since_ns, since_ns), max(life.until_ns, until_ns)
                lives.append(lives.pop(at))
                self.counts["refreshed"] += 1
                return
        lives.append(_Life(name, since_ns, until_ns))
        self.counts["learned"] += 1
        self._number += 1
        if len(lives) > _LIVES_MAX:
            del lives[0]
            self._evicted(1)
        while self._number > self._lives_max:
            self._evicted(len(self._lives.popitem(last=False)[1]))

    def _evicted(self, many: int) -> None:
        self.counts["evicted"] += many
        self._number -= many

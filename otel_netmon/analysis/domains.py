"""The names behind addresses, as clients were told them: a bounded cache that is fed by answers and nothing else.

Every client has its own view, since the same address is another name to another client. Times are those of the lookups
and flows, in ns.
"""

from __future__ import annotations

import os
from collections import Counter, OrderedDict
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.differences import fingerprints
from otel_netmon.analysis.dns_lookups import Lookup
from otel_netmon.decode import dns_numbers as numbers
from otel_netmon.decode.dns_records import Record, Service

PAIR = np.dtype([("client", "u1", 16), ("server", "u1", 16)])
"""A client, as of ``client_key``, and an address it may talk to."""

_CGROUP = b"\xff" * 8
"""Before a cgroup id: a multicast address is nobody's."""

_LIVES_MAX = 8
_LAST_MAX = 1024
_SECOND = 1_000_000_000


class _Life(NamedTuple):
    """A name that an address had for a client from since_ns to until_ns, both included."""

    name: str
    since_ns: int
    until_ns: int


class Domains(NamedTuple):
    """Names of many conversations.

    Attributes:
        names: the different results; one of several names is an address that had them all at that time, the name that was
            answered last first.
        places: intp, shape (n,), the place in `names` of each conversation, -1 where nothing is known.
    """

    names: list[tuple[str, ...]]
    places: npt.NDArray[np.intp]


class DomainCache:
    """Names by client and address; the end of a life is exact to a second, as TTLs are.

    Args:
        entries_max: how many pairs of client and address are kept; the one answered least recently goes first.
        ttl_min_seconds: no name lives shorter: clients use an address longer than a very short TTL lets them.
        ttl_max_seconds: no name lives longer (RFC 8767, section 4, on TTLs that are too long to be true).
        keep_seconds: so long a name can be looked up after its life, for conversations that began within it.

    Attributes:
        counts: ``learned`` and ``refreshed`` names; those ``evicted`` to make place, those ``expired``.
    """

    def __init__(
        self,
        entries_max: int = 16384,
        ttl_min_seconds: int = 60,
        ttl_max_seconds: int = 86_400,
        keep_seconds: int = 3600,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._entries_max = entries_max
        self._ttl_min = ttl_min_seconds
        self._ttl_max = ttl_max_seconds
        self._keep_ns = keep_seconds * _SECOND
        self._lives: OrderedDict[bytes, list[_Life]] = OrderedDict()
        self._last: dict[tuple[bytes, str], tuple[tuple[Record, ...], int]] = {}
        self._table: _Table | None = None

    def __len__(self) -> int:
        return len(self._lives)

    def learn(self, lookup: Lookup) -> None:
        """Takes the addresses that an answer gives to the name that was asked for.

        They may stand behind any chain of aliases (CNAME), and be hints of SVCB and HTTPS records. Records that do not belong
        to that chain are not believed, nor are responses that no query asked for.
        """
        if lookup.outcome != "answered" or lookup.rcode != numbers.NOERROR or not lookup.answers:
            return
        client = client_key(lookup.client[:16], lookup.cgroup)
        if self._is_repeated(client, lookup):
            return
        name = lookup.name.lower()
        chain = _chain(lookup, name)
        while name.startswith(
            "_"
        ):  # _8443._https.www.example.com: port and scheme of a service (RFC 9460, section 2.3)
            name = name.partition(".")[2]
        for record in lookup.answers:
            chain_ttl = chain.get(record.name.lower())
            if chain_ttl is None or not name:
                continue
            ttl = min(max(min(record.ttl, chain_ttl), self._ttl_min), self._ttl_max)
            if isinstance(record.data, bytes):
                self._learn(client + record.data, name, lookup.end_ns, ttl)
            elif isinstance(record.data, Service):
                for hint in record.data.hints:
                    self._learn(client + hint, name, lookup.end_ns, ttl)

    def names(self, client: bytes, server: bytes, time_ns: int) -> tuple[str, ...]:
        """Gives the names that an address had for a client at a time, the one answered last first; of 16 octets each."""
        lives = self._lives.get(client + server, ())
        found = {life.name: None for life in reversed(lives) if life.since_ns <= time_ns <= life.until_ns}
        return tuple(found)

    def match(self, pairs: npt.NDArray[Any], times_ns: npt.NDArray[Any]) -> Domains:
        """Gives the names of many conversations.

        Args:
            pairs: PAIR, shape (n,).
            times_ns: when each began, shape (n,).
        """
        if self._table is None:
            self._table = _Table(self._lives)
        return self._table.match(pairs, times_ns)

    def expire(self, now_ns: int) -> None:
        """Forgets names whose life ended longer than keep_seconds ago."""
        limit = now_ns - self._keep_ns
        for key, lives in list(self._lives.items()):
            kept = [life for life in lives if life.until_ns >= limit]
            if len(kept) < len(lives):
                self.counts["expired"] += len(lives) - len(kept)
                self._table = None
                if kept:
                    self._lives[key] = kept
                else:
                    del self._lives[key]

    def _is_repeated(self, client: bytes, lookup: Lookup) -> bool:
        """Whether the client had the same answer within the last second, which is what a TTL is told in."""
        last = self._last.get((client, lookup.name))
        # The decoder gives the same object for the same octets.
        if last is not None and last[0] is lookup.answers and 0 <= lookup.end_ns - last[1] < _SECOND:
            return True
        if len(self._last) >= _LAST_MAX:
            self._last.clear()
        self._last[client, lookup.name] = lookup.answers, lookup.end_ns
        return False

    def _learn(self, key: bytes, name: str, time_ns: int, ttl: int) -> None:
        self._table = None
        until_ns = time_ns + ttl * _SECOND
        lives = self._lives.get(key)
        if lives is None:
            self._lives[key] = [_Life(name, time_ns, until_ns)]
            self.counts["learned"] += 1
            if len(self._lives) > self._entries_max:
                self.counts["evicted"] += len(self._lives.popitem(last=False)[1])
            return
        self._lives.move_to_end(key)
        for at in range(len(lives) - 1, -1, -1):
            life = lives[at]
            if life.name == name and life.since_ns <= until_ns and time_ns <= life.until_ns:
                del lives[at]
                lives.append(_Life(name, min(life.since_ns, time_ns), max(life.until_ns, until_ns)))
                self.counts["refreshed"] += 1
                return
        lives.append(_Life(name, time_ns, until_ns))
        self.counts["learned"] += 1
        if len(lives) > _LIVES_MAX:
            del lives[0]
            self.counts["evicted"] += 1


def client_key(address: bytes, cgroup: int = 0) -> bytes:
    """Gives the 16 octets of a client: its cgroup where that is known, else its address (both in network order)."""
    return _CGROUP + cgroup.to_bytes(8, "big") if cgroup else address


def _chain(lookup: Lookup, name: str) -> dict[str, int]:
    """The names that aliases lead to from the one that was asked for, with the least TTL on the way."""
    aliases = {
        record.name.lower(): (record.data.lower(), record.ttl)
        for record in lookup.answers
        if record.type == numbers.CNAME and isinstance(record.data, str)
    }
    chain = {name: 0xFFFFFFFF}
    while (alias := aliases.get(name)) is not None and alias[0] not in chain:
        ttl = min(chain[name], alias[1])
        name = alias[0]
        chain[name] = ttl
    return chain


class _Table:
    """The cache as arrays: one row a life, in the order of hashes of client and address."""

    def __init__(self, entries: OrderedDict[bytes, list[_Life]]) -> None:
        self._seed = int.from_bytes(os.urandom(8), "little")
        lives = [life for each in entries.values() for life in each]
        counts = [len(each) for each in entries.values()]
        pairs = np.repeat(np.frombuffer(b"".join(entries), PAIR), counts)
        marks = fingerprints(pairs, self._seed) if lives else np.empty(0, np.uint64)
        order = np.argsort(marks, kind="stable")
        self._marks, self._pairs = marks[order], pairs[order]
        self._since = np.array([life.since_ns for life in lives], np.int64)[order]
        self._until = np.array([life.until_ns for life in lives], np.int64)[order]
        places = {life.name: 0 for life in lives}
        self._names = list(places)
        places.update(zip(self._names, range(len(places)), strict=True))
        self._numbers = np.array([places[life.name] for life in lives], np.intp)[order]

    def match(self, pairs: npt.NDArray[Any], times_ns: npt.NDArray[Any]) -> Domains:
        """See ``DomainCache.match``."""
        places = np.full(len(pairs), -1, np.intp)
        if not len(pairs) or not len(self._marks):
            return Domains([], places)
        marks = fingerprints(pairs, self._seed)
        first = np.searchsorted(self._marks, marks, "left")
        many = np.searchsorted(self._marks, marks, "right") - first
        # One row for every life that a conversation may have begun in.
        asked = np.repeat(np.arange(len(pairs)), many)
        lives = np.arange(len(asked)) - np.repeat(np.cumsum(many) - many, many) + np.repeat(first, many)
        times = times_ns[asked]
        fits = (self._since[lives] <= times) & (times <= self._until[lives]) & (self._pairs[lives] == pairs[asked])
        asked, lives = asked[fits], lives[fits]
        alone = np.bincount(asked, minlength=len(pairs))[asked] == 1
        numbers_found, inverse = np.unique(self._numbers[lives[alone]], return_inverse=True)
        places[asked[alone]] = inverse
        results: dict[tuple[str, ...], int] = {
            (self._names[number],): place for place, number in enumerate(numbers_found.tolist())
        }
        several: dict[int, tuple[str, ...]] = {}
        for at, number in zip(asked[~alone].tolist(), self._numbers[lives[~alone]].tolist(), strict=True):
            name = self._names[number]
            several[at] = (name, *(each for each in several.get(at, ()) if each != name))
        for at, names in several.items():
            places[at] = results.setdefault(names, len(results))
        return Domains(list(results), places)

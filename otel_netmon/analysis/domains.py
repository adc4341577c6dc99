"""The names behind addresses, as clients were told them: a bounded cache that is fed by answers and nothing else.

Every client has its own view, since the same address is another name to another client. Times are those of the lookups
and flows, in ns.
"""

from __future__ import annotations

import os
from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.differences import fingerprints, group
from otel_netmon.analysis.dns_answers import Alike, AnsweredLookups
from otel_netmon.analysis.dns_lookups import Lookup
from otel_netmon.decode import dns_numbers as numbers
from otel_netmon.decode.dns import Message
from otel_netmon.decode.dns_records import Record, Service

PAIR = np.dtype([("client", "u1", 16), ("server", "u1", 16)])
"""A client, as of ``client_key``, and an address it may talk to."""

_CGROUP = b"\xff" * 8
"""Before a cgroup id: a multicast address is nobody's."""

_LIVES_MAX = 8
_WAITING_MAX = 1 << 14
_HEARD = np.dtype([("client", "u1", 16), ("cgroup", "<u8"), ("place", "<u4"), ("since_ns", "<i8"), ("until_ns", "<i8")])
_WHO = np.dtype([("client", "u1", 16), ("cgroup", "<u8"), ("place", "<u4")])
_SECOND = 1_000_000_000


class _Life(NamedTuple):
    """A name that an address had for a client from since_ns to until_ns, both included."""

    name: str
    since_ns: int
    until_ns: int


class _Heard(NamedTuple):
    """Answers that a client had to a name, from the first time to the last one."""

    client: bytes
    name: str
    answers: tuple[Record, ...]
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
        self._waiting: list[npt.NDArray[Any]] = []
        self._alike: Alike | None = None
        self._span_ns = (0, 0)
        self._table: _Table | None = None

    def __len__(self) -> int:
        self._settle()
        return len(self._lives)

    def learn(self, lookup: Lookup) -> None:
        """Takes the addresses that an answer gives to the name that was asked for.

        They may stand behind any chain of aliases (CNAME), and be hints of SVCB and HTTPS records. Records that do not belong
        to that chain are not believed, nor are responses that no query asked for.
        """
        if lookup.outcome != "answered" or lookup.rcode != numbers.NOERROR or not lookup.answers:
            return
        self._settle()
        client = client_key(lookup.client[:16], lookup.cgroup)
        self._take(_Heard(client, lookup.name, lookup.answers, lookup.end_ns, lookup.end_ns))

    def learn_many(self, answered: AnsweredLookups) -> None:
        """Takes the addresses of many answers.

        They wait until somebody asks: most are alike, and then one life from the first to the last of them.
        """
        answered = answered.where(answered.column("learnable"))
        if not answered.number:
            return
        waiting = np.empty(answered.number, _HEARD)
        waiting["client"], waiting["cgroup"] = answered.heads["destination"], answered.heads["cgroup"]
        waiting["place"] = answered.places
        times = waiting["since_ns"] = waiting["until_ns"] = answered.heads["time_ns"]
        first_ns, last_ns = int(times.min()), int(times.max())
        if self._alike is not answered.alike or not self._is_one_life(first_ns, last_ns):
            self._settle()
            self._alike, self._span_ns = answered.alike, (first_ns, last_ns)
        self._waiting.append(waiting)
        self._span_ns = min(self._span_ns[0], first_ns), max(self._span_ns[1], last_ns)
        if last_ns - first_ns > self._ttl_min * _SECOND:
            self._settle()
        elif sum(map(len, self._waiting)) > _WAITING_MAX:
            together = _together(self._waiting)
            self._waiting = [together]
            if len(together) > _WAITING_MAX // 2:
                self._settle()

    def names(self, client: bytes, server: bytes, time_ns: int) -> tuple[str, ...]:
        """Gives the names that an address had for a client at a time, the one answered last first; of 16 octets each."""
        self._settle()
        lives = self._lives.get(client + server, ())
        found = {life.name: None for life in reversed(lives) if life.since_ns <= time_ns <= life.until_ns}
        return tuple(found)

    def match(self, pairs: npt.NDArray[Any], times_ns: npt.NDArray[Any]) -> Domains:
        """Gives the names of many conversations.

        Args:
            pairs: PAIR, shape (n,).
            times_ns: when each began, shape (n,).
        """
        self._settle()
        if self._table is None:
            self._table = _Table(self._lives)
        return self._table.match(pairs, times_ns)

    def expire(self, now_ns: int) -> None:
        """Forgets names whose life ended longer than keep_seconds ago."""
        self._settle()
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

    def _is_one_life(self, first_ns: int, last_ns: int) -> bool:
        """Whether no life ends between the first and the last that wait, once these times are among them."""
        return max(self._span_ns[1], last_ns) - min(self._span_ns[0], first_ns) <= self._ttl_min * _SECOND

    def _settle(self) -> None:
        """Takes what waits, in the order in which it was answered last."""
        if not self._waiting or self._alike is None:
            return
        one_life = self._is_one_life(*self._span_ns)
        rows = _together(self._waiting) if one_life else np.concatenate(self._waiting)
        messages, self._waiting, self._alike = self._alike.messages, [], None
        for client, cgroup, place, since_ns, until_ns in rows[np.argsort(rows["until_ns"], kind="stable")].tolist():
            message = messages[place]
            if isinstance(message, Message):
                key = client_key(bytes(client), cgroup)
                self._take(_Heard(key, message.questions[0].name, message.answers, since_ns, until_ns))

    def _take(self, heard: _Heard) -> None:
        name = heard.name.lower()
        chain = _chain(heard.answers, name)
        while name.startswith(
            "_"
        ):  # _8443._https.www.example.com: port and scheme of a service (RFC 9460, section 2.3)
            name = name.partition(".")[2]
        for record in heard.answers:
            chain_ttl = chain.get(record.name.lower())
            if chain_ttl is None or not name:
                continue
            ttl = min(max(min(record.ttl, chain_ttl), self._ttl_min), self._ttl_max)
            if isinstance(record.data, bytes):
                self._learn(heard, record.data, name, ttl)
            elif isinstance(record.data, Service):
                for hint in record.data.hints:
                    self._learn(heard, hint, name, ttl)

    def _learn(self, heard: _Heard, address: bytes, name: str, ttl: int) -> None:
        key = heard.client + address
        time_ns = heard.since_ns
        self._table = None
        until_ns = heard.until_ns + ttl * _SECOND
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


def _together(waiting: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Makes one row of those that are alike, from the first to the last of them."""
    rows = np.concatenate(waiting)
    who = np.empty(len(rows), _WHO)
    for field in _WHO.names or ():
        who[field] = rows[field]
    first, inverse = group(who)
    made: npt.NDArray[Any] = rows[first]
    np.minimum.at(made["since_ns"], inverse, rows["since_ns"])
    np.maximum.at(made["until_ns"], inverse, rows["until_ns"])
    return made


def _chain(answers: tuple[Record, ...], name: str) -> dict[str, int]:
    """The names that aliases lead to from the one that was asked for, with the least TTL on the way."""
    aliases = {
        record.name.lower(): (record.data.lower(), record.ttl)
        for record in answers
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

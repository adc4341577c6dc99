"""The names behind addresses as arrays: asked for many conversations at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.differences import fingerprints

WHOM = np.dtype([("client", "u1", 16), ("cgroup", "<u8"), ("server", "u1", 16)])
"""A client, by its address and its cgroup (0 where nobody knows it), and an address that it may talk to."""

_SPANS_MAX = 32
"""So many names of an address are told apart, those that were answered last."""

_AT_ONCE = 4096
"""Conversations that are looked up together: each may have as many names."""

_WAYS = (
    np.dtype([("cgroup", "<u8"), ("server", "u1", 16)]),
    np.dtype([("client", "u1", 16), ("server", "u1", 16)]),
    np.dtype([("server", "u1", 16)]),
)
"""By whom a name may be known, the best first: the client's cgroup, somebody with its address, anybody."""

_BY_CGROUP, _BY_ANYBODY = 0, 2


class Life(Protocol):
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
        used: intp, the places of the lives that gave them, each once.
    """

    names: list[tuple[str, ...]]
    places: npt.NDArray[np.intp]
    used: npt.NDArray[np.intp]


class DomainTable:
    """What is known at one time.

    Args:
        keys: WHOM, one a life.
        lives: as many, in the order in which they were answered last.
    """

    def __init__(self, keys: npt.NDArray[Any], lives: Sequence[Life]) -> None:
        seed = int.from_bytes(os.urandom(8), "little")
        since = np.array([life.since_ns for life in lives], np.int64)
        until = np.array([life.until_ns for life in lives], np.int64)
        self._names = list(dict.fromkeys(life.name for life in lives))
        numbers = {name: number for number, name in enumerate(self._names)}
        named = np.array([numbers[life.name] for life in lives], np.int64)
        self._ways: list[_Way] = []
        for which, fields in enumerate(_WAYS):
            chosen = np.flatnonzero(keys["cgroup"]) if which == _BY_CGROUP else np.arange(len(keys))
            own = _fields(keys[chosen], fields)
            self._ways.append(_Way(own, chosen, since[chosen], until[chosen], named[chosen], seed))

    def knows(self, servers: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Whether anybody was told a name for each address (u1, shape (n, 16)) at any time."""
        keys = np.empty(len(servers), _WAYS[_BY_ANYBODY])
        keys["server"] = servers
        return self._ways[_BY_ANYBODY].knows(keys)

    def match(self, asked: npt.NDArray[Any], times_ns: npt.NDArray[np.integer[Any]]) -> Domains:
        """See ``DomainCache.match``."""
        times = times_ns.astype(np.int64)
        whose = [np.empty(0, np.intp)]
        numbers = [np.empty(0, np.int64)]
        used = [np.empty(0, np.intp)]
        for begin in range(0, len(asked), _AT_ONCE):
            left = np.arange(begin, min(begin + _AT_ONCE, len(asked)))
            for which, (way, fields) in enumerate(zip(self._ways, _WAYS, strict=True)):
                able = left[asked["cgroup"][left] != 0] if which == _BY_CGROUP else left
                found, spans = way.find(_fields(asked[able], fields), times[able])
                whose.append(able[found])
                numbers.append(way.numbers[spans])
                used.append(way.lives(spans))
                left = np.setdiff1d(left, whose[-1])
        return self._named(len(asked), np.concatenate(whose), np.concatenate(numbers), np.concatenate(used))

    def _named(
        self, many: int, whose: npt.NDArray[np.intp], numbers: npt.NDArray[np.int64], used: npt.NDArray[np.intp]
    ) -> Domains:
        places = np.full(many, -1, np.intp)
        alone = np.bincount(whose, minlength=many)[whose] == 1
        distinct, inverse = np.unique(numbers[alone], return_inverse=True)
        places[whose[alone]] = inverse
        results: dict[tuple[str, ...], int] = {
            (self._names[number],): place for place, number in enumerate(distinct.tolist())
        }
        several: dict[int, tuple[str, ...]] = {}
        for at, number in zip(whose[~alone].tolist(), numbers[~alone].tolist(), strict=True):
            name = self._names[number]
            several[at] = (name, *(each for each in several.get(at, ()) if each != name))
        for at, names in several.items():
            places[at] = results.setdefault(names, len(results))
        return Domains(list(results), places, np.unique(used))


class _Way:
    """One way to ask: lives by a part of their keys, in the order of its hashes.

    Lives of one name that overlap, because several clients were told it, are one span.

    Args:
        keys: of one of _WAYS.
        places: of these lives among all, intp.
        since, until, numbers: int64, their times and the numbers of their names; all in the order in which they were
            answered last.

    Attributes:
        numbers: of the names of the spans.
    """

    def __init__(
        self,
        keys: npt.NDArray[Any],
        places: npt.NDArray[np.intp],
        since: npt.NDArray[np.int64],
        until: npt.NDArray[np.int64],
        numbers: npt.NDArray[np.int64],
        seed: int,
    ) -> None:
        self._seed = seed
        marks = fingerprints(keys, seed)
        order = np.lexsort((since, numbers, marks))
        first, since_of, until_of = _spans(marks[order], numbers[order], since[order], until[order])
        answered = np.maximum.reduceat(order, first) if len(first) else order
        begins = order[first]
        sort = np.lexsort((answered, marks[begins]))
        sorted_marks = marks[begins][sort]
        rank = np.searchsorted(sorted_marks, sorted_marks, "right") - np.arange(len(sort))
        sort = sort[rank <= _SPANS_MAX]
        chosen = begins[sort]
        self._marks, self._keys, self.numbers = marks[chosen], keys[chosen], numbers[chosen]
        self._since, self._until = since_of[sort], until_of[sort]
        self._first, self._end = first[sort], np.append(first, len(order))[sort + 1]
        self._lives = places[order]

    def knows(self, keys: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Whether there is a span of each key at any time."""
        if not len(self._marks):
            return np.zeros(len(keys), np.bool_)
        marks = fingerprints(keys, self._seed)
        at = np.minimum(np.searchsorted(self._marks, marks), len(self._marks) - 1)
        known: npt.NDArray[np.bool_] = self._marks[at] == marks
        return known

    def find(
        self, keys: npt.NDArray[Any], times: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Gives pairs of a key and a span of it at its time, by their places; of one key the span answered last comes last."""
        if not len(keys) or not len(self._marks):
            return np.empty(0, np.intp), np.empty(0, np.intp)
        marks = fingerprints(keys, self._seed)
        first = np.searchsorted(self._marks, marks, "left")
        many = np.searchsorted(self._marks, marks, "right") - first
        asked = np.repeat(np.arange(len(keys)), many)
        spans = np.arange(len(asked)) - np.repeat(np.cumsum(many) - many, many) + np.repeat(first, many)
        asked_times = times[asked]
        fits = (
            (self._since[spans] <= asked_times)
            & (asked_times <= self._until[spans])
            & (self._keys[spans] == keys[asked])
        )
        return asked[fits], spans[fits]

    def lives(self, spans: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """The places of the lives that these spans are made of."""
        distinct = np.unique(spans)
        first, many = self._first[distinct], self._end[distinct] - self._first[distinct]
        within = np.arange(int(many.sum())) - np.repeat(np.cumsum(many) - many, many)
        lives: npt.NDArray[np.intp] = self._lives[np.repeat(first, many) + within]
        return lives


def _fields(keys: npt.NDArray[Any], wanted: np.dtype[Any]) -> npt.NDArray[Any]:
    made = np.empty(len(keys), wanted)
    for field in wanted.names or ():
        made[field] = keys[field]
    return made


def _spans(
    marks: npt.NDArray[np.uint64],
    numbers: npt.NDArray[np.int64],
    since: npt.NDArray[np.int64],
    until: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Puts together lives of one mark and name that overlap; sorted by mark, name, and begin.

    Returns:
        the place of the first life of each span; since when it was, and until when.
    """
    count = len(marks)
    if not count:
        return np.empty(0, np.intp), since, until
    another = (marks[1:] != marks[:-1]) | (numbers[1:] != numbers[:-1])
    groups = np.concatenate([[0], np.cumsum(another)])
    by_end = np.argsort(until, kind="stable")
    rank = np.empty(count, np.int64)
    rank[by_end] = np.arange(count)
    # The largest of the ends so far, within each group: ranks in place of times, so that the group can stand before them.
    reached = until[by_end][np.maximum.accumulate(groups * count + rank) - groups * count]
    first = np.flatnonzero(np.concatenate([[True], another | (since[1:] > reached[:-1])]))
    return first, since[first], np.maximum.reduceat(until, first)

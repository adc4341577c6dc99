"""How many lookups one name cost: a resolver's search list (resolv.conf(5), ``search`` and ``ndots``).

A stub resolver that is asked for ``db`` tries ``db.shop.svc.cluster.local``, ``db.svc.cluster.local``, ``db.cluster.local`` and
``db``, for each type of address, until one exists. The list itself cannot be seen. A lookup goes on with a search if the
client had an answer shortly before that the name does not exist, or has nothing of this type, and that name

- is this one behind which a suffix was put (the name as it was given is tried last), or the other way round (it was tried
  first); the suffix is then known to be of a search list;
- or differs from this one by labels that were taken out of its middle: the next suffix is often the parent of the one before;
- or differs by two suffixes that are known.

What is told is therefore a lower bound: a search that ends before the name itself is tried, over suffixes that have nothing
to do with each other and were never seen before, is taken for lookups of several names.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from otel_netmon.analysis.dns_lookups import Lookup, label_number

WINDOW_NS = 1_000_000_000
"""A stub resolver tries the next name at once."""

_SUFFIXES_MAX = 256


class Search(NamedTuple):
    """A search that came to its end.

    Attributes:
        client: address, 16 octets.
        name: as the client was given it, as far as the names tell; in lower case.
        names: how many different names were tried.
        lookups: how many lookups that took.
        found: whether the last name exists.
        start_ns, end_ns: the first query and the last answer.
    """

    namespace: int
    client: bytes
    cgroup: int
    name: str
    names: int
    lookups: int
    found: bool
    start_ns: int
    end_ns: int


class _Tried:
    """The names that a client tried one after the other; `next_ns` is when the last of them had its first answer."""

    __slots__ = ("base", "end_ns", "found", "label", "lookups", "names", "next_ns", "start_ns")

    def __init__(self, lookup: Lookup, label: str, name: str) -> None:
        self.label = label
        self.names = [name]
        self.base = name
        self.lookups = 1
        self.found = False
        self.start_ns = lookup.start_ns
        self.next_ns = self.end_ns = lookup.end_ns

    def merge(self, later: _Tried) -> None:
        """Takes in what turned out to be of the same search."""
        self.names += later.names
        self.lookups += later.lookups
        self.end_ns = max(self.end_ns, later.end_ns)

    def add(self, lookup: Lookup, name: str, base: str) -> None:
        """Takes in a lookup that goes on with the search."""
        if name not in self.names:
            self.names.append(name)
            self.base = base
            self.next_ns = lookup.end_ns
        self.lookups += 1
        self.end_ns = max(self.end_ns, lookup.end_ns)
        self.found = self.found or not lookup.is_negative


_Client = tuple[int, bytes, int]


class Searches:
    """Finds searches among lookups; bounded.

    Args:
        clients_max: of how many clients the names tried last are kept.
        open_max: how many searches, and names that may become one, each of them has at a time.
    """

    def __init__(self, clients_max: int = 4096, open_max: int = 8) -> None:
        self._clients_max = clients_max
        self._open_max = open_max
        self._clients: OrderedDict[_Client, list[_Tried]] = OrderedDict()
        self._suffixes: OrderedDict[str, None] = OrderedDict()

    def add(self, lookup: Lookup) -> list[Search]:
        """Takes a lookup that came to its end; gives the searches that lost their place."""
        if not self._clients and not lookup.is_negative:
            return []
        if lookup.outcome != "answered" or not lookup.questions or lookup.protocol != "dns":
            return []
        client = lookup.namespace, lookup.client[:16], lookup.cgroup
        tried = self._clients.get(client)
        if tried is None:
            return self._begin(client, lookup) if lookup.is_negative else []
        name = lookup.name.lower()
        label = name.partition(".")[0]  # the same in all names of a search
        first: _Tried | None = None
        first_base = name
        for each in [each for each in tried if each.label == label]:
            base = self._base_of(each, lookup, name)
            if base is None:
                continue
            if first is None:
                first, first_base = each, base
            elif base == first_base:
                first.merge(each)
                tried.remove(each)
        if first is not None:
            first.add(lookup, name, first_base)
        elif lookup.is_negative:
            tried.append(_Tried(lookup, label, name))
            if len(tried) > self._open_max:
                return _searches(client, [tried.pop(0)])
        return []

    def labels(self) -> set[int]:
        """The numbers of the first labels of names that were tried: a lookup goes on with a search only by one of them."""
        return {label_number(each.label) for tried in self._clients.values() for each in tried}

    def due(self, now_ns: int) -> list[Search]:
        """Gives the searches that nothing went on with for WINDOW_NS."""
        ended: list[Search] = []
        limit = now_ns - WINDOW_NS
        for client, tried in list(self._clients.items()):
            over = [each for each in tried if each.end_ns < limit]
            if len(over) == len(tried):
                del self._clients[client]
            elif over:
                self._clients[client] = [each for each in tried if each.end_ns >= limit]
            ended += _searches(client, over)
        return ended

    def _begin(self, client: _Client, lookup: Lookup) -> list[Search]:
        name = lookup.name.lower()
        self._clients[client] = [_Tried(lookup, name.partition(".")[0], name)]
        if len(self._clients) <= self._clients_max:
            return []
        other, lost = self._clients.popitem(last=False)
        return _searches(other, lost)

    def _base_of(self, tried: _Tried, lookup: Lookup, name: str) -> str | None:
        """The name that was searched for, if a lookup goes on with a search."""
        if lookup.start_ns - tried.end_ns > WINDOW_NS:
            return None
        if name in tried.names:
            return tried.base
        if tried.found or lookup.start_ns < tried.next_ns:
            return None
        last = tried.names[-1]
        for longer, shorter in ((last, name), (name, last)):
            if longer.startswith(shorter + "."):
                self._learn(longer[len(shorter) + 1 :])
                return shorter
        return _without_middle(last.split("."), name.split(".")) or self._by_known_suffixes(last, name)

    def _learn(self, suffix: str) -> None:
        self._suffixes[suffix] = None
        self._suffixes.move_to_end(suffix)
        if len(self._suffixes) > _SUFFIXES_MAX:
            self._suffixes.popitem(last=False)

    def _by_known_suffixes(self, last: str, name: str) -> str | None:
        at = len(last)
        while (at := last.rfind(".", 0, at)) > 0:
            if last[at + 1 :] in self._suffixes and name.startswith(last[: at + 1]):
                return last[:at] if name[at + 1 :] in self._suffixes else None
        return None


def _without_middle(last: list[str], name: list[str]) -> str | None:
    """What stands before the suffixes, if the suffix of `name` is a parent of that of `last`."""
    if len(name) >= len(last):
        return None
    same_end = 0
    while same_end < len(name) - 1 and last[-1 - same_end] == name[-1 - same_end]:
        same_end += 1
    base = name[: len(name) - same_end]
    return ".".join(base) if same_end and last[: len(base)] == base else None


def _searches(client: _Client, tried: list[_Tried]) -> list[Search]:
    """Those with more than one name."""
    return [
        Search(
            client[0],
            client[1],
            client[2],
            each.base,
            len(each.names),
            each.lookups,
            each.found,
            each.start_ns,
            each.end_ns,
        )
        for each in tried
        if len(each.names) > 1
    ]

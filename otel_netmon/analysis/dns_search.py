"""How many lookups one name cost: a resolver's search list (resolv.conf(5), ``search`` and ``ndots``).

A stub resolver that is asked for ``db`` tries ``db.shop.svc.cluster.local``, ``db.svc.cluster.local``, ``db.cluster.local`` and
``db``, for each type of address, until one exists. The list itself cannot be seen. A lookup goes on with a search if the
client had an answer shortly before that the name does not exist, or has nothing of this type, and that name

- is this one behind which a suffix was put (the name as it was given is tried last), or the other way round (it was tried
  first); the suffix is then known to be of a search list;
- or differs from this one by labels that were taken out of its middle: the next suffix is often the parent of the one before;
- or differs by two suffixes that are known.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from otel_netmon.analysis.dns_lookups import Lookup

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

    __slots__ = ("base", "end_ns", "found", "lookups", "names", "next_ns", "start_ns")

    def __init__(self, lookup: Lookup, name: str) -> None:
        self.names = [name]
        self.base = name
        self.lookups = 1
        self.found = False
        self.start_ns = lookup.start_ns
        self.next_ns = self.end_ns = lookup.end_ns


_Client = tuple[int, bytes, int]


class Searches:
    """Finds searches among lookups; bounded.

    Args:
        clients_max: of how many clients the names tried last are kept.
        open_max: how many searches one client may have at a time.
    """

    def __init__(self, clients_max: int = 4096, open_max: int = 8) -> None:
        self._clients_max = clients_max
        self._open_max = open_max
        self._clients: OrderedDict[_Client, dict[str, _Tried]] = OrderedDict()
        self._suffixes: OrderedDict[str, None] = OrderedDict()

    def add(self, lookup: Lookup) -> list[Search]:
        """Takes a lookup that came to its end; gives the searches that it ended."""
        if lookup.outcome != "answered" or not lookup.questions or lookup.protocol != "dns":
            return []
        client = lookup.namespace, lookup.client[:16], lookup.cgroup
        open_searches = self._clients.get(client)
        if open_searches is None and not lookup.is_negative:
            return []
        name = lookup.name.lower()
        label = name.partition(".")[0]  # the same in all names of a search
        tried = open_searches.get(label) if open_searches else None
        if tried is not None and self._goes_on(tried, lookup, name):
            tried.lookups += 1
            tried.end_ns = max(tried.end_ns, lookup.end_ns)
            tried.found = tried.found or not lookup.is_negative
            return []
        if not lookup.is_negative:
            return []
        ended: list[Search] = []
        if open_searches is None:
            open_searches = self._clients[client] = {}
            if len(self._clients) > self._clients_max:
                other, lost = self._clients.popitem(last=False)
                ended += _searches(other, list(lost.values()))
        if tried is not None:
            ended += _searches(client, [open_searches.pop(label)])
        open_searches[label] = _Tried(lookup, name)
        if len(open_searches) > self._open_max:
            ended += _searches(client, [open_searches.pop(next(iter(open_searches)))])
        return ended

    def due(self, now_ns: int) -> list[Search]:
        """Gives the searches that nothing went on with for WINDOW_NS."""
        ended: list[Search] = []
        limit = now_ns - WINDOW_NS
        for client, open_searches in list(self._clients.items()):
            over = [label for label, tried in open_searches.items() if tried.end_ns < limit]
            ended += _searches(client, [open_searches.pop(label) for label in over])
            if not open_searches:
                del self._clients[client]
        return ended

    def _goes_on(self, tried: _Tried, lookup: Lookup, name: str) -> bool:
        """Whether a lookup is one of a search; takes its name in, if so."""
        if lookup.start_ns - tried.end_ns > WINDOW_NS:
            return False
        if name in tried.names:
            return True
        if tried.found or lookup.start_ns < tried.next_ns:
            return False
        base = self._base(tried.names[-1], name)
        if base is None:
            return False
        tried.names.append(name)
        tried.base = min(base, tried.base, key=len)
        tried.next_ns = lookup.end_ns
        return True

    def _base(self, last: str, name: str) -> str | None:
        """The name that both are made of, if they are of one search."""
        for longer, shorter in ((last, name), (name, last)):
            if longer.startswith(shorter + "."):
                self._learn(longer[len(shorter) + 1 :])
                return shorter
        base = _without_middle(last.split("."), name.split("."))
        return base or self._by_known_suffixes(last, name)

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

"""Lookups of late, for connections that waited for them. Bounded.

A name costs a client more than one lookup: one for each type of address at the same time, one after the other for a list of
suffixes, and again where nobody answered. What a connection waited for is the time from the first query of these to the
last answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.connection_index import ENDS, TCP, UDP, UNKNOWN, ends_between
from otel_netmon.analysis.dns_answers import Alike, AnsweredLookups
from otel_netmon.analysis.dns_lookups import Lookup, label_number
from otel_netmon.analysis.domain_answers import lesson_of
from otel_netmon.decode.dns import Message

LOOKUPS_MAX = 1 << 14
ANSWERS_MAX = 1 << 12
"""Lookups that are remembered, and different sets of addresses among their answers."""
NEXT_NS = 1_000_000_000
"""Who waited for something goes on within so long; what comes later did not wait."""
STEP_NS = 100_000_000
"""A resolver tries the next name, or the next server, within so long."""

_CANDIDATES_MAX = 16
_POOL_MAX = 64
_POOL_NS = 60_000_000_000
_NOTHING = -1
"""The place of an answer without addresses."""

_ROW = np.dtype(
    [
        ("ends", ENDS),
        ("name", "<u8"),
        ("label", "<u8"),
        ("start_ns", "<i8"),
        ("end_ns", "<i8"),
        ("answer", "<i4"),
        ("failed", "<u4"),
    ]
)
"""failed: there is no such name, nothing of this type, or no answer: the client may go on with another lookup."""

Numbers = Callable[[npt.NDArray[Any], npt.NDArray[np.int64]], npt.NDArray[np.uint64]]
"""Gives the number of the process at the local end of each, 0 where it is not known: ends (ENDS), when a packet was there."""


class RecentLookups:
    """The last lookups, and which addresses they gave.

    Args:
        timeout_ns: how long a lookup without an answer lasted.
    """

    def __init__(self, timeout_ns: int) -> None:
        self._timeout_ns = timeout_ns
        self._forget()

    def _forget(self) -> None:
        self._rows: list[npt.NDArray[Any]] = []
        self._sorted: _Sorted | None = None
        self._answers: dict[tuple[bytes, ...], int] = {}
        self._alike: Alike | None = None
        self._names = np.zeros(0, np.uint64)
        self._places = np.zeros(0, np.int32)

    def take(self, answered: AnsweredLookups, others: Sequence[Lookup]) -> None:
        """Takes lookups that are over."""
        if len(self._answers) > ANSWERS_MAX:
            self._forget()
        if answered.number:
            self._append(self._answered(answered))
        if others:
            self._append(self._others(others))

    def waited(
        self,
        addresses: npt.NDArray[np.uint8],
        begin_ns: npt.NDArray[np.int64],
        numbers: npt.NDArray[np.uint64],
        numbers_of: Numbers,
    ) -> npt.NDArray[np.int64]:
        """Gives how long each connection waited for the name of its server, UNKNOWN where no lookup is known.

        The lookup is one of the same process that gave the server's address, and the last one before the connection.

        Args:
            addresses: of the servers, shape (n, 16).
            begin_ns: when the connections began, CLOCK_MONOTONIC.
            numbers: of the processes that opened them, 0 where nobody knows.
            numbers_of: gives the numbers of the processes that asked.
        """
        found = np.full(len(addresses), UNKNOWN, np.int64)
        if not self._rows or not len(addresses):
            return found
        by = self._by_end()
        rows = by.rows
        first = np.searchsorted(rows["end_ns"], begin_ns - NEXT_NS, "left")
        last = np.searchsorted(rows["end_ns"], begin_ns, "right")
        wanted = self._places_of({each.tobytes() for each in addresses})
        candidates: dict[int, npt.NDArray[np.intp]] = {}
        for at in np.flatnonzero((last > first) & (numbers != 0)).tolist():
            answers = wanted[addresses[at].tobytes()]
            fits = [by.of("answer", each, int(first[at]), int(last[at]))[-_CANDIDATES_MAX:] for each in answers]
            if any(map(len, fits)):
                candidates[at] = np.sort(np.concatenate(fits))[-_CANDIDATES_MAX:]
        matched = _last_of(candidates, numbers, _asked(rows, candidates, numbers_of))
        pools = {at: _pool(by, place, int(last[at])) for at, place in matched.items()}
        known = _asked(rows, pools, numbers_of)
        for at, place in matched.items():
            own = [each for each in pools[at].tolist() if known[each] == numbers[at]]
            found[at] = _together_ns(rows[own], rows[place], int(begin_ns[at]))
        return found

    def _append(self, rows: npt.NDArray[Any]) -> None:
        self._rows.append(rows[-LOOKUPS_MAX:])
        while sum(map(len, self._rows[1:])) >= LOOKUPS_MAX:
            del self._rows[0]
        self._sorted = None

    def _by_end(self) -> _Sorted:
        if self._sorted is None:
            self._sorted = _Sorted(np.concatenate(self._rows, dtype=_ROW))
            self._rows = [self._sorted.rows]
        return self._sorted

    def _places_of(self, wanted: set[bytes]) -> dict[bytes, list[int]]:
        """The answers with each address."""
        found: dict[bytes, list[int]] = {address: [] for address in wanted}
        for addresses, place in self._answers.items():
            for address in wanted.intersection(addresses):
                found[address].append(place)
        return found

    def _place(self, message: Message | Lookup) -> int:
        lesson = lesson_of(message.questions[0].name, message.answers) if message.questions else None
        if lesson is None:
            return _NOTHING
        return self._answers.setdefault(tuple([address for address, _ in lesson.addresses]), len(self._answers))

    def _answered(self, answered: AnsweredLookups) -> npt.NDArray[Any]:
        alike = answered.alike
        if self._alike is not alike:
            self._alike, self._names, self._places = alike, np.zeros(0, np.uint64), np.zeros(0, np.int32)
        if len(self._names) < len(alike.messages):
            new = [
                (_name_number(message.questions[0].name), self._place(message))
                if isinstance(message, Message) and message.questions
                else (0, _NOTHING)
                for message in alike.messages[len(self._names) :]
            ]
            self._names = np.concatenate([self._names, np.array([name for name, _ in new], np.uint64)])
            self._places = np.concatenate([self._places, np.array([place for _, place in new], np.int32)])
        heads = answered.heads
        rows = np.zeros(answered.number, _ROW)
        ends = rows["ends"]
        for end, side in (("local", "destination"), ("remote", "source")):
            ends[end], ends[f"{end}_port"] = heads[side], heads[f"{side}_port"]
        ends["protocol"] = UDP
        rows["name"], rows["answer"] = self._names[answered.places], self._places[answered.places]
        rows["label"], rows["failed"] = answered.column("label"), answered.column("negative")
        rows["start_ns"], rows["end_ns"] = heads["first_request_time_ns"], heads["time_ns"]
        return rows

    def _others(self, lookups: Sequence[Lookup]) -> npt.NDArray[Any]:
        rows = np.zeros(len(lookups), _ROW)
        protocols = np.array([TCP if each.transport == "tcp" else UDP for each in lookups], np.uint32)
        rows["ends"] = ends_between([each.client for each in lookups], [each.server for each in lookups], protocols)
        for row, lookup in zip(rows, lookups, strict=True):
            lasted_ns = self._timeout_ns if lookup.duration_ns is None else lookup.duration_ns
            failed = lookup.rcode is None or lookup.is_negative
            row["name"], row["label"] = _name_number(lookup.name), label_number(lookup.name)
            row["start_ns"], row["end_ns"] = lookup.start_ns, lookup.start_ns + lasted_ns
            row["answer"], row["failed"] = _NOTHING if failed else self._place(lookup), failed
        return rows


class _Sorted:
    """Lookups by their end, and by answer and label.

    Attributes:
        rows: _ROW, by end.
    """

    def __init__(self, rows: npt.NDArray[Any]) -> None:
        self.rows = rows[np.argsort(rows["end_ns"], kind="stable")]
        self._orders = {}
        for field in ("answer", "label"):
            order = np.argsort(self.rows[field], kind="stable")
            self._orders[field] = order, self.rows[field][order]

    def of(self, field: str, value: int, first: int, last: int) -> npt.NDArray[np.intp]:
        """The places, in their order and within these bounds, where a field has a value."""
        order, values = self._orders[field]
        places = order[np.searchsorted(values, value, "left") : np.searchsorted(values, value, "right")]
        return places[np.searchsorted(places, first) : np.searchsorted(places, last)]


def _name_number(name: str) -> int:
    """64 bits that stand for a name, whatever its case, in this process."""
    return hash(name.lower()) & 0xFFFFFFFFFFFFFFFF


def _asked(rows: npt.NDArray[Any], some: dict[int, npt.NDArray[np.intp]], numbers_of: Numbers) -> dict[int, int]:
    """The number of the process of each row among some."""
    places = np.unique(np.concatenate([np.zeros(0, np.intp), *some.values()]))
    found = numbers_of(rows["ends"][places], rows["start_ns"][places]) if len(places) else np.zeros(0, np.uint64)
    return dict(zip(places.tolist(), found.tolist(), strict=True))


def _last_of(
    candidates: dict[int, npt.NDArray[np.intp]], numbers: npt.NDArray[np.uint64], known: dict[int, int]
) -> dict[int, int]:
    """The last candidate of each that its own process asked."""
    found = {}
    for at, places in candidates.items():
        own = [place for place in places.tolist() if known[place] == numbers[at]]
        if own:
            found[at] = own[-1]
    return found


def _pool(by: _Sorted, place: int, last: int) -> npt.NDArray[np.intp]:
    """The rows, of whatever process, that may be of the same search as one; those without an answer end late."""
    rows = by.rows
    row = rows[place]
    first = int(np.searchsorted(rows["end_ns"], row["start_ns"] - _POOL_NS, "left"))
    places = by.of("label", row["label"], first, len(rows))
    part = rows[places]
    like = (part["start_ns"] <= row["end_ns"]) & ((places < last) | (part["failed"] != 0))
    found: npt.NDArray[np.intp] = places[like][-_POOL_MAX:]
    return found


def _together_ns(own: npt.NDArray[Any], row: Any, limit_ns: int) -> int:
    """How long the lookups of a process took that one was of, as far as they were over at a time.

    At the same time: those of the same name. Before: those that failed and had the same first label, as all names of a search
    list have, each followed at once by what is known to belong to it.
    """
    begin_ns, end_ns = int(row["start_ns"]), int(row["end_ns"])
    at_once = own[(own["name"] == row["name"]) & (own["end_ns"] >= begin_ns) & (own["end_ns"] <= limit_ns)]
    begin_ns = min(begin_ns, int(at_once["start_ns"].min(initial=begin_ns)))
    end_ns = max(end_ns, int(at_once["end_ns"].max(initial=end_ns)))
    failed = own[own["failed"] != 0]
    while True:
        before = failed["start_ns"][(failed["start_ns"] < begin_ns) & (failed["end_ns"] >= begin_ns - STEP_NS)]
        if not len(before):
            return end_ns - begin_ns
        begin_ns = int(before.min())

"""What answers teach about addresses, kept until it is known whose cgroup has asked. Bounded."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.connection_index import ENDS, TCP, UDP, ends_between
from otel_netmon.analysis.differences import word_fingerprints
from otel_netmon.analysis.dns_answers import Alike, AnsweredLookups
from otel_netmon.analysis.dns_lookups import Lookup
from otel_netmon.decode import dns_numbers as numbers
from otel_netmon.decode.dns import Message
from otel_netmon.decode.dns_records import Record, Service

Cgroups = Callable[[npt.NDArray[Any], npt.NDArray[np.int64]], npt.NDArray[np.uint64]]
"""Gives the cgroup at the local end of each, 0 where it is not known: ends (ENDS), when a packet was there (CLOCK_MONOTONIC)."""

_HEARD = np.dtype(
    [("ends", ENDS), ("cgroup", "<u8"), ("lesson", "<u4"), ("pad", "<u4"), ("since_ns", "<i8"), ("until_ns", "<i8")]
)
_ADDRESS_WORDS, _CGROUP_WORD, _ASKED_WORDS = 4, ENDS.itemsize // 4, ENDS.itemsize // 4 + 3
_WAITING_MAX = 1 << 15
_ADDRESSES_MAX = 1 << 16
_LESSONS_MAX = 1 << 12
_NOTHING = -1
_SEED = int.from_bytes(os.urandom(8), "little")


class Lesson(NamedTuple):
    """What an answer says: the name that was asked for, in lower case, and its addresses, each with its least TTL."""

    name: str
    addresses: tuple[tuple[bytes, int], ...]


class Taught(NamedTuple):
    """Answers that a client had, from the first time to the last one.

    Attributes:
        client: its address, 16 octets.
        cgroup: 0 where nobody knows it.
    """

    client: bytes
    cgroup: int
    lesson: Lesson
    since_ns: int
    until_ns: int


class WaitingAnswers:
    """Answers until they are taken; those that are alike are one, as long as no name could have ended between them.

    Args:
        together_ns: answers to one client that are no further apart are one from the first to the last; the shortest life
            of a name.

    Attributes:
        cgroups: who knows the cgroups of clients; None where nobody does.
        taken: answers that were given on, those that were alike as one.
        unattributed: of them, those that had to be for want of room before their clients' cgroups could be known.
    """

    def __init__(self, together_ns: int) -> None:
        self.cgroups: Cgroups | None = None
        self.taken = 0
        self.unattributed = 0
        self._together_ns = together_ns
        self._waiting: list[npt.NDArray[Any]] = []
        self._count = 0
        self._lessons: list[Lesson] = []
        self._places: dict[Lesson, int] = {}
        self._addresses = 0  # of all lessons
        self._alike: Alike | None = None
        self._of_alike = np.empty(0, np.int64)

    def __len__(self) -> int:
        return self._count

    def add(self, lookup: Lookup) -> None:
        """Takes an answer; those that teach nothing are passed over."""
        if lookup.outcome != "answered" or lookup.rcode != numbers.NOERROR or not lookup.answers:
            return
        lesson = lesson_of(lookup.name, lookup.answers)
        if lesson is None:
            return
        row = np.zeros(1, _HEARD)
        protocol = TCP if lookup.transport == "tcp" else UDP
        row["ends"] = ends_between([lookup.client], [lookup.server], protocol)
        row["cgroup"], row["lesson"] = lookup.cgroup, self._place(lesson)
        row["since_ns"] = row["until_ns"] = lookup.end_ns
        self._append(row)

    def add_many(self, answered: AnsweredLookups) -> None:
        """Takes answers over UDP, likewise."""
        lessons = self._lessons_of(answered)
        teaching = lessons != _NOTHING
        if not teaching.any():
            return
        heads, lessons = answered.where(teaching).heads, lessons[teaching]
        rows = np.zeros(len(heads), _HEARD)
        ends = rows["ends"]
        for end, side in (("local", "destination"), ("remote", "source")):
            ends[end], ends[f"{end}_port"] = heads[side], heads[f"{side}_port"]
        ends["protocol"] = UDP
        rows["cgroup"], rows["lesson"] = heads["cgroup"], lessons
        rows["since_ns"] = rows["until_ns"] = heads["time_ns"]
        self._append(rows)

    def make_room(self) -> list[Taught]:
        """Puts together what is alike where much waits; gives what must be taken now all the same."""
        crowded = self._count > _WAITING_MAX
        if crowded:
            self._keep(self._alike_once(self._all()))
            crowded = self._count > _WAITING_MAX // 2
        if not crowded and self._addresses <= _ADDRESSES_MAX:
            return []
        rows = self._with_cgroups(self._all())
        unknown = rows["cgroup"] == 0
        if self.cgroups is None:
            unknown[:] = False  # nobody will know
        taught = self._taught(rows[~unknown])
        self._keep(rows[unknown])
        self._forget_lessons()
        if self._count > _WAITING_MAX // 2 or self._addresses > _ADDRESSES_MAX // 2:
            self.unattributed += self._count
            taught += self._taught(self._all())
            self._keep(rows[:0])
            self._forget_lessons()
        return taught

    def take(self) -> list[Taught]:
        """Gives all that waits, in the order of the last of each: who has asked is known, or never will be."""
        if not self._count:
            return []
        rows = self._with_cgroups(self._all())
        self._keep(rows[:0])
        taught = self._taught(rows)
        if len(self._lessons) > _LESSONS_MAX or self._addresses > _ADDRESSES_MAX // 2:
            self._forget_lessons()
        return taught

    def _alike_once(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return _merged(rows, _asked(rows), self._together_ns)

    def _forget_lessons(self) -> None:
        """Forgets those that nothing of what waits, one batch at most, has to do with."""
        used: list[int] = []
        for rows in self._waiting:
            distinct, rows["lesson"] = np.unique(rows["lesson"], return_inverse=True)
            used = distinct.tolist()
        self._lessons = [self._lessons[place] for place in used]
        self._places = {lesson: place for place, lesson in enumerate(self._lessons)}
        self._addresses = sum([len(lesson.addresses) for lesson in self._lessons])
        self._alike, self._of_alike = None, np.empty(0, np.int64)

    def _append(self, rows: npt.NDArray[Any]) -> None:
        rows = self._alike_once(rows)
        self._waiting.append(rows)
        self._count += len(rows)

    def _all(self) -> npt.NDArray[Any]:
        return np.concatenate(self._waiting, dtype=_HEARD)  # with its dtype: ports stay in network order

    def _keep(self, rows: npt.NDArray[Any]) -> None:
        self._waiting, self._count = ([rows], len(rows)) if len(rows) else ([], 0)

    def _with_cgroups(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Those whose clients' cgroups can be told now have them."""
        unknown = np.flatnonzero(rows["cgroup"] == 0)
        if self.cgroups is not None and len(unknown):
            rows["cgroup"][unknown] = self.cgroups(rows["ends"][unknown], rows["until_ns"][unknown])
        return rows

    def _taught(self, rows: npt.NDArray[Any]) -> list[Taught]:
        self.taken += len(rows)
        rows = _merged(rows, _client(rows), self._together_ns)
        rows = rows[np.argsort(rows["until_ns"], kind="stable")]
        clients = np.ascontiguousarray(rows["ends"]["local"]).tobytes()
        columns = (rows[name].tolist() for name in ("cgroup", "lesson", "since_ns", "until_ns"))
        return [
            Taught(clients[16 * at : 16 * at + 16], cgroup, self._lessons[lesson], since_ns, until_ns)
            for at, (cgroup, lesson, since_ns, until_ns) in enumerate(zip(*columns, strict=True))
        ]

    def _lessons_of(self, answered: AnsweredLookups) -> npt.NDArray[np.int64]:
        """The places of what each teaches, once for all that are alike."""
        if self._alike is not answered.alike:
            self._alike, self._of_alike = answered.alike, np.empty(0, np.int64)
        known = len(self._of_alike)
        if known < len(answered.alike.messages):
            teaches = answered.alike.columns["learnable"][known:].tolist()
            new = [
                self._lesson_place(message) if learnable else _NOTHING
                for message, learnable in zip(answered.alike.messages[known:], teaches, strict=True)
            ]
            self._of_alike = np.concatenate([self._of_alike, np.array(new, np.int64)])
        return self._of_alike[answered.places]

    def _lesson_place(self, message: object) -> int:
        if not isinstance(message, Message) or not message.questions:
            return _NOTHING
        lesson = lesson_of(message.questions[0].name, message.answers)
        return _NOTHING if lesson is None else self._place(lesson)

    def _place(self, lesson: Lesson) -> int:
        place = self._places.setdefault(lesson, len(self._lessons))
        if place == len(self._lessons):
            self._lessons.append(lesson)
            self._addresses += len(lesson.addresses)
        return place


def lesson_of(asked: str, answers: tuple[Record, ...]) -> Lesson | None:
    """Gives the addresses that an answer gives to the name that was asked for; None where it gives none.

    They may stand behind any chain of aliases (CNAME), and be hints of SVCB and HTTPS records. Records that do not belong to
    that chain are not believed.
    """
    name = asked.lower()
    chain = _chain(answers, name)
    while name.startswith("_"):  # _8443._https.www.example.com: port and scheme of a service (RFC 9460, section 2.3)
        name = name.partition(".")[2]
    addresses: list[tuple[bytes, int]] = []
    for record in answers:
        chain_ttl = chain.get(record.name.lower())
        if chain_ttl is None or not name:
            continue
        ttl = min(record.ttl, chain_ttl)
        if isinstance(record.data, bytes):
            addresses.append((record.data, ttl))
        elif isinstance(record.data, Service):
            addresses += [(hint, ttl) for hint in record.data.hints]
    return Lesson(name, tuple(addresses)) if addresses else None


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


def _merged(rows: npt.NDArray[Any], alike: npt.NDArray[np.uint32], together_ns: int) -> npt.NDArray[Any]:
    """Makes one row of those that are alike in these words (shape (n, words)) and no further apart, from the first to the last.

    They are in the order in which each came last.
    """
    if not len(rows):
        return rows
    marks = word_fingerprints(alike, _SEED)
    order = np.argsort(marks, kind="stable")
    marks, since, until = marks[order], rows["since_ns"][order], rows["until_ns"][order]
    again = np.flatnonzero((marks[1:] == marks[:-1]) & (since[1:] - until[:-1] <= together_ns))
    again = again[(alike[order[again + 1]] == alike[order[again]]).all(axis=1)]  # not one mark of two
    if not len(again):
        return rows
    begins = np.ones(len(rows), np.bool_)
    begins[again + 1] = False
    first = np.flatnonzero(begins)
    made: npt.NDArray[Any] = rows[order[first]]
    made["since_ns"], made["until_ns"] = np.minimum.reduceat(since, first), np.maximum.reduceat(until, first)
    return made[np.argsort(np.maximum.reduceat(order, first))]


def _asked(rows: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """Who asked whom, from which socket, and was told what."""
    return rows.view("<u4").reshape(len(rows), _HEARD.itemsize // 4)[:, :_ASKED_WORDS]


def _client(rows: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """Who was told what."""
    words = rows.view("<u4").reshape(len(rows), _HEARD.itemsize // 4)
    return np.concatenate([words[:, :_ADDRESS_WORDS], words[:, _CGROUP_WORD:_ASKED_WORDS]], axis=1)

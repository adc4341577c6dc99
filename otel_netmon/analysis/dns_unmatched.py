"""Responses that belong to no open query, and why: what was asked lately. Both bounded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.differences import fingerprints
from otel_netmon.analysis.dns_lookups import Ends, Protocol, Reason, Transport, question_number
from otel_netmon.decode.dns import Message, Question

ASKED = np.dtype(
    [
        ("ends", "<u4", 11),
        ("id", "<u4"),
        ("question", "<u8"),
        ("start_ns", "<i8"),
        ("end_ns", "<i8"),
    ]
)
"""A query that is not open any more: who asked whom (``ends_octets``), its id, the number of its question, when it was asked,
and answered or given up. Of a response that is looked for, both times are its own."""

_BY_ID = np.dtype([("ends", "<u4", 11), ("id", "<u4")])
_BY_QUESTION = np.dtype([("ends", "<u4", 11), ("question", "<u8")])
_LOOKED_AT = 64
"""Of the queries between two ends with one id, or with one question, the last so many are looked at."""

_AT_ONCE = 256
_NOBODY = bytes(18)
_SEED = 0x9E3779B97F4A7C15
_NEVER = np.iinfo(np.int64).min


def ends_octets(ends: Ends) -> bytes:
    """Gives ends as ASKED has them: 44 octets."""
    sides = ends.client + (ends.server or _NOBODY)
    return sides + ends.ifindex.to_bytes(4, "little") + ends.namespace.to_bytes(4, "little")


def asked(ends: Ends, identifier: int, questions: tuple[Question, ...], start_ns: int, end_ns: int) -> npt.NDArray[Any]:
    """Gives one row of ASKED; shape (1,)."""
    row = np.empty(1, ASKED)
    row["ends"][0] = np.frombuffer(ends_octets(ends), "<u4")
    row["id"], row["question"] = identifier, question_number(questions)
    row["start_ns"], row["end_ns"] = start_ns, end_ns
    return row


def asked_of_answers(
    heads: npt.NDArray[Any], ids: npt.NDArray[np.uint32], questions: npt.NDArray[np.uint64]
) -> npt.NDArray[Any]:
    """Gives the queries of records of the kind DNS_ANSWER as rows of ASKED."""
    rows = np.empty(len(heads), ASKED)
    octets = np.empty((len(heads), 44), np.uint8)
    octets[:, :16], octets[:, 18:34] = heads["destination"], heads["source"]
    for at, field in ((16, "destination_port"), (34, "source_port")):
        octets[:, at : at + 2] = heads[field].astype(">u2").view(np.uint8).reshape(-1, 2)
    words = octets.view("<u4")
    words[:, 9], words[:, 10] = heads["ifindex"], heads["namespace"]
    rows["ends"] = words
    rows["id"], rows["question"] = ids, questions
    rows["start_ns"], rows["end_ns"] = heads["first_request_time_ns"], heads["time_ns"]
    return rows


class RecentlyAsked:
    """Remembers the last queries that were answered, and apart from them the last that timed out.

    To remember costs next to nothing, since every lookup does; they are put in order only when a response is unmatched.

    Args:
        queries_max: how many of each.
    """

    def __init__(self, queries_max: int = 8192) -> None:
        self._answered, self._timed_out = _Memory(queries_max), _Memory(queries_max)

    def add(self, rows: npt.NDArray[Any], *, timed_out: bool) -> None:
        """Remembers queries, ASKED."""
        (self._timed_out if timed_out else self._answered).add(rows)

    def reasons(self, responses: npt.NDArray[Any]) -> list[Reason]:
        """Tells why responses, ASKED, are unmatched."""
        found: list[Reason] = []
        for at in range(0, len(responses), _AT_ONCE):
            found += self._reasons(responses[at : at + _AT_ONCE])
        return found

    def _reasons(self, responses: npt.NDArray[Any]) -> list[Reason]:
        answered, timed_out = self._answered.find(responses), self._timed_out.find(responses)
        latest = np.maximum(answered.same_ns, timed_out.same_ns)
        choices: list[tuple[npt.NDArray[np.bool_], Reason]] = [
            ((latest > _NEVER) & (timed_out.same_ns > answered.same_ns), "late"),
            (latest > _NEVER, "duplicate"),
            (answered.open_id | timed_out.open_id, "wrong_question"),
            (answered.open_question | timed_out.open_question, "wrong_id"),
        ]
        columns = zip(*(mask.tolist() for mask, _ in choices), strict=True)
        names: list[Reason] = [reason for _, reason in choices]
        return [next((name for name, holds in zip(names, row, strict=True) if holds), "unknown") for row in columns]


class _Found(NamedTuple):
    """What a memory has for responses; columns of one length.

    Attributes:
        same_ns: when the last query with the same id and question was asked, _NEVER without one.
        open_id, open_question: whether a query with this id, or with this question, was open when the response came.
    """

    same_ns: npt.NDArray[np.int64]
    open_id: npt.NDArray[np.bool_]
    open_question: npt.NDArray[np.bool_]


class _Memory:
    """The last queries, in a circle; in order of what is looked for once something is."""

    def __init__(self, queries_max: int) -> None:
        self._rows = np.zeros(queries_max, ASKED)
        self._next = 0
        self._by_id: _Order | None = None
        self._by_question: _Order | None = None

    def add(self, rows: npt.NDArray[Any]) -> None:
        size = len(self._rows)
        last = rows[-size:]
        self._rows[(self._next + len(rows) - len(last) + np.arange(len(last))) % size] = last
        self._next += len(rows)
        self._by_id = self._by_question = None

    def find(self, responses: npt.NDArray[Any]) -> _Found:
        if self._by_id is None or self._by_question is None:
            size = len(self._rows)
            known = self._rows[: self._next] if self._next <= size else np.roll(self._rows, -(self._next % size))
            self._by_id, self._by_question = _Order(known, _BY_ID), _Order(known, _BY_QUESTION)
        same_ns = np.full(len(responses), _NEVER, np.int64)
        at, rows = self._by_id.find(responses)
        before = rows["start_ns"] <= responses["start_ns"][at]
        same = before & (rows["question"] == responses["question"][at])
        np.maximum.at(same_ns, at[same], rows["start_ns"][same])
        return _Found(same_ns, _open(responses, at, rows), _open(responses, *self._by_question.find(responses)))


def _open(responses: npt.NDArray[Any], at: npt.NDArray[np.intp], rows: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """For each response, whether one of the rows, which belong to those at `at`, was open when it came."""
    times = responses["start_ns"][at]
    holds = (rows["start_ns"] <= times) & (times <= rows["end_ns"])
    found = np.zeros(len(responses), np.bool_)
    found[at[holds]] = True
    return found


class _Order:
    """Rows, oldest first, in the order of hashes of some of their fields."""

    def __init__(self, rows: npt.NDArray[Any], key: np.dtype[Any]) -> None:
        self._key = key
        marks = fingerprints(_keys(rows, key), _SEED)
        self._order = np.argsort(marks, kind="stable")
        self._marks = marks[self._order]
        self._rows = rows

    def find(self, responses: npt.NDArray[Any]) -> tuple[npt.NDArray[np.intp], npt.NDArray[Any]]:
        """Gives pairs: the index of a response, and a row that agrees with it."""
        wanted = _keys(responses, self._key)
        marks = fingerprints(wanted, _SEED)
        end = np.searchsorted(self._marks, marks, "right")
        first = np.maximum(np.searchsorted(self._marks, marks, "left"), end - _LOOKED_AT)
        many = end - first
        at = np.repeat(np.arange(len(responses)), many)
        places = np.arange(len(at)) - np.repeat(np.cumsum(many) - many, many) + np.repeat(first, many)
        rows = self._rows[self._order[places]]
        agree = _keys(rows, self._key) == wanted[at]
        return at[agree], rows[agree]


def _keys(rows: npt.NDArray[Any], key: np.dtype[Any]) -> npt.NDArray[Any]:
    keys = np.empty(len(rows), key)
    for field in key.names or ():
        keys[field] = rows[field]
    return keys


class HeldResponse(NamedTuple):
    """A response, and whether the edge rule counts it where it was seen; its source is who sent it, also to a group's query."""

    protocol: Protocol
    transport: Transport
    ends: Ends
    source: bytes
    cgroup: int
    counts: bool
    message: Message
    time_ns: int


def asked_of_responses(responses: Sequence[HeldResponse]) -> npt.NDArray[Any]:
    """Gives responses as rows of ASKED."""
    rows = np.empty(len(responses), ASKED)
    octets = b"".join([ends_octets(each.ends) for each in responses])
    rows["ends"] = np.frombuffer(octets, "<u4").reshape(-1, 11)
    rows["id"] = [each.message.id for each in responses]
    rows["question"] = np.array([question_number(each.message.questions) for each in responses], np.uint64)
    rows["start_ns"] = rows["end_ns"] = [each.time_ns for each in responses]
    return rows


class HeldResponses:
    """Responses of which a query that is still open may tell more once it is answered or times out.

    Args:
        responses_max: how many are held; one more puts out the oldest.
    """

    def __init__(self, responses_max: int = 4096) -> None:
        self._responses_max = responses_max
        self._held: OrderedDict[int, HeldResponse] = OrderedDict()
        self._questionless: dict[tuple[Ends, int], int] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._held)

    def add(self, response: HeldResponse) -> HeldResponse | None:
        """Holds a response; gives the one that lost its place."""
        self._number += 1
        self._held[self._number] = response
        if not response.message.questions:
            self._questionless.setdefault((response.ends, response.message.id), self._number)
        return self._pop(next(iter(self._held))) if len(self._held) > self._responses_max else None

    def take_questionless(self, ends: Ends, identifier: int, since_ns: int) -> HeldResponse | None:
        """Takes out the response that has no question but answers this query: servers refuse so what they do not know."""
        number = self._questionless.get((ends, identifier))
        if number is None or self._held[number].time_ns < since_ns:
            return None
        return self._pop(number)

    def due(self, until_ns: int) -> Iterator[HeldResponse]:
        """Takes out those that came before a time."""
        while self._held:
            number, response = next(iter(self._held.items()))
            if response.time_ns >= until_ns:
                return
            yield self._pop(number)

    def _pop(self, number: int) -> HeldResponse:
        response = self._held.pop(number)
        key = response.ends, response.message.id
        if self._questionless.get(key) == number:
            del self._questionless[key]
        return response

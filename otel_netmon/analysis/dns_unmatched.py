"""Responses that belong to no open query, and why: what was asked lately. Both bounded."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from otel_netmon.analysis.dns_lookups import Ends, Protocol, QuestionKey, Reason, Transport, question_key
from otel_netmon.decode.dns import Message, decode

HEAD_OCTETS = 12 + 259
"""Header and the longest question."""

_ONE_QUESTION = b"\0\1" + bytes(6)
_LOOKED_AT = 64
"""Of the queries between two ends with one id, or with one question, the last so many are looked at."""


class Asked(NamedTuple):
    """A query that is not open any more: when it was asked, and answered or given up.

    `head` is a message with its id and question, at most HEAD_OCTETS of it.
    """

    ends: Ends
    head: bytes
    start_ns: int
    end_ns: int
    timed_out: bool


class _Indexed(NamedTuple):
    ends: Ends
    id: int
    question: QuestionKey | None
    start_ns: int
    end_ns: int
    timed_out: bool

    def is_open(self, time_ns: int) -> bool:
        return self.start_ns <= time_ns <= self.end_ns


class RecentlyAsked:
    """Remembers the last queries that were answered, and apart from them the last that timed out.

    To remember costs next to nothing, since every lookup does; they are looked at only when a response is unmatched.

    Args:
        queries_max: how many of each.
    """

    def __init__(self, queries_max: int = 8192) -> None:
        self._kinds = {timed_out: _Memory(queries_max) for timed_out in (False, True)}

    def add(self, asked: Asked) -> None:
        """Remembers a query."""
        self._kinds[asked.timed_out].new.append(asked)

    def reason(self, ends: Ends, identifier: int, question: QuestionKey | None, time_ns: int) -> Reason:
        """Tells why a response that came then is unmatched."""
        found = [
            each
            for memory in self._kinds.values()
            for each in memory.find((ends, identifier))
            if each.start_ns <= time_ns
        ]
        same = [each for each in found if each.question == question]
        if same:
            return "late" if max(same, key=lambda each: each.start_ns).timed_out else "duplicate"
        if any(each.is_open(time_ns) for each in found):
            return "wrong_question"
        if any(each.is_open(time_ns) for memory in self._kinds.values() for each in memory.find((ends, question))):
            return "wrong_id"
        return "unknown"


_NONE: deque[_Indexed] = deque()


class _Memory:
    """The last queries; `new` are those that were not indexed so far."""

    def __init__(self, queries_max: int) -> None:
        self.new: deque[Asked] = deque(maxlen=queries_max)
        self._queries_max = queries_max
        self._indexed: deque[_Indexed] = deque()
        self._found: dict[tuple[Ends, int | QuestionKey | None], deque[_Indexed]] = {}

    def find(self, key: tuple[Ends, int | QuestionKey | None]) -> Iterable[_Indexed]:
        """Those between these ends with an id, or with a question."""
        while self.new:
            asked = self.new.popleft()
            made = decode(asked.head[:4] + _ONE_QUESTION + asked.head[12:])
            if isinstance(made, Message):
                self._index(
                    _Indexed(
                        asked.ends, made.id, question_key(made.questions), asked.start_ns, asked.end_ns, asked.timed_out
                    )
                )
        return islice(reversed(self._found.get(key, _NONE)), _LOOKED_AT)

    def _index(self, entry: _Indexed) -> None:
        self._indexed.append(entry)
        for key in ((entry.ends, entry.id), (entry.ends, entry.question)):
            self._found.setdefault(key, deque()).append(entry)
        if len(self._indexed) > self._queries_max:
            oldest = self._indexed.popleft()
            for key in ((oldest.ends, oldest.id), (oldest.ends, oldest.question)):
                entries = self._found[key]
                entries.popleft()  # the oldest of all is the oldest of these
                if not entries:
                    del self._found[key]


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

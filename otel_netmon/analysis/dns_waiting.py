"""Queries that wait for their answers in user space: those over TCP and to groups. The kernel has those over UDP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from otel_netmon.analysis.dns_lookups import (
    Ends,
    Lookup,
    Protocol,
    QuestionKey,
    Transport,
    TruncatedLookup,
    answered,
    question_key,
)
from otel_netmon.decode.dns import Message, Question
from otel_netmon.readers.messages import COPIES_TIMEOUTS_MAX


@dataclass(slots=True)
class WaitingQuery:
    """A query without an answer so far.

    Attributes:
        server: to whom it went; a group, where the ends name nobody.
        direction: in which it was seen.
        counts: whether the edge rule counts it there.
        first_ns, last_ns: its first and its last copy.
        retries: copies after the first.
    """

    protocol: Protocol
    transport: Transport
    ends: Ends
    server: bytes
    direction: int
    cgroup: int
    id: int
    opcode: int
    questions: tuple[Question, ...]
    counts: bool
    first_ns: int
    last_ns: int
    retries: int = 0
    after: TruncatedLookup | None = None

    def answered(self, message: Message, server: bytes, time_ns: int) -> Lookup:
        """Gives the lookup that this response of a server answers."""
        ends = self.ends._replace(server=server)
        lookup = answered(
            self.protocol, self.transport, ends, self.cgroup, message, self.first_ns, time_ns, self.retries
        )
        return lookup._replace(questions=message.questions or self.questions, after=self.after)

    def timed_out(self) -> Lookup:
        """Gives the lookup that nobody answered."""
        return Lookup(
            self.protocol,
            self.transport,
            *self.ends._replace(server=self.server),
            self.cgroup,
            self.id,
            self.opcode,
            self.questions,
            "timeout",
            None,
            self.first_ns,
            None,
            self.retries,
            None,
            None,
            0,
            (),
            truncated=False,
            after=self.after,
            cut=False,
            fault=None,
        )


class WaitingQueries:
    """Bounded; by (both ends, id, question)."""

    def __init__(self, queries_max: int = 16384) -> None:
        self._queries_max = queries_max
        self._count = 0
        self._by_ends: dict[Ends, dict[tuple[int, QuestionKey | None], WaitingQuery]] = {}

    def __len__(self) -> int:
        return self._count

    def add(self, query: WaitingQuery) -> Literal["query", "retry", "seen_again", "dropped"]:
        """Takes a query; tells what it is.

        Returns:
            a new one; a copy of one that waits; the same packet again, because what a host sends to a group it receives
            by the same interface; or one for which there is no place.
        """
        key = query.id, question_key(query.questions)
        waiting = self._by_ends.get(query.ends)
        known = waiting.get(key) if waiting else None
        if known is not None:
            if known.direction != query.direction:
                return "seen_again"
            known.retries += 1
            known.last_ns = max(known.last_ns, query.last_ns)
            return "retry"
        if self._count >= self._queries_max:
            return "dropped"
        self._by_ends.setdefault(query.ends, {})[key] = query
        self._count += 1
        return "query"

    def take(self, ends: Ends, identifier: int, question: QuestionKey | None) -> WaitingQuery | None:
        """Takes out the query that a response answers; of one without a question the id decides."""
        waiting = self._by_ends.get(ends)
        if waiting is None:
            return None
        key = identifier, question
        if question is None:
            key = next((each for each in waiting if each[0] == identifier), key)
        query = waiting.pop(key, None)
        if query is not None:
            self._count -= 1
            if not waiting:
                del self._by_ends[ends]
        return query

    def take_expired(self, now_ns: int, timeout_ns: int) -> list[WaitingQuery]:
        """Takes out those that have waited too long, by the rule of ``OpenQueryReader.take_expired``."""
        limit = now_ns - timeout_ns
        since_first = now_ns - COPIES_TIMEOUTS_MAX * timeout_ns
        expired = [
            query
            for waiting in self._by_ends.values()
            for query in waiting.values()
            if query.last_ns < limit or query.first_ns < since_first
        ]
        for query in expired:
            self.take(query.ends, query.id, question_key(query.questions))
        return expired

    def drop(self, ends: Ends) -> int:
        """Drops the queries between two ends; gives how many they were."""
        dropped = len(self._by_ends.pop(ends, ()))
        self._count -= dropped
        return dropped

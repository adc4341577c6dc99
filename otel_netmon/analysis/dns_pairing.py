"""Queries and responses to lookups: what the kernel has not paired, and what no pair tells."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.dns_lookups import Ends, Lookup, QuestionKey, Reason, TruncatedLookup, answered, question_key
from otel_netmon.analysis.dns_unmatched import HeldResponse, HeldResponses, RecentlyAsked, asked, asked_of_responses
from otel_netmon.analysis.dns_waiting import WaitingQueries, WaitingQuery
from otel_netmon.decode import dns_numbers as numbers
from otel_netmon.readers.messages import COPIES_TIMEOUTS_MAX

_TRANSFERS = frozenset((numbers.IXFR, numbers.AXFR))
_Times = npt.NDArray[np.uint64]
_REMEMBERED_MAX = 1024
_HELD_TIMEOUTS = 2
"""After so many timeouts, every query that was open when a response came is answered or has timed out."""


class Pairing:
    """State of the pairing, bounded.

    Args:
        timeout_ns: after which a query counts as not answered.
        became: counts what became of every message given, see ``DnsAnalysis.messages``.

    Attributes:
        held: how many responses wait for their reasons.
    """

    def __init__(self, timeout_ns: int, became: Counter[str]) -> None:
        self._timeout_ns = timeout_ns
        self._copies_ns = min(COPIES_TIMEOUTS_MAX * timeout_ns, 1 << 62)
        self._became = became
        self._waiting = WaitingQueries()
        self._recent = RecentlyAsked()
        self._held = HeldResponses()
        self._unmatched: list[HeldResponse] = []
        self._put_out: list[HeldResponse] = []
        self._truncated: OrderedDict[tuple[int, bytes, bytes, QuestionKey | None], Lookup] = OrderedDict()
        self._transfers: OrderedDict[tuple[Ends, int], None] = OrderedDict()
        self._lookups: list[Lookup] = []

    @property
    def held(self) -> int:
        """See above."""
        return len(self._held) + len(self._unmatched) + len(self._put_out)

    @overload
    def in_time(self, first_ns: int, last_ns: int, time_ns: int) -> bool: ...
    @overload
    def in_time(self, first_ns: _Times, last_ns: _Times, time_ns: _Times) -> npt.NDArray[np.bool_]: ...
    def in_time(self, first_ns: Any, last_ns: Any, time_ns: Any) -> Any:
        """Tells of queries by their first and last copy whether answers came before they had timed out, see ``WaitingQueries``."""
        return (time_ns - last_ns <= self._timeout_ns) & (time_ns - first_ns <= self._copies_ns)

    def truncated(self, lookup: Lookup) -> None:
        """Takes one over UDP, paired by the kernel, that may be asked again over TCP."""
        key = lookup.namespace, lookup.client[:16], lookup.server, question_key(lookup.questions)
        self._truncated[key] = lookup
        if len(self._truncated) > _REMEMBERED_MAX:
            self._truncated.popitem(last=False)

    def answered(self, queries: npt.NDArray[Any]) -> None:
        """Remembers queries over UDP, ASKED, that were answered, whether or not they count."""
        self._recent.add(queries, timed_out=False)

    def query(self, query: WaitingQuery) -> None:
        """Takes a query over TCP or to a group."""
        what = self._waiting.add(query)
        self._became[what] += 1
        if what == "query" and query.transport == "tcp" and self._truncated:
            query.after = self._take_truncated(query)

    def response(self, response: HeldResponse) -> None:
        """Takes a response over TCP or to a query to a group."""
        message = response.message
        query = self._waiting.take(response.ends, message.id, question_key(message.questions))
        if query is not None and not self.in_time(query.first_ns, query.last_ns, response.time_ns):
            self.expired(query)
            query = None
        if query is None:
            if (response.ends, message.id) in self._transfers:
                self._became["transfer"] += 1
            else:
                self.unmatched(response)
            return
        self._remember(query, response.time_ns)
        if response.transport == "tcp" and query.questions and query.questions[0].type in _TRANSFERS:
            self._transfers[response.ends, message.id] = None
            if len(self._transfers) > _REMEMBERED_MAX:
                self._transfers.popitem(last=False)
        self._answer(query, response)

    def unmatched(self, response: HeldResponse) -> None:
        """Takes a response that no query waits for, or, over UDP, one without a question, which the kernel cannot pair."""
        if not response.message.questions:
            self._hold(response)
        elif response.counts:
            self._unmatched.append(response)
        else:
            self._became["not_counted"] += 1

    def drop(self, ends: Ends) -> int:
        """Drops what waits between two ends, because no answer can be told; gives how many queries that were."""
        return self._waiting.drop(ends)

    def expired(self, query: WaitingQuery) -> None:
        """Takes a query that nobody answered, unless one without a question did: servers refuse so what they do not know."""
        response = self._held.take_questionless(query.ends, query.id, query.first_ns)
        if response is not None:
            self._remember(query, response.time_ns)
            self._answer(query, response)
            return
        self._remember(query, query.last_ns + self._timeout_ns, timed_out=True)
        if query.counts:
            self._lookups.append(query.timed_out())

    def advance(self, now_ns: int) -> None:
        """Ends the queries that have waited too long."""
        for query in self._waiting.take_expired(now_ns, self._timeout_ns):
            self.expired(query)

    def take(self, now_ns: int) -> list[Lookup]:
        """Gives the lookups that came to their end; a response that nothing explains may be explained later."""
        unmatched, self._unmatched = self._unmatched, []
        for response, reason in self._with_reasons(unmatched):
            if reason == "unknown":
                self._hold(response)
            else:
                self._end_unmatched(response, reason)
        put_out, self._put_out = self._put_out, []
        put_out += self._held.due(now_ns - _HELD_TIMEOUTS * self._timeout_ns)
        for response, reason in self._with_reasons(put_out):
            self._end_unmatched(response, reason)
        lookups, self._lookups = self._lookups, []
        return lookups

    def _remember(self, query: WaitingQuery, end_ns: int, *, timed_out: bool = False) -> None:
        row = asked(query.ends, query.id, query.questions, query.first_ns, end_ns)
        self._recent.add(row, timed_out=timed_out)

    def _answer(self, query: WaitingQuery, response: HeldResponse) -> None:
        self._became["lookup" if query.counts else "not_counted"] += 1
        if query.counts:
            self._lookups.append(query.answered(response.message, response.source, response.time_ns))

    def _take_truncated(self, query: WaitingQuery) -> TruncatedLookup | None:
        key = query.ends.namespace, query.ends.client[:16], query.server, question_key(query.questions)
        lookup = self._truncated.pop(key, None)
        if lookup is None or query.first_ns - lookup.end_ns > self._timeout_ns:
            return None
        return TruncatedLookup(lookup.client, lookup.id, lookup.start_ns)

    def _hold(self, response: HeldResponse) -> None:
        too_much = self._held.add(response)
        if too_much is not None:
            self._put_out.append(too_much)

    def _with_reasons(self, responses: list[HeldResponse]) -> list[tuple[HeldResponse, Reason]]:
        if not responses:
            return []
        return list(zip(responses, self._recent.reasons(asked_of_responses(responses)), strict=True))

    def _end_unmatched(self, response: HeldResponse, reason: Reason) -> None:
        if not response.counts:
            self._became["not_counted"] += 1
            return
        self._became["unmatched"] += 1
        ends = response.ends._replace(server=response.source)
        time_ns = response.time_ns
        lookup = answered(
            response.protocol, response.transport, ends, response.cgroup, response.message, time_ns, time_ns
        )
        self._lookups.append(lookup._replace(outcome="unmatched_response", reason=reason, duration_ns=None))

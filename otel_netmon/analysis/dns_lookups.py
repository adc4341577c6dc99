"""What is known of a DNS lookup, and counts over lookups."""

from __future__ import annotations

from collections import Counter
from typing import Literal, NamedTuple

from otel_netmon.decode import dns_numbers as numbers
from otel_netmon.decode.dns import TRUNCATED_FLAG, Fault, Message, Question
from otel_netmon.decode.dns_records import Record
from otel_netmon.readers.messages import Head

Protocol = Literal["dns", "mdns", "llmnr"]
Transport = Literal["udp", "tcp"]

Outcome = Literal["answered", "timeout", "unmatched_response"]
"""A query and its answer; a query without one; a response without an open query."""

Reason = Literal["late", "duplicate", "wrong_question", "wrong_id", "unknown"]
"""Why a response is unmatched: its query has timed out; its query was answered before; a query between the same ends was
open with this id and another question; with this question and another id; none of these is known."""

QuestionKey = tuple[str, int, int]
"""A question by which queries and responses are compared: resolvers vary and change the case of names (RFC 4343)."""


class Ends(NamedTuple):
    """Who asks whom, and at which interface that was seen: addresses and ports, 18 octets each in network order.

    The server is empty where a query goes to a group and anybody may answer it.
    """

    namespace: int
    ifindex: int
    client: bytes
    server: bytes


class Seen(NamedTuple):
    """A packet that carried a message, or a part of one: where it was seen, and from whom to whom it went."""

    namespace: int
    ifindex: int
    direction: int
    ingress_ifindex: int
    cgroup: int
    source: bytes
    destination: bytes

    def ends(self, *, is_response: bool) -> Ends:
        """The ends of the lookup that it belongs to."""
        if is_response:
            return Ends(self.namespace, self.ifindex, self.destination, self.source)
        return Ends(self.namespace, self.ifindex, self.source, self.destination)


def seen_at(head: Head) -> Seen:
    """Gives where the packet of a record was seen."""
    return Seen(
        head.namespace,
        head.ifindex,
        head.direction,
        head.ingress_ifindex,
        head.cgroup,
        head.source + head.source_port,
        head.destination + head.destination_port,
    )


class TruncatedLookup(NamedTuple):
    """A lookup over UDP whose answer did not fit, so that it was asked again over TCP."""

    client: bytes
    id: int
    start_ns: int


class Lookup(NamedTuple):
    """One lookup.

    Attributes:
        client, server: address and port, 18 octets in network order, IPv4 as v4-mapped IPv6; of a query to a group that
            was answered, the server is who answered.
        cgroup: cgroup v2 id of the local end, 0 where it is not known.
        id, opcode: of the header.
        questions: of the response where there is one; almost always one.
        reason: of an unmatched response.
        start_ns: the first copy of the query; of an unmatched response its own time.
        duration_ns: from the first copy of the query to the answer.
        retries: copies of the query after the first.
        rcode: the response code, extended by EDNS.
        header_rcode: its four bits in the header.
        answer_count: records in the answer section, as the header says.
        answers: those that could be read.
        truncated: the answer did not fit and was sent without what was too much (the TC bit).
        after: of a lookup over TCP, the one over UDP that was truncated.
        cut, fault: see ``decode.dns.Message``.
    """

    protocol: Protocol
    transport: Transport
    namespace: int
    ifindex: int
    client: bytes
    server: bytes
    cgroup: int
    id: int
    opcode: int
    questions: tuple[Question, ...]
    outcome: Outcome
    reason: Reason | None
    start_ns: int
    duration_ns: int | None
    retries: int
    rcode: int | None
    header_rcode: int | None
    answer_count: int
    answers: tuple[Record, ...]
    truncated: bool
    after: TruncatedLookup | None
    cut: bool
    fault: Fault | None

    @property
    def name(self) -> str:
        """The name asked for, empty in a message without a question."""
        return question_name(self.questions)

    @property
    def type_name(self) -> str:
        """``A``, ``HTTPS``, …, ``TYPEn``; empty in a message without a question."""
        return self.questions[0].type_name if self.questions else ""

    @property
    def rcode_name(self) -> str | None:
        """``NOERROR``, ``NXDOMAIN``, …, ``RCODEn``; None without a response."""
        return None if self.rcode is None else numbers.rcode_name(self.rcode)

    @property
    def end_ns(self) -> int:
        """When the answer was there; without one as start_ns."""
        return self.start_ns + (self.duration_ns or 0)

    @property
    def is_negative(self) -> bool:
        """Whether the answer is that there is no such name, or nothing of this type (RFC 2308)."""
        return self.outcome == "answered" and (
            self.rcode == numbers.NXDOMAIN or (self.rcode == numbers.NOERROR and not self.answer_count)
        )


class LookupTotals:
    """Counts over lookups.

    Attributes:
        counts: ``lookups``; by outcome ``answered``, ``timeout``, ``unmatched_response``; by reason ``late`` and so on;
            answers with the code ``nxdomain``; copies of queries, ``retries``; ``truncated`` answers; lookups ``tcp_retry``
            after those.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, lookup: Lookup) -> None:
        """Counts one."""
        counts = self.counts
        counts["lookups"] += 1
        counts[lookup.outcome] += 1
        if lookup.reason is not None:
            counts[lookup.reason] += 1
        elif lookup.rcode == numbers.NXDOMAIN:
            counts["nxdomain"] += 1
        if lookup.retries:
            counts["retries"] += lookup.retries
        if lookup.truncated:
            counts["truncated"] += 1
        if lookup.after is not None:
            counts["tcp_retry"] += 1

    def add_answered(self, number: int, nothing: int, retries: int, truncated: int) -> None:
        """Counts many that were answered, so many of them with the code ``nxdomain`` and so many truncated."""
        for name, count in (
            ("lookups", number),
            ("answered", number),
            ("nxdomain", nothing),
            ("retries", retries),
            ("truncated", truncated),
        ):
            self.counts[name] += count


def question_name(questions: tuple[Question, ...]) -> str:
    """Gives the name that is asked for, empty without a question."""
    return questions[0].name if questions else ""


def question_key(questions: tuple[Question, ...]) -> QuestionKey | None:
    """Gives the key of the first question, by which the kernel pairs as well; None without one."""
    if not questions:
        return None
    name, kind, cls = questions[0]
    return name.lower(), kind, cls


def question_number(questions: tuple[Question, ...]) -> int:
    """64 bits that stand for the key of the first question, in this process."""
    return hash(question_key(questions)) & 0xFFFFFFFFFFFFFFFF


def label_number(name: str) -> int:
    """64 bits that stand for the first label of a name, whatever its case, in this process."""
    return hash(name.partition(".")[0].lower()) & 0xFFFFFFFFFFFFFFFF


def answered(
    protocol: Protocol,
    transport: Transport,
    ends: Ends,
    cgroup: int,
    message: Message,
    first_ns: int,
    time_ns: int,
    retries: int = 0,
) -> Lookup:
    """Gives the lookup that this response answers; what it comes after is for the caller to fill in."""
    identifier, flags, rcode, _, answer_count, questions, answers, _, cut, fault = message
    return Lookup(
        protocol,
        transport,
        *ends,
        cgroup,
        identifier,
        flags >> 11 & 15,
        questions,
        "answered",
        None,
        first_ns,
        time_ns - first_ns,
        retries,
        rcode,
        flags & 15,
        answer_count,
        answers,
        flags & TRUNCATED_FLAG != 0,
        None,
        cut,
        fault,
    )

"""DNS lookups out of what the kernel tells of messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.abi import layout
from otel_netmon.abi.enums import NAMESPACE_SOCKET, MessageKind
from otel_netmon.analysis.dns_answers import Alike, AnsweredLookups, EdgeCounts, counted
from otel_netmon.analysis.dns_lookups import Ends, Lookup, LookupTotals, Protocol, Seen, Transport, seen_at
from otel_netmon.analysis.dns_pairing import Pairing
from otel_netmon.analysis.dns_search import Search, Searches
from otel_netmon.analysis.dns_stream import StreamMessage
from otel_netmon.analysis.dns_streams import Streams
from otel_netmon.analysis.dns_unmatched import HeldResponse, asked_of_answers
from otel_netmon.analysis.dns_waiting import WaitingQuery
from otel_netmon.analysis.tcp_stream import Segment
from otel_netmon.decode import dns_numbers as numbers
from otel_netmon.decode.dns import Fault, Message, decode, read_question
from otel_netmon.readers.messages import NO_QUERIES, Head, Messages, OpenQueries, read_head

_MDNS_PORT, _LLMNR_PORT = (5353).to_bytes(2, "big"), (5355).to_bytes(2, "big")
_BY_PORT: dict[bytes, Protocol] = {_MDNS_PORT: "mdns", _LLMNR_PORT: "llmnr"}
_END_OF_TIME = 1 << 63
_NO_MESSAGES = Messages(np.empty(0, layout.MESSAGE), b"", np.empty(0, np.int64))


class Result(NamedTuple):
    """What came to its end.

    Attributes:
        answered: lookups over UDP that the kernel has paired.
        others: all other ones.
        searches: names for which a search list made more than one.
    """

    answered: AnsweredLookups
    others: list[Lookup]
    searches: list[Search]

    @property
    def lookups(self) -> list[Lookup]:
        """All of them, one by one."""
        return [self.answered.lookup(index) for index in range(self.answered.number)] + self.others


class DnsAnalysis:
    """State of DNS over time, bounded. It costs least where it is given AT_ONCE records.

    Over UDP the kernel has paired query and answer; over TCP, and where a query goes to a group, that is done here.

    Args:
        timeout_ns: after which a query counts as not answered; the same as the reader's for those over UDP.
        counts: the edge rule. It is asked about the packet of a lookup, with what the record says: of a DNS_ANSWER and of an open query,
            of queries over TCP and to groups; and of a response, only where no query is known. So a lookup that crosses
            several interfaces counts at one of them, translated addresses or not.

    Attributes:
        messages: what became of every message, by count: ``lookup``; where pairing is done here ``query``, ``retry``,
            ``seen_again`` (a host's own packet to a group) and ``dropped`` (no place); ``mdns_query`` and ``mdns_response``
            among all; ``unmatched``; ``transfer`` (the second and later messages of one); ``not_counted`` by the edge rule;
            ``unparsed``. Those that are held for a while are in none: ``held``.
        unparsed: messages that are none, by fault.
        evicted_queries: queries over TCP whose connection lost its place.
        streams: the connections; its ``counts`` tell what they lost.
        totals: over all lookups given.
    """

    AT_ONCE = 4096

    def __init__(self, timeout_ns: int, counts: EdgeCounts) -> None:
        self.messages: Counter[str] = Counter()
        self.unparsed: Counter[Fault] = Counter()
        self.evicted_queries = 0
        self.streams = Streams()
        self.totals = LookupTotals()
        self._counts = counts
        self._counted: dict[tuple[int, int, int, int], bool] = {}
        self._alike = Alike()
        self._pairing = Pairing(timeout_ns, self.messages)
        self._searches = Searches()
        self._now_ns = 0

    @property
    def held(self) -> int:
        """How many responses are held, because a query that is still open may explain them."""
        return self._pairing.held

    @property
    def counts(self) -> Counter[str]:
        """What became of queries that wait here, of connections and of octets of TCP: those of ``streams`` too.

        ``no_place``: queries without a place; ``evicted_queries``: those whose connection lost its own; ``unparsed.`` with
        a fault: messages that are none.
        """
        return Counter(
            {
                **self.streams.counts,
                **{f"unparsed.{fault}": count for fault, count in self.unparsed.items()},
                "no_place": self.messages["dropped"],
                "evicted_queries": self.evicted_queries,
            }
        )

    def set_edges(self, counts: EdgeCounts) -> None:
        """Takes another edge rule: at every change of the interfaces, since answers of the rule are remembered."""
        self._counts = counts
        self._counted.clear()

    def updates(self, messages: Messages, expired: OpenQueries, now_ns: int) -> Iterator[Result]:
        """Takes what the kernel told since the last call, a part at a time.

        What is known of a full ring of messages that all differ takes 20 MB; of a part of them it takes four.

        Args:
            messages, expired, now_ns: see ``update``.
        """
        last = max(0, len(messages.heads) - 1) // self.AT_ONCE * self.AT_ONCE
        for at in range(0, last, self.AT_ONCE):
            # Time does not pass: what somebody has waited for may be in a part that comes.
            yield self.update(messages.part(slice(at, at + self.AT_ONCE)), NO_QUERIES, self._now_ns)
        yield self.update(messages.part(slice(last, None)), expired, now_ns)

    def update(self, messages: Messages, expired: OpenQueries, now_ns: int) -> Result:
        """Takes what the kernel told since the last call.

        Args:
            messages: records of the ring, of the kinds of DNS.
            expired: queries over UDP that nobody answered, taken out of the kernel before the ring was read.
            now_ns: the clock of the records.
        """
        self._now_ns = now_ns
        is_answer = messages.heads["kind"] == MessageKind.DNS_ANSWER
        answered, which = self._answers(messages.where(is_answer), np.flatnonzero(is_answer))
        truncated = np.flatnonzero(answered.column("truncated"))
        by_record = dict(zip(which[truncated].tolist(), truncated.tolist(), strict=True))
        # In the order of the packets: a query over TCP comes after the answer over UDP that was truncated.
        for index in sorted([*np.flatnonzero(~is_answer).tolist(), *by_record]):
            if index in by_record:
                self._pairing.truncated(answered.lookup(by_record[index]))
            else:
                self._record(read_head(messages.data, int(messages.starts[index])), messages.payload(index))
        if self._alike.is_full:
            self._alike = Alike()
        return self._end(answered, expired, now_ns)

    def finish(self, expired: OpenQueries) -> Result:
        """Ends all that is open: nothing more will come.

        Args:
            expired: every query over UDP that is open in the kernel.
        """
        return self._end(self._answers(_NO_MESSAGES, np.empty(0, np.intp))[0], expired, _END_OF_TIME)

    def _answers(self, messages: Messages, which: npt.NDArray[np.intp]) -> tuple[AnsweredLookups, npt.NDArray[np.intp]]:
        """Gives the answers, records of the kind DNS_ANSWER, that are lookups and count, and which of all records they are."""
        places = self._alike.find(messages)
        every = AnsweredLookups(messages.heads, places, messages.starts, messages.data, self._alike)
        in_time = self._pairing.in_time(
            *(every.heads[name] for name in ("first_request_time_ns", "request_time_ns", "time_ns"))
        )
        if not in_time.all():
            for index in np.flatnonzero(~in_time).tolist():
                self._late(every, index)
            every, places, which = every.where(in_time), places[in_time], which[in_time]
        readable = every.column("readable")
        read = every.where(readable)
        self._pairing.answered(asked_of_answers(read.heads, read.ids, read.column("question")))
        counts = counted(every.heads, self._is_counted)
        for place in places[counts & ~readable].tolist():
            self._unparsed(self._alike.messages[place])
        taken = counts & readable
        self.messages["not_counted"] += len(counts) - int(np.count_nonzero(counts))
        self.messages["lookup"] += int(np.count_nonzero(taken))
        return every.where(taken), which[taken]

    def _late(self, every: AnsweredLookups, index: int) -> None:
        """An answer that was there when its query had timed out, and nobody had had the time to take that out of the kernel."""
        head, message = every.head(index), every.alike.messages[every.places[index]]
        seen = seen_at(head)
        ends = seen.ends(is_response=True)
        counts = self._is_counted(seen.namespace, seen.ifindex, seen.direction, seen.ingress_ifindex)
        is_read = isinstance(message, Message)
        self._pairing.expired(
            WaitingQuery(
                protocol="dns",
                transport="udp",
                ends=ends,
                server=ends.server,
                direction=seen.direction,
                cgroup=seen.cgroup,
                id=every.identifier(index),
                opcode=message.opcode if is_read else 0,
                questions=message.questions if is_read else (),
                counts=counts,
                first_ns=head.first_request_time_ns,
                last_ns=head.request_time_ns,
                retries=head.retries,
            )
        )
        if is_read:
            response = message._replace(id=every.identifier(index))
            self._pairing.unmatched(
                HeldResponse("dns", "udp", ends, seen.source, seen.cgroup, counts, response, head.time_ns)
            )
        elif counts:
            self._unparsed(message)
        else:
            self.messages["not_counted"] += 1

    def _end(self, answered: AnsweredLookups, expired: OpenQueries, now_ns: int) -> Result:
        for seen, found in self.streams.advance(now_ns):
            self._stream_message(seen, found)
        self._expire(expired)
        self._pairing.advance(now_ns)
        others = self._pairing.take(now_ns)
        for lookup in others:
            self.totals.add(lookup)
        self.totals.add_answered(
            answered.number,
            int(np.count_nonzero(answered.column("code") == numbers.NXDOMAIN)),
            int(answered.heads["retries"].sum(dtype=np.int64)),
            int(np.count_nonzero(answered.column("truncated"))),
        )
        return Result(answered, others, self._search(answered, others) + self._searches.due(now_ns))

    def _search(self, answered: AnsweredLookups, others: list[Lookup]) -> list[Search]:
        """Gives those of both to the searches that may be of one."""
        open_labels = self._searches.labels()
        negative = answered.column("negative")
        if not open_labels and not negative.any() and not any(lookup.is_negative for lookup in others):
            return []
        labels = answered.column("label")
        wanted = np.concatenate([np.array(list(open_labels), np.uint64), np.unique(labels[negative])])
        chosen = negative | np.isin(labels, wanted)
        lookups = [answered.lookup(index) for index in np.flatnonzero(chosen).tolist()]
        if others:
            lookups = sorted([*lookups, *others], key=lambda lookup: lookup.end_ns)
        return [search for lookup in lookups for search in self._searches.add(lookup)]

    def _record(self, head: Head, payload: bytes) -> None:
        seen = seen_at(head)
        if head.kind == MessageKind.DNS_SEGMENT:
            segment = Segment(head.time_ns, head.sequence, None, head.tcp_flags, head.payload_length, payload)
            for found in self.streams.feed(seen, segment):
                self._stream_message(seen, found)
            for lost in self.streams.evicted():
                for is_response in (False, True):
                    self.evicted_queries += self._pairing.drop(lost.ends(is_response=is_response))
        else:
            message = self._decode(payload, head.payload_length)
            if message is None:
                return
            if head.kind == MessageKind.DNS_RESPONSE:
                ends = seen.ends(is_response=True)
                self._pairing.unmatched(self._response("dns", "udp", ends, seen, message, head.time_ns))
            else:
                found = StreamMessage(head.time_ns, head.payload_length, payload)
                self._to_group("llmnr" if head.kind == MessageKind.LLMNR else "mdns", seen, message, found)

    def _stream_message(self, seen: Seen, found: StreamMessage) -> None:
        message = self._decode(found.data, found.length)
        if message is None:
            return
        ends = seen.ends(is_response=message.is_response)
        protocol = _BY_PORT.get(ends.server[-2:], "dns")
        if message.is_response:
            self._pairing.response(self._response(protocol, "tcp", ends, seen, message, found.time_ns))
        else:
            self._pairing.query(self._query(protocol, "tcp", ends, ends.server, seen, message, found))

    def _to_group(self, protocol: Protocol, seen: Seen, message: Message, found: StreamMessage) -> None:
        """Multicast DNS and LLMNR: one query, any number of answers, each from an address of its own."""
        ends = seen.ends(is_response=message.is_response)
        anybody = ends._replace(server=b"")
        if protocol == "mdns" and ends.client[-2:] == _MDNS_PORT:
            # Continuous querying (RFC 6762, section 5.2) has no pairs: answers are for all, and repeat no question.
            self.messages["mdns_response" if message.is_response else "mdns_query"] += 1
        elif message.is_response:
            self._pairing.response(self._response(protocol, "udp", anybody, seen, message, found.time_ns))
        else:
            self._pairing.query(self._query(protocol, "udp", anybody, ends.server, seen, message, found))

    def _decode(self, data: bytes, length: int) -> Message | None:
        made = decode(data, length)
        if isinstance(made, Message):
            return made
        self._unparsed(made)
        return None

    def _unparsed(self, fault: Fault) -> None:
        self.messages["unparsed"] += 1
        self.unparsed[fault] += 1

    def _is_counted(self, namespace: int, ifindex: int, direction: int, ingress_ifindex: int) -> bool:
        key = namespace, 0 if namespace == NAMESPACE_SOCKET else ifindex, direction, ingress_ifindex
        counted = self._counted.get(key)
        if counted is None:
            counted = self._counted[key] = self._counts(*key)
        return counted

    def _response(
        self, protocol: Protocol, transport: Transport, ends: Ends, seen: Seen, message: Message, time_ns: int
    ) -> HeldResponse:
        counts = self._is_counted(seen.namespace, seen.ifindex, seen.direction, seen.ingress_ifindex)
        return HeldResponse(protocol, transport, ends, seen.source, seen.cgroup, counts, message, time_ns)

    def _query(
        self,
        protocol: Protocol,
        transport: Transport,
        ends: Ends,
        server: bytes,
        seen: Seen,
        message: Message,
        found: StreamMessage,
    ) -> WaitingQuery:
        return WaitingQuery(
            protocol=protocol,
            transport=transport,
            ends=ends,
            server=server,
            direction=seen.direction,
            cgroup=seen.cgroup,
            id=message.id,
            opcode=message.opcode,
            questions=message.questions,
            counts=self._is_counted(seen.namespace, seen.ifindex, seen.direction, seen.ingress_ifindex),
            first_ns=found.time_ns,
            last_ns=found.time_ns,
        )

    def _expire(self, expired: OpenQueries) -> None:
        """Queries over UDP that nobody answered."""
        keys, queries = expired.keys, expired.queries
        columns = zip(
            _ends_of(keys["client"], keys["client_port"]),
            _ends_of(keys["server"], keys["server_port"]),
            *(keys[name].tolist() for name in ("namespace", "ifindex", "direction", "id")),
            *(queries[name].tolist() for name in ("ingress_ifindex", "cgroup", "header_flags", "retries")),
            *(queries[name].tolist() for name in ("first_ns", "last_ns")),
            strict=True,
        )
        for index, row in enumerate(columns):
            client, server, namespace, ifindex, direction, identifier, ingress, cgroup, flags, *counters = row
            retries, first_ns, last_ns = counters
            question = read_question(expired.question(index))
            self._pairing.expired(
                WaitingQuery(
                    protocol="dns",
                    transport="udp",
                    ends=Ends(namespace, ifindex, client, server),
                    server=server,
                    direction=direction,
                    cgroup=cgroup,
                    id=identifier,
                    opcode=flags >> 11 & 15,
                    questions=() if question is None else (question,),
                    counts=self._is_counted(namespace, ifindex, direction, ingress),
                    first_ns=first_ns,
                    last_ns=last_ns,
                    retries=retries,
                )
            )


def _ends_of(addresses: npt.NDArray[Any], ports: npt.NDArray[Any]) -> list[bytes]:
    """Addresses and ports as ends, 18 octets each."""
    octets = np.empty((len(ports), 18), "u1")
    octets[:, :16] = addresses
    octets[:, 16:] = np.ascontiguousarray(ports).view("u1").reshape(-1, 2)
    joined = octets.tobytes()
    return [joined[at : at + 18] for at in range(0, len(joined), 18)]

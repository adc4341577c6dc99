"""Records of the kernel to lookups: outcomes, reasons, retries, and that every message is counted once."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from otel_netmon.abi.enums import Direction, MessageKind, TcpFlags
from otel_netmon.analysis import dns_pairing, dns_waiting
from otel_netmon.analysis.dns import DnsAnalysis, Result
from otel_netmon.analysis.dns_lookups import Lookup, TruncatedLookup
from otel_netmon.decode.dns import Question
from otel_netmon.decode.dns_records import Record
from otel_netmon.readers.messages import OpenQueries
from support import dns_messages as d
from support.dns_events import (
    CLIENT,
    ETH0,
    MS,
    PORT,
    SECOND,
    SERVER,
    VETH,
    TcpConnection,
    answer,
    end,
    messages,
    open_queries,
    open_query,
    prefixed,
    record,
    response,
)
from support.rows import address

TIMEOUT = 5 * SECOND
T = 100 * SECOND
RX, TX = Direction.RECEIVE, Direction.TRANSMIT
NONE = open_queries()


class Probe:
    """An analysis, fed record by record."""

    def __init__(self, *, parts: bool = False) -> None:
        self._parts = parts
        self.asked: list[tuple[int, int, int, int]] = []
        self.not_counted: set[tuple[int, int]] = set()
        self.analysis = DnsAnalysis(TIMEOUT, self.counts)
        self.given = 0

    def counts(self, namespace: int, ifindex: int, direction: int, ingress_ifindex: int) -> bool:
        self.asked.append((namespace, ifindex, direction, ingress_ifindex))
        return (ifindex, direction) not in self.not_counted

    def take(self, *records: bytes, now_ns: int = T, expired: object = None) -> list[Lookup]:
        if not self._parts:
            return self.result(*records, now_ns=now_ns, expired=expired).lookups
        self.given += len(records)
        found = self.analysis.updates(messages(*records), self._queries(expired), now_ns)
        return [lookup for result in found for lookup in result.lookups]

    def result(self, *records: bytes, now_ns: int = T, expired: object = None) -> Result:
        self.given += len(records)
        return self.analysis.update(messages(*records), self._queries(expired), now_ns)

    def _queries(self, expired: object) -> OpenQueries:
        return open_queries(*expired) if isinstance(expired, list) else NONE

    def finish(self, *expired: object) -> list[Lookup]:
        return self.analysis.finish(open_queries(*expired)).lookups  # type: ignore[arg-type] # rows

    def became(self) -> dict[str, int]:
        return {name: count for name, count in self.analysis.messages.items() if count}


@pytest.fixture
def probe() -> Probe:
    return Probe()


def only(lookups: list[Lookup]) -> Lookup:
    (lookup,) = lookups
    return lookup


def a_response(identifier: int = 7, name: str = "www.example", text: str = "198.51.100.1", rcode: int = 0) -> bytes:
    return d.response(identifier, name, d.address(text), rcode=rcode)


def test_a_lookup_over_udp(probe: Probe) -> None:
    data = d.message(
        7, d.RESPONSE_FLAGS, [d.question("Www.example")], [d.address("198.51.100.1", ttl=60)], additional=[d.opt()]
    )
    lookup = only(probe.take(answer(data, T, T + 20 * MS, cgroup=99, namespace=3)))
    assert lookup == Lookup(
        protocol="dns",
        transport="udp",
        namespace=3,
        ifindex=ETH0,
        client=end(CLIENT, PORT),
        server=end(SERVER, 53),
        cgroup=99,
        id=7,
        opcode=0,
        questions=(Question("Www.example", d.A, d.IN),),
        outcome="answered",
        reason=None,
        start_ns=T,
        duration_ns=20 * MS,
        retries=0,
        rcode=0,
        header_rcode=0,
        answer_count=1,
        answers=(Record("Www.example", d.A, d.IN, 60, address("198.51.100.1")),),
        truncated=False,
        after=None,
        cut=False,
        fault=None,
    )
    assert (lookup.name, lookup.type_name, lookup.rcode_name, lookup.end_ns) == (
        *("Www.example", "A", "NOERROR"),
        T + 20 * MS,
    )
    assert probe.became() == {"lookup": 1}


def test_addresses_of_both_families(probe: Probe) -> None:
    made = answer(a_response(), T, T + MS, source="2001:db8::53", destination="2001:db8::1", source_port=5300)
    lookup = only(probe.take(made))
    assert (lookup.client, lookup.server) == (end("2001:db8::1", PORT), end("2001:db8::53", 5300))


def test_copies_of_a_query_are_retries(probe: Probe) -> None:
    lookup = only(probe.take(answer(a_response(), T, T + 3 * SECOND, request_time_ns=T + 2 * SECOND, retries=2)))
    assert (lookup.retries, lookup.start_ns, lookup.duration_ns) == (2, T, 3 * SECOND)
    assert probe.analysis.totals.counts["retries"] == 2


def test_codes_are_extended_and_plain(probe: Probe) -> None:
    data = d.message(7, d.RESPONSE_FLAGS | 2, [d.question("e")], additional=[d.opt(extended_rcode=1)])
    lookup = only(probe.take(answer(data, T, T)))
    assert (lookup.rcode, lookup.rcode_name, lookup.header_rcode) == (18, "BADTIME", 2)


def test_a_response_cut_by_the_kernel(probe: Probe) -> None:
    whole = d.response(7, "e", *[d.address("198.51.100.1")] * 500)
    lookup = only(probe.take(answer(whole[:4096], T, T, payload_length=len(whole))))
    assert (lookup.cut, lookup.fault, lookup.answer_count, len(lookup.answers)) == (True, None, 500, 254)
    damaged = only(probe.take(answer(whole[:4096], T, T)))
    assert (damaged.cut, damaged.fault, damaged.outcome) == (False, "short_record", "answered")


def test_a_query_without_an_answer(probe: Probe) -> None:
    row = open_query(
        9, "dead.example", T, d.AAAA, last_ns=T + SECOND, retries=1, cgroup=5, namespace=2, header_flags=0x2900
    )
    lookup = only(probe.take(expired=[row]))
    assert (lookup.outcome, lookup.rcode, lookup.header_rcode, lookup.duration_ns) == ("timeout", None, None, None)
    assert (lookup.name, lookup.type_name, lookup.id, lookup.retries) == ("dead.example", "AAAA", 9, 1)
    assert (lookup.client, lookup.server) == (end(CLIENT, PORT), end(SERVER, 53))
    assert (lookup.namespace, lookup.ifindex, lookup.cgroup, lookup.start_ns, lookup.opcode) == (2, ETH0, 5, T, 5)
    assert (lookup.rcode_name, lookup.answer_count, lookup.reason) == (None, 0, None)
    assert probe.asked == [(2, ETH0, TX, 0)]
    assert probe.became() == {}


def test_the_longest_name_of_an_open_query(probe: Probe) -> None:
    longest = ".".join(["x" * 63] * 3 + ["y" * 61])
    rows = [open_query(number, longest, T + number) for number in range(3)]
    assert [each.name for each in probe.take(expired=rows)] == [longest] * 3


def test_a_resolver_that_answers_twice(probe: Probe) -> None:
    assert only(probe.take(answer(a_response(), T, T + MS))).outcome == "answered"
    lookup = only(probe.take(response(a_response(), T + 2 * MS)))
    assert (lookup.outcome, lookup.reason, lookup.duration_ns) == ("unmatched_response", "duplicate", None)
    assert (lookup.start_ns, lookup.rcode, lookup.answer_count) == (T + 2 * MS, 0, 1)
    assert probe.became() == {"lookup": 1, "unmatched": 1}


def test_the_case_of_a_name_does_not_matter(probe: Probe) -> None:
    probe.take(answer(a_response(name="wWw.Example"), T, T + MS))
    assert only(probe.take(response(a_response(name="WwW.eXample"), T + 2 * MS))).reason == "duplicate"


def test_a_late_answer(probe: Probe) -> None:
    probe.take(expired=[open_query(7, "www.example", T)])
    lookup = only(probe.take(response(a_response(), T + 6 * SECOND)))
    assert (lookup.outcome, lookup.reason) == ("unmatched_response", "late")
    # In one call: the timeout took the query out of the kernel before the response came.
    both = Probe()
    assert [
        (each.outcome, each.reason)
        for each in both.take(response(a_response(), T + 6 * SECOND), expired=[open_query(7, "www.example", T)])
    ] == [
        ("timeout", None),
        ("unmatched_response", "late"),
    ]


def test_asked_again_after_a_timeout(probe: Probe) -> None:
    """The later query decides why a response is one too many."""
    probe.take(expired=[open_query(7, "www.example", T)])
    probe.take(answer(a_response(), T + 6 * SECOND, T + 7 * SECOND))
    assert only(probe.take(response(a_response(), T + 8 * SECOND))).reason == "duplicate"


@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize(
    ("spoofed", "reason"),
    [
        (a_response(name="evil.example"), "wrong_question"),
        (d.response(7, "www.example", kind=d.AAAA), "wrong_question"),
        (a_response(8), "wrong_id"),
    ],
)
def test_responses_made_up(probe: Probe, spoofed: bytes, reason: str, *, answered: bool) -> None:
    """Whether the query that was open meanwhile is answered in the same call, in a later one, or never."""
    assert probe.take(response(spoofed, T + MS)) == []
    assert probe.analysis.held == 1
    if answered:
        assert len(probe.take(answer(a_response(), T, T + 2 * MS))) == 1
    else:
        assert only(probe.take(expired=[open_query(7, "www.example", T)])).outcome == "timeout"
    lookup = only(probe.take(now_ns=T + MS + 2 * TIMEOUT + 1))
    assert (lookup.outcome, lookup.reason) == ("unmatched_response", reason)
    assert probe.analysis.held == 0
    same_call = Probe()
    assert (
        only(
            [
                each
                for each in same_call.take(answer(a_response(), T, T + 2 * MS), response(spoofed, T + MS))
                if each.reason
            ]
        ).reason
        == reason
    )


@pytest.mark.parametrize(
    "unrelated",
    [
        response(a_response(), T - MS),  # before the query
        response(a_response(name="other.example"), T + 3 * MS),  # behind its answer
        response(a_response(8), T + 3 * MS),
        response(a_response(), T + MS, destination_port=PORT + 1),
        response(a_response(), T + MS, source_port=54),
        response(a_response(), T + MS, ifindex=9),
        response(a_response(), T + MS, namespace=1),
        response(a_response(8, "other.example"), T + MS),
    ],
)
def test_responses_of_nothing_known(probe: Probe, unrelated: bytes) -> None:
    assert len(probe.take(answer(a_response(), T, T + 2 * MS), unrelated)) == 1
    assert probe.take(now_ns=T + 2 * TIMEOUT - MS) == []
    assert only(probe.take(now_ns=T + 3 * TIMEOUT)).reason == "unknown"


def test_what_is_held_is_bounded_and_ends_with_the_end() -> None:
    probe = Probe()
    made = [response(a_response(number % 65536, f"n{number}.example"), T + number) for number in range(4096 + 23)]
    assert len(probe.take(*made)) == 23
    assert probe.analysis.held == 4096
    assert len(probe.finish()) == 4096
    assert probe.became() == {"unmatched": 4096 + 23}
    assert probe.analysis.totals.counts["unknown"] == 4096 + 23


def test_a_refusal_without_a_question(probe: Probe) -> None:
    """A server that does not know EDNS may send its header alone, which the kernel cannot pair."""
    assert probe.take(response(d.message(7, d.RESPONSE_FLAGS | 1), T + 30 * MS)) == []
    lookup = only(
        probe.take(
            expired=[
                open_query(7, "www.example", T),
            ]
        )
    )
    assert (lookup.outcome, lookup.rcode_name, lookup.duration_ns, lookup.name) == (
        *("answered", "FORMERR"),
        *(30 * MS, "www.example"),
    )
    assert probe.became() == {"lookup": 1}
    assert probe.analysis.held == 0
    assert only(probe.take(response(a_response(), T + SECOND))).reason == "duplicate"


def test_a_refusal_without_a_question_and_without_a_query(probe: Probe) -> None:
    probe.take(response(d.message(7, d.RESPONSE_FLAGS | 1), T - 1), response(d.message(8, d.RESPONSE_FLAGS | 1), T + 1))
    assert [each.outcome for each in probe.take(expired=[open_query(7, "www.example", T)])] == ["timeout"]
    assert [(each.name, each.reason) for each in probe.finish()] == [("", "unknown")] * 2


def test_what_is_no_message(probe: Probe) -> None:
    broken = d.message(7, d.RESPONSE_FLAGS, [d.pointer(12) + bytes(4)])
    assert probe.take(response(broken, T), answer(broken, T, T), record(b"", MessageKind.MDNS)) == []
    assert probe.became() == {"unparsed": 3}
    assert probe.analysis.unparsed == {"pointer": 2, "short_header": 1}


# ---- over TCP


def test_lookups_over_tcp(probe: Probe) -> None:
    connection = TcpConnection(cgroup=4)
    queries = [d.query(1, "a.example"), d.query(2, "b.example", d.AAAA), d.query(3, "c.example")]
    answers = [
        d.response(3, "C.example", d.address("198.51.100.3")),
        d.response(1, "a.example", rcode=3),
        d.response(2, "b.example", kind=d.AAAA),
    ]
    joined = b"".join(map(prefixed, answers))
    found = probe.take(
        connection.client(b"", T, tcp_flags=TcpFlags.SYN),
        connection.server(b"", T, tcp_flags=TcpFlags.SYN | TcpFlags.ACK),
        connection.client(b"".join(map(prefixed, queries)), T + MS),
        connection.server(joined[:50], T + 3 * MS),
        connection.server(joined[50:], T + 5 * MS),
        connection.client(b"", T + 6 * MS, tcp_flags=TcpFlags.FIN | TcpFlags.ACK),
    )
    assert [(each.id, each.name, each.rcode_name, each.duration_ns) for each in found] == [
        (3, "C.example", "NOERROR", 2 * MS),
        (1, "a.example", "NXDOMAIN", 4 * MS),
        (2, "b.example", "NOERROR", 4 * MS),
    ]
    assert {(each.transport, each.client, each.server, each.cgroup) for each in found} == {
        ("tcp", end(CLIENT, PORT), end(SERVER, 53), 4)
    }
    assert probe.became() == {"query": 3, "lookup": 3}


def test_an_answer_over_tcp_without_a_query(probe: Probe) -> None:
    connection = TcpConnection()
    assert probe.take(connection.server(prefixed(a_response()), T)) == []
    lookup = only(probe.finish())
    assert (lookup.outcome, lookup.reason, lookup.client) == ("unmatched_response", "unknown", end(CLIENT, PORT))


def test_timeouts_over_tcp(probe: Probe) -> None:
    connection = TcpConnection()
    made = prefixed(d.query(1, "a.example"))
    probe.take(connection.client(made, T), connection.client(made, T + 2 * SECOND), now_ns=T + 2 * SECOND)
    assert probe.take(now_ns=T + 7 * SECOND) == []
    lookup = only(probe.take(now_ns=T + 7 * SECOND + 1))
    assert (lookup.outcome, lookup.retries, lookup.start_ns, lookup.name) == ("timeout", 1, T, "a.example")
    late = probe.take(connection.server(prefixed(a_response(1, "a.example")), T + 8 * SECOND))
    assert only(late).reason == "late"
    assert probe.became() == {"query": 1, "retry": 1, "unmatched": 1}


def test_copies_do_not_keep_a_query_open_for_ever(probe: Probe) -> None:
    connection = TcpConnection()
    found = []
    for number in range(23):
        time_ns = T + 4 * SECOND * number
        found += probe.take(connection.client(prefixed(d.query(1, "a.example")), time_ns), now_ns=time_ns)
    assert [(each.outcome, each.retries) for each in found] == [("timeout", 13)]


def test_an_id_is_used_again(probe: Probe) -> None:
    connection = TcpConnection()
    names = ["a.example", "b.example"]
    asked = [connection.client(prefixed(d.query(1, name)), T) for name in names]
    found = probe.take(*asked, *(connection.server(prefixed(a_response(1, name)), T + MS) for name in reversed(names)))
    assert [each.name for each in found] == names[::-1]


def test_a_transfer_is_one_lookup(probe: Probe) -> None:
    connection = TcpConnection()
    whole = [d.response(1, "example", d.record(d.pointer(12), d.SOA, bytes(22)), kind=d.AXFR) for _ in range(5)]
    without_question = d.message(1, d.RESPONSE_FLAGS, answers=[d.record(b"\0", d.SOA, bytes(22))])
    found = probe.take(
        connection.client(prefixed(d.query(1, "example", d.AXFR)), T),
        *(connection.server(prefixed(each), T + MS) for each in (*whole, without_question)),
    )
    assert only(found).type_name == "AXFR"
    assert probe.became() == {"query": 1, "lookup": 1, "transfer": 5}


def test_a_refusal_without_a_question_over_tcp(probe: Probe) -> None:
    connection = TcpConnection()
    found = probe.take(
        connection.client(prefixed(d.query(1, "a.example")) + prefixed(d.query(2, "b.example")), T),
        connection.server(prefixed(d.message(2, d.RESPONSE_FLAGS | 1)), T + MS),
    )
    assert (only(found).name, only(found).rcode_name) == ("b.example", "FORMERR")


def test_64_kib_over_tcp(probe: Probe) -> None:
    connection = TcpConnection()
    largest = d.response(1, "a.example", *[d.address("198.51.100.1")] * 4094)
    octets = prefixed(largest)
    assert 65_500 < len(largest) <= 65_535
    found = probe.take(
        connection.client(prefixed(d.query(1, "a.example")), T),
        *(connection.server(octets[at : at + 4096], T + MS + at) for at in range(0, len(octets), 4096)),
    )
    assert len(only(found).answers) == 4094


def test_a_response_whose_rest_was_not_captured(probe: Probe) -> None:
    connection = TcpConnection()
    large = d.response(1, "a.example", *[d.address("198.51.100.1")] * 2000)
    found = probe.take(
        connection.client(prefixed(d.query(1, "a.example")), T),
        connection.server(prefixed(large)[:4096], T + MS, payload_length=len(large) + 2),
    )
    assert (only(found).cut, only(found).answer_count) == (True, 2000)


def test_a_lost_segment_is_given_up(probe: Probe) -> None:
    """What follows the gap is told once no retransmission can be expected, with the times of its segments."""
    connection = TcpConnection()
    connection.client(prefixed(d.query(1, "lost.example")), T)
    asked = connection.client(prefixed(d.query(2, "a.example")), T)
    begin = TcpConnection().client(b"", T, tcp_flags=TcpFlags.SYN)
    assert probe.take(begin, asked, now_ns=T) == []
    assert probe.take(now_ns=T + 2 * SECOND) == []
    found = probe.take(connection.server(prefixed(a_response(2, "a.example")), T + 2 * SECOND))
    assert only(found).duration_ns == 2 * SECOND
    assert probe.analysis.streams.counts["gaps"] == 1


def test_queries_of_connections_that_lost_their_place_are_no_timeouts(probe: Probe) -> None:
    streams_max = 4096
    made = [
        TcpConnection(port).client(prefixed(d.query(1, "a.example")), T)
        for port in range(10_000, 10_000 + streams_max + 7)
    ]
    assert probe.take(*made) == []
    counts = probe.analysis.counts
    assert counts["evicted_queries"] == counts["evicted_streams"] == 7
    assert counts["streams"] == streams_max + 7
    assert len(probe.finish()) == streams_max


def test_queries_without_a_place_are_no_timeouts(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe.analysis._pairing, "_waiting", dns_waiting.WaitingQueries(queries_max=3))
    connection = TcpConnection()
    probe.take(*(connection.client(prefixed(d.query(number, "a.example")), T) for number in range(5)))
    assert [each.id for each in probe.finish()] == [0, 1, 2]
    assert probe.became() == {"query": 3, "dropped": 2}


def test_a_truncated_answer_and_the_lookup_over_tcp_that_follows(probe: Probe) -> None:
    truncated = d.response(7, "Www.example", flags=d.TRUNCATED)
    connection = TcpConnection(PORT + 1)
    over_udp, over_tcp, again = probe.take(
        answer(truncated, T, T + MS),
        connection.client(prefixed(d.query(8, "www.Example")), T + 2 * MS),
        connection.server(prefixed(a_response(8)), T + 3 * MS),
        connection.client(prefixed(d.query(9, "www.example")), T + 4 * MS),
        connection.server(prefixed(a_response(9)), T + 5 * MS),
    )
    assert (over_udp.truncated, over_udp.after) == (True, None)
    assert over_tcp.after == TruncatedLookup(end(CLIENT, PORT), 7, T)
    assert again.after is None
    counts = probe.analysis.totals.counts
    assert (counts["truncated"], counts["tcp_retry"], counts["lookups"]) == (1, 1, 3)


@pytest.mark.parametrize(
    ("name", "server", "time_ns"),
    [
        ("www.example", SERVER, T + MS + TIMEOUT + 1),
        ("w.example", SERVER, T + 2 * MS),
        ("www.example", "192.0.2.9", T + 2 * MS),
    ],
)
def test_lookups_over_tcp_after_others(probe: Probe, name: str, server: str, time_ns: int) -> None:
    probe.take(answer(d.response(7, "www.example", flags=d.TRUNCATED), T, T + MS))
    connection = TcpConnection(PORT + 1)
    probe.take(connection.client(prefixed(d.query(8, name)), time_ns, destination=server), now_ns=time_ns)
    found = probe.take(connection.server(prefixed(a_response(8, name)), time_ns + MS, source=server), now_ns=time_ns)
    assert only(found).after is None


def test_truncated_lookups_are_remembered_within_bounds(probe: Probe) -> None:
    made = [answer(d.response(7, f"n{number}.example", flags=d.TRUNCATED), T, T + MS) for number in range(1025)]
    probe.take(*made)
    assert len(probe.analysis._pairing._truncated) == dns_pairing._REMEMBERED_MAX


# ---- groups


def llmnr(payload: bytes, time_ns: int, **fields: int | str) -> bytes:
    return record(payload, MessageKind.LLMNR, time_ns=time_ns, **fields)


ASK_GROUP: dict[str, int | str] = {
    "source": CLIENT,
    "source_port": PORT,
    "destination": "224.0.0.252",
    "destination_port": 5355,
    "direction": TX,
}


def test_llmnr(probe: Probe) -> None:
    """Two hosts claim the name; the query is seen again as it comes back from the group, and repeated once."""
    asked = d.query(7, "printer")
    found = probe.take(
        llmnr(asked, T, **ASK_GROUP),
        llmnr(asked, T, **(ASK_GROUP | {"direction": RX})),
        llmnr(asked, T + MS, **ASK_GROUP),
        llmnr(d.response(7, "printer", d.address("192.0.2.20")), T + 2 * MS, source="192.0.2.20", source_port=5355),
        llmnr(d.response(7, "printer", d.address("192.0.2.21")), T + 3 * MS, source="192.0.2.21", source_port=5355),
    )
    first, second = found
    assert (first.protocol, first.transport, first.outcome, first.retries) == ("llmnr", "udp", "answered", 1)
    assert (first.client, first.server, first.duration_ns) == (end(CLIENT, PORT), end("192.0.2.20", 5355), 2 * MS)
    assert (second.outcome, second.reason, second.server) == (
        "unmatched_response",
        "duplicate",
        end("192.0.2.21", 5355),
    )
    assert probe.became() == {"query": 1, "seen_again": 1, "retry": 1, "lookup": 1, "unmatched": 1}


def test_llmnr_that_nobody_answers(probe: Probe) -> None:
    assert probe.take(llmnr(d.query(7, "nobody"), T, **ASK_GROUP)) == []
    lookup = only(probe.take(now_ns=T + TIMEOUT + 1))
    assert (lookup.protocol, lookup.outcome, lookup.server) == ("llmnr", "timeout", end("224.0.0.252", 5355))


def test_multicast_dns(probe: Probe) -> None:
    """Those who take part ask and answer all; a simple resolver asks from a port of its own and is answered there."""
    group: dict[str, int | str] = {"destination": "224.0.0.251", "destination_port": 5353}
    among_all: dict[str, int | str] = {"source": CLIENT, "source_port": 5353, **group}
    unsolicited = d.message(0, 0x8400, answers=[d.address("192.0.2.20", d.name("printer.local"))])
    found = probe.take(
        record(d.query(0, "printer.local"), MessageKind.MDNS, time_ns=T, **among_all),
        record(unsolicited, MessageKind.MDNS, time_ns=T, **(among_all | {"source": "192.0.2.20"})),
        record(d.query(5, "printer.local"), MessageKind.MDNS, time_ns=T, **(among_all | {"source_port": PORT})),
        record(
            d.response(5, "printer.local", d.address("192.0.2.20")),
            MessageKind.MDNS,
            time_ns=T + MS,
            source="192.0.2.20",
            source_port=5353,
        ),
    )
    assert (only(found).protocol, only(found).server) == ("mdns", end("192.0.2.20", 5353))
    assert probe.became() == {"mdns_query": 1, "mdns_response": 1, "query": 1, "lookup": 1}


def test_other_protocols_over_tcp_are_told_by_the_port(probe: Probe) -> None:
    for port, protocol in ((5355, "llmnr"), (5353, "mdns"), (53, "dns"), (5300, "dns")):
        connection = TcpConnection(PORT + port)
        found = probe.take(
            connection.client(prefixed(d.query(7, "www.example")), T, destination_port=port),
            connection.server(prefixed(a_response()), T, source_port=port),
        )
        assert only(found).protocol == protocol


# ---- the edge rule


def test_the_edge_rule_decides_about_the_query(probe: Probe) -> None:
    """A container's query leaves by its pair and then by the uplink, with another address: it counts at the pair."""
    probe.not_counted = {(ETH0, TX)}
    found = probe.take(
        answer(a_response(), T + MS, T + 4 * MS, direction=TX, ingress_ifindex=VETH),
        answer(a_response(), T, T + 5 * MS, ifindex=VETH, direction=RX, destination="10.0.0.2"),
        expired=[
            open_query(8, "dead.example", T, ingress_ifindex=VETH),
            open_query(8, "dead.example", T, ifindex=VETH, direction=RX),
        ],
    )
    assert [(each.ifindex, each.outcome) for each in found] == [(VETH, "answered"), (VETH, "timeout")]
    assert sorted(probe.asked) == [(0, ETH0, TX, VETH), (0, VETH, RX, 0)]
    assert probe.became() == {"not_counted": 1, "lookup": 1}


def test_the_edge_rule_decides_about_connections_by_their_queries(probe: Probe) -> None:
    probe.not_counted = {(ETH0, TX), (VETH, TX)}
    outside, inside = TcpConnection(), TcpConnection(ifindex=VETH)
    asked = prefixed(d.query(7, "www.example"))
    found = probe.take(
        inside.client(asked, T, direction=RX),
        outside.client(asked, T, direction=TX),
        outside.server(prefixed(a_response()), T + MS, direction=RX),
        inside.server(prefixed(a_response()), T + MS, direction=TX),
    )
    assert only(found).ifindex == VETH
    assert probe.became() == {"query": 2, "lookup": 1, "not_counted": 1}


def test_responses_that_do_not_count_have_no_outcome(probe: Probe) -> None:
    probe.not_counted = {(ETH0, RX)}
    connection = TcpConnection()
    assert probe.take(response(a_response(), T), connection.server(prefixed(a_response()), T)) == []
    assert probe.finish() == []
    assert probe.became() == {"not_counted": 2}


def test_a_query_that_does_not_count_explains_a_response_that_does(probe: Probe) -> None:
    probe.not_counted = {(ETH0, TX)}
    found = probe.take(answer(a_response(), T, T + MS, direction=TX), response(a_response(), T + 2 * MS))
    assert only(found).reason == "duplicate"


def test_another_edge_rule(probe: Probe) -> None:
    probe.analysis.set_edges(lambda *_: False)
    assert probe.take(answer(a_response(), T, T)) == []
    assert probe.became() == {"not_counted": 1}


# ---- totals


def test_totals(probe: Probe) -> None:
    probe.take(
        *(answer(a_response(number), T, T) for number in range(7)),
        *(answer(a_response(number, rcode=3), T, T) for number in range(7, 10)),
        response(a_response(3), T + MS),
        expired=[open_query(11, "e", T)],
    )
    assert probe.analysis.totals.counts == Counter(
        lookups=12, answered=10, nxdomain=3, timeout=1, unmatched_response=1, duplicate=1
    )


def play(probe: Probe) -> list[Lookup]:
    """Gives the lookups of many records of any kind in any order; every record becomes something at once."""
    generator = random.Random(20261)  # noqa: S311 - repeatable, no secret
    probe.not_counted = {(VETH, RX)}
    ports = iter(range(10_000, 60_000))
    lookups: list[Lookup] = []
    for turn in range(97):
        time_ns = T + turn * SECOND
        records, rows = [], []
        for _ in range(generator.randrange(30)):
            identifier, name = generator.randrange(4), generator.choice("abc") + ".example"
            where: dict[str, int | str] = {
                "ifindex": generator.choice((ETH0, VETH)),
                "direction": generator.choice((RX, TX)),
            }
            at = where | {"time_ns": time_ns}
            refusal = d.message(identifier, d.RESPONSE_FLAGS | 1)
            made = a_response(identifier, name)
            match generator.randrange(6):
                case 0:
                    records.append(answer(made, time_ns - MS, time_ns, **where))
                case 1:
                    broken = d.message(identifier, d.RESPONSE_FLAGS, [b"\x40"])
                    data = generator.choice((made, refusal, broken))
                    records.append(record(data, MessageKind.DNS_RESPONSE, **at))
                case 2:
                    kind = generator.choice((MessageKind.LLMNR, MessageKind.MDNS))
                    records.append(record(generator.choice((made, d.query(identifier, name))), kind, **at))
                case 3:
                    query = prefixed(d.query(identifier, name))
                    records.append(TcpConnection(next(ports)).client(query, time_ns, **where))
                case 4:
                    connection = TcpConnection(next(ports))
                    records += [
                        connection.client(prefixed(d.query(identifier, name)), time_ns, **where),
                        connection.server(prefixed(generator.choice((made, refusal))), time_ns, **where),
                    ]
                case _:
                    rows.append(open_query(identifier, name, time_ns - 6 * SECOND))
        lookups += probe.take(*records, now_ns=time_ns, expired=rows)
        assert probe.given == probe.analysis.messages.total() + probe.analysis.held
    return lookups + probe.finish()


def test_every_message_is_counted_once(probe: Probe) -> None:
    """And every lookup has one outcome."""
    lookups = len(play(probe))
    became, totals = probe.became(), probe.analysis.totals.counts
    assert probe.given == sum(became.values())
    assert lookups == totals["lookups"] == totals["answered"] + totals["timeout"] + totals["unmatched_response"]
    assert became["lookup"] == totals["answered"]
    assert became["unmatched"] == totals["unmatched_response"]
    assert became.keys() == {"lookup", "query", "retry", "seen_again", "unmatched", "not_counted", "unparsed"}


@pytest.mark.parametrize("at_once", [1, 2, 7, 30])
def test_in_parts_it_is_the_same(at_once: int, probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the reasons of responses that came at one moment with what explains them: who is read first decides."""
    whole = [lookup._replace(reason=None) for lookup in play(probe)]
    monkeypatch.setattr(DnsAnalysis, "AT_ONCE", at_once)
    in_parts = Probe(parts=True)
    assert Counter(lookup._replace(reason=None) for lookup in play(in_parts)) == Counter(whole)
    assert in_parts.became() == probe.became()
    totals = [each.analysis.totals.counts for each in (probe, in_parts)]
    for name in ("lookups", "answered", "timeout", "unmatched_response", "nxdomain", "retries", "truncated"):
        assert totals[0][name] == totals[1][name], name


def test_in_parts_nobody_has_waited_too_long_for_what_is_in_a_later_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A query over TCP, and messages of which the last is its answer: drained after the timeout, given before it."""
    monkeypatch.setattr(DnsAnalysis, "AT_ONCE", 2)
    probe = Probe(parts=True)
    connection = TcpConnection(40_000)
    assert probe.take(connection.client(prefixed(d.query(7, "www.example")), T), now_ns=T) == []
    others = [answer(a_response(number), T, T + MS) for number in range(5)]
    late = connection.server(prefixed(a_response(7)), T + TIMEOUT - MS)
    found = probe.take(*others, late, now_ns=T + TIMEOUT + SECOND)
    assert sorted(each.transport for each in found) == ["tcp", *["udp"] * 5]
    assert {each.outcome for each in found} == {"answered"}


def test_an_answer_after_the_timeout_is_late_though_nobody_has_looked_for_what_timed_out(probe: Probe) -> None:
    """The kernel has paired it, for its query was not taken out in time."""
    late = answer(a_response(7), T, T + TIMEOUT + 1, direction=TX)
    repeated = answer(a_response(8), T, T + 2 * TIMEOUT, request_time_ns=T + TIMEOUT, retries=1)
    found = probe.take(answer(a_response(6), T, T + TIMEOUT), late, repeated, now_ns=T + 2 * TIMEOUT)
    assert [(each.id, each.outcome, each.reason, each.start_ns, each.retries) for each in found] == [
        (6, "answered", None, T, 0),
        (8, "answered", None, T, 1),
        (7, "timeout", None, T, 0),
        (7, "unmatched_response", "late", T + TIMEOUT + 1, 0),
    ]
    assert probe.became() == {"lookup": 2, "unmatched": 1}
    assert probe.analysis.totals.counts["timeout"] == probe.analysis.totals.counts["late"] == 1


def test_a_late_answer_that_cannot_be_read_or_does_not_count(probe: Probe) -> None:
    broken = d.message(7, d.RESPONSE_FLAGS, [b"\x40"])
    elsewhere = Probe()
    elsewhere.analysis.set_edges(lambda *_: False)
    expected = {probe: (["timeout"], {"unparsed": 1}), elsewhere: ([], {"not_counted": 1})}
    for each, (outcomes, became) in expected.items():
        found = each.take(answer(broken, T, T + TIMEOUT + 1), now_ns=T + 2 * TIMEOUT)
        assert ([lookup.outcome for lookup in found], each.became()) == (outcomes, became)
    assert elsewhere.take(answer(a_response(7), T, T + TIMEOUT + 1)) == []
    assert elsewhere.became() == {"not_counted": 2}


def test_a_copy_that_is_repeated_for_ten_timeouts_is_answered_no_more(probe: Probe) -> None:
    for many, outcomes in ((10, ["answered"]), (11, ["timeout", "unmatched_response"])):
        time_ns = T + many * TIMEOUT
        found = probe.take(answer(a_response(many), T, time_ns, request_time_ns=time_ns - MS), now_ns=time_ns)
        assert [each.outcome for each in found] == outcomes


def test_a_late_answer_over_tcp(probe: Probe) -> None:
    """Read together with its query."""
    connection = TcpConnection()
    query = connection.client(prefixed(d.query(7, "www.example")), T)
    reply = connection.server(prefixed(a_response(7)), T + TIMEOUT + 1)
    found = probe.take(query, reply, now_ns=T + TIMEOUT + MS)
    assert [(each.outcome, each.reason) for each in found] == [("timeout", None), ("unmatched_response", "late")]
    assert probe.became() == {"query": 1, "unmatched": 1}


def test_messages_that_are_known_are_forgotten_when_there_are_many(probe: Probe) -> None:
    """And lookups that were given before stay readable."""
    first = probe.result(answer(a_response(), T, T + MS))
    names = [f"n{number}.example" for number in range(2100)]
    for at in range(0, len(names), 100):
        found = probe.take(*(answer(a_response(7, name), T, T + MS) for name in names[at : at + 100]))
        assert [each.name for each in found] == names[at : at + 100]
    known = first.answered.alike
    assert known.is_full
    assert len(known.messages) == 2101
    assert len(probe.analysis._alike.messages) == 0
    assert only(first.lookups).name == "www.example"


def test_long_messages_are_forgotten_sooner(probe: Probe) -> None:
    for number in range(70):
        probe.take(answer(d.response(7, f"n{number}.example", *[d.address("192.0.2.1")] * 250), T, T))
    assert len(probe.analysis._alike.messages) < 70


def test_what_could_not_be_read_is_no_lookup(probe: Probe) -> None:
    made = probe.result(answer(a_response(), T, T))
    made.answered.alike.messages[0] = "pointer"
    with pytest.raises(TypeError, match="pointer"):
        made.answered.lookup(0)

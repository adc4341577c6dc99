"""How long connections waited for the name of their server."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from otel_netmon.analysis import recent_lookups
from otel_netmon.analysis.connection_index import ENDS, UNKNOWN
from otel_netmon.analysis.dns import DnsAnalysis
from otel_netmon.analysis.dns_lookups import Ends, Lookup, answered
from otel_netmon.analysis.recent_lookups import NEXT_NS, STEP_NS, RecentLookups
from otel_netmon.decode.dns import Message, decode
from support import dns_messages as d
from support.dns_events import CLIENT, MS, SECOND, SERVER, answer, end, messages, open_queries
from support.rows import address

T = 1000 * SECOND
WEB, OTHER, V6 = "198.51.100.1", "198.51.100.2", "2001:db8::1"
NAME = "www.example"
APP, ANOTHER = 7, 9
TIMEOUT = 5 * SECOND


def reply(
    start_ms: float, end_ms: float, name: str = NAME, *addresses: str, port: int = APP, kind: int = d.A, rcode: int = 0
) -> bytes:
    """An answer by two times after T, asked by the process whose number is the port."""
    message = d.response(1, name, *[d.address(each) for each in addresses], kind=kind, rcode=rcode)
    return answer(message, T + round(start_ms * MS), T + round(end_ms * MS), destination_port=port)


def unanswered(start_ms: float, name: str = NAME, port: int = APP) -> Lookup:
    made = decode(d.response(1, name))
    assert isinstance(made, Message)
    lookup = answered(
        "dns", "udp", Ends(0, 2, end(CLIENT, port), end(SERVER, 53)), 0, made, T + round(start_ms * MS), T
    )
    return lookup._replace(outcome="timeout", rcode=None, duration_ns=None, answers=(), answer_count=0)


def of(*replies: bytes, others: tuple[Lookup, ...] = ()) -> RecentLookups:
    recent = RecentLookups(TIMEOUT)
    analysis = DnsAnalysis(SECOND, lambda *_: True)
    for result in analysis.updates(messages(*replies), open_queries(), T + 100 * SECOND):
        recent.take(result.answered, result.others)
    recent.take(result.answered.where(np.zeros(result.answered.number, np.bool_)), others)
    return recent


def by_port(ends: npt.NDArray[Any], times_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    assert ends.dtype == ENDS
    assert len(ends) == len(times_ns)
    return ends["local_port"].astype(np.uint64)


def waited(recent: RecentLookups, begin_ms: float, server: str = WEB, number: int = APP) -> float:
    """In ms, UNKNOWN as it is."""
    octets = np.frombuffer(address(server), np.uint8).reshape(1, 16)
    begin = np.array([T + round(begin_ms * MS)])
    found = int(recent.waited(octets, begin, np.array([number], np.uint64), by_port)[0])
    return found if found == UNKNOWN else found / MS


def test_the_last_lookup_of_the_process_that_gave_the_address() -> None:
    recent = of(
        reply(0, 11, NAME, WEB),
        reply(100, 123, NAME, OTHER, WEB),
        reply(100, 131, "www.other", OTHER),
        reply(100, 107, NAME, WEB, port=ANOTHER),
        reply(300, 301, NAME, WEB),
    )
    assert waited(recent, 200) == 23
    assert waited(recent, 131, OTHER) == 31
    assert waited(recent, 200, number=ANOTHER) == 7
    assert waited(recent, 50) == 11
    assert waited(recent, 10.999) == UNKNOWN
    assert waited(recent, 200, V6) == UNKNOWN
    assert waited(recent, 200, number=8) == UNKNOWN
    assert waited(recent, 200, number=0) == UNKNOWN


def test_who_goes_on_later_did_not_wait() -> None:
    recent = of(reply(0, 10, NAME, WEB))
    assert waited(recent, 10 + NEXT_NS / MS) == 10
    assert waited(recent, 10.001 + NEXT_NS / MS) == UNKNOWN


def test_both_types_of_address_are_waited_for() -> None:
    v4, v6 = reply(0, 20, NAME, WEB), reply(1, 50, "WWW.example", V6, kind=d.AAAA)
    assert waited(of(v4, v6), 60) == waited(of(v4, v6), 60, V6) == 50
    assert waited(of(v4, v6), 40) == 20, "it went on without the other one"
    assert waited(of(v4, reply(1, 50, NAME, kind=d.AAAA)), 60) == 50, "there is none of the other type"
    assert waited(of(v4, reply(21, 50, NAME, V6, kind=d.AAAA)), 60) == 20, "asked afterwards"
    assert waited(of(v4, reply(1, 50, NAME, V6, kind=d.AAAA, port=ANOTHER)), 60) == 20
    assert waited(of(v4, reply(1, 50, "www.other", V6, kind=d.AAAA)), 60) == 20


def test_all_names_of_a_search_are_waited_for() -> None:
    tries = [
        reply(0, 5, "db.shop.svc.cluster.local", rcode=3),
        reply(0, 7, "db.shop.svc.cluster.local", rcode=3, kind=d.AAAA),
        reply(8, 13, "db.svc.cluster.local", rcode=3),
        reply(14, 17, "db.cluster.local", WEB),
    ]
    assert waited(of(*tries), 18) == 17
    assert waited(of(*tries[2:]), 18) == 9
    assert waited(of(reply(0, 5, "x.cluster.local", rcode=3), *tries[2:]), 18) == 9, "another name"
    assert waited(of(reply(0, 5, "db.a", OTHER), *tries[2:]), 18) == 9, "that one was found"
    late = 5 + STEP_NS / MS
    assert waited(of(tries[0], reply(late, late + 1, "db.local", WEB)), 200) == late + 1
    assert waited(of(tries[0], reply(late + 0.001, late + 1, "db.local", WEB)), 200) == pytest.approx(0.999)


def test_a_server_that_did_not_answer_was_waited_for() -> None:
    found = reply(10_002, 10_003, NAME, WEB)
    assert waited(of(found, others=(unanswered(0), unanswered(5001))), 10_004) == 10_003
    assert waited(of(found, others=(unanswered(5001),)), 10_004) == 5002
    assert waited(of(found, others=(unanswered(5001, port=ANOTHER),)), 10_004) == 1


def test_lookups_over_tcp() -> None:
    made = decode(d.response(1, NAME, d.address(WEB)))
    assert isinstance(made, Message)
    over = answered("dns", "tcp", Ends(0, 2, end(CLIENT, APP), end(SERVER, 53)), 0, made, T, T + 31 * MS)
    assert waited(of(others=(over,)), 40) == 31


def test_many_connections_are_asked_for_at_once() -> None:
    recent = of(*[reply(n, n + 1 + n % 7, f"n{n}.example", f"198.51.100.{n}", port=1000 + n) for n in range(101)])
    octets = np.frombuffer(b"".join(address(f"198.51.100.{n}") for n in range(101)), np.uint8).reshape(-1, 16)
    found = recent.waited(octets, np.full(101, T + 200 * MS), np.arange(1000, 1101).astype(np.uint64), by_port)
    assert found.tolist() == [(1 + n % 7) * MS for n in range(101)]


def test_lookups_and_answers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_lookups, "LOOKUPS_MAX", 16)
    recent = RecentLookups(TIMEOUT)
    analysis = DnsAnalysis(SECOND, lambda *_: True)
    for n in range(101):
        events = messages(reply(n, n + 1, NAME, f"198.51.100.{n}"))
        for result in analysis.updates(events, open_queries(), T + 100 * SECOND):
            recent.take(result.answered, result.others)
    known = [n for n in range(101) if waited(recent, 200, f"198.51.100.{n}") != UNKNOWN]
    assert known == list(range(85, 101))
    monkeypatch.setattr(recent_lookups, "ANSWERS_MAX", 100)
    recent.take(result.answered, [])
    assert [n for n in range(101) if waited(recent, 200, f"198.51.100.{n}") != UNKNOWN] == [100]


def test_nothing_is_nothing() -> None:
    recent = RecentLookups(TIMEOUT)
    nothing = recent.waited(np.zeros((0, 16), np.uint8), np.zeros(0, np.int64), np.zeros(0, np.uint64), by_port)
    assert nothing.tolist() == []
    assert waited(recent, 0) == UNKNOWN
    assert waited(of(reply(0, 1, NAME, rcode=3)), 2) == UNKNOWN

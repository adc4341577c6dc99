"""What is remembered of queries, and for how long."""

from __future__ import annotations

from otel_netmon.analysis.dns_lookups import Ends
from otel_netmon.analysis.dns_unmatched import _LOOKED_AT, Asked, HeldResponse, HeldResponses, RecentlyAsked
from otel_netmon.decode.dns import Message, decode
from support import dns_messages as d
from support.dns_events import CLIENT, PORT, SERVER, end

ENDS = Ends(0, 2, end(CLIENT, PORT), end(SERVER, 53))


def asked(number: int, *, timed_out: bool = False, name: str = "", start_ns: int = 0) -> Asked:
    return Asked(ENDS, d.query(number, name or f"n{number}.example"), start_ns, start_ns + 100, timed_out)


def reason(recent: RecentlyAsked, number: int, name: str = "", time_ns: int = 1000) -> str:
    return recent.reason(ENDS, number, (name or f"n{number}.example", d.A, d.IN), time_ns)


def test_the_last_queries_are_remembered_whether_or_not_anybody_asks_meanwhile() -> None:
    for ask in (False, True):
        recent = RecentlyAsked(queries_max=7)
        for number in range(23):
            recent.add(asked(number))
            if ask:
                assert reason(recent, number) == "duplicate"
        assert [reason(recent, number) == "duplicate" for number in range(23)] == [number > 15 for number in range(23)]
        memory = recent._kinds[False]
        assert (len(memory.new), len(memory._indexed), len(memory._found)) == (0, 7, 14)


def test_answers_do_not_displace_timeouts() -> None:
    recent = RecentlyAsked(queries_max=7)
    recent.add(asked(1, timed_out=True))
    for number in range(100, 123):
        recent.add(asked(number))
    assert reason(recent, 1) == "late"


def test_only_the_last_of_many_equal_queries_are_looked_at() -> None:
    recent = RecentlyAsked()
    recent.add(asked(5, name="same.example", start_ns=500))
    for _ in range(_LOOKED_AT - 1):
        recent.add(asked(6, name="same.example"))
    assert reason(recent, 7, "same.example", 550) == "wrong_id"
    recent.add(asked(6, name="same.example"))
    assert reason(recent, 7, "same.example", 550) == "unknown"


def test_a_head_that_is_cut_behind_its_question_is_enough() -> None:
    recent = RecentlyAsked()
    whole = d.message(
        9, d.RESPONSE_FLAGS, [d.question("a.example"), d.question("b.example")], [d.address("192.0.2.1")] * 9
    )
    recent.add(Asked(ENDS, whole[: 12 + len(d.question("a.example"))], 0, 100, timed_out=False))
    assert reason(recent, 9, "a.example") == "duplicate"


def held(number: int, time_ns: int = 0, *, question: bool = True) -> HeldResponse:
    questions = [d.question("a.example")] if question else []
    message = decode(d.message(number, d.RESPONSE_FLAGS | 1, questions))
    assert isinstance(message, Message)
    return HeldResponse("dns", "udp", ENDS, ENDS.server, 0, counts=True, message=message, time_ns=time_ns)


def test_what_is_held_is_put_out_by_age_and_by_number() -> None:
    responses = HeldResponses(responses_max=3)
    assert [responses.add(held(number, number)) for number in range(3)] == [None] * 3
    assert responses.add(held(3, 3)) == held(0, 0)
    assert list(responses.due(2)) == [held(1, 1)]
    assert [each.message.id for each in responses.due(100)] == [2, 3]
    assert len(responses) == 0


def test_responses_without_a_question_are_found_by_their_id() -> None:
    responses = HeldResponses(responses_max=4)
    for number, time_ns in ((1, 10), (1, 20), (2, 30)):
        responses.add(held(number, time_ns, question=False))
    responses.add(held(3, 40))
    assert responses.take_questionless(ENDS, 3, 0) is None
    assert responses.take_questionless(ENDS, 2, 31) is None
    assert responses.take_questionless(ENDS._replace(ifindex=9), 2, 0) is None
    assert responses.take_questionless(ENDS, 1, 0) == held(1, 10, question=False)
    assert responses.take_questionless(ENDS, 1, 0) is None
    assert responses.take_questionless(ENDS, 2, 30) == held(2, 30, question=False)
    assert len(responses) == 2

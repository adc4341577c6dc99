"""What is remembered of queries, and for how long."""

from __future__ import annotations

import numpy as np
import pytest

from otel_netmon.analysis.dns_lookups import Ends
from otel_netmon.analysis.dns_unmatched import (
    _LOOKED_AT,
    HeldResponse,
    HeldResponses,
    RecentlyAsked,
    asked,
    asked_of_answers,
    ends_octets,
)
from otel_netmon.decode.dns import Message, Question, decode
from support import dns_messages as d
from support.dns_events import CLIENT, PORT, SERVER, answer, end, messages

ENDS = Ends(0, 2, end(CLIENT, PORT), end(SERVER, 53))


def question(name: str) -> tuple[Question, ...]:
    return (Question(name, d.A, d.IN),)


def add(recent: RecentlyAsked, number: int, *, timed_out: bool = False, name: str = "", start_ns: int = 0) -> None:
    row = asked(ENDS, number, question(name or f"n{number}.example"), start_ns, start_ns + 100)
    recent.add(row, timed_out=timed_out)


def reason(recent: RecentlyAsked, number: int, name: str = "", time_ns: int = 1000) -> str:
    (found,) = recent.reasons(asked(ENDS, number, question(name or f"n{number}.example"), time_ns, time_ns))
    return found


def test_the_last_queries_are_remembered_whether_or_not_anybody_asks_meanwhile() -> None:
    for ask in (False, True):
        recent = RecentlyAsked(queries_max=7)
        for number in range(23):
            add(recent, number)
            if ask:
                assert reason(recent, number) == "duplicate"
        assert [reason(recent, number) == "duplicate" for number in range(23)] == [number > 15 for number in range(23)]


@pytest.mark.parametrize("many", [1, 3, 7, 9, 14, 23])
def test_many_at_once_are_remembered_as_one_by_one_are(many: int) -> None:
    recent = RecentlyAsked(queries_max=7)
    rows = np.concatenate([asked(ENDS, number, question(f"n{number}.example"), 0, 100) for number in range(23)])
    for at in range(0, 23, many):
        recent.add(rows[at : at + many], timed_out=False)
    assert [reason(recent, number) == "duplicate" for number in range(23)] == [number > 15 for number in range(23)]


def test_answers_do_not_displace_timeouts() -> None:
    recent = RecentlyAsked(queries_max=7)
    add(recent, 1, timed_out=True)
    for number in range(100, 123):
        add(recent, number)
    assert reason(recent, 1) == "late"


def test_only_the_last_of_many_equal_queries_are_looked_at() -> None:
    recent = RecentlyAsked()
    add(recent, 5, name="same.example", start_ns=500)
    for _ in range(_LOOKED_AT - 1):
        add(recent, 6, name="same.example")
    assert reason(recent, 7, "same.example", 550) == "wrong_id"
    add(recent, 6, name="same.example")
    assert reason(recent, 7, "same.example", 550) == "unknown"


def test_more_responses_at_once_than_are_looked_for_at_once() -> None:
    recent = RecentlyAsked()
    for number in range(601):
        add(recent, number, timed_out=number % 2 == 0)
    rows = np.concatenate([asked(ENDS, number, question(f"n{number}.example"), 900, 900) for number in range(1201)])
    assert recent.reasons(rows) == [
        "unknown" if number > 600 else "late" if number % 2 == 0 else "duplicate" for number in range(1201)
    ]
    assert recent.reasons(rows[:0]) == []


def test_records_of_the_kernel_are_the_queries_that_their_rows_say() -> None:
    made = messages(
        answer(d.response(7, "a.example"), 5, 9, namespace=3),
        answer(d.response(8, "a.example"), 6, 10, source="2001:db8::1", destination_port=77),
    )
    rows = asked_of_answers(made.heads, np.array([7, 8], np.uint32), np.array([1, 2], np.uint64))
    first = Ends(3, 2, end(CLIENT, PORT), end(SERVER, 53))
    second = Ends(0, 2, end(CLIENT, 77), end("2001:db8::1", 53))
    assert [row["ends"].tobytes() for row in rows] == [ends_octets(first), ends_octets(second)]
    assert [row.tolist()[1:] for row in rows] == [(7, 1, 5, 9), (8, 2, 6, 10)]


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

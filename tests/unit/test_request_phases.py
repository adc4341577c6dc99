"""Phases of requests: none overlaps another, and together they are the whole time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, strategies as st

from otel_netmon.analysis.connection_index import UNKNOWN
from otel_netmon.analysis.http_records import HttpRequest
from otel_netmon.analysis.recent_lookups import NEXT_NS
from otel_netmon.analysis.request_phases import EarlierRequests, Phase, RequestTimes, Waited, phases, times_of
from support.tcp_talk import CLIENT, SERVER

MS = 1_000_000
T = 1000 * 1000 * MS


def request(*times: int | None, **fields: Any) -> HttpRequest:
    """By the times of the first and last octet of request and response."""
    made = HttpRequest("1.1", CLIENT, SERVER, "GET", "/", "x", 200, "answered", *times, 0, 0)  # type: ignore[arg-type, call-arg]
    return made._replace(**fields)


def own(made: HttpRequest) -> list[int]:
    times = times_of([made])
    return [int(each[0]) for each in (times.sending_ns, times.waiting_ns, times.receiving_ns)]


def test_the_request_itself() -> None:
    assert own(request(10, 13, 20, 31)) == [3, 7, 11]
    assert own(request(10, 13, 11, 31)) == [3, 0, 18], "the response began before the request had ended"
    assert own(request(10, 40, 20, 31)) == [21, 0, 0], "... and ended"
    assert own(request(10, 13, None, None, outcome="timeout", end_ns=99)) == [3, 86, UNKNOWN]
    assert own(request(10, 10, 20, 25, outcome="incomplete", end_ns=40)) == [0, 10, 20]
    assert own(request(10, 13, None, None, outcome="reset", end_ns=5)) == [0, 0, UNKNOWN]


@given(st.lists(st.integers(0, 50), min_size=5, max_size=5), st.booleans(), st.sampled_from(["answered", "reset"]))
def test_the_phases_of_the_request_are_its_whole_time(times: list[int], responds: bool, outcome: Any) -> None:
    response = times[2:4] if responds else [None, None]
    if outcome == "answered" and not responds:
        outcome = "no_response"
    made = request(*times[:2], *response, outcome=outcome, end_ns=times[4])
    parts = own(made)
    assert sum(each for each in parts if each != UNKNOWN) == made.lasted_ns
    assert all(each >= 0 for each in parts if each != UNKNOWN)


def before(**fields: int) -> list[int]:
    """Phases of the first request of a connection: 1 ms of DNS, 2 of connect until T - 20 ms, 4 of TLS until T - 10 ms."""
    made = {
        "begin_ns": T - 22 * MS,
        "established_ns": T - 20 * MS,
        "dns_ns": 1 * MS,
        "connect_ns": 2 * MS,
        "tls_ns": 4 * MS,
        "tls_end_ns": T - 10 * MS,
        "begun_ns": T,
        "earlier_ns": 0,
        **fields,
    }
    one = {name: np.array([value], np.int64) for name, value in made.items()}
    nothing = np.zeros(1, np.int64)
    times = RequestTimes(one.pop("begun_ns"), one.pop("earlier_ns"), nothing, nothing, nothing)
    found = phases(times, Waited(**one))
    assert found[Phase.SENDING :].tolist() == [[0], [0], [0]]
    return [int(each) // MS if each != UNKNOWN else UNKNOWN for each in found[: Phase.SENDING, 0]]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [1, 2, 4]),
        ({"dns_ns": UNKNOWN}, [UNKNOWN, 2, 4]),
        ({"tls_ns": UNKNOWN, "tls_end_ns": 0}, [1, 2, UNKNOWN]),
        ({"connect_ns": UNKNOWN, "established_ns": 0}, [UNKNOWN, UNKNOWN, 4]),
        ({"begin_ns": 0}, [UNKNOWN] * 3),
        ({"earlier_ns": T - 22 * MS}, [UNKNOWN] * 3),
        ({"earlier_ns": T - 22 * MS - 1}, [1, 2, 4]),
        ({"begun_ns": T - 10 * MS + NEXT_NS}, [1, 2, 4]),
        ({"begun_ns": T - 10 * MS + NEXT_NS + 1}, [UNKNOWN] * 3),
        ({"tls_ns": UNKNOWN, "begun_ns": T - 20 * MS + NEXT_NS}, [1, 2, UNKNOWN]),
        ({"tls_ns": UNKNOWN, "begun_ns": T - 20 * MS + NEXT_NS + 1}, [UNKNOWN] * 3),
    ],
)
def test_what_was_before_the_request(fields: dict[str, int], expected: list[int]) -> None:
    assert before(**fields) == expected


def test_a_handshake_of_tls_that_took_long_was_waited_for() -> None:
    took = 5 * NEXT_NS
    end_ns = T - 20 * MS + took + NEXT_NS
    assert before(tls_ns=took, tls_end_ns=end_ns, begun_ns=end_ns) == [1, 2, took // MS]
    assert before(tls_ns=took, tls_end_ns=end_ns + 1, begun_ns=end_ns + 1) == [UNKNOWN, UNKNOWN, took // MS]


def ports(*each: int) -> npt.NDArray[np.uint16]:
    return np.array(each, np.uint16)


def test_requests_behind_each_other() -> None:
    earlier = EarlierRequests()
    assert earlier.before(ports(5, 7, 5, 5, 65535), np.array([1, 2, 3, 4, 5])).tolist() == [0, 0, 1, 3, 0]
    assert earlier.before(ports(7, 65535, 5, 0), np.array([6, 7, 8, 9])).tolist() == [2, 5, 4, 0]
    assert earlier.before(ports(), np.zeros(0, np.int64)).tolist() == []
    assert earlier.before(ports(0, 7), np.array([10, 11])).tolist() == [9, 6]


@given(st.lists(st.lists(st.integers(0, 9), max_size=30), max_size=4))
def test_requests_behind_each_other_as_one_by_one(batches: list[list[int]]) -> None:
    earlier, last, time = EarlierRequests(), dict.fromkeys(range(10), 0), 0
    for batch in batches:
        expected = []
        for port in batch:
            expected.append(last[port])
            time += 1
            last[port] = time
        begun = np.arange(time - len(batch) + 1, time + 1)
        assert earlier.before(ports(*batch), begun).tolist() == expected


@pytest.mark.parametrize(("stream", "is_first"), [(0, True), (1, True), (3, True), (5, False), (2**31 - 1, False)])
def test_streams_of_http2(stream: int, is_first: bool) -> None:
    times = times_of([request(10, 13, 20, 31, stream=stream)])
    assert times.earlier_ns.tolist() == [0 if is_first else 10]
    assert times.behind(np.array([7])).earlier_ns.tolist() == [7 if is_first else 10]

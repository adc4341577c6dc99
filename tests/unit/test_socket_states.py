"""Counts by state between two answers of sock_diag, and connections that are older than the agent."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from otel_netmon.abi.enums import RTT_BUCKETS, RTT_LOWEST_EXPONENT, Retransmit, Role, TcpState
from otel_netmon.analysis.adopted import Adopted, rtt_bucket
from otel_netmon.analysis.connections import Counter
from otel_netmon.analysis.socket_states import STATES, StateCounts, by_state
from otel_netmon.readers.inet_diag import SOCKET, SOCKET_WITH_INFO, SOCKET_WITH_MEMORY
from otel_netmon.sources.sockets import Drops
from support.connection_rows import connection, datagrams, joined

SECOND = 10**9


def sockets(**states: int) -> npt.NDArray[Any]:
    rows = np.zeros(sum(states.values()), SOCKET)
    rows["state"] = [TcpState[name] for name, count in states.items() for _ in range(count)]
    return rows


def hooks(**states: int) -> npt.NDArray[np.int64]:
    return by_state(sockets(**states))


def nonzero(counts: dict[str, int]) -> dict[str, int]:
    return {state: count for state, count in counts.items() if count}


def test_the_answer_is_carried_on_by_what_the_hooks_saw_since() -> None:
    counts = StateCounts(60 * SECOND)
    assert not counts.known
    counts.take(by_state(sockets(ESTABLISHED=7, LISTEN=2, TIME_WAIT=11, SYN_RECV=1)), hooks(ESTABLISHED=4), 0)
    assert nonzero(counts.counts(hooks(ESTABLISHED=4))) == {
        "established": 7, "listen": 2, "time_wait": 11, "syn_received": 1,
    }  # fmt: skip
    assert nonzero(counts.counts(hooks(ESTABLISHED=5, SYN_SENT=3, TIME_WAIT=99))) == {
        "established": 8, "syn_sent": 3, "listen": 2, "time_wait": 11, "syn_received": 1,
    }  # fmt: skip
    assert nonzero(counts.counts(hooks()))["established"] == 3
    assert set(counts.counts(hooks())) == set(STATES.values())


def test_drift_is_what_the_hooks_alone_would_have_told_since_the_last_comparison() -> None:
    counts = StateCounts(60 * SECOND)
    counts.take(by_state(sockets(ESTABLISHED=7)), hooks(ESTABLISHED=4), 0)
    assert counts.drift_by_state() == {}
    counts.take(by_state(sockets(ESTABLISHED=100)), hooks(ESTABLISHED=5), 30 * SECOND)
    assert counts.drift_by_state() == {}, "an answer between two comparisons"
    assert counts.counts(hooks(ESTABLISHED=5))["established"] == 100
    counts.take(by_state(sockets(ESTABLISHED=12, FIN_WAIT2=2)), hooks(ESTABLISHED=11), 60 * SECOND)
    assert nonzero(counts.drift_by_state()) == {"established": 2, "fin_wait_2": -2}
    counts.take(by_state(sockets(ESTABLISHED=13, FIN_WAIT2=2)), hooks(ESTABLISHED=12), 120 * SECOND)
    assert nonzero(counts.drift_by_state()) == {}


def test_no_count_is_below_zero() -> None:
    counts = StateCounts(60 * SECOND)
    counts.take(by_state(sockets()), hooks(ESTABLISHED=4), 0)
    assert counts.counts(hooks())["established"] == 0


def described(cookie: int, **fields: Any) -> npt.NDArray[Any]:
    row = np.zeros(1, SOCKET_WITH_INFO)
    row["cookie"], row["has_info"], row["state"] = cookie, True, TcpState.ESTABLISHED
    for name, value in fields.items():
        row[name] = value
    return row


NOBODY = np.empty(0, np.uint64)


def test_those_that_are_older_tell_what_they_gain_and_nothing_of_before() -> None:
    adopted = Adopted()
    first = np.concatenate([
        described(1, bytes_received=100, bytes_acked=200, total_retrans=3), described(2), described(3, has_info=False)
    ])  # fmt: skip
    adopted.adopt(first, np.array([2], np.uint64), 5)
    assert len(adopted) == 1
    second = np.concatenate([
        described(1, bytes_received=107, bytes_acked=211, total_retrans=5, data_segs_out=2, rtt_us=900),
        described(2, bytes_received=1), described(4, bytes_received=1),
    ])  # fmt: skip
    gains = adopted.update(second, np.array([2, 4], np.uint64), 9)
    assert gains.rows["cookie"].tolist() == [1]
    assert gains.rows["role"].tolist() == [Role.UNKNOWN]
    assert (gains.outcomes.tolist(), gains.ends.tolist()) == ([-1], [-1])
    gained = {row: int(value) for row, value in enumerate(gains.counters[:, 0]) if value}
    assert gained == {
        Counter.BYTES_RECEIVED: 7,
        Counter.BYTES_SENT: 11,
        Counter.DATA_SENT: 2,
        Counter.RTT_COUNT: 1,
        Counter.RTT_SUM_US: 900,
        Counter.RETRANSMITS + Retransmit.OTHER: 2,
        Counter.RTT_BUCKETS + int(rtt_bucket(np.array([900], np.uint32))[0]): 1,
    }
    assert len(adopted.update(second, NOBODY, 10).rows) == 0
    adopted.update(second[1:], NOBODY, 11)
    assert len(adopted) == 0


def test_one_that_began_between_the_table_and_the_answer_is_not_older() -> None:
    adopted = Adopted()
    adopted.adopt(described(1), NOBODY, 5)
    gains = adopted.update(described(1, bytes_received=9), np.array([1], np.uint64), 6)
    assert (len(gains.rows), len(adopted)) == (0, 0)


def test_another_process_goes_on_with_those_that_are_older() -> None:
    first, second = Adopted(), Adopted()
    first.adopt(described(1, bytes_received=5), NOBODY, 5)
    second.restore(first.state())
    gains = second.update(described(1, bytes_received=8), NOBODY, 6)
    assert gains.counters[Counter.BYTES_RECEIVED].tolist() == [3]


@pytest.mark.parametrize("exponent", range(RTT_LOWEST_EXPONENT - 2, RTT_LOWEST_EXPONENT + RTT_BUCKETS + 2))
def test_a_round_trip_time_is_in_the_bucket_that_ends_at_it(exponent: int) -> None:
    times = np.unique(np.array([2.0**exponent * 1e6 * part for part in (0.75, 1, 1.25)]).astype(np.uint32))
    for time_us, bucket in zip(times.tolist(), rtt_bucket(times).tolist(), strict=True):
        upper = 2.0 ** (RTT_LOWEST_EXPONENT + bucket)
        assert bucket == RTT_BUCKETS - 1 or time_us / 1e6 <= upper
        assert bucket == 0 or time_us / 1e6 > upper / 2


def memory(cookie: int, drops: int) -> npt.NDArray[Any]:
    row = np.zeros(1, SOCKET_WITH_MEMORY)
    row["cookie"], row["drops"] = cookie, drops
    return row


def test_drops_count_since_the_socket_or_the_agent_began() -> None:
    drops = Drops()
    own = datagrams(cookie=1)
    old = datagrams(cookie=2, flags=2)
    rows = joined(own, old)
    found, many = drops.update(np.concatenate([memory(1, 5), memory(2, 7), memory(3, 9)]), rows)
    assert (found["cookie"].tolist(), many.tolist()) == ([1], [5])
    state = drops.state()
    drops = Drops()
    drops.restore(state)
    found, many = drops.update(np.concatenate([memory(3, 99), memory(2, 8), memory(1, 5)]), rows)
    assert (found["cookie"].tolist(), many.tolist()) == ([2], [1])
    found, many = drops.update(memory(1, 6)[:0], rows[:0])
    assert (len(found), len(many)) == (0, 0)


def test_rows_of_hooks_count_as_sockets_do() -> None:
    assert by_state(joined(connection(), connection(state=TcpState.LISTEN)))[TcpState.LISTEN] == 1

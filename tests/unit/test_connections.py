"""Gains of connections: what is told of which, and when."""

from __future__ import annotations

import pytest

from otel_netmon.abi.enums import Ending, Retransmit, Role, TcpState
from otel_netmon.analysis.connections import COUNTERS, ENDS, OUTCOMES, Connections, Counter, Gains
from support.connection_rows import MS, SECOND, adopted, connection, joined


def outcome(gains: Gains) -> list[str | None]:
    return [OUTCOMES[number] if number >= 0 else "-" for number in gains.outcomes.tolist()]


def end(gains: Gains) -> list[str | None]:
    return [ENDS[number] if number >= 0 else "-" for number in gains.ends.tolist()]


@pytest.mark.parametrize(
    ("ending", "failure"),
    [
        (Ending.REFUSED, "refused"),
        (Ending.CONNECT_TIMED_OUT, "timed_out"),
        (Ending.HOST_UNREACHABLE, "host_unreachable"),
        (Ending.NET_UNREACHABLE, "net_unreachable"),
        (Ending.NOT_SENT, "not_sent"),
        (Ending.ABANDONED, "cancelled"),
        (Ending.CONNECT_UNKNOWN, "_OTHER"),
    ],
)
def test_a_connect_that_failed_says_why_and_how_long_it_was_tried(ending: Ending, failure: str) -> None:
    gains = Connections().ended(connection(ending=ending, handshake_ns=3 * SECOND, reset_received=1))
    assert (outcome(gains), end(gains)) == ([failure], ["-"])
    assert gains.handshake_ns.tolist() == [3 * SECOND]
    assert not gains.counters[[Counter.RESETS_RECEIVED, Counter.RESETS_SENT]].any()


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        (Ending.FIN_LOCAL, None),
        (Ending.FIN_REMOTE, None),
        (Ending.UNKNOWN, None),
        (Ending.RESET_LOCAL, "reset"),
        (Ending.RESET_REMOTE, "reset"),
        (Ending.TIMED_OUT, "timed_out"),
    ],
)
def test_a_connection_that_began_and_ended_between_two_readings_is_told_at_once(
    ending: Ending, reason: str | None
) -> None:
    gains = Connections().ended(
        connection(ending=ending, handshake_ns=3 * MS, lifetime_ns=7 * SECOND, reset_sent=1, bytes_sent=11)
    )
    assert (outcome(gains), end(gains)) == ([None], [reason])
    assert (gains.handshake_ns.tolist(), gains.lifetime_ns.tolist()) == ([3 * MS], [7 * SECOND])
    assert gains.counters[Counter.RESETS_SENT].tolist() == [1]
    assert gains.counters[Counter.BYTES_SENT].tolist() == [11]


def test_what_was_told_of_a_living_one_is_not_told_again_when_it_ends() -> None:
    connections = Connections()
    row = connection(bytes_sent=100, bytes_received=7, rtt_count=3, rtt_sum_us=900)
    row["retransmits"][0, Retransmit.FAST] = 2
    row["rtt_buckets"][0, 5] = 3
    first = connections.living(row)
    assert outcome(first) == [None]
    assert first.counters[Counter.RETRANSMITS + Retransmit.FAST].tolist() == [2]
    assert first.counters[Counter.RTT_BUCKETS + 5].tolist() == [3]
    assert len(connections.living(row).rows) == 0
    row["bytes_sent"], row["rtt_sum_us"], row["rtt_count"] = 150, 1500, 5
    row["rtt_buckets"][0, 5], row["rtt_buckets"][0, 6] = 4, 1
    second = connections.living(row)
    assert outcome(second) == ["-"]
    gained = {counter: int(value) for counter, value in enumerate(second.counters[:, 0]) if value}
    assert gained == {
        Counter.BYTES_SENT: 50,
        Counter.RTT_SUM_US: 600,
        Counter.RTT_COUNT: 2,
        Counter.RTT_BUCKETS + 5: 1,
        Counter.RTT_BUCKETS + 6: 1,
    }
    row["bytes_sent"], row["ending"], row["end_ns"] = 151, Ending.FIN_LOCAL, 200 * SECOND
    row["state"] = TcpState.CLOSE
    assert len(connections.living(row).rows) == 0, "its record is on its way"
    last = connections.ended(row)
    assert (outcome(last), end(last), last.counters[Counter.BYTES_SENT].tolist()) == (["-"], [None], [1])
    assert len(connections) == 0


def test_counts_of_32_bits_wrap() -> None:
    connections = Connections()
    row = connection(data_sent=2**32 - 3)
    assert connections.living(row).counters[Counter.DATA_SENT].tolist() == [2**32 - 3]
    row["data_sent"] = 4
    assert connections.living(row).counters[Counter.DATA_SENT].tolist() == [7]


def test_one_that_is_older_than_the_agent_has_bytes_and_resets_and_neither_handshake_nor_duration() -> None:
    connections = Connections()
    row = adopted(bytes_received=5)
    gains = connections.living(row)
    assert (outcome(gains), gains.counters[Counter.BYTES_RECEIVED].tolist()) == (["-"], [5])
    row["ending"], row["end_ns"], row["reset_received"] = Ending.RESET_REMOTE, 101 * SECOND, 1
    gains = connections.ended(row)
    assert (outcome(gains), end(gains)) == (["-"], ["-"])
    assert gains.counters[Counter.RESETS_RECEIVED].tolist() == [1]


def test_a_handshake_is_told_when_it_is_over() -> None:
    connections = Connections()
    row = connection()
    established = row["established_ns"].copy()
    row["established_ns"], row["handshake_ns"], row["state"] = 0, 0, TcpState.SYN_SENT
    row["retransmits"][0, Retransmit.SYN] = 1
    gains = connections.living(row)
    assert outcome(gains) == ["-"]
    assert gains.counters[Counter.RETRANSMITS + Retransmit.SYN].tolist() == [1]
    row["established_ns"], row["state"] = established, TcpState.ESTABLISHED
    gains = connections.living(row)
    assert outcome(gains) == [None]
    assert gains.handshake_ns.tolist() == [2 * MS], "since connect() where the SYN-ACK was not seen"
    assert len(connections.living(row).rows) == 0


def test_listeners_and_rows_that_are_being_made_are_no_connections() -> None:
    listener = connection(role=Role.LISTENER, bytes_received=1)
    unborn = connection(bytes_received=1, state=0)
    connections = Connections()
    assert len(connections.living(joined(listener, unborn)).rows) == 0
    assert len(connections) == 0


def test_a_row_that_left_the_table_waits_for_its_record_for_one_reading_more() -> None:
    connections = Connections()
    rows = joined(*(connection(bytes_sent=100) for _ in range(3)))
    connections.living(rows)
    connections.living(rows[:1])
    rows["ending"], rows["end_ns"] = Ending.FIN_LOCAL, 200 * SECOND
    rows["bytes_sent"] = 101
    assert connections.ended(rows[1:2]).counters[Counter.BYTES_SENT].tolist() == [1]
    connections.living(rows[:0])
    assert len(connections) == 1
    connections.living(rows[:0])
    assert len(connections) == 0


def test_another_process_goes_on() -> None:
    first, second = Connections(), Connections()
    rows = joined(connection(bytes_sent=5), connection(bytes_sent=7))
    first.living(rows)
    rows["bytes_sent"] += 2
    rows["ending"], rows["end_ns"] = Ending.FIN_LOCAL, 200 * SECOND
    first.ended(rows[:1])
    second.restore(first.state())
    assert len(second) == 1
    gains = second.ended(rows[1:])
    assert (outcome(gains), gains.counters[Counter.BYTES_SENT].tolist()) == (["-"], [2])


def test_nothing_is_nothing() -> None:
    gains = Connections().ended(joined())
    assert gains.counters.shape == (COUNTERS, 0)
    assert len(Connections().living(joined()).rows) == 0

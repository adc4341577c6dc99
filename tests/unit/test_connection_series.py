"""Connections to series: who has one, and that series and rest together are all connections."""

from __future__ import annotations

import random
from collections import Counter as Tally

import numpy as np
import pytest

from otel_netmon.abi.enums import Ending, Retransmit, Role
from otel_netmon.analysis.cardinality import WHOLE_SET
from otel_netmon.analysis.connection_series import FAILURES, WEIGHT, ConnectionSeries
from otel_netmon.analysis.connections import ENDS, OUTCOMES, Connections, Counter
from support.connection_rows import CLIENT, MS, SECOND, SERVER, adopted, connection, joined
from support.rows import address

START = 1_700_000_000 * SECOND
HOUR = 3600 * SECOND


class Feed:
    """Connections with the series behind them."""

    def __init__(self, limit: int = 100, idle_ns: int = HOUR) -> None:
        self.connections = Connections()
        self.series = ConnectionSeries([0.001, 0.01, 1.0], [0.1, 10.0], START, idle_ns)
        self.series.set_limit(limit)
        self.now_ns = START

    def take(self, *rows: np.ndarray[tuple[int], np.dtype[np.void]]) -> list[int]:
        self.now_ns += SECOND
        placed: list[int] = self.series.add(self.connections.ended(joined(*rows)), self.now_ns).tolist()
        return placed

    def handshakes(self) -> Tally[tuple[str, int, int, str | None]]:
        """How many by server, port, role and outcome; the rest has no server."""
        reading = self.series.reading()
        found: Tally[tuple[str, int, int, str | None]] = Tally()
        columns = zip(
            reading.handshakes.series.tolist(),
            reading.handshakes.kinds.tolist(),
            reading.handshakes.values.count.tolist(),
            strict=True,
        )
        for place, kind, count in columns:
            found[(*self.name(place), OUTCOMES[kind])] += count
        return found

    def name(self, place: int) -> tuple[str, int, int]:
        if place < 0:
            return "", 0, 0
        server, port, role, _ = self.series.reading().series.keys[place].tolist()
        return NAMES.get(bytes(server), "?"), port, role


NAMES = {address(SERVER): "server", address(CLIENT): "client", bytes(16): "nobody", address("2001:db8::1"): "six"}


def test_a_series_is_the_role_and_who_was_called() -> None:
    feed = Feed()
    rows = feed.take(
        connection(ending=Ending.FIN_LOCAL),
        connection(ending=Ending.FIN_LOCAL, local="10.0.0.8"),
        connection(ending=Ending.REFUSED),
        connection(ending=Ending.FIN_LOCAL, ports=(40_000, 80)),
        connection(ending=Ending.FIN_LOCAL, remote="2001:db8::1"),
        connection(ending=Ending.FIN_LOCAL, role=Role.SERVER, ports=(8080, 50_000)),
        adopted(ending=Ending.FIN_LOCAL, bytes_sent=1),
    )
    assert feed.handshakes() == {
        ("server", 443, Role.CLIENT, None): 2,
        ("server", 443, Role.CLIENT, "refused"): 1,
        ("server", 80, Role.CLIENT, None): 1,
        ("six", 443, Role.CLIENT, None): 1,
        ("client", 8080, Role.SERVER, None): 1,
    }
    assert rows[0] == rows[1] != rows[2]
    assert rows[-1] == -1
    assert len(set(rows)) == 6
    reading = feed.series.reading()
    assert "nobody" in {feed.name(place)[0] for place in range(len(reading.series.keys))}


def test_lifetimes_are_by_how_the_connection_ended() -> None:
    feed = Feed()
    feed.take(
        connection(ending=Ending.FIN_LOCAL, lifetime_ns=2 * SECOND),
        connection(ending=Ending.RESET_REMOTE, lifetime_ns=50 * MS),
        connection(ending=Ending.TIMED_OUT, lifetime_ns=20 * SECOND),
        connection(ending=Ending.REFUSED),
    )
    lifetimes = feed.series.reading().lifetimes
    found = zip(lifetimes.kinds.tolist(), lifetimes.values.sum.tolist(), strict=True)
    assert {ENDS[kind]: seconds for kind, seconds in found} == {None: 2.0, "reset": 0.05, "timed_out": 20.0}


def test_counters_add_up_by_server() -> None:
    feed = Feed()
    row = connection(ending=Ending.FIN_LOCAL, data_sent=5, rtt_count=3, rtt_sum_us=900, out_of_order=2)
    row["retransmits"][0, Retransmit.TIMEOUT] = 4
    feed.take(row, connection(ending=Ending.REFUSED), connection(ending=Ending.FIN_LOCAL, data_received=7))
    values = feed.series.reading().series.values[:, 0]
    assert {row: int(value) for row, value in enumerate(values) if value} == {
        Counter.RTT_SUM_US: 900,
        Counter.DATA_RECEIVED: 7,
        Counter.DATA_SENT: 5,
        Counter.RTT_COUNT: 3,
        Counter.OUT_OF_ORDER: 2,
        Counter.RETRANSMITS + Retransmit.TIMEOUT: 4,
        FAILURES: 1,
        WEIGHT: 12 + 4 * 5,
    }


def test_what_has_no_connection_is_in_the_rest() -> None:
    feed = Feed()
    feed.series.add_to_rest({Counter.RETRANSMITS + Retransmit.OTHER: 3})
    assert feed.series.reading().series.rest[0, Counter.RETRANSMITS + Retransmit.OTHER] == 3


def test_nothing_is_nothing() -> None:
    feed = Feed()
    assert feed.take() == []
    reading = feed.series.reading()
    assert (len(reading.series.keys), len(reading.handshakes.series), len(reading.lifetimes.series)) == (0, 0, 0)


def gains(
    feed: Feed, before: dict[tuple[bytes, int], tuple[int, int]]
) -> tuple[int, dict[tuple[bytes, int], tuple[int, int]]]:
    """What a receiver adds up from one reading to the next, and what it knows then: start and count by series and outcome."""
    reading = feed.series.reading()
    now: dict[tuple[bytes, int], tuple[int, int]] = {}
    for place, kind, count in zip(
        reading.handshakes.series.tolist(),
        reading.handshakes.kinds.tolist(),
        reading.handshakes.values.count.tolist(),
        strict=True,
    ):
        key = b"" if place < 0 else reading.series.keys[place].tobytes()
        now[key, kind] = (0 if place < 0 else int(reading.series.start_ns[place]), count)
    more = 0
    for key_kind, (start, count) in now.items():
        then = before.get(key_kind)
        more += count - then[1] if then is not None and then[0] == start else count
    return more, now


@pytest.mark.parametrize("seed", range(7))
def test_what_is_told_adds_up_however_series_come_and_go(seed: int) -> None:
    generator = random.Random(seed)  # noqa: S311 - variety, not secrets
    feed = Feed(limit=5, idle_ns=7 * SECOND)
    given = told = counted = 0
    before: dict[tuple[bytes, int], tuple[int, int]] = {}
    bytes_before: dict[tuple[bytes, int], int] = {}
    bytes_told = 0
    for _ in range(53):
        feed.series.set_limit(generator.randrange(3, 13))
        for _ in range(generator.randrange(1, 5)):
            rows = [
                connection(
                    ending=generator.choice([Ending.FIN_LOCAL, Ending.REFUSED, Ending.RESET_LOCAL]),
                    ports=(1, generator.randrange(1, 4 if generator.random() < 0.5 else 60)),
                    bytes_sent=generator.randrange(1000),
                )
                for _ in range(generator.randrange(1, 23))
            ]
            given += len(rows)
            counted += sum(int(row["bytes_sent"][0]) for row in rows)
            feed.take(*rows)
        more, before = gains(feed, before)
        told += more
        assert told == given
        series = feed.series.reading().series
        now = {
            (key.tobytes(), int(start)): int(value)
            for key, start, value in zip(series.keys, series.start_ns, series.values[Counter.BYTES_SENT], strict=True)
        }
        now[b"", 0] = int(series.rest[0, Counter.BYTES_SENT])
        bytes_told += sum(value - bytes_before.get(key, 0) for key, value in now.items())
        bytes_before = now
        assert bytes_told == counted
        if generator.random() < 0.2:
            state = feed.series.state()
            feed.series = ConnectionSeries([0.001, 0.01, 1.0], [0.1, 10.0], START, 7 * SECOND)
            feed.series.restore(state)
        feed.series.end_cycle()
    assert before[b"", 0][1] > 0


def test_without_places_all_is_in_the_rest() -> None:
    feed = Feed(limit=0)
    feed.take(*(connection(ending=Ending.FIN_LOCAL, ports=(1, port)) for port in range(1, 24)))
    assert feed.handshakes() == {("", 0, 0, None): 23}
    feed.series.end_cycle()
    assert (feed.series.folded, len(feed.series)) == (23, 0)


def test_the_different_servers_are_estimated() -> None:
    feed = Feed(limit=10)
    feed.take(*(connection(ending=Ending.FIN_LOCAL, ports=(1, port)) for port in range(1, 102)))
    found = feed.series.distinct()
    assert found[WHOLE_SET] == pytest.approx(101, rel=0.15)
    assert found["server.port"] == pytest.approx(101, rel=0.15)
    assert found["network.tcp.handshake.role"] == pytest.approx(1, abs=0.1)


def test_exemplars_are_of_the_rows_that_add_gave() -> None:
    feed = Feed()
    rows = np.array(feed.take(connection(ending=Ending.FIN_LOCAL), connection(ending=Ending.REFUSED)))
    ids = np.arange(48, dtype=np.uint8).reshape(2, 24)
    feed.series.offer_exemplars(rows, np.array([0.002, 0.003]), np.array([1, 2], np.uint64), ids[:, :16], ids[:, 16:])
    handshakes = feed.series.reading().handshakes
    found = [(OUTCOMES[handshakes.kinds[place]], value) for place, value in zip(
        handshakes.values.exemplars.series.tolist(), handshakes.values.exemplars.value.tolist(), strict=True
    )]  # fmt: skip
    assert sorted(found, key=repr) == [("refused", 0.003), (None, 0.002)]

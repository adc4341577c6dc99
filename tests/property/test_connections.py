"""However connections live and are read, the sum of what is told of them is what they did."""

from __future__ import annotations

import random
from collections import Counter as Tally

import numpy as np
import numpy.typing as npt
import pytest

from otel_netmon.abi.enums import Ending, Retransmit
from otel_netmon.analysis.connections import COUNTERS, Connections, Counter, Gains
from support.connection_rows import SECOND, connection, joined

ENDINGS = [ending for ending in Ending if ending not in (Ending.NONE, Ending.NUMBER)]


@pytest.mark.parametrize("seed", range(23))
def test_what_is_told_is_what_was_done(seed: int) -> None:
    generator = random.Random(seed)  # noqa: S311 - variety, not secrets
    connections = Connections()
    told = np.zeros(COUNTERS, np.uint64)
    handshakes: Tally[int] = Tally()
    ends: Tally[int] = Tally()
    living: list[npt.NDArray[np.void]] = []
    on_the_way: list[npt.NDArray[np.void]] = []
    done = np.zeros(COUNTERS, np.uint64)
    opened: list[int] = []

    def take(gains: Gains) -> None:
        nonlocal told
        told += gains.counters.sum(axis=1)
        handshakes.update(gains.rows["cookie"][gains.outcomes >= 0].tolist())
        ends.update(gains.rows["cookie"][gains.ends >= 0].tolist())

    def work(row: npt.NDArray[np.void]) -> None:
        for counter, name, most in (
            (Counter.BYTES_SENT, "bytes_sent", 1 << 40),
            (Counter.RTT_SUM_US, "rtt_sum_us", 1 << 30),
            (Counter.DATA_RECEIVED, "data_received", 1 << 20),
        ):
            more = generator.randrange(most)
            row[name] += more
            done[counter] += np.uint64(more)
        kind, bucket = generator.randrange(Retransmit.NUMBER), generator.randrange(row["rtt_buckets"].shape[1])
        row["retransmits"][0, kind] += 1
        row["rtt_buckets"][0, bucket] += 1
        done[Counter.RETRANSMITS + kind] += np.uint64(1)
        done[Counter.RTT_BUCKETS + bucket] += np.uint64(1)

    for _ in range(37):
        for _ in range(generator.randrange(5)):
            living.append(connection())
            opened.append(int(living[-1]["cookie"][0]))
        for row in living:
            if generator.random() < 0.5:
                work(row)
        while living and generator.random() < 0.6:
            row = living.pop(generator.randrange(len(living)))
            ending = generator.choice([e for e in ENDINGS if e < Ending.REFUSED])
            row["ending"], row["end_ns"] = ending, row["begin_ns"] + SECOND
            on_the_way.append(row)
        if generator.random() < 0.5:
            take(connections.ended(joined(*on_the_way)))
            on_the_way = []
        else:
            # A record that is read after the reading of the table, in which its row may still be or not.
            take(connections.living(joined(*living, *on_the_way[: generator.randrange(2)])))
            take(connections.ended(joined(*on_the_way)))
            on_the_way = []
        if generator.random() < 0.2:
            state = connections.state()
            connections = Connections()
            connections.restore(state)
    for row in living:
        row["ending"], row["end_ns"] = Ending.FIN_REMOTE, row["begin_ns"] + SECOND
    take(connections.ended(joined(*living)))
    assert told.tolist() == done.tolist()
    assert handshakes == Tally(opened)
    assert ends == Tally(opened)
    assert len(connections) == 0

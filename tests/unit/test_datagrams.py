"""UDP sockets: gains, and series by process and server."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.abi.enums import Role
from otel_netmon.analysis.datagrams import COUNTERS, Datagrams, DatagramSeries
from support.connection_rows import CLIENT, SERVER, datagrams, joined
from support.rows import address

START = 1_700_000_000_000_000_000
NAMES = {address(SERVER): "server", address(CLIENT): "client", bytes(16): ""}


def counts(*values: int, prefix: str = "") -> dict[str, int]:
    return {prefix + name: value for name, value in zip(COUNTERS, values, strict=True)}


def told(series: DatagramSeries) -> dict[tuple[int, str, int], tuple[int, ...]]:
    reading = series.reading()
    return {
        (owner, NAMES[bytes(server)], port): tuple(values[: len(COUNTERS)])
        for (owner, server, port, _, _), values in zip(reading.keys.tolist(), reading.values.T.tolist(), strict=True)
    }


def owned(number: int, rows: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    return np.full(len(rows), number, np.uint64)


def test_a_socket_is_told_as_it_goes_and_the_rest_when_it_is_closed() -> None:
    sockets = Datagrams()
    row = datagrams(role=Role.CLIENT, **counts(1, 2, 3, 4), **counts(5, 6, 7, 8, prefix="other_"))
    first = sockets.living(row)
    assert (first.first[:, 0].tolist(), first.others[:, 0].tolist()) == ([1, 2, 3, 4], [5, 6, 7, 8])
    assert len(sockets.living(row).rows) == 0
    row["bytes_sent"], row["other_packets_received"] = 12, 8
    second = sockets.living(row)
    assert (second.first[:, 0].tolist(), second.others[:, 0].tolist()) == ([0, 10, 0, 0], [0, 0, 1, 0])
    row["end_ns"], row["packets_sent"] = 5, 5
    assert len(sockets.living(row).rows) == 0, "its record is on its way"
    assert sockets.closed(row).first[:, 0].tolist() == [0, 0, 0, 1]
    assert len(sockets) == 0


def test_another_process_goes_on() -> None:
    first, second = Datagrams(), Datagrams()
    row = datagrams(**counts(1, 2, 3, 4))
    first.living(row)
    second.restore(first.state())
    row["bytes_received"], row["end_ns"] = 8, 9
    assert second.closed(row).first[:, 0].tolist() == [7, 0, 0, 0]


def test_who_asks_has_a_series_for_each_server_and_who_is_asked_one_for_all() -> None:
    series = DatagramSeries(START, 10**12)
    series.set_limit(10)
    asking = datagrams(role=Role.CLIENT, remote_port=53, **counts(1, 2, 3, 4), **counts(100, 0, 1, 0, prefix="other_"))
    asked = datagrams(
        SERVER, CLIENT, role=Role.SERVER, local_port=53, remote_port=999,
        **counts(10, 20, 30, 40), **counts(1, 1, 1, 1, prefix="other_"),
    )  # fmt: skip
    for row, owner in ((asking, 7), (asked, 11)):
        series.add(Datagrams().closed(row), owned(owner, row), START + 1)
    assert told(series) == {
        (7, "server", 53): (1, 2, 3, 4),
        (7, "", 0): (100, 0, 1, 0),
        (11, "server", 53): (11, 21, 31, 41),
    }
    assert series.numbers() == {7, 11}


def test_without_places_all_is_in_the_rest() -> None:
    series = DatagramSeries(START, 10**12)
    rows = joined(*(datagrams(role=Role.CLIENT, remote_port=port, **counts(1, 1, 1, 1)) for port in range(1, 24)))
    series.add(Datagrams().closed(rows), owned(7, rows), START + 1)
    series.add_to_rest((100, 200, 1, 2))
    assert series.reading().rest[0, : len(COUNTERS)].tolist() == [123, 223, 24, 25]
    series.end_cycle()
    assert series.folded == 23
    again = DatagramSeries(START, 10**12)
    again.restore(series.state())
    assert again.reading().rest[0, 0] == 123


def test_nothing_is_nothing() -> None:
    series = DatagramSeries(START, 10**12)
    nothing = Datagrams().closed(datagrams()[:0])
    series.add(nothing, owned(7, nothing.rows), START + 1)
    silent = Datagrams().closed(datagrams())
    series.add(silent, owned(7, silent.rows), START + 1)
    assert told(series) == {}

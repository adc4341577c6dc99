"""A pipeline that is replaced at any moment goes on as if it had not been: the same totals, series and start times."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings, strategies as st

from otel_netmon.abi import layout
from otel_netmon.abi.enums import FLOW_FORWARDED, Direction, Kind, hook_slot
from otel_netmon.analysis import differences, series as series_module
from otel_netmon.analysis.differences import Differences
from otel_netmon.analysis.edges import Edge
from otel_netmon.analysis.flows import BYTES, CONVERSATION
from otel_netmon.analysis.protocols import ProtocolTotals
from otel_netmon.analysis.series import CounterSeries, SeriesReading
from otel_netmon.analysis.traffic import Traffic
from otel_netmon.checkpoint import Checkpoint, State
from otel_netmon.readers.flows import FlowReading
from support.rows import counters, flow, flow_key, gains, reading, row_key, table

START = 1_700_000_000_000_000_000
INTERVAL = 10_000_000_000
EPHEMERAL = (32768, 60999)

HAND_OVERS = st.sets(st.integers(0, 12))
"""Readings before which another process takes over."""


@contextmanager
def saved() -> Iterator[Checkpoint]:
    """Memory to hand over in; hashes have one seed meanwhile, as it decides between new series of equal weight."""
    fds = [os.memfd_create(f"test-{turn}") for turn in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        for module in (differences, series_module):
            patch.setattr(module, "os", SimpleNamespace(urandom=lambda size: b"otel-netmon"[:size]))
        try:
            yield Checkpoint(fds)
        finally:
            for fd in fds:
                os.close(fd)


def through(checkpoint: Checkpoint, sections: dict[str, State]) -> dict[str, State]:
    """What another process reads of what this one saved."""
    checkpoint.save(sections)
    found = checkpoint.load()
    assert found is not None
    return found


def told(found: SeriesReading) -> list[Any]:
    """All that is told of series."""
    keys = [key.tobytes() for key in found.keys]
    series = zip(keys, found.values.T.tolist(), found.start_ns.tolist(), found.gained.T.tolist(), strict=True)
    return [list(series), found.slots.tolist(), found.rest.tolist(), found.rest_start_ns, found.active, found.folded]


# --------------------------------------------------------------------------------------------------------------- traffic
class Kernel:
    """flow_table, protocol_stats and hook_totals as the programs leave them, with flows that close."""

    def __init__(self) -> None:
        self._flows: dict[tuple[int, ...], list[int]] = {}
        self._rows: dict[tuple[int, ...], list[int]] = {}
        self.totals: dict[int, int] = {}

    def count(self, key: tuple[int, ...], packets: int, extra: int) -> None:
        client, ifindex, direction, forwarded = key
        row = self._flows.setdefault((client, ifindex, direction, forwarded and direction), [0, 0, 0, 0])
        for at, more in enumerate((packets, packets * 100 + client, extra, extra * 54)):
            row[at] += more
        self._hook(ifindex, direction, packets)

    def overflow(self, key: tuple[int, ...], packets: int) -> None:
        ifindex, direction, _ = key
        row = self._rows.setdefault(key, [0, 0, 0, 0])
        row[0] += packets
        row[1] += packets * 60
        self._hook(ifindex, direction, packets)

    def forget(self, ifindex: int) -> None:
        """Deletes what the reader deletes of an interface that is gone."""
        self._rows = {key: row for key, row in self._rows.items() if key[0] != ifindex}

    def _hook(self, ifindex: int, direction: int, packets: int) -> None:
        slot = hook_slot(ifindex, 0, direction)
        self.totals[slot] = self.totals.get(slot, 0) + packets

    def read(self, closing: set[int]) -> FlowReading:
        closed = [key for key in self._flows if key[0] in closing]
        rows = {
            key: (
                flow_key(f"198.18.1.{key[0]}", ifindex=key[1], direction=key[2], flags=FLOW_FORWARDED * key[3]),
                flow(*value, ingress_ifindex=key[0] % 4 * key[3]),
            )
            for key, value in self._flows.items()
        }
        made = reading(
            [rows[key] for key in rows if key not in closed],
            [rows[key] for key in closed],
            [
                (row_key(ifindex=key[0], direction=key[1], kind=key[2]), counters(*value))
                for key, value in self._rows.items()
            ],
        )
        for key in closed:
            del self._flows[key]
        return made


FLOWS = st.dictionaries(
    st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(0, 1), st.integers(0, 1)),
    st.tuples(st.integers(1, 9), st.integers(0, 3)),
    max_size=12,
)
OVERFLOWS = st.dictionaries(
    st.tuples(st.integers(1, 3), st.integers(0, 1), st.sampled_from([Kind.OVERFLOW, Kind.OVERFLOW_FORWARDED])),
    st.integers(1, 9),
    max_size=3,
)
EDGES = st.dictionaries(
    st.integers(1, 3),
    st.builds(Edge, st.booleans(), st.booleans(), st.frozensets(st.integers(0, 5), max_size=3)),
)
CYCLES = st.lists(
    st.tuples(FLOWS, OVERFLOWS, st.sets(st.integers(1, 6)), st.integers(0, 6), st.none() | EDGES, st.booleans()),
    max_size=10,
)


def everything(traffic: Traffic, found: SeriesReading) -> list[Any]:
    totals, conservation = traffic.totals, traffic.conservation
    return [
        told(found),
        totals.counted,
        totals.handed_over,
        totals.wire,
        totals.packets_by_slot(),
        (conservation.missing, conservation.attributed),
        traffic.gained.conversations.tobytes(),
        traffic.interfaces(),
    ]


@settings(max_examples=200, deadline=None)
@given(cycles=CYCLES, hand_overs=HAND_OVERS, idle=st.sampled_from([0, 2]), physical=st.sets(st.integers(1, 3)))
def test_traffic_goes_on_in_another_process(
    cycles: list[Any], hand_overs: set[int], idle: int, physical: set[int]
) -> None:
    """Interfaces change, flows close, the limit moves, an interface goes after its last reading."""

    def made() -> Traffic:
        return Traffic(6, START, EPHEMERAL, idle * INTERVAL)

    whole, replaced, kernel = made(), made(), Kernel()
    with saved() as checkpoint:
        for number, (flows, overflows, closing, limit, edges, goes) in enumerate(cycles, start=1):
            if number - 1 in hand_overs:
                state = through(checkpoint, replaced.state())
                replaced = made()
                replaced.restore(state)
            for key, (packets, extra) in flows.items():
                kernel.count(key, packets, extra)
            for key, packets in overflows.items():
                kernel.overflow(key, packets)
            found = kernel.read(closing)
            results = []
            for traffic in (whole, replaced):
                if edges is not None:
                    traffic.set_interfaces(
                        {(0, index): edge for index, edge in edges.items()}, [(0, index) for index in physical]
                    )
                traffic.flows.limit = limit
                result = traffic.update(found, dict(kernel.totals), START + number * INTERVAL)
                results.append(everything(traffic, result))
                if goes:
                    traffic.forget({(0, 1)})
            if goes:
                kernel.forget(1)
            assert results[0] == results[1]
            assert (whole.conservation.missing, whole.conservation.attributed) == (0, sum(kernel.totals.values()))


# ------------------------------------------------------------------------------------------------------------- the parts
AMOUNTS = st.tuples(*[st.integers(0, 2**40)] * 4)
TOTALS = st.tuples(
    st.dictionaries(st.tuples(st.integers(1, 3), st.integers(0, 1), st.sampled_from([6, 17])), AMOUNTS),
    st.dictionaries(
        st.tuples(st.integers(1, 3), st.sampled_from([Kind.OTHER, Kind.UNPARSED]), st.integers(0, 2)), AMOUNTS
    ),
    st.sets(st.tuples(st.just(0), st.integers(1, 3))),
    st.sets(st.tuples(st.just(0), st.integers(1, 3))),
)


@settings(max_examples=100, deadline=None)
@given(readings=st.lists(TOTALS, max_size=6), hand_overs=HAND_OVERS)
def test_totals_go_on_in_another_process(readings: list[Any], hand_overs: set[int]) -> None:
    whole, replaced = ProtocolTotals(START), ProtocolTotals(START)
    with saved() as checkpoint:
        for number, (flows, rows, physical, gone) in enumerate(readings, start=1):
            if number - 1 in hand_overs:
                state = through(checkpoint, {"totals": replaced.state()})
                replaced = ProtocolTotals(START)
                replaced.restore(state["totals"])
            for totals in (whole, replaced):
                totals.physical |= physical
                keys = [flow_key(ifindex=index, direction=way, protocol=number) for index, way, number in flows]
                totals.add_flows(table(keys, layout.FLOW_KEY), gains(*flows.values()))
                named = [row_key(ifindex=index, kind=kind, ethertype=0, reason=reason) for index, kind, reason in rows]
                totals.add_rows(table(named, layout.PROTOCOL_KEY), gains(*rows.values()))
                totals.end_reading(START + number)
                totals.forget(gone)
            assert (whole.counted, whole.handed_over, whole.wire, whole.physical, whole.packets_by_slot()) == (
                replaced.counted,
                replaced.handed_over,
                replaced.wire,
                replaced.physical,
                replaced.packets_by_slot(),
            )


KEY = np.dtype([("address", "u1", 8), ("number", ">u4")])
VALUE = np.dtype([("packets", "<u8"), ("bytes", "<u8")])


def rows_of(table: dict[int, int]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    keys, values = np.zeros(len(table), KEY), np.zeros(len(table), VALUE)
    keys["number"] = list(table)
    values["packets"] = list(table.values())
    values["bytes"] = [count * 100 for count in table.values()]
    return keys, values


@settings(max_examples=100, deadline=None)
@given(tables=st.lists(st.dictionaries(st.integers(0, 9), st.integers(0, 2**56)), max_size=8), hand_overs=HAND_OVERS)
def test_differences_go_on_in_another_process(tables: list[dict[int, int]], hand_overs: set[int]) -> None:
    whole, replaced = Differences(("packets", "bytes")), Differences(("packets", "bytes"))
    with saved() as checkpoint:
        for number, rows in enumerate(tables):
            if number in hand_overs:
                state = through(checkpoint, {"rows": replaced.state()})
                replaced = Differences(("packets", "bytes"))
                replaced.restore(state["rows"])
            assert whole.update(*rows_of(rows)).tolist() == replaced.update(*rows_of(rows)).tolist()


@settings(max_examples=200, deadline=None)
@given(
    cycles=st.lists(
        st.tuples(
            st.lists(st.tuples(st.integers(0, 12), st.integers(0, 1), st.integers(0, 20), st.integers(0, 5))),
            st.integers(0, 12),
            st.tuples(st.integers(0, 9), st.integers(0, 9)),
        ),
        max_size=10,
    ),
    hand_overs=HAND_OVERS,
    idle=st.sampled_from([0, 2]),
)
def test_series_go_on_in_another_process(cycles: list[Any], hand_overs: set[int], idle: int) -> None:
    def made() -> CounterSeries:
        return CounterSeries(CONVERSATION, 2, len(Direction), 12, START, idle * INTERVAL)

    whole, replaced = made(), made()
    with saved() as checkpoint:
        for number, (rows, limit, unplaced) in enumerate(cycles, start=1):
            if number - 1 in hand_overs:
                state = through(checkpoint, {"series": replaced.state()})
                replaced = made()
                replaced.restore(state["series"])
            keys = np.zeros(len(rows), CONVERSATION)
            keys["server_port"] = [row[0] for row in rows]
            keys["direction"] = [row[1] for row in rows]
            packets = np.array([row[2] for row in rows], np.uint64)
            octets = np.array([row[2] * row[3] for row in rows], np.uint64)
            for series in (whole, replaced):
                series.limit = limit
                series.begin_cycle()
                series.add_to_rest(number % 2, unplaced)
                series.update(
                    keys,
                    np.stack([packets, octets]),
                    BYTES,
                    keys["direction"].astype(np.intp),
                    START + number * INTERVAL,
                )
            assert told(whole.reading()) == told(replaced.reading())

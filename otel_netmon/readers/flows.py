"""flow_table, protocol_stats and hook_totals of the tc programs, and how idle flows leave without losing a packet."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.abi import layout
from otel_netmon.abi.enums import FILTER_SIZE, FLOW_KEY_SIZE, SWEEP_HEADER_SIZE, SWEEP_KEYS_MAX, hook_slot
from otel_netmon.kernel import syscalls
from otel_netmon.readers.maps import ArrayReader, HashReader, of_interfaces, sum_over_cpus

TICK_RATES = (100, 250, 300, 1000)  # every CONFIG_HZ there is
STALE_SHARE = 8  # flow_filter is made anew when an eighth of the table has left it
INITIAL_JIFFIES_SECONDS = 300  # jiffies64 starts 300 s before its low 32 bits wrap (include/linux/jiffies.h)


class FlowMaps(NamedTuple):
    """File descriptors of one loaded tc_monitor, and the size of its flow_table in entries."""

    flow_table: int
    protocol_stats: int
    hook_totals: int
    agent_state: int
    flow_filter: int
    sweep_program: int
    mark_program: int
    clock_program: int
    flow_entries: int
    protocol_entries: int


class FlowReading(NamedTuple):
    """One reading. keys and flows are rows of equal length; closed rows have left the table for good.

    protocol_keys and protocol_counters are the rows of protocol_stats, summed over CPUs.
    """

    keys: npt.NDArray[Any]
    flows: npt.NDArray[Any]
    closed_keys: npt.NDArray[Any]
    closed_flows: npt.NDArray[Any]
    protocol_keys: npt.NDArray[Any]
    protocol_counters: npt.NDArray[Any]
    state: npt.NDArray[Any]
    monotonic_ns: int


def tick_rate(jiffies: int, monotonic_ns: int) -> int:
    """Tells CONFIG_HZ from one simultaneous reading of both clocks, or 0 where none of the known rates fits.

    jiffies64 begins at 2^32 - 300 s and both clocks stop during suspend, so only one rate gives the same uptime.
    """
    best = min(TICK_RATES, key=lambda hz: abs((jiffies - _initial(hz)) / hz - monotonic_ns / 1e9))
    error = abs((jiffies - _initial(best)) / best - monotonic_ns / 1e9)
    return best if error < 5 + monotonic_ns / 1e9 * 0.01 else 0


def _initial(hz: int) -> int:
    return (1 << 32) - INITIAL_JIFFIES_SECONDS * hz


def _parts(keys: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """As many keys at a time as one run of a program takes."""
    for start in range(0, len(keys), SWEEP_KEYS_MAX):
        yield keys[start : start + SWEEP_KEYS_MAX]


class FlowReader:
    """Reads the maps of a loaded tc_monitor.

    Args:
        maps: their file descriptors.
        idle_seconds: a flow without a packet for this long leaves the table.
    """

    def __init__(self, maps: FlowMaps, idle_seconds: float) -> None:
        cpus = syscalls.possible_cpus()
        self._table = HashReader(maps.flow_table, layout.FLOW_KEY, layout.FLOW, maps.flow_entries)
        self._rows = HashReader(maps.protocol_stats, layout.PROTOCOL_KEY, layout.COUNTERS, maps.protocol_entries, cpus)
        self._totals = ArrayReader(maps.hook_totals, layout.COUNTERS, cpus)
        self._state = ArrayReader(maps.agent_state, layout.STATE)
        self._sweep = syscalls.TestRun(maps.sweep_program, SWEEP_HEADER_SIZE + SWEEP_KEYS_MAX * FLOW_KEY_SIZE)
        self._marking = syscalls.TestRun(maps.mark_program, SWEEP_HEADER_SIZE + SWEEP_KEYS_MAX * FLOW_KEY_SIZE)
        self._clock = syscalls.TestRun(maps.clock_program, SWEEP_HEADER_SIZE)
        self._filter = maps.flow_filter
        self._stale_slots = 0
        self._stale_slots_most = maps.flow_entries // STALE_SHARE
        self.idle_seconds = idle_seconds
        self.protocol_entries = maps.protocol_entries
        self.tick_rate = 0

    def read(self) -> FlowReading:
        """Reads everything once. Flows idle for long enough are marked, given a grace period, and read a last time.

        ``delete_closed`` then takes them out of the table, once what they held is safe.
        """
        self._clock.run(bytes(SWEEP_HEADER_SIZE))
        state = self._state.read(0)
        if not self.tick_rate:
            self.tick_rate = tick_rate(int(state["jiffies"]), int(state["monotonic_ns"])) or self._measured_rate(state)
        keys, flows = self._table.read()
        closed = np.zeros(len(keys), bool)
        idle = int(self.idle_seconds * self.tick_rate)
        leaving = (flows["last"] + np.uint64(idle) < state["jiffies"]) | (flows["closing"] != 0)
        if leaving.any():
            for part in _parts(keys[leaving]):
                self._sweep.run(bytes(SWEEP_HEADER_SIZE) + part.tobytes(), (len(part), idle, 0, 0, 0))
            try:
                syscalls.rcu_grace_period()
            except OSError:
                time.sleep(0.1)  # nohz_full refuses membarrier; no program runs this long
            keys, flows = self._table.read()
            closed = flows["closing"] != 0
        closed_keys, closed_flows = keys[closed], flows[closed]
        if len(closed_keys):
            keys, flows = keys[~closed], flows[~closed]
        protocol_keys, counters = sum_over_cpus(*self._rows.read())
        return FlowReading(
            keys, flows, closed_keys, closed_flows, protocol_keys, counters, state, int(state["monotonic_ns"])
        )

    def delete_closed(self, reading: FlowReading) -> None:
        """Deletes the closed rows of a reading."""
        if not len(reading.closed_keys):
            return
        self._table.delete(reading.closed_keys)
        self._stale_slots += len(reading.closed_keys)
        if self._stale_slots > self._stale_slots_most:
            self._mark_anew(reading.keys)

    def delete_told(self, keys: npt.NDArray[Any], flows: npt.NDArray[Any]) -> int:
        """Deletes what an earlier process had read a last time and not deleted yet; gives how many rows that were.

        Args:
            keys, flows: closed rows of its last reading. A row made anew since then began at another time and stays.
        """
        if not len(keys):
            return 0
        present, values = self._table.read()
        leaving = {key.tobytes(): int(first) for key, first in zip(keys, flows["first_ns"], strict=True)}
        closing = np.flatnonzero(values["closing"])
        told = [i for i in closing.tolist() if leaving.get(present[i].tobytes()) == int(values["first_ns"][i])]
        return self._table.delete(present[told])

    def forget(self, gone: Collection[tuple[int, int]]) -> None:
        """Deletes the rows of protocol_stats of interfaces (namespace, ifindex) that are gone, after their last reading."""
        keys, _ = self._rows.read()
        self._rows.delete(keys[of_interfaces(keys, gone)])

    def totals(self, interfaces: Iterable[tuple[int, int, int]]) -> dict[int, npt.NDArray[Any]]:
        """Gives hook_totals by slot for (ifindex, namespace, direction): COUNTERS summed over CPUs, shape ()."""
        result: dict[int, npt.NDArray[Any]] = {}
        for ifindex, namespace, direction in interfaces:
            slot = hook_slot(ifindex, namespace, direction)
            if slot not in result:
                per_cpu = self._totals.read(slot)
                total = np.zeros((), layout.COUNTERS)
                for field in layout.COUNTERS.names or ():
                    total[field] = per_cpu[field].sum(dtype=np.uint64)
                result[slot] = total
        return result

    def _mark_anew(self, keys: npt.NDArray[Any]) -> None:
        """Clears flow_filter of flows that have left, and sets it for those that are in the table.

        Meanwhile it allows every flow; what the kernel inserts it marks itself.
        """
        syscalls.map_update(self._filter, bytes(4), b"\1" + bytes(FILTER_SIZE - 1))
        for part in _parts(keys):
            self._marking.run(bytes(SWEEP_HEADER_SIZE) + part.tobytes(), (len(part), 0, 0, 0, 0))
        self._marking.run(bytes(SWEEP_HEADER_SIZE), (0, 1, 0, 0, 0))
        self._stale_slots = 0

    def _measured_rate(self, first: npt.NDArray[Any]) -> int:
        time.sleep(0.2)  # once at start, on a kernel whose clocks tell nothing: suspended clocks, patched rates
        self._clock.run(bytes(SWEEP_HEADER_SIZE))
        second = self._state.read(0)
        seconds = (int(second["monotonic_ns"]) - int(first["monotonic_ns"])) / 1e9
        measured = (int(second["jiffies"]) - int(first["jiffies"])) / seconds
        return min(TICK_RATES, key=lambda hz: abs(hz - measured))

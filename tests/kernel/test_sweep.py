"""Idle flows leave the table without losing a packet, while traffic goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from otel_netmon.abi import layout
from otel_netmon.abi.enums import FILTER_SIZE, SWEEP_HEADER_SIZE, SWEEP_KEYS_MAX, Direction, Kind
from otel_netmon.analysis.differences import Differences
from otel_netmon.analysis.protocols import COUNTERS, Conservation, ProtocolTotals
from otel_netmon.kernel import links, syscalls
from otel_netmon.kernel.namespaces import find_namespace
from otel_netmon.readers.flows import FlowMaps, FlowReader, FlowReading, tick_rate
from support import frames as f
from support.netns import veth_pair
from support.programs import LOOPBACK, Programs, Row

pytestmark = pytest.mark.kernel

DEADLINE_SECONDS = 20.0
LOOPBACK_RECEIVES = [(LOOPBACK, 0, Direction.RECEIVE)]


def reader(tc: Programs, idle_seconds: float) -> FlowReader:
    maps, sizes = tc.loaded.maps, tc.loaded.definitions
    return FlowReader(
        FlowMaps(
            flow_table=maps["flow_table"],
            protocol_stats=maps["protocol_stats"],
            hook_totals=maps["hook_totals"],
            agent_state=maps["agent_state"],
            flow_filter=maps["flow_filter"],
            sweep_program=tc.program("netmon_sweep"),
            mark_program=tc.program("netmon_mark"),
            clock_program=tc.program("netmon_clock"),
            flow_entries=sizes["flow_table"].max_entries,
            protocol_entries=sizes["protocol_stats"].max_entries,
        ),
        idle_seconds,
    )


class Ledger:
    """What all readings so far say was counted, and the promise that it is all the hook saw."""

    def __init__(self, tc: Programs, idle_seconds: float, sides: list[tuple[int, int, Direction]]) -> None:
        self._reader = reader(tc, idle_seconds)
        self._sides = sides
        self._flows, self._rows = Differences(COUNTERS), Differences(COUNTERS)
        self._totals, self._conservation = ProtocolTotals(0), Conservation()
        self.closed = 0
        self.overflow = 0

    def read(self) -> FlowReading:
        before = {slot: int(total["packets"]) for slot, total in self._reader.totals(self._sides).items()}
        reading = self._reader.read()
        keys = np.concatenate([reading.keys, reading.closed_keys])
        gains = self._flows.update(reading.keys, reading.flows, reading.closed_keys, reading.closed_flows)
        self._totals.add_flows(keys, gains)
        row_gains = self._rows.update(reading.protocol_keys, reading.protocol_counters)
        self._totals.add_rows(reading.protocol_keys, row_gains)
        self._conservation.check(before, self._totals.packets_by_slot())
        assert self._conservation.missing == 0
        self._reader.delete_closed(reading)
        self.closed += len(reading.closed_keys)
        kinds = reading.protocol_keys["kind"]
        self.overflow += int(row_gains[0][(kinds == Kind.OVERFLOW) | (kinds == Kind.OVERFLOW_FORWARDED)].sum())
        return reading

    def read_until(self, condition: str, live: int) -> FlowReading:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            reading = self.read()
            if len(reading.keys) == live:
                return reading
            assert time.monotonic() < deadline, condition
            time.sleep(0.02)

    @property
    def counted(self) -> tuple[int, int]:
        """Packets and bytes as handed over."""
        sums = [sum(side[n] for side in self._totals.handed_over.values()) for n in (0, 1)]
        return sums[0], sums[1]


@pytest.fixture
def tc() -> Iterator[Programs]:
    with Programs("tc_monitor", sizes={"flow_table": 4096}) as programs:
        yield programs


def datagram(number: int, payload: bytes = b"") -> bytes:
    return f.ethernet(f.ipv4(f.udp(payload, source=number & 0xFFFF, destination=number >> 16)))


def swept(tc: Programs, keys: Any, idle_jiffies: int) -> int:
    run = tc.runner("netmon_sweep").run
    return run(bytes(SWEEP_HEADER_SIZE) + keys.tobytes(), (len(keys), idle_jiffies, 0, 0, 0))


# ---------------------------------------------------------------------------------------------------------------- steps
def test_the_sweep_marks_what_is_idle_and_nothing_else(tc: Programs) -> None:
    for number in range(10):
        tc.runner().run(datagram(number))
    keys, _ = tc.flow_reader.read()
    keys = keys.copy()
    assert swept(tc, keys, 1 << 30) == 0
    assert swept(tc, keys[:4], 0) == 4
    assert swept(tc, keys[:0], 0) == 0
    found, flows = tc.flow_reader.read()
    marked = {key.tobytes() for key, flow in zip(found, flows, strict=True) if flow["closing"]}
    assert marked == {key.tobytes() for key in keys[:4]}


def test_what_another_cpu_counts_meanwhile_is_not_idle(tc: Programs) -> None:
    """It has a later time than the sweep began with."""
    tc.runner().run(datagram(1))
    keys, flows = tc.flow_reader.read()
    keys, flows = keys.copy(), flows.copy()
    flows["last"] += 1000
    syscalls.map_update(tc.loaded.maps["flow_table"], keys[0].tobytes(), flows[0].tobytes())
    assert swept(tc, keys, 0) == swept(tc, keys, 1000) == 0


def test_the_sweep_takes_its_whole_frame_and_skips_keys_that_are_gone(tc: Programs) -> None:
    for number in range(SWEEP_KEYS_MAX + 5):
        tc.runner().run(datagram(number))
    keys = tc.flow_reader.read()[0].copy()
    assert swept(tc, keys[:SWEEP_KEYS_MAX], 0) == SWEEP_KEYS_MAX
    tc.flow_reader.delete(keys[:3])
    assert swept(tc, keys[:SWEEP_KEYS_MAX], 0) == SWEEP_KEYS_MAX - 3
    run = tc.runner("netmon_sweep").run
    assert run(bytes(SWEEP_HEADER_SIZE) + keys[:5].tobytes(), (64, 0, 0, 0, 0)) == 2, "no more than the frame holds"


def test_a_closing_flow_counts_nothing_any_more_and_its_packets_are_not_lost(tc: Programs) -> None:
    frame = datagram(7, b"query")
    tc.runner().run(frame)
    keys = tc.flow_reader.read()[0].copy()
    swept(tc, keys, 0)
    for _ in range(3):
        tc.runner().run(frame)
    (flow,) = tc.flows().values()
    assert (flow["packets"], flow["closing"]) == (1, 1)
    row = tc.rows()[Row(Kind.OVERFLOW, f.IPV4, f.UDP, 0)]
    assert (row["packets"], row["bytes"]) == (3, 3 * len(frame))
    assert tc.totals()["packets"] == 4
    tc.flow_reader.delete(keys)
    tc.runner().run(frame)
    (flow,) = tc.flows().values()
    assert (flow["packets"], flow["closing"]) == (1, 0)


def test_the_mark_program_sets_the_slots_of_the_keys_it_is_given(tc: Programs) -> None:
    for number in range(100):
        tc.runner().run(datagram(number))
    table = tc.loaded.maps["flow_filter"]
    by_insert = syscalls.map_lookup(table, bytes(4), FILTER_SIZE)
    assert by_insert is not None
    assert 90 < sum(by_insert[8:]) <= 100, "a good hash has few collisions among 262144 slots"
    syscalls.map_update(table, bytes(4), b"\1" + bytes(FILTER_SIZE - 1))
    keys = tc.flow_reader.read()[0].copy()
    run = tc.runner("netmon_mark").run
    for start in (0, 64):
        part = keys[start : start + SWEEP_KEYS_MAX]
        assert run(bytes(SWEEP_HEADER_SIZE) + part.tobytes(), (len(part), 0, 0, 0, 0)) == len(part)
    by_mark = syscalls.map_lookup(table, bytes(4), FILTER_SIZE)
    assert by_mark == b"\1" + by_insert[1:]
    run(bytes(SWEEP_HEADER_SIZE), (0, 1, 0, 0, 0))
    assert syscalls.map_lookup(table, bytes(4), FILTER_SIZE) == by_insert


def test_the_clock_program_reads_both_clocks_at_once(tc: Programs) -> None:
    tc.runner("netmon_clock").run(bytes(16))
    state = tc.state()
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    assert now - 60_000_000_000 < state["monotonic_ns"] <= now
    rate = tick_rate(state["jiffies"], state["monotonic_ns"])
    assert rate in (0, 100, 250, 300, 1000)
    reader(tc, 60).read()


@pytest.mark.parametrize("rate", [100, 250, 300, 1000])
@pytest.mark.parametrize("uptime", [0.0, 10.0, 3600.0, 3e7])
def test_the_tick_rate_follows_from_one_reading_of_both_clocks(rate: int, uptime: float) -> None:
    jiffies = (1 << 32) - 300 * rate + int(uptime * rate)
    assert tick_rate(jiffies, int(uptime * 1e9)) == rate


def test_a_tick_rate_that_nobody_has_is_not_guessed() -> None:
    assert tick_rate((1 << 32) - 300 * 77 + 77 * 100_000, 100_000 * 10**9) == 0


# -------------------------------------------------------------------------------------------------------------- readings
def test_idle_flows_leave_with_their_last_count(tc: Programs) -> None:
    ledger = Ledger(tc, 0.05, LOOPBACK_RECEIVES)
    for number in range(211):
        tc.runner().run(datagram(number))
    ledger.read_until("the flows did not leave", 0)
    assert ledger.closed == 211
    assert ledger.counted == (211, 211 * len(datagram(0)))
    assert tc.flows() == {}
    tc.runner().run(datagram(3))
    ledger.read_until("the flow did not leave again", 0)
    assert ledger.counted == (212, 212 * len(datagram(0)))


def test_busy_flows_stay(tc: Programs) -> None:
    ledger = Ledger(tc, 600.0, LOOPBACK_RECEIVES)
    for _ in range(3):
        for number in range(50):
            tc.runner().run(datagram(number))
        assert len(ledger.read().keys) == 50
    assert (ledger.closed, ledger.counted[0]) == (0, 150)


def test_a_flow_marked_by_an_earlier_reader_is_taken_by_the_next(tc: Programs) -> None:
    """A pipeline process that was killed between mark and delete leaves rows that are closing."""
    for number in range(5):
        tc.runner().run(datagram(number))
    swept(tc, tc.flow_reader.read()[0][:2].copy(), 0)
    ledger = Ledger(tc, 600.0, LOOPBACK_RECEIVES)
    assert len(ledger.read().keys) == 3
    assert (ledger.closed, ledger.counted[0]) == (2, 5)


def test_what_closed_stays_in_the_table_until_it_is_deleted(tc: Programs) -> None:
    flow_reader = reader(tc, 600.0)
    for number in range(5):
        tc.runner().run(datagram(number))
    swept(tc, tc.flow_reader.read()[0][:2].copy(), 0)
    reading = flow_reader.read()
    assert (len(reading.keys), len(reading.closed_keys), len(tc.flows())) == (3, 2, 5)
    flow_reader.delete_closed(reading)
    assert len(tc.flows()) == 3
    flow_reader.delete_closed(reading)
    flow_reader.delete_closed(flow_reader.read())
    assert len(tc.flows()) == 3


def test_another_reader_deletes_what_was_told_and_nothing_that_came_after(tc: Programs) -> None:
    for number in range(5):
        tc.runner().run(datagram(number))
    swept(tc, tc.flow_reader.read()[0][:4].copy(), 0)
    reading = reader(tc, 600.0).read()
    closed = reading.closed_keys.copy(), reading.closed_flows.copy()
    assert len(closed[0]) == 4
    tc.flow_reader.delete(closed[0][:2])
    for number in range(5):
        tc.runner().run(datagram(number))
    assert len(tc.flows()) == 5, "two came back, one was there and two are still closing"
    swept(tc, closed[0][:1], 0)  # one that came back closes again: nobody has told that
    other = reader(tc, 600.0)
    assert other.delete_told(closed[0][:0], closed[1][:0]) == 0
    assert other.delete_told(*closed) == 2
    left = {key.tobytes() for key in tc.flow_reader.read()[0]}
    assert left == {key.tobytes() for key in (*reading.keys, *closed[0][:2])}
    assert len(other.read().closed_keys) == 1


def test_a_full_table_has_room_again_when_flows_have_left() -> None:
    with Programs("tc_monitor", sizes={"flow_table": 64}) as tc:
        ledger = Ledger(tc, 0.05, LOOPBACK_RECEIVES)
        sent = 0
        for _ in range(3):
            for number in range(200):
                tc.runner().run(datagram(sent * 1000 + number))
            sent += 200
            assert len(tc.flows()) == 64
            ledger.read_until("the table was not emptied", 0)
            assert ledger.counted[0] == sent
            deadline = time.monotonic() + DEADLINE_SECONDS
            while len(tc.flows()) == 0:  # the kernel tries no insert for some ticks after one was refused
                assert time.monotonic() < deadline, "no flow found a place in an empty table"
                tc.runner().run(datagram(sent))
                sent += 1
            ledger.read_until("the table was not emptied", 0)
        assert ledger.counted == (sent, sent * len(datagram(0)))
        assert ledger.overflow > 0


def test_more_flows_than_a_batch_leave_while_others_stay() -> None:
    with Programs("tc_monitor", sizes={"flow_table": 16384}) as tc:
        ledger = Ledger(tc, 1.0, LOOPBACK_RECEIVES)
        for number in range(10_007):
            tc.runner().run(datagram(number))
        deadline = time.monotonic() + DEADLINE_SECONDS
        sent = 10_007
        while True:
            for number in range(23):
                tc.runner().run(datagram(number))
            sent += 23
            if len(ledger.read().keys) == 23:
                break
            assert time.monotonic() < deadline, "the idle ones did not leave"
        assert ledger.counted[0] == sent
        assert ledger.closed == 10_007 - 23


def test_totals_of_slots_are_read_once(tc: Programs) -> None:
    tc.runner().run(datagram(1))
    tc.runner("netmon_transmit").run(datagram(1))
    found = reader(tc, 60).totals([(1, 0, 0), (1, 0, 1), (1, 0, 0), (2, 0, 0)])
    assert {slot: int(total["packets"]) for slot, total in found.items()} == {2: 1, 3: 1, 4: 0}
    assert all(total.dtype == layout.COUNTERS and total.shape == () for total in found.values())


# --------------------------------------------------------------------------------------------------------------- at once
SENDER = """
import random, socket, sys, time
sockets = []
for port in range(20000, 20000 + 400):
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("198.18.0.1", port))
    sockets.append(made)
generator = random.Random(5)
sent = octets = 0
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    window = int(time.monotonic() * 400) % 380  # a group of ports that moves: flows fall idle and come back
    for _ in range(50):
        payload = bytes(generator.randrange(100))
        sockets[window + generator.randrange(20)].sendto(payload, ("198.18.0.2", 9))
        sent += 1
        octets += len(payload) + 42
print(sent, octets)
"""


def test_nothing_is_lost_while_flows_leave_and_come_back_under_traffic() -> None:
    """Another process sends for some seconds; flows fall idle after 0.2 s and are swept ten times a second."""
    with veth_pair() as (left, right, pair), Programs("tc_monitor", sizes={"flow_table": 256}) as tc:
        namespace = find_namespace(left.name)
        assert namespace is not None
        index = left.index(pair.left)
        link = links.attach_tcx(namespace, index, Direction.TRANSMIT, tc.program("netmon_transmit"))
        sender = None
        try:
            right.run("sysctl", "-qw", "net.ipv4.icmp_ratelimit=0", "net.ipv4.icmp_ratemask=0")
            ledger = Ledger(tc, 0.2, [(index, 0, Direction.TRANSMIT)])
            command = left.command(sys.executable, "-c", SENDER, "4")
            sender = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            readings = 0
            while sender.poll() is None:
                ledger.read()
                readings += 1
                time.sleep(0.05)
            assert sender.stdout is not None
            sent, octets = map(int, sender.stdout.read().split())
            ledger.read_until("the flows did not leave", 0)
        finally:
            if sender is not None:
                sender.kill()
                sender.wait()
                if sender.stdout is not None:
                    sender.stdout.close()
            os.close(link)
            namespace.close()
        assert ledger.counted == (sent, octets)
        assert tc.totals(Direction.TRANSMIT, index)["packets"] == sent
        assert ledger.closed > 400, "every port left, some more than once"
        assert readings > 20
        assert tc.state()["full_events"] == 0 or ledger.overflow > 0


def at_once(count: int, work: Callable[[], None]) -> None:
    """The same work in so many processes at once."""
    children = []
    for _ in range(count):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                work()
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * count


def test_cpus_that_meet_at_a_new_flow_lose_nothing(tc: Programs) -> None:
    """Several processes insert the same flows at once: one wins, the others add to what it made."""
    program, rounds, flows = tc.program("netmon_receive"), 30, 200

    def work() -> None:
        run = syscalls.TestRun(program, 200).run
        for _ in range(rounds):
            for number in range(flows):
                run(datagram(number))

    at_once(4, work)
    found = tc.flows()
    assert Counter(flow["packets"] for flow in found.values()) == {4 * rounds: flows}
    assert tc.totals()["packets"] == 4 * rounds * flows
    assert tc.state()["inserts"] == flows


def test_cpus_that_meet_at_one_flow_lose_nothing(tc: Programs) -> None:
    """The kernel runs the program again and again in one call, in several processes: only atomic additions are exact."""
    times, frame = 300_000, datagram(7, b"query")
    program = tc.program("netmon_receive")

    def work() -> None:
        syscalls.TestRun(program, 200).repeat(frame, times)

    at_once(4, work)
    (flow,) = tc.flows().values()
    assert (flow["packets"], flow["bytes"]) == (4 * times, 4 * times * len(frame))
    assert (tc.totals()["packets"], tc.totals()["bytes"]) == (4 * times, 4 * times * len(frame))

"""clsact filters next to those of others; this kernel has TCX too, but clsact works as on those that have not."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from pyroute2 import IPRoute

from otel_netmon.abi.enums import Direction
from otel_netmon.errors import KernelLacksError, PrivilegeError
from otel_netmon.kernel import syscalls
from otel_netmon.kernel.clsact import FILTER_NAME, FILTER_NAME_WITH_QDISC, Clsact
from otel_netmon.kernel.interfaces import Interface, InterfaceTable
from otel_netmon.kernel.namespaces import Namespace, opened_in
from otel_netmon.kernel.rtnetlink import RtnetlinkError
from support.netns import NetNs, open_files, veth_pair
from support.sightings import Sightings

pytestmark = pytest.mark.kernel

DEADLINE_SECONDS = 20
FRAME = bytes.fromhex("ffffffffffff02000000000188b5").ljust(64, b"\0")
FRAMES = 23
RX, TX = Direction.RECEIVE, Direction.TRANSMIT
HOOK = {RX: "ingress", TX: "egress"}
PARENT = {RX: 0xFFFFFFF2, TX: 0xFFFFFFF3}


class Place(NamedTuple):
    """A veth end in a namespace of its own, watched, and the far end."""

    netns: NetNs
    far: NetNs
    namespace: Namespace
    interface: Interface
    seen: Sightings

    def program(self, direction: Direction) -> int:
        return self.seen.program(self.interface, direction)

    def counted(self, direction: Direction) -> int:
        rows = self.seen.rows()
        return sum(frames for (_, way, _, size), frames in rows.items() if (way, size) == (direction, len(FRAME)))

    def send_both_ways(self) -> None:
        self.netns.send_frames("left", [FRAME] * FRAMES)
        self.far.send_frames("right", [FRAME] * FRAMES)


@pytest.fixture
def place() -> Iterator[Place]:
    with veth_pair() as (netns, far, _), InterfaceTable([netns.name], include=["left"]) as table:
        table.refresh()
        (interface,) = table.monitored.values()
        seen = Sightings(table)
        try:
            yield Place(netns, far, table.namespaces[interface.namespace], interface, seen)
        finally:
            seen.close()


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    before = open_files()
    yield
    assert open_files() == before


def filters(netns: NetNs, direction: Direction) -> list[dict[str, Any]]:
    """What `tc` lists, but for the rows that stand for a priority as a whole."""
    listed = json.loads(netns.run("tc", "-json", "filter", "show", "dev", "left", HOOK[direction]) or "[]")
    return [row for row in listed if "options" in row]


def ours(netns: NetNs, direction: Direction) -> list[dict[str, Any]]:
    return [row for row in filters(netns, direction) if str(row["options"].get("bpf_name", "")).startswith(FILTER_NAME)]


def foreign(netns: NetNs) -> list[dict[str, Any]]:
    return [row for way in Direction for row in filters(netns, way) if row not in ours(netns, way)]


def qdiscs(netns: NetNs) -> list[str]:
    return [row["kind"] for row in json.loads(netns.run("tc", "-json", "qdisc", "show", "dev", "left"))]


def add_clsact(place: Place) -> None:
    place.netns.run("tc", "qdisc", "add", "dev", "left", "clsact")


@contextmanager
def verdict(value: int) -> Iterator[int]:
    """A program that only gives a verdict."""
    code = struct.pack("<BBhi", 0xB7, 0, 0, value) + struct.pack("<BBhi", 0x95, 0, 0, 0)
    program, _ = syscalls.program_load(syscalls.PROG_TYPE_SCHED_CLS, code, "foreign")
    try:
        yield program
    finally:
        os.close(program)


def add_foreign_bpf(place: Place, value: int, *, priority: int) -> None:
    with verdict(value) as program, opened_in(place.namespace, IPRoute) as route:
        for parent in PARENT.values():
            route.tc(
                "add-filter", "bpf", place.interface.index, 1,
                fd=program, name="foreign", parent=parent, direct_action=True, prio=priority,
            )  # fmt: skip


def add_foreign_u32(place: Place, *, priority: int) -> None:
    for hook in HOOK.values():
        arguments = ("dev", "left", hook, "protocol", "ip", "prio", str(priority), "u32", "match", "u32", "0", "0")
        place.netns.run("tc", "filter", "add", *arguments, "flowid", "1:1")


Foreign = Callable[[Place], None]
FOREIGN: dict[str, Foreign] = {
    "bpf that ends the matter at 1": lambda place: add_foreign_bpf(place, 0, priority=1),
    "bpf that ends the matter at 2": lambda place: add_foreign_bpf(place, 0, priority=2),
    "bpf that goes on": lambda place: add_foreign_bpf(place, -1, priority=7),
    "u32 at 1": lambda place: add_foreign_u32(place, priority=1),
    "u32 at 49152": lambda place: add_foreign_u32(place, priority=49152),
}


def test_both_directions_are_counted_and_nothing_is_left(place: Place) -> None:
    before = qdiscs(place.netns)
    with Clsact() as clsact:
        for direction in Direction:
            made = clsact.attach(place.namespace, place.interface.index, direction, place.program(direction))
            assert clsact.is_first(made)
            (row,) = ours(place.netns, direction)
            assert row["options"]["direct-action"] is True
            assert row["options"]["bpf_name"] == FILTER_NAME_WITH_QDISC
            assert row["protocol"] == "all"
        place.send_both_ways()
        assert (place.counted(RX), place.counted(TX)) == (FRAMES, FRAMES)
        assert qdiscs(place.netns) == [*before, "clsact"]
    assert qdiscs(place.netns) == before


def test_detaching_one_direction_leaves_the_other(place: Place) -> None:
    with Clsact() as clsact:
        receive = clsact.attach(place.namespace, place.interface.index, RX, place.program(RX))
        clsact.attach(place.namespace, place.interface.index, TX, place.program(TX))
        clsact.detach(receive)
        assert (ours(place.netns, RX), len(ours(place.netns, TX))) == ([], 1)


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_filters_that_were_there_first(place: Place, name: str) -> None:
    add_clsact(place)
    FOREIGN[name](place)
    before = foreign(place.netns)
    assert len(before) >= 2
    with Clsact() as clsact:
        made = [clsact.attach(place.namespace, place.interface.index, way, place.program(way)) for way in Direction]
        assert foreign(place.netns) == before
        assert ours(place.netns, RX)[0]["options"]["bpf_name"] == FILTER_NAME
        assert [clsact.is_first(each) for each in made] == [name != "u32 at 1"] * 2
        place.send_both_ways()
        # The u32 filter is for IP, and these frames are not: it does not end the matter for them.
        assert (place.counted(RX), place.counted(TX)) == (FRAMES, FRAMES)
        clsact.detach(made[0])
        assert foreign(place.netns) == before
    assert foreign(place.netns) == before
    assert "clsact" in qdiscs(place.netns)
    assert not ours(place.netns, RX)
    assert not ours(place.netns, TX)


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_filters_that_come_later(place: Place, name: str) -> None:
    with Clsact() as clsact:
        made = [clsact.attach(place.namespace, place.interface.index, way, place.program(way)) for way in Direction]
        FOREIGN[name](place)
        before = foreign(place.netns)
        assert len(before) >= 2
        passed = name.endswith(("at 1", "at 2"))
        assert [clsact.is_first(each) for each in made] == [not passed] * 2
        for each in made:
            clsact.detach(each)
        assert foreign(place.netns) == before
        again = [clsact.attach(place.namespace, place.interface.index, way, place.program(way)) for way in Direction]
        assert [clsact.is_first(each) for each in again] == [name != "u32 at 1"] * 2
    assert foreign(place.netns) == before
    assert "clsact" in qdiscs(place.netns)


def test_a_foreign_clsact_without_filters_stays(place: Place) -> None:
    add_clsact(place)
    with Clsact() as clsact:
        clsact.attach(place.namespace, place.interface.index, RX, place.program(RX))
    assert "clsact" in qdiscs(place.netns)


def test_an_ingress_qdisc_has_no_hook_for_transmitted_frames(place: Place) -> None:
    place.netns.run("tc", "qdisc", "add", "dev", "left", "ingress")
    before = qdiscs(place.netns)
    with Clsact() as clsact:
        with pytest.raises(KernelLacksError, match="no hook for transmitted frames"):
            clsact.attach(place.namespace, place.interface.index, TX, place.program(TX))
        clsact.attach(place.namespace, place.interface.index, RX, place.program(RX))
        place.send_both_ways()
        assert (place.counted(RX), place.counted(TX)) == (FRAMES, 0)
    assert qdiscs(place.netns) == before


def test_a_refused_program_leaves_nothing(place: Place) -> None:
    before = qdiscs(place.netns)
    with Clsact() as clsact, open(os.devnull, "rb") as no_program:
        with pytest.raises(RtnetlinkError, match="attach a program") as caught:
            clsact.attach(place.namespace, place.interface.index, RX, no_program.fileno())
        assert caught.value.errno == errno.EINVAL
        assert qdiscs(place.netns) == before


def test_an_interface_that_goes(place: Place) -> None:
    with Clsact() as clsact:
        made = clsact.attach(place.namespace, place.interface.index, RX, place.program(RX))
        place.netns.run("ip", "link", "delete", "left")
        clsact.detach(made)
        with pytest.raises(RtnetlinkError) as caught:
            clsact.attach(place.namespace, place.interface.index, RX, place.program(RX))
        assert caught.value.errno == errno.ENODEV


AGENT = """
import struct, sys, time
from otel_netmon.abi.enums import Direction
from otel_netmon.kernel import syscalls
from otel_netmon.kernel.clsact import Clsact
from otel_netmon.kernel.namespaces import find_namespace
code = struct.pack("<BBhi", 0xB7, 0, 0, -1) + struct.pack("<BBhi", 0x95, 0, 0, 0)
program, _ = syscalls.program_load(syscalls.PROG_TYPE_SCHED_CLS, code, "killed")
clsact = Clsact()
for direction in Direction:
    clsact.attach(find_namespace(sys.argv[1]), int(sys.argv[2]), direction, program)
print("ready", flush=True)
time.sleep(600)
"""


@contextmanager
def agent(place: Place) -> Iterator[subprocess.Popen[str]]:
    """Another process that has attached in both directions; killed at the end."""
    arguments = [sys.executable, "-c", AGENT, place.netns.name, str(place.interface.index)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            readable, _, _ = select.select([process.stdout], [], [], DEADLINE_SECONDS)
            assert readable
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


def test_what_a_killed_run_left_is_removed_with_its_qdisc(place: Place) -> None:
    before = qdiscs(place.netns)
    with Clsact() as clsact:
        with agent(place):
            assert clsact.sweep_leftovers([place.namespace]) == []
        assert [len(ours(place.netns, way)) for way in Direction] == [1, 1]
        swept = clsact.sweep_leftovers([place.namespace])
        assert [(each.namespace_name, each.ifindex, each.direction) for each in swept] == [
            (place.netns.name, place.interface.index, way) for way in Direction
        ]
        assert qdiscs(place.netns) == before
        assert clsact.sweep_leftovers([place.namespace]) == []


def test_a_sweep_leaves_what_is_not_left_over(place: Place) -> None:
    add_clsact(place)
    add_foreign_bpf(place, 0, priority=1)
    before = foreign(place.netns)
    with Clsact() as clsact:
        with agent(place):
            pass
        made = clsact.attach(place.namespace, place.interface.index, RX, place.program(RX))
        assert len(clsact.sweep_leftovers([place.namespace])) == 2
        assert clsact.is_first(made)
        assert foreign(place.netns) == before
    assert foreign(place.netns) == before
    assert "clsact" in qdiscs(place.netns)


def test_a_foreign_filter_keeps_the_qdisc_that_a_killed_run_made(place: Place) -> None:
    with agent(place):
        add_foreign_u32(place, priority=9)
    before = foreign(place.netns)
    with Clsact() as clsact:
        assert len(clsact.sweep_leftovers([place.namespace])) == 2
    assert foreign(place.netns) == before


def test_a_filter_with_our_name_but_a_foreign_handle_is_not_ours(place: Place) -> None:
    add_clsact(place)
    with verdict(-1) as program, opened_in(place.namespace, IPRoute) as route:
        parent = PARENT[RX]
        index = place.interface.index
        route.tc("add-filter", "bpf", index, 5, fd=program, name=FILTER_NAME, parent=parent, direct_action=True, prio=3)
        route.tc(
            "add-filter", "bpf", index, 0x6E6D0005, fd=program, name="x", parent=parent, direct_action=True, prio=4
        )
    before = filters(place.netns, RX)
    assert len(before) == 2
    with Clsact() as clsact:
        assert clsact.sweep_leftovers([place.namespace]) == []
    assert filters(place.netns, RX) == before


def test_a_child_that_lives_on_does_not_hold_the_filters(place: Place) -> None:
    clsact = Clsact()
    clsact.attach(place.namespace, place.interface.index, RX, place.program(RX))
    left, leaving = os.pipe()
    ending, end = os.pipe()
    child = os.fork()
    if child == 0:
        clsact.leave_to_parent()
        os.write(leaving, b"x")
        os.close(end)
        os.read(ending, 1)
        os._exit(0)
    assert os.read(left, 1) == b"x"
    assert len(ours(place.netns, RX)) == 1
    clsact.leave_to_parent()
    with Clsact() as successor:
        assert len(successor.sweep_leftovers([place.namespace])) == 1
    for fd in (left, leaving, ending, end):
        os.close(fd)
    assert os.waitpid(child, 0) == (child, 0)


NO_CAPABILITY = """
import os, sys
from otel_netmon.abi.enums import Direction
from otel_netmon.errors import PrivilegeError
from otel_netmon.kernel.clsact import Clsact
from otel_netmon.kernel.namespaces import own_namespace
import pyroute2
os.setuid(65534)
try:
    Clsact().attach(own_namespace(), int(sys.argv[1]), Direction.RECEIVE, 0)
except PrivilegeError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def test_without_the_capability(place: Place) -> None:
    command = place.netns.command(sys.executable, "-c", NO_CAPABILITY, str(place.interface.index))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (PrivilegeError.exit_code, "")
    assert "CAP_NET_ADMIN" in done.stdout


def test_pyroute2_is_imported_only_when_used() -> None:
    script = "import sys, otel_netmon.kernel.clsact; print('pyroute2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr

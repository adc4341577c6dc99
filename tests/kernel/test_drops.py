"""Drops by the kernel's reasons: what the program makes of every number, and drops that the test causes."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator

import pytest

from otel_netmon.abi.enums import DROPS_CORE, DROPS_SLOTS, DROPS_SUBSYSTEM, DROPS_SUBSYSTEMS
from otel_netmon.kernel import loader, syscalls
from otel_netmon.kernel.drops import (
    WITH_REASON,
    WITHOUT_REASON,
    DropMonitor,
    open_raw_tracepoint,
    parse_format,
    reason_names,
)
from otel_netmon.kernel.links import Refused
from otel_netmon.otel.drops import short_name
from otel_netmon.readers.btf import kernel_enum
from otel_netmon.readers.drops import UNKNOWN, DropReader
from otel_netmon.sources.drops import REASONS, DropSource
from support.netns import namespace
from support.programs import shipped

pytestmark = pytest.mark.kernel

SUBSYSTEM = 1 << 16
DATAGRAMS = 1009


@pytest.fixture
def loaded() -> Iterator[loader.LoadedImage]:
    made = loader.LoadedImage(shipped("drop_monitor"))
    yield made
    made.close()


def reader_of(loaded: loader.LoadedImage) -> DropReader:
    return DropReader(loaded.maps["drop_counts"], syscalls.possible_cpus())


def run(program: int, *arguments: int) -> int:
    """Runs a program of a raw tracepoint once with these arguments (BPF_PROG_TEST_RUN)."""
    context = struct.pack(f"<{len(arguments)}Q", *arguments)
    buffer = ctypes.create_string_buffer(context, len(context))
    attribute = bytearray(128)
    struct.pack_into("<I", attribute, 0, program)
    struct.pack_into("<IIQ", attribute, 40, len(context), 0, ctypes.addressof(buffer))
    syscalls.bpf(syscalls.PROG_TEST_RUN, attribute)
    return int(struct.unpack_from("<I", attribute, 4)[0])


def test_every_number_has_its_place_or_the_last_one(loaded: loader.LoadedImage) -> None:
    program = loaded.program(WITH_REASON)
    known = [0, 1, 2, 3, DROPS_CORE - 1]
    known += [
        subsystem * SUBSYSTEM + n for subsystem in range(1, DROPS_SUBSYSTEMS + 1) for n in (0, DROPS_SUBSYSTEM - 1)
    ]
    beyond = [DROPS_CORE, SUBSYSTEM - 1, SUBSYSTEM + DROPS_SUBSYSTEM, (DROPS_SUBSYSTEMS + 1) * SUBSYSTEM, (1 << 32) - 1]
    for times, reason in enumerate(known, start=1):
        for _ in range(times):
            assert run(program, 0, 0, reason) == 0
    for reason in beyond:
        assert run(program, 0, 0, reason) == 0
    run(program, 0, 0, 3 | 7 << 32)  # of an argument of 32 bits the rest means nothing
    expected = {reason: times for times, reason in enumerate(known, start=1)}
    expected[3] += 1
    assert reader_of(loaded).read() == {**expected, UNKNOWN: len(beyond)}
    assert DROPS_CORE + DROPS_SUBSYSTEMS * DROPS_SUBSYSTEM < DROPS_SLOTS


def test_without_reasons_all_are_in_the_last_place(loaded: loader.LoadedImage) -> None:
    program = loaded.program(WITHOUT_REASON)
    for reason in range(23):
        assert run(program, 0, 0, reason) == 0
    assert reader_of(loaded).read() == {UNKNOWN: 23}


@contextlib.contextmanager
def attached(loaded: loader.LoadedImage) -> Iterator[DropMonitor]:
    monitor = DropMonitor(loaded)
    try:
        yield monitor
    finally:
        monitor.close()


def refused_datagrams(count: int) -> None:
    """Datagrams to a port of a namespace where nobody listens."""
    with namespace() as netns, netns.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(count):
            with contextlib.suppress(ConnectionRefusedError):
                sender.sendto(b"x", ("127.0.0.1", 9))


def test_drops_are_counted_as_long_as_the_monitor_is_open(loaded: loader.LoadedImage) -> None:
    reader = reader_of(loaded)
    with attached(loaded) as monitor:
        assert monitor.state() == ("ok", "", "")
        assert monitor.has_reasons
        refused_datagrams(DATAGRAMS)
    counts = reader.read()
    assert DATAGRAMS <= max(counts.values()) < 2 * DATAGRAMS  # the whole host is seen: others may drop some too
    refused_datagrams(DATAGRAMS)
    assert reader.read() == counts


def test_the_reasons_have_the_names_of_the_kernel(loaded: loader.LoadedImage) -> None:
    """In a mount namespace of its own, for a process that mounts tracefs there and nowhere else."""
    script = (
        "import json, subprocess, sys, tempfile; from otel_netmon.kernel.drops import reason_names;"
        "folder = tempfile.mkdtemp();"
        "subprocess.run(['mount', '-t', 'tracefs', 'none', folder], check=True);"
        "print(json.dumps(reason_names())); subprocess.run(['umount', folder], check=True);"
        "print(json.dumps(reason_names()))"
    )
    command = ["unshare", "--mount", sys.executable, "-c", script]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    names = {name: int(number) for number, name in json.loads(lines[0]).items()}
    assert {"NOT_SPECIFIED", "NO_SOCKET", "NETFILTER_DROP", "TCP_LISTEN_OVERFLOW"} <= names.keys()
    assert lines[1] == ("{}" if not reason_names() else lines[0])
    reader = reader_of(loaded)
    with attached(loaded):
        before = reader.read().get(names["NETFILTER_DROP"], 0)
        with namespace() as netns, netns.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            netns.run("iptables", "-A", "INPUT", "-p", "udp", "-j", "DROP")
            for _ in range(DATAGRAMS):
                sender.sendto(b"x", ("127.0.0.1", 9))
        assert DATAGRAMS <= reader.read()[names["NETFILTER_DROP"]] - before < 2 * DATAGRAMS


class OldKernel:
    """Stands in for a kernel whose tracepoint hands over less, or that has none."""

    def __init__(self, loaded: loader.LoadedImage, *, refuse: dict[str, int]) -> None:
        self.loaded = loaded
        self.refuse = {loaded.program(name): number for name, number in refuse.items()}
        self.bpf = syscalls.bpf

    def __call__(self, command: int, attribute: bytes | bytearray) -> int:
        if command == syscalls.RAW_TRACEPOINT_OPEN:
            program = struct.unpack_from("<I", attribute, 8)[0]
            if program in self.refuse:
                raise OSError(self.refuse[program], os.strerror(self.refuse[program]))
        return self.bpf(command, attribute)


@pytest.mark.parametrize(
    ("refuse", "state", "reason"),
    [
        ({WITH_REASON: 22}, "degraded", "no_reasons"),
        ({WITH_REASON: 22, WITHOUT_REASON: 2}, "off", "enoent"),
        ({WITH_REASON: 1}, "off", "not_permitted"),
        ({WITH_REASON: 12}, "off", "enomem"),
    ],
)
def test_a_kernel_that_refuses(
    loaded: loader.LoadedImage, monkeypatch: pytest.MonkeyPatch, refuse: dict[str, int], state: str, reason: str
) -> None:
    monkeypatch.setattr(syscalls, "bpf", OldKernel(loaded, refuse=refuse))
    with attached(loaded) as monitor:
        assert monitor.state()[:2] == (state, reason)
        assert not monitor.has_reasons
        if state == "degraded":
            refused_datagrams(DATAGRAMS)
            counts = reader_of(loaded).read()
            assert counts.keys() == {UNKNOWN}
            assert counts[UNKNOWN] >= DATAGRAMS


def test_the_kernel_does_not_attach_what_reads_more_than_there_is(loaded: loader.LoadedImage) -> None:
    """By this the monitor finds out whether there is a reason: consume_skb hands over two arguments and no third."""
    with pytest.raises(Refused) as refused:
        open_raw_tracepoint(b"consume_skb", loaded.program(WITH_REASON))
    assert refused.value.lacks_feature
    os.close(open_raw_tracepoint(b"consume_skb", loaded.program(WITHOUT_REASON)))
    with pytest.raises(Refused) as refused:
        open_raw_tracepoint(b"no_such_tracepoint", loaded.program(WITHOUT_REASON))
    assert (refused.value.reason, refused.value.lacks_feature) == ("enoent", True)


def test_a_probe_that_is_off_opens_nothing() -> None:
    before = len(os.listdir("/proc/self/fd"))
    monitor = DropMonitor(None)
    assert monitor.state()[0] == "off"
    monitor.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_text_of_a_format() -> None:
    text = (
        'print fmt: "skbaddr=%p reason: %s", REC->skbaddr, __print_symbolic(REC->other, { 9, "NOT_THIS" }),'
        ' __print_symbolic(REC->reason, { 2, "NOT_SPECIFIED" }, {0x3, "NO_SOCKET"}, { 65536, "OF_A_SUBSYSTEM" })'
    )
    assert parse_format(text) == {2: "NOT_SPECIFIED", 3: "NO_SOCKET", 65536: "OF_A_SUBSYSTEM"}
    assert parse_format('print fmt: "skbaddr=%p protocol=%u location=%p"') == {}
    assert parse_format("") == {}


def test_a_source_tells_drops_by_name(loaded: loader.LoadedImage) -> None:
    """Without tracefs the names are those of the kernel's BTF; without both, numbers."""
    maps = {name: (fd, 1) for name, fd in loaded.maps.items()}
    program = loaded.program(WITH_REASON)
    (number, expected), *_ = {n: short_name(name) for n, name in kernel_enum(REASONS).items() if n > 2}.items() or {
        3: "3"
    }.items()
    for _ in range(23):
        run(program, 0, 0, number)
    source = DropSource(maps, {"has_reasons": True, "program": program, "names": {}}, 1)
    assert source.points() == {"netmon.kernel.drops": []}
    source.read()
    (point,) = source.points()["netmon.kernel.drops"]
    assert (point.attributes, point.value, point.start_time_unix_nano) == ({"netmon.reason": expected}, 23, 1)
    named = DropSource(maps, {"has_reasons": True, "program": program, "names": {number: "BY_TRACEFS"}}, 1)
    named.read()
    (point,) = named.points()["netmon.kernel.drops"]
    assert (point.attributes, point.value) == ({"netmon.reason": "BY_TRACEFS"}, 23)

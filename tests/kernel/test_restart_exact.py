"""A pipeline process that is killed at any moment loses no packet: the next one goes on, and the sums are what the hook saw."""

from __future__ import annotations

import itertools
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import pytest

from otel_netmon.abi.enums import Direction
from otel_netmon.analysis.edges import Edge
from otel_netmon.checkpoint import Checkpoint
from otel_netmon.config.model import Config
from otel_netmon.enrich.interfaces import InterfaceNames
from otel_netmon.kernel import links
from otel_netmon.kernel.interfaces import Interface
from otel_netmon.kernel.namespaces import find_namespace
from otel_netmon.otel.points import HistogramSeries, Points
from otel_netmon.sources.flows import FlowSource
from support.netns import veth_pair
from support.programs import Programs

pytestmark = pytest.mark.kernel

DEADLINE_SECONDS = 60.0
IDLE_SECONDS = 0.03
PAUSE_SECONDS = 0.08  # flows begin, fall idle and close meanwhile
TOP_K = 4
MESSAGE_OCTETS = 1 << 18
METRICS = {"packets": "netmon.flow.packets", "bytes": "netmon.flow.io"}
EVERYTHING = Edge(count_receive=True, count_transmit=True, counted=frozenset())

SENDER = """
import random, socket, sys, time
sockets = []
for port in range(20000, 20000 + 20):
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("198.18.0.1", port))
    sockets.append(made)
generator = random.Random(5)
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    window = int(time.monotonic() * 100) % 60  # servers that are talked to: flows fall idle and come back
    for _ in range(20):
        made = generator.choice(sockets)
        try:
            made.sendto(bytes(generator.randrange(100)), ("198.18.0.2", 1000 + window + generator.randrange(8)))
        except ConnectionRefusedError:
            pass
    time.sleep(0.002)
"""


class Observed:
    """One interface with both programs, traffic on it, and the memory that outlives the readers."""

    def __init__(self, programs: Programs, interface: Interface) -> None:
        self._programs = programs
        self.interface = interface
        self.names = InterfaceNames()
        self.names.update([interface])
        self._memory = [os.memfd_create(f"test-{turn}") for turn in range(2)]
        self._start_ns = time.time_ns()
        loaded = programs.loaded
        self._maps = {name: (fd, loaded.definitions[name].max_entries) for name, fd in loaded.maps.items()}
        self._fds = {name: programs.program(name) for name in ("netmon_sweep", "netmon_mark", "netmon_clock")}
        self._config = msgspec.convert(
            {"probes": {"flows": {"idle_seconds": 1}}, "flows": {"top_k": TOP_K}, "limits": {"series_idle_seconds": 1}},
            Config,
        )

    def close(self) -> None:
        for fd in self._memory:
            os.close(fd)

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(self._memory)

    def source(self, checkpoint: Checkpoint) -> FlowSource:
        """A reader that goes on from what was saved, as a new process has it."""
        made = FlowSource(self._maps, self._fds, self._config, self._start_ns)
        made._reader.idle_seconds = IDLE_SECONDS  # no configuration allows so little
        saved = checkpoint.load()
        if saved is not None:
            made.restore(saved)
        made.set_interfaces({self.interface.key: EVERYTHING}, [])
        return made

    def read(self, source: FlowSource) -> None:
        source.read([self.interface], TOP_K, time.time_ns())
        assert source.traffic.conservation.missing == 0

    def told(self, source: FlowSource) -> list[tuple[str, str, int, int]]:
        """Metric, attributes, start and value of each point, as a message."""
        rows = []
        for metric in METRICS.values():
            points: Points = source.points(self.names)[metric]
            assert not isinstance(points, HistogramSeries)
            rows += [(metric, repr(dict(p.attributes)), p.start_time_unix_nano, int(p.value)) for p in points]
        return rows

    def hook(self) -> dict[str, dict[str, int]]:
        """Packets and bytes by direction, as the hook counted them."""
        totals = {way: self._programs.totals(way, self.interface.index) for way in Direction}
        return {name: {way.name.lower(): total[name] for way, total in totals.items()} for name in METRICS}


class Receiver:
    """Adds up all series by direction: each has the last value that was told of it since each of its starts."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str, int], int] = {}
        self._start: dict[tuple[str, str], int] = {}

    def take(self, rows: list[tuple[str, str, int, int]]) -> None:
        for metric, attributes, start, value in rows:
            assert self._start.get((metric, attributes), 0) <= start, "a start never goes back"
            assert self._last.get((metric, attributes, start), 0) <= value, "a value never goes back"
            self._start[metric, attributes] = start
            self._last[metric, attributes, start] = value

    def sums(self) -> dict[str, dict[str, int]]:
        return {
            name: {
                way: sum(v for (m, attributes, _), v in self._last.items() if m == metric and f"'{way}'" in attributes)
                for way in ("receive", "transmit")
            }
            for name, metric in METRICS.items()
        }

    @property
    def lives(self) -> int:
        """Series, each as often as it began."""
        return len(self._last) // len(METRICS)


@contextmanager
def observed() -> Iterator[tuple[Observed, Callable[[float], subprocess.Popen[bytes]]]]:
    """Also gives what starts a sender for so many seconds."""
    with veth_pair() as (left, right, pair), Programs("tc_monitor", sizes={"flow_table": 256}) as programs:
        right.run("sysctl", "-qw", "net.ipv4.icmp_ratelimit=0", "net.ipv4.icmp_ratemask=0")
        namespace = find_namespace(left.name)
        assert namespace is not None
        index = left.index(pair.left)
        attached = [
            links.attach_tcx(namespace, index, way, programs.program(f"netmon_{way.name.lower()}")) for way in Direction
        ]
        made = Observed(
            programs,
            Interface(index, pair.left, 0, "", "veth", 1, 1, 1500, b"", None, None, None, None, None),
        )
        try:
            yield made, lambda seconds: left.start(sys.executable, "-c", SENDER, str(seconds))
        finally:
            made.close()
            for fd in attached:
                os.close(fd)
            namespace.close()


def end(sender: subprocess.Popen[bytes]) -> None:
    sender.kill()
    sender.wait()


def keep(checkpoint: Checkpoint, source: FlowSource) -> None:
    checkpoint.save(source.state())
    source.settle()


def rows(source: FlowSource) -> tuple[set[bytes], set[bytes]]:
    """Keys of the last reading: of flows that are there, and of those that left."""
    reading = source._reading
    assert reading is not None
    return {key.tobytes() for key in reading.keys}, {key.tobytes() for key in reading.closed_keys}


def test_a_reader_that_is_dropped_at_each_point_of_its_cycle_loses_nothing() -> None:
    """Fates take turns in every order of two; flows close all the time, and a series keeps its place only for a while."""
    fates = ["none", "read", "saved", "settled", "told"]
    order = [fate for pair in itertools.product(fates, fates) for fate in pair]
    with observed() as (place, start):
        checkpoint, receiver = place.checkpoint(), Receiver()
        source = place.source(checkpoint)
        sender = start(DEADLINE_SECONDS)
        closed: dict[str, int] = dict.fromkeys(fates, 0)
        known: set[bytes] = set()
        try:
            for fate in order:
                deadline = time.monotonic() + DEADLINE_SECONDS
                while True:  # a reading with flows that came and closed since the one before: what a drop may lose
                    before = known
                    time.sleep(PAUSE_SECONDS)
                    place.read(source)
                    known, leaving = rows(source)
                    if leaving - before:
                        break
                    keep(checkpoint, source)
                    receiver.take(place.told(source))
                    assert time.monotonic() < deadline, "no flow closes"
                closed[fate] += len(leaving - before)
                if fate in ("saved", "settled", "told", "none"):
                    checkpoint.save(source.state())
                if fate in ("settled", "told", "none"):
                    source.settle()
                if fate in ("told", "none"):
                    receiver.take(place.told(source))
                if fate != "none":
                    time.sleep(PAUSE_SECONDS)  # what has left comes back
                    checkpoint = place.checkpoint()
                    source = place.source(checkpoint)
                    receiver.take(place.told(source))
            end(sender)
            deadline = time.monotonic() + DEADLINE_SECONDS
            while True:  # all that is still on its way
                place.read(source)
                keep(checkpoint, source)
                receiver.take(place.told(source))
                if source.live == 0:
                    break
                assert time.monotonic() < deadline, "the flows did not leave"
                time.sleep(0.02)
        finally:
            end(sender)
        assert all(count > 10 for count in closed.values()), closed
        assert receiver.sums() == place.hook()
        assert all(count > 1000 for count in receiver.sums()["packets"].values()), receiver.sums()
        assert receiver.lives > 3 * TOP_K, "series ended and others began"


def run_reader(place: Observed, speaker: socket.socket) -> None:
    """A pipeline process: reads, saves, settles and tells until it is killed."""
    checkpoint = place.checkpoint()
    source = place.source(checkpoint)
    while True:
        speaker.send(msgspec.msgpack.encode((place.told(source), source.live)))
        place.read(source)
        keep(checkpoint, source)


@contextmanager
def reader(place: Observed) -> Iterator[tuple[int, socket.socket]]:
    listener, speaker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        try:
            listener.close()
            run_reader(place, speaker)
        finally:
            os._exit(1)
    speaker.close()
    listener.settimeout(DEADLINE_SECONDS)
    try:
        yield child, listener
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        listener.close()


def test_a_process_that_is_killed_at_any_moment_loses_nothing() -> None:
    generator = random.Random(3)  # noqa: S311 - moments, not secrets
    receiver = Receiver()

    def take(message: bytes) -> int:
        assert message, "the reader ended by itself"
        rows, live = msgspec.msgpack.decode(message, type=tuple[list[tuple[str, str, int, int]], int])
        receiver.take(rows)
        return live

    with observed() as (place, start):
        sender = start(DEADLINE_SECONDS)
        try:
            for _ in range(25):
                with reader(place) as (child, listener):
                    take(listener.recv(MESSAGE_OCTETS))
                    kill_at = time.monotonic() + generator.random() * 0.1
                    while (seconds := kill_at - time.monotonic()) > 0:
                        if select.select([listener], [], [], seconds)[0]:
                            take(listener.recv(MESSAGE_OCTETS))
                    os.kill(child, signal.SIGKILL)
                    while message := listener.recv(MESSAGE_OCTETS):  # what it told before
                        take(message)
            end(sender)
            with reader(place) as (_, listener):
                deadline = time.monotonic() + DEADLINE_SECONDS
                while take(listener.recv(MESSAGE_OCTETS)) or receiver.sums() != place.hook():
                    assert time.monotonic() < deadline, (receiver.sums(), place.hook())
        finally:
            end(sender)
        assert receiver.sums() == place.hook()
        assert receiver.lives > 3 * TOP_K, "series ended and others began"

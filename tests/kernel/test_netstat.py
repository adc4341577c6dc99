"""The kernel's protocol counters of a namespace made for the test, against nstat and against what was done."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator

import pytest

from otel_netmon.kernel.namespaces import find_namespace, open_proc_net
from otel_netmon.otel.netstat import USED
from otel_netmon.readers.netstat import FILES
from otel_netmon.sources.netstat import NetstatSource
from support.netns import NetNs, namespace

pytestmark = pytest.mark.kernel

BOOT, NOW = 1_700_000_000_000_000_000, 1_700_000_100_000_000_000
Key = tuple[str, ...]


def opened(netns: NetNs) -> dict[str, int]:
    found = find_namespace(netns.name)
    assert found is not None
    with contextlib.closing(found):
        return {name: open_proc_net(found, name) for name in FILES}


class Observed:
    """A namespace and its source."""

    def __init__(self, netns: NetNs) -> None:
        self.netns = netns
        self.source = NetstatSource(BOOT)
        self.source.set_namespaces({3: ("blue", opened(netns))})

    def read(self) -> dict[Key, int]:
        """Values that are not 0, by metric and values of attributes."""
        self.source.read(NOW)
        return {
            (name, *(str(value) for key, value in point.attributes.items() if key != "netmon.network.namespace")): int(
                point.value
            )
            for name, points in self.source.points().items()
            for point in points
            if point.value
        }


@pytest.fixture
def observed() -> Iterator[Observed]:
    with namespace(ipv6=True) as netns:
        made = Observed(netns)
        yield made
        made.source.close()


def test_every_counter_is_that_of_nstat(observed: Observed) -> None:
    with observed.netns.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(7):
            with contextlib.suppress(ConnectionRefusedError):
                sender.sendto(b"x", ("127.0.0.1", 9))
    observed.source.read(NOW)
    (kept,) = observed.source._namespaces.values()
    told = json.loads(observed.netns.run("nstat", "--json", "--zeros", "--noupdate", "--reset", "--ignore"))["kernel"]
    names = {key: key.replace(".", "") for key in USED}
    expected = {key: told[name] for key, name in names.items() if name in told}
    assert len(expected) >= len(USED) - 4
    assert {key: kept.counters[key] for key in expected} == expected
    assert kept.counters["Udp.NoPorts"] == 7


def test_datagrams_that_found_no_place(observed: Observed) -> None:
    with (
        observed.netns.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        observed.netns.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        observed.netns.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six,
    ):
        receiver.bind(("127.0.0.1", 0))
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(101):
            sender.sendto(b"x" * 1000, receiver.getsockname())
        got = 0
        with contextlib.suppress(BlockingIOError):
            while receiver.recv(2000, socket.MSG_DONTWAIT):
                got += 1
        for _ in range(13):
            with contextlib.suppress(ConnectionRefusedError):
                six.sendto(b"x", ("::1", 9))
    assert 0 < got < 101
    assert observed.read() == {
        ("netmon.stack.drops", "ipv4", "udp", "receive", "receive_buffer"): 101 - got,
        ("netmon.stack.drops", "ipv6", "udp", "receive", "no_port"): 13,
    }


def test_an_accept_queue_that_is_full(observed: Observed) -> None:
    observed.read()
    with observed.netns.socket(socket.AF_INET, socket.SOCK_STREAM) as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(23):
            client = stack.enter_context(observed.netns.socket(socket.AF_INET, socket.SOCK_STREAM))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(listener.getsockname())
        found = observed.read()
    overflows = found["netmon.tcp.listen.overflows", "accept_queue"]
    assert overflows >= 20
    assert found["netmon.tcp.listen.drops",] == overflows
    (event,) = observed.source.take_events(NOW)
    assert event.body.startswith(f"{overflows} times in ")
    assert event.body.endswith("in the network namespace blue")


def test_the_files_show_the_namespace_after_its_name_has_gone() -> None:
    with namespace() as netns:
        source = NetstatSource(BOOT)
        source.set_namespaces({3: ("blue", opened(netns))})
    source.read(NOW)
    assert {point.value for point in source.points()["netmon.tcp.listen.drops"]} == {0}
    before = len(os.listdir("/proc/self/fd"))
    source.close()
    assert len(os.listdir("/proc/self/fd")) == before - len(FILES)

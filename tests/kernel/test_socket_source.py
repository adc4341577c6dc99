"""Sockets of real namespaces by sock_diag: counts, what a refusal leaves, and how another process goes on."""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from otel_netmon.abi.layout import CONNECTION, UDP
from otel_netmon.kernel.namespaces import find_namespace, open_sock_diag
from otel_netmon.otel.points import HistogramSeries
from otel_netmon.sources.sockets import SocketSource
from support.netns import NetNs, namespace

pytestmark = pytest.mark.kernel

NO_TCP, NO_UDP = np.zeros(0, CONNECTION), np.zeros(0, UDP)
NETLINK_ROUTE = 0


@pytest.fixture
def alone() -> Iterator[NetNs]:
    with namespace() as made:
        yield made


def diag(netns: NetNs) -> int:
    found = find_namespace(netns.name)
    assert found is not None
    try:
        return open_sock_diag(found)
    finally:
        found.close()


def told(source: SocketSource) -> int | None:
    """How many older connections gained something; None where nobody was asked."""
    return None if source.gains is None else len(source.gains.rows)


def counts(source: SocketSource) -> Counter[str]:
    points = source.points()["system.network.connection.count"]
    assert not isinstance(points, HistogramSeries)
    return +Counter(
        {str(point.attributes.get("network.connection.state", "udp")): int(point.value) for point in points}
    )


@contextlib.contextmanager
def connected(netns: NetNs, pairs: int) -> Iterator[list[socket.socket]]:
    """A listener and so many connections to it."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(netns.socket(socket.AF_INET, socket.SOCK_STREAM))
        server.bind(("127.0.0.1", 0))
        server.listen(100)
        ends = []
        for _ in range(pairs):
            client = stack.enter_context(netns.socket(socket.AF_INET, socket.SOCK_STREAM))
            client.connect(server.getsockname())
            ends += [client, stack.enter_context(server.accept()[0])]
        yield ends


def test_what_is_there_counts_by_state_and_what_it_gains_is_told(alone: NetNs) -> None:
    source = SocketSource(3600, 0)
    with connected(alone, 7) as ends, alone.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        ends[0].sendall(bytes(1009))
        ends[1].recv(1009, socket.MSG_WAITALL)
        source.set_namespaces({0: ("blue", diag(alone))})
        source.read(NO_TCP, NO_UDP)
        assert counts(source) == {"established": 14, "listen": 1, "udp": 1}
        assert source.gains is not None
        assert not len(source.gains.rows)
        ends[0].sendall(bytes(503))
        ends[1].recv(503, socket.MSG_WAITALL)
        source._next_ns = 0
        source.read(NO_TCP, NO_UDP)
        assert source.gains is not None
        assert sorted(source.gains.rows["local_port"].tolist()) == sorted(end.getsockname()[1] for end in ends[:2])
        assert source.gains.counters[:2].sum(axis=1).tolist() == [503, 503]
    source.close()


def test_it_asks_so_seldom_that_it_takes_a_hundredth_of_a_core(alone: NetNs) -> None:
    source = SocketSource(3600, 0)
    source.set_namespaces({0: ("", diag(alone))})
    source.read(NO_TCP, NO_UDP)
    assert told(source) == 0
    source._next_ns += 10**12
    source.read(NO_TCP, NO_UDP)
    assert told(source) is None
    source.close()


def test_a_refusal_is_told_and_nothing_else_is(alone: NetNs) -> None:
    source = SocketSource(1, 0)
    source.set_namespaces({0: ("", None)})
    source.read(NO_TCP, NO_UDP)
    assert "NETLINK_SOCK_DIAG" in source.refused
    assert not any(source.points().values())
    other = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE).detach()  # it knows no such request
    source.set_namespaces({0: ("", other)})
    source.read(NO_TCP, NO_UDP)
    assert source.refused.startswith("sock_diag: ")
    assert told(source) is None
    assert not any(source.points().values())
    source.set_namespaces({0: ("", diag(alone))})
    source._next_ns = 0
    source.read(NO_TCP, NO_UDP)
    assert source.refused == ""
    source.close()


def test_another_process_goes_on_with_those_that_are_older(alone: NetNs) -> None:
    first, second = SocketSource(1, 0), SocketSource(1, 0)
    with connected(alone, 1) as ends:
        first.set_namespaces({0: ("blue", diag(alone))})
        first.read(NO_TCP, NO_UDP)
        ends[0].sendall(bytes(7))
        ends[1].recv(7, socket.MSG_WAITALL)
        second.set_namespaces({0: ("blue", diag(alone))})
        second.restore(first.state())
        second.set_namespaces({0: ("blue", diag(alone))})  # files are opened anew
        second.read(NO_TCP, NO_UDP)
        assert second.gains is not None
        assert second.gains.counters[:2].sum(axis=1).tolist() == [7, 7]
    for source in (first, second):
        source.close()

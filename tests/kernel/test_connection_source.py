"""The whole probe of connections on the kernel's tables: what it knows when a cycle has read them."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from otel_netmon.analysis.connection_index import TCP, UDP, ends_between
from otel_netmon.analysis.sampling import KeepRule
from otel_netmon.config.model import Config
from otel_netmon.enrich.cgroups import Cgroups
from otel_netmon.enrich.processes import Processes
from otel_netmon.kernel.cgroup import find_cgroup2
from otel_netmon.sources.connections import ConnectionSource
from support.rows import address
from support.socket_programs import observed

pytestmark = pytest.mark.kernel


@pytest.fixture
def source() -> Iterator[ConnectionSource]:
    with observed() as programs:
        made = ConnectionSource(
            programs.maps, Config(), time.time_ns(), KeepRule(0, 0), Processes(Cgroups(find_cgroup2()))
        )
        yield made
        made.close()


def read(source: ConnectionSource) -> None:
    source.read(dict.fromkeys(source.wanted(), 1000), time.time_ns())


def end(name: tuple[str, int]) -> bytes:
    return address(name[0]) + name[1].to_bytes(2, "big")


def test_what_ends_while_the_tables_are_read_is_known_with_them(
    source: ConnectionSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row is not in the table any more, and its record comes behind those that were taken before."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as datagrams,
        closing(socket.create_connection(server.getsockname())) as stream,
    ):
        datagrams.connect(server.getsockname())
        datagrams.send(b"somebody who asks")
        names = [(each.getsockname(), each.getpeername()) for each in (stream, datagrams)]
        ends = ends_between([end(own) for own, _ in names], [end(peer) for _, peer in names], np.array([TCP, UDP]))
        seen_ns = np.full(2, time.monotonic_ns())
        original = source._tcp.read

        def closes_first() -> object:
            server.accept()[0].close()
            for each in (stream, datagrams):
                each.close()
            return original()

        monkeypatch.setattr(source._tcp, "read", closes_first)
        read(source)
        assert (source.index.find(ends, seen_ns, any_address=False).cookie != 0).tolist() == [True, True]

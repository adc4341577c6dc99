"""Whose spans are: the process at the end that a span tells of, and nobody where that is not known."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.connection_index import ENDS, TCP, ends_between, turned
from otel_netmon.otel.spans import Sought, SpanBatch, SpanKind
from otel_netmon.sources.attribution import attributed
from support.rows import address

CLIENT, SERVER = address("192.0.2.7"), address("192.0.2.8")
TIME = 10**12


def end(octets: bytes, port: int) -> bytes:
    return octets + port.to_bytes(2, "big")


def batch(kinds: list[SpanKind], ports: list[int], *, either_side: bool = False) -> Sought:
    """Spans of connections from CLIENT, a port each, to port 443 of SERVER."""
    number = len(kinds)
    identifiers = np.arange(number * 16, dtype=np.uint8).reshape(number, 16)
    times = np.full(number, TIME, np.int64) + ports
    ends = ends_between([end(CLIENT, port) for port in ports], [end(SERVER, 443)] * number, TCP)
    made = SpanBatch(
        names=["name"] * number,
        kinds=np.array(kinds, np.uint8),
        trace_ids=identifiers,
        span_ids=identifiers[:, :8],
        parent_span_ids=np.zeros((number, 8), np.uint8),
        flags=np.zeros(number, np.uint32),
        start_time_unix_nano=times.astype(np.uint64),
        end_time_unix_nano=times.astype(np.uint64),
        attributes=[b""] * number,
        statuses=np.zeros(number, np.uint8),
        messages=[""] * number,
    )
    return Sought(made, ends, times, either_side)


class Known:
    """Processes by the port of the client, of one side each; notes what is asked."""

    def __init__(self, clients: dict[int, bytes], servers: dict[int, bytes]) -> None:
        self.clients, self.servers = clients, servers
        self.asked: list[tuple[int, int, int]] = []

    def __call__(self, ends: npt.NDArray[Any], times_ns: npt.NDArray[np.int64]) -> list[bytes]:
        found = []
        assert ends.dtype == ENDS
        for each, time_ns in zip(ends, times_ns.tolist(), strict=True):
            local, remote = int(each["local_port"]), int(each["remote_port"])
            assert each["protocol"] == TCP
            assert each["local"].tobytes() == (SERVER if local == 443 else CLIENT)
            assert each["remote"].tobytes() == (CLIENT if local == 443 else SERVER)
            self.asked.append((local, remote, time_ns - TIME))
            found.append(self.servers.get(remote, b"") if local == 443 else self.clients.get(local, b""))
        return found


def test_each_kind_asks_for_its_own_end() -> None:
    known = Known({5: b"client 5", 7: b"client 7"}, {5: b"server 5", 11: b"server 11"})
    made = attributed([batch([SpanKind.CLIENT, SpanKind.SERVER], [5, 5]), batch([SpanKind.SERVER], [7])], known)
    assert [list(each.resources) for each in made] == [[b"client 5", b"server 5"], [b""]]
    assert known.asked == [(5, 443, 5), (443, 5, 5), (443, 7, 7)]
    assert [each.kinds.tolist() for each in made] == [[SpanKind.CLIENT, SpanKind.SERVER], [SpanKind.SERVER]]


def test_what_either_side_may_tell_is_the_server_s_where_only_that_is_known() -> None:
    known = Known({5: b"client 5"}, {5: b"server 5", 7: b"server 7"})
    plain = batch([SpanKind.CLIENT], [7])
    either = batch([SpanKind.CLIENT] * 3, [5, 7, 11], either_side=True)
    made = attributed([plain, either], known)
    assert [list(each.resources) for each in made] == [[b""], [b"client 5", b"server 7", b""]]
    assert made[0].kinds.tolist() == [SpanKind.CLIENT]
    assert made[1].kinds.tolist() == [SpanKind.CLIENT, SpanKind.SERVER, SpanKind.CLIENT]
    assert either.batch.kinds.tolist() == [SpanKind.CLIENT] * 3


def test_nothing_asks_for_nothing() -> None:
    known = Known({}, {})
    assert attributed([], known) == []
    assert known.asked == []


def test_ends_turned_twice_are_the_same() -> None:
    ends = ends_between([end(CLIENT, 5)], [end(SERVER, 443)], TCP)
    assert ends.dtype == ENDS
    assert int(turned(ends)["local_port"][0]) == 443
    assert (turned(turned(ends)) == ends).all()

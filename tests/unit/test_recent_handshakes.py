"""How long requests waited for a handshake of TLS."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from otel_netmon.analysis import recent_handshakes
from otel_netmon.analysis.connection_index import TCP, UNKNOWN, ends_between
from otel_netmon.analysis.recent_handshakes import RecentHandshakes
from otel_netmon.analysis.tls_handshakes import TlsHandshake
from support.tcp_talk import CLIENT, SERVER
from support.tls_handshakes import handshake


def seen(start_ns: int, finished_ns: int | None, **fields: Any) -> TlsHandshake:
    made = handshake()
    ends = made.connection._replace(client=CLIENT, server=fields.pop("server", SERVER))
    return made._replace(connection=ends, start_ns=start_ns, finished_ns=finished_ns, **fields)


def waited(recent: RecentHandshakes, begin_ns: int, begun_ns: int, server: bytes = SERVER) -> tuple[int, int]:
    ends = ends_between([CLIENT], [server], TCP)
    took, over = recent.waited(ends, np.array([begin_ns]), np.array([begun_ns]))
    return int(took[0]), int(over[0])


def test_the_handshake_of_the_connection() -> None:
    recent = RecentHandshakes()
    other = SERVER[:16] + b"\1\2"
    recent.take([seen(10, 17), seen(40, 53), seen(90, 97), seen(41, 42, server=other)])
    assert waited(recent, 30, 60) == (13, 53)
    assert waited(recent, 40, 40) == (13, 53)
    assert waited(recent, 5, 30) == (7, 17)
    assert waited(recent, 5, 60) == (13, 53), "behind a proxy's the last one before the request"
    assert waited(recent, 18, 30) == (UNKNOWN, 0)
    assert waited(recent, 30, 60, other) == (1, 42)
    assert waited(recent, 30, 60, SERVER[:16] + b"\1\3") == (UNKNOWN, 0)


@pytest.mark.parametrize("fields", [{"outcome": "failed"}, {"finished_ns": None}])
def test_a_handshake_that_was_none(fields: dict[str, Any]) -> None:
    recent = RecentHandshakes()
    recent.take([seen(10, 17)._replace(**fields)])
    assert waited(recent, 5, 60) == (UNKNOWN, 0)


def test_handshakes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_handshakes, "HANDSHAKES_MAX", 7)
    recent = RecentHandshakes()
    recent.take([seen(10 * n, 10 * n + 5) for n in range(31)])
    known = [n for n in range(31) if waited(recent, 10 * n, 10 * n + 6)[0] == 5]
    assert known == list(range(24, 31))
    took, over = RecentHandshakes().waited(ends_between([], [], TCP), np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert len(took) == len(over) == 0

"""Connections that lose their place: counted, and not forgotten with the process."""

from __future__ import annotations

import numpy as np
import pytest

from otel_netmon.abi import layout
from otel_netmon.readers.messages import Messages
from otel_netmon.sources.streams import StreamSource
from support.tcp_talk import Packet, Talk

NOTHING = Messages(np.empty(0, layout.MESSAGE), b"", np.empty(0, np.int64))
STAGE = "decode", "tcp_connections"


def openings(number: int) -> list[Packet]:
    """The first packet of so many connections."""
    made = []
    for port in range(number):
        seen, segment = Talk().open()[0]
        made.append((seen._replace(source=seen.source[:16] + (1024 + port).to_bytes(2, "big")), segment))
    return made


def test_connections_without_a_place_are_counted_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otel_netmon.sources.streams.CONNECTIONS_MAX", 7)
    first = StreamSource([])
    packets = openings(23)
    first.take(NOTHING, packets[-1][1].time_ns, packets)
    assert first.stages()[STAGE] == {"delivered": 7, "dropped": {"evicted": 16}}

    second = StreamSource([])
    second.restore(first.state())
    assert second.stages() == first.stages()
    second.take(NOTHING, packets[-1][1].time_ns, packets[:8])
    assert second.stages()[STAGE] == {"delivered": 14, "dropped": {"evicted": 17}}

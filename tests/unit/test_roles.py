"""Which side of a flow is the client."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from otel_netmon.abi import layout
from otel_netmon.abi.enums import SEQUENCE_CLIENT, SEQUENCE_SERVER, Direction
from otel_netmon.analysis.roles import ephemeral_ports, source_is_client
from support.rows import flow, flow_key, table

LOW, HIGH = 32768, 60999
RX, TX = Direction.RECEIVE, Direction.TRANSMIT


def decided(source: int, destination: int, direction: Direction = RX, state: int = 0) -> bool:
    keys = table([flow_key(source_port=source, destination_port=destination, direction=direction)], layout.FLOW_KEY)
    (answer,) = source_is_client(keys, table([flow(1, sequence_state=state)], layout.FLOW), (LOW, HIGH))
    return bool(answer)


@pytest.mark.parametrize(
    ("source", "destination", "client"),
    [
        (40000, 443, True),
        (443, 40000, False),
        (40000, 65000, True),  # a high port, but none that this host gives out
        (65000, 40000, False),
        (LOW, LOW - 1, True),
        (HIGH, HIGH + 1, True),
        (40000, 50000, False),  # both are given out: the lower one serves
        (50000, 40000, True),
        (1024, 443, True),  # neither is
        (443, 1024, False),
        (61000, 5000, True),
        (0, 53, False),
    ],
)
@pytest.mark.parametrize("direction", [RX, TX])
def test_ports_tell_where_no_handshake_was_seen(
    source: int, destination: int, direction: Direction, *, client: bool
) -> None:
    assert decided(source, destination, direction) == client


@pytest.mark.parametrize("port", [0, 123, 500, 40000])
def test_equal_ports_make_the_near_side_the_client(port: int) -> None:
    assert decided(port, port, TX)
    assert not decided(port, port, RX)


@pytest.mark.parametrize(("source", "destination"), [(443, 40000), (40000, 443), (179, 179), (0, 0)])
@pytest.mark.parametrize("direction", [RX, TX])
def test_a_handshake_tells_more_than_ports(source: int, destination: int, direction: Direction) -> None:
    for others in (0, 1, 2, 3):
        assert decided(source, destination, direction, SEQUENCE_CLIENT | others)
        assert not decided(source, destination, direction, SEQUENCE_SERVER | others)


@given(source=st.integers(0, 65535), destination=st.integers(0, 65535), state=st.sampled_from([0, 4, 8]))
def test_both_directions_agree_on_who_is_the_client(source: int, destination: int, state: int) -> None:
    """The flow and its answer name one conversation, wherever they are seen."""
    back_state = {0: 0, SEQUENCE_CLIENT: SEQUENCE_SERVER, SEQUENCE_SERVER: SEQUENCE_CLIENT}[state]
    assert decided(source, destination, TX, state) != decided(destination, source, RX, back_state)


def test_rows_are_decided_one_by_one() -> None:
    ports = [(40000, 443), (443, 40000), (7, 7), (50000, 40000)]
    keys = table([flow_key(source_port=s, destination_port=d) for s, d in ports], layout.FLOW_KEY)
    answer = source_is_client(keys, np.zeros(4, layout.FLOW))
    assert answer.tolist() == [True, False, False, True]
    assert source_is_client(keys[:0], np.zeros(0, layout.FLOW)).shape == (0,)


def test_the_range_of_local_ports_is_that_of_the_kernel(tmp_path: Path) -> None:
    low, high = ephemeral_ports()
    assert 0 < low < high < 65536
    (tmp_path / "range").write_text("1024\t2048\n")
    assert ephemeral_ports(str(tmp_path / "range")) == (1024, 2048)

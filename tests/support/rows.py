"""Rows of the kernel's tables as readers give them, for tests of what is made of them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.abi import layout
from otel_netmon.readers.flows import FlowReading


def address(text: str) -> bytes:
    """16 octets, IPv4 as v4-mapped IPv6."""
    made = ipaddress.ip_address(text)
    return made.packed if made.version == 6 else b"\0" * 10 + b"\xff\xff" + made.packed


def flow_key(
    source: str = "198.18.0.1",
    source_port: int = 40000,
    destination: str = "198.18.0.2",
    destination_port: int = 443,
    **fields: int,
) -> npt.NDArray[Any]:
    """One FLOW_KEY, TCP at interface 2, received, unless the fields say otherwise."""
    key = np.zeros((), layout.FLOW_KEY)
    key["source"] = np.frombuffer(address(source), "u1")
    key["destination"] = np.frombuffer(address(destination), "u1")
    key["source_port"], key["destination_port"] = source_port, destination_port
    key["protocol"], key["ifindex"] = 6, 2
    for name, value in fields.items():
        key[name] = value
    return key


def flow(
    packets: int, octets: int = 0, extra_packets: int = 0, extra_bytes: int = 0, **fields: int
) -> npt.NDArray[Any]:
    """One FLOW."""
    value = np.zeros((), layout.FLOW)
    value["packets"], value["bytes"] = packets, octets
    value["extra_packets"], value["extra_bytes"] = extra_packets, extra_bytes
    for name, number in fields.items():
        value[name] = number
    return value


def table(rows: Iterable[npt.NDArray[Any]], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Rows as one array, shape (n,)."""
    listed = list(rows)
    return np.array(listed, dtype) if listed else np.empty(0, dtype)


def row_key(**fields: int) -> npt.NDArray[Any]:
    """One PROTOCOL_KEY, IPv4 at interface 2 unless the fields say otherwise."""
    key = np.zeros((), layout.PROTOCOL_KEY)
    key["ifindex"], key["ethertype"] = 2, 0x0800
    for name, value in fields.items():
        key[name] = value
    return key


def counters(packets: int, octets: int = 0, extra_packets: int = 0, extra_bytes: int = 0) -> npt.NDArray[Any]:
    """One COUNTERS."""
    return np.array((packets, octets, extra_packets, extra_bytes), layout.COUNTERS)


def gains(*rows: tuple[int, int, int, int]) -> npt.NDArray[np.uint64]:
    """What rows gained, shape (4, n)."""
    return np.array(rows, np.uint64).reshape(len(rows), 4).T.copy()


def reading(
    live: Iterable[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = (),
    closed: Iterable[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = (),
    rows: Iterable[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = (),
) -> FlowReading:
    """A FlowReading of (key, value) pairs."""
    live, closed, rows = list(live), list(closed), list(rows)
    return FlowReading(
        keys=table((key for key, _ in live), layout.FLOW_KEY),
        flows=table((value for _, value in live), layout.FLOW),
        closed_keys=table((key for key, _ in closed), layout.FLOW_KEY),
        closed_flows=table((value for _, value in closed), layout.FLOW),
        protocol_keys=table((key for key, _ in rows), layout.PROTOCOL_KEY),
        protocol_counters=table((value for _, value in rows), layout.COUNTERS),
        state=np.zeros((), layout.STATE),
        monotonic_ns=0,
    )

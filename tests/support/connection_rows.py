"""Rows of connection_stats and udp_stats as the programs write them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.abi.enums import ConnectionFlags, Ending, Role, TcpState, Who
from otel_netmon.abi.layout import CONNECTION, UDP
from support.rows import address

MS = 1_000_000
SECOND = 1000 * MS
CLIENT, SERVER = "10.0.0.7", "192.0.2.10"

_cookies = itertools.count(1)


def connection(
    local: str = CLIENT,
    remote: str = SERVER,
    *,
    role: Role = Role.CLIENT,
    ports: tuple[int, int] = (40_000, 443),
    begin_ns: int = 100 * SECOND,
    handshake_ns: int = 2 * MS,
    ending: Ending = Ending.NONE,
    lifetime_ns: int = 50 * MS,
    **fields: Any,
) -> npt.NDArray[Any]:
    """One row, shape (1,), of a cookie of its own unless that is given; fields as they stand in it."""
    row = np.zeros(1, CONNECTION)
    failed = ending >= Ending.REFUSED
    row["cookie"] = next(_cookies)
    row["local"], row["remote"] = np.frombuffer(address(local), "u1"), np.frombuffer(address(remote), "u1")
    row["local_port"], row["remote_port"] = ports
    row["begin_ns"] = begin_ns
    row["role"] = role
    row["state"] = TcpState.ESTABLISHED if ending == Ending.NONE else TcpState.CLOSE
    row["ending"] = ending
    row["tgid"], row["cgroup"], row["comm"], row["who"] = 4242, 77, b"app", Who.OPENER
    if not failed:
        row["handshake_ns"] = handshake_ns
        row["established_ns"] = begin_ns + handshake_ns
    if ending != Ending.NONE:
        row["end_ns"] = begin_ns + handshake_ns + (0 if failed else lifetime_ns)
    for name, value in fields.items():
        row[name] = value
    return row


def adopted(**fields: Any) -> npt.NDArray[Any]:
    """A row of a connection that is older than the programs."""
    row = connection(role=Role.UNKNOWN, flags=int(ConnectionFlags.ADOPTED), **fields)
    row["established_ns"] = row["handshake_ns"] = 0
    return row


def datagrams(*ends: str, **fields: Any) -> npt.NDArray[Any]:
    """One row of udp_stats, shape (1,); the ends are the local and the remote address."""
    local, remote = ends or (CLIENT, SERVER)
    row = np.zeros(1, UDP)
    row["cookie"] = next(_cookies)
    row["local"], row["remote"] = np.frombuffer(address(local), "u1"), np.frombuffer(address(remote), "u1")
    row["tgid"], row["cgroup"], row["comm"], row["who"] = 4242, 77, b"app", Who.OPENER
    for name, value in fields.items():
        row[name] = value
    return row


def joined(*rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Rows one after the other."""
    return np.concatenate(rows, dtype=rows[0].dtype) if rows else np.zeros(0, CONNECTION)

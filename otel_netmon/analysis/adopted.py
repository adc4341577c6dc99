"""Connections that are older than the agent: what they gain from one answer of sock_diag to the next.

The hooks do not see them, so they have bytes, segments, retransmits of no kind, and one round-trip time at each answer, and no end: what
happened after the last answer that has them is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.abi.enums import RTT_BUCKETS, RTT_LOWEST_EXPONENT, ConnectionFlags, Retransmit, Role
from otel_netmon.abi.layout import CONNECTION
from otel_netmon.analysis.connections import Connections, Counter, Gains

_FIELDS = {
    "cookie": "cookie",
    "cgroup": "cgroup",
    "local": "local",
    "remote": "remote",
    "local_port": "local_port",
    "remote_port": "remote_port",
    "state": "state",
    "family": "family",
    "bytes_received": "bytes_received",
    "bytes_sent": "bytes_acked",
    "data_received": "data_segs_in",
    "data_sent": "data_segs_out",
    "out_of_order": "rcv_ooopack",
    "rtt_us": "rtt_us",
}
"""Field of layout.CONNECTION: field of readers.inet_diag.SOCKET_WITH_INFO."""


class Adopted:
    """The connections of which nobody saw the begin."""

    def __init__(self) -> None:
        self._connections = Connections()
        self._cookies = np.empty(0, np.uint64)

    def __len__(self) -> int:
        return len(self._cookies)

    def adopt(self, sockets: npt.NDArray[Any], known: npt.NDArray[np.uint64], now_ns: int) -> None:
        """Takes in those of an answer (SOCKET_WITH_INFO) that are in no table; what they did before does not count.

        Args:
            known: cookies of the rows of the kernel's table, read before.
            now_ns: CLOCK_MONOTONIC.
        """
        fresh = sockets[sockets["has_info"] & ~np.isin(sockets["cookie"], known)]
        fresh = fresh[~np.isin(fresh["cookie"], self._cookies)]
        self._connections.begin(rows_of(fresh, now_ns))
        self._cookies = np.concatenate([self._cookies, fresh["cookie"]])

    def update(self, sockets: npt.NDArray[Any], known: npt.NDArray[np.uint64], now_ns: int) -> Gains:
        """Takes the next answer, of all namespaces; those that are not in it are gone.

        Args:
            known: as for ``adopt``: one that has a row now began while it was adopted, and is not older.
        """
        older = np.setdiff1d(self._cookies, known)
        chosen = sockets[np.isin(sockets["cookie"], older) & sockets["has_info"]]
        self._cookies = np.unique(chosen["cookie"])
        gains = self._connections.living(rows_of(chosen, now_ns))
        measured = (gains.counters[Counter.DATA_SENT] > 0) & (gains.rows["rtt_us"] > 0)
        times = gains.rows["rtt_us"]
        gains.counters[Counter.RTT_COUNT, measured] = 1
        gains.counters[Counter.RTT_SUM_US, measured] = times[measured]
        gains.counters[Counter.RTT_BUCKETS + rtt_bucket(times[measured]), np.flatnonzero(measured)] = 1
        return gains

    def state(self) -> dict[str, Any]:
        """What another process needs to go on."""
        return {**self._connections.state(), "cookies": self._cookies}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on where another process was, before the first answer."""
        self._connections.restore(state)
        self._cookies = state["cookies"]


def rows_of(sockets: npt.NDArray[Any], now_ns: int) -> npt.NDArray[Any]:
    """Sockets of sock_diag as rows of the kernel's table, without a process."""
    rows = np.zeros(len(sockets), CONNECTION)
    for name, source in _FIELDS.items():
        rows[name] = sockets[source]
    rows["retransmits"][:, Retransmit.OTHER] = sockets["total_retrans"]
    rows["begin_ns"], rows["flags"], rows["role"] = now_ns, int(ConnectionFlags.ADOPTED), Role.UNKNOWN
    return rows


def rtt_bucket(times_us: npt.NDArray[np.unsignedinteger[Any]]) -> npt.NDArray[np.intp]:
    """The bucket of each round-trip time, as the kernel's program counts them: 0 ends at 2^RTT_LOWEST_EXPONENT s."""
    _, exponent = np.frexp(times_us.astype(np.float64) / 1e6)
    exact = np.ldexp(1.0, exponent - 1) == times_us / 1e6  # the upper end belongs to the bucket
    bucket = exponent - exact - RTT_LOWEST_EXPONENT
    result: npt.NDArray[np.intp] = np.clip(bucket, 0, RTT_BUCKETS - 1).astype(np.intp)
    return result

"""Sockets as sock_diag tells them: connections by state, those that are older than the agent, datagrams that sockets dropped."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.abi.enums import ConnectionFlags
from otel_netmon.analysis.adopted import Adopted
from otel_netmon.analysis.connections import Gains
from otel_netmon.analysis.socket_states import StateCounts, by_state
from otel_netmon.analysis.told import Told
from otel_netmon.otel.points import Point, Points
from otel_netmon.readers.inet_diag import SOCKET_WITH_INFO, SOCKET_WITH_MEMORY
from otel_netmon.readers.sock_diag import SockDiagReader

SHARE = 100
"""sock_diag is asked so seldom that it takes no more than a hundredth of a core."""

_DROPS = np.dtype([("cookie", "<u8"), ("drops", "<u4")])


@dataclass(slots=True)
class _Namespace:
    """A network namespace: where to ask, and what is known of it."""

    name: str
    reader: SockDiagReader
    cookie: int
    counts: StateCounts
    udp: int = 0
    adopted: bool = False


class Drops:
    """Datagrams that were dropped since they were last told, by socket; what a socket had before it was seen first does not count."""

    def __init__(self) -> None:
        self._told = Told(_DROPS)
        self._known = np.empty(0, np.uint64)

    def update(self, sockets: npt.NDArray[Any], rows: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Gives rows (layout.UDP) of living sockets that dropped some, and how many each.

        Args:
            sockets: SOCKET_WITH_MEMORY of all namespaces.
            rows: of the kernel's table. A socket that is older than the agent, or in no table, begins with what it has.
        """
        sockets = sockets[np.unique(sockets["cookie"], return_index=True)[1]]
        current = np.zeros(len(sockets), _DROPS)
        current["cookie"], current["drops"] = sockets["cookie"], sockets["drops"]
        since_birth = rows["cookie"][rows["flags"] & int(ConnectionFlags.ADOPTED) == 0]
        counts = np.isin(current["cookie"], self._known) | np.isin(current["cookie"], since_birth)
        gained = (current["drops"] - self._told.before(current["cookie"])["drops"]) * counts
        self._told.replace(current)
        self._known = current["cookie"]
        _, of_row, of_socket = np.intersect1d(rows["cookie"], current["cookie"], return_indices=True)
        busy = gained[of_socket] > 0
        return rows[of_row[busy]], gained[of_socket[busy]].astype(np.uint64)

    def state(self) -> dict[str, Any]:
        """What another process needs to go on."""
        return {**self._told.state(), "known": self._known}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on where another process was."""
        self._told.restore(state)
        self._known = state["known"]


class SocketSource:
    """Asks sock_diag in each namespace, at each reading or, where that takes much, less often.

    Args:
        compare_seconds: see probes.connections.compare_seconds.
        start_ns: Unix time at which counting began.

    Attributes:
        refused: why sock_diag gives nothing, empty while it does.
        gains: what connections that are older than the agent gained at the last reading; None where nobody was asked.
        drops: rows of UDP sockets and how many datagrams each dropped, likewise.
    """

    def __init__(self, compare_seconds: float, start_ns: int) -> None:
        self._compare_ns = round(compare_seconds * 1e9)
        self._start_ns = start_ns
        self._namespaces: dict[int, _Namespace] = {}
        self._next_ns = 0
        self._adopted = Adopted()
        self._drops = Drops()
        self._rows: npt.NDArray[Any] | None = None
        self.refused = ""
        self.gains: Gains | None = None
        self.drops: tuple[npt.NDArray[Any], npt.NDArray[np.uint64]] | None = None

    def set_namespaces(self, files: Mapping[int, tuple[str, int | None]]) -> None:
        """Takes sockets opened anew, for exactly the namespaces that are observed now.

        Args:
            files: by number of the namespace: its name, empty for the agent's own, and an open socket of NETLINK_SOCK_DIAG, which is
                taken over; None where the kernel refused one.
        """
        for number in set(self._namespaces) - set(files):
            self._namespaces.pop(number).reader.close()
        for number, (name, fd) in files.items():
            old = self._namespaces.pop(number, None)
            if old is not None:
                old.reader.close()
            if fd is None:
                self.refused = "the kernel gives no socket of NETLINK_SOCK_DIAG"
                continue
            reader = SockDiagReader(fd)
            cookie = reader.namespace_cookie
            goes_on = old is not None and old.name == name and old.cookie == cookie
            self._namespaces[number] = _Namespace(
                name,
                reader,
                cookie,
                old.counts if goes_on and old is not None else StateCounts(self._compare_ns),
                adopted=goes_on and old is not None and old.adopted,
            )

    def read(self, tcp: npt.NDArray[Any], udp: npt.NDArray[Any]) -> None:
        """Asks, if it is time.

        Args:
            tcp, udp: rows of the kernel's tables (layout.CONNECTION, layout.UDP), read a moment ago.
        """
        self._rows, self.gains, self.drops = tcp, None, None
        began, used = time.monotonic_ns(), time.thread_time_ns()
        if began < self._next_ns or not self._namespaces:
            return
        try:
            answers = {number: self._ask(each, tcp, began) for number, each in self._namespaces.items()}
        except OSError as error:
            self.refused = f"sock_diag: {error.strerror or os.strerror(error.errno or 0)}"
            self._next_ns = began + self._compare_ns
            return
        self.refused = ""
        sockets = _joined([tcp_sockets for tcp_sockets, _ in answers.values()], SOCKET_WITH_INFO)
        datagrams = _joined([udp_sockets for _, udp_sockets in answers.values()], SOCKET_WITH_MEMORY)
        self.gains = self._adopted.update(sockets, tcp["cookie"], began)
        for number, each in self._namespaces.items():
            if not each.adopted:
                self._adopted.adopt(answers[number][0], tcp["cookie"], began)
                each.adopted = True
        self.drops = self._drops.update(datagrams, udp)
        self._next_ns = began + min(SHARE * (time.thread_time_ns() - used), self._compare_ns)

    def _ask(
        self, namespace: _Namespace, rows: npt.NDArray[Any], now_ns: int
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        sockets, datagrams = namespace.reader.tcp(info=True), namespace.reader.udp()
        namespace.udp = len(datagrams)
        namespace.counts.take(by_state(sockets), self._hooks(namespace, rows), now_ns)
        return sockets, datagrams

    def _hooks(self, namespace: _Namespace, rows: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """What the hooks tell of a namespace; where the kernel has no cookies of namespaces, nothing."""
        if namespace.cookie == 0:
            return by_state(rows[:0])
        return by_state(rows[rows["netns"] == namespace.cookie])

    def points(self) -> dict[str, Points]:
        """Gives system.network.connection.count and netmon.connection.drift."""
        counts: list[Point] = []
        drifts: list[Point] = []
        for namespace in self._namespaces.values():
            if not namespace.counts.known or self._rows is None:
                continue
            where = {"netmon.network.namespace": namespace.name} if namespace.name else {}
            tcp = {**where, "network.transport": "tcp"}
            for told, points in (
                (namespace.counts.counts(self._hooks(namespace, self._rows)), counts),
                (namespace.counts.drift_by_state(), drifts),
            ):
                points += [
                    Point({**tcp, "network.connection.state": state}, count, self._start_ns)
                    for state, count in told.items()
                ]
            counts.append(Point({**where, "network.transport": "udp"}, namespace.udp, self._start_ns))
        return {"system.network.connection.count": counts, "netmon.connection.drift": drifts}

    def own_states(self) -> dict[str, int]:
        """TCP connections of the agent's own namespace by state; nothing while that is not known."""
        for namespace in self._namespaces.values():
            if not namespace.name and namespace.counts.known and self._rows is not None:
                return namespace.counts.counts(self._hooks(namespace, self._rows))
        return {}

    def state(self) -> dict[str, dict[str, Any]]:
        """What another process needs to go on; the counts by state begin anew from sock_diag."""
        return {
            "sockets.adopted": self._adopted.state(),
            "sockets.drops": self._drops.state(),
            "sockets.namespaces": {
                "cookies": np.array([each.cookie for each in self._namespaces.values() if each.adopted], np.uint64)
            },
        }

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Goes on where another process was, before the first reading."""
        self._adopted.restore(state["sockets.adopted"])
        self._drops.restore(state["sockets.drops"])
        known = set(state["sockets.namespaces"]["cookies"].tolist())
        for each in self._namespaces.values():
            each.adopted = each.cookie in known

    def close(self) -> None:
        """Closes every socket."""
        self.set_namespaces({})


def _joined(parts: list[npt.NDArray[Any]], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *parts])

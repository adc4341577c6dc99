"""How many connections are in which state: what sock_diag told last, carried on by what the socket hooks saw since."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.abi.enums import TcpState

_NUMBER = max(TcpState) + 1

STATES = {
    TcpState.ESTABLISHED: "established",
    TcpState.SYN_SENT: "syn_sent",
    TcpState.SYN_RECV: "syn_received",
    TcpState.FIN_WAIT1: "fin_wait_1",
    TcpState.FIN_WAIT2: "fin_wait_2",
    TcpState.TIME_WAIT: "time_wait",
    TcpState.CLOSE_WAIT: "close_wait",
    TcpState.LAST_ACK: "last_ack",
    TcpState.LISTEN: "listen",
    TcpState.CLOSING: "closing",
}
"""network.connection.state. Sockets in CLOSE are in no table of the kernel, and half open ones are told as SYN_RECV."""

_UNSEEN = [TcpState.SYN_RECV, TcpState.TIME_WAIT]
"""Sockets of a kind of their own, which no hook sees: between two answers of sock_diag they are taken to stay."""

Counts = npt.NDArray[np.int64]


def by_state(rows: npt.NDArray[Any]) -> Counts:
    """How many rows (with a field ``state``) are in each state of TcpState; shape (13,)."""
    states = rows["state"]
    return np.bincount(states[states < _NUMBER], minlength=_NUMBER).astype(np.int64)


class StateCounts:
    """The counts of one network namespace.

    Args:
        compare_ns: time between two comparisons of what the hooks told with sock_diag.

    Attributes:
        drift: hooks less sock_diag at the last comparison, by TcpState; None before the first one.
    """

    def __init__(self, compare_ns: int) -> None:
        self._compare_ns = compare_ns
        self._told = self._hooks = np.zeros(_NUMBER, np.int64)
        self._compared = (self._told, self._hooks, 0)
        self.known = False
        self.drift: Counts | None = None

    def take(self, told: Counts, hooks: Counts, now_ns: int) -> None:
        """Takes what sock_diag told, and what the hooks say at the same moment."""
        since, hooks_then, then_ns = self._compared
        if not self.known or now_ns - then_ns >= self._compare_ns:
            if self.known:
                self.drift = _carried(since, hooks - hooks_then) - told
            self._compared = (told, hooks, now_ns)
        self._told, self._hooks, self.known = told, hooks, True

    def counts(self, hooks: Counts) -> dict[str, int]:
        """By network.connection.state, as of now."""
        now = np.maximum(_carried(self._told, hooks - self._hooks), 0)
        return {name: int(now[state]) for state, name in STATES.items()}

    def drift_by_state(self) -> dict[str, int]:
        """Likewise; nothing before the first comparison."""
        return {} if self.drift is None else {name: int(self.drift[state]) for state, name in STATES.items()}


def _carried(told: Counts, change: Counts) -> Counts:
    carried = told + change
    carried[_UNSEEN] = told[_UNSEEN]
    return carried

"""Trouble with connections as events: bursts of resets, connects that fail."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.connection_series import FAILURES
from otel_netmon.analysis.connections import Counter
from otel_netmon.analysis.series import SeriesReading
from otel_netmon.otel.attributes import Tag, Value, encode
from otel_netmon.otel.connections import endpoint_attributes
from otel_netmon.otel.spans import Event, Severity

RESET_BURST = "netmon.tcp.reset_burst"
CONNECT_FAILURES = "netmon.tcp.connect_failures"
QUIET_CYCLES = 3
"""So many cycles below the threshold end a time of trouble."""

_EVENTS_MAX = 20
_RESETS = (Counter.RESETS_RECEIVED, Counter.RESETS_SENT)


class ConnectionEvents:
    """Tells each time of trouble once, for each server; of all servers without a series together.

    Args:
        resets_per_second, failures_per_second: from so many on; 0 for never.
    """

    def __init__(self, resets_per_second: float, failures_per_second: float) -> None:
        self._rules = (
            (RESET_BURST, _RESETS, resets_per_second, "connections were reset"),
            (CONNECT_FAILURES, (FAILURES,), failures_per_second, "connects failed"),
        )
        self._trouble: dict[tuple[str, bytes], int] = {}
        self._rest: npt.NDArray[np.uint64] | None = None

    def take(self, reading: SeriesReading, seconds: float, now_ns: int) -> list[Event]:
        """The events of a cycle that took so many seconds, the largest first, at most 20 of each kind."""
        rest = reading.rest[0]
        gained_by_rest = rest - (rest if self._rest is None else self._rest)
        self._rest = rest.copy()
        gained = np.concatenate([gained_by_rest[:, None], reading.gained], axis=1)
        keys = [b"", *(key.tobytes() for key in reading.keys)]
        events = []
        busy: set[tuple[str, bytes]] = set()
        for name, counters, threshold, what in self._rules:
            if threshold == 0:
                continue
            counts = gained[list(counters)].sum(axis=0)
            above = np.flatnonzero(counts >= max(1, threshold * seconds))
            above = above[np.argsort(counts[above], kind="stable")[::-1]]
            fresh = [place for place in above.tolist() if (name, keys[place]) not in self._trouble]
            busy |= {(name, keys[place]) for place in above.tolist()}
            events += [
                _event(name, _identity(reading, place - 1), int(counts[place]), what, seconds, now_ns)
                for place in fresh[:_EVENTS_MAX]
            ]
        quiet = {trouble: cycles + 1 for trouble, cycles in self._trouble.items()}
        self._trouble = {trouble: cycles for trouble, cycles in quiet.items() if cycles < QUIET_CYCLES}
        self._trouble |= dict.fromkeys(busy, 0)
        return events


def _identity(reading: SeriesReading, place: int) -> dict[str, Value]:
    return endpoint_attributes(*reading.keys[place].tolist()[:3]) if place >= 0 else {}


def _event(name: str, identity: dict[str, Value], count: int, what: str, seconds: float, now_ns: int) -> Event:
    where = "of several servers" if not identity else _sentence(identity)
    body = f"{count} {what} in {seconds:.3g} s, {where}"
    return Event(name, now_ns, Severity.WARN, body, encode(identity, Tag.LOG_RECORD))


def _sentence(identity: dict[str, Value]) -> str:
    if "server.address" not in identity:
        return "of those that are older than the agent"
    server = f"{identity['server.address']} port {identity['server.port']}"
    return f"with {server}" if identity["network.tcp.handshake.role"] == "client" else f"of this host's {server}"

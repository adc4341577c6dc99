"""http_connections: exchanges that are quiet are told, and connections that are quiet are forgotten, by the program netmon_quiet."""

from __future__ import annotations

from otel_netmon.abi.enums import FLOW_KEY_SIZE, QUIET_KEYS_MAX, SWEEP_HEADER_SIZE
from otel_netmon.kernel import syscalls

QUIET_MS = 20_000
"""A response whose end was not seen (it ends with the connection, or its last chunk came in pieces or with trailers) is over when
nothing of it was seen for so long; if more of it comes, that is not counted. Streams of events send a comment every 15 seconds, as
the HTML standard advises."""

_EVERY_NS = 900_000_000  # the ring is drained each second


class HttpQuiet:
    """Has the kernel tell the exchanges of which nothing was seen for long.

    Args:
        connections: the map.
        capacity: its entries.
        program: netmon_quiet.
        timeout_seconds: after which a request without a response is told, and a connection without a request forgotten.

    Attributes:
        capacity: as above.
        live: how many connections there were at the last run.
    """

    def __init__(self, connections: int, capacity: int, program: int, timeout_seconds: float) -> None:
        self.capacity, self.live = capacity, 0
        self._connections = connections
        self._run = syscalls.TestRun(program, SWEEP_HEADER_SIZE + QUIET_KEYS_MAX * FLOW_KEY_SIZE)
        self._forget_ms = round(timeout_seconds * 1000)
        self._ran_ns = 0

    def run(self, now_ns: int) -> int:
        """Gives how many exchanges were told or connections forgotten; does nothing within a second of the last time.

        Args:
            now_ns: CLOCK_MONOTONIC.
        """
        if now_ns - self._ran_ns < _EVERY_NS:
            return 0
        self._ran_ns = now_ns
        # All keys before the first run: a key that is deleted would begin them anew.
        keys = list(syscalls.map_keys(self._connections, FLOW_KEY_SIZE))
        self.live = len(keys)
        changed = 0
        for start in range(0, len(keys), QUIET_KEYS_MAX):
            part = keys[start : start + QUIET_KEYS_MAX]
            frame = bytes(SWEEP_HEADER_SIZE) + b"".join(part)
            changed += self._run.run(frame, (len(part), QUIET_MS, self._forget_ms, 0, 0))
        return changed

"""gRPC calls to series of rpc.server.call.duration and rpc.client.call.duration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.duration_series import DurationReading, DurationSeries
from otel_netmon.analysis.http_records import HttpRequest, Outcome
from otel_netmon.analysis.name_table import OTHER, NameTable
from otel_netmon.analysis.rpc import GrpcCall

SERIES = np.dtype(
    [
        ("method", "<u8"),
        ("server", "<u8"),
        ("port", "<u2"),
        ("status", "<u2"),
        ("outcome", "u1"),
        ("reserved", "u1", 3),
    ]
)
"""The identity of a series: names by their numbers; server 0 without an address, port 0 without one; status NO_STATUS without
one, then the outcome tells what failed."""

NO_STATUS = 0xFFFF
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
_ATTRIBUTES = {"method": "rpc.method", "server": "server.address", "status": "rpc.response.status_code"}


class CallSeries(NamedTuple):
    """One cycle's series, and the names of their numbers."""

    reading: DurationReading
    methods: Mapping[int, str]
    servers: Mapping[int, str]


class RpcSeries:
    """Keeps the series of the calls of one side.

    Args:
        side: ``server`` or ``client``, part of the name under which its state is saved.
        bounds: upper bounds of the explicit buckets in seconds.
        names: how many methods, and how many servers, are told apart; all others are ``other``.
        start_ns: Unix time at which counting began.
        idle_ns: a series without a call for so long ends.
    """

    def __init__(self, side: str, bounds: Sequence[float], names: int, start_ns: int, idle_ns: int) -> None:
        self._name = f"rpc.{side}"
        self._series = DurationSeries(self._name, SERIES, _ATTRIBUTES, bounds, start_ns, idle_ns)
        self._methods = NameTable(names, idle_ns)
        self._servers = NameTable(names, idle_ns)
        self._now_ns = start_ns

    def __len__(self) -> int:
        return len(self._series)

    def set_limit(self, limit: int) -> None:
        """Lets there be so many series."""
        self._series.set_limit(limit)

    def add(
        self,
        requests: Sequence[HttpRequest],
        calls: Sequence[GrpcCall],
        servers: Sequence[tuple[str, int] | None],
        now_ns: int,
    ) -> npt.NDArray[np.intp]:
        """Counts calls that came to an end; gives the row of each in the distributions, for exemplars.

        Args:
            requests, calls: each call and the request that carried it.
            servers: address and port of each, by which the client knows the server; None to leave it out.
            now_ns: Unix time.
        """
        self._now_ns = now_ns
        keys = np.zeros(len(calls), SERIES)
        for at, (request, call, server) in enumerate(zip(requests, calls, servers, strict=True)):
            keys[at] = self._identity(request, call, server, now_ns)
        seconds = np.array([request.lasted_ns for request in requests], np.float64) / 1e9
        return self._series.add(keys, seconds, now_ns)

    def offer_exemplars(self, *columns: Any) -> None:
        """See ``DurationSeries.offer_exemplars``."""
        self._series.offer_exemplars(*columns)

    def reading(self) -> CallSeries:
        """The series as they stand."""
        return CallSeries(self._series.reading(), self._methods.texts, self._servers.texts)

    def end_cycle(self) -> None:
        """Ends a cycle, whose reading was taken, and makes room."""
        self._series.end_cycle()
        keys = self._series.reading().series.keys
        self._methods.end_cycle(set(keys["method"].tolist()), self._now_ns)
        self._servers.end_cycle(set(keys["server"].tolist()), self._now_ns)

    @property
    def folded(self) -> int:
        """Sets of the last cycle that had no series of their own."""
        return self._series.folded

    def distinct(self) -> dict[str, float]:
        """See ``DurationSeries.distinct``."""
        return self._series.distinct()

    def state(self) -> dict[str, dict[str, Any]]:
        """What another process needs to go on."""
        return {
            **self._series.state(),
            f"{self._name}.methods": self._methods.state(),
            f"{self._name}.servers": self._servers.state(),
        }

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Goes on where another process was, before the first call."""
        self._series.restore(state)
        self._methods.restore(state[f"{self._name}.methods"])
        self._servers.restore(state[f"{self._name}.servers"])

    def _identity(
        self, request: HttpRequest, call: GrpcCall, server: tuple[str, int] | None, now_ns: int
    ) -> tuple[Any, ...]:
        method = call.method if call.is_recognised and call.method is not None else None
        return (
            self._methods.number(OTHER if method is None else method, now_ns),
            0 if server is None else self._servers.number(server[0], now_ns),
            0 if server is None else server[1],
            NO_STATUS if call.status is None else min(call.status, NO_STATUS - 1),
            OUTCOMES.index(request.outcome) if call.status is None else 0,
            (0, 0, 0),
        )

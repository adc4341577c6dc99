"""gRPC calls to series of rpc.server.call.duration and rpc.client.call.duration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.http_records import HttpRequest, Outcome
from otel_netmon.analysis.name_table import OTHER
from otel_netmon.analysis.rpc import GrpcCall
from otel_netmon.analysis.series_family import DistributionSeries

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


class RpcSeries(DistributionSeries):
    """Keeps the series of the calls of one side.

    Args:
        side: ``server`` or ``client``, part of the name under which its state is saved.
        bounds: upper bounds of the explicit buckets in seconds.
        names: how many methods, and how many servers, are told apart; all others are ``other``.
        start_ns: Unix time at which counting began.
        idle_ns: a series without a call for so long ends.
    """

    def __init__(self, side: str, bounds: Sequence[float], names: int, start_ns: int, idle_ns: int) -> None:
        told_apart = {"method": names, "server": names}
        super().__init__(f"rpc.{side}", SERIES, _ATTRIBUTES, {"durations": bounds}, told_apart, start_ns, idle_ns)

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
        keys = np.zeros(len(calls), SERIES)
        for at, (request, call, server) in enumerate(zip(requests, calls, servers, strict=True)):
            keys[at] = self._identity(request, call, server, now_ns)
        seconds = np.array([request.lasted_ns for request in requests], np.float64) / 1e9
        return self._count_each(keys, seconds, now_ns)

    def _identity(
        self, request: HttpRequest, call: GrpcCall, server: tuple[str, int] | None, now_ns: int
    ) -> tuple[Any, ...]:
        method = call.method if call.is_recognised and call.method is not None else None
        return (
            self._names["method"].number(OTHER if method is None else method, now_ns),
            0 if server is None else self._names["server"].number(server[0], now_ns),
            0 if server is None else server[1],
            NO_STATUS if call.status is None else min(call.status, NO_STATUS - 1),
            OUTCOMES.index(request.outcome) if call.status is None else 0,
            (0, 0, 0),
        )

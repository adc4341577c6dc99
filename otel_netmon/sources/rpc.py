"""gRPC calls among the requests of HTTP -> rpc.server.call.duration, rpc.client.call.duration, spans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.http_records import HttpRequest
from otel_netmon.analysis.request_phases import EarlierRequests
from otel_netmon.analysis.rpc import call_of
from otel_netmon.analysis.rpc_series import RpcSeries
from otel_netmon.analysis.sampling import KeepRule
from otel_netmon.otel.catalogue import CATALOGUE
from otel_netmon.otel.points import Points
from otel_netmon.otel.rpc import CLIENT_DURATION, SERVER_DURATION, RpcPoints, rpc_spans, server_of
from otel_netmon.otel.series import Diversity, diversity
from otel_netmon.otel.spans import Sought


class RpcSide:
    """The calls of one side.

    Args:
        is_server: which one.
        names: how many methods, and servers, are told apart.
        rule: which spans are kept; shared with other requests of HTTP.
        start_ns: Unix time at which counting began.
        idle_ns: a series without a call for so long ends.
    """

    def __init__(self, *, is_server: bool, names: int, rule: KeepRule, start_ns: int, idle_ns: int) -> None:
        metric = SERVER_DURATION if is_server else CLIENT_DURATION
        self._is_server = is_server
        self._rule = rule
        self._earlier = EarlierRequests()
        side = "server" if is_server else "client"
        self._series = RpcSeries(side, CATALOGUE[metric].bounds, names, start_ns, idle_ns)
        self._points = RpcPoints(is_server=is_server)
        self._spans: list[Sought] = []

    def begin_cycle(self, limit: int) -> None:
        """Begins to read what is told, of so many series at most."""
        self._series.set_limit(limit)

    def take(self, requests: Sequence[HttpRequest], offset_ns: int, now_ns: int) -> None:
        """Takes requests with ``is_grpc`` that are over.

        Args:
            offset_ns: what makes Unix time of the requests' clock.
            now_ns: the requests' clock.
        """
        if not requests:
            return
        calls = [call_of(request) for request in requests]
        servers = [None if self._is_server else server_of(request) for request in requests]
        rows = self._series.add(requests, calls, servers, now_ns + offset_ns)
        sides: npt.NDArray[np.bool_] = np.full(len(requests), self._is_server)
        ports = np.array([int.from_bytes(each.client[16:], "big") for each in requests], np.uint16)
        begun_ns = np.array([each.request_first_ns for each in requests], np.int64)
        earlier_ns = self._earlier.before(ports, begun_ns)
        spans = rpc_spans(requests, calls, sides, self._rule, offset_ns, now_ns)
        if len(spans.kept):
            self._spans.append(spans.spans.behind(earlier_ns[spans.kept]))
            self._series.offer_exemplars(rows[spans.kept], *spans.exemplars())

    @property
    def wanted(self) -> int:
        """How many series there is use for."""
        return self._series.wanted

    def diversity(self) -> Diversity:
        """How many different calls there are, with and without a series."""
        return diversity(self._series)

    def take_spans(self) -> list[Sought]:
        """The spans that were kept since the last call."""
        spans, self._spans = self._spans, []
        return spans

    def points(self) -> dict[str, Points]:
        """The points of this cycle, which ends with it."""
        points: dict[str, Points] = {**self._points.points(self._series.reading())}
        self._series.end_cycle()
        return points

    def state(self) -> dict[str, dict[str, Any]]:
        """What another process needs to go on."""
        return self._series.state()

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Goes on where another process was, before the first call."""
        self._series.restore(state)

"""gRPC calls to points of rpc.server.call.duration and rpc.client.call.duration, and to spans.

Names: OpenTelemetry semantic conventions for RPC and for gRPC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.http_records import UNPLACED, HttpRequest, Outcome
from otel_netmon.analysis.name_table import OTHER as OTHER_NAME
from otel_netmon.analysis.rpc import OTHER, GrpcCall, error_type, status_name
from otel_netmon.analysis.rpc_series import NO_STATUS, OUTCOMES
from otel_netmon.analysis.sampling import KeepRule
from otel_netmon.analysis.series_family import DistributionReading
from otel_netmon.decode.authority import read_authority
from otel_netmon.enrich.addresses import address_text
from otel_netmon.otel.attributes import Tag, Value, encode
from otel_netmon.otel.histograms import histogram_series
from otel_netmon.otel.kept_spans import KeptSpans
from otel_netmon.otel.points import HistogramSeries
from otel_netmon.otel.request_ends import end_attributes
from otel_netmon.otel.request_spans import kept_spans
from otel_netmon.otel.series_sets import OVERFLOW, SeriesSets
from otel_netmon.otel.spans import Describe, Description

SERVER_DURATION = "rpc.server.call.duration"
CLIENT_DURATION = "rpc.client.call.duration"
SYSTEM = "grpc"


class RpcPoints:
    """Makes the points of one side in each cycle.

    Args:
        is_server: which side.
    """

    def __init__(self, *, is_server: bool) -> None:
        self._is_server = is_server
        self._sets = SeriesSets(OVERFLOW)

    def points(self, calls: DistributionReading) -> dict[str, HistogramSeries]:
        """Gives the metric: the overflow point, then each series."""
        sets = self._sets.of(calls.series, lambda identity: self._attributes(identity, calls.names))
        name = SERVER_DURATION if self._is_server else CLIENT_DURATION
        return {name: histogram_series(calls.distributions[0], sets, calls.series.starts_ns)}

    def _attributes(self, identity: tuple[Any, ...], names: Mapping[str, Mapping[int, str]]) -> dict[str, Value]:
        method, server, port, status, outcome, _ = identity
        attributes: dict[str, Value] = {
            "rpc.system.name": SYSTEM,
            "rpc.method": OTHER if names["method"][method] == OTHER_NAME else names["method"][method],
        }
        if server:
            attributes["server.address"] = names["server"][server]
            if port:
                attributes["server.port"] = port
        return attributes | _result(
            None if status == NO_STATUS else status, OUTCOMES[outcome], is_server=self._is_server
        )


def _result(status: int | None, outcome: Outcome, *, is_server: bool) -> dict[str, Value]:
    attributes: dict[str, Value] = {}
    if status is not None:
        attributes["rpc.response.status_code"] = status_name(status)
    error = error_type(status, outcome, is_server=is_server)
    if error is not None:
        attributes["error.type"] = error
    return attributes


def server_of(request: HttpRequest) -> tuple[str, int] | None:
    """Gives address and port of the server as the client names it, or as it is reached; None where neither is known."""
    named = read_authority(request.host)
    port = int.from_bytes(request.server[16:], "big")
    if named is None:
        return None if request.server == UNPLACED else (address_text(request.server[:16]), port)
    return named.host, port if named.port is None else named.port


def rpc_spans(
    requests: Sequence[HttpRequest],
    calls: Sequence[GrpcCall],
    is_server: npt.NDArray[np.bool_],
    rule: KeepRule,
    unix_offset_ns: int,
    now_ns: int,
) -> KeptSpans:
    """Gives a span for each call that the rule keeps, see ``request_spans.kept_spans``."""
    sides = is_server.tolist()
    kinds = [
        (SYSTEM, side, call.method if call.is_recognised else None, call.status, request.outcome)
        for request, call, side in zip(requests, calls, sides, strict=True)
    ]
    errors = np.array(
        [
            error_type(call.status, request.outcome, is_server=side) is not None
            for request, call, side in zip(requests, calls, sides, strict=True)
        ],
        np.bool_,
    )

    def describer(places: Sequence[int]) -> Describe:
        kept = [(requests[at], calls[at]) for at in places]
        return lambda at, of_server: _describe(*kept[at], is_server=of_server)

    return kept_spans(requests, is_server, kinds, errors, rule, unix_offset_ns, now_ns, describer)


def _describe(request: HttpRequest, call: GrpcCall, *, is_server: bool) -> Description:
    result = _result(call.status, request.outcome, is_server=is_server)
    name = call.method if call.is_recognised and call.method is not None else SYSTEM
    attributes = encode({**_call_attributes(request, call, is_server=is_server), **result}, Tag.SPAN)
    return Description(name, attributes, str(result.get("error.type", "")))


def _call_attributes(request: HttpRequest, call: GrpcCall, *, is_server: bool) -> dict[str, Value]:
    attributes: dict[str, Value] = {"rpc.system.name": SYSTEM, "rpc.method": OTHER}
    if call.method is not None:
        attributes["rpc.method" if call.is_recognised else "rpc.method_original"] = call.method
    attributes |= end_attributes(request, is_server=is_server)
    attributes |= {"network.protocol.name": "http", "network.protocol.version": request.version}
    if request.unknown:
        attributes["netmon.http.unknown"] = ",".join(request.unknown)
    return attributes

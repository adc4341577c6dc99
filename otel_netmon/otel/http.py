"""Requests of HTTP to points of http.server.*, http.client.* and netmon.http.*, and to spans.

Names: OpenTelemetry semantic conventions for HTTP; what they do not have is ``netmon.http.*``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.http_alike import METHODS, VERSIONS, Sight
from otel_netmon.analysis.http_columns import ANSWERED, OUTCOMES, HttpColumns
from otel_netmon.analysis.http_paths import folded_path, target_path
from otel_netmon.analysis.http_records import HttpRequest
from otel_netmon.analysis.name_table import OTHER
from otel_netmon.analysis.routes import LearnedRoutes
from otel_netmon.analysis.sampling import KeepRule, Reason, trace_randomness
from otel_netmon.analysis.series_family import DistributionReading
from otel_netmon.otel.attributes import Tag, Value, encode
from otel_netmon.otel.histograms import histogram_series
from otel_netmon.otel.kept_spans import KeptSpans, identifiers, randomness_of
from otel_netmon.otel.points import HistogramSeries
from otel_netmon.otel.request_ends import end_attributes
from otel_netmon.otel.request_spans import sought_spans
from otel_netmon.otel.series_sets import OVERFLOW, SeriesSets
from otel_netmon.otel.spans import Description
from otel_netmon.otel.trace_context import randomness

FIRST_BYTE = "netmon.http.time_to_first_byte"
SCHEMES = ("http", "https")

_SERVER_ERRORS_FROM, _CLIENT_ERRORS_FROM = 500, 400
_NO_NAME = "HTTP"  # of a span whose method is not known
_PORTS = {"http": 80, "https": 443}


def metrics_of(side: str) -> tuple[str, ...]:
    """The metrics of a side, ``server`` or ``client``, in the order of ``http_series.DISTRIBUTIONS``."""
    return (
        f"http.{side}.request.duration",
        FIRST_BYTE,
        f"http.{side}.request.body.size",
        f"http.{side}.response.body.size",
    )


class HttpPoints:
    """Makes the points of one side in each cycle.

    Args:
        side: ``server`` or ``client``.
    """

    def __init__(self, side: str) -> None:
        self._side = side
        self._role: dict[str, Value] = {"netmon.http.role": side}
        self._sets = SeriesSets(OVERFLOW)
        self._sets_of_role = SeriesSets({**self._role, **OVERFLOW})

    def points(self, requests: DistributionReading) -> dict[str, HistogramSeries]:
        """Gives the metrics of the side: of each the overflow point, then every series."""
        series = requests.series
        sets = self._sets.of(series, lambda identity: self._attributes(identity, requests.names))
        # The metric of both sides tells them apart.
        sets_of_role = self._sets_of_role.of(
            series, lambda identity: {**self._role, **self._attributes(identity, requests.names)}
        )
        return {
            metric: histogram_series(distribution, sets_of_role if metric == FIRST_BYTE else sets, series.starts_ns)
            for metric, distribution in zip(metrics_of(self._side), requests.distributions, strict=True)
        }

    def _attributes(self, identity: tuple[Any, ...], names: Mapping[str, Mapping[int, str]]) -> dict[str, Value]:
        server, route, port, status, method, version, outcome, secure = identity
        is_server = self._side == "server"
        attributes: dict[str, Value] = {"http.request.method": METHODS[method], "url.scheme": SCHEMES[secure]}
        if status:
            attributes["http.response.status_code"] = status
        if route and names["route"][route] != OTHER:
            attributes["http.route" if is_server else "url.template"] = names["route"][route]
        if server:
            attributes["server.address"] = names["server"][server]
        if port:
            attributes["server.port"] = port
        attributes["network.protocol.version"] = VERSIONS[version]
        error = error_type(status, outcome, is_server=is_server)
        if error is not None:
            attributes["error.type"] = error
        return attributes


def error_type(status: int, outcome: int, *, is_server: bool) -> str | None:
    """Gives what the conventions have as error.type; None if the request did not fail.

    Args:
        status: 0 without one.
        outcome: a place in OUTCOMES.
        is_server: a 4xx is an error of the client alone.
    """
    if outcome != ANSWERED:
        return OUTCOMES[outcome]
    return str(status) if status >= (_SERVER_ERRORS_FROM if is_server else _CLIENT_ERRORS_FROM) else None


def http_spans(
    requests: HttpColumns,
    kinds: npt.NDArray[np.int64],
    sights: Sequence[Sight],
    learned: LearnedRoutes | None,
    rule: KeepRule,
    unix_offset_ns: int,
    now_ns: int,
    *,
    is_server: bool,
) -> KeptSpans:
    """Gives a span for each request of one side that the rule keeps; see ``request_spans.kept_spans``.

    Args:
        kinds: of each request, for the rule.
        sights, learned: see ``HttpSeries.add``.
        unix_offset_ns: what makes Unix time of the requests' clock.
        now_ns: the requests' clock.
    """
    parents = requests.parents
    recorded = np.flatnonzero(~parents.exist | parents.sampled)
    rule.counts[Reason.SAMPLED_OUT] += len(requests) - len(recorded)
    random = randomness_of(len(recorded))
    drawn = _randomness(requests, recorded, random)
    errors = _errors(requests, is_server=is_server)
    decision = rule.decide(kinds[recorded], requests.lasted_ns[recorded], errors[recorded], now_ns, drawn)
    chosen = np.flatnonzero(decision.keep)
    kept = recorded[chosen]
    whole = requests.whole(kept)
    told = [sights[place] for place in requests.places[kept].tolist()]  # they may be forgotten before the span is told
    spans = sought_spans(
        whole,
        np.full(len(kept), is_server),
        errors[kept],
        decision.threshold[chosen],
        identifiers(random[chosen]),
        unix_offset_ns,
        lambda at, of_server: _describe(whole[at], told[at], learned, is_server=of_server),
    )
    return KeptSpans(spans, kept)


def _randomness(
    requests: HttpColumns, recorded: npt.NDArray[np.intp], random: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """The randomness of each request's trace: its parent's, otherwise this one."""
    parents = requests.parents
    drawn = np.where(parents.exist[recorded], trace_randomness(parents.trace_ids[recorded]), random)
    for place, at in enumerate(recorded.tolist() if parents.states else ()):
        if at in parents.states:
            drawn[place] = randomness(parents.trace_ids[at : at + 1], [parents.states[at]])[0]
    return drawn


def _errors(requests: HttpColumns, *, is_server: bool) -> npt.NDArray[np.bool_]:
    limit = _SERVER_ERRORS_FROM if is_server else _CLIENT_ERRORS_FROM
    errors: npt.NDArray[np.bool_] = (requests.outcome != ANSWERED) | (requests.status >= limit)
    return errors


def _describe(request: HttpRequest, sight: Sight, learned: LearnedRoutes | None, *, is_server: bool) -> Description:
    path = target_path(request.target) if request.target is not None and "target" not in request.unknown else None
    route = sight.template
    if route is None and path is not None and learned is not None:
        route = learned.template(path, was_found=False, number=0)
    attributes = _span_attributes(request, sight, route, is_server=is_server)
    if path is not None:
        # What a route leaves of a path is no identifier.
        shown = folded_path(path) if route is None else route
        attributes["url.path"] = shown
        if not is_server and "server.address" in attributes:
            attributes["url.full"] = _url(attributes, shown)
    error = error_type(request.status or 0, OUTCOMES.index(request.outcome), is_server=is_server)
    if error is not None:
        attributes["error.type"] = error
    name = _NO_NAME if sight.method == METHODS[0] else sight.method
    return Description(f"{name} {route}" if route is not None else name, encode(attributes, Tag.SPAN), error or "")


def _span_attributes(request: HttpRequest, sight: Sight, route: str | None, *, is_server: bool) -> dict[str, Value]:
    attributes: dict[str, Value] = {"http.request.method": sight.method, "url.scheme": SCHEMES[request.is_secure]}
    if sight.method == METHODS[0] and request.method is not None:
        attributes["http.request.method_original"] = request.method
    if request.status is not None:
        attributes["http.response.status_code"] = request.status
    if route is not None:
        attributes["http.route" if is_server else "url.template"] = route
    attributes |= end_attributes(request, is_server=is_server)
    attributes["network.protocol.version"] = request.version
    for name, octets in (("request", request.request_body_octets), ("response", request.response_body_octets)):
        if request.outcome == "answered" and f"{name}_body_octets" not in request.unknown:
            attributes[f"http.{name}.body.size"] = octets
    if request.upgrade:
        attributes["netmon.http.upgrade"] = request.upgrade
    if request.unknown:
        attributes["netmon.http.unknown"] = ",".join(request.unknown)
    return attributes


def _url(attributes: dict[str, Value], path: str) -> str:
    scheme, host, port = str(attributes["url.scheme"]), str(attributes["server.address"]), attributes.get("server.port")
    named = f"[{host}]" if ":" in host else host
    return f"{scheme}://{named}{path}" if port in (None, _PORTS[scheme]) else f"{scheme}://{named}:{port}{path}"

"""The document of /status: what the agent observes and how it is, for people and for ``otel-netmon top``. A stable interface.

Rates are over the last cycle. ``build`` makes the document, ``problems`` checks one.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict, Union, get_args, get_origin, get_type_hints, is_typeddict

from otel_netmon import __version__


class ProbeStatus(TypedDict):
    """One probe; ``reason`` is a word and empty when the state is ok, ``detail`` is for people."""

    name: str
    state: Literal["ok", "degraded", "off"]
    reason: str
    detail: str


class StageStatus(TypedDict):
    """Items of one stage since the start: produced = delivered + the sum of dropped."""

    delivered: int
    dropped: dict[str, int]


class DirectionStatus(TypedDict):
    """One direction of an interface: packets and layer-2 bytes since the start, as the interface counts them.

    ``skb_*`` is what the stack handed over, a GSO or GRO super-packet being one; ``wire_*`` the segments that they stand for.
    ``coverage`` is the share of the kernel's own packet count that was seen, None where the kernel has counted nothing.
    """

    packets: int
    bytes: int
    skb_packets: int
    skb_bytes: int
    wire_packets: int
    wire_bytes: int
    packets_per_second: float
    bytes_per_second: float
    coverage: float | None


class InterfaceStatus(TypedDict):
    """One interface; ``edge`` tells whether flows are counted here, ``hooks`` how each hook is attached."""

    name: str
    index: int
    namespace: str
    kind: str
    edge: bool
    hooks: dict[str, str]
    receive: DirectionStatus
    transmit: DirectionStatus


class FlowStatus(TypedDict):
    """One direction of a conversation; ``port`` is the server's, None for transports without ports."""

    client: str
    server: str
    port: int | None
    transport: str
    direction: Literal["receive", "transmit"]
    bytes_per_second: float
    packets_per_second: float
    bytes: int
    packets: int


class FlowsStatus(TypedDict):
    """The kernel's flow table and its largest flows."""

    live: int
    capacity: int
    top: list[FlowStatus]


class EndpointStatus(TypedDict):
    """Connections of one server: which end is here, and what the last cycle brought.

    ``server`` is empty and ``port`` None where the role is not known. ``rtt_seconds`` is the mean, None without a measurement.
    """

    role: str
    server: str
    port: int | None
    bytes_per_second: float
    failed_per_second: float
    resets_per_second: float
    retransmits_per_second: float
    rtt_seconds: float | None


class ConnectionsStatus(TypedDict):
    """The kernel's table of connections, those of the agent's own network namespace by state, and the busiest servers."""

    live: int
    capacity: int
    udp_live: int
    udp_capacity: int
    states: dict[str, int]
    top: list[EndpointStatus]


class SeriesAttributeStatus(TypedDict):
    """One attribute of a family's sets.

    ``distinct`` estimates its values lately, those of folded sets included; ``share`` is that number for each of the distinct sets,
    at most 1: near 1, almost every set has a value of its own.
    """

    key: str
    distinct: int
    share: float


class SeriesFamilyStatus(TypedDict):
    """Metrics with the same attribute sets, which share a part of the budget.

    ``active`` series are exported of at most ``limit``; an attribute set is one series for each of ``metrics``. ``folded`` estimates
    the attribute sets of the last cycle that have no series of their own, but a part in the overflow point. ``weight`` is the
    family's claim to the budget beside that of the others.
    """

    name: str
    metrics: list[str]
    active: int
    limit: int
    folded: int
    weight: float
    attributes: list[SeriesAttributeStatus]


class SeriesStatus(TypedDict):
    """The budget of series (``limits.series``) and who uses it."""

    active: int
    limit: int
    idle_seconds: float
    families: list[SeriesFamilyStatus]


class RouteStatus(TypedDict):
    """A learned template and its requests since it is known."""

    template: str
    requests: int


class RoutesStatus(TypedDict):
    """Routes of HTTP requests: rules of ``probes.http.routes``, and what was learned, the most frequent first.

    ``refused`` are requests whose template would have been one more than ``limit``.
    """

    rules: list[str]
    learning: bool
    limit: int
    refused: int
    learned: list[RouteStatus]


class CertificatesStatus(TypedDict):
    """Certificates that the agent asks servers for by handshakes of its own (``probes.tls.certificate: active``).

    ``servers`` were asked within a day, ``waiting`` are due; ``read`` and ``unread``, by reason, are since the start.
    """

    source: Literal["active"]
    servers: int
    waiting: int
    read: int
    unread: dict[str, int]


class SignalStatus(TypedDict):
    """Spans or log records: ``offered`` = ``delivered`` + the sum of ``dropped`` + ``pending``, those in a spool pending."""

    offered: int
    delivered: int
    dropped: dict[str, int]
    pending: int


class SpoolStatus(TypedDict):
    """Requests on disk. ``dropped`` counts those that left it undelivered, by reason."""

    directory: str
    bytes: int
    max_bytes: int
    records: int
    oldest_unix_nano: int | None
    dropped: dict[str, int]


class OtlpStatus(TypedDict):
    """What has become of the items for one receiver, and how it is.

    ``points_offered`` = ``points_delivered`` + the sum of ``points_dropped`` + ``points_pending``.
    ``queue_bytes`` are the requests that wait in memory. ``state``: no answer yet, the last request was taken, it failed and is tried
    again, or the receiver refused it for good. ``spool`` is None where there is none.
    """

    name: str
    endpoint: str
    protocol: str
    state: Literal["starting", "delivering", "failing", "rejected"]
    points_offered: int
    points_delivered: int
    points_dropped: dict[str, int]
    points_pending: int
    spans: SignalStatus
    log_records: SignalStatus
    queue_bytes: int
    spool: SpoolStatus | None
    requests: int
    last_error: str | None
    last_success_unix_nano: int | None


class PrometheusStatus(TypedDict):
    """Where the page is served."""

    listen: str


class ExportStatus(TypedDict, total=False):
    """Where the telemetry goes; an exporter that is off is left out.

    ``otlp`` is the receiver that the keys of ``otlp`` describe, ``destinations`` are the further ones by name.
    """

    otlp: OtlpStatus
    destinations: dict[str, OtlpStatus]
    prometheus: PrometheusStatus


class _Always(TypedDict):
    """What every version tells."""

    version: str
    uptime_seconds: float
    interval_seconds: float
    probes: list[ProbeStatus]
    stages: dict[str, StageStatus]
    interfaces: list[InterfaceStatus]
    flows: FlowsStatus
    export: ExportStatus


class Status(_Always, total=False):
    """The whole document.

    ``series`` is absent where the agent is older than the budget of series, ``connections`` where it does not follow them,
    ``routes`` without HTTP, ``certificates`` unless the agent asks for them itself.
    """

    series: SeriesStatus
    connections: ConnectionsStatus
    routes: RoutesStatus
    certificates: CertificatesStatus


def build(  # noqa: PLR0913 - the parts of the document
    *,
    uptime_seconds: float,
    interval_seconds: float,
    probes: Sequence[ProbeStatus],
    stages: Mapping[str, StageStatus],
    interfaces: Sequence[InterfaceStatus],
    flows: FlowsStatus,
    export: ExportStatus,
    series: SeriesStatus | None = None,
    routes: RoutesStatus | None = None,
) -> Status:
    """The document of this agent version."""
    document = Status(
        version=__version__,
        uptime_seconds=round(uptime_seconds, 3),
        interval_seconds=interval_seconds,
        probes=list(probes),
        stages=dict(stages),
        interfaces=list(interfaces),
        flows=flows,
        export=export,
    )
    if series is not None:
        document["series"] = series
    if routes is not None:
        document["routes"] = routes
    return document


def problems(document: object) -> list[str]:
    """Where a document, as JSON gave it back, departs from ``Status``; each with its path."""
    return list(_problems(document, Status, "status"))


def _problems(value: object, expected: Any, path: str) -> list[str]:
    origin, arguments = get_origin(expected), get_args(expected)
    if is_typeddict(expected):
        return _dict_problems(value, expected, path)
    if origin is Literal:
        return [] if value in arguments else [f"{path}: {value!r} is none of {', '.join(map(repr, arguments))}"]
    if origin in {Union, types.UnionType}:
        found = [_problems(value, each, path) for each in arguments]
        return [] if not all(found) else found[0]
    if origin is list and isinstance(value, list):
        return [text for i, item in enumerate(value) for text in _problems(item, arguments[0], f"{path}[{i}]")]
    if origin is dict and isinstance(value, dict):
        return [text for key, item in value.items() for text in _problems(item, arguments[1], f"{path}.{key}")]
    return _scalar_problems(value, expected, path)


def _dict_problems(value: object, expected: Any, path: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{path}: {value!r} is no object"]
    hints = get_type_hints(expected)
    found = [f"{path}.{key}: missing" for key in sorted(expected.__required_keys__ - value.keys())]
    found += [f"{path}.{key}: unknown" for key in sorted(value.keys() - hints.keys())]
    return found + [
        text for key in hints if key in value for text in _problems(value[key], hints[key], f"{path}.{key}")
    ]


def _scalar_problems(value: object, expected: Any, path: str) -> list[str]:
    if expected is float:
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    elif expected is int:
        good = isinstance(value, int) and not isinstance(value, bool)
    else:
        good = isinstance(value, get_origin(expected) or expected)
    return [] if good else [f"{path}: {value!r} is not {getattr(expected, '__name__', expected)}"]

"""Connections to points of netmon.tcp.*, of the kernel's network.io by process and container, and of netmon.udp.*.

Names: OpenTelemetry semantic conventions, and the proposals of network.tcp.*; what they do not have is ``netmon.*``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.abi.enums import RTT_LOWEST_EXPONENT, Retransmit, Role
from otel_netmon.analysis import datagrams
from otel_netmon.analysis.connection_series import Distributions, EndpointReading
from otel_netmon.analysis.connections import ENDS, OUTCOMES, Counter
from otel_netmon.analysis.owner_series import TRANSPORTS, OwnerCounter
from otel_netmon.analysis.series import SeriesReading
from otel_netmon.enrich.addresses import address_text
from otel_netmon.otel.attributes import AttributeSet, Tag, Value, encode
from otel_netmon.otel.catalogue import CATALOGUE
from otel_netmon.otel.histograms import histogram_series
from otel_netmon.otel.points import HistogramSeries, NumberSeries, Points
from otel_netmon.otel.series_sets import OVERFLOW

HANDSHAKE = "netmon.tcp.handshake.duration"
LIFETIME = "netmon.tcp.connection.duration"
RTT = "netmon.tcp.rtt"

ROLES = {int(Role.UNKNOWN): "unknown", int(Role.CLIENT): "client", int(Role.SERVER): "server"}
RETRANSMITS = {
    Retransmit.FAST: "fast",
    Retransmit.TIMEOUT: "timeout",
    Retransmit.TAIL_LOSS: "tail_loss_probe",
    Retransmit.SYN: "syn",
    Retransmit.SYN_ACK: "syn_ack",
    Retransmit.OTHER: "other",
}
"""network.tcp.retransmit.type."""

_RECEIVE, _TRANSMIT = {"network.io.direction": "receive"}, {"network.io.direction": "transmit"}
_COUNTERS: Mapping[str, Sequence[tuple[int, Mapping[str, Value]]]] = {
    "netmon.tcp.retransmits": [
        (Counter.RETRANSMITS + kind, {"network.tcp.retransmit.type": name}) for kind, name in RETRANSMITS.items()
    ],
    "netmon.tcp.resets": [(Counter.RESETS_RECEIVED, _RECEIVE), (Counter.RESETS_SENT, _TRANSMIT)],
    "netmon.tcp.zero_windows": [(Counter.ZERO_WINDOWS_RECEIVED, _RECEIVE), (Counter.ZERO_WINDOWS_SENT, _TRANSMIT)],
    "netmon.tcp.out_of_order": [(Counter.OUT_OF_ORDER, {})],
}
_IO = [(OwnerCounter.BYTES_RECEIVED, _RECEIVE), (OwnerCounter.BYTES_SENT, _TRANSMIT)]
_UDP = {
    "netmon.udp.io": [(datagrams.BYTES_RECEIVED, _RECEIVE), (datagrams.BYTES_SENT, _TRANSMIT)],
    "netmon.udp.packets": [(datagrams.PACKETS_RECEIVED, _RECEIVE), (datagrams.PACKETS_SENT, _TRANSMIT)],
}

Resource = Callable[[int], Mapping[str, str | int]]


class _Sets:
    """Attribute sets by the series they are of and what a metric adds; made once while they are told."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], AttributeSet] = {}
        self._told: dict[tuple[Any, ...], AttributeSet] = {}

    def turn(self) -> None:
        """Begins a cycle: what was not told in the last one is forgotten."""
        self._known, self._told = self._told, {}

    def get(self, identity: tuple[Any, ...], make: Callable[[], AttributeSet]) -> AttributeSet:
        found = self._told.get(identity) or self._known.get(identity) or make()
        self._told[identity] = found
        return found


class ConnectionPoints:
    """Makes the points of each cycle."""

    def __init__(self) -> None:
        self._sets = _Sets()

    def points(self, reading: EndpointReading) -> dict[str, Points]:
        """Gives netmon.tcp.*: what is zero has no point."""
        self._sets.turn()
        keys = [key.tobytes() for key in reading.series.keys]
        rows = reading.series.keys.tolist()
        points: dict[str, Points] = {
            HANDSHAKE: self._distributions(reading, reading.handshakes, OUTCOMES, keys, rows),
            LIFETIME: self._distributions(reading, reading.lifetimes, ENDS, keys, rows),
            RTT: self._round_trips(reading.series, keys, rows),
        }
        for metric, parts in _COUNTERS.items():
            points[metric] = self._numbers(reading.series, parts, keys, rows)
        return points

    def _set(
        self, place: int, keys: Sequence[bytes], rows: Sequence[tuple[Any, ...]], extra: Mapping[str, Value]
    ) -> AttributeSet:
        """Of the series at a place, -1 for the rest."""
        if place < 0:
            return AttributeSet.of({**OVERFLOW, **extra})
        identity = (keys[place], *extra.values())
        return self._sets.get(
            identity, lambda: AttributeSet(encode({**endpoint_attributes(*rows[place][:3]), **extra}, _NUMBER))
        )

    def _distributions(
        self,
        reading: EndpointReading,
        found: Distributions,
        kinds: Sequence[str | None],
        keys: Sequence[bytes],
        rows: Sequence[tuple[Any, ...]],
    ) -> HistogramSeries:
        extras = [{} if kind is None else {"error.type": kind} for kind in kinds]
        sets = [
            self._set(place, keys, rows, extras[kind])
            for place, kind in zip(found.series.tolist(), found.kinds.tolist(), strict=True)
        ]
        return histogram_series(found.values, sets, reading.series.starts_ns[found.series + 1])

    def _round_trips(
        self, series: SeriesReading, keys: Sequence[bytes], rows: Sequence[tuple[Any, ...]]
    ) -> HistogramSeries:
        values = np.concatenate([series.rest.T, series.values], axis=1)
        places = np.flatnonzero(values[Counter.RTT_COUNT])
        values = values[:, places]
        sets = [self._set(place - 1, keys, rows, {}) for place in places.tolist()]
        return rtt_series(values, sets, series.starts_ns[places])

    def _numbers(
        self,
        series: SeriesReading,
        parts: Sequence[tuple[int, Mapping[str, Value]]],
        keys: Sequence[bytes],
        rows: Sequence[tuple[Any, ...]],
    ) -> NumberSeries:
        return _nonzero(series, parts, lambda place, extra: self._set(place - 1, keys, rows, extra))


class OwnerPoints:
    """Makes the points about processes, or about containers.

    Args:
        metric: process.network.io or container.network.io.
    """

    def __init__(self, metric: str) -> None:
        self._metric = metric
        self._sets = _Sets()

    def points(self, reading: SeriesReading, resource: Resource) -> dict[str, Points]:
        """Gives the bytes, and of processes netmon.udp.drops; ``resource`` gives that of a number."""
        self._sets.turn()
        result: dict[str, Points] = {self._metric: self._of(reading, resource, _IO, by_transport=True)}
        if self._metric == "process.network.io":
            result["netmon.udp.drops"] = self._of(reading, resource, [(OwnerCounter.DROPS, {})], by_transport=False)
        return result

    def _of(
        self,
        reading: SeriesReading,
        resource: Resource,
        parts: Sequence[tuple[int, Mapping[str, Value]]],
        *,
        by_transport: bool,
    ) -> NumberSeries:
        owners = [*((None, transport) for transport in range(len(reading.rest))), *map(tuple, reading.keys.tolist())]

        def set_of(place: int, extra: Mapping[str, Value]) -> AttributeSet:
            number, transport = owners[place]
            told = {"network.transport": TRANSPORTS[transport], **extra} if by_transport else extra
            return self._set(number, told, resource)

        return _nonzero(reading, parts, set_of)

    def _set(self, number: int | None, attributes: Mapping[str, Value], resource: Resource) -> AttributeSet:
        if number is None:
            return AttributeSet.of({**OVERFLOW, **attributes})
        identity = (number, *attributes.values())
        return self._sets.get(identity, lambda: AttributeSet.of(attributes, resource=resource(number)))


class DatagramPoints:
    """Makes the points of netmon.udp.io and netmon.udp.packets."""

    def __init__(self) -> None:
        self._sets = _Sets()

    def points(self, reading: SeriesReading, resource: Resource) -> dict[str, Points]:
        """Gives them; ``resource`` gives that of a number."""
        self._sets.turn()
        keys, rows = [key.tobytes() for key in reading.keys], reading.keys.tolist()
        return {
            metric: _nonzero(reading, parts, lambda place, extra: self._set(place - 1, keys, rows, extra, resource))
            for metric, parts in _UDP.items()
        }

    def _set(
        self,
        place: int,
        keys: Sequence[bytes],
        rows: Sequence[tuple[Any, ...]],
        extra: Mapping[str, Value],
        resource: Resource,
    ) -> AttributeSet:
        if place < 0:
            return AttributeSet.of({**OVERFLOW, **extra})
        owner, server, port, *_ = rows[place]
        identity = (keys[place], *extra.values())
        return self._sets.get(
            identity, lambda: AttributeSet.of({**_server(server, port), **extra}, resource=resource(owner))
        )


def rtt_series(
    values: npt.NDArray[np.uint64], attributes: Sequence[AttributeSet], start_ns: npt.NDArray[np.uint64]
) -> HistogramSeries:
    """Round-trip times as the kernel counted them: the buckets are those of scale 0, powers of two, so none is cut or joined.

    The first bucket has all that is shorter, the last one all that is longer; smallest and largest are not known.

    Args:
        values: shape (rows, n), rows by ``Counter``.
    """
    number = values.shape[1]
    buckets = values[Counter.RTT_BUCKETS : Counter.RTT_BUCKETS + len(CATALOGUE[RTT].bounds) + 1].T
    unknown = np.full(number, np.nan)
    return HistogramSeries(
        attributes=attributes,
        start_time_unix_nano=start_ns,
        count=buckets.sum(axis=1, dtype=np.uint64),
        sum=values[Counter.RTT_SUM_US] / 1e6,
        minimum=unknown,
        maximum=unknown,
        scale=np.zeros(number, np.int32),
        offset=np.full(number, RTT_LOWEST_EXPONENT - 1, np.int32),
        zero_count=np.zeros(number, np.uint64),
        buckets=buckets.astype(np.min_scalar_type(int(buckets.max(initial=0)))),
        bounds=np.array(CATALOGUE[RTT].bounds),
        bucket_counts=buckets,
        exemplars=[()] * number,
    )


def endpoint_attributes(server: Sequence[int], port: int, role: int) -> dict[str, Value]:
    """The identity of a series of connections; without a server where the role is not known."""
    return {"network.tcp.handshake.role": ROLES[role], **_server(server, port)}


def _server(server: Sequence[int], port: int) -> dict[str, Value]:
    return {"server.address": address_text(bytes(server)), "server.port": port} if port else {}


def _nonzero(
    reading: SeriesReading,
    parts: Sequence[tuple[int, Mapping[str, Value]]],
    set_of: Callable[[int, Mapping[str, Value]], AttributeSet],
) -> NumberSeries:
    """The values that are not zero of some counters.

    Args:
        parts: counters, and what each adds to the attributes.
        set_of: gives the attributes of a place, the rests first, then the series.
    """
    sets: list[AttributeSet] = []
    places: list[npt.NDArray[np.intp]] = []
    values: list[npt.NDArray[np.uint64]] = []
    for counter, extra in parts:
        every = np.concatenate([reading.rest[:, counter], reading.values[counter]])
        told = np.flatnonzero(every)
        sets += [set_of(place, extra) for place in told.tolist()]
        places.append(told)
        values.append(every[told])
    return NumberSeries(sets, reading.starts_ns[np.concatenate(places)], np.concatenate(values))


_NUMBER = Tag.NUMBER_DATA_POINT

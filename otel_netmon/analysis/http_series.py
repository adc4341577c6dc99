"""Requests to series of http.server.* and http.client.*: which sets have one of their own, and the distributions of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.differences import fingerprints, group
from otel_netmon.analysis.http_alike import METHODS, VERSIONS, Sight
from otel_netmon.analysis.http_columns import UNKNOWN, HttpColumns
from otel_netmon.analysis.http_records import UNPLACED
from otel_netmon.analysis.name_table import name_number
from otel_netmon.analysis.routes import LearnedRoutes
from otel_netmon.analysis.series_family import DistributionSeries

SERIES = np.dtype(
    [
        ("server", "<u8"),
        ("route", "<u8"),
        ("port", "<u2"),
        ("status", "<u2"),
        ("method", "u1"),
        ("version", "u1"),
        ("outcome", "u1"),
        ("secure", "u1"),
    ]
)
"""The identity of a series: names by their numbers, route 0 without one, server 0 and port 0 where they are not known; places in
METHODS, VERSIONS and OUTCOMES; whether through TLS."""

DISTRIBUTIONS: Final = ("duration", "first_byte", "request_body", "response_body")
_SIGHTING = np.dtype(
    [
        ("place", "<u4"),
        ("status", "<u2"),
        ("outcome", "u1"),
        ("secure", "u1"),
        ("server", "u1", 18),
        ("padding", "<u2"),
    ]
)
_ATTRIBUTES = {
    "server": "server.address",
    "route": "http.route",
    "status": "http.response.status_code",
    "method": "http.request.method",
}
_FOUND_BELOW = 400


class Counted(NamedTuple):
    """Requests that were counted.

    Attributes:
        rows: intp, of each in the distributions.
        kinds: int64, what tells their kinds apart, the same for as long as the process lives.
    """

    rows: npt.NDArray[np.intp]
    kinds: npt.NDArray[np.int64]


class HttpSeries(DistributionSeries):
    """Keeps the series of the requests of one side.

    A request that was not answered counts with the time until it was given up; it has no size.

    Args:
        side: ``server`` or ``client``, part of the name under which its state is saved.
        address_text: gives the text of an address of 16 octets.
        bounds: upper bounds of the explicit buckets, of durations in seconds and of sizes.
        servers: how many servers are told apart; all others are ``other``.
        routes: likewise.
        start_ns: Unix time at which counting began.
        idle_ns: a series without a request for so long ends.
    """

    places_min = 256  # methods, statuses and routes of one service, at once when it is first seen

    def __init__(
        self,
        side: str,
        address_text: Callable[[bytes], str],
        bounds: tuple[Sequence[float], Sequence[float]],
        servers: int,
        routes: int,
        start_ns: int,
        idle_ns: int,
    ) -> None:
        seconds, octets = bounds
        of_each = dict(zip(DISTRIBUTIONS, (seconds, seconds, octets, octets), strict=True))
        names = {"server": servers, "route": routes}
        super().__init__(f"http.{side}", SERIES, _ATTRIBUTES, of_each, names, start_ns, idle_ns)
        self._is_server = side == "server"
        self._address_text = address_text
        self._seed = name_number(self._name)

    def add(
        self, requests: HttpColumns, sights: Sequence[Sight], learned: LearnedRoutes | None, now_ns: int
    ) -> Counted:
        """Counts requests.

        Args:
            sights: what the requests were for, by their places.
            learned: gives the routes of those that no rule knows.
            now_ns: Unix time.
        """
        self._now_ns = now_ns
        if not len(requests):
            return Counted(np.empty(0, np.intp), np.empty(0, np.int64))
        first, inverse = group(_sightings(requests))
        sighted = np.bincount(inverse)
        keys = np.array(
            [
                self._identity(requests, sights, learned, at, number)
                for at, number in zip(first.tolist(), sighted.tolist(), strict=True)
            ],
            SERIES,
        )
        distinct, of_sightings = group(keys)
        kinds = keys[distinct]
        many = np.bincount(of_sightings, weights=sighted).astype(np.uint64)
        rows = self._count(kinds, many, now_ns)[of_sightings][inverse]
        self._measure(requests, rows)
        return Counted(rows, fingerprints(kinds, self._seed).view(np.int64)[of_sightings][inverse])

    def _identity(
        self, requests: HttpColumns, sights: Sequence[Sight], learned: LearnedRoutes | None, at: int, number: int
    ) -> tuple[int, ...]:
        sight, status = sights[requests.places[at]], int(requests.status[at])
        end = requests.servers[at].tobytes()
        name, port = "" if end == UNPLACED else self._address_text(end[:16]), int.from_bytes(end[16:], "big")
        if sight.server is not None and not self._is_server:
            name, port = sight.server.host, port if sight.server.port is None else sight.server.port
        route = sight.template
        if route is None and sight.path is not None and learned is not None:
            route = learned.template(sight.path, was_found=0 < status < _FOUND_BELOW, number=number)
        return (
            self._names["server"].number(name, self._now_ns) if name else 0,
            0 if route is None else self._names["route"].number(route, self._now_ns),
            port,
            status,
            METHODS.index(sight.method),
            VERSIONS.index(sight.version),
            int(requests.outcome[at]),
            int(requests.secure[at]),
        )

    def _measure(self, requests: HttpColumns, rows: npt.NDArray[np.intp]) -> None:
        durations, first_bytes, *sizes = self._distributions.values()
        durations.add(rows, requests.lasted_ns / 1e9)
        known = requests.first_byte_ns != UNKNOWN
        first_bytes.add(rows[known], requests.first_byte_ns[known] / 1e9)
        for columns, octets in zip(sizes, (requests.request_body, requests.response_body), strict=True):
            known = octets != UNKNOWN
            columns.add(rows[known], octets[known].astype(np.float64))


def _sightings(requests: HttpColumns) -> npt.NDArray[Any]:
    sightings = np.zeros(len(requests), _SIGHTING)
    sightings["place"], sightings["status"] = requests.places, requests.status
    sightings["outcome"], sightings["server"] = requests.outcome, requests.servers
    sightings["secure"] = requests.secure
    return sightings

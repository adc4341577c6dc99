"""Requests to series of http.server.* and http.client.*: which sets have one of their own, and the distributions of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.cardinality import Cardinality, hash_column
from otel_netmon.analysis.differences import fingerprints, group
from otel_netmon.analysis.dns_series import name_number
from otel_netmon.analysis.histograms import HistogramColumns, HistogramReading
from otel_netmon.analysis.http_alike import METHODS, VERSIONS, Sight
from otel_netmon.analysis.http_columns import UNKNOWN, HttpColumns
from otel_netmon.analysis.lasting import LastingSeries
from otel_netmon.analysis.name_table import NameTable
from otel_netmon.analysis.routes import LearnedRoutes
from otel_netmon.analysis.series import SeriesReading

SERIES = np.dtype(
    [
        ("server", "<u8"),
        ("route", "<u8"),
        ("port", "<u2"),
        ("status", "<u2"),
        ("method", "u1"),
        ("version", "u1"),
        ("outcome", "u1"),
        ("reserved", "u1"),
    ]
)
"""The identity of a series: names by their numbers, route 0 without one; places in METHODS, VERSIONS and OUTCOMES."""

DISTRIBUTIONS: Final = ("duration", "first_byte", "request_body", "response_body")
_SIGHTING = np.dtype(
    [
        ("place", "<u4"),
        ("status", "<u2"),
        ("outcome", "u1"),
        ("reserved", "u1"),
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


class HttpReading(NamedTuple):
    """One cycle's series, their distributions as in DISTRIBUTIONS, that of the rest first, and the names of their numbers."""

    series: SeriesReading
    distributions: tuple[HistogramReading, ...]
    servers: Mapping[int, str]
    routes: Mapping[int, str]


class HttpSeries:
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
        self._is_server = side == "server"
        self._name = f"http.{side}"
        self._address_text = address_text
        self._table = LastingSeries(SERIES, 1, 1, 0, start_ns, idle_ns)
        seconds, octets = bounds
        self._columns = [HistogramColumns(1, each) for each in (seconds, seconds, octets, octets)]
        self._servers, self._routes = NameTable(servers, idle_ns), NameTable(routes, idle_ns)
        self._seed = name_number(self._name)
        self._cardinality = Cardinality(tuple(_ATTRIBUTES.values()))
        self._now_ns = start_ns

    def __len__(self) -> int:
        return len(self._table)

    def set_limit(self, limit: int) -> None:
        """Lets there be so many series; where there are more, they leave at the end of the cycle."""
        self._table.limit = limit

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
        placement = self._table.update(kinds, many[None, :], 0, np.zeros(len(kinds), np.intp), now_ns)
        slots = placement.slots + 1
        number = int(max(slots.max(), placement.fresh.max(initial=-1) + 1)) + 1
        for columns in self._columns:
            columns.grow(number)
            columns.reset(placement.fresh + 1)
        rows: npt.NDArray[np.intp] = slots[of_sightings][inverse]
        self._measure(requests, rows)
        seed = self._cardinality.seed
        self._cardinality.add_sets({key: hash_column(kinds[name], seed) for name, key in _ATTRIBUTES.items()}, now_ns)
        return Counted(rows, fingerprints(kinds, self._seed).view(np.int64)[of_sightings][inverse])

    def offer_exemplars(self, *columns: Any) -> None:
        """Takes spans that were kept as examples of durations, see ``HistogramColumns.offer_exemplars``."""
        self._columns[0].offer_exemplars(*columns)

    def reading(self) -> HttpReading:
        """The series as they stand."""
        series = self._table.reading()
        rows = np.concatenate([np.zeros(1, np.intp), series.slots + 1])
        distributions = tuple([columns.read(rows) for columns in self._columns])
        return HttpReading(series, distributions, self._servers.texts, self._routes.texts)

    def end_cycle(self) -> None:
        """Ends a cycle, whose reading was taken, and makes room."""
        self._table.end_cycle()
        keys = self._table.reading().keys
        self._servers.end_cycle(set(keys["server"].tolist()), self._now_ns)
        self._routes.end_cycle(set(keys["route"].tolist()), self._now_ns)

    @property
    def folded(self) -> int:
        """Sets of the last cycle that had no series of their own, 32,768 at most."""
        return self._table.folded

    def distinct(self) -> dict[str, float]:
        """Estimates: distinct values by attribute, and distinct sets as WHOLE_SET, of the last ten to twenty minutes."""
        return self._cardinality.estimate(self._now_ns)

    def state(self) -> dict[str, dict[str, Any]]:
        """What another process needs to go on."""
        distributions = zip(DISTRIBUTIONS, self._columns, strict=True)
        return {
            f"{self._name}.series": self._table.state(),
            f"{self._name}.servers": self._servers.state(),
            f"{self._name}.routes": self._routes.state(),
            **{f"{self._name}.{name}": columns.state() for name, columns in distributions},
        }

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Goes on where another process was, before the first request."""
        self._table.limit = len(state[f"{self._name}.series"]["keys"])
        self._table.restore(state[f"{self._name}.series"])
        self._servers.restore(state[f"{self._name}.servers"])
        self._routes.restore(state[f"{self._name}.routes"])
        for name, columns in zip(DISTRIBUTIONS, self._columns, strict=True):
            columns.restore(state[f"{self._name}.{name}"])

    def _identity(
        self, requests: HttpColumns, sights: Sequence[Sight], learned: LearnedRoutes | None, at: int, number: int
    ) -> tuple[int, ...]:
        sight, status = sights[requests.places[at]], int(requests.status[at])
        end = requests.servers[at].tobytes()
        name, port = self._address_text(end[:16]), int.from_bytes(end[16:], "big")
        if sight.server is not None and not self._is_server:
            name, port = sight.server.host, port if sight.server.port is None else sight.server.port
        route = sight.template
        if route is None and sight.path is not None and learned is not None:
            route = learned.template(sight.path, was_found=0 < status < _FOUND_BELOW, number=number)
        return (
            self._servers.number(name, self._now_ns),
            0 if route is None else self._routes.number(route, self._now_ns),
            port,
            status,
            METHODS.index(sight.method),
            VERSIONS.index(sight.version),
            int(requests.outcome[at]),
            0,
        )

    def _measure(self, requests: HttpColumns, rows: npt.NDArray[np.intp]) -> None:
        durations, first_bytes, *sizes = self._columns
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
    return sightings

"""Connections to series by role and server: which servers have some of their own, and what was counted of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.abi.enums import Role
from otel_netmon.analysis.connections import COUNTERS, ENDS, OUTCOMES, Counter, Gains
from otel_netmon.analysis.differences import group
from otel_netmon.analysis.histograms import HistogramColumns, HistogramReading
from otel_netmon.analysis.series import SeriesReading
from otel_netmon.analysis.series_family import SeriesFamily

ENDPOINT = np.dtype([("server", "u1", 16), ("port", ">u2"), ("role", "u1"), ("reserved", "u1")])
"""The identity of a series. Of a connection whose role is not known the server is not known either: all zero."""

WEIGHT = COUNTERS
"""Row of the values behind those of ``Counter``: what decides who is large, see ``ConnectionSeries``."""
FAILURES = COUNTERS + 1
"""Likewise: connects that failed."""
_ROWS = COUNTERS + 2

_ATTRIBUTES = {"role": "network.tcp.handshake.role", "server": "server.address", "port": "server.port"}
_EVENT_WEIGHT = 4


class Distributions(NamedTuple):
    """Distributions of m series.

    Attributes:
        series: intp, shape (m,): place in the reading, -1 for the rest.
        kinds: intp, shape (m,): number in OUTCOMES or ENDS.
        values: in seconds.
    """

    series: npt.NDArray[np.intp]
    kinds: npt.NDArray[np.intp]
    values: HistogramReading


class EndpointReading(NamedTuple):
    """One cycle's series: identities and counters (rows by ``Counter``, WEIGHT, FAILURES), handshakes by OUTCOMES, lifetimes by ENDS."""

    series: SeriesReading
    handshakes: Distributions
    lifetimes: Distributions


class _Kinds:
    """Distributions of each slot by a small number of kinds; slot -1 is the rest.

    Args:
        number: of kinds.
        bounds: upper bounds of the explicit buckets.
    """

    def __init__(self, number: int, bounds: Sequence[float]) -> None:
        self._number = number
        self._columns = HistogramColumns(number, bounds)
        self._used = np.zeros(number, np.bool_)

    def begin(self, slots: npt.NDArray[np.intp]) -> None:
        """Empties slots that begin anew."""
        if not len(slots):
            return
        rows = ((slots + 1)[:, None] * self._number + np.arange(self._number)).reshape(-1)
        more = int(rows.max()) + 1 - len(self._used)
        if more > 0:
            self._used = np.concatenate([self._used, np.zeros(more, np.bool_)])
            self._columns.grow(len(self._used))
        self._columns.reset(rows[self._used[rows]])
        self._used[rows] = False

    def add(
        self, slots: npt.NDArray[np.intp], kinds: npt.NDArray[np.int8], seconds: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.intp]:
        """Counts; gives the row of each."""
        rows: npt.NDArray[np.intp] = (slots + 1) * self._number + kinds
        self._used[rows] = True
        self._columns.add(rows, seconds)
        return rows

    def offer_exemplars(self, *columns: Any) -> None:
        """See ``HistogramColumns.offer_exemplars``."""
        self._columns.offer_exemplars(*columns)

    def read(self, slots: npt.NDArray[np.intp]) -> Distributions:
        """All that counted something, of the rest and of these slots (ascending)."""
        rows = np.flatnonzero(self._used)
        slot = rows // self._number - 1
        place = np.searchsorted(slots, slot)
        living = (slot < 0) | (slots[np.minimum(place, len(slots) - 1)] == slot) if len(slots) else slot < 0
        rows, series = rows[living], np.where(slot < 0, -1, place)[living]
        return Distributions(series, rows % self._number, self._columns.read(rows))

    def state(self) -> dict[str, Any]:
        return {**self._columns.state(), "used": self._used}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._used = np.array(state["used"], np.bool_)
        self._columns.restore({name: value for name, value in state.items() if name != "used"})


class ConnectionSeries(SeriesFamily):
    """Keeps the series of connections by role and server.

    Who is large: segments with payload, and four for each handshake and each end, so that servers that refuse, or answer little to
    many, are seen beside those that carry much.

    Args:
        handshake_bounds, lifetime_bounds: upper bounds of the explicit buckets in seconds.
        start_ns: Unix time at which counting began.
        idle_ns: a series that gained nothing for so long ends.
    """

    def __init__(
        self, handshake_bounds: Sequence[float], lifetime_bounds: Sequence[float], start_ns: int, idle_ns: int
    ) -> None:
        super().__init__("connections", ENDPOINT, start_ns, idle_ns, _ATTRIBUTES, _ROWS, WEIGHT)
        self._handshakes = _Kinds(len(OUTCOMES), handshake_bounds)
        self._lifetimes = _Kinds(len(ENDS), lifetime_bounds)

    def add(self, gains: Gains, now_ns: int) -> npt.NDArray[np.intp]:
        """Counts what connections gained; gives the row of each in the distributions of handshakes, -1 without one, for exemplars."""
        number = len(gains.rows)
        rows = np.full(number, -1, np.intp)
        if not number:
            return rows
        keys = _endpoints(gains.rows)
        first, inverse = group(keys)
        sums = np.zeros((_ROWS, len(first)), np.uint64)
        for counter in np.flatnonzero(gains.counters.any(axis=1)).tolist():
            np.add.at(sums[counter], inverse, gains.counters[counter])
        shaken, over = gains.outcomes >= 0, gains.ends >= 0
        failed = gains.outcomes > 0
        np.add.at(sums[FAILURES], inverse[failed], np.uint64(1))
        events = shaken.astype(np.uint64) + over
        np.add.at(sums[WEIGHT], inverse, _EVENT_WEIGHT * events)
        sums[WEIGHT] += sums[Counter.DATA_RECEIVED] + sums[Counter.DATA_SENT]
        placement = self._place(keys[first], sums, now_ns)
        for kinds in (self._handshakes, self._lifetimes):
            kinds.begin(placement.fresh)
        slots = placement.slots[inverse]
        rows[shaken] = self._handshakes.add(slots[shaken], gains.outcomes[shaken], gains.handshake_ns[shaken] / 1e9)
        self._lifetimes.add(slots[over], gains.ends[over], gains.lifetime_ns[over] / 1e9)
        return rows

    def add_to_rest(self, counts: Mapping[int, int]) -> None:
        """Counts what belongs to no connection that is known, by row of the values."""
        self._table.add_to_rest(0, tuple(counts.get(row, 0) for row in range(_ROWS)))

    def offer_exemplars(self, *columns: Any) -> None:
        """Takes spans that were kept as examples of the handshakes, see ``HistogramColumns.offer_exemplars``."""
        self._handshakes.offer_exemplars(*columns)

    def reading(self) -> EndpointReading:
        """The series as they stand."""
        series = self._table.reading()
        return EndpointReading(series, self._handshakes.read(series.slots), self._lifetimes.read(series.slots))

    def state(self) -> dict[str, dict[str, Any]]:
        """What another process needs to go on."""
        return {
            **super().state(),
            "connections.handshakes": self._handshakes.state(),
            "connections.lifetimes": self._lifetimes.state(),
        }

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Goes on where another process was, before the first connection."""
        super().restore(state)
        self._handshakes.restore(state["connections.handshakes"])
        self._lifetimes.restore(state["connections.lifetimes"])


def _endpoints(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    keys = np.zeros(len(rows), ENDPOINT)
    role = rows["role"]
    keys["role"] = role
    for whose, address, port in (
        (Role.CLIENT, "remote", "remote_port"),
        (Role.SERVER, "local", "local_port"),
    ):
        mine = role == whose
        keys["server"][mine] = rows[address][mine]
        keys["port"][mine] = rows[port][mine]
    return keys

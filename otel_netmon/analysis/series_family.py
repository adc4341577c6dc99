"""The series of one family of metrics: in a cycle much is counted, and told at its end; what has no series of its own is one rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.cardinality import Cardinality, hash_column
from otel_netmon.analysis.differences import group
from otel_netmon.analysis.histograms import HistogramColumns, HistogramReading
from otel_netmon.analysis.lasting import LastingSeries
from otel_netmon.analysis.name_table import NameTable
from otel_netmon.analysis.series import Placement, SeriesReading

_PLACES_MIN = 64
_NOTHING: Mapping[str, str] = {}


class SeriesFamily:
    """Keeps the series of a family, see ``LastingSeries``, and estimates how many there would be of each attribute.

    Args:
        name: of the family; its sections of the state begin with it.
        key: dtype of an identity, a multiple of 4 bytes without implicit padding.
        start_ns: Unix time at which counting began.
        idle_ns: a series that gained nothing for so long ends.
        attributes: attribute keys whose distinct values are estimated, by field of the identity.
        counters: how many counters a series has.
        weight: the counter that decides who is large.
        partitions: how many rests there are.
    """

    places_min = _PLACES_MIN
    """How many series there is use for before there are any."""

    def __init__(
        self,
        name: str,
        key: np.dtype[Any],
        start_ns: int,
        idle_ns: int,
        attributes: Mapping[str, str] = _NOTHING,
        counters: int = 1,
        weight: int = 0,
        partitions: int = 1,
    ) -> None:
        self._name = name
        self._weight = weight
        self._table = LastingSeries(key, counters, partitions, 0, start_ns, idle_ns)
        self._attributes = attributes
        self._cardinality = Cardinality(tuple(attributes.values())) if attributes else None
        self._estimated = np.empty(0, np.bool_)  # by slot: whether the set was counted in this cycle
        self._now_ns = start_ns

    def __len__(self) -> int:
        return len(self._table)

    def set_limit(self, limit: int) -> None:
        """Lets there be so many series; where there are more, they leave at the end of the cycle."""
        self._table.limit = limit

    @property
    def wanted(self) -> int:
        """How many series there is use for."""
        return self.places_min + 2 * (len(self) + self.folded)

    @property
    def folded(self) -> int:
        """Sets of the last cycle that had no series of their own, 32,768 at most."""
        return self._table.folded

    def distinct(self) -> dict[str, float]:
        """Estimates: distinct values by attribute, and distinct sets as WHOLE_SET, of the last ten to twenty minutes."""
        return {} if self._cardinality is None else self._cardinality.estimate(self._now_ns)

    def end_cycle(self) -> None:
        """Ends a cycle, whose reading was taken, and makes room."""
        self._table.end_cycle(self._weight)
        self._estimated[:] = False

    def state(self) -> dict[str, dict[str, Any]]:
        """What another process needs to go on."""
        return {f"{self._name}.series": self._table.state()}

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Goes on where another process was, before anything is counted."""
        series = state[f"{self._name}.series"]
        self._table.limit = len(series["keys"])
        self._table.restore(series)

    def _place(
        self,
        kinds: npt.NDArray[Any],
        gains: npt.NDArray[np.uint64],
        now_ns: int,
        partitions: npt.NDArray[np.intp] | None = None,
    ) -> Placement:
        """Counts identities, each once: see ``LastingSeries.update``; without partitions there is one."""
        self._now_ns = now_ns
        rests = np.zeros(len(kinds), np.intp) if partitions is None else partitions
        placement = self._table.update(kinds, gains, self._weight, rests, now_ns)
        if self._cardinality is not None:
            self._estimate(self._cardinality, kinds, placement, now_ns)
        return placement

    def _estimate(self, cardinality: Cardinality, kinds: npt.NDArray[Any], placement: Placement, now_ns: int) -> None:
        """Has the sets counted, those with a series once a cycle."""
        slots = placement.slots
        known = np.zeros(max(len(self._estimated), int(slots.max(initial=-1)) + 1), np.bool_)
        known[: len(self._estimated)] = self._estimated
        known[placement.fresh[placement.fresh < len(known)]] = False
        self._estimated = known
        new = np.flatnonzero(~known[slots] | (slots < 0)) if len(known) else np.arange(len(slots))
        if len(new):
            known[slots[new][slots[new] >= 0]] = True
            columns = {key: hash_column(kinds[field][new], cardinality.seed) for field, key in self._attributes.items()}
            cardinality.add_sets(columns, now_ns)


class DistributionReading(NamedTuple):
    """One cycle's series.

    Attributes:
        series: identities and how many were counted.
        distributions: in the family's order, of each that of the rest first.
        names: names by number, by the field of the identity that has the number.
    """

    series: SeriesReading
    distributions: tuple[HistogramReading, ...]
    names: Mapping[str, Mapping[int, str]]


class DistributionSeries(SeriesFamily):
    """A family whose series are distributions; the first one has exemplars.

    Args:
        name, key, attributes, start_ns, idle_ns: see ``SeriesFamily``.
        bounds: upper bounds of the explicit buckets, by the name of each distribution.
        names: how many names are told apart, all others are ``other``; by the field of the identity that has their numbers.
    """

    def __init__(
        self,
        name: str,
        key: np.dtype[Any],
        attributes: Mapping[str, str],
        bounds: Mapping[str, Sequence[float]],
        names: Mapping[str, int],
        start_ns: int,
        idle_ns: int,
    ) -> None:
        super().__init__(name, key, start_ns, idle_ns, attributes)
        self._distributions = {each: HistogramColumns(1, of) for each, of in bounds.items()}
        self._exemplary = next(iter(self._distributions.values()))
        self._names = {field: NameTable(limit, idle_ns) for field, limit in names.items()}

    def offer_exemplars(
        self,
        rows: npt.NDArray[np.intp],
        values: npt.NDArray[np.float64],
        times_ns: npt.NDArray[np.uint64],
        trace_ids: npt.NDArray[np.uint8],
        span_ids: npt.NDArray[np.uint8],
    ) -> None:
        """Takes spans that were kept as examples, see ``HistogramColumns.offer_exemplars``."""
        self._exemplary.offer_exemplars(rows, values, times_ns, trace_ids, span_ids)

    def reading(self) -> DistributionReading:
        """The series as they stand."""
        series = self._table.reading()
        rows = np.concatenate([np.zeros(1, np.intp), series.slots + 1])
        distributions = tuple([columns.read(rows) for columns in self._distributions.values()])
        return DistributionReading(series, distributions, self._texts())

    def end_cycle(self, told: Mapping[str, Iterable[int]] | None = None) -> None:
        """Ends a cycle, whose reading was taken, and makes room.

        Args:
            told: numbers of names that are told elsewhere too, by field of the identity.
        """
        super().end_cycle()
        keys = self._table.reading().keys
        for field, names in self._names.items():
            elsewhere = told.get(field, ()) if told is not None else ()
            names.end_cycle({*elsewhere, *keys[field].tolist()}, self._now_ns)

    def state(self) -> dict[str, dict[str, Any]]:
        """What another process needs to go on."""
        return {
            **super().state(),
            **{f"{self._name}.{each}": columns.state() for each, columns in self._distributions.items()},
            **{f"{self._name}.{field}s": names.state() for field, names in self._names.items()},
        }

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Goes on where another process was, before anything is counted."""
        super().restore(state)
        for each, columns in self._distributions.items():
            columns.restore(state[f"{self._name}.{each}"])
        for field, names in self._names.items():
            names.restore(state[f"{self._name}.{field}s"])

    def _texts(self) -> dict[str, Mapping[int, str]]:
        return {field: names.texts for field, names in self._names.items()}

    def _count(self, kinds: npt.NDArray[Any], many: npt.NDArray[np.uint64], now_ns: int) -> npt.NDArray[np.intp]:
        """Counts identities, each once, so many of each; gives their rows in the distributions."""
        placement = self._place(kinds, many[None, :], now_ns)
        rows: npt.NDArray[np.intp] = placement.slots + 1
        number = int(max(rows.max(initial=0), placement.fresh.max(initial=-1) + 1)) + 1
        for columns in self._distributions.values():
            columns.grow(number)
            columns.reset(placement.fresh + 1)
        return rows

    def _count_each(self, keys: npt.NDArray[Any], values: npt.NDArray[np.float64], now_ns: int) -> npt.NDArray[np.intp]:
        """Counts identities and a value of each for the first distribution; gives the row of each in it."""
        self._now_ns = now_ns
        if not len(keys):
            return np.empty(0, np.intp)
        first, inverse = group(keys)
        return self._count_groups(keys[first], inverse, values, now_ns)

    def _count_groups(
        self,
        kinds: npt.NDArray[Any],
        inverse: npt.NDArray[np.intp],
        values: npt.NDArray[np.float64],
        now_ns: int,
    ) -> npt.NDArray[np.intp]:
        """Likewise; ``inverse``: the place among the identities, each once, of each value."""
        rows = self._count(kinds, np.bincount(inverse).astype(np.uint64), now_ns)[inverse]
        self._exemplary.add(rows, values)
        return rows

"""Durations by attribute set: which sets have a series of their own, and the distribution of each; the rest exact in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.cardinality import Cardinality, hash_column
from otel_netmon.analysis.differences import group
from otel_netmon.analysis.histograms import HistogramColumns, HistogramReading
from otel_netmon.analysis.lasting import LastingSeries
from otel_netmon.analysis.series import SeriesReading


class DurationReading(NamedTuple):
    """One cycle's series: identities, and the distributions, that of the rest first."""

    series: SeriesReading
    durations: HistogramReading


class DurationSeries:
    """Keeps the series of what has a duration. Within a cycle much is counted, and told at its end: see ``LastingSeries``.

    Args:
        name: under which its state is saved.
        key: dtype of an identity, a multiple of 4 bytes without implicit padding.
        attributes: attribute keys whose distinct values are estimated, by field of the identity.
        bounds: upper bounds of the explicit buckets in seconds.
        start_ns: Unix time at which counting began.
        idle_ns: a series that counted nothing for so long ends.
    """

    def __init__(
        self,
        name: str,
        key: np.dtype[Any],
        attributes: Mapping[str, str],
        bounds: Sequence[float],
        start_ns: int,
        idle_ns: int,
    ) -> None:
        self._name = name
        self._attributes = attributes
        self._table = LastingSeries(key, 1, 1, 0, start_ns, idle_ns)
        self._durations = HistogramColumns(1, bounds)
        self._cardinality = Cardinality(tuple(attributes.values()))
        self._now_ns = start_ns

    def __len__(self) -> int:
        return len(self._table)

    def set_limit(self, limit: int) -> None:
        """Lets there be so many series; where there are more, they leave at the end of the cycle."""
        self._table.limit = limit

    def add(self, keys: npt.NDArray[Any], seconds: npt.NDArray[np.float64], now_ns: int) -> npt.NDArray[np.intp]:
        """Counts; gives the row of each in the distributions, for exemplars.

        Args:
            keys: identities, shape (n,); seconds: as many.
            now_ns: Unix time.
        """
        self._now_ns = now_ns
        if not len(keys):
            return np.empty(0, np.intp)
        first, inverse = group(keys)
        kinds = keys[first]
        many = np.bincount(inverse).astype(np.uint64)
        placement = self._table.update(kinds, many[None, :], 0, np.zeros(len(kinds), np.intp), now_ns)
        slots = placement.slots + 1
        self._durations.grow(int(max(slots.max(), placement.fresh.max(initial=-1) + 1)) + 1)
        self._durations.reset(placement.fresh + 1)
        rows: npt.NDArray[np.intp] = slots[inverse]
        self._durations.add(rows, seconds)
        seed = self._cardinality.seed
        columns = {key: hash_column(kinds[field], seed) for field, key in self._attributes.items()}
        self._cardinality.add_sets(columns, now_ns)
        return rows

    def offer_exemplars(
        self,
        rows: npt.NDArray[np.intp],
        seconds: npt.NDArray[np.float64],
        times_ns: npt.NDArray[np.uint64],
        trace_ids: npt.NDArray[np.uint8],
        span_ids: npt.NDArray[np.uint8],
    ) -> None:
        """Takes spans that were kept as examples of their distributions, see ``HistogramColumns.offer_exemplars``."""
        self._durations.offer_exemplars(rows, seconds, times_ns, trace_ids, span_ids)

    def reading(self) -> DurationReading:
        """The series as they stand."""
        series = self._table.reading()
        return DurationReading(series, self._durations.read(np.concatenate([np.zeros(1, np.intp), series.slots + 1])))

    def end_cycle(self) -> None:
        """Ends a cycle, whose reading was taken, and makes room."""
        self._table.end_cycle()

    @property
    def folded(self) -> int:
        """Sets of the last cycle that had no series of their own, 32,768 at most."""
        return self._table.folded

    def distinct(self) -> dict[str, float]:
        """Estimates: distinct values by attribute, and distinct sets as WHOLE_SET, of the last ten to twenty minutes."""
        return self._cardinality.estimate(self._now_ns)

    def state(self) -> dict[str, dict[str, Any]]:
        """What another process needs to go on."""
        return {f"{self._name}.series": self._table.state(), f"{self._name}.durations": self._durations.state()}

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Goes on where another process was, before anything is counted."""
        self._table.limit = len(state[f"{self._name}.series"]["keys"])
        self._table.restore(state[f"{self._name}.series"])
        self._durations.restore(state[f"{self._name}.durations"])

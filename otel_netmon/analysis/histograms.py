"""Distributions of many series in one store, from which exponential and explicit buckets both come exact.

Exponential buckets follow the OpenTelemetry metrics data model (ExponentialHistogram) and the SDK's aggregation of the same name:
a series begins at scale 20 and becomes coarser only when its values span more than ``max_buckets`` buckets.

A series costs 49 bytes. From its second distinct value on it has a row of counters as well: ``max_buckets`` exponential
ones, one for zero, and the explicit ones, of 1, 2, 4 or 8 bytes each: the narrowest that holds the number of its measurements,
and no bucket counts more than that. So no counter overflows, and with 14 bounds a series of up to 255 measurements takes
225 bytes in all, up to 65,535 401, up to 2^32 - 1 753.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.counters import TIERS, CounterRows, tier_for
from otel_netmon.analysis.exemplars import EXEMPLAR, ExemplarReading, ExemplarTable
from otel_netmon.analysis.exponential import MAX_SCALE, bucket_index, coarser, shift_for, unrolled

_SLOT = np.dtype(
    [
        ("count", "u8"),
        ("sum", "f8"),
        ("minimum", "f8"),
        ("maximum", "f8"),
        ("low", "i4"),  # buckets at MAX_SCALE of the smallest and the largest positive value
        ("high", "i4"),
        ("row", "i4"),  # among the rows of counters of its tier; none while all values are equal
        ("shift", "u1"),  # MAX_SCALE less the scale
        ("tier", "u1"),
    ],
    align=True,
)
_EMPTY = np.array((0, 0.0, np.inf, -np.inf, 1 << 30, -(1 << 30), -1, 0, 0), _SLOT)

_VALUES_AT_ONCE = 1 << 14  # what a step needs besides stays within 2 MiB
_ROWS_AT_ONCE = 256


@dataclass(frozen=True, slots=True, eq=False)
class HistogramReading:
    """Distributions of n series as columns of length n.

    Exponential buckets: with ``base = 2 ** 2 ** -scale``, bucket j of row i counts values in (base ** (offset + j),
    base ** (offset + j + 1)]. Explicit bucket k counts values in (bounds[k - 1], bounds[k]].

    Attributes:
        count: uint64; sum, minimum, maximum: float64 in the metric's unit, all 0 for a series without a measurement.
        scale, offset: int32; zero_count: uint64. A series without a value above 0 has scale 0 and offset 0.
        buckets: unsigned, as narrow as the largest count lets it be, shape (n, width): exponential buckets, zeros behind the last
            one in use; width is that of the widest, at least 1.
        bounds: float64, shape (b,): upper bounds of the explicit buckets, the last one (infinity) left out.
        bucket_counts: of the same type, shape (n, b + 1): explicit buckets, not cumulative.
        exemplars: at most one for each explicit bucket of a series.
    """

    count: npt.NDArray[np.uint64]
    sum: npt.NDArray[np.float64]
    minimum: npt.NDArray[np.float64]
    maximum: npt.NDArray[np.float64]
    scale: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int32]
    zero_count: npt.NDArray[np.uint64]
    buckets: npt.NDArray[np.unsignedinteger[Any]]
    bounds: npt.NDArray[np.float64]
    bucket_counts: npt.NDArray[np.unsignedinteger[Any]]
    exemplars: ExemplarReading


def _parts(number: int) -> Iterator[slice]:
    return (slice(at, at + _ROWS_AT_ONCE) for at in range(0, number, _ROWS_AT_ONCE))


class HistogramColumns:
    """The distributions of many series, each known by its slot, a number from 0.

    Not for several threads at once. Values are finite and not negative, as durations and sizes are; what is not goes into no
    distribution and is counted in ``rejected_negative`` or ``rejected_not_finite``.

    Args:
        rows: number of slots; ``grow`` makes more.
        bounds: upper bounds of the explicit buckets, finite and ascending.
        max_buckets: most exponential buckets of a series, 2 to 16,384 as in the SDK.
        max_exemplars: most exemplars of all series together, 48 bytes each, none taken beforehand.

    Attributes:
        rejected_negative, rejected_not_finite: how many values were refused so far.

    Raises:
        ValueError: bounds or max_buckets are not as above.
    """

    def __init__(self, rows: int, bounds: Sequence[float], max_buckets: int = 160, max_exemplars: int = 4096) -> None:
        self._bounds = np.array(bounds, np.float64).reshape(-1)
        if not (np.isfinite(self._bounds).all() and (np.diff(self._bounds) > 0).all()):
            raise ValueError(f"bounds must be finite and ascending: {list(bounds)}")
        if not 2 <= max_buckets <= 16384:
            raise ValueError(f"max_buckets must be from 2 to 16384: {max_buckets}")
        self._width = max_buckets
        self._columns = max_buckets + 1 + len(self._bounds) + 1  # exponential ones, zero, explicit ones
        self._slots = np.full(rows, _EMPTY)
        self._marks = np.zeros(rows, np.bool_)
        self._tiers = [CounterRows(self._columns, kind) for kind in TIERS]
        self._exemplars = ExemplarTable(max_exemplars)
        self.rejected_negative = 0
        self.rejected_not_finite = 0

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def nbytes(self) -> int:
        """Bytes that the store holds, unused rows included."""
        counters = sum(tier.table.nbytes for tier in self._tiers)
        return self._slots.nbytes + self._marks.nbytes + counters + self._exemplars.rows.nbytes

    def grow(self, rows: int) -> None:
        """Makes ``rows`` slots of those there are; fewer than there are is no change."""
        more = rows - len(self._slots)
        if more > 0:
            self._slots = np.concatenate([self._slots, np.full(more, _EMPTY)])
            self._marks = np.zeros(rows, np.bool_)

    def add(self, slots: npt.NDArray[np.intp], values: npt.NDArray[np.float64]) -> None:
        """Counts values, shape (n,), each in the distribution of its slot, shape (n,).

        The result does not depend on how values are dealt out to calls.
        """
        for at in range(0, len(values), _VALUES_AT_ONCE):
            part = slice(at, at + _VALUES_AT_ONCE)
            self._add(*self._accepted(slots[part], values[part]))

    def _accepted(
        self, slots: npt.NDArray[np.intp], values: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
        good = (values >= 0) & (values < np.inf)
        if good.all():
            return slots, values
        not_finite = len(values) - int(np.count_nonzero(np.isfinite(values)))
        self.rejected_not_finite += not_finite
        self.rejected_negative += len(values) - int(np.count_nonzero(good)) - not_finite
        return slots[good], values[good]

    def _add(self, slots: npt.NDArray[np.intp], values: npt.NDArray[np.float64]) -> None:
        self._marks[slots] = True
        touched = np.flatnonzero(self._marks)
        self._marks[touched] = False
        state = self._slots
        before = state[touched]

        # One after the other (ufunc.at), so that a sum is what adding up in order gives, to the last bit.
        np.add.at(state["count"], slots, np.uint64(1))
        with np.errstate(over="ignore"):  # a sum beyond the range of float64 is infinite, as everywhere
            np.add.at(state["sum"], slots, values)
        np.minimum.at(state["minimum"], slots, values)
        np.maximum.at(state["maximum"], slots, values)
        index = bucket_index(values)
        zero = values == 0
        any_zero = bool(zero.any())
        positive = ~zero if any_zero else slice(None)
        np.minimum.at(state["low"], slots[positive], index[positive])
        np.maximum.at(state["high"], slots[positive], index[positive])

        now = state[touched]
        shift = shift_for(now["low"], now["high"], now["shift"], self._width)
        state["shift"][touched] = shift
        with_row = before["row"] >= 0
        outspread = with_row & (shift > before["shift"])
        self._coarsen(before[outspread], shift[outspread])
        self._widen(touched[with_row])
        second = ~with_row & (now["minimum"] != now["maximum"])
        self._make_rows(touched[second], before[second])

        row = state["row"][slots]
        column = (index >> state["shift"][slots]) % np.int32(self._width)
        if any_zero:
            column[zero] = self._width
        explicit = self._width + 1 + np.searchsorted(self._bounds, values)
        tiers = state["tier"][slots]
        for tier, counters in enumerate(self._tiers):
            here = np.flatnonzero((tiers == tier) & (row >= 0))
            if len(here):
                flat = counters.table.reshape(-1)
                start = row[here].astype(np.intp) * self._columns
                one = counters.table.dtype.type(1)
                np.add.at(flat, start + column[here], one)
                np.add.at(flat, start + explicit[here], one)

    def _coarsen(self, before: npt.NDArray[Any], shift: npt.NDArray[np.uint8]) -> None:
        """Brings slots that had a row to another shift."""
        for tier, counters in enumerate(self._tiers):
            here = np.flatnonzero(before["tier"] == tier)
            for part in _parts(len(here)):
                old = before[here[part]]
                low, more = old["low"] >> old["shift"], shift[here[part]] - old["shift"]
                fine = counters.table[old["row"], : self._width]
                counters.table[old["row"], : self._width] = coarser(fine, low, more)

    def _widen(self, slots: npt.NDArray[np.intp]) -> None:
        """Moves slots whose counts outgrow their type to rows of a wider one."""
        state = self._slots
        wanted = tier_for(state["count"][slots])
        outgrown = wanted > state["tier"][slots]
        slots, wanted = slots[outgrown], wanted[outgrown]
        for old, source in enumerate(self._tiers):
            leaving = state["tier"][slots] == old
            for new in range(old + 1, len(self._tiers)):
                moved = slots[leaving & (wanted == new)]
                if len(moved):
                    rows = state["row"][moved]
                    target = self._tiers[new]
                    taken = target.take(len(moved))
                    target.table[taken] = source.table[rows]
                    state["row"][moved] = taken
                    state["tier"][moved] = new
                    self._give_back(old, rows)

    def _make_rows(self, slots: npt.NDArray[np.intp], before: npt.NDArray[Any]) -> None:
        """Gives a row to slots whose values are no longer all equal; those before, all equal, are counted in it."""
        state = self._slots
        wanted = tier_for(state["count"][slots])
        column, explicit = self._columns_of(before["minimum"], state["shift"][slots])
        for tier, counters in enumerate(self._tiers):
            here = np.flatnonzero(wanted == tier)
            if len(here):
                rows = counters.take(len(here))
                state["row"][slots[here]] = rows
                state["tier"][slots[here]] = tier
                counters.table[rows, column[here]] = before["count"][here]
                counters.table[rows, explicit[here]] = before["count"][here]

    def _columns_of(
        self, values: npt.NDArray[np.float64], shift: npt.NDArray[np.uint8]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """The exponential (or zero) and the explicit column that count each value; the minimum of no values may be infinite."""
        exponential = (bucket_index(values).astype(np.intp) >> shift) % self._width
        exponential[values == 0] = self._width
        return exponential, self._width + 1 + np.searchsorted(self._bounds, values)

    def _give_back(self, tier: int, rows: npt.NDArray[np.int32]) -> None:
        if self._tiers[tier].give_back(rows):
            state = self._slots
            using = np.flatnonzero((state["tier"] == tier) & (state["row"] >= 0))
            self._tiers[tier].keep(state["row"][using])
            state["row"][using] = np.arange(len(using))

    def reset(self, slots: npt.NDArray[np.intp]) -> None:
        """Empties slots, exemplars included."""
        self._marks[slots] = True
        old = self._slots[self._marks]
        self._marks[slots] = False
        self._slots[slots] = _EMPTY
        for tier in range(len(self._tiers)):
            rows = old["row"][(old["tier"] == tier) & (old["row"] >= 0)]
            if len(rows):
                self._give_back(tier, rows)
        self._exemplars.drop(slots)

    def offer_exemplars(
        self,
        slots: npt.NDArray[np.intp],
        values: npt.NDArray[np.float64],
        times_ns: npt.NDArray[np.uint64],
        trace_ids: npt.NDArray[np.uint8],
        span_ids: npt.NDArray[np.uint8],
    ) -> None:
        """Keeps measurements that were added and whose spans were kept: the newest for each explicit bucket of a series.

        Args:
            slots, values, times_ns: shape (n,), times in Unix time. Values that ``add`` refuses are left out.
            trace_ids, span_ids: shapes (n, 16) and (n, 8).
        """
        good = (values >= 0) & (values < np.inf)
        rows = np.empty(int(np.count_nonzero(good)), EXEMPLAR)
        rows["slot"] = slots[good]
        rows["bucket"] = np.searchsorted(self._bounds, values[good])
        rows["value"] = values[good]
        rows["time_unix_nano"] = times_ns[good]
        rows["trace_id"] = trace_ids[good]
        rows["span_id"] = span_ids[good]
        self._exemplars.offer(rows)

    def read(self, slots: npt.NDArray[np.intp]) -> HistogramReading:
        """Gives the distributions of slots (no slot twice), in this order, as copies.

        The buckets of 10,000 series of full width take 1.6 MB while no series has more than 255 measurements, 12.8 MB at most.
        """
        state = self._slots[slots]
        positive = state["high"] >= state["low"]
        shift = state["shift"]
        low = np.where(positive, state["low"] >> shift, 0)
        high = np.where(positive, state["high"] >> shift, -1)
        width = int((high - low).max(initial=0)) + 1
        narrow = np.min_scalar_type(int(state["count"].max(initial=0)))  # no bucket counts more than its series
        buckets = np.zeros((len(slots), width), narrow)
        explicit = np.zeros((len(slots), len(self._bounds) + 1), narrow)
        zero = np.zeros(len(slots), np.uint64)
        for tier, counters in enumerate(self._tiers):
            here = np.flatnonzero((state["tier"] == tier) & (state["row"] >= 0))
            for part in _parts(len(here)):
                at = here[part]
                table = counters.table[state["row"][at]]
                buckets[at] = unrolled(table[:, : self._width], low[at], width)
                zero[at] = table[:, self._width]
                explicit[at] = table[:, self._width + 1 :]
        # Without a row all values are equal, and count and minimum tell the rest.
        alone = np.flatnonzero((state["row"] < 0) & (state["count"] > 0))
        value, number = state["minimum"][alone], state["count"][alone]
        explicit[alone, np.searchsorted(self._bounds, value)] = number
        zero[alone[value == 0]] = number[value == 0]
        buckets[alone[value > 0], 0] = number[value > 0]
        used = state["count"] > 0
        return HistogramReading(
            count=state["count"].copy(),
            sum=state["sum"].copy(),
            minimum=np.where(used, state["minimum"], 0.0),
            maximum=np.where(used, state["maximum"], 0.0),
            scale=np.where(positive, MAX_SCALE - shift.astype(np.int32), 0).astype(np.int32),
            offset=low.astype(np.int32),
            zero_count=zero,
            buckets=buckets,
            bounds=self._bounds.copy(),
            bucket_counts=explicit,
            exemplars=self._exemplars.read(slots),
        )

    def state(self) -> dict[str, npt.NDArray[Any] | int]:
        """Everything that ``restore`` needs, as copies: plain arrays by name, and integers."""
        names = _SLOT.names or ()
        result: dict[str, npt.NDArray[Any] | int] = {name: self._slots[name].copy() for name in names}
        for tier in self._tiers:
            result[f"counters_{tier.table.itemsize}"] = tier.table.copy()
        result["exemplars"] = self._exemplars.rows.view(np.uint8).reshape(-1, EXEMPLAR.itemsize).copy()
        result["bounds"] = self._bounds.copy()
        result["max_buckets"] = self._width
        result["rejected_negative"] = self.rejected_negative
        result["rejected_not_finite"] = self.rejected_not_finite
        return result

    def restore(self, state: Mapping[str, npt.NDArray[Any] | int]) -> None:
        """Takes over what ``state`` gave, in place of all that is here.

        Raises:
            ValueError: it is of other bounds or another max_buckets, or its parts do not fit together.
        """
        bounds = np.asarray(state["bounds"])
        if not np.array_equal(bounds, self._bounds) or state["max_buckets"] != self._width:
            raise ValueError(
                f"the state is of bounds {bounds.tolist()} and {state['max_buckets']} buckets, "
                f"not of {self._bounds.tolist()} and {self._width}"
            )
        slots = np.full(len(np.asarray(state["count"])), _EMPTY)
        for name in _SLOT.names or ():
            slots[name] = state[name]
        tables = [np.array(state[f"counters_{np.dtype(kind).itemsize}"], kind) for kind in TIERS]
        rows_of = [slots["row"][(slots["tier"] == tier) & (slots["row"] >= 0)] for tier in range(len(TIERS))]
        if int(slots["tier"].max(initial=0)) >= len(TIERS) or any(
            table.ndim != 2
            or table.shape[1] != self._columns
            or len(np.unique(rows)) != len(rows)
            or rows.max(initial=-1) >= len(table)
            for table, rows in zip(tables, rows_of, strict=True)
        ):
            raise ValueError("the parts of the state do not fit together")
        self._slots = slots
        self._marks = np.zeros(len(slots), np.bool_)
        for tier, (counters, table) in enumerate(zip(self._tiers, tables, strict=True)):
            counters.table = table
            counters.keep(rows_of[tier])
            using = np.flatnonzero((slots["tier"] == tier) & (slots["row"] >= 0))
            slots["row"][using] = np.arange(len(using))
        self._exemplars.rows = np.array(state["exemplars"], np.uint8).reshape(-1).view(EXEMPLAR)
        self.rejected_negative = int(state["rejected_negative"])
        self.rejected_not_finite = int(state["rejected_not_finite"])

"""Single measurements of distributions, each with the span in which it was made."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

EXEMPLAR = np.dtype(
    [
        ("slot", "i4"),
        ("bucket", "i4"),
        ("value", "f8"),
        ("time_unix_nano", "u8"),
        ("trace_id", "u1", 16),
        ("span_id", "u1", 8),
    ]
)
"""One measurement, 48 bytes: slot and explicit bucket of its series, value in the metric's unit, W3C trace and span id."""


class ExemplarReading(NamedTuple):
    """m exemplars of n series as columns of length m, ascending by series, then by value.

    Attributes:
        series: intp, position of the series among those that were asked for.
        value: float64, in the metric's unit.
        time_unix_nano: uint64, when it was measured.
        trace_id, span_id: uint8, shapes (m, 16) and (m, 8).
    """

    series: npt.NDArray[np.intp]
    value: npt.NDArray[np.float64]
    time_unix_nano: npt.NDArray[np.uint64]
    trace_id: npt.NDArray[np.uint8]
    span_id: npt.NDArray[np.uint8]


class ExemplarTable:
    """The newest exemplar of each bucket of each series, at most ``limit`` in all; beyond it the oldest go.

    The newest, as the specification's AlignedHistogramBucketExemplarReservoir: its trace is the likeliest to be there still.

    Args:
        limit: most exemplars kept; each takes 48 bytes from when it is offered.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.rows: npt.NDArray[Any] = np.empty(0, EXEMPLAR)

    def offer(self, rows: npt.NDArray[Any]) -> None:
        """Takes measurements (EXEMPLAR, shape (n,)); among equally old ones of a bucket the last one stays."""
        every = np.concatenate([self.rows, rows])
        every = every[np.lexsort((every["time_unix_nano"], every["bucket"], every["slot"]))]
        same = (every["slot"][1:] == every["slot"][:-1]) & (every["bucket"][1:] == every["bucket"][:-1])
        every = every[np.append(~same, True)[: len(every)]]
        if len(every) > self._limit:
            newest = np.argsort(every["time_unix_nano"], kind="stable")[len(every) - self._limit :]
            every = every[np.sort(newest)]
        self.rows = every

    def drop(self, slots: npt.NDArray[np.intp]) -> None:
        """Forgets the exemplars of these series."""
        if len(self.rows):
            self.rows = self.rows[~self._of(slots)]

    def _of(self, slots: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
        """Whether each row is of one of these series."""
        highest = max(int(self.rows["slot"].max(initial=-1)), int(slots.max(initial=-1)))
        marks = np.zeros(highest + 1, np.bool_)
        marks[slots] = True
        of: npt.NDArray[np.bool_] = marks[self.rows["slot"]]
        return of

    def read(self, slots: npt.NDArray[np.intp]) -> ExemplarReading:
        """Gives the exemplars of these series, no slot twice."""
        rows = self.rows[self._of(slots)]
        order = np.argsort(slots)
        position = order[np.searchsorted(slots, rows["slot"], sorter=order)]
        order = np.lexsort((rows["value"], position))
        rows = rows[order]
        return ExemplarReading(
            position[order], rows["value"], rows["time_unix_nano"], rows["trace_id"], rows["span_id"]
        )

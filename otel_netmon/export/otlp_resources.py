"""Items of several resources on their way into one request, in which each resource stands once.

Requests are right in any order of items. What is here makes them fast: items of one resource go into a request at once.

Source: opentelemetry/proto/metrics/v1/metrics.proto, ResourceMetrics, and its like for spans and log records.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.otel.attributes import AttributeSet
from otel_netmon.otel.temporality import same

Index = npt.NDArray[np.int64]

Runs = Sequence[tuple[bytes, int]]
"""Each resource, encoded, and how many items of it follow one another."""


def runs(resources: Sequence[bytes]) -> Runs:
    """The runs of items with these resources."""
    return [(resource, len(list(same))) for resource, same in itertools.groupby(resources)]


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """Items of one resource behind one another: by the first of each, otherwise as they were.

    Attributes:
        rows: places of the items; None where they stand like that already.
        resources: each once, in order.
    """

    rows: Index | None
    resources: Sequence[bytes]
    _numbers: npt.NDArray[Any]

    def runs(self, rows: slice) -> Runs:
        """The runs of some items, in order."""
        numbers = self._numbers[rows]
        begins = [0, *(np.flatnonzero(numbers[1:] != numbers[:-1]) + 1).tolist()]
        counts = itertools.starmap(int.__rsub__, itertools.pairwise([*begins, len(numbers)]))
        return list(zip(map(self.resources.__getitem__, numbers[begins].tolist()), counts, strict=True))


def order(resources: Sequence[bytes]) -> Order | None:
    """The order of items with these resources; None where all are the agent's own."""
    numbered = {resource: number for number, resource in enumerate(dict.fromkeys(resources))}
    if not any(numbered):
        return None
    numbers: npt.NDArray[Any] = np.fromiter(map(numbered.__getitem__, resources), np.uint32, len(resources))
    if len(numbered) <= 1 << 16:
        numbers = numbers.astype(np.uint16)  # which are sorted in linear time
    rows = None
    if (numbers[1:] < numbers[:-1]).any():
        rows = np.argsort(numbers, kind="stable")
        numbers = numbers[rows]
    return Order(rows, list(numbered), numbers)


class SeriesOrders:
    """The order of the series of each metric, as long as they are the same. Metrics about the same things may share their sets."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._last: _Known = (), None

    def of(self, metric: str, sets: Sequence[AttributeSet]) -> Order | None:
        """See ``order``."""
        if sets is not self._last[0]:
            before, known = self._known.get(metric, ((), None))
            self._last = sets, known if same(sets, before) else series_order(sets)
        self._known[metric] = self._last
        return self._last[1]


_Known = tuple[Sequence[AttributeSet], Order | None]


def series_order(sets: Sequence[AttributeSet]) -> Order | None:
    """See ``order``."""
    # Nearly always all are the agent's own; a set is made at a third of the time that a generator takes.
    return order([each.resource for each in sets]) if any({each.resource for each in sets}) else None  # noqa: C419

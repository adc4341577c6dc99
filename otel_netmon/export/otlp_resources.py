"""Items of several resources on their way into one request, in which each resource stands once.

Source: opentelemetry/proto/metrics/v1/metrics.proto, ResourceMetrics, and its like for spans and log records.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from otel_netmon.otel.attributes import AttributeSet

Index = npt.NDArray[np.int64]


def runs(resources: Sequence[bytes]) -> list[tuple[bytes, int]]:
    """Each resource and how many items of it follow one another."""
    return [(resource, len(list(same))) for resource, same in itertools.groupby(resources)]


def together(resources: Sequence[bytes]) -> Index | None:
    """The order in which items of one resource follow one another: by the first of each, otherwise as they are.

    Requests are right in any order. This one makes them fast: what is of one resource goes into them at once.

    Args:
        resources: of each item.

    Returns:
        Places of the items; None where the order is that one already.
    """
    distinct = len(set(resources))
    if distinct <= 1 or len(runs(resources)) == distinct:
        return None
    places: dict[bytes, list[int]] = {}
    for place, resource in enumerate(resources):
        if resource in places:
            places[resource].append(place)
        else:
            places[resource] = [place]
    return np.fromiter(itertools.chain.from_iterable(places.values()), np.int64, len(resources))


class SeriesOrder:
    """The order of the series of one metric after the other; metrics about the same things share their attribute sets."""

    def __init__(self) -> None:
        self._sets: Sequence[AttributeSet] = ()
        self._order: Index | None = None
        self._several = False

    def of(self, sets: Sequence[AttributeSet]) -> tuple[bool, Index | None]:
        """Whether any series is not of the agent's own resource, and the order as ``together`` gives it."""
        if sets is not self._sets:
            self._sets = sets
            resources = {each.resource for each in sets}
            self._several = any(resources)
            self._order = together([each.resource for each in sets]) if self._several else None
        return self._several, self._order

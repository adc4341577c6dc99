"""One budget of series for the whole agent, shared over the metric families."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple


class Family(NamedTuple):
    """A group of metrics whose series are counted together.

    Attributes:
        name: unique.
        weight: above 0; a family of twice the weight gets twice as many series where both want more than they get.
        minimum: series that it gets before weights decide, as far as it wants them.
        wanted: series that it has use for.
    """

    name: str
    weight: float
    minimum: int
    wanted: int


def share(limit: int, families: Sequence[Family]) -> dict[str, int]:
    """Gives each family its number of series; they add up to the limit, or to what is wanted if that is less.

    Weighted max-min fairness with minimums: each family gets the same number of series for each unit of weight, but no more
    than it wants and no less than its minimum; what one leaves raises the others. Where the minimums exceed the limit,
    the families get their minimums in the order of weight, the first of equal ones first, until nothing is left.
    The same arguments give the same result, to the last series.

    Raises:
        ValueError: the limit or a family's numbers are negative, a weight is not above 0 or infinite, or a name stands twice.
    """
    _check(limit, families)
    floors = [min(family.minimum, family.wanted) for family in families]
    if sum(floors) >= limit:
        left, shares = limit, [0] * len(families)
        for number in sorted(range(len(families)), key=lambda number: -families[number].weight):
            shares[number] = min(floors[number], left)
            left -= shares[number]
    elif sum(family.wanted for family in families) <= limit:
        shares = [family.wanted for family in families]
    else:
        shares = _fill(limit, families, floors)
    return {family.name: number for family, number in zip(families, shares, strict=True)}


def _check(limit: int, families: Sequence[Family]) -> None:
    if limit < 0:
        raise ValueError(f"a limit of series must not be negative: {limit}")
    for family in families:
        if not 0 < family.weight < math.inf or family.minimum < 0 or family.wanted < 0:
            raise ValueError(f"weight must be above 0 and finite, minimum and wanted not below 0: {family}")
    if len({family.name for family in families}) < len(families):
        raise ValueError("a family stands twice")


def _fill(limit: int, families: Sequence[Family], floors: list[int]) -> list[int]:
    weights = [Fraction(family.weight) for family in families]
    level = _level(limit, families, weights, floors)
    shares = [
        max(floor, min(family.wanted, int(level * weight)))
        for family, weight, floor in zip(families, weights, floors, strict=True)
    ]
    # The fractions cut off are fewer than the families; each goes to who has least for its weight.
    queue = [
        ((mine + 1) / weight, number)
        for number, (mine, weight, family) in enumerate(zip(shares, weights, families, strict=True))
        if mine < family.wanted
    ]
    heapq.heapify(queue)
    for _ in range(limit - sum(shares)):
        _, number = heapq.heappop(queue)
        shares[number] += 1
        if shares[number] < families[number].wanted:
            heapq.heappush(queue, ((shares[number] + 1) / weights[number], number))
    return shares


def _level(limit: int, families: Sequence[Family], weights: list[Fraction], floors: list[int]) -> Fraction:
    """Series for each unit of weight at which the shares, not yet whole numbers, add up to the limit."""

    def total(level: Fraction) -> Fraction:
        return sum(
            (
                max(Fraction(floor), min(Fraction(family.wanted), level * weight))
                for family, weight, floor in zip(families, weights, floors, strict=True)
            ),
            Fraction(0),
        )

    # Between two neighbours among the levels at which a family leaves its minimum or has all it wants, the total is linear.
    turns = sorted(
        {Fraction(floor) / weight for floor, weight in zip(floors, weights, strict=True)}
        | {Fraction(family.wanted) / weight for family, weight in zip(families, weights, strict=True)}
    )
    low = max(level for level in turns if total(level) <= limit)
    high = min(level for level in turns if total(level) > limit)
    return low + (limit - total(low)) * (high - low) / (total(high) - total(low))

"""Drops by the kernel's reasons to points of netmon.kernel.drops."""

from __future__ import annotations

from collections.abc import Mapping

from otel_netmon.otel.points import Point
from otel_netmon.readers.drops import UNKNOWN

NO_DROPS = frozenset({"CONSUMED", "NOT_DROPPED_YET"})
"""Members of enum skb_drop_reason that say that nothing was dropped."""
NOT_SPECIFIED = "NOT_SPECIFIED"
OTHER = "other"
MISSED = "missed"

_PREFIXES = ("SKB_DROP_REASON_", "SKB_")


def short_name(name: str) -> str:
    """A member of the enum as the kernel prints it in its traces: NO_SOCKET of SKB_DROP_REASON_NO_SOCKET."""
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name


def drop_points(
    counts: Mapping[int, int], missed: int, names: Mapping[int, str], start_ns: int, *, has_reasons: bool
) -> dict[str, list[Point]]:
    """Gives netmon.kernel.drops.

    Args:
        counts: packets by number of the reason, see ``readers.drops``.
        missed: drops while the program ran already on that CPU: it was not run for them.
        names: by number, as the kernel prints them; a reason that is not among them has its number as a name.
        start_ns: Unix time since when is counted.
        has_reasons: whether the kernel tells any.
    """
    totals: dict[str, int] = {}
    for number, packets in counts.items():
        unknown = OTHER if has_reasons else NOT_SPECIFIED
        name = unknown if number == UNKNOWN else names.get(number, str(number))
        if name not in NO_DROPS:
            totals[name] = totals.get(name, 0) + packets
    if missed:
        totals[MISSED] = missed
    return {"netmon.kernel.drops": [Point({"netmon.reason": name}, n, start_ns) for name, n in totals.items()]}

"""Where the time of a request went, as attributes of its span."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.connection_index import UNKNOWN
from otel_netmon.analysis.request_phases import Phase
from otel_netmon.otel.attributes import Tag, Value, encode

TOTAL = "netmon.http.time.total"
LONGEST = "netmon.http.time.longest"
RETRANSMITS = "netmon.http.retransmits"
OUT_OF_ORDER = "netmon.http.out_of_order"

_NAMES = [phase.name.lower() for phase in Phase]
KEYS = [f"netmon.http.time.{name}" for name in _NAMES]
"""Of the phases, in their order."""


def time_attributes(
    phases: npt.NDArray[np.int64], resent: npt.NDArray[np.int64], disordered: npt.NDArray[np.int64]
) -> list[bytes]:
    """Gives the attributes of n spans, encoded with ``Tag.SPAN``; what was not seen is left out.

    Args:
        phases: see ``request_phases.phases``.
        resent, disordered: see ``connection_index.Owner``.
    """
    longest = np.argmax(phases, axis=0).tolist()
    total = np.where(phases == UNKNOWN, 0, phases).sum(axis=0).tolist()
    rows = zip(phases.T.tolist(), total, longest, resent.tolist(), disordered.tolist(), strict=True)
    return [encode(_attributes(*row), Tag.SPAN) for row in rows]


def _attributes(took_ns: list[int], total_ns: int, longest: int, resent: int, disordered: int) -> dict[str, Value]:
    made: dict[str, Value] = {key: each / 1e9 for key, each in zip(KEYS, took_ns, strict=True) if each != UNKNOWN}
    made[TOTAL], made[LONGEST] = total_ns / 1e9, _NAMES[longest]
    if resent != UNKNOWN:
        made[RETRANSMITS], made[OUT_OF_ORDER] = resent, disordered
    return made

"""Whose spans of lookups, handshakes, requests and calls are: the process at the end of the connection that a span tells of.

A span waits for the next reading of connections: then every connection and socket that was there when its packets were seen is
either in a table that was read or in a ring that was drained, however short it lived.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.connection_index import ENDS, turned
from otel_netmon.otel.spans import Sought, SpanBatch, SpanKind

Resources = Callable[[npt.NDArray[Any], npt.NDArray[np.int64]], list[bytes]]
"""Gives the encoded resource of each, nothing where it is not known: ends (ENDS) as whom is asked for sees them, CLOCK_MONOTONIC."""


def attributed(sought: Sequence[Sought], resources: Resources) -> list[SpanBatch]:
    """Gives the spans with the resource of the process at their end: of the client, of SERVER spans the server's.

    The other end has nothing to do with a span, but where ``Sought.either_side`` says that either may tell it: a handshake
    that only the server is known of becomes a SERVER span.
    """
    if not sought:
        return []
    kinds = np.concatenate([each.batch.kinds for each in sought])
    ends = np.concatenate([each.ends for each in sought], dtype=ENDS)  # ports stay in network order
    times = np.concatenate([each.times_ns for each in sought])
    as_server = kinds == SpanKind.SERVER
    asked = ends.copy()
    asked[as_server] = turned(ends[as_server])
    found = resources(asked, times)
    either = np.concatenate([np.full(len(each.batch), each.either_side) for each in sought])
    again = [at for at in np.flatnonzero(either & ~as_server).tolist() if not found[at]]
    if again:
        for at, resource in zip(again, resources(turned(ends[again]), times[again]), strict=True):
            if resource:
                found[at], kinds[at] = resource, SpanKind.SERVER
    made = []
    begin = 0
    for each in sought:
        end = begin + len(each.batch)
        made.append(replace(each.batch, kinds=kinds[begin:end], resources=found[begin:end]))
        begin = end
    return made

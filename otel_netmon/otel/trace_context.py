"""Where the span of a request belongs in the trace that its client began.

W3C Trace Context (traceparent, tracestate); OpenTelemetry, "TraceState: Probability Sampling".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.sampling import threshold_text, trace_randomness
from otel_netmon.decode.http_fields import TraceParent

SAMPLED_RANDOM = 0x03
"""Flags of a span without a parent: sampled, and the trace id is random (W3C Trace Context Level 2)."""

_MEMBER = re.compile(r"[a-z0-9][a-z0-9_\-*/@]{0,255}=[!-+\--<>-~ ]{0,255}[!-+\--<>-~]")
_RANDOM_VALUE = re.compile(r"(?:^|[,\t ])ot=(?:[^,]*;)?rv:([0-9a-f]{14})(?=[;,\t ]|$)")
_THRESHOLD = re.compile(r"(?:^|;)th:([0-9a-f]{1,14})(?=;|$)")
_STATE_CHARACTERS_MAX = 512
_MEMBERS_MAX = 32
_SAMPLED_CHILD = 0x01 | 0x300  # the parent is known to be of another process


class Contexts(NamedTuple):
    """Of n spans.

    Attributes:
        trace_ids: uint8, shape (n, 16): the parent's, or random.
        parent_span_ids: uint8, shape (n, 8): zero without a parent.
        flags: uint32, those of Span.flags.
    """

    trace_ids: npt.NDArray[np.uint8]
    parent_span_ids: npt.NDArray[np.uint8]
    flags: npt.NDArray[np.uint32]


def contexts(parents: Sequence[TraceParent | None], random: npt.NDArray[np.uint8]) -> Contexts:
    """Gives the contexts of spans with these parents; random: shape (n, 16), the trace ids of those that have none."""
    trace_ids = random.copy()
    parent_span_ids = np.zeros((len(parents), 8), np.uint8)
    flags = np.full(len(parents), SAMPLED_RANDOM, np.uint32)
    for at, parent in enumerate(parents):
        if parent is not None:
            trace_ids[at] = np.frombuffer(parent.trace_id, np.uint8)
            parent_span_ids[at] = np.frombuffer(parent.span_id, np.uint8)
            flags[at] = _SAMPLED_CHILD
    return Contexts(trace_ids, parent_span_ids, flags)


def randomness(trace_ids: npt.NDArray[np.uint8], received: Sequence[str | None]) -> npt.NDArray[np.uint64]:
    """Gives the randomness of each trace, 56 bits: what its tracestate says, otherwise that of the trace id."""
    found = trace_randomness(trace_ids)
    for at, state in enumerate(received):
        match = _RANDOM_VALUE.search(state) if state else None
        if match is not None:
            found[at] = int(match[1], 16)
    return found


def trace_state(received: str | None, threshold: int) -> str:
    """Gives the tracestate of a span: the one of its parent, with the rate at which this one was kept.

    Both samplers compare the same randomness with their thresholds, so what went through both has the larger one. A
    tracestate that is none is left out, as the recommendation says; our own member is the first.
    """
    members = [member.strip(" \t") for member in received.split(",")] if received else []
    members = [member for member in members if member]
    if len(members) > _MEMBERS_MAX or not all(map(_MEMBER.fullmatch, members)):
        members = []
    ours = f"th:{threshold_text(threshold)}"
    others = [member for member in members if not member.startswith("ot=")]
    for member in members:
        if member.startswith("ot="):
            ours = _joined(member[3:], threshold)
    found = f"ot={ours}"
    for member in others:
        if len(found) + 1 + len(member) > _STATE_CHARACTERS_MAX:
            break
        found += "," + member
    return found


def _joined(value: str, threshold: int) -> str:
    """The value of `ot` with the larger of both thresholds, its other entries as they are."""
    match = _THRESHOLD.search(value)
    if match is not None:
        threshold = max(threshold, int(match[1].ljust(14, "0"), 16))
        value = value[: match.start()] + value[match.end() :]
    rest = value.strip(";")
    return f"th:{threshold_text(threshold)}" + (f";{rest}" if rest else "")

"""Spans that the keep rule keeps: their identifiers, and those of them that are the root of a trace.

OpenTelemetry, "TraceState: Probability Sampling"; W3C Trace Context Level 2 for the randomness of trace ids.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.sampling import KeepRule
from otel_netmon.otel.spans import Sought, SpanBatch, StatusCode
from otel_netmon.otel.trace_context import SAMPLED_RANDOM, trace_state

_RANDOMNESS = np.uint64((1 << 56) - 1)
_SPAN = 24  # octets of a trace id and a span id


class KeptSpans(NamedTuple):
    """Spans of messages that the keep rule keeps, and which they are.

    Attributes:
        spans: the spans.
        kept: intp, their places among those that the rule was asked about.
    """

    spans: Sought
    kept: npt.NDArray[np.intp]

    @property
    def batch(self) -> SpanBatch:
        """The spans alone."""
        return self.spans.batch

    def exemplars(
        self,
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint64], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """What ``HistogramColumns.offer_exemplars`` takes of each: how long it lasted in seconds, its end, its identifiers."""
        batch = self.batch
        seconds = (batch.end_time_unix_nano - batch.start_time_unix_nano) / 1e9
        return seconds, batch.end_time_unix_nano, batch.trace_ids, batch.span_ids


class Roots(NamedTuple):
    """Spans without a parent that the rule keeps, before anything is said of them; columns of length n.

    Attributes:
        places: intp, their places among those that the rule was asked about.
        failed: bool.
        thresholds: uint64, by which each was kept.
        identifiers: see ``identifiers``.
    """

    places: npt.NDArray[np.intp]
    failed: npt.NDArray[np.bool_]
    thresholds: npt.NDArray[np.uint64]
    identifiers: npt.NDArray[np.uint8]

    def batch(
        self,
        names: Sequence[str],
        kinds: npt.NDArray[np.uint8],
        start_ns: npt.NDArray[np.uint64],
        end_ns: npt.NDArray[np.uint64],
        attributes: Sequence[bytes],
        messages: Sequence[str],
        resources: Sequence[bytes] = (),
    ) -> SpanBatch:
        """Gives the spans; the arguments are as in ``SpanBatch``, times in Unix time."""
        return SpanBatch(
            names=names,
            kinds=kinds,
            trace_ids=self.identifiers[:, :16],
            span_ids=self.identifiers[:, 16:],
            parent_span_ids=np.zeros((len(self.places), 8), np.uint8),
            flags=np.full(len(self.places), SAMPLED_RANDOM, np.uint32),
            start_time_unix_nano=start_ns,
            end_time_unix_nano=end_ns,
            attributes=attributes,
            statuses=statuses(self.failed),
            messages=messages,
            trace_states=[_root_state(threshold) for threshold in self.thresholds.tolist()],
            resources=resources,
        )


def kept_roots(
    rule: KeepRule,
    kinds: Sequence[Hashable] | npt.NDArray[np.integer],
    durations_ns: npt.NDArray[np.int64],
    errors: npt.NDArray[np.bool_],
    now_ns: int,
) -> Roots:
    """Asks the rule about spans without a parent; the arguments are as in ``KeepRule.decide``."""
    random = randomness_of(len(durations_ns))
    decision = rule.decide(kinds, durations_ns, errors, now_ns, random)
    places = np.flatnonzero(decision.keep)
    return Roots(places, errors[places], decision.threshold[places], identifiers(random[places]))


def randomness_of(number: int) -> npt.NDArray[np.uint64]:
    """Draws the randomness of so many traces, 56 bits each."""
    return np.frombuffer(os.urandom(8 * number), np.uint64) & _RANDOMNESS


def identifiers(randomness: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """Gives random trace ids whose last 56 bits are these, and span ids: uint8, shape (n, 24), the trace id first."""
    drawn = np.frombuffer(os.urandom(_SPAN * len(randomness)), np.uint8).reshape(-1, _SPAN).copy()
    drawn[:, 9:16] = randomness.astype(">u8").view(np.uint8).reshape(-1, 8)[:, 1:]
    return drawn


def statuses(failed: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Gives the ``StatusCode`` of each."""
    return np.where(failed, StatusCode.ERROR, StatusCode.UNSET).astype(np.uint8)


@functools.lru_cache(256)
def _root_state(threshold: int) -> str:
    return trace_state(None, threshold)

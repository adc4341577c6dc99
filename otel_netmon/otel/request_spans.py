"""Spans of requests that the keep rule keeps, each in the trace of its client."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.connection_index import TCP, ends_between
from otel_netmon.analysis.http_records import HttpRequest
from otel_netmon.analysis.request_phases import times_of
from otel_netmon.analysis.sampling import KeepRule, Reason
from otel_netmon.decode.http_fields import trace_parent
from otel_netmon.otel.kept_spans import KeptSpans, identifiers, randomness_of, statuses
from otel_netmon.otel.spans import Describe, Sought, SpanBatch, SpanKind
from otel_netmon.otel.trace_context import contexts, randomness, trace_state


def kept_spans(
    requests: Sequence[HttpRequest],
    is_server: npt.NDArray[np.bool_],
    kinds: Sequence[Hashable],
    errors: npt.NDArray[np.bool_],
    rule: KeepRule,
    unix_offset_ns: int,
    now_ns: int,
    describer: Callable[[Sequence[int]], Describe],
) -> KeptSpans:
    """Gives a span for each request that the rule keeps.

    A request whose traceparent says that its trace is not recorded has no span: its parent would be missing.

    Args:
        is_server: of each request: seen where its server is, otherwise where its client is.
        kinds, errors: for the rule.
        unix_offset_ns: what makes Unix time of the requests' clock.
        now_ns: the requests' clock.
        describer: gives what describes the requests at these places, and keeps nothing of the others: spans wait.
    """
    parents = [trace_parent(request.traceparent) for request in requests]
    recorded = np.flatnonzero([parent is None or parent.is_sampled for parent in parents])
    rule.counts[Reason.SAMPLED_OUT] += len(requests) - len(recorded)
    listed = recorded.tolist()
    random = identifiers(randomness_of(len(listed)))
    context = contexts([parents[at] for at in listed], random[:, :16])
    lasted = np.array([requests[at].lasted_ns for at in listed], np.int64)
    states = [requests[at].tracestate if parents[at] is not None else None for at in listed]
    random_values = randomness(context.trace_ids, states)
    decision = rule.decide([kinds[at] for at in listed], lasted, errors[recorded], now_ns, random_values)
    chosen = np.flatnonzero(decision.keep)
    kept = recorded[chosen]
    places = kept.tolist()
    spans = sought_spans(
        [requests[at] for at in places],
        is_server[kept],
        errors[kept],
        decision.threshold[chosen],
        random[chosen],
        unix_offset_ns,
        describer(places),
    )
    return KeptSpans(spans, kept)


def sought_spans(
    requests: Sequence[HttpRequest],
    is_server: npt.NDArray[np.bool_],
    failed: npt.NDArray[np.bool_],
    thresholds: npt.NDArray[np.uint64],
    random: npt.NDArray[np.uint8],
    unix_offset_ns: int,
    describe: Describe,
) -> Sought:
    """Gives the spans of requests that are kept, all of them.

    Args:
        is_server, failed: of each request.
        thresholds: by which each was kept.
        random: shape (n, 24): trace id, of a request without a parent, and span id.
        unix_offset_ns: what makes Unix time of the requests' clock.
        describe: gives what the span at a place says.
    """
    described = [describe(at, side) for at, side in enumerate(is_server.tolist())]
    parents = [trace_parent(request.traceparent) for request in requests]
    context = contexts(parents, random[:, :16])
    begun = np.array([request.request_first_ns for request in requests], np.int64)
    start = (begun + unix_offset_ns).astype(np.uint64)
    lasted = np.array([request.lasted_ns for request in requests], np.uint64)
    states = [
        request.tracestate if parent is not None else None for request, parent in zip(requests, parents, strict=True)
    ]
    batch = SpanBatch(
        names=[each.name for each in described],
        kinds=np.where(is_server, SpanKind.SERVER, SpanKind.CLIENT).astype(np.uint8),
        trace_ids=context.trace_ids,
        span_ids=random[:, 16:],
        parent_span_ids=context.parent_span_ids,
        flags=context.flags,
        start_time_unix_nano=start,
        end_time_unix_nano=start + lasted,
        attributes=[each.attributes for each in described],
        statuses=statuses(failed),
        messages=[each.message if bad else "" for each, bad in zip(described, failed.tolist(), strict=True)],
        trace_states=[trace_state(state, each) for state, each in zip(states, thresholds.tolist(), strict=True)],
    )
    ends = ends_between([request.client for request in requests], [request.server for request in requests], TCP)
    return Sought(batch, ends, begun, True, describe, times_of(requests))

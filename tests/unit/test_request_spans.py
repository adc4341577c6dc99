"""Spans of requests in the traces of their clients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from otel_netmon.analysis.http_records import HttpRequest
from otel_netmon.analysis.sampling import KeepRule, Reason
from otel_netmon.otel.kept_spans import KeptSpans
from otel_netmon.otel.request_spans import kept_spans
from otel_netmon.otel.spans import Description, SpanKind, StatusCode
from otel_netmon.otel.trace_context import randomness, trace_state
from support.tcp_talk import CLIENT, SERVER

SECOND = 1_000_000_000
TRACE, PARENT = "d52ac471b0dfbbc5bd1ac5eadcea9870", "b2d76db5796e4adc"


def request(traceparent: str | None = None, **fields: Any) -> HttpRequest:
    made = HttpRequest(
        "2", CLIENT, SERVER, "GET", "/", "x", 200, "answered", 10, 20, 30, 40, 0, 0, traceparent=traceparent
    )
    return made._replace(**fields)


def spans(*requests: HttpRequest, errors: list[bool] | None = None, rule: KeepRule | None = None) -> KeptSpans:
    failed = np.array(errors or [False] * len(requests), np.bool_)
    is_server = np.arange(len(requests)) % 2 == 0
    return kept_spans(
        requests,
        is_server,
        ["kind"] * len(requests),
        failed,
        rule or KeepRule(1, 1000),
        SECOND,
        0,
        lambda places: (
            lambda at, _of_server: Description(
                f"span {places[at]}", b"attributes", "it failed" if failed[places[at]] else ""
            )
        ),
    )


def test_a_child_of_its_client() -> None:
    (batch, *_), kept = spans(request(f"00-{TRACE}-{PARENT}-01"), request(), errors=[True, False])
    assert kept.tolist() == [0, 1]
    assert batch.names == ["span 0", "span 1"]
    assert batch.kinds.tolist() == [SpanKind.SERVER, SpanKind.CLIENT]
    assert batch.trace_ids[0].tobytes().hex() == TRACE
    assert batch.parent_span_ids[0].tobytes().hex() == PARENT
    assert batch.flags.tolist() == [0x301, 0x03]
    assert not batch.parent_span_ids[1].any()
    assert batch.trace_ids[1].any()
    assert batch.span_ids.any(axis=1).all()
    assert batch.statuses.tolist() == [StatusCode.ERROR, StatusCode.UNSET]
    assert batch.messages == ["it failed", ""]
    assert batch.start_time_unix_nano.tolist() == [SECOND + 10] * 2
    assert batch.end_time_unix_nano.tolist() == [SECOND + 40] * 2


def test_a_trace_that_is_not_recorded_has_no_span() -> None:
    rule = KeepRule(1, 1000)
    kept = spans(request(f"00-{TRACE}-{PARENT}-00"), request(), rule=rule).kept
    assert kept.tolist() == [1]
    assert rule.counts[Reason.SAMPLED_OUT] == 1
    assert rule.counts.sum() == 2


@pytest.mark.parametrize("traceparent", ["", "junk", f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}-{PARENT}-01"])
def test_a_parent_that_is_none(traceparent: str) -> None:
    batch = spans(request(traceparent, tracestate="a=b")).batch
    assert not batch.parent_span_ids.any()
    assert batch.trace_ids[0].tobytes().hex() != TRACE
    assert batch.trace_states == ["ot=th:0"]


def test_no_requests() -> None:
    made = spans()
    assert len(made.batch) == len(made.kept) == 0


def test_what_failed_lasts_until_it_failed() -> None:
    failed = request(outcome="reset", end_ns=99, response_last_ns=None)
    assert spans(failed).batch.end_time_unix_nano.tolist() == [SECOND + 99]


def test_samplers_agree() -> None:
    """Half of the traces, by the randomness of the trace, at whatever place that is decided."""
    requests = [
        request(f"00-{number:018x}{number * 0x1234567 % (1 << 56):014x}-{PARENT}-01") for number in range(1, 400)
    ]
    rules = [KeepRule(0.5, 10_000, slow_ns=1 << 60) for _ in range(2)]
    kept = []
    for rule in rules:
        spans(requests[0], rule=rule)
        kept.append(spans(*requests, rule=rule).kept.tolist())
    assert kept[0] == kept[1]
    expected = [at for at, each in enumerate(requests) if int(str(each.traceparent)[21:35], 16) >= 1 << 55]
    assert kept[0] == expected


@pytest.mark.parametrize(
    ("received", "threshold", "told"),
    [
        (None, 0, "ot=th:0"),
        ("", 1 << 55, "ot=th:8"),
        ("a=1,b=2", 0, "ot=th:0,a=1,b=2"),
        ("a=1, ot=th:c;rv:123456789abcde ,b=2", 1 << 55, "ot=th:c;rv:123456789abcde,a=1,b=2"),
        ("ot=th:4", 1 << 55, "ot=th:8"),
        ("ot=rv:123456789abcde", 0, "ot=th:0;rv:123456789abcde"),
        ("no member", 0, "ot=th:0"),
        ("a=b\x00", 0, "ot=th:0"),
        (",".join(f"k{n}=v" for n in range(33)), 0, "ot=th:0"),
        ("a=" + "x" * 250 + ",b=" + "y" * 247 + ",c=d", 0, "ot=th:0,a=" + "x" * 250 + ",b=" + "y" * 247),
    ],
)
def test_trace_states(received: str | None, threshold: int, told: str) -> None:
    assert trace_state(received, threshold) == told


def test_randomness_of_the_trace_state() -> None:
    ids = np.zeros((3, 16), np.uint8)
    ids[:, 15] = 7
    made = randomness(ids, [None, "a=b,ot=th:4;rv:123456789abcde", "ot=th:4"])
    assert made.tolist() == [7, 0x123456789ABCDE, 7]

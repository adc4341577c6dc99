"""gRPC calls of one side of the agent: points, spans and exemplars of the same calls."""

from __future__ import annotations

from typing import Any

import pytest

from otel_netmon.analysis.http_records import HttpRequest
from otel_netmon.analysis.sampling import KeepRule
from otel_netmon.otel.points import HistogramSeries
from otel_netmon.otel.spans import SpanKind
from otel_netmon.sources.rpc import RpcSide
from support.tcp_talk import CLIENT, SERVER

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


def call(method: str, grpc_status: int = 0, seconds: float = 0.5) -> HttpRequest:
    end_ns = round(seconds * SECOND)
    return HttpRequest(
        "2", CLIENT, SERVER, "POST", f"/{method}", "api.example", 200, "answered", 0, 1, 2, end_ns, 5, 5,
        is_grpc=True, grpc_status=grpc_status, end_ns=end_ns,
    )  # fmt: skip


def side(*, is_server: bool = True) -> RpcSide:
    made = RpcSide(is_server=is_server, names=100, rule=KeepRule(1, 1000), start_ns=START, idle_ns=0)
    made.begin_cycle(100)
    return made


def counts(source: RpcSide) -> dict[str, Any]:
    ((name, points),) = source.points().items()
    assert isinstance(points, HistogramSeries)
    return {"name": name, "count": points.count.tolist(), "exemplars": points.exemplars}


@pytest.mark.parametrize("is_server", [True, False])
def test_points_spans_and_exemplars(is_server: bool) -> None:
    source = side(is_server=is_server)
    source.take([], START, 0)
    source.take([call("S/A"), call("S/A", seconds=0.25), call("S/B", 14)], START, SECOND)
    (sought,) = source.take_spans()
    batch = sought.batch
    assert source.take_spans() == []
    assert sought.requests is not None
    assert sought.requests.begun_ns.tolist() == [0, 0, 0]
    assert sought.requests.waiting_ns.tolist() == [1, 1, 1]
    assert sought.requests.receiving_ns.tolist() == [SECOND // 2 - 2, SECOND // 4 - 2, SECOND // 2 - 2]
    assert batch.names == ["S/A", "S/A", "S/B"]
    assert set(batch.kinds.tolist()) == {SpanKind.SERVER if is_server else SpanKind.CLIENT}
    made = counts(source)
    assert made["name"] == f"rpc.{'server' if is_server else 'client'}.call.duration"
    assert sorted(made["count"]) == [0, 1, 2]
    told = {(each.value, each.span_id) for series in made["exemplars"] for each in series}
    spans = {each.tobytes() for each in batch.span_ids}
    assert {span for _, span in told} <= spans
    assert {value for value, _ in told} == {0.25, 0.5}
    assert source.wanted == 64 + 2 * 2
    diversity = source.diversity()
    assert (diversity.folded, round(diversity.sets)) == (0, 2)


def test_another_process_goes_on() -> None:
    source = side()
    source.take([call("S/A")], START, SECOND)
    other = side()
    other.restore(source.state())
    other.begin_cycle(100)
    other.take([call("S/A"), call("S/C")], START, SECOND)
    assert sorted(counts(other)["count"]) == [0, 1, 2]


def test_what_has_no_place_is_counted() -> None:
    source = side()
    source.begin_cycle(1)
    source.take([call(f"S/M{number}") for number in range(23)], START, SECOND)
    assert sum(counts(source)["count"]) == 23
    assert source.diversity().folded == 22

"""OTLP's rules for retries over real sockets: every gRPC code and HTTP status, with and without what may come along.

The expectations are the tables of the OTLP specification, written out once more.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any, Literal

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE

from otel_netmon import __version__
from otel_netmon.config.model import Otlp
from otel_netmon.export import otlp_transport
from otel_netmon.export.requests import Outcome, Request, Signal, Transport
from support import collectors
from support.collectors import Collector
from support.otlp_receiver import Answer, Failure, Receiver, grpc_receiver, http_receiver, partial_success

Protocol = Literal["grpc", "http/protobuf"]
PROTOCOLS: tuple[Protocol, ...] = ("grpc", "http/protobuf")
SECONDS = 10.0


def metrics_request(*values: int) -> Request:
    message = ExportMetricsServiceRequest()
    metric = message.resource_metrics.add().scope_metrics.add().metrics.add(name="netmon.flow.io", unit="By")
    metric.sum.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
    for value in values:
        metric.sum.data_points.add(as_int=value, start_time_unix_nano=1, time_unix_nano=2)
    return Request(Signal.METRICS, message.SerializeToString(), len(values))


def traces_request() -> Request:
    message = ExportTraceServiceRequest()
    message.resource_spans.add().scope_spans.add().spans.add(name="GET", trace_id=bytes(range(16)), span_id=b"12345678")
    return Request(Signal.TRACES, message.SerializeToString(), 1)


def logs_request() -> Request:
    message = ExportLogsServiceRequest()
    message.resource_logs.add().scope_logs.add().log_records.add(event_name="netmon.tcp.resets")
    return Request(Signal.LOGS, message.SerializeToString(), 1)


def send_once(receiver: Receiver, protocol: Protocol, request: Request | None = None, **settings: Any) -> Outcome:
    transport = otlp_transport.build(Otlp(endpoint=receiver.endpoint, protocol=protocol, **settings))
    try:
        return transport.send(request or metrics_request(1, 2, 3), SECONDS)
    finally:
        transport.close()


@pytest.fixture(scope="module")
def http() -> Iterator[Receiver]:
    with http_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def collector() -> Iterator[Receiver]:
    with grpc_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def http_transport(http: Receiver) -> Iterator[Transport]:
    """One for all of the matrix: no answer may spoil the next one."""
    transport = otlp_transport.build(Otlp(endpoint=http.endpoint))
    yield transport
    transport.close()


@pytest.fixture(scope="module")
def grpc_transport(collector: Receiver) -> Iterator[Transport]:
    transport = otlp_transport.build(Otlp(endpoint=collector.endpoint, protocol="grpc"))
    yield transport
    transport.close()


@pytest.fixture(autouse=True)
def _fresh(http: Receiver, collector: Receiver) -> None:
    for receiver in (http, collector):
        receiver.requests.clear()
        receiver.answers.clear()


# ---------------------------------------------------------------------------------------------------------------- gRPC
def details(*parts: AnyMessage) -> bytes:
    return bytes(Status(code=8, message="slow down", details=parts).SerializeToString())


def packed(message: Any) -> AnyMessage:
    any_message = AnyMessage()
    any_message.Pack(message)
    return any_message


STATUS_DETAILS: dict[str, tuple[bytes | None, float | None]] = {
    "none": (None, None),
    "without RetryInfo": (details(packed(BadRequest())), None),
    "RetryInfo 2.5 s": (details(packed(BadRequest()), packed(RetryInfo(retry_delay=Duration(seconds=2, nanos=500_000_000)))), 2.5),
    "RetryInfo 0": (details(packed(RetryInfo(retry_delay=Duration()))), 0.0),
    "RetryInfo without delay": (details(packed(RetryInfo())), 0.0),
    "RetryInfo negative": (details(packed(RetryInfo(retry_delay=Duration(seconds=-9)))), 0.0),
    "RetryInfo of a year": (details(packed(RetryInfo(retry_delay=Duration(seconds=31536000)))), 3600.0),
    "RetryInfo malformed": (details(AnyMessage(type_url="type.googleapis.com/google.rpc.RetryInfo", value=b"\x0a\x7f")), None),
    "malformed": (b"\xff\xff\xff", None),
}  # fmt: skip
"""What stands in grpc-status-details-bin, and the delay that it asks for."""

RETRIED_CODES = {"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"}


@pytest.mark.parametrize("what", STATUS_DETAILS)
@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_grpc_codes(code: grpc.StatusCode, what: str, collector: Receiver, grpc_transport: Transport) -> None:
    status_details, delay = STATUS_DETAILS[what]
    collector.answers = [Failure(code, "as the test wants it", status_details)]
    outcome = grpc_transport.send(metrics_request(1), SECONDS)
    retried = code.name in RETRIED_CODES or (code.name == "RESOURCE_EXHAUSTED" and delay is not None)
    assert outcome == Outcome(
        "retry" if retried else "refused",
        f"grpc_{code.name.lower()}",
        f"gRPC {code.name}: as the test wants it",
        retry_after_seconds=delay if retried else None,
        status=code.name,
    )
    assert len(collector.requests) == 1


PARTIAL = [
    (b"", 0, ""),
    (partial_success(0, "").SerializeToString(), 0, ""),
    (partial_success(2, "too old").SerializeToString(), 2, "too old"),
    (partial_success(3, "").SerializeToString(), 3, ""),
    (partial_success(0, "be warned").SerializeToString(), 0, "be warned"),
    (partial_success(-5, "").SerializeToString(), 0, ""),
]


@pytest.mark.parametrize(("body", "rejected", "warning"), PARTIAL)
def test_grpc_partial_success(
    body: bytes, rejected: int, warning: str, collector: Receiver, grpc_transport: Transport
) -> None:
    collector.answers = [body]
    outcome = grpc_transport.send(metrics_request(1, 2, 3), SECONDS)
    assert outcome == Outcome("delivered", rejected=rejected, warning=warning, status="OK")
    assert collector.requests[0].values == [1, 2, 3]


# ---------------------------------------------------------------------------------------------------------------- HTTP
RETRY_AFTER: dict[str, str] = {
    "none": "",
    "seconds": "7",
    "zero": "0",
    "date": "a date",
    "past date": "a date",
    "garbage": "a while",
    "negative": "-7",
    "huge": "9" * 300,
}


def expected_delay(what: str, delay: float | None) -> bool:
    if what in ("none", "garbage", "negative"):
        return delay is None
    if what == "date":
        return delay is not None and 300 < delay <= 601
    return delay == {"seconds": 7.0, "zero": 0.0, "past date": 0.0, "huge": 3600.0}[what]


NOT_DELIVERED = [
    300, 301, 302, 303, 304, 305, 307, 308,
    *range(400, 419), 421, 422, 423, 424, 425, 426, 428, 429, 431, 451, 499,
    *range(500, 509), 510, 511, 520, 529, 599,
]  # fmt: skip


@pytest.mark.parametrize("what", RETRY_AFTER)
@pytest.mark.parametrize("status", NOT_DELIVERED)
def test_http_statuses(status: int, what: str, http: Receiver, http_transport: Transport) -> None:
    headers = [("Location", f"{http.endpoint}/elsewhere")] if 300 <= status < 400 else []
    if RETRY_AFTER[what]:
        # Dates as of now: between the collection of all tests and this one many minutes may pass.
        dates = {
            "date": formatdate(time.time() + 600, usegmt=True),
            "past date": formatdate(time.time() - 600, usegmt=True),
        }
        headers.append(("Retry-After", dates.get(what, RETRY_AFTER[what])))
    body = b"" if status == 304 else Status(message="as the test wants it").SerializeToString()
    http.answers = [Answer(status, body, headers=tuple(headers))]
    outcome = http_transport.send(metrics_request(1), SECONDS)
    retried = status in (429, 502, 503, 504)
    assert (outcome.kind, outcome.reason, outcome.status) == (
        "retry" if retried else "refused",
        f"http_{status}",
        str(status),
    )
    assert ("as the test wants it" in outcome.detail) == (status >= 400)
    assert (f"{http.endpoint}/elsewhere" in outcome.detail) == (300 <= status < 400)
    if retried:
        assert expected_delay(what, outcome.retry_after_seconds)
    else:
        assert outcome.retry_after_seconds is None
    assert [request.path for request in http.requests] == ["/v1/metrics"]


@pytest.mark.parametrize(("body", "rejected", "warning"), PARTIAL)
@pytest.mark.parametrize("status", [200, 202])
def test_http_partial_success(
    status: int, body: bytes, rejected: int, warning: str, http: Receiver, http_transport: Transport
) -> None:
    http.answers = [Answer(status, body, headers=(("Retry-After", "5"),))]
    outcome = http_transport.send(metrics_request(1, 2, 3), SECONDS)
    assert outcome == Outcome("delivered", rejected=rejected, warning=warning, status=str(status))
    assert http.requests[0].values == [1, 2, 3]


@pytest.mark.parametrize("status", [201, 203, 204, 205, 206, 208, 226])
def test_other_successes(status: int, http: Receiver, http_transport: Transport) -> None:
    http.answers = [Answer(status)]
    assert http_transport.send(metrics_request(1), SECONDS) == Outcome("delivered", status=str(status))


def test_the_matrix_took_one_connection(http: Receiver, http_transport: Transport) -> None:
    assert http_transport.send(metrics_request(1), SECONDS).kind == "delivered"
    first = http.requests[0].connection
    for _ in range(20):
        assert http_transport.send(metrics_request(1), SECONDS).kind == "delivered"
    assert {request.connection for request in http.requests} == {first}


# ---------------------------------------------------------------------------------------------------------- any signal
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_all_signals_arrive_as_they_were_encoded(
    protocol: Protocol, compression: str, http: Receiver, collector: Receiver
) -> None:
    receiver = collector if protocol == "grpc" else http
    requests = [metrics_request(1, 2, 3), traces_request(), logs_request()]
    headers = {"api-key": "secret"}
    for request in requests:
        outcome = send_once(receiver, protocol, request, compression=compression, headers=headers)
        assert outcome.kind == "delivered"
    for sent, arrived in zip(requests, receiver.requests, strict=True):
        assert arrived.body.SerializeToString() == sent.body
        assert arrived.path == (sent.signal.method if protocol == "grpc" else sent.signal.path)
        assert arrived.headers["api-key"] == "secret"
        assert arrived.headers["user-agent"].startswith(f"OTel-OTLP-Exporter-netmon/{__version__}")
        if protocol != "grpc":
            assert arrived.headers.get("content-encoding", "none") == compression
            assert arrived.headers["content-type"] == "application/x-protobuf"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_rejected_spans_and_records_are_told_as_points_are(
    protocol: Protocol, http: Receiver, collector: Receiver
) -> None:
    spans, records = ExportTraceServiceResponse(), ExportLogsServiceResponse()
    spans.partial_success.rejected_spans = 1
    records.partial_success.rejected_log_records = 1
    for request, response in ((traces_request(), spans), (logs_request(), records)):
        body = response.SerializeToString()
        http.answers, collector.answers = [Answer(body=body)], [body]
        assert send_once(collector if protocol == "grpc" else http, protocol, request).rejected == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_credentials_of_the_endpoint_and_the_users_agent(
    protocol: Protocol, http: Receiver, collector: Receiver
) -> None:
    receiver = collector if protocol == "grpc" else http
    endpoint = receiver.endpoint.replace("://", "://user:p%20w@")
    transport = otlp_transport.build(Otlp(endpoint=endpoint, protocol=protocol, headers={"user-agent": "mine/1"}))
    assert transport.send(metrics_request(1), SECONDS).kind == "delivered"
    transport.close()
    assert receiver.requests[0].headers["authorization"] == "Basic dXNlcjpwIHc="
    assert receiver.requests[0].headers["user-agent"].startswith("mine/1")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_answer_that_is_no_otlp_is_delivered_with_a_warning(
    protocol: Protocol, http: Receiver, collector: Receiver
) -> None:
    http.answers, collector.answers = [Answer(body=b"\xff\xff")], [b"\xff\xff"]
    outcome = send_once(collector if protocol == "grpc" else http, protocol)
    assert outcome.kind == "delivered"
    assert "is the endpoint a receiver of OTLP?" in outcome.warning


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_collector_that_repeats_secrets_is_not_quoted_with_them(
    protocol: Protocol, http: Receiver, collector: Receiver
) -> None:
    said = "not allowed: Bearer s3cret-token, key-of-ours, p%3Aword p:word"
    http.answers = [Answer(401, said.encode(), "text/plain")]
    collector.answers = [Failure(grpc.StatusCode.UNAUTHENTICATED, said)]
    receiver = collector if protocol == "grpc" else http
    headers = {"authorization": "Bearer s3cret-token", "api-key": "key-of-ours"}
    endpoint = receiver.endpoint.replace("://", "://user:p%3Aword@")
    transport = otlp_transport.build(Otlp(endpoint=endpoint, protocol=protocol, headers=headers))
    outcome = transport.send(metrics_request(1), SECONDS)
    transport.close()
    assert outcome.kind == "refused"
    assert outcome.detail.endswith("not allowed: [REDACTED], [REDACTED], [REDACTED] [REDACTED]")


def test_grpc_over_a_unix_socket(tmp_path: Path) -> None:
    with grpc_receiver(address=f"unix:{tmp_path / 'otlp.sock'}") as receiver:
        assert send_once(receiver, "grpc").kind == "delivered"
        assert receiver.requests[0].values == [1, 2, 3]


# ----------------------------------------------------------------------------------------------------- real collectors
@pytest.mark.collector
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ["otelcol", "rotel"])
def test_real_collectors_take_what_was_encoded(name: str, protocol: Protocol, request: pytest.FixtureRequest) -> None:
    collector: Collector = request.getfixturevalue(name)
    endpoint = collector.grpc if protocol == "grpc" else collector.http
    transport = otlp_transport.build(Otlp(endpoint=endpoint, protocol=protocol))
    sent = [1, 2, 2**40]
    for _ in range(3):
        outcome = transport.send(metrics_request(*sent), SECONDS)
        assert outcome == Outcome("delivered", status="OK" if protocol == "grpc" else "200")
    transport.close()
    points = collector.wait_for(lambda points: len(points) >= 9)
    assert sorted(point.value for point in points) == sorted(sent * 3)


@pytest.mark.collector
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_real_collector_that_cannot_read_a_request_refuses_it(protocol: Protocol, otelcol: Collector) -> None:
    endpoint = otelcol.grpc if protocol == "grpc" else otelcol.http
    transport = otlp_transport.build(Otlp(endpoint=endpoint, protocol=protocol))
    outcome = transport.send(Request(Signal.METRICS, b"\xff\xff", 1), SECONDS)
    transport.close()
    assert (outcome.kind, outcome.reason) == ("refused", "grpc_internal" if protocol == "grpc" else "http_400")
    assert len(outcome.detail) > len(f"HTTP 400 Bad Request: {outcome.reason}")


@pytest.mark.collector
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_collector_that_goes_and_comes_back_is_found_at_once(protocol: Protocol, tmp_path: Path) -> None:
    grpc_port, http_port = collectors.free_ports(2)
    port = grpc_port if protocol == "grpc" else http_port
    transport = otlp_transport.build(Otlp(endpoint=f"http://127.0.0.1:{port}", protocol=protocol))
    for _ in range(2):
        assert transport.send(metrics_request(1), SECONDS).kind == "retry"
        with collectors.otelcol(tmp_path, (grpc_port, http_port)):
            assert transport.send(metrics_request(1), SECONDS).kind == "delivered"
    assert transport.send(metrics_request(1), SECONDS).kind == "retry"
    transport.close()

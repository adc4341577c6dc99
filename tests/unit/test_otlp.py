"""The OTLP sink: what it sends, what it counts, how it bears a collector that is absent, slow, wrong or hostile."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.resources import Resource
from structlog.testing import capture_logs

from otel_netmon.config.model import Otlp
from otel_netmon.errors import ConfigError
from otel_netmon.export.otlp import OtlpSink
from otel_netmon.export.otlp_transport import route_stock_logs
from otel_netmon.otel.metrics_data import count_points
from otel_netmon.otel.points import Point, Snapshot
from otel_netmon.selfmon import status
from support.otlp_receiver import Answer, Receiver, grpc_receiver, http_receiver, partial_success, wait_until
from support.snapshots import END, START, every_metric, flows

RESOURCE = Resource({"service.name": "test"})


@pytest.fixture
def http() -> Iterator[Receiver]:
    with http_receiver() as receiver:
        yield receiver


@pytest.fixture
def collector() -> Iterator[Receiver]:
    with grpc_receiver() as receiver:
        yield receiver


class Running:
    """A sink that is shut down at the end; every count must then agree."""

    def __init__(self, **settings: Any) -> None:
        options = {name: settings.pop(name) for name in ("max_points_per_request",) if name in settings}
        self.sink = OtlpSink(Otlp(**settings), RESOURCE, **options)

    def __enter__(self) -> OtlpSink:
        self.sink.start()
        return self.sink

    def __exit__(self, *_: object) -> None:
        self.sink.shutdown(5.0)
        stats = self.sink.stats()
        assert stats["points_pending"] == 0
        assert stats["points_offered"] == stats["points_delivered"] + sum(stats["points_dropped"].values())


def test_http_delivers_every_point_by_value(http: Receiver) -> None:
    with Running(endpoint=http.endpoint, headers={"api-key": "secret"}) as sink:
        sink.offer(flows(100))
        assert sink.flush(5.0)
        stats = sink.stats()
    (request,) = http.requests
    assert request.path == "/v1/metrics"
    assert request.headers["content-type"] == "application/x-protobuf"
    assert request.headers["api-key"] == "secret"
    assert request.values == list(range(1, 101))
    resource = request.body.resource_metrics[0].resource
    assert {pair.key: pair.value.string_value for pair in resource.attributes} == {"service.name": "test"}
    assert (stats["points_delivered"], stats["points_dropped"], stats["requests"]) == (100, {}, 1)
    assert (stats["endpoint"], stats["protocol"]) == (f"{http.endpoint}/v1/metrics", "http/protobuf")
    assert stats["last_error"] is None
    assert stats["last_success_unix_nano"] is not None
    assert abs(time.time_ns() - stats["last_success_unix_nano"]) < 60e9


def test_grpc_delivers_every_point_by_value(collector: Receiver) -> None:
    with Running(endpoint=collector.endpoint, protocol="grpc", headers={"Api-Key": "secret"}) as sink:
        sink.offer(flows(100))
        assert sink.flush(5.0)
        stats = sink.stats()
    (request,) = collector.requests
    assert request.headers["api-key"] == "secret"
    assert request.values == list(range(1, 101))
    assert (stats["points_delivered"], stats["points_dropped"], stats["requests"]) == (100, {}, 1)


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_gzip(protocol: Any, http: Receiver, collector: Receiver) -> None:
    receiver = collector if protocol == "grpc" else http
    with Running(endpoint=receiver.endpoint, protocol=protocol, compression="gzip") as sink:
        sink.offer(flows(10))
        assert sink.flush(5.0)
    assert receiver.requests[0].values == list(range(1, 11))
    if protocol != "grpc":
        assert receiver.requests[0].headers["content-encoding"] == "gzip"


def test_metrics_for_prometheus_only_are_neither_sent_nor_counted(http: Receiver) -> None:
    snapshot = every_metric()
    with Running(endpoint=http.endpoint) as sink:
        sink.offer(snapshot)
        assert sink.flush(5.0)
        assert sink.stats()["points_delivered"] == count_points(snapshot)
    sent = {metric.name for metric in http.requests[0].body.resource_metrics[0].scope_metrics[0].metrics}
    assert sent == {name for name in snapshot.points if not name.startswith("otelcol_")}


def test_a_large_snapshot_goes_out_in_several_requests(http: Receiver) -> None:
    with Running(endpoint=http.endpoint, max_points_per_request=4) as sink:
        sink.offer(flows(10))
        assert sink.flush(5.0)
        assert sink.stats()["requests"] == 3
    assert [request.values for request in http.requests] == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]


def test_one_refused_request_of_several_is_counted_alone(http: Receiver) -> None:
    http.answers = [Answer(), Answer(400), Answer()]
    with Running(endpoint=http.endpoint, max_points_per_request=4) as sink:
        sink.offer(flows(10))
        assert not sink.flush(5.0)
        stats = sink.stats()
    assert (stats["points_delivered"], stats["points_dropped"]) == (6, {"http_400": 4})


@pytest.mark.parametrize(
    ("endpoint", "target"),
    [
        ("{}", "/v1/metrics"),
        ("{}/", "/v1/metrics"),
        ("{}/v1/metrics", "/v1/metrics"),
        ("{}/otlp", "/otlp/v1/metrics"),
    ],
)
def test_the_endpoint_is_a_base_url(http: Receiver, endpoint: str, target: str) -> None:
    with Running(endpoint=endpoint.format(http.endpoint)) as sink:
        sink.offer(flows(1))
        assert sink.flush(5.0)
    assert http.requests[0].path == target


def test_the_endpoint_of_the_signal_is_used_as_it_is(http: Receiver) -> None:
    with Running(endpoint="http://127.0.0.1:1", metrics_endpoint=f"{http.endpoint}/mine") as sink:
        sink.offer(flows(1))
        assert sink.flush(5.0)
    assert http.requests[0].path == "/mine"


def test_stats_show_no_password() -> None:
    stats = OtlpSink(Otlp(endpoint="http://user:secret@127.0.0.1:1/x"), RESOURCE).stats()
    assert "secret" not in stats["endpoint"]
    assert stats["endpoint"].endswith("@127.0.0.1:1/x/v1/metrics")


def test_stats_keep_to_the_status_document() -> None:
    document = status.build(
        uptime_seconds=1.0,
        interval_seconds=10.0,
        probes=[],
        stages={},
        interfaces=[],
        flows={"live": 0, "capacity": 0, "top": []},
        export={"otlp": OtlpSink(Otlp(), RESOURCE).stats()},
    )
    assert status.problems(document) == []


# ---------------------------------------------------------------------------------------------------- what goes wrong
@pytest.mark.parametrize("code", [301, 302, 400, 401, 404, 413, 500])
def test_http_refusals_are_counted_and_not_tried_again(http: Receiver, code: int) -> None:
    http.answers = [Answer(code, headers=(("Location", f"{http.endpoint}/elsewhere"),))]
    with Running(endpoint=http.endpoint) as sink:
        sink.offer(flows(3))
        assert not sink.flush(5.0)
        stats = sink.stats()
    assert stats["points_dropped"] == {f"http_{code}": 3}
    assert stats["last_error"] is not None
    assert stats["last_error"].startswith(f"http_{code}: HTTP {code}")
    assert len(http.requests) == stats["requests"] == 1


def test_http_503_is_tried_again_as_retry_after_says(http: Receiver) -> None:
    http.answers = [
        Answer(503, headers=(("Retry-After", "0"),)),
        Answer(503, headers=(("Retry-After", "0"),)),
        Answer(),
    ]
    with Running(endpoint=http.endpoint) as sink:
        sink.offer(flows(3))
        assert sink.flush(5.0)
        stats = sink.stats()
    assert (stats["points_delivered"], stats["points_dropped"], stats["requests"]) == (3, {}, 3)


def test_grpc_refusals_are_counted_and_not_tried_again(collector: Receiver) -> None:
    collector.answers = [grpc.StatusCode.UNAUTHENTICATED]
    with Running(endpoint=collector.endpoint, protocol="grpc") as sink:
        sink.offer(flows(3))
        assert not sink.flush(5.0)
        stats = sink.stats()
    assert stats["points_dropped"] == {"grpc_unauthenticated": 3}
    assert stats["last_error"] == "grpc_unauthenticated: as the test wants it"
    assert len(collector.requests) == stats["requests"] == 1


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_rejected_points_are_counted_and_told_once(protocol: Any, http: Receiver, collector: Receiver) -> None:
    response = partial_success(2, "too old")
    http.answers, collector.answers = [Answer(body=response.SerializeToString())], [response]
    receiver = collector if protocol == "grpc" else http
    with capture_logs() as logs, Running(endpoint=receiver.endpoint, protocol=protocol) as sink:
        for _ in range(2):
            sink.offer(flows(5))
            assert sink.flush(5.0)
        stats = sink.stats()
    assert (stats["points_delivered"], stats["points_dropped"], stats["requests"]) == (6, {"rejected": 4}, 2)
    events = [entry for entry in logs if entry["event"] != "otlp.transport"]
    assert [(entry["event"], entry["points"], entry["message"]) for entry in events] == [
        ("otlp.rejected", 2, "too old")
    ]


@pytest.mark.parametrize(
    ("answer", "warnings"),
    [
        (Answer(body=b"<html>", content_type="text/html"), []),
        (Answer(body=b"\xff\xff\xff"), ["the collector's response is not OTLP"]),
        (Answer(204), []),
        (Answer(body=partial_success(-5, "").SerializeToString()), []),
        (Answer(body=partial_success(0, "be warned").SerializeToString()), ["be warned"]),
    ],
)
def test_odd_responses_with_success_count_as_delivered(http: Receiver, answer: Answer, warnings: list[str]) -> None:
    http.answers = [answer]
    with capture_logs() as logs, Running(endpoint=http.endpoint) as sink:
        sink.offer(flows(5))
        assert sink.flush(5.0)
        assert sink.stats()["points_delivered"] == 5
    assert [entry["message"] for entry in logs if entry["event"] == "otlp.rejected"] == warnings


def test_a_collector_that_rejects_more_than_it_got_makes_no_negative_count(http: Receiver) -> None:
    http.answers = [Answer(body=partial_success(10**6, "all").SerializeToString())]
    with Running(endpoint=http.endpoint) as sink:
        sink.offer(flows(5))
        assert sink.flush(5.0)
        stats = sink.stats()
    assert (stats["points_delivered"], stats["points_dropped"]) == (0, {"rejected": 5})


def test_a_collector_that_comes_later_gets_what_it_missed_and_the_log_tells_it_once(free_port: int) -> None:
    with capture_logs() as logs, Running(endpoint=f"http://127.0.0.1:{free_port}", timeout_seconds=0.5) as sink:
        for _ in range(2):
            sink.offer(flows(3))
            assert not sink.flush(5.0)
        missed = sink.stats()
        with http_receiver(free_port) as receiver:
            for _ in range(2):
                sink.offer(flows(3))
                assert sink.flush(5.0)
            assert [request.values for request in receiver.requests] == [[1, 2, 3], [1, 2, 3]]
        sink.offer(flows(3))
        assert not sink.flush(5.0)
        stats = sink.stats()
    assert missed["points_dropped"] == {"connection": 6}
    assert missed["last_error"] == "connection: [Errno 111] Connection refused"
    assert (stats["points_delivered"], stats["points_dropped"]) == (6, {"connection": 9})
    events = [entry["event"] for entry in logs if entry["event"] != "otlp.transport"]
    assert events == ["otlp.failing", "otlp.delivering", "otlp.failing"]


def test_an_absent_grpc_collector_is_counted(free_port: int) -> None:
    with Running(endpoint=f"http://127.0.0.1:{free_port}", protocol="grpc", timeout_seconds=0.5) as sink:
        sink.offer(flows(3))
        assert not sink.flush(10.0)
        (reason,) = sink.stats()["points_dropped"]
    assert reason in {"grpc_unavailable", "grpc_deadline_exceeded"}


def test_a_name_that_does_not_exist_and_a_server_without_tls_have_reasons_of_their_own(http: Receiver) -> None:
    cases = {
        "http://does-not-exist.invalid:4318": "name_resolution",
        http.endpoint.replace("http://", "https://"): "tls",
    }
    for endpoint, reason in cases.items():
        with Running(endpoint=endpoint, timeout_seconds=0.5) as sink:
            sink.offer(flows(1))
            assert not sink.flush(20.0)
            assert sink.stats()["points_dropped"] == {reason: 1}


def test_silence_times_out(http: Receiver) -> None:
    silence = threading.Event()
    http.answers = [Answer(wait=silence)]
    with Running(endpoint=http.endpoint, timeout_seconds=0.3) as sink:
        sink.offer(flows(3))
        assert not sink.flush(5.0)
        assert sink.stats()["points_dropped"] == {"timeout": 3}
    silence.set()


def test_offer_never_blocks_and_a_newer_snapshot_replaces_the_waiting_one(http: Receiver) -> None:
    release = threading.Event()
    http.answers = [Answer(wait=release), Answer()]
    with Running(endpoint=http.endpoint) as sink:
        sink.offer(flows(1))
        wait_until(lambda: len(http.requests) == 1)
        started = time.monotonic()
        for count in (2, 3, 4):
            sink.offer(flows(count))
        assert time.monotonic() - started < 1.0
        stats = sink.stats()
        assert (stats["points_dropped"], stats["points_pending"]) == ({"superseded": 5}, 5)
        assert not sink.flush(0.05)
        release.set()
        assert sink.flush(5.0)
        assert sink.stats()["points_delivered"] == 5
    assert [request.values for request in http.requests] == [[1], [1, 2, 3, 4]]


def test_a_snapshot_that_cannot_be_encoded_is_counted_and_the_next_one_is_sent(
    http: Receiver, collector: Receiver
) -> None:
    too_large = Snapshot(END, {"netmon.flow.io": [Point({}, 2**70, START)]})
    for receiver, protocol, reason in ((http, "http/protobuf", "not_sent"), (collector, "grpc", "internal")):
        with capture_logs() as logs, Running(endpoint=receiver.endpoint, protocol=protocol) as sink:
            sink.offer(too_large)
            assert not sink.flush(5.0)
            sink.offer(flows(2))
            assert sink.flush(5.0)
            stats = sink.stats()
        assert (stats["points_delivered"], stats["points_dropped"]) == (2, {reason: 1})
        assert "otlp.failing" in [entry["event"] for entry in logs]


# ------------------------------------------------------------------------------------------------------------ the end
def test_flush_with_nothing_offered_is_true_at_once(http: Receiver) -> None:
    with Running(endpoint=http.endpoint) as sink:
        assert sink.flush(0.0)


def test_shutdown_sends_what_waits(http: Receiver) -> None:
    with Running(endpoint=http.endpoint) as sink:
        sink.offer(flows(3))
    assert [request.values for request in http.requests] == [[1, 2, 3]]


def test_shutdown_keeps_its_deadline_when_the_collector_is_silent(http: Receiver) -> None:
    silence = threading.Event()
    http.answers = [Answer(wait=silence)]
    with Running(endpoint=http.endpoint, timeout_seconds=30.0) as sink:
        sink.offer(flows(3))
        wait_until(lambda: len(http.requests) == 1)
        sink.offer(flows(2))
        started = time.monotonic()
        sink.shutdown(1.0)
        assert time.monotonic() - started < 5.0
        stats = sink.stats()
    assert stats["points_dropped"] == {"shutdown": 5}
    assert not sink.flush(0.0)
    silence.set()


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_shutdown_does_not_wait_for_the_retries_of_an_absent_collector(protocol: Any, free_port: int) -> None:
    with Running(endpoint=f"http://127.0.0.1:{free_port}", protocol=protocol, timeout_seconds=60.0) as sink:
        sink.offer(flows(3))
        wait_until(lambda: sink.stats()["requests"] > 0)
        started = time.monotonic()
        sink.shutdown(1.0)
        assert time.monotonic() - started < 5.0
        assert sum(sink.stats()["points_dropped"].values()) == 3


def test_what_is_offered_after_shutdown_is_counted(http: Receiver) -> None:
    with Running(endpoint=http.endpoint) as sink:
        sink.shutdown(5.0)
        sink.offer(flows(2))
        assert sink.stats()["points_dropped"] == {"shutdown": 2}
    assert http.requests == []


def test_a_sink_that_never_started_accounts_for_its_points() -> None:
    sink = OtlpSink(Otlp(), RESOURCE)
    sink.offer(flows(2))
    sink.shutdown(1.0)
    assert sink.stats()["points_dropped"] == {"shutdown": 2}


# ------------------------------------------------------------------------------------------------------- the settings
def test_settings_that_cannot_work_are_refused_at_once(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text("x")
    for settings, text in (
        (Otlp(endpoint="collector:4318"), "needs a URL"),
        (Otlp(certificate="/nowhere/ca.pem"), "cannot use otlp.certificate /nowhere/ca.pem: No such file"),
        (Otlp(certificate=str(key)), "cannot use otlp.certificate .*: "),
        (Otlp(client_certificate=str(key)), "cannot use otlp.client_certificate .*: "),
        (Otlp(client_key=str(key)), "without otlp.client_certificate"),
    ):
        with pytest.raises(ConfigError, match=text) as caught:
            OtlpSink(settings, RESOURCE)
        assert caught.value.remedy


def test_only_the_chosen_protocol_is_imported() -> None:
    program = (
        "import sys; from opentelemetry.sdk.resources import Resource; from otel_netmon.config.model import Otlp\n"
        "from otel_netmon.export.otlp import OtlpSink\n"
        "sink = OtlpSink(Otlp(), Resource({})); assert 'urllib3' not in sys.modules\n"
        "sink.start(); print(sorted({'grpc', 'requests', 'urllib3', 'prometheus_client'} & sys.modules.keys()))"
    )
    environment = {"PATH": "/usr/bin", "PYTHONPATH": ":".join(path for path in sys.path if path)}
    shown = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True)
    assert shown.stdout == "['urllib3']\n"


def test_a_proxy_of_the_environment_is_used(http: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", http.endpoint)
    with Running(endpoint="http://collector.invalid:4318") as sink:
        sink.offer(flows(1))
        assert sink.flush(5.0)
    assert http.requests[0].path == "http://collector.invalid:4318/v1/metrics"


def test_what_the_stock_exporters_log_is_told_once_a_minute_at_debug() -> None:
    route_stock_logs()
    route_stock_logs()
    stock = logging.getLogger("opentelemetry.exporter.otlp.stock")
    with capture_logs() as logs:
        for attempt in range(3):
            stock.error("attempt %d failed", attempt)
        stock.error("another template")
    assert [(entry["event"], entry["log_level"], entry["message"]) for entry in logs] == [
        ("otlp.transport", "debug", "attempt 0 failed"),
        ("otlp.transport", "debug", "another template"),
    ]
    assert logging.getLogger("opentelemetry.exporter").propagate is False

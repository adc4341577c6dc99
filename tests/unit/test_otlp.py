"""A receiver's sink with its thread, against receivers in this process: it sends, it bears what they do, it ends in time."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from otel_netmon.config.model import Otlp
from otel_netmon.errors import ConfigError
from otel_netmon.export.delivery import Delivery
from otel_netmon.export.otlp import OtlpSink
from otel_netmon.export.otlp_metrics import count_points
from otel_netmon.export.requests import Outcome, Request, Signal
from otel_netmon.export.spool import Spool
from otel_netmon.selfmon import status
from support.delivery import encode_small, events, spans
from support.otlp_receiver import Answer, Receiver, grpc_receiver, http_receiver, partial_success, wait_until
from support.snapshots import END, every_metric, flows

RESOURCE = {"service.name": "test"}


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

    def __init__(
        self, *, spool: Spool | None = None, small: bool = False, seconds: float = 5.0, **settings: Any
    ) -> None:
        self._seconds = seconds
        self._spool = spool
        options: dict[str, Any] = {"encode": encode_small} if small else {}
        self.sink = OtlpSink("default", Otlp(**settings), RESOURCE, spool=spool, draw=lambda: 0.01, **options)

    def __enter__(self) -> OtlpSink:
        self.sink.start()
        return self.sink

    def __exit__(self, *_: object) -> None:
        self.sink.shutdown(self._seconds)
        stats = self.sink.stats()
        assert stats["points_offered"] == (
            stats["points_delivered"] + sum(stats["points_dropped"].values()) + stats["points_pending"]
        )
        for row in (stats["spans"], stats["log_records"]):
            assert row["offered"] == row["delivered"] + sum(row["dropped"].values()) + row["pending"]
            assert row["pending"] == 0 or self._spool is not None
        assert stats["points_pending"] == 0 or self._spool is not None


# ---------------------------------------------------------------------------------------------------- what is sent
def test_http_delivers_every_point_by_value(http: Receiver) -> None:
    with Running(endpoint=http.endpoint, headers={"api-key": "secret"}) as sink:
        sink.offer(flows(100))
        assert sink.flush(5.0)
        stats = sink.stats()
    (request,) = http.requests
    assert request.path == "/v1/metrics"
    assert request.headers["content-type"] == "application/x-protobuf"
    assert request.headers["content-encoding"] == "gzip"
    assert request.headers["api-key"] == "secret"
    assert request.values == list(range(1, 101))
    resource = request.body.resource_metrics[0].resource
    assert {pair.key: pair.value.string_value for pair in resource.attributes} == RESOURCE
    assert (stats["points_delivered"], stats["points_dropped"], stats["requests"]) == (100, {}, 1)
    assert (stats["name"], stats["protocol"], stats["state"]) == ("default", "http/protobuf", "delivering")
    assert stats["endpoint"] == f"{http.endpoint}/v1/metrics"
    assert stats["last_error"] is None
    assert stats["last_success_unix_nano"] is not None
    assert abs(time.time_ns() - stats["last_success_unix_nano"]) < 60e9


def test_grpc_delivers_every_point_by_value(collector: Receiver) -> None:
    with Running(endpoint=collector.endpoint, protocol="grpc", headers={"api-key": "secret"}) as sink:
        sink.offer(flows(100))
        assert sink.flush(5.0)
        stats = sink.stats()
    (request,) = collector.requests
    assert request.headers["api-key"] == "secret"
    assert request.values == list(range(1, 101))
    assert (stats["points_delivered"], stats["points_dropped"], stats["requests"]) == (100, {}, 1)


def test_each_signal_goes_to_its_place_and_is_counted_by_itself(http: Receiver) -> None:
    with Running(endpoint=http.endpoint) as sink:
        sink.offer(flows(3))
        sink.offer_spans(spans(1, 2))
        sink.offer_events(events(7))
        assert sink.flush(5.0)
        stats, stages = sink.stats(), sink.stages()
    assert [request.path for request in http.requests] == [signal.path for signal in Signal]
    assert (stats["points_delivered"], stats["spans"]["delivered"], stats["log_records"]["delivered"]) == (3, 2, 1)
    assert stages == {
        (stage, signal): {"delivered": count, "dropped": {}}
        for signal, count in (("metric_points", 3), ("spans", 2), ("log_records", 1))
        for stage in ("queue", "export")
    }


def test_few_spans_are_gathered_for_a_second(http: Receiver) -> None:
    with Running(endpoint=http.endpoint) as sink:
        for number in range(10):
            sink.offer_spans(spans(number))
        wait_until(lambda: sink.stats()["spans"]["delivered"] == 10)
    assert len(http.requests) == 1


def test_metrics_for_prometheus_only_are_neither_sent_nor_counted(http: Receiver) -> None:
    snapshot = every_metric()
    with Running(endpoint=http.endpoint) as sink:
        sink.offer(snapshot)
        assert sink.flush(5.0)
        assert sink.stats()["points_delivered"] == count_points(snapshot)
    sent = {metric.name for metric in http.requests[0].body.resource_metrics[0].scope_metrics[0].metrics}
    assert sent == {name for name in snapshot.points if not name.startswith("otelcol_")}


def test_one_refused_request_of_several_is_counted_alone(http: Receiver) -> None:
    http.answers = [Answer(), Answer(400), Answer()]
    with Running(endpoint=http.endpoint, small=True) as sink:
        sink.offer(flows(10))
        assert not sink.flush(5.0)
        stats = sink.stats()
        sink.offer(flows(1, time_unix_nano=END + 1))
        assert sink.flush(5.0)
    assert (stats["points_delivered"], stats["points_dropped"]) == (6, {"http_400": 4})
    assert [request.values for request in http.requests[:3]] == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]


def test_stats_show_no_password() -> None:
    sink = OtlpSink("default", Otlp(endpoint="http://user:secret@127.0.0.1:1/x"), RESOURCE)
    assert "secret" not in sink.stats()["endpoint"]
    assert sink.stats()["endpoint"].endswith("@127.0.0.1:1/x/v1/metrics")


def test_stats_keep_to_the_status_document(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", 1 << 20)
    for sink in (OtlpSink("default", Otlp(), RESOURCE), OtlpSink("default", Otlp(), RESOURCE, spool=spool)):
        document = status.build(
            uptime_seconds=1.0,
            interval_seconds=10.0,
            probes=[],
            stages={},
            interfaces=[],
            flows={"live": 0, "capacity": 0, "top": []},
            export={"otlp": sink.stats()},
        )
        assert status.problems(document) == []
        sink.shutdown(1.0)


# ---------------------------------------------------------------------------------------------------- what goes wrong
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_rejected_points_are_counted_and_told_once(protocol: Any, http: Receiver, collector: Receiver) -> None:
    response = partial_success(2, "too old")
    http.answers, collector.answers = [Answer(body=response.SerializeToString())], [response]
    receiver = collector if protocol == "grpc" else http
    with capture_logs() as logs, Running(endpoint=receiver.endpoint, protocol=protocol) as sink:
        for at in range(2):
            sink.offer(flows(5, time_unix_nano=END + at))
            assert sink.flush(5.0)
        stats = sink.stats()
    assert (stats["points_delivered"], stats["points_dropped"], stats["requests"]) == (6, {"rejected": 4}, 2)
    assert [(entry["event"], entry["items"], entry["message"]) for entry in logs] == [("otlp.rejected", 2, "too old")]


def test_what_is_throttled_is_tried_again(http: Receiver) -> None:
    http.answers = [Answer(503, headers=(("Retry-After", "0"),)), Answer(429), Answer()]
    with Running(endpoint=http.endpoint) as sink:
        sink.offer(flows(3))
        assert sink.flush(5.0)
        stats = sink.stats()
    assert (stats["points_delivered"], stats["points_dropped"], stats["requests"]) == (3, {}, 3)
    assert stats["last_error"] == "http_429: HTTP 429 Too Many Requests"


@pytest.mark.parametrize("spooled", [True, False])
def test_a_receiver_that_comes_later_gets_what_it_missed_and_the_log_tells_it_once(
    free_port: int, tmp_path: Path, spooled: bool
) -> None:
    spool = Spool(tmp_path / "spool", 1 << 20) if spooled else None
    endpoint = f"http://127.0.0.1:{free_port}"
    with capture_logs() as logs, Running(spool=spool, endpoint=endpoint, timeout_seconds=0.5) as sink:
        for at in range(3):
            sink.offer(flows(3, time_unix_nano=END + at))
            wait_until(lambda at=at: sink.stats()["requests"] > at)  # type: ignore[misc]
        missed = sink.stats()
        with http_receiver(free_port) as receiver:
            assert sink.flush(20.0)
            assert [request.values for request in receiver.requests] == [[1, 2, 3]] * (3 if spooled else 1)
    assert missed["state"] == "failing"
    assert str(missed["last_error"]).startswith("connection: ")
    stats = sink.stats()
    assert (stats["points_delivered"], stats["points_dropped"]) == ((9, {}) if spooled else (3, {"superseded": 6}))
    told = [entry["event"] for entry in logs if entry["event"].startswith("otlp.")]
    assert told == ["otlp.failing", "otlp.delivering"]


def test_offer_never_blocks_and_a_newer_snapshot_replaces_the_waiting_one(http: Receiver) -> None:
    release = threading.Event()
    http.answers = [Answer(wait=release), Answer()]
    with Running(endpoint=http.endpoint) as sink:
        sink.offer(flows(1))
        wait_until(lambda: len(http.requests) == 1)
        started = time.monotonic()
        for count in (2, 3, 4):
            sink.offer(flows(count, time_unix_nano=END + count))
        assert time.monotonic() - started < 1.0
        stats = sink.stats()
        assert (stats["points_dropped"], stats["points_pending"]) == ({"superseded": 5}, 5)
        assert not sink.flush(0.05)
        release.set()
        assert sink.flush(5.0)
        assert sink.stats()["points_delivered"] == 5
    assert [request.values for request in http.requests] == [[1], [1, 2, 3, 4]]


def test_a_defect_in_the_machine_is_told_and_does_not_end_the_export(
    http: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, calls = Delivery.step, iter([True])

    def fails_once(delivery: Delivery) -> float | None:
        if next(calls, False):
            msg = "a defect"
            raise RuntimeError(msg)
        return step(delivery)

    monkeypatch.setattr(Delivery, "step", fails_once)
    with capture_logs() as logs, Running(endpoint=http.endpoint) as sink:
        sink.offer(flows(1))
        assert sink.flush(20.0)
    assert [entry["event"] for entry in logs] == ["otlp.worker_failed", "otlp.delivering"]


# ------------------------------------------------------------------------------------------------------------ the end
def test_flush_with_nothing_offered_is_true_at_once(http: Receiver) -> None:
    with Running(endpoint=http.endpoint) as sink:
        assert sink.flush(0.0)


def test_shutdown_sends_what_waits(http: Receiver) -> None:
    with Running(endpoint=http.endpoint) as sink:
        sink.offer(flows(3))
        sink.offer_spans(spans(1))
        sink.offer_events(events(1))
        started = time.monotonic()
    assert [request.path for request in http.requests] == [signal.path for signal in Signal]
    assert time.monotonic() - started < 4.0  # nothing was waited for


def test_shutdown_keeps_its_deadline_when_the_receiver_is_silent(http: Receiver) -> None:
    silence = threading.Event()
    http.answers = [Answer(wait=silence)]
    with Running(endpoint=http.endpoint, timeout_seconds=30.0) as sink:
        sink.offer(flows(3))
        wait_until(lambda: len(http.requests) == 1)
        sink.offer(flows(2, time_unix_nano=END + 1))
        started = time.monotonic()
        sink.shutdown(1.0)
        assert time.monotonic() - started < 5.0
        stats = sink.stats()
    assert stats["points_dropped"] == {"shutdown": 5}
    assert not sink.flush(0.0)
    silence.set()


class Deaf:
    """A transport that nothing ends."""

    def __init__(self, _: object) -> None:
        self.began = threading.Event()
        self.release = threading.Event()

    def send(self, _request: Request, _timeout_seconds: float) -> Outcome:
        self.began.set()
        self.release.wait()
        return Outcome("delivered", status="200")

    def close(self) -> None:
        self.release.wait()


def test_shutdown_keeps_its_deadline_even_when_the_transport_does_not() -> None:
    made: list[Deaf] = []

    def transport(settings: object) -> Deaf:
        made.append(Deaf(settings))
        return made[0]

    sink = OtlpSink("default", Otlp(), RESOURCE, transport=transport)
    sink.start()
    sink.offer(flows(3))
    assert made[0].began.wait(20.0)
    started = time.monotonic()
    sink.shutdown(0.5)
    assert time.monotonic() - started < 5.0
    assert sink.stats()["points_dropped"] == {"shutdown": 3}
    made[0].release.set()
    assert sink._thread is not None
    sink._thread.join(20.0)
    assert not sink._thread.is_alive()
    stats = sink.stats()
    assert (stats["points_delivered"], stats["points_dropped"]) == (0, {"shutdown": 3})  # told once, not told anew


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_shutdown_does_not_wait_for_the_retries_of_an_absent_receiver(protocol: Any, free_port: int) -> None:
    with Running(endpoint=f"http://127.0.0.1:{free_port}", protocol=protocol, timeout_seconds=60.0) as sink:
        sink.offer(flows(3))
        wait_until(lambda: sink.stats()["requests"] > 0)
        started = time.monotonic()
        sink.shutdown(1.0)
        assert time.monotonic() - started < 5.0
        assert sink.stats()["points_dropped"] == {"shutdown": 3}


def test_with_a_spool_shutdown_waits_for_nothing_and_what_is_left_comes_next_time(
    free_port: int, tmp_path: Path
) -> None:
    endpoint = f"http://127.0.0.1:{free_port}"
    spool = Spool(tmp_path / "spool", 1 << 20)
    with Running(endpoint=endpoint, spool=spool, seconds=60.0) as sink:
        sink.offer(flows(3))
        sink.offer_spans(spans(1, 2))
        started = time.monotonic()
    assert time.monotonic() - started < 20.0
    stats = sink.stats()
    assert (stats["points_pending"], stats["spans"]["pending"], stats["points_dropped"]) == (3, 2, {})
    assert stats["spool"] is not None
    assert stats["spool"]["records"] == 2
    with (
        http_receiver(free_port) as receiver,
        Running(endpoint=endpoint, spool=Spool(tmp_path / "spool", 1 << 20)) as sink,
    ):
        assert sink.flush(20.0)
        stats = sink.stats()
        assert (stats["points_delivered"], stats["spans"]["delivered"]) == (3, 2)
        assert [request.path for request in receiver.requests] == ["/v1/metrics", "/v1/traces"]
    assert list((tmp_path / "spool").rglob("*.segment")) == []


def test_a_send_under_way_is_ended_in_time_to_write_the_rest_to_the_spool(http: Receiver, tmp_path: Path) -> None:
    silence = threading.Event()
    http.answers = [Answer(wait=silence)]
    spool = Spool(tmp_path / "spool", 1 << 20)
    with Running(endpoint=http.endpoint, spool=spool, timeout_seconds=60.0, seconds=2.0) as sink:
        sink.offer(flows(3))
        wait_until(lambda: len(http.requests) == 1)
        sink.offer(flows(2, time_unix_nano=END + 1))
        sink.offer_spans(spans(1))
    silence.set()
    stats = sink.stats()
    assert stats["points_dropped"] == stats["spans"]["dropped"] == {}
    assert (stats["points_pending"], stats["spans"]["pending"]) == (3 + 2 + 1, 1)  # with the end of the third series
    again = Spool(tmp_path / "spool", 1 << 20)
    assert [again.pending(signal).records for signal in Signal] == [2, 1, 0]
    again.close()


def test_what_is_offered_after_shutdown_is_counted(http: Receiver) -> None:
    with Running(endpoint=http.endpoint) as sink:
        sink.shutdown(5.0)
        sink.offer(flows(2))
        sink.offer_spans(spans(1))
        assert sink.stats()["points_dropped"] == {"shutdown": 2}
        assert sink.stats()["spans"]["dropped"] == {"shutdown": 1}
    assert http.requests == []


def test_a_sink_that_never_started_accounts_for_its_points_and_frees_its_spool(tmp_path: Path) -> None:
    sink = OtlpSink("default", Otlp(), RESOURCE, spool=Spool(tmp_path / "spool", 1 << 20))
    sink.offer(flows(2))
    sink.shutdown(1.0)
    sink.shutdown(1.0)
    assert sink.stats()["points_dropped"] == {"shutdown": 2}
    Spool(tmp_path / "spool", 1 << 20).close()


# ------------------------------------------------------------------------------------------------------- the settings
def test_settings_that_cannot_work_are_refused_at_once(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text("x")
    for settings in (
        Otlp(endpoint="collector:4318"),
        Otlp(endpoint="https://c:4318", certificate="/nowhere/ca.pem"),
        Otlp(endpoint="https://c:4318", client_certificate=str(key)),
    ):
        with pytest.raises(ConfigError) as caught:
            OtlpSink("default", settings, RESOURCE)
        assert caught.value.remedy


def test_the_pipeline_loads_no_library_of_others_to_export() -> None:
    program = (
        "import sys\n"
        "from otel_netmon.config.model import Otlp\n"
        "from otel_netmon.export.otlp import OtlpSink\n"
        "from otel_netmon.export.spool import Spool\n"
        "sink = OtlpSink('default', Otlp(), {}); sink.start(); sink.shutdown(1.0)\n"
        "names = {'grpc', 'requests', 'urllib3', 'prometheus_client', 'opentelemetry', 'google.protobuf'}\n"
        "print(sorted(names & sys.modules.keys()))"
    )
    environment = {"PATH": "/usr/bin", "PYTHONPATH": ":".join(path for path in sys.path if path)}
    shown = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True)
    assert shown.stdout == "[]\n"

"""What an answer means: google's own classes are the oracle of the reader, and no bytes make it raise."""

from __future__ import annotations

import json
import time
from email.utils import formatdate

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from hypothesis import given, settings, strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from otel_netmon.export import otlp_responses
from otel_netmon.export.otlp_responses import MAX_DELAY_SECONDS, MAX_WORDS, PartialSuccess
from otel_netmon.export.redaction import Redactor

NOW = 1_763_000_000.0
PROTOBUF = {"content-type": "application/x-protobuf"}
any_text = st.text(st.characters(codec="utf-8"), max_size=40)
int64 = st.integers(-(2**63), 2**63 - 1)


def status(*details: AnyMessage, message: str = "", code: int = 8) -> bytes:
    return bytes(Status(code=code, message=message, details=details).SerializeToString())


def retry_info(seconds: int = 0, nanos: int = 0) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(RetryInfo(retry_delay=Duration(seconds=seconds, nanos=nanos)))
    return packed


# ------------------------------------------------------------------------------------------------------------ reading
@given(int64, any_text)
def test_partial_success_of_all_three_signals_is_read_alike(rejected: int, message: str) -> None:
    metrics, traces, logs = ExportMetricsServiceResponse(), ExportTraceServiceResponse(), ExportLogsServiceResponse()
    metrics.partial_success.rejected_data_points = rejected
    traces.partial_success.rejected_spans = rejected
    logs.partial_success.rejected_log_records = rejected
    for response in (metrics, traces, logs):
        response.partial_success.error_message = message
        read = otlp_responses.partial_success(response.SerializeToString())
        assert read == PartialSuccess(max(0, rejected), message)


def test_partial_success_twice_is_merged_and_unknown_fields_are_stepped_over() -> None:
    one, two = ExportMetricsServiceResponse(), ExportMetricsServiceResponse()
    one.partial_success.rejected_data_points = 7
    two.partial_success.error_message = "why"
    group_and_fixed = b"\x13\x18\x05\x14" + b"\x31" + bytes(8) + b"\x2d" + bytes(4) + b"\x38\x01"
    body = one.SerializeToString() + group_and_fixed + two.SerializeToString()
    expected = ExportMetricsServiceResponse.FromString(body).partial_success
    assert (expected.rejected_data_points, expected.error_message) == (7, "why")
    assert otlp_responses.partial_success(body) == PartialSuccess(7, "why")


@given(
    st.integers(-(2**31), 2**31 - 1), any_text, st.lists(st.tuples(int64, st.integers(-(2**31), 2**31 - 1)), max_size=3)
)
def test_status_is_read_as_googles_classes_read_it(code: int, message: str, delays: list[tuple[int, int]]) -> None:
    other = AnyMessage()
    other.Pack(BadRequest())
    body = status(other, *(retry_info(*delay) for delay in delays), message=message, code=code)
    read = otlp_responses.rpc_status(body)
    assert read is not None
    assert read.message == message
    if not delays:
        assert read.retry_delay is None
    else:
        seconds, nanos = delays[0]
        assert read.retry_delay == pytest.approx(min(max(0.0, seconds + nanos * 1e-9), MAX_DELAY_SECONDS))


def test_a_retry_info_without_a_delay_counts_and_a_damaged_one_does_not() -> None:
    empty = AnyMessage(type_url="type.googleapis.com/google.rpc.RetryInfo")
    damaged = AnyMessage(type_url="type.googleapis.com/google.rpc.RetryInfo", value=b"\x0a\xff")
    lookalike = AnyMessage(type_url="type.googleapis.com/google.rpc.NoRetryInfo", value=b"\x0a\x02\x08\x05")
    for detail, delay in ((empty, 0.0), (damaged, None), (lookalike, None)):
        read = otlp_responses.rpc_status(status(detail))
        assert read is not None
        assert read.retry_delay == delay


@settings(max_examples=500)
@given(st.binary(max_size=64))
def test_any_bytes_are_read_or_malformed_and_what_google_reads_is_read(body: bytes) -> None:
    ours = otlp_responses.partial_success(body)
    otlp_responses.rpc_status(body)
    try:
        theirs = ExportMetricsServiceResponse.FromString(body).partial_success
    except DecodeError:
        return
    assert ours == PartialSuccess(max(0, theirs.rejected_data_points), theirs.error_message)


@given(st.data())
def test_every_cut_and_every_changed_byte_is_read_or_malformed(data: st.DataObject) -> None:
    body = bytearray(status(retry_info(5, 1), message="text"))
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    otlp_responses.rpc_status(bytes(body[: data.draw(st.integers(0, len(body)))]))


@pytest.mark.parametrize(
    "body",
    [b"\x08", b"\x0a\x05ab", b"\x00\x01", b"\x0c", b"\x0b\x08\x01", b"\x0b\x14", b"\xff" * 11, b"\x09abc", b"\x0e\x00"],
    ids=[
        "no value",
        "short",
        "field 0",
        "end of no group",
        "open group",
        "other end",
        "endless",
        "short fixed",
        "type 6",
    ],
)
def test_malformed_messages_are_told(body: bytes) -> None:
    assert otlp_responses.partial_success(body) is None
    assert otlp_responses.rpc_status(body) is None


# ---------------------------------------------------------------------------------------------------------- any answer
header_values = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["application/x-protobuf", "application/json", "text/html; charset=x", "-1", "99999999999999999999"]
    ),
)


@settings(max_examples=300)
@given(
    st.integers(100, 599),
    st.text(max_size=20),
    st.dictionaries(st.sampled_from(["content-type", "retry-after", "date", "location"]), header_values),
    st.one_of(st.none(), st.binary(max_size=80), st.sampled_from([b"[" * 5000, b'{"partialSuccess": 5}', b"{}"])),
)
def test_any_http_answer_has_an_outcome(code: int, phrase: str, headers: dict[str, str], body: bytes | None) -> None:
    outcome = otlp_responses.of_http(code, phrase, headers, body, now=NOW)
    expected = "delivered" if 200 <= code < 300 else "retry" if code in (429, 502, 503, 504) else "refused"
    assert outcome.kind == expected
    assert outcome.reason == ("" if expected == "delivered" else f"http_{code}")
    assert len(outcome.detail) < 3 * MAX_WORDS
    assert outcome.detail.isprintable()
    assert outcome.warning.isprintable()
    assert outcome.retry_after_seconds is None or 0 <= outcome.retry_after_seconds <= MAX_DELAY_SECONDS


@settings(max_examples=300)
@given(st.sampled_from(["UNAVAILABLE", "RESOURCE_EXHAUSTED", "INTERNAL"]), st.text(), st.binary(max_size=60))
def test_any_grpc_failure_has_an_outcome(code: str, details: str, status_details: bytes) -> None:
    outcome = otlp_responses.of_grpc_failure(code, details, status_details)
    assert outcome.kind == ("retry" if code == "UNAVAILABLE" or outcome.retry_after_seconds is not None else "refused")
    assert outcome.detail.isprintable()


# --------------------------------------------------------------------------------------------------------------- HTTP
@pytest.mark.parametrize(
    ("headers", "body", "rejected", "warning"),
    [
        ({}, b"", 0, ""),
        (PROTOBUF, b"", 0, ""),
        ({"content-type": "application/x-protobuf; charset=utf-8"}, b"\x0a\x04\x08\x03\x12\x00", 3, ""),
        ({"content-type": "application/json"}, b"{}", 0, ""),
        (
            {"content-type": "application/json"},
            b'{"partialSuccess": {"rejectedSpans": "2", "errorMessage": "old"}}',
            2,
            "old",
        ),
        ({"content-type": "application/json"}, b'{"partialSuccess": {"rejectedDataPoints": -2}}', 0, ""),
        (PROTOBUF, b"\xff", 0, "HTTP 200, but the answer is not OTLP (application/x-protobuf)"),
        ({"content-type": "text/html"}, b"<html>", 0, "HTTP 200, but the answer is not OTLP (text/html)"),
        ({}, b"ok", 0, "HTTP 200, but the answer is not OTLP (something of no content type)"),
        ({"content-type": "application/json"}, b"[]", 0, "HTTP 200, but the answer is not OTLP (application/json)"),
        (PROTOBUF, None, 0, "the collector took the request, but its answer was cut short"),
    ],
)
def test_200_is_delivered_whatever_the_body_says(
    headers: dict[str, str], body: bytes | None, rejected: int, warning: str
) -> None:
    outcome = otlp_responses.of_http(200, "OK", headers, body, now=NOW)
    assert (outcome.kind, outcome.rejected, outcome.status) == ("delivered", rejected, "200")
    assert outcome.warning.startswith(warning)
    assert bool(outcome.warning) == bool(warning)


@pytest.mark.parametrize(
    ("content_type", "body", "words"),
    [
        ("application/x-protobuf", status(message="too old"), "too old"),
        ("application/x-protobuf", b"<html>", "(not a google.rpc.Status)"),
        ("application/json", b'{"code": 3, "message": "too old"}', "too old"),
        ("application/json", b'{"error": 1}', '{"error": 1}'),
        ("application/json", b"[" * 100_000, "[" * (MAX_WORDS - 3) + "..."),
        ("text/plain; charset=utf-8", b"a\r\n\x1b[31mred\xff", "a [31mred\ufffd"),
        ("text/plain", b"x" * 10_000, "x" * (MAX_WORDS - 3) + "..."),
        ("text/plain", "\u202eevil\u2066\u2028\x9b".encode(), "evil"),
    ],
)
def test_the_words_of_an_error_are_told_on_one_bounded_line(content_type: str, body: bytes, words: str) -> None:
    outcome = otlp_responses.of_http(400, "Bad Request", {"content-type": content_type}, body, now=NOW)
    assert outcome.detail == f"HTTP 400 Bad Request: {words}"


def test_an_error_without_words_and_one_cut_short() -> None:
    assert otlp_responses.of_http(413, "", {}, b"", now=NOW).detail == "HTTP 413"
    assert otlp_responses.of_http(503, "No", {}, None, now=NOW).detail == "HTTP 503 No: (the body was cut short)"


def test_a_redirect_tells_where_it_leads_without_what_lets_somebody_in() -> None:
    headers = {"location": "https://user:secret@login.example/x?token=secret#secret"}
    outcome = otlp_responses.of_http(302, "Found", headers, b"secret", now=NOW)
    assert (outcome.kind, outcome.reason) == ("refused", "http_302")
    assert outcome.detail == "HTTP 302 Found: redirects are not followed; this one leads to https://login.example/x"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        (" 120 ", 120.0),
        ("9" * 5000, MAX_DELAY_SECONDS),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("1, 2", None),
        ("\u0663", None),
        (formatdate(NOW + 30, usegmt=True), 30.0),
        (formatdate(NOW - 30, usegmt=True), 0.0),
        (formatdate(NOW + 1e6, usegmt=True), MAX_DELAY_SECONDS),
        (time.strftime("%A, %d-%b-%y %H:%M:%S GMT", time.gmtime(NOW + 30)), 30.0),
        (time.asctime(time.gmtime(NOW + 30)), 30.0),
        ("Sun, 99 Nov 2025 99:99:99 GMT", None),
        ("Sun, 06 Nov 99999999999 08:49:37 GMT", None),
        ("Sun, 06 Nov 2025 08:49:37 +9999999999", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert otlp_responses.retry_after({"retry-after": value}, NOW) == seconds
    for code in (429, 502, 503, 504):
        headers = {"retry-after": value}
        assert otlp_responses.of_http(code, "", headers, b"", now=NOW).retry_after_seconds == seconds
    assert otlp_responses.of_http(500, "", {"retry-after": value}, b"", now=NOW).retry_after_seconds is None


def test_a_retry_date_counts_from_the_collectors_clock_where_it_tells_it() -> None:
    headers = {"retry-after": formatdate(NOW + 7210, usegmt=True), "date": formatdate(NOW + 7200, usegmt=True)}
    assert otlp_responses.retry_after(headers, NOW) == 10.0


def test_the_json_of_a_partial_success_needs_no_more_than_json() -> None:
    for inner in (None, {}, {"rejectedLogRecords": True, "errorMessage": 5}, {"rejectedLogRecords": "9" * 400}):
        body = json.dumps({"partialSuccess": inner}).encode()
        outcome = otlp_responses.of_http(200, "", {"content-type": "application/json"}, body, now=NOW)
        assert (outcome.kind, outcome.rejected, outcome.warning) == ("delivered", 0, "")


# ------------------------------------------------------------------------------------------------------------- secrets
def test_a_collector_that_repeats_the_key_does_not_get_it_into_the_log() -> None:
    redact = Redactor(["Bearer s3cret-token", "tenant", "1", "", "s3cret"])
    said = "invalid token s3cret-token of tenant 1 (Bearer s3cret-token)"
    for outcome in (
        otlp_responses.of_http(401, said, {}, said.encode(), now=NOW, conceal=redact),
        otlp_responses.of_http(302, "", {"location": f"http://x/{said}"}, b"", now=NOW, conceal=redact),
        otlp_responses.of_grpc_failure("UNAUTHENTICATED", said, b"", redact),
        otlp_responses.of_grpc_success(b"\x0a\x42\x12\x40" + f"{said:64.64}".encode(), redact),
    ):
        assert "s3cret" not in outcome.detail + outcome.warning
        assert "[REDACTED]" in outcome.detail + outcome.warning
    assert redact("tenant 1") == "[REDACTED] 1"
    assert Redactor([])("text") == "text"


def test_a_key_at_the_end_of_what_is_told_is_not_cut_in_two() -> None:
    redact = Redactor(["abcdefghij"])
    text = "x" * (MAX_WORDS - 5) + "abcdefghij"
    assert "abc" not in otlp_responses.words(text, redact)

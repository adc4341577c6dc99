"""What a collector's answer means: bytes in, an ``Outcome`` out. Pure; whatever the bytes are, nothing is raised.

OTLP specification 1.10, "OTLP/gRPC Response" and "OTLP/HTTP Response"; google/rpc/status.proto, google/rpc/error_details.proto.

The status is the verdict and the body only adds words to it. So an answer of which the head arrived counts, also when its body is
cut short or is nothing that OTLP knows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from otel_netmon.export.requests import Outcome

MAX_ANSWER_BYTES: Final = 4 << 20
"""Of an answer's body, decompressed; more is an error that is not retried ("OTLP/HTTP Response")."""
MAX_REQUEST_BYTES: Final = 64 << 20
"""Of a request before compression; a larger one is not sent ("OTLP/HTTP Request")."""
MAX_WORDS: Final = 400
"""Characters of somebody else's text in ``detail`` and ``warning``."""
MAX_DELAY_SECONDS: Final = 3600.0
"""Longest wait that a collector's word is taken for: a slip of a digit must not silence an agent for a year."""

RETRYABLE_HTTP: Final = frozenset({429, 502, 503, 504})
RETRYABLE_GRPC: Final = frozenset(
    {"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"}
)
"""RESOURCE_EXHAUSTED is the one more: with RetryInfo it is retried."""

Conceal = Callable[[str], str]
"""Takes secrets out of a text."""


# ---------------------------------------------------------------------------------------------------- protocol buffers
class _MalformedError(Exception):
    """Not a protocol buffers message."""


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        if at >= len(data):
            raise _MalformedError
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, at
        shift += 7
    raise _MalformedError


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of every varint and length-delimited field outside of groups; other types are stepped over.

    Raises:
        _MalformedError: the bytes end within a field, or a tag is none.
    """
    at = 0
    groups: list[int] = []
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if number == 0 or tag >= 1 << 32:
            raise _MalformedError
        value: int | bytes | None = None
        if kind == 0:
            value, at = _varint(data, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        elif kind == 2:
            length, at = _varint(data, at)
            value, at = data[at : at + length], at + length
        elif kind == 3:
            groups.append(number)
        elif kind != 4 or not groups or groups.pop() != number:
            raise _MalformedError
        if at > len(data):
            raise _MalformedError
        if value is not None and not groups:
            yield number, value
    if groups:
        raise _MalformedError


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


@dataclass(frozen=True, slots=True)
class PartialSuccess:
    """The ``partial_success`` of an Export…ServiceResponse; the three signals number its fields alike.

    Attributes:
        rejected: items refused for good; never negative.
        message: the collector's words, as it sent them.
    """

    rejected: int = 0
    message: str = ""


def partial_success(body: bytes) -> PartialSuccess | None:
    """Read an Export…ServiceResponse; None where the bytes are none."""
    try:
        # A field that occurs twice is merged, which is what parsing the bytes one after the other does.
        inner = b"".join(value for number, value in _fields(body) if number == 1 and isinstance(value, bytes))
        rejected, message = 0, b""
        for number, value in _fields(inner):
            if number == 1 and isinstance(value, int):
                rejected = _signed(value)
            elif number == 2 and isinstance(value, bytes):
                message = value
    except _MalformedError:
        return None
    return PartialSuccess(max(0, rejected), message.decode(errors="replace"))


@dataclass(frozen=True, slots=True)
class RpcStatus:
    """A google.rpc.Status.

    Attributes:
        message: for developers, as it was sent.
        retry_delay: seconds of its RetryInfo, 0 where that names none; None without a RetryInfo.
    """

    message: str = ""
    retry_delay: float | None = None


def rpc_status(body: bytes) -> RpcStatus | None:
    """Read a google.rpc.Status; None where the bytes are none. A RetryInfo that is damaged counts as absent."""
    message = b""
    delay: float | None = None
    try:
        for number, value in _fields(body):
            if number == 2 and isinstance(value, bytes):
                message = value
            elif number == 3 and isinstance(value, bytes) and delay is None:
                delay = _retry_delay(value)
    except _MalformedError:
        return None
    return RpcStatus(message.decode(errors="replace"), delay)


def _retry_delay(any_message: bytes) -> float | None:
    """Seconds of a google.protobuf.Any that holds a google.rpc.RetryInfo; None where it does not."""
    url = value = b""
    try:
        for number, field in _fields(any_message):
            if number == 1 and isinstance(field, bytes):
                url = field
            elif number == 2 and isinstance(field, bytes):
                value = field
        if url.rpartition(b"/")[2] != b"google.rpc.RetryInfo":
            return None
        duration = b"".join(part for number, part in _fields(value) if number == 1 and isinstance(part, bytes))
        parts = {1: 0, 2: 0}
        for number, field in _fields(duration):
            if number in parts and isinstance(field, int):
                parts[number] = _signed(field)
    except _MalformedError:
        return None
    return _bounded_delay(parts[1] + parts[2] * 1e-9)


def _bounded_delay(seconds: float) -> float:
    return min(max(0.0, seconds), MAX_DELAY_SECONDS)


# ------------------------------------------------------------------------------------------------------------- words
def words(text: str | bytes, conceal: Conceal = str) -> str:
    """Somebody else's text for a log line: without secrets, on one line, nothing that draws on a terminal, at most ``MAX_WORDS``."""
    text = text[: 16 * MAX_WORDS]
    plain = text if isinstance(text, str) else text.decode(errors="replace")
    plain = " ".join("".join(char if char.isprintable() else " " for char in conceal(plain)).split())
    return plain if len(plain) <= MAX_WORDS else plain[: MAX_WORDS - 3] + "..."


def _media_type(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


_PROTOBUF = ("application/x-protobuf", "application/protobuf")


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _error_words(headers: Mapping[str, str], body: bytes, conceal: Conceal) -> str:
    """What the body of an error says: google.rpc.Status, the same as JSON, or a text."""
    kind = _media_type(headers)
    if kind in _PROTOBUF:
        status = rpc_status(body)
        return words(status.message, conceal) if status is not None else "(not a google.rpc.Status)"
    if kind == "application/json" and (document := _json_object(body)) is not None:
        message = document.get("message")
        if isinstance(message, str):
            return words(message, conceal)
    return words(body, conceal)


def _json_partial_success(body: bytes) -> PartialSuccess | None:
    """The JSON mapping: names in lowerCamelCase, 64-bit integers as text or number."""
    document = _json_object(body)
    if document is None:
        return None
    inner = document.get("partialSuccess")
    if inner is None:
        return PartialSuccess()
    if not isinstance(inner, dict):
        return None
    rejected = 0
    for name in ("rejectedDataPoints", "rejectedSpans", "rejectedLogRecords"):
        value = str(inner.get(name, 0))
        if re.fullmatch(r"[0-9]{1,19}", value, re.ASCII):
            rejected = max(rejected, int(value))
    message = inner.get("errorMessage", "")
    return PartialSuccess(rejected, message if isinstance(message, str) else "")


# -------------------------------------------------------------------------------------------------------------- HTTP
def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds of a Retry-After header (RFC 9110, section 10.2.3); None where it says nothing that can be understood.

    Args:
        headers: of the answer, names in lower case. A date is taken relative to the answer's own ``date``, so that a clock
            that differs from the collector's does not change the wait.
        now: Unix time in seconds, for an answer without a date.
    """
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]+", text, re.ASCII):
        return _bounded_delay(float(text[:20]))
    until = _http_date(text)
    if until is None:
        return None
    sent = _http_date(headers.get("date", ""))
    return _bounded_delay(until - (now if sent is None else sent))


def _http_date(text: str) -> float | None:
    if not text or len(text) > 64:
        return None
    from datetime import UTC
    from email.utils import parsedate_to_datetime  # 0.4 MB for something that hardly ever comes

    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):
        return None


def of_http(
    status: int, phrase: str, headers: Mapping[str, str], body: bytes | None, *, now: float, conceal: Conceal = str
) -> Outcome:
    """The outcome of an HTTP answer.

    Args:
        status: 100 to 599.
        phrase: the reason phrase, if any.
        headers: names in lower case.
        body: decompressed; None where it is cut short or cannot be decompressed.
        now: Unix time in seconds.
        conceal: takes secrets out of the collector's words.
    """
    if 200 <= status < 300:
        return _http_success(status, headers, body, conceal)
    line = f"HTTP {status} {words(phrase, conceal)}".rstrip()
    reason = f"http_{status}"
    if 300 <= status < 400 and "location" in headers:
        # Without user information and query: both may carry what lets somebody in.
        where = re.sub(r"//[^/?#]*@", "//", re.split(r"[?#]", headers["location"], maxsplit=1)[0])
        detail = f"{line}: redirects are not followed; this one leads to {words(where, conceal)}"
        return Outcome("refused", reason, detail, status=str(status))
    said = "(the body was cut short)" if body is None else _error_words(headers, body, conceal)
    detail = f"{line}: {said}" if said else line
    if status not in RETRYABLE_HTTP:
        return Outcome("refused", reason, detail, status=str(status))
    return Outcome("retry", reason, detail, retry_after_seconds=retry_after(headers, now), status=str(status))


def _http_success(status: int, headers: Mapping[str, str], body: bytes | None, conceal: Conceal) -> Outcome:
    kind = _media_type(headers)
    partial: PartialSuccess | None = PartialSuccess()
    if body is None:
        warning = (
            "the collector took the request, but its answer was cut short: whether it rejected a part is not known"
        )
        return Outcome("delivered", warning=warning, status=str(status))
    if body:
        json_body = kind == "application/json"
        partial = _json_partial_success(body) if json_body else partial_success(body) if kind in _PROTOBUF else None
    if partial is None:
        sent = words(kind, conceal) or "something of no content type"
        warning = f"HTTP {status}, but the answer is not OTLP ({sent}): is the endpoint a receiver of OTLP?"
        return Outcome("delivered", warning=warning, status=str(status))
    return Outcome("delivered", rejected=partial.rejected, warning=words(partial.message, conceal), status=str(status))


# -------------------------------------------------------------------------------------------------------------- gRPC
def of_grpc_success(body: bytes, conceal: Conceal = str) -> Outcome:
    """The outcome of a gRPC call that ended with OK."""
    partial = partial_success(body)
    if partial is None:
        warning = "OK, but the answer is not OTLP: is the endpoint a receiver of OTLP?"
        return Outcome("delivered", warning=warning, status="OK")
    return Outcome("delivered", rejected=partial.rejected, warning=words(partial.message, conceal), status="OK")


def of_grpc_failure(code: str, details: str, status_details: bytes, conceal: Conceal = str) -> Outcome:
    """The outcome of a gRPC call that failed.

    Args:
        code: the name of the status code.
        details: the status message.
        status_details: the value of the trailer ``grpc-status-details-bin``, empty without one.
        conceal: takes secrets out of the collector's words.
    """
    status = rpc_status(status_details)
    delay = status.retry_delay if status is not None else None
    said = words(details, conceal)
    detail = f"gRPC {code}: {said}" if said else f"gRPC {code}"
    reason = f"grpc_{code.lower()}"
    if code in RETRYABLE_GRPC or (code == "RESOURCE_EXHAUSTED" and delay is not None):
        return Outcome("retry", reason, detail, retry_after_seconds=delay, status=code)
    return Outcome("refused", reason, detail, status=code)


def too_large(what: str, limit: int, status: str = "") -> Outcome:
    """An answer or a request beyond its limit; ``what`` is ``response`` or ``request``. Neither is tried again."""
    detail = f"the {what} is larger than {limit >> 20} MiB"
    return Outcome("refused", f"{what}_too_large", detail, status=status)

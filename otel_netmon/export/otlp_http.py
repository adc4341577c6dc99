"""OTLP over HTTP: the stock exporter on the stock urllib3 transport, observed.

urllib3 and not requests, the exporter's default: it is 4 MB smaller. requests is used where the environment names a proxy, which
urllib3 alone does not read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from google.protobuf.message import DecodeError
from opentelemetry.exporter.http.transport._base import BaseHTTPResult, BaseHTTPTransport
from opentelemetry.exporter.http.transport._requests import RequestsHTTPTransport
from opentelemetry.exporter.http.transport._urllib3 import Urllib3HTTPTransport
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.sdk.metrics.export import MetricExporter

from otel_netmon.config.model import Otlp
from otel_netmon.export.otlp_transport import Observer

_PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")

_REASONS = {
    "NameResolutionError": "name_resolution",
    "ConnectTimeoutError": "timeout",
    "ReadTimeoutError": "timeout",
    "ConnectTimeout": "timeout",
    "ReadTimeout": "timeout",
    "SSLError": "tls",
    "ProxyError": "proxy",
}
"""Class names of urllib3 and requests to reasons; everything else is ``connection``."""


def build(settings: Otlp, target: str, observer: Observer) -> MetricExporter:
    """The exporter. ``settings`` has what the OTEL_EXPORTER_OTLP_* variables say; all of it is handed over, nothing left open."""
    cert: str | tuple[str, str] | None = settings.client_certificate
    if settings.client_certificate and settings.client_key:
        cert = (settings.client_certificate, settings.client_key)
    stock = RequestsHTTPTransport if any(map(os.environ.get, _PROXY_VARIABLES)) else Urllib3HTTPTransport
    return OTLPMetricExporter(
        endpoint=target,
        headers=settings.headers,
        timeout=settings.timeout_seconds,
        compression=Compression(settings.compression),
        _transport=_ObservedTransport(stock(verify=settings.certificate or True, cert=cert), observer),
    )


class _ObservedTransport(BaseHTTPTransport):
    """Passes requests to the stock transport and tells the observer what came back."""

    def __init__(self, inner: BaseHTTPTransport, observer: Observer) -> None:
        self._inner = inner
        self._observer = observer

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        timeout: float | None = None,
        data: bytes | None = None,
    ) -> BaseHTTPResult:
        result = self._inner.request(method, url, headers=headers, timeout=timeout, data=data)
        if result.error is not None:
            self._observer.failed(*_explain(result.error))
        elif result.status_code is None or not 200 <= result.status_code < 300:
            # 3xx too, which the stock exporter takes for a success: redirects are not followed, nothing was delivered.
            self._observer.failed(
                f"http_{result.status_code}", f"HTTP {result.status_code} {result.reason or ''}".rstrip()
            )
        else:
            self._observer.succeeded(_response(result))
        return result

    def is_connection_error(self, exception: Exception | None) -> bool:
        return self._inner.is_connection_error(exception)

    def close(self) -> None:
        self._inner.close()


def _response(result: BaseHTTPResult) -> ExportMetricsServiceResponse:
    """The collector's answer; an empty one where it sent something else with its 2xx, which many backends do."""
    response = ExportMetricsServiceResponse()
    if result.headers().get("content-type", "").startswith("application/x-protobuf"):
        try:
            response.ParseFromString(result.content())
        except DecodeError:
            response.Clear()
            response.partial_success.error_message = "the collector's response is not OTLP"
    return response


def _explain(error: BaseException) -> tuple[str, str]:
    """Reason and detail of a request that got no response: the outermost error that has a name of ours, the innermost's words."""
    reason = "connection"
    innermost = error
    for innermost in _chain(error):
        reason = _REASONS.get(type(innermost).__name__, reason) if reason == "connection" else reason
    return reason, str(innermost) or type(innermost).__name__


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it wraps: urllib3 keeps it in ``reason``, requests in ``args``, Python in ``__cause__``."""
    while error is not None:
        yield error
        wrapped = getattr(error, "reason", None)
        if not isinstance(wrapped, BaseException):
            wrapped = next((each for each in error.args if isinstance(each, BaseException)), None)
        error = wrapped or error.__cause__

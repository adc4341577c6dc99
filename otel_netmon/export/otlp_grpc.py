"""OTLP over gRPC: the stock exporter, observed. Importing this module costs some 15 MB, so only who speaks gRPC does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# gRPC's core writes to standard error on its own, past every logging configuration; what matters comes back as a status.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.sdk.metrics.export import MetricExporter

from otel_netmon.config import checks
from otel_netmon.config.model import Otlp
from otel_netmon.export.otlp_transport import Observer

_COMPRESSION = {"none": grpc.Compression.NoCompression, "gzip": grpc.Compression.Gzip}


def build(settings: Otlp, target: str, observer: Observer) -> MetricExporter:
    """The exporter. ``settings`` has what the OTEL_EXPORTER_OTLP_* variables say; all of it is handed over, nothing left open."""
    insecure = target.lower().startswith("http://") if checks.has_scheme(target) else settings.insecure
    return _ObservedExporter(
        observer,
        endpoint=target,
        insecure=insecure,
        credentials=None if insecure else _credentials(settings),
        headers={name.lower(): value for name, value in settings.headers.items()},
        timeout=settings.timeout_seconds,
        compression=_COMPRESSION[settings.compression],
    )


def _credentials(settings: Otlp) -> grpc.ChannelCredentials:
    """Read here because the stock exporter takes a client certificate only together with a CA of its own."""
    root, chain, key = (
        Path(path).read_bytes() if path else None
        for path in (settings.certificate, settings.client_certificate, settings.client_key)
    )
    return grpc.ssl_channel_credentials(root_certificates=root, private_key=key, certificate_chain=chain)


class _ObservedExporter(OTLPMetricExporter):
    """The stock exporter with the stub wrapped each time it makes one, which it does anew when a channel is lost."""

    def __init__(self, observer: Observer, **arguments: Any) -> None:
        self._observer = observer
        super().__init__(**arguments)

    def _initialize_channel_and_stub(self) -> None:
        super()._initialize_channel_and_stub()  # type: ignore[no-untyped-call]
        self._client: Any = _ObservedStub(self._client, self._observer)


class _ObservedStub:
    """Calls the collector and tells the observer what came back."""

    def __init__(self, inner: Any, observer: Observer) -> None:
        self._inner = inner
        self._observer = observer

    def Export(self, request: ExportMetricsServiceRequest, **options: Any) -> ExportMetricsServiceResponse:  # noqa: N802 - the service's name
        try:
            response: ExportMetricsServiceResponse = self._inner.Export(request=request, **options)
        except grpc.RpcError as error:
            self._observer.failed(f"grpc_{error.code().name.lower()}", error.details() or error.code().name)
            raise
        self._observer.succeeded(response)
        return response

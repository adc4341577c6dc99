"""What both OTLP transports share: the target, and what was seen of each request.

The stock exporters decide how to send, retry and give up. They say only whether it worked in the end; why it did not, and which
points a collector rejected, is seen one level below, where a request leaves and its response comes back.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import structlog
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

from otel_netmon.config import checks
from otel_netmon.config.model import Otlp
from otel_netmon.errors import ConfigError

_log = structlog.get_logger(__name__)

METRICS_PATH: Final = "/v1/metrics"


@dataclass(slots=True)
class Observer:
    """What became of the last request. Written by the exporting thread only.

    Attributes:
        requests: sent since the start, retries included.
        failure: reason and detail of the last request's failure; None when the collector took it.
        rejected: points of the last request that the collector refused for good.
        message: the collector's words about it, or a warning of its own.
    """

    requests: int = 0
    failure: tuple[str, str] | None = None
    rejected: int = 0
    message: str = ""

    def reset(self) -> None:
        """Before an export: no request has been seen."""
        self.failure = ("not_sent", "the data could not be encoded or is too large for one request")
        self.rejected, self.message = 0, ""

    def failed(self, reason: str, detail: str) -> None:
        """A request was not taken.

        Args:
            reason: one of a few words, fit for an attribute.
            detail: for people.
        """
        self.requests += 1
        self.failure = (reason, detail)

    def raised(self, error: Exception) -> None:
        """The exporter itself failed, by an error it does not expect."""
        self.failure = ("internal", repr(error))

    def succeeded(self, response: ExportMetricsServiceResponse) -> None:
        """A request was taken, perhaps not all of it (OTLP specification, "Partial Success")."""
        self.requests += 1
        self.failure = None
        self.rejected = max(0, response.partial_success.rejected_data_points)
        self.message = response.partial_success.error_message


def target_of(settings: Otlp) -> str:
    """Where metrics go: the complete URL for HTTP, URL or ``host:port`` for gRPC.

    Raises:
        ConfigError: HTTP to an endpoint without a scheme.
    """
    target = settings.metrics_target()
    if settings.protocol == "grpc":
        return target
    if not checks.has_scheme(target):
        raise ConfigError(
            f"OTLP over HTTP needs a URL and not {checks.mask_userinfo(target)!r}", "begin it with http:// or https://"
        )
    # The endpoint is a base URL, but the complete one is what people paste.
    return target.removesuffix(METRICS_PATH) if target.endswith(2 * METRICS_PATH) else target


def check_tls_files(settings: Otlp) -> None:
    """Try the PEM files, for the transports would do so at the first request only, and ask a terminal for a key's password.

    Raises:
        ConfigError: a file that cannot be read or is not what it should be, or a key without its certificate.
    """
    if settings.client_key and not settings.client_certificate:
        raise ConfigError("otlp.client_key without otlp.client_certificate", "set both, or neither")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if settings.certificate:
        with _named(f"otlp.certificate {settings.certificate}", "name a PEM file with CA certificates"):
            context.load_verify_locations(settings.certificate)
    if settings.client_certificate:
        files = " and ".join(filter(None, (settings.client_certificate, settings.client_key)))
        with _named(
            f"otlp.client_certificate {files}", "name PEM files with the chain and its key, without a password"
        ):
            context.load_cert_chain(settings.client_certificate, settings.client_key, password="")


@contextlib.contextmanager
def _named(what: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"cannot use {what}: {error.strerror or error}", remedy) from error


class _StockLogHandler(logging.Handler):
    """The stock exporters' own records as our debug events, each kind at most once a minute.

    They log every attempt and every failure; what an operator needs is logged once by ``OtlpSink`` when the state changes.
    """

    _SECONDS = 60.0

    def __init__(self) -> None:
        super().__init__()
        self._logged: dict[tuple[str, str], float] = {}
        self._suppressed: dict[tuple[str, str], int] = {}

    def emit(self, record: logging.LogRecord) -> None:
        kind = (record.name, str(record.msg))  # the template: a few dozen in all
        now = time.monotonic()
        if now - self._logged.get(kind, -self._SECONDS) < self._SECONDS:
            self._suppressed[kind] = self._suppressed.get(kind, 0) + 1
            return
        self._logged[kind] = now
        _log.debug(
            "otlp.transport",
            message=record.getMessage(),
            level=record.levelname.lower(),
            suppressed=self._suppressed.pop(kind, 0),
        )


def route_stock_logs() -> None:
    """Send what the stock exporters log through ours. Once is enough, more does no harm."""
    logger = logging.getLogger("opentelemetry.exporter")
    if not any(isinstance(handler, _StockLogHandler) for handler in logger.handlers):
        logger.addHandler(_StockLogHandler())
        logger.propagate = False

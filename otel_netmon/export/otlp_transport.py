"""The way to one receiver of OTLP, by the protocol that its settings name."""

from __future__ import annotations

from otel_netmon.config.model import Receiver
from otel_netmon.export.requests import Transport


def build(settings: Receiver) -> Transport:
    """A transport for all signals of a receiver. Nothing is sent and nothing connected before the first request.

    Args:
        settings: of the receiver: ``config.model.Otlp`` or one of its destinations.

    Raises:
        ConfigError: an endpoint, a header, a PEM file or the proxy cannot be used.
    """
    if settings.protocol == "grpc":
        from otel_netmon.export.otlp_grpc import GrpcTransport  # 9 MB, only for those who speak it

        return GrpcTransport(settings)
    from otel_netmon.export.otlp_http import HttpTransport

    return HttpTransport(settings)

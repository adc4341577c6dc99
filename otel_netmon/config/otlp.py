"""The receivers of OTLP: the first one, which the keys of ``otlp`` describe, and the destinations beside it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from otel_netmon.config import checks
from otel_netmon.config.section import Section

SignalName = Literal["metrics", "traces", "logs"]
SIGNALS: tuple[SignalName, ...] = ("metrics", "traces", "logs")


class Receiver(Section, frozen=True):
    """One receiver of OTLP: where it is, how it is spoken to, and what it gets."""

    endpoint: Annotated[
        str | None,
        Meta(
            description="Base URL of the receiver; for `http/protobuf`, `/v1/metrics`, `/v1/traces` and `/v1/logs` are appended. "
            "For `grpc`, `host:port` is accepted too. null: http://localhost:4318, or http://localhost:4317 for `grpc`.",
            extra={"check": checks.endpoint},
        ),
    ] = None
    metrics_endpoint: Annotated[
        str | None,
        Meta(
            description="Complete URL for metrics, used as it is in place of `endpoint`. "
            "Dropped when `endpoint` comes from a stronger source.",
            extra={"check": checks.endpoint},
        ),
    ] = None
    traces_endpoint: Annotated[
        str | None,
        Meta(description="Complete URL for traces, as `metrics_endpoint`.", extra={"check": checks.endpoint}),
    ] = None
    logs_endpoint: Annotated[
        str | None,
        Meta(description="Complete URL for logs (events), as `metrics_endpoint`.", extra={"check": checks.endpoint}),
    ] = None
    protocol: Annotated[
        Literal["grpc", "http/protobuf"],
        Meta(description="Transport of OTLP."),
    ] = "http/protobuf"
    signals: Annotated[
        tuple[SignalName, ...],
        Meta(description="What is sent there; an empty list sends nothing."),
    ] = SIGNALS
    temporality: Annotated[
        Literal["cumulative", "delta", "lowmemory"],
        Meta(
            description="What counters and histograms tell: all since their start, or with `delta` what came since the last export. "
            "`lowmemory` is `delta` for synchronous counters and histograms and cumulative for the others, as the specification has it."
        ),
    ] = "cumulative"
    histograms: Annotated[
        Literal["exponential", "explicit"],
        Meta(description="`exponential` buckets, or `explicit` bounds for receivers that know only those."),
    ] = "exponential"
    insecure: Annotated[
        bool,
        Meta(description="`grpc` without TLS where the endpoint has no http:// or https:// scheme to tell."),
    ] = False
    headers: Annotated[
        dict[str, str],
        Meta(
            description="Headers (gRPC: metadata) of every request. Names are lower-cased.",
            extra={"check": checks.header, "secret": True, "fold_case": True},
        ),
    ] = field(default_factory=dict)
    timeout_seconds: Annotated[
        float,
        Meta(description="Longest time for one request.", ge=0.1, le=3600.0),
    ] = 10.0
    compression: Annotated[Literal["none", "gzip"], Meta(description="Compression of the requests.")] = "gzip"
    queue_bytes: Annotated[
        int,
        Meta(
            description="Memory for spans and events while the receiver is away and there is no spool, and for snapshots that "
            "wait for a spool.",
            ge=64 << 10,
            le=1 << 30,
        ),
    ] = 4 << 20
    certificate: Annotated[
        str | None,
        Meta(
            description="PEM file with the certificates that the receiver's is verified against. null: the system's.",
            extra={"check": checks.path},
        ),
    ] = None
    client_certificate: Annotated[
        str | None,
        Meta(description="PEM file with the client's certificate chain (mTLS).", extra={"check": checks.path}),
    ] = None
    client_key: Annotated[
        str | None,
        Meta(description="PEM file with the client's private key (mTLS).", extra={"check": checks.path}),
    ] = None
    proxy: Annotated[
        str | None,
        Meta(
            description="HTTP proxy on the way to the receiver, `http://HOST:PORT`. null: what HTTPS_PROXY, HTTP_PROXY and "
            "ALL_PROXY say. NO_PROXY holds for all of them.",
            extra={"check": checks.proxy},
        ),
    ] = None

    def target(self, signal: SignalName) -> str:
        """Where a signal goes: the complete URL for HTTP, the URL or ``host:port`` for gRPC.

        Follows the OTLP exporter specification: a signal's own endpoint is used as it is, the general one gets ``/v1/SIGNAL``.
        """
        own: str | None = getattr(self, f"{signal}_endpoint")
        if own is not None:
            return own
        if self.protocol == "grpc":
            return self.endpoint or "http://localhost:4317"
        return (self.endpoint or "http://localhost:4318").removesuffix("/") + f"/v1/{signal}"

    def metrics_target(self) -> str:
        """Where metrics go; see ``target``."""
        return self.target("metrics")


class Destination(Receiver, frozen=True, kw_only=True):
    """A further receiver. Nothing is taken over from the first one."""

    endpoint: Annotated[
        str,
        Meta(
            description="Base URL of the receiver, as `otlp.endpoint`. Required.",
            extra={"check": checks.endpoint},
        ),
    ]


class Otlp(Receiver, frozen=True):
    """Push to an OpenTelemetry collector or backend."""

    enabled: Annotated[bool, Meta(description="Send by OTLP, to this receiver and to all `destinations`.")] = True
    destinations: Annotated[
        dict[Annotated[str, Meta(pattern=f"^{checks.DESTINATION_NAME}$")], Destination],
        Meta(
            description="Further receivers by name, each with its own queue and spool. Each gets everything; nothing is "
            "taken over from the keys of `otlp`.",
            max_length=16,
            extra={"check": checks.destination},
        ),
    ] = field(default_factory=dict)

    def receivers(self) -> dict[str, Receiver]:
        """Every receiver that gets anything, by name; the first one is ``default``. Empty when OTLP is off."""
        if not self.enabled:
            return {}
        every: dict[str, Receiver] = {checks.FIRST_DESTINATION: self, **self.destinations}
        return {name: receiver for name, receiver in every.items() if receiver.signals}

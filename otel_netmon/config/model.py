"""Every configuration key, its type, range, default and meaning. The one place where a key is defined.

``otel-netmon schema``, ``docs/configuration.md``, the environment names (``OTEL_NETMON_*``) and all error messages follow from here.
A key carries its unit in its name. ``Meta.extra`` holds what msgspec does not know:

- ``check``: a function of ``config.checks`` for the value, each item of a list, or each entry of a mapping
- ``secret``: True where print-config must mask the value
- ``fold_case``: True where the names of a mapping are lower-cased
"""

from __future__ import annotations

import fnmatch
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from otel_netmon.config import checks


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all sections: immutable, keys by name only, unknown keys refused."""


class Interfaces(Section, frozen=True):
    """Which network interfaces are observed."""

    include: Annotated[
        tuple[str, ...],
        Meta(
            description="Interfaces to observe: literal names or shell patterns.",
            extra={"check": checks.interface_pattern},
        ),
    ] = ("*",)
    exclude: Annotated[
        tuple[str, ...],
        Meta(
            description="Interfaces to leave out, also when `include` names them: literal names or shell patterns.",
            extra={"check": checks.interface_pattern},
        ),
    ] = ("lo",)
    namespaces: Annotated[
        tuple[str, ...],
        Meta(
            description="Further network namespaces to observe: names under /run/netns or absolute paths. "
            "Entering one needs CAP_SYS_ADMIN.",
            extra={"check": checks.namespace},
        ),
    ] = ()
    allow_missing: Annotated[
        bool,
        Meta(
            description="Start although a literal name in `include` does not exist, and attach when it appears. "
            "Otherwise a missing interface is an error."
        ),
    ] = False

    def selects(self, name: str) -> bool:
        """Whether the interface of this name is to be observed: included and not excluded, letter case counts."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.include) and not any(
            fnmatch.fnmatchcase(name, pattern) for pattern in self.exclude
        )

    def literal_names(self) -> tuple[str, ...]:
        """The entries of ``include`` that name exactly one interface and are not excluded."""
        return tuple(name for name in self.include if not checks.is_pattern(name) and self.selects(name))


class FlowsProbe(Section, frozen=True):
    """The tc program that counts flows in the kernel."""

    enabled: Annotated[bool, Meta(description="Count flows and protocols on every observed interface.")] = True
    attach: Annotated[
        Literal["auto", "tcx", "clsact"],
        Meta(
            description="`auto` attaches by TCX links (Linux 6.6), which end with the agent, and by filters of a clsact "
            "qdisc where the kernel has none; the others use only that way."
        ),
    ] = "auto"
    decapsulate: Annotated[
        bool,
        Meta(description="Count the inner flow of VXLAN, Geneve, GRE and IP-in-IP instead of the outer one."),
    ] = False
    table_entries: Annotated[
        int,
        Meta(
            description="Flows the kernel table holds. When it is full, further flows are counted in one overflow "
            "bucket for each interface and direction; totals stay exact.",
            ge=1,
            le=1 << 20,
        ),
    ] = 65536
    idle_seconds: Annotated[
        float,
        Meta(description="A flow without a packet for this long leaves the table.", ge=1.0, le=86400.0),
    ] = 60.0


class XdpProbe(Section, frozen=True):
    """The XDP program that counts frames as the driver delivers them."""

    enabled: Annotated[
        bool,
        Meta(
            description="Count frames before GRO and the firewall. Off by default: XDP changes how some drivers batch."
        ),
    ] = False
    mode: Annotated[
        Literal["auto", "native", "generic"],
        Meta(
            description="`native` fails where the driver lacks XDP, `auto` leaves such an interface out, "
            "`generic` also runs there but copies every frame into one piece."
        ),
    ] = "auto"


class InterfacesProbe(Section, frozen=True):
    """The reader of the kernel's own interface counters."""

    enabled: Annotated[bool, Meta(description="Export the kernel's interface counters and compare them with ours.")] = (
        True
    )


class Probes(Section, frozen=True):
    """What is observed."""

    flows: FlowsProbe = FlowsProbe()
    xdp: XdpProbe = XdpProbe()
    interfaces: InterfacesProbe = InterfacesProbe()


class Flows(Section, frozen=True):
    """How flows become metrics."""

    top_k: Annotated[
        int,
        Meta(
            description="Flows exported one by one in each cycle, the largest by bytes. The rest is exact in one `other` "
            "point; 0 exports only that.",
            ge=0,
            le=100_000,
        ),
    ] = 100


class Export(Section, frozen=True):
    """When metrics are read and sent."""

    interval_seconds: Annotated[
        float,
        Meta(description="Time from one reading and export to the next.", ge=0.1, le=3600.0),
    ] = 10.0
    timeout_seconds: Annotated[
        float,
        Meta(
            description="Longest time one export may take, retries included; then it counts as failed.",
            ge=0.1,
            le=3600.0,
        ),
    ] = 30.0
    shutdown_seconds: Annotated[
        float,
        Meta(description="Longest time for the final flush when the agent stops.", ge=0.1, le=300.0),
    ] = 5.0


class Otlp(Section, frozen=True):
    """Push to an OpenTelemetry collector or backend."""

    enabled: Annotated[bool, Meta(description="Send metrics by OTLP.")] = True
    protocol: Annotated[
        Literal["grpc", "http/protobuf"],
        Meta(description="Transport of OTLP."),
    ] = "http/protobuf"
    endpoint: Annotated[
        str | None,
        Meta(
            description="Base URL of the receiver; for `http/protobuf`, `/v1/metrics` is appended. For `grpc`, `host:port` "
            "is accepted too. null: http://localhost:4318, or http://localhost:4317 for `grpc`.",
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
    ] = {}
    timeout_seconds: Annotated[
        float,
        Meta(description="Longest time for one request.", ge=0.1, le=3600.0),
    ] = 10.0
    compression: Annotated[Literal["none", "gzip"], Meta(description="Compression of the requests.")] = "none"
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

    def metrics_target(self) -> str:
        """Where metrics go: the complete URL for HTTP, the URL or ``host:port`` for gRPC.

        Follows the OTLP exporter specification: a signal's own endpoint is used as it is, the general one gets ``/v1/metrics``.
        """
        if self.metrics_endpoint is not None:
            return self.metrics_endpoint
        if self.protocol == "grpc":
            return self.endpoint or "http://localhost:4317"
        return (self.endpoint or "http://localhost:4318").removesuffix("/") + "/v1/metrics"


class Prometheus(Section, frozen=True):
    """The page that a Prometheus server scrapes, with /healthz, /readyz and /status."""

    enabled: Annotated[bool, Meta(description="Serve /metrics, /healthz, /readyz and /status.")] = True
    listen: Annotated[
        str,
        Meta(
            description="Address to serve on: `host:port` or `[v6]:port`. Port 0 takes a free one.",
            extra={"check": checks.listen},
        ),
    ] = "127.0.0.1:9464"

    def address(self) -> tuple[str, int]:
        """Host (without brackets) and port of ``listen``."""
        return checks.split_host_port(self.listen)


class Resource(Section, frozen=True):
    """What the exported telemetry is about."""

    attributes: Annotated[
        dict[str, str],
        Meta(description="Resource attributes added to every export.", extra={"check": checks.attribute}),
    ] = {}


class Images(Section, frozen=True):
    """Where compiled program images are kept and who compiles them."""

    directory: Annotated[
        str,
        Meta(description="Cache of compiled program images.", extra={"check": checks.absolute_path}),
    ] = "/var/cache/otel-netmon"
    sources: Annotated[
        str | None,
        Meta(
            description="Folder of eBPF sources (as bpf/ of the project) to compile in place of the installed ones.",
            extra={"check": checks.absolute_path},
        ),
    ] = None
    compiler: Annotated[
        str | None,
        Meta(
            description="Python interpreter that can import bcc (Debian: python3-bpfcc). null: look for one.",
            extra={"check": checks.path},
        ),
    ] = None


class Log(Section, frozen=True):
    """What the agent tells about itself, on standard error."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="Least severe level that is written."),
    ] = "info"
    format: Annotated[
        Literal["auto", "json", "console"],
        Meta(description="`auto` is `console` on a terminal and `json` elsewhere."),
    ] = "auto"


class Config(Section, frozen=True):
    """The whole configuration."""

    interfaces: Interfaces = Interfaces()
    probes: Probes = Probes()
    flows: Flows = Flows()
    export: Export = Export()
    otlp: Otlp = Otlp()
    prometheus: Prometheus = Prometheus()
    resource: Resource = Resource()
    images: Images = Images()
    log: Log = Log()

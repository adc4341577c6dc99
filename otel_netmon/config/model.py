"""Every configuration key, its type, range, default and meaning. The one place where a key is defined.

``otel-netmon schema``, ``docs/configuration.md``, the environment names (``OTEL_NETMON_*``) and all error messages follow from here.
A key carries its unit in its name. ``config.section`` says what a key has beside its type; the receivers of OTLP are in
``config.otlp``.
"""

from __future__ import annotations

import fnmatch
from typing import Annotated, Literal

from msgspec import Meta, field

from otel_netmon.config import checks
from otel_netmon.config.otlp import SIGNALS, Destination, Otlp, Receiver, SignalName
from otel_netmon.config.resolvers import RESOLVER_NAMES
from otel_netmon.config.section import Section

__all__ = [
    "SIGNALS",
    "Config",
    "ConnectionsProbe",
    "Destination",
    "DnsProbe",
    "DropsProbe",
    "Export",
    "Flows",
    "FlowsProbe",
    "HttpProbe",
    "Images",
    "Interfaces",
    "InterfacesProbe",
    "Limits",
    "Log",
    "NetstatProbe",
    "Otlp",
    "Probes",
    "Prometheus",
    "Receiver",
    "Resource",
    "Section",
    "SignalName",
    "Spool",
    "TlsProbe",
    "XdpProbe",
]


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
        Meta(
            description="Count the inner flow of VXLAN, Geneve, GTP-U, GRE, ERSPAN and IP-in-IP instead of the outer one."
        ),
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


class DnsProbe(Section, frozen=True):
    """The program that pairs DNS queries with their answers."""

    enabled: Annotated[bool, Meta(description="Follow DNS lookups, where `messages.vantage` says.")] = True
    ports: Annotated[
        tuple[str, ...],
        Meta(
            description="Further ports of DNS servers, beside 53, 5353 (mDNS) and 5355 (LLMNR).",
            extra={"check": checks.port},
        ),
    ] = ()
    timeout_seconds: Annotated[
        float,
        Meta(description="A query without an answer for this long has timed out.", ge=0.1, le=300.0),
    ] = 5.0
    name_labels: Annotated[
        int,
        Meta(
            description="Labels of a name that tell lookups apart in metrics, counted from its end: 2 makes www.example.com "
            "example.com. Names of reverse lookups are cut to their zone. Spans have the whole name.",
            ge=1,
            le=127,
        ),
    ] = 2
    resolver_names: Annotated[
        tuple[str, ...],
        Meta(
            description="Servers that offer DNS over HTTPS, each with all names below it: a handshake with one of them is that of "
            "encrypted lookups. Nothing else tells DNS over HTTPS from other HTTPS. DNS over TLS and QUIC are told by ALPN or port. "
            "Needs `probes.tls.enabled`.",
            extra={"check": checks.domain_name},
        ),
    ] = RESOLVER_NAMES
    ring_bytes: Annotated[
        int,
        Meta(
            description="Memory between kernel and agent for the messages of all probes; a power of two.",
            ge=1 << 16,
            le=1 << 28,
            extra={"check": checks.power_of_two},
        ),
    ] = 1 << 21


class TlsProbe(Section, frozen=True):
    """The program that finds TLS by its content on any port."""

    enabled: Annotated[
        bool,
        Meta(
            description="Follow TLS handshakes, and the ClientHellos of QUIC and DTLS, where `messages.vantage` says."
        ),
    ] = True
    handshake_bytes: Annotated[
        int,
        Meta(
            description="Bytes of a handshake that leave the kernel, in each direction of a connection, at most. Application data "
            "never does.",
            ge=1024,
            le=65535,
        ),
    ] = 16384
    timeout_seconds: Annotated[
        float, Meta(description="A handshake that is not over for this long has timed out.", ge=0.1, le=300.0)
    ] = 10.0
    expiry_warning_days: Annotated[
        float,
        Meta(
            description="From so many days before a server's certificate ends on there is an event each day. 0: only when it has "
            "ended.",
            ge=0.0,
            le=3650.0,
        ),
    ] = 30.0
    server_names: Annotated[
        int,
        Meta(
            description="Servers that metrics tell apart, by the name that clients ask for, and whose certificates they tell; the "
            "others are `other`. `limits.series` bounds it as well.",
            ge=0,
            le=100_000,
        ),
    ] = 256
    certificate: Annotated[
        Literal["passive", "active"],
        Meta(
            description="`passive`: certificates are those in the clear, which they are up to TLS 1.2, and the agent sends nothing. "
            "`active`: with a server that clients reach by TLS 1.3 alone the agent makes one handshake of its own a day, to where "
            "a client was answered and by the name it asked for, for as many servers as `server_names` and at most one in two "
            "seconds. Servers behind STARTTLS are not asked, and those seen in "
            "another network namespace or at a socket (`messages.vantage`) only by global addresses."
        ),
    ] = "passive"
    minimum_version: Annotated[Literal["1.0", "1.1", "1.2", "1.3"], Meta(description="Older versions are weak.")] = (
        "1.2"
    )
    minimum_rsa_bits: Annotated[
        int, Meta(description="Shorter RSA and DSA keys of certificates are weak.", ge=0, le=16384)
    ] = 2048
    minimum_curve_bits: Annotated[
        int, Meta(description="Shorter elliptic curve keys of certificates are weak.", ge=0, le=1024)
    ] = 224
    minimum_group_bits: Annotated[
        int, Meta(description="Diffie-Hellman exchanges with shorter primes are weak.", ge=0, le=16384)
    ] = 2048


class HttpProbe(Section, frozen=True):
    """The programs that find HTTP by its content on any port."""

    enabled: Annotated[
        bool,
        Meta(description="Follow requests of HTTP/1, and of HTTP/2 and gRPC in clear, where `messages.vantage` says."),
    ] = True
    timeout_seconds: Annotated[
        float, Meta(description="A request without an answer for this long has timed out.", ge=1.0, le=3600.0)
    ] = 60.0
    names: Annotated[
        int,
        Meta(
            description="Servers, routes and gRPC methods that metrics tell apart, of each so many; the others are `other`. "
            "`limits.series` bounds it as well.",
            ge=1,
            le=100_000,
        ),
    ] = 256
    routes: Annotated[
        tuple[str, ...],
        Meta(
            description="Templates of paths, `[METHOD ][HOST]/TEMPLATE`, where `{name}` stands for one segment and `{name...}` at "
            "the end for all that follow, such as `GET /users/{id}`. A word fits better than a placeholder.",
            extra={"check": checks.route},
        ),
    ] = ()
    learn_routes: Annotated[
        bool,
        Meta(
            description="Learn templates from the paths that were answered with a status below 400: numbers, identifiers, dates "
            "and places of many different words are folded. Rules come first."
        ),
    ] = False
    learned_routes_max: Annotated[
        int, Meta(description="Templates learned at most; further paths have no route.", ge=1, le=10_000)
    ] = 256


class ConnectionsProbe(Section, frozen=True):
    """The socket hooks of cgroup v2: connections and UDP sockets of local processes, in every network namespace."""

    enabled: Annotated[
        bool,
        Meta(
            description="Follow TCP connections and UDP sockets of local processes, with their process and container."
        ),
    ] = True
    cgroup: Annotated[
        str | None,
        Meta(
            description="Folder of cgroup v2 whose processes are followed, for example a pod's. null: the root of the hierarchy, "
            "wherever it is mounted.",
            extra={"check": checks.absolute_path},
        ),
    ] = None
    table_entries: Annotated[
        int,
        Meta(
            description="Connections and UDP sockets the kernel table holds. When it is full, further ones are counted without "
            "detail; totals stay exact.",
            ge=1,
            le=1 << 20,
        ),
    ] = 65536
    ring_bytes: Annotated[
        int,
        Meta(
            description="Memory between kernel and agent for connections that have ended; a power of two.",
            ge=1 << 16,
            le=1 << 28,
            extra={"check": checks.power_of_two},
        ),
    ] = 1 << 21
    compare_seconds: Annotated[
        float,
        Meta(
            description="The counts by state are compared with sock_diag at least so often, and then begin anew from it. They are "
            "more often as long as that takes less than a hundredth of a core.",
            ge=1.0,
            le=86400.0,
        ),
    ] = 60.0
    reset_burst_per_second: Annotated[
        float,
        Meta(
            description="From so many resets a second on, of one server in one cycle, an event is told. 0: never.",
            ge=0.0,
            le=1e9,
        ),
    ] = 10.0
    connect_failures_per_second: Annotated[
        float,
        Meta(
            description="From so many failed connects a second on, to one server in one cycle, an event is told. 0: never.",
            ge=0.0,
            le=1e9,
        ),
    ] = 1.0


class InterfacesProbe(Section, frozen=True):
    """The reader of the kernel's own interface counters."""

    enabled: Annotated[bool, Meta(description="Export the kernel's interface counters and compare them with ours.")] = (
        True
    )


class NetstatProbe(Section, frozen=True):
    """The reader of the kernel's own protocol counters."""

    enabled: Annotated[
        bool,
        Meta(
            description="Export what IP, UDP and TCP drop and which queues of listening sockets overflow, from the kernel's own counters."
        ),
    ] = True


class DropsProbe(Section, frozen=True):
    """The program that counts the packets the kernel drops."""

    enabled: Annotated[
        bool, Meta(description="Count the packets that the kernel drops, on the whole host, by its own reasons.")
    ] = True


class Probes(Section, frozen=True):
    """What is observed."""

    flows: FlowsProbe = FlowsProbe()
    xdp: XdpProbe = XdpProbe()
    interfaces: InterfacesProbe = InterfacesProbe()
    dns: DnsProbe = DnsProbe()
    tls: TlsProbe = TlsProbe()
    http: HttpProbe = HttpProbe()
    connections: ConnectionsProbe = ConnectionsProbe()
    netstat: NetstatProbe = NetstatProbe()
    drops: DropsProbe = DropsProbe()
    tls_plaintext: Annotated[
        Literal["off", "openssl"],
        Meta(
            description="Follow HTTP and gRPC inside of TLS, by what processes write to OpenSSL 1.1 or 3 and read from it (x86-64). "
            "Bodies stay where they are. Needs `probes.http.enabled`, and to see the processes of the host: root, or CAP_SYS_PTRACE "
            "beside CAP_PERFMON (CAP_SYS_ADMIN, where the kernel asks for it). Each call of a watched process costs it some "
            "2.5 µs, several times as much where the log says that a site is stepped."
        ),
    ] = "off"


class Messages(Section, frozen=True):
    """Where lookups, handshakes and requests are seen: what the probes dns, tls and http have in common."""

    vantage: Annotated[
        Literal["interface", "host"],
        Meta(
            description="`interface`: in the packets of every observed interface; needs `probes.flows.enabled`. `host`: at the sockets "
            "of local processes, in every network namespace and on its loopback too, and nowhere else; needs "
            "`probes.connections.enabled`, whose cgroup it is. A request between two local processes then counts at both ends, a "
            "lookup or handshake at the client's."
        ),
    ] = "interface"


class Flows(Section, frozen=True):
    """How flows become metrics."""

    top_k: Annotated[
        int,
        Meta(
            description="Flows exported one by one in each cycle, the largest by bytes. The rest is exact in one `other` "
            "point; 0 exports only that. `limits.series` bounds it as well.",
            ge=0,
            le=100_000,
        ),
    ] = 100


class Spans(Section, frozen=True):
    """Which spans are kept. Errors, slow ones and the first of each kind come before the share of the rest."""

    share: Annotated[
        float,
        Meta(
            description="Share of the spans that are neither errors nor slow nor the first of their kind; it is written on each.",
            ge=0.0,
            le=1.0,
        ),
    ] = 0.01
    limit_per_second: Annotated[
        int, Meta(description="Spans kept in a second at most, of all kinds together.", ge=0, le=100_000)
    ] = 100
    slow_seconds: Annotated[
        float,
        Meta(
            description="From this duration on a span is slow. 0: above the 99th percentile of its kind.",
            ge=0.0,
            le=86400.0,
        ),
    ] = 0.0


class Limits(Section, frozen=True):
    """How much the agent holds at most."""

    series: Annotated[
        int,
        Meta(
            description="Series the agent exports at most, one for each metric and set of attributes. All metrics share them; "
            "the heaviest sets keep theirs, and the rest of a metric is exact in one point with `otel.metric.overflow`.",
            ge=100,
            le=1_000_000,
        ),
    ] = 10_000
    series_idle_seconds: Annotated[
        float,
        Meta(
            description="A series that has not changed for this long ends. It begins anew with its next change.",
            ge=1.0,
            le=86400.0,
        ),
    ] = 300.0


class Spool(Section, frozen=True):
    """Requests of OTLP on disk while a receiver is away; each receiver has a folder of its own."""

    directory: Annotated[
        str | None,
        Meta(
            description="Folder for requests that could not be delivered yet; they outlive the agent. null: no spool.",
            extra={"check": checks.absolute_path},
        ),
    ] = None
    max_bytes: Annotated[
        int,
        Meta(description="Largest size on disk for each receiver.", ge=1 << 20, le=1 << 44),
    ] = 256 << 20
    sync: Annotated[
        Literal["always", "interval", "never"],
        Meta(
            description="When written requests are forced to the disk (fsync). What is not yet there survives the end of the "
            "agent, but not a loss of power: `always` before a request counts as kept, `interval` at most once a second "
            "and at the latest a second after it was written, `never` leaves it to the kernel."
        ),
    ] = "interval"


class Export(Section, frozen=True):
    """When metrics are read and sent."""

    interval_seconds: Annotated[
        float,
        Meta(description="Time from one reading and export to the next.", ge=0.1, le=3600.0),
    ] = 10.0
    timeout_seconds: Annotated[
        float,
        Meta(
            description="Longest time of one attempt to send to any receiver, beside the receiver's own `timeout_seconds`, and that "
            "`replay --output otlp` waits in all.",
            ge=0.1,
            le=3600.0,
        ),
    ] = 30.0
    shutdown_seconds: Annotated[
        float,
        Meta(description="Longest time for the final flush when the agent stops.", ge=0.1, le=300.0),
    ] = 5.0
    spool: Spool = Spool()


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
    ] = field(default_factory=dict)


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
    messages: Messages = Messages()
    flows: Flows = Flows()
    spans: Spans = Spans()
    limits: Limits = Limits()
    export: Export = Export()
    otlp: Otlp = Otlp()
    prometheus: Prometheus = Prometheus()
    resource: Resource = Resource()
    images: Images = Images()
    log: Log = Log()

"""The catalogue: every metric and attribute this agent exports, defined once.

Exporters, ``docs/metrics.md`` and the drift tests come from here. Names, units and kinds with the source ``semconv`` are those of
the OpenTelemetry semantic conventions at ``SCHEMA_URL``; ``proposed`` are those of their open proposals; ``otelcol`` marks the names
of the OpenTelemetry Collector's own telemetry; ``otel`` the OpenTelemetry specification; ``netmon`` our own. ``python -m otel_netmon.otel.catalogue`` prints the page.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from otel_netmon.abi.enums import RTT_BUCKETS, RTT_LOWEST_EXPONENT
from otel_netmon.otel import prometheus_names
from otel_netmon.otel.span_attributes import SPAN_ATTRIBUTES

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
"""Semantic conventions this release is written against."""

SCOPE_NAME = "otel_netmon"
"""Instrumentation scope of all metrics."""

Source = Literal["semconv", "proposed", "otel", "otelcol", "netmon"]


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute key: meaning, value type and examples of its values."""

    description: str
    type: type[str | int | bool]
    examples: tuple[str | int | bool, ...]
    source: Source


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: its identity in the OpenTelemetry data model and what its numbers mean.

    Attributes:
        unit: UCUM, annotations in braces.
        kind: counter (monotonic sum), updowncounter (sum) or gauge.
        value_type: int or float; points are converted to it, so that a series never changes its number type.
        attributes: all keys a point may carry. A key without a meaning for a point is left out of it.
        bounds: of a histogram: upper bounds of the explicit buckets, without infinity.
        prometheus_only: served to Prometheus and not sent by OTLP.
    """

    name: str
    unit: str
    kind: prometheus_names.Kind
    value_type: type[int | float]
    description: str
    attributes: tuple[str, ...]
    source: Source = "netmon"
    prometheus_only: bool = False
    bounds: tuple[float, ...] = ()

    @property
    def prometheus_name(self) -> str:
        """Name of its series in Prometheus."""
        return prometheus_names.sample_name(self.name, self.unit, self.kind)


ATTRIBUTES: Mapping[str, Attribute] = MappingProxyType(
    {
        "network.interface.name": Attribute("Name of the network interface.", str, ("eth0", "lo"), "semconv"),
        "network.io.direction": Attribute(
            "Direction as the interface sees it. For a flow: at the edge interface that counted it.",
            str,
            ("receive", "transmit"),
            "semconv",
        ),
        "network.type": Attribute(
            "Network layer. Beside the values of the conventions: `arp`, and `other` for the rest.",
            str,
            ("ipv4", "ipv6", "arp", "other"),
            "semconv",
        ),
        "network.transport": Attribute(
            "Transport layer, by its IANA name in lower case or its protocol number. Left out above a network layer that has none.",
            str,
            ("tcp", "udp", "icmp", "ipv6-icmp", "sctp", "47"),
            "semconv",
        ),
        "client.address": Attribute(
            "Address of the side that opened the conversation.", str, ("10.0.0.7", "2001:db8::7"), "semconv"
        ),
        "server.address": Attribute(
            "Address of the side that was called.", str, ("192.0.2.10", "2001:db8::10"), "semconv"
        ),
        "server.port": Attribute(
            "Port that was called. Left out for transports without ports.", int, (443, 53), "semconv"
        ),
        "otel.metric.overflow": Attribute(
            "True on the one point of each direction that holds, exactly, everything that has no series of its own.",
            bool,
            (True,),
            "otel",
        ),
        "network.connection.state": Attribute(
            "State of the connection, RFC 9293, 3.3.2.", str, ("established", "time_wait", "listen"), "semconv"
        ),
        "network.tcp.handshake.role": Attribute(
            "Which end of the connection the local process is, by who opened it; `unknown` for one that is older than the agent.",
            str,
            ("client", "server", "unknown"),
            "proposed",
        ),
        "network.tcp.retransmit.type": Attribute(
            "Why the segment was sent again. Beside the values of the proposal: `syn`, `syn_ack`, and `other` where it cannot be told.",
            str,
            ("fast", "timeout", "tail_loss_probe", "syn", "syn_ack", "other"),
            "proposed",
        ),
        "netmon.network.namespace": Attribute(
            "Network namespace. Left out for the agent's own.",
            str,
            ("blue", "/proc/4242/ns/net"),
            "netmon",
        ),
        "dns.question.name": Attribute(
            "Name that was asked for; in metrics folded to its last labels.", str, ("example.com", "."), "semconv"
        ),
        "netmon.domain": Attribute(
            "Name behind an address, folded to its registered domain or to probes.dns.name_labels; `(several)` where the address "
            "had several that have none in common. It is what the cgroup of the client was told; where that is not known or was told "
            "nothing, what clients with its address were told, else what anybody was. Also on spans of connections that were made.",
            str,
            ("example.com", "(several)"),
            "netmon",
        ),
        "netmon.dns.question.type": Attribute("Type of the question, by its IANA name.", str, ("A", "HTTPS"), "netmon"),
        "netmon.dns.encrypted.transport": Attribute(
            "How lookups are sealed: DNS over TLS, over QUIC or over HTTPS.", str, ("dot", "doq", "doh"), "netmon"
        ),
        "netmon.dns.response.code": Attribute(
            "Response code, by its IANA name. Left out where there was no answer.",
            str,
            ("NOERROR", "NXDOMAIN"),
            "netmon",
        ),
        "network.protocol.name": Attribute("Protocol of the application layer.", str, ("quic", "dtls"), "semconv"),
        "tls.protocol.version": Attribute(
            "Version that the server chose. Left out where it chose none.", str, ("1.2", "1.3"), "semconv"
        ),
        "tls.cipher": Attribute(
            "Cipher suite that the server chose, by its IANA name.", str, ("TLS_AES_128_GCM_SHA256",), "semconv"
        ),
        "tls.next_protocol": Attribute(
            "Protocol that the server chose by ALPN, where that is in the clear: before TLS 1.3.",
            str,
            ("h2", "http/1.1"),
            "semconv",
        ),
        "tls.resumed": Attribute(
            "Whether a session of before was taken up. Left out where that cannot be told.",
            bool,
            (True, False),
            "semconv",
        ),
        "tls.server.issuer": Attribute(
            "Issuer of the server's certificate.", str, ("CN=R3,O=Let's Encrypt,C=US",), "semconv"
        ),
        "netmon.tls.certificate.source": Attribute(
            "`active`: the certificate was shown to a handshake of the agent's own (probes.tls.certificate). Left out where it was "
            "in the clear in somebody's.",
            str,
            ("active",),
            "netmon",
        ),
        "netmon.tls.weakness": Attribute(
            "What is weak: `old_version`, `export_cipher`, `rc4`, `des`, `3des`, `null_cipher`, `anonymous`, `md5_signature`, "
            "`sha1_signature`, `small_key` and `small_group` (fewer bits than configured), `self_signed`, `wrong_name`, `expired`, "
            "`not_yet_valid`; `plaintext` is a request of HTTP in the clear to a port where TLS is spoken.",
            str,
            ("old_version", "self_signed"),
            "netmon",
        ),
        "netmon.stage": Attribute(
            "Stage of the pipeline.",
            str,
            ("kernel", "ring", "decode", "identity", "domains", "active", "sampling", "queue", "spool", "export"),
            "netmon",
        ),
        "netmon.outcome": Attribute("What became of the items.", str, ("delivered", "dropped"), "netmon"),
        "netmon.reason": Attribute(
            "Why. Left out where there is nothing to explain.", str, ("superseded", "connection"), "netmon"
        ),
        "netmon.signal": Attribute(
            "Kind of the items.",
            str,
            (
                "packets",
                "dns_messages",
                "stream_messages",
                "http_messages",
                "tls_calls",
                "tls_sessions",
                "tls_messages",
                "tls_connections",
                "connections",
                "metric_points",
                "spans",
                "log_records",
            ),
            "netmon",
        ),
        "netmon.destination": Attribute(
            "Receiver of OTLP: `default`, or its name in otlp.destinations.", str, ("default", "backup"), "netmon"
        ),
        "otel.component.name": Attribute(
            "Receiver of OTLP: `default`, or its name in otlp.destinations.", str, ("default", "backup"), "semconv"
        ),
        "otel.component.type": Attribute(
            "What sends.", str, ("otlp_http_metric_exporter", "otlp_grpc_span_exporter"), "semconv"
        ),
        "error.type": Attribute(
            "Why it failed. Left out when it did not.", str, ("timeout", "refused", "503"), "semconv"
        ),
        "http.response.status_code": Attribute("Status code of the response.", int, (200, 503), "semconv"),
        "http.request.method": Attribute(
            "Method, one of those that the conventions know; `_OTHER` for every other.",
            str,
            ("GET", "_OTHER"),
            "semconv",
        ),
        "url.scheme": Attribute(
            "`https` for what was seen inside of TLS (probes.tls_plaintext).", str, ("http", "https"), "semconv"
        ),
        "http.route": Attribute(
            "Template of the path, by probes.http.routes or learned. Left out without one.",
            str,
            ("/users/{id}", "/users/{number}"),
            "semconv",
        ),
        "url.template": Attribute("As http.route, where the client is.", str, ("/users/{id}",), "semconv"),
        "network.protocol.version": Attribute("Version of HTTP.", str, ("1.1", "2"), "semconv"),
        "netmon.http.role": Attribute(
            "Whether the requests are seen where their server or their client is.", str, ("server", "client"), "netmon"
        ),
        "rpc.system.name": Attribute("Always `grpc`.", str, ("grpc",), "semconv"),
        "rpc.method": Attribute(
            "Full name of the method; `_OTHER` where the server says that it does not know it, where the name is none, and beyond "
            "probes.http.names.",
            str,
            ("pkg.Service/Method", "_OTHER"),
            "semconv",
        ),
        "rpc.response.status_code": Attribute(
            "Status code of the gRPC call, or the one that gRPC says a client makes of what happened instead.",
            str,
            ("OK", "UNAVAILABLE"),
            "semconv",
        ),
        "netmon.series.family": Attribute(
            "Metrics with the same attribute sets, which share a part of limits.series.",
            str,
            ("flows", "protocols", "interfaces", "agent"),
            "netmon",
        ),
        "netmon.series.attribute": Attribute(
            "Attribute key whose values are counted.", str, ("client.address", "server.port"), "netmon"
        ),
        "netmon.probe": Attribute("Name of the probe.", str, ("flows", "xdp", "interfaces"), "netmon"),
        "netmon.state": Attribute("State of the probe.", str, ("ok", "degraded", "off"), "netmon"),
        "netmon.bpf.program.name": Attribute("Name of the eBPF program.", str, ("netmon_ingress",), "netmon"),
        "netmon.bpf.map.name": Attribute("Name of the eBPF map.", str, ("flow_table",), "netmon"),
        "receiver": Attribute("Always `otel_netmon`.", str, ("otel_netmon",), "otelcol"),
        "transport": Attribute("Always `ebpf`.", str, ("ebpf",), "otelcol"),
    }
)

_INTERFACE = ("network.interface.name", "network.io.direction", "netmon.network.namespace")
_PROTOCOL = (*_INTERFACE, "network.type", "network.transport")
_FLOW = (
    "client.address",
    "server.address",
    "server.port",
    "network.transport",
    "network.io.direction",
    "otel.metric.overflow",
)
_HTTP = (
    "http.request.method",
    "url.scheme",
    "http.response.status_code",
    "server.address",
    "server.port",
    "network.protocol.version",
    "error.type",
)
DNS_LOOKUP_DURATION = "dns.lookup.duration"
_CONNECTION = ("network.tcp.handshake.role", "server.address", "server.port", "otel.metric.overflow")
_RECEIVER = ("receiver", "transport")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Bounds that the semantic conventions advise for durations."""
_OCTETS = (
    0.0,
    128.0,
    512.0,
    2048.0,
    8192.0,
    32768.0,
    131072.0,
    524288.0,
    2097152.0,
    8388608.0,
    33554432.0,
    134217728.0,
)

_HANDSHAKE_SECONDS = (
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 7.0, 15.0, 31.0, 63.0, 127.0,
)  # fmt: skip
"""From 1 s on the times at which Linux sends a SYN again: each bucket has those that needed so many."""

_CONNECTION_SECONDS = (
    0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0,
)  # fmt: skip
_RTT_SECONDS = tuple(2.0**exponent for exponent in range(RTT_LOWEST_EXPONENT, RTT_LOWEST_EXPONENT + RTT_BUCKETS - 1))
"""Powers of two, as the kernel program counts them: nothing between two of them is known."""

_CONNECTIONS_OF = (
    "The busiest ends have series of their own, all others are in the point with otel.metric.overflow, exactly."
)
_SAMPLED_RTT = "smoothed round-trip times of the kernel, one for each acknowledgement that it measured, over the whole life of the connections"
_COUNTED = (
    "as the interface counts them: on a physical interface wire segments after unfolding GSO and GRO, on a virtual one what "
    "the stack hands over, a super-packet once"
)


def _traffic_metrics() -> Iterable[Metric]:
    yield Metric(
        "system.network.io", "By", "counter", int,
        "Layer-2 bytes of the interface, from the kernel's own interface statistics.",
        _INTERFACE, "semconv",
    )  # fmt: skip
    yield Metric(
        "system.network.packet.count", "{packet}", "counter", int,
        "Packets of the interface, from the kernel's own interface statistics. Virtual interfaces count a GSO packet once, "
        "before it is cut into wire segments.",
        _INTERFACE, "semconv",
    )  # fmt: skip
    yield Metric(
        "system.network.packet.dropped", "{packet}", "counter", int,
        "Packets dropped without an error, from the kernel's own interface statistics.",
        _INTERFACE, "semconv",
    )  # fmt: skip
    yield Metric(
        "system.network.errors", "{error}", "counter", int,
        "Errors of the interface, from the kernel's own interface statistics.",
        _INTERFACE, "semconv",
    )  # fmt: skip
    yield Metric(
        "netmon.protocol.io", "By", "counter", int,
        f"Layer-2 bytes by network and transport protocol, {_COUNTED}.",
        _PROTOCOL,
    )  # fmt: skip
    yield Metric(
        "netmon.protocol.packets", "{packet}", "counter", int,
        f"Packets by network and transport protocol, {_COUNTED}.",
        _PROTOCOL,
    )  # fmt: skip
    yield Metric(
        "netmon.protocol.unparsed", "{packet}", "counter", int,
        "Frames that could not be read, by reason. They are in netmon.protocol.packets too, with the network type `unparsed`.",
        (*_INTERFACE, "netmon.reason"),
    )  # fmt: skip
    yield Metric(
        "netmon.wire.io", "By", "counter", int,
        "Layer-2 bytes of wire segments after unfolding GSO and GRO, each segment with its headers, also on interfaces that have "
        "no wire.",
        _INTERFACE,
    )  # fmt: skip
    yield Metric(
        "netmon.wire.packets", "{packet}", "counter", int,
        "Wire segments after unfolding GSO and GRO, also on interfaces that have no wire.",
        _INTERFACE,
    )  # fmt: skip
    yield Metric(
        "netmon.xdp.io", "By", "counter", int,
        "Layer-2 bytes of received frames as the driver delivers them, before GRO and before the firewall.",
        _PROTOCOL,
    )  # fmt: skip
    yield Metric(
        "netmon.xdp.packets", "{packet}", "counter", int,
        "Received frames as the driver delivers them, before GRO and before the firewall.",
        _PROTOCOL,
    )  # fmt: skip
    yield Metric(
        "netmon.flow.io", "By", "counter", int,
        f"Layer-2 bytes of the largest flows, {_COUNTED}. A packet counts at one edge interface only. All other flows are in the "
        "point with otel.metric.overflow, exactly.",
        _FLOW,
    )  # fmt: skip
    yield Metric(
        "netmon.flow.packets", "{packet}", "counter", int,
        f"Packets of the largest flows, {_COUNTED}. A packet counts at one edge interface only. All other flows are in the point "
        "with otel.metric.overflow, exactly.",
        _FLOW,
    )  # fmt: skip


def _dns_metrics() -> Iterable[Metric]:
    yield Metric(
        DNS_LOOKUP_DURATION, "s", "histogram", float,
        "Time from the first query to its answer. A lookup that was not answered has error.type `timeout` and the time after "
        "which it was given up. Names are folded to a few labels, see probes.dns.name_labels; the busiest have series of their own.",
        (
            "dns.question.name", "netmon.dns.question.type", "netmon.dns.response.code", "server.address",
            "network.transport", "error.type", "otel.metric.overflow",
        ),
        "semconv", bounds=_SECONDS,
    )  # fmt: skip
    yield Metric(
        "netmon.domain.io", "By", "counter", int,
        "Layer-2 bytes of flows to addresses that a DNS answer gave the client for a name, by that name, folded. Counted as "
        "netmon.flow.io; flows to addresses without a name are not in it.",
        ("netmon.domain", "network.io.direction", "otel.metric.overflow"),
    )  # fmt: skip
    yield Metric(
        "netmon.domain.connections", "{connection}", "counter", int,
        "Flows that clients began to addresses that a DNS answer gave them for a name, by that name, folded.",
        ("netmon.domain", "network.io.direction", "otel.metric.overflow"),
    )  # fmt: skip
    yield Metric(
        "netmon.dns.retries", "{query}", "counter", int,
        "Queries that repeat one that waits for its answer; a lookup counts once, whatever its copies.",
        (),
    )  # fmt: skip
    yield Metric(
        "netmon.dns.truncated", "{response}", "counter", int,
        "Answers that did not fit into a datagram (the TC bit).",
        (),
    )  # fmt: skip
    yield Metric(
        "netmon.dns.tcp_retries", "{lookup}", "counter", int,
        "Lookups over TCP that repeat one whose answer was truncated.",
        (),
    )  # fmt: skip
    yield Metric(
        "netmon.dns.unmatched", "{response}", "counter", int,
        "Responses that no open query asked for. `late`: it had timed out; `duplicate`: it was answered before; `wrong_question` "
        "and `wrong_id`: only the other one fits, as when somebody guesses; `unknown`: none of these.",
        ("netmon.reason",),
    )  # fmt: skip
    yield Metric(
        "netmon.dns.nxdomain.ratio", "1", "gauge", float,
        "Share of the answers of the last cycle with answers which say that there is no such name.",
        (),
    )  # fmt: skip
    yield Metric(
        "netmon.dns.search.lookups", "{lookup}", "histogram", float,
        "Lookups that one name cost because of the search list of its client (resolv.conf(5), ndots).",
        (), bounds=(1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0),
    )  # fmt: skip
    resolver = "netmon.dns.encrypted.transport", "server.address", "server.port"
    yield Metric(
        "netmon.dns.encrypted.handshake.duration", "s", "histogram", float,
        "Time of TLS handshakes with resolvers: DNS over TLS by its ALPN name or port 853, DNS over HTTPS by the server's name, see "
        "probes.dns.resolver_names. What is asked inside is sealed and not guessed at. server.address is the resolver's address; "
        "error.type is that of netmon.tls.handshake.duration, where the same handshakes count.",
        (*resolver, "error.type", "otel.metric.overflow"), bounds=_SECONDS,
    )  # fmt: skip
    yield Metric(
        "netmon.dns.encrypted.hellos", "{hello}", "counter", int,
        "ClientHellos of QUIC to resolvers, each client's counted once: DNS over QUIC by its ALPN name or port 853, DNS over HTTPS by "
        "the server's name. The rest of a handshake of QUIC is sealed.",
        (*resolver, "otel.metric.overflow"),
    )  # fmt: skip


def _connection_metrics() -> Iterable[Metric]:
    yield Metric(
        "system.network.connection.count", "{connection}", "updowncounter", int,
        "Connections by state, of the network namespaces that are observed, as sock_diag tells them, and between two of its answers "
        "as the socket hooks do. Of UDP all sockets, without a state.",
        ("network.connection.state", "network.transport", "netmon.network.namespace"), "semconv",
    )  # fmt: skip
    yield Metric(
        "netmon.connection.drift", "{connection}", "gauge", int,
        "What the socket hooks told of the connections in a state, less what sock_diag told at the last comparison.",
        ("network.connection.state", "network.transport", "netmon.network.namespace"),
    )  # fmt: skip
    yield Metric(
        "netmon.connection.untracked", "{connection}", "counter", int,
        "TCP connections, and connects that failed, that had no place in the kernel's table: of other metrics only those of bytes and "
        "retransmits have them, in the points with otel.metric.overflow.",
        ("network.tcp.handshake.role", "error.type"),
    )  # fmt: skip
    yield Metric(
        "netmon.tcp.handshake.duration", "s", "histogram", float,
        "Time from the first SYN of a local process to the end of the handshake, or from the SYN of a peer; with error.type the time "
        "until a connect failed: `refused`, `timed_out`, `host_unreachable`, `net_unreachable`, `not_sent` where it did before there was a "
        "SYN, `cancelled` by the process, `_OTHER`. Its count is that of all connections that began since the agent did, but for "
        f"netmon.connection.untracked. {_CONNECTIONS_OF}",
        (*_CONNECTION, "error.type"), bounds=_HANDSHAKE_SECONDS,
    )  # fmt: skip
    yield Metric(
        "netmon.tcp.connection.duration", "s", "histogram", float,
        "Time from the end of the handshake to the end of the connection, told when it ends; with error.type `reset` or `timed_out` "
        f"where the end was not orderly. Those that are older than the agent are not in it. {_CONNECTIONS_OF}",
        (*_CONNECTION, "error.type"), bounds=_CONNECTION_SECONDS,
    )  # fmt: skip
    yield Metric(
        "netmon.tcp.rtt", "s", "histogram", float,
        f"Round-trip times: {_SAMPLED_RTT}. Counted by powers of two from 30.5 us to 0.5 s; the first bucket has all shorter ones too, the "
        f"last all longer ones. {_CONNECTIONS_OF}",
        _CONNECTION, bounds=_RTT_SECONDS,
    )  # fmt: skip
    yield Metric(
        "netmon.tcp.retransmits", "{packet}", "counter", int,
        f"Segments that the local end sent again. {_CONNECTIONS_OF}",
        (*_CONNECTION, "network.tcp.retransmit.type"),
    )  # fmt: skip
    yield Metric(
        "netmon.tcp.resets", "{packet}", "counter", int,
        f"Segments with RST of connections that were established, by who sent them: `transmit` the local end. {_CONNECTIONS_OF}",
        (*_CONNECTION, "network.io.direction"),
    )  # fmt: skip
    yield Metric(
        "netmon.tcp.zero_windows", "{packet}", "counter", int,
        "Segments that close the window: `transmit` where the local process does not read, `receive` where the peer does not. "
        f"{_CONNECTIONS_OF}",
        (*_CONNECTION, "network.io.direction"),
    )  # fmt: skip
    yield Metric(
        "netmon.tcp.out_of_order", "{packet}", "counter", int,
        f"Segments received that leave a gap before them. {_CONNECTIONS_OF}",
        _CONNECTION,
    )  # fmt: skip
    yield Metric(
        "process.network.io", "By", "counter", int,
        "Payload bytes of TCP and UDP that the process received and transmitted. The resource is the process; what belongs to no "
        "process that is told is in the point with otel.metric.overflow, exactly.",
        ("network.io.direction", "network.transport", "otel.metric.overflow"), "semconv",
    )  # fmt: skip
    yield Metric(
        "container.network.io", "By", "counter", int,
        "Payload bytes of TCP and UDP that the processes of the container received and transmitted. The resource is the container; "
        "containers without a series are in the point with otel.metric.overflow, exactly; processes in no container are not in it.",
        ("network.io.direction", "network.transport", "otel.metric.overflow"), "semconv",
    )  # fmt: skip
    yield Metric(
        "netmon.udp.io", "By", "counter", int,
        "Payload bytes of UDP by process and server: the first peer of a socket that sent first, the socket's own end where the peer "
        "did. What a socket exchanges with other peers than its first has no server. The resource is the process.",
        ("server.address", "server.port", "network.io.direction", "otel.metric.overflow"),
    )  # fmt: skip
    yield Metric(
        "netmon.udp.packets", "{packet}", "counter", int,
        "Datagrams by process and server, see netmon.udp.io. The resource is the process.",
        ("server.address", "server.port", "network.io.direction", "otel.metric.overflow"),
    )  # fmt: skip
    yield Metric(
        "netmon.udp.drops", "{packet}", "counter", int,
        "Datagrams that the kernel dropped because the receive queue of a socket was full, of sockets that lived at a comparison with "
        "sock_diag. The resource is the process.",
        ("otel.metric.overflow",),
    )  # fmt: skip
    yield Metric(
        "netmon.tcp.listen.overflows", "{connection}", "counter", int,
        "Times that a queue of a listening socket was full, from the kernel's own counters: `accept_queue` of connections that wait for "
        "accept(), `request_queue` of half-open ones; `request_queue_cookie` where a SYN cookie was sent in place of a drop.",
        ("netmon.reason", "netmon.network.namespace"),
    )  # fmt: skip
    yield Metric(
        "netmon.tcp.listen.drops", "{connection}", "counter", int,
        "Handshakes that listening sockets dropped, for whatever reason, from the kernel's own counters.",
        ("netmon.network.namespace",),
    )  # fmt: skip
    yield Metric(
        "netmon.tcp.memory_shortage", "{event}", "counter", int,
        "Times that TCP ran short of memory, from the kernel's own counters: `queues_collapsed` to make room in a socket, "
        "`receive_queue_pruned` and `out_of_order_queue_pruned` where segments were thrown away for it, `limit_reached` of all sockets "
        "together.",
        ("netmon.reason", "netmon.network.namespace"),
    )  # fmt: skip
    yield Metric(
        "netmon.stack.drops", "{packet}", "counter", int,
        "Packets that IP, UDP and TCP dropped, from the kernel's own counters, by why. `invalid` are segments that are damaged, `other` "
        "datagrams that a filter or a tunnel refused. Drops by the kernel's own words are netmon.kernel.drops.",
        ("network.type", "network.transport", "network.io.direction", "netmon.reason", "netmon.network.namespace"),
    )  # fmt: skip
    yield Metric(
        "netmon.kernel.drops", "{packet}", "counter", int,
        "Packets that the kernel dropped anywhere on the host, by its own name for the reason (enum skb_drop_reason), or by its number "
        "where neither tracefs nor BTF tell names. `NOT_SPECIFIED` where the kernel gives no reason, `other` for reasons that the "
        "agent has no place for, `missed` for drops while another one was counted on the same CPU.",
        ("netmon.reason",),
    )  # fmt: skip


def _tls_metrics() -> Iterable[Metric]:
    yield Metric(
        "netmon.tls.handshake.duration", "s", "histogram", float,
        "Time from the ClientHello until both sides seal what they send: ChangeCipherSpec before TLS 1.3, in it the client's first "
        "sealed record. A handshake that failed has error.type, the alert's name or `closed`, `reset`, `not_tls`, `timeout` or "
        "`sealed_alert`, and counts with the time until then. server.address is the name that the client asked for, without one "
        "the address; names beyond probes.tls.server_names are `other`.",
        (
            "server.address", "tls.protocol.version", "tls.cipher", "tls.next_protocol", "tls.resumed", "error.type",
            "otel.metric.overflow",
        ),
        bounds=_SECONDS,
    )  # fmt: skip
    yield Metric(
        "netmon.tls.certificate.expiry", "s", "gauge", float,
        "Time until the certificate ends that the server showed last, below zero when it has ended. Certificates are in the clear "
        "up to TLS 1.2; of servers of TLS 1.3 they are there where the agent asks for them itself. Of as many servers as "
        "probes.tls.server_names, for a day after the last handshake.",
        ("server.address", "server.port", "tls.server.issuer", "netmon.tls.certificate.source"),
    )  # fmt: skip
    yield Metric(
        "netmon.tls.weak", "{handshake}", "counter", int,
        "Handshakes with something weak about what the server chose or showed, by kind; one may count under several. And requests "
        "in the clear to where TLS is spoken.",
        ("netmon.tls.weakness", "netmon.tls.certificate.source"),
    )  # fmt: skip
    yield Metric(
        "netmon.tls.datagram_hellos", "{hello}", "counter", int,
        "ClientHellos over UDP, each client's counted once: of QUIC, versions 1 and 2, and of DTLS. server.address is the name "
        "asked for, without one the address; names as in netmon.tls.handshake.duration.",
        ("network.protocol.name", "server.address", "otel.metric.overflow"),
    )  # fmt: skip


def _http_metrics() -> Iterable[Metric]:
    for side, whose in (
        ("server", "Requests are seen where their server is; server.address is its own."),
        (
            "client",
            "Requests are seen where their client is; server.address is the name that it asks for, without one the address.",
        ),
    ):
        attributes = (*_HTTP, "http.route" if side == "server" else "url.template", "otel.metric.overflow")
        yield Metric(
            f"http.{side}.request.duration", "s", "histogram", float,
            "Time from the first octet of a request to the last one of its response, or until it failed. error.type is the "
            "status where that is an error, otherwise how the request ended: `timeout`, `reset`, `no_response`, `incomplete`. "
            f"gRPC calls are in rpc.* alone. {whose}",
            attributes, "semconv", bounds=_SECONDS,
        )  # fmt: skip
        for message in ("request", "response"):
            yield Metric(
                f"http.{side}.{message}.body.size", "By", "histogram", float,
                f"Octets of the {message}'s body as they were sent, of requests that were answered and where they are known; in "
                "chunks of HTTP/1.1 with their sizes where only the kernel has seen them.",
                attributes, "semconv", bounds=_OCTETS,
            )  # fmt: skip
    yield Metric(
        "netmon.http.time_to_first_byte", "s", "histogram", float,
        "Time from the last octet of a request to the first one of its final response, 0 where that came before it.",
        (*_HTTP, "http.route", "url.template", "netmon.http.role", "otel.metric.overflow"), bounds=_SECONDS,
    )  # fmt: skip
    yield Metric(
        "netmon.http.faults", "{fault}", "counter", int,
        "What of HTTP on connections that are followed octet by octet was other than it should be, by reason; what is left of "
        "it is told.",
        ("netmon.reason",),
    )  # fmt: skip
    for side, whose in (
        ("server", "Calls are seen where their server is."),
        ("client", "Calls are seen where their client is."),
    ):
        yield Metric(
            f"rpc.{side}.call.duration", "s", "histogram", float,
            "Time from the first octet of a gRPC call to the last one of its answer, or until it failed. error.type is the status "
            "where that is an error, otherwise how the request ended: `timeout`, `reset`, `no_response`, `incomplete`. Calls "
            f"are not in http.* as well. {whose}",
            (
                "rpc.system.name", "rpc.method", "rpc.response.status_code", "error.type",
                *(("server.address", "server.port") if side == "client" else ()), "otel.metric.overflow",
            ),
            "semconv", bounds=_SECONDS,
        )  # fmt: skip


def _agent_metrics() -> Iterable[Metric]:
    yield Metric(
        "netmon.coverage", "1", "gauge", float,
        "Share of the kernel's own packet count of the interface that the eBPF programs saw, packets compared as the stack "
        "handed them over.",
        _INTERFACE,
    )  # fmt: skip
    yield Metric(
        "netmon.pipeline.items", "{item}", "counter", int,
        "Items that entered a stage of the pipeline, by what became of them. At each stage, produced is the sum of delivered "
        "and dropped.",
        ("netmon.stage", "netmon.outcome", "netmon.reason", "netmon.signal", "netmon.destination"),
    )  # fmt: skip
    yield Metric(
        "netmon.pipeline.cycle.duration", "s", "histogram", float,
        "Time one cycle takes: reading the maps, analysis, points, and the hand-over to the exporters, without their sending.",
        (), bounds=_SECONDS,
    )  # fmt: skip
    yield Metric(
        "otel.sdk.exporter.operation.duration", "s", "histogram", float,
        "Time one attempt takes to send a request by OTLP.",
        (
            "otel.component.name", "otel.component.type", "server.address", "server.port", "error.type",
            "http.response.status_code", "rpc.response.status_code", "otel.metric.overflow",
        ),
        "semconv", bounds=_SECONDS,
    )  # fmt: skip
    yield Metric(
        "netmon.probe.state", "1", "gauge", int,
        "1 for the state that a probe is in.",
        ("netmon.probe", "netmon.state", "netmon.reason"),
    )  # fmt: skip
    yield Metric(
        "netmon.bpf.program.runs", "{run}", "counter", int,
        "Runs of an eBPF program, all its attachments together, as the kernel counts them while its statistics are on.",
        ("netmon.bpf.program.name",),
    )  # fmt: skip
    yield Metric(
        "netmon.bpf.program.run_time", "s", "counter", float,
        "Time spent in an eBPF program, all its attachments together, as the kernel counts it while its statistics are on.",
        ("netmon.bpf.program.name",),
    )  # fmt: skip
    yield Metric(
        "netmon.bpf.map.entries", "{entry}", "updowncounter", int,
        "Entries in use in an eBPF map.",
        ("netmon.bpf.map.name",),
    )  # fmt: skip
    yield Metric(
        "netmon.bpf.map.capacity", "{entry}", "updowncounter", int,
        "Entries an eBPF map can hold.",
        ("netmon.bpf.map.name",),
    )  # fmt: skip
    yield Metric(
        "netmon.series.active", "{series}", "updowncounter", int,
        "Series exported in this cycle, by family.",
        ("netmon.series.family",),
    )  # fmt: skip
    yield Metric(
        "netmon.series.limit", "{series}", "updowncounter", int,
        "Series exported at most, limits.series.",
        (),
    )  # fmt: skip
    yield Metric(
        "netmon.series.folded", "{series}", "updowncounter", int,
        "Attribute sets that counted something in this cycle and have no series of their own: they are in the point with "
        "otel.metric.overflow.",
        ("netmon.series.family",),
    )  # fmt: skip
    yield Metric(
        "netmon.series.distinct", "{value}", "gauge", int,
        "Distinct values of an attribute over the last ten to twenty minutes, those without a series included. "
        "An estimate: the standard error is 3.3 %.",
        ("netmon.series.family", "netmon.series.attribute"),
    )  # fmt: skip
    for outcome, meaning in (
        ("accepted", "pushed into the pipeline"),
        ("refused", "that the pipeline did not take"),
        ("failed", "that failed inside the receiver"),
    ):
        yield Metric(
            f"otelcol_receiver_{outcome}_metric_points", "{datapoint}", "counter", int,
            f"Metric points {meaning}, named as a collector's receiver names them.",
            _RECEIVER, "otelcol", prometheus_only=True,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class EventType:
    """An event (a log record with an event name): when it is told, and the keys of its attributes."""

    description: str
    attributes: tuple[str, ...]


EVENTS: Mapping[str, EventType] = MappingProxyType(
    {
        "netmon.probe.state_changed": EventType(
            "A probe works, or works in part, or does not. The body says why.",
            ("netmon.probe", "netmon.state", "netmon.reason"),
        ),
        "netmon.tls.certificate.expiring": EventType(
            "A server's certificate ends within probes.tls.expiry_warning_days, or has ended. Told once a day for each server and "
            "certificate.",
            (
                "server.address",
                "server.port",
                "tls.server.subject",
                "tls.server.issuer",
                "tls.server.not_before",
                "tls.server.not_after",
                "tls.server.hash.sha256",
                "netmon.tls.certificate.source",
            ),
        ),
        "netmon.tls.certificate.unread": EventType(
            "A server showed no certificate to a handshake of the agent's own (probes.tls.certificate). Told when it was asked, at "
            "most once a day.",
            ("server.address", "server.port", "netmon.reason"),
        ),
        "netmon.tls.weak": EventType(
            "What a server chose or showed is weak. Told once a day for each server and kind.",
            (
                "server.address",
                "server.port",
                "netmon.tls.weakness",
                "tls.protocol.version",
                "tls.cipher",
                "tls.server.subject",
                "tls.server.issuer",
                "tls.server.not_before",
                "tls.server.not_after",
                "tls.server.hash.sha256",
                "netmon.tls.certificate.source",
            ),
        ),
        "netmon.series.folded": EventType(
            "A family of metrics begins to fold attribute sets into the overflow point. Told once for each time of shedding.",
            ("netmon.series.family",),
        ),
        "netmon.tcp.reset_burst": EventType(
            "Connections of one server are reset so often as probes.connections.reset_burst_per_second says. Told once for each time of "
            "trouble. Without a server: of those without a series together.",
            ("network.tcp.handshake.role", "server.address", "server.port"),
        ),
        "netmon.tcp.connect_failures": EventType(
            "Connects to one server fail so often as probes.connections.connect_failures_per_second says. Told as a burst of resets.",
            ("network.tcp.handshake.role", "server.address", "server.port"),
        ),
        "netmon.tcp.listen_overflow": EventType(
            "A queue of a listening socket is full. Told once for each time of trouble; the reasons are those of "
            "netmon.tcp.listen.overflows.",
            ("netmon.reason", "netmon.network.namespace"),
        ),
    }
)

CATALOGUE: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metrics in (
            _traffic_metrics(),
            _dns_metrics(),
            _connection_metrics(),
            _tls_metrics(),
            _http_metrics(),
            _agent_metrics(),
        )
        for metric in metrics
    }
)


def markdown() -> str:
    """The page docs/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "Generated from the catalogue by `python -m otel_netmon.otel.catalogue`; do not edit.",
        "",
        f"Semantic conventions: <{SCHEMA_URL}>. Instrumentation scope: `{SCOPE_NAME}`. Sums are cumulative.",
        "Sources: `semconv` the OpenTelemetry semantic conventions, `otel` the OpenTelemetry specification, `otelcol` the",
        "OpenTelemetry Collector's own telemetry, `netmon` this project. Prometheus names follow from the OpenTelemetry ones by",
        "the specification's compatibility rules.",
    ]
    for metric in CATALOGUE.values():
        keys = ", ".join(f"`{key}`" for key in metric.attributes) or "none"
        row = (
            f"| {metric.kind} | `{metric.unit}` | {metric.value_type.__name__} | {metric.source} "
            f"| `{metric.prometheus_name}` | {'no' if metric.prometheus_only else 'yes'} |"
        )
        lines += [
            "",
            f"## {metric.name}",
            "",
            metric.description,
            "",
            "| kind | unit | value | source | Prometheus | sent by OTLP |",
            "|---|---|---|---|---|---|",
            row,
            "",
            f"Attributes: {keys}.",
        ]
    lines += ["", "# Events", "", "Log records with an event name, sent by OTLP.", ""]
    lines += ["| event | when | attributes |", "|---|---|---|"]
    for name, event in EVENTS.items():
        keys = ", ".join(f"`{key}`" for key in event.attributes)
        lines.append(f"| `{name}` | {event.description} | {keys} |")
    lines += ["", "# Spans", ""]
    lines += [
        "Beside the attributes of the semantic conventions and those below, spans have these; times are in seconds.",
        "",
    ]
    lines += ["| key | spans | type | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{key}` | {each.spans} | {each.type.__name__} | {each.description} |"
        for key, each in SPAN_ATTRIBUTES.items()
    ]
    lines += [
        "",
        "# Attributes",
        "",
        "| key | Prometheus label | type | meaning | examples | source |",
        "|---|---|---|---|---|---|",
    ]
    for key, attribute in ATTRIBUTES.items():
        examples = ", ".join(
            f"`{str(value).lower() if isinstance(value, bool) else value}`" for value in attribute.examples
        )
        lines.append(
            f"| `{key}` | `{prometheus_names.label_name(key)}` | {attribute.type.__name__} | {attribute.description} "
            f"| {examples} | {attribute.source} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())

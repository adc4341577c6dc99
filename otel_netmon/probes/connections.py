"""TCP connections and UDP sockets of local processes."""

from __future__ import annotations

from otel_netmon.probes.base import Probe

CONNECTIONS = Probe(
    name="connections",
    summary="TCP connections and UDP of local processes in every network namespace: who, how well, and why they fail",
    image="socket_monitor",
    hooks=("cgroup v2: connect, bind, release of sockets, sockops, packets of sockets in and out", "sock_diag"),
    programs=(),
    maps=("connection_stats", "connection_totals", "connections"),
    metrics=(
        "system.network.connection.count",
        "netmon.connection.drift",
        "netmon.connection.untracked",
        "netmon.tcp.handshake.duration",
        "netmon.tcp.connection.duration",
        "netmon.tcp.rtt",
        "netmon.tcp.retransmits",
        "netmon.tcp.resets",
        "netmon.tcp.zero_windows",
        "netmon.tcp.out_of_order",
        "process.network.io",
        "container.network.io",
    ),
    capabilities=("CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"),
    by_default="on",
)

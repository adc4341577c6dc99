"""TCP connections and UDP sockets of local processes."""

from __future__ import annotations

from otel_netmon.probes.base import Probe

CONNECTIONS = Probe(
    name="connections",
    summary="TCP connections and UDP of local processes in every network namespace: who, how well, and why they fail",
    image="socket_monitor",
    hooks=(
        "cgroup v2: socket, post_bind, connect, getpeername, sock_release, sockops, packets of sockets in and out",
        "NETLINK_SOCK_DIAG",
    ),
    programs=(
        "netmon_sockops",
        "netmon_release",
        "netmon_ingress",
        "netmon_egress",
        "netmon_accept4",
        "netmon_accept6",
        "netmon_connect4",
        "netmon_connect6",
        "netmon_bind4",
        "netmon_bind6",
        "netmon_socket",
    ),
    maps=(
        "connection_stats",
        "connection_zero",
        "connection_totals",
        "connection_counts",
        "connection_scratch",
        "connections_unplaced",
        "connections",
        "listeners",
        "syn_times",
        "udp_stats",
        "udp_zero",
        "udp_records",
        "udp_closed",
        "udp_full",
        "unreachable",
    ),
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
        "netmon.udp.io",
        "netmon.udp.packets",
        "netmon.udp.drops",
        "process.network.io",
        "container.network.io",
    ),
    capabilities=("CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"),
    by_default="on",
)

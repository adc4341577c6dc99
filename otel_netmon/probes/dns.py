"""DNS lookups, paired in the kernel."""

from __future__ import annotations

from otel_netmon.probes.base import Probe

DNS = Probe(
    name="dns",
    summary="DNS lookups with resolver, answer and time, and traffic by the name behind an address",
    image="tc_monitor",
    hooks=("called for packets of the ports of DNS by the programs of flows, or of connections (messages.vantage)",),
    programs=("netmon_dns",),
    maps=("message_ports", "message_programs", "message_scratch", "message_counts", "messages", "dns_cache"),
    metrics=(
        "dns.lookup.duration",
        "netmon.dns.retries",
        "netmon.dns.truncated",
        "netmon.dns.tcp_retries",
        "netmon.dns.unmatched",
        "netmon.dns.nxdomain.ratio",
        "netmon.dns.search.lookups",
        "netmon.dns.encrypted.handshake.duration",
        "netmon.dns.encrypted.hellos",
        "netmon.domain.io",
        "netmon.domain.connections",
    ),
    capabilities=("CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"),
    by_default="on",
    host_image="socket_monitor",
)

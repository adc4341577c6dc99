"""The kernel's own protocol counters."""

from __future__ import annotations

from otel_netmon.probes.base import Probe

NETSTAT = Probe(
    name="netstat",
    summary="what the network stack drops, and queues of listening sockets that overflow",
    image="",
    hooks=("/proc/net/netstat", "/proc/net/snmp", "/proc/net/snmp6"),
    programs=(),
    maps=(),
    metrics=(
        "netmon.tcp.listen.overflows",
        "netmon.tcp.listen.drops",
        "netmon.tcp.memory_shortage",
        "netmon.stack.drops",
    ),
    capabilities=(),
    by_default="on",
)

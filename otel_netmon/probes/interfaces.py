"""The kernel's own interface counters."""

from __future__ import annotations

from otel_netmon.probes.base import Probe

INTERFACES = Probe(
    name="interfaces",
    summary="the kernel's own interface counters, and how much of them the programs saw",
    image="",
    hooks=("/proc/net/dev",),
    programs=(),
    maps=(),
    metrics=(
        "system.network.io",
        "system.network.packet.count",
        "system.network.packet.dropped",
        "system.network.errors",
        "netmon.coverage",
    ),
    capabilities=(),
    by_default="on",
)

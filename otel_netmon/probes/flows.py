"""Exact flows and protocol totals from tc."""

from __future__ import annotations

from otel_netmon.probes.base import Probe

FLOWS = Probe(
    name="flows",
    summary="exact flows, and totals by interface and protocol",
    image="tc_monitor",
    hooks=("TCX ingress and egress (clsact before Linux 6.6)",),
    programs=("netmon_receive", "netmon_transmit", "netmon_sweep", "netmon_mark", "netmon_clock", "netmon_errors"),
    maps=(
        "flow_table",
        "protocol_stats",
        "hook_totals",
        "agent_state",
        "flow_filter",
        "unreachable",
    ),
    metrics=(
        "netmon.flow.io",
        "netmon.flow.packets",
        "netmon.protocol.io",
        "netmon.protocol.packets",
        "netmon.protocol.unparsed",
        "netmon.wire.io",
        "netmon.wire.packets",
        "netmon.coverage",
    ),
    capabilities=("CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"),
    by_default="on",
)

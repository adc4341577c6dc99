"""Frames by protocol as the driver delivers them."""

from __future__ import annotations

from otel_netmon.probes.base import Probe

XDP = Probe(
    name="xdp",
    summary="frames by protocol before GRO and the firewall",
    image="xdp_monitor",
    hooks=("XDP, native",),
    programs=("netmon_xdp",),
    maps=("protocol_stats", "agent_state"),
    metrics=("netmon.xdp.io", "netmon.xdp.packets"),
    capabilities=("CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"),
    by_default="off: attaching native XDP resets the rings of some drivers and changes how veth batches",
)

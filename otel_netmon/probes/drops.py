"""Packets that the kernel drops, by its own reasons."""

from __future__ import annotations

from otel_netmon.probes.base import Probe

DROPS = Probe(
    name="drops",
    summary="packets that the kernel dropped, by its own reasons, on the whole host",
    image="drop_monitor",
    hooks=("raw tracepoint skb/kfree_skb",),
    programs=("netmon_drop", "netmon_drop_any"),
    maps=("drop_counts",),
    metrics=("netmon.kernel.drops",),
    capabilities=("CAP_BPF", "CAP_PERFMON"),
    by_default="on",
)

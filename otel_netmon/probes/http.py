"""Requests of HTTP and gRPC, told by their content."""

from __future__ import annotations

from otel_netmon.probes.base import Probe

HTTP = Probe(
    name="http",
    summary="Requests of HTTP and gRPC in clear with method, route, status, times and sizes, on any port",
    image="tc_monitor",
    hooks=("called by the programs of flows, or of connections (messages.vantage), until a direction is decided",),
    programs=("netmon_stream", "netmon_http", "netmon_http2", "netmon_quiet"),
    maps=("message_programs", "message_scratch", "message_counts", "messages", "http_connections", "http_fresh"),
    metrics=(
        "http.server.request.duration",
        "http.server.request.body.size",
        "http.server.response.body.size",
        "http.client.request.duration",
        "http.client.request.body.size",
        "http.client.response.body.size",
        "netmon.http.time_to_first_byte",
        "netmon.http.faults",
        "rpc.server.call.duration",
        "rpc.client.call.duration",
    ),
    capabilities=("CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"),
    by_default="on",
    host_image="socket_monitor",
)

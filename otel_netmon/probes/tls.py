"""TLS handshakes, told by their content."""

from __future__ import annotations

from otel_netmon.probes.base import Probe

TLS = Probe(
    name="tls",
    summary="TLS handshakes with server, version, cipher, time and outcome, certificates, and hellos of QUIC and DTLS",
    image="tc_monitor",
    hooks=("called by the programs of flows, or of connections (messages.vantage), until a direction is decided",),
    programs=("netmon_stream",),
    maps=("message_programs", "message_scratch", "message_counts", "messages"),
    metrics=(
        "netmon.tls.handshake.duration",
        "netmon.tls.certificate.expiry",
        "netmon.tls.weak",
        "netmon.tls.datagram_hellos",
    ),
    capabilities=("CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"),
    by_default="on",
    host_image="socket_monitor",
)

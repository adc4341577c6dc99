"""Requests of HTTP and gRPC inside of TLS, as processes with OpenSSL write and read them."""

from __future__ import annotations

from otel_netmon.probes.base import Probe

TLS_PLAINTEXT = Probe(
    name="tls_plaintext",
    summary="Requests of HTTP and gRPC inside of TLS, by what processes write to OpenSSL and read from it",
    image="plaintext_monitor",
    hooks=(
        "uprobes at SSL_read, SSL_write and their _ex forms, SSL_new, SSL_free, SSL_clear, SSL_set_fd",
        "cgroup v2: packets of sockets out",
    ),
    programs=(
        "netmon_ssl_read",
        "netmon_ssl_write",
        "netmon_ssl_read_ex",
        "netmon_ssl_write_ex",
        "netmon_ssl_write_ex2",
        "netmon_ssl_sendfile",
        "netmon_ssl_return",
        "netmon_ssl_new",
        "netmon_ssl_free",
        "netmon_ssl_renew",
        "netmon_stream",
        "netmon_http",
        "netmon_http2",
        "netmon_sealed",
        "netmon_quiet",
    ),
    maps=(
        "sessions",
        "session_counts",
        "writers",
        "calls",
        "looking",
        "flow_table",
        "flow_zero",
        "message_ports",
        "message_programs",
        "message_scratch",
        "message_counts",
        "messages",
        "http_connections",
        "http_fresh",
    ),
    metrics=(
        "http.server.request.duration",
        "http.client.request.duration",
        "netmon.http.time_to_first_byte",
        "rpc.server.call.duration",
        "rpc.client.call.duration",
    ),
    capabilities=("CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON", "CAP_SYS_PTRACE"),
    by_default="off: it looks into what processes hold in clear, and each call to OpenSSL costs them some 2.5 µs",
)

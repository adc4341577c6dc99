"""The structs of bpf/include/netmon_abi.h as numpy dtypes, little-endian hosts.

Each dtype has the size and the offsets of its C struct; tests/kernel/test_abi.py compiles the header and compares.
"""

from __future__ import annotations

import numpy as np

from otel_netmon.abi.enums import DROPS_SLOTS

FLOW_KEY = np.dtype(
    [
        ("source", "u1", 16),
        ("destination", "u1", 16),
        ("ifindex", "<u4"),
        ("source_port", ">u2"),
        ("destination_port", ">u2"),
        ("protocol", "u1"),
        ("direction", "u1"),
        ("namespace", "u1"),
        ("flags", "u1"),
    ]
)
"""struct netmon_flow_key: 44 bytes; addresses in network order, IPv4 as v4-mapped IPv6."""

COUNTERS = np.dtype([("packets", "<u8"), ("bytes", "<u8"), ("extra_packets", "<u8"), ("extra_bytes", "<u8")])
"""struct netmon_counters: cumulative; extra_* is what unfolding GSO and GRO super-packets adds on the wire."""

FLOW = np.dtype(
    [
        ("packets", "<u8"),
        ("bytes", "<u8"),
        ("last", "<u8"),
        ("next_sequence", "<u4"),
        ("tcp_flags", "<u2"),
        ("sequence_state", "u1"),
        ("closing", "u1"),
        ("extra_packets", "<u8"),
        ("extra_bytes", "<u8"),
        ("first_ns", "<u8"),
        ("initial_sequence", "<u4"),
        ("retransmits", "<u4"),
        ("resets", "<u4"),
        ("ingress_ifindex", "<u4"),
        ("stream_next", "<u4"),
        ("stream_handed", "<u2"),
        ("stream_looked", "u1"),
        ("stream_stage", "u1"),
    ]
)
"""struct netmon_flow: 80 bytes; first_ns is CLOCK_MONOTONIC, last is jiffies64 (both capture time in a replay)."""

PROTOCOL_KEY = np.dtype(
    [
        ("ifindex", "<u4"),
        ("ethertype", "<u2"),
        ("reason", "<u2"),
        ("protocol", "u1"),
        ("direction", "u1"),
        ("namespace", "u1"),
        ("kind", "u1"),
    ]
)
"""struct netmon_protocol_key: 12 bytes."""

STATE = np.dtype(
    [
        ("full_until", "<u8"),
        ("inserts", "<u8"),
        ("full_events", "<u8"),
        ("lost_rows", "<u8"),
        ("jiffies", "<u8"),
        ("monotonic_ns", "<u8"),
        ("zero", "<u8"),
    ]
)
"""struct netmon_state: the one entry of agent_state."""

PORTS = np.dtype([("filter", "<u8", 8), ("protocols", "u1", 65536)])
"""struct netmon_ports: the one entry of message_ports; ``kernel.messages.ports_value`` makes it."""

MESSAGE = np.dtype(
    [
        ("time_ns", "<u8"),
        ("request_time_ns", "<u8"),
        ("first_request_time_ns", "<u8"),
        ("cgroup", "<u8"),
        ("source", "u1", 16),
        ("destination", "u1", 16),
        ("ifindex", "<u4"),
        ("ingress_ifindex", "<u4"),
        ("sequence", "<u4"),
        ("acknowledgment", "<u4"),
        ("initial_sequence", "<u4"),
        ("payload_length", "<u4"),
        ("retries", "<u4"),
        ("captured_length", "<u2"),
        ("tcp_flags", "u1"),
        ("sequence_state", "u1"),
        ("source_port", ">u2"),
        ("destination_port", ">u2"),
        ("protocol", "u1"),
        ("kind", "u1"),
        ("direction", "u1"),
        ("namespace", "u1"),
    ]
)
"""struct netmon_message: 104 bytes, the head of a record of the ring buffer; captured_length bytes of payload follow it.

What is said about a packet is said about the one that is carried: of a DNS_ANSWER the response, its source the resolver.
But its direction, ingress_ifindex and cgroup are the query's, so that a lookup counts where its query does, answered or not.
Of namespace NAMESPACE_SOCKET ifindex holds the lower 32 bits of the socket's cookie, and cgroup is known of what it sends.
Times are CLOCK_MONOTONIC in ns, in a replay the capture's.
"""

HTTP = np.dtype(
    [
        ("request_first_ns", "<u8"),
        ("request_last_ns", "<u8"),
        ("response_first_ns", "<u8"),
        ("response_last_ns", "<u8"),
        ("request_octets", "<u8"),
        ("response_octets", "<u8"),
        ("request_head", "<u2"),
        ("response_head", "<u2"),
        ("status", "<u2"),
        ("interim", "<u2"),
        ("interims", "<u2"),
        ("flags", "<u2"),
        ("reserved", "<u4"),
    ]
)
"""struct netmon_http: 64 bytes; what a record of kind HTTP begins its payload with, before the head of the request.

Times are as in MESSAGE, 0 where nothing was seen. Octets are of head and body, as they were sent. request_head and
response_head are octets with the empty line, 0 where that was not captured.
"""

SESSION = np.dtype(
    [("address", "u1", 16), ("cookie", "<u8"), ("ended", "<u4"), ("reserved", "<u4")],
)
"""struct netmon_session: 32 bytes; what a record of kind SESSION carries. address stands for both ends in other records of it."""

QUERY_KEY = np.dtype(
    [
        ("client", "u1", 16),
        ("server", "u1", 16),
        ("question_hash", "<u8"),
        ("ifindex", "<u4"),
        ("client_port", ">u2"),
        ("server_port", ">u2"),
        ("id", "<u2"),
        ("direction", "u1"),
        ("namespace", "u1"),
        ("reserved", "<u4"),
    ]
)
"""struct netmon_query_key: 56 bytes; the key of dns_cache. The id is in host order."""

QUERY = np.dtype(
    [
        ("first_ns", "<u8"),
        ("last_ns", "<u8"),
        ("cgroup", "<u8"),
        ("ingress_ifindex", "<u4"),
        ("retries", "<u4"),
        ("header_flags", "<u2"),
        ("question_length", "<u2"),
        ("reserved", "<u4"),
        ("question", "u1", 264),
    ]
)
"""struct netmon_query: 304 bytes; an open query. question holds question_length bytes: name, type, class as on the wire."""

CONNECTION = np.dtype(
    [
        ("cookie", "<u8"),
        ("netns", "<u8"),
        ("cgroup", "<u8"),
        ("begin_ns", "<u8"),
        ("established_ns", "<u8"),
        ("end_ns", "<u8"),
        ("handshake_ns", "<u8"),
        ("bytes_received", "<u8"),
        ("bytes_sent", "<u8"),
        ("rtt_sum_us", "<u8"),
        ("local", "u1", 16),
        ("remote", "u1", 16),
        ("tgid", "<u4"),
        ("closer_tgid", "<u4"),
        ("segments_received", "<u4"),
        ("segments_sent", "<u4"),
        ("data_received", "<u4"),
        ("data_sent", "<u4"),
        ("rtt_count", "<u4"),
        ("rtt_us", "<u4"),
        ("rtt_min_us", "<u4"),
        ("rtt_max_us", "<u4"),
        ("retransmits", "<u4", 6),
        ("timeouts", "<u4"),
        ("zero_windows_received", "<u4"),
        ("zero_windows_sent", "<u4"),
        ("out_of_order", "<u4"),
        ("rtt_buckets", "<u4", 16),
        ("recovery_point", "<u4"),
        ("next_sequence", "<u4"),
        ("early_first", "<u4", 4),
        ("early_end", "<u4", 4),
        ("fin_sequence", "<u4"),
        ("refreshed", "<u4"),
        ("probe_segments", "<u4"),
        ("local_port", ">u2"),
        ("remote_port", ">u2"),
        ("flags", "<u2"),
        ("role", "u1"),
        ("state", "u1"),
        ("previous_state", "u1"),
        ("ending", "u1"),
        ("who", "u1"),
        ("icmp_type", "u1"),
        ("icmp_code", "u1"),
        ("family", "u1"),
        ("released", "u1"),
        ("reset_received", "u1"),
        ("reset_sent", "u1"),
        ("noticed", "u1"),
        ("sequence_state", "u1"),
        ("probes", "u1"),
        ("comm", "S16"),
    ]
)
"""struct netmon_connection: 344 bytes; a row of connection_stats and a record of the ring buffer connections.

The header says what each field means. comm ends at its first NUL, which numpy leaves out.
"""

UDP = np.dtype(
    [
        ("cookie", "<u8"),
        ("netns", "<u8"),
        ("cgroup", "<u8"),
        ("begin_ns", "<u8"),
        ("end_ns", "<u8"),
        ("bytes_received", "<u8"),
        ("bytes_sent", "<u8"),
        ("packets_received", "<u8"),
        ("packets_sent", "<u8"),
        ("other_bytes_received", "<u8"),
        ("other_bytes_sent", "<u8"),
        ("other_packets_received", "<u8"),
        ("other_packets_sent", "<u8"),
        ("local", "u1", 16),
        ("remote", "u1", 16),
        ("tgid", "<u4"),
        ("closer_tgid", "<u4"),
        ("local_port", ">u2"),
        ("remote_port", ">u2"),
        ("flags", "<u2"),
        ("role", "u1"),
        ("who", "u1"),
        ("comm", "S16"),
    ]
)
"""struct netmon_udp: 168 bytes; a row of udp_stats and a record of the ring buffer udp_records."""

CONNECTION_TOTALS = np.dtype(
    [
        ("connections", "<u8"),
        ("bytes_received", "<u8"),
        ("bytes_sent", "<u8"),
        ("packets_received", "<u8"),
        ("packets_sent", "<u8"),
        ("retransmits", "<u8"),
    ]
)
"""struct netmon_connection_totals: an entry of connection_totals, what had no place in a table."""

DROPS = np.dtype([("packets", "<u8", DROPS_SLOTS)])
"""struct netmon_drops: the one entry of drop_counts."""

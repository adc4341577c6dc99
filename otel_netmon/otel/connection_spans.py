"""Connections that ended to spans, one each, of those that the keep rule keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.abi.enums import ConnectionFlags, Ending, Retransmit, Role
from otel_netmon.analysis.connections import Gains, error_type
from otel_netmon.analysis.sampling import KeepRule
from otel_netmon.enrich.addresses import address_text
from otel_netmon.otel.attributes import Tag, Value, encode
from otel_netmon.otel.kept_spans import kept_roots
from otel_netmon.otel.spans import SpanBatch, SpanKind

CONNECTED, FAILED = "TCP connection", "TCP connect"
"""Names of spans: of a connection, and of a connect that came to none."""

_KIND = 1 << 32  # apart from the kinds of other spans
_MESSAGES = {
    Ending.RESET_LOCAL: "this end reset the connection",
    Ending.RESET_REMOTE: "the other end reset the connection",
    Ending.TIMED_OUT: "the other end did not answer any more",
    Ending.REFUSED: "the connect was refused",
    Ending.CONNECT_TIMED_OUT: "the connect was not answered",
    Ending.HOST_UNREACHABLE: "the host cannot be reached",
    Ending.NET_UNREACHABLE: "the network cannot be reached",
    Ending.NOT_SENT: "the connect failed before a segment was sent",
    Ending.ABANDONED: "the process gave the connect up",
    Ending.CONNECT_UNKNOWN: "the connect failed",
}


class KeptConnections(NamedTuple):
    """Spans that the keep rule keeps, and which they are.

    Attributes:
        batch: the spans.
        kept: intp, their places among the connections.
    """

    batch: SpanBatch
    kept: npt.NDArray[np.intp]


def connection_spans(
    gains: Gains, resource: Callable[[int], bytes], rule: KeepRule, unix_offset_ns: int, now_ns: int
) -> KeptConnections:
    """Gives a span for each connection that the rule keeps; slow is one whose handshake was slow.

    Those that are older than the agent have none: nobody knows when they began.

    Args:
        gains: of connections that ended.
        resource: gives the encoded attributes of whose one is, by its place.
        unix_offset_ns: what makes Unix time of CLOCK_MONOTONIC.
        now_ns: CLOCK_MONOTONIC.
    """
    candidates = np.flatnonzero(gains.rows["flags"] & int(ConnectionFlags.ADOPTED) == 0)
    rows = gains.rows[candidates]
    ending = rows["ending"].astype(np.int64)
    errors = np.isin(ending, list(_MESSAGES))
    port = np.where(rows["role"] == Role.SERVER, rows["local_port"], rows["remote_port"]).astype(np.int64)
    kinds = _KIND | rows["role"].astype(np.int64) << 24 | ending << 16 | port
    roots = kept_roots(rule, kinds, gains.handshake_ns[candidates], errors, now_ns)
    rows, kept = rows[roots.places], candidates[roots.places]
    failed = rows["ending"] >= Ending.REFUSED
    batch = roots.batch(
        names=[FAILED if each else CONNECTED for each in failed.tolist()],
        kinds=np.where(rows["role"] == Role.SERVER, SpanKind.SERVER, SpanKind.CLIENT).astype(np.uint8),
        start_ns=rows["begin_ns"] + np.uint64(unix_offset_ns),
        end_ns=rows["end_ns"] + np.uint64(unix_offset_ns),
        attributes=[
            encode(_attributes(row, int(handshake)), Tag.SPAN)
            for row, handshake in zip(rows, gains.handshake_ns[kept].tolist(), strict=True)
        ],
        messages=[_MESSAGES.get(Ending(each), "") for each in rows["ending"].tolist()],
        resources=[resource(place) for place in kept.tolist()],
    )
    return KeptConnections(batch, kept)


def _attributes(row: npt.NDArray[Any], handshake_ns: int) -> dict[str, Value]:
    ends = {
        "local": (address_text(row["local"].tobytes()), int(row["local_port"])),
        "peer": (address_text(row["remote"].tobytes()), int(row["remote_port"])),
    }
    client, server = ("peer", "local") if row["role"] == Role.SERVER else ("local", "peer")
    ending = Ending(int(row["ending"]))
    attributes: dict[str, Value] = {
        "client.address": ends[client][0],
        "client.port": ends[client][1],
        "server.address": ends[server][0],
        "server.port": ends[server][1],
        "network.local.address": ends["local"][0],
        "network.local.port": ends["local"][1],
        "network.peer.address": ends["peer"][0],
        "network.peer.port": ends["peer"][1],
        "network.transport": "tcp",
        "network.type": "ipv6" if ":" in ends["peer"][0] else "ipv4",
        "netmon.tcp.ending": ending.name.lower(),
    }
    failure = error_type(ending)
    if failure is not None:
        attributes["error.type"] = failure
    if ending < Ending.REFUSED:
        attributes["netmon.tcp.handshake.duration"] = handshake_ns / 1e9
    counts: dict[str, Value] = {
        "netmon.tcp.io.receive": int(row["bytes_received"]),
        "netmon.tcp.io.transmit": int(row["bytes_sent"]),
        "netmon.tcp.retransmits": int(row["retransmits"].sum()),
        "netmon.tcp.retransmits.syn": int(row["retransmits"][Retransmit.SYN]),
        "netmon.tcp.zero_windows.receive": int(row["zero_windows_received"]),
        "netmon.tcp.zero_windows.transmit": int(row["zero_windows_sent"]),
        "netmon.tcp.out_of_order": int(row["out_of_order"]),
        "netmon.icmp.type": int(row["icmp_type"]),
        "netmon.icmp.code": int(row["icmp_code"]),
    }
    attributes |= {key: value for key, value in counts.items() if value or key.startswith("netmon.tcp.io.")}
    if row["rtt_count"]:
        attributes["netmon.tcp.rtt.min"] = int(row["rtt_min_us"]) / 1e6
        attributes["netmon.tcp.rtt.max"] = int(row["rtt_max_us"]) / 1e6
        attributes["netmon.tcp.rtt.mean"] = int(row["rtt_sum_us"]) / int(row["rtt_count"]) / 1e6
        attributes["netmon.tcp.rtt.last"] = int(row["rtt_us"]) / 1e6
    return attributes

"""Records of kind HTTP as the kernel makes them, without a kernel."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any

import numpy as np

from otel_netmon.abi import layout
from otel_netmon.abi.enums import HttpFlags, MessageKind
from otel_netmon.readers.messages import Messages
from support.http_messages import MILLISECOND, request

COMPLETE = int(HttpFlags.COMPLETE)
CLIENT, SERVER = "192.0.2.1", "192.0.2.2"
IFINDEX = 3

Event = tuple[np.void, np.void, bytes]
"""The head of a record, what the kernel knows of the exchange, and what it has captured of the request's head."""


def event(  # noqa: PLR0913 - fields of a record
    head: bytes | None = None,
    status: int = 200,
    *,
    flags: int = COMPLETE,
    begun_ns: int = MILLISECOND,
    sending_ns: int = 0,
    waiting_ns: int = MILLISECOND,
    receiving_ns: int = 0,
    request_body: int = 0,
    response_body: int = 0,
    captured: int | None = None,
    told_ns: int = 0,
    client_port: int = 40000,
    server: str = SERVER,
    server_port: int = 8080,
    direction: int = 0,
    **fields: int,
) -> Event:
    """One record; captured: so much of the head alone."""
    head = request("GET /a", "Host: a.example") if head is None else head
    octets = head if captured is None else head[:captured]
    row = np.zeros(1, layout.MESSAGE)[0]
    http = np.zeros(1, layout.HTTP)[0]
    sent = begun_ns + sending_ns
    http["request_first_ns"], http["request_last_ns"] = begun_ns, sent
    if status:
        http["response_first_ns"] = sent + waiting_ns
        http["response_last_ns"] = sent + waiting_ns + receiving_ns
        http["response_head"], http["response_octets"] = 100, 100 + response_body
    http["request_head"] = len(head) if captured is None else 0
    http["request_octets"] = len(head) + request_body
    http["status"], http["flags"] = status, flags
    mapped = b"\0" * 10 + b"\xff\xff"
    row["source"] = np.frombuffer(mapped + socket.inet_aton(CLIENT), np.uint8)
    row["destination"] = np.frombuffer(mapped + socket.inet_aton(server), np.uint8)
    row["source_port"], row["destination_port"] = client_port, server_port
    row["time_ns"] = told_ns or sent + waiting_ns + receiving_ns
    row["ifindex"], row["direction"], row["kind"] = IFINDEX, direction, MessageKind.HTTP
    row["captured_length"] = layout.HTTP.itemsize + len(octets)
    for name, value in fields.items():
        (http if name in (layout.HTTP.names or ()) else row)[name] = value
    return row, http, octets


def messages(events: Iterable[Event]) -> Messages:
    """Records as a drain of the ring gives them."""
    heads: list[Any] = []
    starts, data = [], bytearray()
    for row, http, octets in events:
        heads.append(row)
        starts.append(len(data))
        data += http.tobytes() + octets
        data += bytes(-len(data) % 8)
    rows = np.array(heads, layout.MESSAGE) if heads else np.empty(0, layout.MESSAGE)
    return Messages(rows, bytes(data), np.array(starts, np.int64))

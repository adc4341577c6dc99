"""Handshakes as the kernel hands them over live: records of the ring, up to the header of the first application data of each side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from otel_netmon.abi import layout
from otel_netmon.abi.enums import SEQUENCE_CLIENT, SEQUENCE_INITIAL, SEQUENCE_SERVER, MessageKind
from otel_netmon.analysis.tcp_stream import ACK, FIN, RST
from otel_netmon.readers.messages import Messages
from support.tcp_talk import Packet, Talk
from support.tls_talk import Flight

_APPLICATION_DATA = 23
_HEADER_OCTETS = 5


def handed_over(flights: list[Flight]) -> list[Flight]:
    """What leaves the kernel of what is said."""
    left: list[Flight] = []
    over = set()
    for from_client, data in flights:
        at = 0
        while at < len(data) and from_client not in over:
            if data[at] == _APPLICATION_DATA:
                over.add(from_client)
                at += _HEADER_OCTETS
                break
            at += _HEADER_OCTETS + int.from_bytes(data[at + 3 : at + 5], "big")
        if at:
            left.append((from_client, data[:at]))
    return left


def records(talk: Talk, packets: Sequence[Packet], *, loopback: bool = False) -> list[bytes]:
    """The records of a connection's packets; on loopback each is there twice."""
    client = talk.ends[0]
    made = []
    for seen, segment in packets:
        if not segment.length and not segment.flags & (FIN | RST):
            continue
        from_client = seen.source == client
        head = np.zeros(1, layout.MESSAGE)
        head["time_ns"] = segment.time_ns
        for name, end in (("source", seen.source), ("destination", seen.destination)):
            head[name] = np.frombuffer(end[:16], "u1")
            head[f"{name}_port"] = int.from_bytes(end[16:], "big")
        head["ifindex"], head["direction"] = seen.ifindex, seen.direction
        head["sequence"] = segment.sequence
        head["acknowledgment"] = segment.acknowledgment or 0
        head["initial_sequence"] = talk.first(from_client) - 1 & 0xFFFFFFFF
        head["payload_length"], head["captured_length"] = segment.length, len(segment.data)
        head["tcp_flags"] = segment.flags | (ACK if segment.acknowledgment is not None else 0)
        head["sequence_state"] = SEQUENCE_INITIAL | (SEQUENCE_CLIENT if from_client else SEQUENCE_SERVER)
        head["protocol"], head["kind"] = 6, MessageKind.STREAM
        made.append(head.tobytes() + segment.data)
        if loopback:
            head["direction"] = 1 - seen.direction
            made.append(head.tobytes() + segment.data)
    return made


def messages(made: Sequence[bytes]) -> Messages:
    """Records as a drain of the ring gives them."""
    size = layout.MESSAGE.itemsize
    heads = np.frombuffer(b"".join([each[:size] for each in made]), layout.MESSAGE)
    padded = [each + bytes(-len(each) % 8) for each in made]
    ends = np.cumsum([0, *[len(each) for each in padded]])
    return Messages(heads, b"".join(padded), ends[:-1] + size)

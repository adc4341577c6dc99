"""Records of kind STREAM as segments of connections."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

import numpy as np

from otel_netmon.abi import layout
from otel_netmon.abi.enums import SEQUENCE_CLIENT, SEQUENCE_INITIAL, SEQUENCE_SERVER, MessageKind
from otel_netmon.analysis.dns_lookups import Seen
from otel_netmon.analysis.tcp_stream import ACK, Segment
from otel_netmon.readers.messages import Messages

_HEAD = Struct("<Q16xQ16s16sIIIIII4xHBB2s2sxxBB").unpack_from
"""layout.MESSAGE without what a segment has not; the ports stay two octets each, as they are in an end."""

_HEAD_OCTETS = layout.MESSAGE.itemsize
_STREAM = int(MessageKind.STREAM)


def stream_segments(messages: Messages) -> Iterator[tuple[Seen, Segment]]:
    """Gives the segments that are among messages, in their order, each with where it was seen."""
    data = messages.data
    for start in messages.starts[np.flatnonzero(messages.heads["kind"] == _STREAM)].tolist():
        (
            time_ns,
            cgroup,
            source,
            destination,
            ifindex,
            ingress_ifindex,
            sequence,
            acknowledgment,
            initial,
            length,
            captured,
            flags,
            state,
            source_port,
            destination_port,
            direction,
            namespace,
        ) = _HEAD(data, start - _HEAD_OCTETS)
        yield (
            Seen(
                namespace,
                ifindex,
                direction,
                ingress_ifindex,
                cgroup,
                source + source_port,
                destination + destination_port,
            ),
            Segment(
                time_ns,
                sequence,
                acknowledgment if flags & ACK else None,
                flags,
                length,
                data[start : start + captured],
                initial + 1 & 0xFFFFFFFF if state & SEQUENCE_INITIAL else None,
                state & SEQUENCE_CLIENT != 0 if state & (SEQUENCE_CLIENT | SEQUENCE_SERVER) else None,
            ),
        )

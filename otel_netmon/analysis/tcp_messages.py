"""Records of kind STREAM as segments of connections."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from otel_netmon.abi.enums import SEQUENCE_CLIENT, SEQUENCE_INITIAL, SEQUENCE_SERVER, MessageKind
from otel_netmon.analysis.dns_lookups import Seen, seen_at
from otel_netmon.analysis.tcp_stream import ACK, Segment
from otel_netmon.readers.messages import Messages, read_head

_STREAM = int(MessageKind.STREAM)


def stream_segments(messages: Messages) -> Iterator[tuple[Seen, Segment]]:
    """Gives the segments that are among messages, in their order, each with where it was seen."""
    data = messages.data
    for start in messages.starts[np.flatnonzero(messages.heads["kind"] == _STREAM)].tolist():
        head = read_head(data, start)
        flags, state = head.tcp_flags, head.sequence_state
        segment = Segment(
            head.time_ns,
            head.sequence,
            head.acknowledgment if flags & ACK else None,
            flags,
            head.payload_length,
            data[start : start + head.captured_length],
            head.initial_sequence + 1 & 0xFFFFFFFF if state & SEQUENCE_INITIAL else None,
            state & SEQUENCE_CLIENT != 0 if state & (SEQUENCE_CLIENT | SEQUENCE_SERVER) else None,
        )
        yield seen_at(head), segment

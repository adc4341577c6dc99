"""The ring `messages`: read by one, for every probe that takes records out of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from otel_netmon.abi.enums import MessageCount, MessageKind
from otel_netmon.kernel import syscalls
from otel_netmon.readers.messages import MessageCounts, Messages, parse_messages
from otel_netmon.readers.ring import RingAlarm, RingReader
from otel_netmon.selfmon.status import StageStatus

_FAR = 1 << 62


class Signal(NamedTuple):
    """Records of one part of the agent.

    Attributes:
        name: as a signal of ``netmon.pipeline.items``.
        produced: counts of the records that were made, those lost included.
        lost: count of those for which the ring had no place.
    """

    name: str
    produced: tuple[MessageCount, ...]
    lost: MessageCount


DNS = Signal(
    "dns_messages",
    (
        MessageCount.DNS_ANSWERS,
        MessageCount.DNS_RESPONSES,
        MessageCount.DNS_SEGMENTS,
        MessageCount.MDNS,
        MessageCount.LLMNR,
    ),
    MessageCount.LOST_RING,
)
STREAMS = Signal(
    "stream_messages",
    (MessageCount.STREAM_SEGMENTS, MessageCount.QUIC, MessageCount.DTLS),
    MessageCount.STREAM_LOST_RING,
)
HTTP = Signal("http_messages", (MessageCount.HTTP_REQUESTS,), MessageCount.HTTP_LOST_RING)
_SIGNALS = (DNS, STREAMS, HTTP)
_STREAM_KINDS = (int(MessageKind.STREAM), int(MessageKind.QUIC), int(MessageKind.DTLS))


class Drain(NamedTuple):
    """What the ring gave: records of DNS, of what is told by its content, and of requests of HTTP/1, each in order."""

    dns: Messages
    streams: Messages
    http: Messages


class MessageSource:
    """Drains the ring and knows what of it is missing.

    Args:
        maps: name to file descriptor and number of entries.

    Attributes:
        alarm: tells that the ring is filling up.
        counts: what the kernel had counted at the last drain that counted.
    """

    def __init__(self, maps: Mapping[str, tuple[int, int]]) -> None:
        self._ring = RingReader(*maps["messages"])
        self.alarm = RingAlarm(maps["messages"][0])
        self._kernel = MessageCounts(maps["message_counts"][0], syscalls.possible_cpus())
        self.counts: dict[MessageCount, int] = self._kernel.read()
        self._consumed = dict.fromkeys(_SIGNALS, 0)
        # The least that was missing at any drain: what is on its way is there at the next one.
        self._missing = dict.fromkeys(_SIGNALS, _FAR)

    def drain(self, *, counting: bool = True) -> Drain:
        """Takes out what is there.

        Args:
            counting: read what the kernel counted, too: that takes as long as hundreds of records.
        """
        if counting:
            self.counts = self._kernel.read()
        messages = parse_messages(self._ring.drain())
        kinds = messages.heads["kind"]
        of_http, of_streams = kinds == MessageKind.HTTP, np.isin(kinds, _STREAM_KINDS)
        of_dns = ~(of_http | of_streams)
        drained = Drain(_those(messages, of_dns), _those(messages, of_streams), _those(messages, of_http))
        for signal, own in zip(_SIGNALS, drained, strict=True):
            self._consumed[signal] += len(own.heads)
            if not counting:
                continue
            missing = self.produced(signal) - self._consumed[signal]
            self._missing[signal] = max(0, min(self._missing[signal], missing))
        return drained

    def produced(self, signal: Signal) -> int:
        """Records that found a place in the ring."""
        return sum(self.counts[what] for what in signal.produced) - self.counts[signal.lost]

    def consumed(self, signal: Signal) -> int:
        """Records that were taken out."""
        return self._consumed[signal]

    def stage(self, signal: Signal) -> StageStatus:
        """What became of records in the ring."""
        missing = self._missing[signal]
        return StageStatus(
            delivered=self._consumed[signal],
            dropped={"ring_full": self.counts[signal.lost], "pipeline_died": missing if missing < _FAR else 0},
        )

    def state(self) -> dict[str, dict[str, Any]]:
        """What another process needs to go on."""
        return {"messages": {signal.name: count for signal, count in self._consumed.items()}}

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Goes on where another process was, before the first drain."""
        self._consumed = {signal: state["messages"][signal.name] for signal in self._consumed}

    def close(self) -> None:
        """Gives the mappings back."""
        self.alarm.close()
        self._ring.close()


def _those(messages: Messages, which: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Messages:
    if which.all():
        return messages
    return Messages(messages.heads[which], messages.data, messages.starts[which])

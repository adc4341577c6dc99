"""The kernel's protocol counters to points of netmon.stack.drops and netmon.tcp.listen.*, memory shortage, and events of full queues."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from otel_netmon.otel.attributes import Tag, Value, encode
from otel_netmon.otel.points import Point
from otel_netmon.otel.spans import Event, Severity

LISTEN_OVERFLOW = "netmon.tcp.listen_overflow"
QUIET_CYCLES = 3
"""So many cycles without an overflow end a time of trouble."""

LISTEN_OVERFLOWS: Mapping[str, str] = MappingProxyType(
    {
        "TcpExt.ListenOverflows": "accept_queue",
        "TcpExt.TCPReqQFullDrop": "request_queue",
        "TcpExt.TCPReqQFullDoCookies": "request_queue_cookie",
    }
)
"""Counters to reasons."""

_QUEUES = {
    "accept_queue": "the queue of connections that wait for accept() was full",
    "request_queue": "the queue of half-open connections was full",
    "request_queue_cookie": "the queue of half-open connections was full, and SYN cookies were sent",
}

_MEMORY: Mapping[str, str] = {
    "TcpExt.PruneCalled": "queues_collapsed",
    "TcpExt.RcvPruned": "receive_queue_pruned",
    "TcpExt.OfoPruned": "out_of_order_queue_pruned",
    "TcpExt.TCPMemoryPressures": "limit_reached",
}

_RECEIVE, _TRANSMIT = {"network.io.direction": "receive"}, {"network.io.direction": "transmit"}


def _drops() -> Iterator[tuple[str, dict[str, str], str]]:
    """Counter, attributes and reason of what the stack drops; no packet is in two of them."""
    tcp = {"network.transport": "tcp", **_RECEIVE}
    yield "TcpExt.TCPRcvQDrop", tcp, "receive_queue"
    yield "TcpExt.TCPBacklogDrop", tcp, "backlog"
    yield "TcpExt.TCPZeroWindowDrop", tcp, "zero_window"
    yield "TcpExt.TCPOFODrop", tcp, "out_of_order_queue"
    yield "TcpExt.PFMemallocDrop", tcp, "memory"
    yield "TcpExt.TCPMinTTLDrop", tcp, "ttl"
    yield "Tcp.InErrs", tcp, "invalid"
    for ip, more, udp, kind in (("Ip", "IpExt", "Udp", "ipv4"), ("Ip6", "Ip6", "Udp6", "ipv6")):
        received, sent = {"network.type": kind, **_RECEIVE}, {"network.type": kind, **_TRANSMIT}
        datagram = {"network.type": kind, "network.transport": "udp"}
        yield f"{udp}.NoPorts", {**datagram, **_RECEIVE}, "no_port"
        yield f"{udp}.RcvbufErrors", {**datagram, **_RECEIVE}, "receive_buffer"
        yield f"{udp}.MemErrors", {**datagram, **_RECEIVE}, "memory"
        yield f"{udp}.InCsumErrors", {**datagram, **_RECEIVE}, "checksum"
        yield f"{udp}.InOtherErrors", {**datagram, **_RECEIVE}, "other"
        yield f"{udp}.SndbufErrors", {**datagram, **_TRANSMIT}, "send_buffer"
        yield f"{ip}.InDiscards", received, "discarded"
        yield f"{ip}.InHdrErrors", received, "header"
        yield f"{ip}.InAddrErrors", received, "address"
        yield f"{ip}.InUnknownProtos", received, "unknown_protocol"
        yield f"{more}.InNoRoutes", received, "no_route"
        yield f"{more}.InTruncatedPkts", received, "truncated"
        yield f"{ip}.OutDiscards", sent, "discarded"
        yield f"{ip}.OutNoRoutes", sent, "no_route"
        yield f"{ip}.FragFails", sent, "fragmentation"
    yield "TcpExt.IPReversePathFilter", {"network.type": "ipv4", **_RECEIVE}, "reverse_path"
    yield "Ip6.InTooBigErrors", {"network.type": "ipv6", **_RECEIVE}, "too_big"


_DROPS = tuple(_drops())

USED = frozenset([*LISTEN_OVERFLOWS, *_MEMORY, "TcpExt.ListenDrops", *(key for key, _, _ in _DROPS)])
"""Every counter that becomes a point."""


class NamespaceCounters(NamedTuple):
    """Counters of a network namespace, see ``readers.netstat``.

    Attributes:
        namespace: its name; empty for the agent's own.
        start_ns: Unix time since when they count.
        counters: by group and name; those that the kernel does not have are left out. ``Udp.InOtherErrors`` and ``Udp6.InOtherErrors``
            are those of InErrors that have no counter of their own.
    """

    namespace: str
    start_ns: int
    counters: Mapping[str, int]


def netstat_points(readings: Iterable[NamespaceCounters]) -> dict[str, list[Point]]:
    """Gives the points of the metrics above, in every namespace for the same counters."""
    points: dict[str, list[Point]] = {
        "netmon.tcp.listen.drops": [],
        "netmon.tcp.listen.overflows": [],
        "netmon.tcp.memory_shortage": [],
        "netmon.stack.drops": [],
    }
    for namespace, start_ns, counters in readings:
        where: dict[str, Value] = {"netmon.network.namespace": namespace} if namespace else {}
        rows: list[tuple[str, str, Mapping[str, str]]] = [("netmon.tcp.listen.drops", "TcpExt.ListenDrops", {})]
        for metric, reasons in (
            ("netmon.tcp.listen.overflows", LISTEN_OVERFLOWS),
            ("netmon.tcp.memory_shortage", _MEMORY),
        ):
            rows += [(metric, key, {"netmon.reason": reason}) for key, reason in reasons.items()]
        rows += [("netmon.stack.drops", key, {**of, "netmon.reason": reason}) for key, of, reason in _DROPS]
        for metric, key, attributes in rows:
            if key in counters:
                points[metric].append(Point({**attributes, **where}, counters[key], start_ns))
    return points


class OverflowEvents:
    """Tells once for each time of trouble that queues of listening sockets overflow."""

    def __init__(self) -> None:
        self._trouble: dict[tuple[str, str], int] = {}

    def take(self, gained: Mapping[str, Mapping[str, int]], seconds: float, now_ns: int) -> list[Event]:
        """The events of a cycle that took so many seconds.

        Args:
            gained: connections that did not fit since the last cycle, by name of the namespace and reason (see ``LISTEN_OVERFLOWS``).
        """
        counts = {
            (name, reason): count for name, reasons in gained.items() for reason, count in reasons.items() if count
        }
        events = [_event(*key, count, seconds, now_ns) for key, count in counts.items() if key not in self._trouble]
        quiet = {key: cycles + 1 for key, cycles in self._trouble.items() if cycles + 1 < QUIET_CYCLES}
        self._trouble = quiet | dict.fromkeys(counts, 0)
        return events


def _event(namespace: str, reason: str, count: int, seconds: float, now_ns: int) -> Event:
    where = f" in the network namespace {namespace}" if namespace else ""
    attributes: dict[str, Value] = {"netmon.reason": reason}
    if namespace:
        attributes["netmon.network.namespace"] = namespace
    body = f"{count} times in {seconds:.3g} s {_QUEUES[reason]}{where}"
    return Event(LISTEN_OVERFLOW, now_ns, Severity.WARN, body, encode(attributes, Tag.LOG_RECORD))

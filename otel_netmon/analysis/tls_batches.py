"""Handshakes out of what a drain of the ring gave, told without putting connections in order one segment at a time.

Most handshakes are there from their first octet, in order and without a loss: those are told here, at a quarter of what a follower costs.
Records of all others go on as they came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.abi import layout
from otel_netmon.abi.enums import SEQUENCE_CLIENT, SEQUENCE_INITIAL, MessageKind, TcpFlags
from otel_netmon.analysis.differences import fingerprints
from otel_netmon.analysis.tcp_followers import ConnectionInfo
from otel_netmon.analysis.tls_alike import AlikeHellos
from otel_netmon.analysis.tls_certificates import Certificates
from otel_netmon.analysis.tls_handshakes import TlsHandshake
from otel_netmon.analysis.tls_whole import Unlike, WholeHandshake
from otel_netmon.decode.tls_numbers import ContentType
from otel_netmon.readers.messages import Messages, joined

HELD_NS = 1_500_000_000
"""So long the rest of a handshake is waited for, half the time limit of handshakes at most; then a follower waits for it."""

HELD_OCTETS_MAX = 4 << 20

Follows = Callable[[int, int, bytes, bytes], bool]

_HEAD = layout.MESSAGE.itemsize
_BEGIN_OCTETS = 10
_SEALED_HEADER = 5
_EDGES = int(TcpFlags.SYN | TcpFlags.FIN | TcpFlags.RST)
_END = np.dtype([("address", "u1", 16), ("port", ">u2"), ("reserved", "<u2")])
_MASK = 0xFFFFFFFF
_REPEATED_OCTETS_MAX = 1 << 17
_SEEDS = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F
_FIELDS: Mapping[str, Any] = layout.MESSAGE.fields or {}
_SOURCE, _SOURCE_PORT = (_FIELDS[name][1] for name in ("source", "source_port"))  # the destination's stand behind them


class Batch(NamedTuple):
    """What became of a drain.

    Attributes:
        handshakes: those told.
        rest: what is for followers, in its order.
    """

    handshakes: list[TlsHandshake]
    rest: Messages


class TlsBatches:
    """Tells the handshakes that are as most are.

    Args:
        known: where certificates are read.
        timeout_ns: of handshakes.

    Attributes:
        told: how many were told here.
    """

    def __init__(self, known: Certificates, timeout_ns: int) -> None:
        self.told = 0
        self._alike = AlikeHellos(known)
        self._timeout_ns = timeout_ns
        self._held_ns = min(HELD_NS, timeout_ns // 2)
        self._held: Messages | None = None

    def take(self, messages: Messages, follows: Follows, now_ns: int) -> Batch:
        """Takes the records of a drain.

        Args:
            follows: whether a connection has a follower: namespace, interface, both ends.
            now_ns: the clock of the records.
        """
        held_before = 0
        if self._held is not None:
            held_before = len(self._held.heads)
            messages, self._held = joined([self._held, messages]), None
        heads = messages.heads
        if not len(heads):
            return Batch([], messages)
        columns = _Columns(messages)
        found: list[TlsHandshake] = []
        left = np.ones(len(heads), bool)
        held: list[int] = []
        begun, sealed = columns.connections()
        over: list[int] = []
        for places in begun:
            ends = columns.connection(places[0])
            if follows(*ends):
                continue
            is_new = places[-1] >= held_before
            may_go_on = not is_new or self._connection(columns, places, ends, found, over)
            if may_go_on and columns.times[places[0]] > now_ns - self._held_ns:
                held += places
        left[over] = False
        for places in sealed:
            if not follows(*columns.connection(places[0])):
                left[places] = False  # of a handshake that was told; the kernel hands over nothing behind it
        if held:
            self._hold(messages, held, left)
        self.told += len(found)
        return Batch(found, messages.where(left))

    def _connection(
        self,
        columns: _Columns,
        places: list[int],
        ends: tuple[int, int, bytes, bytes],
        found: list[TlsHandshake],
        over: list[int],
    ) -> bool:
        """Tells the handshake of a connection if it is over; gives whether it may become one that is as most are."""
        namespace, ifindex, client, server = ends
        whole = WholeHandshake(self._alike)
        used = 0
        try:
            for from_client, data, time_ns in columns.segments(places, client, server):
                used += 1
                if data:
                    whole.feed(from_client, data, time_ns)
                    if whole.is_over:
                        break
        except Unlike:
            return False
        if not whole.is_over:
            return True
        first = places[0]
        begun_ns = columns.times[first]
        info = ConnectionInfo(namespace, ifindex, client, server, True, True, begun_ns, *columns.seen_at(first))
        told = whole.handshake(info)
        if told.end_ns - begun_ns > self._timeout_ns:
            return False
        found.append(told)
        over += columns.until_another_begins(places, used)
        return False

    def _hold(self, messages: Messages, held: list[int], left: npt.NDArray[np.bool_]) -> None:
        """Keeps records until the rest of their handshakes is there; too many go to the followers."""
        places = np.sort(np.array(held, np.intp))
        heads, starts = messages.heads[places], messages.starts[places]
        lengths = heads["captured_length"].astype(np.int64) + 7 & ~7
        if int(lengths.sum()) > HELD_OCTETS_MAX:
            return
        left[places] = False
        data = messages.data
        parts = [
            data[start - _HEAD : start + length].ljust(_HEAD + length, b"\0")
            for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)
        ]
        ends = np.cumsum(lengths + _HEAD)
        self._held = Messages(heads.copy(), b"".join(parts), ends - lengths)


class _Columns:
    """The columns of records that decide, as lists where they are read one by one.

    Attributes:
        times: in ns, of each; there where a handshake begins.
    """

    def __init__(self, messages: Messages) -> None:
        heads = self._heads = messages.heads
        starts = self._starts = messages.starts
        self._data = messages.data
        octets = np.frombuffer(messages.data, "u1")
        captured, state = heads["captured_length"], heads["sequence_state"]
        is_stream = heads["kind"] == MessageKind.STREAM
        is_first = state & SEQUENCE_INITIAL != 0
        is_first &= heads["sequence"] == heads["initial_sequence"] + np.uint32(1)
        begin = octets[np.minimum(starts, len(octets) - 1)]
        hello = is_stream & is_first & (captured >= _BEGIN_OCTETS) & (begin == ContentType.HANDSHAKE)
        hello &= (state & SEQUENCE_CLIENT != 0) & (heads["tcp_flags"] & _EDGES == 0)
        at = starts[hello]
        hello[hello] = (octets[at + 1] == 3) & (octets[at + 2] <= 4) & (octets[at + 5] == 1) & (octets[at + 9] == 3)
        self._hello, self._is_first = hello, is_first
        self._sealed = is_stream & ~is_first & (captured == _SEALED_HEADER) & (begin == ContentType.APPLICATION_DATA)
        self._streams = np.flatnonzero(is_stream)
        self.times: list[int] = []

    def connections(self) -> tuple[list[list[int]], list[list[int]]]:
        """The records in order of each connection that begins with a ClientHello, and of those of which only sealing is told."""
        hello, sealed = self._hello, self._sealed
        if not hello.any() and not sealed.any():
            return [], []
        heads = self._heads[self._streams]
        source, destination = (_marks(heads, end) for end in ("source", "destination"))
        place = (heads["ifindex"].astype(np.uint64) << np.uint64(8)) + heads["namespace"]
        marks = source + destination ^ place * np.uint64(_SEEDS[0])
        order = np.argsort(marks, kind="stable")
        marks, places = marks[order], self._streams[order]
        begins = np.flatnonzero(np.concatenate([[True], marks[1:] != marks[:-1]]))
        ends = np.append(begins[1:], len(marks))
        listed = places.tolist()
        self._list()

        def chosen(which: npt.NDArray[np.bool_]) -> list[list[int]]:
            return [listed[begin:end] for begin, end in zip(begins[which].tolist(), ends[which].tolist(), strict=True)]

        return chosen(hello[places[begins]]), chosen(np.logical_and.reduceat(sealed[places], begins))

    def until_another_begins(self, places: list[int], used: int) -> list[int]:
        """The records of a connection, those used and those behind: they are sealed, or its end, unless another one begins."""
        if used == len(places):
            return places
        initials = self._initials
        known = {initials[place] for place in places[:used]}
        for count, place in enumerate(places[used:], used):
            if self._is_first[place] and initials[place] not in known:
                return places[:count]
        return places

    def connection(self, place: int) -> tuple[int, int, bytes, bytes]:
        """Namespace, interface and both ends of a record, its sender's first."""
        at, data = self._start[place] - _HEAD, self._data
        addresses, ports = data[at + _SOURCE : at + _SOURCE + 32], data[at + _SOURCE_PORT : at + _SOURCE_PORT + 4]
        return (
            self._namespaces[place],
            self._ifindexes[place],
            addresses[:16] + ports[:2],
            addresses[16:] + ports[2:],
        )

    def seen_at(self, place: int) -> tuple[int, int, int]:
        """Direction, interface that it came in by, and cgroup of a record."""
        return self._directions[place], self._ingress[place], self._cgroups[place]

    def segments(self, places: list[int], client: bytes, server: bytes) -> Iterator[tuple[bool, bytes, int]]:
        """Gives the segments of a connection as they follow each other: whether from the client, octets (none of what comes again), time.

        Raises:
            Unlike: one is missing, cut, or of another connection, or ends it.
        """
        data, starts, captured, lengths = self._data, self._start, self._captured, self._lengths
        sequences, initials, states, flags, times = (
            self._sequences,
            self._initials,
            self._states,
            self._flags,
            self.times,
        )
        namespace, ifindex = self._namespaces[places[0]], self._ifindexes[places[0]]
        expected: list[int | None] = [None, None]
        last = [0, 0]
        forth = client[:16] + server[:16] + client[16:] + server[16:]
        back = server[:16] + client[:16] + server[16:] + client[16:]
        for place in places:
            start, length = starts[place], lengths[place]
            at = start - _HEAD
            ends = data[at + _SOURCE : at + _SOURCE + 32] + data[at + _SOURCE_PORT : at + _SOURCE_PORT + 4]
            from_client = ends == forth
            if not from_client and ends != back:
                raise Unlike
            if flags[place] & _EDGES or length != captured[place]:
                raise Unlike
            if self._namespaces[place] != namespace or self._ifindexes[place] != ifindex:
                raise Unlike
            sequence, time_ns = sequences[place], times[place]
            after = expected[from_client]
            if after is None:
                if not states[place] & SEQUENCE_INITIAL:
                    raise Unlike
                after = initials[place] + 1 & _MASK
            if sequence == after and length:
                if time_ns < last[from_client]:
                    raise Unlike
                expected[from_client], last[from_client] = sequence + length & _MASK, time_ns
                yield from_client, data[start : start + length], time_ns
            elif after - sequence - length & _MASK < _REPEATED_OCTETS_MAX:
                yield from_client, b"", time_ns
            else:
                raise Unlike

    def _list(self) -> None:
        heads = self._heads
        self.times = heads["time_ns"].tolist()
        self._start: list[int] = self._starts.tolist()
        self._captured: list[int] = heads["captured_length"].tolist()
        self._lengths: list[int] = heads["payload_length"].tolist()
        self._sequences: list[int] = heads["sequence"].tolist()
        self._initials: list[int] = heads["initial_sequence"].tolist()
        self._states: list[int] = heads["sequence_state"].tolist()
        self._flags: list[int] = heads["tcp_flags"].tolist()
        self._namespaces: list[int] = heads["namespace"].tolist()
        self._ifindexes: list[int] = heads["ifindex"].tolist()
        self._directions: list[int] = heads["direction"].tolist()
        self._ingress: list[int] = heads["ingress_ifindex"].tolist()
        self._cgroups: list[int] = heads["cgroup"].tolist()


def _marks(heads: npt.NDArray[Any], end: str) -> npt.NDArray[np.uint64]:
    """Hashes of one end of records."""
    ends = np.zeros(len(heads), _END)
    ends["address"], ends["port"] = heads[end], heads[f"{end}_port"]
    return fingerprints(ends, _SEEDS[1])

"""Message heads out of the ring buffer, what was counted on the way, and DNS queries that nobody answered."""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.abi import layout
from otel_netmon.abi.enums import MessageCount, MessageKind
from otel_netmon.errors import NetmonError
from otel_netmon.kernel import syscalls
from otel_netmon.readers.maps import ArrayReader, HashReader
from otel_netmon.readers.ring import Drained

COPIES_TIMEOUTS_MAX = 10
"""A query that is repeated again and again stays one lookup for this many timeouts."""

_HEAD_WORDS = layout.MESSAGE.itemsize // 8
_HEAD_OCTETS = layout.MESSAGE.itemsize
_UNPACK_HEAD = Struct("<QQQQ16s16sIIIIIIIHBB2s2sBBBB").unpack_from


class Head(NamedTuple):
    """The head of one record, by the names of layout.MESSAGE; addresses and ports are octets in network order."""

    time_ns: int
    request_time_ns: int
    first_request_time_ns: int
    cgroup: int
    source: bytes
    destination: bytes
    ifindex: int
    ingress_ifindex: int
    sequence: int
    acknowledgment: int
    initial_sequence: int
    payload_length: int
    retries: int
    captured_length: int
    tcp_flags: int
    sequence_state: int
    source_port: bytes
    destination_port: bytes
    protocol: int
    kind: int
    direction: int
    namespace: int


def read_head(data: bytes, start: int) -> Head:
    """Gives the head of the record whose payload begins at `start`; much less work than a row of an array."""
    return Head._make(_UNPACK_HEAD(data, start - _HEAD_OCTETS))


class Messages(NamedTuple):
    """Records of the ring buffer in the order of the packets of each CPU.

    Attributes:
        heads: layout.MESSAGE, one a record.
        data: the octets that hold the payloads.
        starts: where the payload of each begins in `data`, int64; it is ``captured_length`` octets long.
    """

    heads: npt.NDArray[Any]
    data: bytes
    starts: npt.NDArray[np.int64]

    def payload(self, index: int) -> bytes:
        """The octets captured of a record's payload."""
        start = int(self.starts[index])
        return self.data[start : start + int(self.heads["captured_length"][index])]

    def part(self, which: slice) -> Messages:
        """Some of them."""
        return self._replace(heads=self.heads[which], starts=self.starts[which])

    def where(self, chosen: npt.NDArray[np.bool_]) -> Messages:
        """Those that are chosen, shape (n,)."""
        return self if chosen.all() else Messages(self.heads[chosen], self.data, self.starts[chosen])


def joined(parts: Sequence[Messages]) -> Messages:
    """Messages of several drains as one."""
    if len(parts) == 1:
        return parts[0]
    ends = np.cumsum([0, *(len(part.data) for part in parts)])
    starts = [part.starts + end for part, end in zip(parts, ends[:-1].tolist(), strict=True)]
    heads = np.concatenate(
        [part.heads for part in parts], dtype=layout.MESSAGE
    )  # with its dtype: ports stay in network order
    return Messages(heads, b"".join([part.data for part in parts]), np.concatenate(starts))


class HttpMessages(NamedTuple):
    """Records of kind HTTP: a request of HTTP/1 each.

    Attributes:
        heads: layout.MESSAGE, of the packet that the request begins in: the source is the client.
        http: layout.HTTP, as many.
        data: the octets that hold the requests' heads.
        starts: where the head of each begins in `data`, int64.
        lengths: how many octets of it there are, int64; nothing of a body.
    """

    heads: npt.NDArray[Any]
    http: npt.NDArray[Any]
    data: bytes
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]

    def head(self, index: int) -> bytes:
        """The octets captured of a request's head."""
        start = int(self.starts[index])
        return self.data[start : start + int(self.lengths[index])]


def http_messages(messages: Messages) -> HttpMessages:
    """Gives the requests of HTTP/1 that are among messages, in their order."""
    chosen = messages.where(messages.heads["kind"] == MessageKind.HTTP)
    starts = chosen.starts
    if len(starts):
        words = np.frombuffer(messages.data, "<u8", len(messages.data) >> 3)
        windows = np.lib.stride_tricks.sliding_window_view(words, layout.HTTP.itemsize >> 3)
        http = windows[starts >> 3].view(layout.HTTP)[:, 0]
    else:
        http = np.empty(0, layout.HTTP)
    lengths = chosen.heads["captured_length"].astype(np.int64) - layout.HTTP.itemsize
    return HttpMessages(chosen.heads, http, messages.data, starts + layout.HTTP.itemsize, lengths)


def parse_messages(drained: Drained) -> Messages:
    """Tells the heads and payloads in what a ring gave.

    Raises:
        NetmonError: a record is not as long as its head says: it is of another program.
    """
    words = np.frombuffer(drained.data, "<u8")
    if len(drained.offsets):
        windows = np.lib.stride_tricks.sliding_window_view(words, _HEAD_WORDS)
        heads = windows[drained.offsets >> 3].view(layout.MESSAGE)[:, 0]
    else:
        heads = np.empty(0, layout.MESSAGE)
    wrong = drained.lengths != layout.MESSAGE.itemsize + heads["captured_length"].astype(np.int64)
    if wrong.any():
        raise NetmonError(
            f"{int(wrong.sum())} of {len(wrong)} records of the ring buffer have another length than their heads say",
            "this is a defect: please report it",
        )
    return Messages(heads, drained.data, drained.offsets + layout.MESSAGE.itemsize)


class MessageCounts:
    """Reads message_counts: what was seen on message ports and what became of it, since the programs were loaded.

    Args:
        fd: the map.
        cpus: number of possible CPUs.
    """

    def __init__(self, fd: int, cpus: int) -> None:
        self._reader = ArrayReader(fd, np.dtype("<u8"), cpus)

    def read(self) -> dict[MessageCount, int]:
        """Every count, summed over the CPUs."""
        return {what: int(self._reader.read(what).sum()) for what in MessageCount if what is not MessageCount.NUMBER}


class OpenQueries(NamedTuple):
    """DNS queries over UDP without an answer.

    Attributes:
        keys: layout.QUERY_KEY.
        queries: layout.QUERY, as many.
    """

    keys: npt.NDArray[Any]
    queries: npt.NDArray[Any]

    def question(self, index: int) -> bytes:
        """The question of one: name, type, class as on the wire."""
        return self.queries["question"][index, : int(self.queries["question_length"][index])].tobytes()


NO_QUERIES = OpenQueries(np.empty(0, layout.QUERY_KEY), np.empty(0, layout.QUERY))


class OpenQueryReader:
    """Reads dns_cache and takes out of it what nobody answered in time.

    Args:
        fd: the map.
        max_entries: as it was created.

    Attributes:
        capacity: as max_entries.
        live: how many queries were open at the last reading.
    """

    def __init__(self, fd: int, max_entries: int) -> None:
        self._fd = fd
        self._reader = HashReader(fd, layout.QUERY_KEY, layout.QUERY, max_entries)
        self.capacity = max_entries
        self.live = 0

    def read(self) -> OpenQueries:
        """Every open query, oldest first."""
        keys, queries = self._reader.read()
        self.live = len(keys)
        order = np.argsort(queries["first_ns"], kind="stable")
        return OpenQueries(keys[order], queries[order])

    def take_expired(self, now_ns: int, timeout_ns: int) -> OpenQueries:
        """Takes out the queries whose last copy is older than the timeout, or whose first is older than ten of them.

        Whoever deletes a query owns it. Where the kernel was faster, its answer is in the ring as DNS_ANSWER and the query
        is not given here; where it was later, the response is there as DNS_RESPONSE, and the query has timed out.

        Args:
            now_ns: CLOCK_MONOTONIC.
        """
        found = self.read()
        limit = now_ns - timeout_ns
        since_first = now_ns - COPIES_TIMEOUTS_MAX * timeout_ns
        late = (found.queries["last_ns"] < max(limit, 0)) | (found.queries["first_ns"] < max(since_first, 0))
        taken = [index for index in np.flatnonzero(late) if self._take(found, int(index), limit, since_first)]
        return OpenQueries(found.keys[taken], found.queries[taken])

    def _take(self, found: OpenQueries, index: int, limit: int, since_first: int) -> bool:
        """Deletes one unless it was answered, or asked again, since it was read."""
        key = found.keys[index].tobytes()
        value = syscalls.map_lookup(self._fd, key, layout.QUERY.itemsize)
        if value is None:
            return False
        query = np.frombuffer(value, layout.QUERY)[0]
        if query["last_ns"] >= limit and query["first_ns"] >= since_first:
            return False
        found.queries[index] = query
        return syscalls.map_delete(self._fd, key)

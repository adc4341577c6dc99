"""Whose a packet is, by its two ends: for what is seen at interfaces, where nobody knows a process. Bounded.

An end is an address and a port as they are in the packet. Network namespaces are not told apart: where two of them have the same ends
at the same time, and they are of two processes, nobody knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.abi.enums import ConnectionFlags, Role
from otel_netmon.analysis.differences import fingerprints

RECENT_MAX = 1 << 14
"""Connections and sockets that are remembered after their end."""
GRACE_NS = 2_000_000_000
"""A packet may be told so long after the end of its connection, and so long before the row's begin was written."""

ENDS = np.dtype(
    [
        ("local", "u1", 16),
        ("remote", "u1", 16),
        ("local_port", ">u2"),
        ("remote_port", ">u2"),
        ("protocol", "<u4"),
    ]
)
"""The two ends as one of them sees it, addresses as in the contract with the kernel (IPv4 as v4-mapped IPv6), the IANA protocol number."""

TCP, UDP = 6, 17

UNKNOWN = -1

_END = np.dtype([("address", "u1", 16), ("port", ">u2")])

_ENTRY = np.dtype(
    [
        ("mark", "<u8"),
        ("number", "<u8"),
        ("cgroup", "<u8"),
        ("cookie", "<u8"),
        ("begin_ns", "<i8"),
        ("end_ns", "<i8"),
        ("established_ns", "<i8"),
        ("connect_ns", "<i8"),
        ("resent", "<i8"),
        ("disordered", "<i8"),
        ("ends", ENDS),
        ("role", "<u4"),
    ]
)
_COUNTED = np.dtype([("cookie", "<u8"), ("resent", "<i8"), ("disordered", "<i8")])
_HEALTH = ("resent", "disordered")
_SEED = 0x5851F42D4C957F2D
_FOREVER = 1 << 62


class Owner(NamedTuple):
    """Whose packets are, and what is known of their connection; columns of length n, all 0 where it is not known.

    Attributes:
        number: of the identity (``enrich.identities``), may be 0 although the socket is known.
        role: ``Role`` of the local process.
        cgroup: its cgroup v2.
        cookie: of the socket, 0 where no socket is known.
        begin_ns: when the connection began, as in layout.CONNECTION; of UDP when the socket was made.
        established_ns: when its handshake was over, 0 of one whose handshake was not seen.
        connect_ns: how long that took, UNKNOWN of one whose handshake was not seen.
        resent: segments that the local end sent again since the reading before the time that was asked for, or since the
            connection began where that reading is not kept any more; UNKNOWN of UDP.
        disordered: likewise segments that came out of order to the local end.
    """

    number: npt.NDArray[np.uint64]
    role: npt.NDArray[np.uint8]
    cgroup: npt.NDArray[np.uint64]
    cookie: npt.NDArray[np.uint64]
    begin_ns: npt.NDArray[np.int64]
    established_ns: npt.NDArray[np.int64]
    connect_ns: npt.NDArray[np.int64]
    resent: npt.NDArray[np.int64]
    disordered: npt.NDArray[np.int64]

    def part(self, which: slice) -> Owner:
        """Some of them."""
        return Owner(*[column[which] for column in self._columns()])

    def put(self, places: npt.NDArray[np.intp], others: Owner, which: npt.NDArray[np.bool_]) -> None:
        """Puts some of others in place of what is here."""
        for column, other in zip(self._columns(), others._columns(), strict=True):
            column[places] = other[which]

    def _columns(self) -> list[npt.NDArray[Any]]:
        return list(self)


def ends_between(
    clients: Sequence[bytes], servers: Sequence[bytes], protocol: int | npt.NDArray[np.integer[Any]]
) -> npt.NDArray[Any]:
    """Gives dtype ENDS as the clients see them; address and port are 18 octets each in network order."""
    ends = np.zeros(len(clients), ENDS)
    for side, which in (("local", clients), ("remote", servers)):
        made = np.frombuffer(b"".join(which), _END)
        ends[side], ends[f"{side}_port"] = made["address"], made["port"]
    ends["protocol"] = protocol
    return ends


def turned(ends: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Gives them as the other one sees them."""
    made = ends.copy()
    for field in ("", "_port"):
        made[f"local{field}"], made[f"remote{field}"] = ends[f"remote{field}"], ends[f"local{field}"]
    return made


class ConnectionIndex:
    """Living and lately ended connections and UDP sockets by their ends.

    It costs next to nothing while nobody asks: what was read is sorted at the first question.
    """

    def __init__(self) -> None:
        self._living: tuple[tuple[int, npt.NDArray[Any], npt.NDArray[np.uint64]], ...] = ()
        self._ended: list[tuple[int, npt.NDArray[Any], npt.NDArray[np.uint64]]] = []
        self._sorted: npt.NDArray[Any] | None = None
        self._counted = self._before = np.zeros(0, _COUNTED)
        self._counted_ns = self._before_ns = _FOREVER

    def read(
        self,
        tcp: npt.NDArray[Any],
        tcp_numbers: npt.NDArray[np.uint64],
        udp: npt.NDArray[Any],
        udp_numbers: npt.NDArray[np.uint64],
        read_ns: int,
    ) -> None:
        """Takes all that live.

        Args:
            tcp, udp: layout.CONNECTION, layout.UDP.
            tcp_numbers, udp_numbers: of whose they are.
            read_ns: CLOCK_MONOTONIC when they had been read.
        """
        self._living = ((TCP, tcp, tcp_numbers), (UDP, udp, udp_numbers))
        self._sorted = None
        self._before, self._before_ns = self._counted, self._counted_ns
        counted = np.zeros(len(tcp), _COUNTED)
        counted["cookie"] = tcp["cookie"]
        counted["resent"], counted["disordered"] = _resent(tcp), tcp["out_of_order"]
        self._counted, self._counted_ns = counted[np.argsort(counted["cookie"])], read_ns

    def ended(self, rows: npt.NDArray[Any], numbers: npt.NDArray[np.uint64]) -> None:
        """Takes connections that ended."""
        self._take(TCP, rows, numbers)

    def closed(self, rows: npt.NDArray[Any], numbers: npt.NDArray[np.uint64]) -> None:
        """Takes UDP sockets that were closed."""
        self._take(UDP, rows, numbers)

    def find(
        self, ends: npt.NDArray[Any], times_ns: npt.NDArray[np.integer[Any]], *, any_address: bool = True
    ) -> Owner:
        """Tells whose packets are.

        Args:
            ends: dtype ENDS, shape (n,); of TCP both ends count, of UDP the remote one where it tells more.
            times_ns: when each was seen, CLOCK_MONOTONIC.
            any_address: a UDP socket may have other addresses of its host, too. Right where the local end is known to be of
                this host, as a packet that is only passed on may have the port of a socket by chance.
        """
        number = len(ends)
        found = Owner(
            np.zeros(number, np.uint64),
            np.zeros(number, np.uint8),
            np.zeros(number, np.uint64),
            np.zeros(number, np.uint64),
            np.zeros(number, np.int64),
            np.zeros(number, np.int64),
            *(np.full(number, UNKNOWN, np.int64) for _ in range(3)),
        )
        left = np.arange(number)
        times = times_ns.astype(np.int64)
        ways = (ends, _without_remote(ends), _without_address(_without_remote(ends)))
        for asked in ways if any_address else ways[:2]:
            if len(left):
                left = self._find(asked, times, left, found)
        self._since_before(found, times)
        return found

    def _since_before(self, found: Owner, times: npt.NDArray[np.int64]) -> None:
        """Takes away what was counted before the times that were asked for, as far as it was read then."""
        before = self._before
        if not len(before):
            return
        at = np.searchsorted(before["cookie"], found.cookie)
        at[at == len(before)] = 0
        counted = (before["cookie"][at] == found.cookie) & (found.resent != UNKNOWN) & (times >= self._before_ns)
        for name in _HEALTH:
            getattr(found, name)[counted] -= before[name][at[counted]]

    def _find(
        self, ends: npt.NDArray[Any], times: npt.NDArray[np.int64], which: npt.NDArray[np.intp], found: Owner
    ) -> npt.NDArray[np.intp]:
        """Fills in what is known of some; gives those of which nothing is."""
        entries = self._entries()
        marks = fingerprints(ends[which], _SEED)
        first = np.searchsorted(entries["mark"], marks, "left")
        last = np.searchsorted(entries["mark"], marks, "right")
        place = np.full(len(which), -1, np.intp)
        alone = last - first == 1
        place[alone] = first[alone]
        sure = place >= 0
        at = place[sure]
        time = times[which[sure]]
        fits = (
            (entries["ends"][at] == ends[which[sure]])
            & (entries["begin_ns"][at] - GRACE_NS <= time)
            & (time <= entries["end_ns"][at] + GRACE_NS)
        )
        place[np.flatnonzero(sure)[~fits]] = -1
        for one in np.flatnonzero(last - first > 1).tolist():
            of = entries[first[one] : last[one]]
            place[one] = first[one] + _choose(of, ends[which[one]], int(times[which[one]]))
            if place[one] < first[one]:
                place[one] = -1
        known = place >= 0
        rows = entries[place[known]]
        for name in Owner._fields:
            getattr(found, name)[which[known]] = rows[name]
        return which[~known]

    def _take(self, protocol: int, rows: npt.NDArray[Any], numbers: npt.NDArray[np.uint64]) -> None:
        if not len(rows):
            return
        self._ended.append((protocol, rows[-RECENT_MAX:], numbers[-RECENT_MAX:]))
        while sum(len(batch) for _, batch, _ in self._ended[1:]) >= RECENT_MAX:
            del self._ended[0]
        self._sorted = None

    def _entries(self) -> npt.NDArray[Any]:
        """All that is known, by mark and begin."""
        if self._sorted is None:
            parts = [_entries_of(*part) for part in (*self._living, *self._ended)]
            every = np.concatenate([np.zeros(0, _ENTRY), *parts], dtype=_ENTRY)
            self._sorted = every[np.lexsort((every["begin_ns"], every["mark"]))]
        return self._sorted


def _choose(entries: npt.NDArray[Any], ends: npt.NDArray[Any], time_ns: int) -> int:
    """The place of the one that is meant: it lived then, and no other process had these ends; -1 where that cannot be told."""
    fits = (
        (entries["ends"] == ends)
        & (entries["begin_ns"] - GRACE_NS <= time_ns)
        & (time_ns <= entries["end_ns"] + GRACE_NS)
    )
    within = fits & (entries["begin_ns"] <= time_ns) & (time_ns <= entries["end_ns"])
    places = np.flatnonzero(within if within.any() else fits)
    return int(places[-1]) if len(places) and len(np.unique(entries["number"][places])) == 1 else -1


def _entries_of(protocol: int, rows: npt.NDArray[Any], numbers: npt.NDArray[np.uint64]) -> npt.NDArray[Any]:
    if protocol == TCP:
        chosen = rows["role"] != Role.LISTENER
        rows, numbers = rows[chosen], numbers[chosen]
    entries = np.zeros(len(rows), _ENTRY)
    for name in ("local", "remote", "local_port", "remote_port"):
        entries["ends"][name] = rows[name]
    entries["ends"]["protocol"] = protocol
    for name in ("cgroup", "cookie", "begin_ns", "role"):
        entries[name] = rows[name]
    entries["number"] = numbers
    entries["end_ns"] = np.where(rows["end_ns"] == 0, _FOREVER, rows["end_ns"])
    if protocol == TCP:
        shaken = (rows["established_ns"] != 0) & (rows["flags"] & int(ConnectionFlags.ADOPTED) == 0)
        entries["established_ns"] = np.where(shaken, rows["established_ns"], 0)
        took = np.where(rows["handshake_ns"] != 0, rows["handshake_ns"], rows["established_ns"] - rows["begin_ns"])
        entries["connect_ns"] = np.where(shaken, np.maximum(took.astype(np.int64), 0), UNKNOWN)
        entries["resent"], entries["disordered"] = _resent(rows), rows["out_of_order"]
    else:  # a socket has many peers, and may have several addresses
        for name in ("connect_ns", *_HEALTH):
            entries[name] = UNKNOWN
        several = []
        for make in (_without_remote, lambda ends: _without_address(_without_remote(ends))):
            copy = entries.copy()
            copy["ends"] = make(entries["ends"])
            several.append(copy)
        entries = np.concatenate([entries, *several], dtype=_ENTRY)
    entries["mark"] = fingerprints(np.ascontiguousarray(entries["ends"]), _SEED)
    return entries


def _resent(rows: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    total: npt.NDArray[np.int64] = rows["retransmits"].sum(axis=1, dtype=np.int64)
    return total


def _without_remote(ends: npt.NDArray[Any]) -> npt.NDArray[Any]:
    ends = ends.copy()
    ends["remote"], ends["remote_port"] = 0, 0
    return ends


def _without_address(ends: npt.NDArray[Any]) -> npt.NDArray[Any]:
    ends = ends.copy()
    ends["local"] = 0
    return ends

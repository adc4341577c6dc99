"""Messages of inet_diag as columns: sockets of TCP and UDP as the kernel describes them. Pure.

A message is a netlink header, struct inet_diag_msg and attributes. Which attributes there are, and how long they are, hangs on the
kernel and the state of the socket; what a message does not have is zero. Everything is done for all messages at once.

Sources: sock_diag(7), netlink(7), include/uapi/linux/{netlink,inet_diag,sock_diag,tcp}.h, which are user API.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_DUMP_INTR = 0x10
SOCK_DIAG_BY_FAMILY = 20

# enum in inet_diag.h
INET_DIAG_INFO = 2
INET_DIAG_SKMEMINFO = 7
INET_DIAG_CGROUP_ID = 21

HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence number, port."""

_MESSAGE = np.dtype(
    [
        ("family", "u1"),
        ("state", "u1"),
        ("timer", "u1"),
        ("retransmits", "u1"),
        ("local_port", ">u2"),
        ("remote_port", ">u2"),
        ("local", "u1", 16),
        ("remote", "u1", 16),
        ("ifindex", "=u4"),
        ("cookie", "=u4", 2),
        ("expires", "=u4"),
        ("receive_queue", "=u4"),
        ("send_queue", "=u4"),
        ("uid", "=u4"),
        ("inode", "=u4"),
    ]
)
"""struct inet_diag_msg, 72 bytes."""

_TCP_INFO = np.dtype(
    {
        "names": [
            "snd_mss", "unacked", "lost", "rtt_us", "rttvar_us", "snd_cwnd", "reordering", "total_retrans", "bytes_acked",
            "bytes_received", "segs_out", "segs_in", "notsent_bytes", "min_rtt_us", "data_segs_in", "data_segs_out",
            "delivery_rate", "busy_us", "rwnd_limited_us", "sndbuf_limited_us", "bytes_sent", "bytes_retrans", "dsack_dups",
            "reord_seen", "rcv_ooopack", "snd_wnd",
        ],
        "formats": [
            "=u4", "=u4", "=u4", "=u4", "=u4", "=u4", "=u4", "=u4", "=u8",
            "=u8", "=u4", "=u4", "=u4", "=u4", "=u4", "=u4",
            "=u8", "=u8", "=u8", "=u8", "=u8", "=u8", "=u4",
            "=u4", "=u4", "=u4",
        ],
        "offsets": [
            16, 24, 32, 68, 72, 80, 88, 100, 120,
            128, 136, 140, 144, 148, 152, 156,
            160, 168, 176, 184, 200, 208, 216,
            220, 224, 228,
        ],
        "itemsize": 232,
    }
)  # fmt: skip
"""struct tcp_info up to snd_wnd (Linux 5.4); kernels append to it."""

_MEMORY = np.dtype(
    [(name, "=u4") for name in ("rmem", "rcvbuf", "wmem", "sndbuf", "forward", "queued", "options", "backlog", "drops")]
)
"""The attribute INET_DIAG_SKMEMINFO: enum in sock_diag.h."""

SOCKET = np.dtype(
    [
        ("cookie", "u8"),
        ("cgroup", "u8"),
        ("local", "u1", 16),
        ("remote", "u1", 16),
        ("inode", "u4"),
        ("uid", "u4"),
        ("ifindex", "u4"),
        ("receive_queue", "u4"),
        ("send_queue", "u4"),
        ("local_port", ">u2"),
        ("remote_port", ">u2"),
        ("state", "u1"),
        ("family", "u1"),
        ("timer", "u1"),
        ("retransmits", "u1"),
    ]
)
"""A socket: cookie as bpf_get_socket_cookie() gives it (of a TIME_WAIT another one than its connection had); cgroup v2 identifier, 0 where
the kernel tells none; addresses in network order, IPv4 as v4-mapped IPv6; state as TCP_* of the kernel (UDP: 1 connected, 7 not); of a
listening socket the queues are connections that wait and the backlog, otherwise bytes."""

INFO = np.dtype([("has_info", "?"), *((name, _TCP_INFO[name].newbyteorder("=")) for name in _TCP_INFO.names or ())])
"""From struct tcp_info, see there; has_info is False for sockets that have none (TIME_WAIT, half open)."""

MEMORY = np.dtype(
    [("rmem", "u4"), ("rcvbuf", "u4"), ("wmem", "u4"), ("sndbuf", "u4"), ("backlog", "u4"), ("drops", "u4")]
)
"""Bytes of memory in use and allowed, and packets dropped because there was none."""

SOCKET_WITH_INFO = np.dtype([*SOCKET.descr, *INFO.descr])
SOCKET_WITH_MEMORY = np.dtype([*SOCKET.descr, *MEMORY.descr])

_ATTRIBUTES_AT = HEADER.size + _MESSAGE.itemsize
_ATTRIBUTES_MAX = 64
_V4_MAPPED = np.frombuffer(bytes(10) + b"\xff\xff", np.uint8)


class Ending(NamedTuple):
    """How the messages ended.

    Attributes:
        done: the last message of the dump was among them.
        error: errno that the kernel answered with, or 0.
        interrupted: the kernel says that its tables changed so that sockets may be missing or there twice.
    """

    done: bool
    error: int
    interrupted: bool


def find_messages(data: memoryview, sequence: int) -> tuple[npt.NDArray[np.int64], Ending]:
    """Where the messages about sockets begin, in whole netlink messages; those of another request are left out.

    Raises:
        ValueError: a message is shorter than its header or longer than the data.
    """
    starts: list[int] = []
    done, error, interrupted = False, 0, False
    at, end = 0, len(data)
    unpack = HEADER.unpack_from
    while at < end:
        if end - at < HEADER.size:
            raise ValueError(f"{end - at} bytes behind the last netlink message")
        length, kind, flags, number, _ = unpack(data, at)
        if not HEADER.size <= length <= end - at:
            raise ValueError(f"a netlink message of {length} bytes in {end - at}")
        if number == sequence:
            interrupted |= bool(flags & NLM_F_DUMP_INTR)
            if kind == SOCK_DIAG_BY_FAMILY and length >= _ATTRIBUTES_AT:
                starts.append(at)
            elif kind in (NLMSG_ERROR, NLMSG_DONE):
                done = True
                if length >= HEADER.size + 4:
                    error = -int.from_bytes(data[at + HEADER.size : at + HEADER.size + 4], "little", signed=True)
        at += length + 3 & ~3
    return np.array(starts, np.int64), Ending(done, error, interrupted)


def sockets(data: memoryview, starts: npt.NDArray[np.int64], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The sockets whose messages begin there, as rows of SOCKET, SOCKET_WITH_INFO or SOCKET_WITH_MEMORY; shape (n,)."""
    rows = np.zeros(len(starts), dtype)
    if not len(starts):
        return rows
    octets = np.frombuffer(data, np.uint8)
    message = _structs(octets, starts + HEADER.size, _MESSAGE)
    for name in ("family", "state", "timer", "retransmits", "local_port", "remote_port", "ifindex", "uid", "inode"):
        rows[name] = message[name]
    rows["receive_queue"], rows["send_queue"] = message["receive_queue"], message["send_queue"]
    rows["cookie"] = _wide(message["cookie"])
    four = message["family"] == socket.AF_INET
    for name in ("local", "remote"):
        rows[name] = message[name]
        rows[name][four, 12:] = message[name][four, :4]
        rows[name][four, :12] = _V4_MAPPED
    ends = starts + _lengths(octets, starts)
    found = _attributes(octets, starts + _ATTRIBUTES_AT, ends)
    cgroup = found[INET_DIAG_CGROUP_ID]
    with_cgroup = cgroup.length >= 8
    rows["cgroup"][with_cgroup] = _wide(_structs(octets, cgroup.at[with_cgroup], np.dtype(("=u4", 2))))
    if "has_info" in (dtype.names or ()):
        _take(rows, octets, found[INET_DIAG_INFO], _TCP_INFO)
        rows["has_info"] = found[INET_DIAG_INFO].length > 0
    if "drops" in (dtype.names or ()):
        _take(rows, octets, found[INET_DIAG_SKMEMINFO], _MEMORY)
    return rows


class _Found(NamedTuple):
    """One kind of attribute: where its payload begins and how long it is, 0 where a message has none."""

    at: npt.NDArray[np.int64]
    length: npt.NDArray[np.int64]


def _attributes(
    octets: npt.NDArray[np.uint8], at: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
) -> dict[int, _Found]:
    """Walks the attributes of all messages in step."""
    n = len(at)
    found = {
        kind: _Found(np.zeros(n, np.int64), np.zeros(n, np.int64))
        for kind in (INET_DIAG_INFO, INET_DIAG_SKMEMINFO, INET_DIAG_CGROUP_ID)
    }
    row = np.arange(n)
    for _ in range(_ATTRIBUTES_MAX):
        inside = at + 4 <= ends
        row, at, ends = row[inside], at[inside], ends[inside]
        if not len(row):
            break
        head = _structs(octets, at, np.dtype([("length", "=u2"), ("kind", "=u2")]))
        length = head["length"].astype(np.int64)
        valid = (length >= 4) & (at + length <= ends)
        for kind, place in found.items():
            hit = valid & (head["kind"] == kind)
            place.at[row[hit]] = at[hit] + 4
            place.length[row[hit]] = length[hit] - 4
        at = np.where(valid, at + (length + 3 & ~3), ends)
    return found


def _take(rows: npt.NDArray[Any], octets: npt.NDArray[np.uint8], found: _Found, layout: np.dtype[Any]) -> None:
    """Copies the fields of a struct; of one that is shorter here those that are whole."""
    fields: Mapping[str, Any] = layout.fields or {}
    for length in np.unique(found.length).tolist():
        if not length:
            continue
        same = found.length == length
        taken = np.zeros((int(same.sum()), layout.itemsize), np.uint8)
        size = min(length, layout.itemsize)
        taken[:, :size] = _structs(octets, found.at[same], np.dtype((np.uint8, size)))
        values = taken.view(layout)[:, 0]
        for name in rows.dtype.names or ():
            if name in (layout.names or ()):
                field, offset = fields[name][:2]
                if offset + field.itemsize <= size:
                    rows[name][same] = values[name]


def _structs(octets: npt.NDArray[np.uint8], at: npt.NDArray[np.int64], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Structs at these offsets, wherever they are: shape (n,) and that of the dtype."""
    size = dtype.itemsize
    if not len(at):
        return np.zeros(0, dtype)
    windows = np.lib.stride_tricks.sliding_window_view(octets, size)
    taken = windows[at]
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return taken.view(base).reshape(len(at), *shape)
    return taken.view(dtype)[:, 0]


def _lengths(octets: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    lengths: npt.NDArray[np.int64] = _structs(octets, starts, np.dtype("=u4")).astype(np.int64)
    return lengths


def _wide(words: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Pairs of 32 bits, the lower ones first, as 64."""
    return words[:, 0].astype(np.uint64) | words[:, 1].astype(np.uint64) << np.uint64(32)

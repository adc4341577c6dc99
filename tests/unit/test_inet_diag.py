"""Messages of inet_diag, made by hand as the kernel would."""

from __future__ import annotations

import socket
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from otel_netmon.readers.inet_diag import (
    INET_DIAG_CGROUP_ID,
    INET_DIAG_INFO,
    INET_DIAG_SKMEMINFO,
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    SOCK_DIAG_BY_FAMILY,
    SOCKET,
    SOCKET_WITH_INFO,
    SOCKET_WITH_MEMORY,
    Ending,
    find_messages,
    sockets,
)

SEQUENCE = 7
COOKIE = 0x1122334455667788
V6 = socket.inet_pton(socket.AF_INET6, "2001:db8::7")


def message(kind: int, payload: bytes, *, flags: int = 2, sequence: int = SEQUENCE) -> bytes:
    return (struct.pack("=IHHII", 16 + len(payload), kind, flags, sequence, 0) + payload).ljust(
        (16 + len(payload) + 3) & ~3, b"\0"
    )


def attribute(kind: int, payload: bytes) -> bytes:
    return (struct.pack("=HH", 4 + len(payload), kind) + payload).ljust((4 + len(payload) + 3) & ~3, b"\0")


def described(*attributes: bytes, v6: bool = False, state: int = 1, inode: int = 4711) -> bytes:
    family = socket.AF_INET6 if v6 else socket.AF_INET
    local = V6 if v6 else socket.inet_aton("192.0.2.1").ljust(16, b"\0")
    remote = V6[::-1] if v6 else socket.inet_aton("192.0.2.2").ljust(16, b"\0")
    head = struct.pack("=BBBB", family, state, 3, 4) + struct.pack(">HH", 443, 50000) + local + remote
    head += struct.pack("=IIIIIIII", 5, COOKIE & 0xFFFFFFFF, COOKIE >> 32, 6, 7, 8, 9, inode)
    return message(SOCK_DIAG_BY_FAMILY, head + b"".join(attributes))


def tcp_info(length: int) -> bytes:
    """A tcp_info whose 32-bit words are their own offsets."""
    return b"".join(struct.pack("=I", offset) for offset in range(0, length, 4))


def parsed(data: bytes, dtype: np.dtype[Any] = SOCKET) -> npt.NDArray[Any]:
    starts, _ = find_messages(memoryview(data), SEQUENCE)
    return sockets(memoryview(data), starts, dtype)


def wide(offset: int) -> int:
    return offset | (offset + 4) << 32


def test_a_socket_over_ipv4() -> None:
    (row,) = parsed(described())
    assert bytes(row["local"]) == bytes(10) + b"\xff\xff" + socket.inet_aton("192.0.2.1")
    assert bytes(row["remote"]) == bytes(10) + b"\xff\xff" + socket.inet_aton("192.0.2.2")
    assert (row["local_port"], row["remote_port"], row["ifindex"]) == (443, 50000, 5)
    assert (row["cookie"], row["cgroup"]) == (COOKIE, 0)
    assert (row["family"], row["state"], row["timer"], row["retransmits"]) == (socket.AF_INET, 1, 3, 4)
    assert (row["receive_queue"], row["send_queue"], row["uid"], row["inode"]) == (7, 8, 9, 4711)


def test_a_socket_over_ipv6() -> None:
    (row,) = parsed(described(v6=True))
    assert bytes(row["local"]) == V6
    assert bytes(row["remote"]) == V6[::-1]


def test_attributes_in_any_order_and_of_any_kind() -> None:
    info, cgroup = attribute(INET_DIAG_INFO, tcp_info(248)), attribute(INET_DIAG_CGROUP_ID, struct.pack("=Q", 1 << 40))
    other = attribute(4, b"cubic\0")
    data = described(info, other, cgroup) + described(cgroup, info, v6=True) + described(other) + described(other, info)
    rows = parsed(data, SOCKET_WITH_INFO)
    assert rows["cgroup"].tolist() == [1 << 40, 1 << 40, 0, 0]
    assert rows["has_info"].tolist() == [True, True, False, True]
    assert rows["rtt_us"].tolist() == [68, 68, 0, 68]
    assert rows["total_retrans"].tolist() == [100, 100, 0, 100]
    assert rows["bytes_received"].tolist() == [wide(128), wide(128), 0, wide(128)]
    assert rows["bytes_retrans"][0] == wide(208)
    assert rows["snd_wnd"][0] == 228


@pytest.mark.parametrize("length", [0, 4, 68, 72, 104, 124, 128, 160, 192, 224, 232, 248, 280])
def test_a_shorter_or_longer_tcp_info_gives_what_is_whole_in_it(length: int) -> None:
    (row,) = parsed(described(attribute(INET_DIAG_INFO, tcp_info(length))), SOCKET_WITH_INFO)
    assert row["rtt_us"] == (68 if length >= 72 else 0)
    assert row["bytes_acked"] == (wide(120) if length >= 128 else 0)
    assert row["delivery_rate"] == (wide(160) if length >= 168 else 0)
    assert row["snd_wnd"] == (228 if length >= 232 else 0)
    assert row["has_info"] == (length > 0)


def test_memory_of_a_socket() -> None:
    nine = struct.pack("=9I", *range(100, 109))
    data = described(attribute(INET_DIAG_SKMEMINFO, nine)) + described(attribute(INET_DIAG_SKMEMINFO, nine[:32]))
    rows = parsed(data, SOCKET_WITH_MEMORY)
    assert rows["drops"].tolist() == [108, 0]  # it came with Linux 4.7
    assert rows["backlog"].tolist() == [107, 107]
    assert [rows[name][0] for name in ("rmem", "rcvbuf", "wmem", "sndbuf")] == [100, 101, 102, 103]


@pytest.mark.parametrize(
    "damaged",
    [
        struct.pack("=HH", 0, INET_DIAG_INFO) + bytes(16),  # no length
        struct.pack("=HH", 3, INET_DIAG_INFO) + bytes(16),
        struct.pack("=HH", 500, INET_DIAG_INFO) + bytes(16),  # longer than the message
        b"\xff",
    ],
)
def test_attributes_that_do_not_fit_are_left_out(damaged: bytes) -> None:
    cgroup = attribute(INET_DIAG_CGROUP_ID, struct.pack("=Q", 5))
    rows = parsed(described(cgroup, damaged) + described(cgroup), SOCKET_WITH_INFO)
    assert rows["cgroup"].tolist() == [5, 5]
    assert rows["has_info"].tolist() == [False, False]


def test_a_cgroup_that_is_no_number_is_left_out() -> None:
    assert parsed(described(attribute(INET_DIAG_CGROUP_ID, b"1234")))["cgroup"].tolist() == [0]


def test_messages_of_another_request_are_left_out() -> None:
    old = message(SOCK_DIAG_BY_FAMILY, bytes(72), sequence=SEQUENCE - 1) + message(NLMSG_DONE, bytes(4), sequence=1)
    data = old + described() + message(99, b"abc") + message(SOCK_DIAG_BY_FAMILY, bytes(71)) + described()
    starts, ending = find_messages(memoryview(data), SEQUENCE)
    assert len(starts) == 2
    assert ending == Ending(done=False, error=0, interrupted=False)


def test_the_end() -> None:
    done = message(NLMSG_DONE, struct.pack("=i", 0), flags=NLM_F_DUMP_INTR)
    refused = message(NLMSG_ERROR, struct.pack("=i", -2))
    assert find_messages(memoryview(described() + done), SEQUENCE)[1] == Ending(done=True, error=0, interrupted=True)
    assert find_messages(memoryview(refused), SEQUENCE)[1] == Ending(done=True, error=2, interrupted=False)
    assert find_messages(memoryview(b""), SEQUENCE)[1] == Ending(done=False, error=0, interrupted=False)


@pytest.mark.parametrize("data", [bytes(15), bytes(16), struct.pack("=IHHII", 17, 3, 0, 7, 0)])
def test_messages_that_are_not_whole_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="netlink message"):
        find_messages(memoryview(data), SEQUENCE)


def test_no_sockets() -> None:
    assert parsed(b"").shape == (0,)
    assert parsed(b"", SOCKET_WITH_INFO).dtype == SOCKET_WITH_INFO

"""Whatever bytes come, parsing ends in rows or in ValueError; what is not damaged is read as it is."""

from __future__ import annotations

import struct

from hypothesis import given, strategies as st

from otel_netmon.readers.inet_diag import (
    INET_DIAG_CGROUP_ID,
    INET_DIAG_INFO,
    SOCK_DIAG_BY_FAMILY,
    SOCKET_WITH_INFO,
    SOCKET_WITH_MEMORY,
    find_messages,
    sockets,
)

ATTRIBUTES = st.lists(st.tuples(st.integers(0, 25), st.binary(max_size=260)), max_size=6)


def attribute(kind: int, payload: bytes) -> bytes:
    return (struct.pack("=HH", 4 + len(payload), kind) + payload).ljust((4 + len(payload) + 3) & ~3, b"\0")


def message(inode: int, attributes: bytes) -> bytes:
    payload = bytes(68) + struct.pack("=I", inode) + attributes
    return struct.pack("=IHHII", 16 + len(payload), SOCK_DIAG_BY_FAMILY, 0, 1, 0) + payload


@given(st.lists(ATTRIBUTES, max_size=8))
def test_the_last_of_each_kind_is_found_wherever_it_is(messages: list[list[tuple[int, bytes]]]) -> None:
    data = b"".join(message(i, b"".join(attribute(*each) for each in these)) for i, these in enumerate(messages))
    starts, _ = find_messages(memoryview(data), 1)
    rows = sockets(memoryview(data), starts, SOCKET_WITH_INFO)
    assert rows["inode"].tolist() == list(range(len(messages)))
    for row, these in zip(rows, messages, strict=True):
        last = dict(these)
        cgroup, info = last.get(INET_DIAG_CGROUP_ID, b""), last.get(INET_DIAG_INFO, b"")
        assert row["cgroup"] == (struct.unpack_from("=Q", cgroup)[0] if len(cgroup) >= 8 else 0)
        assert row["rtt_us"] == (struct.unpack_from("=I", info, 68)[0] if len(info) >= 72 else 0)
        assert row["bytes_sent"] == (struct.unpack_from("=Q", info, 200)[0] if len(info) >= 208 else 0)


@given(st.lists(st.binary(max_size=200), max_size=8), st.binary(max_size=40))
def test_any_attributes_end(attributes: list[bytes], tail: bytes) -> None:
    padded = [each.ljust((len(each) + 3) & ~3, b"\0") for each in attributes]
    data = b"".join(message(i, each) for i, each in enumerate(padded))
    starts, _ = find_messages(memoryview(data), 1)
    assert len(sockets(memoryview(data), starts, SOCKET_WITH_MEMORY)) == len(attributes)
    try:
        found, _ = find_messages(memoryview(data + tail), 1)
    except ValueError:
        return
    assert len(found) >= len(attributes)

"""Why connect() failed before there was a SYN, by the routing tables, against what connect() itself gives."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator

import numpy as np
import pytest

from otel_netmon.abi.enums import Ending, Role
from otel_netmon.abi.layout import CONNECTION
from otel_netmon.kernel.namespaces import find_namespace, open_rtnetlink
from otel_netmon.readers.routes import RouteReader
from otel_netmon.sources.routes import QUESTIONS_MAX, LocalFailures
from support.netns import NetNs, veth_pair
from support.socket_programs import observed

pytestmark = pytest.mark.kernel

WAYS = {
    "198.18.0.2": 0,
    "127.0.0.1": 0,
    "203.0.113.1": errno.ENETUNREACH,
    "203.0.113.65": errno.EHOSTUNREACH,
    "203.0.113.129": errno.EACCES,
    "203.0.113.193": errno.EINVAL,
    "fd00::2": 0,
    "::1": 0,
    "fd07::1": errno.ENETUNREACH,
    "fd08::1": errno.EHOSTUNREACH,
    "fd09::1": errno.EACCES,
    "fd0a::1": errno.EINVAL,
}
"""What connect() gives, 0 where a SYN is sent."""
ROUTES = (
    ("unreachable", "203.0.113.64/26"), ("prohibit", "203.0.113.128/26"), ("blackhole", "203.0.113.192/26"),
    ("unreachable", "fd08::/64"), ("prohibit", "fd09::/64"), ("blackhole", "fd0a::/64"),
)  # fmt: skip
TOLD = {errno.ENETUNREACH: Ending.NET_UNREACHABLE, errno.EHOSTUNREACH: Ending.HOST_UNREACHABLE}


def octets(address: str) -> bytes:
    if ":" in address:
        return socket.inet_pton(socket.AF_INET6, address)
    return bytes(10) + b"\xff\xff" + socket.inet_aton(address)


@pytest.fixture
def netns() -> Iterator[NetNs]:
    with veth_pair(ipv6=True) as (near, _, _):
        for kind, target in ROUTES:
            near.run("ip", "-6" if ":" in target else "-4", "route", "add", kind, target)
        yield near


def netlink(netns: NetNs) -> int:
    found = find_namespace(netns.name)
    assert found is not None
    try:
        return open_rtnetlink(found)
    finally:
        found.close()


def connect(netns: NetNs, address: str) -> int:
    with netns.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM) as client:
        client.setblocking(False)
        code = client.connect_ex((address, 9))
        return 0 if code in (errno.EINPROGRESS, errno.ECONNREFUSED) else code


def test_the_tables_say_what_connect_says(netns: NetNs) -> None:
    with contextlib.closing(RouteReader(netlink(netns))) as reader:
        assert {address: reader.refusal(octets(address)) for address in WAYS} == WAYS
        assert {address: connect(netns, address) for address in WAYS} == WAYS


def test_records_that_were_never_on_the_wire_get_their_reason(netns: NetNs) -> None:
    failing = {address: code for address, code in WAYS.items() if code}
    with observed() as programs, contextlib.closing(LocalFailures()) as failures:
        failures.set_namespaces({0: netlink(netns)})
        for address in failing:
            connect(netns, address)
        records = programs.wait_ended(len(failing))
        assert set(records["ending"].tolist()) == {Ending.NOT_SENT}
        told = failures.explain(records)
    assert [Ending(int(row["ending"])) for row in told] == [
        TOLD.get(code, Ending.NOT_SENT) for code in failing.values()
    ]
    assert set(records["ending"].tolist()) == {Ending.NOT_SENT}


def test_of_a_namespace_that_is_not_observed_nothing_is_guessed(netns: NetNs) -> None:
    records = np.zeros(3, CONNECTION)
    records["role"], records["ending"], records["netns"] = Role.CLIENT, Ending.NOT_SENT, 1 << 60
    with contextlib.closing(LocalFailures()) as failures:
        assert failures.explain(records) is records
        failures.set_namespaces({0: netlink(netns)})
        assert failures.explain(records)["ending"].tolist() == [Ending.NOT_SENT] * 3


def test_so_many_addresses_are_asked_for_and_no_more(netns: NetNs) -> None:
    with contextlib.closing(RouteReader(netlink(netns))) as reader:
        cookie = reader.namespace_cookie
    records = np.zeros(QUESTIONS_MAX + 7, CONNECTION)
    records["ending"], records["netns"] = Ending.NOT_SENT, cookie
    for number in range(len(records)):
        records["remote"][number] = np.frombuffer(octets(f"fd07::{number + 1:x}"), np.uint8)
    with contextlib.closing(LocalFailures()) as failures:
        failures.set_namespaces({0: netlink(netns)})
        told = failures.explain(records)["ending"]
    assert (told == Ending.NET_UNREACHABLE).sum() == QUESTIONS_MAX
    assert (told[QUESTIONS_MAX:] == Ending.NOT_SENT).all()

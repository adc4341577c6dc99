"""ICMP errors of other hosts: tc sees them on an interface, and the connection that they are about finds them."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import socket
import struct
from collections.abc import Iterator

import numpy as np
import pytest

from otel_netmon.abi.enums import Direction, Ending, PortProtocol
from otel_netmon.kernel import syscalls
from otel_netmon.kernel.messages import DNS_PORTS, set_message_ports
from otel_netmon.readers.maps import HashReader
from support import frames as f
from support.netns import NetNs, Veth, veth_pair
from support.programs import Programs
from support.socket_programs import observed

pytestmark = pytest.mark.kernel

IPTABLES = {4: "iptables", 6: "ip6tables"}
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


@contextlib.contextmanager
def tc_programs(ports: dict[int, PortProtocol]) -> Iterator[Programs]:
    with Programs("tc_monitor", sizes={"flow_table": 64, "messages": 4096, "dns_cache": 8}) as programs:
        programs.program("netmon_errors")
        set_message_ports(programs.loaded, ports)
        yield programs


@pytest.fixture
def pair() -> Iterator[tuple[NetNs, NetNs, Veth]]:
    with veth_pair(ipv6=True) as made:
        made[0].run("sysctl", "-qw", "net.ipv4.tcp_syn_retries=1")
        yield made


@pytest.mark.parametrize("direction", list(Direction), ids=["at-home", "on-the-way"])
@pytest.mark.parametrize(
    ("version", "way", "kind", "told"),
    [
        (4, "icmp-host-unreachable", (3, 1), Ending.HOST_UNREACHABLE),
        (4, "icmp-net-unreachable", (3, 0), Ending.NET_UNREACHABLE),
        (4, "icmp-port-unreachable", (3, 3), Ending.REFUSED),
        (6, "icmp6-addr-unreachable", (1, 3), Ending.HOST_UNREACHABLE),
        (6, "icmp6-no-route", (1, 0), Ending.NET_UNREACHABLE),
        (6, "icmp6-port-unreachable", (1, 4), Ending.REFUSED),
    ],
)
def test_the_error_of_another_host(
    pair: tuple[NetNs, NetNs, Veth], direction: Direction, version: int, way: str, kind: tuple[int, int], told: Ending
) -> None:
    """Where it arrives, and on an interface that it leaves by: that of a host whose containers connect."""
    near, far, veth = pair
    far.run(IPTABLES[version], "-A", "INPUT", "-p", "tcp", "--dport", "82", "-j", "REJECT", "--reject-with", way)
    where = (near, "left") if direction == Direction.RECEIVE else (far, "right")
    with (
        tc_programs({0: PortProtocol.NO_PORT}) as tc,
        observed(shared={"unreachable": tc.loaded.maps["unreachable"]}) as programs,
        tc.attached(*where, {direction}),
    ):
        address = veth.right_address if version == 4 else veth.right_address6
        with near.socket(FAMILIES[version], socket.SOCK_STREAM) as client:
            assert client.connect_ex((address, 82)) != 0
        (row,) = programs.wait_ended(1)
        assert (Ending(int(row["ending"])), (int(row["icmp_type"]), int(row["icmp_code"]))) == (told, kind)


def test_without_it_the_reason_is_not_guessed(pair: tuple[NetNs, NetNs, Veth]) -> None:
    """Nobody watches the interface: the kernel gave up, and why is not known."""
    near, far, veth = pair
    reject = ("-p", "tcp", "--dport", "82", "-j", "REJECT", "--reject-with", "icmp-host-unreachable")
    far.run("iptables", "-A", "INPUT", *reject)
    with observed() as programs:
        with near.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
            client.setblocking(False)
            assert client.connect_ex((veth.right_address, 82)) == errno.EINPROGRESS
            (row,) = programs.wait_ended(1)
        assert (Ending(int(row["ending"])), int(row["icmp_type"])) == (Ending.CONNECT_UNKNOWN, 0)


def quoted(version: int, protocol: int = f.TCP) -> bytes:
    """The beginning of a segment from port 4000 to 443, as an error repeats it."""
    ports = struct.pack(">HHI", 4000, 443, 7)
    if version == 4:
        return f.ipv4(ports, protocol)
    return f.ipv6(ports, protocol)


def error(version: int, kind: int, code: int, quote: bytes) -> bytes:
    message = struct.pack(">BBHI", kind, code, 0, 0) + quote
    if version == 4:
        return f.ethernet(f.ipv4(message, f.ICMP, f.B4, f.A4))
    return f.ethernet(f.ipv6(message, f.ICMPV6, f.B6, f.A6), 0x86DD)


def noted(programs: Programs) -> list[bytes]:
    reader = HashReader(programs.loaded.maps["unreachable"], np.dtype("V40"), np.dtype("V16"), 4096)
    return [key.tobytes() for key in reader.read()[0]]


@pytest.mark.parametrize("version", [4, 6])
def test_only_an_error_that_quotes_a_segment_is_noted(version: int) -> None:
    unreachable = {4: 3, 6: 1}[version]
    wrong = [
        error(version, {4: 8, 6: 128}[version], 0, quoted(version)),  # an echo request
        error(version, {4: 11, 6: 3}[version], 0, quoted(version)),  # time exceeded
        error(version, unreachable, 1, quoted(version, f.UDP)),
        error(version, unreachable, 1, quoted(10 - version)),
        *(error(version, unreachable, 1, quoted(version)[:length]) for length in (0, 1, 8, 19, 20, 23)),
    ]
    with tc_programs({0: PortProtocol.NO_PORT}) as tc:
        run = tc.runner("netmon_receive").run
        for frame in wrong:
            assert run(frame) == 0xFFFFFFFF
        assert noted(tc) == []
        run(error(version, unreachable, 1, quoted(version)))
        (key,) = noted(tc)
        source, destination = (f.A4, f.B4) if version == 4 else (f.A6, f.B6)
        assert key == address(source) + address(destination) + struct.pack(">HHI", 4000, 443, 0)


def address(text: str) -> bytes:
    if ":" in text:
        return socket.inet_pton(socket.AF_INET6, text)
    return bytes(10) + b"\xff\xff" + socket.inet_aton(text)


def test_a_message_on_port_0_is_read_all_the_same() -> None:
    """A packet with one port of 0 is looked at as one without ports; DNS in it is not lost."""
    query = struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + b"\x03www\0\0\1\0\1"
    with tc_programs({0: PortProtocol.NO_PORT, **DNS_PORTS}) as tc:
        tc.program("netmon_dns")
        assert tc.runner("netmon_receive").run(f.ethernet(f.ipv4(f.udp(query, 0, 53), f.UDP))) == 0xFFFFFFFF
        cache = tc.loaded.maps["dns_cache"]
        assert list(keys_of(cache, 56)), "the query was not seen"


def keys_of(fd: int, size: int) -> Iterator[bytes]:
    key = ctypes.create_string_buffer(size)
    with contextlib.suppress(FileNotFoundError):
        syscalls.bpf(syscalls.MAP_GET_NEXT_KEY, struct.pack("<IIQQ", fd, 0, 0, ctypes.addressof(key)))
        yield key.raw

"""Network namespaces, veth pairs and frames for tests; everything is gone at exit.

Addresses are of 198.18.0.0/15 (RFC 2544) and fd00::/64, and only ever inside namespaces made here.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from otel_netmon.kernel.namespaces import find_namespace, opened_in

SERVES_SECONDS = 60.0


class LinkCounters(NamedTuple):
    """What `ip -s link` says of one interface."""

    receive_bytes: int
    receive_packets: int
    transmit_bytes: int
    transmit_packets: int


class NetNs:
    """A network namespace made by `namespace`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = Path("/run/netns") / name

    def command(self, *arguments: str) -> list[str]:
        """The argument list that runs a program inside. nsenter keeps the cgroup and bpf mounts, `ip netns exec` hides them."""
        return ["nsenter", f"--net={self.path}", *arguments]

    def run(self, *arguments: str) -> str:
        """Run a program inside to its end and give its output; a failure shows what it wrote."""
        return run(*self.command(*arguments))

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a program inside; the caller ends it."""
        return subprocess.Popen(self.command(*arguments))

    @contextmanager
    def serving(self, address: str, port: int, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """A program inside that serves TCP there, from when it does until the end of this."""
        running = self.start(*arguments)
        try:
            self.wait_for(address, port, running)
            yield running
        finally:
            running.kill()
            running.wait()

    def wait_for(self, address: str, port: int, running: subprocess.Popen[bytes]) -> None:
        """Waits until somebody accepts connections to an end; fails when a program ends before, or never does."""
        deadline = time.monotonic() + SERVES_SECONDS
        while True:
            with self.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                probe.settimeout(1)
                if not probe.connect_ex((address, port)):
                    return
            assert running.poll() is None, f"{running.args!r} ended: {running.returncode}"
            assert time.monotonic() < deadline, f"{running.args!r} does not serve {address}:{port}"
            time.sleep(0.01)

    def links(self) -> dict[str, dict[str, Any]]:
        """`ip -j -d link` by interface name."""
        return _links(self.run("ip", "-json", "-details", "link"))

    def counters(self, interface: str) -> LinkCounters:
        """The interface's own counters."""
        statistics = self.statistics(interface)
        receive, transmit = statistics["rx"], statistics["tx"]
        return LinkCounters(receive["bytes"], receive["packets"], transmit["bytes"], transmit["packets"])

    def statistics(self, interface: str) -> dict[str, dict[str, int]]:
        """All of the interface's own counters, "rx" and "tx", as `ip -j -s link` names them."""
        output = self.run("ip", "-json", "-statistics", "link", "show", "dev", interface)
        statistics: dict[str, dict[str, int]] = _links(output)[interface]["stats64"]
        return statistics

    def index(self, interface: str) -> int:
        """Its ifindex."""
        return int(self.links()[interface]["ifindex"])

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket that lives in this namespace."""
        found = find_namespace(self.name)
        assert found is not None, f"namespace {self.name} is gone"
        try:
            return opened_in(found, lambda: socket.socket(family, kind, protocol))
        finally:
            found.close()

    def send_frames(self, interface: str, frames: Sequence[bytes]) -> None:
        """Transmit whole Ethernet frames, in order; the interface must be up."""
        with self.socket(socket.AF_PACKET, socket.SOCK_RAW) as packet:
            packet.bind((interface, 0))
            for frame in frames:
                assert packet.send(frame) == len(frame)


class Veth(NamedTuple):
    """A veth pair: `left` in one namespace, `right` in the other."""

    left: str
    right: str
    left_address: str
    right_address: str
    left_address6: str
    right_address6: str


def run(*arguments: str) -> str:
    """Run a program to its end and give its output; a failure shows what it wrote."""
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr or done.stdout}"
    return done.stdout


def own_links() -> dict[str, dict[str, Any]]:
    """`ip -j -d link` of the test's own namespace, by interface name."""
    return _links(run("ip", "-json", "-details", "link"))


@contextmanager
def namespace(*, ipv6: bool = False) -> Iterator[NetNs]:
    """A new namespace under a random name, loopback up. Without `ipv6` its interfaces send nothing on their own."""
    name = f"nm{secrets.token_hex(5)}"
    run("ip", "netns", "add", name)
    try:
        made = NetNs(name)
        if not ipv6:
            for scope in ("all", "default"):
                made.run("sysctl", "-qw", f"net.ipv6.conf.{scope}.disable_ipv6=1")
        made.run("ip", "link", "set", "lo", "up")
        yield made
    finally:
        run("ip", "netns", "delete", name)


@contextmanager
def namespaces(count: int, *, ipv6: bool = False) -> Iterator[list[NetNs]]:
    """Several new namespaces."""
    with ExitStack() as stack:
        yield [stack.enter_context(namespace(ipv6=ipv6)) for _ in range(count)]


def add_veth(
    left: NetNs,
    right: NetNs,
    left_name: str = "left",
    right_name: str = "right",
    *,
    subnet: int = 0,
    ipv6: bool = False,
) -> Veth:
    """A veth pair, up on both ends, with addresses of 198.18.`subnet`.0/24 (and fd00:0:0:`subnet`::/64).

    It goes with its namespaces, or by `ip link delete`. The neighbour tables are filled in, so that no ARP or
    neighbour discovery is among the frames.
    """
    pair = Veth(
        left_name,
        right_name,
        f"198.18.{subnet}.1",
        f"198.18.{subnet}.2",
        f"fd00:0:0:{subnet:x}::1",
        f"fd00:0:0:{subnet:x}::2",
    )
    left.run("ip", "link", "add", left_name, "type", "veth", "peer", "name", right_name, "netns", right.name)
    ends = (
        (left, left_name, pair.left_address, pair.left_address6),
        (right, right_name, pair.right_address, pair.right_address6),
    )
    for side, name, address, address6 in ends:
        side.run("ip", "address", "add", f"{address}/24", "dev", name)
        if ipv6:
            side.run("ip", "address", "add", f"{address6}/64", "dev", name, "nodad")
        side.run("ip", "link", "set", name, "up")
    for (side, name, _, _), (other, other_name, address, address6) in (ends, ends[::-1]):
        hardware = other.links()[other_name]["address"]
        for far in (address, address6) if ipv6 else (address,):
            side.run("ip", "neighbour", "replace", far, "lladdr", hardware, "dev", name, "nud", "permanent")
    return pair


@contextmanager
def veth_pair(*, ipv6: bool = False) -> Iterator[tuple[NetNs, NetNs, Veth]]:
    """Two new namespaces with a veth pair between them."""
    with namespaces(2, ipv6=ipv6) as (left, right):
        yield left, right, add_veth(left, right, ipv6=ipv6)


def _links(output: str) -> dict[str, dict[str, Any]]:
    return {link["ifname"]: link for link in json.loads(output) if link}


def open_files() -> int:
    """How many files this process has open."""
    return len(os.listdir("/proc/self/fd"))

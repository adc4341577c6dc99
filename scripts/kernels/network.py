"""A veth pair between two anonymous network namespaces: this process's own, and that of a child which sends.

Neither namespace has a name, so nothing is left of them when the two processes end, however they end.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import socket
import subprocess
import time
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Self

INTERFACE = "nmk0"
PEER = "nmk1"
PORT = 4739
PAYLOAD = b"otel-netmon kernel"
HEADERS = {4: 14 + 20 + 8, 6: 14 + 40 + 8}
"""Ethernet, IP and UDP header bytes of a datagram by IP version."""

_OURS = {4: "198.18.0.1", 6: "2001:db8::1"}
_THEIRS = {4: "198.18.0.2", 6: "2001:db8::2"}
_OUR_MAC, _THEIR_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_CLONE_NEWNET = 0x40000000
_LINK_SECONDS = 15.0
_RECEIVE_BUFFER = 1 << 26  # all datagrams of a round wait in it: what is not delivered is then a loss on the way


def ip(*words: str) -> str:
    """Runs ip of iproute2."""
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def unshare_network() -> None:
    """Moves the calling process into a network namespace of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNET) failed")


def _configure(interface: str, addresses: dict[int, str], neighbours: dict[int, str], neighbour_mac: str) -> None:
    """Gives addresses and brings the link up; addresses are settled first, so that no datagram waits for a neighbour."""
    for version, address in addresses.items():
        prefix = {4: "30", 6: "64"}[version]
        ip("addr", "add", f"{address}/{prefix}", "dev", interface, *(["nodad"] if version == 6 else []))
    ip("link", "set", interface, "up")
    deadline = time.monotonic() + _LINK_SECONDS
    while "state UP" not in ip("-o", "link", "show", "dev", interface):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{interface} has no carrier after {_LINK_SECONDS:.0f} s")
        time.sleep(0.05)
    # The state is told a moment before the queue takes packets, both under the lock that these commands wait for.
    for neighbour in neighbours.values():
        ip("neigh", "replace", neighbour, "lladdr", neighbour_mac, "dev", interface, "nud", "permanent")


def _peer(pipe: Connection) -> None:
    """The child: a namespace, then one order after the other until the pipe closes."""
    unshare_network()
    ip("link", "set", "lo", "up")
    pipe.send(os.getpid())
    while True:
        try:
            order = pipe.recv()
        except EOFError:
            return
        if order == "up":
            _configure(PEER, _THEIRS, _OURS, _OUR_MAC)
            pipe.send(True)
        else:
            version, count = order
            with socket.socket(_FAMILIES[version], socket.SOCK_DGRAM) as sender:
                for _ in range(count):
                    sender.sendto(PAYLOAD, (_OURS[version], PORT))
            pipe.send(count)


class Pair:
    """The veth pair; on entry this process is in its new namespace and the link exists, still down."""

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        self._child = context.Process(target=_peer, args=(theirs,), daemon=True)
        self._child.start()
        theirs.close()
        pid = self._pipe.recv()
        unshare_network()
        ip("link", "set", "lo", "up")
        veth = ("type", "veth", "peer", "name", PEER, "address", _THEIR_MAC, "netns", str(pid))
        ip("link", "add", INTERFACE, "address", _OUR_MAC, *veth)
        self._receivers = {version: self._receiver(version) for version in (4, 6)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()
        for receiver in self._receivers.values():
            receiver.close()
        self._child.join(5)
        if self._child.is_alive():
            self._child.kill()

    @staticmethod
    def _receiver(version: int) -> socket.socket:
        receiver = socket.socket(_FAMILIES[version], socket.SOCK_DGRAM)
        if version == 6:
            receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        receiver.setsockopt(socket.SOL_SOCKET, 33, _RECEIVE_BUFFER)  # SO_RCVBUFFORCE
        receiver.bind(("", PORT))
        receiver.setblocking(False)
        return receiver

    @property
    def index(self) -> int:
        """The ifindex of our end."""
        return socket.if_nametoindex(INTERFACE)

    def up(self) -> None:
        """Brings both ends up; returns when each takes packets."""
        self._pipe.send("up")
        _configure(INTERFACE, _OURS, _THEIRS, _THEIR_MAC)
        self._pipe.recv()

    def send(self, version: int, count: int) -> int:
        """Lets the peer send so many datagrams to us, and gives how many of them the receiving socket was handed."""
        self._pipe.send((version, count))
        self._pipe.recv()
        received = 0
        receiver = self._receivers[version]
        deadline = time.monotonic() + 5.0
        while received < count and time.monotonic() < deadline:
            try:
                received += receiver.recv(64) == PAYLOAD
            except BlockingIOError:
                time.sleep(0.01)
        return received


def counters() -> dict[str, int]:
    """The kernel's own packet counters of our end: receive, transmit (proc_net_dev of the namespace we are in)."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, figures = line.partition(":")
        if name.strip() == INTERFACE:
            words = figures.split()
            return {"receive": int(words[1]), "transmit": int(words[9])}
    raise LookupError(f"{INTERFACE} is not in /proc/net/dev")

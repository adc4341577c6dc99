"""Loads whose size is known beforehand, and what links, pages and collectors say of them."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from support.agent import Agent, parse_samples
from support.netns import LinkCounters, NetNs
from support.points import Point

TCP_DEADLINE_SECONDS = 60.0
CHUNK = 1 << 16

Sides = dict[str, tuple[int, int]]
"""(packets, bytes) by direction, "receive" and "transmit"."""


# ------------------------------------------------------------------------------------------------------------- loads
def datagrams(source: NetNs, target: NetNs, address: str, count: int, size: int, port: int = 9) -> bytes:
    """Sends UDP datagrams of that payload to a socket of the other namespace; gives the digest of what it could take.

    Each datagram begins with its number. The receiver reads as fast as the sender writes, and what its queue cannot take is no
    loss on the link; a caller that compares digests sends few enough.
    """
    digest = hashlib.sha256()
    with (
        target.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        source.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        receiver.bind((address, port))
        sender.connect((address, port))
        receiver.setblocking(False)
        rest = bytes(size - 4)
        for number in range(count):
            sender.send(number.to_bytes(4, "big") + rest)
        while True:
            try:
                digest.update(receiver.recv(CHUNK))
            except BlockingIOError:
                return digest.digest()


class TcpInfo(NamedTuple):
    """Of struct tcp_info: segments and bytes as the transport counts them, each segment of a super-packet by itself."""

    segments_out: int
    segments_in: int
    bytes_sent: int
    bytes_retransmitted: int
    segment_size: int


def transfer(client: NetNs, server: NetNs, address: str, size: int, port: int = 5001) -> tuple[TcpInfo, bytes]:
    """One TCP connection that carries that many bytes from the client to the server and ends in order.

    Returns:
        the client's counts when all is over, and the digest of what the server received.
    """
    digest = hashlib.sha256()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(TCP_DEADLINE_SECONDS)
            while data := connection.recv(CHUNK):
                digest.update(data)

    with (
        server.socket(socket.AF_INET, socket.SOCK_STREAM) as listener,
        client.socket(socket.AF_INET, socket.SOCK_STREAM) as caller,
    ):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.settimeout(TCP_DEADLINE_SECONDS)
        listener.bind((address, port))
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        caller.settimeout(TCP_DEADLINE_SECONDS)
        caller.connect((address, port))
        sent, block = 0, bytes(range(256)) * (CHUNK // 256 + 1)
        while sent < size:  # the byte at each position is the same, however much one call takes
            sent += caller.send(block[sent % 256 : sent % 256 + min(size - sent, CHUNK)])
        caller.shutdown(socket.SHUT_WR)
        assert caller.recv(1) == b""  # the server has read all and closed
        thread.join()
        raw = caller.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
    # Offsets of struct tcp_info, include/uapi/linux/tcp.h.
    (segment_size,) = struct.unpack_from("<I", raw, 16)
    segments_out, segments_in = struct.unpack_from("<II", raw, 136)
    sent, again = struct.unpack_from("<QQ", raw, 200)
    return TcpInfo(segments_out, segments_in, sent, again, segment_size), digest.digest()


def udp_frame(source: str, destination: str, source_port: int, destination_port: int, size: int = 64) -> bytes:
    """An Ethernet frame to nobody in particular with an IPv4 UDP datagram; no checksum, nobody reads it."""
    length = size - 14
    ip = struct.pack(
        ">BBHHHBBH4s4s",
        0x45, 0, length, 0, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(destination),
    )  # fmt: skip
    udp = struct.pack(">HHHH", source_port, destination_port, length - 20, 0)
    return b"\x02\0\0\0\0\x09\x02\0\0\0\0\x01\x08\0" + ip + udp + bytes(length - 28)


# ------------------------------------------------------------------------------------------------------ what they say
def gained(now: LinkCounters, base: LinkCounters) -> Sides:
    """What a link has counted since ``base``."""
    return {
        "receive": (now.receive_packets - base.receive_packets, now.receive_bytes - base.receive_bytes),
        "transmit": (now.transmit_packets - base.transmit_packets, now.transmit_bytes - base.transmit_bytes),
    }


def on_page(page: str, family: str, **labels: str) -> Sides:
    """netmon_FAMILY_packets_total and _io_bytes_total of a Prometheus page, added up by direction."""
    sums = {"receive": [0, 0], "transmit": [0, 0]}
    for unit, name in enumerate((f"netmon_{family}_packets_total", f"netmon_{family}_io_bytes_total")):
        for have, value in parse_samples(page, name):
            if all(have.get(key) == wanted for key, wanted in labels.items()):
                sums[have["network_io_direction"]][unit] += int(value)
    return {direction: (packets, octets) for direction, (packets, octets) in sums.items()}


def at_collector(points: Iterable[Point], family: str, interface: str | None = None) -> Sides:
    """netmon.FAMILY.packets and .io as a collector has them: the last value of every series since each of its starts."""
    last: dict[tuple[str, str, int], Point] = {}
    for point in points:
        if point.name in (f"netmon.{family}.packets", f"netmon.{family}.io"):
            if interface is not None and point.attributes["network.interface.name"] != interface:
                continue
            identity = point.name, json.dumps(point.attributes, sort_keys=True), point.start_time
            if identity not in last or last[identity].time <= point.time:
                last[identity] = point
    sums = {"receive": [0, 0], "transmit": [0, 0]}
    for point in last.values():
        assert isinstance(point.value, int)
        sums[str(point.attributes["network.io.direction"])][point.name.endswith(".io")] += point.value
    return {direction: (packets, octets) for direction, (packets, octets) in sums.items()}


def handed_over(running: Agent, interface: str) -> Sides:
    """What /status says that the stack handed over at an interface, super-packets as one: flows and the rest added up."""
    (row,) = (row for row in running.status()["interfaces"] if row["name"] == interface)
    return {side: (row[side]["skb_packets"], row[side]["skb_bytes"]) for side in ("receive", "transmit")}


def offloads(netns: NetNs, interface: str, state: str, names: Sequence[str] = ("tso", "gso", "gro")) -> None:
    """Switches segmentation and receive offload "on" or "off"."""
    netns.run("ethtool", "-K", interface, *(word for name in names for word in (name, state)))

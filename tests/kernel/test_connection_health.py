"""How well a connection does, against what the kernel says of it: retransmits, round trips, order, closed windows."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

from otel_netmon.abi.enums import Ending, Retransmit, Role, TcpFlags
from otel_netmon.abi.layout import CONNECTION
from otel_netmon.readers.inet_diag import _TCP_INFO as TCP_INFO
from support.netns import NetNs, veth_pair
from support.socket_programs import DEADLINE_SECONDS, Rows, SocketPrograms, observed

pytestmark = pytest.mark.kernel

SO_COOKIE = 57
CONNECTIONS = 23
OCTETS = 900_001
BACK = 50_021
LOSS = ("-m", "statistic", "--mode", "random", "--probability", "0.02", "-j", "DROP")
BOUNDS = [0.0, *(2.0**power for power in range(-15, 0)), float("inf")]


class Network(NamedTuple):
    near: NetNs
    far: NetNs
    address: str
    programs: SocketPrograms


@pytest.fixture
def network() -> Iterator[Network]:
    with observed() as programs, veth_pair() as (near, far, way):
        yield Network(near, far, way.right_address, programs)


class Ends(NamedTuple):
    client: socket.socket
    server: socket.socket


@contextlib.contextmanager
def connection(network: Network, **buffers: int) -> Iterator[Ends]:
    """An established connection; `receive` is the size of the server's buffer."""
    with network.far.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        if "receive" in buffers:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers["receive"])
        listening.bind((network.address, 0))
        listening.listen()
        with network.near.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
            client.connect(listening.getsockname())
            server, _ = listening.accept()
            with server:
                yield Ends(client, server)


def cookie(end: socket.socket) -> int:
    return int.from_bytes(end.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), "little")


def tcp_info(end: socket.socket) -> Any:
    raw = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO.itemsize)
    return np.frombuffer(raw.ljust(TCP_INFO.itemsize, b"\0"), TCP_INFO)[0]


def row_of(network: Network, end: socket.socket) -> Any:
    rows = network.programs.live()
    (row,) = rows[rows["cookie"] == cookie(end)]
    return row


def nstat(netns: NetNs) -> dict[str, int]:
    lines = netns.run("nstat", "-asz").splitlines()
    return {fields[0]: int(fields[1]) for fields in map(str.split, lines) if fields and fields[0] != "#kernel"}


def exchange(network: Network, count: int) -> None:
    """So many connections at once: OCTETS to the server, BACK from it."""
    with network.far.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.bind((network.address, 0))
        listening.listen(count)

        def serve() -> None:
            end, _ = listening.accept()
            with end:
                while end.recv(1 << 16):
                    pass
                end.sendall(bytes(BACK))

        def ask() -> None:
            with network.near.socket(socket.AF_INET, socket.SOCK_STREAM) as end:
                end.connect(listening.getsockname())
                end.sendall(bytes(OCTETS))
                end.shutdown(socket.SHUT_WR)
                while end.recv(1 << 16):
                    pass

        threads = [threading.Thread(target=job) for job in [serve] * count + [ask] * count]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def summed(rows: Rows, role: Role) -> dict[str, Any]:
    chosen = rows[rows["role"] == role]
    numbers = [name for name in CONNECTION.names or () if chosen[name].dtype.kind == "u"]
    return {name: chosen[name].sum(axis=0, dtype=np.uint64) for name in numbers}


def test_retransmits_are_those_of_the_kernel(network: Network) -> None:
    """Two in a hundred segments are lost, both ways: every retransmit is of a kind, and their sum is nstat's."""
    for side in (network.near, network.far):
        side.run("iptables", "-A", "INPUT", "-p", "tcp", *LOSS)
    count = 0
    while not count or any(nstat(side)["TcpRetransSegs"] < CONNECTIONS for side in (network.near, network.far)):
        exchange(network, CONNECTIONS)
        count += 2 * CONNECTIONS
    rows = network.programs.wait_ended(count)
    assert set(rows["ending"].tolist()) == {Ending.FIN_LOCAL, Ending.FIN_REMOTE}
    for side, role, octets in (
        (network.near, Role.CLIENT, (BACK, OCTETS)),
        (network.far, Role.SERVER, (OCTETS, BACK)),
    ):
        kernel, ours = nstat(side), summed(rows, role)
        kinds = dict(zip(Retransmit, ours["retransmits"].tolist(), strict=False))
        assert sum(kinds.values()) == kernel["TcpRetransSegs"]
        # Behind a timeout that the kernel takes back (RFC 5682) it sends again as if there had been none; no hook tells that.
        assert 0 <= kernel["TcpExtTCPFastRetrans"] - kinds[Retransmit.FAST] <= kinds[Retransmit.TIMEOUT]
        assert kinds[Retransmit.SYN] + kinds[Retransmit.SYN_ACK] == kernel["TcpExtTCPSynRetrans"]
        assert kinds[Retransmit.TAIL_LOSS] <= kernel["TcpExtTCPLossProbes"]  # some probe with new data
        assert kinds[Retransmit.OTHER] == 0
        # A timer that ran out for a SYN-ACK is the listener's; a SYN that comes again has it repeated without one.
        assert 0 <= kernel["TcpExtTCPTimeouts"] - int(ours["timeouts"]) <= kinds[Retransmit.SYN_ACK]
        assert kinds[Retransmit.TIMEOUT] >= kernel["TcpExtTCPSlowStartRetrans"]
        chosen = rows[rows["role"] == role]
        assert {(int(row["bytes_received"]), int(row["bytes_sent"])) for row in chosen} == {octets}


def test_round_trips_are_those_of_the_socket(network: Network) -> None:
    """Behind a bottleneck that makes a queue: at 55 moments the row has what the socket says, and the buckets hold them all."""
    network.near.run(
        "tc", "qdisc", "add", "dev", "left", "root", "tbf", "rate", "40mbit", "burst", "32kb", "latency", "60ms"
    )
    with connection(network) as (client, server):
        stop = threading.Event()

        def send() -> None:
            with contextlib.suppress(OSError):
                while not stop.is_set():
                    client.sendall(bytes(65536))

        def receive() -> None:
            with contextlib.suppress(OSError):
                while server.recv(1 << 17):
                    pass

        threads = [threading.Thread(target=job) for job in (send, receive)]
        for thread in threads:
            thread.start()
        close, said = [], []
        for _ in range(60):
            said.append(int(tcp_info(client)["rtt_us"]))
            row = row_of(network, client)
            lately = said[-5:]  # a sample is as old as a round trip
            close.append(min(lately) * 0.9 <= int(row["rtt_us"]) <= max(lately) * 1.1)
            time.sleep(0.02)  # between two moments, nothing is waited for
        stop.set()
        row = row_of(network, client)
        client.shutdown(socket.SHUT_RDWR)
        server.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
    assert sum(close[5:]) >= 53  # 95 of 100
    assert row["rtt_count"] == row["rtt_buckets"].sum() > 20
    assert row["rtt_min_us"] <= row["rtt_sum_us"] / row["rtt_count"] <= row["rtt_max_us"]
    assert row["rtt_max_us"] > 1000, "there was no queue"


def test_each_round_trip_is_in_its_bucket(network: Network) -> None:
    """Those of the smallest and of the largest sample hold some, and none outside of these does."""
    exchange(network, CONNECTIONS)
    for row in network.programs.wait_ended(2 * CONNECTIONS):
        used = np.flatnonzero(row["rtt_buckets"])
        assert row["rtt_buckets"].sum() == row["rtt_count"] > 0
        for bucket, sample in ((used[0], int(row["rtt_min_us"])), (used[-1], int(row["rtt_max_us"]))):
            assert BOUNDS[bucket] <= (sample + 1) / 1e6  # it is cut to whole microseconds
            assert sample / 1e6 <= BOUNDS[bucket + 1]


def test_segments_out_of_order_are_those_of_the_socket(network: Network) -> None:
    """A lost segment leaves those behind it out of order, until it is sent again."""
    network.far.run("iptables", "-A", "INPUT", "-p", "tcp", *LOSS)
    with connection(network) as (client, server):
        while not int(tcp_info(server)["rcv_ooopack"]):
            reader = threading.Thread(target=lambda: server.recv(OCTETS * 10, socket.MSG_WAITALL))
            reader.start()
            client.sendall(bytes(OCTETS * 10))
            reader.join()
        assert int(row_of(network, server)["out_of_order"]) == int(tcp_info(server)["rcv_ooopack"])
        assert row_of(network, client)["out_of_order"] == 0


class Sniffer:
    """What crosses an interface: TCP segments by what their header says."""

    def __init__(self, netns: NetNs, interface: str) -> None:
        self._socket = netns.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._socket.bind((interface, 0x0003))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 26)

    def closed_windows(self) -> dict[str, int]:
        """Segments without SYN, FIN and RST that advertise no window, by the sender's address."""
        counts: dict[str, int] = {}
        self._socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                frame = self._socket.recv(100)
                if frame[12:14] != b"\x08\0" or frame[23] != 6:
                    continue
                flags, window = struct.unpack_from(">BH", frame, 14 + 20 + 13)
                if not window and not flags & (TcpFlags.SYN | TcpFlags.FIN | TcpFlags.RST):
                    sender = socket.inet_ntoa(frame[26:30])
                    counts[sender] = counts.get(sender, 0) + 1
        return counts

    def close(self) -> None:
        self._socket.close()


def test_closed_windows_are_counted_on_both_sides(network: Network) -> None:
    """A reader that stops, reads on, and stops again: as many segments as are on the wire."""
    with (
        contextlib.closing(Sniffer(network.near, "left")) as sniffer,
        connection(network, receive=4096) as (client, server),
    ):
        client.setblocking(False)
        for _ in range(3):
            deadline = time.monotonic() + DEADLINE_SECONDS
            before = int(row_of(network, client)["zero_windows_received"])
            while int(row_of(network, client)["zero_windows_received"]) < before + 2:  # one more after a probe
                with contextlib.suppress(BlockingIOError):
                    client.send(bytes(65536))
                assert time.monotonic() < deadline
                time.sleep(0.005)
            server.settimeout(1.0)
            with contextlib.suppress(TimeoutError):
                while server.recv(1 << 16):
                    pass
        client_row, server_row = row_of(network, client), row_of(network, server)
        wire = sniffer.closed_windows()
    assert wire == {network.address: int(client_row["zero_windows_received"])}
    assert client_row["zero_windows_received"] == server_row["zero_windows_sent"] >= 6
    assert client_row["zero_windows_sent"] == server_row["zero_windows_received"] == 0


def test_a_connection_that_only_receives_is_up_to_date(network: Network) -> None:
    """It has no round trips that would tell: what came is in its row all the same, while it lives."""
    with connection(network) as (client, server):
        for number in range(1, 8):
            client.sendall(bytes(10_007))
            assert len(server.recv(10_007, socket.MSG_WAITALL)) == 10_007
            time.sleep(0.2)  # longer than a row is left as it is
            client.sendall(b"x")
            assert server.recv(1) == b"x"
            received = int(row_of(network, server)["bytes_received"])
            assert received >= number * 10_007, number

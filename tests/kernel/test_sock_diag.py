"""Sockets of namespaces made for the test, against `ss` and against the sockets themselves."""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import re
import secrets
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from otel_netmon.enrich.addresses import address_text
from otel_netmon.kernel.cgroup import find_cgroup2
from otel_netmon.kernel.namespaces import find_namespace, open_sock_diag, own_namespace
from otel_netmon.readers.sock_diag import SockDiagReader
from support.netns import NetNs, namespace

pytestmark = pytest.mark.kernel

STATES = {
    1: "ESTAB", 2: "SYN-SENT", 3: "SYN-RECV", 4: "FIN-WAIT-1", 5: "FIN-WAIT-2", 6: "TIME-WAIT", 7: "UNCONN",
    8: "CLOSE-WAIT", 9: "LAST-ACK", 10: "LISTEN", 11: "CLOSING",
}  # fmt: skip
SO_COOKIE = 57
CONNECTIONS = 23
DEADLINE_SECONDS = 10.0
NO_PROTOCOL = 250


@contextlib.contextmanager
def reader_in(netns: NetNs) -> Iterator[SockDiagReader]:
    found = find_namespace(netns.name)
    assert found is not None
    try:
        reader = SockDiagReader(open_sock_diag(found))
    finally:
        found.close()
    with contextlib.closing(reader):
        yield reader


def ends(rows: npt.NDArray[Any]) -> list[tuple[str, str, int, str, int]]:
    return sorted(
        (
            STATES[int(row["state"])],
            address_text(bytes(row["local"])),
            int(row["local_port"]),
            address_text(bytes(row["remote"])),
            int(row["remote_port"]),
        )
        for row in rows
    )


def ss(netns: NetNs, *options: str) -> list[list[str]]:
    return [line.split() for line in netns.run("ss", "-anH", *options).splitlines()]


def ends_of_ss(rows: list[list[str]]) -> list[tuple[str, str, int, str, int]]:
    def split(text: str) -> tuple[str, int]:
        host, _, port = text.rpartition(":")
        host = host.strip("[]").removeprefix("::ffff:")
        return ("0.0.0.0" if host in ("*", "") else host), int(port) if port != "*" else 0

    return sorted((row[0], *split(row[3]), *split(row[4])) for row in rows)


def row_of(rows: npt.NDArray[Any], end: socket.socket) -> Any:
    (row,) = rows[rows["inode"] == os.fstat(end.fileno()).st_ino]
    return row


def inside(netns: NetNs, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> socket.socket:
    return netns.socket(family, kind)


@contextlib.contextmanager
def connected(
    netns: NetNs, address: str, family: int, count: int
) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(inside(netns, family))
        listener.bind((address, 0))
        listener.listen(count)
        pairs = []
        for _ in range(count):
            client = stack.enter_context(inside(netns, family))
            client.connect(listener.getsockname())
            pairs.append((client, stack.enter_context(listener.accept()[0])))
        yield pairs


@pytest.fixture
def netns() -> Iterator[NetNs]:
    with namespace(ipv6=True) as made:
        yield made


def test_states_and_ends_are_those_of_ss(netns: NetNs) -> None:
    with (
        reader_in(netns) as reader,
        connected(netns, "127.0.0.1", socket.AF_INET, CONNECTIONS) as four,
        connected(netns, "::1", socket.AF_INET6, CONNECTIONS) as six,
        inside(netns) as refusing,
        inside(netns, kind=socket.SOCK_DGRAM) as datagrams,
    ):
        datagrams.bind(("127.0.0.1", 0))
        refusing.bind(("127.0.0.1", 0))
        for client, _ in (*four[:3], *six[:3]):
            client.shutdown(socket.SHUT_WR)  # FIN-WAIT-2 and CLOSE-WAIT
        for client, server in (*four[3:8], *six[3:5]):
            client.close()
            server.close()  # TIME-WAIT
        expected = {"LISTEN": 2, "ESTAB": 66, "FIN-WAIT-2": 6, "CLOSE-WAIT": 6, "TIME-WAIT": 7}
        deadline = time.monotonic() + DEADLINE_SECONDS
        states: dict[str, int] = {}
        while states != expected:  # acknowledgements are under way
            rows = reader.tcp()
            states = collections.Counter(state for state, *_ in ends(rows))
            assert time.monotonic() < deadline, states
        assert ends(rows) == ends_of_ss(ss(netns, "-t"))
        assert ends(reader.tcp(states=1 << 10)) == [each for each in ends(rows) if each[0] == "LISTEN"]


def test_a_handshake_that_waits_is_there(netns: NetNs) -> None:
    with reader_in(netns) as reader, inside(netns) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        clients = []
        for _ in range(5):  # more than the queue takes
            client = inside(netns)
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(listener.getsockname())
            clients.append(client)
        rows = reader.tcp()
        assert ends(rows) == ends_of_ss(ss(netns, "-t"))
        assert {"SYN-SENT", "LISTEN"} <= {state for state, *_ in ends(rows)}
        for client in clients:
            client.close()


def test_the_cookie_is_that_of_the_socket(netns: NetNs) -> None:
    with reader_in(netns) as reader, connected(netns, "127.0.0.1", socket.AF_INET, 1) as ((client, server),):
        rows = reader.tcp()
        for end in (client, server):
            cookie = int.from_bytes(end.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), "little")
            assert row_of(rows, end)["cookie"] == cookie
            assert row_of(rows, end)["family"] == socket.AF_INET


def test_the_namespace_has_a_cookie_of_its_own(netns: NetNs) -> None:
    with reader_in(netns) as reader, contextlib.closing(SockDiagReader(open_sock_diag(own_namespace()))) as own:
        assert reader.namespace_cookie not in (0, own.namespace_cookie)
        with reader_in(netns) as again:
            assert again.namespace_cookie == reader.namespace_cookie


def test_a_mapped_address_of_an_ipv6_socket_is_ipv4(netns: NetNs) -> None:
    with reader_in(netns) as reader, inside(netns, socket.AF_INET6) as listener, inside(netns) as client:
        listener.bind(("::", 0))
        listener.listen()
        client.connect(("127.0.0.1", listener.getsockname()[1]))
        with listener.accept()[0] as server:
            row = row_of(reader.tcp(), server)
            assert row["family"] == socket.AF_INET6
            assert address_text(bytes(row["local"])) == "127.0.0.1"


def test_figures_are_those_of_the_socket(netns: NetNs) -> None:
    with reader_in(netns) as reader, connected(netns, "127.0.0.1", socket.AF_INET, 1) as ((client, server),):
        client.sendall(b"x" * 10_007)
        got = 0
        while got < 10_007:
            got += len(server.recv(1 << 16))
        server.sendall(b"y" * 503)
        assert len(client.recv(1 << 16)) == 503
        rows = reader.tcp(info=True)
        for end, sent, received in ((client, 10_007, 503), (server, 503, 10_007)):
            row = row_of(rows, end)
            assert row["has_info"]
            assert (row["bytes_sent"], row["bytes_received"]) == (sent, received)
            raw = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            fields = {"rtt_us": 68, "rttvar_us": 72, "snd_cwnd": 80, "total_retrans": 100, "min_rtt_us": 148}
            for name, offset in {**fields, "data_segs_in": 152, "snd_wnd": 228}.items():
                assert row[name] == struct.unpack_from("=I", raw, offset)[0], name
            for name, offset in {"bytes_acked": 120, "bytes_received": 128, "bytes_retrans": 208}.items():
                assert row[name] == struct.unpack_from("=Q", raw, offset)[0], name
        line = next(
            " ".join(row) for row in ss(netns, "-tiO") if f":{client.getsockname()[1]} " in " ".join(row[3:4]) + " "
        )
        found = re.search(r" rtt:([0-9.]+)/([0-9.]+) ", line)
        assert found is not None
        row = row_of(rows, client)
        assert (float(found[1]) * 1000, float(found[2]) * 1000) == (row["rtt_us"], row["rttvar_us"])


def test_a_listening_socket_tells_its_queue(netns: NetNs) -> None:
    with reader_in(netns) as reader, inside(netns) as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(17)
        for _ in range(5):
            stack.enter_context(inside(netns)).connect(listener.getsockname())
        row = row_of(reader.tcp(), listener)
        assert (row["receive_queue"], row["send_queue"]) == (5, 17)


def test_drops_of_a_udp_socket(netns: NetNs) -> None:
    with (
        reader_in(netns) as reader,
        inside(netns, kind=socket.SOCK_DGRAM) as receiver,
        inside(netns, socket.AF_INET6, socket.SOCK_DGRAM) as six,
        inside(netns, kind=socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", 0))
        six.bind(("::1", 0))
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sender.connect(receiver.getsockname())
        sent = 101
        for _ in range(sent):
            sender.send(b"x" * 1000)
        rows = reader.udp()
        assert ends(rows) == ends_of_ss(ss(netns, "-u"))
        row = row_of(rows, receiver)
        got = 0
        with contextlib.suppress(BlockingIOError):
            while receiver.recv(2000, socket.MSG_DONTWAIT):
                got += 1
        assert 0 < got < sent
        assert row["drops"] == sent - got
        assert row["rmem"] > 0
        assert row["rcvbuf"] == receiver.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        assert row_of(reader.udp(), receiver)["rmem"] == 0


def test_the_cgroup_is_the_inode_of_the_folder(netns: NetNs) -> None:
    mount = find_cgroup2()
    assert mount is not None
    folder = Path(mount.path) / f"netmon-{secrets.token_hex(6)}"
    folder.mkdir()
    script = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    command = ["sh", "-c", f'echo $$ > "{folder}/cgroup.procs" && exec "$@"', "sh", sys.executable, "-c", script]
    try:
        with (
            reader_in(netns) as reader,
            subprocess.Popen(netns.command(*command), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child,
        ):
            assert child.stdout is not None
            port = int(child.stdout.readline())
            rows = reader.tcp()
            assert rows["cgroup"][rows["local_port"] == port].tolist() == [folder.stat().st_ino]
            child.communicate(b"\n")
    finally:
        folder.rmdir()


def test_a_reader_without_privilege_is_told_the_same(netns: NetNs) -> None:
    found = find_namespace(netns.name)
    assert found is not None
    fd = open_sock_diag(found)
    found.close()
    script = (
        "import os, sys; from otel_netmon.readers.sock_diag import SockDiagReader;"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534);"
        "rows = SockDiagReader(int(sys.argv[1])).tcp(info=True);"
        "print(rows['inode'].tolist(), rows['has_info'].tolist(), rows['local_port'].tolist())"
    )
    with inside(netns) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        done = subprocess.run([sys.executable, "-c", script, str(fd)], capture_output=True, text=True, pass_fds=[fd])
        os.close(fd)
        inode, port = os.fstat(listener.fileno()).st_ino, listener.getsockname()[1]
        assert done.stdout == f"{[inode]} {[True]} {[port]}\n", done.stderr


class Answering:
    """A socket that answers every request with messages of the test's."""

    def __init__(self, *answers: Callable[[int], bytes]) -> None:
        self._answers = list(answers)
        self._pending: list[bytes] = []
        self.requests = 0

    def sendto(self, data: bytes, _: tuple[int, int]) -> None:
        self.requests += 1
        self._pending = [self._answers.pop(0)(struct.unpack_from("=I", data, 8)[0])]

    def recvmsg_into(self, buffers: list[memoryview]) -> tuple[int, list[Any], int, None]:
        data = self._pending.pop(0)
        buffers[0][: len(data)] = data
        return len(data), [], 0, None


def done(sequence: int, flags: int = 0, error: int = 0) -> bytes:
    return struct.pack("=IHHIIi", 20, 3, flags, sequence, 0, error)


def test_an_interrupted_dump_is_repeated_and_told() -> None:
    reader = SockDiagReader(open_sock_diag(own_namespace()))
    reader.close()
    interrupted, whole = (lambda sequence: done(sequence, 0x10)), done
    answering = Answering(interrupted, interrupted, whole, whole)
    reader._socket = answering  # type: ignore[assignment]
    assert reader.tcp().shape == (0,)
    assert (answering.requests, reader.interrupted) == (4, 2)
    always = Answering(*[interrupted] * 6)
    reader._socket = always  # type: ignore[assignment]
    assert reader.tcp().shape == (0,)
    assert (always.requests, reader.interrupted) == (6, 8)


def test_a_refusal_is_told() -> None:
    reader = SockDiagReader(open_sock_diag(own_namespace()))
    with contextlib.closing(reader), pytest.raises(OSError, match="sock_diag") as refused:
        reader._both(NO_PROTOCOL, 0, 0xFFF, np.dtype("u1"))
    assert refused.value.errno in (errno.ENOENT, errno.EINVAL)

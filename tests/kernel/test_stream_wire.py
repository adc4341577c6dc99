"""TLS on real sockets: super-packets, both directions of a loopback, and what a download costs the ring."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from struct import pack
from typing import Any, NamedTuple

import numpy as np
import pytest

from otel_netmon.abi.enums import Direction, MessageCount, MessageKind
from otel_netmon.analysis.tcp_connections import Connections
from otel_netmon.analysis.tcp_messages import stream_segments
from otel_netmon.analysis.tls import tls_recogniser
from otel_netmon.analysis.tls_certificates import Certificates
from otel_netmon.sources.messages import STREAMS, MessageSource
from otel_netmon.sources.streams import segment_stages
from support.message_programs import MessagePrograms
from support.netns import NetNs, namespace
from support.tls_talk import Authority

pytestmark = pytest.mark.kernel

CANARY = b"CANARY-2b91"
DOWNLOAD = CANARY * 100_003
HANDSHAKES = 23


class Loopback(NamedTuple):
    """A namespace with the programs at its loopback: every packet is seen when it leaves and when it arrives."""

    netns: NetNs
    programs: MessagePrograms

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """A connection: the end that opened it, and the other."""
        with self.netns.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", 8443))
            listener.listen()
            client = self.netns.socket(socket.AF_INET, socket.SOCK_STREAM)
            client.connect(("127.0.0.1", 8443))
            return client, listener.accept()[0]


@pytest.fixture
def loopback() -> Iterator[Loopback]:
    with (
        namespace() as netns,
        MessagePrograms(replay=0, streams=1, sizes={"messages": 1 << 22}) as programs,
        programs.attached(netns, streams=1),
    ):
        yield Loopback(netns, programs)


def drain(sock: socket.socket, octets: int) -> bytes:
    data = bytearray()
    while len(data) < octets and (more := sock.recv(1 << 16)):
        data += more
    return bytes(data)


def test_real_handshakes_come_out_whole_and_downloads_cost_nothing(loopback: Loopback, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(authority.issue(["www.example.org"], rsa_bits=2048))
    found: list[Any] = []
    for number in range(HANDSHAKES):
        client_side = ssl.create_default_context(cafile=str(authority.file))
        client_side.maximum_version = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)[number % 2]
        client, server = loopback.pair()
        got: list[bytes] = []

        def fetch(sock: socket.socket = client, context: ssl.SSLContext = client_side, got: list[bytes] = got) -> None:
            with context.wrap_socket(sock, server_hostname="www.example.org") as secured:
                secured.send(CANARY)
                got.append(drain(secured, len(DOWNLOAD)))

        thread = threading.Thread(target=fetch)
        thread.start()
        with server_side.wrap_socket(server, server_side=True) as secured:
            assert secured.recv(len(CANARY)) == CANARY
            secured.sendall(DOWNLOAD)
        thread.join(60)
        assert got == [DOWNLOAD]
        messages = loopback.programs.records()
        assert len(messages.heads) <= 2 * 10, "what follows the handshake made records"
        assert int(messages.heads["captured_length"].sum()) < 2 * 8192
        connections = Connections((tls_recogniser(Certificates()),))
        for seen, segment in stream_segments(messages):
            found += connections.feed(seen, segment)
        found += connections.finish()
    assert len(found) == HANDSHAKES
    assert {(each.outcome, each.server_name) for each in found} == {("established", "www.example.org")}
    counts = loopback.programs.counts()
    assert set(counts) == {MessageCount.STREAM_SEGMENTS}


def test_segments_have_their_stages_whoever_reads_them(loopback: Loopback) -> None:
    maps = loopback.programs.loaded.maps
    source = MessageSource({"messages": (maps["messages"], 1 << 22), "message_counts": (maps["message_counts"], 0)})
    for _ in range(7):
        client, server = loopback.pair()
        with client, server:
            client.sendall(pack(">BHH", 22, 0x0303, 70) + b"\1\0\0\x42" + bytes(66))
            assert len(drain(server, 75)) == 75
    drained = source.drain()
    stages = {**segment_stages(source), ("ring", "stream_messages"): source.stage(STREAMS)}
    assert {
        name: (each["delivered"], sum(each["dropped"].values())) for (name, _), each in stages.items()
    } == dict.fromkeys(("kernel", "ring", "decode"), (len(drained.streams.heads), 0))
    assert np.count_nonzero(drained.streams.heads["payload_length"]) == 14  # at both ends
    source.close()


def test_a_super_packet_is_told_in_pieces_and_nothing_behind_its_handshake(loopback: Loopback) -> None:
    certificate = pack(">BHH", 22, 0x0303, 9000) + b"\x0b\0\x23\x24" + bytes(number & 127 for number in range(8996))
    hello = pack(">BHH", 22, 0x0303, 70) + b"\2\0\0\x42" + bytes(66)
    flight = hello + certificate + pack(">BHH", 23, 0x0303, 16000) + CANARY * 2000
    client, server = loopback.pair()
    with client, server:
        server.sendall(flight)
        assert drain(client, len(flight)) == flight
    messages = loopback.programs.records()
    assert set(messages.heads["kind"].tolist()) == {MessageKind.STREAM}
    assert CANARY not in messages.data
    sent = messages.where(messages.heads["direction"] == Direction.TRANSMIT)
    data = b"".join(sent.payload(number) for number in range(len(sent.heads)))
    assert data == flight[: len(hello + certificate) + 5]
    assert sent.heads["captured_length"].max() == 4096

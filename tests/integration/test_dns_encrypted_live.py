"""Sealed lookups through the whole agent: connections to resolvers are counted exactly, what is no resolver's is not among them."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import quic_packets, tls_messages as t
from support.agent import Agent, agent
from support.netns import NetNs, Veth, veth_pair
from support.tls_talk import Authority

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl"),
]

OVER_TLS, OVER_HTTPS, OTHERS, OVER_QUIC = 13, 7, 5, 3
RESOLVER = "resolver.example"
COUNT = "netmon_dns_encrypted_handshake_duration_seconds_count"
HELLOS = "netmon_dns_encrypted_hellos_total"


@pytest.fixture
def link() -> Iterator[tuple[NetNs, NetNs, Veth]]:
    with veth_pair() as made:
        yield made


@contextmanager
def s_server(where: NetNs, address: str, port: int, certificate: Path) -> Iterator[None]:
    """OpenSSL's server, which takes one connection after the other."""
    line = where.command("openssl", "s_server", "-quiet", "-accept", f"{address}:{port}", "-cert", str(certificate))
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as running:
        try:
            listening = f"{address}:{port} "
            deadline = time.monotonic() + 10
            while listening not in where.run("ss", "-Htln"):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield
        finally:
            running.kill()


def connect(where: NetNs, address: str, port: int, *more: str) -> None:
    """One connection of OpenSSL's client, which ends it after the handshake."""
    line = where.command("openssl", "s_client", "-connect", f"{address}:{port}", *more)
    subprocess.run(line, check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=20)


def test_every_connection_to_a_resolver_is_counted(link: tuple[NetNs, NetNs, Veth], tmp_path: Path) -> None:
    near, far, pair = link
    there = pair.right_address
    certificate = Authority(tmp_path).issue([RESOLVER])
    settings = [f"interfaces.namespaces={near.name}", f"probes.dns.resolver_names={RESOLVER}"]
    words = [word for each in settings for word in ("--set", each)]

    def counted(running: Agent, metric: str) -> dict[tuple[str, str, str], int]:
        return {
            (have["netmon_dns_encrypted_transport"], have["server_address"], have["server_port"]): int(value)
            for have, value in running.samples(metric)
        }

    with (
        s_server(far, there, 853, certificate),
        s_server(far, there, 443, certificate),
        agent("--interface", pair.left, *words) as running,
    ):
        for _ in range(OVER_TLS):
            connect(near, there, 853, "-noservername")
        for _ in range(OVER_HTTPS):
            connect(near, there, 443, "-servername", f"doh.{RESOLVER}")
        for _ in range(OTHERS):
            connect(near, there, 443, "-servername", "www.example")
        body = t.client_hello([0x1301], [t.server_name(RESOLVER.encode()), t.alpn(b"doq")])
        hello = quic_packets.crypto(0, t.handshake(t.CLIENT_HELLO, body))
        for number in range(OVER_QUIC):
            with near.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.sendto(quic_packets.initial(hello, bytes([number] * 8)), (there, 853))
        handshakes = {("dot", there, "853"): OVER_TLS, ("doh", there, "443"): OVER_HTTPS}
        running.becomes(
            lambda: running.total("netmon_tls_handshake_duration_seconds_count"),
            OVER_TLS + OVER_HTTPS + OTHERS,
        )
        running.becomes(lambda: counted(running, COUNT), handshakes)
        running.becomes(lambda: counted(running, HELLOS), {("doq", there, "853"): OVER_QUIC})

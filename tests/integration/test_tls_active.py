"""Certificates of servers that speak TLS 1.3 alone, through the whole agent: asked for once, by itself, and told as such."""

from __future__ import annotations

import shutil
import socket
import ssl
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from support.agent import agent
from support.netns import NetNs, veth_pair
from support.nginx import AVAILABLE, Site, nginx
from support.tls_talk import NOT_AFTER, Authority

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not AVAILABLE or shutil.which("openssl") is None, reason="needs nginx and openssl"),
]

NAME = "secure.example"
HANDSHAKES = 7
COUNT = "netmon_tls_handshake_duration_seconds_count"
EXPIRY = "netmon_tls_certificate_expiry_seconds"


def ask(client: NetNs, authority: Path, end: tuple[str, int]) -> None:
    with client.socket(socket.AF_INET, socket.SOCK_STREAM) as plain:
        plain.settimeout(10)
        plain.connect(end)
        with ssl.create_default_context(cafile=str(authority)).wrap_socket(plain, server_hostname=NAME) as sealed:
            sealed.sendall(b"GET / HTTP/1.0\r\n\r\n")
            while sealed.recv(1000):
                pass


def serve_one(listener: socket.socket, file: Path) -> None:
    """Serves one client; who comes after it is refused."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    plain, _ = listener.accept()
    listener.close()
    with plain, context.wrap_socket(plain, server_side=True) as sealed:
        sealed.recv(1000)


def test_a_server_is_asked_once_and_its_answer_is_told_as_active(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with veth_pair() as (left, right, pair):
        end = (pair.right_address, 4433)
        once = (pair.right_address, 4434)
        file = authority.issue([NAME])
        settings = ["--set", "probes.tls.certificate=active"]
        with agent("--interface", pair.left, *settings, enter=left.command()) as run:
            with nginx(right, end[0], [Site(4433, file, "TLSv1.3")], tmp_path):
                run.becomes(lambda: run.total(COUNT), 0)
                for _ in range(HANDSHAKES):
                    ask(left, authority.file, end)
                run.becomes(lambda: run.items("active", "tls_certificates"), Counter(delivered=1))
            run.becomes(lambda: run.items("decode", "tls_handshakes"), Counter(delivered=HANDSHAKES, own=1))
            with right.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
                listener.bind(once)
                listener.listen()
                serving = threading.Thread(target=serve_one, args=(listener, file), daemon=True)
                serving.start()
                ask(left, authority.file, once)
                serving.join(20)
            run.becomes(lambda: run.items("active", "tls_certificates"), Counter(delivered=1, refused=1))
            assert run.total(COUNT) == HANDSHAKES + 1
            (sample, *_) = run.samples(EXPIRY, server_port="4433")
            assert sample[0]["netmon_tls_certificate_source"] == "active"
            assert abs(sample[1] - (NOT_AFTER.timestamp() - time.time())) < 60
            told = run.status()["certificates"]
            assert (told["source"], told["servers"], told["waiting"]) == ("active", 2, 0)


def test_where_nobody_wants_it_no_packet_of_the_agent_leaves(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with veth_pair() as (left, right, pair):
        end = (pair.right_address, 4433)
        with (
            nginx(right, end[0], [Site(4433, authority.issue([NAME]), "TLSv1.3")], tmp_path),
            agent("--interface", pair.left, enter=left.command()) as run,
        ):
            for _ in range(HANDSHAKES):
                ask(left, authority.file, end)
            run.becomes(lambda: run.total(COUNT), HANDSHAKES)
            assert "certificates" not in run.status()
            assert run.items("active", "tls_certificates") == Counter()
            assert run.samples(EXPIRY) == []

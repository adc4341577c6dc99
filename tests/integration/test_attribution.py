"""Spans through the whole agent are those of the process at their end, however short its socket lives, and else of nobody."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support import dns_messages, frames
from support.agent import Agent, agent
from support.netns import NetNs, Veth, veth_pair
from support.otlp_receiver import Receiver, http_receiver
from support.tls_talk import Authority

pytestmark = pytest.mark.kernel

NAME = "service.example"
HTTP_PORT, TLS_PORT, DNS_PORT = 8088, 8443, 53
REQUESTS, HANDSHAKES, LOOKUPS, UNKNOWN = 101, 13, 503, 11
EVERY_SPAN = ("spans.share=1", "spans.limit_per_second=100000", "spans.slow_seconds=1000")

SERVER = """
import http.server, json, socketserver, ssl, struct, sys, threading
address, http_port, tls_port, dns_port, certificate = json.loads(sys.argv[1])

class Web(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *_):
        pass

class Names(socketserver.BaseRequestHandler):
    def handle(self):
        query, sock = self.request
        sock.sendto(query[:2] + struct.pack(">HHHHH", 0x8180, 1, 0, 0, 0) + query[12:], self.client_address)

web = http.server.ThreadingHTTPServer((address, http_port), Web)
tls = http.server.ThreadingHTTPServer((address, tls_port), Web)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate)
tls.socket = context.wrap_socket(tls.socket, server_side=True)
names = socketserver.UDPServer((address, dns_port), Names)
for each in (web, tls, names):
    threading.Thread(target=each.serve_forever, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""

CLIENT = """
import http.client, json, socket, ssl, sys
address, http_port, tls_port, dns_port, query, requests, handshakes, lookups = json.loads(sys.argv[1])
query = bytes.fromhex(query)
for number in range(lookups):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.sendto(number.to_bytes(2, "big") + query[2:], (address, dns_port))
        sock.recv(512)
for _ in range(requests):
    connection = http.client.HTTPConnection(address, http_port, timeout=10)
    connection.request("GET", "/item")
    assert connection.getresponse().read() == b"ok"
    connection.close()
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
for _ in range(handshakes):
    with socket.create_connection((address, tls_port), 10) as plain, context.wrap_socket(plain) as sealed:
        sealed.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        while sealed.recv(4096):
            pass
print("done", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def link() -> Iterator[tuple[NetNs, NetNs, Veth]]:
    with veth_pair() as made:
        yield made


@contextmanager
def process(where: NetNs, program: str, word: str, *arguments: object) -> Iterator[int]:
    """A Python process that has said the word and stays; gives its pid."""
    line = where.command(sys.executable, "-c", program, json.dumps(arguments))
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline().decode().strip() == word
            yield running.pid
        finally:
            running.kill()


@contextmanager
def watching(where: NetNs, interface: str, *settings: str) -> Iterator[tuple[Agent, Receiver]]:
    """The agent at one end of the link; every span goes to a receiver of this test."""
    every = (f"interfaces.namespaces={where.name}", *EVERY_SPAN, *settings)
    words = [word for each in every for word in ("--set", each)]
    with (
        http_receiver() as receiver,
        agent("--interface", interface, *words, "--otlp-endpoint", receiver.endpoint, otlp=True) as running,
    ):
        yield running, receiver


def spans(receiver: Receiver) -> Counter[tuple[str, int, Any, Any]]:
    """Spans of messages by name, kind, and number and executable of their process."""
    found: Counter[tuple[str, int, Any, Any]] = Counter()
    for request in list(receiver.requests):
        if request.path != "/v1/traces":
            continue
        for group in request.body.resource_spans:
            whose = {
                each.key: getattr(each.value, each.value.WhichOneof("value")) for each in group.resource.attributes
            }
            for scope in group.scope_spans:
                for span in scope.spans:
                    if not span.name.startswith("TCP"):
                        key = (whose.get("process.pid"), whose.get("process.executable.name"))
                        found[span.name, int(span.kind), *key] += 1
    return found


def server_of(far: NetNs, pair: Veth, folder: Path) -> Any:
    certificate = str(Authority(folder).issue([NAME]))
    return process(far, SERVER, "ready", pair.right_address, HTTP_PORT, TLS_PORT, DNS_PORT, certificate)


def client_of(near: NetNs, pair: Veth) -> Any:
    query = dns_messages.query(0, NAME).hex()
    ports = HTTP_PORT, TLS_PORT, DNS_PORT
    return process(near, CLIENT, "done", pair.right_address, *ports, query, REQUESTS, HANDSHAKES, LOOKUPS)


EXECUTABLE = Path(sys.executable).resolve().name
SERVER_KIND, CLIENT_KIND = 2, 3


@pytest.mark.parametrize("at_client", [True, False], ids=["at the client", "at the server"])
def test_spans_are_of_the_process_at_their_end(
    link: tuple[NetNs, NetNs, Veth], tmp_path: Path, *, at_client: bool
) -> None:
    near, far, pair = link
    where, interface = (near, pair.left) if at_client else (far, pair.right)
    with (
        watching(where, interface) as (running, receiver),
        server_of(far, pair, tmp_path) as server,
        client_of(near, pair) as client,
    ):
        side, whose = (CLIENT_KIND, client) if at_client else (SERVER_KIND, server)
        expected = {
            ("GET", side, whose, EXECUTABLE): REQUESTS,
            ("DNS lookup", CLIENT_KIND, client, EXECUTABLE): LOOKUPS,
            ("TLS handshake", CLIENT_KIND, client, EXECUTABLE): HANDSHAKES,
        }
        running.wait(lambda: spans(receiver).total() >= sum(expected.values()), 30, "all spans")
        assert spans(receiver) == expected


def test_spans_of_no_local_process_are_nobody_s(link: tuple[NetNs, NetNs, Veth], tmp_path: Path) -> None:
    near, far, pair = link
    with (
        watching(near, pair.left) as (running, receiver),
        server_of(far, pair, tmp_path),
        client_of(near, pair) as client,
    ):
        known = near.socket(2, 2)
        known.bind(("0.0.0.0", 45_001))
        known.sendto(b"its row has this port", (pair.right_address, 9))
        for number in range(UNKNOWN):
            query, answer = dns_messages.query(number, NAME), dns_messages.response(number, NAME)
            asked = frames.udp(query, source=45_001, destination=DNS_PORT)
            answered = frames.udp(answer, source=DNS_PORT, destination=45_001)
            ends = ("198.18.7.7", "198.18.7.8")
            near.send_frames(pair.left, [frames.ethernet(frames.ipv4(asked, source=ends[0], destination=ends[1]))])
            far.send_frames(pair.right, [frames.ethernet(frames.ipv4(answered, source=ends[1], destination=ends[0]))])
        running.wait(lambda: spans(receiver).total() >= LOOKUPS + REQUESTS + HANDSHAKES + UNKNOWN, 30, "all spans")
        known.close()
        lookups = {key[2:]: count for key, count in spans(receiver).items() if key[0] == "DNS lookup"}
        assert lookups == {(client, EXECUTABLE): LOOKUPS, (None, None): UNKNOWN}


def test_without_the_probe_of_connections_spans_are_the_agent_s(
    link: tuple[NetNs, NetNs, Veth], tmp_path: Path
) -> None:
    near, far, pair = link
    with (
        watching(near, pair.left, "probes.connections.enabled=false") as (running, receiver),
        server_of(far, pair, tmp_path),
        client_of(near, pair),
    ):
        total = LOOKUPS + REQUESTS + HANDSHAKES
        running.wait(lambda: spans(receiver).total() >= total, 30, "all spans")
        assert {key[2:] for key in spans(receiver)} == {(None, None)}
        assert spans(receiver).total() == total

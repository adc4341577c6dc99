"""A server and a client of names, pages and handshakes, each a process of its own; and whose the spans of what they say are."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from support import dns_messages
from support.netns import NetNs
from support.otlp_receiver import Receiver
from support.tls_talk import Authority

NAME = "service.example"
HTTP_PORT, TLS_PORT, DNS_PORT = 8088, 8443, 53
EXECUTABLE = Path(sys.executable).resolve().name
CLIENT_KIND, SERVER_KIND = 3, 2


class Many(NamedTuple):
    """What the client does, so often.

    Attributes:
        requests, kept_alive: with a connection each, and over one.
        lookups, tcp_lookups: over UDP with a socket each, and over TCP.
        unanswered: lookups with an id about which the server keeps silent.
    """

    requests: int = 0
    kept_alive: int = 0
    handshakes: int = 0
    lookups: int = 0
    tcp_lookups: int = 0
    unanswered: int = 0


_SERVER = """
import http.server, json, socketserver, ssl, struct, sys, threading
address, http_port, tls_port, dns_port, certificate = json.loads(sys.argv[1])

class Web(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *_):
        pass

def answer(query):
    return query[:2] + struct.pack(">HHHHH", 0x8180, 1, 0, 0, 0) + query[12:]

class Names(socketserver.BaseRequestHandler):
    def handle(self):
        query, sock = self.request
        if query[0] < 0x80:
            sock.sendto(answer(query), self.client_address)

class NamesOverTcp(socketserver.StreamRequestHandler):
    def handle(self):
        while length := self.rfile.read(2):
            found = answer(self.rfile.read(int.from_bytes(length, "big")))
            self.wfile.write(len(found).to_bytes(2, "big") + found)

class Tcp(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

web = http.server.ThreadingHTTPServer((address, http_port), Web)
tls = http.server.ThreadingHTTPServer((address, tls_port), Web)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate)
tls.socket = context.wrap_socket(tls.socket, server_side=True)
names = socketserver.UDPServer((address, dns_port), Names)
for each in (web, tls, names, Tcp((address, dns_port), NamesOverTcp)):
    threading.Thread(target=each.serve_forever, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""

_CLIENT = """
import http.client, json, socket, ssl, sys
address, http_port, tls_port, dns_port, query, requests, kept, handshakes, lookups, over_tcp, unanswered = json.loads(sys.argv[1])
query = bytes.fromhex(query)
for number in range(lookups):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(20)
        sock.sendto(number.to_bytes(2, "big") + query[2:], (address, dns_port))
        sock.recv(512)
for number in range(unanswered):  # the server keeps silent about such an id
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto((0x8000 + number).to_bytes(2, "big") + query[2:], (address, dns_port))
for number in range(over_tcp):
    with socket.create_connection((address, dns_port), 20) as sock, sock.makefile("rb") as read:
        asked = number.to_bytes(2, "big") + query[2:]
        sock.sendall(len(asked).to_bytes(2, "big") + asked)
        read.read(int.from_bytes(read.read(2), "big"))
for _ in range(requests):
    connection = http.client.HTTPConnection(address, http_port, timeout=20)
    connection.request("GET", "/item")
    assert connection.getresponse().read() == b"ok"
    connection.close()
connection = http.client.HTTPConnection(address, http_port, timeout=20)
for _ in range(kept):
    connection.request("GET", "/item")
    assert connection.getresponse().read() == b"ok"
connection.close()
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
for _ in range(handshakes):
    with socket.create_connection((address, tls_port), 20) as plain, context.wrap_socket(plain) as sealed:
        sealed.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        while sealed.recv(4096):
            pass
print("done", flush=True)
sys.stdin.read()
"""


def server(where: NetNs, address: str, folder: Path, cgroup: Path | None = None) -> AbstractContextManager[int]:
    """The server, from when it listens; gives its pid.

    Args:
        folder: for its certificate.
        cgroup: that it is in.
    """
    certificate = str(Authority(folder).issue([NAME]))
    return _process(where, cgroup, _SERVER, "ready", address, HTTP_PORT, TLS_PORT, DNS_PORT, certificate)


def client(where: NetNs, address: str, many: Many, cgroup: Path | None = None) -> AbstractContextManager[int]:
    """The client, from when it has done it all; gives its pid."""
    query = dns_messages.query(0, NAME).hex()
    return _process(where, cgroup, _CLIENT, "done", address, HTTP_PORT, TLS_PORT, DNS_PORT, query, *many)


@contextmanager
def _process(where: NetNs, folder: Path | None, program: str, word: str, *arguments: object) -> Iterator[int]:
    """A Python process that has said the word and stays; gives its pid."""
    line = where.command(sys.executable, "-c", program, json.dumps(arguments))
    if folder is not None:
        line = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(folder), *line]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline().decode().strip() == word
            yield running.pid
        finally:
            running.kill()


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

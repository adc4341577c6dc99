"""What took the time of requests through the whole agent, and from which side they are told.

A server that waits between what it does, and a client that measures: what the agent tells lies between both.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support import dns_messages
from support.agent import agent
from support.netns import NetNs, Veth, veth_pair
from support.otlp_receiver import Receiver, http_receiver, wait_until
from support.socket_programs import cgroup
from support.tls_talk import Authority

pytestmark = pytest.mark.kernel

HTTP_PORT, DNS_PORT = 8088, 53
CONNECTIONS = 5
NAME = "shop.request-times.example"
A_SECONDS, AAAA_SECONDS, WAITING_SECONDS, RECEIVING_SECONDS = 0.013, 0.041, 0.053, 0.029
PARTS = ("dns", "connect", "tls", "sending", "waiting", "receiving")
SERVER_KIND, CLIENT_KIND = 2, 3

SERVER = """
import json, socket, ssl, sys, threading, time
address, http_port, dns_port, answers, waiting, receiving, certificate = json.loads(sys.argv[1])
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
if certificate:
    context.load_cert_chain(certificate)

def web(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if certificate:
        connection = context.wrap_socket(connection, server_side=True)
    while connection.recv(65536):
        time.sleep(waiting)
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 10\\r\\n\\r\\nfirst")
        time.sleep(receiving)
        connection.sendall(b"after")
    connection.close()

def name(query, client):
    for kind, seconds, answer in answers:
        if query[-4:-2] == kind.to_bytes(2, "big"):
            time.sleep(seconds)
            names.sendto(query[:2] + bytes.fromhex(answer)[2:], client)

def serve(listener):
    while True:
        threading.Thread(target=web, args=(listener.accept()[0],), daemon=True).start()

listener = socket.create_server((address, http_port))
names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
names.bind((address, dns_port))
threading.Thread(target=serve, args=(listener,), daemon=True).start()
print("ready", flush=True)
while True:
    threading.Thread(target=name, args=names.recvfrom(512), daemon=True).start()
"""

CLIENT = """
import json, socket, ssl, struct, sys, time
address, http_port, dns_port, queries, connections, secure = json.loads(sys.argv[1])
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

def fetch(sock):
    begun = time.monotonic()
    sock.sendall(b"GET /item HTTP/1.1\\r\\nHost: shop.request-times.example\\r\\n\\r\\n")
    octets = b""
    while not octets.endswith(b"after"):
        octets += sock.recv(65536)
    return time.monotonic() - begun

for number in range(connections):
    begun = time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        for query in queries:
            sock.sendto(number.to_bytes(2, "big") + bytes.fromhex(query)[2:], (address, dns_port))
        for query in queries:
            sock.recv(512)
    named = time.monotonic()
    with socket.create_connection((address, http_port), 10) as sock:
        connected = time.monotonic()
        told = {"port": sock.getsockname()[1], "dns": named - begun, "connect": connected - named}
        if secure:
            sock = context.wrap_socket(sock)
            told["tls"] = time.monotonic() - connected
        told["requests"] = [fetch(sock), fetch(sock)]
        information = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        told["retransmits"] = struct.unpack_from("I", information, 100)[0]  # tcpi_total_retrans
    print(json.dumps(told), flush=True)
print("done", flush=True)
sys.stdin.read()
"""


class Told(NamedTuple):
    """A span of a request."""

    start_ns: int
    kind: int
    pid: int | None
    attributes: dict[str, Any]

    def seconds(self, part: str) -> float | None:
        value = self.attributes.get(f"netmon.http.time.{part}")
        assert value is None or isinstance(value, float)
        return value


@pytest.fixture
def link() -> Iterator[tuple[NetNs, NetNs, Veth]]:
    with veth_pair() as made:
        yield made


@contextmanager
def process(where: NetNs, folder: Path, program: str, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process in a cgroup."""
    line = where.command(sys.executable, "-c", program, json.dumps(arguments))
    shell = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(folder), *line]
    with subprocess.Popen(shell, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        try:
            yield running
        finally:
            running.kill()


def line_of(running: subprocess.Popen[bytes]) -> str:
    assert running.stdout is not None
    return running.stdout.readline().decode().strip()


def values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in attributes}


def requests(receiver: Receiver) -> dict[int, list[Told]]:
    """Spans of requests by the port of the client, in their order."""
    found: dict[int, list[Told]] = {}
    for request in list(receiver.requests):
        for group in request.body.resource_spans if request.path == "/v1/traces" else ():
            pid = values(group.resource.attributes).get("process.pid")
            for span in (span for scope in group.scope_spans for span in scope.spans if span.name == "GET"):
                told = Told(span.start_time_unix_nano, int(span.kind), pid, values(span.attributes))
                if told.attributes["server.address"] == NAME:  # not what others do on the host's loopback
                    found.setdefault(told.attributes["client.port"], []).append(told)
    return {port: sorted(each) for port, each in found.items()}


def run_all(
    client_at: NetNs,
    server_at: NetNs,
    address: str,
    folders: Sequence[Path],
    settings: Sequence[str],
    certificate: str = "",
    sides: int = 1,
) -> tuple[list[dict[str, Any]], dict[int, list[Told]], dict[int, int]]:
    """What the client measured of each connection, the spans, of so many sides, and the pid of each kind."""
    queries = [dns_messages.query(0, NAME, kind).hex() for kind in (dns_messages.A, dns_messages.AAAA)]
    a = dns_messages.response(0, NAME, dns_messages.address(address))
    aaaa = dns_messages.response(0, NAME, kind=dns_messages.AAAA)
    answers = ((dns_messages.A, A_SECONDS, a.hex()), (dns_messages.AAAA, AAAA_SECONDS, aaaa.hex()))
    every = ("spans.share=1", "spans.limit_per_second=10000", "spans.slow_seconds=1000", *settings)
    words = [word for each in every for word in ("--set", each)]
    arguments, waits = (address, HTTP_PORT, DNS_PORT), (WAITING_SECONDS, RECEIVING_SECONDS)
    with (
        http_receiver() as receiver,
        agent(*words, "--otlp-endpoint", receiver.endpoint, otlp=True),
        process(server_at, folders[1], SERVER, *arguments, answers, *waits, certificate) as server,
    ):
        assert line_of(server) == "ready"
        with process(client_at, folders[0], CLIENT, *arguments, queries, CONNECTIONS, bool(certificate)) as client:
            measured = [json.loads(line_of(client)) for _ in range(CONNECTIONS)]
            assert line_of(client) == "done"
            wait_until(lambda: sum(map(len, requests(receiver).values())) >= 2 * CONNECTIONS * sides, 60)
            return measured, requests(receiver), {CLIENT_KIND: client.pid, SERVER_KIND: server.pid}


def is_between(least: float, told: float | None, most: float) -> bool:
    return told is not None and least <= told <= most


@pytest.mark.parametrize("place", ["client", "server", "loopback", "client of another interface"])
def test_what_took_the_time(place: str, link: tuple[NetNs, NetNs, Veth]) -> None:
    near, far, pair = link
    server_at, where, interface, address = {
        "client": (far, near, pair.left, pair.right_address),
        "server": (far, far, pair.right, pair.right_address),
        "loopback": (near, near, "lo", "127.0.0.1"),
        "client of another interface": (far, far, pair.right, pair.right_address),
    }[place]
    with cgroup() as of_client, cgroup() as of_server:
        settings = [f"interfaces.namespaces={where.name}", f"interfaces.include={interface}"]
        if place == "client of another interface":  # as a container's at the host's end of its link
            settings.append(f"probes.connections.cgroup={of_client}")
        measured, spans, pids = run_all(near, server_at, address, (of_client, of_server), settings)
    kind = SERVER_KIND if place == "server" else CLIENT_KIND
    assert sorted(spans) == sorted(each["port"] for each in measured)
    for each in measured:
        first, second = spans[each["port"]]
        for told, took in zip((first, second), each["requests"], strict=True):
            assert (told.kind, told.pid) == (kind, pids[kind])
            assert told.attributes["network.peer.port"] == (each["port"] if kind == SERVER_KIND else HTTP_PORT)
            assert is_between(0, told.seconds("sending"), took)
            assert is_between(WAITING_SECONDS, told.seconds("waiting"), took)
            assert is_between(RECEIVING_SECONDS, told.seconds("receiving"), took)
            if kind == CLIENT_KIND:
                assert 0 <= told.attributes["netmon.http.retransmits"] <= each["retransmits"]
            assert told.attributes["netmon.http.out_of_order"] == 0
        assert is_between(1e-6, first.seconds("connect"), each["connect"])
        if kind == CLIENT_KIND:
            assert is_between(AAAA_SECONDS, first.seconds("dns"), each["dns"])
            parts = ["dns", "connect", "sending", "waiting", "receiving"]
        else:
            assert first.seconds("dns") is None
            parts = ["connect", "sending", "waiting", "receiving"]
        assert first.seconds("total") == pytest.approx(sum(first.seconds(part) or 0 for part in parts))
        assert [second.seconds(part) for part in ("dns", "connect", "tls")] == [None] * 3


def test_what_took_the_time_through_tls(link: tuple[NetNs, NetNs, Veth], tmp_path: Path) -> None:
    near, far, pair = link
    certificate = str(Authority(tmp_path).issue([NAME]))
    with cgroup() as of_client, cgroup() as of_server:
        settings = [f"interfaces.namespaces={near.name}", f"interfaces.include={pair.left}"]
        settings.append("probes.tls_plaintext=openssl")
        folders = (of_client, of_server)
        measured, spans, pids = run_all(near, far, pair.right_address, folders, settings, certificate, sides=2)
    assert sorted(spans) == sorted(each["port"] for each in measured)
    for each in measured:
        for kind in (CLIENT_KIND, SERVER_KIND):
            first, second = [told for told in spans[each["port"]] if told.kind == kind]
            assert {first.pid, second.pid} == {pids[kind]}
            for told in (first, second):
                assert told.attributes["url.scheme"] == "https"
                # A write is told when it returns, which may be after the other side has begun to wait.
                assert is_between(WAITING_SECONDS / 2, told.seconds("waiting"), max(each["requests"]))
                assert is_between(RECEIVING_SECONDS / 2, told.seconds("receiving"), max(each["requests"]))
            assert is_between(1e-6, first.seconds("tls"), each["tls"])
            assert is_between(1e-6, first.seconds("connect"), each["connect"] + each["tls"])
            assert first.seconds("total") == pytest.approx(sum(first.seconds(part) or 0 for part in PARTS))
            assert [second.seconds(part) for part in ("dns", "connect", "tls")] == [None] * 3
            if kind == CLIENT_KIND:
                assert is_between(AAAA_SECONDS, first.seconds("dns"), each["dns"])


def test_what_took_the_time_at_sockets(link: tuple[NetNs, NetNs, Veth]) -> None:
    """Both ends tell theirs, on the loopback of a namespace where nothing is observed."""
    near, far, _ = link
    with cgroup() as observed, cgroup(observed) as of_client, cgroup(observed) as of_server:
        settings = ["messages.vantage=host", f"probes.connections.cgroup={observed}"]
        settings += [f"interfaces.namespaces={near.name}", "interfaces.include=lo"]
        measured, spans, pids = run_all(far, far, "127.0.0.1", (of_client, of_server), settings, sides=2)
    for each in measured:
        for kind in (CLIENT_KIND, SERVER_KIND):
            first, second = [told for told in spans[each["port"]] if told.kind == kind]
            assert {first.pid, second.pid} == {pids[kind]}
            assert is_between(WAITING_SECONDS / 2, first.seconds("waiting"), each["requests"][0])
            assert is_between(1e-6, first.seconds("connect"), each["connect"] + each["requests"][0])
            named = is_between(AAAA_SECONDS, first.seconds("dns"), each["dns"])
            assert named if kind == CLIENT_KIND else first.seconds("dns") is None
            assert [second.seconds(part) for part in ("dns", "connect", "tls")] == [None] * 3


def test_what_was_sent_again(link: tuple[NetNs, NetNs, Veth]) -> None:
    """The first segment with a request is lost once."""
    near, far, pair = link
    matched = f"-p tcp --dport {HTTP_PORT} --tcp-flags PSH PSH -m statistic --mode nth --every 1000003 --packet 0"
    far.run("iptables", "-A", "INPUT", *matched.split(), "-j", "DROP")
    with cgroup() as of_client, cgroup() as of_server:
        settings = [f"interfaces.namespaces={near.name}", f"interfaces.include={pair.left}"]
        measured, spans, _ = run_all(near, far, pair.right_address, (of_client, of_server), settings)
    told = {
        each["port"]: [span.attributes["netmon.http.retransmits"] for span in spans[each["port"]]] for each in measured
    }
    for each in measured:
        assert all(0 <= found <= each["retransmits"] for found in told[each["port"]])
    lossy = spans[measured[0]["port"]][0]
    assert told[measured[0]["port"]][0] >= 1
    assert is_between(0.15, lossy.seconds("waiting"), measured[0]["requests"][0])
    assert lossy.attributes["netmon.http.time.longest"] == "waiting"

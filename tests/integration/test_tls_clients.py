"""Clients told apart by how they greet: curl, OpenSSL, Python, Go, Java and Node, as many of them as are here."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from otel_netmon.decode.tls import Records
from otel_netmon.decode.tls_fingerprints import ja3, ja4
from otel_netmon.decode.tls_handshake import Handshakes
from otel_netmon.decode.tls_hello import ClientHello, decode_client_hello

NAME = "greeter.example"

PYTHON = """
import socket, ssl, sys
plain = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
context = ssl.create_default_context()
context.set_alpn_protocols(["http/1.1"])
context.wrap_socket(plain, server_hostname=sys.argv[2])
"""
GO = """package main
import ("crypto/tls"; "os")
func main() { tls.Dial("tcp", "127.0.0.1:" + os.Args[1], &tls.Config{ServerName: os.Args[2], NextProtos: []string{"h2"}}) }
"""
JAVA = """import javax.net.ssl.*; import java.util.List;
public class Greet { public static void main(String[] a) throws Exception {
  try (SSLSocket s = (SSLSocket) SSLSocketFactory.getDefault().createSocket("127.0.0.1", Integer.parseInt(a[0]))) {
    SSLParameters p = s.getSSLParameters(); p.setServerNames(List.of(new SNIHostName(a[1]))); s.setSSLParameters(p);
    s.startHandshake(); } } }
"""
NODE = """const [port, name] = process.argv.slice(2);
require("tls").connect({host: "127.0.0.1", port, servername: name, ALPNProtocols: ["h2"]}).on("error", () => {});
"""


class Greeted:
    """Takes one connection at a time and keeps what it begins with."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(60)

    @property
    def port(self) -> int:
        return int(self._listening.getsockname()[1])

    def by(self, *command: str) -> ClientHello:
        """The greeting of this command."""
        records, messages = Records(), Handshakes()
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as one:
            try:
                with self._listening.accept()[0] as client:
                    client.settimeout(10)
                    while data := client.recv(4096):
                        for record in records.feed(data):
                            for message in messages.feed(record.data):
                                made = decode_client_hello(message.body)
                                assert isinstance(made, ClientHello)
                                return made
            finally:
                one.kill()
        raise AssertionError(f"{command[0]} did not greet")

    def close(self) -> None:
        self._listening.close()


@pytest.fixture
def greeted() -> Iterator[Greeted]:
    made = Greeted()
    yield made
    made.close()


def commands(port: int, folder: Path) -> dict[str, list[str]]:
    """The clients that are here."""
    end = [str(port), NAME]
    found = {"python": [sys.executable, "-c", PYTHON, *end]}
    if shutil.which("curl"):
        found["curl"] = [
            *("curl", "-sk", "--connect-to", f"{NAME}:443:127.0.0.1:{port}", f"https://{NAME}/", "--max-time", "10")
        ]
    if shutil.which("openssl"):
        found["openssl"] = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", NAME]
    go = shutil.which("go")
    if go:
        source = folder / "greet.go"
        source.write_text(GO)
        environment = {**os.environ, "GOFLAGS": "-mod=mod", "GOCACHE": str(folder / "go"), "GO111MODULE": "off"}
        built = subprocess.run([go, "build", "-o", str(folder / "greet"), str(source)], env=environment, cwd=folder)
        assert built.returncode == 0
        found["go"] = [str(folder / "greet"), *end]
    if shutil.which("java"):
        source = folder / "Greet.java"
        source.write_text(JAVA)
        found["java"] = ["java", str(source), *end]
    if shutil.which("node"):
        source = folder / "greet.js"
        source.write_text(NODE)
        found["node"] = ["node", str(source), *end]
    return found


def test_each_greets_in_its_own_way_and_always_so(greeted: Greeted, tmp_path: Path) -> None:
    clients = commands(greeted.port, tmp_path)
    assert len(clients) >= 2
    hellos = {name: [greeted.by(*command) for _ in range(2)] for name, command in clients.items()}
    prints: dict[str, Callable[[ClientHello], str]] = {"ja3": ja3, "ja4": ja4}
    for kind, fingerprint in prints.items():
        told = {name: {fingerprint(hello) for hello in both} for name, both in hellos.items()}
        assert {name: len(each) for name, each in told.items()} == dict.fromkeys(clients, 1), kind
        assert len(set.union(*told.values())) == len(clients), told
    assert {hello.server_name for both in hellos.values() for hello in both} == {NAME}
    assert all(ja4(hello).startswith("t13d") for both in hellos.values() for hello in both)

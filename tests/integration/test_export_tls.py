"""OTLP over TLS and mutual TLS, with certificates made for the test, also ones that change under a running transport."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import grpc
import pytest
from structlog.testing import capture_logs

from otel_netmon.config.model import Otlp
from otel_netmon.export import otlp_transport, tls
from otel_netmon.export.requests import Outcome, Request, Signal, Transport
from support.otlp_receiver import Receiver, grpc_receiver, http_receiver
from support.raw_servers import RawServer, head_value, proxying, raw_server, silent

Protocol = Literal["grpc", "http/protobuf"]
PROTOCOLS: tuple[Protocol, ...] = ("grpc", "http/protobuf")
REQUEST = Request(Signal.METRICS, b"", 0)
SECONDS = 10.0


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two authorities (ca, other), and by each a server and a client for 127.0.0.1; an expired server, one for another name."""
    folder = tmp_path_factory.mktemp("pki")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    (folder / "address").write_text("subjectAltName=IP:127.0.0.1\n")
    (folder / "name").write_text("subjectAltName=DNS:elsewhere.example\n")
    for authority in ("ca", "other"):
        subject = ("-subj", f"/CN=test {authority}", "-days", "2")
        openssl("req", "-x509", *new_key, "-keyout", f"{authority}.key", "-out", f"{authority}.pem", *subject)
    for who, authority, names, days in (
        ("server", "ca", "address", "2"),
        ("client", "ca", "address", "2"),
        ("other-server", "other", "address", "2"),
        ("other-client", "other", "address", "2"),
        ("misnamed", "ca", "name", "2"),
        ("expired", "ca", "address", "-1"),
    ):
        openssl("req", *new_key, "-keyout", f"{who}.key", "-out", f"{who}.csr", "-subj", f"/CN={who}")
        sign = ("-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-CAcreateserial", "-extfile", names)
        openssl("x509", "-req", "-in", f"{who}.csr", "-out", f"{who}.pem", *sign, "-days", days)
    return folder


def receiving(
    protocol: Protocol, pki: Path, server: str = "server", clients: str | None = None
) -> AbstractContextManager[Receiver]:
    """A receiver with that server's certificate, that asks for a client's one of that authority."""
    if protocol == "grpc":
        pair = ((pki / f"{server}.key").read_bytes(), (pki / f"{server}.pem").read_bytes())
        roots = (pki / f"{clients}.pem").read_bytes() if clients else None
        return grpc_receiver(grpc.ssl_server_credentials([pair], roots, require_client_auth=bool(clients)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / f"{server}.pem", pki / f"{server}.key")
    if clients:
        context.load_verify_locations(pki / f"{clients}.pem")
        context.verify_mode = ssl.CERT_REQUIRED
    return http_receiver(context=context)


def build(receiver: Receiver, protocol: Protocol, **files: Path) -> Transport:
    paths = {name: str(path) for name, path in files.items()}
    return otlp_transport.build(Otlp(endpoint=receiver.endpoint, protocol=protocol, **paths))  # type: ignore[arg-type]


def send_once(receiver: Receiver, protocol: Protocol, **files: Path) -> Outcome:
    transport = build(receiver, protocol, **files)
    try:
        return transport.send(REQUEST, SECONDS)
    finally:
        transport.close()


def is_tls_failure(outcome: Outcome, protocol: Protocol, *words: str) -> bool:
    """Whether it is to be tried again, with a reason that names TLS."""
    if outcome.kind != "retry":
        return False
    if protocol == "grpc":
        return outcome.reason == "grpc_unavailable"
    return outcome.reason in ("tls", "connection") and any(word in outcome.detail for word in words)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_mutual_tls(protocol: Protocol, pki: Path) -> None:
    client = {"client_certificate": pki / "client.pem", "client_key": pki / "client.key"}
    with receiving(protocol, pki, clients="ca") as receiver:
        assert send_once(receiver, protocol, certificate=pki / "ca.pem", **client).kind == "delivered"
        assert len(receiver.requests) == 1
        without = send_once(receiver, protocol, certificate=pki / "ca.pem")
        assert is_tls_failure(without, protocol, "certificate required", "Connection reset", "closed the connection")
        strange = {"client_certificate": pki / "other-client.pem", "client_key": pki / "other-client.key"}
        outcome = send_once(receiver, protocol, certificate=pki / "ca.pem", **strange)
        assert is_tls_failure(
            outcome, protocol, "unknown ca", "decrypt error", "Connection reset", "closed the connection"
        )
        assert len(receiver.requests) == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_chain_and_key_in_one_file(protocol: Protocol, pki: Path, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes((pki / "client.pem").read_bytes() + (pki / "client.key").read_bytes())
    with receiving(protocol, pki, clients="ca") as receiver:
        outcome = send_once(receiver, protocol, certificate=pki / "ca.pem", client_certificate=both)
        assert outcome.kind == "delivered"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("server", "words"),
    [
        ("other-server", "unable to get local issuer certificate"),
        ("expired", "certificate has expired"),
        ("misnamed", "IP address mismatch"),
    ],
)
def test_certificates_that_are_refused(protocol: Protocol, server: str, words: str, pki: Path) -> None:
    with receiving(protocol, pki, server) as receiver:
        outcome = send_once(receiver, protocol, certificate=pki / "ca.pem")
        assert is_tls_failure(outcome, protocol, words)
        assert receiver.requests == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_without_a_file_the_systems_authorities_count(
    protocol: Protocol, pki: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", raising=False)
    with receiving(protocol, pki) as receiver:
        assert is_tls_failure(send_once(receiver, protocol), protocol, "unable to get local issuer certificate")
        monkeypatch.setenv("SSL_CERT_FILE", str(pki / "ca.pem"))
        assert send_once(receiver, protocol).kind == "delivered"


def test_grpcs_own_variable_for_authorities_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "/some/file")
    assert tls.pem(Otlp()).authorities is None
    monkeypatch.delenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH")
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setattr(tls, "_SYSTEM_BUNDLES", ("/nowhere",))
    assert tls.pem(Otlp()).authorities is None


def test_what_nobody_needs_is_made_only_when_it_is_asked_for() -> None:
    made: list[Otlp] = []

    def load(settings: Otlp) -> int:
        made.append(settings)
        return len(made)

    watched = tls.Watched(Otlp(), load, needed=False)  # type: ignore[arg-type]  # it is called with these settings
    assert made == []
    assert (watched.current(), watched.current(), len(made)) == (1, 1, 1)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tls_to_a_receiver_without_it(protocol: Protocol) -> None:
    with grpc_receiver() as collector, http_receiver() as http:
        receiver = collector if protocol == "grpc" else http
        receiver.endpoint = receiver.endpoint.replace("http://", "https://")
        outcome = send_once(receiver, protocol)
        assert is_tls_failure(outcome, protocol, "does not speak TLS")


def test_a_handshake_that_never_ends_keeps_the_deadline() -> None:
    with raw_server(silent) as server:
        transport = otlp_transport.build(Otlp(endpoint=f"https://127.0.0.1:{server.port}"))
        outcome = transport.send(REQUEST, 0.4)
        transport.close()
    assert (outcome.kind, outcome.reason) == ("retry", "timeout")
    assert outcome.detail.endswith("no end of the TLS handshake within 0.4 s")


def test_a_connection_is_kept_over_tls(pki: Path) -> None:
    with receiving("http/protobuf", pki) as receiver:
        transport = build(receiver, "http/protobuf", certificate=pki / "ca.pem")
        for _ in range(5):
            assert transport.send(REQUEST, SECONDS).kind == "delivered"
        assert receiver.connections == 1
        large = Request(Signal.METRICS, b"\x52\x80\x80\x80\x04" + os.urandom(8 << 20), 0)  # an unknown field
        assert transport.send(large, SECONDS).kind == "delivered"
        assert len(receiver.requests[-1].body.SerializeToString()) == len(large.body)
        assert receiver.connections == 1
        transport.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tls_through_a_proxy(protocol: Protocol, pki: Path) -> None:
    with receiving(protocol, pki) as receiver, raw_server(proxying("Basic dXNlcjpwdw==")) as proxy:
        url = f"http://user:pw@127.0.0.1:{proxy.port}"
        settings = Otlp(endpoint=receiver.endpoint, protocol=protocol, certificate=str(pki / "ca.pem"), proxy=url)
        transport = otlp_transport.build(settings)
        for _ in range(3):
            assert transport.send(REQUEST, SECONDS).kind == "delivered"
        transport.close()
        assert len(receiver.requests) == 3
        assert proxy.connections == 1
        assert proxy.heads[0].startswith(f"CONNECT 127.0.0.1:{receiver.port} HTTP/1.1".encode())
        assert head_value(proxy.heads[0], "proxy-authorization") == "Basic dXNlcjpwdw=="


# ------------------------------------------------------------------------------------------------- certificates change
@pytest.fixture
def files(pki: Path, tmp_path: Path) -> dict[str, Path]:
    """The client's files, in a folder of their own."""
    for name in ("ca.pem", "client.pem", "client.key"):
        shutil.copy(pki / name, tmp_path / name)
    return {
        "certificate": tmp_path / "ca.pem",
        "client_certificate": tmp_path / "client.pem",
        "client_key": tmp_path / "client.key",
    }


def replace(path: Path, source: Path) -> None:
    """As every tool that renews certificates does it: written beside, then renamed."""
    beside = path.with_suffix(".new")
    shutil.copy(source, beside)
    beside.rename(path)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_new_files_are_used_from_the_next_request_on(protocol: Protocol, pki: Path, files: dict[str, Path]) -> None:
    with receiving(protocol, pki, clients="ca") as old, receiving(protocol, pki, "other-server", "other") as new:
        transports = [build(receiver, protocol, **files) for receiver in (old, new)]
        assert [transport.send(REQUEST, SECONDS).kind for transport in transports] == ["delivered", "retry"]
        with capture_logs() as logs:
            replace(files["certificate"], pki / "other.pem")
            replace(files["client_certificate"], pki / "other-client.pem")
            replace(files["client_key"], pki / "other-client.key")
            assert [transport.send(REQUEST, SECONDS).kind for transport in transports] == ["retry", "delivered"]
            assert [transport.send(REQUEST, SECONDS).kind for transport in transports] == ["retry", "delivered"]
        assert [entry["event"] for entry in logs] == ["otlp.tls_files_reloaded"] * 2
        assert (len(old.requests), len(new.requests)) == (1, 2)
        for transport in transports:
            transport.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("fault", ["garbage", "gone", "another key"])
def test_broken_new_files_leave_the_old_in_use_and_are_told_once(
    protocol: Protocol, fault: str, pki: Path, files: dict[str, Path]
) -> None:
    with receiving(protocol, pki, clients="ca") as receiver, capture_logs() as logs:
        transport = build(receiver, protocol, **files)
        assert transport.send(REQUEST, SECONDS).kind == "delivered"
        if fault == "garbage":
            files["certificate"].write_text("-----BEGIN CERTIFICATE-----\nxx")
        elif fault == "gone":
            files["client_certificate"].unlink()
        else:
            replace(files["client_key"], pki / "other-client.key")
        for _ in range(3):
            assert transport.send(REQUEST, SECONDS).kind == "delivered"
        assert [entry["event"] for entry in logs] == ["otlp.tls_files_refused"]
        assert "cannot use otlp." in logs[0]["error"]
        for name, path in files.items():
            replace(path, pki / {"certificate": "ca.pem", "client_certificate": "client.pem"}.get(name, "client.key"))
        assert transport.send(REQUEST, SECONDS).kind == "delivered"
        assert [entry["event"] for entry in logs][1:] == ["otlp.tls_files_reloaded"]
        transport.close()


def test_a_receiver_that_ends_tls_in_the_middle_of_a_kept_connection_costs_no_retry(pki: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / "server.pem", pki / "server.key")

    def serve(server: RawServer, connection: Any, _number: int) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            server.read_request(secured)
            secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            server.read_request(secured)  # and no answer to this one

    with raw_server(serve) as server:
        settings = Otlp(endpoint=f"https://127.0.0.1:{server.port}", certificate=str(pki / "ca.pem"))
        transport = otlp_transport.build(settings)
        assert transport.send(REQUEST, SECONDS).kind == "delivered"
        assert transport.send(REQUEST, SECONDS).kind == "delivered"
        assert (server.connections, len(server.heads)) == (2, 3)
        transport.close()

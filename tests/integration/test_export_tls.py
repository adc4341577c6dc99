"""OTLP over TLS and mutual TLS, with certificates made for the test."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.resources import Resource

from otel_netmon.config.model import Otlp
from otel_netmon.export.otlp import OtlpSink
from support.otlp_receiver import grpc_receiver, http_receiver
from support.snapshots import flows


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, and server and client certificates with their keys, for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("pki")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test CA", "-days", "2")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for who in ("server", "client"):
        openssl("req", *new_key, "-keyout", f"{who}.key", "-out", f"{who}.csr", "-subj", f"/CN={who}")
        sign = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names", "-days", "2")
        openssl("x509", "-req", "-in", f"{who}.csr", "-out", f"{who}.pem", *sign)
    return folder


def deliver(**settings: Any) -> dict[str, int]:
    """Send three points; the reasons why some were dropped."""
    sink = OtlpSink(Otlp(timeout_seconds=0.5, **settings), Resource({}))
    sink.start()
    sink.offer(flows(3))
    sink.flush(10.0)
    sink.shutdown(5.0)
    stats = sink.stats()
    assert stats["points_delivered"] + sum(stats["points_dropped"].values()) == 3
    return stats["points_dropped"]


def test_http(pki: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / "server.pem", pki / "server.key")
    context.load_verify_locations(pki / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    with http_receiver(context=context) as receiver:
        client = {"client_certificate": str(pki / "client.pem"), "client_key": str(pki / "client.key")}
        assert deliver(endpoint=receiver.endpoint, certificate=str(pki / "ca.pem"), **client) == {}
        assert receiver.requests[0].values == [1, 2, 3]
        assert deliver(endpoint=receiver.endpoint, **client) == {"tls": 3}
        assert list(deliver(endpoint=receiver.endpoint, certificate=str(pki / "ca.pem")).values()) == [3]
        assert len(receiver.requests) == 1


def test_grpc(pki: Path) -> None:
    pair = ((pki / "server.key").read_bytes(), (pki / "server.pem").read_bytes())
    credentials = grpc.ssl_server_credentials([pair], (pki / "ca.pem").read_bytes(), require_client_auth=True)
    with grpc_receiver(credentials) as receiver:
        grpc_settings = {"endpoint": receiver.endpoint, "protocol": "grpc"}
        client = {"client_certificate": str(pki / "client.pem"), "client_key": str(pki / "client.key")}
        assert deliver(**grpc_settings, certificate=str(pki / "ca.pem"), **client) == {}
        assert receiver.requests[0].values == [1, 2, 3]
        for refused in (client, {"certificate": str(pki / "ca.pem")}):
            (reason,) = deliver(**grpc_settings, **refused)
            assert reason in {"grpc_unavailable", "grpc_deadline_exceeded"}
        assert len(receiver.requests) == 1

"""gRPC and HTTP/2 through the whole agent: what it counts is what server and client say."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import grpc_calls
from support.agent import Agent, agent
from support.netns import NetNs, Veth, veth_pair

pytestmark = pytest.mark.kernel

PORT = 50051


@pytest.fixture
def link() -> Iterator[tuple[NetNs, NetNs, Veth]]:
    with veth_pair() as made:
        yield made


NGINX = """
daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  log_format told '$request_method $status';
  access_log {folder}/access.log told;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen {address} http2;
    root {folder};
    location /ok {{ return 200 "body"; }}
    location /gone {{ return 410; }}
    location /large {{ }}
  }}
}}
"""


def lines(text: str) -> Counter[tuple[str, str]]:
    return Counter(tuple(json.loads(line)) for line in text.splitlines())


def counted(running: Agent, side: str) -> Counter[tuple[str, str]]:
    """Calls by method and status, or by error where there is none."""
    found: Counter[tuple[str, str]] = Counter()
    for have, value in running.samples(f"rpc_{side}_call_duration_seconds_count"):
        method = have.get("rpc_method", "").rpartition("/")[2]
        found[method, have.get("rpc_response_status_code") or have.get("error_type", "")] += int(value)
    return +found


@pytest.mark.parametrize("side", ["client", "server"])
def test_grpc_calls_are_those_of_server_and_client(link: tuple[NetNs, NetNs, Veth], side: str) -> None:
    left, right, pair = link
    address, script = f"{pair.right_address}:{PORT}", grpc_calls.__file__
    server_command = right.command(sys.executable, script, "serve", address)
    watched, interface = (left, pair.left) if side == "client" else (right, pair.right)
    options = ["--interface", interface, "--set", f"interfaces.namespaces={watched.name}"]
    with (
        agent(*options) as running,
        subprocess.Popen(server_command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server,
    ):
        assert server.stdout is not None
        assert server.stdout.readline().strip() == "ready"
        by_client = lines(left.run(sys.executable, script, "call", address))
        by_server = lines(server.communicate()[0])
        assert by_client == by_server
        expected = by_client.copy()
        expected["_OTHER", "UNIMPLEMENTED"] = expected.pop(("Nobody", "UNIMPLEMENTED"))
        running.becomes(lambda: counted(running, side), expected)
        assert not counted(running, "server" if side == "client" else "client")
        assert running.total(f"http_{side}_request_duration_seconds_count") == 0
        assert "secret" not in running.get("/metrics")


@pytest.mark.skipif(not (shutil.which("nginx") and shutil.which("h2load")), reason="nginx and h2load are not installed")
def test_requests_of_nginx_are_those_of_its_log(link: tuple[NetNs, NetNs, Veth], tmp_path: Path) -> None:
    """Many streams at once, and bodies of 3 MB in between."""
    left, right, pair = link
    address = f"{pair.right_address}:{PORT}"
    (tmp_path / "nginx.conf").write_text(NGINX.format(folder=tmp_path, address=address))
    (tmp_path / "large").write_bytes(bytes(3_000_000))
    tmp_path.chmod(0o755)
    command = ["nginx", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"), "-e", str(tmp_path / "error.log")]
    # A ring that holds all of them, so that no other load on the machine can make it overflow.
    ring = f"probes.dns.ring_bytes={1 << 25}"
    options = ["--interface", pair.right, "--set", f"interfaces.namespaces={right.name}", "--set", ring]
    with right.serving(pair.right_address, PORT, *command), agent(*options) as running:
        for often, more in ((1009, ["-c3", "-m10"]), (211, ["-c1", "-m1"]), (17, ["-c1", "-m1", "/large"])):
            paths = [more.pop()] if more[-1].startswith("/") else ["/ok?token=secret", "/gone"]
            left.run("h2load", "-n", str(often), *more, *[f"http://{address}{path}" for path in paths])
        log = Counter(tuple(line.split()) for line in (tmp_path / "access.log").read_text().splitlines())
        assert sum(log.values()) == 1009 + 211 + 17

        def requests() -> Counter[tuple[str, ...]]:
            found: Counter[tuple[str, ...]] = Counter()
            for have, value in running.samples("http_server_request_duration_seconds_count"):
                if have.get("otel_metric_overflow") is None:
                    assert have["network_protocol_version"] == "2"
                    found[
                        have["http_request_method"],
                        have.get("http_response_status_code", have.get("error_type", "")),
                    ] += int(value)
            return +found

        running.becomes(requests, log)
        sizes = running.samples("http_server_response_body_size_bytes_sum")
        assert sum(value for _, value in sizes) >= 17 * 3_000_000
        assert "secret" not in running.get("/metrics")

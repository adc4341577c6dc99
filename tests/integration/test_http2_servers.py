"""Real servers and clients of HTTP/2 and gRPC: what a capture of them tells is what they themselves say."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from otel_netmon.replay import replay
from support import grpc_calls
from support.collectors import free_ports
from support.loopback_capture import LoopbackCapture

pytestmark = pytest.mark.kernel

DEADLINE_S = 20.0


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def told(path: Path, folder: Path) -> list[dict[str, Any]]:
    result = replay(str(path), folder, decapsulate=False)
    assert result.messages_lost == {}
    return [each for each in result.http if each["version"] == "2"]


@contextmanager
def started(*command: str, ready: str | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process, until the block is left; its input is closed then."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            if ready is not None:
                assert process.stdout is not None
                assert process.stdout.readline().strip() == ready
            yield process
        finally:
            process.terminate()


def answers(port: int) -> None:
    """Waits until somebody listens."""
    import socket

    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert time.monotonic() < deadline, f"nobody listens on {port}"
            time.sleep(0.02)
        else:
            return


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def lines(text: str) -> Counter[tuple[str, str]]:
    return Counter(tuple(json.loads(line)) for line in text.splitlines())


def test_grpc(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    script = grpc_calls.__file__
    with started(sys.executable, script, "serve", f"127.0.0.1:{port}", ready="ready") as server:
        with LoopbackCapture(tmp_path / "grpc.pcap", port):
            by_client = lines(run(sys.executable, script, "call", f"127.0.0.1:{port}"))
        by_server = lines(server.communicate()[0])
    calls = told(tmp_path / "grpc.pcap", tmp_path)
    assert Counter(each["target"] for each in calls) == {
        f"/{grpc_calls.SERVICE}/{method}": often for method, often in grpc_calls.CALLS.items()
    }
    # Of Slow either side ends the stream first: the server by its status, or the client by a reset, which has none.
    assert {each["rpc"]["method"] for each in calls} == {
        f"{grpc_calls.SERVICE}/{method}" for method in grpc_calls.CALLS
    }
    named = Counter((each["target"].rpartition("/")[2], each["rpc"]["status"]) for each in calls)
    assert named == by_client == by_server
    assert {each["status"] for each in calls if each["target"] != "/pkg.Service/Slow"} == {200}
    assert {each["traceparent"] for each in calls} == {"00-d52ac471b0dfbbc5bd1ac5eadcea9870-b2d76db5796e4adc-01"}
    assert {each["host"] for each in calls} == {f"127.0.0.1:{port}"}
    assert all("unknown" not in each for each in calls)
    (size,) = {each["response_body"] for each in calls if each["target"] == "/pkg.Service/Stream"}
    assert size == 3 * 5 + 140_020


NGINX = """
daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  log_format told '$request_method $request_uri $status';
  access_log {folder}/access.log told;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} http2;
    location /ok {{ return 200 "body"; }}
    location /gone {{ return 410; }}
    location /to {{ return 302 /ok; }}
    location / {{ return 404; }}
  }}
}}
"""


@needs("nginx", "h2load")
def test_nginx(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    (tmp_path / "nginx.conf").write_text(NGINX.format(folder=tmp_path, port=port))
    paths = ["/ok?secret=1", "/gone", "/to", "/" + "x" * 300]
    with started("nginx", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"), "-e", str(tmp_path / "error.log")):
        answers(port)
        with LoopbackCapture(tmp_path / "nginx.pcap", port):
            for often, options in (
                (1009, ["-c3", "-m10"]),
                (211, ["-c1", "-m1"]),
                (101, ["-c1", "-m100", "-d", __file__]),
            ):
                run("h2load", "-n", str(often), *options, *[f"http://127.0.0.1:{port}{path}" for path in paths])
    log = [line.rsplit(" ", 2) for line in (tmp_path / "access.log").read_text().splitlines()]
    made = told(tmp_path / "nginx.pcap", tmp_path)
    assert len(made) == 1009 + 211 + 101
    assert Counter(f"{each['method']} {each['target']} {each['status']}" for each in made) == Counter(
        map(" ".join, log)
    )
    assert {each["outcome"] for each in made} == {"answered"}
    size = Path(__file__).stat().st_size
    assert max(each["request_body"] for each in made) == size  # some are answered before they are sent


@needs("nghttp", "nghttpd", "nghttpx", "curl")
def test_nghttp2(tmp_path: Path) -> None:
    """Padding, priorities, pushes, trailers, large bodies; and the upgrade from HTTP/1.1, by a proxy in front."""
    behind, port = free_ports(2)
    (tmp_path / "page").write_bytes(b"p" * 100_000)
    (tmp_path / "style").write_bytes(b"s" * 10)
    server = ["nghttpd", "--no-tls", "--padding=100", "--htdocs", str(tmp_path), "--push=/page=/style", "--trailer",
              "x-end: 1", "-a", "127.0.0.1", str(behind)]  # fmt: skip
    proxy = ["nghttpx", f"--frontend=127.0.0.1,{port};no-tls", f"--backend=127.0.0.1,{behind};;proto=h2", "--workers=1",
             "--errorlog-file=/dev/null", "--conf=/dev/null", "--no-server-push"]  # fmt: skip
    with started(*server), started(*proxy):
        answers(behind)
        answers(port)
        with LoopbackCapture(tmp_path / "direct.pcap", behind):
            url = f"http://127.0.0.1:{behind}"
            run("nghttp", "--null-out", "--padding=50", f"{url}/page", f"{url}/style", f"{url}/missing")
            run("nghttp", "--null-out", "--continuation", f"{url}/page")
            run("nghttp", "--null-out", "--data", str(tmp_path / "page"), "--trailer", "x-sent: 1", f"{url}/style")
            run("curl", "-s", "-o", "/dev/null", "--http2-prior-knowledge", f"{url}/page")
            run("curl", "-s", "-o", "/dev/null", "--http2-prior-knowledge", "--head", f"{url}/page")
        with LoopbackCapture(tmp_path / "upgraded.pcap", port):
            url = f"http://127.0.0.1:{port}"
            run("nghttp", "--null-out", "--upgrade", f"{url}/page", f"{url}/style")
    made = told(tmp_path / "direct.pcap", tmp_path)
    assert counted(made, ("method", "target", "status")) == {
        ("GET", "/page", 200): 3,
        ("GET", "/style", 200): 1,
        ("GET", "/missing", 404): 1,
        ("POST", "/style", 200): 1,
        ("HEAD", "/page", 200): 1,
    }
    body = {"/page": 100_000, "/style": 10}
    for each in made:
        if each["status"] == 200 and each["method"] != "HEAD":
            assert each["response_body"] == body[each["target"]]
    assert [each["request_body"] for each in made if each["method"] == "POST"] == [100_000]
    upgraded = replay(str(tmp_path / "upgraded.pcap"), tmp_path, decapsulate=False).http
    assert counted(upgraded, ("version", "method", "target", "status")) == {
        ("1.1", "GET", "/page", 101): 1,
        ("2", "GET", "/style", 200): 1,
    }


NODE_SERVER = """
const http2 = require('http2');
const server = http2.createServer({ settings: { headerTableSize: 200 } });
server.on('stream', (stream, headers) => {
  stream.on('error', () => {});
  const path = headers[':path'];
  if (path === '/hangs') return;
  if (path === '/refused') return stream.close(http2.constants.NGHTTP2_REFUSED_STREAM);
  stream.resume();
  stream.on('end', () => {
    if (stream.destroyed) return;
    if (path === '/hints') stream.additionalHeaders({ ':status': 103, link: '</a>' });
    stream.respond({ ':status': path === '/fails' ? 500 : 201, 'x-id': path }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'x-end': 'yes' }));
    setTimeout(() => stream.end('a'.repeat(20000)), Math.random() * 5);
  });
});
server.listen(+process.argv[1], '127.0.0.1', () => console.log('ready'));
"""
NODE_CLIENT = """
const http2 = require('http2');
const session = http2.connect('http://127.0.0.1:' + process.argv[1], { settings: { headerTableSize: 8192 } });
let open = 0;
function ask(path, method, body, cancel) {
  open++;
  const stream = session.request({ ':path': path, ':method': method, 'x-session': 'z'.repeat(100) }, { endStream: !body });
  stream.on('error', () => {});
  stream.on('close', () => { if (!--open) session.close(); });
  stream.resume();
  if (body) stream.end(Buffer.alloc(body));
  if (cancel) setTimeout(() => stream.close(http2.constants.NGHTTP2_CANCEL), 20);
}
for (let i = 0; i < 31; i++) ask('/plain', 'GET');
for (let i = 0; i < 7; i++) ask('/fails', 'PURGE', 50000);
for (let i = 0; i < 5; i++) ask('/hints', 'PUT', 10);
for (let i = 0; i < 3; i++) ask('/hangs', 'GET', 0, true);
for (let i = 0; i < 2; i++) ask('/refused', 'DELETE');
"""


@needs("node")
def test_node(tmp_path: Path) -> None:
    """Small tables, interim answers, cancelled and refused streams."""
    (port,) = free_ports(1)
    with started("node", "-e", NODE_SERVER, str(port), ready="ready"), LoopbackCapture(tmp_path / "node.pcap", port):
        run("node", "-e", NODE_CLIENT, str(port))
    made = told(tmp_path / "node.pcap", tmp_path)
    assert counted(made, ("method", "target", "status", "outcome")) == {
        ("GET", "/plain", 201, "answered"): 31,
        ("PURGE", "/fails", 500, "answered"): 7,
        ("PUT", "/hints", 201, "answered"): 5,
        ("GET", "/hangs", None, "reset"): 3,
        ("DELETE", "/refused", None, "reset"): 2,
    }
    assert {each["request_body"] for each in made if each["method"] == "PURGE"} == {50000}
    assert {each["response_body"] for each in made if each["status"]} == {20000}
    assert {tuple(each.get("interim", ())) for each in made if each["target"] == "/hints"} == {(103,)}


def counted(made: list[dict[str, Any]], names: Sequence[str]) -> Counter[tuple[Any, ...]]:
    return Counter(tuple(each[name] for name in names) for each in made)

"""nginx with HTTP/1.1 and HTTP/2 inside of TLS, and what it logs of each request."""

from __future__ import annotations

import secrets
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.netns import NetNs
from support.tls_talk import Authority

PORT = 18443
STATUSES = (200, 404, 503)
"""Of /s/STATUS/…"""
DATA_REPEATS = 3001

Request = tuple[str, int, str]
"""Method, status, version."""

VERSIONS = {"HTTP/1.0": "1.0", "HTTP/1.1": "1.1", "HTTP/2.0": "2"}


class HttpsServer:
    """A running server.

    Attributes:
        process: its one process.
        data: what /data gives, DATA_REPEATS times.
    """

    def __init__(self, process: subprocess.Popen[bytes], data: bytes, log: Path) -> None:
        self.process = process
        self.data = data
        self._log = log

    def logged(self) -> Counter[Request]:
        """All requests so far."""
        found: Counter[Request] = Counter()
        for line in self._log.read_text().splitlines():
            method, status, version = line.split(" ")
            found[method, int(status), VERSIONS[version]] += 1
        return found


@contextmanager
def https_server(where: NetNs, address: str, folder: Path) -> Iterator[HttpsServer]:
    """Serves in a namespace, in one process."""
    certificate = Authority(folder).issue(["service.example"])
    data = secrets.token_hex(16).encode()
    (folder / "data").write_bytes(data * DATA_REPEATS)
    log = folder / "access.log"
    locations = "\n".join(f"location /s/{status}/ {{ return {status} {'x' * 61}; }}" for status in STATUSES)
    temporary = " ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file = folder / "nginx.conf"
    file.write_text(
        f"""daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log info;
        events {{ worker_connections 512; }}
        http {{
        {temporary}
        log_format request '$request_method $status $server_protocol';
        access_log {log} request;
        keepalive_requests 100000;
        server {{
        listen {address}:{PORT} ssl http2; ssl_certificate {certificate}; ssl_certificate_key {certificate}; root {folder};
        {locations}
        }} }}"""
    )
    running = subprocess.Popen(
        where.command("nginx", "-c", str(file), "-p", str(folder)), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        where.wait_for(address, PORT, running)
        yield HttpsServer(running, data, log)
    finally:
        running.terminate()
        running.wait()

"""nginx with TLS, one port for each way of serving it, and what it logs of each request."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from support.netns import NetNs

AVAILABLE = shutil.which("nginx") is not None


class Site(NamedTuple):
    """A port and how TLS is served there.

    Attributes:
        certificate: a file with certificate and key.
        protocols, ciphers: as nginx takes them.
        http2: offer h2 by ALPN.
        client_authority: where set, clients must show a certificate of it.
    """

    port: int
    certificate: Path
    protocols: str = "TLSv1.2"
    ciphers: str = "ALL"
    http2: bool = False
    tickets: bool = True
    client_authority: Path | None = None

    def block(self, address: str) -> str:
        lines = [
            f"listen {address}:{self.port} ssl{' http2' if self.http2 else ''};",
            f"ssl_certificate {self.certificate};",
            f"ssl_certificate_key {self.certificate};",
            f"ssl_protocols {self.protocols};",
            f"ssl_ciphers {self.ciphers}:@SECLEVEL=0;",
            f"ssl_session_tickets {'on' if self.tickets else 'off'};",
        ]
        if self.client_authority is not None:
            lines += [f"ssl_client_certificate {self.client_authority};", "ssl_verify_client on;"]
        return "server { " + " ".join(lines) + " location / { return 200 ok; } }"


class Logged(NamedTuple):
    """What nginx logs of one request: its own names for what was agreed, ``-`` for what there is not."""

    port: str
    protocol: str
    cipher: str
    server_name: str
    reused: str
    alpn: str
    status: str


class Nginx:
    """A running server."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def logged(self) -> list[Logged]:
        """All requests so far."""
        return [Logged(*line.split(" ")) for line in self._log.read_text().splitlines()]


@contextmanager
def nginx(where: NetNs, address: str, sites: list[Site], folder: Path) -> Iterator[Nginx]:
    """Serves these sites in a namespace."""
    log = folder / "access.log"
    blocks = "\n".join(site.block(address) for site in sites)
    temporary = " ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file = folder / "nginx.conf"
    file.write_text(
        f"""daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log info;
        events {{ worker_connections 512; }}
        http {{
        {temporary}
        log_format tls '$server_port $ssl_protocol $ssl_cipher $ssl_server_name $ssl_session_reused $ssl_alpn_protocol $status';
        access_log {log} tls;
        ssl_session_cache shared:tls:4m;
        {blocks}
        }}"""
    )
    running = subprocess.Popen(
        where.command("nginx", "-c", str(file), "-p", str(folder)), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for site in sites:
            where.wait_for(address, site.port, running)
        yield Nginx(log)
    finally:
        running.terminate()
        running.wait()

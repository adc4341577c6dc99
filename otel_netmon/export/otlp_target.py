"""Where the requests of a signal go: a URL or gRPC target taken apart once, before anything is sent."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, cast
from urllib.parse import quote, unquote, urlsplit

from otel_netmon.config import checks
from otel_netmon.config.model import Receiver
from otel_netmon.errors import ConfigError
from otel_netmon.export import proxy
from otel_netmon.export.proxy import Proxy
from otel_netmon.export.redaction import Redactor
from otel_netmon.export.requests import Signal

GRPC_PORT = 4317
"""OTLP's own, for a bare host name; a URL without a port has the one of its scheme, as every URL."""


@dataclass(frozen=True, slots=True)
class Target:
    """A receiver's place for one signal.

    Attributes:
        tls: whether it is spoken to by TLS.
        host: name or address, without brackets; empty for a Unix socket.
        port: TCP port.
        path: of the URL, ready for a request line; gRPC has none.
        socket: gRPC only: a Unix socket as gRPC names it (``unix:/run/otlp.sock``).
        userinfo: ``user:password`` of the URL, as it stands there; empty without.
        proxy: the proxy on the way.
    """

    tls: bool
    host: str
    port: int
    path: str = "/"
    socket: str = ""
    userinfo: str = field(default="", repr=False)
    proxy: Proxy | None = None

    @property
    def authorization(self) -> str:
        """The header's value for the user information; empty without."""
        return proxy.basic_credentials(self.userinfo)

    @property
    def authority(self) -> str:
        """``host:port``, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def of(settings: Receiver, signal: Signal) -> Target:
    """The target of a signal.

    Raises:
        ConfigError: the endpoint or the proxy cannot be used.
    """
    text = settings.target(cast(Literal["metrics", "traces", "logs"], signal.word))
    grpc = settings.protocol == "grpc"
    if grpc and text.lower().startswith(("unix:", "unix-abstract:")):
        return Target(tls=False, host="", port=0, socket=text)
    has_scheme = checks.has_scheme(text)
    if not grpc and not has_scheme:
        raise ConfigError(
            f"OTLP over HTTP needs a URL and not {checks.mask_userinfo(text)!r}", "begin it with http:// or https://"
        )
    try:
        parts = urlsplit(text if has_scheme else f"//{text}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    scheme = parts.scheme if host else ""
    if not host or scheme not in ("http", "https", "" if grpc else "http"):
        remedy = "write it as http://HOST:PORT or https://HOST:PORT"
        raise ConfigError(f"{checks.mask_userinfo(text)!r} is no endpoint of OTLP", remedy)
    tls = scheme == "https" or (not scheme and not settings.insecure)
    own = getattr(settings, f"{signal.word}_endpoint") is not None
    path = parts.path if own else _without_repetition(parts.path, signal)
    default_port = {"http": 80, "https": 443}.get(scheme, GRPC_PORT)
    return Target(
        tls=tls,
        host=host,
        port=port or default_port,
        path="/" if grpc else quote(path, safe="/%:@!$&'()*+,;=~-._") or "/",
        userinfo=parts.netloc.rpartition("@")[0],
        proxy=proxy.choose(settings.proxy, tls=tls, host=host, port=port or default_port, environment=os.environ),
    )


def redactor(settings: Receiver, targets: Iterable[Target]) -> Redactor:
    """Knows every secret of a receiver's settings: header values, and user information of endpoints and proxies."""
    secrets = set(settings.headers.values())
    for target in targets:
        for userinfo in filter(None, (target.userinfo, target.proxy.userinfo if target.proxy else "")):
            password = userinfo.partition(":")[2]
            secrets |= {userinfo, password, unquote(password), proxy.basic_credentials(userinfo)}
    return Redactor(secrets)


def _without_repetition(path: str, signal: Signal) -> str:
    """An endpoint is a base URL, but the complete one of a signal is what people paste: its path would stand there twice."""
    for each in Signal:
        if path.endswith(each.path + signal.path):
            return path.removesuffix(each.path + signal.path) + signal.path
    return path

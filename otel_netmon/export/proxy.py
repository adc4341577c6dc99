"""The HTTP proxy on the way to a receiver: which one, and how it is spoken to.

``https_proxy``, ``http_proxy``, ``all_proxy`` and ``no_proxy`` are read as curl reads them, lower case first, and besides Go's way
for what curl leaves open: a loopback address and ``localhost`` are reached without a proxy of the environment.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from urllib.parse import unquote, urlsplit

from otel_netmon.config.checks import mask_userinfo
from otel_netmon.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy.

    Attributes:
        host: without brackets.
        userinfo: ``user:password`` as the URL has it; empty without.
        url: as it was configured.
    """

    host: str
    port: int
    userinfo: str = field(default="", repr=False)
    url: str = field(default="", repr=False)

    @property
    def authorization(self) -> str:
        """Value of the header Proxy-Authorization; empty without credentials."""
        return basic_credentials(self.userinfo)


def choose(configured: str | None, *, tls: bool, host: str, port: int, environment: Mapping[str, str]) -> Proxy | None:
    """The proxy for a receiver; None where it is reached directly.

    Args:
        configured: the receiver's ``proxy``; it goes before the environment's, and NO_PROXY holds for it too.
        tls: whether the receiver is spoken to by TLS.
        host: of the receiver, without brackets.
        port: of the receiver.
        environment: of the process.

    Raises:
        ConfigError: the proxy is not an ``http://`` URL.
    """

    def variable(*names: str) -> tuple[str, str]:
        for name in names:
            for spelled in (name, name.upper()):
                if environment.get(spelled):
                    return spelled, environment[spelled]
        return "", ""

    name, url = (
        ("otlp.proxy", configured) if configured else variable("https_proxy" if tls else "http_proxy", "all_proxy")
    )
    if not url or (not configured and _is_loopback(host)) or _excluded(variable("no_proxy")[1], host, port):
        return None
    return _parse(name, url)


def basic_credentials(userinfo: str) -> str:
    """The header value for ``user:password`` of a URL (RFC 7617); empty for nothing."""
    if not userinfo:
        return ""
    user, _, password = userinfo.partition(":")
    return "Basic " + base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()


def _parse(name: str, url: str) -> Proxy:
    remedy = "name it as http://HOST:PORT, or except the receiver by NO_PROXY"
    fault = ConfigError(f"{name}: {mask_userinfo(url)!r} is not the URL of an HTTP proxy", remedy)
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise fault from None  # its message may hold a password
    if parts.scheme != "http" or not host:
        raise fault
    return Proxy(host, port or 80, parts.netloc.rpartition("@")[0], url)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def _excluded(no_proxy: str, host: str, port: int) -> bool:
    """Whether NO_PROXY names the receiver: a name with all below it, an address, a network (CIDR), each with or without a port."""
    host = host.lower().rstrip(".")
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        address = None
    for entry in re.split(r"[,\s]+", no_proxy.lower()):
        pattern, only_port = entry, ""
        if match := re.fullmatch(r"(\[[^\]]*\]|[^:]*):([0-9]+)", entry):
            pattern, only_port = match[1], match[2]
        if not pattern or (only_port and int(only_port) != port):
            continue
        if pattern == "*":
            return True
        if address is not None:
            try:
                if address in ip_network(pattern.strip("[]"), strict=False):
                    return True
            except ValueError:
                continue  # a name: it excludes no address
        else:
            name = pattern.removeprefix("*").strip(".")
            if host == name or host.endswith(f".{name}"):
                return True
    return False

"""Checks of single configuration values that a range or a list of choices cannot express.

Each check takes a value and returns None, or what is wrong with it as the end of a sentence. They are pure: no file, host or clock.
"""

from __future__ import annotations

import re
import socket

from otel_netmon.config.routes import parse_rule

MASK = "[REDACTED]"
"""What print-config writes in the place of a secret."""

_HOSTNAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")
_AUTHORITY = re.compile(r"(?:(?P<user>[^/?#]*)@)?(?P<host>\[[^\]]*\]|[^:/?#@\[\]]*)(?::(?P<port>[0-9]*))?")
_ENDPOINT = re.compile(
    r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://)?(?P<authority>[^/?#]*)(?P<rest>[/?#].*)?", re.DOTALL
)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SPACE = re.compile(r"[\x00-\x20\x7f]")

DESTINATION_NAME = "[a-z0-9][a-z0-9_-]{0,31}"
"""What a destination's name looks like."""

FIRST_DESTINATION = "default"
"""The name of the receiver that the keys of ``otlp`` themselves describe; no other can have it."""

INTERFACE_NAME_BYTES = 15
"""Longest interface name: IFNAMSIZ of linux/if.h without the final NUL."""


def split_host_port(text: str) -> tuple[str, int]:
    """Take ``host:port`` or ``[v6]:port`` apart.

    Returns:
        The host without brackets and the port, 0 to 65535.

    Raises:
        ValueError: the text is neither; its message is the end of a sentence.
    """
    match = _AUTHORITY.fullmatch(text)
    if match is None or match["user"] is not None:
        raise ValueError("expected host:port or [v6]:port")
    host, port = match["host"], match["port"]
    if not host:
        raise ValueError("the host is missing: write 127.0.0.1:PORT, or 0.0.0.0:PORT or [::]:PORT for every address")
    if not port:
        raise ValueError("the port is missing: write HOST:PORT")
    if len(port) > 5 or int(port) > 65535:
        raise ValueError("the port is not from 0 to 65535")
    fault = _host_fault(host)
    if fault is not None:
        raise ValueError(fault)
    return host.strip("[]"), int(port)


def _host_fault(host: str) -> str | None:
    if host.startswith("["):
        try:
            socket.inet_pton(socket.AF_INET6, host[1:-1].partition("%")[0])
        except (OSError, ValueError):
            return f"{host} is not an IPv6 address"
        return None
    if re.fullmatch(r"[0-9.]+", host):
        try:
            socket.inet_pton(socket.AF_INET, host)
        except (OSError, ValueError):
            return f"{host} is not an IPv4 address"
        return None
    if _HOSTNAME.fullmatch(host) is None or len(host) > 253:
        return f"{host!r} is not a host name"
    return None


def listen(value: str) -> str | None:
    """An address to listen on: ``host:port``, ``[v6]:port``."""
    try:
        split_host_port(value)
    except ValueError as error:
        return str(error)
    return None


def endpoint(value: str) -> str | None:
    """An OTLP endpoint: ``http://`` or ``https://`` URL, or for gRPC a bare ``host[:port]``."""
    if not value or _SPACE.search(value):
        return "expected a URL like http://collector:4318"
    match = _ENDPOINT.fullmatch(value)
    authority = _AUTHORITY.fullmatch(match["authority"]) if match is not None else None
    if match is None or authority is None:
        return "expected a URL like http://collector:4318"
    scheme = match["scheme"]
    if scheme is not None and scheme.lower() not in ("http", "https"):
        return f"the scheme {scheme}:// is not http:// or https://"
    if authority["user"] is not None and MASK in authority["user"]:
        return f"the user is {MASK}, the mask of print-config: write the secret itself, or ${{env:NAME}}"
    if not authority["host"]:
        return "the host is missing"
    port = authority["port"]
    if port is not None and (not port or len(port) > 5 or not 1 <= int(port) <= 65535):
        return "the port is not from 1 to 65535"
    if match["rest"] is not None and match["rest"][0] != "/":
        return "a query or fragment has no meaning in an OTLP endpoint"
    return _host_fault(authority["host"])


def proxy(value: str) -> str | None:
    """An HTTP proxy: ``http://[user:password@]host[:port]``."""
    fault = endpoint(value)
    if fault is not None:
        return fault.replace("http://collector:4318", "http://proxy:3128").replace("an OTLP endpoint", "a proxy's URL")
    scheme, _, _, _, path = endpoint_parts(value)
    if scheme != "http":
        return "the proxy itself is spoken to without TLS: write http://HOST:PORT"
    return "a path has no meaning in a proxy's URL" if path.strip("/") else None


def destination(name: str) -> str | None:
    """The name of a destination."""
    if re.fullmatch(DESTINATION_NAME, name) is None:
        return "a destination's name has 1 to 32 of a-z, 0-9, _ and -, the first of a-z and 0-9"
    if name == FIRST_DESTINATION:
        return f"{FIRST_DESTINATION} is the name of the receiver that the keys of otlp describe; take another"
    return None


def endpoint_parts(value: str) -> tuple[str, str, str, int | None, str]:
    """Scheme, user and password, host, port and path of an endpoint that passed ``endpoint``; what is absent is empty.

    The scheme and the host are lower-cased; without a port it is that of the scheme, or None where there is none.
    """
    match = _ENDPOINT.fullmatch(value)
    authority = _AUTHORITY.fullmatch(match["authority"]) if match is not None else None
    if match is None or authority is None:
        raise ValueError("not an endpoint")
    scheme = (match["scheme"] or "").lower()
    port = int(authority["port"]) if authority["port"] else {"http": 80, "https": 443}.get(scheme)
    return scheme, authority["user"] or "", authority["host"].lower(), port, match["rest"] or ""


def has_scheme(value: str) -> bool:
    """Whether an endpoint that passed ``endpoint`` begins with http:// or https://."""
    return "://" in value


def mask_userinfo(value: str) -> str:
    """The endpoint with ``user:password@`` replaced by the mask."""
    return re.sub(r"^([A-Za-z][A-Za-z0-9+.-]*://)?[^/?#]*@", lambda found: f"{found[1] or ''}{MASK}@", value, count=1)


def interface_pattern(value: str) -> str | None:
    """An interface name or a shell pattern (``*``, ``?``, ``[seq]``) of one."""
    if not value:
        return "an interface name cannot be empty"
    if "/" in value or _SPACE.search(value):
        return f"{value!r} cannot match: an interface name has no slash and no space"
    if not is_pattern(value) and len(value.encode()) > INTERFACE_NAME_BYTES:
        return f"{value!r} cannot match: an interface name has at most {INTERFACE_NAME_BYTES} bytes"
    return None


def port(value: str) -> str | None:
    """A port of TCP or UDP."""
    good = value.isascii() and value.isdigit() and 0 < int(value) < 65536
    return None if good else f"{value!r} is no port: expected a number from 1 to 65535"


def domain_name(value: str) -> str | None:
    """A name of DNS that a server can be asked for by."""
    good = _HOSTNAME.fullmatch(value) is not None and len(value) <= 253 and not re.fullmatch(r"[0-9.]+", value)
    return None if good else f"{value!r} is no domain name"


def route(value: str) -> str | None:
    """Says why a rule for routes is none."""
    try:
        parse_rule(value)
    except ValueError as error:
        return str(error)
    return None


def power_of_two(value: int) -> str | None:
    """A size that the kernel takes for a ring."""
    return None if value > 0 and value & (value - 1) == 0 else f"{value} is no power of two"


def is_pattern(value: str) -> bool:
    """Whether the text is a shell pattern; otherwise it is a literal interface name."""
    return any(mark in value for mark in "*?[")


def namespace(value: str) -> str | None:
    """A network namespace: a name under /run/netns, or an absolute path such as /proc/PID/ns/net."""
    if not value or "\0" in value:
        return "a network namespace needs a name or an absolute path"
    if not value.startswith("/") and ("/" in value or value in (".", "..")):
        return f"{value!r} is neither a name under /run/netns nor an absolute path"
    return None


def path(value: str) -> str | None:
    """A file or directory name."""
    return "a path cannot be empty or hold a NUL byte" if not value or "\0" in value else None


def absolute_path(value: str) -> str | None:
    """A path that does not depend on the directory the agent was started in."""
    return path(value) or (None if value.startswith("/") else f"{value!r} is not an absolute path")


def header(name: str, value: str) -> str | None:
    """One HTTP header or gRPC metadata entry (RFC 9110, section 5.1 and 5.5). The message never shows the value."""
    if _HEADER_NAME.fullmatch(name) is None:
        return f"{name!r} is not a header name"
    if re.search(r"[^\x20-\x7e\t]", value):
        return "a header value holds printable ASCII only"
    if value == MASK:
        return f"the value is {MASK}, the mask of print-config: write the secret itself, or ${{env:NAME}}"
    return None


def attribute(name: str, value: str) -> str | None:
    """One resource attribute: any text under a name that is not empty."""
    del value
    return None if name.strip() else "an attribute name cannot be empty"

"""The server that a client names, in Host or ``:authority``: RFC 9110, section 7.2; RFC 3986, section 3.2."""

from __future__ import annotations

import functools
import ipaddress
import re
from typing import NamedTuple

_HOST_CHARACTERS_MAX = 253
_PORTS_BELOW = 1 << 16
_KNOWN = 256
_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([\w.~-]+))(?::([0-9]{0,5}))?", re.ASCII)


class Authority(NamedTuple):
    """Host in lower case without closing dot, an IPv6 address without brackets; the port where one is named."""

    host: str
    port: int | None


@functools.lru_cache(_KNOWN)
def read_authority(text: str | None) -> Authority | None:
    """Reads an authority; None where it is none. Userinfo is a secret and is left out."""
    match = _AUTHORITY.fullmatch(text.rpartition("@")[2]) if text is not None else None
    if match is None:
        return None
    address, name, port = match.groups()
    number = int(port) if port else None
    if number is not None and number >= _PORTS_BELOW:
        return None
    if address is None:
        host = name.lower().removesuffix(".")
        return Authority(host, number) if 0 < len(host) <= _HOST_CHARACTERS_MAX else None
    try:
        return Authority(str(ipaddress.IPv6Address(address)), number)
    except ValueError:
        return None

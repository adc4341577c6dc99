"""The server that a client names."""

from __future__ import annotations

import pytest

from otel_netmon.decode.authority import read_authority


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("example.com", "example.com", None),
        ("Example.COM.:8443", "example.com", 8443),
        ("example.com:", "example.com", None),
        ("10.1.2.80:80", "10.1.2.80", 80),
        ("[2001:DB8::1]:443", "2001:db8::1", 443),
        ("[::1]", "::1", None),
        ("user:password@example.com", "example.com", None),
        ("user@evil@example.com:1", "example.com", 1),
        ("my_service-1", "my_service-1", None),
    ],
)
def test_authorities(text: str, host: str, port: int | None) -> None:
    assert read_authority(text) == (host, port)


@pytest.mark.parametrize(
    "text",
    [None, "", ".", ":80", "user@", "a b", "a/b", "a?b", "exämple.com", "a:b", "a:70000", "a:123456", "[::1", "[x]", "[1.2.3.4]",
     "a,b", "x" * 254, "a\n"],
)  # fmt: skip
def test_what_is_none(text: str | None) -> None:
    assert read_authority(text) is None

"""Addresses of the kernel contract as text."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, strategies as st

from otel_netmon.enrich.addresses import address_text
from support.rows import address


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        (b"\0" * 10 + b"\xff\xff\x7f\0\0\1", "127.0.0.1"),
        (b"\0" * 10 + b"\xff\xff\0\0\0\0", "0.0.0.0"),
        (b"\0" * 10 + b"\xff\xff\xff\xff\xff\xff", "255.255.255.255"),
        (bytes(16), "::"),
        (bytes(15) + b"\1", "::1"),
        (b"\xff\2" + bytes(13) + b"\xfb", "ff02::fb"),
        (b"\x20\1\x0d\xb8" + bytes(4) + b"\0\1" + bytes(6), "2001:db8:0:0:1::"),
        (b"\xfe\x80" + bytes(6) + bytes.fromhex("020000fffe000001"), "fe80::200:ff:fe00:1"),
    ],
)
def test_known_addresses(octets: bytes, text: str) -> None:
    assert address_text(octets) == text


@given(octets=st.binary(min_size=4, max_size=4))
def test_ipv4_is_written_as_ipv4(octets: bytes) -> None:
    assert address_text(b"\0" * 10 + b"\xff\xff" + octets) == str(ipaddress.IPv4Address(octets))


@given(
    octets=st.one_of(
        st.binary(min_size=16, max_size=16), st.binary(min_size=1, max_size=6).map(lambda b: b.rjust(16, b"\0"))
    )
)
def test_every_address_reads_back_as_itself(octets: bytes) -> None:
    assert address(address_text(octets)) == octets


@given(groups=st.lists(st.sampled_from([b"\0\0", b"\0\1", b"\xab\xcd"]), min_size=8, max_size=8))
def test_text_is_canonical(groups: list[bytes]) -> None:
    """RFC 5952: lower case, no leading zeros, the longest run of zeros shortened."""
    octets = b"\x20\1" + b"".join(groups[1:])
    assert address_text(octets) == str(ipaddress.IPv6Address(octets))

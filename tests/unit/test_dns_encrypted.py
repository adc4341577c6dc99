"""Which handshakes are with a resolver."""

from __future__ import annotations

import pytest

from otel_netmon.analysis.dns_encrypted import encrypted_transport
from otel_netmon.config.resolvers import RESOLVER_NAMES

RESOLVERS = frozenset(RESOLVER_NAMES)


@pytest.mark.parametrize(
    ("port", "alpn", "name", "quic", "transport"),
    [
        (853, (), None, False, "dot"),
        (853, ("dot",), "dns.google", False, "dot"),
        (8853, ("dot",), None, False, "dot"),
        (853, ("doq",), None, True, "doq"),
        (784, ("doq",), None, True, "doq"),
        (853, (), None, True, "doq"),
        (853, ("h3",), "www.example.com", True, None),
        (443, ("h2", "http/1.1"), "dns.google", False, "doh"),
        (443, ("h2",), "Mozilla.Cloudflare-DNS.com.", False, "doh"),
        (443, ("h3",), "abcdef.dns.nextdns.io", True, "doh"),
        (443, ("h2",), "www.google", False, None),
        (443, ("h2",), "notdns.google", False, None),
        (443, ("h2",), "dns.google.example", False, None),
        (443, (), None, False, None),
    ],
)
def test_a_handshake_with_a_resolver_is_told_by_its_port_protocol_or_name(
    port: int, alpn: tuple[str, ...], name: str | None, quic: bool, transport: str | None
) -> None:
    assert encrypted_transport(port, alpn, name, quic, RESOLVERS) == transport


def test_only_the_names_given_are_resolvers() -> None:
    assert encrypted_transport(443, ("h2",), "dns.google", False, ()) is None
    assert encrypted_transport(443, ("h2",), "ns.corp.example", False, {"corp.example"}) == "doh"

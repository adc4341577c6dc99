"""Names of resolvers that offer DNS over HTTPS (RFC 8484): nothing but its server's name tells it from any other HTTPS."""

from __future__ import annotations

RESOLVER_NAMES = (
    "cloudflare-dns.com",
    "dns.adguard-dns.com",
    "dns.google",
    "dns.mullvad.net",
    "dns.nextdns.io",
    "dns.quad9.net",
    "doh.cleanbrowsing.org",
    "doh.opendns.com",
    "dns0.eu",
    "one.one.one.one",
)
"""Public ones, each with all names below it."""

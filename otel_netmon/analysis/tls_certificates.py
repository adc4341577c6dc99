"""Certificates that were seen, each read once."""

from __future__ import annotations

from collections import Counter, OrderedDict
from hashlib import sha256

from otel_netmon.decode.x509 import Certificate, RefusedCertificate, parse_certificate

CERTIFICATES_MAX = 1024
"""Kept at a time, some 2 kB each."""


class Certificates:
    """Knows certificates by the SHA-256 of their DER; the one not met for longest goes first.

    Attributes:
        counts: ``parsed`` and ``refused``, of those read; ``known`` of those met again.
    """

    def __init__(self, limit: int = CERTIFICATES_MAX) -> None:
        self.counts: Counter[str] = Counter()
        self._limit = limit
        self._known: OrderedDict[bytes, Certificate | RefusedCertificate] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, der: bytes) -> Certificate | RefusedCertificate:
        """What a certificate says, or why it cannot be read."""
        key = sha256(der).digest()
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
            self.counts["known"] += 1
            return known
        read = parse_certificate(der)
        self.counts["refused" if isinstance(read, RefusedCertificate) else "parsed"] += 1
        self._known[key] = read
        if len(self._known) > self._limit:
            self._known.popitem(last=False)
        return read

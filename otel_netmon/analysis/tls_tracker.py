"""Handshakes that are under way, live: who has waited too long for the other side."""

from __future__ import annotations

from otel_netmon.analysis.tcp_followers import ConnectionInfo, Follower, Recogniser
from otel_netmon.analysis.tls import PROTOCOL, TlsFollower
from otel_netmon.analysis.tls_batches import TlsBatches
from otel_netmon.analysis.tls_certificates import Certificates
from otel_netmon.analysis.tls_handshakes import TlsHandshake
from otel_netmon.decode.tls import begins_tls


class TlsTracker:
    """Makes the followers of connections with TLS and ends those that take too long.

    Args:
        timeout_ns: a handshake that is not over so long after its first octet was seen has timed out.
        octets_max: of each direction, what the kernel hands over at most: a handshake that is longer is not seen to its end.

    Attributes:
        certificates: those that were seen.
        batches: tells the handshakes that need no follower.
    """

    def __init__(self, timeout_ns: int, octets_max: int) -> None:
        self.certificates = Certificates()
        self.batches = TlsBatches(self.certificates, timeout_ns)
        self._timeout_ns = timeout_ns
        self._octets_max = octets_max
        self._open: dict[int, TlsFollower] = {}  # by identity, in the order in which they began

    def __len__(self) -> int:
        return len(self._open)

    def recogniser(self) -> Recogniser:
        """How TLS is recognised."""
        return Recogniser(PROTOCOL, begins_tls, self._make)

    def advance(self, now_ns: int) -> list[TlsHandshake]:
        """Gives the handshakes that have timed out.

        Args:
            now_ns: the clock of the records.
        """
        late: list[TlsFollower] = []
        for follower in self._open.values():
            if follower.began_ns is not None and follower.began_ns > now_ns - self._timeout_ns:
                break
            late.append(follower)
        found: list[TlsHandshake] = []
        for follower in late:
            follower.time_out(now_ns, self._octets_max)
            found += follower.records
            follower.records.clear()
        return found

    def _make(self, info: ConnectionInfo) -> Follower:
        follower = TlsFollower(info, self.certificates, self._forget)
        self._open[id(follower)] = follower
        return follower

    def _forget(self, follower: TlsFollower) -> None:
        del self._open[id(follower)]

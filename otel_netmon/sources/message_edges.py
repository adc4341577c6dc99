"""The edge rule for messages: which sightings of one count, where it crosses several interfaces."""

from __future__ import annotations

from collections.abc import Mapping

from otel_netmon.abi.enums import NAMESPACE_SOCKET, Direction
from otel_netmon.analysis.dns_lookups import Seen
from otel_netmon.analysis.edges import Edge
from otel_netmon.analysis.tcp_followers import ConnectionInfo
from otel_netmon.kernel.interfaces import Key


class MessageEdges:
    """The rule as it is known: see ``analysis.edges``.

    What an interface without a rule saw counts: it is gone, or so new that its rule is on its way. So does what a socket saw:
    what two of them see and only one is to tell, the kernel hands over once.
    """

    def __init__(self) -> None:
        self._edges: dict[Key, Edge] = {}

    def update(self, edges: Mapping[Key, Edge]) -> None:
        """Takes the rule of interfaces; that of others, which may be gone, stays."""
        self._edges.update(edges)

    def counts(self, namespace: int, ifindex: int, direction: int, ingress_ifindex: int) -> bool:
        """Whether what was seen there counts; the arguments are as in ``layout.MESSAGE``."""
        if namespace == NAMESPACE_SOCKET:
            return True
        edge = self._edges.get((namespace, ifindex))
        return edge is None or edge.counts(Direction(direction), ingress_ifindex)

    def counts_at(self, seen: Seen | ConnectionInfo) -> bool:
        """Likewise."""
        return self.counts(seen.namespace, seen.ifindex, seen.direction, seen.ingress_ifindex)

"""What a protocol over TCP has to be to follow connections: how it is recognised, and who takes its octets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

Speaker = Literal["client", "server", "either"]


class ConnectionInfo(NamedTuple):
    """A connection, when its protocol was recognised.

    Attributes:
        client, server: address and port, 18 octets in network order, IPv4 as v4-mapped IPv6. The client is who began to
            speak the protocol as a client does; where its octets do not tell, who opened the connection.
        roles_known: False where neither octets nor a SYN told; then the client is only a guess, and a follower that knows
            better takes it the other way round.
        begun: whether the connection was seen from its first octets on.
        start_ns: its first packet.
        direction: of the client's packets at the interface, abi.enums.Direction.
        ingress_ifindex: of a forwarded packet of the client, the interface by which it came in; otherwise 0.
        cgroup: cgroup v2 id of the local end, 0 where it is not known.
        inside: the protocol began behind another one, which opened the connection (a proxy's CONNECT, STARTTLS).
    """

    namespace: int
    ifindex: int
    client: bytes
    server: bytes
    roles_known: bool
    begun: bool
    start_ns: int
    direction: int
    ingress_ifindex: int
    cgroup: int
    inside: bool = False


class _Anew:
    """See ``ANEW``."""


ANEW: Final = _Anew()
"""The successor of a follower behind whose protocol any other may begin (a proxy's CONNECT): it is recognised anew."""


class Follower(ABC):
    """Takes the octets of one connection, both directions in the order of time, and makes records of them.

    Octets are given once and in order, gaps where they were; a direction ends once, and after a reset octets of the other
    side may still come, which were on their way.

    Attributes:
        records: what is finished, taken by the owner of the connection after each call.
        successor: who gets all that follows, set when the protocol hands the connection over; with it the follower is over.
        rest: what it has taken and is the successor's: (from_client, octets, time_ns) in order.
    """

    __slots__ = ("records", "rest", "successor")

    def __init__(self) -> None:
        self.records: list[Any] = []
        self.successor: Follower | _Anew | None = None
        self.rest: list[tuple[bool, bytes, int]] = []

    @abstractmethod
    def data(self, from_client: bool, data: bytes, time_ns: int) -> None:
        """Takes the next octets of a direction."""

    @abstractmethod
    def gap(self, from_client: bool, octets: int, time_ns: int) -> None:
        """Takes that octets were never seen; what comes next lies behind them."""

    @abstractmethod
    def end(self, from_client: bool, time_ns: int, reset: bool) -> None:
        """Takes the FIN or RST of a direction."""

    @abstractmethod
    def finish(self, time_ns: int) -> None:
        """Takes that nothing more comes: the capture is over, or the connection was silent for long, or there is no place."""

    def advance(self, now_ns: int) -> None:  # noqa: B027 - most followers have nothing that is late
        """Takes what time it is, every few seconds: what waits for too long may be told."""

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether nothing of what follows matters; ``finish`` is not called then."""

    @property
    def octets(self) -> int:
        """How many octets it keeps, about; counted against the limit of all connections."""
        return 0


class Recogniser(NamedTuple):
    """How a protocol is told by what one side says first, on whatever port.

    Attributes:
        name: of the protocol.
        begins: whether octets, from the begin of a segment on, are the begin of the protocol; None: there are too few.
        make: gives the follower of a connection.
        speaks: whose octets `begins` knows: the client's, the server's (protocols where that speaks first), or what both
            could say; then the roles are those of the handshake.
        joined_only: asked only about directions of which the begin was not seen.
    """

    name: str
    begins: Callable[[bytes], bool | None]
    make: Callable[[ConnectionInfo], Follower]
    speaks: Speaker = "client"
    joined_only: bool = False

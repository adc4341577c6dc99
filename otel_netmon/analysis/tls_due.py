"""Servers whose certificates nobody can see, and when each is to be asked for its own."""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

from otel_netmon.analysis.tls_handshakes import TlsHandshake
from otel_netmon.analysis.tls_servers import Server, Told
from otel_netmon.decode.tls_numbers import is_tls13

ASKED_AGAIN_SECONDS = 86_400.0

_OWN_NAMESPACE = 0


class Due(NamedTuple):
    """A server that is to be asked.

    Attributes:
        server: as it is told.
        name: that clients ask for; None without one.
        end: its address and port where a client was answered, 18 octets.
        ifindex: where that was seen, for addresses of one link.
    """

    server: Server
    name: str | None
    end: bytes
    ifindex: int


class DueServers:
    """Each server is due once a day, while clients shake hands with it by TLS 1.3.

    Args:
        limit: how many are asked in a day.

    Attributes:
        counts: servers that are not asked, by why: ``starttls`` (another protocol is spoken first), ``other_namespace`` (it was
            seen in another network namespace, or at a socket of whichever, and its address may be another server's where the
            agent is), ``no_place`` (beyond the limit).
    """

    def __init__(self, limit: int) -> None:
        self.counts: Counter[str] = Counter()
        self._limit = limit
        self._asked: OrderedDict[Server, float] = OrderedDict()  # the oldest first
        self._waiting: OrderedDict[Server, Due] = OrderedDict()
        self._told = Told()

    def __len__(self) -> int:
        return len(self._asked)

    @property
    def waiting(self) -> int:
        """How many are due."""
        return len(self._waiting)

    def see(self, server: Server, handshake: TlsHandshake, now_seconds: float) -> None:
        """Takes a handshake in which the server's certificate was not in the clear.

        Args:
            now_seconds: Unix time.
        """
        if self._is_asked(server, now_seconds) or server in self._waiting:
            return
        answer, seen = handshake.answer, handshake.connection
        if handshake.outcome != "established" or answer is None or not is_tls13(answer.version):
            return
        reason = self._refusal(handshake, now_seconds)
        if reason is None:
            self._waiting[server] = Due(server, handshake.server_name, seen.server, seen.ifindex)
        elif self._told.is_new(now_seconds, server, reason):
            self.counts[reason] += 1

    def next(self, now_seconds: float) -> Due | None:
        """The server that is due for longest, which is asked now; None without one."""
        if not self._waiting:
            return None
        server, due = self._waiting.popitem(last=False)
        self._asked[server] = now_seconds
        self._asked.move_to_end(server)
        return due

    def state(self) -> dict[str, float]:
        """When servers were asked, Unix seconds, by port and name."""
        return {f"{server.port} {server.name}": seconds for server, seconds in self._asked.items()}

    def restore(self, state: Mapping[str, float]) -> None:
        """Goes on where another process was."""
        for key, seconds in state.items():
            self._asked[server_of_key(key)] = seconds

    def _is_asked(self, server: Server, now_seconds: float) -> bool:
        seconds = self._asked.get(server)
        return seconds is not None and seconds > now_seconds - ASKED_AGAIN_SECONDS

    def _refusal(self, handshake: TlsHandshake, now_seconds: float) -> str | None:
        if handshake.connection.inside:
            return "starttls"
        seen = handshake.connection
        if seen.namespace != _OWN_NAMESPACE and not _means_the_same_everywhere(seen.server[:16]):
            return "other_namespace"
        while self._asked and next(iter(self._asked.values())) <= now_seconds - ASKED_AGAIN_SECONDS:
            self._asked.popitem(last=False)
        return "no_place" if len(self._asked) + len(self._waiting) >= self._limit else None


def _means_the_same_everywhere(octets: bytes) -> bool:
    """Whether an IPv6 address, or an IPv4 one mapped into it, is a global one: IANA's registries of special addresses."""
    address = ipaddress.IPv6Address(octets)
    return (address.ipv4_mapped or address).is_global


def server_of_key(key: str) -> Server:
    """The server of a key in a state."""
    port, _, name = key.partition(" ")
    return Server(name, int(port))

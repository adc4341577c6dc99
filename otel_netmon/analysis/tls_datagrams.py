"""ClientHellos of QUIC and DTLS out of datagrams: RFC 9001, RFC 9147."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from otel_netmon.abi.enums import MessageKind
from otel_netmon.analysis.dns_lookups import Seen
from otel_netmon.decode.dtls import HelloFragments, begins_dtls, hello_fragments
from otel_netmon.decode.quic import (
    CryptoStream,
    Initial,
    Keys,
    begins_initial,
    client_keys,
    open_initial,
    read_initials,
)
from otel_netmon.decode.tls_hello import ClientHello, decode_client_hello
from otel_netmon.decode.tls_numbers import HandshakeType
from otel_netmon.readers.messages import Messages

Carrier = Literal["quic", "dtls"]

CLIENTS_MAX = 4096
"""Clients of which something is kept, the one not heard for longest goes first."""

_DATAGRAMS_MAX = 32


class DatagramHello(NamedTuple):
    """A ClientHello that came in datagrams.

    Attributes:
        seen: the datagram that ended it; its source is the client.
        quic_version: of QUIC, 0 for DTLS.
    """

    carrier: Carrier
    seen: Seen
    hello: ClientHello
    quic_version: int
    time_ns: int


class _Client:
    """One client and server, by address and port: what is known of its hello."""

    __slots__ = ("datagrams", "fragments", "is_done", "keys", "stream")

    def __init__(self) -> None:
        self.stream = CryptoStream()
        self.fragments = HelloFragments()
        self.keys: Keys | None = None
        self.datagrams = 0
        self.is_done = False


def datagrams(messages: Messages) -> Iterator[tuple[Seen, int, bytes]]:
    """Gives the datagrams that are among messages, in their order: where each was seen, when, and its octets."""
    heads = messages.heads
    for index in np.flatnonzero((heads["kind"] == MessageKind.QUIC) | (heads["kind"] == MessageKind.DTLS)).tolist():
        head = heads[index]
        ends = [
            head[address].tobytes() + int(head[port]).to_bytes(2, "big")
            for address, port in (("source", "source_port"), ("destination", "destination_port"))
        ]
        seen = Seen(
            int(head["namespace"]),
            int(head["ifindex"]),
            int(head["direction"]),
            int(head["ingress_ifindex"]),
            int(head["cgroup"]),
            *ends,
        )
        yield seen, int(head["time_ns"]), messages.payload(index)


class DatagramHellos:
    """Follows clients until their ClientHello is whole; each counts once, however often it is sent.

    Attributes:
        counts: datagrams by what became of them: ``hello`` (it ended one), ``part`` (of one), ``again`` (of a client whose hello is
            known, and whatever its server says), ``sealed`` (QUIC, by keys that do not fit: the server's, or after a Retry that
            was not seen), ``unreadable``; and ``evicted``: clients that lost their place before their hello was whole.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._clients: OrderedDict[tuple[int, int, bytes, bytes], _Client] = OrderedDict()

    def __len__(self) -> int:
        return len(self._clients)

    def feed(self, seen: Seen, data: bytes, time_ns: int) -> DatagramHello | None:
        """Takes a datagram of either side; gives the hello that it ends."""
        if (seen.namespace, seen.ifindex, seen.destination, seen.source) in self._clients:
            self.counts["again"] += 1
            return None
        carrier: Carrier = "quic" if begins_initial(data) else "dtls"
        if carrier == "dtls" and not begins_dtls(data):
            self.counts["unreadable"] += 1
            return None
        client = self._client(seen)
        if client.is_done or client.datagrams >= _DATAGRAMS_MAX:
            self.counts["again"] += 1
            return None
        client.datagrams += 1
        version = 0
        hello: ClientHello | str | None
        if carrier == "quic":
            hello, version = self._quic(client, data)
        else:
            hello = next((made for each in hello_fragments(data) if (made := client.fragments.add(each))), None)
        if hello is None:
            self.counts["part"] += 1
            return None
        if not isinstance(hello, ClientHello):
            self.counts[hello] += 1
            return None
        client.is_done = True
        client.stream, client.fragments = CryptoStream(), HelloFragments()
        self.counts["hello"] += 1
        return DatagramHello(carrier, seen, hello, version, time_ns)

    def _client(self, seen: Seen) -> _Client:
        key = seen.namespace, seen.ifindex, seen.source, seen.destination
        client = self._clients.get(key)
        if client is None:
            client = self._clients[key] = _Client()
            if len(self._clients) > CLIENTS_MAX:
                _, old = self._clients.popitem(last=False)
                self.counts["evicted"] += not old.is_done
        self._clients.move_to_end(key)
        return client

    def _quic(self, client: _Client, data: bytes) -> tuple[ClientHello | str | None, int]:
        """The hello, or None while parts are missing, or what became of the datagram; and the version of QUIC."""
        version, opened = 0, False
        for packet in read_initials(data):
            frames = None
            for keys in self._keys(client, packet):
                frames = open_initial(data, packet, keys)
                if frames is not None:
                    client.keys, opened, version = keys, True, packet.version
                    break
            for frame in frames or ():
                client.stream.add(frame)
        if not opened:
            return "sealed", version
        message = client.stream.message()
        if message is None:
            return None, version
        kind, body = message
        hello = decode_client_hello(body) if kind == HandshakeType.CLIENT_HELLO else "unreadable"
        return (hello if isinstance(hello, ClientHello) else "unreadable"), version

    def _keys(self, client: _Client, packet: Initial) -> list[Keys]:
        """Those that the client has used, then those of this packet: a Retry changes them."""
        own = client_keys(packet.version, packet.destination_id)
        return [own] if client.keys is None or client.keys == own else [client.keys, own]

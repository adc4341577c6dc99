"""Hellos that differ from one that was read in nothing but what is new in every handshake: they are not read again.

A client says the same to every server but for its random, its session, the name, the octets of its key shares and its tickets;
a server likewise to every client. So a hello is known by all that stands between these, octet by octet.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache
from typing import Generic, NamedTuple, TypeVar

from otel_netmon.analysis.tls_certificates import Certificates
from otel_netmon.decode.tls_fingerprints import ja3, ja3s, ja4
from otel_netmon.decode.tls_handshake import certificates
from otel_netmon.decode.tls_hello import (
    RETRY_RANDOM,
    ClientHello,
    Found,
    HelloFault,
    ServerHello,
    decode_client_hello,
    decode_server_hello,
    extensions,
    server_name,
)
from otel_netmon.decode.tls_numbers import Extension, is_tls13
from otel_netmon.decode.x509 import Certificate, RefusedCertificate

KINDS_MAX = 256
"""Of clients, and of servers, by what their hellos begin with and how long they are."""

_PATTERN_OCTETS_MAX = 2048
_CHAINS_MAX = 128
_CHAIN_OCTETS_MAX = 1 << 14
_SESSION_AT = 34  # behind version and random
_BEGIN_OCTETS = (
    5  # of what is behind the session, by which patterns are found: the first suite, or the one that was chosen
)
_OF_A_KIND_MAX = 8
_WHOLLY_NEW = (
    Extension.SERVER_NAME,
    Extension.SESSION_TICKET,
    Extension.PRE_SHARED_KEY,
    Extension.ENCRYPTED_CLIENT_HELLO,
)
_SESSION, _NAME = (ClientHello._fields.index(field) for field in ("session_id", "server_name"))
_SERVERS_SESSION = ServerHello._fields.index("session_id")

_Value = TypeVar("_Value")


class KnownClient(NamedTuple):
    """A ClientHello and its fingerprints; of one in the form of SSL 2 there are none."""

    hello: ClientHello
    ja3: str
    ja4: str


class KnownServer(NamedTuple):
    """A ServerHello and its fingerprint."""

    hello: ServerHello
    ja3s: str


class _Pattern(NamedTuple, Generic[_Value]):
    """What hellos of one kind have in common.

    Attributes:
        pieces: (begin, end, octets) of what is the same in all of them, behind the session.
        name: where the extension server_name stands, begin and end; None without one.
    """

    pieces: tuple[tuple[int, int, bytes], ...]
    name: tuple[int, int] | None
    value: _Value


class _Patterns(Generic[_Value]):
    """Patterns by version, length and begin; the kinds not met for longest go first.

    Args:
        shares_at: where the first share stands in the extension key_share: clients have a list of them, behind its length.
    """

    def __init__(self, shares_at: int) -> None:
        self._shares_at = shares_at
        self._kinds: OrderedDict[tuple[bytes, int, bytes], list[_Pattern[_Value]]] = OrderedDict()

    def find(self, version: bytes, tail: bytes) -> _Pattern[_Value] | None:
        """The pattern of a hello, by its version and the octets behind its session."""
        key = version, len(tail), tail[:_BEGIN_OCTETS]
        patterns = self._kinds.get(key)
        if patterns is None:
            return None
        for pattern in patterns:
            for begin, end, octets in pattern.pieces:
                if tail[begin:end] != octets:
                    break
            else:
                self._kinds.move_to_end(key)
                return pattern
        return None

    def learn(self, version: bytes, tail: bytes, found: Found, value: _Value) -> None:
        """Takes one that was read and is not known; found are its extensions, by places in tail."""
        kinds = [kind for kind, _, _ in found]
        if len(tail) > _PATTERN_OCTETS_MAX or len(set(kinds)) < len(kinds):
            return
        new = [place for kind, begin, end in found for place in self._new_in(tail, kind, begin, end)]
        edges = [0, *[edge for place in new for edge in place], len(tail)]
        pieces = tuple([(b, e, tail[b:e]) for b, e in zip(edges[::2], edges[1::2], strict=True) if b < e])
        name = next(((begin, end) for kind, begin, end in found if kind == Extension.SERVER_NAME), None)
        patterns = self._kinds.setdefault((version, len(tail), tail[:_BEGIN_OCTETS]), [])
        patterns.insert(0, _Pattern(pieces, name, value))
        del patterns[_OF_A_KIND_MAX:]
        if len(self._kinds) > KINDS_MAX:
            self._kinds.popitem(last=False)

    def _new_in(self, tail: bytes, kind: int, begin: int, end: int) -> list[tuple[int, int]]:
        """Where an extension has what is new in every handshake."""
        if kind in _WHOLLY_NEW:
            return [(begin, end)]
        places: list[tuple[int, int]] = []
        at = begin + self._shares_at if kind == Extension.KEY_SHARE else end
        while at + 4 <= end:
            octets = int.from_bytes(tail[at + 2 : at + 4], "big")
            places.append((at + 4, min(end, at + 4 + octets)))
            at += 4 + octets
        return places


class AlikeHellos:
    """Reads hellos and chains of certificates, each kind once.

    Args:
        known: where certificates are read.
    """

    def __init__(self, known: Certificates) -> None:
        self._known = known
        self._clients: _Patterns[KnownClient] = _Patterns(2)
        self._servers: _Patterns[KnownServer] = _Patterns(0)
        self._chains: OrderedDict[bytes, tuple[Certificate | RefusedCertificate, ...]] = OrderedDict()

    def client(self, body: bytes) -> KnownClient | HelloFault:
        """Reads a ClientHello behind its handshake header."""
        if len(body) <= _SESSION_AT:
            return "short_hello"
        at = _SESSION_AT + 1 + body[_SESSION_AT]
        tail = body[at:]
        pattern = self._clients.find(body[:2], tail)
        if pattern is None:
            return self._read_client(body, tail)
        known = pattern.value
        hello = known.hello
        name = hello.server_name if pattern.name is None else _name(tail[slice(*pattern.name)])
        fields = (
            *hello[:_SESSION],
            body[_SESSION_AT + 1 : at],
            *hello[_SESSION + 1 : _NAME],
            name,
            *hello[_NAME + 1 :],
        )
        return KnownClient(ClientHello._make(fields), known.ja3, known.ja4)

    def server(self, body: bytes) -> KnownServer | HelloFault:
        """Reads a ServerHello behind its handshake header."""
        if len(body) <= _SESSION_AT:
            return "short_hello"
        at = _SESSION_AT + 1 + body[_SESSION_AT]
        tail = body[at:]
        is_retry = body[2:_SESSION_AT] == RETRY_RANDOM
        pattern = None if is_retry else self._servers.find(body[:2], tail)
        if pattern is not None:
            known = pattern.value
            hello, session_id = known.hello, body[_SESSION_AT + 1 : at]
            if hello.session_id == session_id:
                return known
            fields = (*hello[:_SERVERS_SESSION], session_id, *hello[_SERVERS_SESSION + 1 :])
            return KnownServer(ServerHello._make(fields), known.ja3s)
        read = decode_server_hello(body)
        if not isinstance(read, ServerHello):
            return read
        made = KnownServer(read, ja3s(read))
        if not (read.fault or is_retry or is_tls13(read.legacy_version)):
            self._servers.learn(body[:2], tail, _places(tail, 3), made)
        return made

    def chain(self, body: bytes) -> tuple[Certificate | RefusedCertificate, ...]:
        """Reads a Certificate message before TLS 1.3."""
        chain = self._chains.get(body)
        if chain is not None:
            self._chains.move_to_end(body)
            self._known.counts["known"] += len(chain)
            return chain
        chain = tuple([self._known.get(der) for der in certificates(body)])
        if len(body) <= _CHAIN_OCTETS_MAX:
            self._chains[body] = chain
            if len(self._chains) > _CHAINS_MAX:
                self._chains.popitem(last=False)
        return chain

    def _read_client(self, body: bytes, tail: bytes) -> KnownClient | HelloFault:
        read = decode_client_hello(body)
        if not isinstance(read, ClientHello):
            return read
        made = KnownClient(read, ja3(read), ja4(read))
        if not read.fault:
            suites = 2 + int.from_bytes(tail[:2], "big")
            self._clients.learn(body[:2], tail, _places(tail, suites + 1 + tail[suites]), made)
        return made


def _places(tail: bytes, at: int) -> Found:
    return extensions(tail, at)[0]


@lru_cache(1024)
def _name(data: bytes) -> str | None:
    return server_name(data)

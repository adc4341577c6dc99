"""ClientHello of DTLS 1.0 to 1.3 in datagrams: RFC 4347, RFC 6347, RFC 9147, section 5.

Pure: octets in, fragments or a hello out.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from otel_netmon.decode.tls_hello import ClientHello, decode_client_hello
from otel_netmon.decode.tls_numbers import ContentType, HandshakeType

HELLO_OCTETS_MAX = 1 << 16

_RECORD = Struct(">BHHHIH").unpack_from
_RECORD_OCTETS = 13
_HANDSHAKE_OCTETS = 12
_VERSIONS = frozenset((0xFEFF, 0xFEFD, 0x0100))  # a ClientHello of DTLS 1.3 is in a record of 1.0 or 1.2


class Fragment(NamedTuple):
    """Part of a ClientHello.

    Attributes:
        sequence: message_seq, 0 for the first hello and 1 for that with the server's cookie.
        length: of the whole message.
        offset: of these octets in it.
    """

    sequence: int
    length: int
    offset: int
    data: bytes


def begins_dtls(data: bytes) -> bool:
    """Whether a datagram begins with a record of a ClientHello in the clear."""
    if len(data) < _RECORD_OCTETS + _HANDSHAKE_OCTETS or data[0] != ContentType.HANDSHAKE:
        return False
    _, version, epoch, _, _, length = _RECORD(data)
    return (
        version in _VERSIONS
        and epoch == 0
        and length >= _HANDSHAKE_OCTETS
        and data[_RECORD_OCTETS] == HandshakeType.CLIENT_HELLO
    )


def hello_fragments(datagram: bytes) -> list[Fragment]:
    """The parts of ClientHellos in a datagram."""
    found: list[Fragment] = []
    at = 0
    while len(datagram) - at >= _RECORD_OCTETS:
        kind, version, epoch, _, _, length = _RECORD(datagram, at)
        begin = at + _RECORD_OCTETS
        at = begin + length
        if kind != ContentType.HANDSHAKE or version not in _VERSIONS or epoch or at > len(datagram):
            break
        while at - begin >= _HANDSHAKE_OCTETS:
            header = datagram[begin : begin + _HANDSHAKE_OCTETS]
            octets = int.from_bytes(header[9:12], "big")
            data = datagram[begin + _HANDSHAKE_OCTETS : min(at, begin + _HANDSHAKE_OCTETS + octets)]
            begin += _HANDSHAKE_OCTETS + octets
            if header[0] == HandshakeType.CLIENT_HELLO and len(data) == octets:
                sequence, offset = int.from_bytes(header[4:6], "big"), int.from_bytes(header[6:9], "big")
                found.append(Fragment(sequence, int.from_bytes(header[1:4], "big"), offset, data))
    return found


class HelloFragments:
    """Puts the first ClientHello of a client together, in whatever order its parts come.

    Attributes:
        octets: how many are kept.
    """

    __slots__ = ("_length", "_pieces", "_sequence", "octets")

    def __init__(self) -> None:
        self._pieces: dict[int, bytes] = {}
        self._sequence = self._length = -1
        self.octets = 0

    def add(self, fragment: Fragment) -> ClientHello | None:
        """Takes a part; gives the hello when it is whole and readable."""
        if self._length < 0:
            self._sequence, self._length = fragment.sequence, fragment.length
        is_other = (fragment.sequence, fragment.length) != (self._sequence, self._length)
        if is_other or fragment.offset + len(fragment.data) > min(self._length, HELLO_OCTETS_MAX):
            return None
        known = self._pieces.get(fragment.offset, b"")
        if self.octets - len(known) + len(fragment.data) <= HELLO_OCTETS_MAX and len(fragment.data) >= len(known):
            self._pieces[fragment.offset] = fragment.data
            self.octets += len(fragment.data) - len(known)
        body = bytearray()
        for offset, piece in sorted(self._pieces.items()):
            if offset <= len(body):
                body += piece[len(body) - offset :]
        if len(body) < self._length:
            return None
        hello = decode_client_hello(bytes(body), datagram=True)
        return hello if isinstance(hello, ClientHello) else None

"""Handshake messages out of records, and what is read of those that are in the clear: RFC 5246, section 7.4; RFC 8446, section 4.

Pure: octets in, messages out.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from otel_netmon.decode.tls_numbers import TLS12, HandshakeType

MESSAGE_OCTETS_MAX = 1 << 18
"""Of a message that is kept: a chain of certificates with post-quantum signatures has some 60 kB."""

CERTIFICATES_MAX = 64

_HEADER_OCTETS = 4
_KEPT = frozenset(
    (
        HandshakeType.CLIENT_HELLO,
        HandshakeType.SERVER_HELLO,
        HandshakeType.HELLO_RETRY_REQUEST,
        HandshakeType.CERTIFICATE,
        HandshakeType.SERVER_KEY_EXCHANGE,
    )
)
_TYPES = frozenset(HandshakeType) | {5, 8, 21, 23, 24, 25, 67}
_NAMED_CURVE = 3
_U16 = Struct(">H").unpack_from


class HandshakeMessage(NamedTuple):
    """One message.

    Attributes:
        type: ``HandshakeType``, or another.
        length: octets behind its header.
        body: those octets; empty for messages of which nothing but their being there matters, and for those too long to
            be kept. Shorter than length where some were not captured.
    """

    type: int
    length: int
    body: bytes

    @property
    def is_whole(self) -> bool:
        """Whether the body is all of it."""
        return len(self.body) == self.length


class Handshakes:
    """Puts the handshake messages of one direction together.

    Attributes:
        octets: how many are kept.
        is_lost: whether it is not known where the next message begins, because octets are missing or what came is none (sealed
            messages are not); then a record is looked at whether it begins with one.
    """

    __slots__ = ("_buffer", "_skip", "is_lost")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skip = 0
        self.is_lost = False

    @property
    def octets(self) -> int:
        """How many octets are kept."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[HandshakeMessage]:
        """Takes the octets of a handshake record; gives the messages that end with it."""
        found: list[HandshakeMessage] = []
        passed = min(self._skip, len(data))
        self._skip -= passed
        buffer = self._buffer
        buffer += data[passed:]
        at = 0
        while len(buffer) - at >= _HEADER_OCTETS:
            kind, length = buffer[at], int.from_bytes(buffer[at + 1 : at + 4], "big")
            if kind not in _TYPES or (self.is_lost and length > MESSAGE_OCTETS_MAX):
                self.is_lost = True
                buffer.clear()
                return found
            self.is_lost = False
            end = at + _HEADER_OCTETS + length
            if kind not in _KEPT or length > MESSAGE_OCTETS_MAX:
                found.append(HandshakeMessage(kind, length, b""))
                self._skip = max(0, end - len(buffer))
                end = min(end, len(buffer))
            elif end > len(buffer):
                break
            else:
                found.append(HandshakeMessage(kind, length, bytes(buffer[at + _HEADER_OCTETS : end])))
            at = end
        del buffer[:at]
        return found

    def gap(self, octets: int | None) -> HandshakeMessage | None:
        """Takes that octets of the handshake are missing, None: nobody knows how many.

        Gives what there is of the message that they are part of, if it is one that is kept.
        """
        buffer, self._buffer = self._buffer, bytearray()
        left, self._skip = self._skip, 0
        partial = None
        if len(buffer) >= _HEADER_OCTETS:
            length = int.from_bytes(buffer[1:4], "big")
            left = length - (len(buffer) - _HEADER_OCTETS)
            partial = HandshakeMessage(buffer[0], length, bytes(buffer[_HEADER_OCTETS:]))
        self.is_lost = octets is None or octets > left
        if octets is not None and not self.is_lost:
            self._skip = left - octets
        return partial


class KeyExchange(NamedTuple):
    """What a ServerKeyExchange tells.

    Attributes:
        group: the named curve; None for finite fields.
        bits: of the prime of a finite field, or of a temporary RSA key; None for curves.
        scheme: signature scheme (TLS 1.2), None where there is none or it is not written down.
    """

    group: int | None = None
    bits: int | None = None
    scheme: int | None = None


def certificates(body: bytes) -> list[bytes]:
    """The certificates of a Certificate message before TLS 1.3, the sender's own first; DER, not looked into.

    Of a message that is not whole, those that are.
    """
    found: list[bytes] = []
    at = 3
    end = min(len(body), at + int.from_bytes(body[:3], "big"))
    while at + 3 <= end and len(found) < CERTIFICATES_MAX:
        octets = int.from_bytes(body[at : at + 3], "big")
        at += 3
        if at + octets > end:
            break
        if octets:
            found.append(body[at : at + octets])
        at += octets
    return found


def key_exchange(body: bytes, cipher: str, version: int) -> KeyExchange:
    """Reads a ServerKeyExchange as far as it can be told: RFC 5246, section 7.4.3; RFC 8422, section 5.4; RFC 4279; RFC 5489.

    Args:
        cipher: name of the suite, which decides about the form.
        version: of the connection.
    """
    method = cipher.removeprefix("TLS_").split("_WITH_")[0]
    at = 0
    if "PSK" in method:
        if len(body) < 2:
            return KeyExchange()
        at = 2 + _U16(body)[0]
    is_signed = "anon" not in method and "PSK" not in method
    group, bits = None, None
    if method.startswith("ECDH"):
        if len(body) < at + 4 or body[at] != _NAMED_CURVE:
            return KeyExchange()
        (group,) = _U16(body, at + 1)
        at += 4 + body[at + 3]
    elif method.startswith(("DH", "RSA_EXPORT")):
        for place in range(3 if method.startswith("DH") else 2):
            if len(body) < at + 2:
                return KeyExchange(bits=bits)
            (octets,) = _U16(body, at)
            if place == 0:
                bits = int.from_bytes(body[at + 2 : at + 2 + octets], "big").bit_length()
            at += 2 + octets
    else:
        return KeyExchange()
    signs = is_signed and version == TLS12 and len(body) >= at + 4
    return KeyExchange(group, bits, _U16(body, at)[0] if signs else None)

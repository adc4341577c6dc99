"""Initial packets of QUIC and the ClientHello in them: RFC 9000, sections 17 and 19; RFC 9001, section 5; version 2: RFC 9369.

Their keys follow from a public salt and the connection id that the client chose, so that anybody on the way can read them.
Pure: octets in, frames out. The cipher is that of the package cryptography, loaded with the first packet that is opened.
"""

from __future__ import annotations

import functools
import hmac
import types
from struct import Struct
from typing import NamedTuple

VERSION_1 = 0x00000001
VERSION_2 = 0x6B3343CF

CRYPTO_OCTETS_MAX = 1 << 16
"""Of the stream of a ClientHello; one with post-quantum shares has some 2 kB."""

_CONNECTION_ID_OCTETS_MAX = 20
_SAMPLE_OCTETS = 16
_TAG_OCTETS = 16
_U32 = Struct(">I").unpack_from


class _Version(NamedTuple):
    """What the versions have different: RFC 9001, section 5.2; RFC 9369, section 3."""

    salt: bytes
    label: str
    initial_type: int


_VERSIONS = {
    VERSION_1: _Version(bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a"), "quic", 0),
    VERSION_2: _Version(bytes.fromhex("0dede3def700a6db819381be6e269dcbf9bd2ed9"), "quicv2", 1),
}


class Initial(NamedTuple):
    """The header of an Initial packet, as far as it is in the clear.

    Attributes:
        version: VERSION_1 or VERSION_2.
        destination_id, source_id: connection ids.
        token_length: octets of the token; one after a Retry or of an earlier connection.
        begin: where the packet begins in its datagram.
        number_at: where its packet number does.
        end: where the packet ends.
    """

    version: int
    destination_id: bytes
    source_id: bytes
    token_length: int
    begin: int
    number_at: int
    end: int


class Keys(NamedTuple):
    """Of one direction's Initial packets."""

    key: bytes
    iv: bytes
    protection: bytes


class CryptoFrame(NamedTuple):
    """Octets of the handshake at their place in its stream."""

    offset: int
    data: bytes


def begins_initial(data: bytes) -> bool:
    """Whether a datagram looks like one that begins with an Initial packet of a version that is known."""
    return len(data) >= 5 and data[0] & 0xC0 == 0xC0 and _is_initial(data[0], int(_U32(data, 1)[0]))


def read_initials(datagram: bytes) -> list[Initial]:
    """The Initial packets of a datagram; other packets with a long header in front of them are passed over."""
    found: list[Initial] = []
    at = 0
    while len(datagram) - at >= 7 and datagram[at] & 0xC0 == 0xC0:
        first, begin = datagram[at], at
        (version,) = _U32(datagram, at + 1)
        if version not in _VERSIONS:
            break
        try:
            destination, at = _connection_id(datagram, at + 5)
            source, at = _connection_id(datagram, at)
            is_initial = _is_initial(first, version)
            token_length = 0
            if is_initial:
                token_length, at = _varint(datagram, at)
                at += token_length
            elif _packet_type(first) == _retry_type(version):
                break  # it has no length and ends the datagram
            length, at = _varint(datagram, at)
        except IndexError:
            break
        end = at + length
        if end > len(datagram) or length < 4 + _SAMPLE_OCTETS:
            break
        if is_initial:
            found.append(Initial(version, destination, source, token_length, begin, at, end))
        at = end
    return found


@functools.lru_cache(256)
def client_keys(version: int, connection_id: bytes) -> Keys:
    """The keys of what a client sends, by the destination connection id of its first packet."""
    salt, label, _ = _VERSIONS[version]
    initial = hmac.digest(salt, connection_id, "sha256")
    secret = _expand(initial, "client in", 32)
    return Keys(
        _expand(secret, f"{label} key", 16), _expand(secret, f"{label} iv", 12), _expand(secret, f"{label} hp", 16)
    )


def open_initial(datagram: bytes, packet: Initial, keys: Keys) -> list[CryptoFrame] | None:
    """Takes the protection off a packet; gives its frames of the handshake, None if it is not sealed by these keys."""
    ciphers, aead, invalid_tag = _ciphers()
    sample = datagram[packet.number_at + 4 : packet.number_at + 4 + _SAMPLE_OCTETS]
    encryptor = ciphers.Cipher(ciphers.algorithms.AES(keys.protection), ciphers.modes.ECB()).encryptor()
    mask = encryptor.update(sample)
    first = datagram[packet.begin] ^ mask[0] & 0x0F
    octets = (first & 3) + 1
    masked = datagram[packet.number_at : packet.number_at + octets]
    number = bytes(one ^ other for one, other in zip(masked, mask[1:], strict=False))
    header = bytes([first]) + datagram[packet.begin + 1 : packet.number_at] + number
    # A client's first packets have small numbers, so that the whole number is what stands there.
    nonce = (int.from_bytes(keys.iv, "big") ^ int.from_bytes(number, "big")).to_bytes(12, "big")
    try:
        payload = aead.AESGCM(keys.key).decrypt(nonce, datagram[packet.number_at + octets : packet.end], header)
    except invalid_tag:
        return None
    return _crypto_frames(payload)


class CryptoStream:
    """Puts the handshake of one direction together, in whatever order its frames come.

    Attributes:
        octets: how many are kept.
    """

    __slots__ = ("_pieces", "octets")

    def __init__(self) -> None:
        self._pieces: dict[int, bytes] = {}
        self.octets = 0

    def add(self, frame: CryptoFrame) -> None:
        """Takes a frame; what does not fit into CRYPTO_OCTETS_MAX is not kept."""
        if frame.offset + len(frame.data) > CRYPTO_OCTETS_MAX or self.octets + len(frame.data) > 2 * CRYPTO_OCTETS_MAX:
            return
        known = self._pieces.get(frame.offset, b"")
        if len(frame.data) > len(known):
            self._pieces[frame.offset] = frame.data
            self.octets += len(frame.data) - len(known)

    def message(self) -> tuple[int, bytes] | None:
        """The first handshake message, its type and what stands behind its header; None while any of it is missing."""
        data = bytearray()
        for offset, piece in sorted(self._pieces.items()):
            if offset > len(data):
                break
            data += piece[len(data) - offset :]
        if len(data) < 4:
            return None
        end = 4 + int.from_bytes(data[1:4], "big")
        return (data[0], bytes(data[4:end])) if end <= len(data) else None


def _is_initial(first: int, version: int) -> bool:
    known = _VERSIONS.get(version)
    return known is not None and _packet_type(first) == known.initial_type


def _packet_type(first: int) -> int:
    return first >> 4 & 3


def _retry_type(version: int) -> int:
    return (_VERSIONS[version].initial_type + 3) % 4


def _connection_id(data: bytes, at: int) -> tuple[bytes, int]:
    end = at + 1 + data[at]
    if data[at] > _CONNECTION_ID_OCTETS_MAX or end > len(data):
        raise IndexError
    return data[at + 1 : end], end


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A variable-length integer and where what follows it begins: RFC 9000, section 16."""
    octets = 1 << (data[at] >> 6)
    if at + octets > len(data):
        raise IndexError
    return int.from_bytes(data[at : at + octets], "big") & (1 << 8 * octets - 2) - 1, at + octets


def _expand(secret: bytes, label: str, octets: int) -> bytes:
    """HKDF-Expand-Label of up to 32 octets with an empty context: RFC 8446, section 7.1."""
    name = b"tls13 " + label.encode()
    info = octets.to_bytes(2, "big") + bytes([len(name)]) + name + b"\0"
    return hmac.digest(secret, info + b"\x01", "sha256")[:octets]


def _crypto_frames(payload: bytes) -> list[CryptoFrame]:
    """The CRYPTO frames among those that an Initial packet may have; an unknown frame ends them."""
    found: list[CryptoFrame] = []
    at = 0
    try:
        while at < len(payload):
            kind = payload[at]
            if kind == 0x00:  # PADDING, up to a thousand of them
                at = len(payload) - len(payload[at:].lstrip(b"\0"))
                continue
            at += 1
            if kind == 0x01:  # PING
                continue
            if kind == 0x06:  # CRYPTO
                offset, at = _varint(payload, at)
                octets, at = _varint(payload, at)
                if at + octets > len(payload):
                    break
                found.append(CryptoFrame(offset, payload[at : at + octets]))
                at += octets
            elif kind in (0x02, 0x03):  # ACK
                _, at = _varint(payload, at)
                _, at = _varint(payload, at)
                ranges, at = _varint(payload, at)
                _, at = _varint(payload, at)
                for _ in range(2 * ranges + (3 if kind == 0x03 else 0)):
                    _, at = _varint(payload, at)
            else:
                break
    except IndexError:
        pass
    return found


@functools.cache
def _ciphers() -> tuple[types.ModuleType, types.ModuleType, type[Exception]]:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives import ciphers
    from cryptography.hazmat.primitives.ciphers import aead

    return ciphers, aead, InvalidTag

"""Initial packets of QUIC, sealed as RFC 9001 says, section 5, and frames that go into them."""

from __future__ import annotations

import hmac

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

V1, V2 = 1, 0x6B3343CF
_SALTS = {
    V1: bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a"),
    V2: bytes.fromhex("0dede3def700a6db819381be6e269dcbf9bd2ed9"),
}
PING = b"\x01"
ACK = b"\x02\x40\x64\x00\x01\x00\x02\x03"  # two ranges


def varint(value: int) -> bytes:
    for octets, mark in ((1, 0), (2, 1), (4, 2), (8, 3)):
        if value < 1 << 8 * octets - 2:
            return (value | mark << 8 * octets - 2).to_bytes(octets, "big")
    raise AssertionError(value)


def crypto(offset: int, data: bytes) -> bytes:
    return b"\x06" + varint(offset) + varint(len(data)) + data


def initial(  # noqa: PLR0913 — what a header has
    frames: bytes,
    connection_id: bytes,
    number: int = 0,
    version: int = V1,
    *,
    keys_of: bytes | None = None,
    source: bytes = b"",
    token: bytes = b"",
    number_octets: int = 4,
    size: int = 1162,
) -> bytes:
    """An Initial packet of a client, its frames padded to this many octets; keys_of another connection id than its own."""
    label = "quicv2" if version == V2 else "quic"
    secret = _expand(hmac.digest(_SALTS[version], keys_of or connection_id, "sha256"), "client in", 32)
    key, iv, protection = (_expand(secret, f"{label} {name}", n) for name, n in (("key", 16), ("iv", 12), ("hp", 16)))
    payload = frames.ljust(size, b"\0")
    kind = 1 if version == V2 else 0
    shown = number.to_bytes(number_octets, "big")
    header = (
        bytes([0xC0 | kind << 4 | number_octets - 1])
        + version.to_bytes(4, "big")
        + bytes([len(connection_id)])
        + connection_id
        + bytes([len(source)])
        + source
        + varint(len(token))
        + token
        + varint(number_octets + len(payload) + 16)
    )
    nonce = (int.from_bytes(iv, "big") ^ number).to_bytes(12, "big")
    sealed = AESGCM(key).encrypt(nonce, payload, header + shown)
    sample = sealed[4 - number_octets : 20 - number_octets]
    mask = Cipher(algorithms.AES(protection), modes.ECB()).encryptor().update(sample)  # noqa: S305 — RFC 9001, 5.4.3
    first = header[0] ^ mask[0] & 0x0F
    return bytes([first]) + header[1:] + bytes(a ^ b for a, b in zip(shown, mask[1:], strict=False)) + sealed


def _expand(secret: bytes, label: str, octets: int) -> bytes:
    name = b"tls13 " + label.encode()
    return hmac.digest(secret, octets.to_bytes(2, "big") + bytes([len(name)]) + name + b"\0\x01", "sha256")[:octets]

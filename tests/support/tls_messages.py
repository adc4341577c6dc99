"""TLS records and handshake messages built octet by octet, from the RFCs alone."""

from __future__ import annotations

from struct import pack

CLIENT_HELLO, SERVER_HELLO, RETRY_OF_DRAFTS = 1, 2, 6
CERTIFICATE, KEY_EXCHANGE, CERTIFICATE_REQUEST, HELLO_DONE, CLIENT_KEY_EXCHANGE, FINISHED = 11, 12, 13, 14, 16, 20
CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA, HEARTBEAT = 20, 21, 22, 23, 24
SSL3, TLS10, TLS11, TLS12, TLS13 = 0x0300, 0x0301, 0x0302, 0x0303, 0x0304
FATAL, WARNING = 2, 1
RANDOM = bytes(range(32))
RETRY_RANDOM = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
CHANGED = b"\x01"


def vector(data: bytes, octets: int = 2) -> bytes:
    """Data behind its length."""
    return len(data).to_bytes(octets, "big") + data


def numbers(values: list[int]) -> bytes:
    return b"".join(pack(">H", value) for value in values)


def record(kind: int, data: bytes, version: int = TLS12) -> bytes:
    return pack(">BHH", kind, version, len(data)) + data


def records(kind: int, data: bytes, size: int, version: int = TLS12) -> bytes:
    """Data cut into records of this many octets."""
    return b"".join(record(kind, data[at : at + size], version) for at in range(0, len(data), size))


def handshake(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + vector(body, 3)


def extension(kind: int, data: bytes = b"") -> bytes:
    return pack(">H", kind) + vector(data)


def server_name(*names: bytes) -> bytes:
    return extension(0, vector(b"".join(b"\0" + vector(name) for name in names)))


def alpn(*names: bytes) -> bytes:
    return extension(16, vector(b"".join(vector(name, 1) for name in names)))


def supported_versions(*versions: int) -> bytes:
    return extension(43, vector(numbers(list(versions)), 1))


def groups(*values: int) -> bytes:
    return extension(10, vector(numbers(list(values))))


def point_formats(*values: int) -> bytes:
    return extension(11, vector(bytes(values), 1))


def signature_algorithms(*values: int) -> bytes:
    return extension(13, vector(numbers(list(values))))


def key_share(*values: int) -> bytes:
    return extension(51, vector(b"".join(pack(">H", value) + vector(bytes(32)) for value in values)))


def client_hello(
    ciphers: list[int],
    extensions: list[bytes] | None = None,
    version: int = TLS12,
    session_id: bytes = b"",
    cookie: bytes | None = None,
) -> bytes:
    """The body of a ClientHello; with a cookie one of DTLS."""
    body = pack(">H", version) + RANDOM + vector(session_id, 1)
    if cookie is not None:
        body += vector(cookie, 1)
    body += vector(numbers(ciphers)) + b"\x01\x00"
    return body if extensions is None else body + vector(b"".join(extensions))


def server_hello(
    cipher: int,
    extensions: list[bytes] | None = None,
    version: int = TLS12,
    session_id: bytes = b"",
    random: bytes = RANDOM,
) -> bytes:
    """The body of a ServerHello."""
    body = pack(">H", version) + random + vector(session_id, 1) + pack(">HB", cipher, 0)
    return body if extensions is None else body + vector(b"".join(extensions))


def chosen_version(version: int) -> bytes:
    return extension(43, pack(">H", version))


def chosen_share(group: int) -> bytes:
    return extension(51, pack(">H", group) + vector(bytes(32)))


def certificate(*ders: bytes) -> bytes:
    """The body of a Certificate message before TLS 1.3."""
    return vector(b"".join(vector(der, 3) for der in ders), 3)


def curve_exchange(group: int, scheme: int | None = 0x0804) -> bytes:
    """The body of a ServerKeyExchange of ECDHE."""
    signed = b"" if scheme is None else pack(">H", scheme)
    return b"\x03" + pack(">H", group) + vector(b"\x04" * 65, 1) + signed + vector(bytes(64))


def field_exchange(prime_bits: int, scheme: int | None = 0x0804) -> bytes:
    """The body of a ServerKeyExchange of DHE."""
    prime = (1 << prime_bits - 1 | 1).to_bytes((prime_bits + 7) // 8, "big")
    signed = b"" if scheme is None else pack(">H", scheme)
    return vector(prime) + vector(b"\x02") + vector(prime) + signed + vector(bytes(64))


def alert(description: int, level: int = FATAL, version: int = TLS12) -> bytes:
    return record(ALERT, bytes([level, description]), version)


def change_cipher_spec(version: int = TLS12) -> bytes:
    return record(CHANGE_CIPHER_SPEC, CHANGED, version)


def sealed(octets: int = 64, kind: int = APPLICATION_DATA, version: int = TLS12) -> bytes:
    """A record that nobody can read."""
    return record(kind, bytes(at * 37 & 255 for at in range(octets)), version)


def ssl2_hello(version: int, ciphers: list[int], session_id: bytes = b"", challenge: bytes = RANDOM[:16]) -> bytes:
    """A ClientHello in the form of SSL 2 with its two octets of length; ciphers of three octets."""
    suites = b"".join(cipher.to_bytes(3, "big") for cipher in ciphers)
    body = pack(">BHHHH", 1, version, len(suites), len(session_id), len(challenge)) + suites + session_id + challenge
    return pack(">H", 0x8000 | len(body)) + body

"""Numbers of TLS and their names: RFC 8446, 5246, 6101 and 8701, and the IANA registries for TLS parameters and extensions."""

from __future__ import annotations

import enum

SSL2, SSL3, TLS10, TLS11, TLS12, TLS13 = 0x0002, 0x0300, 0x0301, 0x0302, 0x0303, 0x0304
DTLS10, DTLS12, DTLS13 = 0xFEFF, 0xFEFD, 0xFEFC
GMTLS = 0x0101

_VERSION_NAMES = {
    SSL2: "ssl2",
    SSL3: "ssl3",
    TLS10: "1.0",
    TLS11: "1.1",
    TLS12: "1.2",
    TLS13: "1.3",
    GMTLS: "gm1.1",
    DTLS10: "dtls1.0",
    0x0100: "dtls1.0",  # as OpenSSL before 0.9.8f wrote it
    DTLS12: "dtls1.2",
    DTLS13: "dtls1.3",
}
_DRAFTS_OF_OTHERS = frozenset((0xFB17, 0xFB1A))  # drafts 23 and 26 of TLS 1.3 as one vendor numbered them

GREASE = frozenset(0x0A0A + 0x1010 * step for step in range(16))
"""Values that mean nothing, sent so that nobody takes unknown ones amiss: RFC 8701, section 2."""


class ContentType(enum.IntEnum):
    """What a record carries; TLS ContentType."""

    CHANGE_CIPHER_SPEC = 20
    ALERT = 21
    HANDSHAKE = 22
    APPLICATION_DATA = 23
    HEARTBEAT = 24


class HandshakeType(enum.IntEnum):
    """TLS HandshakeType; of those that stay in the clear."""

    HELLO_REQUEST = 0
    CLIENT_HELLO = 1
    SERVER_HELLO = 2
    HELLO_VERIFY_REQUEST = 3
    NEW_SESSION_TICKET = 4
    HELLO_RETRY_REQUEST = 6
    """Of the drafts of TLS 1.3 before 22; since then it is a SERVER_HELLO."""
    CERTIFICATE = 11
    SERVER_KEY_EXCHANGE = 12
    CERTIFICATE_REQUEST = 13
    SERVER_HELLO_DONE = 14
    CERTIFICATE_VERIFY = 15
    CLIENT_KEY_EXCHANGE = 16
    FINISHED = 20
    CERTIFICATE_STATUS = 22


class Extension(enum.IntEnum):
    """Extensions of the hellos that are read; TLS ExtensionType."""

    SERVER_NAME = 0
    STATUS_REQUEST = 5
    SUPPORTED_GROUPS = 10
    EC_POINT_FORMATS = 11
    SIGNATURE_ALGORITHMS = 13
    ALPN = 16
    SESSION_TICKET = 35
    KEY_SHARE_OF_DRAFTS = 40
    """key_share in the drafts of TLS 1.3 before 23."""
    PRE_SHARED_KEY = 41
    EARLY_DATA = 42
    SUPPORTED_VERSIONS = 43
    KEY_SHARE = 51
    ENCRYPTED_CLIENT_HELLO = 0xFE0D
    RENEGOTIATION_INFO = 0xFF01


ALERT_WARNING, ALERT_FATAL = 1, 2

ALERT_NAMES: dict[int, str] = {
    0: "close_notify",
    1: "end_of_early_data",
    10: "unexpected_message",
    20: "bad_record_mac",
    21: "decryption_failed",
    22: "record_overflow",
    30: "decompression_failure",
    40: "handshake_failure",
    41: "no_certificate",
    42: "bad_certificate",
    43: "unsupported_certificate",
    44: "certificate_revoked",
    45: "certificate_expired",
    46: "certificate_unknown",
    47: "illegal_parameter",
    48: "unknown_ca",
    49: "access_denied",
    50: "decode_error",
    51: "decrypt_error",
    52: "too_many_cids_requested",
    60: "export_restriction",
    70: "protocol_version",
    71: "insufficient_security",
    80: "internal_error",
    86: "inappropriate_fallback",
    90: "user_canceled",
    100: "no_renegotiation",
    109: "missing_extension",
    110: "unsupported_extension",
    111: "certificate_unobtainable",
    112: "unrecognized_name",
    113: "bad_certificate_status_response",
    114: "bad_certificate_hash_value",
    115: "unknown_psk_identity",
    116: "certificate_required",
    117: "general_error",
    120: "no_application_protocol",
    121: "ech_required",
}

GROUP_NAMES: dict[int, str] = {
    1: "sect163k1",
    2: "sect163r1",
    3: "sect163r2",
    4: "sect193r1",
    5: "sect193r2",
    6: "sect233k1",
    7: "sect233r1",
    8: "sect239k1",
    9: "sect283k1",
    10: "sect283r1",
    11: "sect409k1",
    12: "sect409r1",
    13: "sect571k1",
    14: "sect571r1",
    15: "secp160k1",
    16: "secp160r1",
    17: "secp160r2",
    18: "secp192k1",
    19: "secp192r1",
    20: "secp224k1",
    21: "secp224r1",
    22: "secp256k1",
    23: "secp256r1",
    24: "secp384r1",
    25: "secp521r1",
    26: "brainpoolP256r1",
    27: "brainpoolP384r1",
    28: "brainpoolP512r1",
    29: "x25519",
    30: "x448",
    31: "brainpoolP256r1tls13",
    32: "brainpoolP384r1tls13",
    33: "brainpoolP512r1tls13",
    34: "GC256A",
    35: "GC256B",
    36: "GC256C",
    37: "GC256D",
    38: "GC512A",
    39: "GC512B",
    40: "GC512C",
    41: "curveSM2",
    0x0100: "ffdhe2048",
    0x0101: "ffdhe3072",
    0x0102: "ffdhe4096",
    0x0103: "ffdhe6144",
    0x0104: "ffdhe8192",
    0x0200: "MLKEM512",
    0x0201: "MLKEM768",
    0x0202: "MLKEM1024",
    0x11EB: "SecP256r1MLKEM768",
    0x11EC: "X25519MLKEM768",
    0x11ED: "SecP384r1MLKEM1024",
    0x11EE: "curveSM2MLKEM768",
    0x6399: "X25519Kyber768Draft00",
    0x639A: "SecP256r1Kyber768Draft00",
    0xFF01: "arbitrary_explicit_prime_curves",
    0xFF02: "arbitrary_explicit_char2_curves",
}

_HASHES = {0: "none", 1: "md5", 2: "sha1", 3: "sha224", 4: "sha256", 5: "sha384", 6: "sha512"}
_SIGNATURES = {0: "anonymous", 1: "rsa", 2: "dsa", 3: "ecdsa"}
_SCHEMES = {
    0x0708: "sm2sig_sm3",
    0x0709: "gostr34102012_256a",
    0x0804: "rsa_pss_rsae_sha256",
    0x0805: "rsa_pss_rsae_sha384",
    0x0806: "rsa_pss_rsae_sha512",
    0x0807: "ed25519",
    0x0808: "ed448",
    0x0809: "rsa_pss_pss_sha256",
    0x080A: "rsa_pss_pss_sha384",
    0x080B: "rsa_pss_pss_sha512",
    0x081A: "ecdsa_brainpoolP256r1tls13_sha256",
    0x081B: "ecdsa_brainpoolP384r1tls13_sha384",
    0x081C: "ecdsa_brainpoolP512r1tls13_sha512",
    0x0904: "mldsa44",
    0x0905: "mldsa65",
    0x0906: "mldsa87",
}


def is_tls13(version: int) -> bool:
    """Whether a version is TLS 1.3 or one of its drafts (0x7f and the draft's number)."""
    return version == TLS13 or version >> 8 == 0x7F or version in _DRAFTS_OF_OTHERS


def version_name(version: int) -> str:
    """``ssl2``, ``ssl3``, ``1.0`` … ``1.3`` (its drafts too), ``dtls1.2``, …, ``0xNNNN``."""
    return "1.3" if is_tls13(version) else _VERSION_NAMES.get(version) or f"0x{version:04x}"


def version_age(version: int) -> int:
    """A number that is greater for a newer version: DTLS versions count down, and drafts come before what they became."""
    if version in (DTLS13, DTLS12, DTLS10):
        return {DTLS13: TLS13, DTLS12: TLS12, DTLS10: TLS11}[version] * 256
    if is_tls13(version) and version != TLS13:
        return TLS13 * 256 - 256 + (version & 0xFF)
    return version * 256


def alert_name(description: int) -> str:
    """``handshake_failure``, …, ``alert_n``."""
    return ALERT_NAMES.get(description) or f"alert_{description}"


def group_name(group: int) -> str:
    """``x25519``, ``secp256r1``, ``X25519MLKEM768``, …, ``0xNNNN``."""
    return GROUP_NAMES.get(group) or f"0x{group:04X}"


def scheme_name(scheme: int) -> str:
    """A signature scheme: ``rsa_pss_rsae_sha256``, or of TLS 1.2 signature and hash, ``rsa_sha1``; …, ``0xNNNN``."""
    known = _SCHEMES.get(scheme)
    if known is not None:
        return known
    digest, signature = _HASHES.get(scheme >> 8), _SIGNATURES.get(scheme & 0xFF)
    return f"{signature}_{digest}" if digest and signature else f"0x{scheme:04X}"

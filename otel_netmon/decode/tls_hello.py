r"""ClientHello, ServerHello and HelloRetryRequest: RFC 8446, sections 4.1 and 4.2; RFC 5246, section 7.4.1; RFC 6101; DTLS: RFC 9147.

Pure: octets in, a record or the reason why there is none out. What names and protocols a peer sends is data from outside: it
comes out as bounded text of printing ASCII characters, everything else in it as ``\DDD``.
"""

from __future__ import annotations

from struct import Struct, unpack_from
from typing import Literal, NamedTuple

from otel_netmon.decode.tls_numbers import GREASE, TLS12, Extension, is_tls13, version_age

HelloFault = Literal["short_hello", "bad_length"]
"""Why a hello is none: it ends before its cipher suites do; a length that no hello has."""

SERVER_NAME_OCTETS_MAX = 1024
"""Of a longer one this much is kept; a host name has 255 at most."""

ALPN_NAMES_MAX = 64

_U16 = Struct(">H").unpack_from
_PAIR = Struct(">HH").unpack_from
_RANDOM_OCTETS = 32
RETRY_RANDOM = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
"""SHA-256 of "HelloRetryRequest", which stands for the random of one: RFC 8446, section 4.1.3."""

_TEXT_OF_OCTET = tuple(chr(o) if 0x21 <= o < 0x7F and o != 0x5C else f"\\{o:03d}" for o in range(256))
_PLAIN = bytes(o for o in range(0x21, 0x7F) if o != 0x5C)


class ClientHello(NamedTuple):
    """What a client offers; lists are in its order, GREASE values included.

    Attributes:
        legacy_version: the field client_version.
        session_id: as it stands.
        ciphers: suites; of an SSL 2 hello those with a number in SSL 3.
        extensions: types, of all that stand there.
        server_name: the first host name of server_name; None where there is none.
        versions: supported_versions; empty without it.
        alpn: protocol names.
        alpn_first: the first of them as octets, for JA4.
        groups, point_formats, signature_algorithms, key_shares: numbers; key_shares are the groups of the shares.
        has_ticket: session_ticket holds a ticket.
        has_psk, has_early_data, has_ech: the extension is there.
        is_ssl2: written in the form of SSL 2, which later versions understood (RFC 5246, appendix E.2).
        fault: the extensions could be read up to a length that does not fit.
    """

    legacy_version: int
    session_id: bytes
    ciphers: tuple[int, ...]
    extensions: tuple[int, ...] = ()
    server_name: str | None = None
    versions: tuple[int, ...] = ()
    alpn: tuple[str, ...] = ()
    alpn_first: bytes = b""
    groups: tuple[int, ...] = ()
    point_formats: tuple[int, ...] = ()
    signature_algorithms: tuple[int, ...] = ()
    key_shares: tuple[int, ...] = ()
    has_ticket: bool = False
    has_psk: bool = False
    has_early_data: bool = False
    has_ech: bool = False
    is_ssl2: bool = False
    fault: bool = False

    @property
    def version(self) -> int:
        """The newest version that is offered."""
        offered = [version for version in self.versions if version not in GREASE]
        return max(offered, key=version_age) if offered else self.legacy_version


class ServerHello(NamedTuple):
    """What a server chose.

    Attributes:
        legacy_version: the field server_version.
        version: what was chosen, by supported_versions where that is there.
        session_id: as it stands; the client's own in TLS 1.3.
        cipher: the suite.
        compression: method, 0 for none.
        extensions: types.
        alpn: the protocol, where it is in the clear (before TLS 1.3).
        group: of the key share, in TLS 1.3; None elsewhere.
        is_retry: a HelloRetryRequest.
        has_psk: a key that was known before was chosen (TLS 1.3).
        has_ticket: a ticket will follow (before TLS 1.3).
        fault: as in ``ClientHello``.
    """

    legacy_version: int
    version: int
    session_id: bytes
    cipher: int
    compression: int
    extensions: tuple[int, ...] = ()
    alpn: str | None = None
    group: int | None = None
    is_retry: bool = False
    has_psk: bool = False
    has_ticket: bool = False
    fault: bool = False


def decode_client_hello(body: bytes, datagram: bool = False) -> ClientHello | HelloFault:
    """Reads a ClientHello behind its handshake header.

    Args:
        body: the message, whole.
        datagram: it is of DTLS: a cookie stands behind the session id.
    """
    if len(body) < 2 + _RANDOM_OCTETS + 1:
        return "short_hello"
    (version,) = _U16(body)
    at = 2 + _RANDOM_OCTETS
    session_id = body[at + 1 : at + 1 + body[at]]
    at += 1 + body[at]
    if datagram:
        if at >= len(body):
            return "short_hello"
        at += 1 + body[at]
    if at + 2 > len(body):
        return "short_hello"
    (octets,) = _U16(body, at)
    at += 2
    if at + octets >= len(body):  # the compression methods follow
        return "short_hello"
    if octets % 2:
        return "bad_length"
    ciphers = unpack_from(f">{octets // 2}H", body, at)
    at += octets
    at += 1 + body[at]
    hello = ClientHello(version, session_id, ciphers)
    if at > len(body):
        return hello._replace(fault=True)
    found, fault = extensions(body, at)
    return _offered(hello, body, found, fault) if found or fault else hello


def decode_server_hello(body: bytes, of_drafts: bool = False) -> ServerHello | HelloFault:
    """Reads a ServerHello behind its handshake header.

    Args:
        body: the message, whole.
        of_drafts: it is a HelloRetryRequest of the drafts of TLS 1.3 before 22, a message of its own.
    """
    if len(body) < 2:
        return "short_hello"
    (version,) = _U16(body)
    is_draft = is_tls13(version)  # what it became writes 1.2 there
    session_id, compression, cipher = b"", 0, 0
    at = 2
    is_retry = of_drafts
    if not of_drafts:
        is_retry = body[at : at + _RANDOM_OCTETS] == RETRY_RANDOM
        at += _RANDOM_OCTETS
        if not is_draft:  # before draft 22 of TLS 1.3 neither the session id nor the compression method is there
            if at >= len(body):
                return "short_hello"
            session_id = body[at + 1 : at + 1 + body[at]]
            at += 1 + body[at]
    if not of_drafts or version & 0xFF >= 19:
        if at + 2 > len(body):
            return "short_hello"
        (cipher,) = _U16(body, at)
        at += 2
    if not is_draft:
        if at >= len(body):
            return "short_hello"
        compression = body[at]
        at += 1
    found, fault = extensions(body, at)
    hello = ServerHello(
        version, version, session_id, cipher, compression, tuple([each[0] for each in found]), is_retry=is_retry
    )
    return _chosen(hello, body, found)._replace(fault=fault)


def decode_ssl2_client_hello(record: bytes) -> ClientHello | HelloFault:
    """Reads a ClientHello in the form of SSL 2: RFC 5246, appendix E.2.

    Args:
        record: behind the two octets of its length.
    """
    if len(record) < 9 or record[0] != 1:
        return "short_hello"
    version, suites, session, challenge = unpack_from(">HHHH", record, 1)
    if suites % 3 or 9 + suites + session + challenge > len(record):
        return "bad_length"
    kinds = [int.from_bytes(record[at : at + 3], "big") for at in range(9, 9 + suites, 3)]
    ciphers = tuple([kind for kind in kinds if kind <= 0xFFFF])
    session_id = record[9 + suites : 9 + suites + session]
    return ClientHello(version, session_id, ciphers, is_ssl2=True)


def text(octets: bytes) -> str:
    r"""Octets from outside as text: printing ASCII characters, all others and the backslash as ``\DDD``."""
    if octets.translate(None, _PLAIN):
        return "".join([_TEXT_OF_OCTET[octet] for octet in octets])
    return octets.decode("ascii")


def without_grease(values: tuple[int, ...]) -> list[int]:
    """Those that mean something."""
    return [value for value in values if value not in GREASE]


Found = list[tuple[int, int, int]]
"""Extensions: type, and where their data begins and ends."""


def extensions(body: bytes, at: int) -> tuple[Found, bool]:
    """Gives the extensions of a hello that begin here, and whether a length did not fit."""
    found: Found = []
    if at + 2 > len(body):
        return found, at < len(body)
    end = at + 2 + _U16(body, at)[0]
    at += 2
    fault = end != len(body)
    end = min(end, len(body))
    while at + 4 <= end:
        kind, octets = _PAIR(body, at)
        at += 4
        if at + octets > end:
            return found, True
        found.append((kind, at, at + octets))
        at += octets
    return found, fault or at != end


def _offered(hello: ClientHello, body: bytes, found: Found, fault: bool) -> ClientHello:
    values: dict[str, object] = {"extensions": tuple([each[0] for each in found]), "fault": fault}
    for kind, at, end in found:
        if kind == Extension.SERVER_NAME:
            values.setdefault("server_name", server_name(body[at:end]))
        elif kind == Extension.SUPPORTED_GROUPS:
            values["groups"] = _numbers(body, at, end, 2)
        elif kind == Extension.EC_POINT_FORMATS:
            values["point_formats"] = tuple(body[at + 1 : min(end, at + 1 + body[at])]) if at < end else ()
        elif kind == Extension.SIGNATURE_ALGORITHMS:
            values["signature_algorithms"] = _numbers(body, at, end, 2)
        elif kind == Extension.ALPN:
            names = _protocols(body[at:end])
            values["alpn"] = tuple([text(name) for name in names[:ALPN_NAMES_MAX]])
            values["alpn_first"] = names[0] if names else b""
        elif kind == Extension.SESSION_TICKET:
            values["has_ticket"] = end > at
        elif kind == Extension.PRE_SHARED_KEY:
            values["has_psk"] = True
        elif kind == Extension.EARLY_DATA:
            values["has_early_data"] = True
        elif kind == Extension.SUPPORTED_VERSIONS:
            values["versions"] = _numbers(body, at, end, 1)
        elif kind in (Extension.KEY_SHARE, Extension.KEY_SHARE_OF_DRAFTS):
            values["key_shares"] = _shares(body, at, end)
        elif kind == Extension.ENCRYPTED_CLIENT_HELLO:
            values["has_ech"] = True
    return hello._replace(**values)  # type: ignore[arg-type]


def _chosen(hello: ServerHello, body: bytes, found: Found) -> ServerHello:
    values: dict[str, object] = {}
    for kind, at, end in found:
        if kind == Extension.SUPPORTED_VERSIONS and end - at == 2:
            (version,) = _U16(body, at)
            if (hello.legacy_version == TLS12 and is_tls13(version)) or version >> 8 == 0xFE:
                values["version"] = version
        elif kind in (Extension.KEY_SHARE, Extension.KEY_SHARE_OF_DRAFTS) and end - at >= 2:
            values["group"] = _U16(body, at)[0]
        elif kind == Extension.ALPN:
            names = _protocols(body[at:end])
            values["alpn"] = text(names[0]) if names else None
        elif kind == Extension.PRE_SHARED_KEY:
            values["has_psk"] = True
        elif kind == Extension.SESSION_TICKET:
            values["has_ticket"] = True
    return hello._replace(**values)  # type: ignore[arg-type]


def _numbers(body: bytes, at: int, end: int, prefix: int) -> tuple[int, ...]:
    """Sixteen-bit numbers behind the length of their list, which has `prefix` octets."""
    if end - at < prefix:
        return ()
    octets = min(int.from_bytes(body[at : at + prefix], "big"), end - at - prefix)
    return unpack_from(f">{octets // 2}H", body, at + prefix)


def server_name(data: bytes) -> str | None:
    """The first name of the type host_name: RFC 6066, section 3."""
    at = 2
    while at + 3 <= len(data):
        octets = int.from_bytes(data[at + 1 : at + 3], "big")
        if data[at] == 0:
            name = data[at + 3 : at + 3 + min(octets, SERVER_NAME_OCTETS_MAX)]
            return text(name) if name else None
        at += 3 + octets
    return None


def _protocols(data: bytes) -> list[bytes]:
    """Names of ALPN: RFC 7301, section 3.1."""
    names = []
    at = 2
    while at < len(data):
        name = data[at + 1 : at + 1 + data[at]]
        names.append(name)
        at += 1 + data[at]
    return names


def _shares(body: bytes, at: int, end: int) -> tuple[int, ...]:
    groups = []
    at += 2
    while at + 4 <= end:
        group, octets = _PAIR(body, at)
        groups.append(group)
        at += 4 + octets
    return tuple(groups)

"""Records of TLS out of one direction of a connection: RFC 8446, section 5; RFC 5246, section 6; RFC 6101; SSL 2 hellos.

Pure: octets in, records out. Octets of application data are passed over, not kept.
"""

from __future__ import annotations

from typing import NamedTuple

from otel_netmon.decode.tls_numbers import ContentType, HandshakeType

HEADER_OCTETS = 5
RECORD_OCTETS_MAX = (1 << 14) + 2048
"""Of a sealed record before TLS 1.3; a later one is shorter: RFC 5246, section 6.2.3."""

SSL2_HELLO = 128
"""Stands for a content type: a ClientHello in the form of SSL 2."""

_TYPES = frozenset(ContentType)
_HELLO_OCTETS_MIN = 38
"""Of a ClientHello: version, random, and the lengths of session id and suites."""


class Record(NamedTuple):
    """One record.

    Attributes:
        type: ``ContentType``, or SSL2_HELLO.
        version: of its header.
        length: octets behind its header.
        data: those octets; empty for application data and heartbeats.
    """

    type: int
    version: int
    length: int
    data: bytes


class Records:
    """Tells the records of one direction.

    A record is given when it is whole; one of application data with its header, since nothing more of it is needed.

    Attributes:
        octets: how many are kept.
        is_lost: whether it is not known where the next record begins; found again where octets look like one.
        is_none: whether what stands where a record must begin is none.
    """

    __slots__ = ("_buffer", "_skip", "_taken", "is_lost", "is_none")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skip = 0  # octets of the record that is passed over
        self._taken = False  # whether any record was told
        self.is_lost = self.is_none = False

    @property
    def octets(self) -> int:
        """How many octets are kept."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Record]:
        """Takes the next octets; gives the records that end with them, or of which the header does."""
        if self.is_none:
            return []
        if self._skip:
            passed = min(self._skip, len(data))
            self._skip -= passed
            data = data[passed:]
        if not data:
            return []
        buffer = self._buffer
        buffer += data
        if self.is_lost:
            begins = begins_record(bytes(buffer[:HEADER_OCTETS]))
            if not begins:
                if begins is False:
                    buffer.clear()
                return []
            self.is_lost, self._taken = False, True
        return self._read()

    def gap(self, octets: int) -> tuple[Record | None, int]:
        """Takes that octets were never seen.

        Returns:
            What there is of the record that they are part of, if its length is known and it was to be given; how many of
            the missing octets are its own.
        """
        buffer, self._buffer = self._buffer, bytearray()
        partial = None
        known = self._skip
        if not known and len(buffer) >= HEADER_OCTETS and not self.is_none:
            length = buffer[3] << 8 | buffer[4]
            known = HEADER_OCTETS + length - len(buffer)
            partial = Record(buffer[0], buffer[1] << 8 | buffer[2], length, bytes(buffer[HEADER_OCTETS:]))
        self._skip = max(0, known - octets)
        self.is_lost = known < octets
        return partial, min(known, octets)

    def _read(self) -> list[Record]:
        found: list[Record] = []
        buffer = self._buffer
        at = 0
        if not self._taken and len(buffer) >= 2 and buffer[0] & 0x80:
            end = 2 + (buffer[0] & 0x7F) * 256 + buffer[1]
            if begins_ssl2_hello(bytes(buffer[:HEADER_OCTETS])) is False:
                self._give_up()
                return found
            if len(buffer) < end:
                return found
            found.append(Record(SSL2_HELLO, int.from_bytes(buffer[3:5], "big"), end - 2, bytes(buffer[2:end])))
            self._taken = True
            at = end
        while len(buffer) - at >= HEADER_OCTETS:
            kind, version, length = (
                buffer[at],
                buffer[at + 1] << 8 | buffer[at + 2],
                buffer[at + 3] << 8 | buffer[at + 4],
            )
            if kind not in _TYPES or not _may_be_version(version) or length > RECORD_OCTETS_MAX:
                self._give_up()
                return found
            end = at + HEADER_OCTETS + length
            if kind in (ContentType.APPLICATION_DATA, ContentType.HEARTBEAT):
                found.append(Record(kind, version, length, b""))
                self._skip = max(0, end - len(buffer))
                end = min(end, len(buffer))
            elif end > len(buffer):
                break
            else:
                found.append(Record(kind, version, length, bytes(buffer[at + HEADER_OCTETS : end])))
            self._taken = True
            at = end
        del buffer[:at]
        return found

    def _give_up(self) -> None:
        self._buffer.clear()
        self.is_none = True


def begins_record(data: bytes) -> bool | None:
    """Whether octets are the begin of a record of SSL 3 or TLS; None: there are too few."""
    if data and data[0] not in _TYPES:
        return False
    if len(data) > 2 and not _is_version(data[1] << 8 | data[2]):
        return False
    if len(data) < HEADER_OCTETS:
        return None
    return data[3] << 8 | data[4] <= RECORD_OCTETS_MAX


def begins_ssl2_hello(data: bytes) -> bool | None:
    """Whether octets are the begin of a ClientHello in the form of SSL 2; None: there are too few."""
    if data and not data[0] & 0x80:
        return False
    if len(data) > 2 and data[2] != HandshakeType.CLIENT_HELLO:
        return False
    if len(data) < 11:
        return None if len(data) < 5 or _offers_by_ssl2(data) else False
    suites, session, challenge = (int.from_bytes(data[at : at + 2], "big") for at in (5, 7, 9))
    length = (data[0] & 0x7F) * 256 + data[1]
    fits = length == 9 + suites + session + challenge and suites > 0 and suites % 3 == 0 and session in (0, 16)
    return _offers_by_ssl2(data) and fits and 16 <= challenge <= 32


def begins_tls(data: bytes) -> bool | None:
    """Whether what a client says begins with a ClientHello, in the form of SSL 3 and later or of SSL 2; None: too few octets."""
    if data[:1] != b"\x16":
        return begins_ssl2_hello(data)
    header = _handshake_begin(data)
    if header is None or (header and header[0] != HandshakeType.CLIENT_HELLO):
        return False
    if len(header) < 6:
        return None
    length = int.from_bytes(header[1:4], "big")
    return _HELLO_OCTETS_MIN <= length < 1 << 17 and header[4] in (1, 3, 0x7F)


def _handshake_begin(data: bytes) -> bytes | None:
    """The first six octets of handshake messages that these records begin with, or fewer; None: they are none."""
    begin = b""
    at = 0
    while at < len(data) and len(begin) < 6:
        if begins_record(data[at : at + HEADER_OCTETS]) is False or data[at] != ContentType.HANDSHAKE:
            return None
        if len(data) - at < HEADER_OCTETS:
            break
        length = data[at + 3] << 8 | data[at + 4]
        if not length:
            return None
        begin += data[at + HEADER_OCTETS : at + HEADER_OCTETS + length]
        at += HEADER_OCTETS + length
    return begin[:6]


def _is_version(version: int) -> bool:
    """Of a record: SSL 3 to TLS 1.3, and drafts that counted from 0x7f00; 0x0101 is TLCP (GB/T 38636)."""
    return 0x0300 <= version <= 0x0304 or version == 0x0101 or version >> 8 == 0x7F


def _may_be_version(version: int) -> bool:
    """Where a record is known to begin its version says nothing (RFC 8446, section 5.1)."""
    return version >> 8 == 3 or _is_version(version)


def _offers_by_ssl2(data: bytes) -> bool:
    return (data[3] == 0 and data[4] == 2) or (data[3] == 3 and data[4] <= 4)

"""What is said in clear in front of another protocol in the same breath, so that this begins inside a segment.

Where both sides take turns first (STARTTLS of SMTP, IMAP, POP3, XMPP, LDAP, PostgreSQL; SOCKS; RDP), the other protocol begins
a segment of its own and is recognised there.
"""

from __future__ import annotations

from collections.abc import Callable

from otel_netmon.analysis.tcp_followers import ANEW, ConnectionInfo, Follower, Recogniser

PROXY_LINE_OCTETS_MAX = 107
"""Of the PROXY protocol, version 1, with its end of line: proxy-protocol.txt of HAProxy, section 2.1."""

_PROXY_LINE = b"PROXY "
_PROXY_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_PROXY_HEADER_OCTETS = 16

_MYSQL_HEADER = b"\x20\0\0\1"
"""A packet of 32 octets, the second of the connection: SSLRequest of the MySQL protocol."""
_MYSQL_OCTETS = 36
_MYSQL_TLS = 0x08  # CLIENT_SSL, bit 11 of the capabilities
_MYSQL_UNUSED = slice(13, 32)  # MariaDB writes further capabilities behind it


def proxy_preamble(data: bytes) -> int | None:
    """How many octets a PROXY header has that these begin with; 0: it is none; None: there are too few."""
    line, signature = data[: len(_PROXY_LINE)], data[: len(_PROXY_SIGNATURE)]
    if _PROXY_LINE.startswith(line):
        if len(data) < len(_PROXY_LINE):
            return None
        end = data.find(b"\r\n", 0, PROXY_LINE_OCTETS_MAX)
        return end + 2 if end >= 0 else None if len(data) < PROXY_LINE_OCTETS_MAX else 0
    if _PROXY_SIGNATURE.startswith(signature):
        if len(data) < _PROXY_HEADER_OCTETS:
            return None
        return _PROXY_HEADER_OCTETS + int.from_bytes(data[14:16], "big")
    return 0


def mysql_preamble(data: bytes) -> int | None:
    """How many octets an SSLRequest of MySQL has that these begin with; 0: it is none; None: there are too few."""
    if not _MYSQL_HEADER.startswith(data[:4]):
        return 0
    if len(data) < _MYSQL_OCTETS:
        return None
    return _MYSQL_OCTETS if data[5] & _MYSQL_TLS and not any(data[_MYSQL_UNUSED]) else 0


class PreambleFollower(Follower):
    """Passes a preamble over and has what follows it recognised anew.

    Args:
        octets_of: tells how many octets it has.
    """

    __slots__ = ("_buffer", "_done", "_octets_of")

    def __init__(self, octets_of: Callable[[bytes], int | None]) -> None:
        super().__init__()
        self._octets_of = octets_of
        self._buffer = b""
        self._done = False

    @property
    def done(self) -> bool:
        """Whether it is passed, or none."""
        return self._done

    @property
    def octets(self) -> int:
        """How many octets it keeps."""
        return len(self._buffer)

    def data(self, from_client: bool, data: bytes, time_ns: int) -> None:
        """Takes the next octets of a direction."""
        if not from_client or self._done:
            return
        self._buffer += data
        octets = self._octets_of(self._buffer)
        if octets == 0:
            self._done = True
        elif octets is not None and len(self._buffer) >= octets:
            rest = self._buffer[octets:]
            self.rest = [(True, rest, time_ns)] if rest else []
            self.successor, self._done = ANEW, True

    def gap(self, from_client: bool, octets: int, time_ns: int) -> None:  # noqa: ARG002
        """Takes that octets were never seen."""
        self._done = self._done or from_client

    def end(self, from_client: bool, time_ns: int, reset: bool) -> None:  # noqa: ARG002
        """Takes the FIN or RST of a direction."""
        self._done = True

    def finish(self, time_ns: int) -> None:  # noqa: ARG002
        """Takes that nothing more comes."""
        self._done = True


def preamble_recognisers() -> list[Recogniser]:
    """How the preambles are recognised."""
    return [_recogniser("proxy", proxy_preamble), _recogniser("mysql", mysql_preamble)]


def _recogniser(name: str, octets_of: Callable[[bytes], int | None]) -> Recogniser:
    def begins(data: bytes) -> bool | None:
        octets = octets_of(data)
        return None if octets is None else octets > 0

    def make(info: ConnectionInfo) -> Follower:
        return PreambleFollower(octets_of)

    return Recogniser(name, begins, make)

"""Messages of HTTP/1 octet by octet, and a follower that is told what both sides say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from otel_netmon.analysis.http1 import Http1Follower
from otel_netmon.analysis.http_records import HttpRequest
from otel_netmon.analysis.tcp_followers import ConnectionInfo
from otel_netmon.decode.http1 import Event, Http1Reader

MILLISECOND = 1_000_000
CLIENT = b"\0" * 10 + b"\xff\xff\xc0\0\2\1" + (40000).to_bytes(2, "big")
SERVER = b"\0" * 10 + b"\xff\xff\xc0\0\2\2" + (8080).to_bytes(2, "big")
INFO = ConnectionInfo(0, 1, CLIENT, SERVER, True, True, 0, 0, 0, 0)
HOST = "Host: a.example"


def request(first: str, *fields: str, body: bytes = b"", end: str = "\r\n") -> bytes:
    """A request line without its version is HTTP/1.1; a body has its Content-Length unless the fields say something."""
    line = first if " HTTP/" in first else f"{first} HTTP/1.1"
    return _message(line, fields, body, end)


def response(status: int, *fields: str, body: bytes = b"", end: str = "\r\n") -> bytes:
    """As a request; without a body nothing says so."""
    return _message(f"HTTP/1.1 {status} Because", fields, body, end)


def chunks(*parts: bytes, trailer: str = "", extension: str = "") -> bytes:
    """A body in chunks."""
    written = [f"{len(part):x}{extension}\r\n".encode() + part + b"\r\n" for part in parts]
    return b"".join(written) + f"0{extension}\r\n{trailer}\r\n".encode()


def _message(line: str, fields: tuple[str, ...], body: bytes, end: str) -> bytes:
    says_length = any(field.lower().startswith(("content-length", "transfer-encoding")) for field in fields)
    written = [line, *fields]
    if body and not says_length:
        written.append(f"Content-Length: {len(body)}")
    return (end.join(written) + end * 2).encode("latin-1") + body


class Conversation:
    """One connection that is followed: each piece comes a millisecond behind the one before."""

    def __init__(self, info: ConnectionInfo = INFO, timeout_ns: int | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self.follower = Http1Follower(info, self.counts, timeout_ns)
        self.time_ns = 0
        self.records: list[HttpRequest] = []

    def client(self, *pieces: bytes) -> Conversation:
        return self.say(True, pieces)

    def server(self, *pieces: bytes) -> Conversation:
        return self.say(False, pieces)

    def say(self, from_client: bool, pieces: Iterable[bytes]) -> Conversation:
        for piece in pieces:
            if not self.over:
                self.time_ns += MILLISECOND
                self.follower.data(from_client, piece, self.time_ns)
                self._take()
        return self

    def gap(self, from_client: bool, octets: int) -> Conversation:
        self.time_ns += MILLISECOND
        self.follower.gap(from_client, octets, self.time_ns)
        self._take()
        return self

    def advance(self, time_ns: int) -> Conversation:
        self.follower.advance(time_ns)
        self._take()
        return self

    def end(self, from_client: bool, reset: bool = False) -> Conversation:
        self.time_ns += MILLISECOND
        self.follower.end(from_client, self.time_ns, reset)
        self._take()
        return self

    def finish(self) -> list[HttpRequest]:
        """All records of the connection, in the order of the requests."""
        if not self.over:
            self.follower.finish(self.time_ns)
            self._take()
        return sorted(self.records, key=lambda record: record.request_first_ns)

    @property
    def over(self) -> bool:
        return self.follower.done or self.follower.successor is not None

    def _take(self) -> None:
        self.records += self.follower.records
        self.follower.records.clear()


def told(records: Iterable[HttpRequest]) -> list[tuple[str | None, str | None, int | None, str]]:
    """What most tests look at: method, target, status and outcome."""
    return [(record.method, record.target, record.status, record.outcome) for record in records]


def events(reader: Http1Reader) -> list[Event]:
    """All that a reader gives until it needs more, where no head is among it."""
    given = []
    while (event := reader.next()) is not None:
        given.append(event)
    return given

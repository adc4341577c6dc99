"""What the reader makes of records of sessions: who waits for its connection, for how long, and what is told in the end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from otel_netmon.abi import layout
from otel_netmon.abi.enums import SESSION_LOCAL, SESSION_REMOTE, Direction, MessageKind
from otel_netmon.analysis import http2
from otel_netmon.analysis.http_records import UNPLACED, HttpRequest
from otel_netmon.analysis.tcp_followers import Recogniser
from otel_netmon.config.model import Config
from otel_netmon.kernel.loader import LoadedImage
from otel_netmon.readers.messages import Messages
from otel_netmon.readers.ring import Drained
from otel_netmon.sources.plaintext import PlaintextSource
from support.programs import shipped

pytestmark = pytest.mark.kernel

LOCAL, REMOTE = bytes(10) + b"\xff\xff" + bytes([10, 0, 0, 1]), bytes(10) + b"\xff\xff" + bytes([10, 0, 0, 2])
PORT = 40000
SETTINGS = bytes.fromhex("000000040000000000")
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS
GET = bytes.fromhex("000003010500000001") + b"\x82\x84\x87"  # GET / by https, the end of stream 1
OK = bytes.fromhex("000001010500000001") + b"\x88"  # 200, the end of stream 1


class Told:
    """In the place of the HTTP probe: notes what it is given."""

    def __init__(self) -> None:
        self.servers: list[tuple[bytes, int]] = []
        self.requests: list[HttpRequest] = []

    def recognisers(self) -> tuple[Recogniser, ...]:
        return tuple(http2.recognisers(Counter()))

    def take_secure(self, messages: Messages, requests: Sequence[HttpRequest], *_: int) -> None:
        heads = messages.heads
        self.servers += [(head["destination"].tobytes(), int(head["destination_port"])) for head in heads]
        self.requests += requests


class Ring:
    """In the place of the ring: gives what it is told to."""

    def __init__(self) -> None:
        self.records: list[bytes] = []

    def drain(self) -> Drained:
        data, offsets = b"", []
        for record in self.records:
            offsets.append(len(data) + 8)
            data += bytes(8) + record + bytes(-len(record) % 8)
        lengths = [len(record) for record in self.records]
        self.records = []
        return Drained(data, np.array(offsets, np.int64), np.array(lengths, np.int64))


@pytest.fixture
def loaded() -> Iterator[LoadedImage]:
    image = LoadedImage(shipped("plaintext_monitor"), {"sessions": 64, "http_connections": 64})
    for program in ("netmon_quiet", "netmon_ssl_free"):
        image.program(program)
    yield image
    image.close()


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def source(loaded: LoadedImage, told: Told, monkeypatch: pytest.MonkeyPatch) -> PlaintextSource:
    maps = {name: (fd, loaded.definitions[name].max_entries) for name, fd in loaded.maps.items()}
    made = PlaintextSource(maps, loaded.programs(), Config(), told)  # type: ignore[arg-type]
    monkeypatch.setattr(made, "_ring", Ring())
    return made


def put(source: PlaintextSource, *records: bytes) -> None:
    source._ring.records += records  # type: ignore[attr-defined]


def address(number: int) -> bytes:
    return number.to_bytes(16, "little")


def record(kind: MessageKind, payload: bytes, told_length: int | None = None, **fields: Any) -> bytes:
    head = np.zeros(1, layout.MESSAGE)
    head["kind"], head["captured_length"], head["protocol"] = kind, len(payload), 6
    head["payload_length"] = len(payload) if told_length is None else told_length
    for name, value in fields.items():
        head[name] = np.frombuffer(value, "u1") if isinstance(value, bytes) else value
    return head.tobytes() + payload


def placed(number: int, *, cookie: int = 7, ended: int = 0) -> bytes:
    session = np.zeros(1, layout.SESSION)
    session["address"], session["cookie"], session["ended"] = np.frombuffer(address(number), "u1"), cookie, ended
    ends: dict[str, Any] = {
        "source": LOCAL,
        "destination": REMOTE,
        "source_port": PORT + number,
        "destination_port": 443,
    }
    return record(MessageKind.SESSION, session.tobytes(), **ends)


def of_session(number: int, *, is_write: bool) -> dict[str, Any]:
    ports = (SESSION_LOCAL, SESSION_REMOTE) if is_write else (SESSION_REMOTE, SESSION_LOCAL)
    return {
        "source": address(number),
        "destination": address(number),
        "source_port": ports[0],
        "destination_port": ports[1],
        "direction": Direction.TRANSMIT if is_write else Direction.RECEIVE,
        "tcp_flags": 16,
    }


def request(number: int) -> bytes:
    """A request of HTTP/1 that the process sent."""
    http = np.zeros(1, layout.HTTP)
    http["status"], http["flags"] = 200, 8
    return record(MessageKind.HTTP, http.tobytes() + b"GET / HTTP/1.1\r\n\r\n", **of_session(number, is_write=True))


def frames(number: int, octets: bytes, sequence: int, acknowledgment: int, *, is_write: bool, time_ns: int) -> bytes:
    fields = of_session(number, is_write=is_write)
    now_ns = time.monotonic_ns() + time_ns
    fields |= {"sequence": sequence, "acknowledgment": acknowledgment, "sequence_state": 2, "time_ns": now_ns}
    return record(MessageKind.STREAM, octets, **fields)


def test_what_is_known_is_told_at_once(source: PlaintextSource, told: Told) -> None:
    put(source, placed(1), request(1), request(1), placed(2, ended=1))
    source.drain()
    assert told.servers == [(REMOTE, 443)] * 2


def test_what_comes_before_its_connection_in_a_drain_is_told_with_it(source: PlaintextSource, told: Told) -> None:
    put(source, request(1), placed(1))
    source.drain()
    assert told.servers == [(REMOTE, 443)]


def test_a_request_waits_for_the_next_drain_and_no_longer(source: PlaintextSource, told: Told) -> None:
    put(source, request(1), request(2))
    source.drain()
    assert told.servers == []
    put(source, placed(1))
    source.drain()
    assert sorted(told.servers) == sorted([(REMOTE, 443), (bytes(16), 0)])
    source.drain()
    assert len(told.servers) == 2


def test_in_a_cycle_nothing_waits(source: PlaintextSource, told: Told) -> None:
    put(source, request(1))
    source.drain(counting=True)
    assert told.servers == [(bytes(16), 0)]


def test_a_session_that_ended_is_known_for_what_came_with_it(source: PlaintextSource, told: Told) -> None:
    put(source, placed(1))
    source.drain()
    put(source, request(1), placed(1, ended=1))
    source.drain()
    assert told.servers == [(REMOTE, 443)]
    put(source, request(1))
    source.drain(counting=True)
    assert told.servers[1:] == [(bytes(16), 0)]


@pytest.mark.parametrize("is_client", [True, False])
def test_frames_are_followed_and_get_their_ends(is_client: bool, source: PlaintextSource, told: Told) -> None:
    begin = len(PREFACE)
    put(
        source,
        placed(1),
        frames(1, PREFACE, 1, 1, is_write=is_client, time_ns=1000),
        frames(1, SETTINGS, 1, 1 + begin, is_write=not is_client, time_ns=2000),
        frames(1, GET, 1 + begin, 1 + len(SETTINGS), is_write=is_client, time_ns=3000),
        frames(1, OK, 1 + len(SETTINGS), 1 + begin + len(GET), is_write=not is_client, time_ns=4000),
    )
    source.drain()
    (one,) = told.requests
    local, remote = LOCAL + (PORT + 1).to_bytes(2, "big"), REMOTE + (443).to_bytes(2, "big")
    assert (one.client, one.server) == ((local, remote) if is_client else (remote, local))
    assert (one.method, one.status, one.version, one.outcome, one.is_secure) == ("GET", 200, "2", "answered", True)
    assert one.connection is not None
    assert one.connection.direction == (Direction.TRANSMIT if is_client else Direction.RECEIVE)


def test_a_request_that_nobody_answered_is_over_with_its_session(source: PlaintextSource, told: Told) -> None:
    put(
        source,
        placed(1),
        frames(1, PREFACE, 1, 1, is_write=True, time_ns=1000),
        frames(1, GET, 1 + len(PREFACE), 1, is_write=True, time_ns=3000),
    )
    source.drain()
    assert told.requests == []
    put(source, placed(1, ended=1))
    source.drain()
    (one,) = told.requests
    assert (one.status, one.outcome) == (None, "no_response")
    assert one.server != UNPLACED


def test_another_process_goes_on(source: PlaintextSource, told: Told, loaded: LoadedImage) -> None:
    put(source, placed(1), request(1))
    source.drain(counting=True)
    maps = {name: (fd, loaded.definitions[name].max_entries) for name, fd in loaded.maps.items()}
    other = PlaintextSource(maps, loaded.programs(), Config(), told)  # type: ignore[arg-type]
    other.restore(source.state())
    other._ring = Ring()  # type: ignore[assignment]
    put(other, request(1))
    other.drain()
    assert told.servers == [(REMOTE, 443)] * 2
    assert other.stages()["ring", "tls_messages"]["delivered"] == 3

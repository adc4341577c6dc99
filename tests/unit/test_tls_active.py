"""Handshakes of the agent's own: with whom, how often, what they give, and what is told when they fail."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from otel_netmon.analysis.sampling import KeepRule
from otel_netmon.analysis.tls_due import ASKED_AGAIN_SECONDS, DueServers
from otel_netmon.analysis.tls_handshakes import TlsHandshake
from otel_netmon.analysis.tls_servers import Server
from otel_netmon.config.load import load
from otel_netmon.otel import tls as told, tls_events
from otel_netmon.sources import tls_active
from otel_netmon.sources.tls import TlsSource
from otel_netmon.sources.tls_active import PAUSE_NS, ActiveCertificates
from support.tls_handshakes import ANSWER_13, CONNECTION, NOW, SECOND, handshake
from support.tls_ring import messages
from support.tls_talk import NOT_AFTER, Authority

DAY = ASKED_AGAIN_SECONDS
NAME = "secure.example"
WWW = Server("www.example", 8443)


def sealed(name: str | None = "www.example", **of_connection: Any) -> TlsHandshake:
    """A handshake of TLS 1.3: its certificate is not in the clear."""
    return handshake(answer=ANSWER_13, name=name, chain=(), connection=CONNECTION._replace(**of_connection))


# ---- who is due


def test_a_server_is_due_once_a_day() -> None:
    due = DueServers(10)
    for second in range(5):
        due.see(WWW, sealed(), NOW + second)
    found = due.next(NOW)
    assert found is not None
    assert (found.server, found.name, found.end) == (WWW, "www.example", CONNECTION.server)
    due.see(WWW, sealed(), NOW + DAY - 1)
    assert due.next(NOW + DAY - 1) is None
    due.see(WWW, sealed(), NOW + DAY)
    assert due.next(NOW + DAY) == found


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (sealed(inside=True), "starttls"),
        (sealed(namespace=3), "other_namespace"),
        (handshake("alert", answer=ANSWER_13, alert=48, chain=()), None),
        (handshake("closed", answer=None), None),
        (handshake(chain=()), None),  # TLS 1.2, resumed
    ],
)
def test_who_is_not_asked(made: TlsHandshake, reason: str | None) -> None:
    due = DueServers(10)
    for _ in range(3):
        due.see(WWW, made, NOW)
    assert due.next(NOW) is None
    assert due.counts == ({reason: 1} if reason is not None else {})


def test_the_number_of_servers_in_a_day_is_bounded() -> None:
    due = DueServers(3)
    servers = [Server(f"n{number}.example", 443) for number in range(5)]
    for server in servers * 2:
        due.see(server, sealed(server.name), NOW)
        due.next(NOW)
    assert (len(due), due.waiting, due.counts) == (3, 0, {"no_place": 2})
    due.see(servers[4], sealed(), NOW + DAY + 1)
    assert due.waiting == 1


def test_another_process_asks_nobody_again() -> None:
    due = DueServers(3)
    due.see(WWW, sealed(), NOW)
    due.next(NOW)
    after = DueServers(3)
    after.restore(due.state())
    after.see(WWW, sealed(), NOW + 1)
    assert (after.waiting, len(after)) == (0, 1)


def test_an_address_that_is_the_same_everywhere_is_asked_wherever_it_was_seen() -> None:
    due = DueServers(10)
    known = bytes(10) + b"\xff\xff" + bytes([8, 8, 4, 4]) + (443).to_bytes(2, "big")
    for number, (namespace, end) in enumerate([(3, CONNECTION.server), (3, known), (255, known)]):
        due.see(Server(f"n{number}.example", 443), sealed(namespace=namespace, server=end), NOW)
    assert (due.waiting, due.counts) == (2, {"other_namespace": 1})


# ---- what servers answer


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: NOW * SECOND)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def context(file: Path) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.set_ciphers("ALL:@SECLEVEL=0")
    made.load_cert_chain(file)
    return made


@contextmanager
def listening(serve: Callable[[socket.socket], object], family: int = socket.AF_INET) -> Iterator[bytes]:
    """A server on loopback that serves one connection; gives its end."""
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        listener.listen()

        def run() -> None:
            try:
                connection, _ = listener.accept()
            except OSError:  # nobody came
                return
            with connection:
                serve(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield end_of(listener)
        if thread.is_alive():
            with suppress(OSError):  # it may just have served
                listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def end_of(listener: socket.socket) -> bytes:
    host: str
    port: int
    host, port = listener.getsockname()[:2]
    octets = socket.inet_pton(listener.family, host)
    return (bytes(10) + b"\xff\xff" + octets if len(octets) == 4 else octets) + port.to_bytes(2, "big")


class Source:
    """The TLS source of a configuration, advanced by hand."""

    def __init__(self, *sets: str, state: dict[str, dict[str, Any]] | None = None) -> None:
        config = load(None, {}, ["probes.tls.certificate=active", *sets], {}).config
        self.tls = TlsSource(_Ring(), config, KeepRule(1.0, 1000, 10 * SECOND), NOW * SECOND)  # type: ignore[arg-type]
        if state is not None:
            self.tls.restore(state)
        self.tls.begin_cycle(100, 100)
        self.now_ns = time.monotonic_ns()
        active = self.tls.servers.active
        assert active is not None
        self.active: ActiveCertificates = active

    def take(self, *records: TlsHandshake) -> None:
        nothing = messages([])
        self.tls.take(nothing, nothing, records, self.now_ns)

    def asked(self, *records: TlsHandshake) -> dict[str, int]:
        """Asks for what these handshakes show, waits for the answer, and gives what became of all."""
        before = self.active.counts.total()
        self.take(*records)
        deadline = time.monotonic() + 30
        while self.active.counts.total() == before and time.monotonic() < deadline:
            time.sleep(0.01)
            self.take()
        self.now_ns += PAUSE_NS
        return dict(self.active.counts)


class _Ring:
    """What the source asks of who drains the ring."""

    def __init__(self) -> None:
        self.counts: Counter[object] = Counter()

    def produced(self, _: object) -> int:
        return 0

    def consumed(self, _: object) -> int:
        return 0


def shake(connection: socket.socket, made: ssl.SSLContext) -> None:
    with made.wrap_socket(connection, server_side=True) as sealed_socket:
        sealed_socket.recv(1)


def points(source: Source, metric: str) -> list[Any]:
    """Of a metric, those that were found by asking."""
    found: Any = source.tls.points(NOW * SECOND)[metric]
    return [point for point in found if point.attributes.get("netmon.tls.certificate.source") == "active"]


def expiries(source: Source) -> dict[object, float]:
    """Of servers that were asked, by name."""
    return {point.attributes["server.address"]: point.value for point in points(source, told.EXPIRY)}


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_what_a_server_shows_is_told_as_active(family: int, authority: Authority) -> None:
    asked: list[str | None] = []
    made = context(authority.issue([NAME]))
    made.sni_callback = lambda _socket, name, _context: asked.append(name)
    source = Source()
    with listening(lambda connection: shake(connection, made), family) as end:
        assert source.asked(sealed(NAME, server=end)) == {"read": 1}
    left = expiries(source)
    assert left.keys() == {NAME}
    assert asked == [NAME]
    assert abs(left[NAME] - (NOT_AFTER.timestamp() - NOW)) < 1
    assert source.tls.stages()["active", "tls_certificates"] == {"delivered": 1, "dropped": {}}
    assert source.active.status() == {"source": "active", "servers": 1, "waiting": 0, "read": 1, "unread": {}}
    assert source.tls.take_events() == []


def test_a_server_that_wants_a_certificate_shows_its_own_all_the_same(authority: Authority) -> None:
    made = context(authority.issue([NAME]))
    made.load_verify_locations(authority.file)
    made.verify_mode = ssl.CERT_REQUIRED

    def refuse(connection: socket.socket) -> None:
        with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN"):
            shake(connection, made)

    source = Source()
    with listening(refuse) as end:
        assert source.asked(sealed(NAME, server=end)) == {"read": 1}


def test_what_is_weak_or_ends_is_counted_and_told_apart_from_what_others_saw(authority: Authority) -> None:
    made = context(authority.issue(["other.example"], not_after=NOT_AFTER.replace(year=2025), rsa_bits=1024))
    source = Source()
    with listening(lambda connection: shake(connection, made)) as end:
        source.asked(sealed(NAME, server=end))
    weak = {point.attributes["netmon.tls.weakness"]: point.value for point in points(source, told.WEAK)}
    assert weak == {"small_key": 1, "wrong_name": 1, "expired": 1}
    events = [event.name for event in source.tls.take_events()]
    assert sorted(events) == [tls_events.EXPIRING_EVENT, *[tls_events.WEAK_EVENT] * 3]


def deaf(connection: socket.socket) -> None:
    connection.recv(1 << 16)
    connection.recv(1)  # until the client leaves


@pytest.mark.parametrize(
    ("serve", "failure"),
    [
        (lambda connection: connection.sendall(b"220 mx ESMTP\r\n"), "handshake_failed"),
        (lambda _: None, "handshake_failed"),
        (deaf, "timed_out"),
    ],
)
def test_failures_are_counted_and_told(
    serve: Callable[[socket.socket], object], failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_active, "DEADLINE_SECONDS", 0.5)
    source = Source()
    with listening(serve) as end:
        assert source.asked(sealed(NAME, server=end)) == {failure: 1}
    (event,) = source.tls.take_events()
    assert event.name == tls_events.UNREAD_EVENT
    assert failure in event.body
    assert source.tls.stages()["active", "tls_certificates"] == {"delivered": 0, "dropped": {failure: 1}}
    assert expiries(source) == {}


def test_who_is_not_there_or_has_no_name_that_a_hello_may_have() -> None:
    source = Source()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        assert source.asked(sealed(NAME, server=end_of(nobody))) == {"refused": 1}
        assert source.asked(sealed("a\\000b", server=end_of(nobody))) == {"refused": 1, "bad_name": 1}
        assert source.asked(sealed("x" * 64 + ".example", server=end_of(nobody)))["bad_name"] >= 1


def test_the_pipeline_waits_for_nobody_and_asks_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_active, "DEADLINE_SECONDS", 2.0)
    source = Source()
    with listening(deaf) as end:
        began = time.monotonic()
        source.take(sealed("a.example", server=end), sealed("b.example", server=end), sealed("c.example", server=end))
        for _ in range(5):
            source.now_ns += PAUSE_NS
            source.take()
        assert time.monotonic() - began < tls_active.DEADLINE_SECONDS
        assert (len(source.active.due), source.active.due.waiting) == (1, 2)


def test_handshakes_of_its_own_are_nobodys(authority: Authority) -> None:
    made = context(authority.issue([NAME]))
    ports: list[int] = []

    def serve(connection: socket.socket) -> None:
        ports.append(connection.getpeername()[1])
        shake(connection, made)

    source = Source()
    with listening(serve) as end:
        source.asked(sealed(NAME, server=end))
    client = CONNECTION.client[:16] + ports[0].to_bytes(2, "big")
    own = sealed(NAME, server=end, client=client)._replace(start_ns=time.monotonic_ns())
    long_after = own._replace(start_ns=own.start_ns + 60 * SECOND)
    other = own._replace(connection=own.connection._replace(server=CONNECTION.server))
    source.take(own, long_after, other)
    found = source.tls.stages()["decode", "tls_handshakes"]
    assert found == {"delivered": 3, "dropped": {"incomplete": 0, "not_counted": 0, "own": 1}}


def test_what_was_asked_outlives_the_process(authority: Authority) -> None:
    made = context(authority.issue([NAME]))
    source = Source()
    with listening(lambda connection: shake(connection, made)) as end:
        source.asked(sealed(NAME, server=end))
    after = Source(state=source.tls.state())
    assert expiries(after) == expiries(source) != {}
    after.take(sealed(NAME, server=end))
    assert (after.active.due.waiting, dict(after.active.counts)) == (0, {"read": 1})


def test_a_certificate_in_the_clear_needs_no_asking() -> None:
    source = Source()
    source.take(handshake(), sealed())
    assert (source.active.due.waiting, len(source.active.due)) == (0, 0)


def test_nobody_is_asked_unless_it_is_configured() -> None:
    config = load(None, {}, [], {}).config
    assert config.probes.tls.certificate == "passive"
    source = TlsSource(_Ring(), config, KeepRule(1.0, 1000, 10 * SECOND), NOW * SECOND)  # type: ignore[arg-type]
    assert source.servers.active is None

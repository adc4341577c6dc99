"""Handshakes and hellos of resolvers as points: counted apart from all others, bounded, and not lost with the process."""

from __future__ import annotations

import os
import time
from collections import Counter

from otel_netmon.analysis.dns_lookups import Seen
from otel_netmon.analysis.tls_datagrams import Carrier, DatagramHello
from otel_netmon.analysis.tls_handshakes import Outcome, TlsHandshake
from otel_netmon.checkpoint import Checkpoint
from otel_netmon.decode.tls_hello import ClientHello
from otel_netmon.otel.attributes import Value
from otel_netmon.otel.drift import problems
from otel_netmon.otel.points import HistogramSeries, Snapshot
from otel_netmon.sources.dns_encrypted import HANDSHAKES, HELLOS, RESOLVERS_MAX, EncryptedLookups
from support.rows import address
from support.tls_handshakes import CONNECTION, handshake

START = time.time_ns()
Attributes = frozenset[tuple[str, Value]]


def end(number: int, port: int) -> bytes:
    return address(f"198.51.100.{number}") + port.to_bytes(2, "big")


def with_server(number: int, port: int, name: str | None = None, error: int | None = None) -> TlsHandshake:
    connection = CONNECTION._replace(server=end(number, port))
    outcome: Outcome = "established" if error is None else "alert"
    return handshake(outcome, name=name, connection=connection, alert=error, milliseconds=250)


def hello(number: int, port: int, *alpn: str, carrier: Carrier = "quic", name: str | None = None) -> DatagramHello:
    seen = Seen(0, 1, 1, 0, 0, end(99, 40_000), end(number, port))
    return DatagramHello(carrier, seen, ClientHello(0x0303, b"", (), server_name=name, alpn=alpn), 1, 0)


def attributes(transport: str, number: int, port: int, error: str | None = None) -> Attributes:
    found: dict[str, Value] = {
        "netmon.dns.encrypted.transport": transport,
        "server.address": f"198.51.100.{number}",
        "server.port": port,
    }
    return frozenset((found if error is None else found | {"error.type": error}).items())


def handshakes(source: EncryptedLookups) -> tuple[Counter[Attributes], float]:
    """How many by attributes, and the sum of their times."""
    points = source.points()
    assert problems(Snapshot(time.time_ns(), points)) == []
    series = points[HANDSHAKES]
    assert isinstance(series, HistogramSeries)
    sets = [frozenset(each.items()) for each in series.attributes]
    return Counter(dict(zip(sets, series.count.tolist(), strict=True))), float(series.sum.sum())


def hellos(source: EncryptedLookups) -> dict[Attributes, object]:
    points = source.points()[HELLOS]
    assert not isinstance(points, HistogramSeries)
    return {frozenset(point.attributes.items()): point.value for point in points}


def test_only_those_with_resolvers_count() -> None:
    source = EncryptedLookups(["DNS.Example."], START)
    source.take_handshakes(
        [
            *[with_server(1, 853)] * 3,
            with_server(1, 853, error=42),
            *[with_server(2, 443, "doh.dns.example")] * 2,
            with_server(2, 443, "www.example"),
            with_server(2, 443),
        ]
    )
    found, seconds = handshakes(source)
    assert found == {
        attributes("dot", 1, 853): 3,
        attributes("dot", 1, 853, "bad_certificate"): 1,
        attributes("doh", 2, 443): 2,
    }
    assert seconds == 6 * 0.25
    source.take_hellos(
        [
            *[hello(3, 853, "doq")] * 5,
            hello(3, 853, "doq", carrier="dtls"),
            *[hello(4, 443, "h3", name="dns.example")] * 2,
            hello(4, 443, "h3", name="www.example"),
        ]
    )
    assert hellos(source) == {attributes("doq", 3, 853): 5, attributes("doh", 4, 443): 2}


def test_both_are_bounded_and_nothing_is_lost() -> None:
    source = EncryptedLookups([], START)
    many = RESOLVERS_MAX + 37
    source.take_hellos([hello(number, 853) for number in range(many)] * 2)
    source.take_handshakes([with_server(number, 853) for number in range(many)])
    rest = frozenset({"otel.metric.overflow": True}.items())
    assert hellos(source)[rest] == 2 * 37
    assert len(hellos(source)) == RESOLVERS_MAX + 1
    found, _ = handshakes(source)
    assert found[rest] == 37
    assert found.total() == many


def test_another_process_goes_on() -> None:
    source = EncryptedLookups([], START)
    source.take_handshakes([with_server(1, 853)] * 3)
    source.take_hellos([hello(number, 853) for number in range(RESOLVERS_MAX + 2)])
    fds = [os.memfd_create(f"test-{turn}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING) for turn in range(2)]
    try:
        Checkpoint(fds).save(source.state())
        saved = Checkpoint(fds).load()
    finally:
        for fd in fds:
            os.close(fd)
    assert saved is not None
    other = EncryptedLookups([], START)
    other.restore(saved)
    assert handshakes(other) == handshakes(source)
    assert hellos(other) == hellos(source)
    other.take_handshakes([with_server(1, 853), with_server(2, 853)])
    other.take_hellos([hello(0, 853), hello(200, 853)])
    assert handshakes(other)[0] == {attributes("dot", 1, 853): 4, attributes("dot", 2, 853): 1}
    assert hellos(other)[attributes("doq", 0, 853)] == 2
    assert hellos(other)[frozenset({"otel.metric.overflow": True}.items())] == 3

"""Hellos of QUIC and DTLS: one a client, whatever the datagrams."""

from __future__ import annotations

import numpy as np

from otel_netmon.abi import layout
from otel_netmon.abi.enums import MessageKind
from otel_netmon.analysis.dns_lookups import Seen
from otel_netmon.analysis.tls_datagrams import CLIENTS_MAX, DatagramHello, DatagramHellos, datagrams
from otel_netmon.decode.quic import VERSION_1
from otel_netmon.readers.messages import Messages
from support import dtls_datagrams as d, quic_packets as q, tls_messages as t
from support.tcp_talk import CLIENT, SERVER

QUIC_HELLO = t.handshake(
    t.CLIENT_HELLO,
    t.client_hello([0x1301], [t.server_name(b"quic.example"), t.alpn(b"h3"), t.supported_versions(t.TLS13)]),
)


def seen(number: int = 0, *, back: bool = False) -> Seen:
    client = CLIENT[:16] + (50_000 + number % 10_000).to_bytes(2, "big")
    server = SERVER[:16] + (443 + number // 10_000).to_bytes(2, "big")
    return Seen(0, 1, 0, 0, 0, *((server, client) if back else (client, server)))


def fed(hellos: DatagramHellos, *given: tuple[Seen, bytes]) -> list[DatagramHello]:
    found = [hellos.feed(where, data, at) for at, (where, data) in enumerate(given)]
    return [each for each in found if each is not None]


def test_a_hello_of_quic_counts_once() -> None:
    hellos = DatagramHellos()
    first, second = (q.initial(q.crypto(0, QUIC_HELLO), b"connection", number) for number in (0, 1))
    server = q.initial(q.crypto(0, b"\x02\0\0\x01x"), b"another id", 0, keys_of=b"secret")
    (made,) = fed(hellos, (seen(), first), (seen(), second), (seen(back=True), server))
    assert (made.carrier, made.quic_version, made.time_ns) == ("quic", VERSION_1, 0)
    assert (made.hello.server_name, made.hello.alpn) == ("quic.example", ("h3",))
    assert made.seen == seen()
    assert hellos.counts == {"hello": 1, "again": 2}


def test_a_hello_over_datagrams_in_any_order() -> None:
    hellos = DatagramHellos()
    parts = [
        q.initial(q.crypto(60, QUIC_HELLO[60:]), b"connection", 0, q.V2),
        q.initial(q.crypto(0, QUIC_HELLO[:60]), b"the server's id", 1, q.V2, keys_of=b"connection"),
    ]
    (made,) = fed(hellos, *((seen(), part) for part in parts))
    assert made.hello.server_name == "quic.example"
    assert hellos.counts == {"part": 1, "hello": 1}


def test_a_retry_changes_the_keys() -> None:
    hellos = DatagramHellos()
    first = q.initial(q.crypto(0, QUIC_HELLO[:60]), b"connection")
    again = q.initial(q.crypto(0, QUIC_HELLO), b"of the retry", token=b"token")
    (made,) = fed(hellos, (seen(), first), (seen(), again))
    assert made.hello.server_name == "quic.example"


def test_a_hello_of_dtls_counts_once_with_its_cookie_or_without() -> None:
    hellos = DatagramHellos()
    (made,) = fed(hellos, (seen(), d.hello(b"media.example")), (seen(), d.hello(b"media.example", 1)))
    assert (made.carrier, made.hello.server_name, made.quic_version) == ("dtls", "media.example", 0)
    assert hellos.counts == {"hello": 1, "again": 1}


def test_what_cannot_be_read_is_counted() -> None:
    hellos = DatagramHellos()
    sealed = q.initial(q.crypto(0, QUIC_HELLO), b"connection", keys_of=b"other")
    no_hello = q.initial(q.crypto(0, b"\x02\0\0\x01x"), b"connection")
    broken = q.initial(q.crypto(0, b"\x01\0\0\x01x"), b"connection")
    given = [sealed, no_hello, broken, b"nothing", d.record(b"short")]
    assert fed(hellos, *((seen(number), data) for number, data in enumerate(given))) == []
    assert hellos.counts == {"sealed": 1, "unreadable": 4}


def test_clients_are_bounded() -> None:
    hellos = DatagramHellos()
    part = q.initial(q.crypto(0, QUIC_HELLO[:60]), b"connection")
    for number in range(CLIENTS_MAX + 23):
        hellos.feed(seen(number), part, number)
    assert (len(hellos), hellos.counts["evicted"]) == (CLIENTS_MAX, 23)
    for _ in range(100):
        hellos.feed(seen(CLIENTS_MAX), part, 0)
    assert hellos.counts["again"] > 60


def test_datagrams_among_messages() -> None:
    kinds = [MessageKind.STREAM, MessageKind.QUIC, MessageKind.DTLS]
    heads = np.zeros(3, layout.MESSAGE)
    heads["kind"], heads["captured_length"], heads["time_ns"] = kinds, [3, 4, 5], [7, 8, 9]
    heads["source_port"], heads["destination_port"], heads["namespace"], heads["ifindex"] = 50_000, 443, 3, 9
    messages = Messages(heads, b"abcdefghijkl", np.array([0, 3, 7]))
    found = list(datagrams(messages))
    assert [(time_ns, data) for _, time_ns, data in found] == [(8, b"defg"), (9, b"hijkl")]
    assert found[0][0] == Seen(3, 9, 0, 0, 0, bytes(16) + b"\xc3\x50", bytes(16) + b"\x01\xbb")

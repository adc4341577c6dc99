"""TLS handshakes to points of netmon.tls.*, spans and events.

Names: OpenTelemetry semantic conventions for TLS (``tls.*``); what they do not have is ``netmon.tls.*``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from otel_netmon.analysis.connection_index import TCP, ends_between
from otel_netmon.analysis.sampling import KeepRule
from otel_netmon.analysis.series import SeriesReading
from otel_netmon.analysis.series_family import DistributionReading
from otel_netmon.analysis.tls_datagrams import DatagramHello
from otel_netmon.analysis.tls_handshakes import TlsHandshake
from otel_netmon.analysis.tls_series import (
    NO_ERROR,
    RESUMED_UNKNOWN,
    error_number,
    error_text,
    lasted_ns,
)
from otel_netmon.analysis.tls_servers import Server, ServerCertificate
from otel_netmon.analysis.tls_weak import Weakness
from otel_netmon.decode.tls_ciphers import cipher_name
from otel_netmon.decode.tls_numbers import SSL3, group_name
from otel_netmon.enrich.addresses import address_text
from otel_netmon.otel.attributes import AttributeSet, Tag, Value, encode
from otel_netmon.otel.histograms import histogram_series
from otel_netmon.otel.kept_spans import KeptSpans, kept_roots
from otel_netmon.otel.points import HistogramSeries, NumberSeries, Point
from otel_netmon.otel.series_sets import OVERFLOW, SeriesSets
from otel_netmon.otel.spans import Sought, SpanKind
from otel_netmon.otel.tls_events import ASKED_FOR, certificate_attributes, version_text

DURATION = "netmon.tls.handshake.duration"
EXPIRY = "netmon.tls.certificate.expiry"
WEAK = "netmon.tls.weak"
HELLOS = "netmon.tls.datagram_hellos"
SPAN_NAME = "TLS handshake"
CARRIERS = ("quic", "dtls")


def server_at(end: bytes) -> Server:
    """A server without a name, by its address and port, 18 octets."""
    return Server(address_text(end[:16]), int.from_bytes(end[16:], "big"))


def server_of(handshake: TlsHandshake) -> Server:
    """The name that the client asked for, in lower case, without one the address that it asked; and the port."""
    end = handshake.connection.server
    name = handshake.server_name
    text = address_text(end[:16]) if name is None else name.lower().rstrip(".") or "."
    return Server(text, int.from_bytes(end[16:], "big"))


def hello_server(hello: DatagramHello) -> str:
    """The name that a client asked for, in lower case, without one the address."""
    name = hello.hello.server_name
    return address_text(hello.seen.destination[:16]) if name is None else name.lower().rstrip(".") or "."


class TlsPoints:
    """Makes the points of each cycle."""

    def __init__(self) -> None:
        self._sets = SeriesSets(OVERFLOW)

    def durations(self, handshakes: DistributionReading) -> dict[str, HistogramSeries]:
        """Gives netmon.tls.handshake.duration: the overflow point, then each series."""
        sets = self._sets.of(handshakes.series, lambda identity: _series_attributes(identity, handshakes.names))
        return {DURATION: histogram_series(handshakes.distributions[0], sets, handshakes.series.starts_ns)}


def expiry_points(
    certificates: Iterable[tuple[Server, ServerCertificate]], now_seconds: float, start_ns: int
) -> dict[str, list[Point]]:
    """Gives netmon.tls.certificate.expiry: the time left, below zero of one that has ended."""
    return {
        EXPIRY: [
            Point(
                {
                    "server.address": server.name,
                    "server.port": server.port,
                    "tls.server.issuer": last.certificate.issuer,
                    **(ASKED_FOR if last.is_asked_for else {}),
                },
                last.certificate.not_after - now_seconds,
                start_ns,
            )
            for server, last in certificates
        ]
    }


def weak_points(
    counts: Mapping[Weakness, int], asked_for: Mapping[Weakness, int], start_ns: int
) -> dict[str, list[Point]]:
    """Gives netmon.tls.weak, of every kind, and of those found by handshakes of the agent's own."""
    points = [Point({"netmon.tls.weakness": kind.value}, counts.get(kind, 0), start_ns) for kind in Weakness]
    for kind, many in asked_for.items():
        points.append(Point({"netmon.tls.weakness": kind.value, **ASKED_FOR}, many, start_ns))
    return {WEAK: points}


def hello_points(series: SeriesReading, names: Mapping[int, str]) -> dict[str, NumberSeries]:
    """Gives netmon.tls.datagram_hellos: an overflow point for each protocol, then each series."""
    sets = [AttributeSet.of({"network.protocol.name": carrier, **OVERFLOW}) for carrier in CARRIERS]
    for server, carrier, *_ in series.keys.tolist():
        sets.append(AttributeSet.of({"network.protocol.name": CARRIERS[carrier], "server.address": names[server]}))
    return {
        HELLOS: NumberSeries(
            sets, series.starts_ns, np.concatenate([series.rest[:, 0], series.values[0]]).astype(np.int64)
        )
    }


def _series_attributes(identity: tuple[Any, ...], names: Mapping[str, Mapping[int, str]]) -> dict[str, Value]:
    server, protocol, version, cipher, error, answered, resumed = identity
    attributes: dict[str, Value] = {"server.address": names["server"][server]}
    if answered:
        attributes["tls.protocol.version"] = version_text(version)
        attributes["tls.cipher"] = cipher_name(cipher)
    if protocol:
        attributes["tls.next_protocol"] = names["protocol"][protocol]
    if resumed != RESUMED_UNKNOWN:
        attributes["tls.resumed"] = bool(resumed)
    if error != NO_ERROR:
        attributes["error.type"] = error_text(error)
    return attributes


def tls_spans(
    handshakes: Sequence[TlsHandshake],
    servers: Sequence[Server],
    weak: Sequence[tuple[Weakness, ...]],
    rule: KeepRule,
    unix_offset_ns: int,
    now_ns: int,
) -> KeptSpans:
    """Gives a span for each handshake that the rule keeps, of whichever side is known: it is as much the server's as the client's.

    Args:
        servers, weak: of each handshake.
        unix_offset_ns: what makes Unix time of the handshakes' clock.
        now_ns: the handshakes' clock.
    """
    error_numbers = [error_number(each) for each in handshakes]
    durations = np.array([lasted_ns(each) for each in handshakes], np.int64)
    errors = np.array(error_numbers, np.int64) != NO_ERROR
    kinds = [
        ("tls", server, None if each.answer is None else each.answer.version, error)
        for each, server, error in zip(handshakes, servers, error_numbers, strict=True)
    ]
    roots = kept_roots(rule, kinds, durations, errors, now_ns)
    chosen = [(handshakes[at], servers[at], weak[at], error_numbers[at]) for at in roots.places.tolist()]
    begun = np.array([each.start_ns for each, *_ in chosen], np.int64)
    start = (begun + unix_offset_ns).astype(np.uint64)
    connections = [each.connection for each, *_ in chosen]
    ends = ends_between([each.client for each in connections], [each.server for each in connections], TCP)
    batch = roots.batch(
        names=[SPAN_NAME] * len(chosen),
        kinds=np.full(len(chosen), SpanKind.CLIENT, np.uint8),
        start_ns=start,
        end_ns=start + durations[roots.places].astype(np.uint64),
        attributes=[encode(_span_attributes(*each), Tag.SPAN) for each in chosen],
        messages=[_message(each, error) if error != NO_ERROR else "" for each, _, _, error in chosen],
    )
    return KeptSpans(Sought(batch, ends, begun, either_side=True), roots.places)


def _message(handshake: TlsHandshake, error: int) -> str:
    who = "client" if handshake.failed_by_client else "server"
    texts = {
        "closed": f"the {who} closed the connection",
        "reset": f"the {who} reset the connection",
        "not_tls": f"the {who} does not speak TLS",
        "timed_out": f"the {who} did not answer in time",
    }
    return texts.get(handshake.outcome) or f"alert of the {who}: {error_text(error)}"


def _span_attributes(
    handshake: TlsHandshake, server: Server, weak: tuple[Weakness, ...], error: int
) -> dict[str, Value]:
    client, answer, hello = handshake.connection.client, handshake.answer, handshake.hello
    attributes: dict[str, Value | None] = {
        "server.address": server.name,
        "server.port": server.port,
        "client.address": address_text(client[:16]),
        "client.port": int.from_bytes(client[16:], "big"),
        "network.peer.address": address_text(handshake.connection.server[:16]),
        "network.transport": "tcp",
        "tls.established": handshake.outcome == "established",
        "tls.resumed": handshake.resumed,
        "tls.client.ja3": handshake.ja3,
        "netmon.tls.client.ja4": handshake.ja4,
        "netmon.tls.client.version": version_text(hello.version),
        "netmon.tls.client.next_protocols": ",".join(hello.alpn)[:256] or None,
        "tls.server.ja3s": handshake.ja3s,
        "tls.curve": None if handshake.group is None else group_name(handshake.group),
        "netmon.tls.retried": handshake.retried or None,
        "netmon.tls.early_data": hello.has_early_data or None,
        "netmon.tls.certificate.requested": handshake.asked_for_certificate or None,
        "netmon.tls.client.certificates": handshake.client_certificates,
        "netmon.tls.server.certificates": handshake.chain_length or None,
        "netmon.tls.server.flight": _seconds(handshake.server_flight_ns),
        "netmon.tls.client.flight": _seconds(handshake.client_flight_ns),
        "netmon.tls.weaknesses": ",".join(weak) or None,
    }
    if answer is not None:
        attributes["tls.protocol.name"] = "ssl" if answer.version <= SSL3 else "tls"
        attributes["tls.protocol.version"] = version_text(answer.version)
        attributes["tls.cipher"] = cipher_name(answer.cipher)
        attributes["tls.next_protocol"] = answer.alpn
    if handshake.leaf is not None:
        attributes |= certificate_attributes(handshake.leaf)
    if error != NO_ERROR:
        attributes["error.type"] = error_text(error)
        attributes["netmon.tls.failed_by"] = "client" if handshake.failed_by_client else "server"
    return {key: value for key, value in attributes.items() if value is not None}


def _seconds(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e9

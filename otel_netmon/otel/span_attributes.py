"""The attributes of spans that the semantic conventions do not have, defined once: ``docs/metrics.md`` and a test come from here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

DNS, TLS, TCP, REQUEST = "DNS lookup", "TLS handshake", "TCP", "HTTP, gRPC"


@dataclass(frozen=True, slots=True)
class SpanAttribute:
    """An attribute key of spans: on which ones it is, the type of its values, and what they mean; times are in seconds."""

    spans: str
    type: type[str | int | float | bool]
    description: str


_FIRST = "On the first request of a connection, where it was seen and the request followed within a second."

SPAN_ATTRIBUTES: Mapping[str, SpanAttribute] = MappingProxyType(
    {
        "netmon.http.time.dns": SpanAttribute(
            REQUEST,
            float,
            "Time for the name of the server, before the span begins: from the first query to the last answer of the lookups by which "
            "the process of the client had the server's address, within a second before it connected; both types of address, a search "
            f"list and servers that did not answer included. {_FIRST} On CLIENT spans.",
        ),
        "netmon.http.time.connect": SpanAttribute(
            REQUEST,
            float,
            f"Time of the TCP handshake, before the span begins, as netmon.tcp.handshake.duration of this end. {_FIRST}",
        ),
        "netmon.http.time.tls": SpanAttribute(
            REQUEST,
            float,
            f"Time of the handshake of TLS, before the span begins, as netmon.tls.handshake.duration, of requests whose plaintext is seen. "
            f"{_FIRST}",
        ),
        "netmon.http.time.sending": SpanAttribute(
            REQUEST, float, "Time from the first octet of the request to its last one, body included."
        ),
        "netmon.http.time.waiting": SpanAttribute(
            REQUEST,
            float,
            "Time from the last octet of the request to the first one of the response; without a response until its outcome was there.",
        ),
        "netmon.http.time.receiving": SpanAttribute(
            REQUEST, float, "Time from the first octet of the response, once the request was sent, to the last one."
        ),
        "netmon.http.time.total": SpanAttribute(
            REQUEST,
            float,
            "The whole time as whoever asked has waited: the sum of all netmon.http.time parts that the span has. The share of a part is "
            "the part divided by this. sending, waiting and receiving alone are the duration of the span.",
        ),
        "netmon.http.time.longest": SpanAttribute(
            REQUEST,
            str,
            "The part that took most of the time: `dns`, `connect`, `tls`, `sending`, `waiting` or `receiving`.",
        ),
        "netmon.http.retransmits": SpanAttribute(
            REQUEST,
            int,
            "Segments that this end of the connection sent again from the reading of connections before the request to the one after "
            "it, or since the connection began where the request took longer than from one reading to the next: at least those of the "
            "request, none where it is 0. Where the connection is known.",
        ),
        "netmon.http.out_of_order": SpanAttribute(
            REQUEST,
            int,
            "Segments that came to this end before one that precedes them, what is lost on the way shows so; counted likewise.",
        ),
        "netmon.http.upgrade": SpanAttribute(REQUEST, str, "The protocol that the connection went over to."),
        "netmon.http.unknown": SpanAttribute(
            REQUEST,
            str,
            "What was sent and could not be known, as the connection was joined in the middle or octets were lost.",
        ),
        "netmon.dns.answer.count": SpanAttribute(DNS, int, "Records in the answer."),
        "netmon.dns.retries": SpanAttribute(DNS, int, "Copies of the query after the first one."),
        "netmon.dns.truncated": SpanAttribute(DNS, bool, "The answer did not fit."),
        "netmon.tls.client.ja4": SpanAttribute(TLS, str, "JA4 of the client's hello."),
        "netmon.tls.client.version": SpanAttribute(TLS, str, "The highest version that the client offers."),
        "netmon.tls.client.next_protocols": SpanAttribute(TLS, str, "The protocols that the client offers (ALPN)."),
        "netmon.tls.retried": SpanAttribute(TLS, bool, "The server asked for another hello (HelloRetryRequest)."),
        "netmon.tls.early_data": SpanAttribute(TLS, bool, "The client sent early data."),
        "netmon.tls.certificate.requested": SpanAttribute(TLS, bool, "The server asked the client for a certificate."),
        "netmon.tls.client.certificates": SpanAttribute(TLS, int, "Certificates that the client sent."),
        "netmon.tls.server.certificates": SpanAttribute(TLS, int, "Certificates that the server sent."),
        "netmon.tls.server.flight": SpanAttribute(TLS, float, "Time from the client's hello to the server's answer."),
        "netmon.tls.client.flight": SpanAttribute(
            TLS, float, "Time from the server's answer to what the client says next."
        ),
        "netmon.tls.weaknesses": SpanAttribute(TLS, str, "What is weak, see netmon.tls.weakness."),
        "netmon.tls.failed_by": SpanAttribute(TLS, str, "Who ended a handshake that failed: `client` or `server`."),
        "netmon.tcp.ending": SpanAttribute(TCP, str, "How the connection ended."),
        "netmon.tcp.handshake.duration": SpanAttribute(TCP, float, "Time of the handshake."),
        "netmon.tcp.io.receive": SpanAttribute(TCP, int, "Octets of payload that came in."),
        "netmon.tcp.io.transmit": SpanAttribute(TCP, int, "Octets of payload that went out."),
        "netmon.tcp.retransmits": SpanAttribute(TCP, int, "Segments that this end sent again."),
        "netmon.tcp.retransmits.syn": SpanAttribute(TCP, int, "SYNs among them."),
        "netmon.tcp.zero_windows.receive": SpanAttribute(
            TCP, int, "Segments by which the other end said that it has no room."
        ),
        "netmon.tcp.zero_windows.transmit": SpanAttribute(TCP, int, "Segments by which this end said so."),
        "netmon.tcp.out_of_order": SpanAttribute(TCP, int, "Segments that came before one that precedes them."),
        "netmon.tcp.rtt.min": SpanAttribute(TCP, float, "Smallest round-trip time."),
        "netmon.tcp.rtt.max": SpanAttribute(TCP, float, "Largest round-trip time."),
        "netmon.tcp.rtt.mean": SpanAttribute(TCP, float, "Mean of the round-trip times."),
        "netmon.tcp.rtt.last": SpanAttribute(TCP, float, "Last round-trip time."),
        "netmon.icmp.type": SpanAttribute(TCP, int, "ICMP type of the error that ended a connect."),
        "netmon.icmp.code": SpanAttribute(TCP, int, "Its code."),
    }
)
"""Beside them spans have attributes of ``catalogue.ATTRIBUTES`` and of the semantic conventions."""

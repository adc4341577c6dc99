"""The DNS lookups of a capture, as ``replay --output json`` prints them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from otel_netmon.abi.enums import MessageCount
from otel_netmon.analysis.dns import DnsAnalysis
from otel_netmon.analysis.dns_lookups import Lookup
from otel_netmon.decode.dns_numbers import rcode_name
from otel_netmon.enrich.addresses import address_text
from otel_netmon.readers.messages import NO_QUERIES, Messages, OpenQueries

NEVER_NS = 1 << 61  # a timeout that no capture is long enough for: a question is open to the end of the file

_OUT_OF_USE = frozenset((3, 4, 7, 8, 9, 10, 11, 14))
"""MD to WKS and MINFO of RFC 1035: obsolete, experimental or advised against (RFC 1123, section 2.2) for decades. Most
tools have forgotten their names, so they are told as unknown types are (RFC 3597), whom a reader can look up."""

_NO_DNS = {
    MessageCount.NOT_DNS_SHORT: "short",
    MessageCount.NOT_DNS_HEADER: "header",
    MessageCount.NOT_DNS_QUESTION: "question",
}
_LOST = {
    MessageCount.LOST_RING: "ring_full",
    MessageCount.LOST_CACHE: "cache_full",
    MessageCount.STREAM_LOST_RING: "streams_ring_full",
}


class DnsReplay:
    """Lookups of one capture: every interface of it is one, and every packet counts."""

    def __init__(self) -> None:
        self._analysis = DnsAnalysis(NEVER_NS, lambda *_: True)
        self._lookups: list[Lookup] = []

    def take(self, messages: Messages, time_ns: int) -> None:
        """Takes records of the ring; time_ns is the capture's."""
        self._lookups += self._analysis.update(messages, NO_QUERIES, time_ns).lookups

    def finish(self, open_queries: OpenQueries) -> list[dict[str, Any]]:
        """Gives every lookup in the order of the queries; those that are open have timed out."""
        self._lookups += self._analysis.finish(open_queries).lookups
        lookups = [lookup for lookup in self._lookups if lookup.protocol == "dns"]
        return [_entry(lookup) for lookup in sorted(lookups, key=lambda each: each.start_ns)]

    def unparsed(self, counts: dict[MessageCount, int]) -> dict[str, int]:
        """Gives what is on the ports of DNS and is none, or cannot be read, by reason; counts are the kernel's."""
        reasons: Counter[str] = Counter(self._analysis.unparsed)
        reasons.update({reason: counts[what] for what, reason in _NO_DNS.items()})
        return dict(sorted((+reasons).items()))


def lost(counts: dict[MessageCount, int]) -> dict[str, int]:
    """Gives the records and queries that were lost, by reason."""
    return {reason: counts[what] for what, reason in _LOST.items() if counts[what]}


def _type(lookup: Lookup) -> int | None:
    return lookup.questions[0].type if lookup.questions else None


def _entry(lookup: Lookup) -> dict[str, Any]:
    return {
        "client": address_text(lookup.client[:16]),
        "client_port": int.from_bytes(lookup.client[16:], "big"),
        "server": address_text(lookup.server[:16]),
        "server_port": int.from_bytes(lookup.server[16:], "big"),
        "transport": lookup.transport,
        "id": lookup.id,
        "qname": lookup.name,
        "qtype": f"TYPE{kind}" if (kind := _type(lookup)) in _OUT_OF_USE else lookup.type_name,
        "rcode": None if lookup.header_rcode is None else rcode_name(lookup.header_rcode),
        "answers": lookup.answer_count,
        "duration_ms": None if lookup.duration_ns is None else lookup.duration_ns / 1e6,
        "retries": lookup.retries,
        "outcome": lookup.outcome,
    }

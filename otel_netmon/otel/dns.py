"""DNS lookups to points of dns.lookup.duration and netmon.dns.*, and to spans.

Names: OpenTelemetry semantic conventions for DNS; what they do not have is ``netmon.dns.*``.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from otel_netmon.analysis.connection_index import TCP, UDP, ends_between
from otel_netmon.analysis.dns_answers import AnsweredLookups
from otel_netmon.analysis.dns_lookups import Lookup
from otel_netmon.analysis.dns_series import NO_RESPONSE, TRANSPORTS
from otel_netmon.analysis.sampling import KeepRule
from otel_netmon.analysis.series_family import DistributionReading
from otel_netmon.decode import dns_numbers
from otel_netmon.enrich.addresses import address_text
from otel_netmon.otel.attributes import Tag, Value, encode, encode_one
from otel_netmon.otel.histograms import histogram_series
from otel_netmon.otel.kept_spans import KeptSpans, kept_roots
from otel_netmon.otel.points import HistogramSeries
from otel_netmon.otel.series_sets import OVERFLOW, SeriesSets
from otel_netmon.otel.spans import Sought, SpanKind

DURATION = "dns.lookup.duration"
SPAN_NAME = "DNS lookup"
TIMEOUT = "timeout"

_HARMLESS = frozenset((dns_numbers.NOERROR, dns_numbers.NXDOMAIN))


class DnsPoints:
    """Makes the points of each cycle."""

    def __init__(self) -> None:
        self._sets = SeriesSets(OVERFLOW)

    def points(self, lookups: DistributionReading) -> dict[str, HistogramSeries]:
        """Gives dns.lookup.duration: the overflow point, then each series."""
        sets = self._sets.of(lookups.series, lambda identity: _series_attributes(identity, lookups.names["name"]))
        return {DURATION: histogram_series(lookups.distributions[0], sets, lookups.series.starts_ns)}


def _series_attributes(identity: tuple[Any, ...], names: Mapping[int, str]) -> dict[str, Value]:
    server, name, question_type, code, transport, *_ = identity
    attributes: dict[str, Value] = {
        "dns.question.name": names[name],
        "netmon.dns.question.type": dns_numbers.type_name(question_type),
        "server.address": address_text(bytes(server)),
        "network.transport": TRANSPORTS[transport],
    }
    if code == NO_RESPONSE:
        attributes["error.type"] = TIMEOUT
    else:
        attributes["netmon.dns.response.code"] = dns_numbers.rcode_name(code)
        if code not in _HARMLESS:
            attributes["error.type"] = dns_numbers.rcode_name(code)
    return attributes


def dns_spans(
    answered: AnsweredLookups,
    others: Sequence[Lookup],
    rule: KeepRule,
    unix_offset_ns: int,
    timeout_ns: int,
    now_ns: int,
) -> KeptSpans:
    """Gives a span for each lookup that the rule keeps.

    Args:
        answered, others: the lookups, numbered in this order.
        unix_offset_ns: what makes Unix time of the lookups' clock.
        timeout_ns: how long a lookup without an answer lasted.
        now_ns: the lookups' clock.
    """
    codes = np.empty(answered.number + len(others), np.int64)
    durations = np.empty(len(codes), np.int64)
    codes[: answered.number], durations[: answered.number] = answered.column("code"), answered.durations_ns
    codes[answered.number :] = [NO_RESPONSE if each.rcode is None else each.rcode for each in others]
    durations[answered.number :] = [timeout_ns if each.duration_ns is None else each.duration_ns for each in others]
    errors = (codes != dns_numbers.NOERROR) & (codes != dns_numbers.NXDOMAIN)
    roots = kept_roots(rule, codes, durations, errors, now_ns)
    chosen = [
        answered.lookup(at) if at < answered.number else others[at - answered.number] for at in roots.places.tolist()
    ]
    begun = np.array([each.start_ns for each in chosen], np.int64)
    start = (begun + unix_offset_ns).astype(np.uint64)
    protocols = np.array([TCP if each.transport == "tcp" else UDP for each in chosen], np.uint32)
    ends = ends_between([each.client for each in chosen], [each.server for each in chosen], protocols)
    batch = roots.batch(
        names=[SPAN_NAME] * len(chosen),
        kinds=np.full(len(chosen), SpanKind.CLIENT, np.uint8),
        start_ns=start,
        end_ns=start + durations[roots.places].astype(np.uint64),
        attributes=[_span_attributes(each) for each in chosen],
        messages=[_message(each) if bad else "" for each, bad in zip(chosen, roots.failed.tolist(), strict=True)],
    )
    return KeptSpans(Sought(batch, ends, begun), roots.places)


def _message(lookup: Lookup) -> str:
    return "no answer" if lookup.rcode is None else dns_numbers.rcode_name(lookup.rcode)


def _span_attributes(lookup: Lookup) -> bytes:
    client = lookup.client
    parts = [
        _asked(lookup.name, lookup.type_name),
        _between(client[:16], lookup.server, lookup.transport, lookup.protocol),
        _outcome(lookup.rcode),
        encode_one("client.port", int.from_bytes(client[16:], "big"), Tag.SPAN),
        encode_one("netmon.dns.answer.count", lookup.answer_count, Tag.SPAN),
    ]
    if lookup.retries:
        parts.append(encode_one("netmon.dns.retries", lookup.retries, Tag.SPAN))
    if lookup.truncated:
        parts.append(encode_one("netmon.dns.truncated", True, Tag.SPAN))
    return b"".join(parts)


@functools.lru_cache(512)
def _asked(name: str, type_name: str) -> bytes:
    return encode({"dns.question.name": name, "netmon.dns.question.type": type_name}, Tag.SPAN)


@functools.lru_cache(256)
def _between(client_address: bytes, server: bytes, transport: str, protocol: str) -> bytes:
    attributes: dict[str, Value] = {
        "client.address": address_text(client_address),
        "server.address": address_text(server[:16]),
        "server.port": int.from_bytes(server[16:], "big"),
        "network.transport": transport,
        "network.protocol.name": protocol,
    }
    return encode(attributes, Tag.SPAN)


@functools.lru_cache(64)
def _outcome(rcode: int | None) -> bytes:
    if rcode is None:
        return encode_one("error.type", TIMEOUT, Tag.SPAN)
    code = dns_numbers.rcode_name(rcode)
    attributes: dict[str, Value] = {"netmon.dns.response.code": code}
    if rcode not in _HARMLESS:
        attributes["error.type"] = code
    return encode(attributes, Tag.SPAN)

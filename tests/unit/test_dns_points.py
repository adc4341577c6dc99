"""Lookups as points and spans: names, attributes, statuses, and what a span says of how it was kept."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from otel_netmon.analysis.dns import DnsAnalysis, Result
from otel_netmon.analysis.dns_names import NameFolding
from otel_netmon.analysis.dns_series import DnsSeries
from otel_netmon.analysis.sampling import KeepRule, Reason
from otel_netmon.otel.attributes import AttributeSet, Tag, encode
from otel_netmon.otel.dns import DURATION, DnsPoints, dns_spans
from otel_netmon.otel.kept_spans import KeptSpans
from otel_netmon.otel.spans import SpanKind, StatusCode
from support import dns_messages as d
from support.dns_events import (
    CLIENT,
    MS,
    PORT,
    SECOND,
    SERVER,
    TcpConnection,
    answer,
    messages,
    open_queries,
    open_query,
    prefixed,
)

T = 100 * SECOND
UNIX = 1_700_000_000 * SECOND
TIMEOUT = 5 * SECOND


def result(*records: bytes, expired: object = ()) -> Result:
    analysis = DnsAnalysis(TIMEOUT, lambda *_: True)
    return analysis.update(messages(*records), open_queries(*expired), T)  # type: ignore[misc] # rows


def reply(identifier: int, name: str, rcode: int = 0, *answers: str, **fields: int | str) -> bytes:
    made = d.response(identifier, name, *map(d.address, answers), rcode=rcode)
    return answer(made, T, T + identifier * MS, **fields)


def spans(made: Result, share: float = 1.0, limit: int = 1000, slow_ns: int | None = SECOND) -> KeptSpans:
    rule = KeepRule(share, limit, slow_ns)
    return dns_spans(made.answered, made.others, rule, UNIX, TIMEOUT, T)


def points(made: Result) -> dict[AttributeSet, int]:
    """Counts of dns.lookup.duration by attributes."""
    series = DnsSeries(NameFolding(), [1.0], UNIX, 3600 * SECOND, 5.0)
    series.set_limit(100)
    series.add(made.answered, made.others, UNIX)
    told = DnsPoints().points(series.reading())[DURATION]
    return dict(zip(told.attributes, map(int, told.count), strict=True))


def test_points_have_the_attributes_of_the_conventions() -> None:
    made = result(
        reply(7, "www.example.com", 0, "192.0.2.1"),
        reply(8, "www.example.com", 3),
        reply(9, "www.example.com", 2),
        expired=[open_query(5, "dead.example.com", T, d.AAAA)],
    )

    def lookup(kind: str, **outcome: str) -> AttributeSet:
        same = {"dns.question.name": "example.com", "netmon.dns.question.type": kind, "server.address": SERVER}
        return AttributeSet.of({**same, "network.transport": "udp", **outcome})

    code = "netmon.dns.response.code"
    assert points(made) == {
        AttributeSet.of({"otel.metric.overflow": True}): 0,
        lookup("A", **{code: "NOERROR"}): 1,
        lookup("A", **{code: "NXDOMAIN"}): 1,
        lookup("A", **{code: "SERVFAIL", "error.type": "SERVFAIL"}): 1,
        lookup("AAAA", **{"error.type": "timeout"}): 1,
    }


def test_the_attributes_of_a_series_are_made_once() -> None:
    series = DnsSeries(NameFolding(), [1.0], UNIX, 3600 * SECOND, 5.0)
    series.set_limit(100)
    made = result(reply(7, "www.example.com"))
    maker = DnsPoints()
    found = []
    for _ in range(2):
        series.add(made.answered, made.others, UNIX)
        found.append(maker.points(series.reading())[DURATION].attributes[1])
    assert found[0] is found[1]


def test_a_span_has_the_whole_name_and_both_ends() -> None:
    kept = spans(result(reply(7, "WWW.example.com", 0, "192.0.2.1", "192.0.2.2", retries=2)))
    batch = kept.batch
    assert kept.kept.tolist() == [0]
    assert (batch.names, batch.kinds.tolist()) == (["DNS lookup"], [SpanKind.CLIENT])
    assert batch.start_time_unix_nano.tolist() == [UNIX + T]
    assert batch.end_time_unix_nano.tolist() == [UNIX + T + 7 * MS]
    assert (batch.statuses.tolist(), batch.messages) == ([StatusCode.UNSET], [""])
    assert not batch.parent_span_ids.any()
    assert batch.flags.tolist() == [3]
    assert batch.attributes == [
        encode(
            {
                "dns.question.name": "WWW.example.com",
                "netmon.dns.question.type": "A",
                "client.address": CLIENT,
                "server.address": SERVER,
                "server.port": 53,
                "network.transport": "udp",
                "network.protocol.name": "dns",
                "netmon.dns.response.code": "NOERROR",
                "client.port": PORT,
                "netmon.dns.answer.count": 2,
                "netmon.dns.retries": 2,
            },
            Tag.SPAN,
        )
    ]


def test_timeouts_and_refusals_are_errors_and_missing_names_are_not() -> None:
    connection = TcpConnection()
    made = result(
        reply(7, "a.example", 5),
        reply(8, "b.example", 3),
        answer(d.response(9, "c.example", flags=d.TRUNCATED), T, T + MS),
        connection.client(prefixed(d.query(9, "t.example")), T),
        connection.server(prefixed(d.response(9, "t.example", rcode=2)), T + 3 * MS),
        expired=[open_query(5, "dead.example", T)],
    )
    batch = spans(made).batch
    error, unset = int(StatusCode.ERROR), int(StatusCode.UNSET)
    assert batch.statuses.tolist() == [error, unset, unset, error, error]
    assert sorted(batch.messages) == ["", "", "REFUSED", "SERVFAIL", "no answer"]
    durations = (batch.end_time_unix_nano - batch.start_time_unix_nano).tolist()
    assert dict(zip(batch.messages, durations, strict=True))["no answer"] == TIMEOUT
    by_message = dict(zip(batch.messages, batch.attributes, strict=True))
    assert encode({"error.type": "timeout"}, Tag.SPAN) in by_message["no answer"]
    assert encode({"error.type": "SERVFAIL"}, Tag.SPAN) in by_message["SERVFAIL"]
    assert encode({"network.transport": "tcp"}, Tag.SPAN) in by_message["SERVFAIL"]
    truncated = encode({"netmon.dns.truncated": True}, Tag.SPAN)
    assert [truncated in each for each in batch.attributes] == [False, False, True, False, False]


@pytest.mark.parametrize("share", [0.5, 0.125])
def test_a_share_is_kept_by_the_randomness_of_the_trace_id(share: float) -> None:
    number = 5003
    made = result(*(reply(1, "a.example") for _ in range(number)))
    rule = KeepRule(share, 100_000, SECOND)
    kept = dns_spans(made.answered, made.others, rule, UNIX, TIMEOUT, T)
    batch = kept.batch
    assert len(batch) == len(kept.kept) == int(rule.counts[: Reason.SAMPLED_OUT].sum())
    assert int(rule.counts.sum()) == number
    assert abs(len(batch) - share * number) < 6 * (number * share * (1 - share)) ** 0.5
    assert (
        len({row.tobytes() for row in batch.trace_ids}) == len({row.tobytes() for row in batch.span_ids}) == len(batch)
    )
    rejected = {0.5: "8", 0.125: "e"}[share]
    states = Counter(batch.trace_states)
    assert states[f"ot=th:{rejected}"] >= len(batch) - 1  # but for the first of its kind
    assert set(states) <= {f"ot=th:{rejected}", "ot=th:0"}
    for row, state in zip(batch.trace_ids, batch.trace_states, strict=True):
        if state != "ot=th:0":
            assert int.from_bytes(row.tobytes()[9:], "big") >= int(rejected.ljust(14, "0"), 16)


def test_without_lookups_there_are_no_spans() -> None:
    kept = spans(result())
    assert (len(kept.batch), kept.kept.tolist(), kept.batch.trace_ids.shape) == (0, [], (0, 16))


def test_over_the_limit_only_so_many_are_kept() -> None:
    made = result(*(reply(number, f"n{number}.example", 2) for number in range(1, 98)))
    kept = spans(made, limit=23)
    assert len(kept.batch) == 23
    assert sorted(kept.kept.tolist()) == kept.kept.tolist()
    assert np.unique(kept.kept).size == 23

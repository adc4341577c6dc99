"""Damaged messages through the whole analysis: every one becomes something, once, and nothing grows without bound.

The default is 20,000 messages; ``NETMON_FUZZ_MESSAGES`` and ``NETMON_FUZZ_SEED`` as in test_dns_decode.py.
"""

from __future__ import annotations

import os
import random
import secrets
from typing import get_args

from otel_netmon.abi.enums import Direction, MessageKind
from otel_netmon.analysis.dns import DnsAnalysis
from otel_netmon.analysis.dns_lookups import Lookup, Outcome, Reason
from otel_netmon.analysis.dns_names import NameFolding
from otel_netmon.analysis.domains import DomainCache
from support.dns_damage import damaged
from support.dns_events import ETH0, SECOND, TcpConnection, messages, open_queries, open_query, prefixed, record

MESSAGES = int(os.environ.get("NETMON_FUZZ_MESSAGES", "100000")) // 5
SEED = int(os.environ.get("NETMON_FUZZ_SEED", "0")) or secrets.randbits(32)
TURN = 100
DATAGRAMS = (MessageKind.DNS_ANSWER, MessageKind.DNS_RESPONSE, MessageKind.MDNS, MessageKind.LLMNR)


def test_every_damaged_message_becomes_something_once() -> None:
    generator = random.Random(SEED)  # noqa: S311 - repeatable damage, no secret
    made = damaged(generator)
    analysis = DnsAnalysis(5 * SECOND, lambda *_: True)
    domains, folding = DomainCache(), NameFolding()
    lookups: list[Lookup] = []
    given = expired = 0
    for turn in range(MESSAGES // TURN):
        time_ns = (100 + turn) * SECOND
        records = []
        for number in range(TURN):
            data = next(made)
            if number % 5 or not 12 <= len(data) <= 65535:
                kind = generator.choice(DATAGRAMS)
                fields = {
                    "direction": generator.choice(list(Direction)),
                    "time_ns": time_ns,
                    "request_time_ns": time_ns,
                    "first_request_time_ns": time_ns,
                }
                records.append(record(data, kind, **fields))
                given += 1
            else:
                # On a connection of its own each; what cannot be found in the middle of a stream is counted in octets.
                connection = TcpConnection(1024 + turn * TURN % 60_000 + number)
                records.append(connection.server(prefixed(data), time_ns))
        before = analysis.streams.counts["skipped_octets"]
        rows = [open_query(generator.randrange(12), "www.example.com", time_ns - 6 * SECOND) for _ in range(3)]
        expired += len(rows)
        try:
            lookups += analysis.update(messages(*records), open_queries(*rows), time_ns).lookups
        except Exception as error:
            raise AssertionError(f"NETMON_FUZZ_SEED={SEED}, turn {turn}") from error
        assert analysis.streams.counts["skipped_octets"] >= before
    lookups += analysis.finish(open_queries()).lookups
    for lookup in lookups:
        assert lookup.outcome in get_args(Outcome)
        assert lookup.reason is None or lookup.reason in get_args(Reason)
        assert (lookup.reason is None) == (lookup.outcome != "unmatched_response")
        assert lookup.ifindex == ETH0
        domains.learn(lookup)
        folding.fold(lookup.name)
    became, totals = analysis.messages, analysis.totals.counts
    told_over_tcp = became.total() - given
    assert 0 < told_over_tcp <= MESSAGES // 5
    assert len(lookups) == totals["lookups"] == totals["answered"] + totals["timeout"] + totals["unmatched_response"]
    assert became["lookup"] == totals["answered"]
    assert became["unmatched"] == totals["unmatched_response"]
    assert became["unparsed"] == analysis.unparsed.total() > 0
    assert analysis.held == 0
    # Open queries end as timeouts, or by a refusal without a question; over groups a query ends likewise.
    assert totals["timeout"] <= expired + became["query"]

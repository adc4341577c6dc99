"""Which requests and calls have a span, by the probe as a whole: HTTP/1 of the ring, followed HTTP/2 and gRPC share one rule."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from otel_netmon.abi.enums import Direction, MessageCount
from otel_netmon.analysis.http_records import HttpRequest
from otel_netmon.analysis.sampling import KeepRule, Reason
from otel_netmon.config.model import Config, HttpProbe, Probes
from otel_netmon.otel.attributes import AttributeSet
from otel_netmon.otel.spans import SpanBatch
from otel_netmon.sources.http import HttpSource
from support.http_events import Event, event, messages
from support.http_messages import HOST, INFO, request

MS = 1_000_000
ROUTES = ("/items/{id}", "/users/{id}")


class Ring:
    """What the source asks of who drains the ring."""

    counts = dict.fromkeys(MessageCount, 0)


class Quiet:
    """The kernel has nothing that is quiet."""

    live, capacity = 0, 4096

    def run(self, now_ns: int) -> int:
        assert now_ns > 0
        return 0


class Probe:
    def __init__(self, rule: KeepRule) -> None:
        self.rule = rule
        ring: Any = Ring()
        quiet: Any = Quiet()
        config = Config(probes=Probes(http=HttpProbe(routes=ROUTES)))
        self.source = HttpSource(ring, quiet, config, rule, time.time_ns())
        self.source.begin_cycle(1000, 1000, 1000)

    def take(self, events: Sequence[Event], records: Sequence[object] = ()) -> list[SpanBatch]:
        self.source.take(messages(events), records, time.monotonic_ns())
        self.source.points()  # counts what still waits
        self.source.begin_cycle(1000, 1000, 1000)
        return [each.batch for each in self.source.take_spans()]


def got(path: str, status: int = 200, milliseconds: int = 1, **fields: Any) -> Event:
    return event(request(f"GET {path}", HOST), status, waiting_ns=milliseconds * MS, **fields)


def call(method: str, status: int = 0) -> HttpRequest:
    """A gRPC call, seen where its server is."""
    return HttpRequest(
        "2", INFO.client, INFO.server, "POST", f"/shop.Cart/{method}", "a", 200, "answered", MS, MS, 2 * MS, 2 * MS, 5, 6,
        is_grpc=True, grpc_status=status, end_ns=2 * MS, connection=INFO._replace(direction=int(Direction.RECEIVE)),
    )  # fmt: skip


def told(batches: Sequence[SpanBatch]) -> Counter[tuple[str, Any]]:
    """Spans by name and error.type."""
    return Counter(
        (name, dict(AttributeSet(attributes).items()).get("error.type"))
        for batch in batches
        for name, attributes in zip(batch.names, batch.attributes, strict=True)
    )


def rates(batches: Sequence[SpanBatch]) -> set[str]:
    return {state for batch in batches for state in batch.trace_states}


def test_all_errors_and_the_first_of_each_new_kind() -> None:
    """By method, route, status and outcome; of the many that are as others nothing."""
    probe = Probe(KeepRule(0, 1000, slow_ns=10**15))
    usual = [got(f"/items/{n}") for n in range(211)] + [got(f"/users/{n}") for n in range(101)]
    failed = [got(f"/items/{n}", 503) for n in range(13)] + [got("/users/1", 0, flags=128, told_ns=70 * MS)] * 3
    odd = [got("/items/7", 404), got("/items/8", 404), got("/favicon.ico"), got("/robots.txt")]
    calls = [call("Add") for _ in range(31)] + [call("Add", 14) for _ in range(5)] + [call("Drop")]
    first = probe.take([*usual, *failed, *odd], calls)
    errors: dict[tuple[str, Any], int] = {
        ("GET /items/{id}", "503"): 13,
        ("GET /users/{id}", "timeout"): 3,
        ("shop.Cart/Add", "UNAVAILABLE"): 5,
    }
    assert told(first) == {
        **errors,
        ("GET /items/{id}", None): 2,  # 200 and 404: the client's error, not the server's
        ("GET /users/{id}", None): 1,
        ("GET", None): 1,
        ("shop.Cart/Add", None): 1,
        ("shop.Cart/Drop", None): 1,
    }
    assert rates(first) == {"ot=th:0"}
    assert told(probe.take([*usual, *failed, *odd], calls)) == errors
    again = probe.take([*usual, event(request("POST /items/1", HOST))])
    assert told(again) == {("POST /items/{id}", None): 1}
    total = 2 * (len(usual) + len(failed) + len(odd) + len(calls)) + len(usual) + 1
    assert int(probe.rule.counts.sum()) == total
    assert probe.rule.counts[Reason.SAMPLED_OUT] == total - 6 - 2 * 21 - 1


def test_all_slow_ones_over_a_threshold() -> None:
    probe = Probe(KeepRule(0, 1000, slow_ns=50 * MS))
    probe.take([got("/items/1", milliseconds=60)])
    slow = [got("/items/1", milliseconds=50 + n) for n in range(17)]
    assert told(probe.take([got("/items/1", milliseconds=49)] * 101 + slow)) == {("GET /items/{id}", None): 17}
    assert probe.rule.counts[Reason.SLOW] == 18


def test_all_slow_ones_over_the_live_percentile_of_their_kind() -> None:
    """What is usual for one route is slow for another one."""
    probe = Probe(KeepRule(0, 1000))
    probe.take([got("/items/1", milliseconds=2)] * 997 + [got("/users/1", milliseconds=200)] * 997)
    mixed = [got("/items/1", milliseconds=20)] * 7 + [got("/users/1", milliseconds=200)] * 97
    assert told(probe.take([*mixed, *[got("/users/1", milliseconds=999)] * 3])) == {
        ("GET /items/{id}", None): 7,
        ("GET /users/{id}", None): 3,
    }


@pytest.mark.parametrize(("share", "rate"), [(1.0, "ot=th:0"), (0.5, "ot=th:8"), (0.0625, "ot=th:f")])
def test_a_uniform_share_of_the_rest_with_the_rate_on_it(share: float, rate: str) -> None:
    probe = Probe(KeepRule(share, 100_000, slow_ns=10**15))
    probe.take([got("/items/1")], [call("Add")])
    batches = probe.take([got("/items/1")] * 4001, [call("Add") for _ in range(4001)])
    assert rates(batches) == {rate}
    expected, spread = 8002 * share, 6 * np.sqrt(8002 * share * (1 - share))
    assert abs(sum(map(len, batches)) - expected) <= spread
    least = round((1 - share) * 2**56)
    for batch in batches:  # so that other samplers of the same trace decide likewise
        assert all(int.from_bytes(each[9:].tobytes(), "big") >= least for each in batch.trace_ids)


def test_within_the_limit_of_a_second_of_all_kinds_together() -> None:
    """Errors go last, and those that stay say for how many they stand."""
    probe = Probe(KeepRule(1, 101, slow_ns=10**15))
    began = time.monotonic()
    mixed = [got("/items/1")] * 499 + [got("/users/1", 500)] * 53 + [got("/items/1")] * 499
    batches = probe.take(mixed, [call("Add", 14) for _ in range(31)])
    assert told(batches)["GET /users/{id}", "500"] == 53
    assert 101 <= sum(map(len, batches)) <= 101 + 31, "calls come later, and the limit is not that of their probe alone"
    more = probe.take([got("/items/1", 500)] * 9973)
    kept = sum(map(len, more))
    assert kept <= 101 * (time.monotonic() - began) + 1
    assert probe.rule.counts[Reason.RATE_LIMITED] == len(mixed) + 31 + 9973 - sum(map(len, batches)) - kept


def test_errors_over_the_limit_say_for_how_many_they_stand() -> None:
    batches = Probe(KeepRule(1, 997)).take([got("/items/1", 500)] * 8191)
    assert sum(map(len, batches)) == 997
    (state,) = rates(batches)
    probability = 1 - int(state.removeprefix("ot=th:").ljust(14, "0"), 16) / 2**56
    assert 997 / probability == pytest.approx(8191, rel=6 / np.sqrt(997))

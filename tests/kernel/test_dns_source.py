"""The DNS source over the real maps: what it takes, what it tells, what it misses, and how another process goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from otel_netmon.abi.enums import Direction
from otel_netmon.analysis.edges import Edge
from otel_netmon.analysis.sampling import KeepRule
from otel_netmon.config.load import load
from otel_netmon.config.model import Config
from otel_netmon.otel.points import HistogramSeries
from otel_netmon.readers.messages import NO_QUERIES, OpenQueries
from otel_netmon.selfmon.status import StageStatus
from otel_netmon.sources import dns as dns_source
from otel_netmon.sources.dns import DnsSource
from otel_netmon.sources.messages import DNS, MessageSource
from support import dns_messages as dns
from support.message_programs import MessagePrograms, answer_frame, query_frame

pytestmark = pytest.mark.kernel

START = 1_700_000_000_000_000_000
NAME = "www.example.org"
SIZES = {"dns_cache": 128, "messages": 1 << 16}


@pytest.fixture
def programs() -> Iterator[MessagePrograms]:
    """The programs as they run live: the clock is the kernel's."""
    with MessagePrograms(replay=0, sizes=SIZES) as loaded:
        yield loaded


class Probe(DnsSource):
    """The source with a ring of its own."""

    def __init__(self, maps: Mapping[str, tuple[int, int]], config: Config) -> None:
        self.ring = MessageSource(maps)
        spans = config.spans
        rule = KeepRule(spans.share, spans.limit_per_second, round(spans.slow_seconds * 1e9) or None)
        super().__init__(maps, self.ring, config, rule, START)

    def drain(self) -> None:
        self.prepare()
        self.take(self.ring.drain().dns, at_once=True)

    def stages(self) -> dict[tuple[str, str], StageStatus]:
        return {**super().stages(), ("ring", "dns_messages"): self.ring.stage(DNS)}

    def state(self) -> dict[str, dict[str, Any]]:
        return {**super().state(), **self.ring.state()}

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        super().restore(state)
        self.ring.restore(state)

    def close(self) -> None:
        self.ring.close()


def source(programs: MessagePrograms, *sets: str) -> Probe:
    maps = programs.loaded.maps
    sizes = {**SIZES, "message_counts": 0}
    config = load(None, {}, list(sets), {}).config
    made = Probe({name: (maps[name], size) for name, size in sizes.items()}, config)
    made.begin_cycle(100)
    return made


def ask(programs: MessagePrograms, identifier: int, name: str = NAME) -> None:
    programs.run(query_frame(dns.query(identifier, name)), direction=Direction.TRANSMIT)


def reply(programs: MessagePrograms, identifier: int, name: str = NAME, rcode: int = 0) -> None:
    answers = [] if rcode else [dns.address("192.0.2.1")]
    programs.run(answer_frame(dns.response(identifier, name, *answers, rcode=rcode)))


def lookup(programs: MessagePrograms, *identifiers: int, rcode: int = 0) -> None:
    for identifier in identifiers:
        ask(programs, identifier)
        reply(programs, identifier, rcode=rcode)


def counted(made: Probe) -> int:
    """Lookups in dns.lookup.duration."""
    series = made.points()["dns.lookup.duration"]
    assert isinstance(series, HistogramSeries)
    return int(series.count.sum())


def stage(made: Probe, name: str, signal: str = "dns_messages") -> dict[str, Any]:
    found: dict[str, Any] = dict(made.stages()[name, signal])
    return {"delivered": found["delivered"], **{reason: n for reason, n in found["dropped"].items() if n}}


def value(made: Probe, metric: str, **attributes: str) -> float:
    series = made.points()[metric]
    assert not isinstance(series, HistogramSeries)
    (found,) = [point.value for point in series if point.attributes == attributes]
    return found


def test_lookups_come_out_with_spans_domains_and_stages(programs: MessagePrograms) -> None:
    made = source(programs, "spans.share=1", "spans.slow_seconds=10")
    lookup(programs, *range(1, 24))
    lookup(programs, 50, 51, rcode=3)
    programs.run(answer_frame(b"no dns"))
    made.drain()
    assert counted(made) == 25
    assert stage(made, "kernel", "dns_queries") == {"delivered": 25}
    assert stage(made, "kernel") == {"delivered": 25, "short": 1}
    assert stage(made, "ring") == stage(made, "decode") == {"delivered": 25}
    assert [len(spans.batch) for spans in made.take_spans()] == [25]
    assert made.take_spans() == []
    assert len(made.domains) == 1
    assert made.map_sizes() == {"dns_cache": (0, 128)}
    assert value(made, "netmon.dns.nxdomain.ratio") == 2 / 25
    made.close()


def test_the_ratio_of_missing_names_is_that_of_a_cycle(programs: MessagePrograms) -> None:
    made = source(programs)
    assert "netmon.dns.nxdomain.ratio" not in made.points()
    for nothing, found, ratio in ((1, 3, 0.25), (0, 0, 0.25), (2, 0, 1.0)):
        lookup(programs, *range(nothing), rcode=3)
        lookup(programs, *range(found))
        made.drain()
        assert value(made, "netmon.dns.nxdomain.ratio") == ratio
    made.close()


def test_queries_that_nobody_answers_time_out(programs: MessagePrograms, monkeypatch: pytest.MonkeyPatch) -> None:
    made = source(programs, "probes.dns.timeout_seconds=0.1")
    monkeypatch.setattr(dns_source, "_EXPIRE_NS", 0)
    ask(programs, 7)
    ask(programs, 7)
    ask(programs, 8)
    deadline = time.monotonic() + 10
    while counted(made) < 2 and time.monotonic() < deadline:
        made.drain()
    reply(programs, 8)
    made.drain()
    assert counted(made) == 2
    assert value(made, "netmon.dns.retries") == 1
    assert value(made, "netmon.dns.unmatched", **{"netmon.reason": "late"}) == 1
    assert stage(made, "kernel", "dns_queries") == {"delivered": 3}
    made.close()


def test_open_queries_are_looked_through_once_a_second(
    programs: MessagePrograms, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = source(programs, "probes.dns.timeout_seconds=0.1")
    calls: list[int] = []

    def take_expired(now_ns: int, _: int) -> OpenQueries:
        calls.append(now_ns)
        return NO_QUERIES

    monkeypatch.setattr(made._open, "take_expired", take_expired)
    times = [10**12 + milliseconds * 10**6 for milliseconds in (0, 300, 600, 950, 1200, 2000)]
    for now_ns in times:
        made._take_expired(now_ns)
    assert calls == [times[0], times[3], times[5]]
    made.close()


def test_a_full_cache_and_a_full_ring_are_counted(programs: MessagePrograms) -> None:
    made = source(programs)
    for number in range(SIZES["dns_cache"] + 31):
        ask(programs, number)
    for number in range(SIZES["dns_cache"]):
        reply(programs, number)
    for number in range(600):
        reply(programs, 1000 + number)  # of no query
    made.drain()
    queries = stage(made, "kernel", "dns_queries")
    assert queries == {"delivered": 128, "cache_full": 31}
    kernel, ring = stage(made, "kernel"), stage(made, "ring")
    assert kernel == {"delivered": 728}
    assert ring["ring_full"] > 0
    assert ring["delivered"] + ring["ring_full"] == 728
    assert set(ring) == {"delivered", "ring_full"}
    made.close()


def test_what_a_process_took_and_did_not_save_is_missed_by_the_next(programs: MessagePrograms) -> None:
    first = source(programs)
    lookup(programs, *range(7))
    first.drain()
    assert counted(first) == 7
    state = first.state()
    lookup(programs, *range(13))
    first.drain()  # and dies
    first.close()
    lookup(programs, *range(5))

    second = source(programs)
    second.restore(state)
    assert counted(second) == 7
    lookup(programs, *range(3))
    second.drain()
    assert counted(second) == 7 + 5 + 3
    assert stage(second, "kernel") == {"delivered": 28}
    assert stage(second, "ring") == {"delivered": 15, "pipeline_died": 13}
    assert stage(second, "decode") == {"delivered": 15}
    lookup(programs, *range(2))
    second.drain()
    assert stage(second, "ring") == {"delivered": 17, "pipeline_died": 13}
    state = second.state()
    second.close()

    third = source(programs)
    third.restore(state)
    third.drain()
    assert stage(third, "ring") == {"delivered": 17, "pipeline_died": 13}
    assert value(third, "netmon.dns.retries") == 0
    third.close()


def test_what_cannot_be_read_is_not_forgotten_with_the_process(programs: MessagePrograms) -> None:
    first = source(programs)
    for identifier in range(5):  # a name that points to itself
        programs.run(answer_frame(dns.message(identifier, dns.RESPONSE_FLAGS, [dns.pointer(12) + bytes(4)])))
    lookup(programs, 7, 8)
    first.drain()
    assert stage(first, "decode") == {"delivered": 2, "pointer": 5}
    assert stage(first, "decode", "dns_lookups") == {"delivered": 2}

    second = source(programs)
    second.restore(first.state())
    first.close()
    lookup(programs, 9)
    second.drain()
    assert stage(second, "decode") == {"delivered": 3, "pointer": 5}
    assert stage(second, "decode", "dns_lookups") == {"delivered": 3}
    second.close()


def test_what_lies_in_the_ring_is_not_missed(programs: MessagePrograms, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted before it is drained, or drained before it is counted: the next drain has both."""
    made = source(programs)
    read = made.ring._kernel.read

    def later() -> Any:
        counts = read()
        lookup(programs, 500, 501, 502)  # behind the counts, in front of the ring
        return counts

    monkeypatch.setattr(made.ring._kernel, "read", later)
    lookup(programs, 1)
    made.drain()
    monkeypatch.setattr(made.ring._kernel, "read", read)
    assert "pipeline_died" not in stage(made, "ring")
    made.drain()
    assert stage(made, "ring") == {"delivered": 4}
    made.close()


def test_an_interface_that_does_not_count_tells_nothing(programs: MessagePrograms) -> None:
    made = source(programs)
    nothing = Edge(count_receive=False, count_transmit=False, counted=frozenset())
    made.set_edges({(0, 1): nothing})
    lookup(programs, 1, 2, 3)
    made.drain()
    assert counted(made) == 0
    assert stage(made, "decode") == {"delivered": 3}
    made.close()


def test_diversity_and_the_places_that_are_wanted(programs: MessagePrograms) -> None:
    made = source(programs)
    made.begin_cycle(2)
    for number in range(5):
        ask(programs, number, f"n{number}.example{number}")
        reply(programs, number, f"n{number}.example{number}")
    made.drain()
    made.points()
    found = made.diversity()
    assert found.folded == 3
    assert found.sets == pytest.approx(5, abs=0.5)
    assert made.wanted == 64 + 2 * (2 + 3)
    made.close()


def test_searches_are_not_lost_with_a_process(programs: MessagePrograms) -> None:
    def searches(made: Probe) -> tuple[int, float]:
        series = made.points()["netmon.dns.search.lookups"]
        assert isinstance(series, HistogramSeries)
        return int(series.count.sum()), float(series.sum.sum())

    first = source(programs)
    for identifier, (suffix, rcode) in enumerate(((".a.example", 3), (".b.example", 3), ("", 0))):
        ask(programs, identifier, f"www.shop.test{suffix}")
        reply(programs, identifier, f"www.shop.test{suffix}", rcode)
    deadline = time.monotonic() + 20
    while searches(first) == (0, 0) and time.monotonic() < deadline:
        first.drain()
        time.sleep(0.05)
    assert searches(first) == (1, 3)
    second = source(programs)
    second.restore(first.state())
    assert searches(second) == (1, 3)
    first.close()
    second.close()

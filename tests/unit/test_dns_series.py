"""Lookups to series: identities, what has a place, and that nothing is lost when a place is taken."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from otel_netmon.abi.enums import MessageKind
from otel_netmon.analysis.cardinality import WHOLE_SET
from otel_netmon.analysis.dns import DnsAnalysis, Result
from otel_netmon.analysis.dns_names import NameFolding
from otel_netmon.analysis.dns_series import NO_RESPONSE, PROTOCOLS, TRANSPORTS, DnsSeries
from otel_netmon.analysis.name_table import name_number
from support import dns_messages as d
from support.dns_events import (
    CLIENT,
    MS,
    SECOND,
    SERVER,
    TcpConnection,
    answer,
    messages,
    open_queries,
    open_query,
    prefixed,
    record,
)
from support.rows import address

START = 1_700_000_000 * SECOND
T = 100 * SECOND
HOUR = 3600 * SECOND
GROUP = "224.0.0.252"
SERVERS = {address(SERVER): "server", address("2001:db8::53"): "six", address(GROUP): "group"}


class Feed:
    """An analysis with the series behind it."""

    def __init__(self, limit: int = 100, depth: int = 2, idle_ns: int = HOUR) -> None:
        self.series = DnsSeries(NameFolding(depth), [0.005, 0.01, 0.1, 1.0], START, idle_ns, timeout_seconds=5.0)
        self.series.set_limit(limit)
        self.analysis = DnsAnalysis(5 * SECOND, lambda *_: True)
        self.now_ns = START

    def result(self, *records: bytes, expired: object = ()) -> Result:
        return self.analysis.update(messages(*records), open_queries(*expired), T)  # type: ignore[misc] # rows

    def take(self, *records: bytes, expired: object = ()) -> list[int]:
        result = self.result(*records, expired=expired)
        self.now_ns += SECOND
        rows: list[int] = self.series.add(result.answered, result.others, self.now_ns).tolist()
        return rows

    def told(self) -> Counter[tuple[str, str, int, int, str, str]]:
        """Lookups by series: server, name, type, code, transport, protocol; the rest has no name."""
        reading = self.series.reading()
        found: Counter[tuple[str, str, int, int, str, str]] = Counter()
        found["", "", 0, 0, "", ""] = int(reading.distributions[0].count[0])
        for key, count in zip(reading.series.keys.tolist(), reading.distributions[0].count[1:].tolist(), strict=True):
            server, number, kind, code, transport, protocol, _ = key
            text = SERVERS[bytes(server)]
            name = reading.names["name"][number]
            assert name_number(name) == number
            found[text, name, kind, code, TRANSPORTS[transport], PROTOCOLS[protocol]] += count
        return +found


def reply(name: str, rcode: int = 0, kind: int = d.A, **fields: int | str) -> bytes:
    return answer(d.response(7, name, kind=kind, rcode=rcode), T, T + 7 * MS, **fields)


def test_a_series_is_who_was_asked_for_what_and_what_came_of_it() -> None:
    feed = Feed()
    connection = TcpConnection()
    rows = feed.take(
        reply("www.example.com"),
        reply("API.example.COM"),
        reply("www.example.com", rcode=3),
        reply("www.example.com", kind=d.AAAA),
        reply("www.example.com", source="2001:db8::53"),
        answer(d.message(7, d.RESPONSE_FLAGS | 2, [d.question("e")], additional=[d.opt(extended_rcode=1)]), T, T),
        connection.client(prefixed(d.query(9, "t.example.com")), T),
        connection.server(prefixed(d.response(9, "t.example.com")), T + MS),
        record(d.query(3, "printer"), MessageKind.LLMNR, source=CLIENT, destination=GROUP, source_port=9999,
               destination_port=5355, time_ns=T - 11 * SECOND),
        expired=[open_query(5, "dead.example.com", T)],
    )  # fmt: skip
    assert feed.told() == {
        ("server", "example.com", d.A, 0, "udp", "dns"): 2,
        ("server", "example.com", d.A, 3, "udp", "dns"): 1,
        ("server", "example.com", d.AAAA, 0, "udp", "dns"): 1,
        ("six", "example.com", d.A, 0, "udp", "dns"): 1,
        ("server", "e", d.A, 18, "udp", "dns"): 1,
        ("server", "example.com", d.A, 0, "tcp", "dns"): 1,
        ("server", "example.com", d.A, NO_RESPONSE, "udp", "dns"): 1,
        ("group", "printer", d.A, NO_RESPONSE, "udp", "llmnr"): 1,
    }
    assert len(rows) == 9
    assert rows[0] == rows[1] > 0
    assert len(set(rows)) == 8


def test_durations_are_from_the_first_query_and_a_timeout_lasts_as_long_as_it_is_waited_for() -> None:
    feed = Feed()
    feed.take(
        answer(d.response(7, "a.example"), T, T + 7 * MS),
        answer(d.response(8, "a.example"), T, T + 70 * MS, request_time_ns=T + 69 * MS, retries=1),
        expired=[open_query(5, "a.example", T)],
    )
    durations = feed.series.reading().distributions[0]
    found = zip(durations.count.tolist(), durations.sum.tolist(), durations.bucket_counts.tolist(), strict=True)
    assert sorted(found) == [
        (0, 0, [0] * 5),
        (1, 5.0, [0, 0, 0, 0, 1]),
        (2, pytest.approx(0.077), [0, 1, 1, 0, 0]),
    ]


def test_nothing_is_nothing() -> None:
    feed = Feed()
    assert feed.take() == []
    assert (feed.told(), len(feed.series)) == ({}, 0)


def test_a_message_without_a_question_has_a_series_without_a_name() -> None:
    feed = Feed()
    feed.take(answer(d.message(7, d.RESPONSE_FLAGS | 1), T, T))
    assert feed.told() == {("server", "", 0, 1, "udp", "dns"): 1}


def test_without_places_all_is_in_the_rest() -> None:
    feed = Feed(limit=0)
    assert feed.take(reply("a.example"), reply("b.test")) == [0, 0]
    assert feed.told() == {("", "", 0, 0, "", ""): 2}
    feed.series.end_cycle()
    assert (feed.series.folded, len(feed.series)) == (2, 0)


def gains(feed: Feed, before: dict[bytes, tuple[int, int]]) -> tuple[int, dict[bytes, tuple[int, int]]]:
    """What a receiver adds up from one reading to the next, and what it knows then: start and count by series."""
    reading = feed.series.reading()
    keys = [b"", *(key.tobytes() for key in reading.series.keys)]
    starts = [0, *reading.series.start_ns.tolist()]
    now = dict(zip(keys, zip(starts, reading.distributions[0].count.tolist(), strict=True), strict=True))
    more = 0
    for key, (start, count) in now.items():
        then = before.get(key)
        more += count - then[1] if then is not None and then[0] == start else count
    return more, now


@pytest.mark.parametrize("seed", range(7))
def test_what_is_told_adds_up_however_series_come_and_go(seed: int) -> None:
    generator = random.Random(seed)  # noqa: S311 - variety, not secrets
    feed = Feed(limit=5)
    given = told = 0
    before: dict[bytes, tuple[int, int]] = {}
    limit = 5
    for _ in range(67):
        new_limit = generator.randrange(3, 13)
        feed.series.set_limit(new_limit)
        for _ in range(generator.randrange(1, 5)):
            many = generator.randrange(1, 23)
            feed.take(*(reply(f"a.n{generator.randrange(3 if generator.random() < 0.5 else 40)}") for _ in range(many)))
            given += many
        more, before = gains(feed, before)
        told += more
        assert told == given
        assert len(feed.series) <= max(limit, new_limit)
        limit = max(new_limit, len(feed.series) - 1)
        feed.series.end_cycle()
        assert len(feed.series) <= new_limit
    assert feed.series.reading().distributions[0].count[0] > 0


def test_who_is_asked_for_much_gets_a_place_among_names_that_nobody_asks_for_again() -> None:
    feed = Feed(limit=8)
    for cycle in range(4):
        feed.take(*(reply(f"a.flood{cycle}-{number}") for number in range(97)))
        feed.take(*(reply(f"b.flood{cycle}-{number}") for number in range(97)), *[reply("www.shop")] * 31)
        feed.series.reading()
        feed.series.end_cycle()
    feed.take(*(reply(f"a.late-{number}") for number in range(97)), *[reply("www.shop")] * 31)
    assert feed.told()["server", "www.shop", d.A, 0, "udp", "dns"] >= 31
    assert len(feed.series) <= 8
    assert 2 * 97 - 8 <= feed.series.folded <= 2 * 97


def test_a_name_is_known_again_when_its_series_begins_anew() -> None:
    """The message is known from before, and its name was forgotten with the series."""
    feed = Feed(limit=1)
    feed.take(*[reply("a.one")] * 3)
    feed.series.end_cycle()
    for _ in range(2):
        feed.take(*[reply("b.two")] * 5)
        feed.series.end_cycle()
    assert [key[1] for key in feed.told() if key[0]] == ["b.two"]
    for _ in range(2):
        feed.take(*[reply("a.one")] * 7)
        feed.series.end_cycle()
    feed.take(reply("a.one"))
    assert [key[1] for key in feed.told() if key[0]] == ["a.one"]


def test_another_process_goes_on_with_the_same_series() -> None:
    first, second = Feed(), Feed()
    first.take(reply("www.example.com"), reply("münchen".encode("idna").decode() + ".test", rcode=3))
    told, start = first.told(), first.series.reading().series.start_ns.tolist()
    second.series.restore(first.series.state())
    assert second.told() == told
    assert second.series.reading().series.start_ns.tolist() == start
    second.take(reply("www.example.com"))
    assert second.told() == told + Counter({("server", "example.com", d.A, 0, "udp", "dns"): 1})


def test_the_different_sets_are_estimated() -> None:
    feed = Feed(limit=10)
    for _ in range(3):
        feed.take(*(reply(f"a.n{number}", kind=d.A if number % 2 else d.AAAA) for number in range(101)))
        feed.series.end_cycle()
    found = feed.series.distinct()
    assert found.pop(WHOLE_SET) == pytest.approx(101, rel=0.15)
    assert found["dns.question.name"] == pytest.approx(101, rel=0.15)
    assert found["netmon.dns.question.type"] == pytest.approx(2, abs=0.1)
    assert found["server.address"] == pytest.approx(1, abs=0.1)


def test_sets_without_a_place_are_counted_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otel_netmon.analysis.lasting._HOMELESS_MAX", 64)
    feed = Feed(limit=0)
    for turn in range(5):
        feed.take(*(reply(f"a.n{number + 20 * turn}") for number in range(31)))
    feed.series.end_cycle()
    assert feed.series.folded == 32
    feed.take(reply("a.n1"), reply("b.n2"))
    feed.take(reply("a.n1"))
    feed.series.end_cycle()
    assert feed.series.folded == 2


def test_names_are_forgotten_with_their_series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otel_netmon.analysis.dns_series._NAMES_MAX", 50)
    feed = Feed(limit=3)
    for turn in range(9):
        feed.take(*(reply(f"a.n{number}x{turn}") for number in range(31)))
        assert len(feed.series.reading().names["name"]) <= 50 + 31
    feed.series.end_cycle()
    assert len(feed.series.reading().names["name"]) == len(feed.series)


def test_exemplars_are_of_the_rows_that_add_gave() -> None:
    feed = Feed()
    rows = np.array(feed.take(reply("a.example"), reply("a.example", rcode=3)))
    ids = np.arange(48, dtype=np.uint8).reshape(2, 24)
    feed.series.offer_exemplars(rows, np.array([0.007, 0.008]), np.array([1, 2], np.uint64), ids[:, :16], ids[:, 16:])
    exemplars = feed.series.reading().distributions[0].exemplars
    found = zip(exemplars.series.tolist(), exemplars.value.tolist(), exemplars.span_id.tolist(), strict=True)
    assert sorted(found) == sorted(zip(rows.tolist(), [0.007, 0.008], ids[:, 16:].tolist(), strict=True))

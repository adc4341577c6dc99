"""The names behind addresses."""

from __future__ import annotations

import ipaddress
import random

import numpy as np
import pytest

from otel_netmon.analysis.dns import DnsAnalysis
from otel_netmon.analysis.dns_lookups import Ends, Lookup, answered
from otel_netmon.analysis.domains import PAIR, DomainCache, client_key
from otel_netmon.decode.dns import Message, decode
from support import dns_messages as d
from support.dns_events import CLIENT, PORT, SECOND, SERVER, answer, end, messages, open_queries
from support.rows import address

T = 1000 * SECOND
HERE = client_key(address(CLIENT))
WEB, OTHER, V6 = "198.51.100.1", "198.51.100.2", "2001:db8::1"


def lookup(
    name: str, *answers: bytes, time_ns: int = T, client: str = CLIENT, cgroup: int = 0, rcode: int = 0, kind: int = d.A
) -> Lookup:
    made = decode(d.response(7, name, *answers, rcode=rcode, kind=kind))
    assert isinstance(made, Message)
    assert made.fault is None
    return answered("dns", "udp", Ends(0, 2, end(client, PORT), end(SERVER, 53)), cgroup, made, time_ns - 1, time_ns)


def alias(owner: str, target: str, ttl: int = 300) -> bytes:
    return d.record(d.name(owner), d.CNAME, d.name(target), ttl)


@pytest.fixture
def cache() -> DomainCache:
    return DomainCache()


def names(cache: DomainCache, server: str, time_ns: int = T, client: bytes = HERE) -> tuple[str, ...]:
    """By both ways to ask, which must agree."""
    one = cache.names(client, address(server), time_ns)
    many = cache.match(pairs((client, server)), np.array([time_ns]))
    assert (many.names[many.places[0]] if many.places[0] >= 0 else ()) == one
    return one


def pairs(*rows: tuple[bytes, str]) -> np.ndarray:
    return np.frombuffer(b"".join(client + address(server) for client, server in rows), PAIR)


def test_addresses_of_a_name(cache: DomainCache) -> None:
    cache.learn(lookup("Www.Example", d.address(WEB), d.address(OTHER)))
    cache.learn(lookup("www.example", d.address(V6), kind=d.AAAA))
    assert names(cache, WEB) == names(cache, OTHER) == names(cache, V6) == ("www.example",)
    assert names(cache, "198.51.100.3") == ()
    assert (len(cache), cache.counts) == (3, {"learned": 3})


def test_a_name_lives_as_long_as_its_ttl(cache: DomainCache) -> None:
    cache.learn(lookup("www.example", d.address(WEB, ttl=100)))
    for time_ns, alive in ((T - 1, False), (T, True), (T + 100 * SECOND, True), (T + 100 * SECOND + 1, False)):
        assert bool(names(cache, WEB, time_ns)) == alive


@pytest.mark.parametrize(("ttl", "seconds"), [(0, 60), (1, 60), (61, 61), (86_401, 86_400), (2**31 - 1, 86_400)])
def test_the_ttl_is_bounded(cache: DomainCache, ttl: int, seconds: int) -> None:
    cache.learn(lookup("www.example", d.address(WEB, ttl=ttl)))
    assert names(cache, WEB, T + seconds * SECOND)
    assert not names(cache, WEB, T + seconds * SECOND + 1)


def test_a_chain_of_aliases_leads_to_the_name_that_was_asked(cache: DomainCache) -> None:
    """Whatever the order of the records and the case of their names."""
    answers = [
        d.address(WEB, d.name("Edge.CDN.test"), 500),
        alias("shop.example", "edge.cdn.TEST", 90),
        alias("WWW.example", "Shop.example", 400),
    ]
    cache.learn(lookup("www.Example", *answers))
    assert names(cache, WEB, T + 90 * SECOND) == ("www.example",)
    assert names(cache, WEB, T + 91 * SECOND) == ()


def test_records_outside_of_the_chain_are_not_believed(cache: DomainCache) -> None:
    cache.learn(lookup("www.example", d.address(WEB), d.address(OTHER, d.name("bank.test")), alias("a.test", "b.test")))
    assert (names(cache, WEB), names(cache, OTHER)) == (("www.example",), ())


def test_a_chain_without_end(cache: DomainCache) -> None:
    cache.learn(
        lookup("a.test", alias("a.test", "b.test"), alias("b.test", "a.test"), d.address(WEB, d.name("b.test")))
    )
    assert names(cache, WEB) == ("a.test",)


def test_hints_of_services(cache: DomainCache) -> None:
    cache.learn(lookup("www.example", d.service(1, hints=[WEB, V6]), kind=d.HTTPS))
    port = d.service(1, "svc.example", kind=d.SVCB, hints=[OTHER])
    cache.learn(lookup("_8443._https.api.example", port, kind=d.SVCB))
    assert names(cache, WEB) == names(cache, V6) == ("www.example",)
    assert names(cache, OTHER) == ("api.example",)


@pytest.mark.parametrize(
    "other",
    [
        lookup("www.example", d.address(WEB), rcode=3),
        lookup("www.example", d.address(WEB))._replace(outcome="unmatched_response"),
        lookup("www.example", d.address(WEB))._replace(questions=()),
        lookup("www.example", d.record(d.pointer(12), d.TXT, b"\4text"), kind=d.TXT),
        lookup("www.example", d.record(d.pointer(12), d.PTR, d.name("host.example")), kind=d.PTR),
        lookup("www.example", alias("www.example", "b.test")),
    ],
)
def test_nothing_is_learned_from_other_answers(cache: DomainCache, other: Lookup) -> None:
    cache.learn(other)
    assert len(cache) == 0
    assert names(cache, WEB) == ()


def test_every_client_has_its_own_view(cache: DomainCache) -> None:
    cache.learn(lookup("a.example", d.address(WEB)))
    cache.learn(lookup("b.example", d.address(WEB), client="192.0.2.99"))
    cache.learn(lookup("c.example", d.address(WEB), cgroup=77))
    assert names(cache, WEB) == ("a.example",)
    assert names(cache, WEB, client=client_key(address("192.0.2.99"))) == ("b.example",)
    assert names(cache, WEB, client=client_key(address(CLIENT), 77)) == ("c.example",)
    assert client_key(address(CLIENT), 77) == client_key(address("192.0.2.1"), 77)
    assert ipaddress.ip_address(client_key(b"", 1)).is_multicast


def test_an_address_with_several_names_says_so(cache: DomainCache) -> None:
    for number, name in enumerate(("a.example", "b.example", "a.example", "c.example")):
        cache.learn(lookup(name, d.address(WEB, ttl=100), time_ns=T + number * SECOND))
    assert names(cache, WEB, T + 3 * SECOND) == ("c.example", "a.example", "b.example")
    assert names(cache, WEB, T) == ("a.example",)
    assert names(cache, WEB, T + SECOND) == ("a.example", "b.example")
    assert names(cache, WEB, T + 102 * SECOND) == ("c.example", "a.example")
    assert cache.counts == {"learned": 3, "refreshed": 1}


def test_a_name_that_is_asked_again_lives_on_and_one_that_was_gone_begins_anew(cache: DomainCache) -> None:
    for time_ns in (T, T + 90 * SECOND, T + 500 * SECOND):
        cache.learn(lookup("a.example", d.address(WEB, ttl=100), time_ns=time_ns))
    for seconds, alive in ((0, True), (95, True), (190, True), (191, False), (499, False), (500, True), (600, True)):
        assert names(cache, WEB, T + seconds * SECOND) == (("a.example",) if alive else ())
    assert len(cache) == 1


def heard(cache: DomainCache, *made: tuple[int, bytes, str, int]) -> None:
    """Takes answers (time, message, client, cgroup) as the kernel tells them, all at once."""
    analysis = DnsAnalysis(5 * SECOND, lambda *_: True)
    records = [
        answer(data, time_ns - 1, time_ns, destination=client, cgroup=cgroup) for time_ns, data, client, cgroup in made
    ]
    cache.learn_many(analysis.update(messages(*records), open_queries(), T).answered)


def a_example(text: str, ttl: int = 100, identifier: int = 7) -> bytes:
    return d.response(identifier, "a.example", d.address(text, ttl=ttl))


def test_answers_that_are_alike_are_one_life_from_the_first_to_the_last(cache: DomainCache) -> None:
    many = [(T + number * SECOND, a_example(WEB, identifier=number), CLIENT, 0) for number in (31, 0, 59, 7)]
    heard(cache, *many, (T, a_example(OTHER), CLIENT, 0), (T, a_example(WEB), "192.0.2.99", 0))
    assert cache.counts == {}
    assert names(cache, WEB) == names(cache, OTHER) == ("a.example",)
    assert cache.counts == {"learned": 3}
    assert names(cache, WEB, T - 1) == ()
    assert names(cache, WEB, T + 159 * SECOND) == ("a.example",)
    assert names(cache, WEB, T + 159 * SECOND + 1) == ()
    assert names(cache, WEB, T, client_key(address("192.0.2.99"))) == ("a.example",)


def test_answers_that_are_alike_leave_a_gap_where_nobody_asked(cache: DomainCache) -> None:
    """In one call and in several."""
    for several in (False, True):
        cache = DomainCache()
        data = a_example(WEB, ttl=70)
        made = [(T + seconds * SECOND, data, CLIENT, 0) for seconds in (0, 60, 300, 310)]
        for each in [made] if not several else [[one] for one in made]:
            heard(cache, *each)
        alive = [bool(names(cache, WEB, T + seconds * SECOND)) for seconds in (0, 59, 130, 131, 299, 300, 380, 381)]
        assert alive == [True, True, True, False, False, True, True, False]


def test_many_answers_are_learnt_as_one_by_one_are() -> None:
    generator = random.Random(11)  # noqa: S311 - repeatable, no secret
    single, many = DomainCache(), DomainCache()
    clients = ["192.0.2.1", "192.0.2.2", "2001:db8::9"]
    servers = [f"198.51.100.{number}" for number in range(13)]
    analysis = DnsAnalysis(5 * SECOND, lambda *_: True)
    time_ns = T
    for _ in range(97):
        records = []
        for _ in range(11):
            time_ns += generator.randrange(20) * SECOND
            data = d.response(
                generator.randrange(65536), f"N{generator.randrange(5)}.example", *(
                    d.address(generator.choice(servers), ttl=generator.choice([0, 90, 300]))
                    for _ in range(generator.randrange(3))
                ), rcode=generator.choice([0, 0, 3]))  # fmt: skip
            records.append(
                answer(data, time_ns, time_ns, destination=generator.choice(clients), cgroup=generator.randrange(2))
            )
        result = analysis.update(messages(*records), open_queries(), time_ns)
        many.learn_many(result.answered)
        for made in result.lookups:
            single.learn(made)
        asked = [
            (client_key(address(client), cgroup), server)
            for client in clients
            for cgroup in (0, 1)
            for server in servers
        ]
        for when in (time_ns, time_ns - 61 * SECOND):
            assert [many.names(client, address(server), when) for client, server in asked] == [
                single.names(client, address(server), when) for client, server in asked
            ]
    assert len(many) == len(single) > 30


def test_the_cache_is_bounded() -> None:
    cache = DomainCache(entries_max=7)
    for number in range(23):
        cache.learn(lookup(f"n{number}.example", d.address(f"198.51.100.{number}")))
        cache.learn(lookup("n0.example", d.address("198.51.100.0"), time_ns=T + number * SECOND))
    assert len(cache) == 7
    assert cache.counts["evicted"] == 16
    alive = [number for number in range(23) if names(cache, f"198.51.100.{number}")]
    assert alive == [0, 17, 18, 19, 20, 21, 22]


def test_the_names_of_an_address_are_bounded(cache: DomainCache) -> None:
    for number in range(11):
        cache.learn(lookup(f"n{number}.example", d.address(WEB)))
    assert names(cache, WEB) == tuple(f"n{number}.example" for number in range(10, 2, -1))
    assert cache.counts["evicted"] == 3


def test_names_are_forgotten_when_nothing_can_ask_for_them() -> None:
    cache = DomainCache(keep_seconds=1000)
    cache.learn(lookup("a.example", d.address(WEB, ttl=100)))
    cache.learn(lookup("b.example", d.address(WEB, ttl=200)))
    cache.learn(lookup("c.example", d.address(OTHER, ttl=100)))
    cache.expire(T + 1100 * SECOND)
    assert names(cache, WEB, T) == ("b.example", "a.example")
    cache.expire(T + 1100 * SECOND + 1)
    assert (names(cache, WEB, T), names(cache, OTHER, T), len(cache)) == (("b.example",), (), 1)
    assert cache.counts["expired"] == 2


def test_many_conversations_at_once_agree_with_one_by_one(cache: DomainCache) -> None:
    generator = random.Random(7)  # noqa: S311 - repeatable, no secret
    clients = [f"192.0.2.{number}" for number in range(5)]
    servers = [f"198.51.100.{number}" for number in range(29)]
    for number in range(997):
        made = lookup(
            f"n{generator.randrange(40)}.example",
            d.address(generator.choice(servers), ttl=generator.randrange(300)),
            client=generator.choice(clients),
            time_ns=T + number * SECOND,
        )
        cache.learn(made)
    rows = [(client_key(address(generator.choice(clients))), generator.choice(servers)) for _ in range(3001)]
    times = [T + generator.randrange(-10, 1200) * SECOND for _ in rows]
    found = cache.match(pairs(*rows), np.array(times))
    one_by_one = [
        cache.names(client, address(server), time) for (client, server), time in zip(rows, times, strict=True)
    ]
    assert [found.names[place] if place >= 0 else () for place in found.places] == one_by_one
    assert {len(each) for each in one_by_one} >= {0, 1, 2, 3}
    assert len(set(found.names)) == len(found.names)


def test_nothing_to_match(cache: DomainCache) -> None:
    assert cache.match(np.empty(0, PAIR), np.empty(0, np.int64)).names == []
    assert cache.match(pairs((HERE, WEB)), np.array([T])).places.tolist() == [-1]
    cache.learn(lookup("a.example", d.address(WEB)))
    assert cache.match(np.empty(0, PAIR), np.empty(0, np.int64)).places.shape == (0,)


def test_a_full_cache_and_more_conversations() -> None:
    cache = DomainCache()
    for number in range(16384):
        cache.learn(lookup(f"n{number}.example", d.address(str(ipaddress.ip_address(0xC6120000 + number)))))
    numbers = [number * 7 % 65536 for number in range(20_011)]
    rows = pairs(*((HERE, str(ipaddress.ip_address(0xC6120000 + number))) for number in numbers))
    found = cache.match(rows, np.full(len(rows), T))
    expected = [(f"n{number}.example",) if number < 16384 else () for number in numbers]
    assert [found.names[place] if place >= 0 else () for place in found.places] == expected


@pytest.mark.parametrize("different", [5, 40])
def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch, different: int) -> None:
    """Put together where many are alike, and taken at once where they are not."""
    monkeypatch.setattr("otel_netmon.analysis.domains._WAITING_MAX", 64)
    cache = DomainCache()
    analysis = DnsAnalysis(5 * SECOND, lambda *_: True)
    for turn in range(23):
        records = [
            answer(a_example(f"198.51.100.{number}"), T, T + turn * SECOND, destination=f"192.0.2.{number % 7}")
            for number in range(different)
        ]
        cache.learn_many(analysis.update(messages(*records), open_queries(), T).answered)
        assert sum(map(len, cache._waiting)) <= 64
    assert len(cache) == different
    for number in range(different):
        client = client_key(address(f"192.0.2.{number % 7}"))
        for seconds, alive in ((-1, False), (0, True), (122, True), (123, False)):
            assert bool(names(cache, f"198.51.100.{number}", T + seconds * SECOND, client)) == alive

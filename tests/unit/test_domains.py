"""The names behind addresses."""

from __future__ import annotations

import ipaddress
import random

import numpy as np
import pytest

from otel_netmon.analysis.connection_index import ENDS, TCP, UDP
from otel_netmon.analysis.dns import DnsAnalysis
from otel_netmon.analysis.dns_lookups import Ends, Lookup, answered
from otel_netmon.analysis.domain_table import WHOM
from otel_netmon.analysis.domains import DomainCache
from otel_netmon.decode.dns import Message, decode
from support import dns_messages as d
from support.dns_events import CLIENT, PORT, SECOND, SERVER, answer, end, messages, open_queries
from support.rows import address

T = 1000 * SECOND
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


def names(cache: DomainCache, server: str, time_ns: int = T, client: str = CLIENT, cgroup: int = 0) -> tuple[str, ...]:
    found = cache.match(asked((client, cgroup, server)), np.array([time_ns]), time_ns)
    return found.names[found.places[0]] if found.places[0] >= 0 else ()


def asked(*rows: tuple[str, int, str]) -> np.ndarray:
    """Who (address, cgroup) may talk to which address."""
    made = np.zeros(len(rows), WHOM)
    for at, (client, cgroup, server) in enumerate(rows):
        made[at] = np.frombuffer(address(client), "u1"), cgroup, np.frombuffer(address(server), "u1")
    return made


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
    assert names(cache, WEB, client="192.0.2.99") == ("b.example",)
    assert names(cache, WEB, cgroup=77) == ("c.example",)
    assert names(cache, WEB, cgroup=77, client="192.0.2.99") == ("c.example",)


def test_who_asked_nothing_has_the_names_of_its_address_and_else_those_of_anybody(cache: DomainCache) -> None:
    cache.learn(lookup("a.example", d.address(WEB), cgroup=11))
    cache.learn(lookup("b.example", d.address(WEB), client="192.0.2.99", time_ns=T + SECOND))
    cache.learn(lookup("c.example", d.address(WEB), cgroup=77, time_ns=T + 2 * SECOND))
    late = T + 3 * SECOND
    for cgroup in (0, 5):
        assert names(cache, WEB, late, cgroup=cgroup) == ("c.example", "a.example")
        assert names(cache, WEB, late, "192.0.2.99", cgroup) == ("b.example",)
        assert names(cache, WEB, late, "2001:db8::99", cgroup) == ("c.example", "b.example", "a.example")
    assert names(cache, WEB, T, cgroup=77) == ("a.example",)  # its own answer came later


def test_a_name_that_several_were_told_is_one_from_the_first_to_the_last(cache: DomainCache) -> None:
    for number, begin in enumerate((0, 90, 50, 500)):
        made = lookup(
            "a.example", d.address(WEB, ttl=100), client=f"192.0.2.{100 + number}", time_ns=T + begin * SECOND
        )
        cache.learn(made)
    for seconds, alive in ((-1, False), (0, True), (120, True), (190, True), (191, False), (499, False), (500, True)):
        assert names(cache, WEB, T + seconds * SECOND) == (("a.example",) if alive else ()), seconds
    assert names(cache, WEB, T + 120 * SECOND, "192.0.2.100") == ("a.example",)  # its own had ended: anybody's


def test_the_names_of_an_address_that_many_asked_for_are_bounded(cache: DomainCache) -> None:
    for number in range(53):
        cache.learn(lookup(f"n{number}.example", d.address(WEB), client=f"192.0.2.{number}", cgroup=number + 1))
    expected = tuple(f"n{number}.example" for number in range(52, 20, -1))
    assert names(cache, WEB, client="2001:db8::99") == expected
    assert names(cache, WEB, cgroup=1) == ("n0.example",)


class Sockets:
    """Cgroups by the port of the client, as far as they are known; notes what is asked."""

    def __init__(self, **known: int) -> None:
        self.known = {int(port.removeprefix("port_")): cgroup for port, cgroup in known.items()}
        self.asked: list[tuple[int, int, int, int]] = []

    def __call__(self, ends: np.ndarray, times_ns: np.ndarray) -> np.ndarray:
        assert ends.dtype == ENDS
        for each, time_ns in zip(ends, times_ns.tolist(), strict=True):
            assert each["local"].tobytes() == address(CLIENT)
            assert each["remote"].tobytes() == address(SERVER)
            ports = int(each["local_port"]), int(each["remote_port"])
            self.asked.append((*ports, int(each["protocol"]), time_ns))
        return np.array([self.known.get(int(port), 0) for port in ends["local_port"]], np.uint64)


def test_answers_wait_for_the_cgroup_of_who_asked(cache: DomainCache) -> None:
    sockets = Sockets()
    cache.set_cgroups(sockets)
    heard(cache, (T, a_example(WEB), CLIENT, 0), destination_port=1001)
    heard(cache, (T, d.response(8, "b.example", d.address(WEB)), CLIENT, 0), destination_port=1002)
    heard(cache, (T, d.response(9, "c.example", d.address(WEB)), CLIENT, 0), destination_port=1003)
    ends = end(CLIENT, 1004), end(SERVER, 53)
    cache.learn(lookup("d.example", d.address(WEB))._replace(client=ends[0], server=ends[1], transport="tcp"))
    assert sockets.asked == []
    sockets.known = {1001: 11, 1002: 22, 1004: 44}  # known since connections were read
    assert names(cache, WEB, cgroup=11) == ("a.example",)
    assert sockets.asked == [(1001, 53, UDP, T), (1002, 53, UDP, T), (1003, 53, UDP, T), (1004, 53, TCP, T)]
    assert names(cache, WEB, cgroup=22) == ("b.example",)
    assert names(cache, WEB, cgroup=44) == ("d.example",)
    assert names(cache, WEB, cgroup=33) == ("d.example", "c.example", "b.example", "a.example")
    assert len(sockets.asked) == 4
    assert cache.answers == (4, 0)


def test_more_answers_than_can_wait_are_taken_with_what_is_known(
    cache: DomainCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First those whose cgroup is known; the others only where there is no room for them either, and that is counted."""
    monkeypatch.setattr("otel_netmon.analysis.domain_answers._WAITING_MAX", 64)
    sockets = Sockets(**{f"port_{port}": 11 for port in range(1, 41)})
    cache.set_cgroups(sockets)
    for port in range(1, 66):
        heard(cache, (T, a_example(WEB), CLIENT, 0), destination_port=port)
    assert (len(cache._waiting), cache.answers) == (25, (40, 0))
    assert cache.counts == {"learned": 1}
    for port in range(100, 140):
        heard(cache, (T, a_example(OTHER), CLIENT, 0), destination_port=port)
    assert (len(cache._waiting), cache.answers) == (0, (105, 65))
    assert names(cache, WEB, cgroup=11) == names(cache, OTHER, cgroup=11) == ("a.example",)
    assert len(cache) == 3


def test_many_that_are_alike_wait_as_one(cache: DomainCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otel_netmon.analysis.domain_answers._WAITING_MAX", 64)
    sockets = Sockets()
    cache.set_cgroups(sockets)
    for number in range(997):
        heard(cache, (T + number * SECOND // 10, a_example(WEB), CLIENT, 0), destination_port=1000 + number % 3)
    assert len(cache._waiting) <= 64
    assert sockets.asked == []
    sockets.known = {1000: 11, 1001: 11, 1002: 22}
    assert names(cache, WEB, T + 99 * SECOND, cgroup=22) == ("a.example",)
    assert {port for port, *_ in sockets.asked} == {1000, 1001, 1002}
    assert (cache.counts, cache.answers[1]) == ({"learned": 2}, 0)


def test_a_name_that_is_asked_for_is_kept(cache: DomainCache) -> None:
    """A connection of hours has the name with which it began."""
    cache.learn(lookup("a.example", d.address(WEB, ttl=100)))
    cache.learn(lookup("b.example", d.address(OTHER, ttl=100)))
    for hour in range(1, 8):
        now_ns = T + hour * 3000 * SECOND
        found = cache.match(asked((CLIENT, 0, WEB)), np.array([T + SECOND]), now_ns)
        assert found.names == [("a.example",)]
        cache.expire(now_ns)
    assert len(cache) == 1
    cache.expire(now_ns + 3600 * SECOND + 1)
    assert (len(cache), cache.counts["expired"]) == (0, 2)


def test_an_address_with_several_names_says_so(cache: DomainCache) -> None:
    for number, name in enumerate(("a.example", "b.example", "a.example", "c.example")):
        cache.learn(lookup(name, d.address(WEB, ttl=100), time_ns=T + number * SECOND))
    assert names(cache, WEB, T + 3 * SECOND) == ("c.example", "a.example", "b.example")
    assert names(cache, WEB, T) == ("a.example",)
    assert names(cache, WEB, T + SECOND) == ("a.example", "b.example")
    assert names(cache, WEB, T + 102 * SECOND) == ("c.example", "a.example")
    assert cache.counts == {"learned": 3}
    cache.learn(lookup("b.example", d.address(WEB, ttl=100), time_ns=T + 4 * SECOND))
    assert names(cache, WEB, T + 4 * SECOND) == ("b.example", "c.example", "a.example")
    assert cache.counts == {"learned": 3, "refreshed": 1}


def test_a_name_that_is_asked_again_lives_on_and_one_that_was_gone_begins_anew(cache: DomainCache) -> None:
    for time_ns in (T, T + 90 * SECOND, T + 500 * SECOND):
        cache.learn(lookup("a.example", d.address(WEB, ttl=100), time_ns=time_ns))
    for seconds, alive in ((0, True), (95, True), (190, True), (191, False), (499, False), (500, True), (600, True)):
        assert names(cache, WEB, T + seconds * SECOND) == (("a.example",) if alive else ())
    assert len(cache) == 2


def heard(cache: DomainCache, *made: tuple[int, bytes, str, int], **fields: int) -> None:
    """Takes answers (time, message, client, cgroup) as the kernel tells them, all at once."""
    analysis = DnsAnalysis(5 * SECOND, lambda *_: True)
    records = [
        answer(data, time_ns - 1, time_ns, destination=client, cgroup=cgroup, **fields)
        for time_ns, data, client, cgroup in made
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
    assert names(cache, WEB, T, "192.0.2.99") == ("a.example",)


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
            single.expire(T)  # takes what waits
        rows = [(client, cgroup, server) for client in clients for cgroup in (0, 1) for server in servers]
        for when in (time_ns, time_ns - 61 * SECOND):
            at_once, one_by_one = (told(cache, rows, np.full(len(rows), when)) for cache in (many, single))
            assert at_once == one_by_one
    assert len(many) == len(single) > 30


def test_the_cache_is_bounded() -> None:
    cache = DomainCache(lives_max=7)
    for number in range(23):
        cache.learn(lookup(f"n{number}.example", d.address(f"198.51.100.{number}")))
        cache.learn(lookup("n0.example", d.address("198.51.100.0"), time_ns=T + number * SECOND))
        assert len(cache) == min(number + 1, 7)
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


def told(cache: DomainCache, rows: list[tuple[str, int, str]], times_ns: np.ndarray) -> list[tuple[str, ...]]:
    found = cache.match(asked(*rows), times_ns, T)
    assert len(set(found.names)) == len(found.names)
    return [found.names[place] if place >= 0 else () for place in found.places]


def test_many_conversations_at_once_are_what_the_answers_say(cache: DomainCache) -> None:
    """Compared with a list of all answers, and the rules as they are written."""
    generator = random.Random(7)  # noqa: S311 - repeatable, no secret
    clients = [f"192.0.2.{number}" for number in range(5)]
    servers = [f"198.51.100.{number}" for number in range(97)]
    answers: list[tuple[str, int, str, str, int, int]] = []
    for number in range(997):
        client, cgroup, server = generator.choice(clients), generator.randrange(4), generator.choice(servers)
        name, ttl, time_ns = f"n{generator.randrange(40)}.example", generator.randrange(300), T + number * SECOND
        cache.learn(lookup(name, d.address(server, ttl=ttl), client=client, cgroup=cgroup, time_ns=time_ns))
        answers.append((client, cgroup, server, name, time_ns, time_ns + max(ttl, 60) * SECOND))

    def expected(client: str, cgroup: int, server: str, time_ns: int) -> set[str]:
        alive = [each for each in answers if each[2] == server and each[4] <= time_ns <= each[5]]
        for chosen in (
            {each[3] for each in alive if cgroup and each[1] == cgroup},
            {each[3] for each in alive if each[0] == client},
            {each[3] for each in alive},
        ):
            if chosen:
                return chosen
        return set()

    rows = [(generator.choice(clients), generator.randrange(5), generator.choice(servers)) for _ in range(3001)]
    rows += [("2001:db8::77", cgroup, server) for cgroup in (0, 1) for server in servers]
    times = [T + generator.randrange(-10, 1100) * SECOND for _ in rows]
    found = told(cache, rows, np.array(times))
    assert [set(each) for each in found] == [expected(*row, time) for row, time in zip(rows, times, strict=True)]
    assert {len(each) for each in found} >= {0, 1, 2, 3}
    servers_asked = np.array([np.frombuffer(address(text), "u1") for text in (*servers, "198.51.100.177")])
    assert cache.knows(servers_asked).tolist() == [True] * 97 + [False]


def test_nothing_to_match(cache: DomainCache) -> None:
    nobody = np.empty((0, 16), np.uint8)
    assert cache.match(asked(), np.empty(0, np.int64), T).names == []
    assert cache.match(asked((CLIENT, 0, WEB)), np.array([T]), T).places.tolist() == [-1]
    assert cache.knows(nobody).shape == (0,)
    cache.learn(lookup("a.example", d.address(WEB)))
    assert cache.match(asked(), np.empty(0, np.int64), T).places.shape == (0,)
    assert cache.knows(nobody).shape == (0,)


def test_a_full_cache_and_more_conversations() -> None:
    cache = DomainCache()
    for number in range(16384):
        cache.learn(lookup(f"n{number}.example", d.address(str(ipaddress.ip_address(0xC6120000 + number)))))
    numbers = [number * 7 % 65536 for number in range(20_011)]
    rows = [(CLIENT, 0, str(ipaddress.ip_address(0xC6120000 + number))) for number in numbers]
    expected = [(f"n{number}.example",) if number < 16384 else () for number in numbers]
    assert told(cache, rows, np.full(len(rows), T)) == expected


@pytest.mark.parametrize("different", [5, 40])
def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch, different: int) -> None:
    """Put together where many are alike, and taken at once where they are not."""
    monkeypatch.setattr("otel_netmon.analysis.domain_answers._WAITING_MAX", 64)
    cache = DomainCache()
    analysis = DnsAnalysis(5 * SECOND, lambda *_: True)
    for turn in range(23):
        records = [
            answer(
                a_example(f"198.51.100.{number}"),
                T + turn * SECOND,
                T + turn * SECOND,
                destination=f"192.0.2.{number % 7}",
            )
            for number in range(different)
        ]
        cache.learn_many(analysis.update(messages(*records), open_queries(), T).answered)
        assert len(cache._waiting) <= 64
    assert cache.answers[1] == 0  # nobody could tell
    assert len(cache) == different
    for number in range(different):
        for seconds, alive in ((-1, False), (0, True), (122, True), (123, False)):
            found = names(cache, f"198.51.100.{number}", T + seconds * SECOND, f"192.0.2.{number % 7}")
            assert bool(found) == alive


def test_what_was_learned_is_forgotten_when_there_is_much_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otel_netmon.analysis.domain_answers._LESSONS_MAX", 10)
    cache = DomainCache()
    analysis = DnsAnalysis(5 * SECOND, lambda *_: True)
    for turn in range(7):
        texts = [f"198.51.100.{number}" for number in range(turn, turn + 11)]
        records = [answer(a_example(text), T, T) for text in texts]
        cache.learn_many(analysis.update(messages(*records), open_queries(), T).answered)
        assert [names(cache, text) for text in texts] == [("a.example",)] * 11
        assert len(cache._waiting._lessons) <= 11
    assert len(cache) == 17


@pytest.mark.parametrize("known", [True, False])
def test_answers_with_many_addresses_wait_within_bounds(
    cache: DomainCache, monkeypatch: pytest.MonkeyPatch, *, known: bool
) -> None:
    """However few they are; those whose cgroup nobody knows are taken first when there is no other way."""
    monkeypatch.setattr("otel_netmon.analysis.domain_answers._ADDRESSES_MAX", 100)
    sockets = Sockets(port_1=11) if known else Sockets()
    cache.set_cgroups(sockets)
    for number in range(23):
        texts = [f"198.51.{number}.{host}" for host in range(11)]
        data = d.response(7, f"n{number}.example", *map(d.address, texts))
        heard(cache, (T, data, CLIENT, 0), destination_port=1)
        assert sum(len(lesson.addresses) for lesson in cache._waiting._lessons) <= 100
    assert cache.answers == (20, 0 if known else 20)
    assert names(cache, "198.51.22.7", cgroup=11) == ("n22.example",)
    assert len(cache) == 23 * 11


def test_what_waits_on_keeps_what_it_was_told(cache: DomainCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """When others of its batch are taken."""
    monkeypatch.setattr("otel_netmon.analysis.domain_answers._WAITING_MAX", 64)
    sockets = Sockets(**{f"port_{port}": 11 for port in range(1, 66) if port % 3})
    cache.set_cgroups(sockets)
    texts = [f"198.51.100.{port}" for port in range(1, 66)]
    for port, text in enumerate(texts, 1):
        heard(cache, (T, d.response(7, f"n{port}.example", d.address(text)), CLIENT, 0), destination_port=port)
    assert (cache.answers, len(cache._waiting), len(cache._waiting._lessons)) == ((44, 0), 21, 21)
    sockets.known = dict.fromkeys(range(1, 66), 11)
    assert [names(cache, text, cgroup=11) for text in texts] == [(f"n{port}.example",) for port in range(1, 66)]
    assert cache.answers == (65, 0)

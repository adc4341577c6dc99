"""How many lookups one name cost."""

from __future__ import annotations

import pytest

from otel_netmon.analysis.dns_lookups import Ends, Lookup, answered
from otel_netmon.analysis.dns_search import WINDOW_NS, Search, Searches
from otel_netmon.decode.dns import Message, decode
from support import dns_messages as d
from support.dns_events import CLIENT, MS, PORT, SECOND, SERVER, end
from support.rows import address

T = 100 * SECOND
NXDOMAIN, NOERROR = 3, 0


class Client:
    """Asks one name after the other, a millisecond each."""

    def __init__(self, searches: Searches, client: str = CLIENT, cgroup: int = 0, time_ns: int = T) -> None:
        self.searches = searches
        self.ends = Ends(0, 2, end(client, PORT), end(SERVER, 53))
        self.cgroup = cgroup
        self.time_ns = time_ns

    def lookup(self, name: str, rcode: int, kind: int, *, empty: bool = False) -> Lookup:
        answers = [] if rcode or empty else [d.address("198.51.100.1")]
        made = decode(d.response(7, name, *answers, kind=kind, rcode=rcode))
        assert isinstance(made, Message)
        return answered("dns", "udp", self.ends, self.cgroup, made, self.time_ns, self.time_ns + MS)

    def ask(
        self, name: str, rcode: int, *, empty: bool = False, kinds: tuple[int, ...] = (d.A, d.AAAA)
    ) -> list[Search]:
        """Both types at once, as getaddrinfo(3) does."""
        found = []
        for kind in kinds:
            found += self.searches.add(self.lookup(name, rcode, kind, empty=empty))
        self.time_ns += MS
        return found


KUBERNETES = ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"]


@pytest.fixture
def searches() -> Searches:
    return Searches()


@pytest.fixture
def client(searches: Searches) -> Client:
    return Client(searches)


def ended(searches: Searches, time_ns: int = T + 10 * SECOND) -> list[tuple[str, int, int, bool]]:
    return [(each.name, each.names, each.lookups, each.found) for each in searches.due(time_ns)]


def test_a_name_of_the_internet_in_a_pod(searches: Searches, client: Client) -> None:
    """With ndots:5 all suffixes come first: five names, ten lookups."""
    for suffix in KUBERNETES:
        client.ask(f"Www.Example.org.{suffix}", NXDOMAIN)
    client.ask("www.example.org", NOERROR)
    assert searches.due(T + 5 * MS + WINDOW_NS) == []
    assert searches.due(T + 5 * MS + WINDOW_NS + 1) == [
        Search(0, address(CLIENT), 0, "www.example.org", 5, 10, True, T, T + 5 * MS)
    ]
    assert searches.due(T + 100 * SECOND) == []


def test_a_service_of_another_namespace(searches: Searches, client: Client) -> None:
    client.ask("db.store.shop.svc.cluster.local", NXDOMAIN)
    client.ask("db.store.svc.cluster.local", NOERROR)
    assert ended(searches) == [("db.store", 2, 4, True)]


def test_a_name_with_nothing_of_one_type(searches: Searches, client: Client) -> None:
    """The first name exists, without an IPv6 address: one name, no search."""
    client.ask("db.shop.svc.cluster.local", NOERROR, kinds=(d.A,))
    client.ask("db.shop.svc.cluster.local", NOERROR, empty=True, kinds=(d.AAAA,))
    assert ended(searches) == []


def test_the_name_as_given_is_tried_first(searches: Searches, client: Client) -> None:
    client.ask("www.exmaple.org", NXDOMAIN)
    client.ask("www.exmaple.org.corp.example", NXDOMAIN)
    assert ended(searches) == [("www.exmaple.org", 2, 4, False)]


def test_suffixes_are_learned(searches: Searches, client: Client) -> None:
    """Two suffixes that have nothing in common are known from a name that went through both."""
    stranger = Client(searches, "192.0.2.99")
    stranger.ask("a.corp.example", NXDOMAIN)
    stranger.ask("a.lab.test", NOERROR)
    for suffix in ("corp.example", "lab.test"):
        client.ask(f"gone.{suffix}", NXDOMAIN)
        client.ask("gone", NXDOMAIN)
        client.time_ns += 2 * SECOND
    client.ask("a.corp.example", NXDOMAIN)
    client.ask("a.lab.test", NOERROR)
    assert ended(searches) == [("gone", 2, 4, False), ("gone", 2, 4, False), ("a", 2, 4, True)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("www.example.org", "mail.example.org"),
        ("www.example.org", "www.example.com"),
        ("a.b.example.org", "b.example.org"),
        ("www.example.org", "xwww.example.org"),
        ("www.example.org", "www.sub.example.org"),
        ("org", "example.org"),
    ],
)
def test_other_names_are_no_search(searches: Searches, client: Client, first: str, second: str) -> None:
    client.ask(first, NXDOMAIN)
    client.ask(second, NOERROR)
    assert ended(searches) == []


def test_a_search_ends_with_what_was_found(searches: Searches, client: Client) -> None:
    client.ask("db.shop.svc.cluster.local", NXDOMAIN)
    client.ask("db.svc.cluster.local", NOERROR)
    client.ask("db.cluster.local", NXDOMAIN)
    assert ended(searches) == [("db", 2, 4, True)]


def test_two_searches_for_the_same_label(searches: Searches, client: Client) -> None:
    client.ask("db.shop.svc.cluster.local", NXDOMAIN)
    client.ask("db.svc.cluster.local", NXDOMAIN)
    client.ask("db.lab.example.test", NXDOMAIN)
    client.ask("db.example.test", NOERROR)
    assert ended(searches) == [("db", 2, 4, False), ("db", 2, 4, True)]


def test_only_what_is_asked_behind_the_answer_goes_on(searches: Searches, client: Client) -> None:
    client.ask("db.shop.svc.cluster.local", NXDOMAIN)
    client.time_ns -= MS + 1
    client.ask("db.svc.cluster.local", NOERROR)
    assert ended(searches) == []
    client.ask("db.shop.svc.cluster.local", NXDOMAIN)
    client.time_ns += WINDOW_NS + 1
    client.ask("db.svc.cluster.local", NOERROR)
    assert ended(searches) == []


def test_clients_are_apart(searches: Searches, client: Client) -> None:
    client.ask("db.shop.svc.cluster.local", NXDOMAIN)
    Client(searches, "192.0.2.99", time_ns=client.time_ns).ask("db.svc.cluster.local", NOERROR)
    Client(searches, cgroup=1, time_ns=client.time_ns).ask("db.svc.cluster.local", NOERROR)
    assert ended(searches) == []


def test_only_answers_of_dns_count(searches: Searches, client: Client) -> None:
    made = client.lookup("db.shop.svc.cluster.local", NXDOMAIN, d.A)
    for other in (
        made._replace(outcome="unmatched_response"),
        made._replace(outcome="timeout", rcode=None),
        made._replace(protocol="llmnr"),
        made._replace(questions=()),
        made._replace(rcode=2),
    ):
        searches.add(other)
    client.time_ns += MS
    client.ask("db.svc.cluster.local", NOERROR)
    assert ended(searches) == []


def test_bounds() -> None:
    searches = Searches(clients_max=3, open_max=2)
    first = Client(searches)
    first.ask("db.shop.svc.cluster.local", NXDOMAIN)
    first.ask("db.svc.cluster.local", NXDOMAIN)
    assert first.ask("other.example", NXDOMAIN) == []
    (lost,) = first.ask("third.example", NXDOMAIN)
    assert lost.name == "db"
    first.ask("third.example.corp", NXDOMAIN)
    for number in range(2):
        assert Client(searches, f"192.0.2.{20 + number}").ask("db.svc.cluster.local", NXDOMAIN) == []
    (lost,) = Client(searches, "192.0.2.30").ask("db.svc.cluster.local", NXDOMAIN)
    assert (lost.name, lost.client) == ("third.example", address(CLIENT))


def test_known_suffixes_are_bounded(searches: Searches, client: Client) -> None:
    for number in range(300):
        client.ask("gone", NXDOMAIN)
        client.ask(f"gone.s{number}", NXDOMAIN)
        client.time_ns += 2 * SECOND
    assert len(searches._suffixes) == 256

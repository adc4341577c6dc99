"""Handshakes told from whole drains: the same as followers tell, whatever comes, and most without a follower."""

from __future__ import annotations

import os
import random
import secrets
import ssl
from collections.abc import Sequence
from pathlib import Path

import pytest

from otel_netmon.analysis.tcp_preambles import preamble_recognisers
from otel_netmon.analysis.tls_handshakes import TlsHandshake
from otel_netmon.analysis.tls_tracker import TlsTracker
from otel_netmon.sources.streams import StreamSource
from support import tls_messages as t
from support.tcp_talk import CLIENT, SERVER, Talk
from support.tls_ring import handed_over, messages, records
from support.tls_talk import Authority, Flight, contexts, converse

SECOND = 1_000_000_000
TIMEOUT_NS = 10 * SECOND
FUZZ_HANDSHAKES = int(os.environ.get("NETMON_FUZZ_MESSAGES", "2003"))
SEED = int(os.environ.get("NETMON_FUZZ_SEED", "0")) or secrets.randbits(32)
VERSIONS = {
    "1.0": ssl.TLSVersion.TLSv1,
    "1.1": ssl.TLSVersion.TLSv1_1,
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}


class Both:
    """The same drains with and without followers alone."""

    def __init__(self) -> None:
        self.batched, self.followed = TlsTracker(TIMEOUT_NS, 16384), TlsTracker(TIMEOUT_NS, 16384)
        self._sources = [
            StreamSource([*preamble_recognisers(), tracker.recogniser()], batches)
            for tracker, batches in ((self.batched, self.batched.batches), (self.followed, None))
        ]
        self.found: list[list[TlsHandshake]] = [[], []]

    def take(self, made: Sequence[bytes], now_ns: int) -> None:
        for source, found in zip(self._sources, self.found, strict=True):
            found.extend(source.take(messages(made), now_ns))

    @property
    def batches_told(self) -> int:
        return self.batched.batches.told

    def differences(self) -> list[tuple[TlsHandshake | None, TlsHandshake | None]]:
        """What is told by one of both and not so by the other."""
        one, other = ({(each.connection, each.start_ns): each for each in found} for found in self.found)
        return [(one.get(key), other.get(key)) for key in one | other if one.get(key) != other.get(key)]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server_file(authority: Authority) -> Path:
    return authority.issue(["secure.example"])


@pytest.fixture(scope="module")
def every_kind(authority: Authority, server_file: Path) -> list[list[Flight]]:
    """Handshakes of every version, new and resumed, with a certificate of the client, and refused ones."""
    kinds: list[list[Flight]] = []
    for version in VERSIONS.values():
        both = contexts(server_file, authority.file, version)
        both[0].set_alpn_protocols(["h2"])
        both[1].set_alpn_protocols(["h2", "http/1.1"])
        first = converse(both)
        kinds += [first.flights, converse(both, session=first.client.session).flights]
    both = contexts(server_file, authority.file, VERSIONS["1.2"])
    both[0].load_cert_chain(authority.issue(["me.example"]))
    both[1].load_verify_locations(authority.file)
    both[1].verify_mode = ssl.CERT_REQUIRED
    kinds.append(converse(both).flights)
    kinds.append(converse(contexts(server_file, authority.file, VERSIONS["1.2"], "ECDHE-ECDSA-AES256-SHA")).flights)
    kinds.append(converse(contexts(server_file, authority.file, VERSIONS["1.2"]), name="other.example").flights)
    kinds.append(converse(contexts(server_file, authority.file, VERSIONS["1.3"]), name="other.example").flights)
    return [handed_over(flights) for flights in kinds]


def connection(number: int, time_ns: int = 0) -> Talk:
    talk = Talk(CLIENT[:12] + (0x0A000000 + number).to_bytes(4, "big") + CLIENT[16:], SERVER)
    talk.time_ns = time_ns
    return talk


def said(talk: Talk, flights: list[Flight], size: int = 1460, *, close: bool = False) -> list[bytes]:
    found = talk.open()
    for from_client, data in flights:
        found += talk.say(from_client, data, size)
    if close:
        found += [talk.fin(True), talk.fin(False)]
    return records(talk, found)


@pytest.mark.parametrize("kind", range(10))
def test_usual_handshakes_need_no_follower(kind: int, every_kind: list[list[Flight]]) -> None:
    both = Both()
    for number in range(7):
        both.take(said(connection(number, number * SECOND), every_kind[kind]), number * SECOND + SECOND)
    assert both.batches_told == 7
    assert [each.outcome for each in both.found[0]] == ["established"] * 7
    assert both.differences() == []


@pytest.mark.parametrize("kind", [4, 6])
def test_what_comes_in_several_drains_is_waited_for(kind: int, every_kind: list[list[Flight]]) -> None:
    made = said(connection(1), every_kind[kind])
    both = Both()
    for at, one in enumerate(made):
        both.take([one], 100_000_000 * (at + 1))
    assert (both.batches_told, len(both.found[1])) == (1, 1)
    assert both.differences() == []


def test_who_waits_too_long_gets_a_follower_and_times_out(every_kind: list[list[Flight]]) -> None:
    both = Both()
    both.take(said(connection(1), every_kind[6][:1]), SECOND // 100)
    assert len(both.batched) == 0
    both.take([], 2 * SECOND)
    assert len(both.batched) == 1
    (late,) = both.batched.advance(20 * SECOND)
    assert late.outcome == "timed_out"
    assert [late] == both.followed.advance(20 * SECOND)
    assert both.batches_told == 0


def test_loopback_shows_each_packet_twice(every_kind: list[list[Flight]]) -> None:
    both = Both()
    for number, flights in enumerate(every_kind[:10]):
        talk = connection(number, number * SECOND)
        found = talk.open()
        for from_client, data in flights:
            found += talk.say(from_client, data)
        both.take(records(talk, found, loopback=True), number * SECOND + SECOND)
    assert both.batches_told == 10
    assert both.differences() == []


def test_a_port_that_is_used_again(every_kind: list[list[Flight]]) -> None:
    both = Both()
    made: list[bytes] = []
    time_ns = 0
    for number, kind in enumerate((4, 6, 9, 7)):
        talk = Talk(numbers=(1000 * number, 77_000 * number))
        talk.time_ns = time_ns
        made += said(talk, every_kind[kind], close=True)
        time_ns = talk.time_ns
    both.take(made, SECOND)
    assert [each.outcome for each in both.found[0]] == ["established"] * 4
    assert both.differences() == []


@pytest.mark.parametrize("kind", [0, 4, 6])
@pytest.mark.parametrize("size", [1, 7, 53, 536])
def test_cuts_change_nothing(kind: int, size: int, every_kind: list[list[Flight]]) -> None:
    both = Both()
    both.take(said(connection(1), every_kind[kind], size), 60 * SECOND)
    assert len(both.found[0]) == 1
    assert both.differences() == []


@pytest.mark.parametrize("kind", [4, 6])
def test_the_hellos_and_the_chain_may_be_cut_at_every_byte(kind: int, every_kind: list[list[Flight]]) -> None:
    """Into two segments, and those in two drains too."""
    flights = every_kind[kind]
    together, apart = Both(), Both()
    number = 0
    for place, (from_client, data) in enumerate(flights[:2]):
        made: list[bytes] = []
        first: list[bytes] = []
        rest: list[bytes] = []
        for cut in range(1, len(data)):
            pieces = [*flights[:place], (from_client, data[:cut]), (from_client, data[cut:]), *flights[place + 1 :]]
            found = said(connection(number, number * SECOND), pieces, 100_000)
            made += found
            first += found[: place + 1]
            rest += found[place + 1 :]
            number += 1
        now_ns = number * SECOND
        together.take(made, now_ns)
        apart.take(first, 0)
        apart.take(rest, 0)
    # A first segment of less than ten octets does not tell that a hello begins: those have followers.
    assert together.batches_told == apart.batches_told == number - 9
    assert len(together.found[0]) == len(apart.found[0]) == number
    assert {each.outcome for each in together.found[0]} == {"established"}
    assert together.differences() == apart.differences() == []


def test_sealing_that_is_told_later_makes_no_connection(every_kind: list[list[Flight]]) -> None:
    """Before TLS 1.3 the header of the first application data comes behind the handshake, maybe drains later."""
    talk = connection(1)
    made = said(talk, every_kind[4])
    tracker = TlsTracker(TIMEOUT_NS, 16384)
    source = StreamSource([tracker.recogniser()], tracker.batches)
    assert len(source.take(messages(made[:-2]), SECOND)) == 1
    assert source.take(messages(made[-2:]), 2 * SECOND) == []
    assert len(source) == 0


def test_the_server_that_is_asked_by_name_is_the_one_of_its_own_hello(authority: Authority, server_file: Path) -> None:
    """Hellos that are alike but for the name, the session and the share."""
    both = Both()
    made = contexts(server_file, authority.file, VERSIONS["1.3"])
    made[0].check_hostname = False
    names = ["aa.example", "bb.example", None, "cc.example", "a-longer.example", "bb.example"]
    for number, name in enumerate(names):
        flights = handed_over(converse(made, name=name).flights)
        both.take(said(connection(number, number * SECOND), flights), number * SECOND + SECOND)
    assert [each.server_name for each in both.found[0]] == names
    assert len({each.hello.session_id for each in both.found[0]}) == len(names)
    assert both.differences() == []
    assert both.batches_told == len(names)


def test_too_much_to_hold_goes_to_followers(monkeypatch: pytest.MonkeyPatch, every_kind: list[list[Flight]]) -> None:
    monkeypatch.setattr("otel_netmon.analysis.tls_batches.HELD_OCTETS_MAX", 1000)
    both = Both()
    made = [said(connection(number), every_kind[6]) for number in range(5)]
    both.take([one for each in made for one in each[:1]], SECOND)
    assert len(both.batched) == 5
    both.take([one for each in made for one in each[1:]], 2 * SECOND)
    assert (both.batches_told, len(both.found[0])) == (0, 5)
    assert both.differences() == []


def _cut(data: bytes, generator: random.Random) -> bytes:
    octets = bytearray(data)
    for _ in range(generator.choice([0, 0, 0, 0, 0, 0, 0, 1, 2, 8])):
        if octets:
            where = generator.randrange(len(octets))
            what = generator.randrange(4)
            if what < 2:
                octets[where] = generator.choice(
                    [0, 1, 2, 3, 0x14, 0x15, 0x16, 0x17, 0x80, 0xFF, generator.randrange(256)]
                )
            elif what == 2:
                del octets[where : where + generator.randrange(1, 20)]
            else:
                octets[where:where] = generator.randbytes(generator.randrange(1, 20))
    return bytes(octets)


def _repeated(made: list[bytes], generator: random.Random) -> list[bytes]:
    """Some records twice, some exchanged with their neighbours, some lost."""
    found = list(made)
    what = generator.randrange(8)
    if what == 0 and found:
        at = generator.randrange(len(found))
        found.insert(at + 1, found[at])  # the kernel hands over nothing that lies before what it follows
    elif what == 1 and len(found) > 1:
        at = generator.randrange(len(found) - 1)
        found[at], found[at + 1] = found[at + 1], found[at]
    elif what == 2 and found:
        del found[generator.randrange(len(found))]
    return found


def test_damaged_handshakes_are_told_as_followers_tell_them(every_kind: list[list[Flight]]) -> None:
    generator = random.Random(SEED)  # noqa: S311
    both = Both()
    behind = t.record(t.HANDSHAKE, t.handshake(t.CLIENT_HELLO, t.client_hello([0xC02F], [])))
    odd: list[list[Flight]] = [[(False, b"220 mx\r\n"), (True, b"STARTTLS\r\n"), (True, behind)], [(True, behind)] * 2]
    number, now_ns = 0, 0
    while number < FUZZ_HANDSHAKES:
        ways: list[list[bytes]] = []
        for _ in range(generator.randrange(1, 40)):
            talk = connection(number, now_ns + generator.randrange(1000))
            found = talk.open()
            for from_client, data in generator.choice(every_kind if generator.random() < 0.95 else odd):
                hurt = _cut(data, generator)
                if hurt:
                    found += talk.say(from_client, hurt, generator.choice([200, 536, 1460]))
            if generator.random() < 0.3:
                found += [talk.fin(True), talk.fin(False)]
            ways.append(_repeated(records(talk, found), generator))
            number += 1
        order = [way for way, made in enumerate(ways) for _ in made]
        generator.shuffle(order)
        waiting = [iter(made) for made in ways]
        merged = [next(waiting[way]) for way in order]
        while merged:
            many = generator.randrange(1, len(merged) + 1)
            now_ns += generator.choice([10_000_000, 300_000_000])
            both.take(merged[:many], now_ns)
            del merged[:many]
        now_ns += 3 * SECOND
        both.take([], now_ns)
    now_ns += 100 * SECOND
    both.found[0] += both.batched.advance(now_ns)
    both.found[1] += both.followed.advance(now_ns)
    assert both.differences() == [], f"NETMON_FUZZ_SEED={SEED}"
    assert FUZZ_HANDSHAKES / 8 < both.batches_told < len(both.found[0]) <= number

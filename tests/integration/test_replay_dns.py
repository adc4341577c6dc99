"""The DNS part of a replay: captures with known lookups, beside tshark, and damaged."""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from struct import pack
from typing import Any

import pytest

from otel_netmon.replay import Replay, replay
from support import dns_messages as dns, frames as f
from support.dns_captures import (
    CLIENT6,
    SECOND,
    SERVER6,
    TIMEOUT,
    UNMATCHED,
    Packet,
    answer,
    expected,
    framed,
    tcp,
    udp,
    write,
)

pytestmark = pytest.mark.kernel

NAME = "www.example.org"
MS = 1_000_000
FUZZ_MESSAGES = int(os.environ.get("NETMON_FUZZ_MESSAGES", "30011"))
SEED = int(os.environ.get("NETMON_FUZZ_SEED", "0")) or secrets.randbits(32)


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Replays packets that lie 1 ms apart, unless they have times of their own."""

    def replayed(*packets: bytes | Packet, decapsulate: bool = False) -> Replay:
        timed = [p if isinstance(p, Packet) else Packet(number * MS, p) for number, p in enumerate(packets)]
        result = replay(write(tmp_path / "dns.pcap", timed), tmp_path, decapsulate)
        assert result.messages_lost == {}
        return result

    return replayed


# ------------------------------------------------------------------------------------------------------------------- UDP
def test_an_answered_lookup(run: Any) -> None:
    result = run(udp(dns.query(7, NAME)), udp(answer(7, NAME, "192.0.2.1"), back=True))
    assert result.dns == [expected(7, NAME)]
    assert result.dns_unparsed == {}


def test_every_outcome(run: Any) -> None:
    result = run(
        udp(dns.query(1, NAME)),
        udp(dns.query(2, "dead.example")),
        udp(dns.query(3, "no.example", dns.AAAA)),
        udp(answer(1, NAME, "192.0.2.1", "192.0.2.2"), back=True),
        udp(answer(3, "no.example", kind=dns.AAAA, rcode=3), back=True),
        udp(answer(4, "whose.example"), back=True),
        udp(answer(1, NAME, "192.0.2.9"), back=True),
    )
    assert result.dns == [
        expected(1, NAME, answers=2, duration_ms=3.0),
        expected(2, "dead.example", **TIMEOUT),
        expected(3, "no.example", qtype="AAAA", rcode="NXDOMAIN", answers=0, duration_ms=2.0),
        expected(4, "whose.example", answers=0, **UNMATCHED),
        expected(1, NAME, **UNMATCHED),
    ]


def test_copies_are_one_lookup_from_the_first_on(run: Any) -> None:
    query = udp(dns.query(7, NAME))
    result = run(query, query, query, udp(answer(7, NAME, "192.0.2.1"), back=True))
    assert result.dns == [expected(7, NAME, retries=2, duration_ms=3.0)]


def test_a_question_is_open_to_the_end_of_the_capture(run: Any) -> None:
    week = 7 * 86400 * SECOND
    result = run(
        Packet(0, udp(dns.query(7, NAME))),
        Packet(SECOND, udp(dns.query(8, NAME))),
        Packet(week, udp(answer(7, NAME, "192.0.2.1"), back=True)),
    )
    assert result.dns == [
        expected(7, NAME, duration_ms=float(week // MS)),
        expected(8, NAME, **TIMEOUT),
    ]


def test_ipv6_and_a_root_query(run: Any) -> None:
    ends = {"client": CLIENT6, "server": SERVER6}
    result = run(
        udp(dns.query(7, ".", dns.NS), six=True),
        udp(dns.response(7, ".", kind=dns.NS), six=True, back=True),
    )
    assert result.dns == [expected(7, ".", qtype="NS", answers=0, **ends)]


def test_a_refusal_without_a_question_belongs_to_the_open_query(run: Any) -> None:
    result = run(udp(dns.query(7, NAME)), udp(dns.message(7, 0x8001), back=True))
    assert result.dns == [expected(7, NAME, rcode="FORMERR", answers=0)]


def test_an_answer_whose_later_question_is_unreadable_is_one(run: Any) -> None:
    reply = dns.message(7, dns.RESPONSE_FLAGS | 3, [dns.question(NAME), b"\xc0"])
    result = run(udp(dns.query(7, NAME)), udp(reply, back=True))
    assert result.dns == [expected(7, NAME, rcode="NXDOMAIN", answers=0)]
    assert result.dns_unparsed == {}


def test_another_case_is_the_same_name_and_another_name_is_not(run: Any) -> None:
    result = run(
        udp(dns.query(7, "wWw.ExAmPlE.oRg")),
        udp(answer(7, "www.example.com", "192.0.2.6"), back=True),
        udp(answer(7, "www.example.org", "192.0.2.1"), back=True),
    )
    assert [(e["qname"], e["outcome"]) for e in result.dns] == [
        ("www.example.org", "answered"),
        ("www.example.com", "unmatched_response"),
    ]


def test_multicast_names_are_no_lookups_of_a_resolver(run: Any) -> None:
    result = run(
        udp(dns.query(0, "printer.local"), port=5353, server_port=5353),
        udp(answer(0, "printer.local", "192.0.2.1"), back=True, port=5353, server_port=5353),
        udp(dns.query(9, "laptop"), server_port=5355),
        udp(answer(9, "laptop", "192.0.2.2"), back=True, server_port=5355),
    )
    assert result.dns == []
    assert result.dns_unparsed == {}


def test_what_is_no_dns_is_told_by_reason(run: Any) -> None:
    loop = dns.message(7, 0, [dns.pointer(12) + pack(">HH", 1, 1)])
    result = run(udp(b"x" * 5), udp(b"SSH-2.0-OpenSSH_9.2"), udp(loop), udp(dns.query(7, NAME)))
    assert result.dns == [expected(7, NAME, **TIMEOUT)]
    assert result.dns_unparsed == {"header": 1, "question": 1, "short": 1}
    assert result.document()["dns_unparsed"] == result.dns_unparsed


def test_the_first_fragment_of_an_answer_is_enough(run: Any) -> None:
    whole = f.udp(answer(7, NAME, *[f"192.0.2.{n}" for n in range(97)]), 53, 40000)
    result = run(
        udp(dns.query(7, NAME)),
        f.ethernet(f.ipv4(whole[:1480], f.UDP, f.B4, f.A4, more=True)),
    )
    assert result.dns == [expected(7, NAME, answers=97)]


def test_answers_longer_than_a_test_run_takes_are_read_as_far_as_it_goes(run: Any) -> None:
    long = answer(7, NAME, *["192.0.2.1"] * 997)
    assert len(long) > 15000
    result = run(udp(dns.query(7, NAME)), udp(long, back=True), udp(dns.query(8, NAME)))
    assert result.dns == [expected(7, NAME, answers=997), expected(8, NAME, **TIMEOUT)]
    assert result.counted == 3


def test_many_lookups_of_long_answers_lose_nothing(run: Any) -> None:
    """More than the ring holds several times over."""
    packets = []
    for number in range(5003):
        packets.append(udp(dns.query(number, NAME)))
        packets.append(udp(answer(number, NAME, *["192.0.2.1"] * (number % 83)), back=True))
    result = run(*packets)
    assert result.dns == [expected(number, NAME, answers=number % 83) for number in range(5003)]


# ------------------------------------------------------------------------------------------------------------------- TCP
TCP = {"transport": "tcp", "client_port": 40001}


def test_a_lookup_over_tcp(run: Any) -> None:
    query, reply = framed(dns.query(7, NAME)), framed(answer(7, NAME, "192.0.2.1"))
    result = run(
        tcp(b"", 99, flags=f.SYN),
        tcp(b"", 499, back=True, flags=f.SYN | f.ACK),
        tcp(b"", 100),
        tcp(query, 100),
        tcp(reply, 500, back=True),
        tcp(b"", 100 + len(query), flags=f.FIN | f.ACK),
    )
    assert result.dns == [expected(7, NAME, **TCP)]


def test_pipelined_and_split_messages_over_tcp(run: Any) -> None:
    names = [f"host{number}.example.org" for number in range(23)]
    queries = b"".join(framed(dns.query(number, name)) for number, name in enumerate(names))
    replies = b"".join(framed(answer(number, name, "192.0.2.1")) for number, name in reversed(list(enumerate(names))))
    pieces = [Packet(0, tcp(queries, 100))]
    pieces += [Packet(MS, tcp(replies[at : at + 1], 500 + at, back=True)) for at in range(len(replies))]
    result = run(*pieces)
    found = sorted(result.dns, key=lambda entry: entry["id"])
    assert found == [expected(number, name, **TCP) for number, name in enumerate(names)]


@pytest.mark.parametrize("headers", [f.SYN, f.ACK])
def test_a_super_packet_of_tcp_is_read_whole(run: Any, headers: int) -> None:
    """60 KiB in one frame, with and without data in the SYN: 17 test runs that give one stream."""
    names = [f"host{number}.{'x' * 60}.example.org" for number in range(503)]
    queries = b"".join(framed(dns.query(number, name)) for number, name in enumerate(names))
    replies = b"".join(framed(answer(number, name, "192.0.2.1")) for number, name in enumerate(names))
    assert 50_000 < len(queries) < len(replies) < 65_000
    first = 100 - (headers == f.SYN)
    result = run(tcp(queries, first, flags=headers), tcp(replies, 500, back=True, flags=f.ACK | f.FIN))
    assert result.dns == [expected(number, name, **TCP) for number, name in enumerate(names)]
    assert result.counted == 2
    assert [(flow["packets"], flow["retransmits"]) for flow in result.flows] == [(1, 0), (1, 0)]


def test_a_super_packet_too_long_for_the_ip_header(run: Any) -> None:
    """An offload leaves the IP length 0; a further segment goes on where it ended."""
    replies = [framed(answer(number, NAME, *["192.0.2.1"] * 97)) for number in range(43)]
    stream = b"".join(replies)
    assert len(stream) > 65536
    queries = b"".join(framed(dns.query(number, NAME)) for number in range(43))
    result = run(tcp(queries, 100), tcp(stream[:66000], 500, back=True), tcp(stream[66000:], 66500, back=True))
    late = next(number for number in range(43) if len(b"".join(replies[: number + 1])) > 66000)
    assert result.dns == [
        expected(number, NAME, answers=97, duration_ms=1.0 if number < late else 2.0, **TCP) for number in range(43)
    ]


def test_a_message_of_64_kib_over_tcp(run: Any) -> None:
    long = answer(7, NAME, *["192.0.2.1"] * 4090)
    assert 65_000 < len(long) < 65_536
    stream = framed(long) + framed(answer(8, NAME, "192.0.2.1"))
    result = run(
        tcp(framed(dns.query(7, NAME)) + framed(dns.query(8, NAME)), 100),
        *[tcp(stream[at : at + 1460], 500 + at, back=True) for at in range(0, len(stream), 1460)],
    )
    assert [(e["id"], e["answers"], e["outcome"]) for e in result.dns] == [(7, 4090, "answered"), (8, 1, "answered")]


def test_truncated_over_udp_then_over_tcp_are_two_lookups(run: Any) -> None:
    result = run(
        udp(dns.query(7, NAME, dns.TXT)),
        udp(dns.response(7, NAME, kind=dns.TXT, flags=dns.TRUNCATED), back=True),
        tcp(framed(dns.query(7, NAME, dns.TXT)), 100),
        tcp(framed(dns.response(7, NAME, dns.record(dns.pointer(12), dns.TXT, b"\1x"), kind=dns.TXT)), 500, back=True),
    )
    assert result.dns == [
        expected(7, NAME, qtype="TXT", answers=0),
        expected(7, NAME, qtype="TXT", **TCP),
    ]


# --------------------------------------------------------------------------------------------------------------- tunnels
TUNNELS: dict[str, Callable[[bytes], bytes]] = {
    "vxlan": lambda frame: f.ethernet(f.ipv4(f.vxlan(frame), f.UDP, "198.19.0.1", "198.19.0.2")),
    "geneve": lambda frame: f.ethernet(f.ipv6(f.geneve(frame, options=3), f.UDP), f.IPV6),
    "gre": lambda frame: f.ethernet(f.ipv4(f.gre(frame, f.TEB), f.GRE, "198.19.0.1", "198.19.0.2")),
    "ipip": lambda frame: f.ethernet(f.ipv4(frame[14:], f.IPIP, "198.19.0.1", "198.19.0.2")),
}


@pytest.mark.parametrize("decapsulate", [False, True])
@pytest.mark.parametrize("tunnel", TUNNELS)
def test_lookups_inside_a_tunnel_are_found(run: Any, tunnel: str, decapsulate: bool) -> None:
    into = TUNNELS[tunnel]
    queries = framed(dns.query(9, NAME)) * 101  # 4 KB: in pieces
    result = run(
        into(udp(dns.query(7, NAME))),
        into(udp(answer(7, NAME, "192.0.2.1"), back=True)),
        into(tcp(queries, 100)),
        into(tcp(framed(answer(9, NAME, "192.0.2.1")), 500, back=True)),
        decapsulate=decapsulate,
    )
    assert result.dns == [expected(7, NAME), expected(9, NAME, retries=100, **TCP)]
    assert result.counted == 4
    assert sum(flow["packets"] for flow in result.flows) == 4
    assert ("198.18.0.1" in {flow["src"] for flow in result.flows}) == decapsulate


# ----------------------------------------------------------------------------------------------------- the command, tshark
def test_the_command_prints_the_list(tmp_path: Path) -> None:
    path = write(
        tmp_path / "dns.pcap",
        [Packet(0, udp(dns.query(7, NAME))), Packet(MS, udp(answer(7, NAME, "192.0.2.1"), back=True))],
    )
    command = [sys.executable, "-m", "otel_netmon", "replay", path, "--output", "json"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    document = json.loads(output)
    assert document["dns"] == [expected(7, NAME)]
    assert "dns_unparsed" not in document
    assert "messages_lost" not in document


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_lookups_are_those_of_tshark(tmp_path: Path) -> None:
    """Random conversations: losses, copies, reordering, several resolvers, both transports and families."""
    generator = random.Random(SEED)  # noqa: S311 - variety, not secrets
    packets = []
    for number in range(1009):
        time = number * 7 * MS + generator.randrange(MS)
        six = generator.random() < 0.4
        port = 2000 + number
        name = ".".join("abcdefgh"[: generator.randrange(1, 9)] for _ in range(generator.randrange(1, 6)))
        kind = generator.choice([dns.A, dns.AAAA, dns.TXT, dns.HTTPS, dns.PTR])
        query = udp(dns.query(number, name, kind), port=port, six=six)
        answers = ["192.0.2.1"] * generator.randrange(5)
        reply = udp(answer(number, name, *answers, kind=kind, rcode=generator.choice([0, 2, 3, 5])), port=port,
                    six=six, back=True)  # fmt: skip
        packets.append(Packet(time, query))
        if generator.random() < 0.2:
            packets.append(Packet(time + generator.randrange(1, MS), query))
        if generator.random() < 0.8:
            packets.append(Packet(time + MS + generator.randrange(20 * MS), reply))
    packets.sort()
    path = write(tmp_path / "dns.pcap", packets)
    found = replay(path, tmp_path)
    fields = ("dns.id", "dns.flags.response", "dns.time", "dns.flags.rcode", "dns.count.answers", "dns.retransmission")
    command = ["tshark", "-n", "-r", path, "-T", "fields", *(w for field in fields for w in ("-e", field))]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    rows = [dict(zip(fields, line.split("\t"), strict=True)) for line in lines]
    assert len(rows) == len(packets)
    answered = {int(row["dns.id"], 0): row for row in rows if row["dns.time"]}
    asked = {int(row["dns.id"], 0) for row in rows}
    assert len(asked) == 1009, f"seed {SEED}"
    mine = {entry["id"]: entry for entry in found.dns}
    assert len(mine) == len(found.dns) == 1009, f"seed {SEED}"
    for identifier, entry in mine.items():
        row = answered.get(identifier)
        if row is None:
            assert (entry["outcome"], entry["rcode"]) == ("timeout", None), f"seed {SEED}"
            continue
        assert entry["outcome"] == "answered", f"seed {SEED}"
        assert entry["duration_ms"] == pytest.approx(float(row["dns.time"]) * 1000, abs=1e-6), f"seed {SEED}"
        assert entry["answers"] == int(row["dns.count.answers"]), f"seed {SEED}"
        rcodes = {"0": "NOERROR", "2": "SERVFAIL", "3": "NXDOMAIN", "5": "REFUSED"}
        assert entry["rcode"] == rcodes[row["dns.flags.rcode"]], f"seed {SEED}"


# ---------------------------------------------------------------------------------------------------------------- damage
def test_damaged_messages_are_each_a_lookup_or_a_reason(tmp_path: Path) -> None:
    """By default 30,011 messages; NETMON_FUZZ_MESSAGES=1000003 for more, NETMON_FUZZ_SEED repeats a run.

    Every message that was run is part of a lookup, or is no message for a reason that is told.
    """
    generator = random.Random(SEED)  # noqa: S311 - damage, not secrets
    path = tmp_path / "dns.pcap"
    total: Counter[str] = Counter()
    for begin in range(0, FUZZ_MESSAGES, 10000):
        many = min(10000, FUZZ_MESSAGES - begin)
        write(path, (Packet(number * MS, _damaged(generator, number)) for number in range(many)))
        result = replay(str(path), tmp_path)
        assert result.messages_lost == {}, f"seed {SEED}"
        outcomes = Counter(entry["outcome"] for entry in result.dns)
        queries = sum(1 + entry["retries"] for entry in result.dns if entry["outcome"] != "unmatched_response")
        responses = outcomes["answered"] + outcomes["unmatched_response"]
        assert queries + responses + sum(result.dns_unparsed.values()) == many, f"seed {SEED}"
        total.update(outcomes)
        total.update(result.dns_unparsed)
    assert all(total[what] for what in ("answered", "timeout", "unmatched_response", "header", "question", "short"))


def _damaged(generator: random.Random, number: int) -> bytes:
    identifier = number // 2 % 97
    name = generator.choice([NAME, "a.b", "x" * 63 + ".example", "www.example.org"])
    is_query = generator.random() < 0.5
    if is_query:
        message = bytearray(dns.query(identifier, name))
    else:
        message = bytearray(answer(identifier, name, *["192.0.2.1"] * generator.randrange(5)))
    damage = generator.random()
    if damage < 0.6:
        for _ in range(generator.randrange(1, 4)):
            message[generator.randrange(len(message))] = generator.choice([0, 1, 12, 0x3F, 0x40, 0x80, 0xC0, 0xFF])
    elif damage < 0.7:
        del message[generator.randrange(len(message)) :]
    elif damage < 0.75:
        message += generator.randbytes(generator.randrange(1, 40))
    return udp(bytes(message), back=not is_query)

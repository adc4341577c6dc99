"""DNS through the whole agent: what it counts is what resolver and client count, whatever happens on the way."""

from __future__ import annotations

import ipaddress
import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import dns.message
import pytest

from support import dns_messages as d
from support.agent import Agent, agent
from support.collectors import otelcol
from support.dns_events import prefixed
from support.dns_resolver import RCODES, Client, resolver
from support.netns import NetNs, Veth, veth_pair

pytestmark = pytest.mark.kernel

EXTRA_PORT = 5300
HEADER_OCTETS = 12
NAMES = {0: "NOERROR", 2: "SERVFAIL", 3: "NXDOMAIN", 5: "REFUSED"}
LOOKUPS = "dns_lookup_duration_seconds_count"
UNMATCHED = "netmon_dns_unmatched_total"
COLLECTED = 20.0
QUERIES = int(os.environ.get("NETMON_DNS_QUERIES", "5003"))
"""NETMON_DNS_QUERIES=100003 for the whole proof: a minute."""

WORDS = {"ok": 71, "nx": 11, "fail": 7, "refused": 5, "lost": 4, "late": 2}
"""Shares in percent of what the resolver does, see support.dns_resolver."""


@pytest.fixture
def link() -> Iterator[tuple[NetNs, NetNs, Veth]]:
    with veth_pair(ipv6=True) as made:
        yield made


def options(client: NetNs, pair: Veth, *more: str) -> list[str]:
    """The agent stands at the client's end of the link."""
    given = ["--interface", pair.left, "--set", f"interfaces.namespaces={client.name}"]
    return given + [word for each in more for word in ("--set", each)]


@contextmanager
def dnsmasq(server: NetNs, address: str) -> Iterator[None]:
    """Answers example.com and test, knows that there is nothing in nx.test, refuses all else."""
    command = [
        *("dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--user=root"),
        *(
            "--pid-file",
            "--bind-interfaces",
            f"--listen-address={address}",
            "--cache-size=0",
            "--log-facility=/dev/null",
        ),
        *(f"--address=/example.com/{address}", f"--address=/flood/{address}", "--local=/nx.test/"),
    ]
    running = server.start(*command)
    try:
        deadline = time.monotonic() + 10
        with server.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            while probe.connect_ex((address, 53)):
                assert time.monotonic() < deadline
                time.sleep(0.01)
        yield
    finally:
        running.kill()
        running.wait()


class Asked(NamedTuple):
    """What dnsperf says of its queries: answered by code, and never."""

    codes: Counter[str]
    lost: int


def dnsperf(client: NetNs, server: str, names: list[str], folder: Path, rate: int, *options: str) -> Asked:
    """Asks for every name once."""
    path = folder / "names"
    path.write_text("".join(f"{name} A\n" for name in names))
    given = ["-n", "1", "-Q", str(rate), "-c", "8", *(options or ("-t", "10"))]
    output = client.run("dnsperf", "-s", server, "-d", str(path), *given)
    completed, lost = (re.search(rf"Queries {what}:\s+(\d+)", output) for what in ("completed", "lost"))
    assert completed is not None, output
    assert lost is not None, output
    assert int(completed[1]) + int(lost[1]) == len(names), output
    codes = re.search(r"Response codes:\s+(.*)", output)
    assert codes is not None
    by_code = Counter({code: int(count) for code, count in re.findall(r"([A-Z]+) (\d+)", codes[1])})
    assert by_code.total() == int(completed[1])
    return Asked(by_code, int(lost[1]))


def counted(running: Agent, **labels: str) -> Counter[tuple[str, str]]:
    """Lookups by transport and by response code, or by error where there is no response."""
    found: Counter[tuple[str, str]] = Counter()
    for have, value in running.samples(LOOKUPS, **labels):
        outcome = have.get("netmon_dns_response_code") or have.get("error_type", "")
        found[have.get("network_transport", ""), outcome] += int(value)
    return +found


def adds_up(running: Agent) -> bool:
    """Whether nothing waits: what the kernel gave is delivered or dropped, and so on to the lookups."""
    kernel, ring = running.items("kernel", "dns_messages"), running.items("ring", "dns_messages")
    decode = running.items("decode", "dns_messages")
    return kernel["delivered"] == ring.total() and ring["delivered"] == decode.total()


def test_every_outcome_is_what_resolver_and_client_count(link: tuple[NetNs, NetNs, Veth]) -> None:
    left, right, pair = link
    plan = {"ok": 101, "nx": 53, "fail": 31, "refused": 17, "lost": 13, "late": 11, "twice": 7, "wrongid": 5,
            "wrongname": 3, "again": 19, "cut": 23}  # fmt: skip
    six = {"ok": 29, "nx": 2, "cut": 3, "lost": 2}
    extra = {"ok": 41, "refused": 2}
    addresses = [pair.right_address, pair.right_address6]
    settings = ["probes.dns.timeout_seconds=1", f"probes.dns.ports={EXTRA_PORT}"]
    with (
        resolver(right, addresses, [53, EXTRA_PORT], "192.0.2.1") as server,
        agent(*options(left, pair, *settings)) as running,
    ):
        clients = {
            "four": Client(left, pair.right_address),
            "six": Client(left, pair.right_address6),
            "extra": Client(left, pair.right_address, EXTRA_PORT),
        }
        for client, words in zip(clients.values(), (plan, six, extra), strict=True):
            for word, many in words.items():
                client.ask(word, many)
        clients["four"].ask("nx", 37, transport="tcp")
        clients["six"].ask("ok", 7, transport="tcp")
        asked = sum((client.asked for client in clients.values()), Counter[tuple[str, str]]())
        answered = sum((client.answered for client in clients.values()), Counter[tuple[str, int]]())
        assert server.answered == answered
        expected = Counter({(transport, NAMES[code]): many for (transport, code), many in answered.items()})
        expected["udp", "timeout"] = asked["udp", "lost"] + asked["udp", "late"]
        running.becomes(lambda: counted(running), expected)

        assert server.release() == plan["late"]
        clients["four"].receive_late(plan["late"])
        reasons = {"late": plan["late"], "duplicate": plan["twice"], "wrong_id": plan["wrongid"],
                   "wrong_question": plan["wrongname"]}  # fmt: skip
        running.becomes(lambda: unmatched(running), reasons)
        assert counted(running) == expected
        assert running.total("netmon_dns_retries_total") == plan["again"]
        cut = plan["cut"] + six["cut"]
        assert running.total("netmon_dns_truncated_total") == running.total("netmon_dns_tcp_retries_total") == cut
        on_six = clients["six"].answered.total() + six["lost"]
        assert counted(running, server_address=str(ipaddress.ip_address(pair.right_address6))).total() == on_six
        assert counted(running, server_address=pair.right_address).total() == expected.total() - on_six
        running.wait(lambda: adds_up(running), 20, "what was delivered and dropped to add up")
        for client in clients.values():
            client.close()


def unmatched(running: Agent) -> Counter[str]:
    """Responses without a query, by reason."""
    return +Counter({have["netmon_reason"]: int(value) for have, value in running.samples(UNMATCHED)})


def test_dnsperf_is_counted_to_the_last_query(link: tuple[NetNs, NetNs, Veth], tmp_path: Path) -> None:
    """At 20,000 a second, against dnsmasq."""
    left, right, pair = link
    forms = {"NOERROR": "h{}.example.com", "NXDOMAIN": "h{}.nx.test", "REFUSED": "h{}.example.org"}
    kinds = ["NOERROR"] * 7 + ["NXDOMAIN"] * 2 + ["REFUSED"]
    names = [forms[kinds[number * 7 % 10]].format(number % 997) for number in range(QUERIES)]
    # A ring that holds all of them, so that no other load on the machine can make it overflow.
    ring = f"probes.dns.ring_bytes={1 << 25}"
    with (
        dnsmasq(right, pair.right_address),
        agent(*options(left, pair, ring, "probes.connections.enabled=false")) as running,
    ):
        codes, lost = dnsperf(left, pair.right_address, names, tmp_path, 20_000)
        assert (codes, lost) == (Counter(kinds[number * 7 % 10] for number in range(QUERIES)), 0)
        expected = Counter({("udp", code): many for code, many in codes.items()})
        running.becomes(lambda: counted(running), expected)
        running.wait(lambda: adds_up(running), 20, "what was delivered and dropped to add up")
        assert running.items("kernel", "dns_queries") == {"delivered": QUERIES}
        produced = running.items("sampling", "spans")
        assert produced.total() == QUERIES


def test_dnsperf_and_a_resolver_that_fails_in_every_way_count_the_same(
    link: tuple[NetNs, NetNs, Veth], tmp_path: Path
) -> None:
    """At 3,000 a second: so many names that there are not, failures, refusals, lost and late answers as both say."""
    left, right, pair = link
    words = [word for word, percent in WORDS.items() for _ in range(percent)]
    assert len(words) == 100
    # Each name once: an id comes again while answers of before are late.
    chosen = [words[number * 37 % 100] for number in range(QUERIES)]
    names = [f"{word}{number}.d{number % 7}.example" for number, word in enumerate(chosen)]
    ring = f"probes.dns.ring_bytes={1 << 25}"
    settings = [ring, "probes.connections.enabled=false", "probes.dns.timeout_seconds=4"]
    with (
        resolver(right, [pair.right_address], [53], "192.0.2.1", hold_seconds=6.5) as server,
        agent(*options(left, pair, *settings)) as running,
    ):
        codes, lost = dnsperf(left, pair.right_address, names, tmp_path, 3000, "-t", "4", "-q", "20000")
        made = Counter(chosen)
        assert server.words == made
        running.wait(lambda: server.released == made["late"], 20, "late answers")
        expected = Counter({NAMES[code]: made[word] for word, code in RCODES.items()})
        assert codes == expected
        assert lost == made["lost"] + made["late"]
        assert Counter({NAMES[code]: many for (_, code), many in server.answered.items()}) == expected
        told = Counter({("udp", code): many for code, many in expected.items()})
        told["udp", "timeout"] = made["lost"] + made["late"]
        running.becomes(lambda: counted(running), told)
        running.becomes(lambda: unmatched(running), Counter({"late": made["late"]}))
        running.wait(lambda: adds_up(running), 20, "what was delivered and dropped to add up")
        assert counted(running) == told
        assert running.items("kernel", "dns_queries") == {"delivered": QUERIES}
        assert running.total("netmon_dns_retries_total") == 0


def test_bad_input_is_counted_and_spoils_nothing(link: tuple[NetNs, NetNs, Veth]) -> None:
    """Compression loops, one id for many questions at once, and the longest messages over TCP; the test is both ends."""
    left, right, pair = link
    name = "www.shop.example"
    loops, answered_with_loops, reused, long = 23, 13, 17, 3
    with (
        right.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        left.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        right.socket(socket.AF_INET, socket.SOCK_STREAM) as listening,
        left.socket(socket.AF_INET, socket.SOCK_STREAM) as stream,
        agent(*options(left, pair, "probes.connections.enabled=false")) as running,
    ):
        server.bind((pair.right_address, 53))
        client.connect((pair.right_address, 53))
        listening.bind((pair.right_address, 53))
        listening.listen()
        for each in (server, client, listening, stream):
            each.settimeout(20)

        def ask(query: bytes) -> Any:
            client.send(query)
            octets, where = server.recvfrom(65535)
            assert octets == query
            return where

        for number in range(loops):
            where = ask(d.message(number, d.QUERY_FLAGS, [d.pointer(HEADER_OCTETS) + bytes([0, 1, 0, 1])]))
        for number in range(answered_with_loops):
            ask(d.query(number, name))
            loop = d.record(d.pointer(HEADER_OCTETS + len(d.question(name))), d.A, bytes(4))
            server.sendto(d.response(number, name, loop), where)
        for number in range(reused):
            ask(d.query(7, f"h{number}.shop.example"))
        for number in reversed(range(reused)):
            server.sendto(d.response(7, f"h{number}.shop.example", d.address("192.0.2.1")), where)
        stream.connect((pair.right_address, 53))
        accepted, _ = listening.accept()
        accepted.settimeout(20)
        with accepted:
            for number in range(long):
                query = d.query(number, name, d.TXT)
                record = d.record(d.pointer(HEADER_OCTETS), d.TXT, bytes([249] * 250))
                records = (65_535 - len(query)) // len(record)
                reply = d.response(number, name, *[record] * records, kind=d.TXT)
                assert 65_535 - len(record) < len(reply) <= 65_535
                stream.sendall(prefixed(query))
                assert exactly(accepted, len(query) + 2) == prefixed(query)
                sender = threading.Thread(target=accepted.sendall, args=(prefixed(reply),))
                sender.start()
                assert exactly(stream, len(reply) + 2) == prefixed(reply)
                sender.join()
        expected = Counter({("udp", "NOERROR"): answered_with_loops + reused, ("tcp", "NOERROR"): long})
        running.becomes(lambda: counted(running), expected)
        running.wait(lambda: adds_up(running), 20, "what was delivered and dropped to add up")
        assert running.items("kernel", "dns_messages")["question"] == loops
        assert running.items("kernel", "dns_queries") == {"delivered": answered_with_loops + reused}
        assert unmatched(running) == {}
        assert running.total("netmon_dns_retries_total") == 0


@pytest.mark.collector
def test_spans_arrive_and_say_how_many_they_stand_for(link: tuple[NetNs, NetNs, Veth], tmp_path: Path) -> None:
    left, right, pair = link
    settings = [
        *("spans.share=0.5", "spans.limit_per_second=100000", "spans.slow_seconds=1000"),
        "probes.connections.enabled=false",  # lookups alone
    ]
    words = {"ok": 199, "nx": 7, "refused": 5, "again": 3}
    with (
        otelcol(tmp_path, all_signals=True) as collector,
        resolver(right, [pair.right_address], [53], "192.0.2.1"),
        agent(*options(left, pair, *settings), "--otlp-endpoint", collector.http, otlp=True) as running,
    ):
        client = Client(left, pair.right_address)
        for word, many in words.items():
            client.ask(word, many)
        client.close()
        total = sum(words.values())
        running.wait(lambda: running.items("sampling", "spans").total() == total, 20, "every lookup")
        produced = running.items("sampling", "spans")
        assert set(produced) == {"delivered", "sampled_out"}
        running.wait(lambda: len(collector.spans()) >= produced["delivered"], COLLECTED, "spans at the collector")
        spans = collector.spans()
        assert len(spans) == produced["delivered"]
        assert len({span.span_id for span in spans}) == len({span.trace_id for span in spans}) == len(spans)
        by_code = Counter(span.attributes["netmon.dns.response.code"] for span in spans)
        assert by_code["REFUSED"] == words["refused"]  # errors are all kept
        for span in spans:
            assert span.name == "DNS lookup"
            assert 0 < span.end_time - span.start_time < 10**9
            name = str(span.attributes["dns.question.name"])
            assert span.attributes["client.address"] == pair.left_address
            assert span.attributes["server.address"] == pair.right_address
            assert span.attributes["server.port"] == 53
            assert span.attributes["network.transport"] == "udp"
            assert span.attributes["netmon.dns.question.type"] == "A"
            assert span.attributes.get("error.type") == ("REFUSED" if name.startswith("refused") else None)
            assert span.attributes.get("netmon.dns.retries") == (1 if name.startswith("again") else None)
        states = trace_states(collector.output)
        assert len(states) == len(spans)
        for trace_id, state in states:
            threshold = re.fullmatch(r"ot=th:([0-9a-f]{1,14})", state)
            assert threshold is not None, state
            assert int(trace_id[-14:], 16) >= int(threshold[1].ljust(14, "0"), 16)
            assert threshold[1] in {"0", "8"}
        assert {state for _, state in states} == {"ot=th:0", "ot=th:8"}


def trace_states(output: Path) -> list[tuple[str, str]]:
    """Trace id and trace state of each span in the collector's file."""
    return re.findall(r'"traceId":"([0-9a-f]{32})","spanId":"[0-9a-f]{16}","traceState":"([^"]*)"', output.read_text())


def test_bytes_by_domain_are_those_of_the_flows_to_the_answered_addresses(
    link: tuple[NetNs, NetNs, Veth],
) -> None:
    left, right, pair = link
    domains = {"shop.test": "198.18.0.101", "mail.test": "198.18.0.102", "nobody": "198.18.0.103"}
    answers = [f"--address=/{name}/{address}" for name, address in domains.items() if "." in name]
    for address in domains.values():
        right.run("ip", "address", "add", f"{address}/32", "dev", pair.right)
    command = ["dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--user=root",
               "--pid-file", "--bind-interfaces", f"--listen-address={pair.right_address}", *answers]  # fmt: skip
    server = right.start(*command)
    receivers = []
    for address in domains.values():
        receivers.append(right.socket(socket.AF_INET, socket.SOCK_DGRAM))
        receivers[-1].bind((address, 9999))
    try:
        with agent(*options(left, pair)) as running:
            for name in ("www.shop.test", "api.shop.test", "mx.mail.test"):
                lookup(left, pair, name)
            running.wait(lambda: running.total(LOOKUPS) == 3, 20, "lookups")
            sizes = {"198.18.0.101": (997, 53), "198.18.0.102": (499, 31), "198.18.0.103": (251, 17)}
            with left.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                for address, (size, many) in sizes.items():
                    for _ in range(many):
                        sender.sendto(bytes(size), (address, 9999))
                for receiver in receivers[:2]:
                    octets, client = receiver.recvfrom(65535)
                    receiver.sendto(octets[:7], client)
                    assert len(sender.recv(65535)) == 7

            def by_direction(metric: str, **labels: str) -> Counter[str]:
                found: Counter[str] = Counter()
                for have, value in running.samples(metric, **labels):
                    found[have["network_io_direction"]] += int(value)
                return +found

            def flows(address: str) -> Counter[str]:
                return by_direction("netmon_flow_io_bytes_total", server_address=address)

            expected = {"shop.test": flows("198.18.0.101"), "mail.test": flows("198.18.0.102")}
            running.wait(lambda: flows("198.18.0.103").total() == 17 * (251 + 42), 20, "flows")
            for name, address in list(domains.items())[:2]:
                expected[name] = flows(address)
                assert by_direction("netmon_domain_io_bytes_total", netmon_domain=name) == expected[name]
            assert [each["transmit"] for each in expected.values()] == [53 * (997 + 42), 31 * (499 + 42)]
            everything = by_direction("netmon_domain_io_bytes_total")
            assert everything == expected["shop.test"] + expected["mail.test"]
            assert by_direction("netmon_domain_connections_total").total() == 2
    finally:
        server.kill()
        server.wait()
        for receiver in receivers:
            receiver.close()


def test_what_a_killed_pipeline_took_and_did_not_tell_is_counted(
    link: tuple[NetNs, NetNs, Veth], tmp_path: Path
) -> None:
    left, right, pair = link
    names = [f"h{number % 7}.example.com" for number in range(1009)]
    with dnsmasq(right, pair.right_address), agent(*options(left, pair), interval=5) as running:
        died, asked = 0, 0
        for number in range(1, 8):
            dnsperf(left, pair.right_address, names, tmp_path, 2000)
            asked += len(names)
            time.sleep(1.1)  # so that the ring was drained; a cycle may have come between, then once more
            os.kill(running.pipeline_pid(), signal.SIGKILL)
            running.wait_event("pipeline.resumed", number)

            def settled(total: int = asked) -> bool:
                try:
                    kernel = running.items("kernel", "dns_messages")
                    return kernel["delivered"] == total and adds_up(running)
                except ConnectionError:
                    return False

            running.wait(settled, 20, f"{asked} lookups, delivered or dropped")
            ring = running.items("ring", "dns_messages")
            assert running.total(LOOKUPS) == ring["delivered"]
            assert set(ring) <= {"delivered", "pipeline_died"}
            died = ring["pipeline_died"]
            if died:
                break
        assert 0 < died <= asked


@pytest.mark.collector
def test_a_flood_of_names_stays_within_the_limits(link: tuple[NetNs, NetNs, Veth], tmp_path: Path) -> None:
    """Series come and go, the sum of all that is told stays that of the lookups."""
    left, right, pair = link
    many, limit = 20_011, 600
    names = [f"www.d{number}.flood" for number in range(many)]
    settings = [f"limits.series={limit}", "otlp.temporality=delta", f"probes.dns.ring_bytes={1 << 23}"]
    with (
        dnsmasq(right, pair.right_address),
        otelcol(tmp_path) as collector,
        agent(*options(left, pair, *settings), "--otlp-endpoint", collector.http, otlp=True) as running,
    ):
        dnsperf(left, pair.right_address, names, tmp_path, 8000)
        most = 0

        def told() -> Counter[bool]:
            """Lookups so far in series of their own, and not."""
            nonlocal most
            most = max(most, len(running.samples(LOOKUPS)))
            found: Counter[bool] = Counter()
            for point in collector.received("dns.lookup.duration"):
                found["otel.metric.overflow" not in point.attributes] += point.value.count
            return found

        running.becomes(lambda: told().total(), many)
        assert 10 < most < limit
        assert 10 < told()[True] < many / 10
        running.wait(lambda: adds_up(running), 20, "what was delivered and dropped to add up")
        smaps = Path(f"/proc/{running.pipeline_pid()}/smaps_rollup").read_text()
        resident = re.search(r"^Pss:\s+(\d+)", smaps, re.MULTILINE)
        assert resident is not None
        assert int(resident[1]) < 75_000


def exactly(stream: socket.socket, octets: int) -> bytes:
    """So many octets of a stream; with a timeout MSG_WAITALL does not wait for all."""
    data = bytearray()
    while len(data) < octets:
        data += stream.recv(octets - len(data)) or pytest.fail("the stream ended")
    return bytes(data)


def lookup(client: NetNs, pair: Veth, name: str) -> None:
    """Asks until there is an answer, once."""
    query = dns.message.make_query(name, "A")
    with client.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect((pair.right_address, 53))
        asking.settimeout(10)
        asking.send(query.to_wire())
        assert query.is_response(dns.message.from_wire(asking.recv(65535)))

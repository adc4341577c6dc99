"""DNS in the kernel: which packets are looked into, which response belongs to which query, and what is counted."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from struct import pack
from typing import Any

import numpy as np
import pytest

from otel_netmon.abi import layout
from otel_netmon.abi.enums import Direction, MessageCount, MessageKind, PortProtocol, TcpFlags
from otel_netmon.enrich.addresses import address_text
from otel_netmon.errors import NetmonError
from otel_netmon.kernel import syscalls
from otel_netmon.kernel.messages import DNS_PORTS, ports_value, set_message_ports
from otel_netmon.kernel.namespaces import entered, find_namespace
from otel_netmon.readers import messages as readers
from otel_netmon.readers.messages import COPIES_TIMEOUTS_MAX, OpenQueryReader, parse_messages
from otel_netmon.readers.ring import Drained
from support import dns_messages as dns, frames as f
from support.message_programs import CLIENT_PORT, RECORD_KINDS, MessagePrograms, answer_frame, query_frame
from support.netns import veth_pair

pytestmark = pytest.mark.kernel

RECEIVE, TRANSMIT = Direction
NAME = "www.example.org"
QUERY = dns.query(7, NAME)
ANSWER = dns.response(7, NAME, dns.address("192.0.2.1"))
SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def loaded() -> Iterator[MessagePrograms]:
    with MessagePrograms() as programs:
        yield programs


@pytest.fixture
def programs(loaded: MessagePrograms) -> MessagePrograms:
    """The programs of a replay, without open queries, records and counts."""
    maps = loaded.loaded.maps
    loaded.clear()
    loaded.records()
    for key in loaded.open_queries.read().keys:
        syscalls.map_delete(maps["dns_cache"], key.tobytes())
    for what in MessageCount:
        if what is not MessageCount.NUMBER:
            zeros = bytes(8 * syscalls.possible_cpus())
            syscalls.map_update(maps["message_counts"], what.to_bytes(4, "little"), zeros)
    set_message_ports(loaded.loaded, DNS_PORTS)
    return loaded


@pytest.fixture
def live() -> Iterator[MessagePrograms]:
    """The programs as an agent attaches them: CLOCK_MONOTONIC, both directions."""
    with MessagePrograms(replay=0) as made:
        yield made


@pytest.fixture
def elsewhere() -> Iterator[int]:
    """The index of an interface, not 1, that exists where the test runs: a test run refuses others."""
    with veth_pair() as (left, _, pair):
        found = find_namespace(left.name)
        assert found is not None
        with entered(found):
            yield left.index(pair.left)
        found.close()


# ---------------------------------------------------------------------------------------------------- one record a lookup
def test_an_answer_takes_its_query_out_and_carries_both_times(programs: MessagePrograms) -> None:
    programs.run(query_frame(QUERY), 23)
    (open_query,) = programs.open_queries.read().queries
    assert (open_query["first_ns"], open_query["last_ns"], open_query["retries"]) == (23, 23, 0)
    programs.run(answer_frame(ANSWER), 40)
    records = programs.records()
    (head,) = records.heads
    assert records.payload(0) == ANSWER
    assert {name: head[name].item() for name in head.dtype.names if head[name].shape == ()} == {
        "time_ns": 40,
        "request_time_ns": 23,
        "first_request_time_ns": 23,
        "cgroup": 0,
        "ifindex": 1,
        "ingress_ifindex": 0,
        "sequence": 0,
        "acknowledgment": 0,
        "initial_sequence": 0,
        "payload_length": len(ANSWER),
        "retries": 0,
        "captured_length": len(ANSWER),
        "tcp_flags": 0,
        "sequence_state": 0,
        "source_port": 53,
        "destination_port": CLIENT_PORT,
        "protocol": 17,
        "kind": MessageKind.DNS_ANSWER,
        "direction": RECEIVE,
        "namespace": 0,
    }
    assert address_text(head["source"].tobytes()) == f.B4
    assert address_text(head["destination"].tobytes()) == f.A4
    assert len(programs.open_queries.read().keys) == 0
    assert programs.counts() == {MessageCount.DNS_QUERIES: 1, MessageCount.DNS_ANSWERS: 1}


def test_copies_of_a_query_are_one_lookup(programs: MessagePrograms) -> None:
    for number in range(23):
        programs.run(query_frame(QUERY), 100 + number)
    (open_query,) = programs.open_queries.read().queries
    assert (open_query["first_ns"], open_query["last_ns"], open_query["retries"]) == (100, 122, 22)
    programs.run(answer_frame(ANSWER), 200)
    (head,) = programs.records().heads
    assert (head["first_request_time_ns"], head["request_time_ns"], head["retries"]) == (100, 122, 22)
    assert programs.counts() == {
        MessageCount.DNS_QUERIES: 23,
        MessageCount.DNS_RETRIES: 22,
        MessageCount.DNS_ANSWERS: 1,
    }


def test_an_id_is_free_again_after_the_answer(programs: MessagePrograms) -> None:
    for number in range(23):
        programs.run(query_frame(QUERY), 1000 + 2 * number)
        programs.run(answer_frame(ANSWER), 1001 + 2 * number)
    heads = programs.records().heads
    assert (heads["time_ns"] - heads["first_request_time_ns"]).tolist() == [1] * 23
    assert not heads["retries"].any()


def test_the_second_answer_is_a_response_without_a_query(programs: MessagePrograms) -> None:
    programs.run(query_frame(QUERY), 1)
    for time_ns in (2, 3):
        programs.run(answer_frame(ANSWER), time_ns)
    heads = programs.records().heads
    assert heads["kind"].tolist() == [MessageKind.DNS_ANSWER, MessageKind.DNS_RESPONSE]
    assert heads["first_request_time_ns"].tolist() == [1, 0]
    assert heads["request_time_ns"].tolist() == [1, 0]


@pytest.mark.parametrize(
    "answer",
    [
        answer_frame(dns.response(8, NAME)),
        answer_frame(dns.response(7, "www.example.net")),
        answer_frame(dns.response(7, "www.example.or")),
        answer_frame(dns.response(7, NAME, kind=dns.AAAA)),
        answer_frame(dns.message(7, dns.RESPONSE_FLAGS, [dns.question(NAME, cls=3)])),
        answer_frame(dns.message(7, dns.RESPONSE_FLAGS)),
        answer_frame(ANSWER, port=CLIENT_PORT + 1),
        answer_frame(ANSWER, source="198.18.0.3"),
        answer_frame(ANSWER, destination="198.18.0.3"),
        answer_frame(ANSWER, server_port=5355),
    ],
    ids=["id", "name", "shorter", "type", "class", "none", "port", "server", "client", "server-port"],
)
def test_what_does_not_fit_leaves_the_query_open(programs: MessagePrograms, answer: bytes) -> None:
    set_message_ports(programs.loaded, {53: PortProtocol.DNS, 5355: PortProtocol.DNS})
    programs.run(query_frame(QUERY))
    programs.run(answer)
    assert programs.kinds() == [MessageKind.DNS_RESPONSE]
    assert len(programs.open_queries.read().keys) == 1
    programs.run(answer_frame(ANSWER))
    assert programs.kinds() == [MessageKind.DNS_ANSWER]


def test_letters_are_compared_without_case_and_nothing_else_is(programs: MessagePrograms) -> None:
    """Every octet with every other that a mistake in lowering eight at once could make equal."""
    for octet in range(256):
        for other in {octet ^ 0x20, octet ^ 0x80, (octet + 1) % 256}:
            for before in (b"", b"abcdef", b"xyzabcd"):
                asked = dns.labels(before + bytes([octet]), b"org") + pack(">HH", 1, 1)
                told = dns.labels(before + bytes([other]), b"org") + pack(">HH", 1, 1)
                programs.run(query_frame(dns.message(9, dns.QUERY_FLAGS, [asked])))
                programs.run(answer_frame(dns.message(9, dns.RESPONSE_FLAGS, [told])))
                same = bytes([octet]).lower() == bytes([other]).lower()
                expected = MessageKind.DNS_ANSWER if same else MessageKind.DNS_RESPONSE
                assert programs.kinds() == [expected], (octet, other)
                if not same:
                    programs.run(answer_frame(dns.message(9, dns.RESPONSE_FLAGS, [asked])))
                    assert programs.kinds() == [MessageKind.DNS_ANSWER]


def test_types_are_numbers_and_have_no_case(programs: MessagePrograms) -> None:
    programs.run(query_frame(dns.query(7, NAME, dns.HTTPS)))  # 65 is an A, and 97 an a
    programs.run(answer_frame(dns.response(7, NAME, kind=97)))
    assert programs.kinds() == [MessageKind.DNS_RESPONSE]
    programs.run(answer_frame(dns.response(7, NAME, kind=dns.HTTPS)))
    assert programs.kinds() == [MessageKind.DNS_ANSWER]


def name_of(octets: int) -> bytes:
    """A name of so many octets on the wire, in labels of 63 as far as they go."""
    parts: list[bytes] = []
    left = octets - 1
    while left:
        take = min(left, 64)
        if left - take == 1:
            take -= 1
        parts.append(bytes(97 + (octets + len(parts) + at) % 26 for at in range(take - 1)))
        left -= take
    return dns.labels(*parts)


def test_names_of_every_length_pair_and_are_kept_whole(programs: MessagePrograms) -> None:
    for octets in (1, *range(3, 256)):
        question = name_of(octets) + pack(">HH", 1, 1)
        assert len(question) == octets + 4
        programs.run(query_frame(dns.message(octets, dns.QUERY_FLAGS, [question])))
        found = programs.open_queries.read()
        assert found.question(0) == question
        # The last octet of the name's last label differs, then not.
        if octets > 1:
            other = question[: octets - 2] + b"-" + question[octets - 1 :]
            programs.run(answer_frame(dns.message(octets, dns.RESPONSE_FLAGS, [other])))
            assert programs.kinds() == [MessageKind.DNS_RESPONSE]
        programs.run(answer_frame(dns.message(octets, dns.RESPONSE_FLAGS, [question.upper()[:-4] + question[-4:]])))
        assert programs.kinds() == [MessageKind.DNS_ANSWER]


def test_as_many_labels_as_a_name_can_have(programs: MessagePrograms) -> None:
    question = dns.labels(*[b"a"] * 127) + pack(">HH", 1, 1)
    programs.run(query_frame(dns.message(1, dns.QUERY_FLAGS, [question])))
    programs.run(answer_frame(dns.message(1, dns.RESPONSE_FLAGS, [question])))
    assert programs.kinds() == [MessageKind.DNS_ANSWER]


def test_the_first_of_several_questions_pairs(programs: MessagePrograms) -> None:
    questions = [dns.question(NAME), dns.question(NAME, dns.AAAA)]
    programs.run(query_frame(dns.message(7, dns.QUERY_FLAGS, questions)))
    programs.run(answer_frame(dns.message(7, dns.RESPONSE_FLAGS, questions)))
    assert programs.kinds() == [MessageKind.DNS_ANSWER]


def test_an_answer_that_pairs_is_one_whatever_its_header_counts(programs: MessagePrograms) -> None:
    lying = ANSWER[:6] + pack(">HHH", 999, 0, 0) + ANSWER[12:]
    programs.run(query_frame(QUERY))
    programs.run(answer_frame(lying))
    assert programs.kinds() == [MessageKind.DNS_ANSWER]
    programs.run(answer_frame(lying))
    assert programs.kinds() == []
    assert programs.counts()[MessageCount.NOT_DNS_HEADER] == 1


# ------------------------------------------------------------------------------------------------ on the way to the message
WAYS: dict[str, Callable[[bytes, bool], bytes]] = {
    "ipv6": lambda udp, back: f.ethernet(f.ipv6(udp, f.UDP, *((f.B6, f.A6) if back else (f.A6, f.B6))), f.IPV6),
    "hop-by-hop": lambda udp, back: f.ethernet(
        f.ipv6(f.extension(udp, f.UDP, 24), f.HOP_BY_HOP, *((f.B6, f.A6) if back else (f.A6, f.B6))), f.IPV6
    ),
    "options": lambda udp, back: f.ethernet(
        f.ipv4(udp, f.UDP, *((f.B4, f.A4) if back else (f.A4, f.B4)), options=bytes(40))
    ),
    "vlan": lambda udp, back: f.tagged(f.ipv4(udp, f.UDP, *((f.B4, f.A4) if back else (f.A4, f.B4))), f.IPV4, f.VLAN),
    "qinq": lambda udp, back: f.tagged(
        f.ipv6(udp, f.UDP, *((f.B6, f.A6) if back else (f.A6, f.B6))), f.IPV6, f.SVLAN, f.VLAN
    ),
    "padded": lambda udp, back: f.ethernet(f.ipv4(udp, f.UDP, *((f.B4, f.A4) if back else (f.A4, f.B4)))) + bytes(23),
}


@pytest.mark.parametrize("way", WAYS)
def test_messages_are_found_behind(programs: MessagePrograms, way: str) -> None:
    programs.run(WAYS[way](f.udp(QUERY, CLIENT_PORT, 53), False))
    programs.run(WAYS[way](f.udp(ANSWER, 53, CLIENT_PORT), True))
    records = programs.records()
    assert records.heads["kind"].tolist() == [MessageKind.DNS_ANSWER]
    assert records.payload(0) == ANSWER
    ends = [address_text(records.heads[0][end].tobytes()) for end in ("source", "destination")]
    assert ends == ([f.B6, f.A6] if way in ("ipv6", "hop-by-hop", "qinq") else [f.B4, f.A4])


TUNNELS: dict[str, Callable[[bytes], bytes]] = {
    "vxlan": lambda frame: f.ethernet(f.ipv4(f.vxlan(frame), f.UDP, "198.19.0.1", "198.19.0.2")),
    "gre": lambda frame: f.ethernet(f.ipv4(f.gre(frame, f.TEB, key=True), f.GRE, "198.19.0.1", "198.19.0.2")),
    "ipip": lambda frame: f.ethernet(f.ipv4(frame[14:], f.IPIP, "198.19.0.1", "198.19.0.2")),
}


@pytest.mark.parametrize("tunnel", TUNNELS)
def test_messages_inside_a_tunnel_are_found_where_flows_are(tunnel: str) -> None:
    for decapsulate in (0, 1):
        with MessagePrograms(decapsulate=decapsulate) as programs:
            programs.run(TUNNELS[tunnel](query_frame(QUERY)))
            programs.run(TUNNELS[tunnel](answer_frame(ANSWER)))
            records = programs.records()
            assert records.heads["kind"].tolist() == [MessageKind.DNS_ANSWER] * decapsulate
            if decapsulate:
                assert records.payload(0) == ANSWER
                assert address_text(records.heads[0]["source"].tobytes()) == f.B4


def test_the_first_fragment_gives_what_it_has(programs: MessagePrograms) -> None:
    answer = dns.response(7, NAME, *[dns.address(f"192.0.2.{n}") for n in range(97)])
    datagram = f.udp(answer, 53, CLIENT_PORT)
    programs.run(query_frame(QUERY))
    programs.run(f.ethernet(f.ipv4(datagram[:1480], f.UDP, f.B4, f.A4, more=True)))
    programs.run(f.ethernet(f.ipv4(datagram[1480:], f.UDP, f.B4, f.A4, offset=1480)))
    records = programs.records()
    (head,) = records.heads
    assert (head["kind"], head["payload_length"], head["captured_length"]) == (
        MessageKind.DNS_ANSWER,
        len(answer),
        1472,
    )
    assert records.payload(0) == answer[:1472]


def test_a_frame_cut_by_the_capture_gives_what_it_has(programs: MessagePrograms) -> None:
    programs.run(query_frame(QUERY))
    whole = answer_frame(ANSWER)
    programs.run(whole[:-9], length=len(whole))
    records = programs.records()
    (head,) = records.heads
    assert (head["payload_length"], head["captured_length"]) == (len(ANSWER), len(ANSWER) - 9)
    assert records.payload(0) == ANSWER[:-9]


def test_the_length_of_the_datagram_counts_and_not_what_lies_behind(programs: MessagePrograms) -> None:
    datagram = bytearray(f.udp(ANSWER + bytes(23), 53, CLIENT_PORT))
    datagram[4:6] = pack(">H", 8 + len(ANSWER))
    programs.run(query_frame(QUERY))
    programs.run(f.ethernet(f.ipv4(bytes(datagram), f.UDP, f.B4, f.A4)))
    assert programs.records().payload(0) == ANSWER


# -------------------------------------------------------------------------------------------------- interfaces, directions
def test_the_answer_comes_the_other_way(live: MessagePrograms) -> None:
    live.run(query_frame(QUERY), direction=TRANSMIT)
    live.run(answer_frame(ANSWER))
    (head,) = live.records().heads
    assert (head["kind"], head["direction"], head["ifindex"]) == (MessageKind.DNS_ANSWER, TRANSMIT, 1)
    assert 0 < head["first_request_time_ns"] < head["time_ns"]


def test_loopback_sees_each_packet_twice_and_each_direction_once(live: MessagePrograms) -> None:
    for direction in (TRANSMIT, RECEIVE):
        live.run(query_frame(QUERY), direction=direction)
    for direction in (TRANSMIT, RECEIVE):
        live.run(answer_frame(ANSWER), direction=direction)
    heads = live.records().heads
    assert heads["kind"].tolist() == [MessageKind.DNS_ANSWER] * 2
    assert heads["direction"].tolist() == [RECEIVE, TRANSMIT]  # of the queries
    assert not heads["retries"].any()
    assert len(live.open_queries.read().keys) == 0


def test_a_mirror_port_receives_both(live: MessagePrograms) -> None:
    live.run(query_frame(QUERY))
    live.run(answer_frame(ANSWER))
    assert live.kinds() == [MessageKind.DNS_ANSWER]


def test_a_response_sent_does_not_take_a_query_sent(live: MessagePrograms) -> None:
    """A server on loopback answers twice before the first answer has arrived: the client's query is still its own."""
    for direction in (TRANSMIT, RECEIVE):
        live.run(query_frame(QUERY), direction=direction)
    for direction in (TRANSMIT, TRANSMIT, RECEIVE, RECEIVE):
        live.run(answer_frame(ANSWER), direction=direction)
    assert live.kinds() == [
        MessageKind.DNS_ANSWER,
        MessageKind.DNS_RESPONSE,
        MessageKind.DNS_ANSWER,
        MessageKind.DNS_RESPONSE,
    ]


def test_interfaces_are_kept_apart(live: MessagePrograms, elsewhere: int) -> None:
    live.run(query_frame(QUERY), direction=TRANSMIT)
    live.run(answer_frame(ANSWER), ifindex=elsewhere)
    assert live.kinds() == [MessageKind.DNS_RESPONSE]
    live.run(answer_frame(ANSWER))
    assert live.kinds() == [MessageKind.DNS_ANSWER]


def test_a_lookup_tells_of_its_query_and_another_record_of_its_packet(live: MessagePrograms, elsewhere: int) -> None:
    """From one interface forwarded to the other and back: the direction and the ingress interface are those of the query."""
    live.run(query_frame(QUERY), ifindex=elsewhere)
    live.run(query_frame(QUERY), direction=TRANSMIT, ingress_ifindex=elsewhere)
    assert live.open_queries.read().queries["ingress_ifindex"].tolist() == [0, elsewhere]
    for _ in range(2):
        live.run(answer_frame(ANSWER))
        live.run(answer_frame(ANSWER), direction=TRANSMIT, ifindex=elsewhere, ingress_ifindex=1)
    heads = live.records().heads
    answer, response = MessageKind.DNS_ANSWER, MessageKind.DNS_RESPONSE
    assert heads["kind"].tolist() == [answer, answer, response, response]
    assert heads["ifindex"].tolist() == [1, elsewhere] * 2
    assert heads["direction"].tolist() == [TRANSMIT, RECEIVE, RECEIVE, TRANSMIT]
    assert heads["ingress_ifindex"].tolist() == [elsewhere, 0, 0, 1]


def test_the_namespace_is_told(live: MessagePrograms) -> None:
    run = live.runner("netmon_transmit", namespace=7, decapsulate=0)
    run.run(query_frame(QUERY))
    run = live.runner("netmon_receive", namespace=7)
    run.run(answer_frame(ANSWER))
    (head,) = live.records().heads
    assert (head["kind"], head["namespace"]) == (MessageKind.DNS_ANSWER, 7)


# --------------------------------------------------------------------------------------------- ports, and what is no DNS
def test_no_port_no_look(programs: MessagePrograms) -> None:
    set_message_ports(programs.loaded, {})
    programs.run(query_frame(QUERY))
    programs.run(answer_frame(ANSWER))
    assert programs.counts() == {}
    assert programs.kinds() == []


def test_only_the_ports_that_are_set_are_looked_at(programs: MessagePrograms) -> None:
    """All ports that share the filter's bit with one that is set, and all bits."""
    chosen = {8053: PortProtocol.DNS, 65535: PortProtocol.DNS, 1: PortProtocol.DNS}
    set_message_ports(programs.loaded, chosen)
    tried = {port % 65536 for base in (*chosen, 53) for port in range(base % 512, 65536, 512)} | set(range(1, 700))
    for port in sorted(tried - {0}):
        programs.run(query_frame(dns.query(port, NAME), server_port=port))
    found = programs.open_queries.read().keys["server_port"].tolist()
    assert sorted(found) == sorted(chosen)


def test_either_port_may_be_the_one(programs: MessagePrograms) -> None:
    set_message_ports(programs.loaded, {CLIENT_PORT: PortProtocol.DNS})
    programs.run(query_frame(QUERY, server_port=9999))
    programs.run(answer_frame(ANSWER, server_port=9999))
    assert programs.kinds() == [MessageKind.DNS_ANSWER]


def test_a_port_must_be_one() -> None:
    for port in (0, -1, 65536):
        with pytest.raises(ValueError, match="no port"):
            ports_value({port: PortProtocol.DNS})


def test_the_value_of_the_ports_has_a_bit_for_each(programs: MessagePrograms) -> None:
    ports = dict.fromkeys(range(1, 65536, 641), PortProtocol.DNS)
    value = np.frombuffer(ports_value(ports), layout.PORTS)[0]
    assert np.flatnonzero(value["protocols"]).tolist() == list(ports)
    bits = {64 * word + bit for word in range(8) for bit in range(64) if int(value["filter"][word]) >> bit & 1}
    assert bits == {port % 512 for port in ports}


def test_sctp_on_the_port_is_no_message(programs: MessagePrograms) -> None:
    programs.run(f.ethernet(f.ipv4(f.ports(CLIENT_PORT, 53, 64), f.SCTP)))
    assert programs.counts() == {}


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", MessageCount.NOT_DNS_SHORT),
        (QUERY[:11], MessageCount.NOT_DNS_SHORT),
        (QUERY[:12], MessageCount.NOT_DNS_HEADER),
        (QUERY[:-1], MessageCount.NOT_DNS_QUESTION),
        (dns.message(7, 3 << 11, [dns.question(NAME)] * 2), MessageCount.NOT_DNS_HEADER),
        (dns.message(7, 7 << 11, [dns.question(NAME)] * 2), MessageCount.NOT_DNS_HEADER),
        (dns.message(7, 0x8000 | 15 << 11, [dns.question(NAME)] * 2), MessageCount.NOT_DNS_HEADER),
        (pack(">HHHHHH", 7, 0, 2, 0, 0, 0) + dns.question("a"), MessageCount.NOT_DNS_HEADER),
        (pack(">HHHHHH", 7, 0, 1, 0, 0, 1) + dns.question("a"), MessageCount.NOT_DNS_HEADER),
        (pack(">HHHHHH", 7, 0, 1, 65535, 65535, 65535) + dns.question(NAME), MessageCount.NOT_DNS_HEADER),
        (pack(">HHHHHH", 7, 0x8000, 1, 0, 0, 9) + dns.question(NAME), MessageCount.NOT_DNS_HEADER),
        (dns.message(7, 0), MessageCount.NOT_DNS_QUESTION),
        (dns.message(7, 0, [dns.pointer(12) + pack(">HH", 1, 1)]), MessageCount.NOT_DNS_QUESTION),
        (dns.message(7, 0, [dns.labels(b"a" * 63)[:-1] + dns.pointer(12) + bytes(4)]), MessageCount.NOT_DNS_QUESTION),
        (dns.message(7, 0, [bytes([64]) + bytes(64) + bytes(5)]), MessageCount.NOT_DNS_QUESTION),
        (dns.message(7, 0, [name_of(255)[:-1] + b"\1a\0" + bytes(4)]), MessageCount.NOT_DNS_QUESTION),
        (dns.message(7, 0, [b"\1a" * 127 + b"\1\0" + bytes(4)]), MessageCount.NOT_DNS_QUESTION),
        (dns.message(7, 0, [b"\77" * 600]), MessageCount.NOT_DNS_QUESTION),
        (b"GET / HTTP/1.1\r\nHost: www.example.org\r\n\r\n", MessageCount.NOT_DNS_HEADER),
    ],
)
def test_what_is_no_dns_is_counted_by_reason(programs: MessagePrograms, payload: bytes, reason: MessageCount) -> None:
    programs.run(query_frame(payload))
    assert programs.counts() == {reason: 1}
    assert programs.kinds() == []
    assert len(programs.open_queries.read().keys) == 0


@pytest.mark.parametrize("opcode", [3, 7, 9, 15])
def test_a_server_is_asked_with_an_operation_code_that_nobody_assigned(programs: MessagePrograms, opcode: int) -> None:
    asked, refused = (dns.message(7, flags | opcode << 11, [dns.question(NAME)]) for flags in (0, 0x8004))
    programs.run(query_frame(asked))
    programs.run(answer_frame(refused))
    assert programs.kinds() == [MessageKind.DNS_ANSWER]
    assert programs.counts() == {MessageCount.DNS_QUERIES: 1, MessageCount.DNS_ANSWERS: 1}


def test_a_datagram_cut_in_its_own_header_is_short(programs: MessagePrograms) -> None:
    whole = query_frame(QUERY)
    programs.run(whole[: 14 + 20 + 5], length=len(whole))  # in the capture
    programs.run(f.ethernet(f.ipv4(f.udp(QUERY), f.UDP, total=26)))  # by the IP header
    assert programs.counts() == {MessageCount.NOT_DNS_SHORT: 2}


def test_a_truncated_response_may_count_what_it_left_out(programs: MessagePrograms) -> None:
    programs.run(answer_frame(pack(">HHHHHH", 7, 0x8380, 1, 23, 0, 0) + dns.question(NAME)))
    assert programs.kinds() == [MessageKind.DNS_RESPONSE]


@pytest.mark.parametrize(
    ("port", "kind", "count"),
    [
        (5353, MessageKind.MDNS, MessageCount.MDNS),
        (5355, MessageKind.LLMNR, MessageCount.LLMNR),
    ],
)
def test_multicast_names_are_told_apart_and_not_paired(
    programs: MessagePrograms, port: int, kind: MessageKind, count: MessageCount
) -> None:
    group = {5353: "224.0.0.251", 5355: "224.0.0.252"}[port]
    programs.run(query_frame(QUERY, port=port, server_port=port, destination=group))
    programs.run(answer_frame(ANSWER, port=CLIENT_PORT, server_port=port))
    programs.run(query_frame(b"no name service" * 3, server_port=port))
    records = programs.records()
    assert records.heads["kind"].tolist() == [kind, kind]
    assert [records.payload(0), records.payload(1)] == [QUERY, ANSWER]
    assert not records.heads["request_time_ns"].any()
    assert programs.counts() == {count: 2, MessageCount.NOT_DNS_HEADER: 1}
    assert len(programs.open_queries.read().keys) == 0


def test_a_query_from_the_port_of_multicast_dns_to_a_resolver_is_a_lookup(programs: MessagePrograms) -> None:
    programs.run(query_frame(QUERY, port=5353))
    programs.run(answer_frame(ANSWER, port=5353))
    assert programs.kinds() == [MessageKind.DNS_ANSWER]


# ------------------------------------------------------------------------------------------------------------------- TCP
def segment(payload: bytes = b"", *, back: bool = False, **fields: Any) -> bytes:
    ports = (53, CLIENT_PORT) if back else (CLIENT_PORT, 53)
    ends = (f.B4, f.A4) if back else (f.A4, f.B4)
    return f.ethernet(f.ipv4(f.tcp(payload, *ports, **fields), f.TCP, *ends))


def test_segments_with_payload_and_the_ends_of_a_connection(programs: MessagePrograms) -> None:
    message = pack(">H", len(QUERY)) + QUERY
    for frame in (
        segment(sequence=999, flags=f.SYN),
        segment(back=True, sequence=4_294_967_295, flags=f.SYN | f.ACK),
        segment(sequence=1000),
        segment(message, sequence=1000, flags=f.ACK | f.PSH),
        segment(back=True, sequence=0),
        segment(message[:1], back=True, sequence=0),
        segment(sequence=1000 + len(message), flags=f.FIN | f.ACK),
        segment(back=True, sequence=1, flags=f.RST),
    ):
        programs.run(frame)
    records = programs.records()
    heads = records.heads
    assert set(heads["kind"].tolist()) == {MessageKind.DNS_SEGMENT}
    assert set(heads["protocol"].tolist()) == {6}
    assert heads["sequence"].tolist() == [1000, 0, 1000, 0, 1000 + len(message), 1]
    assert heads["payload_length"].tolist() == [0, 0, len(message), 1, 0, 0]
    assert heads["source_port"].tolist() == [CLIENT_PORT, 53, CLIENT_PORT, 53, CLIENT_PORT, 53]
    assert [TcpFlags(int(flags)) for flags in heads["tcp_flags"]] == [
        TcpFlags.SYN,
        TcpFlags.SYN | TcpFlags.ACK,
        TcpFlags.ACK | TcpFlags.PSH,
        TcpFlags.ACK,
        TcpFlags.FIN | TcpFlags.ACK,
        TcpFlags.RST,
    ]
    assert [records.payload(n) for n in range(6)] == [b"", b"", message, message[:1], b"", b""]
    assert programs.counts() == {MessageCount.DNS_SEGMENTS: 6}


def test_data_in_a_syn_begin_behind_it(programs: MessagePrograms) -> None:
    programs.run(segment(QUERY, sequence=99, flags=f.SYN, options=bytes(8)))
    records = programs.records()
    assert records.heads["sequence"].tolist() == [100]
    assert records.payload(0) == QUERY


def test_padding_is_no_payload(programs: MessagePrograms) -> None:
    programs.run(segment() + bytes(6))
    assert programs.counts() == {}


def test_a_segment_cut_by_the_capture_tells_its_whole_length(programs: MessagePrograms) -> None:
    whole = segment(bytes(1400))
    programs.run(whole[:100], length=len(whole))
    (head,) = programs.records().heads
    assert (head["payload_length"], head["captured_length"]) == (1400, 100 - 54)


def test_tcp_on_ports_of_multicast_names_is_not_looked_into(programs: MessagePrograms) -> None:
    set_message_ports(programs.loaded, {53: PortProtocol.LLMNR})
    programs.run(segment(QUERY))
    assert programs.counts() == {}


# ---------------------------------------------------------------------------------------------------------------- limits
def test_a_full_cache_refuses_and_counts() -> None:
    with MessagePrograms(sizes={"dns_cache": 101}) as programs:
        for number in range(127):
            programs.run(query_frame(dns.query(number, NAME)), number)
        assert programs.counts() == {MessageCount.DNS_QUERIES: 127, MessageCount.LOST_CACHE: 26}
        assert programs.open_queries.read().keys["id"].tolist() == list(range(101))
        for number in range(127):
            programs.run(answer_frame(dns.response(number, NAME)))
        counts = programs.counts()
        assert (counts[MessageCount.DNS_ANSWERS], counts[MessageCount.DNS_RESPONSES]) == (101, 26)


def test_a_full_ring_loses_records_and_counts_them() -> None:
    with MessagePrograms(sizes={"messages": 4096}) as programs:
        for number in range(127):
            programs.run(query_frame(dns.query(number, NAME)))
            programs.run(answer_frame(dns.response(number, NAME)))
        found = len(programs.records().heads)
        counts = programs.counts()
        assert counts[MessageCount.DNS_ANSWERS] == 127
        assert 0 < found == 127 - counts[MessageCount.LOST_RING]
        programs.run(answer_frame(ANSWER))
        assert programs.kinds() == [MessageKind.DNS_RESPONSE]


def test_every_datagram_on_a_port_is_something(programs: MessagePrograms) -> None:
    """Messages with damage anywhere: each is a query, a record or a reason, and every query is open, lost or repeated."""
    generator = random.Random(53)  # noqa: S311 - damage, not secrets
    every = 10_007
    for number in range(every):
        message = bytearray(generator.choice([QUERY, ANSWER, dns.query(7, name_text(generator))]))
        for _ in range(generator.randrange(4)):
            message[generator.randrange(len(message))] = generator.randrange(256)
        cut = bytes(message[: generator.randrange(len(message) + 1)] if generator.random() < 0.2 else message)
        programs.run((query_frame, answer_frame)[number & 1](cut))
        if not number % 64:
            programs.records()
    counts = programs.counts()
    assert MessageCount.LOST_RING not in counts
    reasons = (MessageCount.NOT_DNS_SHORT, MessageCount.NOT_DNS_HEADER, MessageCount.NOT_DNS_QUESTION)
    assert all(counts[what] for what in reasons)
    seen = sum(counts.get(what, 0) for what in (*RECORD_KINDS, *reasons, MessageCount.DNS_QUERIES))
    assert seen == every
    still_open = len(programs.open_queries.read().keys)
    assert counts[MessageCount.DNS_QUERIES] == still_open + sum(
        counts.get(what, 0) for what in (MessageCount.DNS_RETRIES, MessageCount.DNS_ANSWERS, MessageCount.LOST_CACHE)
    )


def name_text(generator: random.Random) -> str:
    return ".".join("x" * generator.randrange(1, 20) for _ in range(generator.randrange(1, 5)))


# --------------------------------------------------------------------------------------------------------------- timeouts
def test_queries_without_an_answer_are_taken_when_their_last_copy_is_old(programs: MessagePrograms) -> None:
    for identifier, times in {1: [10], 2: [10, 17], 3: [16], 4: [12], 5: [9]}.items():
        for time in times:
            programs.run(query_frame(dns.query(identifier, NAME)), time * SECOND)
    programs.run(answer_frame(dns.response(4, NAME)), 13 * SECOND)
    taken = programs.open_queries.take_expired(21 * SECOND - 1, 5 * SECOND)
    assert taken.keys["id"].tolist() == [5, 1]
    assert taken.question(0) == dns.question(NAME)
    assert programs.open_queries.read().keys["id"].tolist() == [2, 3]
    taken = programs.open_queries.take_expired(22 * SECOND + 1, 5 * SECOND)
    assert taken.keys["id"].tolist() == [2, 3]
    assert taken.queries["retries"].tolist() == [1, 0]
    assert len(programs.open_queries.read().keys) == 0


def test_a_query_that_is_repeated_for_ever_ends_too(programs: MessagePrograms) -> None:
    for second in range(5 * COPIES_TIMEOUTS_MAX + 1):
        programs.run(query_frame(QUERY), (100 + second) * SECOND)
        assert len(programs.open_queries.take_expired((100 + second) * SECOND, 5 * SECOND).keys) == 0
    taken = programs.open_queries.take_expired((100 + 5 * COPIES_TIMEOUTS_MAX) * SECOND + 1, 5 * SECOND)
    assert taken.queries["retries"].tolist() == [5 * COPIES_TIMEOUTS_MAX]


def test_just_after_boot_nothing_is_old(programs: MessagePrograms) -> None:
    programs.run(query_frame(QUERY), 1)
    assert len(programs.open_queries.take_expired(SECOND, 5 * SECOND).keys) == 0


@pytest.mark.parametrize("between", ["read", "lookup"])
@pytest.mark.parametrize("what", ["answer", "copy"])
def test_an_answer_or_a_copy_between_reading_and_deleting(
    programs: MessagePrograms, monkeypatch: pytest.MonkeyPatch, between: str, what: str
) -> None:
    """Whatever comes in between, the query ends once."""
    programs.run(query_frame(QUERY), 90 * SECOND)

    def happen() -> None:
        programs.run(answer_frame(ANSWER) if what == "answer" else query_frame(QUERY), 99 * SECOND)

    if between == "read":
        read = OpenQueryReader.read

        def read_then(reader: OpenQueryReader) -> readers.OpenQueries:
            found = read(reader)
            happen()
            return found

        monkeypatch.setattr(OpenQueryReader, "read", read_then)
    else:
        lookup = syscalls.map_lookup

        def lookup_then(fd: int, key: bytes, size: int) -> bytes | None:
            found = lookup(fd, key, size)
            happen()
            return found

        monkeypatch.setattr(syscalls, "map_lookup", lookup_then)
    taken = programs.open_queries.take_expired(99 * SECOND, 5 * SECOND)
    monkeypatch.undo()
    left = programs.open_queries.read()
    if what == "answer":
        assert programs.kinds() == [MessageKind.DNS_ANSWER]
        assert len(taken.keys) == len(left.keys) == 0
    elif between == "read":
        assert len(taken.keys) == 0
        assert left.queries["retries"].tolist() == [1]
    else:  # the copy came a moment before the timeout and went with it; it is counted in the kernel
        assert len(taken.keys) == 1
        assert len(left.keys) == 0
        assert programs.counts()[MessageCount.DNS_RETRIES] == 1


def test_an_answer_after_the_timeout_is_a_response(programs: MessagePrograms) -> None:
    programs.run(query_frame(QUERY), SECOND)
    assert len(programs.open_queries.take_expired(99 * SECOND, 5 * SECOND).keys) == 1
    programs.run(answer_frame(ANSWER), 100 * SECOND)
    assert programs.kinds() == [MessageKind.DNS_RESPONSE]


def test_two_cpus_and_the_timeouts_at_once_end_every_query_once() -> None:
    """Queries and answers from two threads while a third takes what is older than nothing at all."""
    lookups = 5003
    with MessagePrograms(replay=0, sizes={"dns_cache": 16384, "messages": 1 << 24}) as programs:
        program = programs.program("netmon_receive", replay=0)
        done = threading.Event()

        def exchange(port: int) -> None:
            run = syscalls.TestRun(program, 4096)
            for number in range(lookups):
                run.run(query_frame(dns.query(number, NAME), port=port))
                run.run(answer_frame(dns.response(number, NAME), port=port))

        timeouts = 0

        def expire() -> None:
            nonlocal timeouts
            now = 1 << 62
            while not done.is_set():
                timeouts += len(programs.open_queries.take_expired(now, 1).keys)

        workers = [threading.Thread(target=exchange, args=(port,)) for port in (2003, 2011)]
        expirer = threading.Thread(target=expire)
        for thread in (expirer, *workers):
            thread.start()
        for thread in workers:
            thread.join()
        done.set()
        expirer.join()
        kinds = programs.kinds()
        answers, responses = kinds.count(MessageKind.DNS_ANSWER), kinds.count(MessageKind.DNS_RESPONSE)
        assert answers + responses == 2 * lookups
        assert answers + timeouts == 2 * lookups
        assert len(programs.open_queries.read().keys) == 0
        assert programs.counts() == {
            what: count
            for what, count in {
                MessageCount.DNS_QUERIES: 2 * lookups,
                MessageCount.DNS_ANSWERS: answers,
                MessageCount.DNS_RESPONSES: responses,
            }.items()
            if count
        }


# ---------------------------------------------------------------------------------------------------------------- reading
CHILD = """
import os, sys
from otel_netmon.readers.messages import parse_messages
from otel_netmon.readers.ring import RingReader
status = open("/proc/self/status").read()
assert "CapEff:\\t0000000000000000" in status and "Uid:\\t65534" in status, status
with RingReader(int(sys.argv[1]), int(sys.argv[2])) as ring:
    found = parse_messages(ring.drain())
print(len(found.heads), found.payload(0).hex())
"""


def test_a_process_without_privilege_reads_an_inherited_ring(programs: MessagePrograms) -> None:
    programs.run(query_frame(QUERY))
    programs.run(answer_frame(ANSWER))
    fd = programs.loaded.maps["messages"]
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(fd), str(1 << 18)],
        pass_fds=[fd],
        user=65534,
        group=65534,
        extra_groups=[],
        env={**os.environ, "PYTHONPATH": os.getcwd(), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.split() == ["1", ANSWER.hex()]
    assert programs.kinds() == []  # what the child took is gone


def test_the_ring_goes_round_and_no_record_is_lost() -> None:
    with MessagePrograms(sizes={"messages": 4096}) as programs:
        expected, found = [], []
        for number in range(1009):
            answer = dns.response(number, NAME, *[dns.address("192.0.2.1")] * (number % 23))
            programs.run(answer_frame(answer))
            expected.append(answer)
            if number % 3 == 0:
                records = programs.records()
                found += [records.payload(n) for n in range(len(records.heads))]
        records = programs.records()
        found += [records.payload(n) for n in range(len(records.heads))]
        assert found == expected
        assert MessageCount.LOST_RING not in programs.counts()


def test_a_record_of_another_length_than_it_says_is_refused() -> None:
    head = bytearray(layout.MESSAGE.itemsize)
    struct.pack_into("<H", head, layout.MESSAGE.fields["captured_length"][1], 5)  # type: ignore[index]
    data = bytes(8) + bytes(head) + bytes(8)
    good = Drained(data, np.array([8]), np.array([109]))
    assert parse_messages(good).payload(0) == bytes(5)
    with pytest.raises(NetmonError, match="1 of 1 records"):
        parse_messages(good._replace(lengths=np.array([110])))

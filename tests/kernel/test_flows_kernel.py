"""flow_table and its neighbours: what is counted, unfolded, refused, and what real traffic leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from otel_netmon.abi.enums import FLOW_FORWARDED, SEQUENCE_CLIENT, SEQUENCE_SERVER, Direction, Kind, Late
from otel_netmon.kernel import links, syscalls
from otel_netmon.kernel.namespaces import find_namespace
from support import frames as f
from support.frame_table import CASES
from support.netns import NetNs, veth_pair
from support.programs import Key, Programs, Row, set_context
from support.reference_parser import expected

pytestmark = pytest.mark.kernel

PACKET = f.ethernet(f.ipv4(f.udp(b"query")))


@pytest.fixture
def tc() -> Iterator[Programs]:
    with Programs("tc_monitor", sizes={"flow_table": 64}) as programs:
        yield programs


def datagram(port: int, payload: bytes = b"") -> bytes:
    return f.ethernet(f.ipv4(f.udp(payload, source=port)))


# ------------------------------------------------------------------------------------------------------------------ rows
def test_a_flow_is_one_direction_at_one_interface(tc: Programs) -> None:
    answer = f.ethernet(f.ipv4(f.udp(b"answer", 53, 40000), f.UDP, f.B4, f.A4))
    for name, times in (("netmon_receive", 2), ("netmon_transmit", 3)):
        for _ in range(times):
            tc.runner(name).run(PACKET)
            tc.runner(name).run(answer)
    keys, flows = tc.flow_reader.read()
    found = {(int(k["source_port"]), int(k["direction"])): int(v["packets"]) for k, v in zip(keys, flows, strict=True)}
    assert found == {(40000, 0): 2, (53, 0): 2, (40000, 1): 3, (53, 1): 3}
    assert (tc.totals(Direction.RECEIVE)["packets"], tc.totals(Direction.TRANSMIT)["packets"]) == (4, 6)
    assert tc.state()["inserts"] == 4


def test_the_first_packet_is_timed_and_the_last_one_ticks(tc: Programs) -> None:
    tc.runner("netmon_clock").run(bytes(16))
    before = tc.state()
    for _ in range(3):
        tc.runner().run(PACKET)
    tc.runner("netmon_clock").run(bytes(16))
    after = tc.state()
    (flow,) = tc.flows().values()
    assert before["monotonic_ns"] < flow["first_ns"] < after["monotonic_ns"]
    assert before["jiffies"] <= flow["last"] <= after["jiffies"]


def test_a_replay_takes_time_and_length_from_the_capture(tc: Programs) -> None:
    run = tc.runner(replay=1).run
    for time_ns, wire, ask_ip_length in ((7, 1500, 0), (9, 1500, 1), (8, 60, 0)):
        run(PACKET, (wire, ask_ip_length, 0, 0, 0), time_ns)
    (flow,) = tc.flows().values()
    assert (flow["packets"], flow["bytes"], flow["first_ns"], flow["last"]) == (3, 1500 + 33 + 60, 7, 8)
    assert tc.totals() == {"packets": 3, "bytes": 1500 + 33 + 60, "extra_packets": 0, "extra_bytes": 0}


@pytest.mark.parametrize(
    ("packet", "octets"),
    [
        (f.ipv4(f.udp(b"12345")), 33),
        (f.ipv4(f.udp(b"12345")) + bytes(13), 33),
        (f.ipv4(f.udp(b"12345"), total=9000), 9000),
        (f.ipv4(f.udp(b"12345"), total=0), 33),
        (f.ipv4(f.udp(b"12345"), total=0) + bytes(13), 46),
        (f.ipv4(f.udp(b"12345"), total=7), 7),
        (f.ipv6(f.udp(b"12345")), 53),
        (f.ipv6(f.udp(b"12345"), length=9000), 9040),
        (f.ipv6(f.udp(b"12345"), length=0), 53),
        (f.ipv6(b"", f.NO_NEXT), 40),
        (f.ipv6(b"", f.NO_NEXT) + bytes(13), 40),
    ],
)
def test_a_replay_counts_ip_lengths_as_the_header_states_them(tc: Programs, packet: bytes, octets: int) -> None:
    """A length of 0 is one that an offload has left open: then it is what the frame holds."""
    frame = f.ethernet(packet, f.IPV4 if packet[0] >> 4 == 4 else f.IPV6)
    for fast in (0, 1):
        tc.clear()
        tc.runner(replay=1, fast_path=fast).run(frame, (len(frame), 1, 0, 0, 0), 1)
        (flow,) = tc.flows().values()
        assert flow["bytes"] == octets


def test_forwarded_packets_are_flows_of_their_own_and_name_the_way_in(tc: Programs) -> None:
    run = tc.runner("netmon_transmit")
    run.run(PACKET)
    for ingress in (5, 9):
        set_context(run, ingress_ifindex=ingress)
        run.run(PACKET)
    keys, flows = tc.flow_reader.read()
    found = {int(k["flags"]): (int(v["packets"]), int(v["ingress_ifindex"])) for k, v in zip(keys, flows, strict=True)}
    assert found == {0: (1, 0), FLOW_FORWARDED: (2, 9)}


def test_a_received_packet_is_never_forwarded_yet(tc: Programs) -> None:
    run = tc.runner()
    set_context(run, ingress_ifindex=5)
    run.run(PACKET)
    ((key,), (flow,)) = tc.flow_reader.read()
    assert (int(key["flags"]), int(flow["ingress_ifindex"])) == (0, 0)


# -------------------------------------------------------------------------------------------------------- super-packets
@pytest.mark.parametrize(
    ("packet", "headers"),
    [
        (f.ipv4(f.tcp(bytes(2900)), f.TCP), 14 + 20 + 20),
        (f.ipv4(f.tcp(bytes(2900), options=bytes(12)), f.TCP), 14 + 20 + 32),
        (f.ipv4(f.tcp(bytes(2900)), f.TCP, options=bytes(8)), 14 + 28 + 20),
        (f.ipv6(f.tcp(bytes(2900)), f.TCP), 14 + 40 + 20),
        (f.ipv6(f.extension(f.tcp(bytes(2900)), f.TCP), f.DESTINATION), 14 + 40 + 8 + 20),
        (f.ipv4(f.udp(bytes(2900))), 14 + 20 + 8),
        (f.ipv6(f.udp(bytes(2900))), 14 + 40 + 8),
    ],
)
@pytest.mark.parametrize("segments_known", [True, False])
@pytest.mark.parametrize("size", [1, 100, 1448, 2899])
def test_super_packets_are_unfolded(
    tc: Programs, packet: bytes, headers: int, size: int, *, segments_known: bool
) -> None:
    frame = f.ethernet(packet, f.IPV4 if packet[0] >> 4 == 4 else f.IPV6)
    segments = -(-2900 // size)
    for fast in (0, 1):
        tc.clear()
        run = tc.runner(fast_path=fast)
        set_context(run, gso_size=size, gso_segs=segments if segments_known else 0)
        run.run(frame)
        (flow,) = tc.flows().values()
        counted = {name: flow[name] for name in ("packets", "bytes", "extra_packets", "extra_bytes")}
        assert counted == {
            "packets": 1,
            "bytes": len(frame),
            "extra_packets": segments - 1,
            "extra_bytes": (segments - 1) * headers,
        }
        assert tc.totals() == counted


def test_a_super_packet_sent_again_is_as_many_retransmitted_segments(tc: Programs) -> None:
    frame = f.ethernet(f.ipv4(f.tcp(bytes(2900)), f.TCP))
    run = tc.runner()
    run.run(frame)
    set_context(run, gso_size=1000, gso_segs=3)
    run.run(frame)
    (flow,) = tc.flows().values()
    assert (flow["packets"], flow["extra_packets"], flow["retransmits"]) == (2, 2, 3)


def test_super_packets_that_find_no_place_are_unfolded_too(tc: Programs) -> None:
    for port in range(64):
        tc.runner().run(datagram(port))
    run = tc.runner()
    set_context(run, gso_size=100, gso_segs=10)
    frame = datagram(5000, bytes(1000))
    run.run(frame)
    row = tc.rows()[Row(Kind.OVERFLOW, f.IPV4, f.UDP, 0)]
    assert row == {"packets": 1, "bytes": len(frame), "extra_packets": 9, "extra_bytes": 9 * 42}


# ------------------------------------------------------------------------------------------------------------ full tables
@pytest.mark.parametrize("replay", [0, 1])
def test_a_full_table_loses_nothing(tc: Programs, replay: int) -> None:
    """64 flows have a place; 1009 do not: packets and bytes of both, by protocol, are exact."""
    sent: Counter[str] = Counter()
    run = tc.runner(replay=replay).run
    for number in range(64 + 1009):
        for octets in (0, number % 7):
            frame = datagram(1000 + number, bytes(octets))
            run(frame, (len(frame), 0, 0, 0, 0), 1)
            where = "flow" if number < 64 else "udp"
            sent[where] += 1
            sent[f"{where} bytes"] += len(frame)
    six = f.ethernet(f.ipv6(f.tcp(), f.TCP), f.IPV6)
    run(six, (len(six), 0, 0, 0, 0), 1)
    flows, rows, state = tc.flows(), tc.rows(), tc.state()
    assert len(flows) == 64
    assert sum(flow["packets"] for flow in flows.values()) == sent["flow"]
    assert sum(flow["bytes"] for flow in flows.values()) == sent["flow bytes"]
    row = rows[Row(Kind.OVERFLOW, f.IPV4, f.UDP, 0)]
    assert (row["packets"], row["bytes"]) == (sent["udp"], sent["udp bytes"])
    assert rows[Row(Kind.OVERFLOW, f.IPV6, f.TCP, 0)]["packets"] == 1
    assert tc.totals()["packets"] == sent["flow"] + sent["udp"] + 1
    assert state["inserts"] == 64
    assert state["full_events"] == (sent["udp"] + 1 if replay else state["full_events"])
    assert 1 <= state["full_events"] <= sent["udp"] + 1


def test_a_known_flow_is_counted_while_the_table_is_full(tc: Programs) -> None:
    for port in range(200):
        tc.runner().run(datagram(port))
    tc.runner().run(datagram(3))
    assert tc.flows()[Key(f.UDP, f.A4, 3, f.B4, 53)]["packets"] == 2


def test_forwarded_packets_without_a_place_have_a_row_of_their_own(tc: Programs) -> None:
    for port in range(64):
        tc.runner().run(datagram(port))
    run = tc.runner("netmon_transmit")
    run.run(datagram(5000))
    set_context(run, ingress_ifindex=5)
    run.run(datagram(5001))
    run.run(datagram(5002))
    counts = {row.kind: counters["packets"] for row, counters in tc.rows().items()}
    assert counts == {Kind.OVERFLOW: 1, Kind.OVERFLOW_FORWARDED: 2}


def test_what_finds_no_row_either_is_in_the_totals() -> None:
    with Programs("tc_monitor", sizes={"flow_table": 4096, "protocol_stats": 1}) as tc:
        run = tc.runner().run
        arp, odd = f.ethernet(bytes(40), f.ARP), f.ethernet(bytes(50), 0x88B5)
        for frame in (arp, odd, odd, PACKET, arp):
            run(frame)
        assert {row.ethertype: counters["packets"] for row, counters in tc.rows().items()} == {f.ARP: 2}
        assert tc.state()["lost_rows"] == 2
        assert tc.totals()["packets"] == 5
        assert tc.totals()["bytes"] == 2 * len(arp) + 2 * len(odd) + len(PACKET)


def test_a_table_made_on_demand_holds_as_much() -> None:
    """The replay's way: BPF_F_NO_PREALLOC and many more entries."""
    with Programs("tc_monitor", sizes={"flow_table": 1 << 20}, flags={"flow_table": syscalls.BPF_F_NO_PREALLOC}) as tc:
        run = tc.runner(replay=1).run
        for number in range(70_001):
            run(f.ethernet(f.ipv4(f.udp(source=number & 0xFFFF, destination=number >> 16))))
        keys, flows = tc.flow_reader.read()
        assert len(keys) == 70_001
        assert set(flows["packets"].tolist()) == {1}
        assert not tc.rows()


# ---------------------------------------------------------------------------------------------------------- on the wire
def attach(netns: NetNs, interface: str, direction: Direction, program: int) -> int:
    namespace = find_namespace(netns.name)
    assert namespace is not None
    try:
        return links.attach_tcx(namespace, netns.index(interface), direction, program)
    finally:
        namespace.close()


@pytest.fixture
def wire() -> Iterator[tuple[NetNs, NetNs, Programs]]:
    """A veth pair: the programs see what left transmits (namespace 1) and what right receives (namespace 2)."""
    with veth_pair() as (left, right, pair), Programs("tc_monitor", sizes={"flow_table": 4096}) as tc:
        made = [
            attach(left, pair.left, Direction.TRANSMIT, tc.loaded.program("netmon_transmit", {Late.NAMESPACE: 1})),
            attach(right, pair.right, Direction.RECEIVE, tc.loaded.program("netmon_receive", {Late.NAMESPACE: 2})),
        ]
        try:
            yield left, right, tc
        finally:
            for link in made:
                os.close(link)


def sides(tc: Programs) -> dict[int, Counter[str]]:
    """Sums over flows and rows by namespace."""
    found: dict[int, Counter[str]] = {1: Counter(), 2: Counter()}
    for keys, values in (tc.flow_reader.read(), tc.row_reader.read()):
        for key, value in zip(keys, values, strict=True):
            for name in ("packets", "bytes", "extra_packets", "extra_bytes"):
                found[int(key["namespace"])][name] += int(value[name].sum())
    return found


def test_every_frame_of_the_table_and_every_cut_on_a_real_wire(wire: tuple[NetNs, NetNs, Programs]) -> None:
    """Frames that BPF_PROG_TEST_RUN refuses are among them, and tags that the receiver finds taken out of the frame."""
    left, _, tc = wire
    frames = sorted({case.frame[:length] for case in CASES for length in range(14, min(len(case.frame), 1500) + 1)})
    # The kernel takes the outer tag out before the hook, and drops a frame that ends within it or the type behind it.
    tagged = {frame for frame in frames if frame[12:14] in (b"\x81\x00", b"\x88\xa8")}
    arriving = [frame for frame in frames if frame not in tagged or len(frame) >= 20]
    untagged = [frame[:12] + frame[16:] if frame in tagged else frame for frame in arriving]
    arrived = 0
    for start in range(0, len(frames), 200):  # fewer than the receiver's queue takes, so that none is dropped there
        part = frames[start : start + 200]
        left.send_frames("left", part)
        arrived += sum(frame not in tagged or len(frame) >= 20 for frame in part)
        deadline = time.monotonic() + 20
        while sides(tc)[2]["packets"] < arrived:
            assert time.monotonic() < deadline, "frames did not arrive"
    assert tc.seen(1) == Counter(map(expected, frames))
    assert tc.seen(2) == Counter(map(expected, untagged))
    for namespace, seen in ((1, frames), (2, arriving)):
        assert sides(tc)[namespace]["packets"] == len(seen)
        assert sides(tc)[namespace]["bytes"] == sum(map(len, seen)), "a tag that was taken out was on the wire"


@pytest.mark.parametrize("offload", ["on", "off"])
def test_tcp_over_a_real_wire_unfolds_to_what_the_sender_wrote(
    wire: tuple[NetNs, NetNs, Programs], offload: str
) -> None:
    """Wire bytes = octets + segments x headers: 66 each with timestamps, 8 more on the SYN for its options.

    The sender's own TCP_INFO says how many octets it sent, how many of them again, and in how many segments.
    """
    left, right, tc = wire
    for netns, interface in ((left, "left"), (right, "right")):
        netns.run("ethtool", "-K", interface, "tso", offload, "gso", offload, "gro", offload)
    payload = 20_000_003
    command = right.command(sys.executable, "-c", RECEIVE, str(payload))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout is not None
        try:
            assert receiver.stdout.readline() == "ready\n"
            sent = left.run(sys.executable, "-c", SEND, str(payload))
            assert receiver.wait(30) == 0
        finally:
            receiver.kill()
    retransmits, octets_sent, octets_resent = map(int, sent.split())
    assert octets_sent - octets_resent == payload
    for namespace in (1, 2):
        keys, flows = tc.flow_reader.read()
        (flow,) = flows[(keys["namespace"] == namespace) & (keys["destination_port"] == 5001)]
        segments = int(flow["packets"] + flow["extra_packets"])
        octets = int(flow["bytes"] + flow["extra_bytes"]) - 66 * segments - 8
        if namespace == 1:
            assert int(flow["retransmits"]) == retransmits
            assert octets - octets_sent in range(0, 8 * retransmits + 1, 8)  # a SYN may have been sent again
        else:
            assert octets >= payload  # the wire may have lost what was sent again
        assert segments >= payload // 1448
        assert int(flow["sequence_state"]) & (SEQUENCE_CLIENT | SEQUENCE_SERVER) == SEQUENCE_CLIENT
        # TCP hands over super-packets whatever the device does; they arrive as such where nothing cuts them.
        assert (flow["extra_packets"] > 0) == (namespace == 1 or offload == "on")


RECEIVE = """
import socket, sys
left = int(sys.argv[1])
with socket.create_server(("198.18.0.2", 5001)) as listener:
    print("ready", flush=True)
    connection = listener.accept()[0]
    while left:
        left -= len(connection.recv(1 << 20))
    connection.recv(1)
"""
SEND = """
import socket, struct, sys
size = int(sys.argv[1])
connection = socket.create_connection(("198.18.0.2", 5001))
connection.sendall(bytes(size))
connection.shutdown(socket.SHUT_WR)
assert connection.recv(1) == b"", "the receiver closes when it has all"
information = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 216)
print(*struct.unpack_from("=I", information, 100), *struct.unpack_from("=QQ", information, 200))
"""

"""Tunnels: the flow is the outermost by default, the innermost that can be read with decapsulate."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest

from support import frames as f
from support.frame_table import TCP4, TCP6, UDP4, Case, tunnel_cases
from support.programs import Key, Programs, Seen
from support.reference_parser import expected

pytestmark = pytest.mark.kernel

PACKET = f.ipv4(f.udp(b"query"))
CASES = [case for case in tunnel_cases() if case.inner not in (None, case.seen)]


@pytest.fixture(scope="module")
def tc() -> Iterator[Programs]:
    with Programs("tc_monitor", sizes={"flow_table": 4096}) as programs:
        yield programs


@pytest.mark.parametrize("case", CASES, ids=[case.name.replace(" ", "_") for case in CASES])
def test_a_tunnel_cut_anywhere_is_the_flow_of_what_can_be_read(tc: Programs, case: Case) -> None:
    """From whole to the outer header: the answer changes from the inner flow to the outer one and never to unparsed."""
    seen = [tc.one(case.frame[:length], decapsulate=1) for length in range(len(case.frame), 53, -1)]
    assert seen[0] == case.inner
    assert all(each.flow is not None for each in seen)
    assert seen == [expected(case.frame[:length], decapsulate=True) for length in range(len(case.frame), 53, -1)]


@pytest.mark.parametrize("case", CASES, ids=[case.name.replace(" ", "_") for case in CASES])
def test_the_default_is_the_outermost_flow(tc: Programs, case: Case) -> None:
    assert tc.one(case.frame) == case.seen
    assert case.seen.flow is not None
    assert case.seen.flow.source in ("192.0.2.1", "2001:db8::1", "198.18.0.1") or case.name.startswith("ipip")


@pytest.mark.parametrize("bits", list(product((0, 1), repeat=4)))
def test_gre_with_every_set_of_flags(tc: Programs, bits: tuple[int, int, int, int]) -> None:
    checksum, routing, key, sequence = map(bool, bits)
    tunnel = f.gre(PACKET, checksum=checksum, routing=routing, key=key, sequence=sequence)
    outer = Seen(flow=Key(f.GRE, "192.0.2.1", 0, "192.0.2.2", 0))
    frame = f.ethernet(f.ipv4(tunnel, f.GRE, "192.0.2.1", "192.0.2.2"))
    assert tc.one(frame, decapsulate=1) == (outer if routing else UDP4)


@pytest.mark.parametrize("version", range(8))
def test_gre_versions(tc: Programs, version: int) -> None:
    frame = f.ethernet(f.ipv4(f.gre(PACKET, version=version), f.GRE))
    assert (tc.one(frame, decapsulate=1) == UDP4) == (version == 0)


def test_geneve_with_every_length_of_options(tc: Programs) -> None:
    for options in range(64):
        frame = f.ethernet(f.ipv4(f.geneve(f.ethernet(PACKET), options=options), f.UDP))
        assert tc.one(frame, decapsulate=1) == UDP4


@pytest.mark.parametrize("depth", range(1, 9))
def test_four_levels_are_opened_and_no_more(tc: Programs, depth: int) -> None:
    packet = f.ipv4(f.tcp(b"x"), f.TCP)
    for level in range(depth):
        packet = f.ipv4(packet, f.IPIP, f"192.0.2.{level}", "192.0.2.99")
    left = depth - 4 - 1
    want = TCP4 if left < 0 else Seen(flow=Key(f.IPIP, f"192.0.2.{left}", 0, "192.0.2.99", 0))
    assert tc.one(f.ethernet(packet), decapsulate=1) == want


def test_a_device_without_ethernet_opens_tunnels_too(tc: Programs) -> None:
    packet = f.ipv4(f.vxlan(f.ethernet(f.ipv6(f.tcp(), f.TCP), f.IPV6)), f.UDP)
    assert tc.one(packet, l2_length=0, decapsulate=1) == TCP6


def test_bytes_are_those_of_the_whole_frame_and_tcp_is_that_of_the_inner_packet(tc: Programs) -> None:
    tc.clear()
    run = tc.runner(decapsulate=1).run
    sizes = []
    for flags, payload in ((f.SYN, b""), (f.ACK, b""), (f.ACK, b"data"), (f.ACK, b"data"), (f.RST, b"")):
        sequence = 1000 + (flags != f.SYN) + 4 * (flags == f.RST)
        inner = f.ethernet(f.ipv4(f.tcp(payload, sequence=sequence, flags=flags), f.TCP))
        frame = f.ethernet(f.ipv4(f.vxlan(inner), f.UDP))
        sizes.append(len(frame))
        run(frame)
    ((key, flow),) = tc.flows().items()
    assert key == TCP4.flow
    assert (flow["packets"], flow["bytes"], flow["resets"], flow["retransmits"]) == (5, sum(sizes), 1, 1)
    assert flow["tcp_flags"] == f.SYN | f.ACK | f.RST


def test_a_replay_counts_the_ip_length_of_the_packet_that_names_the_flow(tc: Programs) -> None:
    inner = f.ipv4(f.udp(b"query"))
    frame = f.ethernet(f.ipv4(f.vxlan(f.ethernet(inner) + bytes(7)), f.UDP))
    for decapsulate, octets in ((0, len(frame) - 14), (1, len(inner))):
        tc.clear()
        run = tc.runner(replay=1, decapsulate=decapsulate)
        run.run(frame, (len(frame), 1, 0, 0, 0), 5)
        ((_, flow),) = tc.flows().items()
        assert (flow["packets"], flow["bytes"], flow["first_ns"], flow["last"]) == (1, octets, 5, 5)

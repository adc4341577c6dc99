"""The XDP program: the same parser, no flows; frames pass as they came."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from otel_netmon.abi.enums import Kind, Reason
from support import frames as f
from support.frame_table import CASES, Case
from support.programs import Programs, Row, XdpRun
from support.reference_parser import expected

pytestmark = pytest.mark.kernel

XDP_PASS = 2
REACH = 2047  # the program looks for no header that begins beyond


@pytest.fixture(scope="module")
def xdp() -> Iterator[Programs]:
    with Programs("xdp_monitor") as programs:
        yield programs


@pytest.mark.parametrize("case", CASES, ids=[case.name.replace(" ", "_") for case in CASES])
def test_a_row_tells_what_tc_tells(xdp: Programs, case: Case) -> None:
    seen = xdp.one(case.frame, "netmon_xdp")
    assert seen == expected(case.frame, flows=False)
    if case.seen.flow is None:
        assert seen == case.seen
    else:
        assert seen.row is not None
        assert (seen.row.kind, seen.row.protocol) == (Kind.FLOW, case.seen.flow.protocol)
    assert xdp.one(case.frame, "netmon_xdp", decapsulate=1) == expected(case.frame, flows=False, decapsulate=True)


def test_frames_cut_down_to_the_ethernet_header(xdp: Programs) -> None:
    frames = sorted({case.frame[:length] for case in CASES for length in range(14, len(case.frame) + 1)})
    assert len(frames) > 8_000
    assert xdp.many(frames, "netmon_xdp") == Counter(expected(frame, flows=False) for frame in frames)
    assert sum(row["bytes"] for row in xdp.rows().values()) == sum(map(len, frames))


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (f.ethernet(b""), Reason.SHORT_IPV4),
        (f.ethernet(b"", f.IPV6), Reason.SHORT_IPV6),
        (f.ethernet(b"", f.VLAN), Reason.SHORT_VLAN),
        (f.ethernet(b"", f.MPLS), Reason.SHORT_MPLS),
        (f.ethernet(b"", f.PPPOE), Reason.SHORT_PPPOE),
        (f.ethernet(b"", 0), Reason.SHORT_LLC),
        (f.ethernet(f.ipv4()[:19]), Reason.SHORT_IPV4),
        (f.ethernet(f.ipv6()[:39], f.IPV6), Reason.SHORT_IPV6),
    ],
)
def test_what_is_too_short_has_a_reason(xdp: Programs, frame: bytes, reason: Reason) -> None:
    assert xdp.one(frame, "netmon_xdp").row == Row(Kind.UNPARSED, 0, 0, reason)


def test_headers_far_into_a_frame(xdp: Programs) -> None:
    """Eight headers of 2048 octets: what lies beyond the reach is not looked for, and the frame is counted all the same."""
    for octets in (1984, 1992, 2000, 2048):
        frame = f.ethernet(f.ipv6(f.extension(f.extension(f.udp(), f.UDP), 60, octets), 60), f.IPV6)
        beyond = 14 + 40 + octets > REACH
        protocol = f.DESTINATION if beyond else f.UDP
        assert xdp.one(frame, "netmon_xdp").row == Row(Kind.FLOW, f.IPV6, protocol, 0)


def test_every_frame_passes_unchanged(xdp: Programs) -> None:
    for late in ({}, {"decapsulate": 1}, {"l2_length": 0}, {"namespace": 3}):
        run = XdpRun(xdp.program("netmon_xdp", **late), 4096).run  # it compares the frame before and after
        assert {run(case.frame) for case in CASES} == {XDP_PASS}


def test_rows_carry_the_interface_and_the_namespace(xdp: Programs) -> None:
    xdp.one(CASES[0].frame, "netmon_xdp", namespace=3)
    ((key,), _) = xdp.row_reader.read()
    assert (int(key["ifindex"]), int(key["namespace"]), int(key["direction"])) == (1, 3, 0)

"""The parser, frame by frame, through BPF_PROG_TEST_RUN of the shipped programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from otel_netmon.abi.enums import ETHERTYPE_NAMES, Kind, Reason
from support import frames as f
from support.frame_table import CASES, Case, is_refused_by_test_run
from support.programs import Programs, Row, Seen
from support.reference_parser import expected

pytestmark = pytest.mark.kernel

EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=[case.name.replace(" ", "_") for case in CASES])
FAST = {"general": 0, "fast": 1}


@pytest.fixture(scope="module")
def tc() -> Iterator[Programs]:
    with Programs("tc_monitor", sizes={"flow_table": 4096}) as programs:
        yield programs


@pytest.mark.parametrize("fast", FAST.values(), ids=FAST)
@EVERY_CASE
def test_what_a_frame_becomes(tc: Programs, case: Case, fast: int) -> None:
    assert tc.one(case.frame, fast_path=fast) == case.seen
    assert tc.one(case.frame, fast_path=fast, decapsulate=1) == (case.inner or case.seen)
    assert tc.one(case.frame, "netmon_transmit", fast_path=fast) == case.seen


@EVERY_CASE
def test_the_reference_says_the_same(case: Case) -> None:
    assert expected(case.frame) == case.seen
    assert expected(case.frame, decapsulate=True) == (case.inner or case.seen)


@EVERY_CASE
def test_a_frame_is_counted_once_with_its_length(tc: Programs, case: Case) -> None:
    for decapsulate in (0, 1):
        tc.many([case.frame] * 3, decapsulate=decapsulate)
        counted = [*tc.flows().values(), *tc.rows().values(), tc.totals()]
        assert [(each["packets"], each["bytes"]) for each in counted] == [(3, 3 * len(case.frame))] * 2


def cuts() -> list[bytes]:
    """Every case cut at every length that a test run takes."""
    every = {case.frame[:length] for case in CASES for length in range(len(case.frame) + 1)}
    return sorted(frame for frame in every if not is_refused_by_test_run(frame))


@pytest.mark.parametrize("decapsulate", [0, 1])
def test_frames_cut_at_every_length(tc: Programs, decapsulate: int) -> None:
    frames = cuts()
    assert len(frames) > 8_000
    want = Counter(expected(frame, decapsulate=bool(decapsulate)) for frame in frames)
    assert {seen.row.reason for seen in want if seen.row} >= {
        Reason.SHORT_VLAN,
        Reason.SHORT_MPLS,
        Reason.SHORT_PPPOE,
        Reason.SHORT_LLC,
        Reason.SHORT_IPV4,
        Reason.SHORT_IPV6,
    }
    for fast in FAST.values():
        assert tc.many(frames, fast_path=fast, decapsulate=decapsulate) == want


def test_the_fast_way_gives_what_the_general_one_gives(tc: Programs) -> None:
    frames = cuts()
    maps = []
    for fast in FAST.values():
        tc.many(frames, fast_path=fast)
        maps.append(tc.dump())
    assert maps[0] == maps[1]


def test_devices_whose_frames_begin_with_the_ip_header(tc: Programs) -> None:
    bare = {case.frame[14:] for case in CASES if case.frame[12:14] in (b"\x08\x00", b"\x86\xdd")}
    every = {packet[:length] for packet in bare for length in range(15, len(packet) + 1)}
    frames = sorted(frame for frame in every if not is_refused_by_test_run(frame))
    assert len(frames) > 3_000
    for decapsulate in (0, 1):
        want = Counter(expected(frame, l2_length=0, decapsulate=bool(decapsulate)) for frame in frames)
        for fast in FAST.values():
            assert tc.many(frames, fast_path=fast, l2_length=0, decapsulate=decapsulate) == want
    assert tc.one(bytes(15), l2_length=0) == Seen(row=Row(Kind.UNPARSED, 0, 0, Reason.SHORT_IPV4))
    assert tc.one(bytes(40), l2_length=0) == Seen(row=Row(Kind.UNPARSED, 0, 0, Reason.IPV4_VERSION))
    assert tc.one(b"\x70" * 40, l2_length=0) == Seen(row=Row(Kind.UNPARSED, 0, 0, Reason.IPV4_VERSION))


def test_ethertypes_with_a_row_of_their_own_are_those_with_a_name(tc: Programs) -> None:
    """The rest share one row each for EtherTypes and for 802.3 lengths: nobody can fill the table with them."""
    payload = bytes(60)
    walked = {0x8100, 0x88A8, 0x9100, 0x9200, 0x8926, 0x893F, 0x88E7, 0x8903, 0x8847, 0x8848, f.IPV4, f.IPV6}
    types = [ethertype for ethertype in range(0x10000) if ethertype not in walked]
    rows = tc.many([f.ethernet(payload, ethertype) for ethertype in types])
    named = {ethertype for ethertype in ETHERTYPE_NAMES if ethertype >= 0x600} - walked
    assert {seen.row.ethertype for seen in rows if seen.row} == named | {0, 1}
    assert rows[Seen(row=Row(Kind.OTHER, 1, 0, 0))] == 0x600
    assert all(rows[Seen(row=Row(Kind.OTHER, ethertype, 0, 0))] == 1 for ethertype in named)


def test_rows_and_flows_carry_where_the_frame_was_seen(tc: Programs) -> None:
    tc.clear()
    for name in ("netmon_receive", "netmon_transmit"):
        run = tc.runner(name, namespace=7)
        run.run(f.ethernet(f.ipv4(f.udp())))
        run.run(f.ethernet(bytes(40), f.ARP))
    for reader in (tc.flow_reader, tc.row_reader):
        keys, _ = reader.read()
        assert sorted((int(k["ifindex"]), int(k["namespace"]), int(k["direction"])) for k in keys) == [
            (1, 7, 0),
            (1, 7, 1),
        ]


def test_every_reason_is_given_for_some_frame() -> None:
    reasons = {expected(frame).row for frame in {*cuts(), b"", *(case.frame for case in CASES)} if expected(frame).row}
    assert {row.reason for row in reasons if row} == set(Reason)

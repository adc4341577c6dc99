"""Damaged frames and damaged captures: everything is counted once, and as the reference parser says.

The default is 240,000 frames. ``NETMON_FUZZ_FRAMES=10000000 pytest tests/property/test_parser_fuzz.py`` runs ten million;
``NETMON_FUZZ_SEED`` repeats a run by the seed that a failure names.
"""

from __future__ import annotations

import os
import random
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from struct import pack

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from otel_netmon.errors import CaptureError
from otel_netmon.replay import replay
from support import frames as f
from support.capture_files import enhanced, interface, pcap_header, pcap_record, section
from support.frame_table import CASES, is_refused_by_test_run
from support.programs import Programs
from support.reference_parser import expected

pytestmark = pytest.mark.kernel

FRAMES = int(os.environ.get("NETMON_FUZZ_FRAMES", "240000"))
SEED = int(os.environ.get("NETMON_FUZZ_SEED", "0")) or secrets.randbits(32)
BATCH = 4000
FRAME_OCTETS_MAX = 600
CORPUS = [case.frame for case in CASES]
# Octets that mean something in some header: versions, header lengths, protocols, EtherTypes, flags, ends of ranges.
TELLING = bytes({0, 1, 4, 5, 6, 8, 17, 41, 43, 44, 47, 50, 51, 58, 59, 60, 0x20, 0x21, 0x3F, 0x40, 0x45, 0x46, 0x4F, 0x57,
                 0x60, 0x65, 0x7F, 0x80, 0x81, 0x86, 0x88, 0x89, 0xA8, 0xAA, 0xDD, 0xE7, 0xFF, 132, 135, 139})  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- damage
def _octets(frame: bytearray, generator: random.Random) -> None:
    for _ in range(generator.randrange(1, 5)):
        at = generator.randrange(12, len(frame))
        frame[at] = generator.choice(TELLING) if generator.random() < 0.7 else generator.randrange(256)


def _bit(frame: bytearray, generator: random.Random) -> None:
    frame[generator.randrange(12, len(frame))] ^= 1 << generator.randrange(8)


def _cut(frame: bytearray, generator: random.Random) -> None:
    del frame[generator.randrange(15, len(frame) + 1) :]


def _grow(frame: bytearray, generator: random.Random) -> None:
    frame += generator.randbytes(generator.randrange(1, 100))


def _repeat(frame: bytearray, generator: random.Random) -> None:
    start = generator.randrange(12, len(frame))
    part = frame[start : start + generator.choice([2, 4, 8, 14, 20, 40])]
    frame[start:start] = part


def _join(frame: bytearray, generator: random.Random) -> None:
    frame[generator.randrange(14, len(frame)) :] = generator.choice(CORPUS)[generator.choice([12, 14, 18, 34]) :]


def _leave_out(frame: bytearray, generator: random.Random) -> None:
    start = generator.randrange(12, len(frame))
    del frame[start : start + generator.choice([1, 2, 4, 8])]


DAMAGES: list[Callable[[bytearray, random.Random], None]] = [
    _octets,
    _octets,
    _bit,
    _cut,
    _grow,
    _repeat,
    _join,
    _leave_out,
]


def damaged(generator: random.Random) -> Iterator[bytes]:
    """Frames without end that a test run takes."""
    while True:
        frame = bytearray(generator.choice(CORPUS))
        for _ in range(generator.choice([1, 1, 2, 3, 5])):
            generator.choice(DAMAGES)(frame, generator)
            frame += bytes(max(0, 15 - len(frame)))
        made = bytes(frame[:FRAME_OCTETS_MAX])
        if not is_refused_by_test_run(made):
            yield made


# -------------------------------------------------------------------------------------------------------------- frames
VARIANTS = {
    "general": ({"fast_path": 0}, {}),
    "fast": ({"fast_path": 1}, {}),
    "inner": ({"decapsulate": 1}, {"decapsulate": True}),
    "inner, general": ({"decapsulate": 1, "fast_path": 0}, {"decapsulate": True}),
    "bare ip": ({"l2_length": 0, "decapsulate": 1}, {"l2_length": 0, "decapsulate": True}),
}


def test_damaged_frames_are_counted_once_and_as_the_reference_says() -> None:
    """Each batch goes through one variant of the tc program and through XDP; the maps must tell of exactly these frames."""
    generator = random.Random(SEED)  # noqa: S311 - damage, not secrets
    frames = damaged(generator)
    variants = cycle(VARIANTS.items())
    kinds: Counter[str] = Counter()
    with Programs("tc_monitor", sizes={"flow_table": 4 * BATCH}) as tc, Programs("xdp_monitor") as xdp:
        for start in range(0, FRAMES, BATCH):
            batch = [next(frames) for _ in range(min(BATCH, FRAMES - start))]
            name, (late, options) = next(variants)
            want = Counter(expected(frame, **options) for frame in batch)  # type: ignore[arg-type]
            if tc.many(batch, **late) != want:
                for frame in batch:
                    assert tc.one(frame, **late) == expected(frame, **options), (SEED, name, frame.hex())  # type: ignore[arg-type]
                pytest.fail(f"seed {SEED}, {name}: frames alone agree, frames together do not")
            octets = sum(map(len, batch))
            assert (tc.totals()["packets"], tc.totals()["bytes"]) == (len(batch), octets)
            counted = [*tc.flows().values(), *tc.rows().values()]
            assert sum(each["bytes"] for each in counted) == octets
            want_rows = Counter(expected(frame, flows=False) for frame in batch)
            assert xdp.many(batch, "netmon_xdp") == want_rows, SEED
            for seen, times in want.items():
                kinds["flow" if seen.flow else f"row {seen.row.kind}, {seen.row.reason}" if seen.row else "none"] += (
                    times
                )
    assert kinds["flow"] > FRAMES // 4
    assert len(kinds) > 10, f"the damage is not various enough: {kinds}"


HEADERS = st.one_of(
    st.builds(
        lambda payload, options, more, offset, protocol: f.ipv4(
            payload, protocol, options=options, more=more, offset=offset * 8
        ),
        payload=st.one_of(
            st.builds(f.tcp, st.binary(max_size=8), flags=st.integers(0, 255), words=st.integers(0, 15)),
            st.builds(f.udp, st.binary(max_size=8)),
            st.binary(max_size=30),
        ),
        options=st.sampled_from([b"", b"\1\1\1\1", bytes(40)]),
        more=st.booleans(),
        offset=st.sampled_from([0, 0, 0, 1, 185, 8191]),
        protocol=st.sampled_from([f.TCP, f.UDP, f.ICMP, f.SCTP, 255]),
    ),
    st.builds(
        lambda payload, protocol, length: f.ipv6(payload, protocol, length=length),
        payload=st.one_of(
            st.builds(f.tcp, st.binary(max_size=8), flags=st.integers(0, 255), words=st.integers(0, 15)),
            st.builds(f.udp, st.binary(max_size=8)),
            st.builds(f.extension, st.builds(f.tcp), st.just(f.TCP)),
            st.builds(f.fragment, st.builds(f.tcp), st.just(f.TCP), st.sampled_from([0, 8, 1480])),
        ),
        protocol=st.sampled_from([f.TCP, f.UDP, f.HOP_BY_HOP, f.FRAGMENT, f.ICMPV6]),
        length=st.sampled_from([None, 0, 1, 65535]),
    ),
)
CHANGES = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4)


@pytest.fixture(scope="module")
def tc() -> Iterator[Programs]:
    with Programs("tc_monitor", sizes={"flow_table": 64}) as programs:
        yield programs


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    packets=st.lists(st.tuples(HEADERS, CHANGES, st.integers(0, 100)), min_size=1, max_size=8),
    replayed=st.booleans(),
    ethernet=st.booleans(),
)
def test_the_fast_way_and_the_general_one_leave_the_same_maps(
    tc: Programs, packets: list[tuple[bytes, list[tuple[int, int]], int]], *, replayed: bool, ethernet: bool
) -> None:
    frames = []
    for packet, changes, padding in packets:
        head = f.ethernet(b"", f.IPV4 if packet[0] >> 4 == 4 else f.IPV6) if ethernet else b""
        changed = bytearray(head + packet + bytes(padding))
        for at, value in changes:
            if len(head) <= at < len(changed):
                changed[at] = value
        if not is_refused_by_test_run(bytes(changed)):
            frames.append(bytes(changed))
    late = {"replay": int(replayed), "l2_length": 14 if ethernet else 0}
    maps = []
    for fast in (0, 1):
        tc.clear()
        run = tc.runner(fast_path=fast, **late)
        for frame in frames:
            run.run(frame, (len(frame), 1, 0, 0, 0), 1)
        maps.append(tc.dump())
    assert maps[0] == maps[1]


# ------------------------------------------------------------------------------------------------------------ captures
def captures() -> list[bytes]:
    """Small captures of both formats, both byte orders and several link types."""
    ip = [case.frame[14:] for case in CASES if case.frame[12:14] == b"\x08\x00"]
    files = []
    for order in "<>":
        files.append(pcap_header(order) + b"".join(pcap_record(frame, order=order) for frame in CORPUS[::9]))
        files.append(pcap_header(order, link=101) + b"".join(pcap_record(frame, order=order) for frame in ip[::5]))
        cooked = [pack(">HHH8sH", 0, 1, 6, bytes(8), 0x0800) + packet for packet in ip[::7]]
        files.append(pcap_header(order, link=113) + b"".join(pcap_record(frame, order=order) for frame in cooked))
        files.append(
            section(order)
            + interface(1, order=order)
            + interface(101, order=order)
            + b"".join(enhanced(frame, 0, order=order) for frame in CORPUS[::11])
            + b"".join(enhanced(packet, 1, order=order) for packet in ip[::9])
        )
    return files


def test_damaged_captures_are_accounted_for_to_the_last_record(tmp_path: Path) -> None:
    """Read = counted + unparsed, whatever is in the file; what cannot be read at all is a CaptureError."""
    generator = random.Random(SEED)  # noqa: S311 - damage, not secrets
    whole = captures()
    path, cache = tmp_path / "a.pcap", tmp_path / "cache"
    outcomes: Counter[str] = Counter()
    for number in range(96):
        content = bytearray(whole[number % len(whole)])
        for _ in range(generator.choice([0, 1, 3, 10, 40])):
            content[generator.randrange(len(content))] = generator.choice(TELLING)
        if generator.random() < 0.2:
            del content[generator.randrange(len(content)) :]
        path.write_bytes(content)
        try:
            result = replay(str(path), cache, decapsulate=number % 2 == 1)
        except CaptureError:
            outcomes["no capture"] += 1
            continue
        assert result.read == result.counted + sum(result.unparsed.values()), SEED
        in_flows = sum(flow["packets"] for flow in result.flows)
        assert in_flows <= result.counted
        outcomes["faults" if result.faults else "whole"] += 1
    assert outcomes["whole"] > 5
    assert outcomes["faults"] > 5

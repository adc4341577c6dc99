"""Each block of the pcapng format, and each way a pcapng file can be broken."""

from __future__ import annotations

from pathlib import Path
from struct import pack

import pytest

from otel_netmon.decode import capture_source
from otel_netmon.decode.capture import Capture, Fault, Frame
from support.capture_files import (
    ENHANCED,
    OBSOLETE,
    SIMPLE,
    block,
    enhanced,
    interface,
    options,
    section,
    simple,
)

DATA = bytes(range(61))
SECOND = 1_700_000_000
TIME_RESOLUTION, TIME_OFFSET = 9, 14


def read(path: Path, content: bytes, skipped: int = 0) -> tuple[list[Frame], list[Fault]]:
    path.write_bytes(content)
    with Capture(path) as capture:
        assert capture.format == "pcapng"
        frames = list(capture)
        assert capture.skipped == skipped
        assert capture.fault_count == len(capture.faults)
        return frames, capture.faults


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "a.pcapng"


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [ENHANCED, OBSOLETE])
def test_packets_of_several_interfaces(file: Path, order: str, kind: int) -> None:
    content = section(order, listed=options((4, b"writer"), order=order))
    content += interface(1, 65535, order=order) + interface(276, order=order)
    content += enhanced(DATA, 1, SECOND * 10**6 + 5, 1514, order=order, kind=kind)
    content += enhanced(b"", 0, 7, order=order, kind=kind)
    content += enhanced(
        DATA[:60], 0, 8, listed=options((1, b"note"), (2, bytes(4)), order=order), order=order, kind=kind
    )
    frames, faults = read(file, content)
    assert frames == [
        Frame(SECOND * 10**9 + 5000, 1514, 276, DATA),
        Frame(7000, 0, 1, b""),
        Frame(8000, 60, 1, DATA[:60]),
    ]
    assert faults == []


@pytest.mark.parametrize(
    ("resolution", "units", "time_ns"),
    [
        (0, SECOND, SECOND * 10**9),
        (3, SECOND * 1000 + 1, SECOND * 10**9 + 10**6),
        (6, SECOND * 10**6 + 1, SECOND * 10**9 + 1000),
        (9, SECOND * 10**9 + 1, SECOND * 10**9 + 1),
        (12, 1_700_000 * 10**12 + 1999, 1_700_000 * 10**9 + 1),
        (127, 10**18, 0),
        (0x80, SECOND, SECOND * 10**9),
        (0x80 | 10, SECOND * 1024 + 1, SECOND * 10**9 + 976_562),
        (0x80 | 30, (SECOND << 30) + 3, SECOND * 10**9 + 2),
        (0x80 | 63, 1 << 62, 500_000_000),
        (0x80 | 127, 1 << 63, 0),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_time_resolutions(file: Path, resolution: int, units: int, time_ns: int, order: str) -> None:
    listed = options((2, b"eth0"), (TIME_RESOLUTION, bytes([resolution])), order=order)
    frames, faults = read(
        file, section(order) + interface(listed=listed, order=order) + enhanced(DATA, units=units, order=order)
    )
    assert [frame.time_ns for frame in frames] == [time_ns]
    assert faults == []


@pytest.mark.parametrize("seconds", [SECOND, -10, 0])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("end", [True, False])
def test_time_offset(file: Path, seconds: int, order: str, end: bool) -> None:
    listed = options((TIME_OFFSET, pack(order + "q", seconds)), order=order, end=end)
    frames, faults = read(
        file, section(order) + interface(listed=listed, order=order) + enhanced(DATA, units=20_000_001, order=order)
    )
    assert [frame.time_ns for frame in frames] == [(seconds + 20) * 10**9 + 1000]
    assert faults == []


@pytest.mark.parametrize(
    ("resolution", "seconds", "units"), [(6, -2, 1_000_000), (0, 0, 1 << 63), (9, 0, 1 << 63), (9, 1 << 62, 0)]
)
def test_time_that_no_counter_holds_is_a_fault_and_the_packet_is_kept(
    file: Path, resolution: int, seconds: int, units: int
) -> None:
    listed = options((TIME_RESOLUTION, bytes([resolution])), (TIME_OFFSET, pack("<q", seconds)))
    head = section() + interface(listed=listed)
    frames, faults = read(file, head + enhanced(DATA, units=units))
    assert frames == [Frame(0, 61, 1, DATA)]
    assert [fault.offset for fault in faults] == [len(head)]


@pytest.mark.parametrize("order", ["<", ">"])
def test_simple_packets(file: Path, order: str) -> None:
    content = section(order) + interface(101, 0, order=order) + simple(DATA, order=order)
    content += section(order) + interface(1, 61, order=order) + simple(DATA, 1514, order=order)
    frames, faults = read(file, content)
    assert frames == [Frame(0, 61, 101, DATA), Frame(0, 1514, 1, DATA)]
    assert faults == []


def test_sections_have_their_own_byte_order_and_interfaces(file: Path) -> None:
    content = section("<") + interface(1) + interface(113) + enhanced(DATA, 1)
    content += section(">", (1, 2)) + interface(276, order=">") + enhanced(DATA, 0, order=">")
    content += section("<") + interface(1) + enhanced(DATA, 0)
    frames, faults = read(file, content)
    assert [frame.link_type for frame in frames] == [113, 276, 1]
    assert faults == []


def test_blocks_that_hold_no_packets_are_passed_over(file: Path) -> None:
    others = b"".join(block(kind, bytes(8)) for kind in (4, 5, 7, 8, 9, 10, 0xBAD, 0x40000BAD, 0xFFFFFFFF))
    content = section() + others + block(5, b"") + interface() + others + enhanced(DATA) + block(10, bytes(300_000))
    assert read(file, content + enhanced(DATA)) == ([Frame(0, 61, 1, DATA)] * 2, [])


@pytest.mark.parametrize("kind", [ENHANCED, OBSOLETE, SIMPLE])
def test_packet_of_an_undefined_interface_costs_that_packet(file: Path, kind: int) -> None:
    lost = simple(DATA) if kind == SIMPLE else enhanced(DATA, 0, kind=kind)
    head = section()
    frames, faults = read(file, head + lost + interface() + enhanced(DATA), skipped=1)
    assert frames == [Frame(0, 61, 1, DATA)]
    assert [fault.offset for fault in faults] == [len(head)]
    assert "names interface 0" in faults[0].message


def test_interfaces_of_an_earlier_section_are_gone(file: Path) -> None:
    head = section() + interface() + interface() + enhanced(DATA, 1) + section() + interface()
    frames, faults = read(file, head + enhanced(DATA, 1), skipped=1)
    assert len(frames) == 1
    assert [fault.offset for fault in faults] == [len(head)]


def test_short_interface_description_leaves_the_numbers_of_the_others(file: Path) -> None:
    content = section() + interface(1) + block(1, bytes(4)) + interface(113)
    lost = enhanced(DATA, 1)
    frames, faults = read(file, content + lost + enhanced(DATA, 2), skipped=1)
    assert [frame.link_type for frame in frames] == [113]
    assert [fault.offset for fault in faults] == [28 + 20, len(content)]


@pytest.mark.parametrize("kind", [ENHANCED, OBSOLETE, SIMPLE])
def test_packet_block_without_room_for_its_fields_costs_that_packet(file: Path, kind: int) -> None:
    head = section() + interface()
    small = block(kind, bytes(0 if kind == SIMPLE else 16))
    frames, faults = read(file, head + small + enhanced(DATA), skipped=1)
    assert len(frames) == 1
    assert [fault.offset for fault in faults] == [len(head)]


@pytest.mark.parametrize("kind", [ENHANCED, OBSOLETE, SIMPLE])
def test_captured_length_past_the_block_costs_that_packet(file: Path, kind: int) -> None:
    head = section() + interface()
    long = simple(DATA, 65) if kind == SIMPLE else enhanced(DATA, captured=65, kind=kind)
    frames, faults = read(file, head + long + enhanced(DATA), skipped=1)
    assert len(frames) == 1
    assert [fault.offset for fault in faults] == [len(head)]
    assert "65 captured octets, its block has room for 64" in faults[0].message


def test_captured_length_that_cannot_be_costs_that_packet(file: Path) -> None:
    head = section() + interface()
    frames, faults = read(file, head + enhanced(bytes(262_145)) + enhanced(bytes(262_144)), skipped=1)
    assert [len(frame.data) for frame in frames] == [262_144]
    assert [fault.offset for fault in faults] == [len(head)]


@pytest.mark.parametrize("length", [0, 4, 8, 11, 13, 14, 15, 97, (128 << 20) + (128 << 10) + 4, 0xFFFF_FFFC])
def test_block_length_that_cannot_be_ends_the_iteration(file: Path, length: int) -> None:
    head = section() + interface() + enhanced(DATA)
    frames, faults = read(file, head + pack("<II", 6, length) + bytes(120) + enhanced(DATA))
    assert len(frames) == 1
    assert [fault.offset for fault in faults] == [len(head)]
    assert f"length of {length}, possible are multiples of 4" in faults[0].message


@pytest.mark.parametrize("trailing", [0, 16, 24])
def test_lengths_that_differ_end_the_iteration(file: Path, trailing: int) -> None:
    head = section() + interface() + enhanced(DATA)
    frames, faults = read(file, head + block(5, bytes(8), trailing=trailing) + enhanced(DATA))
    assert len(frames) == 1
    assert [fault.offset for fault in faults] == [len(head)]
    assert f"20 before and {trailing} after" in faults[0].message


def test_unknown_byte_order_magic_in_a_later_section_ends_the_iteration(file: Path) -> None:
    head = section() + interface() + enhanced(DATA)
    later = bytearray(section() + interface() + enhanced(DATA))
    later[8:12] = b"\xde\xad\xbe\xef"
    frames, faults = read(file, head + later)
    assert len(frames) == 1
    assert [fault.offset for fault in faults] == [len(head) + 8]
    assert "deadbeef" in faults[0].message


@pytest.mark.parametrize("place", ["first", "later"])
def test_section_of_an_unknown_version_is_left_out(file: Path, place: str) -> None:
    before = section() + interface() + enhanced(DATA) if place == "later" else b""
    unknown = section(version=(2, 0)) + interface(7) + enhanced(DATA) + enhanced(DATA, 9)
    frames, faults = read(file, before + unknown + section() + interface(1) + enhanced(DATA))
    assert [frame.link_type for frame in frames] == ([1, 1] if place == "later" else [1])
    assert [fault.offset for fault in faults] == [len(before) + 12]
    assert "version 2.0" in faults[0].message


def test_short_section_header_leaves_its_section_out(file: Path) -> None:
    short = block(0x0A0D0D0A, pack("<IHH", 0x1A2B3C4D, 1, 0)) + interface(7) + enhanced(DATA)
    frames, faults = read(file, short + section() + interface(1) + enhanced(DATA))
    assert [frame.link_type for frame in frames] == [1]
    assert [fault.offset for fault in faults] == [0]


@pytest.mark.parametrize(
    ("listed", "offset", "message"),
    [
        (options((TIME_RESOLUTION, b"\x09\x00")), 16, "if_tsresol has 2 octets instead of 1"),
        (options((TIME_OFFSET, bytes(4))), 16, "if_tsoffset has 4 octets instead of 8"),
        (options((TIME_RESOLUTION, b"\x06"), (TIME_RESOLUTION, b"\x09")), 24, "if_tsresol is given again"),
        (options((2, b"lo")) + pack("<HH", 3, 5), 16, None),
        (options((2, b"lo"), end=False) + pack("<HH", 3, 1), 24, "option 3 of 1 octets reaches past"),
        (options((2, b"lo"), end=False) + pack("<HH", 3, 0), 24, None),
        (options((2, b"lo"), end=False) + pack("<HH", 9, 0xFFFF) + bytes(8), 24, "option 9 of 65535 octets"),
    ],
)
def test_broken_options_of_an_interface(file: Path, listed: bytes, offset: int, message: str | None) -> None:
    frames, faults = read(file, section() + interface(listed=listed) + enhanced(DATA, units=3))
    assert frames == [Frame(3000, 61, 1, DATA)]
    if message is None:
        assert faults == []
    else:
        assert [fault.offset for fault in faults] == [28 + offset]
        assert message in faults[0].message


@pytest.mark.parametrize("piece_bytes", [16, capture_source.PIECE_BYTES])
def test_every_cut(file: Path, piece_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_source, "PIECE_BYTES", piece_bytes)
    blocks = [section(), interface(), enhanced(DATA), simple(DATA), block(5, bytes(8)), enhanced(b"", kind=OBSOLETE)]
    whole = b"".join(blocks)
    ends = [sum(map(len, blocks[: number + 1])) for number in range(len(blocks))]
    for size in range(12, len(whole) + 1):
        frames, faults = read(file, whole[:size])
        assert len(frames) == sum(ends[number] <= size for number in (2, 3, 5))
        begun = max((end for end in ends if end <= size), default=0)
        assert [fault.offset for fault in faults] == ([] if begun == size else [begun])


def test_faults_are_counted_beyond_those_that_are_listed(file: Path) -> None:
    file.write_bytes(section() + interface() + enhanced(DATA, 1) * 300 + enhanced(DATA, 0))
    with Capture(file) as capture:
        assert len(list(capture)) == 1
        assert (len(capture.faults), capture.fault_count, capture.skipped) == (256, 300, 300)
        assert [fault.offset for fault in capture.faults] == [48 + number * 96 for number in range(256)]

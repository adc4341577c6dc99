"""Each variant of the pcap format, and each way a pcap file can be broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from otel_netmon.decode import capture_source
from otel_netmon.decode.capture import Capture, Fault, Frame
from otel_netmon.errors import CaptureError
from support.capture_files import KUZNETZOV, MICROSECONDS, NANOSECONDS, pcap_header, pcap_record

ETHERNET_FRAME = bytes(range(60))


def read(path: Path, content: bytes) -> tuple[list[Frame], list[Fault]]:
    path.write_bytes(content)
    with Capture(path) as capture:
        assert capture.format == "pcap"
        return list(capture), capture.faults


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "a.pcap"


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("magic", "fraction_ns"), [(MICROSECONDS, 1000), (NANOSECONDS, 1), (KUZNETZOV, 1000)], ids=["us", "ns", "kuznetzov"]
)
def test_byte_orders_and_resolutions(file: Path, order: str, magic: int, fraction_ns: int) -> None:
    content = pcap_header(order, magic)
    content += pcap_record(ETHERNET_FRAME, 1_700_000_000, 123_456, 1514, order=order, magic=magic)
    content += pcap_record(b"", 0xFFFF_FFFF, 999_999, 0, order=order, magic=magic)
    frames, faults = read(file, content)
    assert frames == [
        Frame(1_700_000_000_000_000_000 + 123_456 * fraction_ns, 1514, 1, ETHERNET_FRAME),
        Frame(0xFFFF_FFFF * 10**9 + 999_999 * fraction_ns, 0, 1, b""),
    ]
    assert faults == []


@pytest.mark.parametrize("version", [(2, 0), (2, 1), (2, 2), (543, 0)])
def test_versions_that_store_the_lengths_the_other_way_round(file: Path, version: tuple[int, int]) -> None:
    content = pcap_header(version=version) + 2 * pcap_record(ETHERNET_FRAME, wire=1514, version=version)
    frames, faults = read(file, content)
    assert frames == [Frame(0, 1514, 1, ETHERNET_FRAME)] * 2
    assert faults == []


def test_version_2_3_may_store_the_lengths_either_way(file: Path) -> None:
    in_order = pcap_record(ETHERNET_FRAME, wire=1514, version=(2, 4))
    swapped = pcap_record(ETHERNET_FRAME, wire=1514, version=(2, 2))
    frames, faults = read(file, pcap_header(version=(2, 3)) + in_order + swapped)
    assert frames == [Frame(0, 1514, 1, ETHERNET_FRAME)] * 2
    assert faults == []


def test_length_of_the_frame_check_sequence_is_not_part_of_the_link_type(file: Path) -> None:
    frames, faults = read(file, pcap_header(link=0x2400_0114) + pcap_record(ETHERNET_FRAME))
    assert [frame.link_type for frame in frames] == [0x114]
    assert faults == []


@pytest.mark.parametrize("bit", [*range(16, 26), 27])
def test_reserved_bits_of_the_link_type_field_are_a_fault_that_costs_nothing(file: Path, bit: int) -> None:
    frames, faults = read(file, pcap_header(link=1 << bit | 1) + pcap_record(ETHERNET_FRAME))
    assert [frame.link_type for frame in frames] == [1]
    assert [fault.offset for fault in faults] == [20]
    assert f"0x{1 << bit | 1:08x}" in faults[0].message


def test_lengths_that_tcpdump_takes_are_taken(file: Path) -> None:
    content = pcap_header(snapshot=40)
    content += pcap_record(ETHERNET_FRAME, wire=20)
    content += pcap_record(bytes(262_144))
    frames, faults = read(file, content)
    assert [(frame.wire_length, len(frame.data)) for frame in frames] == [(20, 60), (262_144, 262_144)]
    assert faults == []


@pytest.mark.parametrize(
    ("link", "limit"), [(1, 262_144), (189, 128 << 20), (220, 128 << 20), (249, 128 << 20), (279, 8 << 20)]
)
def test_captured_length_that_cannot_be_ends_the_iteration(file: Path, link: int, limit: int) -> None:
    good = pcap_record(ETHERNET_FRAME)
    frames, faults = read(file, pcap_header(link=link) + good + pcap_record(b"", captured=limit + 1) + good)
    assert len(frames) == 1
    assert [fault.offset for fault in faults] == [24 + 76]
    assert f"{limit + 1} captured octets, at most {limit}" in faults[0].message


@pytest.mark.parametrize("magic", [MICROSECONDS, KUZNETZOV])
@pytest.mark.parametrize("piece_bytes", [16, capture_source.PIECE_BYTES])
def test_every_cut(file: Path, magic: int, piece_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_source, "PIECE_BYTES", piece_bytes)
    record = pcap_record(ETHERNET_FRAME, magic=magic)
    whole = pcap_header(magic=magic) + 3 * record
    for size in range(24, len(whole) + 1):
        frames, faults = read(file, whole[:size])
        count, rest = divmod(size - 24, len(record))
        assert len(frames) == count
        assert [fault.offset for fault in faults] == ([24 + count * len(record)] if rest else [])


def test_file_header_only_is_an_empty_capture(file: Path) -> None:
    assert read(file, pcap_header()) == ([], [])


@pytest.mark.parametrize("size", range(4, 24))
def test_cut_file_header(file: Path, size: int) -> None:
    file.write_bytes(pcap_header()[:size])
    with pytest.raises(CaptureError, match=f"ends after {size} of the 24 octets") as raised:
        Capture(file)
    assert raised.value.offset == size
    assert raised.value.remedy


@pytest.mark.parametrize("version", [(1, 2), (2, 5), (3, 0), (543, 1), (0, 0)])
def test_unknown_version(file: Path, version: tuple[int, int]) -> None:
    file.write_bytes(pcap_header(version=version) + pcap_record(ETHERNET_FRAME))
    with pytest.raises(CaptureError, match=f"version {version[0]}.{version[1]}") as raised:
        Capture(file)
    assert raised.value.offset == 4


def test_records_across_the_pieces_in_which_a_file_is_read(file: Path) -> None:
    sizes = [0, 1, 59, 1500, 65_535, 262_144, 3] * 5
    content = pcap_header() + b"".join(pcap_record(bytes([number]) * size, number) for number, size in enumerate(sizes))
    frames, faults = read(file, content)
    assert [frame.data for frame in frames] == [bytes([number]) * size for number, size in enumerate(sizes)]
    assert [frame.time_ns for frame in frames] == [number * 10**9 for number in range(len(sizes))]
    assert faults == []

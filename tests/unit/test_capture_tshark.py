"""The reader beside tshark, on files that Wireshark's tools wrote and on files built here."""

from __future__ import annotations

import random
import shutil
import subprocess
from decimal import Decimal
from pathlib import Path
from struct import pack

import pytest

from otel_netmon.decode.capture import Capture
from support.capture_files import OBSOLETE, enhanced, interface, options, pcap_header, pcap_record, section, simple

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("tshark", "editcap", "mergecap"))), reason="tshark, editcap, mergecap are not installed"
)

PACKETS = 211


def tshark(path: Path) -> list[tuple[int, int, int]]:
    """Time in ns (0 where the file has none), wire length and captured length of each packet."""
    fields = ("frame.time_epoch", "frame.len", "frame.cap_len")
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", *(word for field in fields for word in ("-e", field))]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    rows = [line.split("\t") for line in lines]
    return [(int(Decimal(time or 0) * 10**9), int(length), int(captured)) for time, length, captured in rows]


def reader(path: Path) -> list[tuple[int, int, int]]:
    with Capture(path) as capture:
        rows = [(frame.time_ns, frame.wire_length, len(frame.data)) for frame in capture]
        assert capture.faults == []
    return rows


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nanosecond pcap with a prime number of packets, some cut by a snapshot length."""
    generator = random.Random(3)  # noqa: S311 - packets, not secrets
    content = pcap_header(magic=0xA1B23C4D)
    for number in range(PACKETS):
        size = generator.randrange(14, 1515)
        data = bytes(12) + b"\x88\xb5" + generator.randbytes(size - 14)
        content += pcap_record(
            data, 1_700_000_000 + number, generator.randrange(10**9), generator.choice((size, 9000)), magic=0xA1B23C4D
        )
    path = tmp_path_factory.mktemp("source") / "source.pcap"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", ["pcap", "nsecpcap", "modpcap", "pcapng"])
def test_formats_that_editcap_writes(source: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    subprocess.run(["editcap", "-s", "1000", "-F", kind, str(source), str(path)], check=True, capture_output=True)
    rows = reader(path)
    assert rows == tshark(path)
    assert len(rows) == PACKETS
    with Capture(source) as capture:
        step = 1000 if kind in ("pcap", "modpcap") else 1
        assert [row[0] for row in rows] == [frame.time_ns // step * step for frame in capture]


def test_merged_interfaces_and_joined_sections(source: Path, tmp_path: Path) -> None:
    cooked, merged, joined = (tmp_path / name for name in ("cooked", "merged", "joined"))
    editcap = ["editcap", "-F", "pcapng", "-T", "linux-sll", str(source), str(cooked)]
    subprocess.run(editcap, check=True, capture_output=True)
    mergecap = ["mergecap", "-I", "none", "-w", str(merged), str(source), str(cooked)]
    subprocess.run(mergecap, check=True, capture_output=True)
    joined.write_bytes(merged.read_bytes() + cooked.read_bytes())
    rows = reader(joined)
    assert rows == tshark(joined)
    assert len(rows) == 3 * PACKETS
    with Capture(joined) as capture:
        link_types = [frame.link_type for frame in capture]
    assert (link_types.count(1), link_types.count(113)) == (PACKETS, 2 * PACKETS)


@pytest.mark.parametrize("order", ["<", ">"])
def test_blocks_that_editcap_does_not_write(tmp_path: Path, order: str) -> None:
    data = bytes(range(61))
    content = section(order)
    for resolution in (0, 3, 6, 9, 12, 0x80 | 10, 0x80 | 20, 0x80 | 30):
        listed = options((9, bytes([resolution])), (14, pack(order + "q", 1000)), order=order)
        content += interface(1, 1000, listed, order)
    for number in range(8):
        for units in (0, 1, 999, 1_000_001):
            content += enhanced(data, number, units, 99, order=order)
            content += enhanced(data, number, units, order=order, kind=OBSOLETE)
    content += section(order) + interface(1, 40, order=order) + simple(data[:40], 61, order=order)
    path = tmp_path / "a.pcapng"
    path.write_bytes(content)
    rows = reader(path)
    assert rows == tshark(path)
    assert len(rows) == 65


def test_pcap_fields_at_their_ends(tmp_path: Path) -> None:
    data = bytes(range(61))
    content = pcap_header(">", snapshot=40, link=0x2400_0001)
    for seconds, fraction, wire in ((0, 0, 61), (0xFFFF_FFFF, 999_999, 0xFFFF), (1, 0, 20)):
        content += pcap_record(data, seconds, fraction, wire, order=">")
    path = tmp_path / "a.pcap"
    path.write_bytes(content)
    rows = reader(path)
    assert rows == tshark(path)
    assert len(rows) == 3

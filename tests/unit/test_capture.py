"""Opening a capture: paths, pipes, standard input, and what is no capture at all."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import otel_netmon
from otel_netmon.decode.capture import Capture, Fault, Frame
from otel_netmon.decode.capture_source import Source
from otel_netmon.decode.pcap import pcap_frames, pcap_header as read_pcap_header
from otel_netmon.errors import CaptureError
from support.capture_files import enhanced, interface, pcap_header, pcap_record, section

ROOT = Path(otel_netmon.__file__).parent.parent
DATA = bytes(range(60))
PCAP = pcap_header() + b"".join(pcap_record(DATA, number) for number in range(23))
PCAPNG = section() + interface() + b"".join(enhanced(DATA, units=number * 10**6) for number in range(23))
FRAMES = [Frame(number * 10**9, 60, 1, DATA) for number in range(23)]


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("path", ["missing.pcap", "a/b.pcap"])
def test_missing_file(tmp_path: Path, path: str) -> None:
    with pytest.raises(CaptureError, match="cannot be opened: No such file") as raised:
        Capture(tmp_path / path)
    assert raised.value.remedy == "check the path"


def test_directory(tmp_path: Path) -> None:
    before = open_descriptors()
    with pytest.raises(CaptureError, match="Is a directory"):
        Capture(tmp_path)
    assert open_descriptors() == before


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.pcap"
    path.touch()
    before = open_descriptors()
    with pytest.raises(CaptureError, match=r"empty\.pcap is empty") as raised:
        Capture(path)
    assert raised.value.offset == 0
    assert raised.value.remedy
    assert open_descriptors() == before


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (gzip.compress(PCAP), "gzip -dc FILE | otel-netmon replay -"),
        (b"\x28\xb5\x2f\xfd\x04\x58", "zstd -dc FILE"),
        (b"\x04\x22\x4d\x18\x64", "lz4 -dc FILE"),
        (b"\xfd7zXZ\x00\x00", "xz -dc FILE"),
        (b"BZh91AY", "bzip2 -dc FILE"),
        (b"snoop\x00\x00\x00\x00\x00\x00\x02", "editcap -F pcapng"),
        (b"\xa1", "editcap -F pcapng"),
        (b"\x0a\x0d\x0d\x0a\x1c\x00\x00\x00\xff\xff\xff\xff", "editcap -F pcapng"),
        (section()[:11], "editcap -F pcapng"),
    ],
)
def test_no_capture(tmp_path: Path, content: bytes, remedy: str) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    before = open_descriptors()
    with pytest.raises(CaptureError) as raised:
        Capture(path)
    assert remedy in raised.value.remedy
    assert raised.value.offset == 0
    assert open_descriptors() == before


@pytest.mark.parametrize(("content", "kind"), [(PCAP, "pcap"), (PCAPNG, "pcapng")])
def test_single_pass_and_close(tmp_path: Path, content: bytes, kind: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    before = open_descriptors()
    with Capture(str(path)) as capture:
        assert capture.format == kind
        assert list(capture) == FRAMES
        assert list(capture) == []
        assert (capture.faults, capture.fault_count, capture.skipped) == ([], 0, 0)
    capture.close()
    assert open_descriptors() == before


@pytest.mark.parametrize(("content", "kind"), [(PCAP, "pcap"), (PCAPNG, "pcapng")])
@pytest.mark.parametrize("step", [1, 7, 4096])
def test_fifo(tmp_path: Path, content: bytes, kind: str, step: int) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)

    def write() -> None:
        with path.open("wb", buffering=0) as pipe:
            for start in range(0, len(content), step):
                pipe.write(content[start : start + step])

    writer = threading.Thread(target=write)
    writer.start()
    with Capture(path) as capture:
        assert capture.format == kind
        assert list(capture) == FRAMES
        assert capture.faults == []
    writer.join()


@pytest.mark.parametrize("content", [PCAP, PCAPNG])
def test_standard_input(content: bytes) -> None:
    program = (
        "import os\n"
        "from otel_netmon.decode.capture import Capture\n"
        "with Capture('-') as capture:\n"
        "    print(capture.format, sum(len(frame.data) for frame in capture), capture.faults)\n"
        "os.fstat(0)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", program], input=content, capture_output=True, env=environment)
    assert run.stdout.decode() == f"{'pcap' if content is PCAP else 'pcapng'} {23 * 60} []\n"
    assert (run.returncode, run.stderr) == (0, b"")


def test_empty_standard_input_is_named() -> None:
    program = (
        "from otel_netmon.decode.capture import Capture\n"
        "from otel_netmon.errors import CaptureError\n"
        "try:\n    Capture('-')\nexcept CaptureError as error:\n    print(error.message)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", program], input=b"", capture_output=True, env=environment)
    assert (run.stdout, run.returncode) == (b"standard input is empty\n", 0)


@pytest.mark.parametrize("content", [PCAP, PCAPNG])
def test_frames_of_a_live_pipe_come_before_it_is_closed(content: bytes) -> None:
    read_end, write_end = os.pipe()
    try:
        os.write(write_end, content[:-30])
        with Capture(f"/dev/fd/{read_end}") as capture:
            frames = iter(capture)
            assert [next(frames) for _ in range(22)] == FRAMES[:22]
            os.write(write_end, content[-30:])
            assert next(frames) == FRAMES[22]
            os.close(write_end)
            write_end = -1
            assert list(frames) == []
            assert capture.faults == []
    finally:
        os.close(read_end)
        if write_end >= 0:
            os.close(write_end)


def test_failing_read_is_a_fault_after_the_frames_before_it() -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    try:
        os.write(write_end, PCAP[: 24 + 76 + 20])
        source = Source(read_end)
        head = source.fill(b"", 24)
        header = read_pcap_header(source, head, "pipe")
        assert list(pcap_frames(source, head, header)) == FRAMES[:1]
        assert source.faults == [
            Fault(120, "reading fails: Resource temporarily unavailable"),
            Fault(100, "the file ends after 4 of the 60 captured octets of a record"),
        ]
    finally:
        os.close(read_end)
        os.close(write_end)

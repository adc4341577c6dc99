"""Whatever is written is read back, and whatever is broken stays a fault: for any frames, any cut, any damage."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from struct import pack
from typing import NamedTuple

from hypothesis import given, strategies as st

from otel_netmon.decode import capture_source
from otel_netmon.decode.capture import Capture, Frame, to_ethernet
from otel_netmon.errors import CaptureError
from support.capture_files import (
    ENHANCED,
    KUZNETZOV,
    MICROSECONDS,
    NANOSECONDS,
    OBSOLETE,
    SIMPLE,
    block,
    enhanced,
    interface,
    options,
    pcap_header,
    pcap_record,
    section,
    simple,
)


class Written(NamedTuple):
    """A file in its parts (headers, records, blocks), and the frame of each part that holds one."""

    parts: list[bytes]
    frames: list[Frame | None]

    def content(self) -> bytes:
        return b"".join(self.parts)


DATA = st.binary(max_size=90)
WORD = st.integers(0, 2**32 - 1)
ORDER = st.sampled_from("<>")


@st.composite
def pcap_files(draw: st.DrawFn) -> Written:
    order = draw(ORDER)
    magic = draw(st.sampled_from((MICROSECONDS, NANOSECONDS, KUZNETZOV)))
    version = draw(st.sampled_from(((2, 4), (2, 3), (2, 2), (543, 0))))
    link = draw(st.integers(0, 0xFFFF))
    written = Written([pcap_header(order, magic, version, draw(WORD), link)], [None])
    fraction_ns = 1 if magic == NANOSECONDS else 1000
    for data in draw(st.lists(DATA, max_size=6)):
        seconds, fraction, longer = draw(WORD), draw(WORD), draw(st.integers(0, 2000))
        wire = len(data) + longer
        written.parts.append(pcap_record(data, seconds, fraction, wire, order=order, magic=magic, version=version))
        written.frames.append(Frame(seconds * 10**9 + fraction * fraction_ns, wire, link, data))
    return written


@st.composite
def pcapng_files(draw: st.DrawFn) -> Written:
    written = Written([], [])

    def write(part: bytes, frame: Frame | None = None) -> None:
        written.parts.append(part)
        written.frames.append(frame)

    for _ in range(draw(st.integers(1, 2))):
        order = draw(ORDER)
        write(section(order, draw(st.sampled_from(((1, 0), (1, 2))))))
        links = draw(st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=3))
        offsets = []
        for link in links:
            offsets.append(draw(st.integers(0, 10**9)))
            write(interface(link, 0, options((9, b"\x09"), (14, pack(order + "q", offsets[-1])), order=order), order))
        for data in draw(st.lists(DATA, max_size=5)):
            kind = draw(st.sampled_from((ENHANCED, OBSOLETE, SIMPLE)))
            if kind == SIMPLE:
                write(simple(data, order=order), Frame(0, len(data), links[0], data))
                continue
            number = draw(st.integers(0, len(links) - 1))
            units, wire = draw(st.integers(0, 2**62)), draw(WORD)
            listed = draw(st.sampled_from((b"", options((1, b"note"), order=order))))
            write(
                enhanced(data, number, units, wire, listed=listed, order=order, kind=kind),
                Frame(units + offsets[number] * 10**9, wire, links[number], data),
            )
            if draw(st.booleans()):
                write(block(draw(st.integers(7, 2**32 - 1).filter(lambda kind: kind != 0x0A0D0D0A)), bytes(8), order))
    return written


FILES = st.one_of(pcap_files(), pcapng_files())
PIECES = st.sampled_from((1, 3, 16, 100, 1 << 17))


@contextmanager
def opened(content: bytes, piece_bytes: int = capture_source.PIECE_BYTES) -> Iterator[Capture]:
    whole_piece = capture_source.PIECE_BYTES
    capture_source.PIECE_BYTES = piece_bytes
    try:
        with tempfile.NamedTemporaryFile() as file:
            Path(file.name).write_bytes(content)
            with Capture(file.name) as capture:
                yield capture
    finally:
        capture_source.PIECE_BYTES = whole_piece


@given(FILES, PIECES)
def test_what_is_written_is_read(written: Written, piece_bytes: int) -> None:
    with opened(written.content(), piece_bytes) as capture:
        assert list(capture) == [frame for frame in written.frames if frame]
        assert (capture.faults, capture.fault_count, capture.skipped) == ([], 0, 0)


@given(FILES, PIECES, st.data())
def test_frames_before_a_cut_are_read_and_the_cut_is_named(
    written: Written, piece_bytes: int, data: st.DataObject
) -> None:
    content = written.content()
    size = data.draw(st.integers(0, len(content)))
    begins, frames, position = 0, [], 0
    for part, frame in zip(written.parts, written.frames, strict=True):
        position += len(part)
        if position <= size:
            begins = position
            if frame:
                frames.append(frame)
    try:
        with opened(content[:size], piece_bytes) as capture:
            assert list(capture) == frames
            assert [fault.offset for fault in capture.faults] == ([] if begins == size else [begins])
    except CaptureError as error:
        assert size < 24
        assert error.offset <= size


@given(FILES, PIECES, st.data())
def test_damage_is_a_fault_or_a_capture_error(written: Written, piece_bytes: int, data: st.DataObject) -> None:
    content = bytearray(written.content())
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content)))
        octets = data.draw(st.one_of(st.binary(min_size=1, max_size=4), WORD.map(lambda word: pack("<I", word))))
        replaced = data.draw(st.sampled_from((0, len(octets), len(octets), 40)))
        content[position : position + replaced] = octets
    damaged = bytes(content)
    try:
        with opened(damaged, piece_bytes) as capture:
            taken = 0
            for frame in capture:
                assert frame.data in damaged
                assert 0 <= frame.time_ns < 2**63
                assert 0 <= frame.wire_length < 2**32
                assert 0 <= frame.link_type < 2**16
                taken += len(frame.data)
            assert taken <= len(damaged)
            assert all(0 <= fault.offset < len(damaged) for fault in capture.faults)
            assert capture.skipped <= capture.fault_count == len(capture.faults)
    except CaptureError as error:
        assert 0 <= error.offset <= len(damaged)
        assert error.remedy


@given(st.binary(max_size=200))
def test_octets_of_any_kind_are_no_crash(content: bytes) -> None:
    try:
        with opened(content) as capture:
            list(capture)
    except CaptureError as error:
        assert error.remedy


KNOWN_LINK_TYPES = (0, 1, 9, 12, 14, 50, 51, 101, 104, 108, 113, 219, 228, 229, 276)


@given(st.one_of(st.sampled_from(KNOWN_LINK_TYPES), st.integers(0, 0xFFFF)), st.binary(max_size=120), WORD)
def test_ethernet_frames_end_as_the_captured_ones(link_type: int, data: bytes, wire_length: int) -> None:
    converted = to_ethernet(link_type, data, wire_length)
    if isinstance(converted, str):
        assert converted.replace("_", "").isalnum()
        assert link_type in KNOWN_LINK_TYPES or converted == f"link_type_{link_type}"
        return
    frame, length = converted
    assert link_type in KNOWN_LINK_TYPES
    assert 14 <= len(frame) <= length
    assert data.endswith(frame[14:])
    assert length in (len(frame), wire_length + len(frame) - len(data))

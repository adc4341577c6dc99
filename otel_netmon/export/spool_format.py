"""The bytes of a spool: segment headers and record headers. Pure: no file is touched here.

A lane is a folder of segments; a segment is a header and records behind each other, little-endian::

    segment   magic 8s | version u16 | header bytes u16 | signal u8, 3 unused | nonce u32 | first sequence u64
              | items before u64 | created u64 ns | 16 unused | CRC u32                                        64 bytes
    record    marker 4s | stored bytes u32 | sequence u64 | items before u64 | time u64 ns | items u32
              | body bytes u32 | CRC of the stored bytes u32 | CRC of this header u32                          48 bytes
              the body of the request, gzip

Sequence numbers count the requests of a lane for ever, "items before" the items of all requests before. So two records that are
both whole tell exactly how many requests and items between them are gone, whatever became of the bytes.

The CRCs are CRC-32 (zlib's): any damage of up to 32 bits in a row is found for certain, any other but for one in 2**32, and behind
it gzip checks the body once more with a CRC of its own. It takes a hundredth of the time of the compression. Every CRC starts from the
segment's nonce, a random number that also stands in the file's name: neither text inside a request that looks like a record, nor
blocks of a deleted segment that turn up again after a loss of power, ever pass for a record of this one.

Every later version keeps magic, version and the place of the CRC, so that an older agent can tell a newer file from a damaged one.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from typing import Final

from otel_netmon.export.requests import Signal

VERSION: Final = 1
MAGIC: Final = b"NETMSPL\n"
MARKER: Final = b"\xabNMR"

_SEGMENT = struct.Struct("<8sHHB3xIQQQ16x")
_RECORD = struct.Struct("<4sIQQQIII")
_CRC = struct.Struct("<I")
_GZIP = 31  # zlib's wbits for a gzip member

SEGMENT_HEADER_BYTES: Final = _SEGMENT.size + _CRC.size
RECORD_HEADER_BYTES: Final = _RECORD.size + _CRC.size

_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{8})\.segment")

SIGNALS: Final = tuple(Signal)
"""A signal's number in a segment header is its place here."""


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What stands at the beginning of a segment.

    Attributes:
        version: of the format.
        signal: what its requests are.
        nonce: see above.
        first_sequence: of its first record.
        items_before: items of all requests of the lane before that one.
        created_unix_nano: wall clock, for people.
    """

    signal: Signal
    nonce: int
    first_sequence: int
    items_before: int
    created_unix_nano: int
    version: int = VERSION

    def pack(self) -> bytes:
        """The header's bytes."""
        head = _SEGMENT.pack(
            MAGIC,
            self.version,
            SEGMENT_HEADER_BYTES,
            SIGNALS.index(self.signal),
            self.nonce,
            self.first_sequence,
            self.items_before,
            self.created_unix_nano,
        )
        return head + _CRC.pack(zlib.crc32(head))

    @classmethod
    def unpack(cls, data: bytes) -> SegmentHeader | None:
        """The header in the first bytes of a file; None where it is damaged or something else.

        Of a newer version only ``version`` has a meaning.
        """
        if len(data) < SEGMENT_HEADER_BYTES or not data.startswith(MAGIC):
            return None
        head = data[: _SEGMENT.size]
        if _CRC.unpack_from(data, _SEGMENT.size)[0] != zlib.crc32(head):
            return None
        _, version, _, signal, nonce, first_sequence, items_before, created = _SEGMENT.unpack(head)
        if version == VERSION and signal >= len(SIGNALS):
            return None
        return cls(SIGNALS[min(signal, len(SIGNALS) - 1)], nonce, first_sequence, items_before, created, version)


@dataclass(frozen=True, slots=True)
class RecordHeader:
    """What stands before the body of a request.

    Attributes:
        sequence: number of the request in its lane.
        items_before: items of all requests of the lane before this one.
        time_unix_nano: when it was written, wall clock, for people.
        items: data points, spans or log records in it.
        stored_bytes: length of the compressed body, which follows.
        body_bytes: length of the body.
        stored_crc: CRC-32 of the compressed body, begun with the nonce.
    """

    sequence: int
    items_before: int
    time_unix_nano: int
    items: int
    stored_bytes: int
    body_bytes: int
    stored_crc: int

    @property
    def total_bytes(self) -> int:
        """Length of the whole record."""
        return RECORD_HEADER_BYTES + self.stored_bytes

    def pack(self, nonce: int) -> bytes:
        """The header's bytes in the segment of this nonce."""
        head = _RECORD.pack(
            MARKER,
            self.stored_bytes,
            self.sequence,
            self.items_before,
            self.time_unix_nano,
            self.items,
            self.body_bytes,
            self.stored_crc,
        )
        return head + _CRC.pack(zlib.crc32(head, nonce))

    @classmethod
    def unpack(cls, data: bytes, offset: int, nonce: int) -> RecordHeader | None:
        """The header at an offset; None where there is no whole one of this segment."""
        if len(data) - offset < RECORD_HEADER_BYTES or not data.startswith(MARKER, offset):
            return None
        if _CRC.unpack_from(data, offset + _RECORD.size)[0] != zlib.crc32(
            memoryview(data)[offset : offset + _RECORD.size], nonce
        ):
            return None
        _, stored, sequence, items_before, time_ns, items, body, crc = _RECORD.unpack_from(data, offset)
        return cls(sequence, items_before, time_ns, items, stored, body, crc)


def compress(body: bytes) -> bytes:
    """A body as it is stored: gzip at its fastest level, which takes some nine tenths of OTLP away."""
    return zlib.compress(body, 1, wbits=_GZIP)


def unpack_body(header: RecordHeader, stored: bytes, nonce: int) -> bytes | None:
    """The body of a record; None where a byte of it is not what it was."""
    if len(stored) != header.stored_bytes or zlib.crc32(stored, nonce) != header.stored_crc:
        return None
    decompressor = zlib.decompressobj(wbits=_GZIP)
    try:
        # One byte more than the header says, so that a longer body is seen and yet never unfolded.
        body = decompressor.decompress(stored, header.body_bytes + 1)
    except zlib.error:
        return None
    return body if decompressor.eof and len(body) == header.body_bytes else None


def segment_name(first_sequence: int, nonce: int) -> str:
    """The name of a segment's file; names sort as the segments follow each other."""
    return f"{first_sequence:016x}-{nonce:08x}.segment"


def parse_segment_name(name: str) -> tuple[int, int] | None:
    """First sequence and nonce out of a file's name; None for a file that is no segment."""
    match = _NAME.fullmatch(name)
    return (int(match[1], 16), int(match[2], 16)) if match else None

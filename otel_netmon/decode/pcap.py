"""The classic pcap format: draft-ietf-opsawg-pcap, and the older variants libpcap's sf-pcap.c still reads.

Variants: both byte orders; microseconds (magic a1b2c3d4) and nanoseconds (a1b23c4d); the "Kuznetzov" format of patched
libpcaps (a1b2cd34), whose record headers have 8 more octets (interface index, protocol, packet type); versions before
2.3 and 543.0 (DG/UX), which store the two lengths of a record the other way round, and 2.3, which may do so.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from otel_netmon.decode.capture_source import Frame, Source, captured_limit
from otel_netmon.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE_HEADER_BYTES = 24

_MICROSECOND, _NANOSECOND = 1000, 1
_FORMATS = {
    "a1b2c3d4": ("IIII", _MICROSECOND),
    "a1b23c4d": ("IIII", _NANOSECOND),
    "a1b2cd34": ("IIII8x", _MICROSECOND),
}
_MAGICS = {
    bytes.fromhex(magic)[::step]: (order, *layout)
    for magic, layout in _FORMATS.items()
    for order, step in ((">", 1), ("<", -1))
}

_IN_ORDER, _SWAPPED, _SWAPPED_WHEN_LONGER = range(3)

_LINK_TYPE_OFFSET = 20
_RESERVED_LINK_TYPE_BITS = 0x0BFF_0000


class PcapHeader(NamedTuple):
    """What a pcap file header says about the records behind it.

    Attributes:
        record: layout of a record header: seconds, fraction, captured length, wire length.
        fraction_ns: nanoseconds in a unit of the fraction field.
        link_type: LINKTYPE_* number of every record.
        lengths: whether the two lengths are in the order of version 2.4.
    """

    record: Struct
    fraction_ns: int
    link_type: int
    lengths: int


def is_pcap(head: bytes) -> bool:
    """Whether a file that begins with these octets (at least 4) has a pcap magic number."""
    return head[:4] in _MAGICS


def pcap_header(source: Source, head: bytes, name: str) -> PcapHeader:
    """Read the file header at the beginning of ``head``.

    Raises:
        CaptureError: the header is cut off, or is of a version that nothing reads.
    """
    if len(head) < FILE_HEADER_BYTES:
        raise CaptureError(
            f"{name} ends after {len(head)} of the {FILE_HEADER_BYTES} octets of a pcap file header",
            "take the capture again, or copy the file again",
            offset=len(head),
        )
    order, record, fraction_ns = _MAGICS[head[:4]]
    major, minor, link = Struct(order + "4xHH12xI").unpack_from(head)
    if not (major == 2 and minor <= 4) and (major, minor) != (543, 0):
        raise CaptureError(
            f"{name} is of pcap version {major}.{minor}, known are 2.0 to 2.4 and 543.0",
            "the file is damaged, or from a program of its own kind: write it again with tcpdump -r or editcap",
            offset=4,
        )
    if link & _RESERVED_LINK_TYPE_BITS:
        source.fault(_LINK_TYPE_OFFSET, f"reserved bits are set in the link type field 0x{link:08x}; they are ignored")
    lengths = _IN_ORDER
    if (major, minor) == (2, 3):
        lengths = _SWAPPED_WHEN_LONGER
    elif (major, minor) < (2, 3) or major == 543:
        lengths = _SWAPPED
    # The upper 16 bits tell the length of a frame check sequence, which a parser meets as padding.
    return PcapHeader(Struct(order + record), fraction_ns, link & 0xFFFF, lengths)


def pcap_frames(source: Source, buffer: bytes, header: PcapHeader) -> Iterator[Frame]:
    """Give the records behind the file header with which ``buffer`` begins.

    A record that is cut off, or whose captured length cannot be, is a fault and ends the iteration: nothing in the
    format tells where the next record begins. A captured length above the file's snapshot length or above the record's
    wire length is taken as it is, as tcpdump and Wireshark do.
    """
    unpack = header.record.unpack_from
    head_bytes = header.record.size
    fraction_ns = header.fraction_ns
    link_type = header.link_type
    lengths = header.lengths
    limit = captured_limit(link_type)
    new = tuple.__new__  # a third of the time of Frame(...)
    base = 0
    position = FILE_HEADER_BYTES
    end = len(buffer)
    while True:
        start = position + head_bytes
        if start > end:
            base += position
            buffer = source.fill(buffer[position:], head_bytes)
            position, start, end = 0, head_bytes, len(buffer)
            if start > end:
                if end:
                    source.fault(base, f"the file ends after {end} of the {head_bytes} octets of a record header")
                return
        seconds, fraction, captured, wire = unpack(buffer, position)
        if lengths and (lengths == _SWAPPED or captured > wire):
            captured, wire = wire, captured
        if captured > limit:
            source.fault(
                base + position,
                f"a record states {captured} captured octets, at most {limit} are possible; "
                "where the next record begins is unknown",
            )
            return
        stop = start + captured
        if stop > end:
            base += position
            buffer = source.fill(buffer[position:], head_bytes + captured)
            position, start, stop, end = 0, head_bytes, head_bytes + captured, len(buffer)
            if stop > end:
                source.fault(base, f"the file ends after {end - start} of the {captured} captured octets of a record")
                return
        yield new(Frame, (seconds * 1_000_000_000 + fraction * fraction_ns, wire, link_type, buffer[start:stop]))
        position = stop

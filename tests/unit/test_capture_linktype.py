"""Frames of every known link layer as the Ethernet frames they stand for."""

from __future__ import annotations

from struct import pack

import pytest

from otel_netmon.decode.capture import to_ethernet

IPV4 = bytes.fromhex("4500001c000100004011") + bytes(18)
IPV6 = bytes.fromhex("6000000000083a40") + bytes(40)
LABELS = bytes.fromhex("00010140") + IPV4
ARP = bytes.fromhex("0001080006040001") + bytes(20)


def ethernet(ethertype: int, payload: bytes) -> bytes:
    return bytes(12) + pack(">H", ethertype) + payload


def cooked(protocol: int, hardware: int = 1) -> bytes:
    return pack(">HHH8sH", 4, hardware, 6, bytes(range(8)), protocol)


def cooked2(protocol: int, hardware: int = 1) -> bytes:
    return pack(">HHIHBB8s", protocol, 0, 3, hardware, 0, 6, bytes(range(8)))


def netfilter(order: str = "<", family: int = 2, kind: int = 9) -> bytes:
    """Before the packet: its header, a prefix of 5 octets, a mark; then the attribute that has the packet."""
    attributes = [(1, b"\x08\0\3\0"), (10, b"abcd\0"), (5, bytes(4))]
    head = pack(">BBH", family, 0, 40)
    for number, value in attributes:
        head += pack(order + "HH", 4 + len(value), number) + value + bytes(-len(value) % 4)
    return head + pack(order + "HH", 24, kind)


@pytest.mark.parametrize(
    ("link_type", "header", "payload", "ethertype"),
    [
        *((link_type, b"", IPV4, 0x0800) for link_type in (12, 14, 101, 228)),
        *((link_type, b"", IPV6, 0x86DD) for link_type in (12, 14, 101, 229)),
        *((0, pack(order + "I", 2), IPV4, 0x0800) for order in "<>"),
        *((0, pack(order + "I", family), IPV6, 0x86DD) for order in "<>" for family in (10, 24, 28, 30)),
        *((0, start + b"\0\x08\0", IPV4, 0x0800) for start in (b"\x0f", b"\x8f")),
        *((239, netfilter(order), IPV4, 0x0800) for order in "<>"),
        (239, netfilter(family=10), IPV6, 0x86DD),
        (239, netfilter(">", kind=0x8009), IPV4, 0x0800),
        (108, pack(">I", 2), IPV4, 0x0800),
        *((108, pack(">I", family), IPV6, 0x86DD) for family in (10, 24, 28, 30)),
        *((113, cooked(0x0800, hardware), IPV4, 0x0800) for hardware in (1, 512, 772, 65534, 778)),
        (113, cooked(0x86DD), IPV6, 0x86DD),
        (113, cooked(0x0806), ARP, 0x0806),
        (113, cooked(0x8100), b"\x00\x05\x08\x00" + IPV4, 0x8100),
        (113, cooked(0x0001), bytes(50), 50),
        (113, cooked(0x0004), bytes(50), 50),
        (113, cooked(0x0004), bytes(3000), 1500),
        (113, cooked(0x0600), bytes(50), 0x0600),
        (276, cooked2(0x0800, 65534), IPV4, 0x0800),
        (276, cooked2(0x86DD), IPV6, 0x86DD),
        (276, cooked2(0x0806), ARP, 0x0806),
        (276, cooked2(0x0004), bytes(50), 50),
        (9, b"\xff\x03\x00\x21", IPV4, 0x0800),
        (9, b"\x00\x21", IPV4, 0x0800),
        (9, b"\x21", IPV4, 0x0800),
        (9, b"\xff\x03\x57", IPV6, 0x86DD),
        (9, b"\xff\x03\x02\x81", LABELS, 0x8847),
        (9, b"\x02\x83", LABELS, 0x8848),
        (50, b"\xff\x03\x00\x57", IPV6, 0x86DD),
        (50, b"\x0f\x00\x08\x00", IPV4, 0x0800),
        (50, b"\x8f\x00\x86\xdd", IPV6, 0x86DD),
        (104, b"\x0f\x00\x08\x00", IPV4, 0x0800),
        (104, b"\x8f\x00\x80\x35", bytes(18), 0x8035),
        (51, b"", b"\x11\x00\x12\x34\x00\x1e\x00\x21" + IPV4, 0x8864),
        (51, b"", b"\x11\x09\x00\x00\x00\x04\x01\x01\x00\x00", 0x8863),
        (219, b"", LABELS, 0x8847),
    ],
)
def test_header_is_replaced(link_type: int, header: bytes, payload: bytes, ethertype: int) -> None:
    captured = len(header) + len(payload)
    frame = ethernet(ethertype, payload)
    assert to_ethernet(link_type, header + payload, captured) == (frame, len(frame))
    if ethertype >= 0x0600:
        assert to_ethernet(link_type, header + payload, captured + 1000) == (frame, len(frame) + 1000)


def test_length_field_of_a_cooked_8023_frame_is_that_of_the_wire() -> None:
    assert to_ethernet(113, cooked(4) + bytes(50), 16 + 700) == (ethernet(700, bytes(50)), 714)


@pytest.mark.parametrize("frame", [ethernet(0x0800, IPV4), ethernet(38, bytes(46)), bytes(14)])
def test_ethernet_is_untouched(frame: bytes) -> None:
    assert to_ethernet(1, frame, len(frame)) == (frame, len(frame))
    assert to_ethernet(1, frame, 9000) == (frame, 9000)


@pytest.mark.parametrize(("link_type", "data"), [(1, ethernet(0x0800, IPV4)), (101, IPV4), (113, cooked(0x0800))])
@pytest.mark.parametrize("wire_length", [0, 10])
def test_wire_length_is_never_below_what_was_captured(link_type: int, data: bytes, wire_length: int) -> None:
    converted = to_ethernet(link_type, data, wire_length)
    assert not isinstance(converted, str)
    assert converted[1] == len(converted[0])


@pytest.mark.parametrize(
    ("link_type", "shortest"),
    [
        (1, bytes(14)),
        (0, pack("<I", 2)),
        (108, pack(">I", 2)),
        (113, cooked(0x0800)),
        (276, cooked2(0x0800)),
        (9, b"\xff\x03\x00\x21"),
        (50, b"\xff\x03\x00\x21"),
        (50, b"\x0f\x00\x08\x00"),
        (104, b"\x0f\x00\x08\x00"),
        (51, bytes(6)),
        (101, b"\x45"),
    ],
)
def test_cut_header_is_a_short_frame(link_type: int, shortest: bytes) -> None:
    assert not isinstance(to_ethernet(link_type, shortest, 1500), str)
    for size in range(len(shortest)):
        if link_type in (9, 50) and shortest[:size] == b"\xff":
            assert to_ethernet(link_type, shortest[:size], 1500) == "ppp_protocol"
        else:
            assert to_ethernet(link_type, shortest[:size], 1500) == "short_frame"


@pytest.mark.parametrize(
    ("link_type", "data", "reason"),
    [
        (105, bytes(60), "link_type_105"),
        (107, bytes(60), "link_type_107"),
        (127, b"", "link_type_127"),
        (101, b"\x50" + bytes(40), "raw_ip_version"),
        (0, pack("<I", 7) + bytes(40), "loopback_family"),
        (108, pack("<I", 2) + bytes(40), "loopback_family"),
        (9, b"\xff\x03\xc0\x21" + bytes(10), "ppp_protocol"),
        (50, b"\xff\x03\x80\x21" + bytes(10), "ppp_protocol"),
        (104, b"\x0f\x00\x00\x00" + bytes(10), "chdlc_protocol"),
        (113, cooked(0x000C, 280) + bytes(16), "cooked_protocol"),
        (276, cooked2(0x0003) + bytes(16), "cooked_protocol"),
        *((113, cooked(0x0800, hardware) + bytes(40), "cooked_hardware") for hardware in (770, 801, 802, 803, 824)),
        (276, cooked2(0x0800, 803) + bytes(40), "cooked_hardware"),
        (239, bytes(7), "short_frame"),
        (239, netfilter(family=7) + IPV4, "netfilter_family"),
        (239, b"\2\1" + netfilter()[2:] + IPV4, "netfilter_family"),
        (239, netfilter(kind=12) + IPV4, "netfilter_payload"),
        (239, netfilter()[:8] + bytes(40), "netfilter_payload"),
        (0, b"\x0f\0\0\0" + bytes(40), "chdlc_protocol"),
    ],
)
def test_reasons(link_type: int, data: bytes, reason: str) -> None:
    assert to_ethernet(link_type, data, len(data)) == reason

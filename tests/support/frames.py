"""Frames octet by octet, from the RFCs alone. Every length field can be made to lie."""

from __future__ import annotations

import socket
from struct import pack

IPV4, IPV6, ARP, VLAN, SVLAN, MPLS, PPPOE, TEB = 0x0800, 0x86DD, 0x0806, 0x8100, 0x88A8, 0x8847, 0x8864, 0x6558
ICMP, IGMP, IPIP, TCP, UDP, DCCP, SIX_IN_FOUR, GRE, ESP, AH = 1, 2, 4, 6, 17, 33, 41, 47, 50, 51
HOP_BY_HOP, ROUTING, FRAGMENT, ICMPV6, NO_NEXT, DESTINATION, OSPF, SCTP, MOBILITY, UDPLITE, HIP, SHIM6 = (
    0, 43, 44, 58, 59, 60, 89, 132, 135, 136, 139, 140,
)  # fmt: skip
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))

A4, B4 = "198.18.0.1", "198.18.0.2"
A6, B6 = "fd00::a", "fd00::b"
MAC_A, MAC_B = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")


# ------------------------------------------------------------------------------------------------------- link layers
def ethernet(payload: bytes, ethertype: int = IPV4) -> bytes:
    """IEEE 802.3; an ethertype below 0x600 is the length of an LLC frame."""
    return MAC_B + MAC_A + pack(">H", ethertype) + payload


def tagged(payload: bytes, ethertype: int, *tags: int) -> bytes:
    """A frame with VLAN tags of these EtherTypes, the outermost first (IEEE 802.1Q)."""
    for number, tag in enumerate(reversed(tags)):
        payload = pack(">HH", 100 + number, ethertype) + payload
        ethertype = tag
    return ethernet(payload, ethertype)


def snap(payload: bytes, ethertype: int, organisation: int = 0) -> bytes:
    """LLC and SNAP behind a length (IEEE 802.2)."""
    body = b"\xaa\xaa\x03" + organisation.to_bytes(3, "big") + pack(">H", ethertype) + payload
    return ethernet(body, min(len(body), 1500))


def mpls(payload: bytes, labels: int = 1) -> bytes:
    """A stack of so many label entries (RFC 3032)."""
    entries = [pack(">I", (16 + n) << 12 | (n == labels - 1) << 8 | 64) for n in range(labels)]
    return b"".join(entries) + payload


def pppoe(payload: bytes, protocol: int = 0x21, *, compressed: bool = False) -> bytes:
    """A PPPoE session (RFC 2516); compressed: the PPP protocol in one octet (RFC 1661, 6.5)."""
    ppp = protocol.to_bytes(1 if compressed else 2, "big") + payload
    return b"\x11\x00\x00\x07" + pack(">H", len(ppp)) + ppp


# ----------------------------------------------------------------------------------------------------- network layer
def ipv4(  # noqa: PLR0913 - fields of a header
    payload: bytes = b"",
    protocol: int = UDP,
    source: str = A4,
    destination: str = B4,
    *,
    options: bytes = b"",
    version: int = 4,
    words: int | None = None,
    total: int | None = None,
    more: bool = False,
    offset: int = 0,
) -> bytes:
    """RFC 791; words is the header length field, total the length field, offset of a fragment in octets."""
    options += bytes(-len(options) % 4)
    words = 5 + len(options) // 4 if words is None else words
    total = 20 + len(options) + len(payload) if total is None else total
    fragment = more << 13 | offset // 8
    header = pack(">BBHHHBBH", version << 4 | words, 0, total, 7, fragment, 64, protocol, 0)
    return header + socket.inet_aton(source) + socket.inet_aton(destination) + options + payload


def ipv6(
    payload: bytes = b"",
    next_header: int = UDP,
    source: str = A6,
    destination: str = B6,
    *,
    version: int = 6,
    length: int | None = None,
) -> bytes:
    """RFC 8200; length is the payload length field."""
    length = len(payload) if length is None else length
    header = pack(">IHBB", version << 28, length, next_header, 64)
    return header + socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination) + payload


def extension(payload: bytes, next_header: int, octets: int = 8, *, length: int | None = None) -> bytes:
    """Hop-by-hop, routing, destination options, mobility, HIP, Shim6: a multiple of 8 octets (RFC 8200, 4)."""
    return bytes((next_header, octets // 8 - 1 if length is None else length)) + bytes(octets - 2) + payload


def authentication(payload: bytes, next_header: int, octets: int = 24) -> bytes:
    """AH, whose length counts in units of 4 octets (RFC 4302)."""
    return bytes((next_header, octets // 4 - 2)) + bytes(octets - 2) + payload


def fragment(payload: bytes, next_header: int, offset: int = 0, *, more: bool = False) -> bytes:
    """The IPv6 fragment header; offset in octets (RFC 8200, 4.5)."""
    return pack(">BBHI", next_header, 0, offset & ~7 | more, 99) + payload


# --------------------------------------------------------------------------------------------------------- transport
def tcp(  # noqa: PLR0913 - fields of a header
    payload: bytes = b"",
    source: int = 40000,
    destination: int = 443,
    *,
    sequence: int = 1000,
    acknowledgment: int = 1,
    flags: int = ACK,
    options: bytes = b"",
    words: int | None = None,
    window: int = 502,
) -> bytes:
    """RFC 9293; words is the data offset field."""
    options += bytes(-len(options) % 4)
    words = 5 + len(options) // 4 if words is None else words
    numbers = sequence & 0xFFFFFFFF, acknowledgment & 0xFFFFFFFF
    return pack(">HHIIBBHHH", source, destination, *numbers, words << 4, flags, window, 0, 0) + options + payload


def udp(payload: bytes = b"", source: int = 40000, destination: int = 53) -> bytes:
    """RFC 768."""
    return pack(">HHHH", source, destination, 8 + len(payload), 0) + payload


def ports(source: int = 40000, destination: int = 5000, octets: int = 12) -> bytes:
    """SCTP, DCCP, UDP-Lite: what they have in common begins with the ports."""
    return pack(">HH", source, destination) + bytes(octets - 4)


# ----------------------------------------------------------------------------------------------------------- tunnels
ERSPAN, ERSPAN_III = 0x88BE, 0x22EB


def gre(
    payload: bytes,
    ethertype: int = IPV4,
    *,
    checksum: bool = False,
    key: bool = False,
    sequence: bool = False,
    routing: bool = False,
    version: int = 0,
) -> bytes:
    """RFC 2784 and RFC 2890; routing is the bit of RFC 1701."""
    bits = checksum << 15 | routing << 14 | key << 13 | sequence << 12 | version
    return pack(">HH", bits, ethertype) + bytes(4 * (checksum + key + sequence)) + payload


def vxlan(frame: bytes, *, port: int = 4789, flags: int = 8, protocol: int = 0) -> bytes:
    """UDP and VXLAN before an Ethernet frame (RFC 7348), or, with a protocol, before what that says (VXLAN-GPE)."""
    return udp(pack(">BxxBI", flags, protocol, 42 << 8) + frame, destination=port)


def gtp(packet: bytes, *, flags: int = 0x30, kind: int = 255, optional: bytes = b"") -> bytes:
    """UDP and GTP-U before an IP packet (3GPP TS 29.281); optional is what the flags announce."""
    return udp(pack(">BBHI", flags, kind, len(optional + packet), 42) + optional + packet, destination=2152)


def erspan(frame: bytes, kind: int, *, platform: bool = False) -> bytes:
    """GRE and ERSPAN of type 1, 2 or 3 before an Ethernet frame; platform: with the subheader of type 3."""
    header = {1: b"", 2: pack(">HHI", 1 << 12, 42, 0), 3: pack(">HHIHH", 2 << 12, 42, 0, 0, platform)}[kind]
    return gre(header + bytes(8 * platform) + frame, ERSPAN_III if kind == 3 else ERSPAN, sequence=kind > 1)


def geneve(payload: bytes, ethertype: int = TEB, *, options: int = 0, version: int = 0) -> bytes:
    """UDP and Geneve with so many words of options (RFC 8926)."""
    return udp(
        pack(">BBHI", version << 6 | options, 0, ethertype, 42 << 8) + bytes(4 * options) + payload, destination=6081
    )

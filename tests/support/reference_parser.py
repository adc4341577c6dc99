"""What a frame must become, decided a second time in plain Python: the programs are compared with this.

Written from the RFCs and from what docs and bpf/include/netmon_abi.h promise, not from the C code.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import NamedTuple

from otel_netmon.abi.enums import ETHERTYPE_NAMES, Kind, Reason
from support import frames as f
from support.programs import Key, Row, Seen

LINK_LAYERS = 8
LINK_LAYERS_INSIDE = 2
EXTENSIONS = 8
LEVELS = 4
LLC, OTHER = 1, 0

# EtherType -> octets up to and including the next EtherType: 802.1Q, 802.1ad, the two forerunners, VN-Tag, E-Tag, I-Tag, FabricPath
TAGS = {0x8100: 4, 0x88A8: 4, 0x9100: 4, 0x9200: 4, 0x8926: 6, 0x893F: 8, 0x88E7: 18, 0x8903: 16}
WITH_PORTS = {f.TCP, f.UDP, f.DCCP, f.SCTP, f.UDPLITE}
EXTENSION_HEADERS = {f.HOP_BY_HOP, f.ROUTING, f.FRAGMENT, f.AH, f.DESTINATION, f.MOBILITY, f.HIP, f.SHIM6}
MAY_BE_LAST = {f.MOBILITY, f.HIP, f.SHIM6}


class Unreadable(Exception):
    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.name)
        self.reason = reason


class Packet(NamedTuple):
    """An IP packet: its flow, and where what the IP header carries begins."""

    ethertype: int
    protocol: int
    source: str
    source_port: int
    destination: str
    destination_port: int
    payload: int


def _take(frame: bytes, at: int, octets: int, reason: Reason) -> bytes:
    if at < 0 or at + octets > len(frame):
        raise Unreadable(reason)
    return frame[at : at + octets]


def _short(frame: bytes, at: int) -> int:
    return int.from_bytes(frame[at : at + 2], "big")


def link_layers(frame: bytes, ethertype: int, at: int, most: int) -> tuple[int, int]:
    """EtherType of the network layer and its offset."""
    for _ in range(most):
        if ethertype in TAGS:
            at += TAGS[ethertype]
            ethertype = int.from_bytes(_take(frame, at - 2, 2, Reason.SHORT_VLAN), "big")
        elif ethertype in (0x8847, 0x8848):
            entry = _take(frame, at, 4, Reason.SHORT_MPLS)
            at += 4
            if entry[2] & 1:
                version = _take(frame, at, 1, Reason.SHORT_MPLS)[0] >> 4
                return {4: f.IPV4, 6: f.IPV6}.get(version, ethertype), at
        elif ethertype == f.PPPOE:
            header = _take(frame, at, 8, Reason.SHORT_PPPOE)
            octets, protocol = (1, header[6]) if header[6] & 1 else (2, _short(header, 6))
            network = {0x21: f.IPV4, 0x57: f.IPV6}.get(protocol)
            return (ethertype, at) if network is None else (network, at + 6 + octets)
        elif ethertype < 0x600:
            if _take(frame, at, 3, Reason.SHORT_LLC) != b"\xaa\xaa\x03":
                return ethertype, at
            ethertype = _short(_take(frame, at, 8, Reason.SHORT_LLC), 6)
            at += 8
            if ethertype < 0x600:
                return ethertype, at
        else:
            return ethertype, at
    if ethertype not in (f.IPV4, f.IPV6):
        raise Unreadable(Reason.DEEP_LINK_LAYER)
    return ethertype, at


def _ports(frame: bytes, protocol: int, at: int) -> tuple[int, int]:
    if protocol not in WITH_PORTS or at + 4 > len(frame):
        return 0, 0
    return _short(frame, at), _short(frame, at + 2)


def ipv4(frame: bytes, at: int) -> Packet:
    header = _take(frame, at, 20, Reason.SHORT_IPV4)
    if header[0] >> 4 != 4:
        raise Unreadable(Reason.IPV4_VERSION)
    if header[0] & 15 < 5:
        raise Unreadable(Reason.IPV4_HEADER_LENGTH)
    behind = at + (header[0] & 15) * 4
    first = _short(header, 6) & 0x1FFF == 0
    source_port, destination_port = _ports(frame, header[9], behind) if first else (0, 0)
    source, destination = (str(ipaddress.IPv4Address(header[n : n + 4])) for n in (12, 16))
    return Packet(f.IPV4, header[9], source, source_port, destination, destination_port, behind)


def _address6(octets: bytes) -> str:
    if ipaddress.IPv6Address(octets).ipv4_mapped:  # the contract writes IPv4 so, and cannot tell them apart
        return socket.inet_ntop(socket.AF_INET, octets[12:])
    return socket.inet_ntop(socket.AF_INET6, octets)


def ipv6(frame: bytes, at: int) -> Packet:
    header = _take(frame, at, 40, Reason.SHORT_IPV6)
    if header[0] >> 4 != 6:
        raise Unreadable(Reason.IPV6_VERSION)
    protocol, behind, first = header[6], at + 40, True
    for _ in range(EXTENSIONS):
        if protocol not in EXTENSION_HEADERS or behind + 4 > len(frame):
            break
        following, length = frame[behind], frame[behind + 1]
        if protocol in MAY_BE_LAST and following == f.NO_NEXT:
            break
        if protocol == f.FRAGMENT:
            first = _short(frame, behind + 2) & 0xFFF8 == 0
            behind += 8
        else:
            behind += (length + 2) * 4 if protocol == f.AH else (length + 1) * 8
        protocol = following
        if not first:
            break
    source_port, destination_port = _ports(frame, protocol, behind) if first else (0, 0)
    source, destination = (_address6(header[n : n + 16]) for n in (8, 24))
    return Packet(f.IPV6, protocol, source, source_port, destination, destination_port, behind)


def network(frame: bytes, ethertype: int, at: int) -> Packet:
    return ipv4(frame, at) if ethertype == f.IPV4 else ipv6(frame, at)


def inside(frame: bytes, outer: Packet) -> tuple[int, int] | None:
    """EtherType and offset of what a tunnel carries; None where it is no tunnel, or not of a kind that is opened."""
    at = outer.payload
    if outer.protocol == f.IPIP:
        return f.IPV4, at
    if outer.protocol == f.SIX_IN_FOUR:
        return f.IPV6, at
    if outer.protocol == f.GRE and at + 4 <= len(frame):
        bits, ethertype = _short(frame, at), _short(frame, at + 2)
        if bits & 0x4007:
            return None
        return erspan(frame, ethertype, bool(bits & 0x1000), at + 4 + 4 * sum(bits >> bit & 1 for bit in (15, 13, 12)))
    if outer.protocol == f.UDP and at + 16 <= len(frame):
        return inside_udp(frame, frame[at + 8 : at + 16], outer.destination_port, at + 16)
    return None


def inside_udp(frame: bytes, header: bytes, port: int, at: int) -> tuple[int, int] | None:
    if port in (4789, 8472):
        return (f.TEB, at) if header[0] & 8 else None
    if port == 6081:
        return None if header[0] >> 6 else (_short(header, 2), at + (header[0] & 63) * 4)
    if port == 4790 and header[0] & 8:
        return bare_ip(frame, at) if header[0] & 4 and header[3] != 3 else (f.TEB, at)
    return gtp(frame, header, at) if port == 2152 else None


def bare_ip(frame: bytes, at: int) -> tuple[int, int] | None:
    ethertype = {4: f.IPV4, 6: f.IPV6}.get(frame[at] >> 4) if at < len(frame) else None
    return None if ethertype is None else (ethertype, at)


def erspan(frame: bytes, ethertype: int, has_sequence: bool, at: int) -> tuple[int, int] | None:
    if ethertype == f.ERSPAN:
        return f.TEB, at + 8 * has_sequence
    if ethertype != f.ERSPAN_III:
        return ethertype, at
    return (f.TEB, at + (20 if frame[at + 11] & 1 else 12)) if at + 12 <= len(frame) else None


def gtp(frame: bytes, header: bytes, at: int) -> tuple[int, int] | None:
    if header[0] & 0xF0 != 0x30 or header[1] != 255:
        return None
    if header[0] & 7:
        if at + 4 > len(frame):
            return None
        following = frame[at + 3] if header[0] & 4 else 0
        at += 4
        for _ in range(2):
            if not following:
                break
            if at >= len(frame) or not frame[at] or at + 4 * frame[at] > len(frame):
                return None
            at += 4 * frame[at]
            following = frame[at - 1]
        if following:
            return None
    return bare_ip(frame, at)


def innermost(frame: bytes, packet: Packet) -> Packet:
    """The packet that a tunnel carries, as deep as it is opened; the outer one where the inner cannot be read."""
    for _ in range(LEVELS):
        found = inside(frame, packet)
        if found is None:
            break
        ethertype, at = found
        try:
            if ethertype == f.TEB:
                ethertype = _short(_take(frame, at, 14, Reason.SHORT_ETHERNET), 12)
                at += 14
            elif ethertype < 0x600:
                break
            ethertype, at = link_layers(frame, ethertype, at, LINK_LAYERS_INSIDE)
            if ethertype not in (f.IPV4, f.IPV6):
                break
            packet = network(frame, ethertype, at)
        except Unreadable:
            break
    return packet


def expected(
    frame: bytes, *, l2_length: int = 14, decapsulate: bool = False, flows: bool = True, reach: int | None = None
) -> Seen:
    """What the tc programs (or, without flows, the XDP program) make of a frame.

    Args:
        l2_length: 14 where frames begin with an Ethernet header, 0 where they begin with an IP header.
        reach: how far from its beginning the program looks into a frame.
    """
    try:
        if l2_length:
            ethertype = _short(_take(frame, 0, 14, Reason.SHORT_ETHERNET), 12)
        else:
            ethertype = f.IPV6 if _take(frame, 0, 1, Reason.SHORT_IPV4)[0] >> 4 == 6 else f.IPV4
        if reach is not None:
            frame = frame[:reach]
        ethertype, at = link_layers(frame, ethertype, l2_length, LINK_LAYERS)
        if ethertype not in (f.IPV4, f.IPV6):
            known = ethertype if ethertype >= 0x600 and ethertype in ETHERTYPE_NAMES else OTHER
            return Seen(row=Row(Kind.OTHER, LLC if ethertype < 0x600 else known, 0, 0))
        packet = network(frame, ethertype, at)
        if decapsulate:
            packet = innermost(frame, packet)
    except Unreadable as answer:
        return Seen(row=Row(Kind.UNPARSED, 0, 0, answer.reason))
    if not flows:
        return Seen(row=Row(Kind.FLOW, packet.ethertype, packet.protocol, 0))
    return Seen(
        flow=Key(packet.protocol, packet.source, packet.source_port, packet.destination, packet.destination_port)
    )

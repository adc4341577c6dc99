"""Every kind of frame, with what it must become: the corpus of all tests of the programs."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

from otel_netmon.abi.enums import Kind, Reason
from support import frames as f
from support.frames import A4, A6, B4, B6
from support.programs import Key, Row, Seen


class Case(NamedTuple):
    """One frame; inner is what it is with decapsulate, where that differs."""

    name: str
    frame: bytes
    seen: Seen
    inner: Seen | None = None


def flow4(protocol: int, source: int = 0, destination: int = 0) -> Seen:
    return Seen(flow=Key(protocol, A4, source, B4, destination))


def flow6(protocol: int, source: int = 0, destination: int = 0) -> Seen:
    return Seen(flow=Key(protocol, A6, source, B6, destination))


def other(ethertype: int) -> Seen:
    return Seen(row=Row(Kind.OTHER, ethertype, 0, 0))


def unparsed(reason: Reason) -> Seen:
    return Seen(row=Row(Kind.UNPARSED, 0, 0, reason))


UDP4, TCP4, UDP6, TCP6 = flow4(17, 40000, 53), flow4(6, 40000, 443), flow6(17, 40000, 53), flow6(6, 40000, 443)
PACKET4, PACKET6 = f.ipv4(f.udp(b"query")), f.ipv6(f.udp(b"query"))
STREAM4, STREAM6 = f.ipv4(f.tcp(b"data"), f.TCP), f.ipv6(f.tcp(b"data"), f.TCP)
ARP_BODY = bytes.fromhex("0001080006040001") + bytes(20)


def link_layer_cases() -> list[Case]:
    eth = f.ethernet
    cases = [
        Case("ethernet ipv4 udp", eth(PACKET4), UDP4),
        Case("ethernet ipv4 tcp", eth(STREAM4), TCP4),
        Case("ethernet ipv6 udp", eth(PACKET6, f.IPV6), UDP6),
        Case("ethernet ipv6 tcp", eth(STREAM6, f.IPV6), TCP6),
        Case("ethernet padding", eth(f.ipv4(f.udp()) + bytes(18)), UDP4),
        Case("arp", eth(ARP_BODY, f.ARP), other(f.ARP)),
        Case("arp in a vlan", f.tagged(ARP_BODY, f.ARP, f.VLAN), other(f.ARP)),
        Case("lldp", eth(bytes(40), 0x88CC), other(0x88CC)),
        Case("pppoe discovery", eth(bytes(40), 0x8863), other(0x8863)),
        Case("an ethertype nobody knows", eth(bytes(40), 0x88B5), other(0)),
        Case("spanning tree", eth(b"\x42\x42\x03" + bytes(40), 43), other(1)),
        Case("llc of length 0", eth(bytes(40), 0), other(1)),
        Case("snap ipv4", f.snap(PACKET4, f.IPV4), UDP4),
        Case("snap ipv6", f.snap(PACKET6, f.IPV6), UDP6),
        Case("snap arp", f.snap(ARP_BODY, f.ARP), other(f.ARP)),
        Case("snap of a vendor", f.snap(bytes(20), 0x010B, 0x00000C), other(1)),
        Case("snap vlan ipv4", f.snap(b"\x00\x05\x08\x00" + PACKET4, f.VLAN), UDP4),
        Case("short llc", eth(b"\xaa\xaa", 2), unparsed(Reason.SHORT_LLC)),
        Case("short snap", eth(b"\xaa\xaa\x03\x00\x00", 5), unparsed(Reason.SHORT_LLC)),
        Case("mpls ipv6", eth(f.mpls(PACKET6, 2), f.MPLS), UDP6),
        Case("mpls multicast", eth(f.mpls(PACKET4), 0x8848), UDP4),
        Case("mpls behind a vlan", f.tagged(f.mpls(PACKET4), f.MPLS, f.VLAN), UDP4),
        Case("mpls of something else", eth(f.mpls(bytes(20)), f.MPLS), other(f.MPLS)),
        Case("mpls without its bottom", eth(f.mpls(b"", 3)[:8], f.MPLS), unparsed(Reason.SHORT_MPLS)),
        Case("mpls of nothing", eth(f.mpls(b""), f.MPLS), unparsed(Reason.SHORT_MPLS)),
        Case("pppoe ipv4", eth(f.pppoe(PACKET4), f.PPPOE), UDP4),
        Case("pppoe ipv6", eth(f.pppoe(PACKET6, 0x57), f.PPPOE), UDP6),
        Case("pppoe ipv4, compressed", eth(f.pppoe(PACKET4, compressed=True), f.PPPOE), UDP4),
        Case("pppoe lcp", eth(f.pppoe(bytes(20), 0xC021), f.PPPOE), other(f.PPPOE)),
        Case("pppoe cut", eth(f.pppoe(b"")[:7], f.PPPOE), unparsed(Reason.SHORT_PPPOE)),
        Case("pppoe behind two vlans", f.tagged(f.pppoe(PACKET4), f.PPPOE, f.SVLAN, f.VLAN), UDP4),
        Case("vn-tag", eth(bytes(4) + b"\x08\x00" + PACKET4, 0x8926), UDP4),
        Case("e-tag before a vlan", eth(bytes(6) + b"\x81\x00\x00\x05\x86\xdd" + PACKET6, 0x893F), UDP6),
        Case("i-tag", eth(bytes(16) + b"\x08\x00" + PACKET4, 0x88E7), UDP4),
        Case("fabricpath", eth(bytes(2) + eth(PACKET4), 0x8903), UDP4),
    ]
    cases += [Case(f"mpls of {labels} labels", eth(f.mpls(PACKET4, labels), f.MPLS), UDP4) for labels in (1, 2, 7, 8)]
    cases.append(Case("mpls of 9 labels", eth(f.mpls(PACKET4, 9), f.MPLS), unparsed(Reason.DEEP_LINK_LAYER)))
    for tag, count in product((f.VLAN, f.SVLAN, 0x9100, 0x9200), (1, 2, 8)):
        cases.append(Case(f"{count} tags {tag:x} ipv4", f.tagged(PACKET4, f.IPV4, *[tag] * count), UDP4))
        cases.append(Case(f"{count} tags {tag:x} ipv6", f.tagged(STREAM6, f.IPV6, *[tag] * count), TCP6))
        cases.append(
            Case(f"{count} tags {tag:x} cut", f.tagged(b"", 0, *[tag] * count)[:-1], unparsed(Reason.SHORT_VLAN))
        )
    cases.append(Case("9 tags", f.tagged(PACKET4, f.IPV4, *[f.VLAN] * 9), unparsed(Reason.DEEP_LINK_LAYER)))
    return cases


def ipv4_cases() -> list[Case]:
    def eth(*arguments: object, **fields: object) -> bytes:
        return f.ethernet(f.ipv4(*arguments, **fields))  # type: ignore[arg-type]

    long_options = bytes((7, 39, 4)) + bytes(36) + b"\0"  # record route, RFC 791
    cases = [
        Case("ipv4 with options", eth(f.udp(), options=b"\x94\x04\x00\x00"), UDP4),
        Case("ipv4 with all options", eth(f.tcp(), f.TCP, options=long_options), TCP4),
        Case("ipv4 with a longer header than there is", eth(f.udp(), words=15), flow4(f.UDP)),
        Case("ipv4 of total length 0", eth(f.tcp(b"x" * 30), f.TCP, total=0), TCP4),
        Case("ipv4 of total length past the frame", eth(f.udp(), total=9000), UDP4),
        Case("ipv4 of total length inside the header", eth(f.udp(), total=7), UDP4),
        Case("ipv4 of version 5", eth(f.udp(), version=5), unparsed(Reason.IPV4_VERSION)),
        Case("ipv6 under the ethertype of ipv4", f.ethernet(PACKET6), unparsed(Reason.IPV4_VERSION)),
        Case("first fragment", eth(f.udp(b"1" * 16), more=True), UDP4),
        Case("middle fragment", eth(b"2" * 24, more=True, offset=24), flow4(f.UDP)),
        Case("last fragment", eth(b"3" * 5, offset=48), flow4(f.UDP)),
        Case("later fragment of tcp", eth(f.tcp(), f.TCP, offset=8), flow4(f.TCP)),
        Case("fragment in the upper half", eth(f.udp(), offset=32768), flow4(f.UDP)),
        Case("fragment at the very end", eth(f.tcp(), f.TCP, offset=65528), flow4(f.TCP)),
        Case("do not fragment", f.ethernet(STREAM4[:6] + b"\x40\x00" + STREAM4[8:]), TCP4),
        Case("a fragment at the reserved bit", f.ethernet(STREAM4[:6] + b"\x80\x00" + STREAM4[8:]), TCP4),
        Case("udp of two octets", eth(b"\x9c\x40"), flow4(f.UDP)),
        Case("udp of ports alone", eth(f.udp()[:4]), UDP4),
        Case("tcp of ports alone", eth(f.tcp()[:4], f.TCP), TCP4),
        Case("tcp of 15 octets", eth(f.tcp()[:15], f.TCP), TCP4),
        Case("tcp with a data offset of 4", eth(f.tcp(words=4), f.TCP), TCP4),
        Case("tcp with a data offset of 15", eth(f.tcp(words=15), f.TCP), TCP4),
        Case("no payload", eth(b"", f.TCP), flow4(f.TCP)),
    ]
    cases += [
        Case(f"ipv4 of {words} words", eth(f.udp(), words=words), unparsed(Reason.IPV4_HEADER_LENGTH))
        for words in range(5)
    ]
    cases += [
        Case(f"ports of protocol {protocol}", eth(f.ports(), protocol), flow4(protocol, 40000, 5000))
        for protocol in (f.SCTP, f.DCCP, f.UDPLITE)
    ]
    cases += [
        Case(f"ipv4 protocol {protocol}", eth(f.ports(), protocol), flow4(protocol))
        for protocol in (0, f.ICMP, f.IGMP, 8, f.ESP, f.AH, f.ICMPV6, f.NO_NEXT, f.OSPF, 103, 112, 137, 200, 255)
    ]
    return cases


def ipv6_cases() -> list[Case]:
    def eth(*arguments: object, **fields: object) -> bytes:
        return f.ethernet(f.ipv6(*arguments, **fields), f.IPV6)  # type: ignore[arg-type]

    def chain(*headers: int, octets: int = 8) -> bytes:
        payload = f.udp(b"query")
        following = f.UDP
        for header in reversed(headers):
            payload = f.extension(payload, following, octets)
            following = header
        return eth(payload, headers[0] if headers else f.UDP)

    jumbo = bytes((f.TCP, 0, 0xC2, 4)) + (70000).to_bytes(4, "big")
    cases = [
        Case("ipv6 of version 4", eth(f.udp(), version=4), unparsed(Reason.IPV6_VERSION)),
        Case("ipv6 of payload length 0", eth(f.tcp(), f.TCP, length=0), TCP6),
        Case("ipv6 of payload length past the frame", eth(f.tcp(), f.TCP, length=9000), TCP6),
        Case("ipv6 jumbo", eth(jumbo + f.tcp(), f.HOP_BY_HOP, length=0), TCP6),
        Case("no next header", eth(b"", f.NO_NEXT), flow6(f.NO_NEXT)),
        Case("no next header, and yet octets", eth(bytes(20), f.NO_NEXT), flow6(f.NO_NEXT)),
        Case("no next header behind an option", eth(f.extension(b"", f.NO_NEXT), f.HOP_BY_HOP), flow6(f.NO_NEXT)),
        Case("icmpv6", eth(bytes((135, 0)) + bytes(22), f.ICMPV6), flow6(f.ICMPV6)),
        Case("icmpv6 behind hop-by-hop", eth(f.extension(bytes(8), f.ICMPV6), f.HOP_BY_HOP), flow6(f.ICMPV6)),
        Case("ah", eth(f.authentication(f.tcp(), f.TCP), f.AH), TCP6),
        Case("ah of 12 octets", eth(f.authentication(f.udp(), f.UDP, 12), f.AH), UDP6),
        Case("esp", eth(bytes(40), f.ESP), flow6(f.ESP)),
        Case("esp behind ah", eth(f.authentication(bytes(20), f.ESP), f.AH), flow6(f.ESP)),
        Case("mobility", eth(f.extension(b"", f.NO_NEXT, 16), f.MOBILITY), flow6(f.MOBILITY)),
        Case("mobility with data", eth(f.extension(f.udp(), f.UDP, 16), f.MOBILITY), UDP6),
        Case("hip", eth(f.extension(b"", f.NO_NEXT, 40), f.HIP), flow6(f.HIP)),
        Case("shim6", eth(f.extension(f.tcp(), f.TCP), f.SHIM6), TCP6),
        Case("long options", chain(f.DESTINATION, octets=264), UDP6),
        Case("an extension longer than the frame", eth(f.extension(f.udp(), f.UDP, length=200), 60), flow6(f.UDP)),
        Case("an extension of three octets", eth(bytes((f.UDP, 0, 0)), f.HOP_BY_HOP), flow6(f.HOP_BY_HOP)),
        Case("an extension that is not there", eth(b"", f.ROUTING), flow6(f.ROUTING)),
        Case("first fragment v6", eth(f.fragment(f.udp(b"1" * 16), f.UDP, more=True), f.FRAGMENT), UDP6),
        Case("middle fragment v6", eth(f.fragment(bytes(24), f.UDP, 24, more=True), f.FRAGMENT), flow6(f.UDP)),
        Case("fragment v6 in the upper half", eth(f.fragment(f.udp(), f.UDP, 32768), f.FRAGMENT), flow6(f.UDP)),
        Case("last fragment v6", eth(f.fragment(bytes(5), f.TCP, 48), f.FRAGMENT), flow6(f.TCP)),
        Case("atomic fragment", eth(f.fragment(f.tcp(), f.TCP), f.FRAGMENT), TCP6),
        Case(
            "later fragment of an extension",
            eth(f.fragment(f.extension(f.udp(), f.UDP), f.DESTINATION, 64), f.FRAGMENT),
            flow6(f.DESTINATION),
        ),
    ]
    payload, following = f.tcp(b"x"), f.TCP
    payload, following = f.extension(payload, following), f.DESTINATION
    payload, following = f.authentication(payload, following), f.AH
    payload, following = f.fragment(payload, following), f.FRAGMENT
    for header in (f.ROUTING, f.DESTINATION, f.HOP_BY_HOP):
        payload, following = f.extension(payload, following, 24), header
    cases.append(Case("the order of RFC 8200", eth(payload, following), TCP6))
    cases += [Case(f"{count} extensions", chain(*[f.DESTINATION] * count), UDP6) for count in range(1, 9)]
    cases.append(Case("9 extensions", chain(*[f.DESTINATION] * 9), flow6(f.DESTINATION)))
    cases += [Case(f"extension {header}", chain(header), UDP6) for header in (f.HOP_BY_HOP, f.ROUTING, f.DESTINATION)]
    cases += [
        Case(f"ports of protocol {protocol} v6", eth(f.ports(), protocol), flow6(protocol, 40000, 5000))
        for protocol in (f.SCTP, f.DCCP, f.UDPLITE)
    ]
    cases += [
        Case(f"ipv6 protocol {protocol}", eth(f.ports(), protocol), flow6(protocol))
        for protocol in (f.ICMP, f.OSPF, 103, 200, 255)
    ]
    return cases


def tunnel_cases() -> list[Case]:
    def ip(payload: bytes, protocol: int) -> bytes:
        return f.ethernet(f.ipv4(payload, protocol, "192.0.2.1", "192.0.2.2"))

    def outer(protocol: int, source: int = 0, destination: int = 0) -> Seen:
        return Seen(flow=Key(protocol, "192.0.2.1", source, "192.0.2.2", destination))

    def outer6(protocol: int, source: int = 0, destination: int = 0) -> Seen:
        return Seen(flow=Key(protocol, "2001:db8::1", source, "2001:db8::2", destination))

    def ip6(payload: bytes, protocol: int) -> bytes:
        return f.ethernet(f.ipv6(payload, protocol, "2001:db8::1", "2001:db8::2"), f.IPV6)

    inner4, inner6 = f.ethernet(PACKET4), f.ethernet(STREAM6, f.IPV6)
    vx, gn = outer(17, 40000, 4789), outer(17, 40000, 6081)
    gpe, gtp = outer(17, 40000, 4790), outer(17, 40000, 2152)
    cases = [
        Case("ipip", ip(PACKET4, f.IPIP), outer(4), UDP4),
        Case("6in4", ip(STREAM6, f.SIX_IN_FOUR), outer(41), TCP6),
        Case("4in6", ip6(PACKET4, f.IPIP), outer6(4), UDP4),
        Case("6in6", ip6(PACKET6, f.SIX_IN_FOUR), outer6(41), UDP6),
        Case("ipip of something else", ip(b"\x55" * 40, f.IPIP), outer(4), outer(4)),
        Case("ipip cut", ip(PACKET4[:19], f.IPIP), outer(4), outer(4)),
        Case("ipip with a cut transport", ip(PACKET4[:22], f.IPIP), outer(4), flow4(f.UDP)),
        Case("vxlan", ip(f.vxlan(inner4), f.UDP), vx, UDP4),
        Case("vxlan v6", ip6(f.vxlan(inner6), f.UDP), outer6(17, 40000, 4789), TCP6),
        Case("vxlan of linux", ip(f.vxlan(inner4, port=8472), f.UDP), outer(17, 40000, 8472), UDP4),
        Case("vxlan without the flag", ip(f.vxlan(inner4, flags=0), f.UDP), vx, vx),
        Case("vxlan with a vlan inside", ip(f.vxlan(f.tagged(PACKET4, f.IPV4, f.VLAN)), f.UDP), vx, UDP4),
        Case("vxlan with two tags inside", ip(f.vxlan(f.tagged(PACKET4, f.IPV4, *[f.VLAN] * 2)), f.UDP), vx, UDP4),
        Case("vxlan with three tags inside", ip(f.vxlan(f.tagged(PACKET4, f.IPV4, *[f.VLAN] * 3)), f.UDP), vx, vx),
        Case("vxlan with arp inside", ip(f.vxlan(f.ethernet(ARP_BODY, f.ARP)), f.UDP), vx, vx),
        Case("vxlan cut in the ethernet header", ip(f.vxlan(inner4[:13]), f.UDP), vx, vx),
        Case("vxlan cut in the ip header", ip(f.vxlan(inner4[:33]), f.UDP), vx, vx),
        Case("vxlan cut in its own header", ip(f.vxlan(b"")[:15], f.UDP), vx, vx),
        Case("vxlan with a fragment inside", ip(f.vxlan(f.ethernet(f.ipv4(bytes(8), offset=8))), f.UDP), vx, flow4(17)),
        Case("a later fragment of vxlan", f.ethernet(f.ipv4(f.vxlan(inner4), offset=1480)), flow4(17), flow4(17)),
        Case("geneve ethernet", ip(f.geneve(inner4), f.UDP), gn, UDP4),
        Case("geneve ip", ip(f.geneve(PACKET4, f.IPV4), f.UDP), gn, UDP4),
        Case("geneve ipv6", ip(f.geneve(STREAM6, f.IPV6), f.UDP), gn, TCP6),
        Case("geneve of version 1", ip(f.geneve(inner4, version=1), f.UDP), gn, gn),
        Case("gre ipv6", ip(f.gre(STREAM6, f.IPV6), f.GRE), outer(47), TCP6),
        Case("gretap", ip(f.gre(inner6, f.TEB), f.GRE), outer(47), TCP6),
        Case("gretap with a vlan", ip(f.gre(f.tagged(PACKET4, f.IPV4, f.VLAN), f.TEB), f.GRE), outer(47), UDP4),
        Case("gre mpls", ip(f.gre(f.mpls(PACKET4), f.MPLS), f.GRE), outer(47), UDP4),
        Case("gre with a route", ip(f.gre(PACKET4, routing=True), f.GRE), outer(47), outer(47)),
        Case("gre of pptp", ip(f.gre(PACKET4, 0x880B, key=True, version=1), f.GRE), outer(47), outer(47)),
        Case("gre of wccp", ip(f.gre(PACKET4, 0x883E), f.GRE), outer(47), outer(47)),
        Case("gre of a keepalive", ip(f.gre(b"", 0), f.GRE), outer(47), outer(47)),
        Case("gre cut", ip(f.gre(b"")[:3], f.GRE), outer(47), outer(47)),
        Case("udp to another port", ip(f.udp(f.vxlan(inner4)[8:], destination=4791), f.UDP), outer(17, 40000, 4791)),
        Case("vxlan-gpe", ip(f.vxlan(inner4, port=4790), f.UDP), gpe, UDP4),
        Case("vxlan-gpe ethernet", ip(f.vxlan(inner6, port=4790, flags=12, protocol=3), f.UDP), gpe, TCP6),
        Case("vxlan-gpe ip", ip(f.vxlan(PACKET4, port=4790, flags=12, protocol=1), f.UDP), gpe, UDP4),
        Case("vxlan-gpe ipv6", ip(f.vxlan(STREAM6, port=4790, flags=12, protocol=2), f.UDP), gpe, TCP6),
        Case("vxlan-gpe nsh", ip(f.vxlan(bytes(40), port=4790, flags=12, protocol=4), f.UDP), gpe, gpe),
        Case("erspan 1", ip(f.erspan(inner4, 1), f.GRE), outer(47), UDP4),
        Case("erspan 2", ip(f.erspan(inner6, 2), f.GRE), outer(47), TCP6),
        Case("erspan 3", ip(f.erspan(inner4, 3), f.GRE), outer(47), UDP4),
        Case("erspan 3 with a subheader", ip(f.erspan(inner6, 3, platform=True), f.GRE), outer(47), TCP6),
        Case("erspan 3 cut", ip(f.erspan(b"", 3)[:-1], f.GRE), outer(47), outer(47)),
        Case("gtp", ip(f.gtp(PACKET4), f.UDP), gtp, UDP4),
        Case("gtp ipv6", ip(f.gtp(STREAM6), f.UDP), gtp, TCP6),
        Case("gtp with a sequence number", ip(f.gtp(PACKET4, flags=0x32, optional=bytes(4)), f.UDP), gtp, UDP4),
        Case(
            "gtp with an extension", ip(f.gtp(PACKET4, flags=0x34, optional=bytes(3) + b"\x85\1ab\0"), f.UDP), gtp, UDP4
        ),
        Case(
            "gtp with two extensions",
            ip(f.gtp(STREAM6, flags=0x36, optional=bytes(3) + b"\x85\1ab\xc0\2abcdef\0"), f.UDP),
            gtp,
            TCP6,
        ),
        Case(
            "gtp with three extensions",
            ip(f.gtp(PACKET4, flags=0x34, optional=bytes(3) + b"\x85\1ab\xc0\1ab\xc0\1ab\0"), f.UDP),
            gtp,
            gtp,
        ),
        Case(
            "gtp with an extension of no length",
            ip(f.gtp(PACKET4, flags=0x34, optional=b"abc\1\0ab\0"), f.UDP),
            gtp,
            gtp,
        ),
        Case("gtp echo", ip(f.gtp(b"", kind=1), f.UDP), gtp, gtp),
        Case("gtp prime", ip(f.gtp(PACKET4, flags=0x20), f.UDP), gtp, gtp),
        Case("gtp of something else", ip(f.gtp(b"\x55" * 40), f.UDP), gtp, gtp),
        Case("gtp cut", ip(f.gtp(b""), f.UDP), gtp, gtp),
    ]
    for checksum, key, sequence in product((False, True), repeat=3):
        name = f"gre{' checksum' * checksum}{' key' * key}{' sequence' * sequence}"
        packet = f.gre(PACKET4, checksum=checksum, key=key, sequence=sequence)
        cases.append(Case(name, ip(packet, f.GRE), outer(47), UDP4))
    cases += [
        Case(f"geneve, {options} words of options", ip(f.geneve(inner4, options=options), f.UDP), gn, UDP4)
        for options in (1, 5, 63)
    ]
    packet, levels = PACKET4, [UDP4]
    for level in range(1, 7):
        source, destination = f"192.0.2.{level}", f"192.0.2.{100 + level}"
        packet = f.ipv4(packet, f.IPIP, source, destination)
        levels.append(Seen(flow=Key(f.IPIP, source, 0, destination, 0)))
        cases.append(Case(f"ipip {level} deep", f.ethernet(packet), levels[level], levels[max(0, level - 4)]))
    mixed = f.ethernet(
        f.ipv4(f.vxlan(f.ethernet(f.ipv4(f.gre(f.ipv6(f.geneve(inner4), f.UDP), f.IPV6), f.GRE))), f.UDP)
    )
    cases.append(Case("vxlan of gre of geneve", mixed, flow4(17, 40000, 4789), UDP4))
    return cases


CASES = [*link_layer_cases(), *ipv4_cases(), *ipv6_cases(), *tunnel_cases()]
"""All of them; names are unique."""

assert len({case.name for case in CASES}) == len(CASES)


def is_refused_by_test_run(frame: bytes) -> bool:
    """BPF_PROG_TEST_RUN of a sched_cls program wants an octet behind the Ethernet header, and whole IP headers."""
    ethertype = frame[12:14]
    least = 34 if ethertype == b"\x08\x00" else 54 if ethertype == b"\x86\xdd" else 15
    return len(frame) < least

"""Frames of other link layers, rewritten as the Ethernet frames that the kernel programs read.

Link types are the LINKTYPE_* numbers of draft-ietf-opsawg-pcaplinktype. A rewritten frame has an Ethernet header with
zero addresses in place of the header it came with; what follows is untouched.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    _Header = tuple[int, int] | str
    """What to write as EtherType and how many octets the old header takes, or the reason why there is nothing."""

ETHERNET = 1

_ETHERNET_HEADER_BYTES = 14
_NO_ADDRESSES = bytes(12)
_LARGEST_8023_LENGTH = 1500
_SMALLEST_ETHERTYPE = 0x0600

_IPV4 = 0x0800
_IPV6 = 0x86DD
_MPLS = 0x8847
_MPLS_MULTICAST = 0x8848
_PPPOE_DISCOVERY = 0x8863
_PPPOE_SESSION = 0x8864

_SHORT_FRAME = "short_frame"

_IP_VERSIONS = {4: _IPV4, 6: _IPV6}
_ADDRESS_FAMILIES = {2: _IPV4, 10: _IPV6, 24: _IPV6, 28: _IPV6, 30: _IPV6}
"""AF_INET everywhere; AF_INET6 of Linux, NetBSD/OpenBSD, FreeBSD, macOS."""
_PPP_PROTOCOLS = {0x0021: _IPV4, 0x0057: _IPV6, 0x0281: _MPLS, 0x0283: _MPLS_MULTICAST}
_CISCO_HDLC_ADDRESSES = (0x0F, 0x8F)
_CISCO_HDLC_HEADERS = (b"\x0f\0", b"\x8f\0")
_NETFILTER_FAMILIES = {2: _IPV4, 10: _IPV6}
_NETFILTER_PAYLOAD = 9
_NETFILTER_KIND = 0x3FFF
"""Of an attribute's type; the bits above are flags."""

_COOKED_WITHOUT_ETHERTYPE = frozenset((770, 801, 802, 803, 824))
"""ARPHRD_FRAD, _IEEE80211, _IEEE80211_PRISM, _IEEE80211_RADIOTAP, _NETLINK: a link layer of their own follows."""
_COOKED_8023 = (0x0001, 0x0004)
"""The cooked header's "protocols" of an 802.3 frame without and with an LLC header."""

_big_short = Struct(">H").unpack_from
_big_shorts, _little_shorts = Struct(">HH").unpack_from, Struct("<HH").unpack_from


def to_ethernet(link_type: int, data: bytes, wire_length: int) -> tuple[bytes, int] | str:
    """Rewrite a captured frame as an Ethernet frame.

    Args:
        link_type: LINKTYPE_* number.
        data: captured octets, beginning with the header of that link type.
        wire_length: octets of the frame on the wire.

    Returns:
        The Ethernet frame and its length on the wire (never below what was captured, as the draft lets a reader do), or
        why there is none: ``link_type_N`` (not known), ``short_frame`` (the header is cut), ``raw_ip_version``,
        ``loopback_family``, ``ppp_protocol``, ``chdlc_protocol``, ``cooked_protocol`` (what follows the header is
        neither IP nor has an EtherType), ``cooked_hardware`` (a cooked header before a link layer of its own),
        ``netfilter_family`` (no IP), ``netfilter_payload`` (the log has no packet).
    """
    if link_type == ETHERNET:
        captured = len(data)
        if captured < _ETHERNET_HEADER_BYTES:
            return _SHORT_FRAME
        return data, wire_length if wire_length > captured else captured  # noqa: FURB136 - max() doubles the time
    read = _HEADERS.get(link_type)
    if read is None:
        return f"link_type_{link_type}"
    header = read(data, wire_length)
    if isinstance(header, str):
        return header
    ethertype, size = header
    frame = b"%b%b%b" % (_NO_ADDRESSES, ethertype.to_bytes(2, "big"), data[size:])
    return frame, max(wire_length - size + _ETHERNET_HEADER_BYTES, len(frame))


def _raw_ip(data: bytes, wire_length: int) -> _Header:
    if not data:
        return _SHORT_FRAME
    ethertype = _IP_VERSIONS.get(data[0] >> 4)
    return "raw_ip_version" if ethertype is None else (ethertype, 0)


def _ipv4(data: bytes, wire_length: int) -> _Header:
    return _IPV4, 0


def _ipv6(data: bytes, wire_length: int) -> _Header:
    return _IPV6, 0


def _mpls(data: bytes, wire_length: int) -> _Header:
    return _MPLS, 0


def _null(data: bytes, wire_length: int) -> _Header:
    """BSD loopback: the address family in the byte order of the machine that captured, which the file does not tell.

    Some drivers give Cisco HDLC as that.
    """
    if len(data) < 4:
        return _SHORT_FRAME
    if data[:2] in _CISCO_HDLC_HEADERS:
        return _cisco_hdlc(data, wire_length)
    little = _ADDRESS_FAMILIES.get(int.from_bytes(data[:4], "little"))
    ethertype = little or _ADDRESS_FAMILIES.get(int.from_bytes(data[:4], "big"))
    return "loopback_family" if ethertype is None else (ethertype, 4)


def _loop(data: bytes, wire_length: int) -> _Header:
    """OpenBSD loopback: the address family in network byte order."""
    if len(data) < 4:
        return _SHORT_FRAME
    ethertype = _ADDRESS_FAMILIES.get(int.from_bytes(data[:4], "big"))
    return "loopback_family" if ethertype is None else (ethertype, 4)


def _ppp(data: bytes, wire_length: int) -> _Header:
    """PPP with or without address and control octets, with or without a compressed protocol field (RFC 1661, 6.5)."""
    position = 2 if data[:2] == b"\xff\x03" else 0
    size = position + (1 if data[position : position + 1] and data[position] & 1 else 2)
    if len(data) < size:
        return _SHORT_FRAME
    ethertype = _PPP_PROTOCOLS.get(int.from_bytes(data[position:size], "big"))
    return "ppp_protocol" if ethertype is None else (ethertype, size)


def _ppp_hdlc(data: bytes, wire_length: int) -> _Header:
    """PPP in HDLC-like framing, or Cisco HDLC: the first octet tells."""
    if data and data[0] in _CISCO_HDLC_ADDRESSES:
        return _cisco_hdlc(data, wire_length)
    return _ppp(data, wire_length)


def _cisco_hdlc(data: bytes, wire_length: int) -> _Header:
    if len(data) < 4:
        return _SHORT_FRAME
    (ethertype,) = _big_short(data, 2)
    return "chdlc_protocol" if ethertype < _SMALLEST_ETHERTYPE else (ethertype, 4)


def _pppoe(data: bytes, wire_length: int) -> _Header:
    """A PPPoE header (RFC 2516): code 0 is a session, every other one discovery."""
    if len(data) < 6:
        return _SHORT_FRAME
    return _PPPOE_DISCOVERY if data[1] else _PPPOE_SESSION, 0


def _netfilter_log(data: bytes, wire_length: int) -> _Header:
    """NFLOG: address family, version 0, resource; then attributes, the packet is one (NFULA_PAYLOAD).

    An attribute has its length, header included, and its type, in the byte order of the machine that captured; they
    stand at multiples of 4 octets.
    """
    if len(data) < 8:
        return _SHORT_FRAME
    ethertype = _NETFILTER_FAMILIES.get(data[0])
    if ethertype is None or data[1]:
        return "netfilter_family"
    attribute = _little_shorts if data[6] and not data[7] else _big_shorts
    at = 4
    while at + 4 <= len(data):
        length, kind = attribute(data, at)
        if kind & _NETFILTER_KIND == _NETFILTER_PAYLOAD:
            return ethertype, at + 4
        if length < 4:
            break
        at += length + 3 & ~3
    return "netfilter_payload"


def _cooked(data: bytes, wire_length: int) -> _Header:
    """Linux cooked v1: packet type, ARPHRD_* type, address length, address[8], protocol."""
    if len(data) < 16:
        return _SHORT_FRAME
    return _cooked_protocol(_big_short(data, 2)[0], _big_short(data, 14)[0], 16, wire_length)


def _cooked2(data: bytes, wire_length: int) -> _Header:
    """Linux cooked v2: protocol, reserved[2], interface index[4], ARPHRD_* type, packet type, address length, address."""
    if len(data) < 20:
        return _SHORT_FRAME
    return _cooked_protocol(_big_short(data, 8)[0], _big_short(data, 0)[0], 20, wire_length)


def _cooked_protocol(hardware: int, protocol: int, size: int, wire_length: int) -> _Header:
    if hardware in _COOKED_WITHOUT_ETHERTYPE:
        return "cooked_hardware"
    if protocol >= _SMALLEST_ETHERTYPE:
        return protocol, size
    if protocol in _COOKED_8023:
        # On the wire such a frame has its length where others have an EtherType.
        return min(max(wire_length - size, 0), _LARGEST_8023_LENGTH), size
    return "cooked_protocol"


_HEADERS: dict[int, Callable[[bytes, int], _Header]] = {
    0: _null,
    9: _ppp,
    12: _raw_ip,
    14: _raw_ip,
    50: _ppp_hdlc,
    51: _pppoe,
    101: _raw_ip,
    104: _cisco_hdlc,
    108: _loop,
    113: _cooked,
    219: _mpls,
    228: _ipv4,
    229: _ipv6,
    239: _netfilter_log,
    276: _cooked2,
}

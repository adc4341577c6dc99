"""The messages of rtnetlink that tell of network devices. Pure: bytes in, records or ``RtnetlinkError`` out, and back.

The supervisor lives as long as the agent, so it speaks rtnetlink itself, with the standard library alone
(docs/decisions/0040-rtnetlink.md); `otel_netmon.kernel.link_monitor` holds the sockets.

Sources: netlink(7), rtnetlink(7), Documentation/userspace-api/netlink/intro.rst, Documentation/netlink/specs/rt_link.yaml.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from otel_netmon.errors import NetmonError

NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWNSID, RTM_GETNSID = 88, 90
NLM_F_REQUEST, NLM_F_DUMP_INTR, NLM_F_DUMP = 0x01, 0x10, 0x300
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_WIRELESS = 1, 3, 4, 5, 10, 11
IFLA_LINKINFO, IFLA_EXT_MASK, IFLA_LINK_NETNSID = 18, 29, 37
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
IFLA_VXLAN_LINK = 3
NETNSA_NSID, NETNSA_FD = 1, 3

_RTEXT_FILTER_SKIP_STATS = 8
_ATTRIBUTE_TYPE_MASK = 0x3FFF
_HEADER = struct.Struct("=IHHII")
_IFINFO = struct.Struct("=BxHiII")
_RTGEN_BYTES = 4
_ATTRIBUTE = struct.Struct("=HH")
_UINT32 = struct.Struct("=I")
_INT32 = struct.Struct("=i")


class RtnetlinkError(NetmonError):
    """The kernel refused a request, or a message does not have the shape that rtnetlink(7) gives it.

    Args:
        errno: the kernel's errno where it refused a request, else 0.
    """

    def __init__(self, message: str, remedy: str = "", errno: int = 0) -> None:
        super().__init__(message, remedy)
        self.errno = errno


class Message(NamedTuple):
    """One netlink message: ``struct nlmsghdr`` without its length, and what follows it."""

    type: int
    flags: int
    sequence: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Link:
    """One network device as RTM_NEWLINK describes it.

    Attributes:
        index: ifindex, unique within its network namespace.
        name: device name; bytes that are not UTF-8 are kept as surrogates (``os.fsdecode``).
        flags: IFF_* bits of netdevice(7).
        type: ARPHRD_* number (1 Ethernet, 772 loopback).
        kind: IFLA_INFO_KIND ("veth", "bridge", ...), empty for a device without one, such as a network card.
        master: ifindex of the bridge, bond, team or VRF that this device is a port of.
        link: ifindex of the device below (vlan, macvlan, ...) or of the other end (veth), in ``link_netnsid``'s namespace;
            for a vxlan, which has no IFLA_LINK, the device that its options bind it to.
        link_netnsid: the number by which this namespace knows the namespace of ``link``; None for the same namespace.
        address: link-layer address, may be empty.
        mtu: in bytes.
    """

    index: int
    name: str
    flags: int
    type: int
    kind: str
    master: int | None
    link: int | None
    link_netnsid: int | None
    address: bytes
    mtu: int


def split_messages(datagram: bytes) -> Iterator[Message]:
    """The messages of one datagram, in order.

    Raises:
        RtnetlinkError: a header is cut off or its length does not fit the datagram.
    """
    offset = 0
    while offset < len(datagram):
        if len(datagram) - offset < _HEADER.size:
            raise RtnetlinkError(f"netlink header cut off at byte {offset} of {len(datagram)}")
        length, kind, flags, sequence, _port = _HEADER.unpack_from(datagram, offset)
        if not _HEADER.size <= length <= len(datagram) - offset:
            raise RtnetlinkError(f"netlink message of {length} bytes at byte {offset} of {len(datagram)}")
        yield Message(kind, flags, sequence, datagram[offset + _HEADER.size : offset + length])
        offset += _aligned(length)


def parse_attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Attributes by number, without the NLA_F_NESTED and NLA_F_NET_BYTEORDER bits; the last of a repeated number wins.

    Raises:
        RtnetlinkError: an attribute is cut off.
    """
    attributes: dict[int, bytes] = {}
    while offset < len(data):
        if len(data) - offset < _ATTRIBUTE.size:
            raise RtnetlinkError(f"netlink attribute cut off at byte {offset} of {len(data)}")
        length, number = _ATTRIBUTE.unpack_from(data, offset)
        if not _ATTRIBUTE.size <= length <= len(data) - offset:
            raise RtnetlinkError(f"netlink attribute of {length} bytes at byte {offset} of {len(data)}")
        attributes[number & _ATTRIBUTE_TYPE_MASK] = data[offset + _ATTRIBUTE.size : offset + length]
        offset += _aligned(length)
    return attributes


def parse_link(payload: bytes) -> Link | None:
    """The device that the payload of an RTM_NEWLINK or RTM_DELLINK describes.

    Returns None for the messages of the link group that do not describe a device as a whole: those of the bridge family
    (RTM_DELLINK there means that a port left its bridge, not that the device is gone) and wireless extension events.

    Raises:
        RtnetlinkError: the payload is cut off, or an attribute has a size that its type cannot have.
    """
    if len(payload) < _IFINFO.size:
        raise RtnetlinkError(f"link message of {len(payload)} bytes, struct ifinfomsg needs {_IFINFO.size}")
    family, device_type, index, flags, _change = _IFINFO.unpack_from(payload)
    attributes = parse_attributes(payload, _IFINFO.size)
    if family != socket.AF_UNSPEC or IFLA_WIRELESS in attributes:
        return None
    if IFLA_IFNAME not in attributes:
        raise RtnetlinkError(f"link message without a name for interface index {index}")
    info = parse_attributes(attributes.get(IFLA_LINKINFO, b""))
    kind = _text(info.get(IFLA_INFO_KIND, b""))
    link = _number(attributes, IFLA_LINK, _UINT32)
    if kind == "vxlan" and link is None:
        link = _number(parse_attributes(info.get(IFLA_INFO_DATA, b"")), IFLA_VXLAN_LINK, _UINT32)
    return Link(
        index=index,
        name=_text(attributes[IFLA_IFNAME]),
        flags=flags,
        type=device_type,
        kind=kind,
        master=_number(attributes, IFLA_MASTER, _UINT32) or None,
        link=link or None,
        link_netnsid=_number(attributes, IFLA_LINK_NETNSID, _INT32),
        address=attributes.get(IFLA_ADDRESS, b""),
        mtu=_number(attributes, IFLA_MTU, _UINT32) or 0,
    )


def parse_status(message: Message) -> int:
    """The errno in an NLMSG_ERROR or NLMSG_DONE, 0 for success (an NLMSG_DONE may come without one)."""
    if len(message.payload) < _INT32.size:
        if message.type == NLMSG_DONE and not message.payload:
            return 0
        raise RtnetlinkError(f"netlink status of {len(message.payload)} bytes")
    return -int(_INT32.unpack_from(message.payload)[0])


def parse_namespace_id(payload: bytes) -> int | None:
    """The number in an RTM_NEWNSID, None where the kernel has given none.

    Raises:
        RtnetlinkError: the payload is cut off or holds no number.
    """
    if len(payload) < _RTGEN_BYTES:
        raise RtnetlinkError(f"namespace id message of {len(payload)} bytes, struct rtgenmsg needs {_RTGEN_BYTES}")
    number = _number(parse_attributes(payload, _RTGEN_BYTES), NETNSA_NSID, _INT32)
    if number is None:
        raise RtnetlinkError("namespace id message without a number")
    return number if number >= 0 else None


def link_request(sequence: int, index: int = 0) -> bytes:
    """An RTM_GETLINK: of one device, or of all (NLM_F_DUMP) for index 0. Statistics are left out."""
    body = _IFINFO.pack(socket.AF_UNSPEC, 0, index, 0, 0)
    body += _attribute(IFLA_EXT_MASK, _UINT32.pack(_RTEXT_FILTER_SKIP_STATS))
    return _request(RTM_GETLINK, 0 if index else NLM_F_DUMP, sequence, body)


def namespace_id_request(sequence: int, namespace_fd: int) -> bytes:
    """An RTM_GETNSID: the number that the socket's namespace has for the one behind the open file."""
    body = bytes(_RTGEN_BYTES) + _attribute(NETNSA_FD, _UINT32.pack(namespace_fd))
    return _request(RTM_GETNSID, 0, sequence, body)


def _request(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | flags, sequence, 0) + body


def _attribute(number: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), number) + value + bytes(-len(value) % 4)


def _number(attributes: dict[int, bytes], number: int, shape: struct.Struct) -> int | None:
    value = attributes.get(number)
    if value is None:
        return None
    if len(value) != shape.size:
        raise RtnetlinkError(f"netlink attribute {number} has {len(value)} bytes instead of {shape.size}")
    return int(shape.unpack(value)[0])


def _text(value: bytes) -> str:
    return os.fsdecode(value.partition(b"\0")[0])


def _aligned(length: int) -> int:
    return (length + 3) & ~3

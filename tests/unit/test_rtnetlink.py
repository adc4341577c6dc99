"""rtnetlink messages, built by hand from the structs of rtnetlink(7), and bytes of every other kind."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct

import pytest
from hypothesis import given, strategies as st

from otel_netmon.kernel import rtnetlink
from otel_netmon.kernel.link_monitor import LinkMonitor
from otel_netmon.kernel.rtnetlink import Link, Message, RtnetlinkError


def attribute(number: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), number) + value + bytes(-len(value) % 4)


def link_payload(attributes: bytes, *, family: int = socket.AF_UNSPEC, index: int = 7) -> bytes:
    return struct.pack("=BxHiII", family, 1, index, 0x1003, 0) + attributes


def message(kind: int, payload: bytes, *, flags: int = 2, sequence: int = 1) -> bytes:
    header = struct.pack("=IHHII", 16 + len(payload), kind, flags, sequence, 0)
    return header + payload + bytes(-len(payload) % 4)


NAME = attribute(rtnetlink.IFLA_IFNAME, b"veth7\0")
VETH = Link(
    index=7,
    name="veth7",
    flags=0x1003,
    type=1,
    kind="veth",
    master=3,
    link=9,
    link_netnsid=0,
    address=bytes.fromhex("0242ac110002"),
    mtu=1400,
)
VETH_PAYLOAD = link_payload(
    NAME
    + attribute(rtnetlink.IFLA_ADDRESS, VETH.address)
    + attribute(rtnetlink.IFLA_MTU, struct.pack("=I", 1400))
    + attribute(rtnetlink.IFLA_MASTER, struct.pack("=I", 3))
    + attribute(rtnetlink.IFLA_LINK, struct.pack("=I", 9))
    + attribute(rtnetlink.IFLA_LINK_NETNSID, struct.pack("=i", 0))
    + attribute(rtnetlink.IFLA_LINKINFO | 0x8000, attribute(rtnetlink.IFLA_INFO_KIND, b"veth\0"))
)


def test_a_link_with_every_attribute() -> None:
    assert rtnetlink.parse_link(VETH_PAYLOAD) == VETH


def test_a_link_with_a_name_only() -> None:
    link = rtnetlink.parse_link(link_payload(NAME))
    assert link == Link(7, "veth7", 0x1003, 1, "", None, None, None, b"", 0)


def test_a_lower_device_of_index_0_is_none() -> None:
    link = rtnetlink.parse_link(link_payload(NAME + attribute(rtnetlink.IFLA_LINK, bytes(4))))
    assert link is not None
    assert link.link is None


def test_a_vxlan_names_the_device_below_in_its_options() -> None:
    options = attribute(rtnetlink.IFLA_VXLAN_LINK, struct.pack("=I", 4))
    for kind, below in ((b"vxlan\0", 4), (b"geneve\0", None)):
        info = attribute(rtnetlink.IFLA_INFO_KIND, kind) + attribute(rtnetlink.IFLA_INFO_DATA, options)
        link = rtnetlink.parse_link(link_payload(NAME + attribute(rtnetlink.IFLA_LINKINFO, info)))
        assert link is not None
        assert link.link == below


def test_a_name_that_is_not_utf8_survives() -> None:
    link = rtnetlink.parse_link(link_payload(attribute(rtnetlink.IFLA_IFNAME, b"\xff%\x01\0")))
    assert link is not None
    assert link.name == "\udcff%\x01"


def test_leaving_a_bridge_is_not_the_end_of_a_device() -> None:
    assert rtnetlink.parse_link(link_payload(NAME, family=socket.AF_BRIDGE)) is None


def test_a_wireless_event_does_not_describe_the_device() -> None:
    assert rtnetlink.parse_link(link_payload(NAME + attribute(rtnetlink.IFLA_WIRELESS, b"scan"))) is None


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"", "0 bytes"),
        (VETH_PAYLOAD[:15], "15 bytes"),
        (link_payload(b""), "without a name"),
        (link_payload(NAME + b"\1\0"), "cut off"),
        (link_payload(struct.pack("=HH", 3, 3)), "attribute of 3 bytes"),
        (link_payload(struct.pack("=HH", 200, 3)), "attribute of 200 bytes"),
        (link_payload(NAME + attribute(rtnetlink.IFLA_MTU, b"\1")), "1 bytes instead of 4"),
        (link_payload(NAME + attribute(rtnetlink.IFLA_LINKINFO, b"\x09\0\1\0")), "attribute of 9 bytes"),
    ],
)
def test_a_malformed_link_is_refused(payload: bytes, words: str) -> None:
    with pytest.raises(RtnetlinkError, match=words):
        rtnetlink.parse_link(payload)


def test_a_datagram_of_several_messages() -> None:
    datagram = message(rtnetlink.RTM_NEWLINK, b"abcde", sequence=5) + message(
        rtnetlink.NLMSG_DONE, bytes(4), sequence=5
    )
    assert list(rtnetlink.split_messages(datagram)) == [
        Message(rtnetlink.RTM_NEWLINK, 2, 5, b"abcde"),
        Message(rtnetlink.NLMSG_DONE, 2, 5, bytes(4)),
    ]


@pytest.mark.parametrize("length", [0, 15, 21])
def test_a_message_length_that_cannot_be_is_refused(length: int) -> None:
    with pytest.raises(RtnetlinkError, match=f"message of {length} bytes"):
        list(rtnetlink.split_messages(struct.pack("=IHHII", length, 16, 0, 0, 0) + b"1234"))


def test_a_header_cut_off_is_refused() -> None:
    with pytest.raises(RtnetlinkError, match="byte 20 of 24"):
        list(rtnetlink.split_messages(message(16, b"abcd") + b"1234"))


def test_status_of_errors_and_ends() -> None:
    refused = struct.pack("=i", -errno.ENODEV)
    assert rtnetlink.parse_status(Message(rtnetlink.NLMSG_ERROR, 0, 1, refused + bytes(16))) == errno.ENODEV
    assert rtnetlink.parse_status(Message(rtnetlink.NLMSG_ERROR, 0, 1, bytes(20))) == 0
    assert rtnetlink.parse_status(Message(rtnetlink.NLMSG_DONE, 0, 1, b"")) == 0
    with pytest.raises(RtnetlinkError, match="status of 0 bytes"):
        rtnetlink.parse_status(Message(rtnetlink.NLMSG_ERROR, 0, 1, b""))


def test_namespace_ids() -> None:
    assert rtnetlink.parse_namespace_id(bytes(4) + attribute(rtnetlink.NETNSA_NSID, struct.pack("=i", 12))) == 12
    assert rtnetlink.parse_namespace_id(bytes(4) + attribute(rtnetlink.NETNSA_NSID, struct.pack("=i", -1))) is None
    with pytest.raises(RtnetlinkError, match="without a number"):
        rtnetlink.parse_namespace_id(bytes(4))
    with pytest.raises(RtnetlinkError, match="2 bytes"):
        rtnetlink.parse_namespace_id(bytes(2))


def test_requests_are_messages_of_their_own_length() -> None:
    for request in (rtnetlink.link_request(9), rtnetlink.link_request(9, 3), rtnetlink.namespace_id_request(9, 4)):
        (parsed,) = rtnetlink.split_messages(request)
        assert parsed.sequence == 9
        assert parsed.flags & rtnetlink.NLM_F_REQUEST
    (everything,) = rtnetlink.split_messages(rtnetlink.link_request(1))
    assert everything.flags & rtnetlink.NLM_F_DUMP == rtnetlink.NLM_F_DUMP


@given(st.binary(max_size=200))
def test_any_bytes_are_messages_or_a_typed_error(data: bytes) -> None:
    try:
        messages = list(rtnetlink.split_messages(data))
    except RtnetlinkError:
        return
    assert sum((len(each.payload) + 16 + 3) & ~3 for each in messages) in range(len(data), len(data) + 4)


@given(st.binary(max_size=200))
def test_any_payload_is_a_record_or_a_typed_error(data: bytes) -> None:
    for parse in (rtnetlink.parse_link, rtnetlink.parse_namespace_id, rtnetlink.parse_attributes):
        with contextlib.suppress(RtnetlinkError):
            parse(data)
    for kind in (rtnetlink.NLMSG_ERROR, rtnetlink.NLMSG_DONE):
        try:
            rtnetlink.parse_status(Message(kind, 0, 0, data))
        except RtnetlinkError:
            assert len(data) < 4


@given(st.integers(0, len(VETH_PAYLOAD) - 1), st.integers(0, 255))
def test_one_damaged_byte_gives_a_record_or_a_typed_error(position: int, value: int) -> None:
    damaged = bytearray(VETH_PAYLOAD)
    damaged[position] = value
    try:
        link = rtnetlink.parse_link(bytes(damaged))
    except RtnetlinkError:
        return
    assert link is None or link.name is not None


@given(st.integers(0, len(VETH_PAYLOAD)))
def test_a_cut_gives_a_record_or_a_typed_error(length: int) -> None:
    try:
        link = rtnetlink.parse_link(VETH_PAYLOAD[:length])
    except RtnetlinkError:
        assert length < len(VETH_PAYLOAD)
        return
    assert link is not None
    assert link.name == VETH.name


def named(index: int, name: bytes, *, flags: int = 0) -> Message:
    payload = link_payload(attribute(rtnetlink.IFLA_IFNAME, name), index=index)
    return Message(rtnetlink.RTM_NEWLINK, flags, 1, payload)


def test_an_interrupted_dump_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    done = Message(rtnetlink.NLMSG_DONE, 0, 1, bytes(4))
    answers = [[named(1, b"lo"), named(2, b"old", flags=rtnetlink.NLM_F_DUMP_INTR), done], [named(2, b"new"), done]]

    def ask(_request: bytes, *, multipart: bool) -> list[Message]:
        assert multipart
        return answers.pop(0)

    with LinkMonitor() as monitor:
        monkeypatch.setattr(monitor, "_ask", ask)
        assert {link.index: link.name for link in monitor.dump()} == {1: "lo", 2: "new"}
    assert not answers


def test_a_dump_that_is_always_interrupted_gives_what_any_attempt_showed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    def ask(_request: bytes, *, multipart: bool) -> list[Message]:
        nonlocal asked
        asked += multipart
        return [named(1, b"lo"), named(1 + asked, b"veth", flags=rtnetlink.NLM_F_DUMP_INTR)]

    with LinkMonitor() as monitor:
        monkeypatch.setattr(monitor, "_ask", ask)
        assert [link.index for link in monitor.dump()] == list(range(1, asked + 2))
    assert asked > 1

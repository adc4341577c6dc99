"""The network devices of one namespace: a dump, then every change, over two rtnetlink sockets.

Sources: netlink(7), rtnetlink(7), Documentation/userspace-api/netlink/intro.rst.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import NamedTuple

from otel_netmon.kernel.closing import Closing
from otel_netmon.kernel.rtnetlink import (
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    RTM_DELLINK,
    RTM_NEWLINK,
    RTM_NEWNSID,
    Link,
    Message,
    RtnetlinkError,
    link_request,
    namespace_id_request,
    parse_link,
    parse_namespace_id,
    parse_status,
    split_messages,
)

_NETLINK_ROUTE = 0
_RTMGRP_LINK = 1
_SO_RCVBUFFORCE = 33

_DATAGRAM_BYTES = 1 << 16
_RECEIVE_BUFFER_BYTES = 1 << 20
_DATAGRAMS_PER_READ = 4096
_DUMP_ATTEMPTS = 8
_ANSWER_SECONDS = 10.0


class LinkChange(NamedTuple):
    """A device that is there (new or changed), or that is gone."""

    removed: bool
    link: Link


class Notifications(NamedTuple):
    """What has arrived since the last read. After an overrun some changes are lost and only a new dump tells the state."""

    changes: list[LinkChange]
    overrun: bool


class LinkMonitor(Closing):
    """Devices of the network namespace in which the calling thread is when it makes this object.

    Two sockets: one holds the subscription to RTNLGRP_LINK from the first moment on, so that what changes during a dump
    arrives after it; the other asks. Both stay in their namespace, wherever the thread goes afterwards.

    Raises:
        RtnetlinkError: the sockets are refused.
    """

    def __init__(self) -> None:
        self.overruns = 0
        self._sequence = 0
        self._buffer = bytearray(_DATAGRAM_BYTES)
        self._group = _route_socket(_RTMGRP_LINK)
        try:
            self._group.setblocking(False)
            self._requests = _route_socket(0)
        except BaseException:
            self._group.close()
            raise
        self._requests.settimeout(_ANSWER_SECONDS)

    def close(self) -> None:
        """Close both sockets."""
        self._group.close()
        self._requests.close()

    def fileno(self) -> int:
        """Readable when `read` has something to return."""
        return self._group.fileno()

    def dump(self) -> list[Link]:
        """All devices, in the kernel's order.

        A dump that the kernel marks as interrupted by a change (NLM_F_DUMP_INTR) is repeated. Under changes without end
        the answer is what any of the attempts showed: nothing that stayed can be missing, and what has gone meanwhile is
        told by the notifications that already wait.

        Raises:
            RtnetlinkError: the kernel refuses, or does not answer.
        """
        links: dict[int, Link] = {}
        for _ in range(_DUMP_ATTEMPTS):
            interrupted = False
            for message in self._ask(link_request(self._next_sequence()), multipart=True):
                interrupted |= bool(message.flags & NLM_F_DUMP_INTR)
                if message.type == RTM_NEWLINK and (link := parse_link(message.payload)) is not None:
                    links[link.index] = link
            if not interrupted:
                return list(links.values())
        return list(links.values())

    def get(self, index: int) -> Link | None:
        """One device as it is now, None where there is none of that index.

        Raises:
            RtnetlinkError: the kernel refuses, or does not answer.
        """
        try:
            for message in self._ask(link_request(self._next_sequence(), index)):
                if message.type == RTM_NEWLINK:
                    return parse_link(message.payload)
        except RtnetlinkError as error:
            if error.errno != errno.ENODEV:
                raise
            return None
        raise RtnetlinkError(f"the kernel answered a request for interface index {index} with something else")

    def read(self) -> Notifications:
        """Everything that has arrived, without waiting; at most 4,096 datagrams, the rest keeps `fileno` readable."""
        changes: list[LinkChange] = []
        overrun = False
        for _ in range(_DATAGRAMS_PER_READ):
            try:
                datagram = self._receive(self._group)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                datagram = None
            if datagram is None:
                overrun = True
                continue
            changes.extend(
                LinkChange(message.type == RTM_DELLINK, link)
                for message in split_messages(datagram)
                if message.type in (RTM_NEWLINK, RTM_DELLINK) and (link := parse_link(message.payload)) is not None
            )
        self.overruns += overrun
        return Notifications(changes, overrun)

    def namespace_id(self, namespace_fd: int) -> int | None:
        """The number by which this namespace knows the one behind `namespace_fd`, None where it has given it none.

        Raises:
            RtnetlinkError: the kernel refuses, or does not answer.
        """
        for message in self._ask(namespace_id_request(self._next_sequence(), namespace_fd)):
            if message.type == RTM_NEWNSID:
                return parse_namespace_id(message.payload)
        raise RtnetlinkError("the kernel answered a request for a namespace id with something else")

    def _next_sequence(self) -> int:
        self._sequence = self._sequence % 0xFFFFFFFF + 1
        return self._sequence

    def _ask(self, request: bytes, *, multipart: bool = False) -> list[Message]:
        """Send a request with the newest sequence number and read its answer to the end."""
        answer: list[Message] = []
        try:
            self._requests.sendto(request, (0, 0))
            while True:
                datagram = self._receive(self._requests)
                if datagram is None:
                    raise RtnetlinkError(f"an answer of more than {_DATAGRAM_BYTES} bytes from the kernel")
                for message in split_messages(datagram):
                    if message.sequence != self._sequence:
                        continue
                    if message.type in (NLMSG_ERROR, NLMSG_DONE):
                        status = parse_status(message)
                        if status:
                            raise RtnetlinkError(
                                f"the kernel refused an rtnetlink request: {os.strerror(status)}", errno=status
                            )
                        return [*answer, message]
                    answer.append(message)
                if answer and not multipart:
                    return answer
        except OSError as error:
            raise RtnetlinkError(f"asking the kernel by rtnetlink failed: {error}", errno=error.errno or 0) from error

    def _receive(self, source: socket.socket) -> bytes | None:
        """One datagram of the kernel; None if it did not fit. What another process sent is passed over."""
        while True:
            size, _ancillary, flags, (port, _groups) = source.recvmsg_into([self._buffer])
            if port == 0:
                return None if flags & socket.MSG_TRUNC else bytes(memoryview(self._buffer)[:size])


def _route_socket(groups: int) -> socket.socket:
    try:
        route = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_ROUTE)
    except OSError as error:
        raise RtnetlinkError(f"no rtnetlink socket: {error}", "see `ulimit -n`", error.errno or 0) from error
    try:
        _ask_for_room(route)
        route.bind((0, groups))
    except OSError as error:
        route.close()
        raise RtnetlinkError(f"rtnetlink socket refused: {error}", errno=error.errno or 0) from error
    return route


def _ask_for_room(route: socket.socket) -> None:
    try:
        route.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
    except PermissionError:
        # Without CAP_NET_ADMIN the kernel cuts the size to net.core.rmem_max: more overruns, each repaired by a dump.
        route.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)

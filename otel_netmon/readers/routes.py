"""Which way a packet to an address would go from a network namespace, by RTM_GETROUTE: the answer of its routing tables now.

The socket asks the namespace in which it was opened, whoever asks. It needs no privilege.
Sources: rtnetlink(7), netlink(7).
"""

from __future__ import annotations

import errno
import socket
import struct

from otel_netmon.readers.sock_diag import namespace_cookie

WAIT_SECONDS = 0.2
_REQUEST = struct.Struct("=IHHII")  # struct nlmsghdr
_ROUTE = struct.Struct("=8BI")  # struct rtmsg: family, lengths, table, protocol, scope, type, flags
_ATTRIBUTE = struct.Struct("=HH")  # struct rtattr
_RTM_GETROUTE, _RTM_NEWROUTE, _NLMSG_ERROR = 26, 24, 2
_NLM_F_REQUEST = 1
_RTA_DST = 1
_V4_MAPPED = bytes(10) + b"\xff\xff"
_READ_BYTES = 8192
_TYPE_OFFSET = 7  # rtm_type in struct rtmsg
_REFUSALS = {6: errno.EINVAL, 7: errno.EHOSTUNREACH, 8: errno.EACCES}
"""What a route of a type that leads nowhere gives to connect(2): blackhole, unreachable, prohibit."""


class RouteReader:
    """Asks one namespace.

    Args:
        fd: an open socket of NETLINK_ROUTE (see ``namespaces.open_rtnetlink``); taken over.

    Attributes:
        namespace_cookie: of the network namespace, 0 where the kernel (before 5.14) does not tell it.
    """

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.settimeout(WAIT_SECONDS)
        self._sequence = 0
        self.namespace_cookie = namespace_cookie(self._socket)

    def refusal(self, address: bytes) -> int:
        """The error that connect(2) to this address gives for want of a route; 0 where there is one.

        Args:
            address: 16 octets, IPv4 as v4-mapped IPv6.

        Raises:
            OSError: the kernel does not answer.
        """
        self._sequence = self._sequence + 1 & 0xFFFFFFFF
        v4 = address.startswith(_V4_MAPPED)
        family, plain = (socket.AF_INET, address[12:]) if v4 else (socket.AF_INET6, address)
        body = (
            _ROUTE.pack(family, len(plain) * 8, 0, 0, 0, 0, 0, 0, 0) + _ATTRIBUTE.pack(4 + len(plain), _RTA_DST) + plain
        )
        self._socket.send(
            _REQUEST.pack(_REQUEST.size + len(body), _RTM_GETROUTE, _NLM_F_REQUEST, self._sequence, 0) + body
        )
        while True:
            answer = self._socket.recv(_READ_BYTES)
            _, kind, _, sequence, _ = _REQUEST.unpack_from(answer)
            if sequence != self._sequence:
                continue  # the answer to a question that was given up
            if kind == _NLMSG_ERROR:
                return -int(struct.unpack_from("=i", answer, _REQUEST.size)[0])
            if kind == _RTM_NEWROUTE:
                return _REFUSALS.get(answer[_REQUEST.size + _TYPE_OFFSET], 0)

    def close(self) -> None:
        """Gives the socket back."""
        self._socket.close()

"""Which packets the programs look into for messages: the map message_ports, as the supervisor writes it."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from types import MappingProxyType

from otel_netmon.abi.enums import PORT_FILTER_BITS, PortProtocol
from otel_netmon.kernel import syscalls
from otel_netmon.kernel.loader import LoadedImage

DNS_PORTS: Mapping[int, PortProtocol] = MappingProxyType(
    {53: PortProtocol.DNS, 5353: PortProtocol.MDNS, 5355: PortProtocol.LLMNR}
)
"""Where DNS is by itself: RFC 1035, RFC 6762, RFC 4795."""

MESSAGE_IMAGES: Mapping[str, str] = MappingProxyType({"interface": "tc_monitor", "host": "socket_monitor"})
"""Which image looks for messages, by messages.vantage."""

DNS_PROGRAM = "netmon_dns"
"""The program that pairs queries and answers. It is called for packets of the ports that are set."""

STREAM_PROGRAM = "netmon_stream"
"""The program that tells protocols by their content. It is called where the late constant STREAMS is set."""

HTTP_PROGRAM = "netmon_http"
"""The program that follows HTTP/1. It is called where the late constant HTTP is set, there and where STREAMS is."""

HTTP2_PROGRAM = "netmon_http2"
"""The program that follows HTTP/2, likewise."""

HTTP_CONNECTIONS_MAX = 16384
"""Connections of HTTP/1 that are followed at a time, 3 kB each."""


def ports_value(ports: Mapping[int, PortProtocol]) -> bytes:
    """Gives struct netmon_ports for these ports and what may be on them; port 0 stands for packets without ports."""
    protocols = bytearray(65536)
    bits = 0
    for port, protocol in ports.items():
        if not 0 <= port < 65536 or (port == 0) != (protocol == PortProtocol.NO_PORT):
            raise ValueError(f"{port} is no port that a packet can have")
        protocols[port] = protocol
        bits |= 1 << port % PORT_FILTER_BITS
    # 64-bit words of the host: bit port % 64 of word port / 64 % 8.
    words = (bits >> 64 * word & 0xFFFFFFFFFFFFFFFF for word in range(PORT_FILTER_BITS // 64))
    return struct.pack(f"={PORT_FILTER_BITS // 64}Q", *words) + protocols


def set_message_ports(loaded: LoadedImage, ports: Mapping[int, PortProtocol]) -> None:
    """Lets the programs of an image look into packets of these ports; none: into no packet.

    Raises:
        OSError: the kernel refused the update.
    """
    syscalls.map_update(loaded.maps["message_ports"], bytes(4), ports_value(ports))

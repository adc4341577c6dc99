"""Which side of a flow is the client.

TCP tells it when the handshake was seen: the side that sent SYN without ACK (RFC 9293, 3.5). Otherwise ports do: a port
outside the host's ephemeral range (net.ipv4.ip_local_port_range) serves one inside it, then the lower port serves the
higher. Equal ports (NTP, ICMP, which has none) tell nothing: then the near side of the interface is the client.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.abi.enums import SEQUENCE_CLIENT, SEQUENCE_SERVER, Direction


def source_is_client(
    keys: npt.NDArray[Any], flows: npt.NDArray[Any], ephemeral: tuple[int, int] = (32768, 60999)
) -> npt.NDArray[np.bool_]:
    """Tells for each row whether its source opened the conversation; shape (n,).

    Args:
        keys, flows: rows of flow_table (layout.FLOW_KEY, layout.FLOW).
        ephemeral: the range of local ports, both ends included.
    """
    source = keys["source_port"].astype(np.int32)
    destination = keys["destination_port"].astype(np.int32)
    low, high = ephemeral
    source_ephemeral = (source >= low) & (source <= high)
    destination_ephemeral = (destination >= low) & (destination <= high)
    by_port = np.where(source_ephemeral == destination_ephemeral, source > destination, source_ephemeral)
    result = np.where(source == destination, keys["direction"] == Direction.TRANSMIT, by_port)
    state = flows["sequence_state"]
    result = np.where(state & SEQUENCE_CLIENT, True, result)
    return np.where(state & SEQUENCE_SERVER, False, result)


def ephemeral_ports(path: str = "/proc/sys/net/ipv4/ip_local_port_range") -> tuple[int, int]:
    """Reads the range of local ports of the agent's namespace."""
    with open(path, encoding="ascii") as file:
        low, high = file.read().split()
    return int(low), int(high)

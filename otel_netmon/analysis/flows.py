"""Flow rows to conversations, the identities of netmon.flow.*."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

CONVERSATION = np.dtype(
    [
        ("client", "u1", 16),
        ("server", "u1", 16),
        ("server_port", ">u2"),
        ("protocol", "u1"),
        ("direction", "u1"),
    ]
)
"""A series of netmon.flow.*: both addresses in network order, 36 bytes."""

PACKETS, BYTES = 0, 1
"""Counters of a conversation."""


def conversations(keys: npt.NDArray[Any], client_is_source: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """Gives the CONVERSATION of each row of flow_table; shape (n,)."""
    result = np.empty(len(keys), CONVERSATION)
    side = client_is_source[:, None]
    result["client"] = np.where(side, keys["source"], keys["destination"])
    result["server"] = np.where(side, keys["destination"], keys["source"])
    result["server_port"] = np.where(client_is_source, keys["destination_port"], keys["source_port"])
    result["protocol"] = keys["protocol"]
    result["direction"] = keys["direction"]
    return result

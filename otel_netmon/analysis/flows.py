"""Flow rows to conversations: the largest by bytes in each cycle one by one, the rest exactly in one row a direction."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.abi.enums import Direction
from otel_netmon.analysis.differences import group

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


class Conversation(NamedTuple):
    """One exported conversation in one direction; packets and bytes are cumulative since start_ns (Unix time)."""

    client: bytes
    server: bytes
    server_port: int
    protocol: int
    direction: int
    packets: int
    bytes: int
    start_ns: int
    packets_gained: int
    bytes_gained: int


class Rest(NamedTuple):
    """All conversations of a direction that are not exported one by one, cumulative since start_ns."""

    direction: int
    packets: int
    bytes: int
    start_ns: int


class TopConversations(NamedTuple):
    """One cycle's result: at most top_k conversations, the rest of each direction, and how many conversations there were."""

    conversations: tuple[Conversation, ...]
    rest: tuple[Rest, ...]
    active: int


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


_NEVER = (0, 0, 0, 0)


class FlowRanking:
    """Chooses what is exported and keeps every total.

    A conversation that is exported keeps its own cumulative counters from then on, and every packet of the others goes to
    the rest of its direction: the sum over both gains exactly what was given to ``update``. One that is quiet stays
    until others need its place. One that leaves and comes back begins again at zero, and its start time is that of the
    reading before: nothing of it was counted earlier.

    Args:
        top_k: how many conversations (series) are exported at most.
        start_ns: Unix time at which counting began.
    """

    def __init__(self, top_k: int, start_ns: int) -> None:
        self._top_k = top_k
        self._start_ns = start_ns
        self._read_ns = start_ns
        self._kept: dict[bytes, list[int]] = {}  # packets, bytes, start, last gain
        self._rest = {int(d): [0, 0] for d in Direction}

    def update(
        self,
        rows: npt.NDArray[Any],
        packets: npt.NDArray[np.uint64],
        octets: npt.NDArray[np.uint64],
        unplaced: dict[int, tuple[int, int]],
        now_ns: int,
    ) -> TopConversations:
        """Takes what the rows gained in a cycle.

        Args:
            rows: CONVERSATION of each row, shape (n,), repeated where several rows are one conversation.
            packets, octets: what each row gained, shape (n,).
            unplaced: packets and bytes by direction that were in no flow.
            now_ns: Unix time of the reading.
        """
        gained: dict[bytes, tuple[int, int]] = {}
        if len(rows):
            first, inverse = group(rows)
            sums = np.zeros((2, len(first)), np.uint64)
            np.add.at(sums[0], inverse, packets)
            np.add.at(sums[1], inverse, octets)
            names = rows[first].tobytes()
            size = CONVERSATION.itemsize
            gained = {names[i * size : (i + 1) * size]: (int(sums[0, i]), int(sums[1, i])) for i in range(len(first))}
        for direction, (more_packets, more_bytes) in unplaced.items():
            self._rest[direction][0] += more_packets
            self._rest[direction][1] += more_bytes
        active = len(gained)
        for name in self._kept.keys() - gained.keys():
            gained[name] = (0, 0)
        # Largest first; among equals those exported before, the lately busy first, so that series do not flutter.
        chosen = sorted(gained, key=lambda name: (gained[name][1], self._kept.get(name, _NEVER)[3]), reverse=True)
        del chosen[self._top_k :]
        kept: dict[bytes, list[int]] = {}
        result = []
        for name in chosen:
            counters = self._kept.get(name) or [0, 0, self._read_ns, 0]
            counters[0] += gained[name][0]
            counters[1] += gained[name][1]
            if gained[name][0]:
                counters[3] = now_ns
            kept[name] = counters
            result.append(_conversation(name, counters, gained[name]))
        for name, (more_packets, more_bytes) in gained.items():
            if name not in kept:
                self._rest[name[-1]][0] += more_packets
                self._rest[name[-1]][1] += more_bytes
        self._kept = kept
        self._read_ns = now_ns
        rest = tuple(Rest(d, c[0], c[1], self._start_ns) for d, c in self._rest.items())
        return TopConversations(tuple(result), rest, active)


def _conversation(name: bytes, counters: list[int], gained: tuple[int, int]) -> Conversation:
    return Conversation(
        client=name[:16],
        server=name[16:32],
        server_port=int.from_bytes(name[32:34], "big"),
        protocol=name[34],
        direction=name[35],
        packets=counters[0],
        bytes=counters[1],
        start_ns=counters[2],
        packets_gained=gained[0],
        bytes_gained=gained[1],
    )

"""Exact totals by interface, direction and protocol, and whether they are all that the hook saw."""

from __future__ import annotations

from collections.abc import Mapping, Set as AbstractSet
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.abi.enums import ETHERTYPE_IPV4, ETHERTYPE_IPV6, Kind, hook_slot

_V4_MAPPED = np.frombuffer(b"\0" * 10 + b"\xff\xff", "u1")

COUNTERS = ("packets", "bytes", "extra_packets", "extra_bytes")


class ProtocolKey(NamedTuple):
    """One series of netmon.protocol.*: ethertype is 0 for any other; reason is not 0 for frames that could not be read."""

    namespace: int
    ifindex: int
    direction: int
    ethertype: int
    protocol: int
    reason: int


class Side(NamedTuple):
    """One direction of one interface."""

    namespace: int
    ifindex: int
    direction: int


def is_ipv4(keys: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Tells which rows of flow_table have v4-mapped addresses; shape (n,)."""
    result: npt.NDArray[np.bool_] = (keys["destination"][:, :12] == _V4_MAPPED).all(axis=1)
    return result


class ProtocolTotals:
    """Cumulative counts by ProtocolKey as the interface counts them, and by Side as handed over and on the wire.

    A physical interface counts wire segments; a virtual one counts what crosses it, a GSO or GRO super-packet once.

    Each count is a list: packets, bytes, and the Unix time in ns since which they are counted, the reading before the first.

    Args:
        start_ns: Unix time at which counting began.

    Attributes:
        counted: by ProtocolKey, as the interface counts.
        handed_over: by Side, what the stack handed over: super-packets count once.
        wire: by Side, the segments that super-packets stand for on a wire, each with its headers.
        physical: (namespace, ifindex) of the physical interfaces.
    """

    def __init__(self, start_ns: int) -> None:
        self._read_ns = start_ns
        self.counted: dict[ProtocolKey, list[int]] = {}
        self.handed_over: dict[Side, list[int]] = {}
        self.wire: dict[Side, list[int]] = {}
        self.physical: set[tuple[int, int]] = set()
        self._gone_by_slot: dict[int, int] = {}

    def add_flows(self, keys: npt.NDArray[Any], gains: npt.NDArray[np.uint64]) -> None:
        """Adds what rows of flow_table gained.

        Args:
            keys: layout.FLOW_KEY, shape (n,).
            gains: COUNTERS by row, shape (4, n).
        """
        busy = gains[0] != 0
        if not busy.any():
            return
        keys, gains = keys[busy], gains[:, busy]
        columns = (
            keys["namespace"].astype(np.uint64) << np.uint64(56)
            | keys["direction"].astype(np.uint64) << np.uint64(48)
            | is_ipv4(keys).astype(np.uint64) << np.uint64(40)
            | keys["protocol"].astype(np.uint64) << np.uint64(32)
            | keys["ifindex"].astype(np.uint64)
        )
        unique, inverse = np.unique(columns, return_inverse=True)
        sums = np.zeros((4, len(unique)), np.uint64)
        for counter in range(4):
            np.add.at(sums[counter], inverse, gains[counter])
        for mark, amount in zip(unique.tolist(), sums.T.tolist(), strict=True):
            key = ProtocolKey(
                namespace=mark >> 56,
                ifindex=mark & 0xFFFFFFFF,
                direction=mark >> 48 & 1,
                ethertype=ETHERTYPE_IPV4 if mark >> 40 & 1 else ETHERTYPE_IPV6,
                protocol=mark >> 32 & 0xFF,
                reason=0,
            )
            self._add(key, amount)

    def add_rows(self, keys: npt.NDArray[Any], gains: npt.NDArray[np.uint64]) -> None:
        """Adds what rows of protocol_stats gained (layout.PROTOCOL_KEY), gains as in ``add_flows``."""
        for key, amount in zip(keys.tolist(), gains.T.tolist(), strict=True):
            if amount[0]:
                ifindex, ethertype, reason, protocol, direction, namespace, _ = key
                self._add(ProtocolKey(namespace, ifindex, direction, ethertype, protocol, reason), amount)

    def _add(self, key: ProtocolKey, amount: list[int]) -> None:
        packets, octets, extra_packets, extra_bytes = amount
        side = Side(key.namespace, key.ifindex, key.direction)
        handed = self.handed_over.setdefault(side, [0, 0, self._read_ns])
        handed[0] += packets
        handed[1] += octets
        wire = self.wire.setdefault(side, [0, 0, self._read_ns])
        wire[0] += packets + extra_packets
        wire[1] += octets + extra_bytes
        counted = self.counted.setdefault(key, [0, 0, self._read_ns])
        if key[:2] in self.physical:
            packets, octets = packets + extra_packets, octets + extra_bytes
        counted[0] += packets
        counted[1] += octets

    def end_reading(self, now_ns: int) -> None:
        """Ends a reading at this Unix time: what appears later is counted since then."""
        self._read_ns = now_ns

    def packets_by_slot(self) -> dict[int, int]:
        """Packets as handed over, by index of hook_totals."""
        result = dict(self._gone_by_slot)
        for side, (packets, _, _) in self.handed_over.items():
            slot = hook_slot(side.ifindex, side.namespace, side.direction)
            result[slot] = result.get(slot, 0) + packets
        return result

    def forget(self, gone: AbstractSet[tuple[int, int]]) -> None:
        """Drops interfaces that are gone; what they had seen stays in ``packets_by_slot``."""
        for key in [key for key in self.counted if key[:2] in gone]:
            del self.counted[key]
        for side in [side for side in self.handed_over if side[:2] in gone]:
            slot = hook_slot(side.ifindex, side.namespace, side.direction)
            self._gone_by_slot[slot] = self._gone_by_slot.get(slot, 0) + self.handed_over.pop(side)[0]
            del self.wire[side]
        self.physical -= gone

    def state(self) -> dict[str, Any]:
        """What another process needs to go on: arrays of uint64, one row a key, the key first."""
        return {
            "counted": _rows(self.counted, 9),
            "handed_over": _rows(self.handed_over, 6),
            "wire": _rows(self.wire, 6),
            "gone": np.array(list(self._gone_by_slot.items()), np.uint64).reshape(-1, 2),
            "physical": np.array(sorted(self.physical), np.uint64).reshape(-1, 2),
            "read_ns": self._read_ns,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from ``state``, before the first reading."""
        self.counted = {ProtocolKey(*row[:6]): row[6:] for row in state["counted"].tolist()}
        self.handed_over = {Side(*row[:3]): row[3:] for row in state["handed_over"].tolist()}
        self.wire = {Side(*row[:3]): row[3:] for row in state["wire"].tolist()}
        self._gone_by_slot = dict(state["gone"].tolist())
        self.physical = set(map(tuple, state["physical"].tolist()))
        self._read_ns = int(state["read_ns"])


def _rows(table: Mapping[Any, list[int]], width: int) -> npt.NDArray[np.uint64]:
    return np.array([[*key, *values] for key, values in table.items()], np.uint64).reshape(-1, width)


def unplaced(
    keys: npt.NDArray[Any], gains: npt.NDArray[np.uint64], physical: AbstractSet[tuple[int, int]]
) -> dict[tuple[int, int, int, bool], tuple[int, int]]:
    """Picks from rows of protocol_stats the IP packets that had no place in flow_table.

    Returns:
        packets and bytes as the interface counts them, by (namespace, ifindex, direction, forwarded).
    """
    result: dict[tuple[int, int, int, bool], tuple[int, int]] = {}
    for key, amount in zip(keys.tolist(), gains.T.tolist(), strict=True):
        ifindex, _, _, _, direction, namespace, kind = key
        if amount[0] and kind in (Kind.OVERFLOW, Kind.OVERFLOW_FORWARDED):
            name = (namespace, ifindex, direction, kind == Kind.OVERFLOW_FORWARDED)
            packets, octets = result.get(name, (0, 0))
            more_packets, more_octets = amount[0], amount[1]
            if (namespace, ifindex) in physical:
                more_packets, more_octets = more_packets + amount[2], more_octets + amount[3]
            result[name] = (packets + more_packets, octets + more_octets)
    return result


class Conservation:
    """Checks promise P2 at every reading: rows + overflow = all that the hook saw.

    hook_totals is written after the rows, so what it holds before the rows are read must be in them: anything missing is
    a loss, not a packet on its way.
    """

    def __init__(self) -> None:
        self._base: dict[int, int] | None = None
        self._missing: dict[int, int] = {}
        self.attributed = 0
        self.missing = 0

    def check(self, totals_before: dict[int, int], attributed: dict[int, int]) -> None:
        """Compares packets by slot of hook_totals with what the rows gave; both cumulative."""
        if self._base is None:
            self._base = {slot: totals_before[slot] - attributed.get(slot, 0) for slot in totals_before}
        for slot, total in totals_before.items():
            self._base.setdefault(slot, 0)
            expected = total - max(self._base[slot], 0)
            self._missing[slot] = max(self._missing.get(slot, 0), expected - attributed.get(slot, 0))
        self.missing = sum(self._missing.values())
        self.attributed = sum(attributed.values())

    def state(self) -> dict[str, Any]:
        """What another process needs to go on: arrays of int64, slot and count."""
        base = list((self._base or {}).items())
        return {
            "begun": self._base is not None,
            "base": np.array(base, np.int64).reshape(-1, 2),
            "missing": np.array(list(self._missing.items()), np.int64).reshape(-1, 2),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from ``state``, before the first check."""
        self._base = dict(state["base"].tolist()) if state["begun"] else None
        self._missing = dict(state["missing"].tolist())

"""TCP connections: what they gained since they were last told, from the rows of those that live and the records of those that ended."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.abi.enums import ConnectionFlags, Ending, Retransmit, Role
from otel_netmon.abi.layout import CONNECTION
from otel_netmon.analysis.told import Told

RTT_BUCKETS = CONNECTION["rtt_buckets"].shape[0]


class Counter(enum.IntEnum):
    """Rows of ``Gains.counters``; the retransmits are Retransmit.NUMBER rows, the buckets of the round-trip times the last ones."""

    BYTES_RECEIVED = 0
    BYTES_SENT = 1
    RTT_SUM_US = 2
    DATA_RECEIVED = 3
    DATA_SENT = 4
    RTT_COUNT = 5
    ZERO_WINDOWS_RECEIVED = 6
    ZERO_WINDOWS_SENT = 7
    OUT_OF_ORDER = 8
    RESETS_RECEIVED = 9
    RESETS_SENT = 10
    RETRANSMITS = 11
    RTT_BUCKETS = 11 + Retransmit.NUMBER


COUNTERS = Counter.RTT_BUCKETS + RTT_BUCKETS

_LARGE = {Counter.BYTES_RECEIVED: "bytes_received", Counter.BYTES_SENT: "bytes_sent", Counter.RTT_SUM_US: "rtt_sum_us"}
_SMALL = {
    Counter.DATA_RECEIVED: "data_received",
    Counter.DATA_SENT: "data_sent",
    Counter.RTT_COUNT: "rtt_count",
    Counter.ZERO_WINDOWS_RECEIVED: "zero_windows_received",
    Counter.ZERO_WINDOWS_SENT: "zero_windows_sent",
    Counter.OUT_OF_ORDER: "out_of_order",
    Counter.RESETS_RECEIVED: "reset_received",
    Counter.RESETS_SENT: "reset_sent",
}
_WORDS = len(_SMALL) + Retransmit.NUMBER + RTT_BUCKETS
_TOLD = np.dtype([("cookie", "<u8"), ("octets", "<u8", len(_LARGE)), ("words", "<u4", _WORDS), ("handshake", "?")])
_NEVER_ESTABLISHED = int(Ending.REFUSED)

OUTCOMES = (
    None,
    "refused",
    "timed_out",
    "host_unreachable",
    "net_unreachable",
    "not_sent",
    "cancelled",
    "_OTHER",
)
"""error.type of a handshake by its number in ``Gains.outcomes``, None for one that succeeded."""

ENDS = (None, "reset", "timed_out")
"""error.type of a connection that was established by its number in ``Gains.ends``, None for an orderly end."""

_OUTCOME = np.zeros(Ending.NUMBER, np.int8)
_OUTCOME[Ending.REFUSED] = OUTCOMES.index("refused")
_OUTCOME[Ending.CONNECT_TIMED_OUT] = OUTCOMES.index("timed_out")
_OUTCOME[Ending.HOST_UNREACHABLE] = OUTCOMES.index("host_unreachable")
_OUTCOME[Ending.NET_UNREACHABLE] = OUTCOMES.index("net_unreachable")
_OUTCOME[Ending.NOT_SENT] = OUTCOMES.index("not_sent")
_OUTCOME[Ending.ABANDONED] = OUTCOMES.index("cancelled")
_OUTCOME[Ending.CONNECT_UNKNOWN] = OUTCOMES.index("_OTHER")

_END = np.zeros(Ending.NUMBER, np.int8)
_END[[Ending.RESET_LOCAL, Ending.RESET_REMOTE]] = ENDS.index("reset")
_END[Ending.TIMED_OUT] = ENDS.index("timed_out")


def error_type(ending: Ending) -> str | None:
    """error.type of a connection that ended so; None for an orderly end."""
    return OUTCOMES[_OUTCOME[ending]] if ending >= Ending.REFUSED else ENDS[_END[ending]]


class Gains(NamedTuple):
    """What n connections gained. Columns of length n.

    Attributes:
        rows: layout.CONNECTION, as they are now.
        counters: uint64, shape (COUNTERS, n), by ``Counter``.
        outcomes: int8, number in OUTCOMES of a handshake that ended in this gain, -1 where none did.
        handshake_ns: int64, how long it took.
        ends: int8, number in ENDS of a connection that ended in this gain after it was established, -1 for others.
        lifetime_ns: int64, how long it was established.
    """

    rows: npt.NDArray[Any]
    counters: npt.NDArray[np.uint64]
    outcomes: npt.NDArray[np.int8]
    handshake_ns: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int8]
    lifetime_ns: npt.NDArray[np.int64]

    def where(self, chosen: npt.NDArray[np.bool_]) -> Gains:
        """Those that a mask chooses."""
        return Gains(
            self.rows[chosen],
            self.counters[:, chosen],
            self.outcomes[chosen],
            self.handshake_ns[chosen],
            self.ends[chosen],
            self.lifetime_ns[chosen],
        )


class Connections:
    """The connections of the kernel's table over time.

    A connection is told as it goes: bytes and the like at each reading, its handshake at the first reading after it, the rest and
    its duration when it ends. One that begins and ends between two readings is told at once. Those that are older than the agent
    have no handshake and no duration.
    """

    def __init__(self) -> None:
        self._told = Told(_TOLD)

    def __len__(self) -> int:
        return len(self._told)

    def ended(self, rows: npt.NDArray[Any]) -> Gains:
        """Takes records of connections that ended, layout.CONNECTION, shape (n,)."""
        return _gains(rows, _counted(rows), self._told.take(rows["cookie"]))

    def living(self, rows: npt.NDArray[Any]) -> Gains:
        """Takes the whole table, layout.CONNECTION, without the rows that wait to be deleted; gives those that gained something.

        A row that is being made, or whose record is on its way, counts with the next reading or with its record.
        """
        rows = rows[(rows["state"] != 0) & (rows["role"] != Role.LISTENER) & (rows["ending"] == Ending.NONE)]
        counted = _counted(rows)
        before = self._told.before(rows["cookie"])
        gains = _gains(rows, counted, before)
        counted["handshake"] = before["handshake"] | (gains.outcomes >= 0)
        self._told.replace(counted)
        return gains.where(gains.counters.any(axis=0) | (gains.outcomes >= 0))

    def begin(self, rows: npt.NDArray[Any]) -> None:
        """Takes rows of which what they have does not count; only what they gain from here on."""
        counted = _counted(rows)
        counted["handshake"] = True
        self._told.add(counted)

    def state(self) -> dict[str, Any]:
        """What another process needs to go on."""
        return self._told.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on where another process was, before the first reading."""
        self._told.restore(state)


def _counted(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """What is kept of rows until the next reading."""
    counted = np.zeros(len(rows), _TOLD)
    counted["cookie"] = rows["cookie"]
    for place, name in enumerate(_LARGE.values()):
        counted["octets"][:, place] = rows[name]
    words = counted["words"]
    for place, name in enumerate(_SMALL.values()):
        words[:, place] = rows[name]
    words[:, len(_SMALL) : len(_SMALL) + Retransmit.NUMBER] = rows["retransmits"]
    words[:, len(_SMALL) + Retransmit.NUMBER :] = rows["rtt_buckets"]
    return counted


def _gains(rows: npt.NDArray[Any], counted: npt.NDArray[Any], before: npt.NDArray[Any]) -> Gains:
    counters = np.empty((COUNTERS, len(rows)), np.uint64)
    counters[list(_LARGE)] = (counted["octets"] - before["octets"]).T
    words = (counted["words"] - before["words"]).T  # modulo 2^32, as the kernel counts
    counters[list(_SMALL)] = words[: len(_SMALL)]
    counters[Counter.RETRANSMITS :] = words[len(_SMALL) :]
    adopted = rows["flags"] & int(ConnectionFlags.ADOPTED) != 0
    established = (rows["established_ns"] != 0) | adopted
    counters[[Counter.RESETS_RECEIVED, Counter.RESETS_SENT]] *= established  # one that answers a SYN refuses it
    ending = rows["ending"]
    failed = ~established & (ending >= _NEVER_ESTABLISHED)
    opened = (rows["established_ns"] != 0) & ~adopted
    outcomes = np.where((opened | failed) & ~before["handshake"], _OUTCOME[ending], np.int8(-1)).astype(np.int8)
    over = opened & (ending != Ending.NONE)
    begin, middle, end = (rows[name].astype(np.int64) for name in ("begin_ns", "established_ns", "end_ns"))
    measured = rows["handshake_ns"].astype(np.int64)
    return Gains(
        rows=rows,
        counters=counters,
        outcomes=outcomes,
        handshake_ns=np.maximum(np.where(failed, end - begin, np.where(measured, measured, middle - begin)), 0),
        ends=np.where(over, _END[ending], np.int8(-1)).astype(np.int8),
        lifetime_ns=np.maximum(end - middle, 0),
    )

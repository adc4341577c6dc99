"""Answers over UDP that the kernel has paired, as columns: almost every lookup, and most of them are alike.

Messages differ in little but their ids. So what stands behind the id is read once for as long as it is known, and what all
lookups are asked for are columns; one of them becomes a ``Lookup`` only where somebody needs it whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.abi.enums import NAMESPACE_SOCKET
from otel_netmon.analysis.differences import group
from otel_netmon.analysis.dns_lookups import Lookup, answered, label_number, question_number, seen_at
from otel_netmon.decode import dns_numbers as numbers
from otel_netmon.decode.dns import Fault, Message, decode
from otel_netmon.readers.messages import Head, Messages, read_head

ALIKE = np.dtype(
    [
        ("question", "<u8"),
        ("label", "<u8"),
        ("question_type", "<u2"),
        ("code", "<u2"),
        ("opcode", "u1"),
        ("readable", "?"),
        ("negative", "?"),
        ("truncated", "?"),
        ("learnable", "?"),
    ]
)
"""What is known of a message behind its id: the numbers of its first question and of the first label of its name
(``label_number``); the response code, extended; whether it could be read; whether it says that there is no such name or
nothing of this type; whether it was truncated; whether it gives answers to learn from."""

_ID_OCTETS = 2
_MESSAGES_MAX = 2048
_OCTETS_MAX = 1 << 18
"""What is known is forgotten, between two drains of the ring, when it is more than this."""

_SIDE = np.dtype([("namespace", "<u4"), ("ifindex", "<u4"), ("direction", "<u4"), ("ingress_ifindex", "<u4")])
_UNREADABLE = (0, 0, 0, 0, 0, False, False, False, False)

EdgeCounts = Callable[[int, int, int, int], bool]
"""Whether the edge rule counts a packet: namespace, ifindex, direction, ingress_ifindex (0041-edge-rule)."""


class Alike:
    """The distinct messages of late, each known by its place.

    Attributes:
        messages: what was read of each, or why it could not be.
        columns: ALIKE, one row each.
    """

    def __init__(self) -> None:
        self.messages: list[Message | Fault] = []
        self.columns = np.empty(0, ALIKE)
        self._places: dict[bytes | tuple[bytes, int], int] = {}
        self._octets = 0

    @property
    def is_full(self) -> bool:
        """Whether it is time to begin anew: with the next messages there is another one."""
        return len(self.messages) > _MESSAGES_MAX or self._octets > _OCTETS_MAX

    def find(self, messages: Messages) -> npt.NDArray[np.intp]:
        """Gives the places of the messages of records; those that are new get one."""
        heads, data, starts = messages
        captured = heads["captured_length"].astype(np.int64)
        begins, ends = (starts + _ID_OCTETS).tolist(), (starts + captured).tolist()
        keys: list[bytes | tuple[bytes, int]] = [data[a:b] for a, b in zip(begins, ends, strict=True)]
        for index in np.flatnonzero(heads["payload_length"] > captured).tolist():
            keys[index] = data[begins[index] : ends[index]], int(heads["payload_length"][index])
        places = self._places
        found = list(map(places.get, keys))
        if None in found:
            known = len(self.messages)
            for index, place in enumerate(found):
                if place is None:
                    key = keys[index]
                    found[index] = places[key] if key in places else self._add(key)
            rows = [_row(message) for message in self.messages[known:]]
            self.columns = np.concatenate([self.columns, np.array(rows, ALIKE)])
        return np.array(found, np.intp)

    def _add(self, key: bytes | tuple[bytes, int]) -> int:
        octets, length = key if isinstance(key, tuple) else (key, len(key) + _ID_OCTETS)
        place = self._places[key] = len(self.messages)
        self.messages.append(decode(b"\0\0" + octets, length))
        self._octets += len(octets)
        return place


def _row(message: Message | Fault) -> tuple[int, ...]:
    if isinstance(message, str):
        return _UNREADABLE
    question = message.questions[0] if message.questions else None
    return (
        question_number(message.questions),
        label_number(question.name) if question is not None else 0,
        question.type if question is not None else 0,
        message.rcode,
        message.opcode,
        True,
        message.rcode == numbers.NXDOMAIN or (message.rcode == numbers.NOERROR and not message.answer_count),
        message.is_truncated,
        message.rcode == numbers.NOERROR and bool(message.answers),
    )


class AnsweredLookups(NamedTuple):
    """n lookups over UDP that were answered, in the order of the answers.

    Attributes:
        heads: layout.MESSAGE, of the answers.
        places: intp, of their messages in `alike`.
        starts, data: as in ``Messages``.
    """

    heads: npt.NDArray[Any]
    places: npt.NDArray[np.intp]
    starts: npt.NDArray[np.int64]
    data: bytes
    alike: Alike

    @property
    def number(self) -> int:
        """How many there are."""
        return len(self.places)

    @property
    def durations_ns(self) -> npt.NDArray[np.int64]:
        """From the first copy of each query to its answer."""
        difference: npt.NDArray[np.int64] = (self.heads["time_ns"] - self.heads["first_request_time_ns"]).view(np.int64)
        return difference

    @property
    def ids(self) -> npt.NDArray[np.uint32]:
        """Of their headers."""
        octets = np.frombuffer(self.data, np.uint8)
        ids: npt.NDArray[np.uint32] = octets[self.starts].astype(np.uint32) << np.uint32(8)
        ids |= octets[self.starts + 1]
        return ids

    def column(self, name: str) -> npt.NDArray[Any]:
        """A column of ALIKE for each."""
        column: npt.NDArray[Any] = self.alike.columns[name][self.places]
        return column

    def where(self, which: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> AnsweredLookups:
        """Some of them, by a mask or by their indexes."""
        if which.dtype == np.bool_ and which.all():
            return self
        return self._replace(heads=self.heads[which], places=self.places[which], starts=self.starts[which])

    def message(self, index: int) -> Message:
        """The message of one, but for its id."""
        message = self.alike.messages[self.places[index]]
        if not isinstance(message, Message):
            raise TypeError(f"the message of lookup {index} could not be read: {message}")
        return message

    def head(self, index: int) -> Head:
        """The head of the record of one."""
        return read_head(self.data, int(self.starts[index]))

    def identifier(self, index: int) -> int:
        """The id of one."""
        start = int(self.starts[index])
        return int.from_bytes(self.data[start : start + _ID_OCTETS], "big")

    def lookup(self, index: int) -> Lookup:
        """Gives one of them whole."""
        head = self.head(index)
        ends = seen_at(head).ends(is_response=True)
        message = self.message(index)._replace(id=self.identifier(index))
        first_ns = head.first_request_time_ns
        return answered("dns", "udp", ends, head.cgroup, message, first_ns, head.time_ns, head.retries)


def counted(heads: npt.NDArray[Any], counts: EdgeCounts) -> npt.NDArray[np.bool_]:
    """Asks the edge rule about the packets of heads, once for all that are alike; shape (n,)."""
    sides = np.empty(len(heads), _SIDE)
    for field in sides.dtype.names or ():
        sides[field] = heads[field]
    sides["ifindex"][heads["namespace"] == NAMESPACE_SOCKET] = 0  # sockets are all alike
    if not len(sides):
        return np.empty(0, np.bool_)
    if (sides == sides[0]).all():
        return np.full(len(sides), counts(*sides[0].tolist()), np.bool_)
    first, inverse = group(sides)
    return np.array([counts(*side) for side in sides[first].tolist()], np.bool_)[inverse]

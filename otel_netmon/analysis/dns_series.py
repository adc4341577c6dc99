"""Lookups to series of dns.lookup.duration: which names have one of their own, and the distribution of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.differences import group
from otel_netmon.analysis.dns_answers import Alike, AnsweredLookups
from otel_netmon.analysis.dns_lookups import Lookup, question_name
from otel_netmon.analysis.dns_names import NameFolding
from otel_netmon.analysis.name_table import name_number
from otel_netmon.analysis.series_family import DistributionSeries

SERIES = np.dtype(
    [
        ("server", "u1", 16),
        ("name", "<u8"),
        ("question_type", "<u2"),
        ("response_code", "<u2"),
        ("transport", "u1"),
        ("protocol", "u1"),
        ("reserved", "<u2"),
    ]
)
"""The identity of a series: the name by its number (``name_number``), response_code NO_RESPONSE for a timeout."""

NO_RESPONSE = 0xFFFF
TRANSPORTS = ("udp", "tcp")
PROTOCOLS = ("dns", "mdns", "llmnr")
_ATTRIBUTES = {
    "name": "dns.question.name",
    "question_type": "netmon.dns.question.type",
    "response_code": "netmon.dns.response.code",
    "server": "server.address",
}
_NOBODY = bytes(16)
_NAMES_MAX = 1 << 13
"""Names known in one cycle, with and without a series."""


class DnsSeries(DistributionSeries):
    """Keeps the series of lookups.

    A lookup that was not answered counts with the time after which it was given up. Responses without a query are no
    lookups and are not given.

    Args:
        folding: of the names.
        bounds: upper bounds of the explicit buckets in seconds.
        start_ns: Unix time at which counting began.
        idle_ns: a series without a lookup for so long ends.
        timeout_seconds: see above.
    """

    def __init__(
        self, folding: NameFolding, bounds: Sequence[float], start_ns: int, idle_ns: int, timeout_seconds: float
    ) -> None:
        super().__init__("dns", SERIES, _ATTRIBUTES, {"durations": bounds}, {}, start_ns, idle_ns)
        self._folding = folding
        self._timeout = timeout_seconds
        self._known: dict[int, str] = {}
        self._numbers: dict[str, int] = {}
        self._alike: Alike | None = None
        self._alike_numbers = np.empty(0, np.uint64)  # of the names, by the places of these

    def end_cycle(self, told: Mapping[str, Iterable[int]] | None = None) -> None:
        """Ends a cycle, whose reading was taken, and makes room."""
        super().end_cycle(told)
        self._forget_names()

    def add(self, answered: AnsweredLookups, others: Sequence[Lookup], now_ns: int) -> npt.NDArray[np.intp]:
        """Counts lookups; gives the row of each in the distributions, the others last, for exemplars."""
        keys = np.zeros(answered.number + len(others), SERIES)
        if not len(keys):
            return np.empty(0, np.intp)
        if len(self._known) > _NAMES_MAX:
            self._forget_names()
        seconds = np.empty(len(keys))
        self._identify(answered, keys[: answered.number])
        seconds[: answered.number] = answered.durations_ns / 1e9
        for at, lookup in enumerate(others, answered.number):
            keys[at] = self._identity(lookup)
            seconds[at] = self._timeout if lookup.duration_ns is None else lookup.duration_ns / 1e9
        first, inverse = group(keys)
        for number, at in zip(keys["name"][first].tolist(), first.tolist(), strict=True):
            if number not in self._known:
                self._number(_name(answered, others, at))
        return self._count_groups(keys[first], inverse, seconds, now_ns)

    def state(self) -> dict[str, dict[str, Any]]:
        """What another process needs to go on."""
        numbers = np.array(list(self._known), np.uint64)
        names = "\n".join(self._known.values()).encode(errors="surrogateescape")
        return {**super().state(), "dns.names": {"numbers": numbers, "names": names}}

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Goes on where another process was, before the first lookup."""
        super().restore(state)
        names = state["dns.names"]["names"].decode(errors="surrogateescape").split("\n")
        self._known = dict(zip(state["dns.names"]["numbers"].tolist(), names, strict=False))
        self._numbers = {name: number for number, name in self._known.items()}

    def _texts(self) -> dict[str, Mapping[int, str]]:
        return {"name": self._known}

    def _identify(self, answered: AnsweredLookups, keys: npt.NDArray[Any]) -> None:
        """Writes the identities of the series of lookups."""
        alike = answered.alike
        if alike is not self._alike:
            self._alike, self._alike_numbers = alike, np.empty(0, np.uint64)
        new = alike.messages[len(self._alike_numbers) :]
        if new:
            numbers = [0 if isinstance(each, str) else self._number(question_name(each.questions)) for each in new]
            self._alike_numbers = np.concatenate([self._alike_numbers, np.array(numbers, np.uint64)])
        keys["server"] = answered.heads["source"]
        keys["name"] = self._alike_numbers[answered.places]
        if alike.is_full:  # nobody will see it again
            self._alike, self._alike_numbers = None, np.empty(0, np.uint64)
        keys["question_type"] = answered.column("question_type")
        keys["response_code"] = answered.column("code")
        keys["transport"], keys["protocol"] = TRANSPORTS.index("udp"), PROTOCOLS.index("dns")

    def _identity(self, lookup: Lookup) -> tuple[Any, ...]:
        return (
            np.frombuffer(lookup.server[:16] or _NOBODY, np.uint8),
            self._number(lookup.name),
            lookup.questions[0].type if lookup.questions else 0,
            NO_RESPONSE if lookup.rcode is None else lookup.rcode,
            TRANSPORTS.index(lookup.transport),
            PROTOCOLS.index(lookup.protocol),
            0,
        )

    def _number(self, name: str) -> int:
        """The number of a name, folded, which is then known by it."""
        folded = self._folding.fold(name)
        number = self._numbers.get(folded)
        if number is None:
            number = self._numbers[folded] = name_number(folded)
            self._known[number] = folded
        return number

    def _forget_names(self) -> None:
        """Keeps the names of series alone: those of the rest are as many as anybody likes."""
        live = set(self._table.reading().keys["name"].tolist())
        self._known = {number: name for number, name in self._known.items() if number in live}
        self._numbers = {name: number for number, name in self._known.items()}


def _name(answered: AnsweredLookups, others: Sequence[Lookup], at: int) -> str:
    """The name that was asked for by one of these, the others last."""
    if at < answered.number:
        return question_name(answered.message(at).questions)
    return others[at - answered.number].name

"""Lookups to series of dns.lookup.duration: which names have one of their own, and the distribution of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.cardinality import Cardinality, hash_column
from otel_netmon.analysis.differences import group
from otel_netmon.analysis.dns_answers import Alike, AnsweredLookups
from otel_netmon.analysis.dns_lookups import Lookup, question_name
from otel_netmon.analysis.dns_names import NameFolding
from otel_netmon.analysis.histograms import HistogramColumns, HistogramReading
from otel_netmon.analysis.lasting import LastingSeries
from otel_netmon.analysis.series import SeriesReading

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
ATTRIBUTES = ("dns.question.name", "netmon.dns.question.type", "netmon.dns.response.code", "server.address")
_FIELDS = ("name", "question_type", "response_code", "server")
_NOBODY = bytes(16)
_NAMES_MAX = 1 << 14
"""Names known in one cycle, with and without a series."""


class LookupSeries(NamedTuple):
    """One cycle's series: identities, names by number, and the distributions, that of the rest first."""

    series: SeriesReading
    names: Mapping[int, str]
    durations: HistogramReading


def name_number(name: str) -> int:
    """64 bits that stand for a name, the same in every process."""
    return int.from_bytes(blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest(), "little")


class DnsSeries:
    """Keeps the series of lookups.

    Within a cycle many drains of the ring are counted, and none of it is told before its end: see ``LastingSeries``.

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
        self._folding = folding
        self._timeout = timeout_seconds
        self._table = LastingSeries(SERIES, 1, 1, 0, start_ns, idle_ns)
        self._durations = HistogramColumns(1, bounds)
        self._names: dict[int, str] = {}
        self._numbers: dict[str, int] = {}
        self._alike: Alike | None = None
        self._alike_numbers = np.empty(0, np.uint64)  # of the names, by the places of these
        self._cardinality = Cardinality(ATTRIBUTES)
        self._estimated = np.empty(0, np.bool_)  # by slot: whether the set was counted in this cycle
        self._now_ns = start_ns

    def set_limit(self, limit: int) -> None:
        """Lets there be so many series; where there are more, they leave at the end of the cycle."""
        self._table.limit = limit

    def end_cycle(self) -> None:
        """Ends a cycle, whose reading was taken, and makes room."""
        self._table.end_cycle()
        self._estimated[:] = False
        self._forget_names()

    def add(self, answered: AnsweredLookups, others: Sequence[Lookup], now_ns: int) -> npt.NDArray[np.intp]:
        """Counts lookups; gives the row of each in the distributions, the others last, for exemplars."""
        self._now_ns = now_ns
        keys = np.zeros(answered.number + len(others), SERIES)
        if not len(keys):
            return np.empty(0, np.intp)
        if len(self._names) > _NAMES_MAX:
            self._forget_names()
        seconds = np.empty(len(keys))
        self._identify(answered, keys[: answered.number])
        seconds[: answered.number] = answered.durations_ns / 1e9
        for at, lookup in enumerate(others, answered.number):
            keys[at] = self._identity(lookup)
            seconds[at] = self._timeout if lookup.duration_ns is None else lookup.duration_ns / 1e9
        first, inverse = group(keys)
        kinds = keys[first]
        for number, at in zip(kinds["name"].tolist(), first.tolist(), strict=True):
            if number not in self._names:
                self._number(_name(answered, others, at))
        many = np.bincount(inverse).astype(np.uint64)
        placement = self._table.update(kinds, many[None, :], 0, np.zeros(len(kinds), np.intp), now_ns)
        slots = placement.slots + 1
        self._durations.grow(int(max(slots.max(), placement.fresh.max(initial=-1) + 1)) + 1)
        self._durations.reset(placement.fresh + 1)
        self._estimated[placement.fresh[placement.fresh < len(self._estimated)]] = False
        rows: npt.NDArray[np.intp] = slots[inverse]
        self._durations.add(rows, seconds)
        self._estimate(kinds, placement.slots, now_ns)
        return rows

    def _estimate(self, kinds: npt.NDArray[Any], slots: npt.NDArray[np.intp], now_ns: int) -> None:
        """Has the sets counted, those with a series once a cycle."""
        known = np.zeros(len(self._durations), np.bool_)
        known[: len(self._estimated)] = self._estimated
        self._estimated = known
        new = np.flatnonzero((slots < 0) | ~known[slots])
        if len(new):
            known[slots[new][slots[new] >= 0]] = True
            seed = self._cardinality.seed
            columns = zip(ATTRIBUTES, _FIELDS, strict=True)
            self._cardinality.add_sets({key: hash_column(kinds[field][new], seed) for key, field in columns}, now_ns)

    def offer_exemplars(
        self,
        rows: npt.NDArray[np.intp],
        seconds: npt.NDArray[np.float64],
        times_ns: npt.NDArray[np.uint64],
        trace_ids: npt.NDArray[np.uint8],
        span_ids: npt.NDArray[np.uint8],
    ) -> None:
        """Takes spans that were kept as examples of their distributions, see ``HistogramColumns.offer_exemplars``."""
        self._durations.offer_exemplars(rows, seconds, times_ns, trace_ids, span_ids)

    def reading(self) -> LookupSeries:
        """The series as they stand."""
        series = self._table.reading()
        rows = np.concatenate([np.zeros(1, np.intp), series.slots + 1])
        return LookupSeries(series, self._names, self._durations.read(rows))

    def distinct(self) -> dict[str, float]:
        """Estimates: distinct values by attribute, and distinct sets as WHOLE_SET, of the last ten to twenty minutes."""
        return self._cardinality.estimate(self._now_ns)

    @property
    def folded(self) -> int:
        """Sets of the last cycle that had no series of their own, 32,768 at most."""
        return self._table.folded

    def __len__(self) -> int:
        return len(self._table)

    def state(self) -> dict[str, dict[str, Any]]:
        """What another process needs to go on."""
        numbers = np.array(list(self._names), np.uint64)
        names = "\n".join(self._names.values()).encode(errors="surrogateescape")
        return {
            "dns.series": self._table.state(),
            "dns.names": {"numbers": numbers, "names": names},
            "dns.durations": self._durations.state(),
        }

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Goes on where another process was, before the first lookup."""
        names = state["dns.names"]["names"].decode(errors="surrogateescape").split("\n")
        self._names = dict(zip(state["dns.names"]["numbers"].tolist(), names, strict=False))
        self._numbers = {name: number for number, name in self._names.items()}
        self._table.limit = len(state["dns.series"]["keys"])
        self._table.restore(state["dns.series"])
        self._durations.restore(state["dns.durations"])

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
            self._names[number] = folded
        return number

    def _forget_names(self) -> None:
        """Keeps the names of series alone: those of the rest are as many as anybody likes."""
        live = set(self._table.reading().keys["name"].tolist())
        self._names = {number: name for number, name in self._names.items() if number in live}
        self._numbers = {name: number for number, name in self._names.items()}


def _name(answered: AnsweredLookups, others: Sequence[Lookup], at: int) -> str:
    """The name that was asked for by one of these, the others last."""
    if at < answered.number:
        return question_name(answered.message(at).questions)
    return others[at - answered.number].name

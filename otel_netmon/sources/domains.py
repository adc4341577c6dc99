"""Traffic by the name that the client was told for the address: flows, connections and DNS answers -> netmon.domain.*."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.abi.enums import Direction, Role
from otel_netmon.abi.layout import CONNECTION
from otel_netmon.analysis.connection_index import ENDS
from otel_netmon.analysis.dns_names import NameFolding
from otel_netmon.analysis.domain_answers import Cgroups
from otel_netmon.analysis.domain_table import WHOM
from otel_netmon.analysis.domains import DomainCache
from otel_netmon.analysis.flows import BYTES
from otel_netmon.analysis.name_table import name_number
from otel_netmon.analysis.series import CounterSeries
from otel_netmon.analysis.traffic import Gained
from otel_netmon.otel.attributes import Tag, encode_one
from otel_netmon.otel.flows import DIRECTIONS
from otel_netmon.otel.points import NumberSeries, Points
from otel_netmon.otel.series import Diversity
from otel_netmon.otel.series_sets import OVERFLOW, SeriesSets
from otel_netmon.otel.spans import SpanBatch
from otel_netmon.selfmon.status import StageStatus
from otel_netmon.sources.connections import ConnectionSpans

SEVERAL = "(several)"
"""Told in place of a name where the address had several that fold to no common one."""

DOMAIN = np.dtype([("name", "<u8"), ("direction", "<u4")])
"""The identity of a series: the name by its number."""

_OCTETS, _CONNECTIONS = 0, 1


class DomainSource:
    """Adds up what flows gained, by domain and direction. Flows to addresses without a name are not in it.

    A connection counts once, with the packets of the client, in the cycle in which it began. A flow has the name that was told
    to the cgroup of its connection or UDP socket where that is known, see ``DomainCache.match``.

    Args:
        cache: the names behind addresses.
        cgroups: who knows the cgroups of clients; None where nobody does.
        folding: of the names.
        start_ns: Unix time at which counting began.
        idle_ns: a series without traffic for so long ends.
    """

    def __init__(
        self, cache: DomainCache, cgroups: Cgroups | None, folding: NameFolding, start_ns: int, idle_ns: int
    ) -> None:
        self._cache = cache
        self._cgroups = cgroups
        if cgroups is not None:
            cache.set_cgroups(cgroups)
        self._folding = folding
        self._series = CounterSeries(DOMAIN, 2, len(Direction), 0, start_ns, idle_ns)
        self._names: dict[int, str] = {}
        self._sets = SeriesSets(*({**OVERFLOW, "network.io.direction": name} for _, name in sorted(DIRECTIONS.items())))
        self._read_ns = 0

    def read(self, gained: Gained, monotonic_ns: int, limit: int, now_ns: int) -> None:
        """Takes the rows of a reading of flow_table.

        Args:
            monotonic_ns: the clock of the rows at the reading.
            limit: domains by direction with a series of their own.
            now_ns: Unix time of the reading.
        """
        self._series.limit = limit
        self._series.begin_cycle()
        which = np.flatnonzero(self._cache.knows(gained.conversations["server"]))
        if len(which):
            conversations = gained.conversations[which]
            found = self._cache.match(self._asked(gained, which), gained.first_ns[which], monotonic_ns)
            named = np.flatnonzero(found.places >= 0)
            of = which[named]
            began = (gained.first_ns[of] > np.uint64(self._read_ns)) & gained.by_client[of]
            counters = np.stack([gained.counters[BYTES, of], began.astype(np.uint64)])
            self._add(found.names, found.places[named], conversations["direction"][named], counters, now_ns)
        self._read_ns = monotonic_ns

    def named(self, spans: Sequence[ConnectionSpans], now_ns: int) -> list[SpanBatch]:
        """Gives the spans with the domain behind the address that a connection was made to, where it is known.

        Args:
            spans: of connections that ended, once connections were read.
            now_ns: CLOCK_MONOTONIC.
        """
        if not spans:
            return []
        rows = np.concatenate([each.rows for each in spans], dtype=CONNECTION)
        asked = np.zeros(len(rows), WHOM)
        asked["client"], asked["cgroup"], asked["server"] = rows["local"], rows["cgroup"], rows["remote"]
        found = self._cache.match(asked, rows["begin_ns"], now_ns)
        texts = [encode_one("netmon.domain", self._domain(names), Tag.SPAN) for names in found.names] + [b""]
        more = [texts[place] for place in np.where(rows["role"] == Role.CLIENT, found.places, -1).tolist()]
        made = []
        begin = 0
        for batch, own in spans:
            end = begin + len(own)
            attributes = [have + new for have, new in zip(batch.attributes, more[begin:end], strict=True)]
            made.append(replace(batch, attributes=attributes))
            begin = end
        return made

    def end_reading(self, now_ns: int) -> None:
        """Forgets names that nobody can ask for any more; CLOCK_MONOTONIC."""
        self._cache.expire(now_ns)

    def _asked(self, gained: Gained, which: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        """WHOM of some flows."""
        conversations = gained.conversations[which]
        asked = np.zeros(len(which), WHOM)
        asked["client"], asked["server"] = conversations["client"], conversations["server"]
        if self._cgroups is not None:
            ends = np.zeros(len(which), ENDS)
            ends["local"], ends["remote"] = conversations["client"], conversations["server"]
            ends["local_port"], ends["remote_port"] = gained.client_ports[which], conversations["server_port"]
            ends["protocol"] = conversations["protocol"]
            asked["cgroup"] = self._cgroups(ends, gained.first_ns[which].astype(np.int64))
        return asked

    def _domain(self, names: tuple[str, ...]) -> str:
        return self._folding.common(names) or SEVERAL

    def _add(
        self,
        names: Sequence[tuple[str, ...]],
        places: npt.NDArray[np.intp],
        directions: npt.NDArray[np.uint8],
        counters: npt.NDArray[np.uint64],
        now_ns: int,
    ) -> None:
        numbers = np.empty(len(names), np.uint64)
        for place, several in enumerate(names):
            name = self._domain(several)
            numbers[place] = number = name_number(name)
            self._names[number] = name
        keys = np.zeros(len(places), DOMAIN)
        keys["name"], keys["direction"] = numbers[places], directions
        self._series.update(keys, counters, _OCTETS, directions.astype(np.intp), now_ns)
        live = set(self._series.reading().keys["name"].tolist())
        self._names = {number: name for number, name in self._names.items() if number in live}

    @property
    def wanted(self) -> int:
        """How many domains by direction there is use for."""
        return 64 + 2 * (len(self._series) + self._series.reading().folded)

    def diversity(self) -> Diversity:
        """How many domains have no series of their own."""
        return Diversity(self._series.reading().folded)

    def points(self) -> dict[str, Points]:
        """Gives netmon.domain.io and netmon.domain.connections: an overflow point a direction, then each domain."""
        reading = self._series.reading()
        sets = self._sets.of(
            reading,
            lambda identity: {
                "netmon.domain": self._names[identity[0]],
                "network.io.direction": DIRECTIONS[identity[1]],
            },
        )
        start = reading.starts_ns
        return {
            metric: NumberSeries(sets, start, np.concatenate([reading.rest[:, counter], reading.values[counter]]))
            for metric, counter in (("netmon.domain.io", _OCTETS), ("netmon.domain.connections", _CONNECTIONS))
        }

    def stages(self) -> dict[tuple[str, str], StageStatus]:
        """What became of answers and of the names that they told."""
        taken, unattributed = self._cache.answers
        learned, evicted = (self._cache.counts[what] for what in ("learned", "evicted"))
        return {
            ("domains", "dns_answers"): StageStatus(
                delivered=taken - unattributed, dropped={"before_its_cgroup": unattributed}
            ),
            ("domains", "names"): StageStatus(delivered=learned - evicted, dropped={"cache_full": evicted}),
        }

    def state(self) -> dict[str, dict[str, Any]]:
        """What another process needs to go on; the names behind addresses are learnt anew."""
        return {
            "domains.series": self._series.state(),
            "domains.names": {
                "numbers": np.array(list(self._names), np.uint64),
                "names": "\n".join(self._names.values()).encode(errors="surrogateescape"),
                "read_ns": self._read_ns,
            },
        }

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Goes on where another process was, before the first reading."""
        names = state["domains.names"]
        texts = names["names"].decode(errors="surrogateescape").split("\n")
        self._names = dict(zip(names["numbers"].tolist(), texts, strict=False))
        self._read_ns = names["read_ns"]
        self._series.limit = len(state["domains.series"]["keys"])
        self._series.restore(state["domains.series"])

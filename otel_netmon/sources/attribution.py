"""Whose spans of lookups, handshakes, requests and calls are, from which side they are told, and what took their time.

A span waits for the next reading of connections: then every connection and socket that was there when its packets were seen is
either in a table that was read or in a ring that was drained, however short it lived.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from otel_netmon.abi.enums import Role
from otel_netmon.analysis.connection_index import ENDS, UNKNOWN, Owner, turned
from otel_netmon.analysis.recent_lookups import RecentLookups
from otel_netmon.analysis.request_phases import RequestTimes, Waited, phases
from otel_netmon.otel.request_times import time_attributes
from otel_netmon.otel.spans import Sought, SpanBatch, SpanKind, StatusCode
from otel_netmon.sources.connections import ConnectionSource
from otel_netmon.sources.message_probes import MessageProbes


class Owners(Protocol):
    """Who knows connections: ``analysis.connection_index.ConnectionIndex``."""

    def find(
        self, ends: npt.NDArray[Any], times_ns: npt.NDArray[np.integer[Any]], *, any_address: bool = True
    ) -> Owner:
        """See there."""


class Attribution:
    """Tells spans of messages.

    Args:
        owners: who knows connections; None where they are not followed, then spans do not wait.
        resource: gives the encoded resource of a process by its number, nothing where it is not known.
        lookups: who knows lookups; None where they are not followed.
    """

    def __init__(self, owners: Owners | None, resource: Callable[[int], bytes], lookups: RecentLookups | None) -> None:
        self._owners = owners
        self._resource = resource
        self._lookups = lookups

    def told(self, sought: Sequence[Sought]) -> list[SpanBatch]:
        """Gives the spans as they leave."""
        if self._owners is None:
            return [_with_times(each, each.batch, None, None) for each in sought]
        if not sought:
            return []
        every = _EverySought(sought, self._owners)
        dns_ns = self._dns(every, self._owners)
        made = []
        begin = 0
        for each in sought:
            part = slice(begin, begin + len(each.batch))
            owner = every.found.part(part)
            resources = [self._resource(number) for number in owner.number.tolist()]
            batch = replace(_told_from(each, every.kinds[part]), resources=resources)
            made.append(_with_times(each, batch, owner, dns_ns[part]))
            begin = part.stop
        return made

    def _dns(self, every: _EverySought, owners: Owners) -> npt.NDArray[np.int64]:
        """How long the client of each request waited for the name of its server."""
        found = np.full(len(every.kinds), UNKNOWN, np.int64)
        if self._lookups is None:
            return found
        owner = every.found
        opened = every.is_request & (every.kinds == SpanKind.CLIENT) & (owner.role == Role.CLIENT)
        asked = np.flatnonzero(opened & (owner.connect_ns != UNKNOWN) & (every.earlier_ns < owner.begin_ns))
        if len(asked):
            found[asked] = self._lookups.waited(
                every.ends["remote"][asked],
                owner.begin_ns[asked],
                owner.number[asked],
                lambda ends, times_ns: owners.find(ends, times_ns, any_address=False).number,
            )
        return found


def attribution(connections: ConnectionSource | None, messages: MessageProbes | None) -> Attribution:
    """Who tells spans, with what is known where these probes run."""
    if connections is None:
        return Attribution(None, lambda _: b"", None)
    lookups = None
    if messages is not None and messages.http is not None and messages.dns is not None:
        lookups = messages.dns.remember()
    return Attribution(connections.index, connections.owners.known_resource, lookups)


class _EverySought:
    """All spans of a reading as columns: of whatever probe, connections are looked for once.

    Attributes:
        ends: as the clients see them.
        kinds: uint8, as the spans are told.
        found: what is known at the end that each is told from: of the client, of SERVER spans the server's.
        is_request, earlier_ns: of spans of requests, see ``RequestTimes``.
    """

    def __init__(self, sought: Sequence[Sought], owners: Owners) -> None:
        self.kinds = np.concatenate([each.batch.kinds for each in sought])
        self.ends = np.concatenate([each.ends for each in sought], dtype=ENDS)  # ports stay in network order
        times = np.concatenate([each.times_ns for each in sought])
        self.is_request = np.concatenate([np.full(len(each.batch), each.requests is not None) for each in sought])
        self.earlier_ns = np.concatenate(
            [each.times_ns if each.requests is None else each.requests.earlier_ns for each in sought]
        )
        as_server = self.kinds == SpanKind.SERVER
        asked = self.ends.copy()
        asked[as_server] = turned(self.ends[as_server])
        self.found = owners.find(asked, times, any_address=False)
        either = np.concatenate([np.full(len(each.batch), each.either_side) for each in sought])
        again = np.flatnonzero(either & (self.found.cookie == 0))
        if not len(again):
            return
        found = owners.find(turned(asked[again]), times[again], any_address=False)
        known = found.cookie != 0
        self.kinds[again[known]] = np.where(as_server[again[known]], SpanKind.CLIENT, SpanKind.SERVER)
        self.found.put(again[known], found, known)


def _told_from(sought: Sought, kinds: npt.NDArray[np.uint8]) -> SpanBatch:
    """The spans as they are told from other sides."""
    batch = sought.batch
    changed = np.flatnonzero(kinds != batch.kinds).tolist()
    if not changed or sought.describe is None:
        return replace(batch, kinds=kinds)
    names, attributes, messages = list(batch.names), list(batch.attributes), list(batch.messages)
    statuses = batch.statuses.copy()
    for at in changed:
        told = sought.describe(at, bool(kinds[at] == SpanKind.SERVER))
        names[at], attributes[at], messages[at] = told
        statuses[at] = StatusCode.ERROR if told.message else StatusCode.UNSET
    return replace(batch, names=names, kinds=kinds, attributes=attributes, messages=messages, statuses=statuses)


def _with_times(
    sought: Sought, batch: SpanBatch, owner: Owner | None, dns_ns: npt.NDArray[np.int64] | None
) -> SpanBatch:
    """Adds where the time went to spans of requests."""
    requests = sought.requests
    if requests is None:
        return batch
    nothing = np.full(len(batch), UNKNOWN, np.int64)
    if owner is None or dns_ns is None:
        zero = np.zeros(len(batch), np.int64)
        made = phases(requests, Waited(zero, zero, nothing, nothing, nothing, zero))
        more = time_attributes(made, nothing, nothing)
    else:
        more = time_attributes(_phases(requests, owner, dns_ns), owner.resent, owner.disordered)
    return replace(batch, attributes=[a + b for a, b in zip(batch.attributes, more, strict=True)])


def _phases(requests: RequestTimes, owner: Owner, dns_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    nothing = np.full(len(dns_ns), UNKNOWN, np.int64)
    return phases(
        requests,
        Waited(owner.begin_ns, owner.established_ns, dns_ns, owner.connect_ns, nothing, np.zeros_like(nothing)),
    )

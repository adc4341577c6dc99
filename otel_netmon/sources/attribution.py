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
from otel_netmon.analysis.recent_handshakes import RecentHandshakes
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
        lookups, handshakes: who knows lookups and handshakes of TLS; None where nobody asks for them.
    """

    def __init__(
        self,
        owners: Owners | None,
        resource: Callable[[int], bytes],
        lookups: RecentLookups | None = None,
        handshakes: RecentHandshakes | None = None,
    ) -> None:
        self._owners = owners
        self._resource = resource
        self._lookups = lookups
        self._handshakes = handshakes

    def told(self, sought: Sequence[Sought]) -> list[SpanBatch]:
        """Gives the spans as they leave."""
        if self._owners is None:
            return [_alone(each) for each in sought]
        if not sought:
            return []
        every = _EverySought(sought, self._owners)
        waited = self._waited(every, self._owners)
        made = []
        begin = 0
        for each in sought:
            part = slice(begin, begin + len(each.batch))
            owner = every.found.part(part)
            resources = [self._resource(number) for number in owner.number.tolist()]
            batch = replace(_told_from(each, every.kinds[part]), resources=resources)
            if each.requests is not None:
                batch = _with_times(batch, each.requests, Waited(*[column[part] for column in waited]), owner)
            made.append(batch)
            begin = part.stop
        return made

    def _waited(self, every: _EverySought, owners: Owners) -> Waited:
        """What each request had to wait for before it began."""
        owner = every.found
        number = len(every.kinds)
        dns_ns, tls_ns, tls_end_ns = (np.full(number, each, np.int64) for each in (UNKNOWN, UNKNOWN, 0))
        first = every.is_request & (owner.cookie != 0) & (every.earlier_ns < owner.begin_ns)
        if self._handshakes is not None:
            asked = np.flatnonzero(first)
            tls_ns[asked], tls_end_ns[asked] = self._handshakes.waited(
                every.ends[asked], owner.begin_ns[asked], every.times_ns[asked]
            )
        if self._lookups is not None:
            opened = (every.kinds == SpanKind.CLIENT) & (owner.role == Role.CLIENT) & (owner.connect_ns != UNKNOWN)
            asked = np.flatnonzero(first & opened)
            dns_ns[asked] = self._lookups.waited(
                every.ends["remote"][asked],
                owner.begin_ns[asked],
                owner.number[asked],
                lambda ends, times_ns: owners.find(ends, times_ns, any_address=False).number,
            )
        return Waited(owner.begin_ns, owner.established_ns, dns_ns, owner.connect_ns, tls_ns, tls_end_ns)


def attribution(
    connections: ConnectionSource | None, messages: MessageProbes | None, *, sees_plaintext: bool
) -> Attribution:
    """Who tells spans, with what is known where these probes run.

    Args:
        sees_plaintext: requests that go through TLS are told, too.
    """
    if connections is None:
        return Attribution(None, lambda _: b"")
    lookups = handshakes = None
    if messages is not None and messages.http is not None:
        lookups = messages.dns.remember() if messages.dns is not None else None
        handshakes = messages.tls.remember() if messages.tls is not None and sees_plaintext else None
    return Attribution(connections.index, connections.owners.known_resource, lookups, handshakes)


class _EverySought:
    """All spans of a reading as columns: of whatever probe, connections are looked for once.

    Attributes:
        ends: as the clients see them.
        times_ns: when each began, or a packet of it was seen.
        kinds: uint8, as the spans are told.
        found: what is known at the end that each is told from: of the client, of SERVER spans the server's.
        is_request, earlier_ns: of spans of requests, see ``RequestTimes``.
    """

    def __init__(self, sought: Sequence[Sought], owners: Owners) -> None:
        self.kinds = np.concatenate([each.batch.kinds for each in sought])
        self.ends = np.concatenate([each.ends for each in sought], dtype=ENDS)  # ports stay in network order
        self.times_ns = np.concatenate([each.times_ns for each in sought])
        self.is_request = np.concatenate([np.full(len(each.batch), each.requests is not None) for each in sought])
        self.earlier_ns = np.concatenate(
            [each.times_ns if each.requests is None else each.requests.earlier_ns for each in sought]
        )
        as_server = self.kinds == SpanKind.SERVER
        asked = self.ends.copy()
        asked[as_server] = turned(self.ends[as_server])
        self.found = owners.find(asked, self.times_ns, any_address=False)
        either = np.concatenate([np.full(len(each.batch), each.either_side) for each in sought])
        again = np.flatnonzero(either & (self.found.cookie == 0))
        if not len(again):
            return
        found = owners.find(turned(asked[again]), self.times_ns[again], any_address=False)
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


def _with_times(batch: SpanBatch, requests: RequestTimes, waited: Waited, owner: Owner | None) -> SpanBatch:
    """Adds where the time of requests went."""
    unknown = np.full(len(batch), UNKNOWN, np.int64)
    counts = (unknown, unknown) if owner is None else (owner.resent, owner.disordered)
    more = time_attributes(phases(requests, waited), *counts)
    return replace(batch, attributes=[a + b for a, b in zip(batch.attributes, more, strict=True)])


def _alone(sought: Sought) -> SpanBatch:
    """The spans where nothing is known of connections."""
    if sought.requests is None:
        return sought.batch
    unknown, never = np.full(len(sought.batch), UNKNOWN, np.int64), np.zeros(len(sought.batch), np.int64)
    return _with_times(sought.batch, sought.requests, Waited(never, never, unknown, unknown, unknown, never), None)

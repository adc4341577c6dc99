"""Requests cut to size, with the items of each resource together.

Source: opentelemetry/proto/collector of the OTLP release 1.x.
"""

from __future__ import annotations

from collections.abc import Iterator

from otel_netmon.export.otlp_resources import Runs
from otel_netmon.export.otlp_wire import Buffer, Envelope, Group, Records
from otel_netmon.export.requests import Request, Signal


class _Part:
    """What a request holds of one resource: its field, and records by the group that is around them."""

    __slots__ = ("groups", "resource")

    def __init__(self, resource: bytes) -> None:
        self.resource = resource
        self.groups: list[tuple[Group | None, list[Buffer]]] = []


class RequestBuilder:
    """Puts records into requests of at most ``max_items`` items and ``max_bytes`` bytes; a record beyond that goes alone.

    A request has each resource once, in the order in which they came.
    """

    def __init__(self, signal: Signal, envelope: Envelope, max_items: int, max_bytes: int) -> None:
        self._signal = signal
        self._envelope = envelope
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._parts: dict[bytes, _Part] = {}
        self._items = 0
        self._bytes = 0

    def add(self, records: Records, group: Group | None = None, runs: Runs = ()) -> Iterator[Request]:
        """Takes all records; gives each request that is full.

        Args:
            records: at least one.
            runs: the resources of the records; none where all are of the agent's own.
        """
        runs = runs or ((b"", len(records)),)
        for (resource, count), size in zip(runs, records.sizes([count for _, count in runs]), strict=True):
            left, left_bytes = count, size
            while left:
                part = self._parts.get(resource)
                overhead = 0
                if part is None:
                    field, overhead = self._envelope.resource(resource)
                    part = _Part(field)
                opens = not part.groups or part.groups[-1][0] is not group
                if opens and group is not None:
                    overhead += group.overhead
                room, room_bytes = self._max_items - self._items, self._max_bytes - self._bytes - overhead
                taken = (
                    left if left <= room and left_bytes <= room_bytes else records.fitting(min(left, room), room_bytes)
                )
                if not taken:
                    if self._items:
                        yield self._request()
                        continue
                    taken = 1
                data = records.take(taken)
                self._parts[resource] = part
                if opens:
                    part.groups.append((group, []))
                part.groups[-1][1].append(data)
                self._items += taken
                self._bytes += len(data) + overhead
                left, left_bytes = left - taken, left_bytes - len(data)

    def finish(self) -> Iterator[Request]:
        """Gives the last request, if anything is left."""
        if self._items:
            yield self._request()

    def _request(self) -> Request:
        body: list[Buffer] = []
        for part in self._parts.values():
            contents: list[Buffer] = []
            total = 0
            for group, records in part.groups:
                length = sum(map(len, records))
                parts, size = (records, length) if group is None else group.around(records, length)
                contents += parts
                total += size
            body += self._envelope.around(part.resource, contents, total)
        request = Request(self._signal, b"".join(body), self._items)
        self._parts, self._items, self._bytes = {}, 0, 0
        return request

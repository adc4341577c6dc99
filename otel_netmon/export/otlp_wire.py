"""Protocol Buffers by columns, and what stands around them in a request.

Messages of one repeated field are joined from parts that are encoded already and a template that ends each of them; numbers of fixed
width are then written into the template's gaps by numpy, a column at a time. No Python code runs for a single message.

Wire format: protobuf.dev/programming-guides/encoding; field numbers: opentelemetry/proto of the OTLP release 1.x.
"""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon import __version__
from otel_netmon.otel import catalogue
from otel_netmon.otel.attributes import Tag, decoded, encode, encode_one, varint
from otel_netmon.otel.resource import host_attributes
from otel_netmon.otel.text import portable_text

CHUNK = 2048
"""Items that are encoded at a time. Their bytes stay in the cache, and in memory that is there already: fresh pages cost as much as
the encoding."""

MAX_ITEMS = 8192
"""Some 1.5 MB of flow points."""

MAX_BYTES = 3 << 20
"""A gRPC receiver takes 4 MiB by default, an HTTP receiver 20 MiB."""

# Tags and fields of all data points.
POINTS = 0x0A
START = b"\x11" + bytes(8)
TIME = struct.Struct("<BQ")

Buffer = bytes | memoryview
Rows = npt.NDArray[np.int64] | npt.NDArray[np.bool_] | slice
_ALL = slice(None)
_HEAD = 1 + 5
"""Bytes of a tag and the longest length that a message can have."""


def chunks(count: int) -> Iterator[slice]:
    """Rows of ``count`` in pieces of ``CHUNK``."""
    return (slice(begin, begin + CHUNK) for begin in range(0, count, CHUNK))


def delimited(tag: int, content: bytes) -> bytes:
    """A field of wire type 2: a message, text or packed numbers."""
    return tag.to_bytes(1, "little") + varint(len(content)) + content


def text(tag: int, value: str) -> bytes:
    """A text field, made portable; empty text is left out. For texts that come again and again: short ones are kept."""
    return _short_text(tag, value) if len(value) <= 128 else _text(tag, value)


def _text(tag: int, value: str) -> bytes:
    return delimited(tag, portable_text(value).encode()) if value else b""


_short_text = functools.lru_cache(1024)(_text)


def varint_sizes(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Bytes that each number takes as a varint; numbers are not negative."""
    sizes = np.ones(values.shape, np.uint8)
    highest = int(values.max(initial=0))
    for shift in range(7, max(highest.bit_length(), 1), 7):
        sizes += values >= 1 << shift
    return sizes


def varints(values: npt.NDArray[np.uint64]) -> tuple[bytes, npt.NDArray[np.int64]]:
    """Numbers as varints, one behind the other, and the offset behind each."""
    sizes = varint_sizes(values)
    ends = np.cumsum(sizes.astype(np.int64))
    starts = ends - sizes
    data = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
    data[starts] = values.astype(np.uint8) & 0x7F | (sizes > 1).view(np.uint8) << 7
    for index in range(1, int(sizes.max(initial=0))):
        rows = np.flatnonzero(sizes > index)
        septets = (values[rows] >> np.uint64(7 * index)).astype(np.uint8) & 0x7F
        data[starts[rows] + index] = septets | (sizes[rows] > index + 1).view(np.uint8) << 7
    return data.tobytes(), ends


@functools.cache
def _heads(tag: int) -> tuple[bytes, ...]:
    return tuple(tag.to_bytes(1, "little") + varint(length) for length in range(1024))


class Records:
    """Messages of one repeated field, encoded, to be filled and then taken from the front.

    Args:
        tag: tag byte of the field.
        columns: parts of each message that differ in length: sequences of one length, at least 1.
        tail: how every message ends, with zeros for ``fill``.
    """

    __slots__ = ("_at", "_data", "_ends", "_taken")

    def __init__(self, tag: int, columns: Sequence[Sequence[bytes]], tail: bytes) -> None:
        count = len(columns[0])
        lengths = np.full(count, len(tail), np.int64)
        for column in columns:
            lengths += np.fromiter(map(len, column), np.int64, count)
        heads = _heads(tag)
        width = len(columns) + 2
        parts = [tail] * (width * count)
        parts[::width] = [
            heads[length] if length < 1024 else tag.to_bytes(1, "little") + varint(length)
            for length in lengths.tolist()
        ]
        for position, column in enumerate(columns, start=1):
            parts[position::width] = column
        self._data = bytearray(b"".join(parts))
        self._ends = np.cumsum(lengths + varint_sizes(lengths) + 1)
        self._taken = 0
        self._at = 0

    def __len__(self) -> int:
        return len(self._ends) - self._taken

    def sizes(self, counts: Sequence[int]) -> list[int]:
        """Bytes of the first messages, of those behind them, and so on, ``counts`` of them in turn and all together."""
        sizes: list[int] = np.diff(self._ends[self._taken + np.cumsum(counts) - 1], prepend=self._at).tolist()
        return sizes

    def fill(self, before_end: int | npt.NDArray[np.int64], values: npt.NDArray[Any], rows: Rows = _ALL) -> None:
        """Writes one number into each message.

        Args:
            before_end: where, in bytes before the message's end.
            values: their bytes are written, little-endian.
            rows: which messages; ``values`` has one number for each of them.
        """
        kind = values.dtype.newbyteorder("<")
        anywhere: npt.NDArray[Any] = np.ndarray((len(self._data) - kind.itemsize + 1,), kind, self._data, 0, (1,))
        anywhere[self._ends[rows] - before_end] = values

    def fitting(self, items: int, size: int) -> int:
        """How many of the first messages are at most ``items`` and together at most ``size`` bytes."""
        until = np.searchsorted(self._ends, self._at + size, "right")
        return max(0, min(items, int(until) - self._taken))

    def take(self, count: int) -> memoryview:
        """The first ``count`` messages; they leave."""
        begin = self._at
        self._taken += count
        self._at = int(self._ends[self._taken - 1])
        return memoryview(self._data)[begin : self._at]


class Envelope:
    """What stands around the items of every request: their resource and the instrumentation scope.

    A resource other than the agent's own has, beside its attributes, those of the agent's that say where both run; its own win.

    Attributes:
        resource: gives the field ``resource`` of ResourceMetrics, ResourceSpans and ResourceLogs for attributes that have the tag of
            a resource already, and for none the agent's own; and how many bytes the resource adds to a request at most.

    Args:
        resource: the agent's resource.
    """

    __slots__ = ("_host", "_host_key", "_own", "_schema", "_scope", "_whole_host", "resource")

    def __init__(self, resource: Mapping[str, str]) -> None:
        self._own = delimited(0x0A, encode(resource, Tag.RESOURCE))
        self._host = {key: encode_one(key, value, Tag.RESOURCE) for key, value in host_attributes(resource).items()}
        self._whole_host = b"".join(self._host.values())
        keys = (re.escape(delimited(0x0A, key.encode())) for key in self._host)
        self._host_key = re.compile(b"|".join(keys) or b"$.")
        self._scope = delimited(0x0A, text(0x0A, catalogue.SCOPE_NAME) + text(0x12, __version__))
        self._schema = text(0x1A, catalogue.SCHEMA_URL)
        self.resource = functools.lru_cache(256)(self._resource)

    def _resource(self, encoded: bytes) -> tuple[bytes, int]:
        field = self._field(encoded) if encoded else self._own
        return field, len(field) + len(self._scope) + 2 * (len(self._schema) + _HEAD)

    def _field(self, encoded: bytes) -> bytes:
        added = self._whole_host
        if self._host_key.search(encoded):  # as a key, or by chance within a value
            known = decoded(encoded)
            added = b"".join([attribute for key, attribute in self._host.items() if key not in known])
        return delimited(0x0A, encoded + added)

    def around(self, resource: bytes, contents: list[Buffer], length: int) -> list[Buffer]:
        """A field of a request in parts, around fields of ScopeMetrics, ScopeSpans or ScopeLogs.

        The three have the same field numbers at this depth, and so have what holds them.

        Args:
            resource: the field ``resource``.
            contents: what it holds, ``length`` bytes in all.
        """
        length += len(self._scope) + len(self._schema)
        scope = b"\x12" + varint(length)
        length += len(scope) + len(resource) + len(self._schema)
        begin = b"\x0a" + varint(length) + resource + scope + self._scope
        return [begin, *contents, self._schema, self._schema]


@dataclass(frozen=True, slots=True)
class Group:
    """What stands around records that share a message of their own: a metric around its points.

    Attributes:
        opening: fields of the outer message, and the tag byte of the inner one, which repeats the records.
        closing: fields of the inner message behind the records.
    """

    opening: bytes
    closing: bytes

    @property
    def overhead(self) -> int:
        """Bytes that it adds at most."""
        return len(self.opening) + len(self.closing) + 2 * _HEAD

    def around(self, records: list[Buffer], length: int) -> tuple[list[Buffer], int]:
        """The outer message in parts, as a field of ScopeMetrics, and its length."""
        length += len(self.closing)
        begin = self.opening + varint(length)
        length += len(begin)
        head = b"\x12" + varint(length) + begin
        return [head, *records, self.closing], length - len(begin) + len(head)

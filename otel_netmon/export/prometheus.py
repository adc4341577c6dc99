"""The metrics page: the current snapshot in the format that the scraper prefers, made once for all scrapers of a moment.

The page is written here and not by a client library's registry: a line costs a hundredth, and no instrument keeps a series that has
left. ``prometheus_text`` and ``prometheus_protobuf`` write it, ``prometheus_negotiation`` chooses.
"""

from __future__ import annotations

import mmap
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from otel_netmon.export import prometheus_protobuf, prometheus_text
from otel_netmon.export.prometheus_negotiation import OPENMETRICS, PROTOBUF, accepts_gzip, content_type
from otel_netmon.otel.attributes import AttributeSet, Tag, Value, encode
from otel_netmon.otel.points import Snapshot

HOLD_SECONDS = 2.0
"""How long a page is kept after its last scrape: scrapers that come together share it, and between scrapes it takes no memory."""

PLAIN_BYTES = 2 << 20
"""A larger page is kept compressed for those who want it plain, and unpacked as it is sent: most of it is histograms, which are a
twentieth of their size then."""

_PIECE_BYTES = 128 * 1024


class NoSnapshotError(Exception):
    """Nothing has been read yet: there is no page."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page as it is sent.

    Attributes:
        content_type: of the format.
        gzip: whether the pieces together are one gzip stream (RFC 1952).
        length: of all pieces together, octets.
    """

    content_type: str
    gzip: bool
    length: int
    _stored: tuple[memoryview, ...]
    _packed: bool

    @property
    def pieces(self) -> Iterable[bytes | memoryview]:
        """The body; some 100 KB to 1 MB each."""
        return _unpacked(self._stored) if self._packed else self._stored

    @property
    def body(self) -> bytes:
        """The pieces as one."""
        return b"".join(self.pieces)

    @property
    def held(self) -> int:
        """Octets that the page takes."""
        return sum(map(len, self._stored))


class MetricsPage:
    """Renders the current snapshot, for any number of scrapers at once. Used by one thread at a time.

    Args:
        snapshot_source: returns the current snapshot, None before the first reading.
        resource: resource attributes, served as ``target_info``.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        snapshot_source: Callable[[], Snapshot | None],
        resource: Mapping[str, Value],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._snapshot_source = snapshot_source
        self._target = AttributeSet(encode(resource, Tag.NUMBER_DATA_POINT))
        self._clock = clock
        self._snapshot: Snapshot | None = None
        self._kept: dict[tuple[str, bool], tuple[Page, float]] = {}

    def render(self, accept: str = "", accept_encoding: str = "") -> Page:
        """The page as the scraper's headers Accept and Accept-Encoding want it.

        Raises:
            NoSnapshotError: before the first reading.
        """
        snapshot = self._snapshot_source()
        if snapshot is None:
            raise NoSnapshotError
        if snapshot is not self._snapshot:
            self._kept.clear()
            self._snapshot = snapshot
        key = content_type(accept), accepts_gzip(accept_encoding)
        page = self._kept[key][0] if key in self._kept else self._rendered(snapshot, *key)
        self._kept[key] = page, self._clock() + HOLD_SECONDS
        return page

    def expire(self) -> float | None:
        """Drops the pages that nobody asked for lately; gives the seconds until the next one's time is up, None without pages."""
        now = self._clock()
        self._kept = {key: kept for key, kept in self._kept.items() if kept[1] > now}
        if not self._kept:
            self._snapshot = None
            return None
        return min(until for _, until in self._kept.values()) - now

    def _rendered(self, snapshot: Snapshot, name: str, gzip: bool) -> Page:
        if name == PROTOBUF:
            pieces = prometheus_protobuf.render(snapshot, self._target)
        else:
            pieces = prometheus_text.render(snapshot, self._target, openmetrics=name == OPENMETRICS)
        if not gzip:
            return _plain(name, pieces)
        stored = tuple(_stored(_compressed(pieces)))
        return Page(name, gzip, sum(map(len, stored)), stored, _packed=False)


def _plain(name: str, pieces: Iterator[bytes]) -> Page:
    """A page that is sent as it is."""
    first: deque[bytes] = deque()
    length = 0
    for piece in pieces:
        first.append(piece)
        length += len(piece)
        if length > PLAIN_BYTES:
            break
    else:
        return Page(name, gzip=False, length=length, _stored=tuple(_stored(first)), _packed=False)

    def counted() -> Iterator[bytes]:
        nonlocal length
        while first:
            yield first.popleft()
        for piece in pieces:
            length += len(piece)
            yield piece

    stored = tuple(_stored(_compressed(counted())))
    return Page(name, gzip=False, length=length, _stored=stored, _packed=True)


def _compressed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """RFC 1952 at the fastest level: the page is read once, on this machine or the next. The plain page is never there as a whole."""
    compressor = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    for piece in pieces:
        yield compressor.compress(piece)
    yield compressor.flush()


def _unpacked(pieces: Iterable[memoryview]) -> Iterator[bytes]:
    """What was compressed."""
    unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
    for piece in pieces:
        data: bytes | memoryview = piece
        while data:
            yield unpacker.decompress(data, _PIECE_BYTES)
            data = unpacker.unconsumed_tail
    yield unpacker.flush()


def _stored(pieces: Iterable[bytes]) -> Iterator[memoryview]:
    """The pieces as they are kept, small ones together: each costs a buffer when they are sent."""
    waiting: list[bytes] = []
    for piece in pieces:
        waiting.append(piece)
        if sum(map(len, waiting)) >= _PIECE_BYTES:
            yield _mapped(b"".join(waiting))
            waiting.clear()
    if any(waiting):
        yield _mapped(b"".join(waiting))


def _mapped(data: bytes) -> memoryview:
    """A copy in pages of its own, which go back to the kernel with it, whatever malloc keeps; faulted in at once, which is faster."""
    memory = mmap.mmap(-1, len(data), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
    memory.write(data)
    return memoryview(memory)

"""What requests were for, as far as metrics tell them apart: method, route, server, version. Alike heads are read once.

Heads of requests differ in cookies, identifiers and dates, and what they are for stands in the first line and in Host. So a head
is known by these two, and read only when they are new.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.http_paths import target_path
from otel_netmon.analysis.http_records import HttpRequest
from otel_netmon.analysis.routes import RouteRules
from otel_netmon.decode.authority import Authority, read_authority
from otel_netmon.decode.http1_heads import read_request

METHODS: Final = ("_OTHER", "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE")
"""Methods that the semantic conventions know; everything else is the first."""

VERSIONS: Final = ("0.9", "1.0", "1.1", "2")

_KNOWN_METHODS = frozenset(METHODS[1:])
_SIGHTS_MAX = 4096
_OCTETS_MAX = 1 << 20
_HEAD_OCTETS = 700
"""Longer heads are not looked for as a whole: they are seldom the same again."""
_AS_LINES = 31
_VERSION_OCTETS = 4
_HOSTS = (b"\nHost: ", b"\nhost: ")


class Sight(NamedTuple):
    """What a request was for.

    Attributes:
        method: as the conventions know it, of ``METHODS``.
        server: the server as the client names it; None without such a name.
        path: without its query, where routes are learned; None where the target has none, or it is not known whole.
        template: the route by a rule of the configuration.
    """

    method: str
    version: str
    server: Authority | None
    path: str | None
    template: str | None


class AlikeRequests:
    """The distinct requests of late, each known by its place.

    Args:
        rules: of the configuration.
        keeps_paths: whether paths are told apart that have no rule.

    Attributes:
        sights: what they were for.
    """

    def __init__(self, rules: RouteRules, *, keeps_paths: bool) -> None:
        self.sights: list[Sight] = []
        self._rules = rules
        self._keeps_paths = keeps_paths
        self._heads: dict[bytes, int] = {}
        self._lines: dict[tuple[bytes, bytes, bytes], int] = {}
        self._places: dict[Sight, int] = {}
        self._octets = 0
        self._as_lines = 0  # so many more times heads are not looked for as a whole, because few were known

    @property
    def is_full(self) -> bool:
        """Whether it is time to begin anew."""
        return len(self.sights) > _SIGHTS_MAX or self._octets > _OCTETS_MAX

    def clear(self) -> None:
        """Forgets all places."""
        self.sights.clear()
        for known in (self._heads, self._lines, self._places):
            known.clear()
        self._octets = 0

    def of_heads(self, data: bytes, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
        """Gives the places of requests of HTTP/1 whose heads, or begins of heads, are these parts of the data."""
        begins, stops = starts.tolist(), ends.tolist()
        if self._as_lines:
            self._as_lines -= 1
            found = [self._by_line(data, begin, end) for begin, end in zip(begins, stops, strict=True)]
            return np.array(found, np.intp)
        heads = [data[begin:end] for begin, end in zip(begins, stops, strict=True)]
        places = list(map(self._heads.get, heads))
        missed = [at for at, place in enumerate(places) if place is None]
        for at in missed:
            head = heads[at]
            place = places[at] = self._by_line(head, 0, len(head))
            if len(head) <= _HEAD_OCTETS and head not in self._heads:
                self._heads[head] = place
                self._octets += len(head)
        if len(missed) * 2 > len(heads):
            self._as_lines = _AS_LINES
        return np.array(places, np.intp)

    def of_request(self, request: HttpRequest) -> int:
        """Gives the place of a request."""
        whole = request.target is not None and "target" not in request.unknown
        return self._place(request.method, request.version, request.host, request.target if whole else None)

    def _by_line(self, data: bytes, begin: int, end: int) -> int:
        line_end = data.find(b"\n", begin, end)
        host = next((at + 7 for mark in _HOSTS if (at := data.find(mark, line_end, end)) >= 0), -1)
        if line_end < 0 or host < 0:
            return self._by_reading(data[begin:end])
        query = data.find(b"?", begin, line_end)
        key = (
            data[begin : line_end if query < 0 else query],
            data[line_end - _VERSION_OCTETS : line_end],
            data[host : data.find(b"\n", host, end)],
        )
        place = self._lines.get(key)
        if place is None:
            place = self._lines[key] = self._by_reading(data[begin:end])
            self._octets += len(key[0]) + len(key[1])
        return place

    def _by_reading(self, head: bytes) -> int:
        request = read_request(head, is_whole=False)
        if request is None:
            return self._place(None, "1.1", None, None)
        target = None if request.cut_line else request.target
        return self._place(request.method, request.version, request.fields.host, target)

    def _place(self, method: str | None, version: str, host: str | None, target: str | None) -> int:
        server = read_authority(host)
        path = target_path(target) if target is not None else None
        template = None
        if path is not None and method is not None:
            template = self._rules.template(method, server.host if server is not None else None, path)
        known = method if method in _KNOWN_METHODS else METHODS[0]
        kept = path if self._keeps_paths and template is None else None
        sight = Sight(known or METHODS[0], version, server, kept, template)
        place = self._places.get(sight)
        if place is None:
            place = self._places[sight] = len(self.sights)
            self.sights.append(sight)
            self._octets += 400 + len(kept or "")
        return place

"""What requests were for, as far as metrics tell them apart: method, route, server, version. Alike heads are read once.

Heads of requests differ in cookies, identifiers and dates, and what they are for stands in the first line and in Host. So a head
is known by these two, and read only when they are new.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.http_paths import target_path
from otel_netmon.analysis.http_records import HttpRequest
from otel_netmon.analysis.http_trace_parents import may_name_parent
from otel_netmon.analysis.routes import RouteRules
from otel_netmon.decode.authority import Authority, read_authority
from otel_netmon.decode.http1_heads import read_request

METHODS: Final = ("_OTHER", "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE")
"""Methods that the semantic conventions know; everything else is the first."""

VERSIONS: Final = ("0.9", "1.0", "1.1", "2")

_KNOWN_METHODS = frozenset(METHODS[1:])
_SIGHTS_MAX = 4096
_OCTETS_MAX = 1 << 20
_AS_LINES = 31
_VERSION_OCTETS = 10  # a space, the version, and a carriage return
_HOST = b"host:"
_KEY_OCTETS = 100


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
        # What of the first line tells requests apart ends here: at the query, or where paths do not matter at the method.
        self._mark = b"?" if keeps_paths or rules.has_rules else b" "
        self._keeps_paths = keeps_paths
        self._heads: dict[bytes, int] = {}  # twice the place, and 1 more where a parent may be named
        self._lines: dict[bytes, int] = {}  # -1: they do not tell
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

    def of_heads(
        self, data: bytes, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
        """Gives the places of requests of HTTP/1 whose heads, or begins of heads, are these parts of the data.

        Returns:
            the places, and of each head whether it may have a traceparent.
        """
        begins, stops = starts.tolist(), ends.tolist()
        if self._as_lines:
            self._as_lines -= 1
            return np.array(self._by_lines(data, begins, stops), np.intp), np.ones(len(begins), np.bool_)
        heads = [data[begin:end] for begin, end in zip(begins, stops, strict=True)]
        places = list(map(self._heads.get, heads))
        if None in places:
            new = list(dict.fromkeys([head for head, place in zip(heads, places, strict=True) if place is None]))
            joined = b"".join(new)
            bounds = [0, *accumulate(map(len, new))]
            found = self._by_lines(joined, bounds[:-1], bounds[1:])
            marks = map(may_name_parent, new)
            self._heads.update((head, place << 1 | mark) for head, place, mark in zip(new, found, marks, strict=True))
            places = list(map(self._heads.get, heads))
            self._octets += len(joined)
            if len(new) * 2 > len(heads):
                self._as_lines = _AS_LINES
                self._heads.clear()
        known = np.array(places, np.intp)
        return known >> 1, known & 1 > 0

    def of_request(self, request: HttpRequest) -> int:
        """Gives the place of a request."""
        whole = request.target is not None and "target" not in request.unknown
        return self._place(request.method, request.version, request.host, request.target if whole else None)

    def _by_lines(self, data: bytes, begins: Sequence[int], stops: Sequence[int]) -> list[int]:
        """The places of heads by what matters of their first two lines: almost always the second is Host."""
        find = data.find
        lines = _ends([find(b"\n", begin, end) for begin, end in zip(begins, stops, strict=True)], stops)
        seconds = _ends([find(b"\n", line + 1, end) for line, end in zip(lines, stops, strict=True)], stops)
        mark = self._mark
        cuts = [find(mark, begin, line) for begin, line in zip(begins, lines, strict=True)]
        keys = [
            data[begin:second] if cut < 0 else data[begin:cut] + data[line - _VERSION_OCTETS : second]
            for begin, cut, line, second in zip(begins, cuts, lines, seconds, strict=True)
        ]
        places = list(map(self._lines.get, keys))
        for at, place in enumerate(places):
            if place is None or place < 0:
                places[at] = self._by_key(keys[at], data[begins[at] : stops[at]])
        return places  # type: ignore[return-value]  # none is None any more

    def _by_key(self, key: bytes, head: bytes) -> int:
        place = self._lines.get(key)
        if place is None:
            # Another second line says nothing about the server: then all of the head is read, each time.
            begin = head.find(b"\n") + 1
            end = head.find(b"\n", begin) + 1
            tells = end > 0 and head[begin : begin + len(_HOST)].lower() == _HOST
            place = self._lines[key] = self._by_reading(head[:end]) if tells else -1
            self._octets += len(key) + _KEY_OCTETS
        return self._by_reading(head) if place < 0 else place

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


def _ends(found: list[int], stops: Sequence[int]) -> list[int]:
    """Where lines end; one whose end is not there ends with its head."""
    if -1 not in found:
        return found
    return [stop if at < 0 else at for at, stop in zip(found, stops, strict=True)]

"""Which format and which coding a scraper gets: content negotiation by RFC 9110, section 12."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROTOBUF = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"

_ELEMENT = re.compile(r'(?:"(?:[^"\\]|\\.)*"?|[^",])+')
_PARAMETER = re.compile(r';\s*([^\s;="]+)\s*=\s*("(?:[^"\\]|\\.)*"?|[^\s;"]*)')


@dataclass(frozen=True, slots=True)
class _Offer:
    """A format. A range that names it may leave out the parameters that are not ``required``, and contradict none."""

    content_type: str
    media_type: str
    parameters: Mapping[str, str]
    required: frozenset[str] = frozenset()


# The best first, for a scraper that names several and likes them the same.
_OFFERS = (
    _Offer(
        PROTOBUF,
        "application/vnd.google.protobuf",
        MappingProxyType({"proto": "io.prometheus.client.metricfamily", "encoding": "delimited"}),
        frozenset({"proto", "encoding"}),
    ),
    _Offer(OPENMETRICS, "application/openmetrics-text", MappingProxyType({"version": "1.0.0", "charset": "utf-8"})),
    _Offer(TEXT, "text/plain", MappingProxyType({"version": "0.0.4", "charset": "utf-8"})),
)


def content_type(accept_header: str) -> str:
    """The format for an Accept header, section 12.5.1.

    Each format has the weight of the most specific range that matches it. Among the heaviest, formats that the scraper names come
    before those it takes with a wildcard, and of those the text format is first. Who takes none of ours gets the text format, which
    every scraper reads. Parameters we do not know, as ``escaping``, exclude nothing: our names need no escaping.
    """
    ranges = list(_elements(accept_header))
    best, best_rank = TEXT, (0.0, False, 0)
    for place, offer in enumerate(_OFFERS):
        matches = [(_specificity(name, parameters, offer), weight) for name, parameters, weight in ranges]
        specificity, weight = max(matches, default=(-1, 0.0))
        named = specificity >= _NAMED
        rank = (weight, named, -place if named else place)
        if specificity >= 0 and weight > 0 and rank > best_rank:
            best, best_rank = offer.content_type, rank
    return best


_NAMED = 2


def _specificity(name: str, parameters: Mapping[str, str], offer: _Offer) -> int:
    """How closely a media range describes the format; -1 where it does not."""
    if name == "*/*":
        return 0
    if name == offer.media_type.partition("/")[0] + "/*":
        return 1
    known = parameters.keys() & offer.parameters.keys()
    if name != offer.media_type or not offer.required <= known:
        return -1
    if any(parameters[key].lower() != offer.parameters[key] for key in known):
        return -1
    return _NAMED + len(known)


def accepts_gzip(accept_encoding_header: str) -> bool:
    """Whether an Accept-Encoding header allows gzip and does not like the plain page better, section 12.5.3."""
    weights = {name: weight for name, _, weight in _elements(accept_encoding_header)}
    gzip = max((weights[name] for name in ("gzip", "x-gzip") if name in weights), default=weights.get("*", 0.0))
    return gzip > 0 and gzip >= weights.get("identity", 0.0)


def _elements(header: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """The elements of a list with weights: name, parameters, weight; section 5.6."""
    for element in _ELEMENT.findall(header):
        name = element.partition(";")[0].strip().lower()
        parameters = {key.lower(): _unquoted(value) for key, value in _PARAMETER.findall(element)}
        if name:
            yield name, parameters, _weight(parameters.pop("q", "1"))


def _unquoted(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:].removesuffix('"')) if value.startswith('"') else value


def _weight(text: str) -> float:
    """Section 12.4.2; a weight that cannot be read excludes its element."""
    return float(text) if re.fullmatch(r"0(\.\d{0,3})?|1(\.0{0,3})?", text) else 0.0

"""Routes of requests: templates by rules of the configuration, or learned from the paths that services answer.

A route is what groups requests in metrics (``http.route``, ``url.template``): of low cardinality and stable. A path without a
rule has none unless learning is on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from otel_netmon.analysis.http_paths import REST, SEGMENTS_MAX, VALUE, folded_segment
from otel_netmon.config.routes import RouteRule

VARIETY_MAX = 32
"""A place of a path that has more different words is one of values."""

_SEGMENTS_KNOWN = 4096
_PATHS_KNOWN = 4096
_PATH_KNOWN_OCTETS = 128


class _Node:
    """One place of the rules' templates: what may stand there, and which rules end there."""

    __slots__ = ("any", "rest", "rules", "words")

    def __init__(self) -> None:
        self.words: dict[str, _Node] = {}
        self.any: _Node | None = None
        self.rest: list[RouteRule] = []
        self.rules: list[RouteRule] = []


class RouteRules:
    """Templates of the configuration. A word fits better than a placeholder, and that better than the rest of a path.

    Args:
        rules: of several with the same template the first that fits.

    Attributes:
        has_rules: whether there are any.
    """

    def __init__(self, rules: Iterable[RouteRule]) -> None:
        self._root = _Node()
        self.has_rules = False
        for rule in rules:
            self.has_rules = True
            node = self._root
            for segment in rule.template.split("/")[1:]:
                if segment.endswith("...}"):
                    node.rest.append(rule)
                    break
                if segment.startswith("{"):
                    node.any = node = node.any or _Node()
                else:
                    node = node.words.setdefault(segment, _Node())
            else:
                node.rules.append(rule)

    def template(self, method: str, host: str | None, path: str) -> str | None:
        """Gives the template of a request; host in lower case, without port."""
        if not self.has_rules:
            return None
        segments = path.split("/")[1:]
        for rules in _ends(self._root, segments, 0):
            for rule in rules:
                if rule.method in {None, method} and rule.host in {None, host}:
                    return rule.template
        return None


def _ends(node: _Node, segments: Sequence[str], at: int) -> Iterator[list[RouteRule]]:
    """Where templates that fit end, those that fit best first."""
    if at == len(segments):
        yield node.rules
    else:
        word = node.words.get(segments[at])
        if word is not None:
            yield from _ends(word, segments, at + 1)
        if node.any is not None and segments[at]:
            yield from _ends(node.any, segments, at + 1)
    yield node.rest


class _Place:
    """One place of the learned templates.

    Attributes:
        is_variety: more words stood here than are told apart: each is a value.
        ends: whether a path ended here.
    """

    __slots__ = ("ends", "is_variety", "words")

    def __init__(self) -> None:
        self.words: dict[str, _Place] = {}
        self.is_variety = False
        self.ends = False

    @property
    def variety(self) -> int:
        return sum(not word.startswith("{") for word in self.words)


class LearnedRoutes:
    """Templates learned from paths that were answered: what is no word is folded, and so are places of too many words.

    A template that is known stays, unless a place of it turns out to be one of values: then it is one with its siblings, once
    and for all.

    Args:
        limit: templates at most; a path that would make one more has none.

    Attributes:
        counts: requests by template, since it is known.
        refused: requests whose template had no place.
    """

    def __init__(self, limit: int) -> None:
        self.counts: Counter[str] = Counter()
        self.refused = 0
        self._limit = limit
        self._root = _Place()
        self._known: dict[str, str] = {}
        self._folded = lru_cache(_SEGMENTS_KNOWN)(folded_segment)

    def template(self, path: str, *, was_found: bool, number: int = 1) -> str | None:
        """Gives the template of a path, and learns it.

        Args:
            was_found: the service knows the path: only such are learned, whoever tries others.
            number: how many requests for it.
        """
        template = self._known.get(path)
        if template is None:
            template = self._find(path, learn=was_found)
            if template is None:
                self.refused += number if was_found else 0
                return None
            if len(path) <= _PATH_KNOWN_OCTETS:
                if len(self._known) >= _PATHS_KNOWN:
                    self._known.clear()
                self._known[path] = template
        self.counts[template] += number
        return template

    def state(self) -> dict[str, Any]:
        """What another process needs to go on: templates with their counts, and the places of values."""
        return {
            "templates": "\n".join(self.counts).encode(),
            "counts": np.array(list(self.counts.values()), np.uint64),
            "varieties": "\n".join(_varieties(self._root, "")).encode(),
            "values_at_root": int(self._root.is_variety),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on where another process was."""
        self._root.is_variety = bool(state["values_at_root"])
        for prefix in filter(None, state["varieties"].decode().split("\n")):
            self._place(prefix).is_variety = True
        templates = filter(None, state["templates"].decode().split("\n"))
        for template, number in zip(templates, state["counts"].tolist(), strict=True):
            self._place(template).ends = True
            self.counts[template] = number

    def _place(self, template: str) -> _Place:
        place = self._root
        for word in template.split("/")[1:]:
            place = place.words.setdefault(word, _Place())
        return place

    def _find(self, path: str, *, learn: bool) -> str | None:
        segments = path.split("/", SEGMENTS_MAX + 1)[1:]
        words = list(map(self._folded, segments[:SEGMENTS_MAX]))
        if len(segments) > SEGMENTS_MAX:
            words.append(REST)
        place = self._root
        for at, word in enumerate(words):
            if place.is_variety and word and not word.startswith("{"):
                words[at] = VALUE
            below = place.words.get(words[at])
            if below is None:
                return self._learn(words) if learn else None
            place = below
        if not place.ends:
            return self._learn(words) if learn else None
        return "/" + "/".join(words)

    def _learn(self, words: list[str]) -> str | None:
        if len(self.counts) >= self._limit:
            return None
        place = self._root
        for at in range(len(words)):
            if place.is_variety and words[at] and not words[at].startswith("{"):
                words[at] = VALUE
            below = place.words.get(words[at])
            if below is None:
                below = place.words[words[at]] = _Place()
                if place.variety > VARIETY_MAX:
                    self._make_values(place, words[:at])
                    words[at] = VALUE
                    below = place.words[VALUE]
            place = below
        place.ends = True
        return "/" + "/".join(words)

    def _make_values(self, place: _Place, before: Sequence[str]) -> None:
        """Makes one place of all words that stand here."""
        place.is_variety = True
        value = place.words.setdefault(VALUE, _Place())
        prefix = "/".join(["", *before, ""])
        for word in [word for word in place.words if word and not word.startswith("{")]:
            _merge(value, place.words.pop(word))
            old, new = prefix + word, prefix + VALUE
            for template in [each for each in self.counts if each == old or each.startswith(old + "/")]:
                self.counts[new + template[len(old) :]] += self.counts.pop(template)
        self._known.clear()


def _merge(into: _Place, other: _Place) -> None:
    into.ends |= other.ends
    into.is_variety |= other.is_variety
    for word, place in other.words.items():
        known = into.words.get(word)
        if known is None:
            into.words[word] = place
        else:
            _merge(known, place)


def _varieties(place: _Place, prefix: str) -> Iterator[str]:
    """The places of values below the root."""
    if place.is_variety and prefix:
        yield prefix
    for word, below in place.words.items():
        yield from _varieties(below, f"{prefix}/{word}")

"""Paths of request targets, with what identifies somebody or something folded: RFC 3986, section 3.3; RFC 9112, section 3.2.

A path tells what was asked of a service, and of whom: numbers, keys, addresses, tokens. What is told of a path are only the
segments that look like words somebody gave to a resource; a query is never told.
"""

from __future__ import annotations

import functools
import re
from typing import Final

NUMBER: Final = "{number}"
UUID: Final = "{uuid}"
DATE: Final = "{date}"
HASH: Final = "{hash}"
VALUE: Final = "{value}"
REST: Final = "{rest...}"

SEGMENTS_MAX = 16
"""A path keeps so many; all behind them are folded into one."""

_KNOWN = 256
"""Paths of late, whose folding is known."""

_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
_NUMBER = re.compile(r"[+-]?\d+(?:[.,]\d+)*")
_UUID = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")
_DATE = re.compile(r"\d{4}([-_.])\d{1,2}(?:\1\d{1,2})?(?:T[\d:.+Z-]*)?")
_HASH = re.compile(r"(?=[^0-9]*[0-9])(?:[0-9a-f]{7,}|[0-9A-F]{7,})")
_VERSION = re.compile(r"[vV]\d{1,3}(?:\.\d{1,3}){0,2}")
_WORDS = re.compile(r"\.?[A-Za-z]{1,20}(?:[-_.][A-Za-z]{1,20}){0,5}")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_WORDS_OCTETS_MAX = 48
_WORD_OCTETS = 2.5
"""Of several words in one segment, on average and at least."""
_TERMS = frozenset(
    ("base64", "i18n", "ipv4", "ipv6", "k8s", "l10n", "md5", "oauth1", "oauth2", "s3", "sha1", "sha256", "utf8")
)
_LANGUAGE = re.compile(r"[a-z]{2}[-_][A-Z]{2}")

_FOLLOWERS = {
    "a": "bcdefgiklmnprstuvwxy", "b": "acdeghijlmnoprstuy", "c": "acdefghiklmnoprstuvy", "d": "abcdefgilmnoprstuvy",
    "e": "abcdefghiklmnopqrstuvwxy", "f": "abcdefilmoprstuy", "g": "aceghilmnoprstu", "h": "adeilmopqrstuyz",
    "i": "abcdefgklmnoprstvxz", "j": "aeoqsu", "k": "adeilnosuw", "l": "abcdefilmnoprstuvy", "m": "abcdeiklmnoprstuy",
    "n": "abcdefghiklmnoprstuvxy", "o": "abcdefgijklmnoprstuvwxyz", "p": "acdefghiklmnoprstuwy", "q": "lu",
    "r": "abcdefgiklmnoprstuvwy", "s": "acdefghiklmnopqrstuvwy", "t": "abcdefghilmnoprstuvwxy", "u": "abcdefgilmnoprst",
    "v": "aeimo", "w": "adefhilnoprstw", "x": "acefimopstxy", "y": "acefilmnoprst", "z": "aeio",
}  # fmt: skip
"""Letters that follow another one in English and in names of software, as often as once in a thousand words. Of eight letters
at random seven in a hundred are words by it, of sixteen four in a thousand."""

_PAIRS = frozenset(first + second for first, seconds in _FOLLOWERS.items() for second in seconds)


def target_path(target: str) -> str | None:
    """Gives the path of a request target, without query and fragment; None where it has none (``*``, an authority)."""
    begin = 0
    if not target.startswith("/"):
        match = _ORIGIN.match(target)
        if match is None:
            return None
        begin = match.end()
    end = min([at for at in (target.find("?", begin), target.find("#", begin)) if at >= 0], default=len(target))
    return target[begin:end] or "/"


def folded_segment(segment: str) -> str:
    """Gives a segment as it is if it is made of words or tells a version, else what it is folded to."""
    if not segment or segment in _TERMS or _VERSION.fullmatch(segment) or _LANGUAGE.fullmatch(segment):
        return segment
    if _NUMBER.fullmatch(segment):
        return DATE if _DATE.fullmatch(segment) else NUMBER
    for form, folded in ((_UUID, UUID), (_DATE, DATE), (_HASH, HASH)):
        if form.fullmatch(segment):
            return folded
    return segment if _is_words(segment) else VALUE


@functools.lru_cache(_KNOWN)
def folded_path(path: str) -> str:
    """Gives a path with its segments folded, and of a very long one its begin."""
    segments = path.split("/", SEGMENTS_MAX + 1)
    kept = [folded_segment(segment) for segment in segments[1 : SEGMENTS_MAX + 1]]
    if len(segments) > SEGMENTS_MAX + 1:
        kept.append(REST)
    return "/" + "/".join(kept)


def _is_words(segment: str) -> bool:
    """Letters as people write words, joined by what joins words or by capitals."""
    if len(segment) > _WORDS_OCTETS_MAX or _WORDS.fullmatch(segment) is None:
        return False
    words = _WORD.findall(segment)
    if any(len(word) == 1 for word in words[1:]) or sum(map(len, words)) < _WORD_OCTETS * len(words) > _WORD_OCTETS:
        return False  # capitals at random make words of one and two letters
    return all(word[at : at + 2] in _PAIRS for word in map(str.lower, words) for at in range(len(word) - 1))

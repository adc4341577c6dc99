"""Question names, folded: as many different ones as there are domains, not hosts."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

from otel_netmon.analysis.public_suffixes import public_suffixes
from otel_netmon.decode.dns_names import ROOT

_KNOWN_NAMES = 2048
_KNOWN_NAME_LENGTH = 100
"""Longer names are folded each time: so the cache takes at most about 1 MB, whatever is asked."""

_REVERSE_LABELS = {("in-addr", "arpa"): 5, ("ip6", "arpa"): 14}
"""How many labels a reverse name keeps: the zone of a /24, of a /48 (RFC 1035, section 3.5; RFC 3596, section 2.5)."""

_DOTS = re.compile(r"((?:[^\\.]|\\.)+)(?:\.|$)")


class NameFolding:
    """Folds names to their last labels, and reverse names to the zone of their network.

    A name keeps its last `depth` labels, but at least one more than its public suffix has: with a depth of 2
    ``www.example.com`` is ``example.com`` and ``www.example.co.uk`` is ``example.co.uk``, the registered domain. The suffixes
    are those of registries on the Public Suffix List; what a company gives to its customers (``github.io``) folds to the
    company. A reverse name keeps the zone of its /24 (IPv4) or /48 (IPv6). All in lower case.

    Args:
        depth: labels, 1 to 127; with 127 only reverse names are folded.
    """

    def __init__(self, depth: int = 2) -> None:
        self._depth = depth
        self._known = functools.lru_cache(_KNOWN_NAMES)(self._fold)

    def fold(self, name: str) -> str:
        """Gives a name, as ``decode.dns_names`` writes it, folded."""
        return self._known(name) if len(name) <= _KNOWN_NAME_LENGTH else self._fold(name)

    def common(self, names: Iterable[str]) -> str | None:
        """Gives what several names fold to; None if that is not one name."""
        folded = {self.fold(name) for name in names}
        return folded.pop() if len(folded) == 1 else None

    def _fold(self, name: str) -> str:
        lower = name.lower()
        if lower in {"", ROOT}:
            return lower
        labels = _DOTS.findall(lower) if "\\" in lower else lower.split(".")
        keep = _REVERSE_LABELS.get(tuple(labels[-2:]))
        if keep is None:
            if len(labels) <= self._depth:
                return lower
            keep = max(self._depth, public_suffixes().labels(labels) + 1)
        return ".".join(labels[-keep:])

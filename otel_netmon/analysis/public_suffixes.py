"""The Public Suffix List (publicsuffix.org), its part about registries, as the package publicsuffixlist has it.

Read here, since that package takes 30 ms and 9 MB for it: it encodes every rule and keeps the parts about companies as well.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from otel_netmon.errors import NetmonError

FILE = "public_suffix_list.dat"
_BEGIN, _END = "// ===BEGIN ICANN DOMAINS===", "// ===END ICANN DOMAINS==="
_LABELS_MAX = 5
"""No rule has more labels."""


class PublicSuffixes:
    """Tells public suffixes by the algorithm of publicsuffix.org: the longest rule, exceptions first, else the last label.

    Args:
        text: the list.
    """

    def __init__(self, text: str) -> None:
        lines = text[text.index(_BEGIN) : text.index(_END)].splitlines()
        rules = [line.split(" ", 1)[0] for line in lines if line and not line.startswith("//")]
        self._rules = frozenset(rules)
        self._international = [rule for rule in rules if not rule.isascii()]

    def labels(self, labels: Sequence[str]) -> int:
        """Gives how many of the last labels of a name, in lower case as on the wire, are its public suffix; 1 at least."""
        rules = self._rules if not any(label.startswith("xn--") for label in labels) else self._encoded
        for many in range(min(_LABELS_MAX, len(labels)), 0, -1):
            name = ".".join(labels[-many:])
            if "!" + name in rules:
                return many - 1
            # What a rule with a star is about is a suffix itself, as the list's own tests have it.
            if name in rules or "*." + name in rules or (many > 1 and "*." + name.partition(".")[2] in rules):
                return many
        return 1

    @functools.cached_property
    def _encoded(self) -> frozenset[str]:
        """With the rules that are not of ASCII, as they are on the wire: made for the first name that needs them."""
        return self._rules | frozenset(_on_the_wire(self._international))


def _on_the_wire(rules: Iterable[str]) -> Iterable[str]:
    for rule in rules:
        mark = "!" if rule.startswith("!") else ""
        yield mark + rule.removeprefix("!").encode("idna").decode("ascii")


@functools.cache
def public_suffixes() -> PublicSuffixes:
    """The list that is installed, read with the first name that needs it: 4 ms.

    Raises:
        NetmonError: it cannot be read.
    """
    found = find_spec("publicsuffixlist")
    folders = found.submodule_search_locations if found is not None else None
    try:
        return PublicSuffixes((Path(next(iter(folders or ["."]))) / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NetmonError(
            f"the Public Suffix List cannot be read: {error}", "install the package publicsuffixlist anew"
        ) from error

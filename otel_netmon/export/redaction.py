"""Takes the secrets of a configuration out of what a collector says: some repeat the key that they refuse."""

from __future__ import annotations

import re
from collections.abc import Iterable

from otel_netmon.config.checks import MASK

_SHORTEST = 4
"""Shorter values are not masked: ``1`` as a tenant's name is no secret, and masking it would spoil every number in the text."""


class Redactor:
    """Replaces every given value, and every word of it after a scheme such as ``Bearer``, by the mask.

    Args:
        secrets: header values, passwords. Empty ones are left out.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        values = {part for secret in secrets for part in (secret.strip(), secret.strip().partition(" ")[2].strip())}
        longest_first = sorted((value for value in values if len(value) >= _SHORTEST), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def __call__(self, text: str) -> str:
        """The text with the mask in place of each secret."""
        return self._pattern.sub(MASK, text) if self._pattern is not None else text

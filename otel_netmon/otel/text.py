"""Text that every exporter can carry."""

from __future__ import annotations

import math
import re

_NOT_PORTABLE = re.compile("[\x00\ud800-\udfff\ufffd]")
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


def portable_text(text: str) -> str:
    """``text`` as every exporter can carry it: valid UTF-8 without NUL.

    Interface names are bytes to the kernel and reach Python with lone surrogates (PEP 383); protobuf refuses those, and scrapers
    end a label at NUL. Each such character is written as U+FFFD and four hex digits. U+FFFD itself is written that way too,
    so that two different texts never become one series.
    """
    if text.isascii() and "\x00" not in text:
        return text
    return _NOT_PORTABLE.sub(lambda match: f"\ufffd{ord(match[0]):04x}", text)


def label_value(value: str | float | bool) -> str:
    """An attribute's value as a Prometheus label's, not escaped; text is portable already."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return number(value)


def escaped(text: str) -> str:
    """Backslash, newline and quote escaped: label values, and help texts in OpenMetrics."""
    return text.translate(_ESCAPES) if "\\" in text or '"' in text or "\n" in text else text


def number(value: float) -> str:
    """Integers to the last digit, floats as their shortest exact form."""
    if isinstance(value, int) or math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else ("+Inf" if value > 0 else "-Inf")

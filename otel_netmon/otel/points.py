"""The points of one cycle: an immutable snapshot that every exporter reads and none changes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_NOT_PORTABLE = re.compile("[\x00\ud800-\udfff\ufffd]")


@dataclass(frozen=True, slots=True)
class Point:
    """One value of one series.

    Attributes:
        attributes: the identity of the series; keys from ``catalogue.ATTRIBUTES``. Never changed after construction, so
            several points may share one mapping.
        value: in the metric's unit; counters are cumulative since ``start_time_unix_nano``.
        start_time_unix_nano: when counting began, nanoseconds since the epoch. A series that left and came back has a later one.
    """

    attributes: Mapping[str, str | int | float | bool]
    value: int | float
    start_time_unix_nano: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything the agent knows at one moment.

    Attributes:
        time_unix_nano: when the values were read, nanoseconds since the epoch.
        points: catalogue metric name to its points. Attribute sets are unique within a metric.
    """

    time_unix_nano: int
    points: Mapping[str, Sequence[Point]]


def portable_text(text: str) -> str:
    """``text`` as every exporter can carry it: valid UTF-8 without NUL.

    Interface names are bytes to the kernel and reach Python with lone surrogates (PEP 383); protobuf refuses those, and scrapers
    end a label at NUL. Each such character is written as U+FFFD and four hex digits. U+FFFD itself is written that way too,
    so that two different texts never become one series.
    """
    if text.isascii() and "\x00" not in text:
        return text
    return _NOT_PORTABLE.sub(lambda match: f"\ufffd{ord(match[0]):04x}", text)

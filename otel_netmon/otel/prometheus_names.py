"""OpenTelemetry names as Prometheus names.

Rules: OpenTelemetry specification, "Prometheus and OpenMetrics Compatibility", section "OTLP Metric points to Prometheus".
The collector's Prometheus exporter follows the same, so a metric has one name on both ways.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Collection
from typing import Literal

from otel_netmon.otel.text import label_value

Kind = Literal["counter", "updowncounter", "gauge", "histogram"]

_NOT_ALLOWED = re.compile(r"[^a-zA-Z0-9]+")
_ANNOTATION = re.compile(r"\{[^}]*\}")
_UNITS = {"": "", "By": "bytes", "s": "seconds"}


def unit_suffix(unit: str, kind: Kind) -> str:
    """UCUM unit to the word that Prometheus uses, empty where there is none.

    ``{packet}`` and other annotations count something: unitless to Prometheus. ``1`` is a ratio, for gauges only.

    Raises:
        ValueError: a unit this table does not know.
    """
    if unit == "1":
        return "ratio" if kind == "gauge" else ""
    bare = _ANNOTATION.sub("", unit)
    if bare not in _UNITS:
        raise ValueError(f"no Prometheus word for the unit {unit!r}")
    return _UNITS[bare]


def family_name(name: str, unit: str, kind: Kind) -> str:
    """Name of the metric family, with the unit and without ``_total``: ``netmon.protocol.io`` is ``netmon_protocol_io_bytes``."""
    family = _NOT_ALLOWED.sub("_", name)
    suffix = unit_suffix(unit, kind)
    return family if not suffix or family.endswith(f"_{suffix}") else f"{family}_{suffix}"


def sample_name(name: str, unit: str, kind: Kind) -> str:
    """Name of the series as one queries it: the family name, counters with ``_total``.

    The series of a histogram add ``_bucket``, ``_count`` and ``_sum``; a native histogram has the name as it is.
    """
    family = family_name(name, unit, kind)
    return f"{family}_total" if kind == "counter" else family


@functools.cache
def label_name(attribute: str) -> str:
    """Attribute key as label name: ``client.address`` is ``client_address``."""
    label = _NOT_ALLOWED.sub("_", attribute)
    return f"_{label}" if label[:1].isdigit() else label


def label_pairs(attributes: Collection[tuple[str, str | int | float | bool]]) -> list[tuple[str, str]]:
    """Attributes as labels: names that are unique, and values, not escaped.

    Empty values are left out: to Prometheus an empty label is none. Keys that become one name make one label, with the values in
    the order of the keys, separated by semicolons, as the specification wants it; equal keys (of a point and of its resource) in the
    order in which they came.
    """
    pairs = [(label_name(key), label_value(value)) for key, value in attributes if value != ""]
    if len(dict(pairs)) == len(pairs):
        return pairs
    merged: dict[str, list[tuple[str, str]]] = {}
    for key, value in attributes:
        if value != "":
            merged.setdefault(label_name(key), []).append((key, label_value(value)))
    return [
        (name, ";".join(value for _, value in sorted(values, key=operator.itemgetter(0))))
        for name, values in merged.items()
    ]

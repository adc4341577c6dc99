"""A snapshot as text: the Prometheus text format 0.0.4 and OpenMetrics 1.0.0.

Formats: prometheus.io "Exposition formats"; OpenMetrics 1.0.0. Lines are not written one by one: what differs between them, the labels
and the numbers, is put between what they share by slices of lists, a few thousand series at a time, and joined once.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_netmon.otel import prometheus_names
from otel_netmon.otel.attributes import AttributeSet, labels_of
from otel_netmon.otel.catalogue import CATALOGUE, Metric
from otel_netmon.otel.points import Exemplar, HistogramSeries, NumberSeries, Snapshot, number_series
from otel_netmon.otel.text import escaped, number

CHUNK = 2048
"""Lines that are made at once: enough for the speed, few enough for the memory and for the threads that wait."""


def render(snapshot: Snapshot, target: AttributeSet, *, openmetrics: bool) -> Iterator[bytes]:
    """The page in pieces, UTF-8, in the order of the snapshot.

    Args:
        snapshot: what to show; metrics without points are left out.
        target: the resource, shown as ``target_info``; left out when empty.
        openmetrics: OpenMetrics 1.0.0, else the text format 0.0.4.
    """
    if target.labels:
        name, kind = ("target", "info") if openmetrics else ("target_info", "gauge")
        yield f"# HELP {name} Target metadata\n# TYPE {name} {kind}\ntarget_info{{{target.labels}}} 1\n".encode()
    for name, points in snapshot.points.items():
        if len(points):
            family = _family(CATALOGUE[name], openmetrics)
            yield family.head
            if isinstance(points, HistogramSeries):
                yield from _histograms(family, points)
            else:
                yield from _numbers(family, number_series(points, family.value_type))
    if openmetrics:
        yield b"# EOF\n"


@dataclass(frozen=True, slots=True)
class _Family:
    """What all lines of a metric share.

    Attributes:
        name: of the family; ``sample`` of the series.
        created: whether each series tells when counting began.
        exemplars: whether the format has them.
    """

    name: str
    sample: str
    head: bytes
    value_type: type[int | float]
    created: bool
    exemplars: bool


@functools.cache
def _family(metric: Metric, openmetrics: bool) -> _Family:
    name = prometheus_names.family_name(metric.name, metric.unit, metric.kind)
    described = name if openmetrics else metric.prometheus_name
    kind = metric.kind if metric.kind in {"counter", "histogram"} else "gauge"
    help_text = escaped(metric.description) if openmetrics else metric.description.replace("\\", r"\\")
    head = f"# HELP {described} {help_text}\n# TYPE {described} {kind}\n"
    unit = prometheus_names.unit_suffix(metric.unit, metric.kind)
    if openmetrics and unit:
        head += f"# UNIT {name} {unit}\n"
    created = openmetrics and kind != "gauge"
    return _Family(name, metric.prometheus_name, head.encode(), metric.value_type, created, openmetrics)


def _numbers(family: _Family, series: NumberSeries) -> Iterator[bytes]:
    starts = series.start_time_unix_nano.tolist() if family.created else []
    times = {start: seconds(start) for start in set(starts)}
    for begin in range(0, len(series), CHUNK):
        chunk = slice(begin, begin + CHUNK)
        labels = labels_of(series.attributes[chunk])
        opening, closing = "{", "} "
        if "" in labels:
            labels = [f"{{{each}}}" if each else "" for each in labels]
            opening, closing = "", " "
        line = [family.sample + opening, None, closing, None, "\n"]
        if family.created:
            line += [f"{family.name}_created{opening}", None, closing, None, "\n"]
        width = len(line)
        parts: list[Any] = line * len(labels)
        parts[1::width] = labels
        parts[3::width] = _texts(series.values[chunk])
        if family.created:
            parts[6::width] = labels
            parts[8::width] = map(times.__getitem__, starts[chunk])
        yield "".join(parts).encode()


def _texts(values: npt.NDArray[Any]) -> Sequence[str]:
    """Numbers as text: integers to the last digit, floats as their shortest exact form. The list is printed as one."""
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return repr(values.tolist())[1:-1].split(", ")
    return [number(value) for value in values.tolist()]


def _histograms(family: _Family, series: HistogramSeries) -> Iterator[bytes]:
    limits = [*map(bound, series.bounds.tolist()), "+Inf"]
    width = len(limits)
    plain, marked = _template(family, limits, "%d"), _template(family, limits, "%d%s")
    # Where there are no labels there are no braces, and no comma before ``le``.
    plain_bare, marked_bare = (each.replace("\0,", "").replace("{\0}", "") for each in (plain, marked))
    bounds = series.bounds.tolist()
    rows = max(1, CHUNK // (width + 3))
    for begin in range(0, len(series), rows):
        chunk = slice(begin, begin + rows)
        cumulated = np.cumsum(series.bucket_counts[chunk], axis=1, dtype=np.uint64)
        counts, sums = series.count[chunk].tolist(), series.sum[chunk].tolist()
        columns = [labels_of(series.attributes[chunk]), cumulated.tolist(), counts, sums]
        starts = series.start_time_unix_nano[chunk].tolist()
        exemplars = series.exemplars[chunk] if family.exemplars else [()] * len(starts)
        texts = []
        for labels, buckets, count, total, start, marks in zip(*columns, starts, exemplars, strict=True):
            tail = (count, number(total), seconds(start)) if family.created else (count, number(total))
            if marks:
                fields: list[Any] = [None, ""] * width
                fields[0::2] = buckets
                for mark in marks:
                    fields[2 * bisect.bisect_left(bounds, mark.value) + 1] = _exemplar(mark)
                text = (marked if labels else marked_bare) % (*fields, *tail)
            else:
                text = (plain if labels else plain_bare) % (*buckets, *tail)
            texts.append(text.replace("\0", labels))
        yield "".join(texts).encode()


def _template(family: _Family, limits: Sequence[str], count: str) -> str:
    """All lines of one histogram; NUL, which no label holds, stands where its labels go."""
    lines = [f'{family.name}_bucket{{\0,le="{limit}"}} {count}\n' for limit in limits]
    lines += [f"{family.name}_count{{\0}} %d\n", f"{family.name}_sum{{\0}} %s\n"]
    if family.created:
        lines.append(f"{family.name}_created{{\0}} %s\n")
    return "".join(lines)


def _exemplar(exemplar: Exemplar) -> str:
    ids = f'trace_id="{exemplar.trace_id.hex()}",span_id="{exemplar.span_id.hex()}"'
    return f" # {{{ids}}} {number(exemplar.value)} {seconds(exemplar.time_unix_nano)}"


def bound(limit: float) -> str:
    """The value of a label ``le``: a canonical number of OpenMetrics, which is what Go prints for ``%g`` with ``.0`` on integers.

    The text is the identity of the series, so all exposers must agree on it.
    """
    text = number(limit)
    sign, digits = ("-", text[1:]) if limit < 0 else ("", text)
    exponent = digits.find(".") - 1
    if exponent < 6:
        return text
    digits = digits.replace(".", "").rstrip("0")
    return f"{sign}{digits[0]}{'.' if digits[1:] else ''}{digits[1:]}e+{exponent:02d}"


def seconds(nanoseconds: int) -> str:
    """Nanoseconds since the epoch as seconds, without the rounding of a float."""
    return f"{nanoseconds // 1_000_000_000}.{nanoseconds % 1_000_000_000:09d}"

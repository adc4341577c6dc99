"""The metrics page: the current snapshot in the Prometheus text format or, when the scraper prefers it, in OpenMetrics.

Formats: Prometheus "Exposition formats" (text 0.0.4) and OpenMetrics 1.0.0. Names: ``otel.prometheus_names``. The text is written
here and not by a client library's registry: a line costs a tenth, and no instrument keeps a series that has left. The client
library's parsers and the stock OpenTelemetry exporter are the oracles of the tests.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping

from opentelemetry.util.types import AnyValue

from otel_netmon.otel import prometheus_names
from otel_netmon.otel.catalogue import CATALOGUE, Metric
from otel_netmon.otel.points import Point, Snapshot, portable_text

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_NEEDS_ESCAPE = re.compile(r'[\\\n"]|[^\x01-\x7f]')


class NoSnapshotError(Exception):
    """Nothing has been read yet: there is no page."""


class MetricsPage:
    """Renders the current snapshot, for any number of scrapers at once.

    Args:
        snapshot_source: returns the current snapshot, None before the first reading.
        resource: resource attributes, served as ``target_info``.
    """

    def __init__(self, snapshot_source: Callable[[], Snapshot | None], resource: Mapping[str, AnyValue]) -> None:
        self._snapshot_source = snapshot_source
        self._target = _labels({key: _target_value(value) for key, value in resource.items()})
        self._last: tuple[tuple[int, int, str], bytes] | None = None

    def render(self, accept_header: str = "") -> tuple[str, bytes]:
        """The page in the format that the scraper's Accept header prefers.

        Scrapers that ask within one cycle share one page, so that slow ones do not multiply it in memory.

        Returns:
            Content type and body.

        Raises:
            NoSnapshotError: before the first reading.
        """
        snapshot = self._snapshot_source()
        if snapshot is None:
            raise NoSnapshotError
        content_type = negotiate(accept_header)
        key = (id(snapshot), snapshot.time_unix_nano, content_type)
        last = self._last
        if last is not None and last[0] == key:
            return content_type, last[1]
        body = "".join(self._lines(snapshot, openmetrics=content_type == OPENMETRICS)).encode()
        self._last = (key, body)
        return content_type, body

    def _lines(self, snapshot: Snapshot, *, openmetrics: bool) -> Iterable[str]:
        if self._target:
            name, kind = ("target", "info") if openmetrics else ("target_info", "gauge")
            yield f"# HELP {name} Target metadata\n# TYPE {name} {kind}\ntarget_info{{{self._target}}} 1\n"
        for name, points in snapshot.points.items():
            if points:
                yield from _family(CATALOGUE[name], points, openmetrics=openmetrics)
        if openmetrics:
            yield "# EOF\n"


def negotiate(accept_header: str) -> str:
    """Content type for an Accept header: OpenMetrics 1.0.0 where it is asked for and not ranked below the text format.

    RFC 9110 section 12.5.1. Anything unknown gets the text format, which every scraper reads.
    """
    quality = {OPENMETRICS: 0.0, TEXT: 0.0}
    for media_range in accept_header.split(","):
        media_type, *parameters = (part.strip().lower() for part in media_range.split(";"))
        values = dict(parameter.split("=", 1) for parameter in parameters if "=" in parameter)
        if media_type == "application/openmetrics-text" and values.get("version", "1.0.0") == "1.0.0":
            offer = OPENMETRICS
        elif media_type in {"text/plain", "text/*", "*/*"}:
            offer = TEXT
        else:
            continue
        quality[offer] = max(quality[offer], _quality(values.get("q", "1")))
    return OPENMETRICS if quality[OPENMETRICS] > 0 and quality[OPENMETRICS] >= quality[TEXT] else TEXT


def _quality(text: str) -> float:
    """Weight of RFC 9110 section 12.4.2; one that cannot be read excludes its media range."""
    return float(text) if re.fullmatch(r"0(\.\d{0,3})?|1(\.0{0,3})?", text) else 0.0


def _family(metric: Metric, points: Iterable[Point], *, openmetrics: bool) -> Iterable[str]:
    family = prometheus_names.family_name(metric.name, metric.unit, metric.kind)
    sample = metric.prometheus_name
    counter = metric.kind == "counter"
    described = family if openmetrics else sample
    help_text = metric.description.translate(_ESCAPES) if openmetrics else metric.description.replace("\\", r"\\")
    yield f"# HELP {described} {help_text}\n# TYPE {described} {'counter' if counter else 'gauge'}\n"
    unit = prometheus_names.unit_suffix(metric.unit, metric.kind)
    if openmetrics and unit:
        yield f"# UNIT {family} {unit}\n"
    for point in points:
        labels = _labels(point.attributes)
        braces = f"{{{labels}}}" if labels else ""
        yield f"{sample}{braces} {_number(metric.value_type(point.value))}\n"
        if counter and openmetrics:
            yield f"{family}_created{braces} {_seconds(point.start_time_unix_nano)}\n"


def _labels(attributes: Mapping[str, str | int | float | bool]) -> str:
    """Label pairs without braces. Empty values are left out: to Prometheus an empty label is an absent one."""
    return ",".join(
        f'{prometheus_names.label_name(key)}="{_label_value(value)}"'
        for key, value in attributes.items()
        if value != ""
    )


def _label_value(value: str | float | bool) -> str:
    if isinstance(value, str):
        return portable_text(value).translate(_ESCAPES) if _NEEDS_ESCAPE.search(value) else value
    if isinstance(value, bool):
        return "true" if value else "false"
    return _number(value)


def _target_value(value: AnyValue) -> str | int | float | bool:
    """Resource attributes are labels too; what is no scalar is written as Python shows it."""
    return value if isinstance(value, (str, int, float, bool)) else str(value)


def _number(value: float) -> str:
    """Integers to the last digit, floats as their shortest exact form."""
    if isinstance(value, int) or math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else ("+Inf" if value > 0 else "-Inf")


def _seconds(nanoseconds: int) -> str:
    """Nanoseconds since the epoch as seconds, without the rounding of a float."""
    return f"{nanoseconds // 1_000_000_000}.{nanoseconds % 1_000_000_000:09d}"

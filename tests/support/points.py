"""Metric points as a collector says that it received them, from the collector's own output."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

Scalar = str | int | float | bool
AttributeValue = Scalar | Sequence[Scalar]


@dataclass(frozen=True)
class Histogram:
    """A histogram point: ``len(counts) == len(bounds) + 1``."""

    count: int
    sum: float
    bounds: list[float]
    counts: list[int]


@dataclass(frozen=True)
class Exponential:
    """An exponential histogram point: counts of its positive buckets, from the lowest to the highest in use."""

    count: int
    sum: float
    counts: list[int]


class Point(NamedTuple):
    """One data point. Times are Unix nanoseconds; ``start_time`` is 0 where there is none (gauges).

    The end of a series (NO_RECORDED_VALUE) has the value None and is left out unless asked for.
    """

    name: str
    unit: str
    kind: str  # sum, gauge, histogram, exponentialHistogram
    attributes: Mapping[str, AttributeValue]
    value: Any  # int, float, Histogram, Exponential, None
    start_time: int
    time: int
    resource: Mapping[str, AttributeValue]


# ------------------------------------------------------------------------------ OTLP JSON (the collector's file exporter)
def points_of_otlp_json(text: str, *, ends: bool = False) -> list[Point]:
    """Reads lines of OTLP JSON, one ``MetricsData`` each; a last line without its end is not read yet.

    Args:
        ends: give the ends of series alone.
    """
    complete = text[: text.rfind("\n") + 1]
    found = (point for line in complete.splitlines() for point in _metrics_data(json.loads(line)))
    return [point for point in found if (point.value is None) == ends]


def _metrics_data(data: dict[str, Any]) -> Iterator[Point]:
    for resource_metrics in data.get("resourceMetrics", ()):  # lines of other signals have none
        resource = _attributes(resource_metrics["resource"].get("attributes", []))
        for scope_metrics in resource_metrics["scopeMetrics"]:
            for metric in scope_metrics["metrics"]:
                kind = next(name for name in VALUES if name in metric)
                for point in metric[kind]["dataPoints"]:
                    yield Point(
                        name=metric["name"],
                        unit=metric.get("unit", ""),
                        kind=kind,
                        attributes=_attributes(point.get("attributes", [])),
                        value=None if point.get("flags", 0) & 1 else VALUES[kind](point),
                        start_time=int(point.get("startTimeUnixNano", 0)),
                        time=int(point["timeUnixNano"]),
                        resource=resource,
                    )


class Span(NamedTuple):
    """One span. Times are Unix nanoseconds, identities are hexadecimal; the parent of a root is empty."""

    name: str
    trace_id: str
    span_id: str
    start_time: int
    end_time: int
    attributes: Mapping[str, AttributeValue]
    parent_id: str
    kind: int
    scope: str
    resource: Mapping[str, AttributeValue]


def spans_of_otlp_json(text: str) -> list[Span]:
    """Reads lines of OTLP JSON, one ``TracesData`` each; a last line without its end is not read yet."""
    return [
        Span(
            span["name"],
            span["traceId"],
            span["spanId"],
            int(span["startTimeUnixNano"]),
            int(span["endTimeUnixNano"]),
            _attributes(span.get("attributes", [])),
            span.get("parentSpanId", ""),
            int(span["kind"]),
            scope_spans["scope"].get("name", ""),
            _attributes(resource_spans["resource"].get("attributes", [])),
        )
        for line in text[: text.rfind("\n") + 1].splitlines()
        for resource_spans in json.loads(line).get("resourceSpans", ())  # lines of other signals have none
        for scope_spans in resource_spans["scopeSpans"]
        for span in scope_spans["spans"]
    ]


def identity(point: Point) -> tuple[str, str]:
    """What tells series apart at a receiver: metric, attributes and what they are about."""
    return point.name, json.dumps([point.attributes, point.resource], sort_keys=True)


def repeated(points: Sequence[Point]) -> list[Point]:
    """Points that came more than once, each as often as it came again.

    Raises:
        AssertionError: one of them came again with another value.
    """
    first: dict[tuple[str, str, int, int], Point] = {}
    again = []
    for point in points:
        known = first.setdefault((*identity(point), point.start_time, point.time), point)
        if known is not point:
            assert known.value == point.value, (known, point)
            again.append(point)
    return again


def _number(point: dict[str, Any]) -> int | float:
    return int(point["asInt"]) if "asInt" in point else float(point["asDouble"])


def _histogram(point: dict[str, Any]) -> Histogram:
    return Histogram(
        count=int(point.get("count", 0)),
        sum=float(point.get("sum", 0)),
        bounds=[float(bound) for bound in point.get("explicitBounds", [])],
        counts=[int(count) for count in point.get("bucketCounts", [])],
    )


def _exponential(point: dict[str, Any]) -> Exponential:
    counts = point.get("positive", {}).get("bucketCounts", [])
    return Exponential(int(point.get("count", 0)), float(point.get("sum", 0)), [int(count) for count in counts])


VALUES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "sum": _number,
    "gauge": _number,
    "histogram": _histogram,
    "exponentialHistogram": _exponential,
}


def _attributes(pairs: list[dict[str, Any]]) -> dict[str, AttributeValue]:
    return {pair["key"]: _value(pair["value"]) for pair in pairs}


def _value(value: dict[str, Any]) -> AttributeValue:
    ((kind, content),) = value.items()
    if kind == "arrayValue":
        return [_scalar(*next(iter(element.items()))) for element in content.get("values", [])]
    return _scalar(kind, content)


def _scalar(kind: str, content: Any) -> Scalar:
    convert: dict[str, Callable[[Any], Scalar]]
    convert = {"stringValue": str, "intValue": int, "doubleValue": float, "boolValue": bool}
    return convert[kind](content)


# ----------------------------------------------------------------------------------- the detailed debug log of rotel
_ATTRIBUTE = re.compile(r" {5}-> (?P<key>.+?): (?P<value>(?:Str|Int|Double|Bool|Slice)\(.*\))", re.DOTALL)
_FIELD = re.compile(r"(?: {5}-> )?(?P<name>[A-Z][A-Za-z]*): ?(?P<value>.*)", re.DOTALL)
_BUCKET = re.compile(r"Buckets? (?:#\d+|[(\[].*[)\]]), Count: (\d+)")
_BOUND = re.compile(r"ExplicitBounds #\d+: (.+)")
_EXEMPLAR = re.compile(r"Exemplar #\d+")
_POINT = re.compile(r"(Number|Histogram|ExponentialHistogram)DataPoints #\d+")
_HEADING = re.compile(
    r"(?P<heading>Resource attributes:|Data point attributes:|InstrumentationScope .*|Descriptor:"
    r"|(?:ResourceMetrics|ScopeMetrics|Metric) #\d+|(?:Resource|ScopeMetrics) SchemaURL: .*)"
)
_LOG_LINE = re.compile(r"\d{4}-\d{2}-\d{2}T[\d:.]+Z +[A-Z]+ ")
_SCALAR = re.compile(r"(Str|Int|Double|Bool)\(((?:[^()]|\([^()]*\))*)\)")


class _Open:
    """The point that is being read."""

    def __init__(self, name: str, unit: str, kind: str, resource: dict[str, AttributeValue]) -> None:
        self.name, self.unit, self.kind, self.resource = name, unit, kind, resource
        self.attributes: dict[str, AttributeValue] = {}
        self.fields: dict[str, str] = {}
        self.bounds: list[float] = []
        self.counts: list[int] = []

    @property
    def complete(self) -> bool:
        if self.kind == "histogram":
            return "Sum" in self.fields and len(self.counts) == len(self.bounds) + 1
        if self.kind == "exponentialHistogram":
            return "Sum" in self.fields and sum(self.counts) == int(self.fields["Count"])
        return "Value" in self.fields

    @property
    def ended(self) -> bool:
        """The end of a series: times and no value."""
        return "Timestamp" in self.fields and not {"Value", "Sum"} & self.fields.keys()

    def point(self) -> Point:
        if not self.complete:
            msg = f"the collector's log breaks off inside a point of {self.name}"
            raise ValueError(msg)
        value: Any
        if self.kind == "histogram":
            value = Histogram(int(self.fields["Count"]), float(self.fields["Sum"]), self.bounds, self.counts)
        elif self.kind == "exponentialHistogram":
            value = Exponential(int(self.fields["Count"]), float(self.fields["Sum"]), self.counts)
        else:
            value = _rust_number(self.fields["Value"])
        times = int(self.fields["StartTimestamp"]), int(self.fields["Timestamp"])
        return Point(self.name, self.unit, self.kind, self.attributes, value, *times, self.resource)


def points_of_rotel_log(text: str) -> list[Point]:
    """Reads what rotel prints with ROTEL_DEBUG_LOG_VERBOSITY=detailed; a last point that is not whole is not read yet.

    A whole floating point number is printed like an integer and is returned as one: they compare equal.
    """
    points: list[Point] = []
    resource: dict[str, AttributeValue] = {}
    into: dict[str, AttributeValue] = {}
    metric: dict[str, str] = {}
    current: _Open | None = None
    for line in _without_exemplars(_joined(text[: text.rfind("\n") + 1])):
        if (match := _POINT.fullmatch(line)) or _HEADING.fullmatch(line) or _LOG_LINE.match(line):
            if current is not None and line != "Data point attributes:":
                if not current.ended:
                    points.append(current.point())
                current = None
            if match:
                kind = metric["DataType"][0].lower() + metric["DataType"][1:]
                current = _Open(metric["Name"], metric["Unit"], kind, resource)
            elif line == "Resource attributes:":
                into = resource = {}
            elif line == "Data point attributes:" and current is not None:
                into = current.attributes
            elif line.startswith("InstrumentationScope "):
                into = {}  # a scope's own attributes are no part of a point
            elif line == "Descriptor:":
                metric = {}
        elif match := _ATTRIBUTE.fullmatch(line):
            into[match["key"]] = _rotel_value(match["value"])
        elif current is not None and (match := _BUCKET.fullmatch(line)):
            current.counts.append(int(match[1]))
        elif current is not None and (match := _BOUND.fullmatch(line)):
            current.bounds.append(float(match[1]))
        elif match := _FIELD.fullmatch(line):
            (metric if current is None else current.fields)[match["name"]] = match["value"]
        else:
            msg = f"not a line of the collector's debug log: {line!r}"
            raise ValueError(msg)
    if current is not None and current.complete:
        points.append(current.point())
    return points


def _without_exemplars(lines: Iterator[str]) -> Iterator[str]:
    """The lines but those of exemplars, which stand at the end of a point."""
    inside = False
    for line in lines:
        inside = bool(_EXEMPLAR.fullmatch(line)) or (
            inside and not (_POINT.fullmatch(line) or _HEADING.fullmatch(line) or _LOG_LINE.match(line))
        )
        if not inside:
            yield line


def _joined(text: str) -> Iterator[str]:
    """The lines, with a string value that holds line breaks put together again: it ends with its bracket.

    A line break behind a bracket inside a value cannot be told from the end of the value; the line after it is refused.
    """
    pending = ""
    for line in text.splitlines():
        pending = f"{pending}\n{line}" if pending else line
        if " -> " in pending and ": Str(" in pending and not pending.endswith(")"):
            continue
        yield pending
        pending = ""


def _rotel_value(text: str) -> AttributeValue:
    if text.startswith("Slice("):
        return [_rotel_scalar(kind, content) for kind, content in _SCALAR.findall(text[len("Slice(") : -1])]
    kind, _, content = text.partition("(")
    return _rotel_scalar(kind, content[:-1])


def _rotel_scalar(kind: str, content: str) -> Scalar:
    convert: dict[str, Callable[[str], Scalar]]
    convert = {"Str": str, "Int": int, "Double": float, "Bool": lambda text: text == "true"}
    return convert[kind](content)


def _rust_number(text: str) -> int | float:
    return int(text) if re.fullmatch(r"-?\d+", text) else float(text)

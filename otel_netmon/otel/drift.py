"""Does a snapshot keep to the catalogue? Asked by the tests of everything that makes points."""

from __future__ import annotations

from otel_netmon.otel.catalogue import ATTRIBUTES, CATALOGUE
from otel_netmon.otel.points import Snapshot


def problems(snapshot: Snapshot) -> list[str]:
    """Where a snapshot departs from the catalogue: unknown names, undeclared attributes, wrong types, attribute sets used twice."""
    found: list[str] = []
    for name, points in snapshot.points.items():
        metric = CATALOGUE.get(name)
        if metric is None:
            found.append(f"{name}: not in the catalogue")
            continue
        seen: set[frozenset[tuple[str, object]]] = set()
        for point in points:
            for key, value in point.attributes.items():
                if key not in metric.attributes:
                    found.append(f"{name}: attribute {key} is not declared")
                elif type(value) is not ATTRIBUTES[key].type:
                    found.append(
                        f"{name}: attribute {key} is {type(value).__name__}, not {ATTRIBUTES[key].type.__name__}"
                    )
            identity = frozenset(point.attributes.items())
            if identity in seen:
                found.append(f"{name}: two points with {dict(point.attributes)}")
            seen.add(identity)
            if isinstance(point.value, bool) or not isinstance(point.value, (int, metric.value_type)):
                found.append(f"{name}: value {point.value!r} is not {metric.value_type.__name__}")
            elif metric.kind == "counter" and point.value < 0:
                found.append(f"{name}: counter with the negative value {point.value!r}")
            if not 0 < point.start_time_unix_nano <= snapshot.time_unix_nano:
                found.append(f"{name}: start time {point.start_time_unix_nano} is not before {snapshot.time_unix_nano}")
    return found

"""Snapshots to export: one with every metric of the catalogue, and ones of any size."""

from __future__ import annotations

from otel_netmon.otel.attributes import AttributeSet
from otel_netmon.otel.catalogue import ATTRIBUTES, CATALOGUE
from otel_netmon.otel.points import Point, Points, Snapshot
from support.distributions import histogram_series

START, END = 1_700_000_000_000_000_001, 1_700_000_010_000_000_003
OVERFLOW: dict[str, str | int | float | bool] = {"network.io.direction": "receive", "otel.metric.overflow": True}


def every_metric() -> Snapshot:
    """Two points of each metric, the second with other values of all attributes where they have some, flows with their rest."""
    points: dict[str, Points] = {}
    for number, metric in enumerate(CATALOGUE.values(), start=1):
        keys = [key for key in metric.attributes if key not in {"otel.metric.overflow", "netmon.network.namespace"}]
        sets = {
            tuple((key, ATTRIBUTES[key].examples[i % len(ATTRIBUTES[key].examples)]) for key in keys) for i in (0, 1)
        }
        attributes = [dict[str, str | int | float | bool](pairs) for pairs in sorted(sets, key=repr)]
        if metric.kind == "histogram":
            values = [[2.0 ** -(place + number % 4), 4.0] for place in range(len(attributes))]
            of = [AttributeSet.of(each) for each in attributes]
            points[metric.name] = histogram_series(of, [START] * len(of), values, [2] * len(of), metric.bounds)
            continue
        points[metric.name] = [
            *(
                Point(each, metric.value_type(value), START)
                for value, each in enumerate(attributes, start=1000 * number)
            ),
            *(
                [Point({key: value for key, value in OVERFLOW.items() if key in metric.attributes}, 2**53 + 1, START)]
                if "otel.metric.overflow" in metric.attributes
                else []
            ),
        ]
    return Snapshot(END, points)


def flows(count: int, *, time_unix_nano: int = END) -> Snapshot:
    """``count`` points of netmon.flow.packets with the values 1 to ``count``."""
    points = [
        Point({"client.address": "10.0.0.1", "server.address": "10.0.0.2", "server.port": port}, port, START)
        for port in range(1, count + 1)
    ]
    return Snapshot(time_unix_nano, {"netmon.flow.packets": points})

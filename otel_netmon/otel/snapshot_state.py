"""A snapshot as plain arrays and back, for the checkpoint: what differences are told from must outlive the process."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from otel_netmon.otel.attributes import AttributeSet
from otel_netmon.otel.catalogue import CATALOGUE
from otel_netmon.otel.points import HistogramSeries, NumberSeries, Points, Snapshot, number_series

_COLUMNS = (
    "count", "sum", "minimum", "maximum", "scale", "offset", "zero_count", "buckets", "bounds", "bucket_counts",
)  # fmt: skip


def snapshot_state(snapshot: Snapshot) -> dict[str, Any]:
    """The snapshot without its exemplars, as arrays, bytes and integers by name."""
    state: dict[str, Any] = {"time_unix_nano": snapshot.time_unix_nano}
    for name, points in snapshot.points.items():
        if isinstance(points, HistogramSeries):
            state |= {f"{name}/{column}": getattr(points, column) for column in _COLUMNS}
            series: NumberSeries | HistogramSeries = points
        else:
            series = number_series(points, CATALOGUE[name].value_type)
            state[f"{name}/values"] = series.values
        encoded = [attributes.encoded for attributes in series.attributes]
        state[f"{name}/attributes"] = b"".join(encoded)
        state[f"{name}/lengths"] = np.array([len(each) for each in encoded], np.int64)
        state[f"{name}/start"] = series.start_time_unix_nano
    return state


def restored_snapshot(state: Mapping[str, Any]) -> Snapshot:
    """The snapshot that ``snapshot_state`` was given."""
    points: dict[str, Points] = {}
    for key in state:
        name, _, part = key.rpartition("/")
        if part == "attributes" and name in CATALOGUE:
            points[name] = _points(name, state)
    return Snapshot(int(state["time_unix_nano"]), points)


def _points(name: str, state: Mapping[str, Any]) -> Points:
    attributes = _attribute_sets(state[f"{name}/attributes"], state[f"{name}/lengths"].tolist())
    start = state[f"{name}/start"]
    if f"{name}/values" in state:
        return NumberSeries(attributes, start, state[f"{name}/values"])
    columns = {column: state[f"{name}/{column}"] for column in _COLUMNS}
    return HistogramSeries(attributes, start, **columns, exemplars=[()] * len(attributes))


def _attribute_sets(encoded: bytes, lengths: Sequence[int]) -> list[AttributeSet]:
    ends = np.cumsum([0, *lengths]).tolist()
    return [AttributeSet(encoded[begin:end]) for begin, end in itertools.pairwise(ends)]

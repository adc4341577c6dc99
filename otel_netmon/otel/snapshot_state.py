"""A snapshot as plain arrays and back, for the checkpoint: what differences are told from must outlive the process."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

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
        state[f"{name}/attributes"], state[f"{name}/lengths"] = _joined([each.encoded for each in series.attributes])
        resources = {each.resource: 0 for each in series.attributes}
        if any(resources):
            resources = {resource: place for place, resource in enumerate(resources)}
            state[f"{name}/resources"], state[f"{name}/resource_lengths"] = _joined(resources)
            state[f"{name}/resource"] = np.array([resources[each.resource] for each in series.attributes], np.int32)
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
    encoded = _parts(state[f"{name}/attributes"], state[f"{name}/lengths"])
    if f"{name}/resource" in state:
        resources = _parts(state[f"{name}/resources"], state[f"{name}/resource_lengths"])
        places = state[f"{name}/resource"].tolist()
        attributes = [AttributeSet(each, resources[place]) for each, place in zip(encoded, places, strict=True)]
    else:
        attributes = list(map(AttributeSet, encoded))
    start = state[f"{name}/start"]
    if f"{name}/values" in state:
        return NumberSeries(attributes, start, state[f"{name}/values"])
    columns = {column: state[f"{name}/{column}"] for column in _COLUMNS}
    return HistogramSeries(attributes, start, **columns, exemplars=[()] * len(attributes))


def _joined(parts: Collection[bytes]) -> tuple[bytes, npt.NDArray[np.int64]]:
    return b"".join(parts), np.fromiter(map(len, parts), np.int64, len(parts))


def _parts(joined: bytes, lengths: npt.NDArray[np.int64]) -> list[bytes]:
    return [joined[begin:end] for begin, end in itertools.pairwise([0, *np.cumsum(lengths).tolist()])]

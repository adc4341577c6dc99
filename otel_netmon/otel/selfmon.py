"""What the agent tells about itself to points: stages, probes, programs, maps, series, receiver counters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from otel_netmon.kernel.syscalls import ProgramInfo
from otel_netmon.otel.catalogue import CATALOGUE
from otel_netmon.otel.points import Point, Snapshot
from otel_netmon.selfmon.status import ProbeStatus, StageStatus

_RECEIVER = {"receiver": "otel_netmon", "transport": "ebpf"}


def stage_points(
    inside: Mapping[tuple[str, str], StageStatus], export: Mapping[tuple[str, str, str], StageStatus], start_ns: int
) -> dict[str, list[Point]]:
    """Gives netmon.pipeline.items: at each stage produced = delivered + dropped.

    Args:
        inside: items before they are exported, by stage and signal.
        export: items by destination, stage and signal.
        start_ns: start of the process that counts.
    """
    points: list[Point] = []
    for (stage, signal), status in inside.items():
        points += _items({"netmon.stage": stage, "netmon.signal": signal}, status, start_ns)
    for (destination, stage, signal), status in export.items():
        side = {"netmon.stage": stage, "netmon.signal": signal, "netmon.destination": destination}
        points += _items(side, status, start_ns)
    return {"netmon.pipeline.items": points}


def _items(side: Mapping[str, str], status: StageStatus, start_ns: int) -> Iterator[Point]:
    yield Point({**side, "netmon.outcome": "delivered"}, status["delivered"], start_ns)
    for reason, count in status["dropped"].items():
        yield Point({**side, "netmon.outcome": "dropped", "netmon.reason": reason}, count, start_ns)


def probe_points(probes: Iterable[ProbeStatus], start_ns: int) -> dict[str, list[Point]]:
    """Gives netmon.probe.state: one point a probe, for the state it is in."""
    points = []
    for probe in probes:
        attributes = {"netmon.probe": probe["name"], "netmon.state": probe["state"]}
        if probe["reason"]:
            attributes["netmon.reason"] = probe["reason"]
        points.append(Point(attributes, 1, start_ns))
    return {"netmon.probe.state": points}


def program_points(programs: Iterable[ProgramInfo], start_ns: int) -> dict[str, list[Point]]:
    """Gives netmon.bpf.program.*, variants of one program added up; nothing while the kernel keeps no statistics."""
    sums: dict[str, list[int]] = {}
    for program in programs:
        total = sums.setdefault(program.name, [0, 0])
        total[0] += program.run_count
        total[1] += program.run_time_ns
    if not any(runs for runs, _ in sums.values()):
        return {}
    return {
        "netmon.bpf.program.runs": [
            Point({"netmon.bpf.program.name": name}, runs, start_ns) for name, (runs, _) in sums.items()
        ],
        "netmon.bpf.program.run_time": [
            Point({"netmon.bpf.program.name": name}, nanoseconds / 1e9, start_ns)
            for name, (_, nanoseconds) in sums.items()
        ],
    }


def map_points(maps: Mapping[str, tuple[int, int]], start_ns: int) -> dict[str, list[Point]]:
    """Gives netmon.bpf.map.*: entries in use and capacity by map name."""
    return {
        "netmon.bpf.map.entries": [Point({"netmon.bpf.map.name": n}, used, start_ns) for n, (used, _) in maps.items()],
        "netmon.bpf.map.capacity": [Point({"netmon.bpf.map.name": n}, room, start_ns) for n, (_, room) in maps.items()],
    }


def receiver_points(accepted_points: int, start_ns: int) -> dict[str, list[Point]]:
    """Gives the receiver counters: metric points handed to the exporters since the start."""
    return {
        "otelcol_receiver_accepted_metric_points": [Point(_RECEIVER, accepted_points, start_ns)],
        "otelcol_receiver_refused_metric_points": [Point(_RECEIVER, 0, start_ns)],
        "otelcol_receiver_failed_metric_points": [Point(_RECEIVER, 0, start_ns)],
    }


def exported_points(snapshot: Snapshot) -> int:
    """Points of the snapshot that go out by OTLP."""
    return sum(len(points) for name, points in snapshot.points.items() if not CATALOGUE[name].prometheus_only)

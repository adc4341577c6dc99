"""What the agent tells about itself to points: stages, probes, programs, maps, series, receiver counters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from otel_netmon.kernel.syscalls import ProgramInfo
from otel_netmon.otel.points import Point
from otel_netmon.selfmon.status import ProbeStatus, StageStatus

SIGNALS = {"kernel": "packets", "export": "metric_points"}
_RECEIVER = {"receiver": "otel_netmon", "transport": "ebpf"}


def stage_points(stages: Mapping[str, StageStatus], start_ns: int) -> dict[str, list[Point]]:
    """Gives netmon.pipeline.items: at each stage produced = delivered + dropped."""
    points = []
    for stage, status in stages.items():
        side = {"netmon.stage": stage, "netmon.signal": SIGNALS[stage]}
        points.append(Point({**side, "netmon.outcome": "delivered"}, status["delivered"], start_ns))
        for reason, count in status["dropped"].items():
            points.append(
                Point({**side, "netmon.outcome": "dropped", "netmon.reason": reason}, count, start_ns),
            )
    return {"netmon.pipeline.items": points}


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


def size_points(
    maps: Mapping[str, tuple[int, int]], series: tuple[int, int], accepted_points: int, start_ns: int
) -> dict[str, list[Point]]:
    """Gives netmon.bpf.map.*, netmon.series.* and the receiver counters.

    Args:
        maps: entries in use and capacity by map name.
        series: flow series exported in this cycle, and at most.
        accepted_points: metric points handed to the exporters since the start.
    """
    return {
        "netmon.bpf.map.entries": [Point({"netmon.bpf.map.name": n}, used, start_ns) for n, (used, _) in maps.items()],
        "netmon.bpf.map.capacity": [Point({"netmon.bpf.map.name": n}, room, start_ns) for n, (_, room) in maps.items()],
        "netmon.series.active": [Point({}, series[0], start_ns)],
        "netmon.series.limit": [Point({}, series[1], start_ns)],
        "otelcol_receiver_accepted_metric_points": [Point(_RECEIVER, accepted_points, start_ns)],
        "otelcol_receiver_refused_metric_points": [Point(_RECEIVER, 0, start_ns)],
        "otelcol_receiver_failed_metric_points": [Point(_RECEIVER, 0, start_ns)],
    }

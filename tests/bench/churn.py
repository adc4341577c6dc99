"""Churn in compressed time: does anything grow that should not?

    python -m bench.churn --seconds 300

An export each 0.1 s, series and flows that end after 1 s, and all the time new flows, new names, scrapes, and now and then an
interface that comes and goes: as many cycles as hours of the defaults (10 s). The warm-up fills the caches that are bounded by size.
Prints the slope over time of what the processes hold themselves (PSS without pages of files) by least squares, with its standard error
(corrected for neighbours that are alike), and descriptors, threads and map entries before and after. Needs root.
"""

from __future__ import annotations

import argparse
import itertools
import socket
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bench.memory import held
from support.agent import Agent, agent
from support.collectors import otelcol
from support.lookups import Lookups
from support.netns import NetNs, Veth, veth_pair
from support.traffic import gained, on_page, udp_frame

INTERVAL = 0.1
HOUR_CYCLES = 360
"""Cycles of an hour by default."""
STEP_FLOWS, STEP_NAMES = 100, 500
SLOPE_MB = 0.1
"""What an hour may add before it counts, when the slope is more than noise."""


class Slope(NamedTuple):
    """MB a second, with its standard error."""

    value: float
    error: float


def slope(times: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> Slope:
    """By least squares; the error counts as many independent readings as the correlation of neighbours leaves."""
    centred = times - times.mean()
    value = float((centred * values).sum() / (centred**2).sum())
    rest = values - values.mean() - value * centred
    alike = float(np.corrcoef(rest[:-1], rest[1:])[0, 1]) if rest.any() else 0.0
    independent = max(3.0, len(values) * (1 - alike) / (1 + alike))
    error = float(np.sqrt((rest**2).mean() * len(values) / (independent - 2) / (centred**2).sum()))
    return Slope(value, error)


class Resources(NamedTuple):
    """What is to be the same before and after."""

    descriptors: dict[str, int]
    threads: dict[str, int]
    entries: dict[str, int]


def resources(running: Agent) -> Resources:
    """Of supervisor and pipeline."""
    pids = {"supervisor": running.pid, "pipeline": running.pipeline_pid()}
    entries = running.samples("netmon_bpf_map_entries")
    return Resources(
        {name: len(list(Path(f"/proc/{pid}/fd").iterdir())) for name, pid in pids.items()},
        {name: len(list(Path(f"/proc/{pid}/task").iterdir())) for name, pid in pids.items()},
        {labels["netmon_bpf_map_name"]: int(value) for labels, value in entries},
    )


def rested(running: Agent) -> Resources:
    """Waits until the flows have left the table; then the fewest of some readings, since a scrape has a descriptor too."""
    running.wait(lambda: running.status()["flows"]["live"] == 0, 60.0, "an empty flow table")
    readings = []
    for _ in range(10):
        readings.append(resources(running))
        time.sleep(INTERVAL)
    return min(readings, key=lambda each: sum(each.descriptors.values()))


def churn(place: tuple[NetNs, NetNs, Veth], lookups: Lookups | None, steps: Iterator[int]) -> None:
    """New flows from addresses never seen, new names, and at times an interface."""
    left, right, pair = place
    step = next(steps)
    clients = range(step * STEP_FLOWS, (step + 1) * STEP_FLOWS)
    addresses = [socket.inet_ntoa(struct.pack(">I", (10 << 24) + client % (1 << 24))) for client in clients]
    right.send_frames(pair.right, [udp_frame(each, pair.left_address, 40_000, 9) for each in addresses])
    if lookups is not None:
        lookups.ask(f"www.churn{step}-{number}.example{number}.org" for number in range(STEP_NAMES))
    if step % 50 == 0:
        left.run("ip", "link", "add", f"gone{step % 1000}", "type", "veth", "peer", "name", "other")
        left.run("ip", "link", "delete", f"gone{step % 1000}")


def main() -> int:
    """Prints the figures; exit code 1 where something grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--warm-up", type=float, default=60)
    parser.add_argument("--no-names", action="store_true", help="flows and interfaces only")
    parser.add_argument("--readings", type=Path, help="a file for seconds and MB of every reading")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        otelcol(Path(folder)) as collector,
        veth_pair() as place,
        Lookups(place[0], place[1], place[2].right_address) as lookups,
    ):
        left, _, pair = place
        base = left.counters(pair.left)
        settings = {
            "interfaces.namespaces": left.name,
            "interfaces.include": "left,gone*",
            "interfaces.allow_missing": "true",
            "limits.series_idle_seconds": "1",
            "probes.flows.idle_seconds": "1",
            "otlp.signals": "metrics",
        }
        line = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        with agent(*line, "--otlp-endpoint", collector.http, interval=INTERVAL, otlp=True) as running:
            steps = itertools.count()
            times: list[float] = []
            sizes: list[tuple[float, float]] = []
            before: Resources | None = None
            for phase in (arguments.warm_up, arguments.seconds):
                until = time.monotonic() + phase
                while time.monotonic() < until:
                    churn(place, None if arguments.no_names else lookups, steps)
                    running.get("/metrics")
                    if before is not None:
                        times.append(time.monotonic())
                        sizes.append((held([running.pid]).own, held([running.pipeline_pid()]).own))
                    collector.output.write_bytes(b"")  # what the collector wrote is of no use here
                    time.sleep(2 * INTERVAL)
                if before is None:
                    before = rested(running)
                    cycles = running.total("netmon_pipeline_cycle_duration_seconds_count")
            after = rested(running)
            cycles = running.total("netmon_pipeline_cycle_duration_seconds_count") - cycles
            expected = gained(left.counters(pair.left), base)
            running.wait(lambda: on_page(running.get("/metrics"), "protocol") == expected, 10.0, "every packet")
    columns = np.array(sizes)
    if arguments.readings:
        np.savetxt(arguments.readings, np.column_stack([np.array(times) - times[0], columns]), "%.3f")
    seconds = times[-1] - times[0]
    hour = seconds / cycles * HOUR_CYCLES
    steps_made = next(steps)
    print(
        f"{cycles:,} cycles ({cycles / HOUR_CYCLES:.1f} h by default) in {seconds:.0f} s; {steps_made * STEP_FLOWS:,} flows,"
    )
    print(
        f"{steps_made * STEP_NAMES:,} names, {steps_made // 50} interfaces that came and went; {expected} on link and page"
    )
    found = Slope(0.0, 0.0)
    for name, values in (("supervisor", columns[:, 0]), ("pipeline", columns[:, 1]), ("both", columns.sum(axis=1))):
        found = slope(np.array(times), values)
        print(
            f"{name:10} {values.min():.2f} to {values.max():.2f} MB, mean {values.mean():.2f}, {len(values)} readings;"
            f" slope {found.value * hour:+.4f} MB in {HOUR_CYCLES} cycles, standard error {found.error * hour:.4f}"
        )
    print(f"before {before}\nafter  {after}")
    grows = found.value - 2 * found.error > 0 and found.value * hour > SLOPE_MB
    same = before == after
    print(
        "memory grows" if grows else "no growth of memory",
        "and resources are the same" if same else "and resources differ",
    )
    return 1 if grows or not same else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""What the agent's processes hold in memory with all probes on, and what each part of it costs.

    python -m bench.memory

Imports: groups of modules in the order in which the pipeline needs them, in one fresh process. Agent: flows, lookups, interfaces
and XDP (generic) on a veth pair, OTLP to a real collector by each protocol, at the start and with about as many series as
``limits.series`` allows by default. Two figures each: PSS, which others who run the same interpreter make smaller, and the same with
every page of a file counted whole, as if nobody else had it open. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.resident import LiveFlows
from support.agent import ROOT, Agent, agent
from support.collectors import otelcol
from support.lookups import Lookups
from support.netns import veth_pair

WANTED_MB = 45.0

GROUPS = (
    ("the interpreter", "sys"),
    ("configuration (msgspec)", "otel_netmon.config.model"),
    ("numpy", "numpy"),
    ("structlog", "otel_netmon.selfmon.logging, structlog"),
    ("readers, analysis, points", "otel_netmon.sources.probes, otel_netmon.otel.series, otel_netmon.checkpoint"),
    ("page and its server", "otel_netmon.export.http_server"),
    ("OTLP: encoder, delivery, spool, HTTP", "otel_netmon.export.receivers, otel_netmon.export.otlp_http"),
    ("the rest of the pipeline", "otel_netmon.pipeline"),
    ("gRPC, only where asked for", "otel_netmon.export.otlp_grpc"),
)
_PROBE = """
import re, sys
def held():
    return int(re.search(r"Pss:\\s+(\\d+)", open("/proc/self/smaps_rollup").read())[1])
last = 0
for group in sys.argv[1:]:
    exec(f"import {group}")
    now = held()
    print(now - last)
    last = now
"""
_MAPPING = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S+ ([0-9a-f]+) \S+ \d+ *(\S.*)?")


class Held(NamedTuple):
    """MB of all processes together.

    Attributes:
        pss: as the kernel has it: a page of a file is divided by all who have it open, strangers among them.
        own: memory that is no page of a file.
        files: pages of files, each counted once and whole.
        memfds: files in memory that no process maps, which are in none of the others.
    """

    pss: float
    own: float
    files: float
    memfds: float

    @property
    def alone(self) -> float:
        """What PSS would be if nobody else ran this interpreter."""
        return self.own + self.files

    def __str__(self) -> str:
        parts = f"{self.own:.1f} own and {self.files:.1f} of files"
        return f"{self.pss:5.1f} MB PSS; alone {self.alone:5.1f} ({parts}); {self.memfds:.1f} in memfds"


def held(pids: Sequence[int]) -> Held:
    """What processes that share nothing with others but files hold."""
    total = Counter[str]()
    files: dict[tuple[str, str], int] = {}
    memfds: dict[int, int] = {}
    for pid in pids:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        for name in ("Pss", "Pss_File"):
            found = re.search(rf"{name}:\s+(\d+)", rollup)
            assert found is not None
            total[name] += int(found[1])
        for place, size in _file_pages(pid).items():
            files[place] = max(files.get(place, 0), size)
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                if "/memfd:" in os.readlink(link):
                    status = link.stat()
                    memfds[status.st_ino] = status.st_blocks * 512
    own = total["Pss"] - total["Pss_File"]
    return Held(total["Pss"] / 1024, own / 1024, sum(files.values()) / 1024, sum(memfds.values()) / 2**20)


def _file_pages(pid: int) -> dict[tuple[str, str], int]:
    """KB of unchanged file pages by file and offset."""
    pages: dict[tuple[str, str], int] = {}
    place, resident = ("", ""), 0
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        mapping = _MAPPING.fullmatch(line)
        if mapping:
            place = mapping[2] or "", mapping[1]
        elif line.startswith("Rss:"):
            resident = int(line.split()[1])
        elif line.startswith("Anonymous:") and place[0].startswith("/") and not place[0].startswith("/memfd:"):
            pages[place] = resident - int(line.split()[1])
    return pages


def of_agent(running: Agent) -> Held:
    """The resident processes of an agent."""
    return held(sorted(running.members()))


def imports() -> None:
    """Prints what each group adds."""
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, *(modules for _, modules in GROUPS)],
        cwd=ROOT,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    for (name, _), kilobytes in zip(GROUPS, done.stdout.split(), strict=True):
        print(f"  {name:38} {int(kilobytes) / 1024:5.1f} MB")


def settled(running: Agent, *, scrape: bool, readings: int = 5) -> Held:
    """The largest of some readings, each after an export and a scrape."""
    every = []
    for _ in range(readings):
        if scrape:
            running.get("/metrics", accept="application/openmetrics-text")
        seen = running.status()["uptime_seconds"]
        running.wait(lambda seen=seen: running.status()["uptime_seconds"] > seen, 30.0, "a cycle")  # type: ignore[misc]
        every.append(of_agent(running))
    return max(every, key=lambda each: each.alone)


class Case(NamedTuple):
    """A configuration to measure."""

    name: str
    settings: Mapping[str, str]
    otlp: bool = True
    scrape: bool = True


XDP = {"probes.xdp.enabled": "true", "probes.xdp.mode": "generic"}
CASES = (
    Case("all probes, OTLP by HTTP, a scraper", XDP),
    Case("the same by gRPC", {**XDP, "otlp.protocol": "grpc"}),
    Case("nobody scrapes", XDP, scrape=False),
    Case("no OTLP", XDP, otlp=False),
    Case("no lookups", {**XDP, "probes.dns.enabled": "false"}),
    Case("no XDP", {}),
)


def measure(case: Case, flows: int, names: int) -> Held:
    """Prints what an agent holds at the start and with many series; gives the latter."""
    with (
        tempfile.TemporaryDirectory() as folder,
        otelcol(Path(folder), all_signals=True) as collector,
        veth_pair() as (left, right, pair),
    ):
        settings = {"interfaces.namespaces": left.name, "flows.top_k": "5000", **case.settings}
        line = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        endpoint = collector.grpc if settings.get("otlp.protocol") == "grpc" else collector.http
        line += ["--interface", pair.left, "--otlp-endpoint", endpoint]
        with agent(*line, interval=2, otlp=case.otlp) as running:
            start = settled(running, scrape=case.scrape)
            few = running.status()["series"]["active"]
            by_start = by_process(running)
            with Lookups(left, right, pair.right_address) as lookups:
                lookups.ask(f"www.name{number}.example{number}.org" for number in range(names))
            live = LiveFlows(left, pair.right_address, flows)
            running.wait(lambda: running.status()["flows"]["live"] >= flows, 60.0, "flows")
            full = settled(running, scrape=case.scrape)
            many = running.status()["series"]["active"]
            by_full = by_process(running)
            live.stop()
    print(f"{case.name}:")
    print(f"  at the start, {few:6,} series: {start}; supervisor {by_start[0]:.1f}, pipeline {by_start[1]:.1f}")
    print(f"  full,         {many:6,} series: {full}; supervisor {by_full[0]:.1f}, pipeline {by_full[1]:.1f}")
    print(f"  {(full.own - start.own) / (many - few) * 1024:.2f} KB a series", flush=True)
    return full


def by_process(running: Agent) -> tuple[float, float]:
    """PSS of supervisor and pipeline, MB."""
    return held([running.pid]).pss, held([running.pipeline_pid()]).pss


def main() -> int:
    """Prints the table; exit code 1 if the first case takes more than wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flows", type=int, default=4700)
    parser.add_argument("--names", type=int, default=300)
    arguments = parser.parse_args()
    print("imports, in this order:")
    imports()
    sizes = [measure(case, arguments.flows, arguments.names).pss for case in CASES]
    print(f"all probes, HTTP: {sizes[0]:.1f} MB, wanted at most {WANTED_MB}")
    return 0 if sizes[0] <= WANTED_MB else 1


if __name__ == "__main__":
    raise SystemExit(main())

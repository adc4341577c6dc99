"""Every measurement that docs/benchmarks.md keeps, one after the other: ``make bench``.

Each part is a program of its own: ``PYTHONPATH=.:tests python -m bench.PART --help`` tells more. Its output follows its name. The machine
should have nothing else to do.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
PARTS: dict[str, tuple[str, ...]] = {
    "kernel_cost": (),
    "encode": (),
    "map_to_bytes": (),
    "exposition": (),
    "histograms": (),
    "spool": (),
    "start": (),
    "resident": ("--seconds", "40"),
    "memory": (),
    "churn": ("--seconds", "300", "--warm-up", "120"),
    "exact": ("--packets", "1000003", "--gigabytes", "1"),
    "flood": (),
    "series_flood": (),
    "replay": ("--packets", "200003"),
    "dns": (),
    "dns_user": (),
    "connections": (),
    "sock_diag": (),
    "http": (),
    "tls": (),
    "tls_user": (),
    "plaintext": (),
    "http_counts": (),
    "http_throughput": (),
    "http_user": (),
    "leaves_nothing": ("--rounds", "10"),
}


def main(arguments: list[str]) -> int:
    """Runs the parts named, or all; exit code 1 if one failed."""
    unknown = set(arguments) - set(PARTS)
    if unknown:
        print(f"unknown: {', '.join(sorted(unknown))}; parts: {', '.join(PARTS)}", file=sys.stderr)
        return 2
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    failed = []
    for name in arguments or PARTS:
        load = os.getloadavg()[0]
        print(f"== {name} (load before: {load:.2f})", flush=True)
        started = time.monotonic()
        if subprocess.run(
            [sys.executable, "-m", f"bench.{name}", *PARTS[name]], env=environment, check=False
        ).returncode:
            failed.append(name)
        print(f"== {name}: {time.monotonic() - started:.0f} s", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

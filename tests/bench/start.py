"""How long the agent takes from exec to `ready` and to its first point at a collector.

    python -m bench.start --rounds 7

Cases: shipped images; cached images and bcc compiling (from a copy of the sources with a comment more); a root file system
without bcc (its package hidden by an empty mount in a mount namespace of its own). Needs root.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from support.agent import ROOT, agent
from support.collectors import Collector, otelcol

WITHOUT_BCC = ("unshare", "-m", "sh", "-c")
HIDE = 'for d in /usr/lib/python3/dist-packages/bcc; do [ -d "$d" ] && mount -t tmpfs none "$d"; done; exec "$@"'


def once(collector: Collector, options: Sequence[str], enter: Sequence[str] = ()) -> tuple[float, float, str]:
    """Starts the agent; gives seconds from exec to ready and to the first point at the collector, and the images' origin."""
    seen = len(collector.received())
    started = time.monotonic()
    with agent("--interface", "lo", "--otlp-endpoint", collector.http, *options, enter=enter, otlp=True) as running:
        ready = time.monotonic() - started
        while len(collector.received()) == seen:
            if time.monotonic() - started > 20:
                raise TimeoutError("no point at the collector")
            time.sleep(0.005)
        first = time.monotonic() - started
        images = running.events("agent.ready")[0]["images"]["tc_monitor"]
    return ready, first, images


def main() -> int:
    """Prints the medians and extremes of each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    report = {}
    with tempfile.TemporaryDirectory() as folder, otelcol(Path(folder)) as collector:
        edited, cache = Path(folder) / "bpf", Path(folder) / "cache"
        shutil.copytree(ROOT / "bpf", edited)
        with (edited / "include" / "flows.h").open("a") as header:
            header.write("/* edited */\n")
        other = ("--set", f"images.sources={edited}", "--set", f"images.directory={cache}")
        cases = {
            "shipped": ((), ()),
            "without bcc": ((), (*WITHOUT_BCC, HIDE, "sh")),
            "compiled": (other, ()),
            "cache": (other, ()),
        }
        for name, (options, enter) in cases.items():
            rows = []
            for _ in range(arguments.rounds):
                if name == "compiled":
                    subprocess.run(["rm", "-rf", str(cache)], check=True)
                ready, first, images = once(collector, options, enter)
                if images != {"without bcc": "shipped"}.get(name, name):
                    raise AssertionError(f"{name}: images from {images}")
                rows.append((ready, first))
            readies, firsts = sorted(r for r, _ in rows), sorted(f for _, f in rows)
            report[name] = {
                "ready s": [round(x, 3) for x in (statistics.median(readies), readies[0], readies[-1])],
                "first point s": [round(x, 3) for x in (statistics.median(firsts), firsts[0], firsts[-1])],
            }
            print(name, "median, lowest, highest:", report[name], flush=True)
    if arguments.json:
        print(json.dumps(report))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

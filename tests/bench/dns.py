"""What a DNS lookup costs: dnsperf against dnsmasq at fixed rates, every lookup counted.

    python -m bench.dns --rates 3000 20000 --seconds 10

The agent stands at the client's end of a veth pair. CPU time of the pipeline is net of what it takes without a lookup; that in
the kernel is the run time of its programs (BPF statistics), net of the flow accounting that the same packets cost on another
port. Needs root, dnsmasq and dnsperf.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.resident import usage
from support.agent import Agent, agent
from support.netns import NetNs, veth_pair

LOOKUPS = "dns_lookup_duration_seconds_count"
PORTS = {"dns": 53, "other": 5453}
STATISTICS = Path("/proc/sys/kernel/bpf_stats_enabled")
NAMES = 200
REST_SECONDS = 12.0
INTERVAL = 5.0


@contextmanager
def dnsmasq(server: NetNs, address: str, port: int) -> Iterator[None]:
    """Answers every name of shop.test."""
    command = [
        *("dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--user=root"),
        *("--pid-file", "--bind-interfaces", f"--listen-address={address}", f"--port={port}"),
        *("--log-facility=/dev/null", f"--address=/shop.test/{address}"),
    ]
    with server.serving(address, port, *command):
        yield


def dnsperf(client: NetNs, server: str, port: int, many: int, rate: int, folder: Path) -> dict[str, float]:
    """Asks so often at this rate; gives what it says of it."""
    names = folder / "names"
    names.write_text("".join(f"host{number % NAMES}.shop.test A\n" for number in range(many)))
    output = client.run(
        "dnsperf", "-s", server, "-p", str(port), "-d", str(names), "-n", "1", "-Q", str(rate), "-c", "4"
    )

    def figure(what: str) -> float:
        found = re.search(rf"{what}:\s+([\d.]+)", output)
        if found is None:
            raise RuntimeError(f"dnsperf does not tell {what}: {output}")
        return float(found[1])

    return {"completed": figure("Queries completed"), "queries/s": figure("Queries per second")}


@contextmanager
def statistics() -> Iterator[None]:
    """The kernel measures the run time of BPF programs meanwhile, which costs some 20 ns a run."""
    before = STATISTICS.read_text()
    STATISTICS.write_text("1")
    try:
        yield
    finally:
        STATISTICS.write_text(before)


def program_ns(running: Agent) -> int:
    """Run time so far of the programs that the supervisor has attached, those that they call included."""
    files = Path(f"/proc/{running.pid}/fdinfo").iterdir()
    return sum(
        int(time_ns)
        for each in files
        for time_ns in re.findall(r"^run_time_ns:\s+(\d+)", each.read_text(), re.MULTILINE)
    )


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, to the nanosecond: the clock of usage() ticks too slowly for a few thousand lookups."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def measure(
    running: Agent, client: NetNs, address: str, kind: str, rate: int, many: int, folder: Path
) -> dict[str, float]:
    """Figures of one run, from its start until all of it is told."""
    pipeline = running.pipeline_pid()
    counted, kernel, before = running.total(LOOKUPS), program_ns(running), cpu_seconds(pipeline)
    began = time.monotonic()
    said = dnsperf(client, address, PORTS[kind], many, rate, folder)
    # Nothing is asked of the agent meanwhile: a page costs more than a thousand lookups.
    time.sleep(2 * INTERVAL)
    after = cpu_seconds(pipeline)
    return {
        **said,
        "lookups": running.total(LOOKUPS) - counted,
        "seconds": time.monotonic() - began,
        "pipeline CPU s": after - before,
        "programs ns": program_ns(running) - kernel,
    }


def main() -> int:
    """Prints the figures as JSON; 1 where a lookup was not counted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=int, nargs="+", default=[3000, 20_000])
    parser.add_argument("--seconds", type=float, default=5)
    arguments = parser.parse_args()
    report: dict[str, object] = {}
    exact = True
    with tempfile.TemporaryDirectory() as text, veth_pair() as (left, right, pair):
        folder, server = Path(text), pair.right_address
        options = ["--interface", pair.left, "--set", f"interfaces.namespaces={left.name}"]
        with (
            dnsmasq(right, server, PORTS["dns"]),
            dnsmasq(right, server, PORTS["other"]),
            agent(*options, interval=INTERVAL) as running,
        ):
            dnsperf(left, server, PORTS["dns"], 5003, 5000, folder)  # what is loaded and learnt with the first of all
            time.sleep(2 * INTERVAL)
            before = cpu_seconds(running.pipeline_pid())
            time.sleep(REST_SECONDS)
            rest = (cpu_seconds(running.pipeline_pid()) - before) / REST_SECONDS
            for rate in arguments.rates:
                many = round(rate * arguments.seconds)
                found = measure(running, left, server, "dns", rate, many, folder)
                with statistics():
                    kernel = {
                        kind: measure(running, left, server, kind, rate, many, folder)["programs ns"] / many
                        for kind in PORTS
                    }
                exact = exact and found["lookups"] == found["completed"] == many
                report[f"{rate} queries/s"] = {
                    "queries": many,
                    "lookups counted": int(found["lookups"]),
                    "pipeline CPU s": round(found["pipeline CPU s"] - rest * found["seconds"], 3),
                    "us a lookup in user space": round(
                        (found["pipeline CPU s"] - rest * found["seconds"]) / many * 1e6, 2
                    ),
                    "ns a lookup in the kernel, flow accounting included": round(kernel["dns"]),
                    "of that for DNS": round(kernel["dns"] - kernel["other"]),
                }
            report["PSS of the pipeline, MB"] = round(usage(running.pipeline_pid())["pss"], 1)
    print(json.dumps(report, indent=1))
    return 0 if exact else 1


if __name__ == "__main__":
    raise SystemExit(main())

"""What the agent costs while it runs: CPU, wake-ups and PSS of each process, at 1,000 live flows and at a high packet rate.

    python -m bench.resident --seconds 60

The agent follows one end of a veth pair and pushes to a real collector every 10 s. Needs root and iperf3.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import socket
import tempfile
import threading
import time
from pathlib import Path

from bench.exact import iperf
from support.agent import Agent, agent
from support.collectors import otelcol
from support.netns import NetNs, veth_pair

TICK = os.sysconf("SC_CLK_TCK")


def usage(pid: int) -> dict[str, float]:
    """CPU seconds, voluntary context switches (wake-ups) of all threads, and PSS in MB of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    switches = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                switches += int(line.split()[1])
    pss = next(
        int(line.split()[1])
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        if line.startswith("Pss:")
    )
    return {"cpu": (int(fields[11]) + int(fields[12])) / TICK, "wakeups": switches, "pss": pss / 1024}


def observe(running: Agent, seconds: float) -> dict[str, dict[str, float]]:
    """Rates over the time given, by process and in sum."""
    processes = {"supervisor": running.process.pid, "pipeline": running.pipeline_pid()}
    before = {name: usage(pid) for name, pid in processes.items()}
    started = time.monotonic()
    time.sleep(seconds)
    elapsed = time.monotonic() - started
    result = {}
    for name, pid in processes.items():
        after = usage(pid)
        result[name] = {
            "cpu % of a core": round(100 * (after["cpu"] - before[name]["cpu"]) / elapsed, 3),
            "wake-ups/s": round((after["wakeups"] - before[name]["wakeups"]) / elapsed, 2),
            "PSS MB": round(after["pss"], 1),
        }
    result["all"] = {key: round(sum(row[key] for row in result.values()), 3) for key in result["supervisor"]}
    return result


class LiveFlows:
    """Keeps many UDP flows alive: one datagram a flow every few seconds, from one socket to as many ports."""

    def __init__(self, ns: NetNs, address: str, count: int) -> None:
        self._socket = ns.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._targets = [(address, 20000 + port) for port in range(count)]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            for target in self._targets:
                try:
                    self._socket.sendto(b"x" * 64, target)
                except OSError as error:
                    # Nobody listens there, or the link has no carrier yet.
                    if error.errno not in (errno.ECONNREFUSED, errno.ENETUNREACH):
                        raise
            self._stop.wait(3)

    def stop(self) -> None:
        """Ends the traffic."""
        self._stop.set()
        self._thread.join()
        self._socket.close()


def main() -> int:
    """Prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--flows", type=int, default=1000)
    parser.add_argument("--interval", type=float, default=10)
    arguments = parser.parse_args()
    report: dict[str, object] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        otelcol(Path(folder)) as collector,
        veth_pair() as (left, right, pair),
    ):
        options = [
            "--interface",
            pair.left,
            "--set",
            f"interfaces.namespaces={left.name}",
            "--otlp-endpoint",
            collector.http,
        ]
        with agent(*options, interval=arguments.interval, otlp=True) as running:
            flows = LiveFlows(right, pair.left_address, arguments.flows)
            time.sleep(2 * arguments.interval + 1)
            report["live flows"] = running.status()["flows"]["live"]
            report["at rest on the flows"] = observe(running, arguments.seconds)
            load = threading.Thread(
                target=iperf,
                args=(left, right, pair.left_address, "-u", "-l", "64", "-b", "0", "-t", "12"),
                daemon=True,
            )
            packets = left.counters(pair.left).receive_packets
            load.start()
            time.sleep(1)
            report["under flood"] = observe(running, 10)
            load.join()
            report["flood packets/s"] = round((left.counters(pair.left).receive_packets - packets) / 12)
            flows.stop()
    print(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""What a TLS handshake costs: at fixed rates, new and resumed, every one counted; tshark beside it; and openssl against nginx.

    python -m bench.tls --rates 2000 --seconds 5

At fixed rates handshakes that OpenSSL made once are sent again as packets over a veth pair, each from a client of its own, with all that
comes before and behind them; so as many go by as are asked for, whatever two processors could shake. With `openssl s_time` and nginx
it is as many as they make. The agent stands at the server's end. CPU time of the pipeline is net of what it takes without a handshake;
that in the kernel is the run time of its programs (BPF statistics), net of what the same packets cost with the probe off. That of tshark is
net of its start. Needs root, nginx, openssl and tshark.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import ssl
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.dns import cpu_seconds, program_ns, statistics
from bench.http import rest_of
from bench.resident import usage
from support.agent import Agent, agent
from support.netns import NetNs, Veth, veth_pair
from support.nginx import Site, nginx
from support.tls_load import Frame, Sender, recorded
from support.tls_talk import Authority

HANDSHAKES = "netmon_tls_handshake_duration_seconds_count"
INTERVAL = 5.0
PORT = 4433
CLIENTS = 4
V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


def counted(running: Agent) -> int:
    """Established handshakes so far."""
    return sum(int(value) for have, value in running.samples(HANDSHAKES) if "error_type" not in have)


def losses(running: Agent) -> Counter[str]:
    """What the agent says that it lost of handshakes, by stage and why."""
    found: Counter[str] = Counter()
    for signal_name in ("stream_messages", "tls_handshakes"):
        for have, value in running.samples("netmon_pipeline_items_total", netmon_signal=signal_name):
            if have["netmon_outcome"] == "dropped":
                found[f"{have['netmon_stage']} {have['netmon_reason']}"] += int(value)
    return found


def s_time(client: NetNs, address: str, seconds: float, *ways: str) -> int:
    """Some clients of `openssl s_time`, each a request a connection; gives how many connections they made."""
    line = ("openssl", "s_time", "-connect", f"{address}:{PORT}", "-www", "/", "-time", f"{seconds:.0f}", *ways)
    running = [
        subprocess.Popen(client.command(*line), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(CLIENTS)
    ]
    made = 0
    for each in running:
        output, _ = each.communicate(timeout=seconds * 10)
        # With -reuse there is one more, from which the session is.
        made += sum(map(int, re.findall(r"^(\d+) connections in [\d.]+ real", output, re.MULTILINE)))
        made += "-reuse" in ways
    return made


class Run:
    """One run of an agent beside a load."""

    def __init__(self, running: Agent) -> None:
        self._running = running
        self._pipeline = running.pipeline_pid()
        self._counted = counted(running)
        self._kernel, self._cpu = program_ns(running), cpu_seconds(self._pipeline)
        self._began = time.monotonic()

    def end(self) -> dict[str, float]:
        """Waits until all of it is told, and asks nothing of the agent meanwhile: a page costs more than a thousand handshakes."""
        time.sleep(2 * INTERVAL)
        cpu = cpu_seconds(self._pipeline) - self._cpu
        return {
            "seconds": time.monotonic() - self._began,
            "cpu": cpu,
            "kernel": program_ns(self._running) - self._kernel,
            "counted": counted(self._running) - self._counted,
        }


@contextmanager
def tshark(where: NetNs, interface: str, told: Path) -> Iterator[list[int]]:
    """Tshark that tells the hello of each handshake; gives its processes."""
    line = (
        "tshark",
        "-n",
        "-l",
        "-q",
        "-i",
        interface,
        "-Y",
        "tls.handshake.type == 1",
        "-T",
        "fields",
        "-e",
        "ip.src",
    )
    with told.open("wb") as file:
        running = subprocess.Popen(where.command(*line), stdout=file, stderr=subprocess.DEVNULL)
    try:
        # dumpcap is its child, and before that one that only lists interfaces; it captures when it has a packet socket.
        children: list[int] = []
        while not children or not any(_captures(pid) for pid in children):
            time.sleep(0.2)
            listed = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text()
            children = [int(pid) for pid in listed.split()]
        time.sleep(1)
        yield [running.pid, *children]
    finally:
        running.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            running.wait(60)


def _captures(pid: int) -> bool:
    """Whether a process has a packet socket."""
    try:
        inodes = {os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()}
        rows = Path(f"/proc/{pid}/net/packet").read_text().splitlines()[1:]
    except FileNotFoundError:
        return False
    return any(f"socket:[{row.split()[-1]}]" in inodes for row in rows)


def beside(
    right: NetNs, pair: Veth, sender: Sender, kinds: Sequence[list[Frame]], rate: float, many: int, folder: Path
) -> dict[str, object]:
    """The same load before tshark."""
    told = folder / "tshark"
    with tshark(right, pair.right, told) as processes:
        before = sum(map(cpu_seconds, processes))
        sender.send(kinds, rate, many)
        time.sleep(5)
        cpu = sum(map(cpu_seconds, processes)) - before
        resident = sum(usage(pid)["pss"] for pid in processes)
    seen = len(told.read_text().splitlines())
    return {
        "tshark and dumpcap: handshakes seen": seen,
        "tshark and dumpcap: us a handshake": round(cpu / many * 1e6, 1),
        "tshark and dumpcap: PSS, MB": round(resident, 1),
    }


def main() -> int:
    """Prints the figures as JSON; 1 where a handshake was not counted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=int, nargs="+", default=[2000])
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--without-tshark", action="store_true")
    arguments = parser.parse_args()
    report: dict[str, object] = {}
    exact = True
    with tempfile.TemporaryDirectory() as text, veth_pair() as (left, right, pair):
        folder = Path(text)
        folder.chmod(0o755)
        kinds = {
            "TLS 1.3": recorded(folder, V13),
            "TLS 1.3, resumed": recorded(folder, V13, resumed=True),
            "TLS 1.2": recorded(folder, V12),
            "TLS 1.2, resumed": recorded(folder, V12, resumed=True),
        }
        options = ["--interface", pair.right, "--set", f"interfaces.namespaces={right.name}"]
        options += ["--set", "probes.flows.table_entries=262144"]
        # 2,000 chains a second are 8 MB: a reading of a hundred thousand flows may take longer than 2 MiB last.
        options += ["--set", "probes.dns.ring_bytes=8388608"]
        sender = Sender([(left, pair.left), (right, pair.right)])
        off: dict[tuple[str, int], dict[str, float]] = {}
        with agent(*options, "--set", "probes.tls.enabled=false", interval=INTERVAL) as running, statistics():
            time.sleep(2 * INTERVAL)
            rest = rest_of(running)
            for rate in arguments.rates:
                many = round(rate * arguments.seconds)
                for kind, connections in kinds.items():
                    run = Run(running)
                    sender.send(connections, rate, many)
                    found = run.end()
                    used = found["cpu"] - rest * found["seconds"]
                    off[kind, rate] = {"kernel": found["kernel"] / many, "cpu": used / many}
        with agent(*options, interval=INTERVAL) as running:
            for connections in kinds.values():  # what is loaded and learnt with the first of all
                sender.send(connections, 1000, 503)
            time.sleep(2 * INTERVAL)
            rest = rest_of(running)
            for rate in arguments.rates:
                many = round(rate * arguments.seconds)
                for kind, connections in kinds.items():
                    lost = losses(running)
                    run = Run(running)
                    took = sender.send(connections, rate, many)
                    found = run.end()
                    with statistics():
                        run = Run(running)
                        sender.send(connections, rate, many)
                        again = run.end()
                    exact = exact and found["counted"] == again["counted"] == many
                    kernel = again["kernel"] / many
                    used = (found["cpu"] - rest * found["seconds"]) / many
                    report[f"{kind}, {rate}/s"] = {
                        "handshakes": many,
                        "counted": int(found["counted"]),
                        "handshakes/s": round(many / took),
                        "not counted": losses(running) - lost,
                        "us a handshake in user space": round(used * 1e6, 1),
                        "us of that for TLS": round((used - off[kind, rate]["cpu"]) * 1e6, 1),
                        "ns a handshake in the kernel": round(kernel),
                        "ns of that for TLS": round(kernel - off[kind, rate]["kernel"]),
                        **(
                            {}
                            if arguments.without_tshark
                            else beside(right, pair, sender, connections, rate, many, folder)
                        ),
                    }
            file = Authority(folder, "served").issue(["secure.example"])
            with nginx(right, pair.right_address, [Site(PORT, file, "TLSv1.2 TLSv1.3")], folder) as server:
                for way in (("-new", "-tls1_3"), ("-reuse", "-tls1_2")):
                    lost = losses(running)
                    before, run = len(server.logged()), Run(running)
                    made = s_time(left, pair.right_address, arguments.seconds, *way)
                    found = run.end()
                    served = len(server.logged()) - before
                    exact = exact and found["counted"] == served
                    report[f"openssl s_time {' '.join(way)} against nginx"] = {
                        "connections that openssl tells": made,
                        "served as nginx logged": served,
                        "counted": int(found["counted"]),
                        "not counted": losses(running) - lost,
                        "handshakes/s": round(served / arguments.seconds),
                        "us a handshake in user space": round(
                            (found["cpu"] - rest * found["seconds"]) / served * 1e6, 1
                        ),
                    }
            report["PSS of the pipeline, MB"] = round(usage(running.pipeline_pid())["pss"], 1)
        sender.close()
    print(json.dumps(report, indent=1))
    return 0 if exact else 1


if __name__ == "__main__":
    raise SystemExit(main())

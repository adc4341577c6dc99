"""Promise P2 at full size: packets over veth, counted by flows, by protocol, by the hook and by the link.

    python -m bench.exact --packets 10000000 --gigabytes 5

Needs root and iperf3. The agent watches one end of a veth pair; the other end sends 64-byte UDP datagrams, then TCP. The
figures come from the agent's Prometheus page and its OTLP push to a real collector, the truth from `ip -s link`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

from support.agent import Agent, agent, parse_samples
from support.collectors import Collector, otelcol
from support.netns import LinkCounters, NetNs, veth_pair
from support.points import Histogram, Point


def iperf(server: NetNs, client: NetNs, address: str, *arguments: str) -> dict[str, object]:
    """Runs one iperf3 load; gives its report."""
    listener = server.start("iperf3", "-s", "-1", "-B", address)
    try:
        deadline = time.monotonic() + 10
        while (
            subprocess.run(server.command("ss", "-ltnH", "sport", "=", ":5201"), capture_output=True, check=True).stdout
            == b""
        ):
            if time.monotonic() > deadline:
                raise TimeoutError("iperf3 does not listen")
        report: dict[str, object] = json.loads(client.run("iperf3", "-J", "-c", address, *arguments))
        return report
    finally:
        listener.terminate()
        listener.wait(10)


def figures(running: Agent, points: list[Point]) -> dict[str, dict[str, int]]:
    """What each way of asking the agent says: packets and bytes, receive and transmit together where it has no direction."""
    page = running.get("/metrics")
    row = running.status()["interfaces"][0]
    result = {
        f"{source}, {unit}": {
            direction: int(
                sum(
                    value
                    for labels, value in parse_samples(page, name)
                    if labels["network_io_direction"] == direction
                    and labels.get("network_interface_name", row["name"]) == row["name"]
                )
            )
            for direction in ("receive", "transmit")
        }
        for source, unit, name in (
            ("protocols, Prometheus", "packets", "netmon_protocol_packets_total"),
            ("protocols, Prometheus", "bytes", "netmon_protocol_io_bytes_total"),
            ("flows, Prometheus", "packets", "netmon_flow_packets_total"),
            ("flows, Prometheus", "bytes", "netmon_flow_io_bytes_total"),
        )
    }
    for source, unit, name in (
        ("protocols, OTLP", "packets", "netmon.protocol.packets"),
        ("protocols, OTLP", "bytes", "netmon.protocol.io"),
        ("flows, OTLP", "packets", "netmon.flow.packets"),
        ("flows, OTLP", "bytes", "netmon.flow.io"),
    ):
        latest = {json.dumps(p.attributes, sort_keys=True): p for p in points if p.name == name}
        result[f"{source}, {unit}"] = {
            direction: sum(
                int(p.value)
                for p in latest.values()
                if not isinstance(p.value, Histogram) and p.attributes["network.io.direction"] == direction
            )
            for direction in ("receive", "transmit")
        }
    for unit in ("packets", "bytes"):
        result[f"handed over, {unit}"] = {d: row[d][f"skb_{unit}"] for d in ("receive", "transmit")}
    return result


def settle(
    running: Agent, collector: Collector, ns: NetNs, interface: str
) -> tuple[LinkCounters, dict[str, dict[str, int]]]:
    """Waits until link, pages and collector say the same twice in a row, and gives it."""
    last = None
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        now = (ns.counters(interface), figures(running, collector.received()))
        if now == last:
            return now
        last = now
        time.sleep(2.5)
    raise TimeoutError("the link does not come to rest")


def main() -> int:
    """Runs the loads and prints every figure; exit code 1 if any difference is not 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packets", type=int, default=1_000_003, help="UDP datagrams of 64 bytes")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="TCP payload")
    parser.add_argument(
        "--no-offload", action="store_true", help="turn GSO and GRO off: every segment crosses the link"
    )
    arguments = parser.parse_args()
    worst = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        otelcol(Path(folder)) as collector,
        veth_pair() as (left, right, pair),
    ):
        if arguments.no_offload:
            for ns, name in ((left, pair.left), (right, pair.right)):
                ns.run("ethtool", "-K", name, "tso", "off", "gso", "off", "gro", "off")
        options = ["--interface", pair.left, "--set", f"interfaces.namespaces={left.name}"]
        base = left.counters(pair.left)
        with agent(*options, "--otlp-endpoint", collector.http, otlp=True) as running:
            for name, load in (
                ("udp64", ("-u", "-l", "64", "-k", str(arguments.packets), "-b", "0")),
                ("tcp", ("-n", f"{int(arguments.gigabytes * 1e9)}")),
            ):
                started = time.monotonic()
                iperf(left, right, pair.left_address, *load)
                seconds = time.monotonic() - started
                link, seen = settle(running, collector, left, pair.left)
                truth = {
                    "packets": {
                        "receive": link.receive_packets - base.receive_packets,
                        "transmit": link.transmit_packets - base.transmit_packets,
                    },
                    "bytes": {
                        "receive": link.receive_bytes - base.receive_bytes,
                        "transmit": link.transmit_bytes - base.transmit_bytes,
                    },
                }
                print(f"{name}: {seconds:.1f} s, link {truth}", flush=True)
                for source, values in seen.items():
                    unit = source.rpartition(" ")[2]
                    difference = {d: values[d] - truth[unit][d] for d in values}
                    worst = max(worst, *map(abs, difference.values()))
                    print(f"  {source:<32} {values}  difference {difference}")
            print("stages", json.dumps(running.status()["stages"]))
    print("largest difference", worst)
    return 1 if worst else 0


if __name__ == "__main__":
    raise SystemExit(main())

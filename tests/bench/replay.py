"""A capture of known traffic through replay: the same counts as the link and the agent had, and how fast.

    python -m bench.replay --packets 1000003

tcpdump writes what one end of a veth pair receives while the agent counts it. Needs root, iperf3 and tcpdump.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from bench.exact import iperf
from support.agent import agent, command
from support.netns import veth_pair

ETHERNET_BYTES = 14


def main() -> int:
    """Prints the counts; exit code 1 if they differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packets", type=int, default=1_000_003)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, veth_pair() as (left, right, pair):
        capture = Path(folder) / "capture.pcap"
        dump = left.command("tcpdump", "-i", pair.left, "-Q", "in", "-s", "128", "-B", "262144", "-w", str(capture))
        with subprocess.Popen(dump, stderr=subprocess.PIPE) as writer:
            assert writer.stderr is not None
            writer.stderr.readline()  # "listening on"
            base = left.counters(pair.left)
            with agent("--interface", pair.left, enter=left.command()) as running:
                iperf(left, right, pair.left_address, "-u", "-l", "64", "-k", str(arguments.packets), "-b", "40M")
                link = left.counters(pair.left)
                packets = link.receive_packets - base.receive_packets
                octets = link.receive_bytes - base.receive_bytes
                live = {"network_io_direction": "receive", "network_interface_name": pair.left}
                running.wait(
                    lambda: running.total("netmon_protocol_packets_total", **live) == packets, 10, f"{packets} packets"
                )
                live_octets = running.total("netmon_protocol_io_bytes_total", **live)
            time.sleep(1)
            writer.send_signal(signal.SIGINT)
            words = writer.stderr.read().decode()
        dropped = int(re.search(r"(\d+) packets? dropped", words)[1])  # type: ignore[index]
        started = time.monotonic()
        done = subprocess.run(command("replay", str(capture)), capture_output=True, check=True)
        seconds = time.monotonic() - started
    document = json.loads(done.stdout)
    read = document["packets"]["read"]
    counted = sum(flow["packets"] for flow in document["flows"])
    ip_bytes = sum(flow["bytes"] for flow in document["flows"])
    arp = document["packets"]["counted"] - counted
    print(f"link: {packets} packets, {octets} bytes; agent: {live_octets} bytes; tcpdump dropped {dropped}")
    print(f"replay: read {read}, counted {document['packets']['counted']}, in flows {counted}, IP bytes {ip_bytes}")
    print(f"replay: {seconds:.2f} s, {seconds / read * 1e6:.2f} us a packet")
    same = read == packets and live_octets == octets and ip_bytes == octets - ETHERNET_BYTES * counted - 42 * arp
    print("equal" if same else "DIFFERENT")
    return 0 if same and not dropped else 1


if __name__ == "__main__":
    raise SystemExit(main())

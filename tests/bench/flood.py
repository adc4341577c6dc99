"""A flood of distinct flows into a table that holds a sixth of them: every packet counted all the same.

    python -m bench.flood

400,000 UDP datagrams, each a flow of its own, cross a veth pair to an agent with the default table of 65,536 flows. Needs root.
"""

from __future__ import annotations

import socket

from support.agent import agent
from support.netns import NetNs, veth_pair

SOURCES = 8
PORTS = 50_000
DIRECTIONS = ("receive", "transmit")


def send(ns: NetNs, source: str, destination: str) -> int:
    """Sends one datagram of 64 bytes for each pair of ports; gives how many."""
    for number in range(SOURCES):
        with ns.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind((source, 10_000 + number))
            for port in range(1, PORTS + 1):
                try:
                    sender.sendto(b"x" * 64, (destination, port))
                except ConnectionRefusedError:  # an answer to an earlier one; this one was not sent
                    sender.sendto(b"x" * 64, (destination, port))
    return SOURCES * PORTS


def main() -> int:
    """Prints what was sent and what was counted; exit code 1 if they differ."""
    with veth_pair() as (left, right, pair), agent("--interface", pair.left, enter=left.command()) as running:
        base = left.counters(pair.left)
        sent = send(right, pair.right_address, pair.left_address)

        def counted(name: str, **labels: str) -> list[int]:
            units = ("packets_total", "io_bytes_total")
            return [
                running.total(f"netmon_{name}_{unit}", network_io_direction=direction, **labels)
                for direction in DIRECTIONS
                for unit in units
            ]

        def link() -> list[int]:
            now = left.counters(pair.left)
            return [
                now.receive_packets - base.receive_packets,
                now.receive_bytes - base.receive_bytes,
                now.transmit_packets - base.transmit_packets,
                now.transmit_bytes - base.transmit_bytes,
            ]

        running.wait(lambda: counted("protocol", network_interface_name=pair.left) == link(), 15, "every packet")
        protocols = counted("protocol", network_interface_name=pair.left, network_type="ipv4")
        flows = counted("flow")
        entries = running.total("netmon_bpf_map_entries", netmon_bpf_map_name="flow_table")
        print(f"sent {sent} flows; link {link()}; IPv4 by protocols {protocols}, by flows + overflow {flows}")
        print(f"flow_table holds {entries}; {running.status()['stages']['kernel']}")
        same = protocols == flows
    print("equal" if same else "DIFFERENT")
    return 0 if same else 1


if __name__ == "__main__":
    raise SystemExit(main())

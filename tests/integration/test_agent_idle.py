"""Idle flows leave the kernel's table while others run, come back, and no packet of either is lost."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from support import collectors
from support.agent import agent, parse_samples
from support.netns import NetNs, veth_pair
from support.traffic import Sides, at_collector, gained, handed_over, on_page, udp_frame

pytestmark = [pytest.mark.kernel, pytest.mark.collector]

FLOWS = 307
BURSTS = 3
STEADY = 3
SECONDS = 20.0


def entries(page: str) -> int:
    """Rows of the kernel's flow table as a page tells them."""
    samples = parse_samples(page, "netmon_bpf_map_entries")
    (value,) = (value for labels, value in samples if labels["netmon_bpf_map_name"] == "flow_table")
    return int(value)


def keep_sending(netns: NetNs, interface: str, frames: list[bytes], until: threading.Event) -> None:
    """Packets of flows that are never idle, some of them in the moment in which the others are swept."""
    while not until.wait(0.001):
        netns.send_frames(interface, frames)


def test_idle_flows_leave_and_come_back_exactly(tmp_path: Path) -> None:
    frames = [udp_frame("198.18.0.1", "198.18.0.2", 2000 + number, 53, 64 + number) for number in range(FLOWS)]
    steady = [udp_frame("198.18.0.1", "198.18.0.2", 1000 + number, 53) for number in range(STEADY)]
    with collectors.otelcol(tmp_path) as collector, veth_pair() as (left, _, pair):
        base = left.counters(pair.left)
        options = ["--interface", pair.left, "--set", f"interfaces.namespaces={left.name}"]
        limits = ["--set", "probes.flows.idle_seconds=1.5", "--set", "flows.top_k=1000"]
        with agent(*options, *limits, "--otlp-endpoint", collector.http, interval=0.1, otlp=True) as running:
            over = threading.Event()
            sender = threading.Thread(target=keep_sending, args=(left, pair.left, steady, over))
            sender.start()
            try:
                for _ in range(BURSTS):
                    left.send_frames(pair.left, frames)
                    running.wait(lambda: entries(running.get("/metrics")) == FLOWS + STEADY, SECONDS, "full table")
                    running.wait(lambda: entries(running.get("/metrics")) == STEADY, SECONDS, "idle flows gone")
            finally:
                over.set()
                sender.join()
            running.wait(lambda: entries(running.get("/metrics")) == 0, SECONDS, "empty table")
            truth = gained(left.counters(pair.left), base)
            assert truth["transmit"][0] > FLOWS * BURSTS

            def accounts() -> list[Sides]:
                points = collector.received()
                return [
                    on_page(running.get("/metrics"), "protocol", network_interface_name=pair.left),
                    handed_over(running, pair.left),
                    at_collector(points, "protocol", pair.left),
                    at_collector(points, "flow"),
                ]

            assert accounts()[:2] == [truth, truth]
            running.wait(lambda: accounts() == [truth] * 4, SECONDS, f"{truth} in all accounts, but {accounts()}")
            assert running.status()["stages"]["kernel"]["dropped"] == {"unattributed": 0}

"""A flood of flows and of names against the budget of series: memory, the limit, and sums that are exact.

    python -m bench.series_flood --flows 1000000 --names 1000000

Every flow has a client address of its own and every lookup a name of its own, at different times. The agent runs with the default
limit of 10,000 series and a table of 65,536 flows, sends by OTLP to a real collector (with a spool, so that every snapshot arrives),
and is scraped all the time. Routes of HTTP come with their probe and are not in it. Needs root.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.memory import Held, of_agent
from support.agent import Agent, agent
from support.collectors import Collector, otelcol
from support.lookups import Lookups
from support.netns import NetNs, Veth, veth_pair
from support.points import points_of_otlp_json
from support.traffic import at_collector, gained, on_page, udp_frame

LIMIT = 10_000
GROWTH_MB = 10.0
BLOCK = 1000


class Watch(threading.Thread):
    """Keeps the largest memory and the most series of an agent, and scrapes it."""

    def __init__(self, running: Agent) -> None:
        super().__init__(daemon=True)
        self._running = running
        self._over = threading.Event()
        self.most: Held | None = None
        self.series = 0

    def run(self) -> None:
        while not self._over.wait(0.3):
            self._running.get("/metrics")
            self.series = max(self.series, self._running.status()["series"]["active"])
            now = of_agent(self._running)
            if self.most is None or now.own > self.most.own:
                self.most = now

    def stop(self) -> None:
        """Ends it; a failure inside is seen by the missing figures."""
        self._over.set()
        self.join()


@contextmanager
def watched(running: Agent, what: str) -> Iterator[None]:
    """Prints what the agent held at most."""
    watch = Watch(running)
    began = time.monotonic()
    watch.start()
    yield
    watch.stop()
    assert watch.most is not None
    print(f"{what}: at most {watch.most}; {watch.series:,} series; {time.monotonic() - began:.0f} s", flush=True)


def send_flows(place: tuple[NetNs, NetNs, Veth], count: int, per_second: float) -> None:
    """One frame of 64 bytes for each flow, from addresses never seen before."""
    _, right, pair = place
    began = time.monotonic()
    for begin in range(0, count, BLOCK):
        clients = range(begin, min(begin + BLOCK, count))
        addresses = [socket.inet_ntoa(struct.pack(">I", (10 << 24) + client)) for client in clients]
        right.send_frames(pair.right, [udp_frame(each, pair.left_address, 40_000, 9) for each in addresses])
        time.sleep(max(0.0, began + begin / per_second - time.monotonic()))


def send_names(lookups: Lookups, count: int, per_second: float) -> None:
    """One lookup for each name, of a domain of its own."""
    began = time.monotonic()
    for begin in range(0, count, BLOCK):
        lookups.ask(f"www.name{number}.org" for number in range(begin, min(begin + BLOCK, count)))
        time.sleep(max(0.0, began + begin / per_second - time.monotonic()))


def rows_of(collector: Collector) -> tuple[Counter[int], int]:
    """Points by time of their snapshot, and lookups counted by all series since each of their starts."""
    sizes = Counter[int]()
    lookups: dict[tuple[str, int], tuple[int, int]] = {}
    with collector.output.open() as lines:
        for line in lines:
            for point in points_of_otlp_json(line):
                sizes[point.time] += 1
                if point.name == "dns.lookup.duration":
                    series = json.dumps(point.attributes, sort_keys=True), point.start_time
                    lookups[series] = max(lookups.get(series, (0, 0)), (point.time, point.value.count))
    return sizes, sum(count for _, count in lookups.values())


def main() -> int:
    """Prints the figures; exit code 1 where the limit is passed, a sum differs or memory grows too much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flows", type=int, default=1_000_000)
    parser.add_argument("--names", type=int, default=1_000_000)
    parser.add_argument("--flows-per-second", type=float, default=25_000)
    parser.add_argument("--names-per-second", type=float, default=8_000)
    parser.add_argument("--interval", type=float, default=5)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        otelcol(Path(folder)) as collector,
        veth_pair() as place,
        Lookups(place[0], place[1], place[2].right_address) as lookups,
    ):
        left, _, pair = place
        base = left.counters(pair.left)
        settings = {
            "interfaces.namespaces": left.name,
            "flows.top_k": "5000",
            "otlp.signals": "metrics",
            "export.spool.directory": f"{folder}/spool",
            "probes.dns.ring_bytes": str(4 << 20),
        }
        line = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        line += ["--interface", pair.left, "--otlp-endpoint", collector.http]
        with agent(*line, interval=arguments.interval, otlp=True) as running:
            # What 10,000 series take is not what a flood adds: 10,000 flows and names first.
            send_flows(place, LIMIT, arguments.flows_per_second)
            send_names(lookups, LIMIT, arguments.names_per_second)
            with watched(running, f"before, {LIMIT:,} flows and names"):
                time.sleep(4 * arguments.interval)
            before = of_agent(running)
            if arguments.flows:
                with watched(running, f"flood of {arguments.flows:,} flows"):
                    send_flows(place, arguments.flows, arguments.flows_per_second)
            if arguments.names:
                with watched(running, f"flood of {arguments.names:,} names"):
                    send_names(lookups, arguments.names, arguments.names_per_second)
            with watched(running, "rest"):
                time.sleep(2 * arguments.interval)
            after = of_agent(running)
            expected = gained(left.counters(pair.left), base)
            running.wait(lambda: on_page(running.get("/metrics"), "protocol") == expected, 30.0, "every packet")
            items = running.samples("netmon_pipeline_items_total", netmon_outcome="dropped")
            lost = {
                (labels["netmon_stage"], labels["netmon_reason"]): int(value)
                for labels, value in items
                if labels["netmon_signal"].startswith("dns_") and value
            }
            assert running.stop() == 0
        asked = lookups.answered
        flows = at_collector((point for text in collector.output.open() for point in points_of_otlp_json(text)), "flow")
        sizes, counted = rows_of(collector)
    print(f"before {before}\nafter  {after}: {after.own - before.own:+.1f} MB")
    print(f"link {expected}, flows + overflow at the collector {flows}")
    print(f"{asked:,} lookups; counted {counted:,}, lost on the way {lost}")
    print(
        f"series in a snapshot at the collector: at most {max(sizes.values()):,} of {LIMIT:,}, {len(sizes)} snapshots"
    )
    good = (
        flows == expected
        and counted + sum(lost.values()) == asked
        and max(sizes.values()) <= LIMIT
        and after.own - before.own <= GROWTH_MB
    )
    print("as wanted" if good else "NOT as wanted")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())

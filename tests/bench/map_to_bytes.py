"""From the kernel's map to OTLP bytes, the whole way of a flow: read, differences, totals, choice, points, request, gzip.

    python -m bench.map_to_bytes

Real flows in a real flow_table, made by BPF_PROG_TEST_RUN; in each cycle every flow gains, and in the second part a tenth of them is
new. CPU time of this process, medians over cycles. Two points a conversation, one overflow point a direction. Needs root.
"""

from __future__ import annotations

import statistics
import time
import zlib
from collections.abc import Iterable

import msgspec

from otel_netmon.analysis.edges import Edge
from otel_netmon.config.model import Config
from otel_netmon.enrich.interfaces import InterfaceNames
from otel_netmon.export.otlp_metrics import metric_requests
from otel_netmon.export.otlp_wire import Envelope
from otel_netmon.kernel.interfaces import Interface
from otel_netmon.otel.points import Snapshot
from otel_netmon.sources.flows import FlowSource
from support import frames as f
from support.programs import LOOPBACK, Programs

FLOWS = (100, 1000, 5000)
CYCLES = 9
LIMIT_US = 3.0
LO = Interface(LOOPBACK, "lo", 0, "", "loopback", 1, 1, 65536, b"", None, None, None, None, None)


def frames(numbers: Iterable[int]) -> list[bytes]:
    """A datagram of a client of its own for each number."""
    return [
        f.ethernet(f.ipv4(f.udp(b"x" * 64), source=f"198.19.{number >> 8 & 255}.{number & 255}")) for number in numbers
    ]


def measure(flows: int, fresh: int) -> tuple[float, float]:
    """Microseconds a point without and with gzip, ``fresh`` flows of each cycle being new."""
    config = msgspec.convert({"flows": {"top_k": flows}}, Config)
    envelope, names = Envelope({"service.name": "otel-netmon"}), InterfaceNames()
    names.update([LO])
    plain, packed = [], []
    with Programs("tc_monitor") as programs:
        loaded = programs.loaded
        maps = {name: (fd, loaded.definitions[name].max_entries) for name, fd in loaded.maps.items()}
        fds = {name: programs.program(name) for name in ("netmon_sweep", "netmon_mark", "netmon_clock")}
        source = FlowSource(maps, fds, config, time.time_ns())
        source.set_interfaces({LO.key: Edge(count_receive=True, count_transmit=True, counted=frozenset())}, [])
        run = programs.runner().run
        previous: Snapshot | None = None
        for cycle in range(CYCLES):
            for frame in frames(range(cycle * fresh, cycle * fresh + flows)):
                run(frame)
            now_ns = time.time_ns()
            began = time.process_time()
            source.read([LO], flows, now_ns)
            points = source.points(names)
            snapshot = Snapshot(now_ns, {name: points[name] for name in ("netmon.flow.io", "netmon.flow.packets")})
            requests = list(
                metric_requests(
                    snapshot, envelope, previous=previous, temporality="cumulative", histograms="exponential"
                )
            )
            ended = time.process_time()
            for request in requests:
                zlib.compress(request.body, 1)
            items = sum(request.items for request in requests)
            assert items >= 2 * flows
            if cycle:  # the first one makes every series
                plain.append((ended - began) / items * 1e6)
                packed.append((time.process_time() - began) / items * 1e6)
            previous = snapshot
            source.settle()
    return statistics.median(plain), statistics.median(packed)


def main() -> int:
    """Prints the table; exit code 1 where a point costs more than it may with 5,000 flows."""
    print(f"{'flows':>6} {'new':>6} {'us a point':>11} {'with gzip':>10}")
    missed = False
    for flows in FLOWS:
        for fresh in (0, flows // 10):
            plain, packed = measure(flows, fresh)
            print(f"{flows:6} {fresh:6} {plain:11.2f} {packed:10.2f}")
            missed |= flows == FLOWS[-1] and packed > LIMIT_US
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())

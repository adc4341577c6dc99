"""Promise P2 end to end: the sum of the flows, the protocols and the hook's own totals equal the link's counters.

Every figure is asked for in every way there is: on the Prometheus page, in /status, and by value at two real collectors.
"""

from __future__ import annotations

import signal
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from support import collectors
from support.agent import Agent, agent
from support.collectors import Collector
from support.netns import NetNs, add_veth, namespaces, veth_pair
from support.traffic import (
    Sides,
    at_collector,
    datagrams,
    gained,
    handed_over,
    offloads,
    on_page,
    transfer,
    udp_frame,
)

pytestmark = [pytest.mark.kernel, pytest.mark.collector]

DATAGRAMS = 100_003
PAYLOAD = 64
FRAME = 14 + 20 + 8 + PAYLOAD
TRANSFER = 20_000_003
SYN = 14 + 20 + 40
SEGMENT = 14 + 20 + 32
SECONDS = 30.0

FLOWS = 20_011
TABLE = 4096

RUNNERS: dict[str, Callable[[Path], AbstractContextManager[Collector]]] = {
    "otelcol": collectors.otelcol,
    "rotel": collectors.rotel,
}


def every_account(running: Agent, collector: Collector, interface: str) -> dict[str, Sides]:
    """What each way of asking says about the interface."""
    page = running.get("/metrics")
    points = collector.received()
    return {
        "flows, Prometheus": on_page(page, "flow"),
        "protocols, Prometheus": on_page(page, "protocol", network_interface_name=interface),
        "flows, OTLP": at_collector(points, "flow"),
        "protocols, OTLP": at_collector(points, "protocol", interface),
    }


def wait_equal(running: Agent, account: Callable[[], dict[str, Sides]], truth: Sides) -> None:
    """Waits until every account says the truth, and fails with the differences."""
    last: dict[str, Sides] = {}

    def equal() -> bool:
        nonlocal last
        last = account()
        return all(says == truth for says in last.values())

    try:
        running.wait(equal, SECONDS, "equality")
    except AssertionError as error:
        lines = [f"{source}: {says}" for source, says in last.items()]
        raise AssertionError("\n".join([f"link: {truth}", *lines, str(error)])) from None


def plain_tcp(netns: NetNs, interface: str, address: str) -> None:
    """No segment is sent twice only because a busy machine acknowledges late, and all headers are of one length."""
    netns.run("sysctl", "-qw", "net.ipv4.tcp_early_retrans=0", "net.ipv4.tcp_sack=0")
    subnet = address.rpartition(".")[0] + ".0/24"
    netns.run("ip", "route", "replace", subnet, "dev", interface, "src", address, "rto_min", "30s")


@pytest.mark.parametrize(("name", "protocol"), [("otelcol", "http/protobuf"), ("rotel", "grpc")])
def test_flows_protocols_hook_and_link_are_equal(name: str, protocol: str, tmp_path: Path) -> None:
    with RUNNERS[name](tmp_path) as collector, veth_pair() as (left, right, pair):
        offloads(left, pair.left, "off")
        offloads(right, pair.right, "off")
        base = left.counters(pair.left)
        endpoint = collector.grpc if protocol == "grpc" else collector.http
        options = ["--interface", pair.left, "--otlp-endpoint", endpoint, "--set", f"otlp.protocol={protocol}"]
        namespaces = ["--set", f"interfaces.namespaces={left.name}"]
        with agent(*options, *namespaces, interval=0.5, otlp=True) as running:
            datagrams(left, right, pair.right_address, DATAGRAMS, PAYLOAD)
            transfer(right, left, pair.left_address, TRANSFER)
            truth = gained(left.counters(pair.left), base)
            packets, octets = truth["transmit"]
            assert packets > DATAGRAMS
            assert octets > DATAGRAMS * FRAME
            assert truth["receive"][1] > TRANSFER

            def account() -> dict[str, Sides]:
                return every_account(running, collector, pair.left) | {"hook": handed_over(running, pair.left)}

            wait_equal(running, account, truth)
            assert gained(left.counters(pair.left), base) == truth  # nothing was under way
            page = running.get("/metrics")
            udp = on_page(page, "flow", network_transport="udp", server_address=pair.right_address)
            assert udp == {"receive": (0, 0), "transmit": (DATAGRAMS, DATAGRAMS * FRAME)}
            stage = running.status()["stages"]["kernel"]
            assert stage == {
                "delivered": truth["receive"][0] + truth["transmit"][0],
                "dropped": {"unattributed": 0},
            }


def test_super_packets_are_told_as_the_wire_had_them() -> None:
    with veth_pair() as (left, right, pair):
        offloads(left, pair.left, "on")
        offloads(right, pair.right, "on")
        base = left.counters(pair.left)
        with agent("--interface", pair.left, enter=left.command(), interval=3600) as running:
            plain_tcp(left, pair.left, pair.left_address)
            plain_tcp(right, pair.right, pair.right_address)
            client, _ = transfer(left, right, pair.right_address, TRANSFER)
            assert client.bytes_retransmitted == 0
            link = gained(left.counters(pair.left), base)
            assert link["transmit"][0] < client.segments_out / 4  # else nothing was shown
            running.process.send_signal(signal.SIGUSR1)
            wait_equal(running, lambda: {"hook": handed_over(running, pair.left)}, link)
            wire = {
                "receive": (client.segments_in, SYN + (client.segments_in - 1) * SEGMENT),
                "transmit": (client.segments_out, TRANSFER + SYN + (client.segments_out - 1) * SEGMENT),
            }
            page = running.get("/metrics")
            assert on_page(page, "flow") == on_page(page, "protocol") == link  # as a virtual interface counts
            assert on_page(page, "wire") == wire
            assert -(-TRANSFER // client.segment_size) <= wire["transmit"][0]
            # All of it in one interval, and both counters at rest when they were read.
            shares = running.samples("netmon_coverage_ratio", network_interface_name=pair.left)
            assert {labels["network_io_direction"]: value for labels, value in shares} == {"receive": 1, "transmit": 1}


def test_a_flood_of_flows_leaves_the_totals_exact(tmp_path: Path) -> None:
    frames = [
        udp_frame("198.18.0.1", f"198.18.{number >> 8}.{number & 255}", 1024 + number % 50_000, 53)
        for number in range(FLOWS)
    ]
    with collectors.otelcol(tmp_path) as collector, veth_pair() as (left, _, pair):
        base = left.counters(pair.left)
        options = ["--interface", pair.left, "--set", f"interfaces.namespaces={left.name}"]
        limits = ["--set", f"probes.flows.table_entries={TABLE}", "--set", "flows.top_k=5"]
        with agent(*options, *limits, "--otlp-endpoint", collector.http, interval=0.3, otlp=True) as running:
            for _ in range(2):
                left.send_frames(pair.left, frames)
            truth = gained(left.counters(pair.left), base)
            assert truth == {"receive": (0, 0), "transmit": (2 * FLOWS, 2 * FLOWS * 64)}

            def account() -> dict[str, Sides]:
                said = every_account(running, collector, pair.left)
                del said["flows, Prometheus"]  # of a series that has left the five, the page no longer tells
                return said | {"hook": handed_over(running, pair.left)}

            wait_equal(running, account, truth)
            assert running.total("netmon_bpf_map_entries", netmon_bpf_map_name="flow_table") == TABLE
            assert running.status()["flows"]["live"] == TABLE
            flows = running.samples("netmon_flow_packets_total")
            assert sum("otel_metric_overflow" not in labels for labels, _ in flows) == 5
            others = collector.received("netmon.flow.packets")
            rest = [point.value for point in others if point.attributes.get("otel.metric.overflow")]
            assert max(value for value in rest if isinstance(value, int)) >= 2 * (
                FLOWS - TABLE
            )  # at least what had no place in the table
            assert running.status()["stages"]["kernel"] == {"delivered": 2 * FLOWS, "dropped": {"unattributed": 0}}


def test_what_no_row_had_room_for_is_told_whole() -> None:
    """Every IP protocol number on many interfaces, with no room for flows: more rows than the kernel's table holds."""
    interfaces = 20
    frames = []
    for protocol in range(256):
        frame = bytearray(udp_frame("198.18.0.1", "198.18.0.2", 1, 2, 100))
        frame[14 + 9] = protocol
        frames.append(bytes(frame))
        header = struct.pack(">IHBB16s16s", 6 << 28, 8, protocol, 64, bytes(16), bytes(16))
        frames.append(bytes(frame[:12]) + b"\x86\xdd" + header + bytes(8))
    with namespaces(2) as (host, far):
        for number in range(interfaces):
            add_veth(host, far, f"near{number}", f"far{number}", subnet=number)
        base = {f"near{number}": host.counters(f"near{number}") for number in range(interfaces)}
        with agent("--set", "probes.flows.table_entries=1", enter=host.command(), interval=3600) as running:
            for number in range(interfaces):
                host.send_frames(f"near{number}", frames)
            packets = sum(gained(host.counters(name), before)["transmit"][0] for name, before in base.items())
            assert packets == interfaces * len(frames)
            running.process.send_signal(signal.SIGUSR1)

            def stage() -> dict[str, Any]:
                found: dict[str, Any] = running.status()["stages"]["kernel"]
                return found

            running.wait(lambda: stage()["delivered"] > 0, SECONDS, "the cycle")
            assert stage()["dropped"]["unattributed"] > 0
            assert stage()["delivered"] + stage()["dropped"]["unattributed"] == packets

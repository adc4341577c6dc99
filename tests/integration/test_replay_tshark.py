"""Flows of a replay beside tshark's, on captures of conversations with everything that goes wrong in them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from otel_netmon.abi.enums import protocol_name
from otel_netmon.replay import replay
from support import frames as f
from support.capture_files import pcap_header, pcap_record
from support.conversations import capture

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed"),
]

RETRANSMISSIONS = ("retransmission", "fast_retransmission", "spurious_retransmission")
DISORDER = (*RETRANSMISSIONS, "out_of_order", "keep_alive")
FIELDS = (
    "ip.src", "ip.dst", "ip.len", "ip.proto", "ip.frag_offset",
    "ipv6.src", "ipv6.dst", "ipv6.plen", "ipv6.nxt",
    "ipv6.hopopts.nxt", "ipv6.routing.nxt", "ipv6.dstopts.nxt", "ipv6.fraghdr.nxt", "ipv6.fraghdr.offset",
    "tcp.srcport", "tcp.dstport", "udp.srcport", "udp.dstport", "tcp.flags.reset",
    *(f"tcp.analysis.{name}" for name in DISORDER),
)  # fmt: skip
EXTENSIONS = {"0": "ipv6.hopopts.nxt", "43": "ipv6.routing.nxt", "60": "ipv6.dstopts.nxt", "44": "ipv6.fraghdr.nxt"}


class Flow(NamedTuple):
    packets: int = 0
    bytes: int = 0
    resets: int = 0
    retransmits_least: int = 0
    retransmits_most: int = 0


def tshark(path: Path) -> dict[tuple[str, int, str, int, str], Flow]:
    """Flows of the outermost IP headers as tshark reads them, later fragments with ports 0."""
    command = ["tshark", "-n", "-r", str(path), "-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE"]
    command += ["-T", "fields", *(word for field in FIELDS for word in ("-e", field))]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    flows: dict[tuple[str, int, str, int, str], Flow] = {}
    for line in lines:
        row = dict(zip(FIELDS, line.split("\t"), strict=True))
        six = not row["ip.src"]
        protocol = row["ipv6.nxt"] if six else row["ip.proto"]
        chains = {header: row[field].split(",") for header, field in EXTENSIONS.items()}
        while six and protocol in chains:
            protocol = chains[protocol].pop(0)
        first = int(row["ip.frag_offset"] or row["ipv6.fraghdr.offset"] or 0) == 0
        name = protocol_name(int(protocol))
        ports = [int(row[f"{name}.{side}port"] or 0) if first else 0 for side in ("src", "dst")]
        key = (row["ipv6.src" if six else "ip.src"], ports[0], row["ipv6.dst" if six else "ip.dst"], ports[1], name)
        flow = flows.get(key, Flow())
        flows[key] = Flow(
            flow.packets + 1,
            flow.bytes + (40 + int(row["ipv6.plen"]) if six else int(row["ip.len"])),
            flow.resets + (row["tcp.flags.reset"] == "1"),
            flow.retransmits_least + any(row[f"tcp.analysis.{each}"] for each in RETRANSMISSIONS),
            flow.retransmits_most + any(row[f"tcp.analysis.{each}"] for each in DISORDER),
        )
    return flows


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("snapshot", [262144, 140])
def test_flows_are_those_of_tshark(tmp_path: Path, seed: int, snapshot: int) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes(capture(seed, 120, snapshot))
    result = replay(str(path), tmp_path / "cache")
    want = tshark(path)
    assert result.unparsed == {}
    assert result.read == result.counted == sum(flow.packets for flow in want.values())
    found = {(flow["src"], flow["sport"], flow["dst"], flow["dport"], flow["protocol"]): flow for flow in result.flows}
    assert set(found) == set(want)
    for key, flow in want.items():
        got = found[key]
        assert (got["packets"], got["bytes"], got["resets"]) == (flow.packets, flow.bytes, flow.resets), key
        assert flow.retransmits_least <= got["retransmits"] <= flow.retransmits_most, (key, flow)
    assert sum(flow["retransmits"] for flow in result.flows) > 20
    assert sum(flow["resets"] for flow in result.flows) > 5


def test_ports_are_told_as_soon_as_they_are_there(tmp_path: Path) -> None:
    """Snapshot lengths that end inside the transport header; the octet counts are those of the IP header."""
    content = pcap_header()
    for number, octets in enumerate(range(4, 21)):
        for protocol, body in ((f.TCP, f.tcp(b"x" * 100, 1000 + number)), (f.UDP, f.udp(b"x" * 100, 1000 + number))):
            for packet, ethertype, header in (
                (f.ipv4(body, protocol), f.IPV4, 20),
                (f.ipv6(body, protocol), f.IPV6, 40),
            ):
                frame = f.ethernet(packet, ethertype)
                content += pcap_record(frame[: 14 + header + octets], number, 0, len(frame))
    path = tmp_path / "a.pcap"
    path.write_bytes(content)
    result = replay(str(path), tmp_path / "cache")
    found = {(flow["src"], flow["sport"], flow["dst"], flow["dport"], flow["protocol"]): flow for flow in result.flows}
    want = tshark(path)
    assert {key: (flow["packets"], flow["bytes"]) for key, flow in found.items()} == {
        key: (flow.packets, flow.bytes) for key, flow in want.items()
    }
    assert len(found) == 17 * 4


def test_lengths_that_lie_are_counted_as_tshark_prints_them(tmp_path: Path) -> None:
    packets = [
        f.ipv4(f.udp(b"12345", 1), total=total) + padding
        for total in (0, 28, 33, 34, 9000, 65535)
        for padding in (b"", bytes(13))
    ]
    frames = [f.ethernet(packet) for packet in packets]
    frames += [f.ethernet(f.ipv6(f.udp(b"12345", 2), length=length), f.IPV6) for length in (8, 13, 14, 9000, 65535)]
    path = tmp_path / "a.pcap"
    path.write_bytes(pcap_header() + b"".join(map(pcap_record, frames)))
    result = replay(str(path), tmp_path / "cache")
    assert result.counted == len(frames)
    want = tshark(path)
    assert {(flow["src"], flow["sport"]): flow["bytes"] for flow in result.flows} == {
        (key[0], key[1]): flow.bytes for key, flow in want.items()
    }

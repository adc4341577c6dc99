"""A capture sent to a real collector: the points hold what is in the file, at the times of the file."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from support.agent import command
from support.capture_files import pcap_header, pcap_record
from support.collectors import otelcol

pytestmark = pytest.mark.kernel

COUNT = 1009
START = 1_700_000_000


def udp_frame(payload: bytes) -> bytes:
    """An Ethernet frame with one UDP datagram from 192.0.2.1:40000 to 192.0.2.2:53."""
    udp = bytes.fromhex("9c400035") + (8 + len(payload)).to_bytes(2, "big") + b"\0\0" + payload
    ip = (
        b"\x45\0"
        + (20 + len(udp)).to_bytes(2, "big")
        + bytes(4)
        + b"\x40\x11\0\0"
        + bytes([192, 0, 2, 1, 192, 0, 2, 2])
    )
    return bytes(12) + b"\x08\0" + ip + udp


def test_points_hold_what_the_capture_holds(tmp_path: Path) -> None:
    frame = udp_frame(b"x" * 31)
    capture = tmp_path / "known.pcap"
    records = [pcap_record(frame, *divmod(START * 10**6 + n * 1000, 10**6)) for n in range(COUNT)]
    capture.write_bytes(pcap_header() + b"".join(records))
    with otelcol(tmp_path) as collector:
        done = subprocess.run(
            command("replay", str(capture), "--output", "otlp", "--otlp-endpoint", collector.http),
            capture_output=True,
            check=True,
            timeout=60,
        )
        delivered = json.loads(done.stdout)["points_delivered"]
        points = collector.wait_for(lambda received: len(received) >= delivered)
    flows = {p.name: p for p in points if p.attributes.get("client.address") == "192.0.2.1"}
    assert flows["netmon.flow.packets"].value == COUNT
    assert flows["netmon.flow.io"].value == COUNT * len(frame)
    assert flows["netmon.flow.io"].attributes["server.port"] == 53
    assert flows["netmon.flow.io"].start_time == START * 10**9
    assert flows["netmon.flow.io"].time == START * 10**9 + (COUNT - 1) * 10**6
    protocol = next(p for p in points if p.name == "netmon.protocol.packets")
    assert (protocol.value, protocol.attributes["network.interface.name"]) == (COUNT, "known.pcap")


def test_an_absent_collector_is_an_error_with_the_count(tmp_path: Path) -> None:
    capture = tmp_path / "known.pcap"
    capture.write_bytes(pcap_header() + pcap_record(udp_frame(b"x"), START))
    options = ["--otlp-endpoint", "http://127.0.0.1:9", "--set", "otlp.timeout_seconds=0.5"]
    done = subprocess.run(
        command("replay", str(capture), "--output", "otlp", *options),
        capture_output=True,
        check=False,
        timeout=60,
        text=True,
    )
    assert done.returncode == 1
    assert "took 0 of" in done.stderr
    assert "Connection refused" in done.stderr

"""HTTP/1 in a replay: captures of every kind, snap lengths, and beside tshark."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from otel_netmon.replay import replay
from support.http1_captures import ANY, KINDS, Dialog, Row, keep_alive
from support.http2_captures import write
from support.http_messages import HOST, request, response

pytestmark = pytest.mark.kernel


def told(path: str, folder: Path) -> list[dict[str, Any]]:
    result = replay(path, folder, decapsulate=False)
    assert result.messages_lost == {}
    return result.http


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(kind: str, tmp_path: Path) -> None:
    dialog = KINDS[kind]()
    made = told(write(tmp_path / "http1.pcap", dialog.packets), tmp_path)
    expected = []
    for row, each in zip(dialog.rows, made, strict=True):
        duration = each["duration_ms"] if row["duration_ms"] is ANY else row["duration_ms"]
        expected.append(row | {"duration_ms": None if duration is None else pytest.approx(duration)})
    assert [{name: each[name] for name in expected[0]} for each in made] == expected
    assert {(each["client"], each["client_port"], each["server"], each["server_port"]) for each in made} <= {
        ("192.0.2.1", 40000, "192.0.2.2", 8443)
    }


def test_many_connections_at_once(tmp_path: Path) -> None:
    """Their packets are mixed; each keeps its own order."""
    generator = random.Random(23)  # noqa: S311
    packets, rows = [], []
    for number in range(53):
        kind = generator.choice([each for each in KINDS if each not in {"disorder", "too_long_heads"}])
        dialog = KINDS[kind]()
        port = (50000 + number).to_bytes(2, "big")
        for seen, segment in dialog.packets:
            source, destination = (
                end[:16] + port if end[16:] == (40000).to_bytes(2, "big") else end
                for end in (seen.source, seen.destination)
            )
            packets.append((seen._replace(source=source, destination=destination), segment))
        rows += [(50000 + number, row["method"], row["target"], row["status"]) for row in dialog.rows]
    packets.sort(key=lambda packet: packet[1].time_ns)
    made = told(write(tmp_path / "http1.pcap", packets), tmp_path)
    by_connection = sorted(made, key=lambda each: each["client_port"])
    assert [(each["client_port"], each["method"], each["target"], each["status"]) for each in by_connection] == rows


@pytest.mark.parametrize("captured", [54 + 10, 54 + 40, 54 + 100, 54 + 600])
def test_a_snap_length(captured: int, tmp_path: Path) -> None:
    """Every request is there with as much as is known of it, and its status."""
    dialog = keep_alive()
    made = told(write(tmp_path / "http1.pcap", dialog.packets, captured), tmp_path)
    assert len(made) == len(dialog.rows)
    for each, row in zip(made, dialog.rows, strict=True):
        unknown = each.get("unknown", [])
        assert each["method"] == "GET"
        assert each["target"] == row["target"] or ("target" in unknown and row["target"].startswith(each["target"]))
        assert each["host"] == row["host"] or "host" in unknown
        assert each["status"] == (row["status"] if captured > 54 + 11 else None)


def test_what_is_no_http_is_none(tmp_path: Path) -> None:
    dialog = Dialog().open()
    for line in (b"220 a.example ESMTP\r\n", b"250 b\r\n"):
        dialog.say(False, line).say(True, b"EHLO a.example\r\n")
    dialog.say(True, b"OPTIONS rtsp://a.example RTSP/1.0\r\nCSeq: 1\r\n\r\n").say(True, bytes(range(256)))
    assert told(write(tmp_path / "none.pcap", dialog.packets), tmp_path) == []


def by_tshark(path: str) -> list[Row]:
    """Method, target, host and status of the requests of a capture without pipelining and without interim responses."""
    fields = ("http.request.method", "http.request.uri", "http.host", "http.response.code")
    arguments = [argument for name in fields for argument in ("-e", name)]
    command = ["tshark", "-r", path, "-d", "tcp.port==8443,http", "-Y", "http", "-T", "fields", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    rows: list[Row] = []
    for line in done.stdout.splitlines():
        method, target, host, status = line.split("\t")
        if method:
            rows.append({"method": method, "target": target, "host": host or None, "status": None})
        elif status and rows:
            rows[-1]["status"] = int(status)
    return rows


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
@pytest.mark.parametrize("kind", ["keep_alive", "without_a_body", "to_the_end", "requests_alone", "websocket"])
def test_beside_tshark(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / "http1.pcap", KINDS[kind]().packets)
    listed = by_tshark(path)
    assert listed
    assert [{name: each[name] for name in listed[0]} for each in told(path, tmp_path)] == listed


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_cuts_at_random_beside_tshark(tmp_path: Path) -> None:
    generator = random.Random(29)  # noqa: S311
    dialog = Dialog().open()
    for number in range(101):
        line = f"{generator.choice(['GET', 'POST', 'PUT'])} /{number}"
        body = generator.randbytes(generator.choice([0, 1, 5000])) if line[0] == "P" else b""
        dialog.say(True, request(line, HOST, body=body), generator.choice([3, 50, 1460]))
        answer = response(400 + number, f"Content-Length: {3 * number}", body=b"x" * 3 * number)
        dialog.say(False, answer, generator.choice([3, 50, 1460]))
    path = write(tmp_path / "http1.pcap", dialog.packets)
    listed = by_tshark(path)
    assert len(listed) == 101
    assert [{name: each[name] for name in listed[0]} for each in told(path, tmp_path)] == listed

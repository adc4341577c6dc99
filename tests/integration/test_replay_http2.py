"""HTTP/2 in a replay: captures of every kind, and beside tshark."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from otel_netmon.replay import replay
from support import http2_captures as captures, http2_frames as f
from support.http2_captures import ANY, KINDS, Dialog, Row, write

pytestmark = pytest.mark.kernel

FIELDS = ("method", "target", "host", "status", "duration_ms", "traceparent")


def told(path: str, folder: Path) -> list[dict[str, Any]]:
    result = replay(path, folder, decapsulate=False)
    assert result.messages_lost == {}
    return result.http


def rows(listed: list[dict[str, Any]]) -> list[Row]:
    return [{name: each[name] for name in FIELDS} for each in listed]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(kind: str, tmp_path: Path) -> None:
    dialog = KINDS[kind]()
    made = told(write(tmp_path / "http2.pcap", dialog.packets), tmp_path)
    expected = [row | {"duration_ms": each["duration_ms"]} if row["duration_ms"] is ANY else row
                for row, each in zip(dialog.rows, made, strict=True)]  # fmt: skip
    assert rows(made) == [row | {"duration_ms": pytest.approx(row["duration_ms"])} for row in expected]
    assert all(
        each["duration_ms"] > 0 for each, row in zip(made, dialog.rows, strict=True) if row["duration_ms"] is ANY
    )


@pytest.mark.parametrize("skipped", [1, 2, 3, 4, 5, 6, 7, 8, 20])
def test_joined_in_the_middle(skipped: int, tmp_path: Path) -> None:
    """What is told is true, and what cannot be known is named."""
    dialog = captures.joined(skipped)
    made = told(write(tmp_path / "http2.pcap", dialog.packets), tmp_path)
    missing = (skipped - 4 + 1) // 2 if skipped > 4 else 0
    assert len(made) == len(dialog.rows) - missing
    for each, row in zip(made, dialog.rows[missing:], strict=True):
        unknown = each.get("unknown", ())
        for name in ("method", "target", "host", "status", "traceparent"):
            assert each[name] == row[name] or (each[name] is None and name in unknown), (skipped, name)
    assert (made[0]["target"] is None) == (skipped > 4)


@pytest.mark.parametrize("captured", [70, 96, 200, 1000])
def test_a_snap_length(captured: int, tmp_path: Path) -> None:
    """Bodies that are cut off cost nothing; a head that is cut off is not known, and neither is the table from there on."""
    dialog = captures.behind_data(1460)
    made = told(write(tmp_path / "http2.pcap", dialog.packets, captured), tmp_path)
    assert {each["status"] for each in made} <= {200, 503, 204, None}
    for each in made:
        assert each["target"] in {"/1", "/3", "/5"} or "target" in each["unknown"]


def test_what_could_not_be_read_is_told(tmp_path: Path) -> None:
    dialog = Dialog()
    dialog.open()
    dialog.say(True, f.headers(1, b"\x80", end=True) + f.headers(3, dialog.request(3, "/a"), complete=False))
    dialog.say(True, f.data(3, 5) + f.frame(f.PING, b"1"))
    result = replay(write(tmp_path / "http2.pcap", dialog.packets), tmp_path, decapsulate=False)
    assert result.http_unparsed == {"broken_blocks": 1, "hpack_index": 1, "illegal_frames": 1}
    assert result.document()["http_unparsed"] == result.http_unparsed
    assert [each["target"] for each in result.http] == [None, None]


def tshark(path: str) -> list[Row]:
    """Requests by tshark: heads of the client in their order, each with the first final status on its stream."""
    command = ["tshark", "-r", path, "-d", "tcp.port==8443,http2", "-T", "json", "-J", "http2", "-Y", "http2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    requests: dict[int, Row] = {}
    for head in heads(json.loads(done.stdout, object_pairs_hook=lambda pairs: pairs)):  # keys come more than once
        stream = int(head["http2.streamid"])
        row = requests.get(stream)
        if row is None and "http2.headers.method" in head:
            row = requests[stream] = {"method": None, "target": None, "host": None, "status": None}
        if row is not None:
            for name, key in (("method", "method"), ("path", "target"), ("authority", "host"), ("status", "status")):
                value = head.get(f"http2.headers.{name}")
                if value is not None and row[key] is None and not (name == "status" and value.startswith("1")):
                    row[key] = int(value) if name == "status" else value
    return list(requests.values())


def heads(pairs: list[Any]) -> Iterator[dict[str, Any]]:
    """The fields of every HTTP/2 frame in tshark's JSON."""
    if any(each[0] == "http2.streamid" for each in pairs if isinstance(each, tuple)):
        yield dict(leaves(pairs))
        return
    for each in pairs:
        value = each[1] if isinstance(each, tuple) else each
        if isinstance(value, list):
            yield from heads(value)


def leaves(pairs: list[Any]) -> Iterator[tuple[str, Any]]:
    for name, value in pairs:
        if isinstance(value, list):
            yield from leaves([each for each in value if isinstance(each, tuple)])
        else:
            yield name, value


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"upgraded", "server_only"}))
def test_beside_tshark(kind: str, tmp_path: Path) -> None:
    dialog: Dialog = KINDS[kind]()
    path = write(tmp_path / "http2.pcap", dialog.packets)
    made = [{name: each[name] for name in ("method", "target", "host", "status")} for each in told(path, tmp_path)]
    assert made == tshark(path)

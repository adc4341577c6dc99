"""What is wrong outside the agent is said in words that help, costs only what it touches, and ends with the exit code of the manual."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from otel_netmon.kernel.namespaces import find_namespace, opened_in
from support import collectors
from support.agent import ROOT, Agent, agent, command
from support.bpf_objects import mark, wait_nothing_left
from support.capture_files import pcap_header, pcap_record
from support.collectors import free_ports
from support.netns import NetNs, namespace, veth_pair
from support.otlp_receiver import Answer, Receiver, http_receiver
from support.traffic import at_collector, datagrams, handed_over, on_page, udp_frame

pytestmark = pytest.mark.kernel

PACKETS = 1009
FRAME = 42 + 64
SECONDS = 30.0
NOBODY = 65534
IEEE80211 = 801  # ARPHRD of a monitor interface: what tc sees there begins with nothing that the programs can read
TUNSETIFF, TUNSETLINK, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x400454CD, 2, 0x1000


def run(*arguments: str, prefix: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    """A command of the agent to its end."""
    return subprocess.run(
        [*prefix, *command(*arguments)],
        cwd=ROOT,
        env=os.environ | {"NO_COLOR": "1", "PYTHONDONTWRITEBYTECODE": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def said(done: subprocess.CompletedProcess[str], code: int) -> str:
    """What a failed command said on stderr: exactly that exit code, nothing on stdout, and no traceback."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr


def send(left: NetNs, right: NetNs, address: str) -> None:
    datagrams(left, right, address, PACKETS, 64)


def probes(running: Agent) -> dict[str, dict[str, Any]]:
    return {probe["name"]: probe for probe in running.status()["probes"]}


# --------------------------------------------------------------------------------------------------------- privilege
@pytest.mark.parametrize("arguments", [("run", "--interface", "lo"), ("replay", "{capture}")])
def test_without_privilege(arguments: tuple[str, ...], tmp_path: Path) -> None:
    since = mark()
    capture = tmp_path / "one.pcap"
    capture.write_bytes(pcap_header() + pcap_record(udp_frame("198.18.0.1", "198.18.0.2", 1, 2)))
    for folder in (capture, *tmp_path.parents[: len(tmp_path.parents) - 2], tmp_path):
        folder.chmod(0o755 if folder.is_dir() else 0o644)
    prefix = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--bounding-set=-all")
    text = said(run(*(each.format(capture=capture) for each in arguments), prefix=prefix), 77)
    assert text.count("\n") == 1
    assert "not permitted" in text
    assert "CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON" in text
    wait_nothing_left(since)


def test_root_without_capabilities() -> None:
    prefix = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    assert "CAP_BPF" in said(run("run", "--interface", "lo", prefix=prefix), 77)


def test_without_privilege_for_the_compiler(tmp_path: Path) -> None:
    sources = edited(tmp_path, "tc_monitor.c", HEAD, "/* edited */")
    prefix = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    assert "CAP_BPF" in said(run("run", "--interface", "lo", *images(sources, tmp_path), prefix=prefix), 77)


# ------------------------------------------------------------------------------------------------------ configuration
@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("flows:\n  top_k: [1\nexport:\n", [":3:7: not valid YAML"]),
        ("flows:\n\ttop_k: 1\n", [":2:1: not valid YAML"]),
        (
            "flows:\n  topk: 1\nfoo: 1\n",
            [":2:3: unknown key 'flows.topk'; did you mean flows.top_k?", ":3:1: unknown key"],
        ),
        ("probes:\n  flows:\n    idle_seconds: never\n", [":3:19:"]),
    ],
)
def test_a_broken_configuration(text: str, places: list[str], tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    words = said(run("run", "--config", str(path)), 78)
    for place in places:
        assert f"{path}{place}" in words, words


def test_a_port_in_use() -> None:
    since = mark()
    with socket.socket() as taken, namespace() as alone:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        options = ["--set", f"interfaces.namespaces={alone.name}", "--set", "otlp.enabled=false"]
        done = run("run", "--interface", "lo", *options, "--prometheus", f"127.0.0.1:{port}")
        assert done.returncode == 1
        events = {event["event"]: event for event in map(json.loads, done.stderr.splitlines())}
        error = events["agent.start_failed"]["error"]
        assert f"cannot listen on 127.0.0.1:{port}" in error
        assert "--prometheus" in error
        assert events["agent.stopped"]["reason"] == "start_failed"
    wait_nothing_left(since)


# --------------------------------------------------------------------------------------------------------- collectors
@pytest.mark.collector
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_collector_that_comes_later_gets_everything(protocol: str, tmp_path: Path) -> None:
    ports = free_ports(2)
    endpoint = f"http://127.0.0.1:{ports[protocol != 'grpc']}"
    with veth_pair() as (left, right, pair):
        options = ["--interface", pair.left, "--set", f"interfaces.namespaces={left.name}"]
        export = ["--otlp-endpoint", endpoint, "--set", f"otlp.protocol={protocol}", "--set", "otlp.timeout_seconds=1"]
        with agent(*options, *export, interval=0.3, otlp=True) as running:
            send(left, right, pair.right_address)
            assert endpoint in running.wait_event("otlp.failing")["endpoint"]
            with collectors.otelcol(tmp_path, (ports[0], ports[1])) as collector:
                sides = {"receive": (0, 0), "transmit": (2 * PACKETS, 2 * PACKETS * FRAME)}
                send(left, right, pair.right_address)
                collector.wait_for(
                    lambda points: at_collector(points, "flow") == at_collector(points, "protocol", pair.left) == sides,
                    SECONDS,
                )
                assert running.stop() == 0


@contextmanager
def garbage() -> Iterator[str]:
    """A server that answers with bytes of no protocol."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        over = threading.Event()

        def answer() -> None:
            while not over.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.settimeout(2)
                    connection.recv(1 << 16)
                    connection.sendall(b"\0\1\2 no protocol at all \xff\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            over.set()
            thread.join()


@contextmanager
def answering(kind: str) -> Iterator[tuple[str, Receiver | None]]:
    """A collector of a bad kind."""
    if kind == "garbage":
        with garbage() as endpoint:
            yield endpoint, None
        return
    held = threading.Event()
    answers = {
        "400": Answer(400, b"no", "text/plain"),
        "503": Answer(503),
        "hangs": Answer(200, wait=held),
        "lies": Answer(200, b"\xff\xff\xff no protobuf"),
    }
    with http_receiver() as receiver:
        receiver.answers.append(answers[kind])
        try:
            yield receiver.endpoint, receiver
        finally:
            held.set()


@pytest.mark.parametrize("kind", ["400", "503", "garbage", "hangs", "lies"])
def test_a_bad_collector_costs_only_its_points(kind: str) -> None:
    with answering(kind) as (endpoint, _), veth_pair() as (left, right, pair):
        options = ["--interface", pair.left, "--set", f"interfaces.namespaces={left.name}"]
        times = ["--set", "otlp.timeout_seconds=1", "--set", "export.shutdown_seconds=1"]
        with agent(*options, *times, "--otlp-endpoint", endpoint, interval=0.3, otlp=True) as running:
            send(left, right, pair.right_address)
            each = {"receive": (0, 0), "transmit": (PACKETS, PACKETS * FRAME)}
            running.wait(lambda: on_page(running.get("/metrics"), "flow") == each, SECONDS, "the page")

            def otlp() -> dict[str, Any]:
                found: dict[str, Any] = running.status()["export"]["otlp"]
                return found

            if kind == "lies":  # the status code counts: what is in the body of an answer 200 is only advice
                running.wait(lambda: otlp()["points_delivered"] > 0, SECONDS, "delivered points")
            else:
                running.wait(lambda: bool(otlp()["last_error"]), SECONDS, "a failed export")
                # Refused for good, or replaced by a newer snapshot while it waits to be tried again.
                running.wait(lambda: sum(otlp()["points_dropped"].values()) > 0, SECONDS, "points dropped")
                assert otlp()["points_delivered"] == 0
            stats = otlp()
            whole = stats["points_delivered"] + sum(stats["points_dropped"].values()) + stats["points_pending"]
            assert stats["points_offered"] == whole
            # A page tells how the export stood at its cycle: the same identity.
            labels = {"netmon_destination": "default", "netmon_outcome": "dropped", "netmon_signal": "metric_points"}
            if kind == "lies":
                assert not running.samples("netmon_pipeline_items_total", **labels)
            else:
                running.wait(lambda: running.total("netmon_pipeline_items_total", **labels) > 0, SECONDS, "told drops")
            started = time.monotonic()
            assert running.stop() == 0
            assert time.monotonic() - started < 5
            stopped = running.events("otlp.stopped")[0]
            assert (sum(stopped["dropped"].values()) > 0) == (kind != "lies")


# ------------------------------------------------------------------------------------------- what the kernel refuses
@contextmanager
def odd_device(netns: NetNs, name: str) -> Iterator[None]:
    """A tap device that says it is of a link type which the programs do not know."""
    found = find_namespace(netns.name)
    assert found is not None
    try:
        fd = opened_in(found, lambda: os.open("/dev/net/tun", os.O_RDWR))
        try:
            opened_in(
                found, lambda: fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
            )
            fcntl.ioctl(fd, TUNSETLINK, IEEE80211)
            netns.run("ip", "link", "set", name, "up")
            yield
        finally:
            os.close(fd)
    finally:
        found.close()


def test_an_interface_of_a_type_that_cannot_be_read() -> None:
    with (
        veth_pair() as (left, right, pair),
        odd_device(left, "odd0"),
        agent("--interface", "*", enter=left.command(), interval=0.3) as running,
    ):
        unknown = f"link_layer_{IEEE80211}"
        rows = {row["name"]: row for row in running.status()["interfaces"]}
        assert rows["odd0"]["hooks"] == {"tc_receive": unknown, "tc_transmit": unknown}
        flows = probes(running)["flows"]
        assert (flows["state"], flows["reason"]) == ("degraded", unknown)
        assert "odd0" in flows["detail"]
        send(left, right, pair.right_address)
        each = (PACKETS, PACKETS * FRAME)
        running.wait(lambda: handed_over(running, pair.left)["transmit"] == each, SECONDS, "packets elsewhere")


def test_a_program_that_the_verifier_refuses_is_off_and_the_rest_runs(tmp_path: Path) -> None:
    sources = edited(
        tmp_path, "xdp_monitor.c", "int netmon_xdp(struct xdp_md *xdp)\n{", "\treturn *(int *)(long)xdp->data;\n"
    )
    with veth_pair() as (left, right, pair):
        options = ["--interface", pair.left, "--set", "probes.xdp.enabled=true", "--set", "probes.xdp.mode=generic"]
        with agent(*options, *images(sources, tmp_path), enter=left.command(), interval=0.3) as running:
            assert (probes(running)["xdp"]["state"], probes(running)["xdp"]["reason"]) == ("off", "kernel_refuses")
            assert "netmon_xdp" in probes(running)["xdp"]["detail"]
            assert "invalid access to packet" in probes(running)["xdp"]["detail"]
            off = running.samples("netmon_probe_state_ratio", netmon_probe="xdp")
            assert [labels["netmon_reason"] for labels, _ in off] == ["kernel_refuses"]
            assert running.events("probe.off")[0]["probe"] == "xdp"
            send(left, right, pair.right_address)
            each = (PACKETS, PACKETS * FRAME)
            running.wait(lambda: handed_over(running, pair.left)["transmit"] == each, SECONDS, "packets")


# ---------------------------------------------------------------------------------------------------- program images
def edited(folder: Path, file: str, after: str, addition: str) -> Path:
    """A copy of the sources with something added."""
    sources = folder / "bpf"
    shutil.copytree(ROOT / "bpf", sources)
    text = (sources / file).read_text()
    assert text.count(after) == 1
    (sources / file).write_text(text.replace(after, after + "\n" + addition))
    return sources


def images(sources: Path, folder: Path) -> list[str]:
    return ["--set", f"images.sources={sources}", "--set", f"images.directory={folder / 'cache'}"]


HEAD = '#include "packet.h"'


def test_edited_sources_are_compiled_cached_and_used(tmp_path: Path) -> None:
    # Every packet counts for two: the program that runs is this one and no other.
    sources = edited(tmp_path, "tc_monitor.c", "amount.packets = 1;", "\tamount.packets = 2;\n")
    each = (2 * PACKETS, PACKETS * FRAME)
    with veth_pair() as (left, right, pair):
        for origin in ("compiled", "cache"):
            options = ["--interface", pair.left, *images(sources, tmp_path)]
            with agent(*options, enter=left.command(), interval=0.3) as running:
                assert running.events("agent.ready")[0]["images"]["tc_monitor"] == origin
                send(left, right, pair.right_address)
                running.wait(lambda: handed_over(running, pair.left)["transmit"] == each, SECONDS, f"{each}")


def cut(text: str) -> str:
    return text[: len(text) // 2]


def another(_: str) -> str:
    return json.dumps({"something": "else"})


def flipped(text: str) -> str:
    """Good JSON with other instructions: a bit fell over on the disk."""
    document = json.loads(text)
    code = document["programs"]["netmon_transmit"]["instructions"]
    document["programs"]["netmon_transmit"]["instructions"] = code[:40] + ("A" if code[40] != "A" else "B") + code[41:]
    return json.dumps(document)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with edited sources and the cache of their image, as an agent left it."""
    folder = tmp_path_factory.mktemp("compiled")
    sources = edited(folder, "tc_monitor.c", HEAD, "/* edited */")
    with namespace() as alone, agent("--interface", "lo", *images(sources, folder), enter=alone.command()):
        return folder


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        another,
        lambda _: "\0\xff",
        lambda _: "",
        flipped,
    ],
    ids=["cut", "another", "binary", "empty", "flipped"],
)
def test_a_damaged_cached_image_is_compiled_again(damage: Callable[[str], str], compiled: Path, tmp_path: Path) -> None:
    (good,) = (compiled / "cache").glob("tc_monitor-*.json")
    damaged = tmp_path / "cache" / good.name
    damaged.parent.mkdir()
    damaged.write_text(damage(good.read_text()), encoding="latin-1")
    with (
        namespace() as alone,
        agent("--interface", "lo", *images(compiled / "bpf", tmp_path), enter=alone.command()) as running,
    ):
        assert running.events("agent.ready")[0]["images"]["tc_monitor"] == "compiled"
        assert probes(running)["flows"]["state"] == "ok"
    assert damaged.read_text() == good.read_text()


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A file system mounted there that nobody can write to, root included."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    sources = edited(tmp_path, "tc_monitor.c", HEAD, "/* edited */")
    with read_only(tmp_path / "full"):
        folder = tmp_path / "full" / "cache"
        options = ["--set", f"images.sources={sources}", "--set", f"images.directory={folder}"]
        text = said(run("run", "--interface", "lo", *options), 1)
        assert str(folder) in text
        assert "Read-only file system" in text


def test_sources_that_do_not_compile(tmp_path: Path) -> None:
    sources = edited(tmp_path, "tc_monitor.c", HEAD, "this is no C")
    line = (sources / "tc_monitor.c").read_text().splitlines().index("this is no C") + 1
    text = said(run("run", "--interface", "lo", *images(sources, tmp_path)), 1)
    assert f"tc_monitor.c:{line}:" in text
    assert "images.sources" in text


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    text = said(run("run", "--interface", "lo", *images(tmp_path / "nosuch", tmp_path)), 1)
    assert f"{tmp_path / 'nosuch'}" in text
    assert "images.sources" in text


# ----------------------------------------------------------------------------------------------------------- captures
RECORDS = [pcap_record(udp_frame("198.18.0.1", "198.18.0.2", 1000 + number, 53)) for number in range(23)]
SIZE = len(RECORDS[0])
TEN = 24 + 10 * SIZE


def capture(*, after: bytes = b"", records: int = len(RECORDS)) -> bytes:
    return pcap_header() + b"".join(RECORDS[:records]) + after


@pytest.mark.parametrize(
    ("data", "packets", "offset"),
    [
        (capture(), 23, None),
        (capture(records=0), 0, None),
        (capture(records=10, after=RECORDS[10][:30]), 10, TEN),
        (capture(records=10, after=RECORDS[10][:7]), 10, TEN),
        (capture(records=10, after=struct.pack("<IIII", 0, 0, 0x7FFFFFFF, 64) + bytes(64)), 10, TEN),
    ],
    ids=["whole", "no packets", "cut in a frame", "cut in a header", "impossible length"],
)
def test_what_was_readable_of_a_broken_capture_is_reported(
    data: bytes, packets: int, offset: int | None, tmp_path: Path
) -> None:
    path = tmp_path / "some.pcap"
    path.write_bytes(data)
    done = run("replay", str(path), "--output", "json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["packets"] == {"read": packets, "counted": packets, "unparsed": {}}
    assert sorted(flow["sport"] for flow in document["flows"]) == list(range(1000, 1000 + packets))
    if offset is None:
        assert "faults" not in document
        assert done.stderr == ""
    else:
        assert [fault["offset"] for fault in document["faults"]] == [offset]
        assert f"{path}: offset {offset}: " in done.stderr


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (pcap_header()[:10], "ends after 10 of the 24 octets"),
        (b"this is no capture at all", "neither pcap nor pcapng"),
        (None, "No such file or directory"),
    ],
    ids=["empty", "cut in the file header", "text", "absent"],
)
def test_what_is_no_capture(data: bytes | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "some.pcap"
    if data is not None:
        path.write_bytes(data)
    text = said(run("replay", str(path)), 1)
    assert str(path) in text
    assert words in text


def test_a_capture_from_standard_input() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "otel_netmon", "replay", "-"],
        cwd=ROOT,
        input=capture(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["packets"]["counted"] == len(RECORDS)

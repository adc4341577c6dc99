"""The agent from start to end: signals, reloads, processes that are killed, and what a collector has of it afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support import collectors
from support.agent import Agent, agent
from support.bpf_objects import mark, wait_nothing_left
from support.netns import NetNs, Veth, veth_pair
from support.points import Point
from support.traffic import Sides, at_collector, datagrams, gained, handed_over, on_page

pytestmark = pytest.mark.kernel

PACKETS = 1009
PAYLOAD = 64
FRAME = 42 + PAYLOAD
ONCE: Sides = {"receive": (0, 0), "transmit": (PACKETS, PACKETS * FRAME)}
KILLS = 7
TWICE: Sides = {"receive": (0, 0), "transmit": (2 * PACKETS, 2 * PACKETS * FRAME)}
SECONDS = 60.0


def send(place: tuple[NetNs, NetNs, Veth]) -> None:
    left, right, pair = place
    datagrams(left, right, pair.right_address, PACKETS, PAYLOAD)


def protocols(running: Agent) -> Sides:
    return on_page(running.get("/metrics"), "protocol")


def nobody_listens(netns: NetNs, port: int) -> bool:
    return netns.run("ss", "-ltnH", "sport", "=", f":{port}") == ""


@contextmanager
def configured(place: tuple[NetNs, NetNs, Veth], path: Path, **options: Any) -> Iterator[Agent]:
    """An agent that has nothing but a configuration file, so that a reload may change everything."""
    left, _, _ = place
    with agent("--config", str(path), enter=left.command(), **options) as running:
        yield running


@pytest.mark.collector
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_delivers_the_last_packets(number: signal.Signals, tmp_path: Path) -> None:
    since = mark()
    with collectors.otelcol(tmp_path) as collector, veth_pair() as place:
        left, _, pair = place
        options = ["--interface", pair.left, "--set", f"interfaces.namespaces={left.name}"]
        with agent(*options, "--otlp-endpoint", collector.http, interval=3600, otlp=True) as running:
            send(place)
            assert protocols(running) == {"receive": (0, 0), "transmit": (0, 0)}  # the first cycle was before
            assert running.stop(number) == 0
            stopped = running.events("agent.stopped")[0]
            assert stopped["reason"] == number.name
            assert running.events("otlp.stopped")[0]["dropped"] == {}
        points = collector.wait_for(lambda points: at_collector(points, "flow") == ONCE)
        assert at_collector(points, "protocol", pair.left) == ONCE
    assert running.members() == set()
    wait_nothing_left(since)


@pytest.mark.collector
def test_a_duration_ends_with_an_export(tmp_path: Path) -> None:
    with collectors.otelcol(tmp_path) as collector, veth_pair() as place:
        left, _, pair = place
        options = ["--interface", pair.left, "--set", f"interfaces.namespaces={left.name}", "--duration", "5"]
        with agent(*options, "--otlp-endpoint", collector.http, interval=3600, otlp=True) as running:
            send(place)
            assert running.process.wait(SECONDS) == 0
            stopped = running.events("agent.stopped")[0]
            assert stopped["reason"] == "duration"
            assert stopped["uptime_seconds"] >= 5
        collector.wait_for(lambda points: at_collector(points, "protocol", pair.left) == ONCE)


@pytest.mark.collector
def test_a_flush_on_demand(tmp_path: Path) -> None:
    with collectors.otelcol(tmp_path) as collector, veth_pair() as place:
        left, _, pair = place
        options = ["--interface", pair.left, "--set", f"interfaces.namespaces={left.name}"]
        with agent(*options, "--otlp-endpoint", collector.http, interval=3600, otlp=True) as running:
            for expected in (ONCE, TWICE):
                send(place)
                running.process.send_signal(signal.SIGUSR1)
                collector.wait_for(lambda points, wanted=expected: at_collector(points, "flow") == wanted)  # type: ignore[misc]
                assert protocols(running) == expected


def read(page: Callable[[], Any]) -> Any:
    """What a page tells; None while one pipeline has ended and the next one does not serve yet."""
    try:
        return page()
    except ConnectionError:
        return None


def capacity(running: Agent) -> int | None:
    """Entries of the table of flows."""
    found: int | None = read(lambda: running.status().get("flows", {}).get("capacity"))
    return found


def test_reloads(tmp_path: Path) -> None:
    since = mark()
    path = tmp_path / "agent.yaml"

    def write(text: str, include: str = "left") -> None:
        path.write_text(f"interfaces:\n  include: [{include}]\nlog:\n  format: json\n{text}")

    with veth_pair() as place:
        left, _, pair = place
        write("")
        base = left.counters(pair.left)
        with configured(place, path, interval=0.3) as running:
            first = running.pipeline_pid()
            send(place)
            running.wait(lambda: protocols(running) == ONCE, SECONDS, "first packets")

            # Broken: the old configuration stays, and it is said where the new one is wrong.
            write("flows:\n  top_k: many\n")
            running.process.send_signal(signal.SIGHUP)
            refused = running.wait_event("config.reload_refused")["error"]
            assert f"{path}:6:10" in refused
            assert "top_k" in refused
            assert running.pipeline_pid() == first
            assert protocols(running) == ONCE

            # One that changes nothing.
            write("")
            running.process.send_signal(signal.SIGHUP)
            assert running.wait_event("config.reloaded")["reach"] == "nothing"
            assert running.pipeline_pid() == first

            # The interfaces: nobody is restarted, and what stays chosen misses nothing.
            over = threading.Event()
            sender = threading.Thread(target=keep_sending, args=(place, over))
            sender.start()
            write("", "lo, left")
            running.process.send_signal(signal.SIGHUP)
            assert running.wait_event("config.reloaded", 2)["reach"] == "live"
            running.wait(lambda: names(running) == {"left", "lo"}, SECONDS, "loopback")
            write("", "left")
            running.process.send_signal(signal.SIGHUP)
            running.wait(lambda: names(running) == {"left"}, SECONDS, "no loopback")
            over.set()
            sender.join()
            assert running.pipeline_pid() == first
            expected = gained(left.counters(pair.left), base)
            running.wait(lambda: handed_over(running, pair.left) == expected, SECONDS, f"{expected}")

            # The pipeline: another process, the same maps.
            write("limits:\n  series: 777\n")
            running.process.send_signal(signal.SIGHUP)
            assert running.wait_event("config.reloaded", 4)["reach"] == "pipeline"
            running.wait(lambda: read(lambda: running.total("netmon_series_limit")) == 777, SECONDS, "new limit")
            second = running.pipeline_pid()
            assert second != first
            send(place)
            expected = gained(left.counters(pair.left), base)
            running.wait(lambda: protocols(running) == expected, SECONDS, "it counts on, and nothing twice")

            # The programs: counts begin at zero.
            write("probes:\n  flows:\n    table_entries: 499\n")
            running.process.send_signal(signal.SIGHUP)
            assert running.wait_event("config.reloaded", 5)["reach"] == "programs"
            running.wait(lambda: capacity(running) == 499, SECONDS, "new table")
            send(place)
            running.wait(lambda: protocols(running) == ONCE, SECONDS, "packets of the new programs")
            assert handed_over(running, pair.left) == ONCE
            assert running.stop() == 0
    wait_nothing_left(since)


def names(running: Agent) -> set[str]:
    return {row["name"] for row in running.status()["interfaces"]}


def keep_sending(place: tuple[NetNs, NetNs, Veth], until: threading.Event, ports: int = 1) -> None:
    left, _, pair = place
    with left.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        number = 0
        while not until.wait(0.001):
            number += 1
            with contextlib.suppress(ConnectionRefusedError):  # nobody listens: a port unreachable came back
                udp.sendto(bytes(PAYLOAD), (pair.right_address, 9 + number // 200 % ports))


def wait_for_more(running: Agent) -> None:
    seen = running.total("netmon_protocol_packets_total")
    running.wait(lambda: running.total("netmon_protocol_packets_total") > seen, SECONDS, "more packets")


def serves(running: Agent) -> bool:
    """Whether a pipeline has made its first cycle: between two of them there is no page."""
    try:
        running.get("/readyz")
    except OSError:
        return False
    return True


def test_a_reload_that_fails_in_the_kernel_keeps_the_agent_running(tmp_path: Path) -> None:
    """The file is good, the programs that it names are not: what ran goes on."""
    path = tmp_path / "agent.yaml"
    path.write_text("interfaces:\n  include: [left]\n")
    with veth_pair() as place, configured(place, path, interval=0.3) as running:
        sources = tmp_path / "bpf"
        sources.mkdir()
        (sources / "tc_monitor.c").write_text("this is no program\n")
        path.write_text(
            f"interfaces:\n  include: [left]\nprobes:\n  flows:\n    table_entries: 499\n"
            f"images:\n  sources: {sources}\n  directory: {tmp_path}\n"
        )
        running.process.send_signal(signal.SIGHUP)
        refused = running.wait_event("config.reload_refused")["error"]
        assert "tc_monitor.c" in refused
        running.wait(lambda: capacity(running) == 65536, SECONDS, "old table")
        send(place)
        running.wait(lambda: protocols(running) == ONCE, SECONDS, "packets")
        path.write_text("interfaces:\n  include: [nosuch0]\n")
        running.process.send_signal(signal.SIGHUP)
        assert "nosuch0" in running.wait_event("config.reload_refused", 2)["error"]
        send(place)
        running.wait(lambda: protocols(running) == TWICE, SECONDS, "packets")


@pytest.mark.collector
def test_a_killed_pipeline_comes_back_and_counts_on(tmp_path: Path) -> None:
    with collectors.otelcol(tmp_path) as collector, veth_pair() as place:
        left, _, pair = place
        options = ["--interface", pair.left, "--set", f"interfaces.namespaces={left.name}"]
        with agent(*options, "--otlp-endpoint", collector.http, interval=0.3, otlp=True) as running:
            send(place)
            collector.wait_for(lambda points: at_collector(points, "flow") == ONCE)
            first = running.pipeline_pid()
            os.kill(first, signal.SIGKILL)
            died = running.wait_event("pipeline.died")
            assert died["exit_code"] == -signal.SIGKILL
            running.wait(lambda: serves(running), SECONDS, "page")
            assert running.pipeline_pid() != first
            send(place)
            points = collector.wait_for(lambda points: at_collector(points, "flow") == TWICE)
            assert at_collector(points, "protocol", pair.left) == TWICE

            starts = {point.start_time for point in points if point.name == "netmon.protocol.packets"}
            assert len(starts) == 1, "the same series, not others"
            assert protocols(running) == TWICE
            stage = running.status()["stages"]["kernel"]
            assert stage == {"delivered": 2 * PACKETS, "dropped": {"unattributed": 0}}
            # The interface's own counters go on.
            own = running.samples("system_network_packet_count_total", network_io_direction="transmit")
            assert [int(value) for labels, value in own if labels["network_interface_name"] == pair.left] == [
                2 * PACKETS
            ]
            assert running.stop() == 0


@pytest.mark.collector
def test_killed_again_and_again_under_load_it_loses_no_count(tmp_path: Path) -> None:
    """Flows come and go all the time, so that rows are deleted while processes die; at the end everything is equal."""
    options = [
        "--set",
        "probes.flows.idle_seconds=1",
        "--set",
        "flows.top_k=3",
        "--set",
        "limits.series_idle_seconds=2",
    ]
    with collectors.otelcol(tmp_path) as collector, veth_pair() as place:
        left, _, pair = place
        base = left.counters(pair.left)
        options += ["--interface", pair.left, "--set", f"interfaces.namespaces={left.name}"]
        with agent(*options, "--otlp-endpoint", collector.http, interval=0.2, otlp=True) as running:
            over = threading.Event()
            sender = threading.Thread(target=keep_sending, args=(place, over), kwargs={"ports": 50})
            sender.start()
            for number in range(KILLS):
                os.kill(running.pipeline_pid(), signal.SIGKILL)
                running.wait_event("pipeline.died", number + 1)
                running.wait(lambda: serves(running), SECONDS, "page")
                wait_for_more(running)
            over.set()
            sender.join()
            expected = gained(left.counters(pair.left), base)
            running.wait(lambda: protocols(running) == expected, SECONDS, f"{expected}")
            assert handed_over(running, pair.left) == expected
            assert running.status()["stages"]["kernel"]["dropped"] == {"unattributed": 0}
            assert running.stop() == 0
        points = collector.received()
        assert at_collector(points, "protocol", pair.left) == expected
        assert at_collector(points, "flow") == expected


def test_a_killed_pipeline_counts_on_what_xdp_counted() -> None:
    with veth_pair() as (left, right, pair):
        options = ["--interface", pair.left, "--set", "probes.xdp.enabled=true", "--set", "probes.xdp.mode=generic"]
        with agent(*options, enter=left.command(), interval=0.3) as running:
            packets, octets = ONCE["transmit"]
            for number in (1, 2, 3):
                datagrams(right, left, pair.left_address, PACKETS, PAYLOAD)
                expected = {"receive": (number * packets, number * octets), "transmit": (0, 0)}
                running.wait(lambda: on_page(running.get("/metrics"), "xdp") == expected, SECONDS, f"{expected}")  # noqa: B023
                died = len(running.events("pipeline.died"))
                os.kill(running.pipeline_pid(), signal.SIGKILL)
                running.wait_event("pipeline.died", died + 1)
                running.wait(lambda: serves(running), SECONDS, "page")


def test_a_reload_to_a_port_in_use_is_tried_until_it_is_free(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("interfaces:\n  include: [left]\n")
    with (
        veth_pair() as place,
        socket_in(place[0]) as (taken, port),
        configured(place, path, interval=0.3) as running,
    ):
        path.write_text(f"interfaces:\n  include: [left]\nprometheus:\n  listen: 127.0.0.1:{port}\n")
        running.process.send_signal(signal.SIGHUP)
        assert f"cannot listen on 127.0.0.1:{port}" in running.wait_event("pipeline.start_failed")["error"]
        taken.close()
        running.port = port
        running.wait(lambda: serves(running), SECONDS, "page")
        assert names(running) == {"left"}
        assert running.stop() == 0


@contextmanager
def socket_in(netns: NetNs) -> Iterator[tuple[socket.socket, int]]:
    with netns.socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken, taken.getsockname()[1]


def test_a_signal_during_a_reload_is_not_lost(tmp_path: Path) -> None:
    """The supervisor waits for the old pipeline, which is stopped here: the signals of that time count afterwards."""
    path = tmp_path / "agent.yaml"
    path.write_text("interfaces:\n  include: [left]\n")
    with veth_pair() as place, configured(place, path, interval=0.3) as running:
        pipeline = running.pipeline_pid()
        os.kill(pipeline, signal.SIGSTOP)
        path.write_text("interfaces:\n  include: [left]\nflows:\n  top_k: 7\n")
        running.process.send_signal(signal.SIGHUP)
        running.wait_event("config.reloaded")
        running.process.send_signal(signal.SIGTERM)
        os.kill(pipeline, signal.SIGCONT)
        assert running.process.wait(SECONDS) == 0
        assert running.events("agent.stopped")[0]["reason"] == "SIGTERM"


def before(points: list[Point], start: int) -> list[Point]:
    """Points of the protocols that an earlier process told."""
    return [point for point in points if point.name == "netmon.protocol.packets" and point.start_time < start]


def test_a_killed_supervisor_leaves_nothing() -> None:
    since = mark()
    with veth_pair() as place:
        left, _, pair = place
        with agent("--interface", pair.left, enter=left.command()) as running:
            port = running.port
            assert len(running.members()) == 2
            os.kill(running.pid, signal.SIGKILL)
            running.process.wait()
            deadline = time.monotonic() + SECONDS
            while running.members():
                assert time.monotonic() < deadline, "the pipeline lives on"
                time.sleep(0.02)
            assert nobody_listens(left, port)
            wait_nothing_left(since)


def test_a_pipeline_that_hangs_is_replaced() -> None:
    """It neither reads what it is told nor ends: the supervisor goes on without it and starts another."""
    with veth_pair() as place:
        left, _, pair = place
        with agent(enter=left.command(), interval=0.3) as running:
            hung = running.pipeline_pid()
            os.kill(hung, signal.SIGSTOP)
            deadline = time.monotonic() + 4 * SECONDS
            number = 0
            while not running.events("pipeline.deaf"):
                assert time.monotonic() < deadline, "the supervisor never noticed"
                left.run("ip", "link", "set", pair.left, "mtu", str(1400 + number % 100))
                number += 1
            running.wait_event("pipeline.died", seconds=SECONDS)
            running.wait(lambda: serves(running), SECONDS, "page")
            assert running.pipeline_pid() != hung
            assert names(running) == {pair.left}
            assert running.stop() == 0

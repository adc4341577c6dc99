"""Several receivers of the whole agent at once, differences end to end, a flush on demand, an end with a dead collector."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support import collectors
from support.agent import Agent, agent
from support.netns import LinkCounters, NetNs, Veth, veth_pair
from support.otlp_receiver import Answer, http_receiver
from support.points import Point, identity, repeated
from support.raw_servers import raw_server, silent
from support.traffic import Sides, at_collector, datagrams, gained, on_page

pytestmark = [pytest.mark.kernel, pytest.mark.collector]

Place = tuple[NetNs, NetNs, Veth]

INTERVAL = 0.3
SECONDS = 30.0
PACKETS = 1009
PAYLOAD = 64


@contextmanager
def exporting(place: Place, endpoint: str, settings: dict[str, str], interval: float = INTERVAL) -> Iterator[Agent]:
    left, _, pair = place
    every = {"interfaces.namespaces": left.name, **settings}
    line = [word for key, value in every.items() for word in ("--set", f"{key}={value}")]
    with agent("--interface", pair.left, "--otlp-endpoint", endpoint, *line, interval=interval, otlp=True) as running:
        yield running


def send(place: Place, port: int = 9) -> None:
    left, right, pair = place
    datagrams(left, right, pair.right_address, PACKETS, PAYLOAD, port)


def of_link(place: Place) -> Sides:
    left, _, pair = place
    return gained(left.counters(pair.left), LinkCounters(0, 0, 0, 0))


def receivers(running: Agent) -> dict[str, dict[str, Any]]:
    export = running.status()["export"]
    return {"default": export["otlp"], **export.get("destinations", {})}


def test_each_receiver_gets_everything_and_has_its_own_counts(tmp_path: Path) -> None:
    refusal = Answer(400, b"not today", "text/plain")
    with (
        collectors.otelcol(tmp_path, all_signals=True) as first,
        collectors.otelcol(tmp_path, all_signals=True) as by_grpc,
        collectors.rotel(tmp_path) as by_rotel,
        http_receiver() as refusing,
        veth_pair() as place,
    ):
        refusing.answers.append(refusal)
        settings = {
            "otlp.destinations.grpc.endpoint": by_grpc.grpc,
            "otlp.destinations.grpc.protocol": "grpc",
            "otlp.destinations.rotel.endpoint": by_rotel.http,
            "otlp.destinations.refusing.endpoint": refusing.endpoint,
            "otlp.destinations.away.endpoint": f"http://127.0.0.1:{collectors.free_ports(1)[0]}",
        }
        with exporting(place, first.http, settings) as running:
            for port in (9, 10, 11):
                send(place, port)
            expected = of_link(place)
            for collector in (first, by_grpc, by_rotel):
                points = collector.wait_for(lambda points: at_collector(points, "flow") == expected)
                assert at_collector(points, "protocol") == expected
            running.wait(lambda: receivers(running)["refusing"]["requests"] >= 3, SECONDS, "refusals")
            rows = receivers(running)
            assert running.stop() == 0
            stopped = {event["destination"]: event for event in running.events("otlp.stopped")}
        same = {frozenset(map(told, collector.received())) for collector in (first, by_grpc)}
    assert len(same) == 1, "the same points by either transport"
    assert {name: row["state"] for name, row in rows.items()} == {
        "default": "delivering",
        "grpc": "delivering",
        "rotel": "delivering",
        "refusing": "rejected",
        "away": "failing",
    }
    for name in ("default", "grpc", "rotel"):
        assert stopped[name]["dropped"] == {}, name
        assert stopped[name]["pending"] == 0
        assert stopped[name]["delivered"] == stopped["default"]["delivered"] > 0
    for name, reason in (("refusing", "http_400"), ("away", "superseded")):
        assert rows[name]["points_delivered"] == 0
        assert rows[name]["points_dropped"][reason] > 0, rows[name]
    for row in rows.values():
        assert (
            row["points_offered"]
            == row["points_delivered"] + sum(row["points_dropped"].values()) + row["points_pending"]
        )


def told(point: Point) -> tuple[str, str, int, int, str]:
    return (*identity(point), point.start_time, point.time, repr(point.value))


def added_up(points: Iterable[Point], family: str) -> Sides:
    """All differences of a family of counters, by direction."""
    sums = {"receive": [0, 0], "transmit": [0, 0]}
    for point in points:
        if point.name in (f"netmon.{family}.packets", f"netmon.{family}.io"):
            sums[str(point.attributes["network.io.direction"])][point.name.endswith(".io")] += point.value
    return {direction: (packets, octets) for direction, (packets, octets) in sums.items()}


def keep_sending(place: Place, until: threading.Event) -> None:
    left, right, pair = place
    with (
        left.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        right.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        receiver.bind((pair.right_address, 9))  # nobody reads it: no unreachable port, and no loss on the link
        while not until.wait(0.001):
            udp.sendto(bytes(PAYLOAD), (pair.right_address, 9))


DELTA = {"otlp.temporality": "delta", "probes.flows.idle_seconds": "1", "limits.series_idle_seconds": "1"}


@pytest.mark.parametrize("spool", [False, True], ids=["memory", "spool"])
def test_differences_add_up_to_what_the_kernel_counted(spool: bool, tmp_path: Path) -> None:
    """Over series that rest and come back; spans of time of one series follow each other without gap or overlap."""
    settings = DELTA | ({"export.spool.directory": str(tmp_path / "spool")} if spool else {})
    with collectors.otelcol(tmp_path) as collector, veth_pair() as place:
        with exporting(place, collector.http, settings) as running:
            for port in (9, 10, 9, 11, 9):
                send(place, port)
                time.sleep(3 * INTERVAL)
            expected = of_link(place)
            points = collector.wait_for(lambda points: added_up(points, "flow") == expected)
            assert running.stop() == 0
            assert set(running.events("otlp.stopped")[0]["dropped"]) <= {"unchanged"}
        points = collector.received()
    assert added_up(points, "flow") == expected
    assert added_up(points, "protocol") == expected
    check_spans_of_time(points)


def check_spans_of_time(points: list[Point]) -> None:
    lives: dict[tuple[str, str], list[Point]] = defaultdict(list)
    for point in points:
        if point.name.startswith(("netmon.flow.", "netmon.protocol.")):
            lives[identity(point)].append(point)
    assert lives
    for series in lives.values():
        for earlier, later in itertools.pairwise(series):
            assert earlier.start_time <= earlier.time <= later.start_time <= later.time, (earlier, later)


@pytest.mark.parametrize("spool", [False, True], ids=["memory", "spool"])
def test_differences_are_told_once_over_a_kill_between_two_exports(spool: bool, tmp_path: Path) -> None:
    settings = DELTA | ({"export.spool.directory": str(tmp_path / "spool")} if spool else {})
    with collectors.otelcol(tmp_path) as collector, veth_pair() as place:
        with exporting(place, collector.http, settings, interval=1.0) as running:
            for number in (1, 2, 3):
                send(place)
                told_so_far = {"receive": (0, 0), "transmit": (number * PACKETS, number * PACKETS * (42 + PAYLOAD))}
                collector.wait_for(lambda points: added_up(points, "flow") == told_so_far)  # noqa: B023
                os.kill(running.pipeline_pid(), signal.SIGKILL)  # most of a second before the next export
                running.wait_event("pipeline.died", number)
                running.wait_event("pipeline.resumed", number)
            send(place)
            expected = of_link(place)
            collector.wait_for(lambda points: added_up(points, "flow")["transmit"][0] >= expected["transmit"][0])
            assert running.stop() == 0
        points = collector.received()
    assert repeated(points) == []
    assert added_up(points, "flow") == expected
    assert added_up(points, "protocol") == expected


@pytest.mark.parametrize("spool", [False, True], ids=["memory", "spool"])
def test_differences_over_kills_under_load(spool: bool, tmp_path: Path) -> None:
    """Killed at any moment, an export comes again at worst: at least once, and never more than one for each kill."""
    settings = DELTA | ({"export.spool.directory": str(tmp_path / "spool")} if spool else {})
    kills = 3
    with collectors.otelcol(tmp_path) as collector, veth_pair() as place:
        with exporting(place, collector.http, settings, interval=0.2) as running:
            over = threading.Event()
            sender = threading.Thread(target=keep_sending, args=(place, over))
            sender.start()
            try:
                for number in range(1, kills + 1):
                    now = time.time_ns()
                    collector.wait_for(lambda points: any(point.time > now for point in points))  # noqa: B023
                    os.kill(running.pipeline_pid(), signal.SIGKILL)
                    running.wait_event("pipeline.resumed", number)
            finally:
                over.set()
                sender.join()
            expected = of_link(place)
            collector.wait_for(lambda points: added_up(points, "flow")["transmit"][0] >= expected["transmit"][0])
            assert running.stop() == 0
        points = collector.received()
    total = added_up(points, "protocol")["transmit"][0]
    often = [point.value for point in points if point.name == "netmon.protocol.packets"]
    assert expected["transmit"][0] <= total <= expected["transmit"][0] + kills * max(often)


@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
def test_a_flush_on_demand_reaches_every_receiver(temporality: str, tmp_path: Path) -> None:
    with (
        collectors.otelcol(tmp_path) as first,
        collectors.otelcol(tmp_path) as second,
        veth_pair() as place,
    ):
        settings = {
            "otlp.temporality": temporality,
            "otlp.destinations.second.endpoint": second.grpc,
            "otlp.destinations.second.protocol": "grpc",
        }
        with exporting(place, first.http, settings, interval=3600) as running:
            for number in (1, 2):
                send(place)
                expected = {"receive": (0, 0), "transmit": (number * PACKETS, number * PACKETS * (42 + PAYLOAD))}
                running.process.send_signal(signal.SIGUSR1)
                read = added_up if temporality == "delta" else at_collector
                first.wait_for(lambda points: read(points, "flow") == expected)  # noqa: B023
                second.wait_for(lambda points: at_collector(points, "flow") == expected)  # noqa: B023
                assert on_page(running.get("/metrics"), "protocol") == expected
            assert running.stop() == 0


@pytest.mark.parametrize("spool", [False, True], ids=["memory", "spool"])
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("dead", ["refuses", "hangs"])
def test_an_end_keeps_to_its_time_with_a_dead_collector(dead: str, protocol: str, spool: bool, tmp_path: Path) -> None:
    limit = 1.5
    with raw_server(silent) as hanging, veth_pair() as place:
        port = hanging.port if dead == "hangs" else collectors.free_ports(1)[0]
        settings = {
            "otlp.protocol": protocol,
            "export.shutdown_seconds": str(limit),
            **({"export.spool.directory": str(tmp_path / "spool")} if spool else {}),
        }
        with exporting(place, f"http://127.0.0.1:{port}", settings) as running:
            send(place)
            expected = of_link(place)
            running.wait(lambda: on_page(running.get("/metrics"), "protocol") == expected, SECONDS, f"{expected}")
            began = time.monotonic()
            assert running.stop() == 0
            took = time.monotonic() - began
            stopped = running.events("otlp.stopped")[0]
        assert took < limit + 1.0, "the links and the interpreter take their time as well"
        assert stopped["delivered"] == 0
        if spool:
            assert stopped["pending"] > 0
            assert "shutdown" not in stopped["dropped"], "what was not sent is on disk"
            assert list((tmp_path / "spool").rglob("*.segment"))
        else:
            assert stopped["pending"] == 0
            assert stopped["dropped"]["shutdown"] > 0

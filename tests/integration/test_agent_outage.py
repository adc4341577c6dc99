"""The whole agent and a real collector that is away or hangs: what was read is there in the end, over kill -9 of the agent too."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support import collectors
from support.agent import Agent, agent
from support.collectors import Collector
from support.lookups import Lookups
from support.netns import LinkCounters, NetNs, Veth, veth_pair
from support.points import Point, Span, identity, repeated
from support.raw_servers import raw_server, silent
from support.traffic import Sides, at_collector, datagrams, gained, on_page

pytestmark = [pytest.mark.kernel, pytest.mark.collector]

Place = tuple[NetNs, NetNs, Veth]

INTERVAL = 0.25
SECONDS = 30.0
BURSTS = (1009, 503, 251, 127)
LOOKUPS = 211
PAYLOAD = 64
NOTHING = LinkCounters(0, 0, 0, 0)


@contextmanager
def spooling(place: Place, spool: Path, endpoint: str, *more: str, **options: Any) -> Iterator[Agent]:
    """An agent outside of the namespaces, so that it reaches a collector on loopback."""
    left, _, pair = place
    settings = {
        "interfaces.namespaces": left.name,
        "export.spool.directory": str(spool),
        "spans.share": "1",
        "spans.limit_per_second": "100000",
        "probes.connections.enabled": "false",  # all spans are of lookups
    }
    line = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    arguments = ["--interface", pair.left, "--otlp-endpoint", endpoint, *line, *more]
    with agent(*arguments, interval=INTERVAL, otlp=True, **options) as running:
        yield running


def page_cycles(running: Agent) -> int:
    """Cycles before the one that the page shows."""
    return running.total("netmon_pipeline_cycle_duration_seconds_count")


def settled(running: Agent, place: Place, base: LinkCounters = NOTHING) -> Sides:
    """Waits until the page has every packet of the link, and two cycles more; gives what the link has counted since ``base``."""
    expected = of_link(place, base)
    running.wait(lambda: on_page(running.get("/metrics"), "protocol") == expected, SECONDS, f"{expected} on the page")
    told = page_cycles(running)
    running.wait(lambda: page_cycles(running) >= told + 2, SECONDS, "two cycles")
    assert of_link(place, base) == expected, "the link is at rest"
    return expected


def of_link(place: Place, base: LinkCounters = NOTHING) -> Sides:
    left, _, pair = place
    return gained(left.counters(pair.left), base)


def spans_kept(running: Agent, outcome: str = "delivered", stage: str = "queue", **labels: str) -> int:
    return running.total(
        "netmon_pipeline_items_total", netmon_stage=stage, netmon_signal="spans", netmon_outcome=outcome, **labels
    )


def kill_all(running: Agent) -> None:
    """Ends all processes at once by kill -9, which nobody can hear coming."""
    os.killpg(running.pid, signal.SIGKILL)
    running.process.wait()
    wait_gone(running)


def kill_supervisor(running: Agent) -> None:
    """Ends the supervisor by kill -9; the pipeline notices and ends by itself."""
    os.kill(running.pid, signal.SIGKILL)
    running.process.wait()
    wait_gone(running)


def wait_gone(running: Agent) -> None:
    deadline = time.monotonic() + SECONDS
    while running.members():
        assert time.monotonic() < deadline, "the pipeline lives on"
        time.sleep(0.01)


def names(life: str) -> list[list[str]]:
    """What is looked up in each burst of a life, ``LOOKUPS`` names in all."""
    every = [f"{life}-{number}.example.org" for number in range(LOOKUPS)]
    return [every[burst :: len(BURSTS)] for burst in range(len(BURSTS))]


def load(place: Place, lookups: Lookups, life: str) -> None:
    """Datagrams in several bursts, over several intervals, and lookups of names that tell who asked."""
    left, right, pair = place
    for burst, (packets, asked) in enumerate(zip(BURSTS, names(life), strict=True)):
        datagrams(left, right, pair.right_address, packets, PAYLOAD, port=9 + burst)
        lookups.ask(asked)
        time.sleep(INTERVAL)


def everything(outputs: Sequence[Collector]) -> tuple[list[Point], list[Span]]:
    """What came in order, wherever it came."""
    return (
        [point for collector in outputs for point in collector.received()],
        [span for collector in outputs for span in collector.spans()],
    )


@pytest.mark.parametrize("kill", [kill_all, kill_supervisor], ids=["all", "supervisor"])
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_counts_and_spans_of_an_outage_are_complete_over_a_kill(protocol: str, kill: Any, tmp_path: Path) -> None:
    """The collector goes, the agent counts on and is killed, another one counts on, the collector comes back."""
    ports = collectors.free_ports(2)
    endpoint = f"http://127.0.0.1:{ports[0 if protocol == 'grpc' else 1]}"
    more = ["--set", f"otlp.protocol={protocol}"]
    spool = tmp_path / "spool"
    for folder in ("before", "after"):
        (tmp_path / folder).mkdir()
    with veth_pair() as place, ExitStack() as stack:
        left, right, pair = place
        lookups = stack.enter_context(Lookups(left, right, pair.right_address))
        with spooling(place, spool, endpoint, *more) as first:
            with collectors.otelcol(tmp_path / "before", (ports[0], ports[1]), all_signals=True) as before:
                load(place, lookups, "before")
                present = settled(first, place)
                before.wait_for(lambda points: at_collector(points, "flow") == present)
                first.wait(lambda: len(before.spans()) == LOOKUPS, SECONDS, "spans")
            load(place, lookups, "first")
            counted = settled(first, place)
            first.wait(lambda: spans_kept(first) == 2 * LOOKUPS, SECONDS, "spans on disk")
            cycles = page_cycles(first)
            assert first.status()["export"]["otlp"]["state"] == "failing"
            kill(first)
        restarted_ns = time.time_ns()
        base = left.counters(pair.left)
        with spooling(place, spool, endpoint, *more) as second:
            found = second.events("spool.found")[0]
            assert found["metrics"] > 0
            assert found["traces"] > 0
            load(place, lookups, "second")
            own = settled(second, place, base)
            after = stack.enter_context(collectors.otelcol(tmp_path / "after", (ports[0], ports[1]), all_signals=True))
            second.wait(
                lambda: len({s.span_id for s in everything([before, after])[1]}) == 3 * LOOKUPS, SECONDS, "spans"
            )
            second.wait(lambda: not second.status()["export"]["otlp"]["spool"]["records"], SECONDS, "an empty spool")
            assert second.stop() == 0
            stopped = second.events("otlp.stopped")[0]
            assert (stopped["dropped"], stopped["pending"]) == ({}, 0)
        points, spans = everything([before, after])
    for family in ("flow", "protocol"):
        of = {
            life: at_collector([point for point in points if (point.start_time < restarted_ns) == life], family)
            for life in (True, False)
        }
        assert of == {True: counted, False: own}, family
    assert sum(time_ns < restarted_ns for time_ns in snapshots(points)) >= cycles, "every cycle is there"
    check_order_and_repeats(points, spans)
    asked = [name for life in ("before", "first", "second") for burst in names(life) for name in burst]
    assert sorted(
        str(span.attributes["dns.question.name"]) for span in {s.span_id: s for s in spans}.values()
    ) == sorted(asked)


def snapshots(points: Sequence[Point]) -> set[int]:
    """The times of all snapshots that came; every one tells the limit of series."""
    return {point.time for point in points if point.name == "netmon.series.limit"}


def check_order_and_repeats(points: Sequence[Point], spans: Sequence[Span]) -> None:
    """Points of a series came in the order of time, and what came again was one request for each collector that went."""
    again = repeated(points)
    assert len({point.time for point in again}) <= 1
    last: dict[tuple[str, str], int] = {}
    for point in points:
        assert last.setdefault(identity(point), 0) <= point.time
        last[identity(point)] = point.time
    ids = [span.span_id for span in spans]
    assert len(ids) - len(set(ids)) <= LOOKUPS


def test_what_was_read_an_interval_before_a_kill_under_load_is_delivered(tmp_path: Path) -> None:
    """The load goes on while the agent is killed: what the page told an interval before arrives, and no more than the link had."""
    grpc, http = collectors.free_ports(2)
    endpoint = f"http://127.0.0.1:{http}"
    with veth_pair() as place, ExitStack() as stack:
        over = threading.Event()
        sender = threading.Thread(target=keep_sending, args=(place, over))
        stack.callback(sender.join)
        stack.callback(over.set)
        with spooling(place, tmp_path / "spool", endpoint) as first:
            sender.start()
            first.wait(lambda: page_cycles(first) >= 8, SECONDS, "cycles without a collector")
            told, cycles = on_page(first.get("/metrics"), "protocol"), page_cycles(first)
            first.wait(lambda: page_cycles(first) >= cycles + 2, SECONDS, "an interval")
            kill_all(first)
            killed = of_link(place)
            restarted_ns = time.time_ns()
        over.set()
        sender.join()
        assert told["transmit"][0] > 0
        with spooling(place, tmp_path / "spool", endpoint) as second:
            collector = stack.enter_context(collectors.otelcol(tmp_path, (grpc, http), all_signals=True))
            second.wait(lambda: any(point.time > restarted_ns for point in collector.received()), SECONDS, "own points")
            assert second.stop() == 0
        points = collector.received()
    first_life = [point for point in points if point.start_time < restarted_ns]
    for family in ("flow", "protocol"):
        arrived = at_collector(first_life, family)
        for side in ("receive", "transmit"):
            for low, value, high in zip(told[side], arrived[side], killed[side], strict=True):
                assert low <= value <= high
    assert sum(time_ns < restarted_ns for time_ns in snapshots(points)) >= cycles
    assert repeated(points) == []


def keep_sending(place: Place, until: threading.Event) -> None:
    left, _, pair = place
    with left.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        number = 0
        while not until.wait(0.001):
            number += 1
            with contextlib.suppress(ConnectionRefusedError):  # nobody listens: a port unreachable came back
                udp.sendto(bytes(PAYLOAD), (pair.right_address, 9 + number // 100 % 20))


def test_spans_beyond_the_quota_of_the_spool_are_counted_and_metrics_are_complete(tmp_path: Path) -> None:
    """The spool is a megabyte: the oldest spans make room, over a kill -9, and delivered + dropped = produced."""
    many = 20_011
    grpc, http = collectors.free_ports(2)
    endpoint = f"http://127.0.0.1:{http}"
    spool = tmp_path / "spool"
    sizes = {"export.spool.max_bytes": 1 << 20, "probes.dns.ring_bytes": 16 << 20, "otlp.queue_bytes": 64 << 20}
    more = [word for key, value in sizes.items() for word in ("--set", f"{key}={value}")]
    with veth_pair() as place, ExitStack() as stack:
        left, right, pair = place
        lookups = stack.enter_context(Lookups(left, right, pair.right_address))
        with spooling(place, spool, endpoint, *more) as first:
            lookups.ask(f"{os.urandom(12).hex()}.example.org" for _ in range(many))
            counted = settled(first, place)
            first.wait(lambda: spans_kept(first) == many, 2 * SECONDS, f"{many} spans offered to the spool")
            dropped, before = {"spool_full": 0}, None
            while dropped != before:  # until those offered are written, a few cycles without a difference
                before, wanted = dropped, page_cycles(first) + 4
                first.wait(partial(lambda cycle: page_cycles(first) >= cycle, wanted), SECONDS, "cycles")
                dropped = first.status()["export"]["otlp"]["spans"]["dropped"]
            assert list(dropped) == ["spool_full"]
            evicted = dropped["spool_full"]
            assert spans_kept(first, "dropped", "spool", netmon_reason="spool_full") == evicted
            kill_all(first)
        restarted_ns = time.time_ns()
        assert sum(path.stat().st_size for path in spool.rglob("*.segment")) <= 1 << 20
        with spooling(place, spool, endpoint, *more) as second:
            collector = stack.enter_context(collectors.otelcol(tmp_path, (grpc, http), all_signals=True))
            second.wait(lambda: not second.status()["export"]["otlp"]["spool"]["records"], SECONDS, "an empty spool")
            assert second.stop() == 0
            stopped = second.events("otlp.stopped")[0]
            assert stopped["dropped"] == {}, "metrics make no room"
        points, spans = everything([collector])
    assert 0 < evicted < many
    ids = [span.span_id for span in spans]
    assert len(ids) == len(set(ids)), "the collector was away at the kill: nothing was under way"
    assert len(ids) + evicted == many
    assert at_collector([point for point in points if point.start_time < restarted_ns], "flow") == counted
    assert sum(time_ns < restarted_ns for time_ns in snapshots(points)) >= wanted - 4


@pytest.mark.parametrize("spool", [False, True], ids=["memory", "spool"])
def test_a_collector_that_hangs_delays_neither_the_cycle_nor_another(spool: bool, tmp_path: Path) -> None:
    """It takes connections and says nothing. Three times its time-out is ten intervals and more."""
    with (
        collectors.otelcol(tmp_path, all_signals=True) as fine,
        raw_server(silent) as hanging,
        veth_pair() as place,
    ):
        left, _, pair = place
        options = {
            "interfaces.namespaces": left.name,
            "otlp.timeout_seconds": "1",
            "otlp.destinations.fine.endpoint": fine.http,
            "export.shutdown_seconds": "2",
            **({"export.spool.directory": str(tmp_path / "spool")} if spool else {}),
        }
        line = [word for key, value in options.items() for word in ("--set", f"{key}={value}")]
        arguments = ["--interface", pair.left, "--otlp-endpoint", hanging.endpoint, *line]
        with agent(*arguments, interval=INTERVAL, otlp=True) as running:
            began, cycles = time.monotonic(), page_cycles(running)
            over = threading.Event()
            sender = threading.Thread(target=keep_sending, args=(place, over))
            sender.start()
            try:
                running.wait(lambda: hanging.connections >= 3, SECONDS, "a third attempt")
                elapsed = time.monotonic() - began
                assert page_cycles(running) - cycles >= 0.8 * elapsed / INTERVAL, "cycles as before"
            finally:
                over.set()
                sender.join()
            expected = settled(running, place)
            fine.wait_for(lambda points: at_collector(points, "flow") == expected)
            times = sorted(snapshots(fine.received()))
            status = running.status()["export"]
            slow = running.samples("netmon_pipeline_cycle_duration_seconds_bucket")
            stopping = time.monotonic()
            assert running.stop() == 0
            assert time.monotonic() - stopping < 2 + 1.5
    assert status["otlp"]["points_delivered"] == 0
    assert status["otlp"]["state"] == "failing"
    assert status["destinations"]["fine"]["points_dropped"] == {}
    assert status["destinations"]["fine"]["state"] == "delivering"
    assert max(later - earlier for earlier, later in itertools.pairwise(times)) < 1e9, "no gap as long as the time-out"
    by_limit = {labels["le"]: count for labels, count in slow}
    assert by_limit["0.5"] == by_limit["+Inf"], "no cycle took half of the time-out"

"""The budget of series in the whole agent: a flood of flows, series that rest and come back, and what the agent says of it."""

from __future__ import annotations

import json
import re
import socket
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from otel_netmon.otel.catalogue import CATALOGUE
from support import collectors
from support.agent import Agent, agent, command, parse_samples
from support.collectors import Collector
from support.netns import NetNs, Veth, veth_pair
from support.points import Point, identity
from support.traffic import Sides, at_collector, datagrams, gained, on_page, udp_frame

pytestmark = [pytest.mark.kernel, pytest.mark.collector]

Place = tuple[NetNs, NetNs, Veth]

INTERVAL = 0.2
SECONDS = 30.0
LIMIT = 600
FLOWS = 20_011
STEPS = 11
_SAMPLE = re.compile(r"([a-z_:][\w:]*?)(?:_total|_bucket|_sum|_count|_created)?(?:\{(.*)\})? ")


@contextmanager
def limited(place: Place, collector: Collector, *more: str) -> Iterator[Agent]:
    left, _, pair = place
    settings = {"interfaces.namespaces": left.name, "limits.series": str(LIMIT), "flows.top_k": "1000"}
    line = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    arguments = ["--interface", pair.left, "--otlp-endpoint", collector.http, *line, *more]
    with agent(*arguments, interval=INTERVAL, otlp=True) as running:
        yield running


def client(number: int) -> str:
    """An address of 10.0.0.0/8."""
    return socket.inet_ntoa(struct.pack(">I", (10 << 24) + number))


def series_of_page(page: str) -> Counter[str]:
    """How many series of each metric a page has; a distribution is one, however many lines it takes."""
    found = set()
    for line in page.splitlines():
        match = _SAMPLE.match(line)
        if match and not line.startswith("#") and match[1] != "target_info":
            labels = re.sub(r'(?:^|,)le="[^"]*"', "", match[2] or "").strip(",")
            found.add((match[1], labels))
    return Counter(name for name, _ in found)


def series_of_snapshots(points: list[Point]) -> dict[int, int]:
    """Points by the time of their snapshot."""
    return dict(Counter(point.time for point in points))


def of_link(place: Place) -> Sides:
    left, _, pair = place
    return gained(left.counters(pair.left), type(left.counters(pair.left))(0, 0, 0, 0))


def test_a_flood_of_flows_stays_within_the_limit_and_sums_are_exact(tmp_path: Path) -> None:
    # With a spool every snapshot arrives: series that are displaced have told their last count in one of them.
    spool = ("--set", f"export.spool.directory={tmp_path / 'spool'}")
    with collectors.otelcol(tmp_path) as collector, veth_pair() as place, limited(place, collector, *spool) as running:
        _, right, pair = place
        pages: list[str] = [running.get("/metrics")]
        for step in range(STEPS):
            flows = range(step, FLOWS, STEPS)
            right.send_frames(pair.right, [udp_frame(client(flow), pair.left_address, 40_000, 9) for flow in flows])
            pages.append(next_page(running))
        expected = of_link(place)
        assert expected["receive"][0] == FLOWS

        def settled() -> bool:
            pages.append(running.get("/metrics"))
            return on_page(pages[-1], "protocol") == expected

        running.wait(settled, SECONDS, f"{expected}")
        points = collector.wait_for(lambda points: at_collector(points, "flow") == expected)
        assert at_collector(points, "protocol") == expected

        sizes = series_of_snapshots(points)
        assert max(sizes.values()) <= LIMIT
        assert max(sizes.values()) > 0.5 * LIMIT, "the limit is used, but for what lookups and domains may need"
        for page in pages:
            assert series_of_page(page).total() <= LIMIT
        overflow = [p for p in points if p.name == "netmon.flow.packets" and "otel.metric.overflow" in p.attributes]
        assert max(point.value for point in overflow) > FLOWS - STEPS * LIMIT / 2


def test_what_the_agent_says_of_its_series_is_so(tmp_path: Path) -> None:
    others = ("dns", "tls", "http", "connections")
    alone = [word for name in others for word in ("--set", f"probes.{name}.enabled=false")]
    with collectors.otelcol(tmp_path) as collector, veth_pair() as place, limited(place, collector, *alone) as running:
        _, right, pair = place
        frames = [udp_frame(client(flow), pair.left_address, 40_000, 9) for flow in range(FLOWS)]
        for _ in range(3):  # the first readings still find out who needs how many
            right.send_frames(pair.right, frames)
            running.wait(
                lambda: by_family(running.get("/metrics"), "folded").get("flows", 0) > FLOWS / STEPS,
                SECONDS,
                "attribute sets without a series",
            )
            next_page(running)

        def agree() -> bool:
            """The gauges tell the cycle before: they agree when the series are at rest."""
            page = running.get("/metrics")
            return sum(by_family(page, "active").values()) == series_of_page(page).total() > 0.9 * LIMIT

        running.wait(agree, SECONDS, "netmon.series.active as on the page")
        page = running.get("/metrics")
        told, have = by_family(page, "active"), series_of_page(page)
        for family, metrics in families(running).items():
            if metrics:
                names = {CATALOGUE[name].prometheus_name.removesuffix("_total") for name in metrics}
                assert told[family] == sum(have[name] for name in names), family
        assert [value for _, value in parse_samples(page, "netmon_series_limit")] == [LIMIT]

        explained = explain(running)
        series = explained["series"]
        assert series["limit"] == LIMIT
        assert series["active"] == sum(family["active"] for family in series["families"]) <= LIMIT
        (flows,) = (family for family in series["families"] if family["name"] == "flows")
        addresses = next(each for each in flows["attributes"] if each["key"] == "client.address")
        assert addresses["distinct"] == pytest.approx(FLOWS, rel=0.1)
        (verdict,) = (verdict for verdict in explained["verdicts"] if verdict["family"] == "flows")
        assert verdict["exploding"] == ["client.address"]


def test_the_server_side_explodes_as_well(tmp_path: Path) -> None:
    """One client that speaks to many servers: a scan. Its ports are no series, the servers' addresses are."""
    with collectors.otelcol(tmp_path) as collector, veth_pair() as place, limited(place, collector) as running:
        _, right, pair = place
        frames = [udp_frame(pair.right_address, client(flow), 40_000 + flow % 5000, 53) for flow in range(5003)]
        right.send_frames(pair.right, frames)

        def exploding() -> list[list[str]]:
            return [each["exploding"] for each in explain(running)["verdicts"] if each["family"] == "flows"]

        running.wait(lambda: exploding() != [], SECONDS, "a verdict")
        assert exploding() == [["server.address"]]


def test_many_client_ports_are_one_series(tmp_path: Path) -> None:
    with collectors.otelcol(tmp_path) as collector, veth_pair() as place, limited(place, collector) as running:
        _, right, pair = place
        frames = [udp_frame(pair.right_address, pair.left_address, 40_000 + port, 53) for port in range(5003)]
        right.send_frames(pair.right, frames)
        running.wait(lambda: on_page(running.get("/metrics"), "flow")["receive"][0] == len(frames), SECONDS, "packets")
        own = [labels for labels, _ in running.samples("netmon_flow_packets_total") if "server_port" in labels]
        assert len(own) == 1
        assert [verdict for verdict in explain(running)["verdicts"] if verdict["family"] == "flows"] == []


def test_a_series_that_rests_ends_and_comes_back_with_a_new_start(tmp_path: Path) -> None:
    rests = ("--set", "limits.series_idle_seconds=1", "--set", "probes.connections.enabled=false")
    with collectors.otelcol(tmp_path) as collector, veth_pair() as place, limited(place, collector, *rests) as running:
        left, right, pair = place
        for number in (1, 2, 3):
            datagrams(left, right, pair.right_address, 101, 64, port=4711)
            expected = of_link(place)
            collector.wait_for(lambda points: at_collector(points, "flow") == expected)  # noqa: B023
            running.wait(lambda: len(ends_of_flow(collector)) >= number, SECONDS, "the end of the series")  # noqa: B023
            labels = {"server_port": "4711", "network_io_direction": "transmit"}
            assert running.samples("netmon_flow_packets_total", **labels) == []
        points = collector.received()
        assert at_collector(points, "flow") == expected

    own = [point for point in points if point.name == "netmon.flow.packets" and is_flow(point)]
    ends = ends_of_flow(collector)
    starts = sorted({point.start_time for point in own})
    assert len(starts) == len(ends) == 3
    for start, end in zip(starts, ends, strict=True):
        life = [point for point in own if point.start_time == start]
        assert {point.value for point in life} == {101}, "each life counts its own"
        assert end.start_time == start
        assert end.time > max(point.time for point in life)
        later = [other for other in starts if other > start]
        assert all(other >= max(point.time for point in life) for other in later), "lives do not overlap"
    assert {identity(point) for point in own} == {identity(end) for end in ends}


def is_flow(point: Point) -> bool:
    return point.attributes.get("server.port") == 4711 and point.attributes["network.io.direction"] == "transmit"


def ends_of_flow(collector: Collector) -> list[Point]:
    return [end for end in collector.ends() if end.name == "netmon.flow.packets" and is_flow(end)]


def next_page(running: Agent) -> str:
    """The page of a reading that began after now."""

    def read() -> int:
        return running.total("netmon_pipeline_cycle_duration_seconds_count")

    now = read()
    running.wait(lambda: read() >= now + 2, SECONDS, "two cycles")
    return running.get("/metrics")


def by_family(page: str, what: str) -> dict[str, float]:
    samples = parse_samples(page, f"netmon_series_{what}")
    return {labels["netmon_series_family"]: value for labels, value in samples}


def families(running: Agent) -> dict[str, list[str]]:
    return {family["name"]: family["metrics"] for family in running.status()["series"]["families"]}


def explain(running: Agent) -> dict[str, Any]:
    """What the command prints."""
    line = command("explain", "--series", "--json", "--url", f"http://127.0.0.1:{running.port}")
    done = subprocess.run(line, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document

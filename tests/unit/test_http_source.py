"""The HTTP probe without a kernel: which requests count, where, and what is told of the rest."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from otel_netmon.abi.enums import Direction, HttpFlags, MessageCount
from otel_netmon.analysis.edges import Edge
from otel_netmon.analysis.http_records import HttpRequest, Version
from otel_netmon.analysis.sampling import KeepRule
from otel_netmon.config.model import Config, HttpProbe, Probes
from otel_netmon.otel.drift import problems
from otel_netmon.otel.points import HistogramSeries, Points, Snapshot
from otel_netmon.sources import messages as ring
from otel_netmon.sources.http import HttpSource
from support.http_events import CLIENT, COMPLETE, IFINDEX, Event, event, messages
from support.http_messages import HOST, INFO, request

MS = 1_000_000
RECEIVE, TRANSMIT = Direction.RECEIVE, Direction.TRANSMIT


class Ring:
    """What the source asks of who drains the ring."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(MessageCount, 0)

    def produced(self, signal: ring.Signal) -> int:
        return sum(self.counts[what] for what in signal.produced) - self.counts[signal.lost]


class Quiet:
    """The kernel has nothing that is quiet."""

    live, capacity = 3, 4096

    def run(self, now_ns: int) -> int:
        assert now_ns > 0
        return 0


class Probe:
    def __init__(self, **settings: Any) -> None:
        self.ring = Ring()
        config = Config(probes=Probes(http=HttpProbe(**settings)))
        self.start_ns = time.time_ns()
        ring: Any = self.ring
        quiet: Any = Quiet()
        self.source = HttpSource(ring, quiet, config, KeepRule(1.0, 1000), self.start_ns)
        self.source.begin_cycle(100, 100, 100)

    def take(self, *events: Event, records: tuple[object, ...] = ()) -> Probe:
        self.source.take(messages(events), records, time.monotonic_ns())
        return self

    def points(self) -> dict[str, Points]:
        points = self.source.points()
        assert problems(Snapshot(time.time_ns(), points)) == []
        return points


def counts(points: Mapping[str, Points]) -> dict[str, int]:
    """Measurements of every histogram that has any."""
    totals = {name: int(each.count.sum()) for name, each in points.items() if isinstance(each, HistogramSeries)}
    return {name: count for name, count in totals.items() if count}


def faults(points: Mapping[str, Points]) -> dict[str, float]:
    """By reason."""
    told = points["netmon.http.faults"]
    assert not isinstance(told, HistogramSeries)
    return {str(dict(point.attributes)["netmon.reason"]): point.value for point in told}


def made(version: Version = "2", **fields: Any) -> HttpRequest:
    base = HttpRequest(
        "2", INFO.client, INFO.server, "POST", "/pkg.Service/Call", "a", 200, "answered", MS, MS, 2 * MS, 3 * MS, 5, 6,
        end_ns=3 * MS, connection=INFO._replace(direction=int(RECEIVE)),
    )  # fmt: skip
    return base._replace(version=version, **fields)


def test_who_receives_is_the_server_and_who_sends_the_client() -> None:
    probe = Probe().take(event(direction=RECEIVE), event(direction=TRANSMIT), event(direction=TRANSMIT))
    probe.take(event(direction=TRANSMIT, ingress_ifindex=7))
    found = counts(probe.points())
    assert (found["http.server.request.duration"], found["http.client.request.duration"]) == (2, 2)
    assert found["netmon.http.time_to_first_byte"] == 4


def test_what_crosses_several_interfaces_counts_once() -> None:
    probe = Probe()
    edges = {
        (0, IFINDEX): Edge(True, True, frozenset({IFINDEX, 4})),
        (0, 4): Edge(False, True, frozenset({IFINDEX, 4})),
    }
    probe.source.set_edges(edges)
    probe.take(event(direction=RECEIVE), event(direction=RECEIVE, ifindex=4))
    probe.take(event(direction=TRANSMIT, ifindex=4), event(direction=TRANSMIT, ifindex=4, ingress_ifindex=IFINDEX))
    found = counts(probe.points())
    assert (found["http.server.request.duration"], found["http.client.request.duration"]) == (1, 1)
    told = probe.source.stages()["decode", "http_requests"]
    assert (told["delivered"], told["dropped"]) == (2, {"not_counted": 2})


def test_calls_of_grpc_are_no_requests_of_http() -> None:
    calls = (made(is_grpc=True, grpc_status=0), made(is_grpc=True, grpc_status=13))
    sent = made(is_grpc=True, grpc_status=0, connection=INFO._replace(direction=int(TRANSMIT)))
    found = counts(Probe().take(records=(*calls, sent, made(), "something else")).points())
    assert found["rpc.server.call.duration"] == 2
    assert found["rpc.client.call.duration"] == 1
    assert found["http.server.request.duration"] == 1


def test_what_went_over_to_http2_counts_once() -> None:
    asked = made("1.1", status=101, upgrade="h2c")
    answered = made("2", status=200, interim=(101,))
    probe = Probe().take(records=(asked, answered))
    assert counts(probe.points())["http.server.request.duration"] == 1


def test_a_request_that_is_handed_over_whole_is_told_by_who_follows_it() -> None:
    head = request("GET /a", HOST)
    whole = event(head, 0, flags=int(HttpFlags.WHOLE), sequence=1234, acknowledgment=99, request_octets=len(head) + 5)
    probe = Probe().take(whole)
    assert counts(probe.points()) == {}
    ((seen, segment),) = probe.source.begun(messages([whole, event()]))
    assert (segment.sequence, segment.acknowledgment, segment.length, segment.data) == (1234, 99, len(head) + 5, head)
    assert (seen.ifindex, seen.direction, seen.source[16:]) == (IFINDEX, RECEIVE, (40000).to_bytes(2, "big"))
    assert CLIENT.split(".")[-1] == str(seen.source[15])


def test_routes_of_the_configuration_and_learned_ones() -> None:
    probe = Probe(routes=("/users/{id}",), learn_routes=True, learned_routes_max=1)
    for path in ("/users/1", "/items/1", "/items/2", "/other/1"):
        probe.take(event(request(f"GET {path}", HOST)))
        probe.source._count_waiting(time.monotonic_ns())  # one by one: what is learned first has its place
    points = probe.points()
    told = points["http.server.request.duration"]
    assert isinstance(told, HistogramSeries)
    routes = {
        dict(each.items()).get("http.route"): int(count)
        for each, count in zip(told.attributes[1:], told.count[1:], strict=True)
    }
    assert routes == {"/users/{id}": 1, "/items/{number}": 2, None: 1}
    assert faults(points) == {"routes_full": 1}


def test_places_for_connections() -> None:
    probe = Probe()
    probe.source.prepare()
    assert probe.source.map_sizes() == {"http_connections": (3, 4096)}


def test_what_was_wrong_is_told() -> None:
    probe = Probe()
    (http1,) = [each for each in probe.source.recognisers() if each.name == "http1"]
    follower = http1.make(INFO)
    follower.data(False, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 1)
    follower.finish(2)
    assert faults(probe.points()) == {"unmatched_response": 1}


def test_the_limit_of_series_is_shared_by_both_sides() -> None:
    probe = Probe()
    assert probe.source.wanted[0] == 512
    for number in range(60):
        probe.take(event(status=200 + number), event(status=200 + number, direction=TRANSMIT))
    points = probe.points()
    assert sum(len(each) for name, each in points.items() if name.endswith("request.duration")) <= 100 + 2
    assert probe.source.wanted[0] > 512
    requests, *_ = probe.source.diversity()
    assert requests.sets >= 100
    assert requests.folded > 0


def test_spans_of_every_kind() -> None:
    probe = Probe().take(event(), event(direction=TRANSMIT), records=(made(), made(is_grpc=True, grpc_status=0)))
    spans = probe.source.take_spans()
    assert sorted(name for each in spans for name in each.batch.names) == ["GET", "GET", "POST", "pkg.Service/Call"]
    for batch, ends, times_ns, *_ in spans:
        assert {each.tobytes() for each in ends["local"]} == {INFO.client[:16]}
        assert set(ends["local_port"].tolist()) == {int.from_bytes(INFO.client[16:], "big")}
        assert len(np.unique(batch.start_time_unix_nano.astype(np.int64) - times_ns)) == 1
    assert probe.source.take_spans() == []


def test_spans_know_when_the_request_before_them_began() -> None:
    """By the port of the client and the side, in this drain and in those before; of HTTP/2 by the stream."""
    probe = Probe()
    times = [(3, 40_000), (5, 40_001), (7, 40_000)]
    probe.take(
        *[event(begun_ns=at * MS, client_port=port) for at, port in times], event(begun_ns=9 * MS, direction=TRANSMIT)
    )
    probe.points()
    streams = [made(stream=stream, request_first_ns=at * MS) for stream, at in ((1, 11), (7, 13))]
    probe.take(event(begun_ns=8 * MS, client_port=40_001), records=tuple(streams))
    probe.points()
    found = {
        (int(begun), int(port)): int(earlier)
        for sought in probe.source.take_spans()
        if sought.requests is not None
        for begun, port, earlier in zip(
            sought.requests.begun_ns // MS, sought.ends["local_port"], sought.requests.earlier_ns // MS, strict=True
        )
    }
    assert found == {
        (3, 40_000): 0, (5, 40_001): 0, (7, 40_000): 3, (9, 40_000): 0, (8, 40_001): 5, (11, 40_000): 7, (13, 40_000): 13
    }  # fmt: skip


def test_spans_of_what_is_read_with_a_cycle_are_told_with_it() -> None:
    probe = Probe().take(event())
    assert len(probe.source.take_spans()) == 1
    assert probe.take(event()).source.take_spans() == [], "few records wait for more"
    probe.source.begin_cycle(100, 100, 100)
    assert sum(len(each.batch) for each in probe.take(event()).source.take_spans()) == 2


def test_losses_of_the_kernel() -> None:
    probe = Probe()
    probe.ring.counts |= {
        MessageCount.HTTP_REQUESTS: 23,
        MessageCount.HTTP_LOST_RING: 3,
        MessageCount.HTTP_LOST_TABLE: 5,
        MessageCount.HTTP_LOST_LIMIT: 7,
    }
    told = probe.source.stages()["kernel", "http_messages"]
    assert (told["delivered"], told["dropped"]) == (23, {"table_full": 5, "limit": 7})


@pytest.mark.parametrize("learns", [False, True])
def test_another_process_goes_on(learns: bool) -> None:
    probe, other = Probe(learn_routes=learns), Probe(learn_routes=learns)
    events = [
        event(request(f"GET /users/{n}", HOST), 200 + n % 3, direction=n % 2, flags=COMPLETE, response_body=n)
        for n in range(41)
    ]
    probe.take(*events, records=(made(is_grpc=True, grpc_status=0),))
    other.source.restore(probe.source.state())
    assert counts(other.points()) == counts(probe.points())
    for each in (probe, other):
        each.source.begin_cycle(100, 100, 100)
        each.take(*events)
    assert counts(other.points()) == counts(probe.points())
    assert other.source.stages() == probe.source.stages()

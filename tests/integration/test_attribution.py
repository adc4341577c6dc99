"""Spans through the whole agent are those of the process at their end, however short its socket lives, and else of nobody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import dns_messages, frames
from support.agent import Agent, agent
from support.netns import NetNs, Veth, veth_pair
from support.otlp_receiver import Receiver, http_receiver
from support.talkers import CLIENT_KIND, DNS_PORT, EXECUTABLE, NAME, SERVER_KIND, Many, client, server, spans

pytestmark = pytest.mark.kernel

REQUESTS, HANDSHAKES, LOOKUPS, UNKNOWN = 101, 13, 503, 11
MANY = Many(requests=REQUESTS, handshakes=HANDSHAKES, lookups=LOOKUPS)
EVERY_SPAN = ("spans.share=1", "spans.limit_per_second=100000", "spans.slow_seconds=1000")


@pytest.fixture
def link() -> Iterator[tuple[NetNs, NetNs, Veth]]:
    with veth_pair() as made:
        yield made


@contextmanager
def watching(where: NetNs, interface: str, *settings: str) -> Iterator[tuple[Agent, Receiver]]:
    """The agent at one end of the link; every span goes to a receiver of this test."""
    every = (f"interfaces.namespaces={where.name}", *EVERY_SPAN, *settings)
    words = [word for each in every for word in ("--set", each)]
    with (
        http_receiver() as receiver,
        agent("--interface", interface, *words, "--otlp-endpoint", receiver.endpoint, otlp=True) as running,
    ):
        yield running, receiver


@pytest.mark.parametrize("at_client", [True, False], ids=["at the client", "at the server"])
def test_spans_are_of_the_process_at_their_end(
    link: tuple[NetNs, NetNs, Veth], tmp_path: Path, *, at_client: bool
) -> None:
    near, far, pair = link
    where, interface = (near, pair.left) if at_client else (far, pair.right)
    with (
        watching(where, interface) as (running, receiver),
        server(far, pair.right_address, tmp_path) as serving,
        client(near, pair.right_address, MANY) as asker,
    ):
        side, whose = (CLIENT_KIND, asker) if at_client else (SERVER_KIND, serving)
        expected = {
            ("GET", side, whose, EXECUTABLE): REQUESTS,
            ("DNS lookup", CLIENT_KIND, asker, EXECUTABLE): LOOKUPS,
            ("TLS handshake", CLIENT_KIND, asker, EXECUTABLE): HANDSHAKES,
        }
        running.wait(lambda: spans(receiver).total() >= sum(expected.values()), 30, "all spans")
        assert spans(receiver) == expected


def test_spans_of_no_local_process_are_nobody_s(link: tuple[NetNs, NetNs, Veth], tmp_path: Path) -> None:
    near, far, pair = link
    with (
        watching(near, pair.left) as (running, receiver),
        server(far, pair.right_address, tmp_path),
        client(near, pair.right_address, MANY) as asker,
    ):
        known = near.socket(2, 2)
        known.bind(("0.0.0.0", 45_001))
        known.sendto(b"its row has this port", (pair.right_address, 9))
        for number in range(UNKNOWN):
            query, answer = dns_messages.query(number, NAME), dns_messages.response(number, NAME)
            asked = frames.udp(query, source=45_001, destination=DNS_PORT)
            answered = frames.udp(answer, source=DNS_PORT, destination=45_001)
            ends = ("198.18.7.7", "198.18.7.8")
            near.send_frames(pair.left, [frames.ethernet(frames.ipv4(asked, source=ends[0], destination=ends[1]))])
            far.send_frames(pair.right, [frames.ethernet(frames.ipv4(answered, source=ends[1], destination=ends[0]))])
        running.wait(lambda: spans(receiver).total() >= LOOKUPS + REQUESTS + HANDSHAKES + UNKNOWN, 30, "all spans")
        known.close()
        lookups = {key[2:]: count for key, count in spans(receiver).items() if key[0] == "DNS lookup"}
        assert lookups == {(asker, EXECUTABLE): LOOKUPS, (None, None): UNKNOWN}


def test_without_the_probe_of_connections_spans_are_the_agent_s(
    link: tuple[NetNs, NetNs, Veth], tmp_path: Path
) -> None:
    near, far, pair = link
    with (
        watching(near, pair.left, "probes.connections.enabled=false") as (running, receiver),
        server(far, pair.right_address, tmp_path),
        client(near, pair.right_address, MANY),
    ):
        total = LOOKUPS + REQUESTS + HANDSHAKES
        running.wait(lambda: spans(receiver).total() >= total, 30, "all spans")
        assert {key[2:] for key in spans(receiver)} == {(None, None)}
        assert spans(receiver).total() == total

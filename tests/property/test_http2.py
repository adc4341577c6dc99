"""HTTP/2 cut at every octet is what h2 says of it, and any damage is read or refused and counted.

The default is 100,000 damaged frames. ``NETMON_FUZZ_FRAMES=1000000 pytest tests/property/test_http2.py`` reads a million;
``NETMON_FUZZ_SEED`` repeats a run by the seed that a failure names.
"""

from __future__ import annotations

import os
import random
import secrets
from collections import Counter
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
from hypothesis import given, settings, strategies as st

from otel_netmon.analysis.http2 import Http2Follower, recognisers
from otel_netmon.analysis.http_records import HttpRequest
from otel_netmon.analysis.tcp_connections import Connections
from otel_netmon.analysis.tcp_followers import ConnectionInfo
from otel_netmon.decode.http2 import begins_http2, continues_http2
from support import http2_frames as f
from support.http2_damage import Piece, conversation, damaged
from support.tcp_talk import CLIENT, SERVER, Talk

FRAMES = int(os.environ.get("NETMON_FUZZ_FRAMES", "100000"))
SEED = int(os.environ.get("NETMON_FUZZ_SEED", "0")) or secrets.randbits(32)

COUNTS = {
    "illegal_frames", "gaps", "skipped_octets", "promises", "lost_blocks", "long_blocks", "broken_blocks", "hpack_index",
    "hpack_list_size", "hpack_table_size", "hpack_coding", "evicted_streams", "unseen_requests", "unexpected_heads",
}  # fmt: skip

FIELD = st.tuples(st.from_regex(r"x-[a-z]{1,5}", fullmatch=True), st.text("abcXYZ0123;=/ ", max_size=40).map(str.strip))
PATHS = st.from_regex(r"/[a-z]{0,8}(\?[a-z=&]{0,20})?", fullmatch=True)


@st.composite
def exchanges(draw: st.DrawFn) -> list[dict[str, Any]]:
    """What a few streams carry."""
    return draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "method": st.sampled_from(["GET", "POST", "PURGE"]),
                    "path": PATHS,
                    "fields": st.lists(FIELD, max_size=4),
                    "request": st.lists(st.integers(0, 300), max_size=3),
                    "pad": st.sampled_from([None, 0, 7]),
                    "interim": st.booleans(),
                    "status": st.sampled_from([200, 204, 302, 404, 503]),
                    "response": st.lists(st.integers(0, 300), max_size=3),
                    "trailers": st.booleans(),
                    "reset": st.sampled_from([None, None, None, True, False]),
                    "size": st.sampled_from([None, None, 0, 100, 8192]),
                }
            ),
            min_size=1,
            max_size=5,
        )
    )


class Wire:
    """A client and a server of h2, what went between them, and what they say that it was."""

    def __init__(self) -> None:
        self.ends = {
            side: h2.connection.H2Connection(h2.config.H2Configuration(client_side=side)) for side in (True, False)
        }
        self.sent: list[Piece] = []
        self.told: dict[int, dict[str, Any]] = {}  # by stream
        for end in self.ends.values():
            end.initiate_connection()
        self.flush()

    def flush(self) -> None:
        while self.flush_side(True) | self.flush_side(False):
            pass

    def flush_side(self, side: bool) -> bool:
        octets = self.ends[side].data_to_send()
        if octets:
            self.sent.append((side, octets))
            for event in self.ends[not side].receive_data(octets):
                self.note(side, event)
        return bool(octets)

    def note(self, side: bool, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived(stream_id=stream):
                self.told[stream] = {
                    "method": field(event, b":method"),
                    "target": field(event, b":path"),
                    "status": None,
                    "outcome": "timeout",
                    "request": 0,
                    "response": 0,
                    "interim": (),
                    "grpc": None,
                    "code": None,
                }
            case h2.events.InformationalResponseReceived(stream_id=stream):
                self.told[stream]["interim"] += (int(field(event, b":status")),)
            case h2.events.ResponseReceived(stream_id=stream):
                self.told[stream] |= {"status": int(field(event, b":status")), "outcome": "incomplete"}
            case h2.events.TrailersReceived(stream_id=stream):
                self.told[stream]["grpc"] = int(field(event, b"grpc-status"))
            case h2.events.DataReceived(stream_id=stream, data=data):
                self.told[stream]["request" if side else "response"] += len(data)
            case h2.events.StreamEnded(stream_id=stream) if not side:
                self.told[stream]["outcome"] = "answered"
            case h2.events.StreamReset(stream_id=stream) if self.told[stream]["outcome"] != "answered":
                self.told[stream] |= {"outcome": "reset", "code": int(event.error_code)}

    def exchange(self, listed: list[dict[str, Any]]) -> None:
        """All requests, then all responses, the last first."""
        client, server = self.ends[True], self.ends[False]
        streams = []
        for each in listed:
            stream = client.get_next_available_stream_id()
            streams.append(stream)
            if each["size"] is not None:
                server.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: each["size"]})
                self.flush()
            head = [
                (":method", each["method"]),
                (":scheme", "http"),
                (":authority", "example"),
                (":path", each["path"]),
            ]
            client.send_headers(stream, [*head, *each["fields"]], end_stream=not each["request"])
            self.send_data(client, stream, each["request"], each["pad"])
            self.flush()
        for stream, each in reversed(list(zip(streams, listed, strict=True))):
            if each["interim"]:
                server.send_headers(stream, [(":status", "103"), *each["fields"]])
            ends = not each["response"] and not each["trailers"] and each["reset"] is None
            server.send_headers(stream, [(":status", str(each["status"])), *each["fields"]], end_stream=ends)
            ends = not each["trailers"] and each["reset"] is None
            self.send_data(server, stream, each["response"], each["pad"], end_stream=ends)
            if each["reset"] is not None:
                self.flush()
                self.ends[each["reset"]].reset_stream(stream, 8)
            elif each["trailers"]:
                server.send_headers(stream, [("grpc-status", "5"), *each["fields"]], end_stream=True)
            self.flush()

    @staticmethod
    def send_data(
        connection: h2.connection.H2Connection,
        stream: int,
        sizes: list[int],
        pad: int | None,
        *,
        end_stream: bool = True,
    ) -> None:
        for number, size in enumerate(sizes, 1):
            connection.send_data(stream, bytes(size), end_stream=end_stream and number == len(sizes), pad_length=pad)


def field(event: Any, name: bytes) -> str:
    value: bytes = dict(event.headers)[name]
    return value.decode()


def told(records: list[HttpRequest]) -> dict[int, dict[str, Any]]:
    return {
        each.stream: {
            "method": each.method,
            "target": each.target,
            "status": each.status,
            "outcome": each.outcome,
            "request": each.request_body_octets,
            "response": each.response_body_octets,
            "interim": each.interim,
            "grpc": each.grpc_status,
            "code": each.error_code,
        }
        for each in records
    }


def follow(pieces: list[Piece], *, begun: bool = True) -> tuple[list[HttpRequest], Counter[str]]:
    counts: Counter[str] = Counter()
    follower = Http2Follower(ConnectionInfo(0, 1, CLIENT, SERVER, True, begun, 0, 0, 0, 0), counts)
    for time, (side, octets) in enumerate(pieces):
        follower.data(side, octets, time)
    follower.finish(len(pieces))
    return follower.records, counts


@settings(max_examples=15, deadline=None)
@given(listed=exchanges())
def test_what_h2_says(listed: list[dict[str, Any]]) -> None:
    wire = Wire()
    wire.exchange(listed)
    records, counts = follow(wire.sent)
    assert told(records) == wire.told
    assert len(records) == len(listed)
    assert not counts
    # octet by octet, and cut in two anywhere
    assert follow([(side, bytes([octet])) for side, octets in wire.sent for octet in octets])[1] == Counter()
    for index, (side, octets) in enumerate(wire.sent):
        for cut in range(1, len(octets)):
            pieces = [*wire.sent[:index], (side, octets[:cut]), (side, octets[cut:]), *wire.sent[index + 1 :]]
            assert told(follow(pieces)[0]) == wire.told


@settings(max_examples=40, deadline=None)
@given(listed=exchanges(), skipped=st.integers(1, 12))
def test_joined_in_the_middle_says_nothing_wrong(listed: list[dict[str, Any]], skipped: int) -> None:
    """Whatever is missing at the begin: a value that is told is the true one, and what is not known is named."""
    wire = Wire()
    wire.exchange(listed)
    records, _ = follow(wire.sent[skipped:], begun=False)
    for each in records:
        truth = wire.told[each.stream]
        for name in ("method", "target", "status"):
            assert getattr(each, name) == truth[name] or (getattr(each, name) is None and name in each.unknown)


@settings(max_examples=100, deadline=None)
@given(
    listed=exchanges(),
    size=st.sampled_from([40, 300, 1460]),
    choice=st.randoms(use_true_random=False),
    begin=st.integers(0, 8),
)
def test_losses_make_nothing_wrong(listed: list[dict[str, Any]], size: int, choice: random.Random, begin: int) -> None:
    """Segments that were not captured, anywhere: no request that was none, no value that was another."""
    wire = Wire()
    for _ in range(3):
        wire.exchange([each | {"pad": None} for each in listed])  # the length of padding may be lost
    talk, counts = Talk(), Counter[str]()
    packets = talk.open()
    for side, octets in wire.sent:
        packets += talk.say(side, octets, size)
    connections = Connections(recognisers(counts))
    kept = [packet for packet in packets[begin:] if choice.random() < 0.95]
    records = [record for packet in kept for record in connections.feed(*packet)] + connections.finish()
    assert len({each.stream for each in records}) == len(records)
    for each in records:
        truth = wire.told[each.stream]
        assert (each.client, each.server) == (CLIENT, SERVER)
        for name, value in (
            ("method", each.method),
            ("target", each.target),
            ("status", each.status),
            ("grpc", each.grpc_status),
        ):
            assert value is None or value == truth[name], name
        for name, value in (("request", each.request_body_octets), ("response", each.response_body_octets)):
            assert value <= truth[name]
            assert value == truth[name] or each.outcome != "answered" or f"{name}_body_octets" in each.unknown
    assert set(counts) <= COUNTS


def test_cut_at_every_octet() -> None:
    """The same over segments of a connection that is recognised, each cut once at each octet."""
    wire = Wire()
    wire.exchange(
        [
            {"method": "POST", "path": "/a", "fields": [("x-a", "1")], "request": [100, 0], "pad": 7, "interim": True,
             "status": 200, "response": [50], "trailers": True, "reset": None, "size": 100},
            {"method": "GET", "path": "/b", "fields": [("x-a", "1")], "request": [], "pad": None, "interim": False,
             "status": 404, "response": [], "trailers": False, "reset": None, "size": None},
        ]
    )  # fmt: skip
    for index, (side, octets) in enumerate(wire.sent):
        for cut in range(1, len(octets)):
            talk, counts = Talk(), Counter[str]()
            connections = Connections(recognisers(counts))
            packets = talk.open()
            for at, (each_side, each) in enumerate(wire.sent):
                packets += talk.say(each_side, each, cut if at == index else 1460)
            records = [record for packet in packets for record in connections.feed(*packet)]
            assert told(records + connections.finish()) == wire.told, (side, index, cut)
            assert not counts


@given(data=st.binary(max_size=200), of_frames=st.booleans())
def test_any_octets_are_told_or_not(data: bytes, of_frames: bool) -> None:
    octets = f.ping() + data if of_frames else data
    assert begins_http2(octets) in {True, False, None}
    assert continues_http2(octets) in {True, False, None}
    records, counts = follow([(True, octets), (False, octets)], begun=False)
    assert set(counts) <= COUNTS
    assert len(records) <= len(octets)


def test_damaged_frames() -> None:
    generator = random.Random(SEED)  # noqa: S311 - repeatable damage, no secret
    conversations = damaged(generator)
    frames = 0
    seen: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    while frames < FRAMES:
        pieces, changed = next(conversations)
        frames += len(pieces)
        size = generator.choice((1, 7, 100, 10000))
        cut = [(side, octets[at : at + size]) for side, octets in pieces for at in range(0, len(octets), size)]
        try:
            records, counts = follow(cut, begun=generator.random() < 0.7)
            seen += counts
            outcomes.update([each.outcome for each in records])
            assert not changed or len(records) <= len(pieces)
        except Exception as error:
            raise AssertionError(f"NETMON_FUZZ_SEED={SEED}: {pieces!r}") from error
    missing = COUNTS - set(seen) - {"gaps", "promises", "long_blocks", "hpack_list_size", "evicted_streams"}
    assert not missing, "the damage does not reach every fault"
    assert set(seen) <= COUNTS
    assert set(outcomes) == {"answered", "reset", "timeout", "incomplete"}


def test_the_seeds_are_read() -> None:
    generator = random.Random(SEED)  # noqa: S311
    for _ in range(200):
        records, counts = follow(conversation(generator))
        assert not counts, f"NETMON_FUZZ_SEED={SEED}"
        assert records
        assert all(each.target is not None and each.unknown == () for each in records)

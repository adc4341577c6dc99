"""Captures of HTTP/1 of every kind, with the requests in them known beforehand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from support import http2_frames
from support.http_messages import HOST, chunks, request, response
from support.tcp_talk import Packet, Talk

TRACE = "00-d52ac471b0dfbbc5bd1ac5eadcea9870-b2d76db5796e4adc-01"
EMPTY = "Content-Length: 0"
TLS = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32)

Row = dict[str, Any]


@dataclass
class Dialog:
    """Both sides of a connection and what is expected of them.

    Attributes:
        packets: so far; each is a millisecond behind the one before.
        rows: expected of ``replay --output json``, without addresses, in the order of the requests.
    """

    packets: list[Packet] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.talk = Talk()
        self._begun: list[tuple[Row, int]] = []

    def open(self) -> Dialog:
        self.packets += self.talk.open()
        return self

    def say(self, from_client: bool, octets: bytes, size: int = 1460) -> Dialog:
        self.packets += self.talk.say(from_client, octets, size)
        return self

    def ask(self, line: str, *fields: str, host: str | None = "a.example", size: int = 1460, **more: Any) -> Dialog:
        """Sends a request, whose row begins with its first packet."""
        method, target, *_ = line.split(" ")
        self.expect(method, target, host)
        fields = (*([f"Host: {host}"] if host is not None else []), *fields)
        return self.say(True, request(line, *fields, **more), size)

    def expect(self, method: str, target: str, host: str | None = "a.example", trace: str | None = None) -> Row:
        """A row of a request that begins with the next packet."""
        row = {"version": "1.1", "method": method, "target": target, "host": host, "status": None}
        row |= {"duration_ms": None, "traceparent": trace}
        self.rows.append(row)
        self._begun.append((row, self.talk.time_ns))
        return row

    def answer(self, status: int, *fields: str, size: int = 1460, **more: Any) -> Dialog:
        """Sends the response to the first request that has none."""
        self.say(False, response(status, *fields, **more), size)
        return self.answered(status)

    def answered(self, status: int) -> Dialog:
        """The response to it ended with the last packet."""
        row, begun_ns = self._begun.pop(0)
        row |= {"status": status, "duration_ms": (self.talk.time_ns - begun_ns) / 1e6 - 1}
        return self

    def fin(self, from_client: bool) -> Dialog:
        self.packets.append(self.talk.fin(from_client))
        return self


# --------------------------------------------------------------------------------------------------------------- kinds
def keep_alive() -> Dialog:
    d = Dialog().open()
    for number in range(23):
        d.ask(f"GET /{number}?q={number}", f"traceparent: {TRACE}", "tracestate: a=b").rows[-1]["traceparent"] = TRACE
        d.answer(400 + number, body=b"x" * 1777)
    return d.fin(True).fin(False)


def pipelining() -> Dialog:
    """Three requests in a segment, answers that begin in the middle of others."""
    d = Dialog().open()
    octets = b""
    for number in (1, 2, 3):
        d.expect("GET", f"/{number}")
        octets += request(f"GET /{number}", HOST)
    d.say(True, octets)
    answers = [response(200, body=b"a" * 1000), response(404, body=b"b" * 1000), response(500, body=b"c" * 1000)]
    ends = [len(b"".join(answers[: n + 1])) for n in range(3)]
    octets = b"".join(answers)
    for at in range(0, len(octets), 700):
        d.say(False, octets[at : at + 700])
        for end, status in zip(ends, (200, 404, 500), strict=True):
            if at < end <= at + 700:
                d.answered(status)
    return d


def bodies_that_look_like_heads() -> Dialog:
    d = Dialog().open()
    d.ask("PUT /1", "Content-Length: " + str(len(request("GET /no"))))
    d.say(True, request("GET /no"))
    d.answer(200, "Content-Length: " + str(len(response(500))))
    d.rows[0]["duration_ms"] += 1
    d.say(False, response(500))
    return d.ask("GET /2").answer(404, "Transfer-Encoding: chunked", body=chunks(response(500), request("GET /no")))


def without_a_body() -> Dialog:
    d = Dialog().open()
    for line, status in (("HEAD /1", 200), ("GET /2", 304), ("DELETE /3", 204), ("HEAD /4", 404)):
        d.ask(line).answer(status, "Content-Length: 1234")
    return d.ask("GET /5").answer(200, EMPTY)


def interim() -> Dialog:
    d = Dialog().open()
    d.ask("POST /1", "Expect: 100-continue", "Content-Length: 5").say(False, response(100)).say(True, b"12345")
    d.answer(201, EMPTY).ask("GET /2").say(False, response(103, "Link: </a>") + response(103)).answer(200, body=b"abc")
    d.ask("PUT /3", "Expect: 100-continue", "Content-Length: 500").answer(417, EMPTY)
    return d.ask("PUT /4", body=b"12345").answer(200, EMPTY)


def long_heads(size: int = 1460) -> Dialog:
    """The fields that matter several kilobytes into the head, the request line over several segments."""
    d = Dialog().open()
    target = "/" + "t" * 4000
    d.expect("GET", target, trace=TRACE)
    d.say(
        True, request(f"GET {target}", "Cookie: " + "c" * 9000, HOST, "X: " + "x" * 9000, f"traceparent: {TRACE}"), size
    )
    return d.answer(
        200, "Set-Cookie: " + "c" * 9000, "Transfer-Encoding: chunked", body=chunks(b"abc", trailer="A: b\r\n")
    )


def too_long_heads() -> Dialog:
    """Of 64 KiB nothing is missing; of more, what stands behind them."""
    d = Dialog().open()
    d.ask("GET /1", "X: " + "x" * 65000).answer(200, EMPTY)
    d.expect("GET", "/2")
    d.say(True, request("GET /2", HOST, "X: " + "x" * 200_000, f"traceparent: {TRACE}"))
    return d.answer(431, EMPTY).ask("GET /3").answer(200, EMPTY)


def disorder() -> Dialog:
    """Segments twice, in another order, overlapping."""
    d = Dialog().open()
    d.ask("POST /1", "X: " + "x" * 300, size=100, body=b"b" * 200)
    packets = d.packets
    packets[3], packets[5] = packets[5], packets[3]
    packets += [packets[4], packets[-1]]
    d.answer(200, size=200, body=b"c" * 1000)
    packets[-1], packets[-2] = packets[-2], packets[-1]
    packets.append(packets[-3])
    seen, segment = packets[-2]
    packets.append((seen, segment._replace(sequence=segment.sequence - 50 & 0xFFFFFFFF, data=b"?" * 50 + segment.data)))
    d.rows[0]["duration_ms"] = ANY
    return d


def requests_alone() -> Dialog:
    d = Dialog()
    for number in range(3):
        d.ask(f"POST /{number}", body=b"x" * 3000)
    return d


def responses_alone() -> Dialog:
    d = Dialog()
    for status in (200, 404):
        d.say(False, response(status, body=b"x" * 3000))
    return d


def joined_in_the_middle() -> Dialog:
    d = Dialog()
    d.say(False, b"rest of a body" * 300).say(True, b"rest of another\r\n\r\n")
    return d.say(False, response(500, EMPTY)).ask("GET /1").answer(200, body=b"abc").ask("GET /2").answer(404, EMPTY)


def lost_in_bodies() -> Dialog:
    d = Dialog().open()
    d.ask("GET /1").say(False, response(200, "Content-Length: 9000") + b"x" * 1000)
    d.talk.lose(False, 7000)
    d.say(False, b"x" * 1000).answered(200)
    d.ask("POST /2", "Content-Length: 5000")
    d.talk.lose(True, 4000)
    return d.say(True, b"y" * 1000).answer(201, EMPTY)


def lost_heads() -> Dialog:
    """Where a response is missing, the next is not its request's."""
    d = Dialog().open()
    d.ask("GET /1").answer(200, EMPTY).ask("GET /2")
    d.talk.lose(False, 100)
    d._begun.clear()
    return d.ask("GET /3").answer(404, EMPTY)


def connect() -> Dialog:
    d = Dialog().open()
    d.ask("CONNECT b.example:80", host="b.example:80").answer(407, body=b"who?")
    d.ask("CONNECT b.example:80", host="b.example:80").say(
        False, b"HTTP/1.0 200 Connection established\r\n\r\n"
    ).answered(200)
    return d.ask("GET /inside", host="b.example").answer(200, body=b"abc")


def websocket() -> Dialog:
    d = Dialog().open()
    d.ask("GET /ws", "Connection: keep-alive, Upgrade", "Upgrade: websocket")
    d.answer(101, "Connection: Upgrade", "Upgrade: websocket")
    return d.say(True, b"\x81\x90abcd" + request("GET /no")).say(False, b"\x81\x10" + response(500))


def h2c() -> Dialog:
    """What was asked in HTTP/1.1 is told once; what follows is HTTP/2."""
    d = Dialog().open()
    d.ask("GET /1", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    d.answer(101, "Connection: Upgrade", "Upgrade: h2c").say(False, http2_frames.settings())
    d.say(True, http2_frames.PREFACE + http2_frames.settings())
    return d.say(False, http2_frames.headers(1, b"\x88", end=True))


def to_the_end() -> Dialog:
    d = Dialog().open()
    d.ask("GET /1 HTTP/1.0", host=None).rows[0]["version"] = "1.0"
    return d.say(False, response(200) + b"x" * 5000).answered(200).fin(False).fin(True)


def length_less_keep_alive() -> Dialog:
    """Servers that say nothing about the length and go on: the next request ends the response."""
    d = Dialog().open()
    d.ask("GET /1").answer(200).ask("GET /2").answer(404)
    return d.fin(False)


def nobody_answers() -> Dialog:
    d = Dialog().open()
    return d.ask("GET /1").fin(False)


def reset() -> Dialog:
    d = Dialog().open()
    d.ask("GET /1").packets.append(d.talk.reset(False))
    return d


def oddities() -> Dialog:
    """What servers of the field accept."""
    d = Dialog().open()
    d.expect("BREW", "/pot")
    d.say(True, b"\r\n\r\nBREW /pot HTTP/1.1\nhost:a.example\n\n").answer(418, EMPTY, end="\n")
    d.expect("GET", "http://a.example/b")
    d.say(True, request("GET http://a.example/b", "HOST:\r\n a.example")).answer(302, EMPTY)
    d.ask("OPTIONS *").answer(200, "Content-Length: 3, 3", body=b"abc")
    return d.ask("POST /1", body=b"abc").say(True, b"\r\n").answer(200, "Transfer-Encoding: identity", EMPTY)


def behind_a_proxy_line() -> Dialog:
    d = Dialog().open()
    d.expect("GET", "/1")
    return d.say(True, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + request("GET /1", HOST)).answer(200, EMPTY)


ANY = object()

KINDS: dict[str, Callable[[], Dialog]] = {
    each.__name__: each
    for each in (
        keep_alive,
        pipelining,
        bodies_that_look_like_heads,
        without_a_body,
        interim,
        long_heads,
        too_long_heads,
        disorder,
        requests_alone,
        responses_alone,
        joined_in_the_middle,
        lost_in_bodies,
        lost_heads,
        connect,
        websocket,
        h2c,
        to_the_end,
        length_less_keep_alive,
        nobody_answers,
        reset,
        oddities,
        behind_a_proxy_line,
    )
} | {"long_heads_in_small_segments": lambda: long_heads(7)}

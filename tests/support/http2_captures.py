"""Captures of HTTP/2 of every kind, with the requests in them known beforehand."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from struct import pack
from typing import Any

import hpack

from support import frames, http2_frames as f
from support.capture_files import NANOSECONDS, pcap_header, pcap_record
from support.tcp_talk import Packet, Talk

START = 1_700_000_000
SECOND = 1_000_000_000
MILLISECONDS = 1e6
HOST = "example:8443"
TRACE = "00-d52ac471b0dfbbc5bd1ac5eadcea9870-b2d76db5796e4adc-01"

Row = dict[str, Any]


@dataclass
class Dialog:
    """Both sides of a connection, their header tables and what is expected of them.

    Attributes:
        packets: so far; a step is a millisecond.
        rows: expected of ``replay --output json``, without addresses, in the order of the requests.
    """

    packets: list[Packet] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.talk = Talk()
        self.client, self.server = hpack.Encoder(), hpack.Encoder()
        self._begun: dict[int, tuple[Row, int]] = {}

    def open(self) -> None:
        self.packets += self.talk.open()
        self.say(True, f.PREFACE + f.settings((3, 100)) + f.window_update(0))
        self.say(False, f.settings((1, 4096)) + f.settings(ack=True))

    def say(self, from_client: bool, octets: bytes, size: int = 1460) -> None:
        self.packets += self.talk.say(from_client, octets, size)

    def request(self, stream: int, path: str = "/a", method: str = "POST", **fields: str) -> bytes:
        """The header block of a request; its row begins with the next packet."""
        listed = [(":method", method), (":scheme", "http"), (":path", path), (":authority", HOST)]
        listed += [(name.replace("_", "-"), value) for name, value in fields.items()]
        row = {"method": method, "target": path, "host": HOST, "status": None, "duration_ms": None, "traceparent": None}
        row |= {"traceparent": fields["traceparent"]} if "traceparent" in fields else {}
        self.rows.append(row)
        self._begun[stream] = row, self.talk.time_ns + 1_000_000
        return self.client.encode(listed)

    def response(self, status: int = 200, **fields: str) -> bytes:
        return self.server.encode(
            [(":status", str(status)), *[(name.replace("_", "-"), v) for name, v in fields.items()]]
        )

    def answered(self, stream: int, status: int) -> None:
        """The response of a stream ended with the last packet."""
        row, begun_ns = self._begun.pop(stream)
        row |= {"status": status, "duration_ms": (self.talk.time_ns - begun_ns) / MILLISECONDS}


def frame_of(packet: Packet, captured: int | None = None) -> tuple[int, bytes, int]:
    """Time, Ethernet frame and its length on the wire; captured: octets of the frame that the capture has."""
    seen, segment = packet
    (source, source_port), (destination, destination_port) = (
        (socket.inet_ntop(socket.AF_INET, end[12:16]), int.from_bytes(end[16:], "big"))
        for end in (seen.source, seen.destination)
    )
    sequence = segment.sequence - (segment.flags >> 1 & 1)
    body = frames.tcp(segment.data, source_port, destination_port, sequence=sequence, flags=segment.flags)
    body = body[:8] + pack(">I", segment.acknowledgment or 0) + body[12:]
    whole = frames.ethernet(frames.ipv4(body, frames.TCP, source, destination))
    return segment.time_ns, whole[:captured], len(whole)


def write(path: Path, packets: Iterable[Packet], captured: int | None = None) -> str:
    """Writes a capture; captured: the snap length."""
    with path.open("wb") as file:
        file.write(pcap_header(magic=NANOSECONDS, snapshot=1 << 18))
        for time_ns, octets, wire in (frame_of(packet, captured) for packet in packets):
            file.write(pcap_record(octets, START + time_ns // SECOND, time_ns % SECOND, wire=wire))
    return str(path)


# --------------------------------------------------------------------------------------------------------------- kinds
def table_over_requests() -> Dialog:
    """Thirty requests whose fields are entries of the table, with one that changes each time."""
    d = Dialog()
    d.open()
    for stream in range(1, 60, 2):
        d.say(True, f.headers(stream, d.request(stream, "/always", traceparent=TRACE, x_id=f"{stream:040x}"), end=True))
        d.say(
            False, f.headers(stream, d.response(200, server="s", date=f"{stream:030}")) + f.data(stream, 10, end=True)
        )
        d.answered(stream, 200)
    return d


def table_sizes() -> Dialog:
    """The table is made smaller, empty and larger while it is in use."""
    d = Dialog()
    d.open()
    for stream, size in zip(range(1, 15, 2), (4096, 0, 4096, 60, 100, 65536, 0), strict=True):
        d.say(True, f.settings((1, size)))
        d.say(False, f.settings((1, size)) + f.settings(ack=True))
        d.client.header_table_size = d.server.header_table_size = size
        for each in (stream * 100 + 1, stream * 100 + 3):
            d.say(True, f.settings(ack=True) + f.headers(each, d.request(each, "/sized", x_a="b" * 30), end=True))
            d.say(False, f.headers(each, d.response(404, x_c="d"), end=True))
            d.answered(each, 404)
    return d


def behind_data(size: int) -> Dialog:
    """Uploads and downloads at once, in segments that end anywhere."""
    d = Dialog()
    d.open()
    octets = b""
    for stream in (1, 3, 5):
        octets += (
            f.headers(stream, d.request(stream, f"/{stream}")) + f.data(stream, 1777) + f.data(stream, 0, end=True)
        )
    d.say(True, octets, size)
    octets = b""
    for stream, status in ((1, 200), (3, 503), (5, 204)):
        octets += f.headers(stream, d.response(status)) + f.data(stream, 2333) + f.data(stream, 7, end=True)
    d.say(False, octets, size)
    for row, status in zip(d.rows, (200, 503, 204), strict=True):
        row |= {"status": status, "duration_ms": ANY}
    return d


ANY = object()


def continuation() -> Dialog:
    """Header blocks over several frames, each in segments of its own."""
    d = Dialog()
    d.open()
    block = d.request(1, "/" + "p" * 3000, traceparent=TRACE, cookie="c" * 5000)
    d.say(True, f.headers(1, block[:1], end=True, complete=False))
    for at in range(1, len(block), 2000):
        d.say(True, f.continuation(1, block[at : at + 2000], complete=at + 2000 >= len(block)))
    block = d.response(200, x="y" * 4000)
    d.say(False, f.headers(1, block[:10], complete=False) + f.continuation(1, block[10:]) + f.data(1, 5, end=True))
    d.answered(1, 200)
    return d


def padding_and_priority() -> Dialog:
    d = Dialog()
    d.open()
    d.say(True, f.frame(f.PRIORITY, b"\0\0\0\0\x0f", 3))
    d.say(
        True,
        f.headers(5, d.request(5, "/padded"), pad=255, priority=b"\x80\0\0\3\xff") + f.data(5, 100, end=True, pad=200),
    )
    d.say(True, f.frame(f.PRIORITY_UPDATE, pack(">I", 5) + b"u=1") + f.frame(0x2F, b"grease", 0))
    d.say(False, f.headers(5, d.response(201), pad=0) + f.data(5, 0, pad=9) + f.data(5, 30, end=True, pad=1))
    d.answered(5, 201)
    return d


def out_of_order() -> Dialog:
    d = Dialog()
    d.open()
    d.say(
        True, b"".join(f.headers(stream, d.request(stream, f"/{stream}", "GET"), end=True) for stream in (1, 3, 5, 7))
    )
    for stream, status in ((7, 404), (3, 200), (1, 500), (5, 304)):
        d.say(False, f.headers(stream, d.response(status)) + f.data(stream, stream, end=True))
        d.answered(stream, status)
    return d


def resets() -> Dialog:
    """By either side, before and after an answer began; refused by GOAWAY; the rest dies with the connection."""
    d = Dialog()
    d.open()
    for stream in (1, 3, 5, 7, 9):
        d.say(True, f.headers(stream, d.request(stream, f"/{stream}"), end=stream != 1))
    d.say(True, f.reset(1, f.CANCEL))
    d.say(False, f.reset(3, f.REFUSED_STREAM))
    d.say(False, f.headers(5, d.response(200)) + f.data(5, 10))
    d.answered(5, 200)
    d.say(True, f.reset(5, f.CANCEL))
    d.say(False, f.goaway(7, f.PROTOCOL_ERROR))
    d.packets.append(d.talk.reset(False))
    return d


def interim() -> Dialog:
    d = Dialog()
    d.open()
    d.say(True, f.headers(1, d.request(1, "/put", "PUT", expect="100-continue")))
    d.say(False, f.headers(1, d.response(100)))
    d.say(True, f.data(1, 1000, end=True))
    d.say(False, f.headers(1, d.response(103, link="</style>")))
    d.say(False, f.headers(1, d.response(200), end=True))
    d.answered(1, 200)
    return d


def grpc() -> Dialog:
    """Unary calls, one of them refused with trailers only."""
    d = Dialog()
    d.open()
    for stream, status in ((1, "0"), (3, "12"), (5, "0")):
        head = d.request(
            stream, "/pkg.Service/Method", content_type="application/grpc", te="trailers", traceparent=TRACE
        )
        d.say(True, f.headers(stream, head) + f.data(stream, 45, end=True))
        if status == "0":
            d.say(False, f.headers(stream, d.response(200, content_type="application/grpc")) + f.data(stream, 99))
            d.say(False, f.headers(stream, d.server.encode([("grpc-status", status)]), end=True))
        else:
            d.say(
                False, f.headers(stream, d.response(200, content_type="application/grpc", grpc_status=status), end=True)
            )
        d.answered(stream, 200)
    return d


def server_first() -> Dialog:
    d = Dialog()
    d.packets += d.talk.open()
    d.say(False, f.settings((3, 100)))
    d.say(True, f.PREFACE + f.settings())
    d.say(True, f.headers(1, d.request(1, "/a"), end=True))
    d.say(False, f.headers(1, d.response(200), end=True))
    d.answered(1, 200)
    return d


def disordered() -> Dialog:
    """Segments twice, swapped, overlapping."""
    d = Dialog()
    d.open()
    begun = len(d.packets)
    octets = f.headers(1, d.request(1, "/swapped")) + f.data(1, 4000) + f.data(1, 0, end=True)
    d.say(True, octets, 500)
    d.say(False, f.headers(1, d.response(200)) + f.data(1, 3000, end=True), 700)
    d.rows[0] |= {"status": 200, "duration_ms": ANY}
    made = d.packets[begun:]
    d.packets[begun:] = [made[0], made[0], made[2], made[1], *made[3:7], made[1], *made[7:]]
    return _in_time(d)


def joined(skipped: int) -> Dialog:
    """`table_over_requests` without its first packets: what was not seen is unknown."""
    d = table_over_requests()
    del d.packets[:skipped]
    return d


def one_sided(from_client: bool) -> Dialog:
    """Only what one side says was captured."""
    d = grpc()
    client = d.talk.ends[0]
    d.packets = [packet for packet in d.packets if (packet[0].source == client) == from_client]
    d.rows = [row | {"status": None, "duration_ms": None} for row in d.rows] if from_client else []
    return d


def upgraded() -> Dialog:
    """HTTP/1.1 that becomes HTTP/2: the captures expect the request as it was asked, and what comes then."""
    d = Dialog()
    d.packets += d.talk.open()
    d.say(
        True,
        b"GET /up HTTP/1.1\r\nHost: example:8443\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
    )
    d.say(False, b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + f.settings())
    d.rows.append(
        {"method": "GET", "target": "/up", "host": HOST, "status": 101, "duration_ms": 1.0, "traceparent": None}
    )
    d.say(True, f.PREFACE + f.settings())
    d.say(False, f.settings(ack=True) + f.headers(1, d.response(200)) + f.data(1, 10, end=True))
    d.say(True, f.headers(3, d.request(3, "/next"), end=True))
    d.say(False, f.headers(3, d.response(404), end=True))
    d.answered(3, 404)
    return d


def _in_time(d: Dialog) -> Dialog:
    """Packets are seen in the order of the list."""
    d.packets = [
        (seen, segment._replace(time_ns=number * 1_000_000)) for number, (seen, segment) in enumerate(d.packets, 1)
    ]
    return d


KINDS: dict[str, Callable[[], Dialog]] = {
    "table_over_requests": table_over_requests,
    "table_sizes": table_sizes,
    "behind_data_7": lambda: behind_data(7),
    "behind_data_100": lambda: behind_data(100),
    "behind_data_1460": lambda: behind_data(1460),
    "continuation": continuation,
    "padding_and_priority": padding_and_priority,
    "out_of_order": out_of_order,
    "resets": resets,
    "interim": interim,
    "grpc": grpc,
    "server_first": server_first,
    "disordered": disordered,
    "client_only": lambda: one_sided(True),
    "server_only": lambda: one_sided(False),
    "upgraded": upgraded,
}
"""Captures of which all requests are known."""

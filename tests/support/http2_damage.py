"""Damaged HTTP/2: conversations whose frames and octets are changed, repeatable from a generator of random numbers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from struct import pack

import hpack

from support import http2_frames as f

Piece = tuple[bool, bytes]
"""Octets of the client (True) or the server."""

FIELDS = [
    ("content-type", "application/grpc"),
    ("te", "trailers"),
    ("cookie", "a=b"),
    ("user-agent", "grpc-go/1.60"),
    ("traceparent", "00-d52ac471b0dfbbc5bd1ac5eadcea9870-b2d76db5796e4adc-01"),
    ("x-long", "v" * 700),
]


def conversation(generator: random.Random) -> list[Piece]:
    """A valid connection with a few streams, in frames of their own."""
    client, server = hpack.Encoder(), hpack.Encoder()
    pieces = [(True, f.PREFACE), (True, f.settings((1, 4096))), (False, f.settings()), (False, f.settings(ack=True))]
    for stream in range(1, 2 * generator.randint(1, 4), 2):
        if generator.random() < 0.2:
            size = generator.choice((0, 100, 4096, 65536))
            (client if generator.random() < 0.5 else server).header_table_size = size
        extra = generator.sample(FIELDS, generator.randint(0, len(FIELDS)))
        path = f"/service.{generator.randint(0, 3)}/method"
        asked = [
            (":method", generator.choice(("GET", "POST", "PUT"))),
            (":scheme", "http"),
            (":path", path),
            (":authority", "x"),
        ]
        pieces += [(True, each) for each in _head(generator, stream, client.encode([*asked, *extra]))]
        pieces.append((True, f.data(stream, generator.randint(0, 300), end=True, pad=generator.choice((None, 0, 9)))))
        if generator.random() < 0.1:
            pieces.append((generator.random() < 0.5, f.reset(stream)))
            continue
        status = generator.choice(("200", "204", "404", "503"))
        pieces += [(False, each) for each in _head(generator, stream, server.encode([(":status", status), *extra[:2]]))]
        pieces.append((False, f.data(stream, generator.randint(0, 300))))
        pieces += [(False, each) for each in _head(generator, stream, server.encode([("grpc-status", "0")]), end=True)]
        if generator.random() < 0.3:
            pieces.append(
                (generator.random() < 0.5, generator.choice((f.ping(), f.window_update(0), f.window_update(stream))))
            )
    if generator.random() < 0.2:
        pieces.append((False, f.goaway(generator.randint(0, 9), generator.randint(0, 13))))
    return pieces


def _head(generator: random.Random, stream: int, block: bytes, *, end: bool = False) -> list[bytes]:
    if generator.random() < 0.2 and len(block) > 1:
        cut = generator.randint(0, len(block))
        return [f.headers(stream, block[:cut], end=end, complete=False), f.continuation(stream, block[cut:])]
    pad, priority = generator.choice((None, None, 5)), generator.choice((None, None, b"\0\0\0\3\x10"))
    return [f.headers(stream, block, end=end, pad=pad, priority=priority)]


def damaged(generator: random.Random) -> Iterator[tuple[list[Piece], int]]:
    """Gives conversations without end, and how many frames of each were changed: none in some."""
    while True:
        pieces = conversation(generator)
        changed = 0
        for index in range(len(pieces)):
            if generator.random() < 0.3:
                side, octets = pieces[index]
                pieces[index] = side, _damage(generator, bytearray(octets))
                changed += 1
        while generator.random() < 0.2:
            at, to = generator.randrange(len(pieces)), generator.randrange(len(pieces))
            pieces.insert(to, pieces[at])
            changed += 1
        yield pieces, changed


def _damage(generator: random.Random, octets: bytearray) -> bytes:
    kind = generator.randrange(10)
    at = generator.randrange(len(octets)) if octets else 0
    if kind == 0:
        octets[at] ^= 1 << generator.randrange(8)
    elif kind == 1:
        octets[at] = generator.choice((0, 1, 0x7F, 0x80, 0xFF))
    elif kind == 2:
        del octets[at : at + generator.randint(1, 20)]
    elif kind == 3:
        octets[at:at] = generator.randbytes(generator.randint(1, 20))
    elif kind == 4:
        octets[0:3] = pack(">I", generator.choice((0, 1, 4, 8, 16384, 16385, 65537, (1 << 24) - 1)))[1:]
    elif kind == 5 and len(octets) > 4:
        octets[3] = generator.randrange(12)
    elif kind == 6 and len(octets) > 4:
        octets[4] = generator.randrange(256)
    elif kind == 7 and len(octets) > 8:
        octets[5:9] = pack(">I", generator.choice((0, 1, 2, 3, 0x7FFFFFFF, 0xFFFFFFFF)))
    elif kind == 8 and len(octets) > 8:
        update = f.table_size(generator.choice((0, 100, 1 << 20, 1 << 32)))
        octets[9:] = update + octets[9:]
        octets[0:3] = pack(">I", len(octets) - 9)[1:]
    else:
        octets[9:] = generator.randbytes(len(octets[9:]))
    return bytes(octets)

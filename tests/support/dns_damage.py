"""DNS messages of every kind that is read in detail, and damaged ones."""

from __future__ import annotations

import random
from collections.abc import Iterator

from support import dns_messages as d

HEADER = 12


def seeds() -> list[bytes]:
    """Messages of every kind that is read in detail."""
    long = ".".join(["x" * 63] * 3 + ["y" * 61])
    return [
        d.query(1, "www.example.com"),
        d.message(2, d.QUERY_FLAGS, [d.question(long, d.AAAA)], additional=[d.opt()]),
        d.response(3, "www.example.com", d.address("192.0.2.1"), d.address("192.0.2.2")),
        d.response(
            4,
            "www.example.com",
            d.record(d.pointer(HEADER), d.CNAME, b"\3cdn" + d.pointer(HEADER + 4)),
            d.address("2001:db8::1", d.pointer(HEADER + 33)),
            kind=d.AAAA,
        ),
        d.response(5, "www.example", d.service(1, "s.example", hints=["192.0.2.1", "2001:db8::1"]), kind=d.HTTPS),
        d.message(
            6,
            d.RESPONSE_FLAGS | 3,
            [d.question("nothing.example.com")],
            authority=[
                d.record(d.pointer(HEADER + 8), d.SOA, d.pointer(HEADER + 8) + d.pointer(HEADER + 8) + bytes(20))
            ],
            additional=[d.opt(4096, 1)],
        ),
        d.response(7, "4.3.2.1.in-addr.arpa", d.record(d.pointer(HEADER), d.PTR, d.name("host.example")), kind=d.PTR),
        d.message(8, d.QUERY_FLAGS, [d.question("a.example"), b"\1b" + d.pointer(HEADER + 2) + bytes([0, 28, 0, 1])]),
        d.response(9, "t.example", *[d.record(d.pointer(HEADER), d.TXT, b"\3abc")] * 5, kind=d.TXT),
        d.message(10, d.RESPONSE_FLAGS | 1),
    ]


def damaged(generator: random.Random) -> Iterator[bytes]:
    """Seeds with octets changed, removed, doubled, or put in from another one."""
    whole = seeds()
    while True:
        data = bytearray(generator.choice(whole))
        for _ in range(generator.choice((1, 1, 1, 2, 3, 8))):
            at = generator.randrange(len(data)) if data else 0
            match generator.randrange(8):
                case 0:
                    del data[at:]
                case 1:
                    data[at:at] = generator.randbytes(generator.randrange(1, 5))
                case 2:
                    del data[at : at + generator.randrange(1, 9)]
                case 3:
                    other = generator.choice(whole)
                    start = generator.randrange(len(other))
                    data[at:at] = other[start : start + generator.randrange(1, 40)]
                case 4:
                    data[at : at + 2] = d.pointer(generator.randrange(min(len(data) + 4, 0x4000)))
                case 5 if len(data) >= HEADER:
                    data[generator.randrange(5, HEADER, 2)] = generator.randrange(4)
                case _ if data:
                    data[at] = generator.choice((0, 1, 12, 63, 64, 128, 192, 255, generator.randrange(256)))
                case _:
                    pass
        yield bytes(data)

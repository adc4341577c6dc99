"""Reassembly: what is whole when, overlaps by the rules of each version, limits."""

from __future__ import annotations

import random
from struct import pack

import pytest

from otel_netmon.decode.fragments import Look, Reassembler, find_fragment
from support import frames as f

SECOND = 1_000_000_000
PAYLOAD = random.Random(1).randbytes(1009)  # noqa: S311 - variety, not secrets
Cut = tuple[int, int]


def piece(
    begin: int,
    end: int,
    *,
    six: bool = False,
    payload: bytes = PAYLOAD,
    more: bool | None = None,
    identification: int = 7,
    tags: tuple[int, ...] = (),
) -> bytes:
    """A frame with a fragment of a payload of UDP."""
    more = end < len(payload) if more is None else more
    if six:
        header = bytearray(f.fragment(b"", f.UDP, begin, more=more))
        header[4:8] = pack(">I", identification)
        packet = bytearray(f.ipv6(bytes(header) + payload[begin:end], f.FRAGMENT))
    else:
        packet = bytearray(f.ipv4(payload[begin:end], more=more, offset=begin))
        packet[4:6] = pack(">H", identification)
    kind = f.IPV6 if six else f.IPV4
    return f.tagged(bytes(packet), kind, *tags) if tags else f.ethernet(bytes(packet), kind)


def whole(*, six: bool = False, payload: bytes = PAYLOAD, identification: int = 7) -> bytes:
    if six:
        return f.ethernet(f.ipv6(payload), f.IPV6)
    packet = bytearray(f.ipv4(payload))
    packet[4:6] = pack(">H", identification)
    return f.ethernet(bytes(packet))


def take(reassembler: Reassembler, frame: bytes, time_ns: int = 0) -> list[Look]:
    fragment = find_fragment(frame)
    assert fragment is not None
    return reassembler.take(frame, fragment, len(frame), time_ns)


def frames_of(looks: list[Look]) -> list[bytes]:
    assert all(look.length == len(look.frame) for look in looks)
    return [look.frame for look in looks]


CUTS = [(0, 104), (104, 504), (504, 512), (512, 1009)]


# ------------------------------------------------------------------------------------------------------ what is one
@pytest.mark.parametrize(
    "frame",
    [
        f.ethernet(f.ipv4(PAYLOAD)),
        f.ethernet(f.ipv4(PAYLOAD)[:6] + b"\x40\0" + f.ipv4(PAYLOAD)[8:]),  # do not fragment
        f.ethernet(f.ipv4(PAYLOAD)[:6] + b"\x80\0" + f.ipv4(PAYLOAD)[8:]),  # the reserved bit
        f.ethernet(f.ipv4(PAYLOAD, version=5, more=True)),
        f.ethernet(f.ipv4(PAYLOAD, words=4, more=True)),
        f.ethernet(f.ipv4(more=True)[:19]),
        f.ethernet(f.ipv6(PAYLOAD), f.IPV6),
        f.ethernet(f.ipv6(f.fragment(PAYLOAD, f.UDP), f.FRAGMENT), f.IPV6),  # RFC 6946
        f.ethernet(f.ipv6(bytes(7), f.FRAGMENT), f.IPV6),
        f.ethernet(f.ipv6(f.extension(f.ipv6(PAYLOAD), f.UDP), f.HOP_BY_HOP), f.IPV6),
        f.ethernet(f.ipv6(b"\x2b", f.HOP_BY_HOP), f.IPV6),
        f.ethernet(f.ipv6(f.fragment(PAYLOAD, f.UDP, 8), f.FRAGMENT, version=4), f.IPV6),
        f.ethernet(PAYLOAD, f.ARP),
        b"",
        bytes(12) + b"\x81\0",
    ],
)
def test_no_fragment(frame: bytes) -> None:
    assert find_fragment(frame) is None


def test_no_octets_make_it_fail() -> None:
    generator = random.Random(2)  # noqa: S311 - variety, not secrets
    seeds = [piece(0, 104), piece(104, 1009, six=True), piece(0, 8, tags=(0x88A8, 0x8100))]
    reassembler = Reassembler(datagrams_max=17, octets_max=10_007)
    found = 0
    for number in range(20_011):
        frame = bytearray(generator.choice(seeds))
        for _ in range(generator.randrange(4)):
            frame[generator.randrange(12, 50)] = generator.randrange(256)
        octets = bytes(frame[: generator.choice((len(frame), generator.randrange(len(frame))))])
        fragment = find_fragment(octets)
        if fragment is not None:
            found += 1
            reassembler.take(octets, fragment, len(octets), number)
    reassembler.finish()
    assert found > 5000


# ------------------------------------------------------------------------------------------------------------ whole
@pytest.mark.parametrize("six", [False, True])
@pytest.mark.parametrize("seed", range(23))
def test_in_any_order_with_copies(seed: int, *, six: bool) -> None:
    generator = random.Random(seed)  # noqa: S311 - variety, not secrets
    order = generator.sample(CUTS, 4)
    copied = [cut for number, cut in enumerate(order) for cut in order[: number + 1]][:-1]
    reassembler = Reassembler()
    for number, cut in enumerate(copied):
        assert take(reassembler, piece(*cut, six=six), number) == []
    made = take(reassembler, piece(*order[-1], six=six), 4711)
    assert frames_of(made) == [whole(six=six)]
    assert made[0].time_ns == 4711
    assert reassembler.finish() == []
    assert reassembler.counts == {"reassembled": 1}


def test_many_at_once_stay_apart() -> None:
    reassembler = Reassembler()
    kinds = [
        (identification, six, tags)
        for identification in (7, 8)
        for six in (False, True)
        for tags in ((), (0x8100,), (0x88A8, 0x8100), (0x9100, 0x8100))
    ]
    for cut in CUTS[:3]:
        for identification, six, tags in kinds:
            part = piece(*cut, identification=identification, six=six, tags=tags)
            assert take(reassembler, part) == []
    for identification, six, tags in kinds:
        (made,) = take(reassembler, piece(*CUTS[3], identification=identification, six=six, tags=tags))
        head = 14 + 4 * len(tags)
        assert made.frame[head:] == whole(six=six, identification=7 if six else identification)[14:]
        assert made.frame[:head] == piece(*CUTS[0], identification=identification, six=six, tags=tags)[:head]
    assert reassembler.counts == {"reassembled": len(kinds)}


def test_extension_headers_and_options() -> None:
    """What each fragment repeats stays, what is in the fragments is the payload (RFC 8200, section 4.5)."""
    before = bytes([f.FRAGMENT, 0]) + bytes(6)
    reassembler = Reassembler()
    cuts = ((0, 504), (504, 1009))
    parts = [f.fragment(PAYLOAD[b:e], f.DESTINATION, b, more=e < 1009) for b, e in cuts]
    looks = [take(reassembler, f.ethernet(f.ipv6(before + part, f.HOP_BY_HOP), f.IPV6)) for part in parts]
    after = bytes([f.DESTINATION, 0]) + bytes(6)
    assert frames_of(looks[1]) == [f.ethernet(f.ipv6(after + PAYLOAD, f.HOP_BY_HOP), f.IPV6)]
    options = b"\x94\x04\0\0"
    first = f.ipv4(PAYLOAD[:504], options=options, more=True)
    assert take(reassembler, f.ethernet(first)) == []
    assert frames_of(take(reassembler, piece(504, 1009))) == [f.ethernet(f.ipv4(PAYLOAD, options=options))]


def test_padding_of_ethernet_is_no_payload() -> None:
    reassembler = Reassembler()
    assert take(reassembler, piece(0, 1008) + bytes(7)) == []
    assert frames_of(take(reassembler, piece(1008, 1009) + bytes(25))) == [whole()]


def test_the_longest() -> None:
    reassembler = Reassembler()
    payload = bytes(65515)
    assert take(reassembler, piece(0, 65000, payload=payload)) == []
    assert frames_of(take(reassembler, piece(65000, 65515, payload=payload))) == [whole(payload=payload)]
    payload = bytes(65516)
    assert take(reassembler, piece(0, 65000, payload=payload)) == []
    assert take(reassembler, piece(65000, 65516, payload=payload)) == []
    assert reassembler.counts == {"reassembled": 1, "too_long": 1}


# --------------------------------------------------------------------------------------------------------- overlaps
def test_ipv4_overlaps_keep_what_came_first() -> None:
    other = bytes(octet ^ 0xFF for octet in PAYLOAD)
    generator = random.Random(3)  # noqa: S311 - variety, not secrets
    for _ in range(211):
        reassembler = Reassembler()
        expected: dict[int, int] = {}
        made: list[Look] = []
        # The end first, so that its length is known.
        cuts = [(1000, 1009)]
        while not made:
            begin = generator.randrange(0, 1000, 8)
            cuts.append((begin, min(1000, begin + generator.randrange(8, 400, 8))))
            for cut in cuts[-2:] if len(cuts) == 2 else cuts[-1:]:
                source = generator.choice((PAYLOAD, other))
                for at in range(*cut):
                    expected.setdefault(at, source[at])
                made = take(reassembler, piece(*cut, payload=source))
        octets = bytes(expected[at] for at in range(1009))
        assert frames_of(made) == [whole(payload=octets)]
        assert reassembler.finish() == []


@pytest.mark.parametrize("cut", [(0, 8), (96, 112), (104, 112), (496, 504), (0, 504), (96, 512)])
def test_ipv6_overlaps_discard_the_datagram(cut: Cut) -> None:
    """RFC 5722: also what comes of it later."""
    reassembler = Reassembler()
    assert take(reassembler, piece(0, 104, six=True)) == []
    assert take(reassembler, piece(104, 504, six=True)) == []
    assert take(reassembler, piece(*cut, six=True)) == []
    for again in CUTS:
        assert take(reassembler, piece(*again, six=True)) == []
    assert reassembler.finish() == []
    assert reassembler.counts == {"overlapping": 1}


def test_ipv6_a_copy_with_other_octets_is_an_overlap() -> None:
    reassembler = Reassembler()
    take(reassembler, piece(0, 104, six=True))
    take(reassembler, piece(0, 104, six=True, payload=bytes(1009)))
    assert reassembler.counts == {"overlapping": 1}


@pytest.mark.parametrize("six", [False, True])
def test_two_ends(*, six: bool) -> None:
    reassembler = Reassembler()
    assert take(reassembler, piece(504, 1009, six=six)) == []
    assert take(reassembler, piece(504, 808, six=six, more=False)) == []
    assert take(reassembler, piece(1008, 1016, six=six, payload=PAYLOAD + bytes(100))) == []
    made = take(reassembler, piece(0, 504, six=six))
    assert frames_of(made) == ([] if six else [whole()])
    assert take(reassembler, piece(504, 1009, identification=9, six=six)) == []
    assert take(reassembler, piece(8, 104, identification=9, six=six, more=False)) == []
    assert reassembler.counts == ({"overlapping": 2} if six else {"reassembled": 1})


# ------------------------------------------------------------------------------------------------ what is not whole
def test_first_fragments_come_back_when_time_is_over() -> None:
    reassembler = Reassembler(lifetime_ns=30 * SECOND)
    assert take(reassembler, piece(0, 104), 1) == []
    assert take(reassembler, piece(104, 504), 30 * SECOND) == []
    assert take(reassembler, piece(0, 104, identification=8), 30 * SECOND + 1) == []
    assert take(reassembler, piece(104, 504, identification=9), 30 * SECOND + 2) == [Look(1, piece(0, 104), 138)]
    assert take(reassembler, piece(504, 1009), 30 * SECOND + 3) == []
    assert reassembler.finish() == [Look(30 * SECOND + 1, piece(0, 104, identification=8), 138)]
    assert reassembler.counts == {"incomplete": 4}


def test_limits() -> None:
    reassembler = Reassembler(datagrams_max=3)
    looks = [take(reassembler, piece(0, 104, identification=number), number) for number in range(7)]
    assert looks == [[], [], [], *([Look(number, piece(0, 104, identification=number), 138)] for number in range(4))]
    assert reassembler.counts == {"evicted": 4}
    # A first fragment is held with its frame.
    reassembler = Reassembler(octets_max=104 + 138 + 400)
    assert take(reassembler, piece(104, 504, identification=1)) == []
    assert take(reassembler, piece(0, 104, identification=2)) == []
    assert take(reassembler, piece(504, 512, identification=3)) == []
    assert reassembler.counts == {"evicted": 1}
    assert frames_of(reassembler.finish()) == [piece(0, 104, identification=2)]
    # What is whole or discarded takes no room.
    reassembler = Reassembler(octets_max=2 * 1009 + 34)
    for number in range(1009):
        for cut in CUTS:
            take(reassembler, piece(*cut, identification=number))
            take(reassembler, piece(0, 504, six=True, identification=number))
            take(reassembler, piece(0, 104, six=True, identification=number))
    assert reassembler.counts == {"reassembled": 1009, "overlapping": 1009}


@pytest.mark.parametrize("six", [False, True])
def test_what_a_receiver_discards(*, six: bool) -> None:
    reassembler = Reassembler()
    assert take(reassembler, piece(0, 103, six=six)) == []
    assert take(reassembler, piece(104, 104, six=six)) == []
    assert reassembler.finish() == []
    assert reassembler.counts == {"malformed": 2}


@pytest.mark.parametrize("six", [False, True])
def test_what_the_snapshot_length_cut(*, six: bool) -> None:
    reassembler = Reassembler()
    first, second = piece(0, 504, six=six), piece(504, 1009, six=six)
    for frame in (first[:-1], second[:-1]):
        fragment = find_fragment(frame)
        assert fragment is not None
        looks = reassembler.take(frame, fragment, len(frame) + 1, 5)
        assert looks == ([Look(5, frame, len(first))] if frame == first[:-1] else [])
    assert reassembler.counts == {"cut": 2}

"""IP datagrams put together from their fragments: RFC 791, section 3.2, and RFC 8200, section 4.5, with RFC 5722.

The frames are Ethernet, with any number of VLAN tags; tags are part of what tells datagrams apart. What two fragments
of an IPv4 datagram both have is taken from the one that came first. An IPv6 datagram whose fragments overlap is
discarded with all that comes of it later; copies of a fragment are none.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from struct import Struct
from typing import NamedTuple

LIFETIME_NS = 60_000_000_000
"""RFC 8200, section 4.5, and the lower bound of RFC 1122, section 3.3.2, by the clock of the capture."""
DATAGRAMS_MAX = 4096
OCTETS_MAX = 16 << 20
"""Of all frames that a Reassembler holds, with what the copies of them take."""

_DATAGRAM_MAX = 65535
_IPV4_TYPE, _IPV6_TYPE = b"\x08\x00", b"\x86\xdd"
_TAG_TYPES = (b"\x81\x00", b"\x88\xa8", b"\x91\x00", b"\x92\x00")
_MORE_FRAGMENTS = 0x2000
_OFFSET_MASK = 0x1FFF
_IPV4_HEADER_MIN, _IPV6_HEADER, _FRAGMENT_HEADER = 20, 40, 8
_FRAGMENT = 44
_BEFORE_FRAGMENT = (0, 43, 60)
"""Hop-by-hop options, routing, destination options: what each router looks into, and so each fragment has."""

_short = Struct(">H").unpack_from


class Fragment(NamedTuple):
    """Where a fragment lies in its frame, and in its datagram.

    Attributes:
        key: the same for all fragments of a datagram.
        six: IPv6.
        network: offset of the IP header in the frame.
        headers: offset behind the headers that each fragment repeats.
        payload, end: offsets in the frame of what it brings; the frame may end before that.
        next_at: offset of the octet that names the fragment header, IPv6 only.
        protocol: of what follows the fragment header, IPv6 only.
        begin: octets of the datagram's payload before this one.
        last: no fragment follows it.
    """

    key: bytes
    six: bool
    network: int
    headers: int
    payload: int
    end: int
    next_at: int
    protocol: int
    begin: int
    last: bool


class Look(NamedTuple):
    """A frame whose content can be looked into now: a whole datagram, or a first fragment that stays alone.

    Attributes:
        time_ns: when it was complete.
        frame: with the link layer of the first fragment. The checksum of an IPv4 header is the fragment's.
        length: of the frame on the wire; the frame may be cut.
    """

    time_ns: int
    frame: bytes
    length: int


def find_fragment(frame: bytes) -> Fragment | None:
    """Gives where the fragment of an IP datagram is in an Ethernet frame, None if there is none that can be read."""
    kind = frame[12:14]
    at = 14
    while kind in _TAG_TYPES:
        kind = frame[at + 2 : at + 4]
        at += 4
    if kind == _IPV4_TYPE:
        # The common case first: no fragment.
        return _find4(frame, at) if frame[at + 6 : at + 8] not in (b"\0\0", b"@\0") else None
    if kind == _IPV6_TYPE and len(frame) > at + _IPV6_HEADER and frame[at + 6] in (_FRAGMENT, *_BEFORE_FRAGMENT):
        return _find6(frame, at)
    return None


def _find4(frame: bytes, at: int) -> Fragment | None:
    if len(frame) < at + _IPV4_HEADER_MIN or frame[at] >> 4 != 4:
        return None
    header = (frame[at] & 15) * 4
    (placed,) = _short(frame, at + 6)
    if header < _IPV4_HEADER_MIN or not placed & (_MORE_FRAGMENTS | _OFFSET_MASK):
        return None
    return Fragment(
        key=b"%b%b%b%b" % (frame[12:at], frame[at + 12 : at + 20], frame[at + 4 : at + 6], frame[at + 9 : at + 10]),
        six=False,
        network=at,
        headers=at + header,
        payload=at + header,
        end=at + _short(frame, at + 2)[0],
        next_at=0,
        protocol=0,
        begin=(placed & _OFFSET_MASK) * 8,
        last=not placed & _MORE_FRAGMENTS,
    )


def _find6(frame: bytes, network: int) -> Fragment | None:
    next_at, at = network + 6, network + _IPV6_HEADER
    while frame[next_at] in _BEFORE_FRAGMENT:
        if len(frame) < at + 2:
            return None
        next_at, at = at, at + (frame[at + 1] + 1) * 8
    if frame[next_at] != _FRAGMENT or frame[network] >> 4 != 6 or len(frame) < at + _FRAGMENT_HEADER:
        return None
    (placed,) = _short(frame, at + 2)
    if not placed & 0xFFF9:
        return None  # whole in one fragment (RFC 6946): nothing is to be put together
    return Fragment(
        key=b"%b%b%b" % (frame[12:network], frame[network + 8 : network + 40], frame[at + 4 : at + 8]),
        six=True,
        network=network,
        headers=at,
        payload=at + _FRAGMENT_HEADER,
        end=network + _IPV6_HEADER + _short(frame, network + 4)[0],
        next_at=next_at,
        protocol=frame[at],
        begin=placed & 0xFFF8,
        last=not placed & 1,
    )


class _Datagram:
    """What is there of one datagram: parts that do not overlap, in order."""

    __slots__ = ("begins", "begun_ns", "dead", "first", "held", "parts", "received", "size")

    def __init__(self, begun_ns: int) -> None:
        self.begun_ns = begun_ns
        self.begins: list[int] = []
        self.parts: list[bytes] = []
        self.received = 0
        self.held = 0
        self.size: int | None = None
        self.first: tuple[Fragment, Look] | None = None
        self.dead = False

    def overlaps(self, begin: int, end: int, last: bool) -> bool:
        """Whether octets are there already, or behind the last one."""
        if self.size is not None and (end > self.size or (last and end != self.size)):
            return True
        after = bisect_right(self.begins, begin)
        if after and self.begins[after - 1] + len(self.parts[after - 1]) > begin:
            return True
        if after < len(self.begins) and self.begins[after] < end:
            return True
        return last and bool(self.begins) and self.begins[-1] >= end

    def has(self, begin: int, data: bytes, last: bool) -> bool:
        """Whether this very fragment is there already."""
        at = bisect_right(self.begins, begin) - 1
        same = at >= 0 and self.begins[at] == begin and self.parts[at] == data
        return same and last == (self.size == begin + len(data))

    def add(self, begin: int, data: bytes, last: bool) -> None:
        """Takes what is not there already; nothing behind the last octet, and no second last one."""
        end = begin + len(data)
        if self.size is not None:
            end = min(end, self.size)
        elif last:
            if self.begins and self.begins[-1] + len(self.parts[-1]) > end:
                return
            self.size = end
        at = max(bisect_right(self.begins, begin) - 1, 0)
        position = begin
        while position < end:
            if at < len(self.begins) and self.begins[at] <= position:
                position = max(position, self.begins[at] + len(self.parts[at]))
                at += 1
                continue
            until = min(end, self.begins[at]) if at < len(self.begins) else end
            self.begins.insert(at, position)
            self.parts.insert(at, data[position - begin : until - begin])
            self.received += until - position
            position = until

    def whole(self) -> tuple[Fragment, Look, bytes] | None:
        """The first fragment, its frame, and the datagram's payload; None while octets are missing."""
        if self.received != self.size or self.first is None:
            return None
        return *self.first, b"".join(self.parts)


class Reassembler:
    """Fragments of many datagrams at once, in the order of a capture.

    Attributes:
        counts: what became of them. Datagrams: ``reassembled``, ``incomplete`` (not whole in time, or to the end),
            ``evicted`` (no room), ``overlapping`` (IPv6: discarded), ``too_long``. Fragments: ``malformed``, ``cut``
            (by the snapshot length).
    """

    def __init__(
        self, *, lifetime_ns: int = LIFETIME_NS, datagrams_max: int = DATAGRAMS_MAX, octets_max: int = OCTETS_MAX
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._lifetime_ns = lifetime_ns
        self._datagrams_max = datagrams_max
        self._octets_max = octets_max
        self._datagrams: dict[bytes, _Datagram] = {}
        self._octets = 0

    def take(self, frame: bytes, fragment: Fragment, length: int, time_ns: int) -> list[Look]:
        """Takes a fragment; gives what can be looked into now.

        That is the datagram it completed, and first fragments of those whose rest did not come: a capture that was
        filtered by ports has no other. A first fragment that is cut comes back at once.

        Args:
            frame: the Ethernet frame that the fragment was found in.
            fragment: as ``find_fragment`` gave it.
            length: octets of the frame on the wire.
            time_ns: the capture's.
        """
        looks = self._expire(time_ns)
        data = frame[fragment.payload : fragment.end]
        size = fragment.end - fragment.payload
        if size <= 0 or (size % 8 and not fragment.last):
            self.counts["malformed"] += 1
            return looks
        if len(data) < size:
            self.counts["cut"] += 1
            if not fragment.begin:
                looks.append(Look(time_ns, frame, length))
            return looks
        datagram = self._datagrams.get(fragment.key)
        if datagram is None:
            datagram = self._datagrams[fragment.key] = _Datagram(time_ns)
        if not datagram.dead:
            self._add(datagram, fragment, data, Look(time_ns, frame, length))
            if whole := datagram.whole():
                self._forget(fragment.key)
                looks += self._join(*whole, time_ns)
        while len(self._datagrams) > self._datagrams_max or self._octets > self._octets_max:
            looks += self._give_up("evicted")
        return looks

    def finish(self) -> list[Look]:
        """Gives the first fragments of all datagrams that are not whole."""
        looks = []
        while self._datagrams:
            looks += self._give_up("incomplete")
        return looks

    def _add(self, datagram: _Datagram, fragment: Fragment, data: bytes, alone: Look) -> None:
        begin, last = fragment.begin, fragment.last
        if fragment.six and datagram.overlaps(begin, begin + len(data), last):
            if not datagram.has(begin, data, last):
                self.counts["overlapping"] += 1
                self._octets -= datagram.held
                dead = _Datagram(datagram.begun_ns)
                dead.dead = True
                self._datagrams[fragment.key] = dead
            return
        before = datagram.received
        datagram.add(begin, data, last)
        held = datagram.received - before
        if not begin and datagram.first is None:
            datagram.first = fragment, alone
            held += len(alone.frame)
        datagram.held += held
        self._octets += held

    def _join(self, fragment: Fragment, alone: Look, payload: bytes, time_ns: int) -> list[Look]:
        """Makes the frame of a datagram that came whole."""
        head = bytearray(alone.frame[: fragment.headers])
        octets = len(head) - fragment.network + len(payload)
        if fragment.six:
            octets -= _IPV6_HEADER
            length_at = fragment.network + 4
            head[fragment.next_at] = fragment.protocol
        else:
            length_at = fragment.network + 2
            head[fragment.network + 6 : fragment.network + 8] = bytes(2)
        if octets > _DATAGRAM_MAX:
            self.counts["too_long"] += 1
            return []
        head[length_at : length_at + 2] = octets.to_bytes(2, "big")
        self.counts["reassembled"] += 1
        return [Look(time_ns, bytes(head) + payload, len(head) + len(payload))]

    def _expire(self, time_ns: int) -> list[Look]:
        looks = []
        while self._datagrams:
            oldest = next(iter(self._datagrams.values()))
            if oldest.begun_ns + self._lifetime_ns >= time_ns:
                break
            looks += self._give_up("incomplete")
        return looks

    def _give_up(self, why: str) -> list[Look]:
        """Lets go of the oldest datagram."""
        datagram = self._forget(next(iter(self._datagrams)))
        if datagram.dead:
            return []
        self.counts[why] += 1
        return [datagram.first[1]] if datagram.first is not None else []

    def _forget(self, key: bytes) -> _Datagram:
        datagram = self._datagrams.pop(key)
        self._octets -= datagram.held
        return datagram

"""The reader of a ring buffer against a ring made of a file, as kernel/bpf/ringbuf.c writes one."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import pytest
from hypothesis import given, settings, strategies as st

from otel_netmon.readers.ring import BUSY, DISCARDED, RingReader

SIZE = mmap.PAGESIZE


class Record(NamedTuple):
    """Where a record lies, and what is in it."""

    position: int
    content: bytes


class FileRing:
    """A ring in a file: the kernel maps the same data twice, here everything is written twice."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, 2 * mmap.PAGESIZE + 2 * SIZE)
        self._map = mmap.mmap(self.fd, 0)
        self.position = 0

    def close(self) -> None:
        self._map.close()
        os.close(self.fd)

    @property
    def consumed(self) -> int:
        return int(struct.unpack_from("=Q", self._map, 0)[0])

    def reserve(self, content: bytes) -> Record | None:
        """Begin a record; None where the ring is full."""
        octets = 8 + -(-len(content) // 8) * 8
        if self.position + octets - self.consumed > SIZE - 1:
            return None
        record = Record(self.position, content)
        self._write(record.position, struct.pack("=II", len(content) | BUSY, 2))
        self._write(record.position + 8, content)
        self.position += octets
        struct.pack_into("=Q", self._map, mmap.PAGESIZE, self.position)
        return record

    def submit(self, record: Record, flags: int = 0) -> None:
        self._write(record.position, struct.pack("=I", len(record.content) | flags))

    def produce(self, content: bytes) -> None:
        record = self.reserve(content)
        assert record is not None
        self.submit(record)

    def _write(self, position: int, octets: bytes) -> None:
        for number, octet in enumerate(octets):
            at = 2 * mmap.PAGESIZE + (position + number) % SIZE
            self._map[at] = self._map[at + SIZE] = octet


@pytest.fixture
def ring() -> Iterator[FileRing]:
    made = FileRing()
    yield made
    made.close()


def drained(reader: RingReader) -> list[bytes]:
    """What one drain gives."""
    found = reader.drain()
    return [found.data[offset : offset + length] for offset, length in zip(found.offsets, found.lengths, strict=True)]


def test_an_empty_ring_gives_nothing(ring: FileRing) -> None:
    with RingReader(ring.fd, SIZE) as reader:
        assert drained(reader) == []
        assert reader.waiting == 0


def test_records_come_in_order_and_once(ring: FileRing) -> None:
    contents = [bytes([number]) * number for number in (1, 7, 8, 9, 23, 0, 96)]
    with RingReader(ring.fd, SIZE) as reader:
        for content in contents:
            ring.produce(content)
        assert reader.waiting == ring.position
        assert drained(reader) == contents
        assert drained(reader) == []
        assert reader.waiting == 0
        assert ring.consumed == ring.position


def test_offsets_are_multiples_of_eight(ring: FileRing) -> None:
    with RingReader(ring.fd, SIZE) as reader:
        for number in range(1, 24):
            ring.produce(bytes(number))
        found = reader.drain()
        assert len(found.offsets) == 23
        assert not (found.offsets % 8).any()
        assert found.lengths.tolist() == list(range(1, 24))


def test_a_record_that_is_being_written_ends_the_drain_and_comes_next(ring: FileRing) -> None:
    with RingReader(ring.fd, SIZE) as reader:
        ring.produce(b"before")
        busy = ring.reserve(b"while")
        assert busy is not None
        ring.produce(b"after")
        assert drained(reader) == [b"before"]
        assert drained(reader) == []
        ring.submit(busy)
        assert drained(reader) == [b"while", b"after"]


def test_a_discarded_record_is_passed_over(ring: FileRing) -> None:
    with RingReader(ring.fd, SIZE) as reader:
        discarded = ring.reserve(b"never" * 20)
        assert discarded is not None
        ring.produce(b"behind")
        assert drained(reader) == []
        ring.submit(discarded, DISCARDED)
        assert drained(reader) == [b"behind"]
        assert ring.consumed == ring.position


def test_a_record_over_the_end_is_whole(ring: FileRing) -> None:
    content = bytes(range(251)) * 5  # 1255 octets: the fourth lies over the end
    with RingReader(ring.fd, SIZE) as reader:
        for number in range(23):
            ring.produce(content + bytes([number]))
            assert drained(reader) == [content + bytes([number])]
    assert ring.position > 7 * SIZE


def test_the_next_reader_goes_on_where_the_last_one_ended(ring: FileRing) -> None:
    with RingReader(ring.fd, SIZE) as reader:
        ring.produce(b"first")
        assert drained(reader) == [b"first"]
        ring.produce(b"second")
    with RingReader(ring.fd, SIZE) as reader:
        assert drained(reader) == [b"second"]


def test_what_was_drained_stays_when_the_ring_goes_on(ring: FileRing) -> None:
    with RingReader(ring.fd, SIZE) as reader:
        ring.produce(b"a" * 2000)
        first = reader.drain()
        ring.produce(b"b" * 2000)
        ring.produce(b"c" * 2000)
        assert first.data[8:2008] == b"a" * 2000


def test_a_full_ring_is_read_to_its_last_octet(ring: FileRing) -> None:
    with RingReader(ring.fd, SIZE) as reader:
        ring.produce(bytes(1000))
        assert drained(reader) == [bytes(1000)]
        made = 0
        while ring.reserve(b"") is not None:
            made += 1
        assert made == SIZE // 8 - 1
        assert drained(reader) == []
        for number in range(made):
            ring.submit(Record(1008 + 8 * number, b""))
        assert drained(reader) == [b""] * made


@dataclass
class Entry:
    """A record of the ring as the test knows it: busy, done or discarded."""

    record: Record
    state: str


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("produce"), st.integers(0, 700)),
        st.tuples(st.just("reserve"), st.integers(0, 700)),
        st.tuples(st.sampled_from(["submit", "discard"]), st.integers(0, 5)),
        st.tuples(st.just("drain"), st.just(0)),
        st.tuples(st.just("reopen"), st.just(0)),
    ),
    max_size=120,
)


@settings(max_examples=300, deadline=None)
@given(steps=STEPS)
def test_nothing_is_lost_and_nothing_comes_twice(steps: list[tuple[str, int]]) -> None:
    ring = FileRing()
    reader = RingReader(ring.fd, SIZE)
    model: list[Entry] = []  # what the ring holds, in order
    number = 0
    for step, argument in steps:
        if step in ("produce", "reserve"):
            number += 1
            record = ring.reserve(struct.pack("=I", number) + bytes([number % 251]) * argument)
            if record is not None:
                model.append(Entry(record, "busy"))
                if step == "produce":
                    ring.submit(record)
                    model[-1].state = "done"
        elif step in ("submit", "discard"):
            busy = [entry for entry in model if entry.state == "busy"]
            if busy:
                entry = busy[argument % len(busy)]
                ring.submit(entry.record, DISCARDED if step == "discard" else 0)
                entry.state = "done" if step == "submit" else "discarded"
        elif step == "drain":
            expected = []
            while model and model[0].state != "busy":
                entry = model.pop(0)
                if entry.state == "done":
                    expected.append(entry.record.content)
            assert drained(reader) == expected
        else:
            reader.close()
            reader = RingReader(ring.fd, SIZE)
    reader.close()
    ring.close()

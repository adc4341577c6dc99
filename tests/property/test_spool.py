"""The spool against a model of it, through crashes and damage at any byte: never a wrong request, losses counted to the last item."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from otel_netmon.export import spool_segment
from otel_netmon.export.requests import Request, Signal
from otel_netmon.export.spool import Spool
from otel_netmon.export.spool_format import RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES
from otel_netmon.export.spool_lane import Entry

MEMORY = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
SEGMENT_BYTES = 1024
MAX_BYTES = 8 * SEGMENT_BYTES


def open_spool(directory: Path) -> Spool:
    return Spool(directory, MAX_BYTES, segment_bytes=SEGMENT_BYTES, clock=lambda: 0.0)


def abandon(spool: Spool) -> None:
    """What the end of its process does: descriptors are closed, nothing is written."""
    for lane in spool._lanes.values():
        lane.close()
    spool._cursor.close()
    os.close(spool._lock)


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("**/*.segment"))


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory, if there is such a thing: a disk would only make it slow."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        yield Path(directory)


class SpoolMachine(RuleBasedStateMachine):
    """What was appended is the model: a list for each signal, in which a sequence number is an index."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = contextlib.ExitStack()
        self._root = self._stack.enter_context(scratch())
        nonces = (
            number * 2654435761 % 2**32 for number in itertools.count(1)
        )  # random ones would make the order of files a matter of chance
        self._stack.enter_context(mock.patch.object(spool_segment, "_nonce", side_effect=nonces))
        self._copies = 0
        self._directory = self._root / "0"
        self.history: dict[Signal, list[Request]] = {signal: [] for signal in Signal}
        self.damaged = False
        self.spool = open_spool(self._directory)
        self._synced: Path | None = None

    def teardown(self) -> None:
        self._drain()
        self._stack.close()

    # ---- requests

    @rule(signal=st.sampled_from(Signal), body=st.binary(max_size=700), items=st.integers(0, 1000))
    def append(self, signal: Signal, body: bytes, items: int) -> None:
        evicted = {each: self.spool.counts(each).evicted.items for each in Signal}
        request = Request(signal, body, items)
        if self.spool.append(request):
            self.history[signal].append(request)
        rank = [Signal.LOGS, Signal.TRACES, Signal.METRICS]
        for each in rank[rank.index(signal) + 1 :]:
            assert self.spool.counts(each).evicted.items == evicted[each], "a request displaced what stands behind it"

    @rule(signal=st.sampled_from(Signal))
    def read(self, signal: Signal) -> None:
        self._peek(signal)

    @rule(signal=st.sampled_from(Signal))
    def send(self, signal: Signal) -> None:
        entry = self._peek(signal)
        if entry is not None:
            self.spool.acknowledge(entry)

    def _peek(self, signal: Signal) -> Entry | None:
        before = self.spool.read_sequence(signal)
        entry = self.spool.peek(signal)
        if entry is not None:
            sequence = entry.found.header.sequence
            assert entry.request == self.history[signal][sequence]
            assert sequence == self.spool.read_sequence(signal)
            assert sequence == before or self.damaged
        else:
            assert self.spool.pending(signal).records == 0
            assert self.spool.read_sequence(signal) == before or self.damaged
        return entry

    def _drain(self) -> None:
        for signal in Signal:
            while (entry := self._peek(signal)) is not None:
                self.spool.acknowledge(entry)
        self.agrees()
        self.spool.close()
        assert segments(self._directory) == []

    # ---- ends of the process

    @rule()
    def stop_and_start(self) -> None:
        self.spool.close()
        self._reopen()

    @rule()
    def kill(self) -> None:
        abandon(self.spool)
        self._reopen()

    @rule(cut=st.integers(1, 3 * SEGMENT_BYTES), signal=st.sampled_from(Signal))
    def kill_within_a_write(self, cut: int, signal: Signal) -> None:
        """The newest segment ends anywhere."""
        abandon(self.spool)
        files = segments(self._directory / signal.word)
        if files:
            newest = files[-1]
            os.truncate(newest, max(0, newest.stat().st_size - cut))
            self.damaged = True
        self._reopen()

    @rule()
    def sync(self) -> None:
        self.spool._last_sync = -10.0
        self.spool.maintain(0.0)
        assert self.spool.maintain(0.0) is None, "nothing is left to sync"
        self._synced = self._copy()

    @precondition(lambda self: self._synced is not None)
    @rule(data=st.data())
    def lose_power(self, data: st.DataObject) -> None:
        """Each file is as it is or as it was at the last sync; the cursor is forced to the disk before anything is deleted."""
        assert self._synced is not None
        abandon(self.spool)
        was = {path.relative_to(self._synced) for path in segments(self._synced)}
        now = {path.relative_to(self._directory) for path in segments(self._directory)}
        names = sorted(was | now)
        if not was - now:
            names.append(Path("cursor"))
        for name in names:
            if data.draw(st.booleans(), label=f"{name} is old"):
                if (self._synced / name).exists():
                    shutil.copy2(self._synced / name, self._directory / name)
                    self.damaged = True
                else:
                    (self._directory / name).unlink()
                    self.damaged = True
        self._reopen(may_go_back=True)

    # ---- damage

    @precondition(lambda self: bool(segments(self._directory)))
    @rule(data=st.data(), mask=st.integers(1, 255), reopen=st.booleans())
    def flip(self, data: st.DataObject, mask: int, reopen: bool) -> None:
        path = data.draw(st.sampled_from(segments(self._directory)), label="segment")
        size = path.stat().st_size
        if not size:
            return
        offset = data.draw(st.integers(0, size - 1), label="offset")
        if reopen:
            abandon(self.spool)
        with path.open("r+b") as file:
            file.seek(offset)
            (byte,) = file.read(1)
            file.seek(offset)
            file.write(bytes((byte ^ mask,)))
        self.damaged = True
        if reopen:
            self._reopen()

    @precondition(lambda self: bool(segments(self._directory)))
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        """By somebody else, between two runs."""
        abandon(self.spool)
        data.draw(st.sampled_from(segments(self._directory)), label="segment").unlink()
        self.damaged = True
        self._reopen()

    # ---- the model

    def _copy(self) -> Path:
        self._copies += 1
        return Path(shutil.copytree(self._directory, self._root / str(self._copies)))

    def _reopen(self, *, may_go_back: bool = False) -> None:
        read = {signal: self.spool.read_sequence(signal) for signal in Signal}
        self.spool = open_spool(self._directory)
        for signal, history in self.history.items():
            written = self.spool.next_sequence(signal)
            assert written == len(history) or (may_go_back and written < len(history))
            del history[written:]
            now = self.spool.read_sequence(signal)
            assert now == read[signal] or (may_go_back and now < read[signal])

    @invariant()
    def agrees(self) -> None:
        for signal, history in self.history.items():
            counts, pending = self.spool.counts(signal), self.spool.pending(signal)
            read = self.spool.read_sequence(signal)
            assert self.spool.next_sequence(signal) == len(history)
            assert pending.records == len(history) - read
            assert pending.items == sum(request.items for request in history[read:])
            gone = (counts.acknowledged, counts.evicted, counts.damaged, pending)
            assert counts.found.records + counts.appended.records == sum(tally.records for tally in gone)
            assert counts.found.items + counts.appended.items == sum(tally.items for tally in gone)
            assert self.damaged or not counts.damaged.records
        assert self.spool.size == sum(path.stat().st_size for path in segments(self._directory)) or self.damaged
        assert self.spool.size <= MAX_BYTES


TestSpoolMachine = SpoolMachine.TestCase
TestSpoolMachine.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


# ------------------------------------------------------------------------------------------------------- every byte
NOISE = random.Random(9)  # noqa: S311 - what gzip cannot make smaller
BODIES = [bytes([65 + number]) * (20 + 7 * number) + NOISE.randbytes(number * 9) for number in range(9)]
ITEMS = [1, 10, 100, 1000, 5, 50, 500, 7, 70]


@pytest.fixture(scope="module")
def whole() -> Iterator[Path]:
    """A spool of three segments that was killed, of which one request was sent."""
    with scratch() as directory:
        spool = Spool(directory / "spool", 1 << 20, segment_bytes=500, clock=lambda: 0.0)
        for body, items in zip(BODIES, ITEMS, strict=True):
            assert spool.append(Request(Signal.METRICS, body, items))
        entry = spool.peek(Signal.METRICS)
        assert entry is not None
        spool.acknowledge(entry)
        abandon(spool)
        assert len(segments(directory / "spool")) == 3
        yield directory / "spool"


def survivors(directory: Path, first: int) -> list[int]:
    """Which requests come out; everything else must be counted as damaged, to the item."""
    spool = Spool(directory, 1 << 20, segment_bytes=500, clock=lambda: 0.0)
    came: list[int] = []
    while (entry := spool.peek(Signal.METRICS)) is not None:
        number = entry.found.header.sequence
        assert (entry.request.body, entry.request.items) == (BODIES[number], ITEMS[number])
        spool.acknowledge(entry)
        came.append(number)
    counts = spool.counts(Signal.METRICS)
    lost = [number for number in range(first, len(BODIES)) if number not in came]
    assert came == sorted(set(came))
    assert (counts.damaged.records, counts.damaged.items) == (len(lost), sum(ITEMS[number] for number in lost))
    # And it goes on.
    assert spool.append(Request(Signal.METRICS, b"more", 3))
    entry = spool.peek(Signal.METRICS)
    assert entry is not None
    assert entry.request.body == b"more"
    spool.acknowledge(entry)
    spool.close()
    return came


def records(segment: Path) -> list[tuple[int, int]]:
    """Begin and end of each record of a whole segment."""
    data, at, found = segment.read_bytes(), SEGMENT_HEADER_BYTES, []
    while at < len(data):
        end = at + RECORD_HEADER_BYTES + int.from_bytes(data[at + 4 : at + 8], "little")
        found.append((at, end))
        at = end
    return found


def damaged_copies(whole: Path, path: Path, changed: Iterator[bytes]) -> Iterator[Path]:
    """A fresh copy of the spool for each content of one of its files."""
    for content in changed:
        with scratch() as directory:
            shutil.copytree(whole, directory / "spool")
            (directory / "spool" / path.relative_to(whole)).write_bytes(content)
            yield directory / "spool"


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_segment_cut_at_every_byte_loses_what_is_behind_the_cut(whole: Path, index: int) -> None:
    files = segments(whole)
    path, begins = files[index], [records(file) for file in files]
    data = path.read_bytes()
    before = sum(len(each) for each in begins[:index])
    numbered = list(enumerate(begins[index], start=before))
    copies = damaged_copies(whole, path, (data[:size] for size in range(len(data))))
    for size, directory in enumerate(copies):
        lost = {number for number, (_, end) in numbered if end > size}
        assert survivors(directory, 1) == [number for number in range(1, len(BODIES)) if number not in lost]


@pytest.mark.parametrize("mask", [0xFF, 0x01, 0x80])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_any_changed_byte_of_a_segment_costs_one_request_at_most(whole: Path, index: int, mask: int) -> None:
    files = segments(whole)
    path, begins = files[index], [records(file) for file in files]
    data = path.read_bytes()
    before = sum(len(each) for each in begins[:index])
    numbered = list(enumerate(begins[index], start=before))
    flipped = (data[:at] + bytes((data[at] ^ mask,)) + data[at + 1 :] for at in range(len(data)))
    for at, directory in enumerate(damaged_copies(whole, path, flipped)):
        lost = {number for number, (begin, end) in numbered if begin <= at < end}
        assert survivors(directory, 1) == [number for number in range(1, len(BODIES)) if number not in lost]


@pytest.mark.parametrize("removed", [1, 5, 48, 200])
def test_bytes_that_are_missing_in_the_middle_cost_the_requests_they_were_in(whole: Path, removed: int) -> None:
    path = segments(whole)[1]
    data = path.read_bytes()
    before = len(records(segments(whole)[0]))
    numbered = list(enumerate(records(path), start=before))
    cut = (data[:at] + data[at + removed :] for at in range(SEGMENT_HEADER_BYTES, len(data) - removed))
    for at, directory in enumerate(damaged_copies(whole, path, cut), start=SEGMENT_HEADER_BYTES):
        lost = {number for number, (begin, end) in numbered if begin < at + removed and at < end}
        came = survivors(directory, 1)
        assert [number for number in range(1, len(BODIES)) if number not in lost] == came


@pytest.mark.parametrize("mask", [0xFF, 0x01])
def test_any_changed_byte_of_the_cursor_costs_no_request(whole: Path, mask: int) -> None:
    """The slot that is left is one step behind: what was acknowledged last comes again."""
    data = (whole / "cursor").read_bytes()
    offsets = [at for at in range(len(data)) if at % 4096 < 160]
    flipped = (data[:at] + bytes((data[at] ^ mask,)) + data[at + 1 :] for at in offsets)
    for directory in damaged_copies(whole, whole / "cursor", flipped):
        spool = Spool(directory, 1 << 20, segment_bytes=500)
        first = spool.read_sequence(Signal.METRICS)
        spool.close()
        assert first in {0, 1}
        assert survivors(directory, first) == list(range(first, len(BODIES)))


def test_without_a_cursor_everything_comes_again_from_the_first_segment(whole: Path) -> None:
    data = (whole / "cursor").read_bytes()
    for content in (b"", b"\0" * len(data), NOISE.randbytes(len(data)), data[:10]):
        for directory in damaged_copies(whole, whole / "cursor", iter([content])):
            assert survivors(directory, 0) == list(range(len(BODIES)))

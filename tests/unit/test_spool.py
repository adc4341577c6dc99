"""The spool of one receiver: what it keeps, what it costs the disk, and what it says when the disk or somebody else is in the way."""

from __future__ import annotations

import errno
import os
import random
import stat
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from otel_netmon.errors import SpoolError
from otel_netmon.export import spool_cursor
from otel_netmon.export.requests import Request, Signal
from otel_netmon.export.spool import SYNC_SECONDS, Spool, Sync
from otel_netmon.export.spool_cursor import Cursor
from otel_netmon.export.spool_format import MARKER, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader
from otel_netmon.export.spool_segment import WINDOW_BYTES, Segment
from support.delivery import Clock

METRICS, TRACES, LOGS = Signal
NOISE = random.Random(5)  # noqa: S311 - what gzip cannot make smaller
MIB = 1 << 20


def metrics(number: int, size: int = 100) -> Request:
    return Request(METRICS, f"{number}:".encode() + NOISE.randbytes(size), number)


def number_of(request: Request) -> int:
    return int(request.body.partition(b":")[0])


def drain(spool: Spool, signal: Signal = METRICS) -> list[int]:
    came = []
    while (entry := spool.peek(signal)) is not None:
        came.append(number_of(entry.request))
        spool.acknowledge(entry)
    return came


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*/*.segment"))


def failing(number: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    opened = Spool(tmp_path / "spool", 4 * MIB, "never", segment_bytes=64 << 10)
    yield opened
    opened.close()


# --------------------------------------------------------------------------------------------------------- the folder
def test_only_the_agent_reads_what_it_keeps(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    spool = Spool(directory, MIB)
    for signal in Signal:
        assert spool.append(Request(signal, b"x", 1))
    modes = {
        str(path.relative_to(tmp_path)).partition("-")[0]: stat.S_IMODE(path.stat().st_mode)
        for path in directory.rglob("*")
    }
    zero = "0" * 16
    assert modes == {
        "a/b/lock": 0o600,
        "a/b/cursor": 0o600,
        **{f"a/b/{signal.word}": 0o700 for signal in Signal},
        **{f"a/b/{signal.word}/{zero}": 0o600 for signal in Signal},
    }
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    spool.close()


def test_a_folder_that_others_may_read_is_closed_to_them(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    Spool(tmp_path, MIB).close()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_two_agents_cannot_share_a_folder(tmp_path: Path) -> None:
    first = Spool(tmp_path, MIB)
    with pytest.raises(SpoolError, match=f"is in use by process {os.getpid()}") as caught:
        Spool(tmp_path, MIB)
    assert "folder of its own" in caught.value.remedy
    assert caught.value.exit_code == 78
    first.close()
    Spool(tmp_path, MIB).close()


def test_an_agent_that_is_about_to_end_is_waited_for(tmp_path: Path) -> None:
    first = Spool(tmp_path, MIB)
    assert first.append(metrics(1))
    threading.Timer(0.2, first.close).start()
    second = Spool(tmp_path, MIB, wait_seconds=20.0)
    assert drain(second) == [1]
    second.close()


def test_a_folder_that_cannot_be_made_is_told_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SpoolError, match=r"cannot use the spool .*Not a directory") as caught:
        Spool(tmp_path / "file" / "spool", MIB)
    assert caught.value.remedy


def test_a_folder_that_is_not_writable_is_told_with_a_remedy(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "theirs").mkdir(mode=0o500)
    program = (
        "import os, pathlib, sys\n"
        "from otel_netmon.export.spool import Spool\n"
        "from otel_netmon.errors import NetmonError\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "try: Spool(pathlib.Path(sys.argv[1]), 1 << 20)\n"
        "except NetmonError as error: print(error); sys.exit(error.exit_code)\n"
    )
    for path in (tmp_path.parent, *tmp_path.parents):
        if path.stat().st_uid == os.geteuid() and path.is_relative_to("/tmp"):
            path.chmod(path.stat().st_mode | 0o011)
    environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", program, str(tmp_path / "theirs" / "spool")]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert shown.returncode == 78, shown.stderr
    assert "Permission denied; let the agent's user own the folder" in shown.stdout


def test_what_a_newer_version_wrote_is_refused_and_left_alone(tmp_path: Path) -> None:
    spool = Spool(tmp_path, MIB)
    assert spool.append(metrics(1))
    directory = tmp_path / "metrics"
    spool._lanes[METRICS].close()
    os.close(spool._lock)
    newer = directory / f"{5:016x}-{7:08x}.segment"
    content = SegmentHeader(METRICS, 7, 5, 0, 0, version=2).pack() + b"what comes then"
    newer.write_bytes(content)
    with pytest.raises(SpoolError, match="has format 2, this version knows 1") as caught:
        Spool(tmp_path, MIB)
    assert "newer version" in caught.value.remedy
    assert newer.read_bytes() == content
    newer.unlink()
    kept = Spool(tmp_path, MIB)
    assert drain(kept) == [1]
    kept.close()


def test_a_cursor_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, MIB)
    assert spool.append(metrics(1))
    with monkeypatch.context() as patched:
        patched.setattr(spool_cursor, "VERSION", 2)
        spool.close()
    content = (tmp_path / "cursor").read_bytes()
    with pytest.raises(SpoolError, match="cursor has format 2"):
        Spool(tmp_path, MIB)
    assert (tmp_path / "cursor").read_bytes() == content


def test_foreign_files_are_told_and_left_alone(tmp_path: Path) -> None:
    Spool(tmp_path, MIB).close()
    foreign = [tmp_path / "metrics" / name for name in ("notes.txt", f"{0:016x}-{0:08x}.segment~")]
    for path in foreign:
        path.write_bytes(b"mine")
    (tmp_path / "metrics" / f"{0:016x}-{0:08x}.segment").mkdir()
    with capture_logs() as logs:
        spool = Spool(tmp_path, MIB)
    assert spool.append(metrics(1))
    assert drain(spool) == [1]
    spool.close()
    assert [path.read_bytes() for path in foreign] == [b"mine"] * 2
    assert [entry["event"] for entry in logs] == ["spool.foreign_file"] * 3


# ------------------------------------------------------------------------------------------------------- in and out
def test_every_signal_has_an_order_of_its_own(spool: Spool) -> None:
    for number in range(30):
        signal = list(Signal)[number % 3]
        assert spool.append(Request(signal, f"{number}:".encode(), number))
    assert [drain(spool, signal) for signal in Signal] == [list(range(first, 30, 3)) for first in range(3)]
    assert segments(spool.directory) != []


def test_nothing_is_left_on_the_disk_when_everything_was_sent(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 4 * MIB, segment_bytes=64 << 10)
    for number in range(100):
        assert spool.append(metrics(number, 10_000))
    many = len(segments(tmp_path))
    assert drain(spool) == list(range(100))
    assert many > 10
    assert len(segments(tmp_path)) == 1  # the one that is written to
    assert spool.size == segments(tmp_path)[0].stat().st_size
    spool.close()
    assert segments(tmp_path) == []


def test_a_request_may_be_larger_than_a_segment(spool: Spool) -> None:
    large = Request(METRICS, NOISE.randbytes(3 * MIB), 8192)
    for request in (metrics(1), large, metrics(2)):
        assert spool.append(request)
    for expected in (1, large, 2):
        entry = spool.peek(METRICS)
        assert entry is not None
        assert entry.request == large if expected is large else number_of(entry.request) == expected
        spool.acknowledge(entry)


def test_only_the_next_request_can_be_acknowledged(spool: Spool) -> None:
    for number in (1, 2):
        assert spool.append(metrics(number))
    first = spool.peek(METRICS)
    assert first is not None
    spool.acknowledge(first)
    with pytest.raises(ValueError, match="request 0 is not the next one"):
        spool.acknowledge(first)
    assert drain(spool) == [2]


def test_the_status_tells_what_waits(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    for time in (700, 800):
        monkeypatch.setattr("time.time_ns", lambda time=time: time)
        assert spool.append(metrics(time))
    monkeypatch.undo()
    assert spool.status() == {
        "directory": str(spool.directory),
        "bytes": segments(spool.directory)[0].stat().st_size,
        "max_bytes": 4 * MIB,
        "records": 2,
        "oldest_unix_nano": 700,
        "dropped": {},
    }
    entry = spool.peek(METRICS)
    assert entry is not None
    spool.acknowledge(entry)
    assert spool.peek(METRICS) is not None
    assert spool.status()["oldest_unix_nano"] == 800
    assert drain(spool) == [800]
    assert (spool.status()["records"], spool.status()["oldest_unix_nano"]) == (0, None)


def test_opening_a_large_spool_costs_no_memory(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 256 * MIB, "never")
    for number in range(64):
        assert spool.append(metrics(number, MIB))
    spool.close()
    tracemalloc.start()
    try:
        again = Spool(tmp_path, 256 * MIB, "never")
        opened = tracemalloc.get_traced_memory()[1]
        assert drain(again) == list(range(64))
        drained = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    again.close()
    assert opened < 256 << 10
    assert drained < 5 * MIB  # one request of 1 MiB, compressed and not, with the room that growing takes


# ---------------------------------------------------------------------------------------------------------- the limit
def test_the_limit_is_kept_by_giving_up_events_then_spans_then_metrics(tmp_path: Path) -> None:
    spool = Spool(tmp_path, MIB, "never")
    largest = 0
    for number in range(600):
        for signal in Signal:
            evicted = {each: spool.counts(each).evicted.records for each in Signal}
            kept = spool.append(Request(signal, f"{number}:".encode() + NOISE.randbytes(2000), number))
            gave_way = {each for each in Signal if spool.counts(each).evicted.records > evicted[each]}
            if METRICS in gave_way:
                assert kept
                assert spool.pending(TRACES).records == spool.pending(LOGS).records == 0
            if TRACES in gave_way:
                assert spool.pending(LOGS).records == 0
            largest = max(largest, sum(path.stat().st_size for path in segments(tmp_path)))
    assert MIB - (64 << 10) < largest <= MIB
    came = {signal: drain(spool, signal) for signal in Signal}
    assert came[METRICS] == list(range(600 - len(came[METRICS]), 600))
    assert len(came[METRICS]) * 2000 > MIB * 7 // 8
    for signal in Signal:
        counts = spool.counts(signal)
        gone = sorted(set(range(600)) - set(came[signal]))
        assert (counts.evicted.records, counts.evicted.items) == (len(gone), sum(gone))
        assert (counts.acknowledged.records, counts.damaged.records) == (len(came[signal]), 0)
    assert spool.status()["dropped"] == {"spool_full": 1800 - sum(map(len, came.values()))}
    spool.close()


def test_what_was_sent_makes_room_before_anything_is_given_up(tmp_path: Path) -> None:
    spool = Spool(tmp_path, MIB, "never")
    for number in range(2000):
        assert spool.append(Request(LOGS, f"{number}:".encode() + NOISE.randbytes(2000), 1))
        assert drain(spool, LOGS) == [number]
    assert spool.counts(LOGS).evicted.records == 0
    spool.close()


def test_what_was_sent_of_one_signal_makes_room_before_another_gives_up(tmp_path: Path) -> None:
    spool = Spool(tmp_path, MIB, "never")
    assert spool.append(metrics(1, 50_000))
    assert drain(spool) == [1]
    number = 0
    while spool.size < MIB - 10_000:
        assert spool.append(Request(LOGS, f"{number}:".encode() + NOISE.randbytes(5000), 1))
        number += 1
    assert spool.append(metrics(2, 20_000))
    assert spool.counts(LOGS).evicted.records == 0
    assert drain(spool, LOGS) == list(range(number))
    assert drain(spool) == [2]
    spool.close()


def test_a_request_that_can_never_fit_is_given_up_alone(tmp_path: Path) -> None:
    spool = Spool(tmp_path, MIB, "never")
    assert spool.append(metrics(1))
    assert not spool.append(metrics(2, 2 * MIB))
    assert drain(spool) == [1]
    assert spool.counts(METRICS).evicted.items == 2
    spool.close()


# ----------------------------------------------------------------------------------------------------------- the disk
@pytest.mark.parametrize(("sync", "appends", "acknowledges"), [("always", 10, 10), ("interval", 0, 0), ("never", 0, 0)])
def test_when_the_disk_is_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: Sync, appends: int, acknowledges: int
) -> None:
    clock = Clock()
    spool = Spool(tmp_path, MIB, sync, clock=clock)
    forced: list[str] = []
    force = os.fdatasync

    def noted(fd: int) -> None:
        forced.append(os.readlink(f"/proc/self/fd/{fd}"))
        force(fd)

    monkeypatch.setattr(os, "fdatasync", noted)
    for number in range(10):
        assert spool.append(metrics(number))
    assert len([name for name in forced if name.endswith(".segment")]) == appends
    forced.clear()
    assert drain(spool) == list(range(10))
    assert len([name for name in forced if name.endswith("cursor")]) == acknowledges
    forced.clear()
    if sync == "interval":
        assert spool.maintain(clock.now) is None
        assert [name.rpartition("/")[2].partition(".")[0] for name in forced[1:]] == ["cursor"]
        assert spool.append(metrics(1))
        assert spool.maintain(clock.now + 0.25) == clock.now + SYNC_SECONDS
        assert len(forced) == 2
        assert spool.maintain(clock.now + SYNC_SECONDS) is None
        assert len(forced) == 4
    assert spool.maintain(clock.now + 60.0) is None
    monkeypatch.undo()
    spool.close()


def test_a_sync_that_fails_is_told_once_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, MIB)
    with capture_logs() as logs:
        assert spool.append(metrics(1))
        monkeypatch.setattr(os, "fdatasync", failing(errno.EIO))
        assert [spool.maintain(now) for now in (10.0, 11.0, 11.5)] == [11.0, 12.0, 12.0]
        monkeypatch.undo()
        assert spool.maintain(12.0) is None
    assert [entry["event"] for entry in logs] == ["spool.sync_failing"]
    assert drain(spool) == [1]
    spool.close()


def test_a_request_that_cannot_be_forced_to_the_disk_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, MIB, "always")
    assert spool.append(metrics(1))
    size = segments(tmp_path)[0].stat().st_size
    monkeypatch.setattr(os, "fdatasync", failing(errno.EIO))
    with pytest.raises(SpoolError, match="cannot write to the spool"):
        spool.append(metrics(2))
    monkeypatch.undo()
    assert segments(tmp_path)[0].stat().st_size == size
    assert spool.append(metrics(3))
    assert drain(spool) == [1, 3]
    spool.close()


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EROFS, "mount"),
        (errno.EIO, "another disk"),
        (errno.EACCES, "own the folder"),
    ],
)
def test_a_write_that_fails_leaves_the_spool_as_it_was(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    assert spool.append(metrics(1))
    size = spool.size
    written = os.pwrite

    def half(fd: int, data: bytes, offset: int) -> int:
        if offset > size + 10:
            raise OSError(number, os.strerror(number))
        return written(fd, bytes(data)[:20], offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", half)
        with pytest.raises(SpoolError) as caught:
            spool.append(metrics(2))
    assert remedy in caught.value.remedy
    assert spool.size == size == segments(spool.directory)[0].stat().st_size
    assert spool.append(metrics(3))
    assert drain(spool) == [1, 3]
    assert spool.counts(METRICS).damaged.records == 0


def test_a_segment_that_cannot_be_begun_leaves_no_file(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", failing(errno.ENOSPC))
        with pytest.raises(SpoolError):
            spool.append(metrics(1))
    assert segments(spool.directory) == []
    assert spool.append(metrics(2))
    assert drain(spool) == [2]


def test_a_cursor_that_cannot_be_written_is_told_once_and_nothing_is_deleted(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with capture_logs() as logs:
        for number in range(20):
            assert spool.append(metrics(number, 10_000))
        many = len(segments(spool.directory))
        with monkeypatch.context() as patched:
            patched.setattr(Cursor, "write", failing(errno.EROFS))
            assert drain(spool) == list(range(20))
        assert len(segments(spool.directory)) == many > 2
        assert spool.append(metrics(20))
        assert drain(spool) == [20]
    assert len(segments(spool.directory)) == 1
    (told,) = logs
    assert (told["event"], told["remedy"].partition(",")[0]) == (
        "spool.cursor_failing",
        "mount its file system for writing",
    )


def test_segments_that_cannot_be_deleted_stop_the_writing_before_anything_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, MIB, "never")
    with monkeypatch.context() as patched, capture_logs() as logs:
        patched.setattr(Segment, "remove", failing(errno.EPERM))
        for number in range(2000):
            try:
                assert spool.append(metrics(number, 2000))
            except SpoolError as error:
                assert "cannot be deleted" in error.message
                break
            assert drain(spool) == [number]
        assert number < 1000
    assert [entry["event"] for entry in logs] == ["spool.delete_failing"]
    assert spool.counts(METRICS).evicted.records == 0
    assert spool.append(metrics(1))
    assert drain(spool) == [1]
    assert len(segments(tmp_path)) == 1
    spool.close()


def test_a_torn_tail_is_cut_off_and_told(tmp_path: Path) -> None:
    spool = Spool(tmp_path, MIB, "never")
    for number in (1, 2):
        assert spool.append(metrics(number, 500))
    spool.close()
    (path,) = segments(tmp_path)
    whole = path.read_bytes()
    end = SEGMENT_HEADER_BYTES + RECORD_HEADER_BYTES + int.from_bytes(whole[68:72], "little")
    for size in (end + 10, end + RECORD_HEADER_BYTES, len(whole) - 1):
        path.write_bytes(whole[:size])
        with capture_logs() as logs:
            again = Spool(tmp_path, MIB, "never")
        assert path.stat().st_size == end
        told = [entry for entry in logs if entry["event"] == "spool.torn_tail"]
        assert [(entry["signal"], entry["bytes"]) for entry in told] == [("metrics", size - end)]
        for lane in again._lanes.values():
            lane.close()
        os.close(again._lock)
    again = Spool(tmp_path, MIB, "never")
    assert again.append(metrics(3))
    assert drain(again) == [1, 3]
    assert (again.counts(METRICS).damaged.records, again.counts(METRICS).damaged.items) == (1, 2)
    again.close()


def test_the_next_record_is_found_behind_any_length_of_damage(tmp_path: Path) -> None:
    """Its header lies across the edge of what is searched at a time."""
    places = set()
    for shift in range(-150, -50):
        spool = Spool(tmp_path / str(shift), 4 * MIB, "never", segment_bytes=MIB)
        for number, size in ((1, 0), (2, WINDOW_BYTES + shift), (3, 10)):
            assert spool.append(metrics(number, size))
        (path,) = segments(spool.directory)
        with path.open("r+b") as file:
            content = file.read()
            second, third = (at for at in range(len(content)) if content.startswith(MARKER, at) and at > 100)
            places.add(third - second - WINDOW_BYTES)
            file.seek(second)
            file.write(b"\0")
        assert drain(spool) == [1, 3]
        assert spool.counts(METRICS).damaged.items == 2
        spool.close()
    assert places >= set(range(-RECORD_HEADER_BYTES, 2))


def test_a_segment_that_cannot_be_read_or_is_gone_costs_itself_and_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, 4 * MIB, "never", segment_bytes=64 << 10)
    for number in range(30):
        assert spool.append(metrics(number, 10_000))
    first, second, *_ = segments(tmp_path)
    per_segment = first.stat().st_size // 10_000
    assert number_of(spool.peek(METRICS).request) == 0  # type: ignore[union-attr]
    read = os.pread

    def broken(fd: int, size: int, offset: int) -> bytes:
        if os.readlink(f"/proc/self/fd/{fd}") == str(second):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(fd, size, offset)

    third = segments(tmp_path)[2]
    third.unlink()
    with monkeypatch.context() as patched, capture_logs() as logs:
        patched.setattr(os, "pread", broken)
        came = drain(spool)
    assert came == [*range(per_segment), *range(3 * per_segment, 30)]
    lost = range(per_segment, 3 * per_segment)
    assert (spool.counts(METRICS).damaged.records, spool.counts(METRICS).damaged.items) == (len(lost), sum(lost))
    assert [(entry["event"], entry["requests"]) for entry in logs] == [("spool.damaged", len(lost))]
    assert spool.status()["dropped"] == {"spool_damaged": len(lost)}
    spool.close()


def test_what_is_missing_for_the_moment_is_no_damage(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert spool.append(metrics(1))
    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", failing(errno.EMFILE))
        with pytest.raises(SpoolError, match="cannot read the spool") as caught:
            spool.peek(METRICS)
    assert "LimitNOFILE" in caught.value.remedy
    assert drain(spool) == [1]


def test_text_that_looks_like_a_record_never_passes_for_one(spool: Spool) -> None:
    """A request holds a whole record, taken from another segment; its own header is damaged, so its bytes are searched."""
    other = Spool(spool.directory.parent / "other", MIB, "never")
    assert other.append(Request(METRICS, b"forged", 99))
    forged = segments(other.directory)[0].read_bytes()[SEGMENT_HEADER_BYTES:]
    other.close()
    assert spool.append(metrics(1))
    begin = spool.size
    assert spool.append(Request(METRICS, NOISE.randbytes(300) + forged + NOISE.randbytes(300), 2))
    assert forged in segments(spool.directory)[0].read_bytes()  # gzip stores noise as it is
    assert spool.append(metrics(3))
    with segments(spool.directory)[0].open("r+b") as file:
        file.seek(begin)
        file.write(b"\0")
    assert drain(spool) == [1, 3]


# --------------------------------------------------------------------------------------------------------- a real disk
@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(tmp_path)], check=True)
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.kernel
def test_a_full_disk_loses_nothing_that_was_kept(small_disk: Path) -> None:
    spool = Spool(small_disk / "spool", 16 * MIB)
    kept, failed = [], []
    for number in range(120):
        try:
            assert spool.append(metrics(number, 20_000))
            kept.append(number)
        except SpoolError as error:
            assert "No space left on device" in error.message
            assert "make room" in error.remedy
            failed.append(number)
    assert 30 < len(kept) < 60
    assert failed == list(range(len(kept), 120))
    assert drain(spool) == kept
    assert spool.append(metrics(1000))
    assert drain(spool) == [1000]
    assert spool.counts(METRICS).damaged.records == 0
    spool.close()


@pytest.mark.kernel
def test_a_disk_that_becomes_read_only_is_read_on(small_disk: Path) -> None:
    spool = Spool(small_disk / "spool", 16 * MIB)
    for number in range(5):
        assert spool.append(metrics(number))
    for lane in spool._lanes.values():
        lane.close()
    spool._cursor.close()
    os.close(spool._lock)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(SpoolError, match="Read-only file system") as caught:
        Spool(small_disk / "spool", 16 * MIB)
    assert "mount its file system for writing" in caught.value.remedy
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    again = Spool(small_disk / "spool", 16 * MIB)
    assert drain(again) == list(range(5))
    again.close()


# ------------------------------------------------------------------------------------------------------------ kill -9
WRITER = """
import os, pathlib, sys
from otel_netmon.export.requests import Request, Signal
from otel_netmon.export.spool import Spool

directory, first, sync = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
spool = Spool(directory, 64 << 20, sync, segment_bytes=64 << 10)
for number in range(first, first + 10**9):
    os.write(1, b"try %d\\n" % number)
    spool.append(Request(Signal.METRICS, b"%d:" % number + os.urandom(number * 7919 % 6000), number))
    os.write(1, b"kept %d\\n" % number)
    if number % 3:
        entry = spool.peek(Signal.METRICS)
        os.write(1, b"sent " + entry.request.body.partition(b":")[0] + b"\\n")
        spool.acknowledge(entry)
        os.write(1, b"done\\n")
"""


@pytest.mark.parametrize("sync", ["interval", "always"])
def test_kill_9_at_any_moment_keeps_order_and_sends_one_request_twice_at_most(tmp_path: Path, sync: Sync) -> None:
    environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    directory = tmp_path / "spool"
    moments = random.Random(77)  # noqa: S311 - moments, not secrets
    kept: list[int] = []
    sent: list[int] = []
    tried = -1
    rounds = 12
    for _ in range(rounds):
        command = [sys.executable, "-c", WRITER, str(directory), str(tried + 1), sync]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            lines = moments.randrange(40, 400)
            told = [process.stdout.readline() for _ in range(lines)]
            process.kill()
            told += process.stdout.readlines()
            assert process.wait() == -9
        for line in told:
            word, _, number = line.decode().strip().partition(" ")
            if word == "kept":
                kept.append(int(number))
            elif word == "sent":
                sent.append(int(number))
            elif word == "try":
                tried = int(number)
    spool = Spool(directory, 64 << 20, sync, segment_bytes=64 << 10)
    sent += drain(spool)
    counts = spool.counts(METRICS)
    spool.close()
    assert sent == sorted(sent)
    assert len(kept) > 20 * rounds
    # What was being written when the kill came is there or not; all that was kept is.
    assert set(kept) <= set(sent)
    assert len(sent) - len(set(sent)) <= rounds
    assert len(set(sent) - set(kept)) <= rounds
    assert (counts.damaged.records, counts.evicted.records) == (0, 0)
    assert segments(directory) == []

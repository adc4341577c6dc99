"""Delivery as a machine: what is sent when, what is tried again, what is given up and counted; no thread, no sleep."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from otel_netmon.export.backoff import LONGEST_ASKED_SECONDS, Backoff
from otel_netmon.export.delivery import Delivery, Terms
from otel_netmon.export.encoders import Encoders
from otel_netmon.export.requests import Outcome, Request, Signal
from otel_netmon.export.spool import Spool, Sync
from otel_netmon.otel.points import Snapshot
from otel_netmon.otel.temporality import Temporality
from support.delivery import (
    AWAY,
    DELIVERED,
    REFUSED,
    UNKNOWN,
    Clock,
    FakeTransport,
    Rig,
    encoders,
    events,
    numbers,
    snapshot,
    spans,
)
from support.snapshots import END

METRICS, TRACES, LOGS = Signal


def throttled(seconds: float) -> Outcome:
    return Outcome("retry", "http_429", "slow down", retry_after_seconds=seconds, status="429")


# ------------------------------------------------------------------------------------------------------------- waiting
def test_backoff_doubles_up_to_half_a_minute_with_full_jitter() -> None:
    longest = Backoff(lambda: 1.0)
    assert [longest.next()[0] for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    longest.reset()
    assert longest.next() == (1, 0)
    shortest = Backoff(lambda: 0.0)
    assert [shortest.next()[0] for _ in range(7)] == [0] * 7
    drawn = Backoff()
    assert all(0 <= drawn.next()[0] <= ceiling for ceiling in (1, 2, 4, 8, 16, 30, 30))


def test_what_the_receiver_asks_for_is_the_least_and_has_a_limit() -> None:
    backoff = Backoff(lambda: 0.5)
    assert backoff.next(20.0) == (20.5, 20.0)
    assert backoff.next(1e9) == (LONGEST_ASKED_SECONDS + 1.0, LONGEST_ASKED_SECONDS)
    assert backoff.next(-5.0) == (2.0, 0.0)


def test_attempts_keep_to_the_waits_and_to_retry_after() -> None:
    rig = Rig()
    rig.transport.answers = [AWAY, AWAY, throttled(50.0), AWAY]
    rig.delivery.offer(snapshot(1))
    rig.run(100.0)
    assert [time - 1000.0 for time, _ in rig.transport.seen] == [0, 1, 3, 57, 65]
    assert rig.transport.timeouts == {7.0}
    rig.check()


def test_hurry_skips_our_own_wait_but_not_what_the_receiver_asked_for() -> None:
    rig = Rig()
    rig.transport.answers = [AWAY, throttled(50.0)]
    rig.delivery.offer(snapshot(1))
    rig.run(0.5)
    rig.delivery.hurry()
    rig.run(0.5)
    rig.delivery.hurry()
    rig.run(60.0)
    assert [time - 1000.0 for time, _ in rig.transport.seen] == [0, 0.5, 50.5]


def test_success_makes_the_waits_short_again() -> None:
    rig = Rig()
    rig.transport.answers = [AWAY, AWAY, AWAY, DELIVERED, AWAY]
    rig.delivery.offer(snapshot(1))
    rig.run(10.0)
    rig.delivery.offer(snapshot(2))
    rig.run(10.0)
    assert [time - 1000.0 for time, _ in rig.transport.seen] == [0, 1, 3, 7, 10, 11]


# ------------------------------------------------------------------------------- metrics, cumulative, without a spool
def test_the_newest_snapshot_is_sent_after_an_outage() -> None:
    rig = Rig()
    rig.transport.answers = [AWAY] * 3
    for value in range(1, 61):
        rig.delivery.offer(snapshot(value, value, at=END + value))
        rig.run(0.1)
        rig.check()
    rig.run(10.0)
    assert rig.transport.numbers() == [60, 60]
    assert rig.dropped(METRICS) == {"superseded": 2 * 59}
    rig.check()


def test_one_that_waits_for_its_next_try_is_tried_again_while_there_is_no_newer_one() -> None:
    rig = Rig()
    rig.transport.answers = [AWAY, AWAY]
    rig.delivery.offer(snapshot(5))
    rig.run(10.0)
    assert rig.transport.numbers() == [5]
    assert rig.dropped(METRICS) == {}


def test_what_has_arrived_of_a_snapshot_is_not_sent_again() -> None:
    rig = Rig(max_items=2)
    rig.transport.answers = [DELIVERED, AWAY, AWAY]
    rig.delivery.offer(snapshot(1, 2, 3, 4, 5))
    rig.run(10.0)
    assert [numbers(request) for _, request in rig.transport.seen] == [[1, 2], [3, 4], [3, 4], [3, 4], [5]]
    assert rig.transport.numbers() == [1, 2, 3, 4, 5]
    rig.check()


def test_a_snapshot_of_which_a_part_arrived_is_finished_before_a_newer_one() -> None:
    rig = Rig(max_items=2)
    rig.transport.answers = [DELIVERED, AWAY]
    rig.delivery.offer(snapshot(1, 2, 3))
    rig.run(0.5)
    rig.delivery.offer(snapshot(11, 12, 13, at=END + 1))
    rig.run(10.0)
    assert rig.transport.numbers() == [1, 2, 3, 11, 12, 13]
    assert rig.dropped(METRICS) == {}
    rig.check()


def test_a_refused_request_is_counted_and_the_next_one_is_sent() -> None:
    rig = Rig(max_items=2)
    rig.transport.answers = [DELIVERED, REFUSED]
    rig.delivery.offer(snapshot(1, 2, 3, 4, 5))
    rig.run()
    assert rig.transport.numbers() == [1, 2, 5]
    assert rig.dropped(METRICS) == {"http_400": 2}
    assert rig.delivery.health.last_error == "http_400: HTTP 400"
    rig.check()


def test_the_end_of_a_series_is_told_once_although_snapshots_between_were_never_sent() -> None:
    rig = Rig()
    rig.delivery.offer(snapshot(1, 2))
    rig.run()
    rig.transport.answers = [AWAY]
    rig.delivery.offer(snapshot(3, at=END + 1))  # the second series has ended; this never arrives
    rig.run(0.5)
    rig.delivery.offer(snapshot(4, at=END + 2))
    rig.run(10.0)
    rig.delivery.offer(snapshot(5, at=END + 3))
    rig.run()
    assert [numbers(request) for request in rig.transport.taken] == [[1, 2], [4, -1], [5]]
    account = rig.delivery.ledger[METRICS]
    assert (account.offered, account.delivered) == (7, 5)
    assert rig.dropped(METRICS) == {"superseded": 1 + 1}  # with the mark that was in it
    rig.check()


def test_more_rejected_than_sent_makes_no_negative_count() -> None:
    rig = Rig()
    rig.transport.answers = [Outcome("delivered", rejected=2, warning="old"), Outcome("delivered", rejected=10**6)]
    for at in (0, 1):
        rig.delivery.offer(snapshot(1, 2, 3, at=END + at))
        rig.run()
    assert (rig.delivery.ledger[METRICS].delivered, rig.dropped(METRICS)) == (1, {"rejected": 5})
    assert len(rig.transport.seen) == 2
    rig.check()


# ------------------------------------------------------------------------------------ metrics, delta, without a spool
def test_differences_of_an_outage_merge_and_nothing_is_lost() -> None:
    rig = Rig(temporality="delta")
    rig.delivery.offer(snapshot(10, at=END))
    rig.run()
    rig.transport.always = lambda _: AWAY
    for second in range(1, 601):
        rig.delivery.offer(snapshot(10 + second, at=END + second))
        rig.run(1.0)
    rig.transport.always = lambda _: DELIVERED
    rig.run(31.0)
    rig.delivery.offer(snapshot(1000, at=END + 1000))
    rig.run()
    # What was on its way once goes out as it was, all that came later in one.
    assert rig.transport.numbers() == [10, 1, 599, 1000 - 610]
    assert sum(rig.transport.numbers()) == 1000
    assert rig.dropped(METRICS) == {"superseded": 598}
    rig.check()


def test_a_refused_difference_is_counted_and_not_told_again() -> None:
    rig = Rig(temporality="delta")
    rig.transport.answers = [DELIVERED, REFUSED]
    for at, value in enumerate((10, 15, 17)):
        rig.delivery.offer(snapshot(value, at=END + at))
        rig.run()
    assert rig.transport.numbers() == [10, 2]
    assert rig.dropped(METRICS) == {"http_400": 1}


def test_differences_that_arrived_in_part_count_once() -> None:
    rig = Rig(temporality="delta", max_items=1)
    rig.transport.answers = [DELIVERED, AWAY]
    rig.delivery.offer(snapshot(10, 20))
    rig.run(0.5)
    rig.delivery.offer(snapshot(11, 22, at=END + 1))
    rig.run(10.0)
    assert rig.transport.numbers() == [10, 20, 1, 2]
    rig.check()


# ---------------------------------------------------------------------------------------------------- spans and events
def test_few_spans_wait_a_second_for_more_and_many_do_not() -> None:
    rig = Rig()
    rig.delivery.offer_spans(spans(1, 2))
    rig.run(0.5)
    rig.delivery.offer_spans(spans(3))
    assert rig.transport.seen == []
    rig.run(0.5)
    assert [numbers(request) for request in rig.transport.taken] == [[1, 2, 3]]
    rig.delivery.offer_events(events(*range(600)))
    rig.run()
    assert [numbers(request) for request in rig.transport.taken[1:]] == [list(range(600))]
    rig.check()


def test_metrics_go_before_spans_and_spans_before_events() -> None:
    rig = Rig()
    rig.transport.always = lambda _: AWAY
    rig.delivery.offer_events(events(1))
    rig.run(2.0)
    rig.delivery.offer_spans(spans(2))
    rig.run(2.0)
    rig.delivery.offer(snapshot(3))
    rig.run(30.0)
    rig.transport.always = lambda _: DELIVERED
    rig.delivery.hurry()
    rig.run()
    assert [request.signal for request in rig.transport.taken] == [METRICS, TRACES, LOGS]


def test_without_room_the_oldest_events_go_first_then_the_oldest_spans() -> None:
    rig = Rig(queue_bytes=64 << 10)
    rig.transport.always = lambda _: AWAY
    for number in range(20):
        rig.delivery.offer_spans(spans(number, size=1000))
        rig.delivery.offer_events(events(number, size=1000))
        rig.run(1.0)
        rig.check()
    assert rig.dropped(TRACES) == {}
    assert rig.dropped(LOGS) == {}
    for number in range(20, 60):
        rig.delivery.offer_spans(spans(number, size=1000))
        rig.run(1.0)
        rig.check()
    rig.delivery.offer_events(events(99, size=1000))  # displaces no span
    rig.run(1.0)
    rig.transport.always = lambda _: DELIVERED
    rig.run(60.0)
    kept = rig.transport.numbers(TRACES)
    assert kept == list(range(60 - len(kept), 60))
    assert rig.dropped(TRACES) == {"queue_full": 60 - len(kept)}
    assert rig.transport.numbers(LOGS) == []
    assert rig.dropped(LOGS) == {"queue_full": 21}
    rig.check()


def test_more_than_fits_at_once_loses_its_oldest_and_no_more() -> None:
    rig = Rig(queue_bytes=256 << 10)
    rig.delivery.offer_spans(spans(*range(5000), size=100))
    rig.check()
    rig.run(2.0)
    kept = rig.transport.numbers(TRACES)
    assert kept == list(range(5000 - len(kept), 5000))
    assert rig.dropped(TRACES) == {"queue_full": 5000 - len(kept)}
    assert len(kept) > 512
    rig.check()


def test_a_signal_that_the_receiver_does_not_know_holds_up_no_other_and_is_told_once() -> None:
    rig = Rig()
    rig.transport.always = lambda request: UNKNOWN if request.signal is TRACES else DELIVERED
    with capture_logs() as logs:
        for number in range(1, 4):
            rig.delivery.offer(snapshot(number, at=END + number))
            rig.delivery.offer_spans(spans(number))
            rig.delivery.offer_events(events(number))
            rig.run(1.0)
    assert rig.transport.numbers(METRICS) == rig.transport.numbers(LOGS) == [1, 2, 3]
    assert rig.dropped(TRACES) == {"not_implemented": 3}
    told = [entry for entry in logs if entry["event"] == "otlp.rejected"]
    assert [(entry["signal"], entry["reason"], entry["remedy"]) for entry in told] == [
        ("traces", "not_implemented", "take traces out of otlp.signals")
    ]
    rig.check()


def test_a_signal_that_is_throttled_holds_up_no_other() -> None:
    rig = Rig()
    rig.transport.always = lambda request: throttled(60.0) if request.signal is TRACES else DELIVERED
    rig.delivery.offer_spans(spans(1))
    for number in range(1, 11):
        rig.delivery.offer(snapshot(number, at=END + number))
        rig.run(1.0)
    assert rig.transport.numbers(METRICS) == list(range(1, 11))
    assert len([request for _, request in rig.transport.seen if request.signal is TRACES]) == 1


def test_a_signal_that_never_gets_an_answer_costs_the_others_an_attempt_in_half_a_minute() -> None:
    rig = Rig()
    rig.transport.always = lambda request: AWAY if request.signal is TRACES else DELIVERED
    rig.delivery.offer_spans(spans(1))
    for number in range(1, 301):
        rig.delivery.offer(snapshot(number, at=END + number))
        rig.run(1.0)
    assert rig.transport.numbers(METRICS) == list(range(1, 301))
    tried = [time for time, request in rig.transport.seen if request.signal is TRACES]
    assert [round(after - before) for before, after in itertools.pairwise(tried)] == [1, 2, 4, 8, 16, *[30] * 8]


def test_a_receiver_that_answers_for_one_signal_again_is_tried_for_the_others() -> None:
    rig = Rig()
    rig.transport.always = lambda _: AWAY
    rig.delivery.offer(snapshot(1))
    rig.delivery.offer_events(events(2))
    rig.run(60.0)
    attempts = len(rig.transport.seen)
    rig.transport.always = lambda _: DELIVERED
    while len(rig.transport.seen) == attempts:
        rig.run(0.5)
    assert [request.signal for _, request in rig.transport.seen[attempts:]] in ([METRICS, LOGS], [LOGS, METRICS])
    (first, _), (second, _) = rig.transport.seen[attempts:]
    assert first == second


def test_signals_that_are_not_wanted_are_not_even_counted() -> None:
    rig = Rig(signals=[LOGS])
    rig.delivery.offer(snapshot(1))
    rig.delivery.offer_spans(spans(1))
    rig.delivery.offer_events(events(1))
    rig.run(2.0)
    assert [account.offered for account in rig.delivery.ledger.values()] == [0, 0, 1]
    assert rig.transport.numbers() == [1]


def test_the_log_tells_each_change_of_state_once() -> None:
    rig = Rig()
    rig.transport.answers = [AWAY, AWAY, AWAY, DELIVERED, DELIVERED, REFUSED, REFUSED, DELIVERED]
    with capture_logs() as logs:
        for number in range(8):
            rig.delivery.offer(snapshot(number, at=END + number))
            rig.run(10.0)
    assert [entry["event"] for entry in logs] == ["otlp.failing", "otlp.delivering", "otlp.rejected", "otlp.delivering"]
    assert logs[0]["remedy"]
    assert rig.delivery.health.states == {METRICS: "delivering"}


# -------------------------------------------------------------------------------------------------------- what is odd
def _broken(now: Snapshot, previous: Snapshot | None) -> Iterator[Request]:
    requests = encoders(2).metrics(now, previous)
    yield next(requests)
    msg = "cannot be encoded"
    raise OverflowError(msg)


def test_a_snapshot_that_cannot_be_encoded_is_counted_and_the_next_one_is_sent() -> None:
    rig = Rig(max_items=2)
    good = rig.delivery._lanes[0].source._encode  # type: ignore[attr-defined]
    rig.delivery._lanes[0].source._encode = _broken  # type: ignore[attr-defined]
    with capture_logs() as logs:
        rig.delivery.offer(snapshot(1, 2, 3, 4, 5))
        rig.run()
        rig.check()
        rig.delivery._lanes[0].source._encode = good  # type: ignore[attr-defined]
        rig.delivery.offer(snapshot(6, at=END + 1))
        rig.run()
    assert rig.transport.numbers()[:3] == [1, 2, 6]
    assert rig.dropped(METRICS) == {"not_encoded": 3}
    assert "otlp.encode_failed" in [entry["event"] for entry in logs]
    rig.check()


def test_a_transport_that_raises_costs_one_request() -> None:
    rig = Rig()

    def fail(_: Request) -> Outcome:
        msg = "a defect"
        raise RuntimeError(msg)

    rig.transport.always = fail
    with capture_logs() as logs:
        rig.delivery.offer(snapshot(1))
        rig.run()
    rig.transport.always = lambda _: DELIVERED
    rig.delivery.offer(snapshot(2, at=END + 1))
    rig.run()
    assert rig.transport.numbers() == [2]
    assert rig.dropped(METRICS) == {"internal": 1}
    assert logs[0]["event"] == "otlp.transport_failed"


def test_the_wall_clock_decides_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is set back and forth by years between all steps."""
    hours = itertools.cycle([-40_000, 90_000, 0])
    monkeypatch.setattr("time.time_ns", lambda: END + next(hours) * 3600 * 10**9)
    rig = Rig(Spool(tmp_path / "spool", 1 << 20))
    rig.transport.always = lambda _: AWAY
    for number in range(50):
        rig.delivery.offer(snapshot(number, at=END + number))
        rig.delivery.offer_events(events(number))
        rig.run(10.0)
        rig.check()
    rig.transport.always = lambda _: DELIVERED
    rig.run(60.0)
    assert rig.transport.numbers(METRICS) == rig.transport.numbers(LOGS) == list(range(50))
    rig.check()


# ------------------------------------------------------------------------------------------------------- with a spool
def spooled(path: Path, rig: Rig | None = None, max_bytes: int = 8 << 20, sync: Sync = "interval") -> Rig:
    """A rig with a spool; after another one, whose memory is gone then."""
    if rig is not None and rig.spool is not None:
        rig.spool.close()
    clock = rig.clock if rig is not None else Clock()
    return Rig(Spool(path, max_bytes, sync, clock=clock), clock=clock)


@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
def test_an_hour_without_a_receiver(tmp_path: Path, temporality: Temporality) -> None:
    clock = Clock()
    rig = Rig(Spool(tmp_path / "spool", 64 << 20, clock=clock), clock=clock, temporality=temporality)
    rig.transport.always = lambda _: AWAY
    for cycle in range(360):
        rig.delivery.offer(snapshot(100 + cycle, at=END + cycle))
        rig.delivery.offer_spans(spans(*range(10 * cycle, 10 * cycle + 10)))
        rig.delivery.offer_events(events(cycle))
        rig.run(10.0)
        rig.check()
    attempts = len(rig.transport.seen)
    assert attempts < 3 * 3600 / 15  # three lanes, 30 s at most between two attempts
    rig.transport.always = lambda _: DELIVERED
    rig.run(31.0)
    rig.check()
    told = rig.transport.numbers(METRICS)
    assert told == list(range(100, 460)) if temporality == "cumulative" else sum(told) == 459
    assert rig.transport.numbers(TRACES) == list(range(3600))
    assert rig.transport.numbers(LOGS) == list(range(360))
    for account in rig.delivery.ledger.values():
        assert account.offered == account.delivered
        assert account.pending == 0


def test_old_values_keep_their_times(tmp_path: Path) -> None:
    rig = spooled(tmp_path / "spool")
    rig.transport.always = lambda _: AWAY
    bodies = []
    encode = encoders()
    previous = None
    for number in range(3):
        now = snapshot(number, at=END + number)
        bodies += [request.body for request in encode.metrics(now, previous)]
        previous = now
        rig.delivery.offer(now)
        rig.run(1000.0)
    rig.transport.always = lambda _: DELIVERED
    rig.run(60.0)
    assert [request.body for request in rig.transport.taken] == bodies


def test_a_spool_outlives_its_process_and_the_counts_say_so(tmp_path: Path) -> None:
    rig = spooled(tmp_path / "spool")
    rig.transport.always = lambda _: AWAY
    for number in range(10):
        rig.delivery.offer(snapshot(number, number, at=END + number))
        rig.delivery.offer_spans(spans(number))
        rig.run(1.0)
    again = spooled(tmp_path / "spool", rig)
    again.check()
    assert [account.pending for account in again.delivery.ledger.values()] == [20, 10, 0]
    again.delivery.offer(snapshot(10, 10, at=END + 10))
    again.run(60.0)
    again.check()
    assert again.transport.numbers(METRICS) == [number for number in range(11) for _ in range(2)]
    assert again.transport.numbers(TRACES) == list(range(10))
    stages = again.delivery.ledger[METRICS].stages(has_spool=True)
    assert stages == {
        "queue": {"delivered": 2, "dropped": {}},
        "spool": {"delivered": 22, "dropped": {}},
        "export": {"delivered": 22, "dropped": {}},
    }


def test_a_full_spool_gives_up_by_rank_and_counts_every_item(tmp_path: Path) -> None:
    rig = spooled(tmp_path / "spool", max_bytes=1 << 20, sync="never")
    draw = random.Random(4)  # noqa: S311 - the same noise in each run
    rig.transport.always = lambda _: AWAY
    for number in range(300):
        noise = draw.randbytes(4000).hex()
        rig.delivery.offer(snapshot(number, at=END + number))
        rig.delivery.offer_spans(replace(spans(number), messages=[noise]))
        rig.delivery.offer_events([replace(one, body=noise) for one in events(number)])
        rig.run(1.0)
        rig.check()
    assert rig.spool is not None
    assert rig.spool.size <= 1 << 20
    rig.transport.always = lambda _: DELIVERED
    rig.run(120.0)
    rig.check()
    assert rig.transport.numbers(METRICS) == list(range(300))
    kept = {signal: rig.transport.numbers(signal) for signal in (TRACES, LOGS)}
    for signal, numbered in kept.items():
        assert rig.dropped(signal) == {"spool_full": 300 - len(numbered)}
    assert kept[TRACES] == list(range(300 - len(kept[TRACES]), 300))
    assert len(kept[TRACES]) > len(kept[LOGS])


def test_a_disk_that_fails_costs_nothing_while_there_is_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = spooled(tmp_path / "spool")
    rig.transport.always = lambda _: AWAY
    write = "otel_netmon.export.spool_segment.Segment._write"
    with capture_logs() as logs:
        for number in range(30):
            with monkeypatch.context() as patched:
                if 10 <= number < 20:
                    patched.setattr(write, _no_space)
                rig.delivery.offer(snapshot(number, at=END + number))
                rig.delivery.offer_spans(spans(number))
                rig.run(1.0)
            rig.check()
    rig.transport.always = lambda _: DELIVERED
    rig.run(60.0)
    rig.check()
    assert rig.transport.numbers(METRICS) == list(range(30))
    assert sorted(rig.transport.numbers(TRACES)) == list(range(30))
    assert rig.transport.numbers(TRACES) == list(range(30))
    assert [entry["event"] for entry in logs if entry["event"].startswith("spool.")] == [
        "spool.failing",
        "spool.writing",
    ]
    stages = rig.delivery.ledger[METRICS].stages(has_spool=True)
    assert stages["spool"] == {"delivered": 20, "dropped": {"spool_failed": 10}}
    assert stages["queue"] == {"delivered": 30, "dropped": {}}
    assert stages["export"] == {"delivered": 30, "dropped": {}}


def _no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_spool_that_cannot_be_read_for_the_moment_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = spooled(tmp_path / "spool")

    def no_descriptors(*_: object) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr("otel_netmon.export.spool_segment.Segment.find", no_descriptors)
        rig.delivery.offer(snapshot(1))
        rig.run(5.0)
        assert rig.delivery.health.states == {METRICS: "failing"}
        assert "spool_unreadable" in str(rig.delivery.health.last_error)
    rig.run(30.0)
    assert rig.transport.numbers() == [1]
    rig.check()


# ------------------------------------------------------------------------------------------------------------- the end
def test_after_the_end_everything_in_memory_is_counted_and_the_disk_keeps_its_own(tmp_path: Path) -> None:
    for rig in (Rig(), spooled(tmp_path / "spool")):
        rig.transport.always = lambda _: AWAY
        rig.delivery.offer(snapshot(1, 2, 3))
        rig.delivery.offer_spans(spans(1))
        rig.run(0.5)
        rig.delivery.offer_events(events(1))
        rig.delivery.close()
        rig.delivery.offer(snapshot(4))
        rig.delivery.offer_spans(spans(5))
        rig.delivery.offer_events(events(6))
        rig.transport.always = lambda _: DELIVERED
        rig.run(5.0)  # what a worker does that did not see the end
        for account in rig.delivery.ledger.values():
            assert account.offered == account.delivered + sum(account.dropped.values()) + account.pending
        assert rig.delivery.in_memory() == 0
        ledger = rig.delivery.ledger
        if rig.spool is None:
            assert [ledger[signal].dropped["shutdown"] for signal in Signal] == [4, 2, 2]
        else:
            assert [ledger[signal].dropped["shutdown"] for signal in Signal] == [1, 2, 2]
            assert ledger[METRICS].pending == 3


def test_what_waits_is_still_written_to_the_spool_when_nothing_is_sent_any_more(tmp_path: Path) -> None:
    rig = spooled(tmp_path / "spool")
    rig.delivery.stop_sending()
    rig.delivery.offer(snapshot(1))
    rig.delivery.offer_spans(spans(2))
    rig.run()
    assert rig.transport.seen == []
    again = spooled(tmp_path / "spool", rig)
    again.run(5.0)
    assert again.transport.numbers() == [1, 2]


def test_the_terms_have_the_defaults_of_the_configuration() -> None:
    delivery = Delivery(FakeTransport(lambda: 0.0), encoders(), None, Terms())
    assert delivery.step() is None
    assert isinstance(encoders(), Encoders)

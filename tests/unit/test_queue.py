"""The memory of a receiver: what fits, what makes room for what, and how large things are taken to be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from otel_netmon.export.ledger import Ledger, new_ledger
from otel_netmon.export.queue import (
    GATHER_ITEMS,
    GATHER_SECONDS,
    Queue,
    Ready,
    batch_bytes,
    joined_spans,
    snapshot_bytes,
)
from otel_netmon.export.requests import Request, Signal
from otel_netmon.otel.attributes import AttributeSet
from otel_netmon.otel.points import NumberSeries, Snapshot
from otel_netmon.otel.spans import SpanBatch
from support.delivery import events, snapshot, spans
from support.snapshots import END, every_metric, flows

METRICS, TRACES, LOGS = Signal


def queue(max_bytes: int = 1 << 20, *, newest_only: bool = False) -> tuple[Queue, Ledger]:
    ledger = new_ledger()
    return Queue(max_bytes, ledger, newest_only=newest_only), ledger


def ready(signal: Signal, size: int, items: int = 1) -> Ready:
    return Ready(Request(signal, b"x" * size, items))


def test_a_snapshot_is_due_at_once_few_spans_after_a_second_many_at_once() -> None:
    waiting, _ = queue()
    assert [waiting.due(signal) for signal in Signal] == [None] * 3
    waiting.offer_snapshot(snapshot(1), 1, 5.0)
    waiting.offer(TRACES, spans(1), 6.0)
    waiting.offer(TRACES, spans(2), 6.5)
    waiting.offer(LOGS, events(*range(GATHER_ITEMS)), 7.0)
    assert [waiting.due(signal) for signal in Signal] == [5.0, 6.0 + GATHER_SECONDS, 7.0]
    assert [entry.content.start_time_unix_nano.tolist() for entry in waiting.take(TRACES)] == [[1], [2]]
    assert waiting.due(TRACES) is None


def test_nothing_is_no_offer() -> None:
    waiting, ledger = queue()
    waiting.offer(TRACES, spans(), 1.0)
    waiting.offer(LOGS, [], 1.0)
    assert waiting.size == 0
    assert not waiting.has_waiting(TRACES)
    assert ledger[TRACES].offered == 0


@pytest.mark.parametrize("newest_only", [True, False])
def test_snapshots_wait_as_far_as_they_fit_or_as_the_newest_alone(newest_only: bool) -> None:
    each = snapshot_bytes(snapshot(1))
    waiting, ledger = queue(3 * each, newest_only=newest_only)
    for value in range(5):
        waiting.offer_snapshot(snapshot(value, at=END + value), 1, 0.0)
    kept = [entry.content.time_unix_nano - END for entry in waiting.take(METRICS)]
    assert kept == ([4] if newest_only else [2, 3, 4])
    assert ledger[METRICS].dropped == {"superseded": 5 - len(kept)}
    assert waiting.size == 0


def test_the_newest_snapshot_is_kept_whatever_its_size_and_everything_else_makes_room() -> None:
    waiting, ledger = queue(1000)
    waiting.offer(LOGS, events(1), 0.0)
    waiting.offer_snapshot(flows(2), 2, 0.0)
    waiting.offer_snapshot(flows(100), 100, 0.0)
    assert waiting.take_first(METRICS).items == 100
    assert not waiting.has_waiting(METRICS)
    assert ledger[METRICS].dropped == {"superseded": 2}


def test_room_is_made_by_rank_and_age() -> None:
    waiting, ledger = queue(1000)
    for signal, items in ((METRICS, 7), (TRACES, 6), (LOGS, 4)):
        waiting.put(ready(signal, 300, items))
    waiting.put(ready(TRACES, 200, items=1000))
    assert [dict(ledger[signal].dropped) for signal in Signal] == [{}, {}, {"queue_full": 4}]
    waiting.put(ready(LOGS, 300))
    assert ledger[LOGS].dropped == {"queue_full": 5}  # it displaces nothing
    waiting.put(ready(METRICS, 600))
    assert [dict(ledger[signal].dropped) for signal in Signal] == [{}, {"queue_full": 1006}, {"queue_full": 5}]
    waiting.put(ready(METRICS, 500))
    assert ledger[METRICS].dropped == {"queue_full": 7 + 1}
    waiting.put(ready(METRICS, 1001))
    assert ledger[METRICS].dropped == {"queue_full": 9}
    assert waiting.size == 500
    assert waiting.get(METRICS).size == 500
    assert waiting.size == 0
    assert waiting.first(METRICS) is None


def test_what_was_put_back_is_first_again() -> None:
    waiting, _ = queue()
    for size in (1, 2):
        waiting.put(ready(LOGS, size))
    first = waiting.get(LOGS)
    waiting.put_back(first)
    assert waiting.first(LOGS) is first
    assert waiting.size == 3


def test_batches_are_joined_in_order_with_all_their_columns() -> None:
    first, second = spans(1, 2), replace(spans(3), trace_states=["vendor=1"], resources=[b"process"])
    joined = joined_spans([first, second])
    assert joined.start_time_unix_nano.tolist() == [1, 2, 3]
    assert joined.trace_ids.shape == (3, 16)
    assert list(joined.names) == ["GET"] * 3
    assert list(joined.trace_states) == ["", "", "vendor=1"]
    assert joined_spans([first]) is first
    assert list(joined.resources) == [b"", b"", b"process"]
    assert not joined_spans([first, first]).trace_states
    assert not joined_spans([first, first]).resources
    for name in SpanBatch.__dataclass_fields__:
        assert len(getattr(joined, name)) == 3, name


def test_sizes_are_of_the_order_of_the_memory() -> None:
    count = 1000
    columns = NumberSeries(
        [AttributeSet.of({"server.port": port}) for port in range(count)],
        np.zeros(count, np.uint64),
        np.zeros(count, np.int64),
    )
    assert snapshot_bytes(Snapshot(END, {"netmon.flow.io": columns})) == 24 * count
    assert snapshot_bytes(flows(count)) == 300 * count
    assert snapshot_bytes(every_metric()) > 0
    assert batch_bytes(spans(1, 2, size=50)) == 2 * batch_bytes(spans(1, size=50)) > 100
    assert batch_bytes(events(1, 2, size=50)) == 2 * batch_bytes(events(1, size=50)) > 100
    two = [b"x" * 30, b"y" * 20]
    assert batch_bytes(replace(spans(1, 2, 3), resources=[two[0], *two])) == batch_bytes(spans(1, 2, 3)) + 50
    of_one = [replace(event, resource=two[0]) for event in events(1, 2)]
    assert batch_bytes(of_one) == batch_bytes(events(1, 2)) + 30

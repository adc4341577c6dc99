"""What distributions, sketches and the keep rule cost, beside the OpenTelemetry SDK's histogram in the same process.

    python -m bench.histograms

Times are the best of several rounds, for one value.
"""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation

from otel_netmon.analysis.cardinality import Cardinality, hash_column
from otel_netmon.analysis.histograms import HistogramColumns
from otel_netmon.analysis.sampling import KeepRule

VALUES = 100_000
SERIES = 1_000
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)


def best(rounds: int, number: int, action: Callable[[], object]) -> float:
    """Microseconds for one of ``number`` things that the action does, the best of the rounds."""
    times = []
    for _ in range(rounds):
        gc.collect()
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return min(times) / number * 1e6


def tell(what: str, microseconds: float, more: str = "") -> None:
    print(f"{what:58s} {microseconds * 1000:10.1f} ns {more}")


def distributions() -> None:
    """Adding and reading, here and in the SDK."""
    generator = np.random.default_rng(1)
    slots = generator.integers(0, SERIES, VALUES).astype(np.intp)
    values = generator.lognormal(-5, 1, VALUES)
    store = HistogramColumns(SERIES, BOUNDS)
    ours = best(9, VALUES, lambda: store.add(slots, values))
    tell(f"add {VALUES} values to {SERIES} series, both kinds of buckets", ours)
    tell("the same, 100 values a call", best(5, 10_000, lambda: in_calls(store, slots[:10_000], values[:10_000], 100)))

    reader = InMemoryMetricReader(preferred_aggregation={Histogram: ExponentialBucketHistogramAggregation()})
    provider = MeterProvider([reader], shutdown_on_exit=False)
    histogram = provider.get_meter("bench").create_histogram("h")
    attributes = [{"server.address": f"10.0.0.{number % 250}", "server.port": number} for number in range(SERIES)]
    pairs = [(value, attributes[slot]) for slot, value in zip(slots[:20_000].tolist(), values.tolist(), strict=False)]

    def record() -> None:
        for value, attribute in pairs:
            histogram.record(value, attribute)

    theirs = best(3, len(pairs), record)
    provider.shutdown()
    tell("the SDK's histogram.record, exponential alone", theirs, f"{theirs / ours:.0f} times as much")

    every = np.arange(SERIES)
    tell(f"read {SERIES} series, for each", best(9, SERIES, lambda: store.read(every)))
    tell(f"save {SERIES} series, for each", best(9, SERIES, store.state))


def in_calls(store: HistogramColumns, slots: np.ndarray, values: np.ndarray, size: int) -> None:
    for at in range(0, len(values), size):
        store.add(slots[at : at + size], values[at : at + size])


def memory() -> None:
    """Bytes a series, by how much it has measured."""
    generator = np.random.default_rng(2)
    series = 10_000
    for measurements in (0, 1, 10, 250, 1000, 70_000):
        count = series if measurements < 70_000 else 100
        store = HistogramColumns(count, BOUNDS)
        for _ in range(min(measurements, 1) + (measurements > 1)):
            store.add(np.arange(count), generator.lognormal(-5, 1, count))
        for _ in range(0, measurements - 2, 10):
            store.add(np.repeat(np.arange(count), 10), generator.lognormal(-5, 1, count * 10))
        print(f"{f'a series of {measurements} measurements':58s} {store.nbytes / count:10.0f} bytes")
    provider = MeterProvider(
        [InMemoryMetricReader(preferred_aggregation={Histogram: ExponentialBucketHistogramAggregation()})],
        shutdown_on_exit=False,
    )
    histogram = provider.get_meter("bench").create_histogram("h")
    tracemalloc.start()
    for number in range(200):
        for value in generator.lognormal(-5, 1, 250).tolist():
            histogram.record(value, {"server.port": number})
    size = tracemalloc.get_traced_memory()[0] / 200
    tracemalloc.stop()
    provider.shutdown()
    print(f"{'the same in the SDK, exponential alone, 250 measurements':58s} {size:10.0f} bytes")


def sketches() -> None:
    """Hashing and counting distinct values."""
    addresses = np.random.default_rng(3).integers(0, 256, (VALUES, 16)).astype(np.uint8)
    ports = np.arange(VALUES).astype(np.uint16)
    hashes = hash_column(addresses, 0)
    columns = ["client.address", "server.address", "server.port"]
    sketch = Cardinality(columns, seed=0)
    sets = dict.fromkeys(columns, hashes)
    tell("hash an address of 16 bytes", best(5, VALUES, lambda: hash_column(addresses, 0)))
    tell("hash a port", best(5, VALUES, lambda: hash_column(ports, 0)))
    tell("count a set of three attributes", best(5, VALUES, lambda: sketch.add_sets(sets, 0)))
    tell("estimate, in all", best(20, 1, lambda: sketch.estimate(0)))


def keeping() -> None:
    """Deciding on spans."""
    generator = np.random.default_rng(4)
    count = 1000
    names = [("GET /item", 2), ("GET /list", 2), ("GET /item", 5), ("POST /item", 2)]
    kinds = [names[number] for number in generator.integers(0, len(names), count)]
    numbers = generator.integers(0, len(names), count)
    durations = generator.lognormal(15, 1, count).astype(np.int64)
    errors = generator.random(count) < 0.01
    rule = KeepRule(0.1, 1000, seed=0)
    tell(
        f"decide on a span, {count} a call, kinds by name",
        best(50, count, lambda: rule.decide(kinds, durations, errors, 0)),
    )
    tell("the same, kinds by number", best(50, count, lambda: rule.decide(numbers, durations, errors, 0)))


def main() -> int:
    """Prints the table."""
    distributions()
    memory()
    sketches()
    keeping()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The one rule by which spans of every kind are kept.

Kept are all errors, all slow ones, the first of each kind, and a uniform share of the rest, within a limit a second. Over the limit
detail is shed in this order: the uniform share first, then firsts of a kind, then slow ones, errors last. Firsts go before
slow ones because whoever invents names makes every span a first. Metrics are never sampled.

Batches come in rounds, a second apart, those of one probe before those of another. So that what is shed first does not take the
place of errors that come later, it leaves as many places as there were spans of the classes above it in the round before, as
long as they have not come in this one.

Which spans of a class are kept is decided by comparing their randomness with a threshold (OpenTelemetry, "TraceState: Probability
Sampling"), also when the limit cuts into a class: then those of greatest randomness stay, and the threshold is the greatest
randomness that was shed, plus one (priority sampling, Duffield, Lund and Thorup 2007). So every kept span carries the
probability with which it was kept, and sums weighted by 1 / probability estimate what was produced without bias.
"""

from __future__ import annotations

import enum
import math
import os
from collections.abc import Hashable, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from otel_netmon.analysis.cardinality import mix
from otel_netmon.analysis.latency import KindLatency

_RANDOM_BITS = 56
_ALL = 1 << _RANDOM_BITS
_HEX_DIGITS = _RANDOM_BITS // 4
_STEP = np.uint64(0x9E3779B97F4A7C15)
_NANO = 1_000_000_000
_TOGETHER_NS = 500_000_000  # batches of one round; rounds are a second apart, or less where a ring is full
_AWAITED_NS = 2_500_000_000  # after a longer pause nothing is awaited


class Reason(enum.IntEnum):
    """Why a span was kept (the first four, what is shed last first) or not."""

    ERROR = 0
    SLOW = 1
    FIRST = 2
    UNIFORM = 3
    SAMPLED_OUT = 4
    RATE_LIMITED = 5


class Decision(NamedTuple):
    """What becomes of n spans; columns of length n.

    Attributes:
        keep: bool.
        reason: uint8, ``Reason``.
        threshold: uint64, 56 bits: spans of its class in this batch were kept if their randomness was not below it.
        probability: float64, 1 - threshold / 2^56, in (0, 1] for spans that are kept; 1 / probability is how many spans it
            stands for.
    """

    keep: npt.NDArray[np.bool_]
    reason: npt.NDArray[np.uint8]
    threshold: npt.NDArray[np.uint64]
    probability: npt.NDArray[np.float64]


def threshold_for(probability: float, digits: int = 4) -> int:
    """Gives the rejection threshold of a probability, 56 bits.

    Args:
        probability: 2^-56 to 1.
        digits: significant hexadecimal digits, 1 to 14; leading f do not count, so that small probabilities stay precise. The
            specification recommends 4.

    Raises:
        ValueError: the probability or the digits are out of range.
    """
    if not 2.0**-_RANDOM_BITS <= probability <= 1 or not 1 <= digits <= _HEX_DIGITS:
        raise ValueError(f"a probability from 2^-56 to 1 and 1 to 14 digits are needed: {probability}, {digits}")
    leading = max(0, -math.frexp(probability)[1] // 4)
    unit: int = 16 ** max(0, _HEX_DIGITS - digits - leading)
    rejected = (1 - Fraction(probability)) * _ALL
    return math.floor(rejected / unit + Fraction(1, 2)) * unit  # below 2^56: the probability is at least one unit


def threshold_text(threshold: int) -> str:
    """Gives a threshold as ``th`` of tracestate has it: up to 14 hexadecimal digits without the zeros at the end."""
    return f"{threshold:014x}".rstrip("0") or "0"


def trace_randomness(trace_ids: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """Gives the last 56 bits of each trace id, shape (n, 16): its randomness by W3C Trace Context Level 2."""
    last = np.ascontiguousarray(trace_ids[:, 8:]).view(">u8").reshape(len(trace_ids)).astype(np.uint64)
    return last & np.uint64(_ALL - 1)


class KeepRule:
    """Decides batch by batch.

    State: up to ``max_kinds`` kinds with 513 bytes and their name each, the one not seen for longest goes first; everything else
    is a few numbers.

    Args:
        share: probability with which a span is kept that is neither an error nor slow nor the first of its kind; 0 for none.
        limit_per_second: spans kept a second, all reasons together; after a pause up to one second's worth at once.
        slow_ns: duration from which a span is slow; without it a span is slow that is above the 99th percentile of its kind,
            by some 9 % at most, once 100 of the kind are known.
        max_kinds: kinds remembered.
        seed: of the randomness; random unless given.

    Attributes:
        counts: spans so far by ``Reason``; all together are what was given to ``decide``.
        evicted_kinds: how many kinds were forgotten so far.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        share: float,
        limit_per_second: int,
        slow_ns: int | None = None,
        max_kinds: int = 1024,
        seed: int | None = None,
    ) -> None:
        if limit_per_second < 0 or max_kinds < 1:
            raise ValueError(f"limit_per_second must be at least 0, max_kinds 1: {limit_per_second}, {max_kinds}")
        self._share_threshold = _ALL if share == 0 else threshold_for(share)
        self._limit = limit_per_second
        self._slow_ns = slow_ns
        self._latency = KindLatency(max_kinds)
        self._shown = np.zeros(max_kinds, np.bool_)
        self._rows: dict[Hashable, int] = {}
        self._max_kinds = max_kinds
        self._random = np.uint64(int.from_bytes(os.urandom(8), "little") if seed is None else seed % (1 << 64))
        self._credit = limit_per_second * _NANO  # spans that may be kept, in 10^-9
        self._at_ns: int | None = None
        self._begun_ns: int | None = None  # the round
        self._came = np.zeros(Reason.UNIFORM, np.int64)  # by reason, in this round
        self._came_before = self._came
        self.counts = np.zeros(len(Reason), np.int64)
        self.evicted_kinds = 0

    def decide(
        self,
        kinds: Sequence[Hashable] | npt.NDArray[np.integer],
        durations_ns: npt.NDArray[np.int64],
        errors: npt.NDArray[np.bool_],
        now_ns: int,
        randomness: npt.NDArray[np.uint64] | None = None,
    ) -> Decision:
        """Decides on n spans.

        Args:
            kinds: what tells kinds apart, such as (name, status class), or numbers.
            durations_ns, errors: shape (n,).
            now_ns: a monotonic clock.
            randomness: 56 bits each, as from ``trace_randomness`` where trace ids are random, so that other samplers come to the
                same decisions; spans with the same value (of one trace) over the limit go in the order in which they
                came. Without it the rule's own generator is used.
        """
        number = len(durations_ns)
        own = self._numbers(number) if randomness is None else randomness
        kind, row = self._look_up(kinds)
        slow = self._slow(row[kind], durations_ns)
        self._latency.learn(row[kind][~errors], durations_ns[~errors])

        reason = np.full(number, Reason.UNIFORM, np.uint8)
        reason[self._firsts(kind, row)] = Reason.FIRST
        reason[slow] = Reason.SLOW
        reason[errors] = Reason.ERROR

        available = self._available(now_ns)
        awaited = self._awaited(now_ns, np.bincount(reason, minlength=len(Reason))[: Reason.UNIFORM])
        keep = np.zeros(number, np.bool_)
        threshold = np.zeros(number, np.uint64)
        for why in (Reason.ERROR, Reason.SLOW, Reason.FIRST, Reason.UNIFORM):
            members = np.flatnonzero(reason == why)
            chosen = members
            least = 0
            if why is Reason.UNIFORM:
                least = self._share_threshold
                chosen = members[own[members] >= np.uint64(least)]
                reason[members] = Reason.SAMPLED_OUT
                reason[chosen] = Reason.UNIFORM
            room = max(0, available - int(awaited[:why].sum()))
            if len(chosen) > room:
                order = chosen[np.argsort(~own[chosen], kind="stable")]
                chosen, shed = order[:room], order[room:]
                reason[shed] = Reason.RATE_LIMITED
                least = int(own[shed[0]]) + 1
                if room:
                    least = min(least, int(own[chosen[-1]]))
            keep[chosen] = True
            threshold[members] = least
            available -= len(chosen)
            self._credit -= len(chosen) * _NANO

        shown = row[kind[keep]]
        self._shown[shown[shown >= 0]] = True
        self.counts += np.bincount(reason, minlength=len(Reason))
        return Decision(keep, reason, threshold, (np.uint64(_ALL) - threshold).astype(np.float64) / _ALL)

    def _numbers(self, number: int) -> npt.NDArray[np.uint64]:
        """The next numbers of SplitMix64, 56 bits each; numpy.random would take 4 MB."""
        states = self._random + np.arange(1, number + 1, dtype=np.uint64) * _STEP
        self._random = states[-1] if number else self._random
        return mix(states) >> np.uint64(64 - _RANDOM_BITS)

    def _look_up(
        self, kinds: Sequence[Hashable] | npt.NDArray[np.integer]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """The number of each span's kind within the batch, and the row of each of these kinds, -1 where none was left."""
        if isinstance(kinds, np.ndarray):
            present, kind = np.unique(kinds, return_inverse=True)
            names: list[Hashable] = present.tolist()
        else:
            names = list(dict.fromkeys(kinds))
            numbers = {name: at for at, name in enumerate(names)}
            kind = np.fromiter(map(numbers.__getitem__, kinds), np.intp, len(kinds))
        rows = self._rows
        known = [(name, rows.pop(name)) for name in names if name in rows]
        old = len(rows)  # what is left of the others, the one not seen for longest first
        rows.update(known)
        for name in names:
            if name not in rows:
                if len(rows) >= self._max_kinds:
                    if not old:
                        continue
                    at = rows.pop(next(iter(rows)))
                    old -= 1
                    self.evicted_kinds += 1
                    self._shown[at] = False
                    self._latency.forget(at)
                else:
                    at = len(rows)
                rows[name] = at
        return kind, np.array([rows.get(name, -1) for name in names], np.intp)

    def _slow(self, row: npt.NDArray[np.intp], durations_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        if self._slow_ns is not None:
            return durations_ns >= self._slow_ns
        return self._latency.above(row, durations_ns)

    def _firsts(self, kind: npt.NDArray[np.intp], row: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """The first span of each kind of which none was kept since the kind is known."""
        number = len(kind)
        first = np.full(len(row), number, np.intp)
        np.minimum.at(first, kind, np.arange(number))
        return first[(row < 0) | ~self._shown[row]]

    def _awaited(self, now_ns: int, came: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """How many spans of each reason but the share may still come in this round, by what came in the one before."""
        passed = _TOGETHER_NS if self._begun_ns is None else now_ns - self._begun_ns
        if not 0 <= passed < _TOGETHER_NS:
            self._came_before = self._came if 0 < passed < _AWAITED_NS else np.zeros_like(came)
            self._begun_ns, self._came = now_ns, np.zeros_like(came)
        self._came = self._came + came
        awaited: npt.NDArray[np.int64] = np.maximum(self._came_before - self._came, 0)
        return awaited

    def _available(self, now_ns: int) -> int:
        """How many spans may be kept now."""
        if self._at_ns is not None and now_ns > self._at_ns:
            self._credit = min(self._limit * _NANO, self._credit + (now_ns - self._at_ns) * self._limit)
        self._at_ns = now_ns
        return self._credit // _NANO
